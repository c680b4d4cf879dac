"""A real Apache Cassandra in a test's hands: on free ports, gone with pytest.

How it comes here and is started is `headwater.servers.cassandra`'s.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from headwater.servers.cassandra import Ports, command
from headwater.servers.cassandra import home as home
from tests.installed_server import ANSWER_S, Server
from tests.ports import held_port

#: Cassandra's own first user.
ADMIN, PASSWORD = "cassandra", "cassandra"

#: It asks for a login, and who may do what is kept.
_LOGIN: dict[str, object] = {
    "authenticator": {"class_name": "PasswordAuthenticator"},
    "authorizer": {"class_name": "CassandraAuthorizer"},
    "role_manager": {"class_name": "CassandraRoleManager"},
}


@dataclass(slots=True, kw_only=True)
class CassandraServer(Server):
    """One real Cassandra, a cluster of itself. Its user is `ADMIN`."""

    port: int
    storage_port: int
    jmx_port: int
    #: More of ``cassandra.yaml``, by its names.
    settings: dict[str, object] = field(default_factory=dict)
    #: Of the certificate's owner, where it speaks TLS.
    ca_file: Path | None = None
    #: Whether its keyspaces must survive `kill`; without, they are made in less than half the time.
    killed: bool = True
    _admin: Any = field(default=None, init=False)

    @property
    def contact_point(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the same ports and data as before; returns when its user can come in."""
        started = command(
            home(),
            ports=Ports(client=self.port, storage=self.storage_port, jmx=self.jmx_port),
            directory=self.directory,
            settings=_LOGIN | self.settings,
            durable=self.killed,
        )
        self.forget()
        self.run([*([] if os.nice(0) else ["nice"]), *started], self._connected)

    def _connected(self) -> None:
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import Cluster, NoHostAvailable

        context = None
        if self.ca_file is not None:
            import ssl

            context = ssl.create_default_context(cafile=self.ca_file)
        cluster = Cluster(
            [("127.0.0.1", self.port)],
            auth_provider=PlainTextAuthProvider(ADMIN, PASSWORD),
            connect_timeout=ANSWER_S,
            control_connection_timeout=ANSWER_S,
            ssl_context=context,
            protocol_version=5,
            idle_heartbeat_interval=0,
        )
        try:
            self._admin = cluster.connect()
        except NoHostAvailable as exc:
            # Its first user comes to be a moment after its port.
            raise OSError(str(exc)) from exc
        finally:
            if self._admin is None:
                cluster.shutdown()

    def forget(self) -> None:
        """Close the tests' own connection."""
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.cluster.shutdown()

    def kill(self) -> None:
        self.forget()
        # Explicit, because a class with slots is made anew by its decorator.
        Server.kill(self)

    def cql(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """The rows of ``statement``, whose ``%s`` are ``parameters``."""
        found = self._admin.execute(statement, parameters or None, timeout=ANSWER_S)
        return [row._asdict() for row in found]


def new_server(directory: Path, ca_file: Path | None = None, **settings: object) -> CassandraServer:
    """A server on free ports that answers already."""
    server = _server(directory, settings)
    server.ca_file = ca_file
    server.start()
    return server


def _server(directory: Path, settings: dict[str, object]) -> CassandraServer:
    port, storage, jmx = (held_port() for _ in range(3))
    return CassandraServer(directory=directory, port=port, storage_port=storage, jmx_port=jmx, settings=settings)


@cache
def shared_server() -> CassandraServer:
    """The one of this session, which ends with this process. Never kill it."""
    server = _server(Path(tempfile.mkdtemp(prefix="headwater-cassandra-")), {})
    server.killed = False
    atexit.register(server.remove)
    server.start()
    return server
