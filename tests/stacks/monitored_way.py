"""A running way under the eyes of Prometheus and Alertmanager, with their shipped configuration.

Owns what runs and how it is broken. Two Kafkas with the JMX agent, gateway, replicator (through a line that can be
cut), sink, job, sensors; and a gateway of which the certificate runs out in some days.
"""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from connectors.kafka import topic_counts
from headwater.demo.link import Link
from headwater.servers import broker
from tests.alertmanager_server import alertmanager
from tests.bootstrap_process import WITH_KEY, BootstrapProcess
from tests.identities import Issuer
from tests.installed_server import ANSWER_S, Server
from tests.kafka_brokers import KafkaBroker, new_broker
from tests.oscore_device import credential, oscore_store
from tests.ports import held_port
from tests.prometheus_server import prometheus
from tests.secure_device import new_store
from tests.stacks.dashboard_way import NodeExporter, watched_java
from tests.stacks.shipped_monitoring import alertmanager_config, prometheus_config
from tests.way import Gateway, Part, Sensors, until

#: How soon the certificate of the second gateway runs out, in days.
CERTIFICATE_DAYS = 6.0


@dataclass(slots=True, kw_only=True)
class Prometheus(Server):
    """The real one, which scrapes ``targets`` and tells ``alertmanager`` (``host:port``)."""

    port: int
    targets: Mapping[str, Sequence[str]]
    alertmanager: str

    def start(self) -> None:
        """Returns when every target was scraped; the rules are taken up only then.

        Prometheus looks for its targets some seconds after its start: of a minute that is nothing, of two seconds all.
        """
        config = prometheus_config(self.directory, self.targets, alertmanager=self.alertmanager)
        rules, later = self.directory / "rules", self.directory / "later"
        rules.rename(later)
        self.run(
            [
                prometheus(),
                f"--config.file={config}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                "--log.level=warn",
            ],
            lambda: self.ask("/-/ready"),
            env={"HOME": str(self.directory), "GOMAXPROCS": "2"},
        )
        until("every target is scraped", self.scrapes_all)
        later.rename(rules)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        until("it has the rules", lambda: bool(self.rules()))

    def scrapes_all(self) -> bool:
        """Whether every target answered its last scrape."""
        found = self.scraped()
        wanted = {job for job, there in self.targets.items() if there}
        return {one["labels"]["job"] for one in found} >= wanted and all(
            one["health"] == "up" and not one["lastError"] for one in found
        )

    def ask(self, path: str, **parameters: str) -> bytes:
        """The answer to a GET. Raises OSError while there is none."""
        asked = f"?{urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}{asked}", timeout=ANSWER_S) as answer:
            return bytes(answer.read())

    def values(self, query: str) -> list[dict[str, Any]]:
        """What a query gives now: ``metric``, ``value``."""
        found: list[dict[str, Any]] = json.loads(self.ask("/api/v1/query", query=query))["data"]["result"]
        return found

    def scraped(self) -> list[dict[str, Any]]:
        """Every target, with how it is."""
        found: list[dict[str, Any]] = json.loads(self.ask("/api/v1/targets", state="active"))["data"]["activeTargets"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with how it is."""
        groups = json.loads(self.ask("/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@dataclass(slots=True, kw_only=True)
class Alertmanager(Server):
    """The real one, which posts to ``webhook``."""

    port: int
    webhook: str

    def start(self) -> None:
        """Returns when it answers."""
        self.directory.mkdir(parents=True)
        self.run(
            [
                alertmanager(),
                f"--config.file={alertmanager_config(self.directory, self.webhook)}",
                f"--storage.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
                "--log.level=warn",
            ],
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=ANSWER_S).close(),
            env={"HOME": str(self.directory), "GOMAXPROCS": "2"},
        )

    def alerts(self) -> list[dict[str, Any]]:
        """All that it has, also those that are inhibited."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v2/alerts", timeout=ANSWER_S) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found


@dataclass(slots=True)
class Told:
    """A receiver of Alertmanager's webhook: the labels of what fires, as it was told."""

    alerts: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def receiver() -> Iterator[Told]:
    """One that listens on a free port."""
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.alerts += [alert["labels"] for alert in body["alerts"] if alert["status"] == "firing"]
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the screen."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        told.url = f"http://127.0.0.1:{server.server_address[1]}/"
        yield told
        server.shutdown()


@dataclass(slots=True, kw_only=True)
class Watched:
    """All that runs."""

    gateway: Gateway
    edge: KafkaBroker
    cloud: KafkaBroker
    line: Link
    #: The processes of ours by their job, as ``host:port``.
    ours: Mapping[str, str]
    prometheus: Prometheus
    alertmanager: Alertmanager
    told: Told

    def firing(self, name: str, **labels: str) -> list[dict[str, Any]]:
        """The alerts of this name that Alertmanager has, with these labels."""
        wanted = {"alertname": name, **labels}.items()
        return [alert for alert in self.alertmanager.alerts() if wanted <= alert["labels"].items()]

    def wait_for(self, name: str, **labels: str) -> dict[str, Any]:
        """The alert, once Alertmanager has it."""
        until(f"the alert {name} {labels}", lambda: bool(self.firing(name, **labels)))
        return self.firing(name, **labels)[0]


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Everything, ready and scraped; it ends with the context."""
    with ExitStack() as stack:
        kafka, parts = folder / "kafka", folder / "parts"
        parts.mkdir()
        listener = broker.LinkListener(port=held_port(), advertised_port=held_port())
        brokers, ports = {}, {}
        for name in ("edge", "cloud"):
            with watched_java() as ports[name]:
                brokers[name] = new_broker(name, kafka, "128m", listener if name == "cloud" else None)
            stack.callback(broker.kill, name, kafka)
        edge, cloud = brokers["edge"], brokers["cloud"]
        line = stack.enter_context(Link(listener.advertised_port, listener.port))

        # With credentials, so that its metrics of DTLS and OSCORE are there to be held to their page.
        keys = oscore_store(new_store(parts / "credentials.db", {}), [credential("never-here", b"1")])
        gateway = Gateway("watched", edge.cluster, parts, observe=("/3303/*/5700",), credentials=keys)
        stack.enter_context(gateway)
        gateway.wait_ready()
        ours = {job: held_port() for job in ("replicator", "sink", "analytics", "campaigns")}

        def start(job: str, words: str) -> None:
            words = f"{words} --gateway {gateway.id} --metrics {ours[job]}"
            stack.enter_context(Part(job, parts, *words.split()))

        start("replicator", f"replicate --edge {edge.cluster.bootstrap} --cloud {cloud.linked.bootstrap}")
        until("topics in the cloud", lambda: gateway.topics.observations in topic_counts(cloud.cluster))
        start("sink", f"sink sqlite --kafka {cloud.cluster.bootstrap} --file {parts / 'store.db'}")
        start(
            "analytics",
            f"analytics run aggregate --window 2s --quiet --kafka {cloud.cluster.bootstrap} --state {parts / 'job'}",
        )
        start("campaigns", f"campaign run --kafka {cloud.cluster.bootstrap}")
        ours["schemas"] = held_port()
        line_of_schemas = f"schemas serve --no-auth --port {held_port()} --metrics {ours['schemas']}"
        stack.enter_context(Part("schemas", parts, *line_of_schemas.split()))
        (parts / "bootstrap").mkdir()
        bootstrap = BootstrapProcess(
            parts / "bootstrap",
            WITH_KEY.format(port=gateway.secure_address[1]),
            *("--gateway", gateway.id),
            credentials=new_store(parts / "bootstrap" / "keys.db", {}),
        )
        stack.callback(bootstrap.kill)
        ours["bootstrap"] = bootstrap.metrics[1]
        ageing, ageing_port = _ageing_gateway(parts, edge)
        stack.enter_context(ageing)
        sensors = Sensors(gateway.address, parts, "--count", "3", "--period", "0.5", endpoint="watched")
        stack.enter_context(sensors)

        node = NodeExporter(directory=folder / "node", port=held_port())
        stack.callback(node.remove)
        node.start()
        told = stack.enter_context(receiver())
        manager = Alertmanager(directory=folder / "alertmanager", port=held_port(), webhook=told.url)
        stack.callback(manager.remove)
        manager.start()
        port = held_port()
        targets = {
            "gateway": [gateway.metrics_port, ageing_port],
            **{job: [there] for job, there in ours.items()},
            "kafka": list(ports.values()),
            "node": [node.port],
            "prometheus": [port],
            "alertmanager": [manager.port],
        }
        server = Prometheus(
            directory=folder / "prometheus",
            port=port,
            targets={job: [f"127.0.0.1:{one}" for one in there] for job, there in targets.items()},
            alertmanager=f"127.0.0.1:{manager.port}",
        )
        stack.callback(server.remove)
        server.start()
        sensors.wait_for_more(3)
        yield Watched(
            gateway=gateway,
            edge=edge,
            cloud=cloud,
            line=line,
            ours={"gateway": f"127.0.0.1:{gateway.metrics_port}"}
            | {job: f"127.0.0.1:{there}" for job, there in ours.items()},
            prometheus=server,
            alertmanager=manager,
            told=told,
        )


def _ageing_gateway(parts: Path, edge: KafkaBroker) -> tuple[Part, int]:
    """A gateway of which the certificate runs out soon; its Kafka speaks no TLS, so it is not ready."""
    identity = Issuer(parts / "identities").issue("gateway:ageing", days=CERTIFICATE_DAYS)
    metrics = held_port()
    line = f"gateway --id ageing --kafka {edge.cluster.bootstrap} --kafka-tls {identity} --metrics {metrics}"
    return Part(
        "ageing", parts, *line.split(), "--coap", f"127.0.0.1:{held_port()}", "--state", str(parts / "old")
    ), metrics
