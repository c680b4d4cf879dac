"""Jobs of windows without Kafka: groups, silence, clocks that are wrong, options."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from analytics.job import Incoming, Job, JobConfigError, Surroundings, parse_options
from analytics.jobs import JOBS
from schemas.avro.records import Aggregate, Key, Notification, ReadBody, RequestKind, ResponseCode, ResponsePayload
from schemas.avro.serde import decode, encode
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path
from tests.analytics.dict_state import Counts, DictState, Emitted
from tests.sink_samples import notification, resource

TEMPERATURE = Path(3303, 0, 5700)
T0 = 1_790_000_010_000  # a multiple of 30 s


class Trial:
    """A job with its surroundings."""

    def __init__(self, name: str, **options: Any) -> None:
        self.kind = JOBS[name]
        self.counts, self.state, self.emitted = Counts(), DictState(), Emitted()
        self.shown: list[Any] = []
        around = Surroundings(gateway="gw", group="g", metrics=self.counts, show=self.shown.append)
        self.job: Job = self.kind.make(parse_options(self.kind, options), around)

    def say(
        self,
        ep: str,
        value: float,
        at: int,
        own: int | None = None,
        path: Path = TEMPERATURE,
        kafka: int | None = None,
    ) -> list[Any]:
        """A notification ``at`` ms after T0 by the gateway, and ``kafka`` by Kafka; what came out by it."""
        content = Resource(path=path, type=ResourceType.FLOAT, value=value, timestamp=None if own is None else T0 + own)
        record = Notification(
            ticket="t",
            observation_id="o",
            server_id="gw",
            ep=ep,
            path=str(path),
            timestamp=T0 + at,
            rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=content)),
        )
        return self.take(encode(record), ep, T0 + at if kafka is None else T0 + kafka)

    def take(self, value: bytes, ep: str, kafka_time: int) -> list[Any]:
        before = len(self.emitted.records)
        record = Incoming("iot.gw.observations", 0, 0, kafka_time, encode(Key(ep=ep)), value, ())
        self.job.take(record, self.state, self.emitted)
        return self.results()[before:]

    def silent(self, seconds: float) -> list[Any]:
        before = len(self.emitted.records)
        self.job.idle(seconds, self.state, self.emitted)
        return self.results()[before:]

    def again(self, **options: Any) -> None:
        """The job begins once more, with other options and the state as it is."""
        around = Surroundings(gateway="gw", group="g", metrics=self.counts, show=self.shown.append)
        self.job = self.kind.make(parse_options(self.kind, options), around)

    def results(self) -> list[Any]:
        return [decode(value) for _, _, value, _ in self.emitted.records]


def test_aggregates_are_of_each_series_and_of_the_endpoint() -> None:
    trial = Trial("aggregate", window="30s")
    trial.say("a", 1.0, 0)
    trial.say("a", 5.0, 1000, path=Path(3304, 0, 5700))
    trial.say("a", 3.0, 2000)
    results = trial.say("a", 0.0, 45_000)
    results += trial.say("b", 0.0, 100_000)
    of = {one.path: one for one in results if one.start == T0}
    assert of[None] == Aggregate(
        server_id="gw", ep="a", start=T0, end=T0 + 30_000, count=3, min=1.0, max=5.0, mean=3.0, sum=9.0, last=3.0
    )
    assert (of["/3303/0/5700"].count, of["/3303/0/5700"].last) == (2, 3.0)
    assert of["/3304/0/5700"].sum == 5.0
    assert trial.shown == trial.results()
    assert {(topic, key) for topic, key, _, _ in trial.emitted.records} == {
        ("analytics.gw.aggregates", encode(Key(ep="a")))
    }


def test_the_maximum_is_an_ordinary_observation() -> None:
    trial = Trial("max-temperature")
    for at, value in ((0, 20.0), (10_000, 25.0), (20_000, 22.0)):
        assert trial.say("a", value, at) == []
    (result,) = trial.say("a", 1.0, 40_000)
    assert trial.emitted.records[0][0] == "analytics.gw.observations.maxper30sec"
    assert (result.ep, result.path, result.timestamp) == ("a", "/3303/0/5700-max", T0)
    assert result.observation_id == "max-temperature"
    assert result.rep.body.content == Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=25.0)


def test_other_paths_and_endpoints_are_left_alone() -> None:
    trial = Trial("max-temperature", endpoint="a*")
    trial.say("a", 1.0, 0, path=Path(3304, 0, 5700))
    trial.say("b", 1.0, 0)
    trial.say("ab", 1.0, 0)
    results = [one for at in (60_000, 120_000) for one in trial.say("c", 0.0, at)]
    assert [one.ep for one in results] == ["ab"]


def test_a_sensor_that_fell_silent_has_its_last_window_put_out() -> None:
    trial = Trial("max-temperature")
    trial.say("a", 20.0, 0)
    trial.say("b", 30.0, 0)
    results = [one for at in range(1000, 60_000, 1000) for one in trial.say("b", 1.0, at)]
    assert [(one.ep, one.timestamp) for one in results if one.ep == "a"] == [("a", T0)]


def test_when_all_fell_silent_the_wall_clock_ends_the_windows_once() -> None:
    trial = Trial("max-temperature", idle="60s")
    trial.say("a", 20.0, 0)
    trial.say("b", 30.0, 0)
    assert trial.silent(59.0) == []
    assert sorted(one.ep for one in trial.silent(60.0)) == ["a", "b"]
    before = dict(trial.state.held)
    assert trial.silent(61.0) == []
    assert trial.state.held == before
    # What comes then goes on by the gateway's clock: a window that was put out stays as it was.
    assert trial.say("a", 99.0, 1000) == []
    assert trial.counts.late_ == 1
    trial.say("a", 1.0, 31_000)
    assert [one.timestamp for one in trial.say("a", 1.0, 71_000)] == [T0 + 30_000]


def test_the_wall_clock_is_left_out_when_told_so() -> None:
    trial = Trial("max-temperature", idle=0)
    trial.say("a", 20.0, 0)
    assert trial.silent(1e6) == []


def test_a_late_reading_is_counted_once_and_changes_nothing() -> None:
    trial = Trial("aggregate", window="30s")
    trial.say("a", 1.0, 0)
    trial.say("a", 2.0, 40_000)
    before = trial.results()
    trial.say("a", 99.0, 41_000, own=29_999)
    assert trial.counts.late_ == 1
    assert trial.results() == before


def test_a_device_whose_clock_is_ahead_closes_nobodys_windows() -> None:
    trial = Trial("max-temperature")
    trial.say("a", 20.0, 0)
    trial.say("wrong", 1.0, 0, own=2 * 86_400_000)
    assert trial.counts.ahead_ == 1
    trial.say("tolerated", 1.0, 0, own=3_600_000)
    assert trial.say("a", 25.0, 5_000) == []
    assert trial.counts.late_ == 0
    (result,) = [one for one in trial.say("a", 0.0, 45_000) if one.ep == "a"]
    assert result.rep.body.content.value == 25.0


def test_yesterdays_measurements_in_one_go_are_all_counted() -> None:
    trial = Trial("aggregate", window="1m")
    day = -86_400_000
    for minute in range(60):
        trial.say("a", float(minute), 0, own=day + 60_000 * minute)
    assert trial.counts.late_ == 0
    trial.say("b", 0.0, 60_000)
    trial.say("b", 0.0, 120_000)
    series = [one for one in trial.results() if one.ep == "a" and one.path]
    assert [one.sum for one in series] == [float(minute) for minute in range(60)]


def test_endless_new_series_are_forgotten_again() -> None:
    trial = Trial("max-temperature")
    for number in range(300):
        trial.say(f"ep-{number}", 1.0, number)
    held = len(trial.state.held)
    # By the clock of those that go on speaking.
    for at in range(0, 2 * 3_600_000 + 200_000, 20_000):
        trial.say("b", 1.0, at)
    assert held > 300
    assert len(trial.state.held) < 20
    assert sum(one.ep.startswith("ep-") for one in trial.results()) == 300


@pytest.mark.parametrize(
    ("name", "options"),
    [("aggregate", {}), ("max-temperature", {"hop": "10s"}), ("max-temperature", {"sliding": True})],
)
def test_the_state_does_not_grow_with_the_windows_that_there_were(name: str, options: dict[str, Any]) -> None:
    trial, peaks = Trial(name, **options), []
    for hour in range(4):
        peak = 0
        for second in range(0, 3600, 7):
            at = 1000 * (3600 * hour + second)
            value = notification(resource(str(TEMPERATURE), second / 7), ep=f"ep-{second % 40}", timestamp=T0 + at)
            trial.job.take(Incoming("t", 0, 0, T0 + at, None, encode(value), ()), trial.state, trial.emitted)
            if second % 70 == 0:
                peak = max(peak, sum(len(key) + len(kept) for key, kept in trial.state.held.items()))
        peaks.append(peak)
    assert len(trial.emitted.records) > 1000
    assert max(peaks[2:]) <= 1.1 * peaks[1]


def test_names_that_look_like_other_groups_are_apart() -> None:
    trial = Trial("aggregate", window="30s")
    for ep in ("a", "a/3303/0/5700", "1:a", ""):
        trial.say(ep, 1.0, 0)
    for at in (60_000, 120_000):
        trial.say("z", 0.0, at)
    of_t0 = [(one.ep, one.path) for one in trial.results() if one.start == T0 and one.ep != "z"]
    assert sorted(of_t0, key=str) == sorted(
        [(ep, path) for ep in ("a", "a/3303/0/5700", "1:a", "") for path in (None, "/3303/0/5700")], key=str
    )
    assert all(one.count == 1 for one in trial.results() if one.start == T0)


def test_hopping_sliding_and_by_endpoint_are_options() -> None:
    hopping = Trial("max-temperature", window="30s", hop="10s", function="count", to="counts")
    hopping.say("a", 1.0, 0)
    for at in (45_000, 120_000):
        hopping.say("b", 1.0, at)
    mine = [one for one in hopping.results() if one.ep == "a"]
    assert [one.timestamp - T0 for one in mine] == [-20_000, -10_000, 0]
    assert {one.path for one in mine} == {"/3303/0/5700-count"}
    assert {topic for topic, _, _, _ in hopping.emitted.records} == {"counts"}

    sliding = Trial("max-temperature", window="10s", sliding=True, function="range", grace=0)
    sliding.say("a", 1.0, 0)
    sliding.say("a", 4.0, 5_000)
    results = sliding.say("a", 0.0, 20_000)
    assert [one.rep.body.content.value for one in results] == [3.0]

    whole = Trial("max-temperature", by="endpoint")
    whole.say("a", 1.0, 0)
    (result,) = whole.say("a", 2.0, 45_000)
    assert (type(result), result.path) == (Aggregate, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": "soon"}, "no span of time"),
        ({"window": "0s"}, "at least 1 ms"),
        ({"hop": "40s"}, "cannot begin every 40000 ms"),
        ({"hop": "0s"}, "cannot begin every 0 ms: a hop is longer than 0"),
        ({"hop": "10s", "sliding": True}, "exclude each other"),
        ({"path": "temperature"}, "--path"),
        ({"function": "median"}, "--function"),
        ({"to": "a b"}, "no name of a topic"),
        ({"to": "iot.gw.observations"}, "its own results"),
        ({"windows": "30s"}, "has no option 'windows'; it has"),
    ],
)
def test_options_that_are_wrong_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(JobConfigError, match=words):
        Trial("max-temperature", **options)


def test_state_of_other_windows_is_refused() -> None:
    trial = Trial("max-temperature")
    trial.say("a", 1.0, 0)
    other = Trial("max-temperature", window="1m")
    other.state = trial.state
    with pytest.raises(JobConfigError, match="--group"):
        other.say("a", 1.0, 0)


@pytest.mark.parametrize("name", ["aggregate", "max-temperature"])
def test_the_sample_of_a_job_holds_every_option_with_its_default(name: str) -> None:
    kind = JOBS[name]
    written = tomllib.loads(kind.sample)
    commented = {
        line[2:].partition(" = ")[0] for line in kind.sample.splitlines() if line.startswith("# ") and " = " in line
    }
    assert set(written) | commented == set(kind.options.model_fields)
    if all(field.is_required() is False for field in kind.options.model_fields.values()):
        assert parse_options(kind, written) == parse_options(kind, {})


@pytest.mark.parametrize(("before", "after"), [("10s", "10m"), ("10m", "10s")])
def test_a_window_that_is_open_when_the_grace_is_changed_comes_out(before: str, after: str) -> None:
    trial = Trial("max-temperature", grace=before)
    assert trial.say("silent", 1.0, 0) == []
    trial.again(grace=after)
    assert [one.ep for one in trial.say("other", 2.0, 1_900_000)] == ["silent"]


@pytest.mark.parametrize("far", [2 * 86_400_000, 2**53 - T0, 2**62])
def test_a_gateways_time_far_ahead_of_kafkas_stops_no_clock(far: int) -> None:
    trial = Trial("max-temperature")
    trial.say("wrong", 1.0, far, kafka=0)
    trial.say("a", 20.0, 0)
    results = [one for at in range(1000, 60_000, 1000) for one in trial.say("b", 1.0, at)]
    assert {(one.ep, one.timestamp) for one in results} >= {("a", T0), ("wrong", T0)}


def test_a_group_that_cannot_be_read_costs_the_others_no_window() -> None:
    trial = Trial("max-temperature")
    for ep in ("a", "broken", "c"):
        trial.say(ep, 1.0, 0)
    (broken,) = [key for key in trial.state.held if key.startswith(b"g6:broken")]
    trial.state.held[broken] = b"?"
    assert sorted(one.ep for one in trial.silent(90.0)) == ["a", "c"]
    assert trial.counts.skipped_ == 1


def test_a_gateway_whose_clock_was_ahead_for_a_while_holds_up_nothing() -> None:
    trial, ahead = Trial("max-temperature"), 23 * 3_600_000
    trial.say("before", 5.0, 0)
    # Kafka has its time from the gateway.
    trial.say("a", 20.0, ahead)
    trial.say("silent", 20.0, ahead)
    results = [one for at in range(1000, 240_000, 1000) for one in trial.say("a", at / 1000, at)]
    found = [(one.ep, one.timestamp - T0, one.rep.body.content.value) for one in results]
    assert trial.counts.put_back_ == 1
    # What was open is put out, with the time that it had then.
    assert {("before", 0, 5.0), ("a", ahead, 20.0), ("silent", ahead, 20.0)} <= {*found} | {
        (one.ep, one.timestamp - T0, one.rep.body.content.value) for one in trial.results()
    }
    # From the minute on, all windows are as they were; none is put out twice.
    assert [one for one in found if one[1] in (90_000, 120_000, 150_000)] == [
        ("a", 90_000, 119.0),
        ("a", 120_000, 149.0),
        ("a", 150_000, 179.0),
    ]
    windows = [(one.ep, one.path, one.timestamp) for one in trial.results()]
    assert len(set(windows)) == len(windows)
    trial.say("silent", 7.0, 241_000)
    late = [one for at in range(242_000, 300_000, 1000) for one in trial.say("a", 1.0, at)]
    assert ("silent", 240_000, 7.0) in [(one.ep, one.timestamp - T0, one.rep.body.content.value) for one in late]


def test_a_devices_own_times_are_gone_on_with_after_the_gateways_clock_was_put_back() -> None:
    trial, ahead = Trial("max-temperature"), 23 * 3_600_000
    trial.say("a", 20.0, ahead, own=0)
    results = [one for at in range(1000, 180_000, 1000) for one in trial.say("a", 1.0, at, own=at)]
    assert trial.counts.put_back_ == 1 and trial.counts.late_ == 0
    assert [(one.timestamp - T0, one.rep.body.content.value) for one in results][:3] == [
        (0, 20.0),
        (30_000, 1.0),
        (60_000, 1.0),
    ]
    assert trial.say("b", 1.0, 180_000) == []
    silent = [one for at in range(181_000, 260_000, 1000) for one in trial.say("b", 1.0, at)]
    assert "a" in {one.ep for one in silent}


def test_a_series_that_was_silent_before_the_clock_was_put_back_is_forgotten_all_the_same() -> None:
    trial = Trial("max-temperature", idle="0s")
    trial.say("a", 1.0, 0)
    for at in range(0, 120_000, 10_000):
        trial.say("b", 1.0, at)
    # The windows of the first are put out, and it is to be forgotten in an hour; that is not over for any clock.
    trial.say("b", 1.0, 1_800_000)
    for at in range(120_000, 240_000, 10_000):
        trial.say("b", 1.0, at)
    assert trial.counts.put_back_ == 1
    group = b"g1:a/3303/0/5700"
    assert group in trial.state.held
    for at in range(240_000, 3_700_000, 60_000):
        trial.say("b", 1.0, at)
    assert group not in trial.state.held
