"""The whole way from devices to SQLite, with every part killed in mid-flow, and an audit of all that was promised."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloud.requests import ask, new_ticket
from headwater.demo.audit import Verdict, audit
from headwater.demo.link import Cut, Link
from headwater.servers.broker import LinkListener
from schemas.avro.records import Request, RequestKind, RequestPayload, ResponseCode
from tests.faults.chaos import Faults
from tests.kafka_brokers import BrokerFactory, KafkaBroker
from tests.ports import held_port
from tests.way import Gateway, Part, Sensors, chaos_proxy, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(400)]

DEVICES = 4
OBSERVATIONS = 3 * DEVICES  # of /3303/0, /3303/1 and /3304/0
FAULTS = Faults(drop=0.02, duplicate=0.1, delay=0.1, longest_delay=0.2, reorder=0.05, longest_hold=0.3)
#: Each another order of the deeds.
SEEDS = (2_401, 2_402)


@dataclass(slots=True, kw_only=True)
class Way:
    """All parts, as they run now."""

    gateway: Gateway
    edge: KafkaBroker
    cloud: KafkaBroker
    link: Link
    #: All that were started; exactly one runs.
    replicators: list[Part]
    sink: Part
    sensors: Sensors
    folder: Path
    chance: random.Random

    @property
    def database(self) -> Path:
        return self.folder / "headwater.db"

    def another_replicator(self) -> Part:
        edge, cloud = self.edge.cluster.bootstrap, self.cloud.linked.bootstrap
        settings = ("--gateway", self.gateway.id, "--edge", edge, "--cloud", cloud)
        one = Part(f"replicator-{len(self.replicators)}", self.folder, "replicate", *settings)
        self.replicators.append(one)
        one.start()
        return one

    @property
    def replicator(self) -> Part:
        (one,) = (one for one in self.replicators if one.runs)
        return one

    # What is done to it. Whatever is killed is started again at once, as a supervisor does.

    def kill_gateway(self) -> None:
        self.gateway.kill()
        self.gateway.start()

    def kill_replicator(self) -> None:
        victim = self.replicator
        victim.kill()
        victim.start()

    def kill_sink(self) -> None:
        self.sink.kill()
        self.sink.start()

    def kill_edge_kafka(self) -> None:
        self.edge.kill()
        self.edge.restart()

    def kill_cloud_kafka(self) -> None:
        self.cloud.kill()
        self.cloud.restart()

    def cut_the_wan(self) -> None:
        self.link.cut(self.chance.choice(list(Cut)))
        self.sensors.wait_for_more(self.chance.randint(10, 40))
        self.link.restore()

    def start_a_second_replicator(self) -> None:
        first = self.replicator
        second = self.another_replicator()
        until("one of two replicators gives way", lambda: not (first.runs and second.runs))
        loser = second if first.runs else first
        assert self.replicator is not loser
        assert loser.wait_ended() == 1, loser.said()
        assert "another replicator" in loser.said()

    def audit(self) -> Verdict:
        return audit(self.gateway.id, self.edge.cluster, self.cloud.cluster, self.sensors.journal, self.database)


@contextmanager
def _way(broker_factory: BrokerFactory, folder: Path, seed: int) -> Iterator[Way]:
    listener = LinkListener(port=held_port(), advertised_port=held_port())
    edge, cloud = broker_factory("edge"), broker_factory("cloud", link=listener)
    name = f"whole-{secrets.token_hex(3)}"
    gateway = Gateway(name, edge.cluster, folder, observe=("/3303/*/5700", "/3304/*/5700"))
    store = ("--gateway", name, "--kafka", cloud.cluster.bootstrap, "--file", str(folder / "headwater.db"))
    with (
        Link(listener.advertised_port, listener.port) as link,
        gateway,
        Part("sink", folder, "sink", "sqlite", *store) as sink,
        chaos_proxy(gateway.address, seed=seed, up=FAULTS, down=FAULTS) as proxy,
    ):
        gateway.wait_ready()
        way = Way(
            gateway=gateway,
            edge=edge,
            cloud=cloud,
            link=link,
            replicators=[],
            sink=sink,
            sensors=Sensors(proxy.address, folder, "--count", str(DEVICES), "--period", "0.25"),
            folder=folder,
            chance=random.Random(seed),
        )
        try:
            way.another_replicator()
            with way.sensors:
                yield way
        finally:
            for one in way.replicators:
                one.end()


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_killed_on_the_whole_way_everything_acknowledged_arrives_once(
    broker_factory: BrokerFactory, tmp_path: Path, seed: int
) -> None:
    with _way(broker_factory, tmp_path, seed) as way:
        sensors, gateway = way.sensors, way.gateway
        until("all observations", lambda: gateway.metric("observations") == OBSERVATIONS)
        sensors.wait_for_all(DEVICES)
        deeds = [
            way.kill_gateway,
            way.kill_replicator,
            way.kill_sink,
            way.kill_edge_kafka,
            way.kill_cloud_kafka,
            way.cut_the_wan,
            way.start_a_second_replicator,
        ]
        way.chance.shuffle(deeds)
        told = f"seed {seed}: {', '.join(deed.__name__ for deed in deeds)}"
        print(told)  # shown when the test fails
        for deed in deeds:
            sensors.wait_for_more(way.chance.randint(5, 40))
            deed()

        # All goes on: every device tells, nobody registered anew, a command from the cloud is answered.
        gateway.wait_ready()
        sensors.wait_for_all(DEVICES)
        assert gateway.metric("devices") == DEVICES, told
        assert gateway.metric("observations") == OBSERVATIONS, told
        registered = {f"sensor-{number}": 1 for number in range(1, DEVICES + 1)}
        assert gateway.new_registrations() == registered, told
        payload = RequestPayload(kind=RequestKind.READ, path="/3/0/0")
        request = Request(server_id=gateway.id, ep="sensor-1", ticket=new_ticket(), payload=payload)
        answer = ask(way.cloud.cluster, gateway.id, request, timeout=60)
        assert answer.response.rep.code is ResponseCode.CONTENT, told
        assert way.replicator.runs
        assert way.sink.runs, way.sink.said()

        sensors.kill()
        verdicts: list[Verdict] = []

        def settled() -> bool:
            verdicts.append(way.audit())
            print(verdicts[-1])
            return verdicts[-1].right(DEVICES) or verdicts[-1].doubled > 0

        until(f"{told}; everything in the cloud and in SQLite, as the audit printed", settled, 60)
        assert verdicts[-1].right(DEVICES), (told, verdicts[-1])
        assert verdicts[-1].registrations == DEVICES
