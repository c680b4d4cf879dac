"""Renewal, revocation and rotation of the authority on a real Kafka, under a stream of records that is never refused.

The folders are the authority's own, as they lie there: what Java and librdkafka make of them is seen here.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka import (
    Cluster,
    KafkaError,
    TopicPartition,
    Unreachable,
    admin,
    consumer,
    ensure_topics,
    log_bounds,
    partition_counts,
    producer,
)
from headwater.servers import broker
from security.authority import NOW, Authority, Keys, Step
from security.fleet import default_names
from security.identities import Identity
from tests.kafka_brokers import end_with_this_process
from tests.ports import held_port

# Eight starts of Kafka; on a machine that is busy with others each takes a while.
pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1200)]

TOPIC = "iot.rock64.observations"
#: A super user, since rights are not what is tried here.
WRITER = Identity.parse("admin:fleet")
BROKER = Identity.parse("broker:cloud")
WAIT_S = 300.0


@dataclass(slots=True)
class Stream:
    """Numbered records without end, by one client after the other; each is either acknowledged or complained of."""

    cluster: Cluster
    acknowledged: int = 0
    complaints: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def restart(self) -> None:
        """Another client, which reads the identity's folder anew. All that the one before wrote is acknowledged."""
        self.end()
        before = self.acknowledged
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stop,))
        self._thread.start()
        self.wait_for(before + 10)

    def end(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join(WAIT_S)
            assert not self._thread.is_alive(), "records wait for ever"
            self._thread = None

    def wait_for(self, count: int) -> None:
        """Until so many are acknowledged."""
        step = threading.Event()
        for _ in range(round(WAIT_S / 0.05)):
            if self.acknowledged >= count:
                return
            step.wait(0.05)
        raise AssertionError(f"{self.acknowledged} of {count} acknowledged; {self.complaints[-3:]}")

    def goes_on(self) -> None:
        self.wait_for(self.acknowledged + 50)

    def _run(self, stop: threading.Event) -> None:
        def report(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                self.complaints.append(error.str())
            else:
                self.acknowledged += 1

        def tell(error: KafkaError) -> None:
            # A broker that starts again is away for a while; that is none of these.
            if error.code() in (KafkaError._SSL, KafkaError._AUTHENTICATION):
                self.complaints.append(error.str())

        client = producer(self.cluster, error_cb=tell)
        number = self.acknowledged
        while not stop.wait(0.005):
            client.produce(TOPIC, str(number).encode(), partition=0, on_delivery=report)
            number += 1
            client.poll(0)
        assert client.flush(WAIT_S) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One Kafka and a stream into it, with identities of one authority."""

    authority: Authority
    folder: Path
    port: int
    stream: Stream

    def start_broker(self) -> None:
        broker.start("cloud", self.port, self.folder, heap="128m", tls=self.authority.folder.issued / BROKER.folder)

    def restart_broker(self) -> None:
        broker.stop("cloud", self.folder)
        self.start_broker()

    def values(self) -> list[int]:
        """What is in the topic, in its order."""
        reader = consumer(self.stream.cluster, "look")
        end = log_bounds(admin(self.stream.cluster), [(TOPIC, 0)])[TOPIC, 0][1]
        reader.assign([TopicPartition(TOPIC, 0, 0)])
        found: list[int] = []
        while len(found) < end:
            batch = reader.consume(500, timeout=WAIT_S)
            assert batch, "Kafka gives no more"
            found += [int(message.value()) for message in batch]
        reader.close()
        return found


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    authority = Authority(tmp_path / "pki")
    authority.create()
    authority.ensure(BROKER, names=default_names(BROKER))
    writer = authority.ensure(WRITER).folder
    port = held_port()
    made = Way(
        authority=authority,
        folder=tmp_path,
        port=port,
        stream=Stream(Cluster(bootstrap=f"127.0.0.1:{port}", tls=writer)),
    )
    end_with_this_process("cloud", tmp_path)
    made.start_broker()
    try:
        ensure_topics(made.stream.cluster, {TOPIC: 1})
        made.stream.restart()
        yield made
    finally:
        made.stream.end()
        broker.stop("cloud", tmp_path, timeout=10)


def test_certificates_keys_and_the_authority_are_replaced_and_no_record_is_refused_lost_or_doubled(way: Way) -> None:
    def renew() -> None:
        for identity in (BROKER, WRITER):
            way.authority.renew(identity, within=NOW, keys=Keys.NEW)

    # Who is started again first must not matter: it goes to and fro.
    for turn, step in enumerate((None, *Step)):
        if step is None:
            renew()
        else:
            way.authority.rotate(step)
        way.stream.goes_on()
        for restart in (way.stream.restart, way.restart_broker)[:: 1 if turn % 2 else -1]:
            restart()
            way.stream.goes_on()
    way.stream.end()
    assert way.stream.complaints == []
    assert way.values() == list(range(way.stream.acknowledged))


def test_nobody_of_the_old_authority_is_let_in_once_it_is_gone(way: Way, tmp_path: Path) -> None:
    way.stream.end()
    old = tmp_path / "old"
    shutil.copytree(way.authority.folder.issued / WRITER.folder, old)
    for step in Step:
        way.authority.rotate(step)
    way.restart_broker()
    way.stream.restart()
    trusting_both = (way.authority.folder.bundle_file.read_bytes()) + (old / "ca.pem").read_bytes()
    (old / "ca.pem").write_bytes(trusting_both)
    with pytest.raises(Unreachable, match="refuses the certificate of admin:fleet"):
        partition_counts(Cluster(bootstrap=way.stream.cluster.bootstrap, tls=old), [TOPIC])
    way.stream.goes_on()
