"""The jobs join and filter on a real Kafka: killed, begun anew without their state, and given what is no record."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analytics.join_plan import Series, rekeyed_topic
from connectors.kafka import Cluster, Message, partition_counts, read_to_end, topic_counts
from schemas.avro import serde
from schemas.avro.records import Key, Notification, ReadBody, Record
from schemas.avro.topics import TopicKind, Topics
from schemas.lwm2m.nodes import Resource, ResourceType
from tests.analytics.job_command import Process, committed_at_least, kill_in_a_transaction, started
from tests.kafka_brokers import BrokerFactory
from tests.sink_harness import PATIENCE_S, dead_letters, eventually, make_topics, produce
from tests.sink_samples import new, notification, resource

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
SEED = 20_260_102
#: Where the tests' event time begins.
BEGIN = 1_767_225_600_000


class JobProcess:
    """A job in a process of its own, on one folder of state."""

    def __init__(self, name: str, cluster: Cluster, gateway: str, state: Path, **options: object) -> None:
        self._command = [sys.executable, "-m", "tests.analytics.mortal_job", name, cluster.bootstrap, gateway]
        self._command += [str(state), json.dumps(options)]
        self.state = state
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.state.parent / "job.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def end(self, how: signal.Signals) -> int:
        """Its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self._process.wait(PATIENCE_S)


@contextmanager
def running(job: JobProcess) -> Iterator[JobProcess]:
    job.start()
    try:
        yield job
    finally:
        job.end(signal.SIGKILL)


def committed(cluster: Cluster, topic: str) -> list[Message]:
    """All that readers of committed data see."""
    return list(read_to_end(cluster, [topic])) if partition_counts(cluster, [topic]) else []


def counter(cluster: Cluster, topic: str) -> Callable[[], int]:
    return lambda: len(committed(cluster, topic))


def at_least(number: int, counted: Callable[[], int]) -> None:
    eventually(lambda: counted() >= number, True)


def of_series(ep: str, path: str, second: int, value: float, millis: int = 0) -> Notification:
    return notification(resource(path, value), ep=ep, timestamp=BEGIN + 1_000 * second + millis)


def observations(messages: list[Message]) -> list[tuple[str, str, int, object]]:
    out = []
    for message in messages:
        said = serde.decode(message.value())
        assert isinstance(said, Notification)
        assert isinstance(said.rep.body, ReadBody)
        content = said.rep.body.content
        assert isinstance(content, Resource)
        assert serde.decode(message.key()) == Key(ep=said.ep)
        assert str(content.path) == said.path
        out.append((said.ep, said.path, said.timestamp, content.value))
    return sorted(out, key=repr)


def produce_disordered(cluster: Cluster, topic: str, partition: int, records: list[Notification]) -> None:
    """Out of order by as much as the grace of the tests allows."""
    chance = random.Random(SEED)
    mixed = sorted(records, key=lambda one: one.timestamp + chance.randint(0, 8_000))
    for ep in sorted({one.ep for one in mixed}):
        produce(cluster, topic, [one for one in mixed if one.ep == ep], ep=ep, partition=partition)


CODE = """
def ingest(record):
    return None if record.value == 7 else record

def on_join(a, b):
    if a.value == 13:
        raise ValueError("thirteen")
    return {"/3303/100/5700": a.value * 1000 + b.value, 5701: f"{a.path}~{b.path}"}
"""


def pair(ep: str, second: int) -> list[Notification]:
    """A reading of each series; the left's is the later one."""
    right = of_series(ep, "/3304/0/5700", second, float(second))
    return [of_series(ep, "/3303/0/5700", second, float(second), 200), right]


def test_join_gives_each_pair_once_though_it_is_killed_and_loses_its_state(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topics = make_topics(kafka, gateway_id)
    output = topics.name(TopicKind.JOINED)
    code = tmp_path / "code.py"
    code.write_text(CODE)
    results = counter(kafka, output)

    def more(seconds: range) -> None:
        for partition, ep in enumerate(("ep-a", "ep-b")):
            records = [one for second in seconds for one in pair(ep, second)]
            produce_disordered(kafka, topics.observations, partition, records)

    more(range(60))
    produce(kafka, topics.observations, [b"poison"])
    options = {"left": "/3303/*/5700", "right": "/3304/*/5700", "tolerance": "500ms", "code": str(code)}
    job = JobProcess("join", kafka, gateway_id, tmp_path / "state", **options)
    with running(job):
        at_least(1, results)
        assert job.end(signal.SIGKILL) == -signal.SIGKILL
        more(range(60, 120))
        job.start()
        at_least(170, results)
        more(range(120, 150))
        assert job.end(signal.SIGKILL) == -signal.SIGKILL
        shutil.rmtree(job.state)
        job.start()
        more(range(1_000, 1_001))  # what comes last lets all before it be final
        seconds = [second for second in range(150) if second not in (7, 13)]
        eventually(results, 2 * 2 * len(seconds))
        assert job.end(signal.SIGTERM) == 0
    wanted: list[tuple[str, str, int, object]] = []
    for ep in ("ep-a", "ep-b"):
        for second in seconds:
            time = BEGIN + 1_000 * second + 200
            wanted.append((ep, "/3303/100/5700", time, second * 1000.0 + second))
            wanted.append((ep, "/3300/100/5701", time, "/3303/0/5700~/3304/0/5700"))
    assert observations(committed(kafka, output)) == sorted(wanted, key=repr)
    letters = dead_letters(kafka, gateway_id)
    assert sorted(letter.stage for letter in letters) == ["analytics:join", "analytics:join", "decode"]
    assert [letter.record.value for letter in letters if letter.stage == "decode"] == [b"poison"]
    assert all("line 7: ValueError: thirteen" in letter.error for letter in letters if letter.stage != "decode")


def test_join_of_two_endpoints_meets_in_one_partition(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    topics = make_topics(kafka, gateway_id)
    output = topics.name(TopicKind.JOINED)
    code = tmp_path / "code.py"
    code.write_text("def on_join(a, b):\n    return int(a.value - b.value) if b else 'alone'\n")
    names = ("inside:/3303/0/5700", "outside:/3303/0/5700")
    series = [Series.parse(name) for name in names]

    def more(seconds: range) -> None:
        for partition, ep in enumerate(("inside", "outside")):
            records = [of_series(ep, "/3303/0/5700", one, 3.0 * one * (1 - partition)) for one in seconds]
            produce_disordered(kafka, topics.observations, partition, records)

    more(range(40))
    # Of no series, though at the same path.
    produce(kafka, topics.observations, [of_series("other", "/3303/0/5700", 1, 1.0)], ep="other")
    options = {"series": names, "tolerance": "0s", "mode": "interval", "code": str(code), "as": "/3303/7/5700"}
    # Longer than all of it lasts: nothing is late, whichever partition is read first.
    options["patience"] = "2m"
    job = JobProcess("join", kafka, gateway_id, tmp_path / "state", endpoint="house", **options)
    results = counter(kafka, output)
    with running(job):
        at_least(1, results)
        assert job.end(signal.SIGKILL) == -signal.SIGKILL
        shutil.rmtree(job.state)
        more(range(40, 80))
        job.start()
        eventually(results, 80)
        # A record that nobody of ours has written.
        produce(kafka, rekeyed_topic(gateway_id, series), [b"poison"])
        eventually(lambda: len(committed(kafka, topics.deadletter)), 1)
        more(range(80, 81))
        eventually(results, 81)
        assert job.end(signal.SIGTERM) == 0
    assert observations(committed(kafka, output)) == sorted(
        [("house", "/3303/7/5700", BEGIN + 1_000 * second, 3 * second) for second in range(81)], key=repr
    )
    assert len(dead_letters_of(kafka, topics)) == 1


#: A sensor that says every eleventh time what cannot be, and is left out; the others in half degrees.
THREE = """
def ingest(record):
    return None if record.ep == "roof" and record.value % 11 == 5 else record._replace(value=record.value / 2)

def on_join(a, b, c):
    return f"{a.value} {b.value} {c.value}, {a.time - b.time} and {a.time - c.time} ms before"
"""


def test_join_of_three_series_gives_each_triple_once_though_it_is_killed(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topics, path, tolerance = make_topics(kafka, gateway_id), "/3303/0/5700", 700
    output, chance = topics.name(TopicKind.JOINED), random.Random(SEED)
    code = tmp_path / "three.py"
    code.write_text(THREE)
    #: All of it lies within the patience that the series have with each other: nothing is late, whichever comes first.
    last = 45
    partitions = {"inside": 0, "outside": 1, "roof": 1}
    spoken = {
        ep: [of_series(ep, path, second, float(second), chance.randrange(1000)) for second in range(last)]
        for ep in partitions
    }

    # Out of order by less than the grace, and each endpoint by itself.
    came = {ep: sorted(of, key=lambda one: one.timestamp + chance.randint(0, 8_000)) for ep, of in spoken.items()}

    def more(these: slice) -> None:
        for ep, partition in partitions.items():
            produce(kafka, topics.observations, came[ep][these], ep=ep, partition=partition)

    # The latest of each that is not after the reading inside, where both are near.
    wanted: list[tuple[str, str, int, object]] = []
    for left in spoken["inside"]:
        partners = []
        for ep in ("outside", "roof"):
            near = [
                one
                for one in spoken[ep]
                if left.timestamp - tolerance <= one.timestamp <= left.timestamp
                and not (ep == "roof" and value_of(one) % 11 == 5)
            ]
            partners += [max(near, key=lambda one: one.timestamp)] if near else []
        if len(partners) == 2:
            values = " ".join(str(value_of(one) / 2) for one in (left, *partners))
            before = " and ".join(str(left.timestamp - one.timestamp) for one in partners)
            wanted.append(("inside", "/3300/100/5700", left.timestamp, f"{values}, {before} ms before"))
    assert len(wanted) > 10
    flags = [f for ep in spoken for f in ("--series", f"{ep}:{path}")]
    flags += ["--tolerance", f"{tolerance}ms", "--idle", "0s", "--code", str(code)]
    process = Process("join", kafka, gateway_id, tmp_path / "state", flags)
    more(slice(0, 20))
    with started(process):
        committed_at_least(1, process, kafka, [output])
        numbers = iter(range(20, last))

        def one_by_one() -> Iterator[None]:
            for number in numbers:
                more(slice(number, number + 1))
                yield

        kill_in_a_transaction(process, kafka, output, one_by_one())
        process.start()
        more(slice(next(numbers, last), last))
        # What comes last of each lets all before it be final.
        for ep, partition in partitions.items():
            produce(kafka, topics.observations, [of_series(ep, path, last + 11, 0.0)], ep=ep, partition=partition)
        committed_at_least(len(wanted), process, kafka, [output])
        assert process.end(signal.SIGTERM) == 0
    assert observations(committed(kafka, output)) == sorted(wanted, key=repr)
    assert dead_letters_of(kafka, topics) == []


def dead_letters_of(cluster: Cluster, topics: Topics) -> list[Message]:
    return committed(cluster, topics.deadletter)


def test_filter_passes_bytes_on_once_though_it_is_killed(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    topics = make_topics(kafka, gateway_id)
    chance = random.Random(SEED)
    output = f"{gateway_id}.cold"
    readings = [of_series("ep-1", "/3303/0/5700", second, float(chance.randint(0, 9))) for second in range(300)]
    low = [one for one in readings if value_of(one) < 4]
    results = counter(kafka, output)
    headers = [("late", b"1"), ("trace", b"\x00\xff")]
    job = JobProcess(
        "filter",
        kafka,
        gateway_id,
        tmp_path / "state",
        query="SELECT * FROM observations WHERE result < 4 AND late",
        to=output,
    )
    produce(kafka, topics.observations, readings[:150], headers=headers)
    produce(kafka, topics.observations, readings[:9])  # not late
    produce(kafka, topics.observations, [b"poison", None], partition=1)
    with running(job):
        at_least(1, results)
        assert job.end(signal.SIGKILL) == -signal.SIGKILL
        shutil.rmtree(job.state)
        job.start()
        produce(kafka, topics.observations, readings[150:], headers=headers)
        eventually(results, len(low))
        assert job.end(signal.SIGTERM) == 0
    came = {message.value(): message for message in committed(kafka, topics.observations)}
    passed = committed(kafka, output)
    assert [message.value() for message in passed] == [serde.encode(one) for one in low]
    for message in passed:
        origin = came[message.value()]
        assert message.key() == origin.key()
        assert message.headers() == headers
    assert [(letter.stage, letter.record.value) for letter in dead_letters(kafka, gateway_id)] == [
        ("decode", b"poison")
    ]


def value_of(said: Notification) -> float:
    assert isinstance(said.rep.body, ReadBody)
    assert isinstance(said.rep.body.content, Resource)
    return float(str(said.rep.body.content.value))


def test_filter_makes_json_of_fields_from_several_topics(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    topics = make_topics(kafka, gateway_id)
    output = f"{gateway_id}.chosen"
    registration: Record = new()
    produce(kafka, topics.registrations, [registration])
    text = notification(resource("/3/0/0", "ACME", ResourceType.STRING), timestamp=BEGIN)
    produce(kafka, topics.observations, [text, of_series("ep-1", "/3303/0/5700", 0, 21.5)])
    query = f'SELECT ep, kind, path, COALESCE(value, 0) AS it, topic FROM registrations, "{topics.observations}"'
    query += " WHERE kind = 'NEW' OR object = 3303 AND time >= '2026-01-01'"
    job = JobProcess("filter", kafka, gateway_id, tmp_path / "state", query=query, to=output)
    with running(job):
        eventually(counter(kafka, output), 2)
        assert job.end(signal.SIGTERM) == 0
    found = sorted(
        (json.loads(message.value()) for message in committed(kafka, output)), key=lambda one: str(one["kind"])
    )
    assert found == [
        {"ep": "ep-1", "kind": "NEW", "path": None, "it": 0, "topic": topics.registrations},
        {"ep": "ep-1", "kind": "observe", "path": "/3303/0/5700", "it": 21.5, "topic": topics.observations},
    ]


def test_filter_goes_on_after_dead_letters_and_results_too_large_for_kafka(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topics = make_topics(kafka, gateway_id)
    output = f"{gateway_id}.both"
    large = notification(resource("/3/0/0", "x" * 600_000, ResourceType.STRING), timestamp=BEGIN)
    small = notification(resource("/3/0/0", "y", ResourceType.STRING), timestamp=BEGIN)
    produce(kafka, topics.deadletter, [b"poison"])
    produce(kafka, topics.observations, [large, small])
    query = "SELECT value || value AS twice FROM observations, deadletter"
    job = JobProcess("filter", kafka, gateway_id, tmp_path / "state", query=query, to=output)
    with running(job):
        eventually(counter(kafka, output), 1)
        produce(kafka, topics.deadletter, [small])
        eventually(counter(kafka, output), 2)
        assert job.end(signal.SIGTERM) == 0
    assert [json.loads(message.value()) for message in committed(kafka, output)] == [{"twice": "yy"}] * 2
    assert len(dead_letters_of(kafka, topics)) == 2


def test_filter_reads_every_gateway_and_those_that_appear(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    # Of its own, as it reads everything that there is.
    kafka = broker_factory().cluster
    first, second = make_topics(kafka, f"{gateway_id}.a"), Topics(f"{gateway_id}.b")
    output = f"{gateway_id}.all"
    query = "SELECT ep, topic FROM *"
    job = JobProcess("filter", kafka, gateway_id, tmp_path / "state", query=query, to=output)
    produce(kafka, first.observations, [of_series("ep-1", "/3303/0/5700", 0, 1.0)])
    with running(job):
        eventually(counter(kafka, output), 1)
        make_topics(kafka, second.gateway)
        produce(kafka, second.observations, [of_series("ep-2", "/3303/0/5700", 0, 1.0)], ep="ep-2")
        eventually(counter(kafka, output), 2)
        assert job.end(signal.SIGTERM) == 0
    assert not [name for name in topic_counts(kafka) if name.startswith("changelog")]
    assert [json.loads(message.value()) for message in committed(kafka, output)] == [
        {"ep": "ep-1", "topic": first.observations},
        {"ep": "ep-2", "topic": second.observations},
    ]
