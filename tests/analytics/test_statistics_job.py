"""The job `statistics`, reading by reading: what it puts out, when, and what it keeps."""

from __future__ import annotations

import math
import random
import statistics
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from analytics.job import Incoming, JobConfigError, Surroundings, parse_options
from analytics.jobs.statistics import KIND
from schemas.avro.records import Statistics
from schemas.avro.serde import decode, encode
from schemas.lwm2m.nodes import ResourceType
from tests.analytics.dict_state import Counts, DictState, Emitted
from tests.sink_samples import notification, resource

PATH = "/3303/0/5700"


class Bench:
    """The job with a state in a dict, and what it puts out."""

    def __init__(self, state: DictState | None = None, **options: Any) -> None:
        self.state = state or DictState()
        self.counts = Counts()
        self.shown: list[Any] = []
        around = Surroundings(gateway="gw1", group="g", metrics=self.counts, show=self.shown.append)
        self.job = KIND.make(parse_options(KIND, options), around)
        self._emitted = Emitted()

    def take(self, value: float, at: int = 1_000, path: str = PATH, ep: str = "ep-1", own: int | None = None) -> None:
        kind = ResourceType.FLOAT
        content = notification(resource(path, value, kind, own), ep=ep, timestamp=at)
        self.job.take(Incoming("t", 0, 0, at, b"", encode(content), ()), self.state, self._emitted)

    def idle(self, silent_s: float) -> None:
        self.job.idle(silent_s, self.state, self._emitted)

    def results(self) -> list[Statistics]:
        """What was put out since the last look."""
        found = []
        for topic, key, value, _ in self._emitted.records:
            record = decode(value)
            assert isinstance(record, Statistics)
            assert topic == "analytics.gw1.statistics"
            assert key is not None
            assert getattr(decode(key), "ep", None) == record.ep
            found.append(record)
        self._emitted.records.clear()
        return found


def test_each_reading_gives_the_statistics_of_all_so_far() -> None:
    bench, draw, values = Bench(), random.Random(3), []
    for number in range(200):
        values.append(draw.gauss(1e9, 1e-2))
        bench.take(values[-1], at=number)
        (told,) = bench.results()
        assert (told.ep, told.path, told.server_id, told.timestamp) == ("ep-1", PATH, "gw1", number)
        assert told.stream_length == number + 1
        assert told.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-15)
        variance = float(statistics.pvariance(map(Fraction, values)))
        assert told.variance == pytest.approx(variance, rel=1e-9)
        assert told.std_dev == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert len(bench.shown) == 200


def test_series_do_not_mix() -> None:
    bench = Bench()
    bench.take(1.0)
    bench.take(100.0, path="/3303/1/5700")
    bench.take(200.0, ep="ep-2")
    bench.take(3.0)
    # Neither does one whose name runs into its path.
    bench.take(7.0, ep="ep-1/3303", path="/0/5700/0")
    assert [(told.ep, told.path, told.mean) for told in bench.results()] == [
        ("ep-1", PATH, 1.0),
        ("ep-1", "/3303/1/5700", 100.0),
        ("ep-2", PATH, 200.0),
        ("ep-1", PATH, 2.0),
        ("ep-1/3303", "/0/5700/0", 7.0),
    ]


def test_late_readings_count_and_the_time_does_not_go_back() -> None:
    bench = Bench()
    for own, value in ((5_000, 1.0), (2_000, 3.0)):
        bench.take(value, at=10_000, own=own)
    assert [(told.timestamp, told.mean) for told in bench.results()] == [(5_000, 1.0), (5_000, 2.0)]


def test_a_device_whose_clock_is_ahead_gets_the_gateways_time() -> None:
    bench = Bench(ahead="5s")
    bench.take(1.0, at=10_000, own=15_000)
    bench.take(1.0, at=11_000, own=16_001)
    assert [told.timestamp for told in bench.results()] == [15_000, 15_000]
    assert bench.counts.ahead_ == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_no_number_is_counted_and_spoils_nothing(value: float) -> None:
    bench = Bench()
    for one in (1.0, value, 3.0):
        bench.take(one)
    assert [(told.mean, told.stream_length) for told in bench.results()] == [(1.0, 1), (2.0, 2)]
    assert bench.counts.skipped_ == 1


def test_only_chosen_series_are_kept() -> None:
    bench = Bench(path="/3303/*/5700", endpoint="roof-*")
    bench.take(1.0)
    bench.take(1.0, ep="roof-1", path="/3303/0/5701")
    assert not bench.state.held
    bench.take(1.0, ep="roof-1")
    assert [told.ep for told in bench.results()] == ["roof-1"]


def test_at_most_one_result_in_so_long_and_the_last_one_is_the_latest() -> None:
    bench = Bench(every="10s")
    for number in range(100):
        bench.take(float(number), at=1_000_000 + 1_000 * number)
        bench.take(5.0, at=1_000_000 + 1_000 * number, path="/3303/1/5700")
    found = [told for told in bench.results() if told.path == PATH]
    assert 7 <= len(found) <= 10
    gaps = [later.stream_length - earlier.stream_length for earlier, later in pairwise(found)]
    assert min(gaps) >= 10
    for told in found:
        assert told.mean == (told.stream_length - 1) / 2
    bench.idle(1.0)
    assert bench.results() == []
    # Nobody says anything more: what has not been told yet is told by the wall clock.
    bench.idle(15.0)
    assert [(told.stream_length, told.mean) for told in bench.results() if told.path == PATH] == [(100, 49.5)]
    bench.idle(30.0)
    assert bench.results() == []


def test_another_interval_goes_on_with_the_same_state() -> None:
    bench = Bench(every="10s")
    bench.take(1.0, at=1_000_000)
    again = Bench(bench.state, every="60s")
    again.take(3.0, at=1_001_000)
    again.take(9.0, at=1_200_000, path="/3303/1/5700")
    assert [(told.path, told.stream_length, told.mean) for told in again.results()] == [(PATH, 2, 2.0)]
    at_once = Bench(bench.state)
    at_once.take(5.0, at=1_201_000)
    assert [(told.stream_length, told.mean) for told in at_once.results()] == [(3, 3.0)]


def test_an_endpoint_that_makes_up_paths_for_ever_does_not_fill_the_state() -> None:
    bench = Bench(max_series=10)
    for number in range(1_000):
        bench.take(1.0, path=f"/3303/{number}/5700")
    bench.take(1.0, ep="ep-2")
    bench.take(2.0, path="/3303/3/5700")
    assert len(bench.results()) == 12
    assert bench.counts.crowded_ == 990
    assert sum(map(len, bench.state.held.values())) < 2_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": "soon"}, "--every: 'soon' is no span of time"),
        ({"path": "/a"}, "--path"),
        ({"max_series": 0}, "--max-series"),
        ({"redis": "h:1"}, "no option 'redis'"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(JobConfigError, match=said):
        parse_options(KIND, options)


def test_a_series_that_cannot_be_read_costs_the_others_no_result() -> None:
    bench = Bench(every="10s")
    for ep in ("a", "broken", "c"):
        bench.take(1.0, ep=ep)
    bench.state.held[b"s6:broken" + PATH.encode()] = b"?"
    bench.idle(30.0)
    assert [told.ep for told in bench.results()] == ["a", "c"]
    assert bench.counts.skipped_ == 1
