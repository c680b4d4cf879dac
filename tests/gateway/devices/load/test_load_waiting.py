"""The timer wheel: nobody is early, nobody is a slot late, and nobody is forgotten."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.devices.load.waiting import Waiting

TIMES = st.lists(st.floats(1.0, 1.2), max_size=50)


@given(TIMES)
def test_who_waits_is_due_within_a_millisecond_and_not_before(times: list[float]) -> None:
    waiting = Waiting[float]()
    for when in times:
        waiting.wait(when, when)
    came = []
    for step in range(2200):
        now = 1.0 + step / 10_000
        for when in waiting.due(now):
            assert when <= now < when + 0.0012
            came.append(when)
    assert sorted(came) == sorted(times)
    assert waiting.next == math.inf


def test_who_waits_again_meanwhile_has_a_turn_after_the_others() -> None:
    waiting = Waiting[str]()
    for one in ("a", "b"):
        waiting.wait(5.0, one)
    turns = []
    for one in waiting.due(5.001):
        turns.append(one)
        waiting.wait(5.001, one)
    assert turns == ["a", "b"]
    assert 5.001 <= waiting.next <= 5.002
    assert list(waiting.due(5.002)) == ["a", "b"]


def test_nobody_waits_after_the_end() -> None:
    waiting = Waiting[int]()
    waiting.wait(1.0, 1)
    waiting.clear()
    assert list(waiting.due(10.0)) == []
