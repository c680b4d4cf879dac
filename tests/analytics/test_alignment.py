"""Joins in event time, held to a naive model that sees all readings at once."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.alignment import (
    Added,
    Aligner,
    Alignment,
    AlignmentError,
    Buffers,
    Direction,
    Item,
    Match,
    Missing,
    Mode,
)
from analytics.join_state import JoinState, packed, unpacked


class Arrival(NamedTuple):
    series: int
    time: int
    value: int


def kept(buffers: Buffers) -> Buffers:
    """What is left after the way through the state, as in a job."""
    return unpacked(packed(JoinState(buffers, 7, True)), len(buffers.kept)).buffers


def fed(alignment: Alignment, arrivals: list[Arrival]) -> list[Added]:
    """What each arrival brought about; the buffers go through bytes between any two, as they do in a job."""
    aligner = Aligner(alignment)
    buffers = aligner.begin()
    out = []
    for series, time, value in arrivals:
        out.append(numbered(aligner.add(buffers, series, time, str(value).encode())))
        buffers = kept(buffers)
        assert all(len(one) <= alignment.limit for one in buffers.kept)
    return out


def numbered(added: Added) -> Added:
    """The matches with the numbers in the place of the bytes that were kept of them."""
    matches = tuple(
        Match(match.time, tuple(None if item is None else Item(item.time, int(item.value)) for item in match.items))
        for match in added.matches
    )
    return added._replace(matches=matches)


def matches_of(alignment: Alignment, arrivals: list[Arrival]) -> list[Match]:
    return [match for added in fed(alignment, arrivals) for match in added.matches]


def in_time(alignment: Alignment, arrivals: list[Arrival]) -> tuple[list[Arrival], float]:
    """The model of lateness: the arrivals that are no older than the watermark of those before them; the last one."""
    taken: list[Arrival] = []
    mark = float("-inf")
    for arrival in arrivals:
        if arrival.time < mark:
            continue
        taken.append(arrival)
        times = [[one.time for one in taken if one.series == series] for series in range(alignment.series)]
        mark = max(mark, max(map(max, filter(None, times))) - alignment.grace_ms - alignment.patience_ms)
        if all(times):
            mark = max(mark, min(map(max, times)) - alignment.grace_ms)
    return taken, mark


def model(alignment: Alignment, arrivals: list[Arrival]) -> list[Match]:
    """All at once: what must come out for the arrivals that were taken, in order of the first reading's time."""
    taken, mark = in_time(alignment, arrivals)
    by_series = [[one for one in taken if one.series == series] for series in range(alignment.series)]
    if alignment.mode is Mode.INTERVAL:
        return [
            Match(max(one.time for one in chosen), tuple(Item(one.time, one.value) for one in chosen))
            for chosen in product(*by_series)
            if all(-alignment.before_ms <= one.time - chosen[0].time <= alignment.after_ms for one in chosen)
        ]
    nearest = alignment.direction is Direction.NEAREST
    out = []
    for left in sorted(by_series[0], key=lambda one: one.time):
        if not left.time + (alignment.before_ms if nearest else 0) < mark:
            continue
        partners: list[Item | None] = []
        for rights in by_series[1:]:
            best = None
            for right in rights:
                apart = left.time - right.time
                if (apart < 0 and not nearest) or abs(apart) > alignment.before_ms:
                    continue
                # Closest, at or before rather than after, the last that came of equal ones.
                if best is None or (abs(apart), apart < 0) <= (abs(left.time - best.time), left.time < best.time):
                    best = right
            partners.append(None if best is None else Item(best.time, best.value))
        if alignment.missing is Missing.LEFT or None not in partners:
            out.append(Match(left.time, (Item(left.time, left.value), *partners)))
    return out


small = st.integers(0, 12)
alignments = st.builds(
    Alignment,
    series=st.integers(2, 3),
    mode=st.sampled_from(Mode),
    before_ms=small,
    after_ms=small,
    direction=st.sampled_from(Direction),
    missing=st.sampled_from(Missing),
    grace_ms=small,
    patience_ms=st.sampled_from([0, 0, 5]),
)


@st.composite
def disordered(draw: st.DrawFn, series: int) -> list[Arrival]:
    """Readings that drift forward and come early and late; the value tells each apart."""
    steps = draw(st.lists(st.tuples(st.integers(0, series - 1), st.integers(-9, 14)), max_size=24))
    now, out = 100, []
    for number, (which, step) in enumerate(steps):
        out.append(Arrival(which, now + step, number))
        now = max(now, now + step // 2)
    return out


@given(st.data())
def test_matches_are_those_of_the_model_that_sees_all_at_once(data: st.DataObject) -> None:
    alignment = data.draw(alignments)
    arrivals = data.draw(disordered(alignment.series))
    got = matches_of(alignment, arrivals)
    wanted = model(alignment, arrivals)
    if alignment.mode is Mode.AS_OF:
        assert got == wanted  # in order too
    else:
        assert sorted(map(repr, got)) == sorted(map(repr, wanted))


@given(st.data())
def test_late_readings_are_told_and_change_nothing(data: st.DataObject) -> None:
    alignment = data.draw(alignments)
    arrivals = data.draw(disordered(alignment.series))
    told = [arrival for arrival, added in zip(arrivals, fed(alignment, arrivals), strict=True) if not added.late]
    assert told == in_time(alignment, arrivals)[0]
    assert matches_of(alignment, told) == matches_of(alignment, arrivals)


@given(st.data())
def test_order_of_arrival_within_the_grace_changes_nothing(data: st.DataObject) -> None:
    alignment = data.draw(
        st.builds(
            Alignment,
            mode=st.sampled_from(Mode),
            before_ms=small,
            after_ms=small,
            direction=st.sampled_from(Direction),
            missing=st.sampled_from(Missing),
            grace_ms=st.just(40),
        )
    )
    times = data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40)), max_size=16, unique=True))
    arrivals = [Arrival(series, time, number) for number, (series, time) in enumerate(times)]
    # What closes the books: a reading of each series far ahead.
    end = [Arrival(0, 10_000, -1), Arrival(1, 10_000, -2)]
    ordered = sorted(arrivals, key=lambda one: (one.time, one.series))
    got, wanted = matches_of(alignment, arrivals + end), matches_of(alignment, ordered + end)
    assert not any(added.late for added in fed(alignment, arrivals + end))
    assert sorted(map(repr, got)) == sorted(map(repr, wanted))


def as_of(**changes: object) -> Alignment:
    settings: dict[str, object] = {"before_ms": 5_000, "grace_ms": 1_000, **changes}
    return Alignment(**settings)  # type: ignore[arg-type]  # fields by name, of their types


def test_as_of_takes_the_latest_at_or_before() -> None:
    arrivals = [Arrival(1, 1_000, 1), Arrival(1, 4_000, 4), Arrival(0, 3_999, 40), Arrival(0, 4_000, 41)]
    assert matches_of(as_of(), [*arrivals, Arrival(0, 9_000, 99)]) == [
        Match(3_999, (Item(3_999, 40), Item(1_000, 1))),
        Match(4_000, (Item(4_000, 41), Item(4_000, 4))),
    ]


def test_as_of_waits_for_a_partner_that_comes_late() -> None:
    arrivals = [Arrival(1, 1_000, 1), Arrival(0, 3_000, 30), Arrival(1, 2_500, 2), Arrival(0, 4_001, 40)]
    assert matches_of(as_of(), arrivals) == [Match(3_000, (Item(3_000, 30), Item(2_500, 2)))]


def test_nearest_prefers_the_earlier_of_two_as_near() -> None:
    arrivals = [Arrival(1, 1_000, 1), Arrival(1, 3_000, 3), Arrival(0, 2_000, 20), Arrival(1, 9_000, 9)]
    nearest = as_of(direction=Direction.NEAREST, before_ms=1_500)
    assert matches_of(nearest, arrivals) == [Match(2_000, (Item(2_000, 20), Item(1_000, 1)))]


def test_missing_partner_is_left_out_or_none() -> None:
    arrivals = [Arrival(0, 1_000, 1), Arrival(0, 9_000, 9)]
    assert matches_of(as_of(), arrivals) == []
    assert matches_of(as_of(missing=Missing.LEFT), arrivals) == [Match(1_000, (Item(1_000, 1), None))]


def test_interval_gives_each_combination_once() -> None:
    near = Alignment(mode=Mode.INTERVAL, before_ms=10, after_ms=10, grace_ms=100)
    arrivals = [Arrival(0, 100, 1), Arrival(1, 90, 2), Arrival(1, 110, 3), Arrival(1, 111, 4), Arrival(0, 105, 5)]
    assert [[item and item.value for item in match.items] for match in matches_of(near, arrivals)] == [
        [1, 2],
        [1, 3],
        [5, 3],
        [5, 4],
    ]


def test_patience_waits_for_the_slower_series() -> None:
    ahead = [Arrival(0, 1_000 * second, second) for second in range(1, 20)]
    behind = [Arrival(1, 1_000 * second, -second) for second in range(1, 20)]
    hasty, patient = as_of(), as_of(patience_ms=60_000)
    assert sum(added.late for added in fed(hasty, ahead + behind)) == 17
    assert not any(added.late for added in fed(patient, ahead + behind))
    assert [match.time for match in matches_of(patient, ahead + behind)] == [1_000 * second for second in range(1, 18)]


def test_full_buffers_push_the_oldest_out_and_tell() -> None:
    few = as_of(limit=3, grace_ms=1_000_000, missing=Missing.LEFT)
    lefts = [Arrival(0, 1_000 + number, number) for number in range(5)]
    added = fed(few, lefts)
    assert [one.pushed_out for one in added] == [0, 0, 0, 1, 1]
    assert [match.time for one in added for match in one.matches] == [1_000, 1_001]
    near = Alignment(mode=Mode.INTERVAL, before_ms=9, after_ms=9, grace_ms=1_000_000, limit=2)
    assert [one.pushed_out for one in fed(near, [Arrival(1, 50 + one, one) for one in range(4)])] == [0, 0, 1, 1]


def test_combinations_of_one_reading_are_bounded() -> None:
    wide = Alignment(series=3, mode=Mode.INTERVAL, before_ms=99, after_ms=99, grace_ms=10_000, limit=5)
    arrivals = [Arrival(series, 100 + number, number) for number in range(5) for series in (1, 2)]
    last = fed(wide, [*arrivals, Arrival(0, 100, 0)])[-1]
    assert (len(last.matches), last.cut) == (5, 20)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-(2**63), 2**63 - 1)), max_size=80))
def test_state_stays_small_whatever_the_times(arrivals: list[tuple[int, int]]) -> None:
    few = as_of(limit=4, grace_ms=2**62)
    aligner = Aligner(few)
    buffers = aligner.begin()
    for series, time in arrivals:
        aligner.add(buffers, series, time, b"")
        again = kept(buffers)
        # A watermark at the earliest of all times is none: nothing is older than either.
        assert again == buffers or (again.watermark is None and (buffers.watermark or 0) <= -(2**63))
        assert all(len(one) <= 4 for one in buffers.kept)


@pytest.mark.parametrize("wrong", [{"series": 1}, {"before_ms": -1}, {"grace_ms": -1}, {"limit": 0}])
def test_impossible_alignment_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(AlignmentError):
        as_of(**wrong)


def test_state_of_another_join_is_refused() -> None:
    state = packed(JoinState(Aligner(as_of()).begin(), 0, False))
    with pytest.raises(AlignmentError, match="2 series"):
        unpacked(state, 3)
