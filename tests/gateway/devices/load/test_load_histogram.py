"""The histogram of times: exact where it says so, and within 1 % elsewhere."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.devices.load.histogram import MOST, Histogram, bounds_of, bucket_of

_times = st.lists(st.integers(0, 10**9) | st.integers(0, 300) | st.integers(0, MOST), min_size=1, max_size=300)


def _histogram(values: list[int]) -> Histogram:
    made = Histogram()
    made.add(values)
    return made


@given(_times, st.floats(0, 100))
def test_a_percentile_is_within_one_per_cent_of_the_exact_one(values: list[int], per_cent: float) -> None:
    exact = sorted(values)[max(math.ceil(per_cent * len(values) / 100), 1) - 1]
    (found,) = _histogram(values).percentiles([per_cent])
    assert abs(found - exact) <= 0.01 * exact


@given(_times)
def test_count_sum_least_and_most_are_exact(values: list[int]) -> None:
    made = _histogram(values)
    assert (made.count, made.sum, made.least, made.most) == (len(values), sum(values), min(values), max(values))


@given(_times, _times)
def test_merged_and_packed_is_the_same_as_all_at_once(first: list[int], second: list[int]) -> None:
    one, two = _histogram(first), _histogram(second)
    one.pack()
    two.pack()
    one.merge(two)
    whole = _histogram(first + second)
    assert one.items() == whole.items()
    assert (one.count, one.sum, one.least, one.most) == (whole.count, whole.sum, whole.least, whole.most)


@given(st.integers(0, MOST))
def test_a_value_lies_in_its_bucket_and_the_bucket_is_narrow(value: int) -> None:
    low, above = bounds_of(bucket_of(value))
    assert low <= value < above
    assert above - low == 1 or (above - low) <= low / 64


def test_what_is_out_of_range_counts_as_the_nearest_that_is_not() -> None:
    made = _histogram([-5, MOST + 1])
    assert (made.least, made.most, made.count) == (0, MOST, 2)
    assert made.percentiles([0, 100]) == [0, MOST]


def test_without_a_value_there_is_nothing() -> None:
    assert Histogram().percentiles([50, 100]) == [0, 0]
    assert Histogram().mean == 0


def test_many_of_one_value_are_counted_beyond_32_bits() -> None:
    made = _histogram([7])
    for _ in range(33):
        made.merge(_copy(made))
    made.pack()
    assert made.items() == [(7, 1 << 33)]
    assert made.mean == 7


def _copy(of: Histogram) -> Histogram:
    made = Histogram()
    made.merge(of)
    return made
