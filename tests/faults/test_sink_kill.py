"""The sink is killed, Kafka is killed: every record is in the file exactly once, every poisoned one a dead letter."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from connectors.runner import SinkSettings
from connectors.sinks import Sink, SinkRecord
from schemas.avro.records import Notification
from tests.kafka_brokers import BrokerFactory
from tests.sink_harness import (
    PATIENCE_S,
    count,
    dead_letters,
    eventually,
    make_topics,
    produce,
    rows,
    running,
    wrapped,
)
from tests.sink_samples import delete, new, notification, resource

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

SEED = 20_260_101
ROOT = Path(__file__).parents[2]


@contextmanager
def process(
    cluster: Cluster, gateway: str, file: Path, *, batch: int, lives: int = 0
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.faults.sink_process", cluster.bootstrap, gateway, "sqlite"]
    command += [json.dumps({"file": str(file)}), str(batch), str(lives)]
    # What it says at its end stands with a test that fails.
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(PATIENCE_S)


def some(number: int, start: int) -> list[Notification]:
    return [notification(resource("/3303/0/5700", float(i)), timestamp=i) for i in range(start, start + number)]


def assert_exactly_once(file: Path, number: int) -> None:
    assert rows(file, "SELECT count(*), count(DISTINCT number), min(number), max(number) FROM history") == [
        (number, number, 0.0, number - 1.0)
    ]
    assert rows(file, "PRAGMA integrity_check") == [("ok",)]


def test_killed_between_write_and_commit_again_and_again(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    file = tmp_path / "headwater.db"
    topics = make_topics(kafka, gateway_id)
    number = 0
    produce(kafka, topics.registrations, [new()])
    for _ in range(5):
        produce(kafka, topics.observations, some(150, number))
        produce(kafka, topics.observations, [b"poison"], partition=1)
        produce(kafka, topics.observations, some(150, number + 150), partition=1)
        number += 300
        with process(kafka, gateway_id, file, batch=40, lives=chance.randint(1, 5)) as sink:
            assert sink.wait(PATIENCE_S) == -signal.SIGKILL
    produce(kafka, topics.registrations, [delete(expired=True)])
    with process(kafka, gateway_id, file, batch=40) as sink:
        eventually(count(file), number)
        eventually(lambda: rows(file, "SELECT online, expired FROM endpoints"), [(0, 1)])
        eventually(
            lambda: {letter.record.offset for letter in dead_letters(kafka, gateway_id)}, {i * 151 for i in range(5)}
        )
        sink.terminate()
        assert sink.wait(PATIENCE_S) == 0
    assert_exactly_once(file, number)
    assert {letter.stage for letter in dead_letters(kafka, gateway_id)} == {"decode"}


def test_killed_in_mid_flow_again_and_again(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    file = tmp_path / "headwater.db"
    topics = make_topics(kafka, gateway_id)
    number = 6000

    def pour() -> None:
        for start in range(0, number, 100):
            produce(kafka, topics.observations, some(100, start), partition=start // 100 % 2)

    flow = threading.Thread(target=pour)
    flow.start()
    stored = count(file)
    try:
        while stored() < number * 0.8:
            before = stored()
            with process(kafka, gateway_id, file, batch=chance.choice((7, 60, 500))) as sink:
                wanted = min(before + chance.randint(1, number // 4), number)
                eventually(lambda wanted=wanted: stored() >= wanted, True)  # type: ignore[misc]  # a default binds it now
                sink.kill()
    finally:
        flow.join(PATIENCE_S)
    with process(kafka, gateway_id, file, batch=500) as sink:
        eventually(stored, number)
        sink.terminate()
        assert sink.wait(PATIENCE_S) == 0
    assert_exactly_once(file, number)


def test_kafka_is_killed_and_comes_back_in_mid_flow(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    broker = broker_factory("edge")
    file = tmp_path / "headwater.db"
    topics = make_topics(broker.cluster, gateway_id)
    produce(broker.cluster, topics.observations, [*some(1000, 0), b"poison"])
    settings = SinkSettings(
        sink="sqlite",
        gateway=gateway_id,
        kafka=broker.cluster,
        options={"file": str(file)},
        batch_records=100,
        linger_s=0.05,
    )
    with running(settings) as runner:
        eventually(lambda: count(file)() > 0, True)
        broker.kill()
        eventually(lambda: "no broker answers" in (runner.waiting_for() or ""), True)
        broker.restart()
        produce(broker.cluster, topics.observations, some(1000, 1000), partition=1)
        eventually(count(file), 2000)
        eventually(runner.waiting_for, None)
        eventually(lambda: {x.record.offset for x in dead_letters(broker.cluster, gateway_id)}, {1000})
    assert_exactly_once(file, 2000)


def test_kafka_is_away_with_a_dead_letter_under_way_until_the_group_has_forgotten_the_sink(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    broker = broker_factory("edge")
    file = tmp_path / "headwater.db"
    topics = make_topics(broker.cluster, gateway_id)
    produce(broker.cluster, topics.observations, [*some(10, 0), b"poison"])
    settings = SinkSettings(
        sink="sqlite", gateway=gateway_id, kafka=broker.cluster, options={"file": str(file)}, session_s=6.0
    )
    written, killed = threading.Event(), threading.Event()

    def hold(inner: Sink, records: Sequence[SinkRecord]) -> None:
        inner.write(records)
        written.set()
        assert killed.wait(PATIENCE_S)

    with running(settings, wrapped(hold)) as runner:
        assert written.wait(PATIENCE_S)
        broker.kill()
        killed.set()
        eventually(lambda: runner.partitions, frozenset())
        broker.restart()
        for partition in range(2):
            produce(broker.cluster, topics.observations, some(10, 10 + 10 * partition), partition=partition)
        eventually(count(file), 30)
        eventually(lambda: {x.record.offset for x in dead_letters(broker.cluster, gateway_id)}, {10})
    assert_exactly_once(file, 30)


def test_it_stops_when_told_also_while_kafka_is_away(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    broker = broker_factory("edge")
    file = tmp_path / "headwater.db"
    topics = make_topics(broker.cluster, gateway_id)
    produce(broker.cluster, topics.observations, some(100, 0))
    with process(broker.cluster, gateway_id, file, batch=10) as sink:
        eventually(count(file), 100)
        broker.kill()
        sink.terminate()
        assert sink.wait(PATIENCE_S) == 0
    assert_exactly_once(file, 100)
