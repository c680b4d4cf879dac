"""The lines that a load tells as it runs: those of JMeter's Summariser, character by character.

``summary +`` is what came since the last line, ``summary =`` is all of it. Times are whole milliseconds, the elapsed
time is real time up to the line, and lines come at round times of the clock, so that several loads tell at once.
Where JMeter says nothing as nothing came, a line says 0 here: a server that stands still is to be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from gateway.devices.load.samples import Sample

NAME = "summary"
_ELAPSED = itemgetter(Sample._fields.index("elapsed_us"))
_SUCCESS = itemgetter(Sample._fields.index("success"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """How many virtual devices are at work, were started and have finished: JMeter's threads."""

    active: int = 0
    started: int = 0
    finished: int = 0


class _Running:
    """What JMeter keeps of the samples of a line."""

    def __init__(self, now_ms: int) -> None:
        self.count = self.errors = self.total_us = self.most_us = 0
        self.least_us = 1 << 62
        self.since_ms = now_ms

    def add(self, batch: Sequence[Sample]) -> None:
        elapsed = list(map(_ELAPSED, batch))
        self.count += len(batch)
        self.errors += len(batch) - sum(map(_SUCCESS, batch))
        self.total_us += sum(elapsed)
        self.most_us = max(self.most_us, max(elapsed))
        self.least_us = min(self.least_us, min(elapsed))

    def merge(self, other: _Running) -> None:
        self.count += other.count
        self.errors += other.errors
        self.total_us += other.total_us
        self.most_us = max(self.most_us, other.most_us)
        self.least_us = min(self.least_us, other.least_us)


class Summary:
    """Makes the lines and hands each to ``tell``; ``interval`` in seconds."""

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        now_ms: int,
        interval: int = 30,
        threads: Callable[[], Threads] = Threads,
        name: str = NAME,
    ) -> None:
        self._tell = tell
        self._interval_ms = interval * 1000
        self._threads = threads
        self._name = name
        self._delta = _Running(now_ms)
        self._total = _Running(now_ms)
        self._slot = now_ms // self._interval_ms
        self._told = False

    def add(self, batch: Sequence[Sample]) -> None:
        """Count samples."""
        if batch:
            self._delta.add(batch)

    def tick(self, now_ms: int) -> None:
        """Tell what is due at this time, in epoch ms."""
        slot = now_ms // self._interval_ms
        if slot == self._slot:
            return
        self._slot = slot
        before = self._total.count
        self._difference(now_ms)
        if before:
            self._line(self._total, "=", now_ms)

    def close(self, now_ms: int) -> None:
        """The last lines: the rest, if there were lines before, and all of it."""
        if self._told and self._delta.count:
            self._difference(now_ms)
        else:
            self._total.merge(self._delta)
        self._line(self._total, "=", now_ms)

    def _difference(self, now_ms: int) -> None:
        self._line(self._delta, "+", now_ms)
        self._told = True
        self._total.merge(self._delta)
        self._delta = _Running(now_ms)

    def _line(self, of: _Running, sign: str, now_ms: int) -> None:
        elapsed_ms = max(now_ms - of.since_ms, 0)
        rate = f"{of.count * 1000 / elapsed_ms:6.1f}" if elapsed_ms else "******"
        average, least = (of.total_us // of.count, of.least_us) if of.count else (0, 0)
        per_cent = 100 * of.errors / of.count if of.count else 0.0
        line = (
            f"{self._name} {sign} {of.count:6d} in {_duration((elapsed_ms + 500) // 1000)} = {rate}/s"
            f" Avg: {average // 1000:5d} Min: {least // 1000:5d} Max: {of.most_us // 1000:5d}"
            f" Err: {of.errors:5d} ({per_cent:.2f}%)"
        )
        if sign == "+":
            now = self._threads()
            line += f" Active: {now.active} Started: {now.started} Finished: {now.finished}"
        self._tell(line)


def _duration(seconds: int) -> str:
    """hh:mm:ss, with as many digits for the hours as it takes."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
