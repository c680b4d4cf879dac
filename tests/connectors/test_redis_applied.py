"""Which offsets of a partition are in: exactly those that were added, whatever the order, in little room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sinks.redis_applied import MAX_SPANS, Applied


@given(st.lists(st.integers(0, 60)), st.integers(0, 40))
def test_each_offset_counts_once_in_any_order_and_over_any_restart(offsets: list[int], restart: int) -> None:
    applied, seen = Applied(), set()
    for number, offset in enumerate(offsets):
        if number == restart:
            applied = Applied(applied.text)
        # Times need not grow with the offsets, but those of one record are always the same.
        assert applied.add(offset, 1_000 - offset * 7 % 100) is (offset not in seen)
        seen.add(offset)
    assert applied.next == max(seen, default=-1) + 1


def test_offsets_in_a_row_are_one_span() -> None:
    applied = Applied()
    for offset in (*range(500, 1_000), *range(500)):
        assert applied.add(offset, offset)
    assert applied.text == "0:999:999"


def test_gaps_stay_open_and_can_be_filled() -> None:
    applied = Applied()
    for offset in (1, 2, 4, 9):
        applied.add(offset, 0)
    assert applied.text == "1:2:0 4:4:0 9:9:0"
    assert applied.add(3, 0)
    assert applied.text == "1:4:0 9:9:0"


def test_only_so_many_gaps_are_kept_and_the_wide_one_before_a_replay_is() -> None:
    applied = Applied()
    for offset in range(100_000, 100_000 + 4 * MAX_SPANS, 2):  # every second one is the end of a transaction
        assert applied.add(offset, offset)
    for offset in range(0, 4 * MAX_SPANS, 2):
        assert applied.add(offset, offset)
    assert len(applied.text.split()) == MAX_SPANS
    assert not applied.add(100_000, 100_000)
    assert not applied.add(0, 0)
    assert all(applied.add(offset, offset) for offset in (50_000, 99_000))


def test_a_topic_made_anew_counts_from_its_beginning() -> None:
    applied = Applied("0:9:500")
    assert not applied.add(3, 500)
    for offset in range(20):
        assert applied.add(offset, 600)
        assert not applied.add(offset, 600)
    assert applied.text == "0:19:600"
    assert not any(applied.add(offset, 600) for offset in range(20))


@given(st.integers(0, 30), st.integers(1, 30))
def test_a_topic_made_anew_is_known_again_at_any_offset(old: int, step: int) -> None:
    applied = Applied()
    for offset in range(0, 60, step):
        applied.add(offset, old)
    for offset in range(60):
        assert applied.add(offset, 31 + offset // 7)
        assert not applied.add(offset, 31 + offset // 7)


@pytest.mark.parametrize("text", ["x", "1", "1:2", "1:2:3:4", "1:2:x", "1:2:3,4:5:6"])
def test_what_is_no_list_of_spans_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        Applied(text)
