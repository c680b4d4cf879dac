"""Windows over event time: tumbling, hopping and sliding, of one series, folded as its readings come. Pure.

Owns when a window is final, what becomes of late readings, and the bytes in which a series is kept between two of them.
There is no clock in here: event time is in the readings, and ``now`` is the gateway's clock as its records tell it.

A window is put out once, when it is closed:
- by its own series: a reading is ``grace`` past its end (in event time), or
- by silence: the series said nothing for ``size + grace`` by the gateway's clock.
So a device whose clock is wrong closes its own windows only, and one that sends yesterday's measurements in one go has
all of them counted. A reading is late, and left out, when all windows that it belongs to are closed.

Tumbling and hopping windows begin at multiples of ``hop`` since 1970 (UTC). They are kept as panes that do not overlap,
so that a reading is folded once however many windows hold it, and a window is the sum of its panes. A sliding window
ends at a reading and holds those of the ``size`` before it, the oldest instant left out: one result a reading.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import NamedTuple, Protocol

#: Event times are kept within these, so that no window leaves the 64 bits that a record has.
EARLIEST, LATEST = 0, 2**53
#: How many readings a sliding window keeps of one series, and how many panes a window has at most.
MOST_READINGS, MOST_PANES = 10_000, 4_000
#: How many panes are kept of one series at most: what they take must fit into a record of Kafka (1 MB).
MOST_KEPT_PANES = 16_000


class Function(Enum):
    """What can be asked of a window."""

    COUNT = "count"
    MIN = "min"
    MAX = "max"
    MEAN = "mean"
    SUM = "sum"
    LAST = "last"
    RANGE = "range"


@dataclass(frozen=True, slots=True)
class Window:
    """A closed window with at least one reading; ``start`` inclusive, ``end`` exclusive, epoch ms.

    Of a sliding window ``end`` is the millisecond after its last reading.
    """

    start: int
    end: int
    count: int
    min: float
    max: float
    sum: float
    last: float

    @property
    def mean(self) -> float:
        """Between min and max also where the sum was rounded or overflowed."""
        return min(max(self.sum / self.count, self.min), self.max)

    def value(self, function: Function) -> float:
        """The result of ``function``."""
        if function is Function.RANGE:
            return self.max - self.min
        found = getattr(self, function.value)
        return float(found)


class Step(NamedTuple):
    """What a reading or a silence does.

    ``kept``: the series from now on. ``closed``: the windows that it closed, in the order of their ends.
    """

    kept: bytes
    closed: list[Window]
    late: bool = False


class Windows(Protocol):
    """How the readings of a series become windows."""

    #: By the gateway's clock, in ms: a series that said nothing for so long has its windows closed.
    patience: int

    def add(self, kept: bytes | None, time: int, value: float, now: int) -> Step:
        """A reading with its event time; ``now`` is the gateway's clock, both epoch ms. ``kept`` None: a new series."""

    def silence(self, kept: bytes) -> Step:
        """The series fell silent: all its windows are closed."""

    def heard(self, kept: bytes) -> int:
        """The gateway's clock at the series' last reading that was not late."""

    def empty(self, kept: bytes) -> bool:
        """Whether no window is open."""


def latest(kept: bytes) -> int:
    """The latest event time of a series."""
    return int(_HEAD.unpack_from(kept)[1])


def heard_at(kept: bytes, now: int) -> bytes:
    """The series as if it had been heard last at ``now`` by the gateway's clock."""
    return _HEARD.pack(now) + kept[_HEARD.size :]


#: When it was heard last, the latest event time, and the end up to which windows are closed.
_HEAD = Struct("<qqq")
_HEARD = Struct("<q")
#: Start, count, min, max, sum, last, and the event time of the last.
_PANE = Struct("<qqddddq")
_NEVER = -(2**62)

_Pane = tuple[int, int, float, float, float, float, int]


class Hopping:
    """Windows of ``size`` that begin every ``hop``; where both are the same they tumble. All in ms."""

    def __init__(self, size: int, hop: int, grace: int) -> None:
        """Raises ValueError where that makes no windows, or too many."""
        if size < 1 or grace < 0:
            raise ValueError("a window lasts at least 1 ms, and its grace is not negative")
        if not 1 <= hop <= size:
            raise ValueError(
                f"windows of {size} ms cannot begin every {hop} ms: a hop is longer than 0, and no longer than the "
                "window, or readings would be in none"
            )
        self._size, self._hop, self._grace, self._pane = size, hop, grace, math.gcd(size, hop)
        if size // self._pane > MOST_PANES:
            raise ValueError(
                f"a window of {size} ms every {hop} ms has {size // self._pane} parts, more than {MOST_PANES}; choose "
                "a hop that goes into the window more evenly"
            )
        if (size + grace) // self._pane > MOST_KEPT_PANES:
            raise ValueError(
                f"with a grace of {grace} ms, {(size + grace) // self._pane} parts of {self._pane} ms have to be kept, "
                f"more than {MOST_KEPT_PANES}; choose a shorter grace or longer windows"
            )
        self.patience = size + grace

    def add(self, kept: bytes | None, time: int, value: float, now: int) -> Step:
        time = min(max(time, EARLIEST), LATEST)
        if kept is None:
            heard, latest, closed = now, time, _NEVER
            panes: list[_Pane] = []
        else:
            heard, latest, closed = _HEAD.unpack_from(kept)
            if time - time % self._hop + self._size <= closed:
                return Step(kept, [], True)
            heard, latest = max(heard, now), max(latest, time)
            panes = list(_PANE.iter_unpack(memoryview(kept)[_HEAD.size :]))
        _fold(panes, time - time % self._pane, time, value)
        upto = latest - self._grace
        done: list[Window] = []
        if (ended := upto - (upto - self._size) % self._hop) > closed:
            done, panes, _ = self._close(panes, closed, ended)
            closed = ended
        return Step(b"".join((_HEAD.pack(heard, latest, closed), *(_PANE.pack(*pane) for pane in panes))), done)

    def silence(self, kept: bytes) -> Step:
        heard, latest, closed = _HEAD.unpack_from(kept)
        panes = list(_PANE.iter_unpack(memoryview(kept)[_HEAD.size :]))
        done, _, closed = self._close(panes, closed, LATEST + self._size)
        return Step(_HEAD.pack(heard, latest, closed), done)

    def heard(self, kept: bytes) -> int:
        return int(_HEAD.unpack_from(kept)[0])

    def empty(self, kept: bytes) -> bool:
        return len(kept) == _HEAD.size

    def _close(self, panes: list[_Pane], closed: int, upto: int) -> tuple[list[Window], list[_Pane], int]:
        """The windows that end by ``upto``, the panes that later ones need, and the last end of those windows."""
        size, hop = self._size, self._hop
        done: list[Window] = []
        while panes:
            first = panes[0][0]
            # The earliest window with the first pane that is not closed: ends are a hop apart.
            end = max(((first - size) // hop + 1) * hop + size, closed + hop)
            if end > upto:
                break
            done.append(_together([pane for pane in panes if pane[0] < end], end - size, end))
            closed = end
            panes = [pane for pane in panes if pane[0] - pane[0] % hop + size > closed]
        return done, panes, closed


def _fold(panes: list[_Pane], start: int, time: int, value: float) -> None:
    """A reading into the pane at ``start``, which is made if it is not there. Panes are in order, newest last."""
    for at in range(len(panes) - 1, -1, -1):
        pane = panes[at]
        if pane[0] == start:
            _, count, low, high, total, last, last_time = pane
            if time >= last_time:
                last, last_time = value, time
            panes[at] = (start, count + 1, min(low, value), max(high, value), total + value, last, last_time)
            return
        if pane[0] < start:
            panes.insert(at + 1, (start, 1, value, value, value, value, time))
            return
    panes.insert(0, (start, 1, value, value, value, value, time))


def _together(panes: list[_Pane], start: int, end: int) -> Window:
    if len(panes) == 1:
        _, count, low, high, total, last, _ = panes[0]
        return Window(start, end, count, low, high, total, last)
    return Window(
        start,
        end,
        sum(pane[1] for pane in panes),
        min(pane[2] for pane in panes),
        max(pane[3] for pane in panes),
        sum(pane[4] for pane in panes),
        panes[-1][5],
    )


#: Time and value of a reading.
_READING = Struct("<qd")


class Sliding:
    """Of each reading the window of the ``size`` before it, itself included. In ms.

    At most `MOST_READINGS` of a series are kept; beyond, the oldest result is put out before its grace is over.
    """

    def __init__(self, size: int, grace: int) -> None:
        """Raises ValueError where that makes no windows."""
        if size < 1 or grace < 0:
            raise ValueError("a window lasts at least 1 ms, and its grace is not negative")
        self._size, self._grace = size, grace
        self.patience = size + grace

    def add(self, kept: bytes | None, time: int, value: float, now: int) -> Step:
        time = min(max(time, EARLIEST), LATEST)
        if kept is None:
            heard, latest, closed = now, time, _NEVER
            readings: list[tuple[int, float]] = []
        else:
            heard, latest, closed = _HEAD.unpack_from(kept)
            if time <= closed:
                return Step(kept, [], True)
            heard, latest = max(heard, now), max(latest, time)
            readings = list(_READING.iter_unpack(memoryview(kept)[_HEAD.size :]))
        # Of one instant in the order of arrival.
        insort(readings, (time, value), key=_time_of)
        upto = latest - self._grace - 1
        if len(readings) > MOST_READINGS:
            upto = max(upto, readings[-MOST_READINGS - 1][0])
        done = self._ended(readings, closed, upto)
        closed = max(closed, upto)
        readings = readings[bisect_right(readings, closed - self._size, key=_time_of) :][-MOST_READINGS:]
        return Step(_kept(heard, latest, closed, readings), done)

    def silence(self, kept: bytes) -> Step:
        heard, latest, closed = _HEAD.unpack_from(kept)
        readings = list(_READING.iter_unpack(memoryview(kept)[_HEAD.size :]))
        done = self._ended(readings, closed, latest)
        return Step(_kept(heard, latest, max(closed, latest), readings), done)

    def heard(self, kept: bytes) -> int:
        return int(_HEAD.unpack_from(kept)[0])

    def empty(self, kept: bytes) -> bool:
        _, latest, closed = _HEAD.unpack_from(kept)
        return bool(latest <= closed)

    def _ended(self, readings: list[tuple[int, float]], closed: int, upto: int) -> list[Window]:
        """The windows of the readings after ``closed`` up to ``upto``, one an instant."""
        done = []
        at = bisect_right(readings, closed, key=_time_of)
        while at < len(readings) and (time := readings[at][0]) <= upto:
            at = bisect_right(readings, time, lo=at, key=_time_of)
            values = [value for _, value in readings[bisect_right(readings, time - self._size, key=_time_of) : at]]
            start = time + 1 - self._size
            done.append(Window(start, time + 1, len(values), min(values), max(values), sum(values), values[-1]))
        return done


def _time_of(reading: tuple[int, float]) -> int:
    return reading[0]


def _kept(heard: int, latest: int, closed: int, readings: list[tuple[int, float]]) -> bytes:
    return b"".join((_HEAD.pack(heard, latest, closed), *(_READING.pack(*reading) for reading in readings)))
