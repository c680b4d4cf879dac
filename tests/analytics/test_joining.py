"""The job join without Kafka: series and endpoints, the user's functions, what waits, what is too much."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path as FilePath
from typing import Any

import pytest

from analytics.job import BadRecord, Incoming, JobConfigError, Surroundings, parse_options
from analytics.jobs.join import KIND
from analytics.joining import MOST_GROUPS, Joining
from analytics.user_code import UserCodeError
from schemas.avro.records import Key, Notification, ReadBody
from schemas.avro.serde import decode, encode
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Instance, Resource
from schemas.lwm2m.path import Path
from tests.analytics.dict_state import Counts, DictState, Emitted
from tests.sink_samples import notification, resource

EXAMPLES = FilePath(__file__).parents[2] / "docs" / "examples"
T0 = 1_790_000_000_000
DIFFERENCE = "def on_join(a, b):\n    return a.value - b.value if b else None\n"


class Trial:
    """A join of the temperature and the humidity of each endpoint, of one partition."""

    def __init__(self, folder: FilePath, code: str = DIFFERENCE, **options: Any) -> None:
        file = folder / "code.py"
        file.write_text(code)
        given = {"left": "/3303/0/5700", "right": "/3304/0/5700", "grace": "2s", "code": str(file), **options}
        self.options = parse_options(KIND, {name: value for name, value in given.items() if value is not None})
        self.counts, self.state, self.emitted, self.shown = Counts(), DictState(), Emitted(), list[Any]()
        around = Surroundings(gateway="gw", group="g", metrics=self.counts, show=self.shown.append)
        self.job = KIND.make(self.options, around)

    def take(self, record: Notification, topic: str = "iot.gw.observations") -> list[Any]:
        before = len(self.emitted.records)
        key = encode(Key(ep=record.ep))
        self.job.take(Incoming(topic, 0, 0, record.timestamp, key, encode(record), ()), self.state, self.emitted)
        return self.results()[before:]

    def say(self, path: str, value: float, at: int, ep: str = "ep", own: int | None = None) -> list[Any]:
        """A reading ``at`` ms after T0; what came out by it, as (path, ms after T0, value)."""
        content = resource(path, value, timestamp=None if own is None else T0 + own)
        return self.take(notification(content, ep=ep, timestamp=T0 + at))

    def silent(self, seconds: float) -> list[Any]:
        before = len(self.emitted.records)
        self.job.idle(seconds, self.state, self.emitted)
        return self.results()[before:]

    def results(self) -> list[Any]:
        return [told(decode(value)) for _, _, value, _ in self.emitted.records]


def told(record: object) -> tuple[str, int, object]:
    assert isinstance(record, Notification)
    assert isinstance(record.rep.body, ReadBody)
    assert isinstance(record.rep.body.content, Resource)
    assert str(record.rep.body.content.path) == record.path
    return record.path, record.timestamp - T0, record.rep.body.content.value


def test_a_pair_becomes_an_observation(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, **{"as": "/3303/100/5700"})
    assert trial.say("/3304/0/5700", 40.0, 0) == []
    assert trial.say("/3303/0/5700", 21.5, 1_000) == []
    assert trial.say("/3303/0/5700", 22.0, 4_000) == [("/3303/100/5700", 1_000, -18.5)]
    topic, key, value, timestamp = trial.emitted.records[0]
    assert (topic, key, timestamp) == ("analytics.gw.joined", encode(Key(ep="ep")), -1)
    record = decode(value)
    assert record == trial.shown[0]
    assert isinstance(record, Notification)
    assert (record.ep, record.server_id, record.observation_id, record.ticket) == ("ep", "gw1", "join", "g")


def test_endpoints_and_instances_are_joined_each_by_itself(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, left="/3303/*/5700", right="/3304/*/5700", mode="interval")
    assert trial.say("/3303/0/5700", 1.0, 0) == []
    assert trial.say("/3304/1/5700", 2.0, 0) == []
    assert trial.say("/3304/0/5700", 3.0, 0, ep="other") == []
    assert trial.say("/3304/0/5701", 3.0, 0) == []
    assert trial.say("/3303/1/5700", 4.0, 100) == [("/3300/100/5700", 100, 2.0)]


def test_one_record_may_hold_all_series(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, left="/3303/0/5601", right="/3303/0/5602", mode="interval")
    both = Instance(path=Path(3303, 0), resources=(resource("/3303/0/5601", 1.5), resource("/3303/0/5602", 4.0)))
    assert trial.take(notification(both, timestamp=T0)) == [("/3300/100/5700", 0, -2.5)]


def test_three_series(tmp_path: FilePath) -> None:
    code = "def on_join(a, b, c):\n    return a.value + b.value + (c.value if c else 0.0)\n"
    series = ["/3303/0/5700", "/3304/0/5700", "/3315/0/5700"]
    trial = Trial(tmp_path, code, left=None, right=None, series=series, missing="left", idle="5s")
    trial.say("/3304/0/5700", 20.0, 0)
    trial.say("/3303/0/5700", 1.0, 10)
    trial.say("/3315/0/5700", 300.0, 5)
    assert trial.silent(60) == [("/3300/100/5700", 10, 321.0)]


def test_what_waits_comes_out_when_nothing_is_heard_any_more(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, idle="30s")
    trial.say("/3304/0/5700", 1.0, 0)
    trial.say("/3303/0/5700", 5.0, 500)
    assert trial.silent(29) == []
    assert trial.silent(45) == [("/3300/100/5700", 500, 4.0)]
    assert trial.silent(90) == []
    trial.say("/3303/0/5700", 6.0, 400)
    assert trial.counts.late_ == 1
    trial.say("/3303/0/5700", 7.0, 600)
    # Another endpoint's record moves the clock: the first one is silent by it.
    assert trial.say("/3303/0/5700", 0.0, 90_000, ep="other") == [("/3300/100/5700", 600, 6.0)]


def test_idle_of_zero_waits_for_ever(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, idle="0")
    trial.say("/3304/0/5700", 1.0, 0)
    trial.say("/3303/0/5700", 5.0, 500)
    assert trial.silent(1e6) == []
    assert trial.say("/3303/0/5700", 6.0, 1_000_000) == [("/3300/100/5700", 500, 4.0)]


def test_late_and_wrong_clocks_are_counted(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, mode="interval")
    trial.say("/3303/0/5700", 1.0, 10_000)
    assert trial.say("/3304/0/5700", 1.0, 7_999) == []
    assert trial.counts.late_ == 1
    # A day ahead of the gateway: its time is the gateway's, and nobody else becomes late by it.
    assert trial.say("/3304/0/5700", 3.0, 10_100, own=10**9) == [("/3300/100/5700", 10_100, -2.0)]
    assert trial.counts.ahead_ == 1


def test_a_device_whose_clock_is_hours_ahead_makes_nobody_late(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, mode="interval")
    trial.say("/3304/0/5700", 40.0, 0, own=23 * 3_600_000)
    assert trial.counts.ahead_ == 1
    assert trial.say("/3303/0/5700", 21.0, 100) == [("/3300/100/5700", 100, -19.0)]
    # By less than what is let through, it makes others late until the clock is there, and no longer.
    trial.say("/3304/0/5700", 40.0, 200, own=500_000)
    trial.say("/3303/0/5700", 21.0, 10_000)
    assert (trial.counts.ahead_, trial.counts.late_) == (1, 1)
    assert trial.say("/3303/0/5700", 22.0, 500_000) == [("/3300/100/5700", 500_000, -18.0)]


@pytest.mark.parametrize("mode", ["as-of", "interval"])
def test_a_gateway_whose_clock_was_ahead_for_a_while_makes_nobody_late_for_ever(tmp_path: FilePath, mode: str) -> None:
    trial, ahead = Trial(tmp_path, mode=mode), 23 * 3_600_000
    trial.say("/3304/0/5700", 40.0, ahead)
    out = trial.say("/3303/0/5700", 21.0, ahead + 1)
    for at in range(0, 90_000, 1000):
        out += trial.say("/3304/0/5700", 40.0, at)
        out += trial.say("/3303/0/5700", at / 1000, at)
    # What waited is put out with the time that it had.
    assert ("/3300/100/5700", ahead + 1, -19.0) in out
    assert {("/3300/100/5700", at * 1000, at - 40.0) for at in range(70, 85)} <= set(out)
    assert trial.counts.put_back_ >= 1


def test_what_waits_comes_out_also_where_the_gateways_clock_was_ahead_when_it_came(tmp_path: FilePath) -> None:
    trial, ahead = Trial(tmp_path, idle="30s"), 3_600_000
    trial.say("/3304/0/5700", 40.0, ahead)
    trial.say("/3303/0/5700", 21.0, ahead + 1)
    # Of others only: this join hears nothing any more.
    out = [one for at in range(0, 130_000, 1000) for one in trial.say("/3304/0/5700", 1.0, at, ep="other")]
    assert trial.counts.put_back_ == 1
    assert out == [("/3300/100/5700", ahead + 1, -19.0)]


def test_what_ingest_dates_ahead_is_late_among_its_like_and_begins_no_join_anew(tmp_path: FilePath) -> None:
    code = f"{DIFFERENCE}def ingest(r):\n    return r._replace(time=r.time + 10_800_000)\n"
    trial = Trial(tmp_path, code, mode="interval")
    trial.say("/3303/0/5700", 5.0, 10_000)
    assert trial.say("/3304/0/5700", 1.0, 7_999) == []
    assert (trial.counts.late_, trial.counts.put_back_) == (1, 0)
    assert trial.say("/3304/0/5700", 2.0, 10_000) == [("/3300/100/5700", 10_810_000, 3.0)]


def test_endless_instances_do_not_fill_the_state(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, left="/3303/*/5700", right="/3304/*/5700", mode="interval")
    for instance in range(MOST_GROUPS + 20):
        trial.say(f"/3303/{instance}/5700", 1.0, 0)
    assert len(trial.state.held) == MOST_GROUPS + 1
    assert trial.counts.crowded_ == 20
    assert trial.say("/3304/0/5700", 1.0, 0) == [("/3300/100/5700", 0, 0.0)]


def test_endpoints_meet_in_a_topic_keyed_anew(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, left="in:side:/3303/0/5700", right="out:/3303/0/5700", mode="interval", endpoint="house")
    topics = Topics("gw")
    reads = KIND.reads(trial.options, topics)
    assert reads[0] == topics.observations and set(reads[1:]) < set(KIND.writes(trial.options, topics))
    for ep, degrees in (("in:side", 20.0), ("out", 5.0), ("else", 1.0)):
        key = encode(Key(ep=ep))
        record = encode(notification(resource("/3303/0/5700", degrees), ep=ep, timestamp=T0))
        trial.job.take(Incoming(topics.observations, 0, 0, T0, key, record, ()), DictState(), trial.emitted)
    keyed, trial.emitted.records = trial.emitted.records, []
    assert [topic for topic, *_ in keyed] == [reads[1], reads[1]]
    assert len({key for _, key, _, _ in keyed}) == 1
    # Dated when they were put out: Kafka's retention would delete old ones unread.
    assert {timestamp for *_, timestamp in keyed} == {-1}
    assert [json.loads(value)[-1] for _, _, value, _ in keyed] == [T0, T0]
    for topic, group, reading, _ in keyed:
        trial.job.take(Incoming(topic, 0, 0, T0 + 10**12, group, reading, ()), trial.state, trial.emitted)
    [(output, whose, result, _)] = trial.emitted.records
    assert (output, whose) == ("analytics.gw.joined", encode(Key(ep="house")))
    assert told(decode(result)) == ("/3300/100/5700", 0, 15.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"right": None}, "--left and --right"),
        ({"series": ["/1", "/2"]}, "not both"),
        ({"left": "/x"}, "a series is"),
        ({"left": "a:/3303/0/5700"}, "in every series"),
        ({"left": "/3303/*/5700"}, "as many levels"),
        ({"tolerance": "soon"}, "no span of time"),
        ({"before": "1s"}, "--mode interval"),
        ({"mode": "outer"}, "as-of"),
        ({"as": "/3303"}, "no resource"),
        ({"limit": "0"}, "--limit"),
    ],
)
def test_wrong_options_are_told(tmp_path: FilePath, options: dict[str, Any], said: str) -> None:
    with pytest.raises(JobConfigError, match=said):
        Trial(tmp_path, **options)


def test_code_that_is_not_there_is_told(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path)
    (tmp_path / "code.py").unlink()
    with pytest.raises(JobConfigError, match=r"code\.py cannot be read: No such file"):
        KIND.make(trial.options, Surroundings(gateway="gw", group="g", metrics=trial.counts))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\n", "has no function on_join"),
        ("def on_join(a, b:\n    return 1\n", "line 1: "),
        ("def ingest(r):\n    return r\n\ndef on_join(a, b):\n  return (\n", "line 5: "),
        ("import nowhere_to_be_found\n", "line 1: ModuleNotFoundError"),
        ("\n\nraise SystemExit(3)\n", "line 3: SystemExit"),
        ("on_join = 3\n", "no function"),
        ("def on_join(a):\n    return 1\n", "must take 2 arguments"),
        ("def on_join(a, b):\n    return 1\ndef ingest():\n    return 1\n", "must take 1 arguments"),
        ("async def on_join(a, b):\n    return 1\n", "neither async"),
        ("def on_join(a, b):\n    yield 1\n", "neither async"),
        ("def on_join(a, b):\n    return 1\0\n", "code.py"),
    ],
)
def test_code_that_cannot_be_used_is_told_with_its_line(tmp_path: FilePath, code: str, said: str) -> None:
    with pytest.raises(JobConfigError, match=said) as failure:
        Trial(tmp_path, code)
    assert "code.py" in str(failure.value)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("return None", []),
        ("return 3", [("/3303/100/5700", 3, "INTEGER")]),
        ("return 2.5", [("/3303/100/5700", 2.5, "FLOAT")]),
        ("return True", [("/3303/100/5700", True, "BOOLEAN")]),
        ("return 'warm'", [("/3303/100/5700", "warm", "STRING")]),
        ("return b'\\0'", [("/3303/100/5700", b"\0", "OPAQUE")]),
        ("return [1, None, 2.0]", [("/3303/100/5700", 1, "INTEGER"), ("/3303/100/5700", 2.0, "FLOAT")]),
        ("return {5701: 'C', '/1/0/1': 9}", [("/3303/100/5701", "C", "STRING"), ("/1/0/1", 9, "INTEGER")]),
        ("return {'5700': None}", []),
        ("return a.ep + a.path + str(b.time - a.time)", [("/3303/100/5700", "ep/3303/0/570010", "STRING")]),
    ],
)
def test_what_on_join_gives_is_observed_by_its_type(tmp_path: FilePath, body: str, wanted: list[Any]) -> None:
    trial = Trial(tmp_path, f"def on_join(a, b):\n    {body}\n", mode="interval", **{"as": "/3303/100/5700"})
    trial.say("/3303/0/5700", 1.0, 0)
    trial.say("/3304/0/5700", 2.0, 10)
    contents = [record.rep.body.content for record in trial.shown]
    assert [(str(content.path), content.value, content.type.value) for content in contents] == wanted


#: Numbers that are not Python's own, as numpy's are: they say that they are numbers, and what they are.
NUMBERS = """
import numbers
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

class Whole:
    def __index__(self): return 7
    __int__ = __index__
    def __float__(self): return 7.0
numbers.Integral.register(Whole)

class Double(float): pass
class Level(IntEnum): HIGH = 3
class Truth:
    def __float__(self): return 1.0
    def __bool__(self): return True
"""


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        ("Whole()", (7, "INTEGER")),
        ("Level.HIGH", (3, "INTEGER")),
        ("Double(2.5)", (2.5, "FLOAT")),
        ("Fraction(5, 2)", (2.5, "FLOAT")),
        ("Decimal('2.5')", (2.5, "FLOAT")),
    ],
)
def test_numbers_of_other_libraries_are_numbers(tmp_path: FilePath, number: str, wanted: tuple[Any, str]) -> None:
    code = f"{NUMBERS}\ndef on_join(a, b):\n    return {number}\n"
    trial = Trial(tmp_path, code, mode="interval")
    trial.say("/3303/0/5700", 1.0, 0)
    trial.say("/3304/0/5700", 2.0, 10)
    (content,) = [record.rep.body.content for record in trial.shown]
    assert (content.value, type(content.value), content.type.value) == (wanted[0], type(wanted[0]), wanted[1])


@pytest.mark.parametrize(
    "given", ["Double(2.5)", "r._replace(value=Fraction(5, 2))", "r._replace(value=2.5, time=Long())"]
)
def test_ingest_may_give_numbers_of_other_libraries(tmp_path: FilePath, given: str) -> None:
    code = f"{NUMBERS}\ndef on_join(a, b):\n    return a.value\ndef ingest(r):\n"
    code += f"    class Long(Whole):\n        def __int__(self): return r.time\n    return {given}\n"
    trial = Trial(tmp_path, code, mode="interval")
    trial.say("/3303/0/5700", 1.0, 0)
    assert [value for _, _, value in trial.say("/3304/0/5700", 0.0, 0)] == [2.5]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("Truth()", "Truth .*, of no type"),
        ("Double('nan')", "nan, which is no finite number"),
        ("Decimal('sNaN')", "no finite number"),
        ("Fraction(10) ** 400", "inf, which is no finite number"),
        ("[[1.0]]", "list within a list"),
    ],
)
def test_what_is_no_finite_number_is_told(tmp_path: FilePath, number: str, said: str) -> None:
    trial = Trial(tmp_path, f"{NUMBERS}\ndef on_join(a, b):\n    return {number}\n", mode="interval")
    trial.say("/3303/0/5700", 1.0, 0)
    with pytest.raises(UserCodeError, match=said):
        trial.say("/3304/0/5700", 2.0, 10)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 1 / 0", "line 3: ZeroDivisionError"),
        ("raise SystemExit", "line 3: SystemExit"),
        ("return on_join(a, b)", "RecursionError"),
        ("return object()", "of no type"),
        ("return float('nan')", "no finite number"),
        ("return 2 ** 63", "beyond 64 bits"),
        ("return '\\ud800'", "half a character"),
        ("return {'x': 1}", "by no path"),
        ("return {'/3303/0': 1}", "no resource's path"),
        ("return [[1]]", "list within a list"),
        ("return [1] * 101", "are the most"),
    ],
)
def test_what_on_join_fails_at_costs_the_pair_alone(tmp_path: FilePath, body: str, said: str) -> None:
    trial = Trial(tmp_path, f"\ndef on_join(a, b):\n    {body}\n", mode="interval")
    trial.say("/3303/0/5700", 1.0, 0)
    with pytest.raises(UserCodeError, match=said):
        trial.say("/3304/0/5700", 2.0, 10)
    assert trial.results() == []
    # What was buffered still is: the next pair is tried as well.
    with pytest.raises(UserCodeError, match=said):
        trial.say("/3303/0/5700", 1.0, 20)


def test_a_failure_does_not_stop_the_other_pairs(tmp_path: FilePath) -> None:
    code = "def on_join(a, b):\n    assert a.value != 2\n    return a.value\n"
    trial = Trial(tmp_path, code, mode="interval")
    for value in (1.0, 2.0, 3.0):
        trial.say("/3303/0/5700", value, int(value))
    with pytest.raises(UserCodeError, match="line 2: AssertionError"):
        trial.say("/3304/0/5700", 0.0, 5)
    assert [value for _, _, value in trial.results()] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("return None", []),
        ("return r", [1.0]),
        ("return r.value * 10", [10.0]),
        ("return [r, None, r._replace(value=7)]", [1.0, 7]),
        ("return r._replace(path='3303/0/5700')", [1.0]),
        ("return r._replace(path='/1/0/1')", []),
    ],
)
def test_ingest_takes_changes_and_leaves_out(tmp_path: FilePath, body: str, wanted: list[float]) -> None:
    code = "def on_join(a, b):\n    return a.value\ndef ingest(r):\n    if r.path != '/3303/0/5700': return r\n"
    code += f"    {body}\n"
    trial = Trial(tmp_path, code, mode="interval")
    trial.say("/3303/0/5700", 1.0, 0)
    assert [value for _, _, value in trial.say("/3304/0/5700", 0.0, 0)] == wanted


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return {}", "None, a number, a text or readings"),
        ("return [1] * 101", "are the most"),
        ("return r._replace(path='x')", "no path"),
        ("return r._replace(time='now')", "without an endpoint or a time"),
        ("return r._replace(value=[])", "is expected"),
        ("return r._replace(server_id=None)", "of no server"),
        ("return r._replace(ep='other')", "gave a reading of 'other'"),
        ("return float('inf')", "no finite number"),
    ],
)
def test_what_ingest_fails_at_is_told(tmp_path: FilePath, body: str, said: str) -> None:
    trial = Trial(tmp_path, f"def on_join(a, b):\n    return 1\ndef ingest(r):\n    {body}\n")
    with pytest.raises(UserCodeError, match=said):
        trial.say("/3303/0/5700", 1.0, 0)


def test_a_name_that_no_record_holds_costs_its_pair_and_no_other(tmp_path: FilePath) -> None:
    both = {"left": "in:/3303/0/5700", "right": "out:/3303/0/5700", "mode": "interval"}
    trial = Trial(tmp_path, **both)
    keyed = KIND.reads(trial.options, Topics("gw"))[1]

    def say(number: int, ep: str, value: float, server_id: str) -> None:
        said = json.dumps(["g", number, "*/", [ep, "/3303/0/5700", value, T0, server_id], T0]).encode()
        trial.job.take(Incoming(keyed, 0, 0, T0, b"*/", said, ()), trial.state, trial.emitted)

    for value, server_id in ((1.0, "gw"), (2.0, "\ud800"), (3.0, "gw")):
        say(0, "in", value, server_id)
    with pytest.raises(UserCodeError, match="is no record"):
        say(1, "out", 0.0, "gw")
    assert [value for _, _, value in trial.results()] == [1.0, 3.0]


def test_ingest_is_done_before_the_state_is_touched(tmp_path: FilePath) -> None:
    code = f"{DIFFERENCE}def ingest(r):\n    assert len(STATE) == 0\n    return r\n"
    trial = Trial(tmp_path, code)
    assert isinstance(trial.job, Joining) and trial.job._code.ingest is not None
    trial.job._code.ingest.__globals__["STATE"] = trial.state.held
    trial.say("/3303/0/5700", 1.0, 0)
    assert trial.state.held


def test_state_of_another_join_is_refused(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path)
    trial.say("/3303/0/5700", 1.0, 0)
    other = Trial(tmp_path, right="/3305/0/5700")
    other.state = trial.state
    with pytest.raises(JobConfigError, match="--group"):
        other.say("/3303/0/5700", 1.0, 0)


def test_a_foreign_record_in_the_rekeyed_topic_is_told(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, left="a:/3303/0/5700", right="b:/3303/0/5700")
    topic = KIND.reads(trial.options, Topics("gw"))[1]
    good = ["g", 0, "*/", ["a", "/3303/0/5700", 1.0, T0, "gw"], T0]
    trial.job.take(Incoming(topic, 0, 0, 0, None, json.dumps(good).encode(), ()), trial.state, trial.emitted)
    others = (
        ["g", 9, "*/", [], T0],
        [*good[:4], "now"],
        good[:4],
        ["g", 0, "*/", [1, 2, 3, "x", 5], T0],
        ["g", 0.5, *good[2:]],
        ["g", 0, "*/", ["a", "/3303/0/5700", 1.0, 2**63, "gw"], T0],
        ["g", 0, "*/", ["a", "/3303/0/5700", 1.0, T0, None], T0],
    )
    nested = b"[" * 100_000
    for value in (None, b"", b"\xff", b"{}", nested, *(json.dumps(one).encode() for one in others)):
        with pytest.raises(BadRecord, match="no reading of a join"):
            trial.job.take(Incoming(topic, 0, 0, 0, None, value, ()), trial.state, trial.emitted)


def test_groups_that_join_the_same_endpoints_do_not_take_each_others_readings(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, left="a:/3303/0/5700", right="b:/3303/0/5700", mode="interval")
    other = KIND.make(trial.options, Surroundings(gateway="gw", group="other", metrics=Counts()))
    topic, meets = KIND.reads(trial.options, Topics("gw"))
    for ep in ("a", "b"):
        said = encode(notification(resource("/3303/0/5700", 1.0), ep=ep, timestamp=T0))
        for job in (trial.job, other):
            job.take(Incoming(topic, 0, 0, T0, None, said, ()), trial.state, trial.emitted)
    readings = [value for where, _, value, _ in trial.emitted.records if where == meets]
    trial.emitted.records.clear()
    for value in readings:
        trial.job.take(Incoming(meets, 0, 0, T0, None, value, ()), trial.state, trial.emitted)
    assert (len(readings), trial.results()) == (4, [("/3300/100/5700", 0, 0.0)])


def test_the_sample_has_every_option_and_its_default() -> None:
    given = tomllib.loads(KIND.sample)
    options = parse_options(KIND, given)
    assert options == parse_options(KIND, {"code": given["code"], "series": given["series"]})
    known = {field.alias or name for name, field in KIND.options.model_fields.items()}
    assert {name for name in known if f"\n{name} = " in KIND.sample or f"# {name} = " in KIND.sample} >= known - {
        "code",
        "left",
        "right",
    }


def test_the_example_makes_dew_points(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, (EXAMPLES / "dew_point.py").read_text(), **{"as": "/3303/100/5700"})
    trial.say("/3304/0/5700", 60.0, 0)
    trial.say("/3303/0/5700", 25.0, 100)
    trial.say("/3304/0/5700", 140.0, 200)  # no air has that
    trial.say("/3303/0/5700", 850.0, 300)
    trial.say("/3303/0/5700", 20.0, 400)
    # The table of psychrometry: 25 °C at 60 % is 16.7 °C, 20 °C at 60 % is 12.0 °C.
    assert trial.silent(90) == [("/3303/100/5700", 100, 16.69), ("/3303/100/5700", 400, 12.0)]


def test_the_page_shows_the_example_as_it_is() -> None:
    example = (EXAMPLES / "dew_point.py").read_text()
    assert example[example.index("from math") :] in (EXAMPLES.parent / "analytics.md").read_text()
