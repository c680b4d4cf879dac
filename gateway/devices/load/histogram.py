"""A log-linear histogram of times: bounded memory, and percentiles with a relative error below 1 %.

The idea is HdrHistogram's: each power of two is divided into 64 buckets of the same width, so that a bucket is at most
1/64 of its values wide, and its middle at most 0.8 % away from any of them. Values below 128 are held exactly. There
are 2,432 buckets in all, and only those that hold something take memory.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate

#: Of each power of two; with its middle a bucket errs by at most half of 1/64.
_BITS = 6
#: So many different values are put into buckets at once: a millisecond's worth of work.
_MOST_FRESH = 4096
#: Times above are held as this: 2^43 µs are over a hundred days.
MOST = (1 << 43) - 1

#: What people ask for, by its name.
PERCENTILES: Mapping[str, float] = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}


def bucket_of(value: int) -> int:
    """The number of the bucket of a value from 0 to `MOST`."""
    shift = value.bit_length() - _BITS - 1
    return value if shift <= 0 else (shift << _BITS) + (value >> shift)


def bounds_of(bucket: int) -> tuple[int, int]:
    """The least value of a bucket, and the least one above it."""
    if bucket < 2 << _BITS:
        return bucket, bucket + 1
    shift = (bucket >> _BITS) - 1
    low = (bucket - (shift << _BITS)) << shift
    return low, low + (1 << shift)


class Histogram:
    """How often each time was seen; count, sum, least and greatest are exact. Times are whole numbers, mostly µs."""

    __slots__ = ("_fresh", "buckets", "count", "least", "most", "sum")

    def __init__(self) -> None:
        #: How often, by the number of the bucket; `_Packed` once it is complete.
        self.buckets: dict[int, int] | _Packed = {}
        #: How often, by the value itself: what has not been put into buckets yet, which is the dearest part.
        self._fresh: Counter[int] = Counter()
        self.count = 0
        self.sum = 0
        self.least = MOST
        self.most = 0

    def add(self, values: Collection[int]) -> None:
        """Count many at once, which is far cheaper than one by one. Below 0 counts as 0, above `MOST` as that."""
        if not values:
            return
        least, most = min(values), max(values)
        if least < 0 or most > MOST:
            self.add([min(max(value, 0), MOST) for value in values])
            return
        self.least = min(self.least, least)
        self.most = max(self.most, most)
        self.count += len(values)
        self.sum += sum(values)
        self._fresh.update(values)
        if len(self._fresh) >= _MOST_FRESH:
            self._open()

    def merge(self, other: Histogram) -> None:
        """Add all that another one counted."""
        buckets = self._open()
        for bucket, times in other.items():
            buckets[bucket] = buckets.get(bucket, 0) + times
        self.count += other.count
        self.sum += other.sum
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)

    def pack(self) -> None:
        """Take as little memory as can be, for one that is complete; it can be added to all the same."""
        if self._fresh or isinstance(self.buckets, dict):
            self.buckets = _Packed(self._open())

    def items(self) -> list[tuple[int, int]]:
        """(number of the bucket, how often), ascending."""
        if self._fresh:
            self._open()
        if isinstance(self.buckets, dict):
            return sorted(self.buckets.items())
        return list(zip(self.buckets.numbers, self.buckets.often, strict=True))

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def percentiles(self, wanted: Iterable[float]) -> list[int]:
        """The value that so many per cent of all do not exceed (nearest rank), for each of ``wanted``; 0 for no value.

        A value of a bucket counts as the middle of it, and never as less or more than was seen.
        """
        counted = self.items()
        reached = list(accumulate(times for _, times in counted))
        return [self._at(counted, reached, per_cent) for per_cent in wanted]

    def _at(self, counted: list[tuple[int, int]], reached: list[int], per_cent: float) -> int:
        if not counted:
            return 0
        # The smallest rank r, from 1, with r / count >= per_cent / 100.
        rank = max(1, -int(-per_cent * self.count // 100))
        if rank >= self.count:
            return self.most
        for (bucket, _), upto in zip(counted, reached, strict=True):
            if upto >= rank:
                low, above = bounds_of(bucket)
                return min(max((low + above - 1) // 2, self.least), self.most)
        return self.most

    def _open(self) -> dict[int, int]:
        """The buckets to write into, with all that is counted."""
        if not isinstance(self.buckets, dict):
            self.buckets = dict(zip(self.buckets.numbers, self.buckets.often, strict=True))
        buckets, fresh = self.buckets, self._fresh
        if fresh:
            for value, times in fresh.items():
                shift = value.bit_length() - _BITS - 1  # as in `bucket_of`, without a call for each
                bucket = value if shift <= 0 else (shift << _BITS) + (value >> shift)
                buckets[bucket] = buckets.get(bucket, 0) + times
            fresh.clear()
        return buckets


class _Packed:
    """Six to ten bytes a bucket, for a dictionary's hundred."""

    __slots__ = ("numbers", "often")

    def __init__(self, buckets: Mapping[int, int]) -> None:
        numbers = sorted(buckets)
        often = [buckets[number] for number in numbers]
        self.numbers = array("H", numbers)
        self.often = array("I" if max(often, default=0) < 1 << 32 else "Q", often)
