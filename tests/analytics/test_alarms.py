"""Alarms in a state of a dict: what rings is whole."""

from __future__ import annotations

import pytest

from analytics.alarms import Alarms
from tests.analytics.dict_state import DictState


def test_a_caller_that_fails_at_the_first_name_has_the_others() -> None:
    alarms, state = Alarms(1000, b"o" * 16), DictState()
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
