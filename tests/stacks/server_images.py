"""Images of other people's servers for a test that reaches no registry: the real servers, on the base image.

Each is told what to do by the variables, files and words that the stacks give to the public image in its place. The
versions are those of the other tests: InfluxDB is 1.8 here, whose interface of 2.x knows no tokens, so that one in
front of it takes the token and gives the password. What cannot be had at all without a registry (Grafana, cAdvisor,
karma) has a stand-in that answers its health check and nothing else; `STAND_INS` names them, and the test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater.servers.kafka_jars import java_binary
from tests import alertmanager_server, influxdb_server, monitoring_tools, orientdb_server
from tests.installed_server import installed
from tests.prometheus_server import PROMETHEUS_VERSION, go_install


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerImage:
    """One image: lines of its Dockerfile after FROM, and the files that these copy."""

    name: str
    #: The variable of the stacks that names it.
    variable: str
    dockerfile: str
    #: By their names in the context: a file or folder of this machine, or a text.
    files: Callable[[], Mapping[str, Path | str]]


def prometheus_by_dns() -> Path:
    """Prometheus with the way of finding its targets that our configuration uses; that of other tests has none."""
    return installed(f"prometheus-dns-{PROMETHEUS_VERSION}", _build_prometheus) / "prometheus"


def _build_prometheus(staging: Path) -> Path:
    tags = "netgo,remove_all_sd,enable_dns_sd,remove_all_tracing"
    return go_install(staging, "github.com/prometheus/prometheus/cmd/prometheus", PROMETHEUS_VERSION, tags=tags)


_INFLUXDB = """\
#!/bin/sh
# The variables of InfluxDB 2's image, for 1.8, which has no tokens: front.py takes the one and gives the password.
set -eu
mkdir -p /var/lib/influxdb2/meta
export INFLUXDB_META_DIR=/var/lib/influxdb2/meta INFLUXDB_DATA_DIR=/var/lib/influxdb2/data \\
    INFLUXDB_DATA_WAL_DIR=/var/lib/influxdb2/wal INFLUXDB_HTTP_AUTH_ENABLED=true INFLUXDB_REPORTING_DISABLED=true \\
    INFLUXDB_HTTP_LOG_ENABLED=false INFLUXDB_DATA_QUERY_LOG_ENABLED=false INFLUXDB_LOGGING_LEVEL=warn \\
    INFLUXDB_MONITOR_STORE_ENABLED=false INFLUXDB_HTTP_BIND_ADDRESS=127.0.0.1:8087
influxd -config /dev/null &
influxd=$!
trap 'kill -TERM "$influxd"' TERM INT
python3 /front.py &
while kill -0 "$influxd" 2>/dev/null; do wait "$influxd" || :; done
"""

_INFLUXDB_FRONT = """\
import http.client, os, pathlib, time, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, BUCKET = os.environ["DOCKER_INFLUXDB_INIT_USERNAME"], os.environ["DOCKER_INFLUXDB_INIT_BUCKET"]
PASSWORD = pathlib.Path(os.environ["DOCKER_INFLUXDB_INIT_PASSWORD_FILE"]).read_text().strip()
TOKEN = pathlib.Path(os.environ["DOCKER_INFLUXDB_INIT_ADMIN_TOKEN_FILE"]).read_text().strip()


def send(method, path, body=None, headers={}):
    link = http.client.HTTPConnection("127.0.0.1", 8087, timeout=120)
    link.request(method, path, body, headers)
    answer = link.getresponse()
    return answer.status, answer.getheaders(), answer.read()


def query(text, **more):
    return send("POST", "/query?" + urllib.parse.urlencode({"q": text, **more}))[0]


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
        if self.headers.get("Authorization") == "Token " + TOKEN:
            headers["Authorization"] = f"Token {USER}:{PASSWORD}"
        try:
            status, told, content = send(self.command, self.path, body, headers)
        except OSError:
            status, told, content = 503, [], b"starting"
        self.send_response(status)
        for key, value in told:
            if key.lower() not in ("transfer-encoding", "content-length", "connection", "date"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *words):
        pass


while True:
    try:
        # 403 or so: there is one since the first start.
        query(f"CREATE USER {USER} WITH PASSWORD '{PASSWORD}' WITH ALL PRIVILEGES")
        if query(f'CREATE DATABASE "{BUCKET}"', u=USER, p=PASSWORD) == 200:
            break
    except OSError:
        pass
    time.sleep(0.1)
ThreadingHTTPServer(("0.0.0.0", 8086), Front).serve_forever()
"""

_ORIENTDB = """\
#!/bin/sh
# As server.sh of OrientDB's image: the password of root is a variable, what it keeps lies below /orientdb.
set -eu
python3 - <<'PYTHON'
import os, pathlib
from xml.sax.saxutils import quoteattr
text = pathlib.Path("/opt/orientdb/server.xml").read_text()
pathlib.Path("/orientdb/config/server.xml").write_text(
    text.replace("PASSWORD", quoteattr(os.environ["ORIENTDB_ROOT_PASSWORD"])))
PYTHON
exec /opt/java/bin/java $ORIENTDB_OPTS_MEMORY -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:MaxDirectMemorySize=256m \\
    -Djava.awt.headless=true -Dfile.encoding=UTF-8 -Dstorage.diskCache.bufferSize=64 \\
    --enable-native-access=ALL-UNNAMED -DORIENTDB_HOME=/orientdb -Dorientdb.config.file=/orientdb/config/server.xml \\
    -cp '/opt/orientdb/jars/*' com.orientechnologies.orient.server.OServerMain
"""


def _orientdb_files() -> Mapping[str, Path | str]:
    settings = orientdb_server.configuration(
        address="0.0.0.0", port=2424, http_port=2480, password="PASSWORD", databases='"/orientdb/databases"'
    )
    return {
        "jars": orientdb_server.jars(),
        # bin/java is a part of its runtime.
        "java": java_binary().resolve().parent.parent,
        "server.xml": settings,
        "server.sh": _ORIENTDB,
    }


#: Answers every GET with 200 on the port that it is told: what a health check sees of a server that is not there.
_STAND_IN = """\
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        text = b"# a stand-in\\n" if self.path == "/metrics" else b'{"database": "ok"}\\n'
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words):
        pass


HTTPServer(("0.0.0.0", int(os.environ["STAND_IN_PORT"])), Answer).serve_forever()
"""


def _stand_in(name: str, variable: str, port: int) -> ServerImage:
    return ServerImage(
        name=f"{name}-stand-in",
        variable=variable,
        dockerfile=f"""\
COPY stand_in.py /stand_in.py
ENV STAND_IN_PORT={port}
ENTRYPOINT ["python3", "/stand_in.py"]
""",
        files=lambda: {"stand_in.py": _STAND_IN},
    )


#: What cannot be had without a registry.
STAND_INS = (
    _stand_in("grafana", "GRAFANA_IMAGE", 3000),
    _stand_in("cadvisor", "CADVISOR_IMAGE", 8080),
    _stand_in("karma", "KARMA_IMAGE", 8080),
)

#: All others: the real servers.
SERVERS = (
    ServerImage(
        name="influxdb",
        variable="INFLUXDB_IMAGE",
        dockerfile="""\
COPY influxd /usr/local/bin/influxd
COPY entrypoint /entrypoint
COPY front.py /front.py
ENTRYPOINT ["/entrypoint"]
""",
        files=lambda: {"influxd": influxdb_server.influxd(), "entrypoint": _INFLUXDB, "front.py": _INFLUXDB_FRONT},
    ),
    ServerImage(
        name="orientdb",
        variable="ORIENTDB_IMAGE",
        dockerfile="""\
COPY java /opt/java
COPY jars /opt/orientdb/jars
COPY server.xml /opt/orientdb/server.xml
COPY server.sh /usr/local/bin/server.sh
RUN mkdir -p /orientdb/config /orientdb/databases /orientdb/backup
WORKDIR /orientdb
CMD ["server.sh"]
""",
        files=_orientdb_files,
    ),
    ServerImage(
        name="prometheus",
        variable="PROMETHEUS_IMAGE",
        dockerfile="""\
COPY prometheus /bin/prometheus
RUN mkdir -p /prometheus /etc/prometheus && chown 65534:65534 /prometheus
USER 65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
""",
        files=lambda: {"prometheus": prometheus_by_dns()},
    ),
    ServerImage(
        name="alertmanager",
        variable="ALERTMANAGER_IMAGE",
        dockerfile="""\
COPY alertmanager /bin/alertmanager
RUN mkdir -p /alertmanager /etc/alertmanager && chown 65534:65534 /alertmanager
USER 65534
WORKDIR /alertmanager
ENTRYPOINT ["/bin/alertmanager"]
""",
        files=lambda: {"alertmanager": alertmanager_server.alertmanager()},
    ),
    ServerImage(
        name="node-exporter",
        variable="NODE_EXPORTER_IMAGE",
        dockerfile="""\
COPY node_exporter /bin/node_exporter
USER 65534
ENTRYPOINT ["/bin/node_exporter"]
""",
        files=lambda: {"node_exporter": monitoring_tools.node_exporter()},
    ),
)


def install() -> None:
    """Have all that they are made of at hand."""
    for one in SERVERS:
        one.files()
