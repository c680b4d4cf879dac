"""Jobs on a real Kafka: exactly once through kill -9, shared by instances, alive after bad records and outages."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from analytics.app import run_job
from analytics.job import Incoming, JobSettings, Surroundings, parse_options
from analytics.jobs import JOBS
from connectors import kafka as door
from connectors.kafka import Cluster, TopicPartition
from schemas.avro.records import (
    Key,
    Notification,
    ReadBody,
    RequestKind,
    ResponseCode,
    ResponsePayload,
    Statistics,
)
from schemas.avro.serde import decode, encode
from schemas.avro.topics import TopicKind, Topics
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as LwM2MPath
from tests.analytics.dict_state import Counts, DictState, Emitted
from tests.kafka_brokers import BrokerFactory, end_child_with_this_process
from tests.ports import held_port
from tests.standing_still import go_on, stand_still

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[2]
#: Of today: Kafka deletes what is older than a week while a test goes on.
T0 = int(time.time()) // 30 * 30_000
PATIENCE_S = 90.0
JOB = "max-temperature"


def wait_until(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.05)


def notification(gateway: str, ep: str, at: int, value: float) -> bytes:
    path = LwM2MPath(3303, 0, 5700)
    content = Resource(path=path, type=ResourceType.FLOAT, value=value)
    return encode(
        Notification(
            ticket="t",
            observation_id="o",
            server_id=gateway,
            ep=ep,
            path=str(path),
            timestamp=T0 + at,
            rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=content)),
        )
    )


def produce(cluster: Cluster, gateway: str, records: list[tuple[str, int, float]]) -> None:
    """Endpoint, ms after T0, value."""
    topics = Topics(gateway)
    door.ensure_topics(cluster, topics.partitions())
    producer = door.producer(cluster)
    for ep, at, value in records:
        value_bytes = notification(gateway, ep, at, value)
        producer.produce(topics.observations, key=encode(Key(ep=ep)), value=value_bytes, timestamp=T0 + at)
        producer.poll(0)
    assert producer.flush(30) == 0


def committed(cluster: Cluster, topic: str) -> Counter[tuple[bytes | None, bytes]]:
    return Counter((one.key(), one.value()) for one in door.read_to_end(cluster, [topic]))


def expected(cluster: Cluster, gateway: str) -> Counter[tuple[bytes | None, bytes]]:
    """What the job makes of the log as it is, without Kafka around it."""
    kind = JOBS[JOB]
    around = Surroundings(gateway=gateway, group="g", metrics=Counts())
    job, emitted = kind.make(parse_options(kind, {}), around), Emitted()
    states: dict[int, DictState] = {}
    topic = Topics(gateway).observations
    for one in door.read_to_end(cluster, [topic]):
        record = Incoming(topic, one.partition(), one.offset(), one.timestamp()[1], one.key(), one.value(), ())
        job.take(record, states.setdefault(one.partition(), DictState()), emitted)
    return Counter((key, value) for _, key, value, _ in emitted.records)


def stream(endpoints: int, count: int, step_ms: int, seed: int = 1) -> list[tuple[str, int, float]]:
    drawn = random.Random(seed)
    return [(f"ep-{number % endpoints}", number * step_ms, drawn.gauss(25, 2)) for number in range(count)]


class Process:
    """The job in a process of its own."""

    def __init__(self, cluster: Cluster, gateway: str, group: str, state: Path) -> None:
        self.port = held_port()
        self.log = state.with_suffix(f".{self.port}.log")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.analytics.windows_process", JOB, gateway, cluster.bootstrap),
                *(group, str(state), str(self.port)),
            ],
            cwd=ROOT,
            start_new_session=True,
            stderr=self.log.open("wb"),
        )
        self.pid = self._process.pid
        end_child_with_this_process(self.pid)

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def terminate(self) -> int:
        """The exit code; a process that takes longer than its ten seconds ends with another."""
        self._process.terminate()
        return self._process.wait(30)

    def taken(self) -> float:
        """How many records it has taken."""
        return sum(
            float(line.rpartition(" ")[2])
            for line in said(self.port, "metrics")[1].splitlines()
            if line.startswith("headwater_analytics_records_total")
        )


def said(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()
    except OSError as exc:
        return 0, str(exc)


@contextmanager
def running(settings: JobSettings) -> Iterator[None]:
    """The job in a thread."""
    stop, failures = threading.Event(), []

    def run() -> None:
        try:
            run_job(settings, stop)
        except Exception as exc:  # noqa: BLE001  the test looks at it
            failures.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
    assert failures == []


def settings_of(cluster: Cluster, gateway: str, state: Path, port: int | None = None) -> JobSettings:
    return JobSettings(
        kind=JOBS[JOB],
        options=parse_options(JOBS[JOB], {}),
        gateway=gateway,
        bootstrap=cluster.bootstrap,
        state=state,
        metrics_port=port,
        session_s=6.0,
        commit_s=0.3,
    )


def test_killed_again_and_again_the_results_are_those_of_an_undisturbed_run(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    every, topic = stream(20, 40_000, 500), Topics(gateway_id).maxper30sec
    for number in range(4):
        produce(kafka, gateway_id, every[number * 10_000 : (number + 1) * 10_000])
        process = Process(kafka, gateway_id, gateway_id, tmp_path / "state")
        if number < 3:
            wait_until(lambda: process.taken() > 1000, "nothing is taken")  # noqa: B023  called at once
            process.kill()
        if number == 1:
            shutil.rmtree(tmp_path / "state")
    wanted = expected(kafka, gateway_id)
    wait_until(lambda: committed(kafka, topic).total() >= wanted.total(), "results are missing")
    assert process.terminate() == 0
    assert committed(kafka, topic) == wanted


def test_two_instances_share_the_partitions_and_hand_over(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    produce(kafka, gateway_id, stream(20, 100, 500))
    topic = Topics(gateway_id).maxper30sec
    state = tmp_path / "state"
    first, second = (Process(kafka, gateway_id, gateway_id, state) for _ in range(2))
    sent = 100
    while min(first.taken(), second.taken()) == 0:
        more = stream(20, sent + 200, 500)[sent:]
        produce(kafka, gateway_id, more)
        sent += 200
        assert sent < 100_000
        time.sleep(0.2)
    assert first.terminate() == 0
    produce(kafka, gateway_id, stream(20, sent + 200, 500)[sent:])
    wanted = expected(kafka, gateway_id)
    wait_until(lambda: committed(kafka, topic).total() >= wanted.total(), "results are missing")
    assert second.terminate() == 0
    assert committed(kafka, topic) == wanted


def test_a_record_that_cannot_be_decoded_is_a_dead_letter_and_the_job_goes_on(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topics = Topics(gateway_id)
    produce(kafka, gateway_id, [("a", 0, 21.0)])
    producer = door.producer(kafka)
    for value in (b"poison", None, b"\0\0\0\0\3" + b"x" * 950_000):
        producer.produce(topics.observations, key=encode(Key(ep="a")), value=value, headers=[("h", b"1")])
    producer.flush(10)
    produce(kafka, gateway_id, [("a", 50_000, 1.0)])
    with running(settings_of(kafka, gateway_id, tmp_path)):
        wait_until(lambda: committed(kafka, topics.maxper30sec).total() == 1, "no result")
    letters = list(door.read_to_end(kafka, [topics.deadletter]))
    assert [letter.value() for letter in letters] == [b"poison", None, None]
    for letter in letters:
        headers = dict(letter.headers())
        assert (headers["stage"], headers["h"]) == (b"decode", b"1")
        assert headers["origin.topic"] == topics.observations.encode()
    assert b"too large" in dict(letters[2].headers())["error"]


def test_a_partition_that_fell_silent_has_its_windows_put_out(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    produce(kafka, gateway_id, [("a", 0, 21.0), ("a", 1000, 22.0)])
    kind = JOBS[JOB]
    settings = JobSettings(
        kind=kind,
        options=parse_options(kind, {"window": "1s", "grace": "0s", "idle": "3s"}),
        gateway=gateway_id,
        bootstrap=kafka.bootstrap,
        state=tmp_path,
        commit_s=0.3,
    )
    topic = Topics(gateway_id).maxper30sec
    with running(settings):
        wait_until(lambda: committed(kafka, topic).total() == 2, "the last window did not come")
    results = [decode(value) for _, value in committed(kafka, topic)]
    assert sorted(one.timestamp - T0 for one in results if isinstance(one, Notification)) == [0, 1000]


def lines(port: int, metric: str) -> dict[str, float]:
    """The values of a metric by its labels, as text."""
    found = (line.rpartition(" ") for line in said(port, "metrics")[1].splitlines() if line.startswith(metric))
    return {name: float(value) for name, _, value in found}


def test_records_that_kafka_deleted_cost_no_state_and_are_counted(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topics, port = Topics(gateway_id), held_port()
    kind = JOBS["statistics"]
    settings = JobSettings(
        kind=kind,
        options=parse_options(kind, {}),
        gateway=gateway_id,
        bootstrap=kafka.bootstrap,
        state=tmp_path / "state",
        metrics_port=port,
        session_s=6.0,
        commit_s=0.3,
    )
    output = topics.name(TopicKind.STATISTICS)

    def lengths() -> list[int]:
        results = [decode(value) for _, value in committed(kafka, output).elements()]
        return sorted(one.stream_length for one in results if isinstance(one, Statistics))

    produce(kafka, gateway_id, [("a", at, 20.0) for at in range(3)])
    with running(settings):
        wait_until(lambda: lengths() == [1, 2, 3], "no results")
    # It is away, and Kafka deletes what came in between but for the last two.
    produce(kafka, gateway_id, [("a", at, 20.0) for at in range(3, 10)])
    (partition,) = {one.partition() for one in door.read_to_end(kafka, [topics.observations])}
    place, client = TopicPartition(topics.observations, partition, 8), door.admin(kafka)
    client.delete_records([place])[place].result(30)
    with running(settings):
        wait_until(lambda: lengths() == [1, 2, 3, 4, 5], "it does not go on with its state")
        # Other tests of this process have figures of their own.
        lost = lines(port, "headwater_analytics_lost_records_total")
        assert [number for name, number in lost.items() if gateway_id in name] == [5.0]
        where = f'partition="{partition}",topic="{topics.observations}"'
        wait_until(
            lambda: any(where in name and lag == 0 for name, lag in lines(port, "headwater_analytics_lag").items()),
            "no lag is told",
        )


def test_what_kafka_deletes_in_front_of_a_slow_job_is_counted(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    topics, client = Topics(gateway_id), door.admin(kafka)
    produce(kafka, gateway_id, [("a", at, 20.0) for at in range(10)])
    job = Process(kafka, gateway_id, gateway_id, tmp_path / "state")

    def told(name: str) -> float:
        return sum(lines(job.port, f"headwater_analytics_{name}_total").values())

    try:
        wait_until(lambda: said(job.port, "readyz")[0] == 200 and told("records") == 10, "the records are not read")
        stand_still(job.pid)
        # Its client has asked for records, and gets some of these: not those that come when nobody asks any more.
        for at in (100, 600):
            produce(kafka, gateway_id, [("a", at + step, 20.0) for step in range(500)])
        (partition,) = {one.partition() for one in door.read_to_end(kafka, [topics.observations])}
        place = TopicPartition(topics.observations, partition, 1005)
        client.delete_records([place])[place].result(30)
        go_on(job.pid)
        wait_until(lambda: told("lost_records") > 0, "nobody says that records are lost")
        # Or more: what a transaction that took too long had read is read, and counted, once more.
        wait_until(lambda: told("records") + told("lost_records") >= 1010, "it is not known what became of all")
    finally:
        job.kill()


def test_it_is_not_ready_before_its_group_and_its_state_are(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    produce(kafka, gateway_id, stream(50, 20_000, 500))
    first, topic = Process(kafka, gateway_id, gateway_id, tmp_path / "state"), Topics(gateway_id).maxper30sec
    wanted = expected(kafka, gateway_id).total()
    wait_until(lambda: committed(kafka, topic).total() == wanted, "results are missing")
    first.kill()
    shutil.rmtree(tmp_path / "state")
    second = Process(kafka, gateway_id, gateway_id, tmp_path / "state")
    told: list[tuple[int, str]] = []
    try:
        # The group waits for the one that was killed as long as its session lasts.
        while not told or told[-1] != (200, "ok\n"):
            told.append(said(second.port, "readyz"))
            assert len(told) < 10_000
            time.sleep(0.01)
    finally:
        second.kill()
    assert "joining its consumer group" in {text.strip() for status, text in told if status == 503}


def test_kafka_may_be_away_at_the_start_and_in_between(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    broker = broker_factory("edge")
    produce(broker.cluster, gateway_id, [("a", 0, 21.0), ("a", 50_000, 1.0)])
    topic = Topics(gateway_id).maxper30sec
    broker.kill()
    port = held_port()
    with running(settings_of(broker.cluster, gateway_id, tmp_path / "state", port)):
        wait_until(lambda: "no broker answers" in said(port, "readyz")[1], "nobody is told that Kafka is away")
        assert said(port, "readyz")[0] == 503
        broker.restart()
        wait_until(lambda: said(port, "readyz") == (200, "ok\n"), "not ready")
        wait_until(lambda: committed(broker.cluster, topic).total() == 1, "no result")
        broker.kill()
        wait_until(lambda: said(port, "readyz")[0] == 503, "ready without Kafka")
        broker.restart()
        produce(broker.cluster, gateway_id, [("a", 100_000, 5.0)])
        wait_until(lambda: committed(broker.cluster, topic).total() == 2, "no result after the outage")
        wait_until(lambda: said(port, "readyz") == (200, "ok\n"), "not ready")
    assert said(port, "healthz")[0] == 0
