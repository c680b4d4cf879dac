"""Alarms in a state of a dict: what rings is whole."""

from __future__ import annotations

import pytest

from analytics.alarms import Alarms
from tests.analytics.dict_state import Counts, DictState


def test_a_caller_that_fails_at_the_first_name_has_the_others() -> None:
    alarms, state = Alarms(1000, b"o" * 16, Counts()), DictState()
    assert alarms.ring(state, 0, 0) == []
    wanted = [b"%d" % number for number in range(100)]
    for name in wanted:
        alarms.set(state, name, 5_000)
    rung = alarms.ring(state, 10_000, 10_000)
    with pytest.raises(ZeroDivisionError):
        for _ in rung:
            raise ZeroDivisionError
    assert rung == wanted
    assert alarms.ring(state, 20_000, 20_000) == []
    # Nothing but the clock is left.
    assert len(state.held) == 1


def stood(*times: int) -> tuple[Alarms, DictState, Counts]:
    """Alarms whose clock is at two hours, with one alarm; then records at ``times``, in seconds."""
    counts = Counts()
    alarms, state = Alarms(1000, b"o" * 16, counts), DictState()
    alarms.ring(state, 7_200_000, 7_200_000)
    alarms.set(state, b"name", 7_300_000)
    for time in times:
        now, due = alarms.now(state, time * 1000, time * 1000)
        if due:
            assert alarms.ring(state, now, now) == []
    return alarms, state, counts


def test_a_clock_that_was_ahead_of_a_minute_of_records_is_put_back_and_all_alarms_ring() -> None:
    alarms, state, counts = stood(10, 40, 69)
    assert (alarms.now(state, 69_000, 69_000), counts.put_back_) == ((7_200_000, False), 0)
    now, due = alarms.now(state, 70_000, 70_000)
    assert (now, due) == (70_000, True)
    assert alarms.ring(state, now, now) == [b"name"]
    assert counts.put_back_ == 1
    alarms.set(state, b"name", 72_000)
    assert alarms.now(state, 71_000, 71_000)[0] == 71_000
    assert alarms.ring(state, 74_000, 74_000) == [b"name"]
    assert counts.put_back_ == 1


@pytest.mark.parametrize(
    ("times", "kafka_time"),
    [
        ([10, 69], 69_000),  # for less than a minute
        ([10, 7_202, 80], 80_000),  # a record that is by the clock came in between
        ([10], 7_190_000),  # an old record that was put in anew
        ([6_600], 6_700_000),  # within what clocks are mended by
    ],
)
def test_a_clock_is_not_put_back_for_what_is_old(times: list[int], kafka_time: int) -> None:
    alarms, state, counts = stood(*times)
    assert alarms.now(state, kafka_time - 1, kafka_time)[0] >= 7_200_000
    assert counts.put_back_ == 0
