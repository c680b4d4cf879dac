"""Hopping and sliding windows on a real Kafka: killed in the middle, and held against all readings at once."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from connectors.kafka import Cluster
from schemas.avro.records import Notification, ReadBody
from schemas.avro.serde import decode
from schemas.lwm2m.nodes import Resource
from tests.analytics.job_command import Process, committed, committed_at_least, kill_in_a_transaction, started
from tests.sink_harness import make_topics, produce
from tests.sink_samples import notification, resource

pytestmark = pytest.mark.kafka

#: An hour ago, at a full minute: Kafka deletes what is older than a week.
BEGIN = (int(time.time()) // 60 - 60) * 60_000
SECONDS = 100
ENDPOINTS = ("ep-a", "ep-b")
PATHS = ("/3303/0/5700", "/3303/1/5700")
GRACE_MS = 10_000
WINDOW_MS = 20_000
HOP_MS = 5_000

#: Endpoint, path, start of the window in epoch ms, value.
Result = tuple[str, str, int, object]


class Spoken(NamedTuple):
    """A reading: when it was taken by the device, and when it came to the gateway; epoch ms."""

    ep: str
    path: str
    time: int
    came: int
    value: float
    late: bool


def readings() -> list[Spoken]:
    """One of each series a second, in the order in which they come: out of that of their times by less than the grace,
    but for every tenth, which is a minute old and late. Their values are whole: sums are exact in any order.
    """
    chance, spoken = random.Random(20_261_122), []
    for second in range(SECONDS):
        came, late = BEGIN + 1_000 * second, second % 10 == 9
        for ep in ENDPOINTS:
            for path in PATHS:
                age = 60_000 if late else 500 * chance.randint(0, GRACE_MS // 500 - 2)
                value = 1_000_000.0 if late else float(chance.randint(-20, 50))
                spoken.append(Spoken(ep, path, came - age, came, value, late))
    return spoken


def plain(
    spoken: Sequence[Spoken],
    suffix: str,
    starts: Callable[[Iterable[int]], Iterable[int]],
    function: Callable[[list[float]], float],
) -> list[Result]:
    """What is to come out: of each series the windows that begin at ``starts`` of its times, if anything is in them."""
    results: list[Result] = []
    for ep in ENDPOINTS:
        for path in PATHS:
            mine = [one for one in spoken if (one.ep, one.path) == (ep, path) and not one.late]
            for start in starts([one.time for one in mine]):
                values = [one.value for one in mine if start <= one.time < start + WINDOW_MS]
                if values:
                    results.append((ep, path + suffix, start, function(values)))
    return sorted(results, key=repr)


def put_out(cluster: Cluster, topic: str) -> list[Result]:
    results: list[Result] = []
    for _, _, value in committed(cluster, [topic]).elements():
        said = decode(value)
        assert isinstance(said, Notification)
        assert isinstance(said.rep.body, ReadBody)
        assert isinstance(said.rep.body.content, Resource)
        results.append((said.ep, said.path, said.timestamp, said.rep.body.content.value))
    return sorted(results, key=repr)


def killed_in_the_middle(
    kafka: Cluster, gateway: str, state: Path, spoken: Sequence[Spoken], total: int, flags: Sequence[str]
) -> list[Result]:
    """What the job has committed when it has put out ``total`` results and ended, after it was killed once."""
    topics = make_topics(kafka, gateway)

    def say(these: Sequence[Spoken]) -> None:
        for partition, ep in enumerate(ENDPOINTS):
            records = [
                notification(resource(one.path, one.value, timestamp=one.time), ep=ep, timestamp=one.came)
                for one in these
                if one.ep == ep
            ]
            produce(kafka, topics.observations, records, ep=ep, partition=partition)

    def come(seconds: range) -> list[Spoken]:
        return [one for one in spoken if (one.came - BEGIN) // 1_000 in seconds]

    # No clock but that of the readings: how fast the machine is makes nothing late.
    told = ["--window", f"{WINDOW_MS}ms", "--grace", f"{GRACE_MS}ms", "--idle", "0s", *flags]
    process = Process("max-temperature", kafka, gateway, state, told)
    output = [topics.maxper30sec]
    say(come(range(50)))
    with started(process):
        committed_at_least(1, process, kafka, output)
        seconds = iter(range(50, SECONDS))

        def one_by_one() -> Iterator[None]:
            for second in seconds:
                say(come(range(second, second + 1)))
                yield

        kill_in_a_transaction(process, kafka, topics.maxper30sec, one_by_one())
        process.start()
        say(come(range(next(seconds, SECONDS), SECONDS)))
        # Their own windows stay open, and all before are closed by them.
        end = BEGIN + 1_000 * SECONDS
        say([Spoken(ep, path, end + 120_000, end, 0.0, False) for ep in ENDPOINTS for path in PATHS])
        committed_at_least(total, process, kafka, output)
        assert process.end(signal.SIGTERM) == 0
    return put_out(kafka, topics.maxper30sec)


def test_hopping_windows_are_those_of_all_readings_though_the_job_is_killed(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    spoken = readings()

    def starts(times: Iterable[int]) -> Iterable[int]:
        return range(BEGIN - 2 * WINDOW_MS, max(times) + 1, HOP_MS)

    wanted = plain(spoken, "-mean", starts, lambda values: sum(values) / len(values))
    assert len(wanted) > 60
    flags = ["--hop", f"{HOP_MS}ms", "--function", "mean"]
    assert killed_in_the_middle(kafka, gateway_id, tmp_path / "state", spoken, len(wanted), flags) == wanted


def test_sliding_windows_are_those_of_all_readings_though_the_job_is_killed(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    spoken = readings()

    def starts(times: Iterable[int]) -> Iterable[int]:
        """Each ends with a reading; the oldest instant is left out."""
        return {at + 1 - WINDOW_MS for at in times}

    wanted = plain(spoken, "-sum", starts, sum)
    assert len(wanted) > 200
    flags = ["--sliding", "--function", "sum"]
    assert killed_in_the_middle(kafka, gateway_id, tmp_path / "state", spoken, len(wanted), flags) == wanted
