"""A running system behind the dashboards: every process of the way, real servers, and a Prometheus that scrapes them.

Owns what runs and what is done with it, so that there is something on every panel: sensors register and tell, are asked
and answer, one is asked for what it has not, some datagrams and records are rubbish, and a Kafka that wants
certificates is spoken to without. What the dashboards make of it is the tests' matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import yaml
from aiocoap.numbers.codes import Code
from typer.testing import CliRunner

from connectors.kafka import Cluster, KafkaException, Unreachable, partition_counts, topic_counts
from headwater.cli import app
from headwater.servers import broker
from headwater.servers.installed import fetch_jars, installed
from schemas.avro import serde
from schemas.avro.records import ExecuteRequest, Request, RequestKind, RequestPayload
from tests import influxdb_server
from tests.bootstrap_process import WITH_KEY, Answers, BootstrapProcess
from tests.cadvisor_server import cadvisor
from tests.identities import Issuer
from tests.installed_server import ANSWER_S, Server
from tests.kafka_brokers import KafkaBroker, end_with_this_process, new_broker
from tests.monitoring_tools import JMX_AGENT, node_exporter
from tests.ports import held_port
from tests.prometheus_server import prometheus
from tests.raw_device import RawDevice
from tests.secure_device import SecureDevice, new_store
from tests.stacks import dashboard_devices
from tests.stacks.grafana_queries import Sources, Span
from tests.stores.influxdb import InfluxdbStore
from tests.way import PATIENCE, Gateway, Part, Sensors, produce, until

ROOT = Path(__file__).parents[2]
#: As often as the tests' Prometheus scrapes, in seconds, the step of its graphs; and a Kafka, whose agent takes
#: its time on a busy machine.
SCRAPE_S, SELDOM_S = 2, 4
#: How long everything runs under Prometheus' eyes, once it has happened, before it is asked.
WATCHED_S = 16
#: A device with a key, and its key.
SECURED, KEY = "sensor.c+1", b"sixteen byte key"
#: A device that is told its servers.
BOOTSTRAPPED = "sensor.d+1"


@dataclass(slots=True, kw_only=True)
class Scraper(Server):
    """A real Prometheus that scrapes ``targets``: job to ``host:port``."""

    port: int
    targets: Mapping[str, list[str]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        self.directory.mkdir(parents=True)
        config = self.directory / "prometheus.yml"
        # The stack's own, which finds its targets by Swarm's names: the labels that it makes are those to ask for.
        told = yaml.safe_load((ROOT / "stacks/monitoring/prometheus.yml").read_text())
        jobs = [one for one in told["scrape_configs"] if one["job_name"] in self.targets]
        assert {one["job_name"] for one in jobs} == set(self.targets)
        for job in jobs:
            job.pop("dns_sd_configs", None)
            often = f"{SELDOM_S if 'scrape_interval' in job else SCRAPE_S}s"
            targets = [{"targets": self.targets[job["job_name"]]}]
            job |= {"scrape_interval": often, "scrape_timeout": often, "static_configs": targets}
        config.write_text(yaml.safe_dump({"scrape_configs": jobs}))
        self.run(
            [
                prometheus(),
                f"--config.file={config}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                "--log.level=warn",
            ],
            lambda: urllib.request.urlopen(f"{self.url}/-/ready", timeout=ANSWER_S).close(),
            env={"HOME": str(self.directory), "GOMAXPROCS": "2"},
        )


@dataclass(slots=True, kw_only=True)
class NodeExporter(Server):
    port: int

    def start(self) -> None:
        """Returns when it answers."""
        self.directory.mkdir(parents=True)
        self.run(
            [node_exporter(), f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"],
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=ANSWER_S).close(),
            env={"HOME": str(self.directory), "GOMAXPROCS": "2"},
        )


def install() -> None:
    """Have all at hand that the tests of the dashboards start: their time is bounded, a build's is not."""
    for one in (cadvisor, influxdb_server.influxd, jmx_agent, node_exporter, prometheus):
        one()


def jmx_agent() -> Path:
    """The JMX exporter's agent, the one of the Kafka image."""
    pinned = (ROOT / "stacks/images/kafka/jars.tsv").read_text()
    header, *lines = pinned.splitlines()
    (line,) = (one for one in lines if one.startswith(f"{JMX_AGENT}\t"))
    name = JMX_AGENT.split(":", 1)[1].replace(":", "-")

    def fetch(staging: Path) -> Path:
        fetch_jars(f"{header}\n{line}\n", staging / "jars", staging / "repository")
        return staging / "jars"

    return installed(name, fetch) / f"{name}.jar"


@contextmanager
def watched_java() -> Iterator[int]:
    """What Java is started within shows its beans on the port, by the rules of the stack."""
    port = held_port()
    agent = f"-javaagent:{jmx_agent()}=127.0.0.1:{port}:{ROOT / 'stacks/monitoring/kafka-jmx.yml'}"
    with mock.patch.dict(os.environ, {"JAVA_TOOL_OPTIONS": agent}):
        yield port


@dataclass(slots=True, kw_only=True)
class System:
    """What runs, and how the dashboards reach it."""

    sources: Sources
    gateway: Gateway
    bootstrap: BootstrapProcess
    cloud: Cluster
    devices: tuple[str, ...]
    scraper: Scraper
    since: float

    @property
    def span(self) -> Span:
        """The time since everything runs."""
        return Span(start=self.since, end=time.time(), step=SCRAPE_S, scrape=SCRAPE_S, seldom=SELDOM_S)


def _broker(stack: ExitStack, name: str, folder: Path) -> tuple[KafkaBroker, int]:
    with watched_java() as metrics:
        made = new_broker(name, folder, "128m", None)
    stack.callback(broker.kill, name, folder)
    return made, metrics


def _guarded_broker(stack: ExitStack, folder: Path) -> tuple[Cluster, Cluster, Cluster, int]:
    """A Kafka that wants certificates: as its administrator reaches it, a person without a right there, and nobody."""
    issuer = Issuer(folder / "identities")
    port = held_port()
    end_with_this_process("guarded", folder)
    with watched_java() as metrics:
        made = broker.start("guarded", port, folder, heap="128m", tls=issuer.issue("broker:cloud"))
    stack.callback(broker.kill, "guarded", folder)
    return (
        Cluster(bootstrap=made.bootstrap, tls=issuer.issue("admin:fleet")),
        Cluster(bootstrap=made.bootstrap, tls=issuer.issue("user:anna")),
        Cluster(bootstrap=made.bootstrap),
        metrics,
    )


@contextmanager
def system(folder: Path, watched_s: float = WATCHED_S) -> Iterator[System]:
    """Everything, with something said on every panel, after it was watched for so long; it ends with the context."""
    with ExitStack() as stack:
        kafka = folder / "kafka"
        (edge, edge_metrics), (cloud, cloud_metrics) = (_broker(stack, name, kafka) for name in ("edge", "cloud"))
        admin, anna, nobody, guarded_metrics = _guarded_broker(stack, kafka)
        store = InfluxdbStore(folder, influxdb_server.shared_server())

        parts = folder / "parts"
        parts.mkdir()
        observe = ("/3303/*/5700", "/3304/*/5700", "/3/0/9")
        keys = new_store(parts / "credentials.db", {SECURED: KEY})
        plant = dashboard_devices.Plant(parts, keys)
        gateway = Gateway("gw-rock.64", edge.cluster, parts, *plant.options, observe=observe, credentials=keys)
        stack.enter_context(gateway)
        gateway.wait_ready()
        (parts / "bootstrap").mkdir()
        bootstrap = BootstrapProcess(
            parts / "bootstrap",
            WITH_KEY.format(port=gateway.secure_address[1]),
            *("--gateway", gateway.id),
            credentials=new_store(parts / "bootstrap" / "keys.db", {BOOTSTRAPPED: KEY}),
        )
        stack.callback(bootstrap.kill)
        ports = {job: held_port() for job in ("replicator", "sink", "analytics", "guarded", "campaigns")}
        line = f"replicate --gateway {gateway.id} --edge {edge.cluster.bootstrap} --cloud {cloud.cluster.bootstrap}"
        stack.enter_context(Part("replicator", parts, *line.split(), "--metrics", str(ports["replicator"])))
        sinks = parts / "sinks.toml"
        options = "".join(f"{name} = {json.dumps(value)}\n" for name, value in store.options().items())
        sinks.write_text(f'[influxdb]\n{options}[sqlite]\nfile = "{parts / "store.db"}"\n')
        until("topics in the cloud", lambda: gateway.topics.observations in topic_counts(cloud.cluster))
        line = f"sink run {sinks} --gateway {gateway.id} --kafka {cloud.cluster.bootstrap}"
        stack.enter_context(Part("sink", parts, *line.split(), "--metrics", str(ports["sink"])))
        # One that has a certificate to tell of.
        line = f"sink sqlite --gateway {gateway.id} --kafka {admin.bootstrap} --kafka-tls {admin.tls}"
        more = ("--file", str(parts / "guarded.db"), "--metrics", str(ports["guarded"]))
        stack.enter_context(Part("guarded", parts, *line.split(), *more))
        line = f"analytics run aggregate --window 2s --quiet --gateway {gateway.id} --kafka {cloud.cluster.bootstrap}"
        job = [*line.split(), "--state", str(parts / "analytics"), "--metrics", str(ports["analytics"])]
        stack.enter_context(Part("analytics", parts, *job))
        line = f"campaign run --gateway {gateway.id} --kafka {cloud.cluster.bootstrap} --metrics {ports['campaigns']}"
        stack.enter_context(Part("campaigns", parts, *line.split()))

        node = NodeExporter(directory=folder / "node", port=held_port())
        stack.callback(node.remove)
        node.start()
        targets = {
            "kafka": [edge_metrics, cloud_metrics, guarded_metrics],
            "gateway": [gateway.metrics_port],
            "bootstrap": [bootstrap.metrics[1]],
            "replicator": [ports["replicator"]],
            "sink": [ports["sink"], ports["guarded"]],
            "analytics": [ports["analytics"]],
            "campaigns": [ports["campaigns"]],
            "node": [node.port],
        }
        scraper = Scraper(
            directory=folder / "prometheus",
            port=held_port(),
            targets={name: [f"127.0.0.1:{port}" for port in there] for name, there in targets.items()},
        )
        stack.callback(scraper.remove)
        scraper.start()
        since = time.time()

        sensors = [
            Sensors(gateway.address, parts, "--period", "0.5", "--lifetime", "60", *more, endpoint=f"sensor.{name}+1")
            for name, more in (("a", ("--lwm2m", "1.1")), ("b", ("--lwm2m", "1.0")))
        ]
        for one in sensors:
            stack.enter_context(one)
        made = System(
            sources=Sources(
                prometheus=scraper.url, influxdb=store.server.url, database=store.database, token=store.server.token
            ),
            gateway=gateway,
            bootstrap=bootstrap,
            cloud=cloud.cluster,
            devices=("sensor.a+1", "sensor.b+1"),
            scraper=scraper,
            since=since,
        )
        dashboard_devices.use(gateway, plant)
        _campaign(made, parts)
        _use(made, anna, nobody, store)
        enough = time.time() + watched_s
        until("time for a few scrapes", lambda: time.time() > enough, watched_s + PATIENCE)
        yield made


def _campaign(made: System, folder: Path) -> None:
    """One for a device that is not there, which goes on and on."""
    image = folder / "image.bin"
    image.write_bytes(b"firmware")
    where = ("--gateway", made.gateway.id, "--kafka", made.cloud.bootstrap)
    done = CliRunner().invoke(app, ["campaign", "create", "spring", str(image), "--endpoint", "nobody", *where])
    assert done.exit_code == 0, done.output


def _use(made: System, anna: Cluster, nobody: Cluster, store: InfluxdbStore) -> None:
    """Let something happen that every panel has to show."""
    gateway = made.gateway
    for ep in made.devices:
        until(f"{ep} is registered", lambda ep=ep: bool(gateway.registrations(ep)))  # type: ignore[misc]  # a lambda
    # By way of the cloud, as people ask.
    asked = 0
    for ep in made.devices:
        for kind, path, body in (
            (RequestKind.READ, "/3/0", None),
            (RequestKind.READ, "/1/0", None),
            (RequestKind.READ, "/3303/0", None),
            (RequestKind.EXECUTE, "/3303/0/5605", ExecuteRequest(parameters="")),
            (RequestKind.READ, "/3304/0/9999", None),
        ):
            asked += 1
            payload = RequestPayload(kind=kind, path=path, body=body)
            request = Request(server_id=gateway.id, ep=ep, ticket=f"ticket#{asked}", payload=payload)
            produce(made.cloud, gateway.topics.requests, serde.encode(request))
    # What nobody can read: datagrams that are no CoAP, notifications whose text is no number, records that are no Avro.
    with RawDevice(gateway.address, "broken") as broken:
        broken.register()
        broken.wait_observed("/3303/0/5700")
        token = broken.observed["/3303/0/5700"]

        def is_counted() -> bool:
            broken.send(b"\xff\xff rubbish")
            # CON, 2.05, Observe, Content-Format 0 (RFC 7252, section 3; RFC 7641, section 2).
            mid = broken.next_mid()
            head = bytes([0x40 | len(token), 0x45]) + mid.to_bytes(2, "big") + token
            broken.send(head + bytes([0x61, mid % 256, 0x60, 0xFF]) + b"warm")
            return gateway.metric("dead_letters_total", stage="gateway:decode") > 0

        until("what is broken is counted", is_counted)
    # One with a key, and one with a wrong key.
    with SecureDevice(gateway.secure_address, SECURED, KEY) as device:
        device.register()
    with contextlib.suppress(AssertionError):
        SecureDevice(gateway.secure_address, SECURED, KEY[::-1], patience=5.0)
    # Two that ask for their servers, one of them under another's name; and one with a wrong key.
    with SecureDevice(made.bootstrap.coaps, BOOTSTRAPPED, KEY) as device:
        device.answer = Answers()
        device.ask(Code.POST, ("bs",), ("ep=somebody-else",))
        device.ask(Code.POST, ("bs",), (f"ep={BOOTSTRAPPED}",))
        assert made.bootstrap.ended(BOOTSTRAPPED)["outcome"] == "done"
    with contextlib.suppress(AssertionError):
        SecureDevice(made.bootstrap.coaps, BOOTSTRAPPED, KEY[::-1], patience=5.0)
    produce(gateway.cluster, gateway.topics.requests, b"no request")
    produce(made.cloud, gateway.topics.observations, b"no notification")
    for who in (anna, nobody):
        for _ in range(2):
            try:
                partition_counts(who, ["iot.gw.observations"], timeout=3)
            except (Unreachable, KafkaException):
                continue
    tickets = {f"ticket#{number}" for number in range(1, asked + 1)}
    until("all replies in InfluxDB", lambda: tickets <= {row["ticket"] for row in store.rows()})
    begun = "headwater_analytics_lag_records", "headwater_sink_lag_records", "headwater_replicator_lag_seconds"
    for name in (*begun, "headwater_campaigns_devices"):
        until(f"{name} is scraped", lambda name=name: made.sources.prom("query", query=name)["result"])  # type: ignore[misc]  # a lambda
