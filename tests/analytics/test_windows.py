"""Windows of one series against a naive model that keeps everything and looks at it at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.windows import LATEST, MOST_READINGS, Function, Hopping, Sliding, Step, Window, Windows

Reading = tuple[int, float]

#: Whole numbers, whose sums are exact in any order.
readings = st.lists(st.tuples(st.integers(1000, 1200), st.integers(-50, 50).map(float)), min_size=1, max_size=60)
disordered = readings.flatmap(
    lambda drawn: st.just(drawn) | st.just(sorted(drawn)) | st.just(sorted(drawn, key=lambda one: one[0] // 40))
)


@dataclass
class Outcome:
    windows: list[Window] = field(default_factory=list)
    late: list[Reading] = field(default_factory=list)


def fold(windows: Windows, given_: list[Reading]) -> Outcome:
    outcome, kept = Outcome(), None
    for time, value in given_:
        step: Step = windows.add(kept, time, value, time)
        kept = step.kept
        outcome.windows += step.closed
        if step.late:
            outcome.late.append((time, value))
    assert kept is not None
    assert not windows.empty(kept)
    step = windows.silence(kept)
    assert windows.empty(step.kept)
    outcome.windows += step.closed
    return outcome


def made(start: int, end: int, inside: list[Reading]) -> Window:
    values = [value for _, value in inside]
    last_time = max(time for time, _ in inside)
    last = [value for time, value in inside if time == last_time][-1]
    return Window(start, end, len(values), min(values), max(values), sum(values), last)


def naive_hopping(size: int, hop: int, grace: int, given_: list[Reading]) -> Outcome:
    """Each window takes the readings that came before another was its grace past its end."""
    outcome = Outcome()
    inside: dict[int, list[Reading]] = {}
    latest: int | None = None
    for time, value in given_:
        starts = [start for start in range(-10 * hop, time + 1) if start % hop == 0 and start <= time < start + size]
        open_ = [start for start in starts if latest is None or start + size + grace > latest]
        if not open_:
            outcome.late.append((time, value))
            continue
        for start in open_:
            inside.setdefault(start, []).append((time, value))
        latest = time if latest is None else max(latest, time)
    outcome.windows = [made(start, start + size, inside[start]) for start in sorted(inside)]
    return outcome


def naive_sliding(size: int, grace: int, given_: list[Reading]) -> Outcome:
    outcome = Outcome()
    taken: list[Reading] = []
    latest: int | None = None
    for time, value in given_:
        if latest is not None and time + 1 + grace <= latest:
            outcome.late.append((time, value))
            continue
        taken.append((time, value))
        latest = time if latest is None else max(latest, time)
    for time in sorted({time for time, _ in taken}):
        inside = sorted((one for one in taken if time - size < one[0] <= time), key=lambda one: one[0])
        outcome.windows.append(made(time + 1 - size, time + 1, inside))
    return outcome


@given(disordered, st.integers(1, 60), st.data(), st.integers(0, 80))
def test_hopping_windows_are_those_of_the_naive_model(
    given_: list[Reading], size: int, data: st.DataObject, grace: int
) -> None:
    hop = data.draw(st.integers(1, size))
    assert fold(Hopping(size, hop, grace), given_) == naive_hopping(size, hop, grace, given_)


@given(disordered, st.integers(1, 60), st.integers(0, 80))
def test_tumbling_windows_hold_each_reading_once(given_: list[Reading], size: int, grace: int) -> None:
    outcome = fold(Hopping(size, size, grace), given_)
    assert sum(window.count for window in outcome.windows) + len(outcome.late) == len(given_)
    assert len({window.start for window in outcome.windows}) == len(outcome.windows)


@given(disordered, st.integers(1, 60), st.integers(0, 80))
def test_sliding_windows_are_those_of_the_naive_model(given_: list[Reading], size: int, grace: int) -> None:
    assert fold(Sliding(size, grace), given_) == naive_sliding(size, grace, given_)


def test_a_window_is_put_out_when_a_reading_is_the_grace_past_its_end() -> None:
    windows = Hopping(30, 30, 10)
    step = windows.add(None, 5, 1.0, 5)
    step = windows.add(step.kept, 39, 2.0, 39)
    assert step.closed == []
    step = windows.add(step.kept, 40, 3.0, 40)
    assert step.closed == [Window(0, 30, 1, 1.0, 1.0, 1.0, 1.0)]
    assert windows.add(step.kept, 29, 9.0, 40).late
    assert not windows.add(step.kept, 30, 9.0, 40).late


def test_a_window_is_put_out_once_also_after_a_silence() -> None:
    windows = Hopping(30, 30, 10)
    step = windows.silence(windows.add(None, 5, 1.0, 5).kept)
    assert [window.start for window in step.closed] == [0]
    assert windows.add(step.kept, 29, 1.0, 100).late
    step = windows.add(step.kept, 31, 1.0, 100)
    assert (step.closed, step.late) == ([], False)
    assert windows.heard(step.kept) == 100


def test_times_beyond_the_calendar_stay_within_64_bits() -> None:
    for windows in (Hopping(30_000, 10_000, 10_000), Sliding(30_000, 10_000)):
        for time in (-(2**63), 2**63 - 1):
            step = windows.silence(windows.add(None, time, 1.0, 0).kept)
            assert all(-(2**62) < window.start < window.end <= LATEST + 60_000 for window in step.closed)


def test_a_sliding_window_keeps_a_bounded_number_of_readings() -> None:
    windows = Sliding(10**9, 10**9)
    kept, results = None, 0
    for time in range(MOST_READINGS, MOST_READINGS + 3):
        # As if there had been so many; adding them one by one takes long.
        if kept is None:
            import struct

            kept = windows.add(None, 0, 0.0, 0).kept + b"".join(
                struct.pack("<qd", at, 0.0) for at in range(1, MOST_READINGS)
            )
        step = windows.add(kept, time, 1.0, 0)
        kept = step.kept
        results += len(step.closed)
        assert len(kept) < MOST_READINGS * 16 + 100
    assert results == 3


def test_the_functions_of_a_window() -> None:
    window = Window(0, 30, 4, -1.0, 5.0, 8.0, 2.0)
    assert {function: window.value(function) for function in Function} == {
        Function.COUNT: 4.0,
        Function.MIN: -1.0,
        Function.MAX: 5.0,
        Function.MEAN: 2.0,
        Function.SUM: 8.0,
        Function.LAST: 2.0,
        Function.RANGE: 6.0,
    }


@pytest.mark.parametrize(
    ("size", "hop", "grace"), [(0, 0, 0), (10, 0, 0), (10, 11, 0), (10, 5, -1), (10_001, 10_000, 0)]
)
def test_what_makes_no_windows_is_refused(size: int, hop: int, grace: int) -> None:
    with pytest.raises(ValueError, match="window"):
        Hopping(size, hop, grace)
