"""Running mean and variance against the two passes that keep every value."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.welford import EMPTY, LARGEST, Moments, add, add_all, merge

RELATIVE = 1e-12


def two_passes(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population variance; what the second pass subtracts is the mean with all its digits."""
    mean = sum(map(Fraction, values), Fraction()) / len(values)
    return float(mean), math.fsum(float((Fraction(value) - mean) ** 2) for value in values) / len(values)


def assert_equal(state: Moments, values: Sequence[float], relative: float = RELATIVE) -> None:
    mean, variance = two_passes(values)
    assert state.length == len(values)
    # Where large values cancel each other out, two doubles have 106 bits of the largest, and no more.
    assert state.mean == pytest.approx(mean, rel=relative, abs=1e-28 * max(map(abs, values)))
    assert state.variance == pytest.approx(variance, rel=relative, abs=0)
    assert state.std_dev == pytest.approx(math.sqrt(variance), rel=relative, abs=0)


#: Small enough for squares, large enough not to vanish in them.
numbers = st.floats(min_value=-1e100, max_value=1e100).filter(lambda value: value == 0 or abs(value) > 1e-100)
readings = st.one_of(numbers, st.floats(min_value=-60, max_value=60, width=32).map(lambda value: 1e9 + value))


@given(st.lists(readings, min_size=1, max_size=60))
def test_it_equals_the_two_passes(values: list[float]) -> None:
    assert_equal(add_all(EMPTY, values), values)


@given(st.lists(readings, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_parts_merged_in_any_tree_equal_the_whole(values: list[float], choose: random.Random) -> None:
    parts = [EMPTY]
    for value in values:
        if choose.random() < 0.4:
            parts.append(EMPTY)
        parts[-1] = add(parts[-1], value)
    while len(parts) > 1:
        at = choose.randrange(len(parts) - 1)
        parts[at : at + 2] = [merge(parts[at], parts[at + 1])]
    assert_equal(parts[0], values)


@pytest.mark.parametrize(
    ("offset", "spread"), [(0.0, 1.0), (25.0, 2.0), (1e9, 1e-3), (1e9, 1.0), (-1e12, 1e-2), (1e15, 3.0), (0.0, 1e-30)]
)
def test_a_long_stream_far_from_zero_loses_no_digits(offset: float, spread: float) -> None:
    draw = random.Random(7)
    values = [offset + draw.gauss(0, spread) for _ in range(100_000)]
    # math.fsum over the second pass is exact here: the mean is subtracted with its rest.
    mean = math.fsum(values) / len(values)
    rest = math.fsum(value - mean for value in values) / len(values)
    variance = math.fsum(((value - mean) - rest) ** 2 for value in values) / len(values)
    whole = add_all(EMPTY, values)
    halves = merge(add_all(EMPTY, values[:33_333]), add_all(EMPTY, values[33_333:]))
    for state in (whole, halves):
        assert state.mean == pytest.approx(mean, rel=RELATIVE, abs=0)
        assert state.variance == pytest.approx(variance, rel=RELATIVE, abs=0)


def test_a_mean_that_nearly_cancels_keeps_its_digits() -> None:
    values = [1e12, 1e-4, -1e12, 2e-4] * 5_000
    assert_equal(add_all(EMPTY, values), values)


@given(st.floats(min_value=-LARGEST, max_value=LARGEST), st.integers(min_value=1, max_value=50))
def test_values_that_are_all_the_same_have_no_variance(value: float, number: int) -> None:
    state = add_all(EMPTY, [value] * number)
    assert (state.mean, state.variance, state.sample_variance) == (value, 0.0, 0.0)
    both = merge(state, state)
    assert (both.length, both.mean, both.variance) == (2 * number, value, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.1 * LARGEST, -1e308])
def test_what_is_no_number_is_counted_and_changes_nothing_else(value: float) -> None:
    before = add_all(EMPTY, [1.0, 2.0, 4.0])
    after = add(before, value)
    assert after == before._replace(refused=1)
    assert add(after, 8.0)._replace(refused=0) == add(before, 8.0)
    assert merge(after, after).refused == 2
    assert add(EMPTY, value) == Moments(refused=1)
    assert merge(add(EMPTY, value), before) == after
    assert merge(before, add(EMPTY, value)) == after


@given(st.lists(st.floats(), max_size=30))
def test_whatever_comes_the_state_is_finite_and_json_holds_it(values: list[float]) -> None:
    state = add_all(EMPTY, values)
    assert all(map(math.isfinite, state))
    assert state.variance >= 0.0
    assert state.length + state.refused == len(values)
    assert Moments(*json.loads(json.dumps(state))) == state


def test_the_largest_values_stay_within_a_double() -> None:
    state = add_all(EMPTY, [LARGEST, -LARGEST] * 100)
    assert state.mean == pytest.approx(0.0, abs=1e134)
    assert state.variance == pytest.approx(LARGEST**2, rel=RELATIVE)


def test_the_variance_of_a_sample_is_the_librarys() -> None:
    values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]
    state = add_all(EMPTY, values)
    assert (state.mean, state.variance, state.std_dev) == (5.0, 4.0, 2.0)
    assert state.sample_variance == pytest.approx(statistics.variance(values), rel=RELATIVE)
    assert add(EMPTY, 3.0).sample_variance == 0.0
    assert (EMPTY.variance, EMPTY.std_dev) == (0.0, 0.0)


def test_whole_numbers_are_taken_as_they_are() -> None:
    assert add_all(EMPTY, [1, 2, 3]).mean == 2.0
