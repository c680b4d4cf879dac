"""What a join remembers, there and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.alignment import AlignmentError, Buffers
from analytics.join_state import JoinState, packed, packed_reading, unpacked, unpacked_reading
from analytics.user_code import Reading
from tests.record_strategies import longs, texts

_kept = st.lists(st.tuples(longs, st.integers(0, 2**62), st.binary(max_size=60)), max_size=5)


@st.composite
def states(draw: st.DrawFn) -> JoinState:
    kept = draw(st.lists(_kept, min_size=2, max_size=4))
    return JoinState(
        Buffers(
            watermark=draw(st.none() | st.integers(-(2**63) + 1, 2**63)),
            arrivals=draw(st.integers(0, 2**62)),
            latest=[draw(st.none() | longs) for _ in kept],
            kept=kept,
        ),
        draw(st.integers(0, 2**62)),
        draw(st.booleans()),
    )


@given(states())
def test_states_come_back_as_they_were(state: JoinState) -> None:
    assert unpacked(packed(state), len(state.buffers.kept)) == state


@pytest.mark.parametrize("mark", [-(2**63), -(2**64)])
def test_a_watermark_before_all_times_is_none(mark: int) -> None:
    state = JoinState(Buffers(watermark=mark, arrivals=1, latest=[0, None], kept=[[], []]), 0, False)
    assert unpacked(packed(state), 2).buffers.watermark is None


def test_states_of_other_forms_are_refused() -> None:
    with pytest.raises(AlignmentError, match="new name"):
        unpacked(b'{"watermark": 1790000000000, "arrivals": 1, "latest": []}', 2)


@given(
    st.builds(
        Reading,
        ep=texts,
        path=texts,
        value=st.floats(allow_nan=False) | longs | st.booleans() | texts,
        time=longs,
        server_id=texts,
    )
)
def test_readings_come_back_as_they_were(reading: Reading) -> None:
    again = unpacked_reading(packed_reading(reading), reading.time)
    assert again == reading
    assert type(again.value) is type(reading.value)


@pytest.mark.parametrize(
    "odd",
    [{"server_id": None}, {"server_id": 5}, {"ep": "\ud800"}, {"path": "/" * 70_000}, {"value": "\ud800"}],
)
def test_what_only_a_users_function_makes_comes_back_too(odd: dict[str, Any]) -> None:
    reading = Reading("ep", "/3303/0/5700", 1.5, 9, "gw")._replace(**odd)
    assert unpacked_reading(packed_reading(reading), 9) == reading
