"""What was measured, by label and by interval, in bounded memory however long a run is or a file of results.

Intervals begin as one second. When there would be more than `MOST_INTERVALS`, each two become one, so that a run of an
hour is drawn by intervals of eight seconds and one of a week by half an hour, and no count is lost. Labels beyond
`MOST_LABELS` and error texts beyond `MOST_ERRORS` are counted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import add, floordiv
from typing import Any

from gateway.devices.load.histogram import Histogram
from gateway.devices.load.samples import Sample

MOST_INTERVALS = 600
MOST_LABELS = 40
MOST_ERRORS = 500
#: Longer texts of errors are cut.
MOST_ERROR_TEXT = 300

OTHERS = "(others)"


class Cell:
    """Everything of one label within one interval, or of more of them."""

    __slots__ = ("ends", "errors", "received", "sent", "starts", "times")

    def __init__(self) -> None:
        #: Elapsed times in µs, those of failures too, as JMeter counts them.
        self.times = Histogram()
        self.errors = 0
        #: Bytes of datagrams.
        self.sent = 0
        self.received = 0
        #: The first sending and the last answer, in epoch ms.
        self.starts = 1 << 62
        self.ends = 0

    @property
    def count(self) -> int:
        return self.times.count

    @property
    def seconds(self) -> float:
        """From the first sending to the last answer, a millisecond at least."""
        return max(self.ends - self.starts, 1) / 1000 if self.count else 0.0

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.count / self.seconds if self.count else 0.0

    def merge(self, other: Cell) -> None:
        """Add all that another one counted."""
        self.times.merge(other.times)
        self.errors += other.errors
        self.sent += other.sent
        self.received += other.received
        self.starts = min(self.starts, other.starts)
        self.ends = max(self.ends, other.ends)


Interval = dict[str, Cell]
#: What tells one kind of error from another: label, code, message.
ErrorKind = tuple[str, str, str]


class Timeline:
    """Takes samples in batches, in any order of their times; a sample belongs where its answer came."""

    def __init__(self) -> None:
        #: In ms.
        self.width = 1000
        #: By the number of the interval: epoch ms divided by the width.
        self.intervals: dict[int, Interval] = {}
        self.errors: Counter[ErrorKind] = Counter()
        self.labels: dict[str, None] = {}
        self._newest = 0

    def add(self, batch: Sequence[Sample]) -> None:
        """Count a batch of samples; it takes some hundred nanoseconds for each."""
        if not batch:
            return
        columns = tuple(zip(*batch, strict=True))
        at, elapsed, labels = columns[:3]
        ends = list(map(add, at, map(floordiv, elapsed, repeat(1000))))
        first, last = min(ends), max(ends)
        while not self._spans(first, last):
            self._widen()
        if first // self.width == last // self.width and labels.count(labels[0]) == len(labels):
            self._count(first // self.width, labels[0], columns, last)
            return
        groups: dict[tuple[int, str], list[Sample]] = {}
        for sample, end in zip(batch, ends, strict=True):
            groups.setdefault((end // self.width, sample[2]), []).append(sample)
        for (slot, label), group in groups.items():
            end = max(sample[0] + sample[1] // 1000 for sample in group)
            self._count(slot, label, tuple(zip(*group, strict=True)), end)

    def _count(self, slot: int, label: str, columns: tuple[Any, ...], end: int) -> None:
        """Count samples of one interval and label, given by their columns; the last of them ended at ``end``."""
        interval = self.intervals.get(slot)
        if interval is None:
            interval = self._begin(slot)
        name = self._known(label)
        cell = interval.get(name)
        if cell is None:
            cell = interval[name] = Cell()
        at, elapsed, _, _, _, codes, successes, messages, sent, received = columns
        cell.times.add(elapsed)
        cell.sent += sum(sent)
        cell.received += sum(received)
        cell.starts = min(cell.starts, min(at))
        cell.ends = max(cell.ends, end)
        if not all(successes):
            for code, success, message in zip(codes, successes, messages, strict=True):
                if not success:
                    cell.errors += 1
                    self._fault((name, code, message[:MOST_ERROR_TEXT]))

    def total(self, label: str | None = None) -> Cell:
        """All of a label, or of all labels."""
        whole = Cell()
        for interval in self.intervals.values():
            for name, cell in interval.items():
                if label is None or name == label:
                    whole.merge(cell)
        return whole

    def over_time(self) -> Iterator[tuple[int, Interval]]:
        """(epoch ms at which it begins, the interval) of every interval from the first to the last, empty ones too."""
        if self.intervals:
            for slot in range(min(self.intervals), max(self.intervals) + 1):
                yield slot * self.width, self.intervals.get(slot, {})

    def _spans(self, first: int, last: int) -> bool:
        """Whether the intervals are long enough to reach from the one to the other, both in epoch ms."""
        slots = {first // self.width, last // self.width}
        if self.intervals:
            slots |= {min(self.intervals), max(self.intervals)}
        return max(slots) - min(slots) < MOST_INTERVALS

    def _begin(self, slot: int) -> Interval:
        # What lies two intervals back is hardly ever added to.
        for cell in self.intervals.get(self._newest - 1, {}).values():
            cell.times.pack()
        self._newest = slot
        interval = self.intervals[slot] = {}
        return interval

    def _widen(self) -> None:
        """Make each two intervals one."""
        self.width *= 2
        before, self.intervals = self.intervals, {}
        for slot, interval in before.items():
            into = self.intervals.setdefault(slot // 2, {})
            for label, cell in interval.items():
                if label in into:
                    into[label].merge(cell)
                else:
                    into[label] = cell
        for interval in self.intervals.values():
            for cell in interval.values():
                cell.times.pack()
        self._newest //= 2

    def _known(self, label: str) -> str:
        if label in self.labels:
            return label
        name = label if len(self.labels) < MOST_LABELS else OTHERS
        self.labels[name] = None
        return name

    def _fault(self, kind: ErrorKind) -> None:
        if kind not in self.errors and len(self.errors) >= MOST_ERRORS:
            kind = (OTHERS, "", "")
        self.errors[kind] += 1
