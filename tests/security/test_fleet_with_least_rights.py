"""The real processes on two Kafkas with mTLS, each with its least rights; rights that go, certificates that rotate.

All that a device was acknowledged is in the cloud once, whatever happened in between.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from connectors.broker_admin import change_bindings, stored_bindings
from connectors.kafka import Cluster, topic_counts
from headwater.demo.audit import read_side
from headwater.servers import broker
from schemas.avro.topics import Topics
from security.acls import Binding, Decision, Grant, Operation, Resource, Side
from tests.identities import Issuer
from tests.kafka_brokers import end_with_this_process
from tests.ports import held_port
from tests.way import Gateway, Part, Sensors, compare, lost_of, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

GW = "gw"
PEOPLE = ("--command", f"anna={GW}", "--see", f"bob={GW}")


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Two brokers and the processes of one gateway; ``parts`` by name."""

    folder: Path
    issuer: Issuer
    edge: broker.Broker
    cloud: broker.Broker
    parts: dict[str, Part] = field(default_factory=dict)

    def identity(self, principal: str) -> Path:
        return self.issuer.place / principal.replace(":", "+")

    def at(self, side: Side, principal: str = "admin:fleet") -> Cluster:
        one = self.edge if side is Side.EDGE else self.cloud
        return Cluster(bootstrap=one.bootstrap, tls=self.identity(principal))

    def person(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        tls = str(self.identity(f"user:{name}"))
        where = ["--gateway", GW, "--kafka", self.cloud.bootstrap, "--kafka-tls", tls]
        command = [sys.executable, "-m", "headwater.cli", *arguments, *where]
        return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)

    def apply(self, side: Side) -> None:
        where = self.at(side)
        options = ["--kafka", where.bootstrap, "--kafka-tls", str(where.tls), "--gateway", GW, *PEOPLE]
        command = [sys.executable, "-m", "headwater.cli", "acl", "apply", "--side", side.value, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    @property
    def sensors(self) -> Sensors:
        found = self.parts["sensors"]
        assert isinstance(found, Sensors)
        return found

    @property
    def gateway(self) -> Gateway:
        found = self.parts["gateway"]
        assert isinstance(found, Gateway)
        return found

    def wait_for_the_cloud(self) -> None:
        """Until the cloud has all notifications that were acknowledged by now."""
        journal = self.sensors.entries()
        topic = Topics(GW).observations
        where = self.at(Side.CLOUD)
        until(
            f"{len(journal)} notifications in the cloud; {self.said()}",
            lambda: not lost_of(journal, read_side(where, [topic])),
            150,
        )

    def said(self) -> str:
        return "\n\n".join(f"{name} said:\n{part.said(8)}" for name, part in self.parts.items())


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    issuer = Issuer(folder / "pki")
    roles = ("gateway", "replicator", "sink", "analytics", "campaigns")
    for principal in ("admin:fleet", "user:anna", "user:bob", *(f"{role}:{GW}" for role in roles)):
        issuer.issue(principal)
    started = []
    for name, principal in (("edge", f"broker:{GW}"), ("cloud", "broker:cloud")):
        end_with_this_process(name, folder)
        started.append(broker.start(name, held_port(), folder, heap="128m", tls=issuer.issue(principal)))
    made = Fleet(folder=folder, issuer=issuer, edge=started[0], cloud=started[1])
    for side in Side:
        made.apply(side)

    def tls(role: str) -> tuple[str, str]:
        return ("--kafka-tls", str(made.identity(f"{role}:{GW}")))

    state = folder / "run"
    state.mkdir()
    gateway = Gateway(GW, made.at(Side.EDGE), state, *tls("gateway"), observe=("/3303/0/5700",))
    replicating = str(made.identity(f"replicator:{GW}"))
    made.parts = {
        "gateway": gateway,
        "replicator": Part(
            "replicator", state, "replicate", "--gateway", GW, "--edge", made.edge.bootstrap, "--cloud",
            made.cloud.bootstrap, "--edge-tls", replicating, "--cloud-tls", replicating,
        ),
        "sink": Part(
            "sink", state, "sink", "sqlite", "--gateway", GW, "--kafka", made.cloud.bootstrap, *tls("sink"), "--file",
            str(state / "store.db"),
        ),
        "job": Part(
            "job", state, "analytics", "run", "aggregate", "--gateway", GW, "--kafka", made.edge.bootstrap,
            *tls("analytics"), "--state", str(state / "job"), "--window", "2s", "--grace", "0s", "--quiet",
        ),
        "campaigns": Part(
            "campaigns", state, "campaign", "run", "--gateway", GW, "--kafka", made.cloud.bootstrap, *tls("campaigns"),
        ),
        "sensors": Sensors(gateway.address, state, "--period", "0.3", "--count", "3"),
    }  # fmt: skip
    try:
        for part in made.parts.values():
            part.start()
        gateway.wait_ready()
        yield made
    finally:
        for part in made.parts.values():
            part.end()
        for name in ("edge", "cloud"):
            broker.stop(name, folder, timeout=10)


def test_everyone_does_his_work_with_the_least_rights(fleet: Fleet) -> None:
    fleet.sensors.wait_for_all(3)
    fleet.wait_for_the_cloud()
    done = fleet.person("anna", "read", "sensor-1", "/3303/0/5700", "--timeout", "60", "--output", "json")
    assert done.returncode == 0, done.stderr + fleet.said()
    assert json.loads(done.stdout)["rep"]["code"] == "CONTENT"
    seen = fleet.person("bob", "devices", "--output", "json")
    assert seen.returncode == 0, seen.stderr
    assert "sensor-1" in seen.stdout
    # The job's results go up through the replicator, and the sink stores what came.
    results = "analytics.gw.aggregates"
    until(f"results in the cloud; {fleet.said()}", lambda: topic_counts(fleet.at(Side.CLOUD)).get(results, 0) > 0)
    until(f"aggregates in the cloud; {fleet.said()}", lambda: bool(read_side(fleet.at(Side.CLOUD), [results])))
    store = fleet.folder / "run" / "store.db"
    until(f"a store; {fleet.said()}", store.exists)


def test_an_image_comes_to_a_device_by_whoever_may_and_by_nobody_else(fleet: Fleet) -> None:
    """Anna sends it and makes the campaign, the service carries it out; Bob may look."""
    image = fleet.folder / "lamp.bin"
    image.write_bytes(b"headwater 2.0.0\n" + bytes(100_000))
    lamps = Sensors(fleet.gateway.address, fleet.folder, "--images", str(fleet.folder / "images"), endpoint="lamp")
    with lamps:
        until(f"the registration; {fleet.said()}", lambda: bool(lamps.acknowledged), 150)
        refused = fleet.person("bob", "campaign", "create", "mine", str(image), "--endpoint", "lamp")
        assert refused.returncode != 0
        assert "user:bob" in refused.stderr
        made = fleet.person("anna", "campaign", "create", "spring", str(image), "--endpoint", "lamp")
        assert made.returncode == 0, made.stderr

        def done() -> bool:
            seen = fleet.person("bob", "campaign", "status", "spring", "--output", "json")
            assert seen.returncode == 0, seen.stderr
            return bool(json.loads(seen.stdout)["standing"] == "done")

        until(f"the end of the campaign; {fleet.said()}", done, 150)
        seen = fleet.person("bob", "campaign", "status", "spring", "--output", "json")
        assert json.loads(seen.stdout)["updated"] == 1, seen.stdout
    (told,) = [json.loads(line) for line in fleet.parts["campaigns"].said(500).splitlines() if "carried out" in line]
    assert told["gateway"] == GW


def test_a_right_that_is_taken_away_stops_the_gateway_and_loses_nothing(fleet: Fleet) -> None:
    fleet.sensors.wait_for_all(3)
    here = fleet.at(Side.EDGE)
    taken = Binding(
        principal=f"User:gateway:{GW}",
        grant=Grant(resource=Resource.TOPIC, name=Topics(GW).observations, operation=Operation.ALL),
        decision=Decision.DENY,
    )
    change_bindings(here, add=[taken])
    until(f"the gateway says so; {fleet.said()}", lambda: f"refuses gateway:{GW}" in fleet.gateway.said(500))
    until("it is not ready", lambda: not fleet.gateway.is_ready)
    before = fleet.sensors.acknowledged
    assert fleet.gateway.runs
    change_bindings(here, remove=[one for one in stored_bindings(here) if one.as_binding() == taken])
    until(f"it goes on; {fleet.said()}", lambda: fleet.sensors.acknowledged > before + 3, 150)
    assert fleet.gateway.runs
    fleet.wait_for_the_cloud()


def shown_by(one: broker.Broker, trusted: Path) -> bytes:
    """The certificate that a broker shows to whoever connects now."""
    context = ssl.create_default_context(cafile=trusted / "ca.pem")
    context.load_cert_chain(trusted / "cert.pem", trusted / "key.pem")
    with (
        socket.create_connection((one.host, one.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=one.host) as spoken,
    ):
        found = spoken.getpeercert(binary_form=True)
    assert found is not None
    return found


def wait_until_it_shows_another(one: broker.Broker, trusted: Path, before: bytes) -> None:
    until(f"{one.name} shows its new certificate", lambda: shown_by(one, trusted) != before)


@pytest.mark.timeout(600)
def test_certificates_and_authority_are_rotated_while_data_flows(fleet: Fleet) -> None:
    """Old and new authority trusted, then everyone's certificate of the new one, then the old one no longer."""
    old, new = fleet.issuer, Issuer(fleet.issuer.place, number=2)
    fleet.sensors.wait_for_all(3)
    brokers = {"edge": f"broker:{GW}", "cloud": "broker:cloud"}
    clients = [one.name.replace("+", ":") for one in old.place.iterdir() if not one.name.startswith("broker")]
    steps: Sequence[tuple[Issuer, tuple[Issuer, ...]]] = ((old, (old, new)), (new, (old, new)), (new, (new,)))
    for issuer, trusted in steps:
        for name, principal in brokers.items():
            one = fleet.edge if name == "edge" else fleet.cloud
            before = shown_by(one, fleet.identity("admin:fleet"))
            issuer.issue(principal, trusted=trusted)
            broker.reload_certificates(name, fleet.folder)
            wait_until_it_shows_another(one, fleet.identity("admin:fleet"), before)
            running = broker.status(name, fleet.folder)
            assert running is not None
            assert running.pid == one.pid
        for principal in clients:
            issuer.issue(principal, trusted=trusted)
        for name in ("replicator", "sink", "job", "campaigns", "gateway"):
            # As a power cut would: then it is certain that nothing hangs on an orderly end.
            fleet.parts[name].kill()
            fleet.parts[name].start()
        fleet.gateway.wait_ready()
        fleet.sensors.wait_for_all(3)
    # Nothing more is said, so that all that was has an end.
    fleet.sensors.end()
    fleet.wait_for_the_cloud()
    journal = fleet.sensors.entries()
    for side in Side:
        compare(journal, read_side(fleet.at(side), [Topics(GW).observations]))
