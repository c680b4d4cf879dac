"""Series aligned in event time: as-of joins and interval joins, each match once, whatever the order of input.

Owns what the join of one key keeps, when a match is final, and what becomes of a reading that comes too late.
Pure: the clock is the readings' own. The watermark is the latest event time seen less the grace; what is older is late
and left out, so that what was given out is never wrong afterwards. Where the series come by different ways (other
partitions), ``patience_ms`` lets one of them run ahead of the slowest by so much before it makes the others late.

As-of: each reading of the first series (the left) with the latest one of each other at or before it, or with the
nearest, within the tolerance; it is given out once nothing can come that would fit better, in the order of event time.
Interval: every combination of readings in which the others lie within the bounds around the first; it is given out as
soon as its last reading is there.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice, product
from math import prod
from typing import Any, NamedTuple


class Mode(Enum):
    AS_OF = "as-of"
    INTERVAL = "interval"


class Direction(Enum):
    """Which readings an as-of join takes."""

    BACKWARD = "backward"
    NEAREST = "nearest"


class Missing(Enum):
    """What becomes of a left reading that finds no partner in one of the other series (as-of joins)."""

    #: It is left out.
    INNER = "inner"
    #: It comes with None for the partner.
    LEFT = "left"


class AlignmentError(ValueError):
    """The alignment cannot be done as it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What is joined with what. Times are milliseconds.

    Raises:
        AlignmentError: fewer than two series, a negative time, a limit below one.
    """

    series: int = 2
    mode: Mode = Mode.AS_OF
    #: Another series' reading matches from ``before_ms`` before the first's to ``after_ms`` after it. An as-of join has
    #: ``before_ms`` as its tolerance, on both sides when it takes the nearest.
    before_ms: int
    after_ms: int = 0
    direction: Direction = Direction.BACKWARD
    missing: Missing = Missing.INNER
    grace_ms: int = 0
    patience_ms: int = 0
    #: Readings kept of one series, and matches given out for one reading.
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.series < 2:
            raise AlignmentError(f"{self.series} series: a join takes two or more")
        if min(self.before_ms, self.after_ms, self.grace_ms, self.patience_ms) < 0:
            raise AlignmentError("tolerance, bounds, grace and patience are zero or more milliseconds")
        if self.limit < 1:
            raise AlignmentError(f"limit {self.limit}: at least one reading of a series must be kept")


class Item(NamedTuple):
    """One reading of a series: event time in epoch milliseconds, and the value, as it was given."""

    time: int
    value: Any


class Match(NamedTuple):
    """Readings that belong together, in the order of the series; None where an as-of join found no partner.

    ``time`` is the first reading's in an as-of join, and the latest one's in an interval join.
    """

    time: int
    items: tuple[Item | None, ...]


class Added(NamedTuple):
    """What one reading brought about."""

    matches: tuple[Match, ...]
    #: It was older than the watermark.
    late: bool = False
    #: Readings that left a full buffer before their time; a left reading of an as-of join is given out as it goes.
    pushed_out: int = 0
    #: Matches beyond the limit for one reading, left out.
    cut: int = 0


_LATE = Added((), late=True)

#: (event time, number of arrival, value): arrival decides between readings of the same time.
Kept = tuple[int, int, Any]


@dataclass(slots=True, kw_only=True)
class Buffers:
    """What the join of one key remembers; `Aligner.begin` makes it, and the functions of `Aligner` change it."""

    #: Nothing older is taken any more; None before the first reading.
    watermark: int | None
    #: Readings taken so far.
    arrivals: int
    #: Of each series: the latest event time seen, and the readings kept, by their order.
    latest: list[int | None]
    kept: list[list[Kept]]


class Aligner:
    """The rule of one alignment; it remembers nothing itself."""

    def __init__(self, alignment: Alignment) -> None:
        self._how = alignment
        self._as_of_mode = alignment.mode is Mode.AS_OF
        self._nearest = alignment.direction is Direction.NEAREST
        self._lead = alignment.grace_ms + alignment.patience_ms

    def begin(self) -> Buffers:
        """Before the first reading."""
        series = self._how.series
        return Buffers(watermark=None, arrivals=0, latest=[None] * series, kept=[[] for _ in range(series)])

    def add(self, buffers: Buffers, series: int, time: int, value: Any) -> Added:
        """Take the reading of ``series`` (counted from 0) and say what follows from it.

        ``value`` is kept as it is.
        Matches come in the order of the readings' times, and of arrival between equal ones.
        """
        if buffers.watermark is not None and time < buffers.watermark:
            return _LATE
        buffers.arrivals += 1
        arrived = (time, buffers.arrivals, value)
        insort(buffers.kept[series], arrived)
        latest = buffers.latest[series]
        if latest is None or time > latest:
            buffers.latest[series] = time
        return self._add_as_of(buffers) if self._as_of_mode else self._add_interval(buffers, series, arrived)

    def waits(self, buffers: Buffers) -> bool:
        """Whether readings of the first series wait for what may still come (as-of joins only)."""
        return self._as_of_mode and bool(buffers.kept[0])

    def silence(self, buffers: Buffers) -> Added:
        """Nothing has come for long: give out what waits, in order. What is no newer than it is late from here on."""
        seen = [latest for latest in buffers.latest if latest is not None]
        if not self.waits(buffers) or not seen:
            return Added(())
        ready, buffers.kept[0] = buffers.kept[0], []
        matches = tuple(match for left in ready if (match := self._as_of(buffers, left)) is not None)
        mark = max(seen) + 1
        buffers.watermark = mark if buffers.watermark is None else max(buffers.watermark, mark)
        self._forget(buffers, buffers.watermark)
        return Added(matches)

    def shed(self, buffers: Buffers, surplus: int, size: Callable[[Kept], int]) -> Added:
        """Push the oldest readings of all series out, until they are of ``surplus`` together by ``size``.

        As with the limit, a left reading of an as-of join is given out as it goes.
        """
        matches: list[Match] = []
        gone = [0] * len(buffers.kept)
        oldest = sorted((reading[:2], number) for number, kept in enumerate(buffers.kept) for reading in kept)
        for _, number in oldest:
            if surplus <= 0:
                break
            reading = buffers.kept[number][gone[number]]
            gone[number] += 1
            surplus -= size(reading)
            # Its partners are still there: what goes is deleted at the end.
            if number == 0 and self._as_of_mode and (match := self._as_of(buffers, reading)) is not None:
                matches.append(match)
        for kept, count in zip(buffers.kept, gone, strict=True):
            del kept[:count]
        return Added(tuple(matches), pushed_out=sum(gone))

    def _advance(self, buffers: Buffers) -> int:
        seen = [latest for latest in buffers.latest if latest is not None]
        mark = max(seen) - self._lead
        if len(seen) == self._how.series:
            mark = max(mark, min(seen) - self._how.grace_ms)
        if buffers.watermark is not None and buffers.watermark > mark:
            return buffers.watermark
        buffers.watermark = mark
        return mark

    # As-of.

    def _add_as_of(self, buffers: Buffers) -> Added:
        how, mark = self._how, self._advance(buffers)
        lefts = buffers.kept[0]
        # A reading that can still come is not older than the watermark, so it cannot be in reach of these.
        final = bisect_left(lefts, (mark - (how.before_ms if self._nearest else 0),))
        pushed_out = max(0, len(lefts) - final - how.limit)
        ready = lefts[: final + pushed_out]
        matches = [match for left in ready if (match := self._as_of(buffers, left)) is not None]
        del lefts[: final + pushed_out]
        return Added(tuple(matches), pushed_out=pushed_out + self._forget(buffers, mark))

    def _forget(self, buffers: Buffers, mark: int) -> int:
        """Drop what no left reading can take any more; how many more had to go as the buffers are full."""
        reach, pushed_out = self._how.before_ms, 0
        for rights in buffers.kept[1:]:
            if self._nearest:
                # Lefts reach back to the watermark less the tolerance, and their partners as far again.
                gone = bisect_left(rights, (mark - 2 * reach,))
            else:
                # Of those at or before the watermark only the last can be anyone's latest.
                gone = max(bisect_left(rights, (mark - reach,)), bisect_left(rights, (mark + 1,)) - 1)
            del rights[: max(0, gone)]
            pushed_out += _shorten(rights, self._how.limit)
        return pushed_out

    def _as_of(self, buffers: Buffers, left: Kept) -> Match | None:
        partners = [self._partner(rights, left[0]) for rights in buffers.kept[1:]]
        if None in partners and self._how.missing is Missing.INNER:
            return None
        return Match(left[0], (_item(left), *partners))

    def _partner(self, rights: Sequence[Kept], time: int) -> Item | None:
        behind = bisect_left(rights, (time + 1,)) - 1
        reach = self._how.before_ms
        best = rights[behind] if behind >= 0 and time - rights[behind][0] <= reach else None
        if self._nearest and behind + 1 < len(rights):
            after = rights[behind + 1][0]
            closer = reach if best is None else time - best[0] - 1
            if after - time <= closer:
                # Of several at that time the last that came, as on the other side.
                best = rights[bisect_left(rights, (after + 1,)) - 1]
        return None if best is None else _item(best)

    # Interval.

    def _add_interval(self, buffers: Buffers, series: int, arrived: Kept) -> Added:
        how, kept = self._how, buffers.kept
        if series == 0:
            lefts: Sequence[Kept] = [arrived]
        else:
            lefts = _between(kept[0], arrived[0] - how.after_ms, arrived[0] + how.before_ms)
        combinations: list[list[Sequence[Kept]]] = []
        for left in lefts:
            others = [
                [arrived] if number == series else _between(rights, left[0] - how.before_ms, left[0] + how.after_ms)
                for number, rights in enumerate(kept[1:], 1)
            ]
            combinations.append([[left], *others])
        wanted = sum(prod(map(len, groups)) for groups in combinations)
        matches = tuple(map(_match, islice(_products(combinations), how.limit)))
        mark = self._advance(buffers)
        # A right one waits for lefts that can still come; with more series also for those that wait for another right.
        wait = how.before_ms if how.series == 2 else how.before_ms + how.after_ms
        pushed_out = 0
        for number, readings in enumerate(kept):
            del readings[: bisect_left(readings, (mark - (how.after_ms if number == 0 else wait),))]
            pushed_out += _shorten(readings, how.limit)
        return Added(matches, pushed_out=pushed_out, cut=wanted - len(matches))


def _products(combinations: Iterable[Sequence[Sequence[Kept]]]) -> Iterator[tuple[Kept, ...]]:
    for groups in combinations:
        yield from product(*groups)


def _match(kept: tuple[Kept, ...]) -> Match:
    return Match(max(one[0] for one in kept), tuple(map(_item, kept)))


def _item(kept: Kept) -> Item:
    return Item(kept[0], kept[2])


def _between(kept: Sequence[Kept], first: int, last: int) -> Sequence[Kept]:
    """Those with first <= time <= last."""
    return kept[bisect_left(kept, (first,)) : bisect_left(kept, (last + 1,))]


def _shorten(kept: list[Kept], limit: int) -> int:
    """Drop the oldest beyond the limit; how many they were."""
    surplus = max(0, len(kept) - limit)
    del kept[:surplus]
    return surplus
