"""Conditions, hysteresis, `for` and the state machine of alerts, reading by reading."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.alerts import (
    REPEAT_MS,
    UNKNOWN,
    AlertMemory,
    Change,
    Comparison,
    Event,
    Measure,
    Per,
    Phase,
    Rule,
    alert_id,
    given_up,
    remembered,
    step,
)

FIRES, RESOLVES = Change.FIRES, Change.RESOLVES
HOT = Rule(name="hot", comparison=Comparison.GREATER, threshold=30.0)


def run(rule: Rule, readings: Iterable[tuple[int, float]], memory: AlertMemory = UNKNOWN) -> list[Event]:
    """The events of (time in ms, value), the z-score being the value itself."""
    events = []
    for timestamp, value in readings:
        memory, event = step(rule, memory, timestamp, value, value)
        if event is not None:
            events.append(event)
    return events


def changes(rule: Rule, readings: Iterable[tuple[int, float]]) -> list[tuple[Change, int]]:
    return [(event.change, event.timestamp) for event in run(rule, readings)]


def rule(**fields: Any) -> Rule:
    given: dict[str, Any] = {"name": "r", "comparison": Comparison.GREATER, "threshold": 30.0} | fields
    return Rule(**given)


@pytest.mark.parametrize(
    ("sign", "holds"),
    [
        (">", [False, False, True]),
        (">=", [False, True, True]),
        ("<", [True, False, False]),
        ("<=", [True, True, False]),
        ("==", [False, True, False]),
        ("!=", [True, False, True]),
    ],
)
def test_a_value_is_compared_with_the_threshold(sign: str, holds: list[bool]) -> None:
    compared = rule(comparison=Comparison(sign))
    assert [bool(run(compared, [(0, value)])) for value in (29.0, 30.0, 31.0)] == holds


def test_an_alert_fires_once_and_is_resolved_once() -> None:
    events = run(HOT, [(0, 20.0), (1, 31.0), (2, 40.0), (3, 30.0), (4, 20.0), (5, 31.0)])
    assert events == [Event(FIRES, 1, 1, 31.0), Event(RESOLVES, 1, 3, 30.0), Event(FIRES, 5, 5, 31.0)]


def test_between_threshold_and_clear_level_it_goes_on_firing() -> None:
    readings = [(0, 29.0), (1, 31.0), (2, 29.0), (3, 31.0), (4, 28.1), (5, 28.0), (6, 29.0), (7, 31.0)]
    assert changes(rule(clear=28.0), readings) == [(FIRES, 1), (RESOLVES, 5), (FIRES, 7)]
    cold = rule(comparison=Comparison.LESS_EQUAL, threshold=2.0, clear=4.0)
    assert changes(cold, [(0, 2.0), (1, 3.0), (2, 4.0), (3, 3.0), (4, 2.0)]) == [(FIRES, 0), (RESOLVES, 2), (FIRES, 4)]


def test_a_clear_level_at_the_threshold_resolves_only_where_the_condition_does_not_hold() -> None:
    assert changes(rule(comparison=Comparison.GREATER_EQUAL, clear=30.0), [(0, 30.0), (1, 30.0)]) == [(FIRES, 0)]


def test_it_fires_when_the_condition_has_held_for_long_enough() -> None:
    slow = rule(for_ms=60_000)
    readings = [(0, 31.0), (30_000, 31.0), (59_999, 31.0), (60_000, 31.0), (70_000, 1.0)]
    assert run(slow, readings) == [Event(FIRES, 0, 60_000, 31.0), Event(RESOLVES, 0, 70_000, 1.0)]


def test_one_good_reading_starts_the_time_anew() -> None:
    readings = [(0, 31.0), (50_000, 31.0), (55_000, 30.0), (60_000, 31.0), (119_999, 31.0), (120_000, 31.0)]
    assert run(rule(for_ms=60_000), readings) == [Event(FIRES, 60_000, 120_000, 31.0)]


def test_pending_knows_no_clear_level() -> None:
    readings = [(0, 31.0), (30_000, 29.0), (60_000, 31.0)]
    assert run(rule(for_ms=60_000, clear=28.0), readings) == []


def test_the_rate_is_per_second_or_minute_and_has_a_sign() -> None:
    rising = rule(measure=Measure.RATE, threshold=5.0, per=Per.MINUTE)
    readings = [(0, 20.0), (30_000, 22.0), (60_000, 25.0), (90_000, 20.0)]
    assert run(rising, readings) == [Event(FIRES, 60_000, 60_000, 6.0), Event(RESOLVES, 60_000, 90_000, -10.0)]
    either = rule(measure=Measure.RATE_SIZE, threshold=0.1, per=Per.SECOND)
    assert [event.measured for event in run(either, readings)] == [pytest.approx(1 / 6)]


def test_the_first_reading_and_one_of_the_same_moment_have_no_rate() -> None:
    fast = rule(measure=Measure.RATE, threshold=0.0)
    assert run(fast, [(0, 1.0), (0, 100.0), (1_000, 100.0)]) == []
    assert run(fast, [(0, 1.0), (0, 100.0), (1_000, 101.0)]) == [Event(FIRES, 1_000, 1_000, 1.0)]


def test_an_infinite_reading_has_no_rate_before_or_after_it() -> None:
    assert run(rule(measure=Measure.RATE_SIZE, threshold=5.0), [(0, 1.0), (1_000, math.inf), (2_000, 2.0)]) == []


def test_z_scores_are_compared_with_and_without_their_sign() -> None:
    assert changes(rule(measure=Measure.Z_SCORE, threshold=3.0), [(0, -5.0), (1, 4.0)]) == [(FIRES, 1)]
    assert changes(rule(measure=Measure.Z_SIZE, threshold=3.0), [(0, -5.0), (1, -2.0)]) == [(FIRES, 0), (RESOLVES, 1)]
    assert changes(rule(measure=Measure.Z_SIZE, threshold=3.0), [(0, -math.inf)]) == [(FIRES, 0)]


def test_late_readings_do_not_make_it_flap() -> None:
    readings = [(10, 31.0), (5, 1.0), (9, 99.0), (11, 32.0), (10, 1.0), (20, 1.0), (12, 99.0)]
    assert changes(HOT, readings) == [(FIRES, 10), (RESOLVES, 20)]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from([10.0, 28.5, 31.0])), max_size=40),
    st.sampled_from([None, 28.0]),
    st.sampled_from([0, 3, 10]),
)
def test_late_readings_are_as_if_they_had_not_come(
    readings: list[tuple[int, float]], clear: float | None, for_ms: int
) -> None:
    in_time: list[tuple[int, float]] = []
    for timestamp, value in readings:
        if not in_time or timestamp >= in_time[-1][0]:
            in_time.append((timestamp, value))
    some = rule(clear=clear, for_ms=for_ms)
    events = run(some, readings)
    assert events == run(some, in_time)
    assert all(one.change is not next_one.change for one, next_one in pairwise(events))
    assert not events or events[0].change is FIRES
    assert all(event.timestamp >= event.since for event in events)
    assert all(event.timestamp - event.since >= for_ms for event in events if event.change is FIRES)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats()), max_size=30), st.sampled_from(list(Measure)))
def test_what_is_remembered_survives_json_between_any_two_readings(
    readings: list[tuple[int, float]], measure: Measure
) -> None:
    some, memory, events = rule(measure=measure, for_ms=5), UNKNOWN, []
    for timestamp, value in readings:
        memory, event = step(some, remembered(json.loads(json.dumps(memory))), timestamp, value, value)
        events += [event] if event else []
    assert events == run(some, readings)
    assert remembered(None) == UNKNOWN


def test_no_number_says_nothing() -> None:
    different = rule(comparison=Comparison.NOT_EQUAL)
    assert run(different, [(0, math.nan)]) == []
    assert changes(HOT, [(0, 31.0), (1, math.nan), (2, 32.0)]) == [(FIRES, 0)]


def test_the_phases_are_inactive_pending_firing_resolved() -> None:
    memory, seen = UNKNOWN, [UNKNOWN.phase]
    for timestamp, value in [(0, 31.0), (5, 31.0), (10, 31.0), (11, 1.0), (12, 31.0), (13, 1.0)]:
        memory, _ = step(rule(for_ms=10), memory, timestamp, value, 0.0)
        seen.append(memory.phase)
    assert [Phase(phase) for phase in seen] == [
        Phase.INACTIVE,
        Phase.PENDING,
        Phase.PENDING,
        Phase.FIRING,
        Phase.RESOLVED,
        Phase.PENDING,
        Phase.INACTIVE,
    ]


def test_an_alert_that_fires_for_long_is_told_again() -> None:
    hour = 3_600_000
    events = run(HOT, [(n * hour, 31.0) for n in range(60)])
    assert [(event.change, event.timestamp) for event in events] == [
        (FIRES, 0),
        (Change.STILL_FIRES, REPEAT_MS),
        (Change.STILL_FIRES, 2 * REPEAT_MS),
    ]
    assert {event.since for event in events} == {0}


def test_an_alert_whose_rule_is_gone_is_resolved() -> None:
    memory, _ = step(HOT, UNKNOWN, 7, 31.0, 0.0)
    assert given_up(memory) == Event(RESOLVES, 7, 7, 31.0)
    assert given_up(memory._replace(time=None, told=9)) == Event(RESOLVES, 7, 9, 31.0)
    assert given_up(UNKNOWN) is None
    assert given_up(memory._replace(phase=Phase.PENDING.value)) is None


def test_an_id_is_one_alerts_and_no_others() -> None:
    parts = ("hot", "gw", "ep", "/3303/0/5700", 5)
    assert alert_id(*parts) == alert_id(*parts)
    others = [
        ("ho", "tgw", "ep", "/3303/0/5700", 5),
        ("hot", "gw", "ep", "/3303/0/5700", 6),
        ("hot", "gwep", "", "/3303/0/5700", 5),
    ]
    assert len({alert_id(*other) for other in [parts, *others]}) == 4
    assert len(alert_id("\ud800", "", "", "", 0)) == 32


def test_the_summary_is_filled_in_once() -> None:
    words = rule(summary="{ep} says {value} at {path}, not {threshold}; {other} {").words(
        "{path}", "/3303/0/5700", 31.5
    )
    assert words == "{path} says 31.5 at /3303/0/5700, not 30; {other} {"
    assert HOT.words("ep-1", "/3303/0/5700", 31.0) == "value 31 > 30: /3303/0/5700 of ep-1"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": ""}, "name"),
        ({"threshold": math.nan}, "when"),
        ({"for_ms": -1}, "for"),
        ({"clear": 30.1}, "clear: 30.1 is above the threshold 30"),
        ({"clear": 2.0, "comparison": Comparison.LESS}, "clear: 2 is below the threshold 30"),
        ({"clear": math.nan}, "clear"),
        ({"clear": 1.0, "comparison": Comparison.EQUAL}, "clear: == has no level to come back to"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rule(**wrong)
