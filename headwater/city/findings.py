"""What the analytics of a sensor city found so far: statistics of each metric, outliers, alerts.

Pure: it takes records as they come from the topics. Memory is bounded by the number of series and of alerts that fire.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass

from schemas.avro.analytics_records import AlertState
from schemas.avro.records import Alert, EnrichedReading, Record, Statistics

#: So many of the last outliers are kept.
_LAST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """The statistics of several series in one: of all their readings."""

    count: int
    mean: float
    std_dev: float


class Findings:
    """Counts and latest results."""

    def __init__(self) -> None:
        self.readings = 0
        #: Readings and outliers by path, and the latest outliers, newest first.
        self.readings_of: Counter[str] = Counter()
        self.outliers_of: Counter[str] = Counter()
        self.last_outliers: deque[EnrichedReading] = deque(maxlen=_LAST)
        #: Alerts that began, and the rules of those that fire now by their ids.
        self.raised = 0
        self.firing: dict[str, Alert] = {}
        self._statistics: dict[tuple[str, str], Statistics] = {}

    @property
    def outliers(self) -> int:
        return self.outliers_of.total()

    @property
    def paths(self) -> set[str]:
        """Those of which there is a result."""
        return {path for _, path in self._statistics} | set(self.readings_of)

    def take(self, record: Record) -> None:
        """A record of one of the analytics topics; all others are nothing to it."""
        match record:
            case Statistics():
                known = self._statistics.get((record.ep, record.path))
                if known is None or record.stream_length >= known.stream_length:
                    self._statistics[record.ep, record.path] = record
            case EnrichedReading():
                self.readings += 1
                self.readings_of[record.path] += 1
                if record.outlier:
                    self.outliers_of[record.path] += 1
                    self.last_outliers.appendleft(record)
            case Alert(state=AlertState.FIRING):
                # Of an alert that goes on more may be told; it is the same.
                self.raised += record.id not in self.firing
                self.firing[record.id] = record
            case Alert():
                self.firing.pop(record.id, None)
            case _:
                pass

    def together(self, path: str) -> Together | None:
        """The statistics at ``path`` over all endpoints; None where there are none."""
        parts = [one for (_, at), one in self._statistics.items() if at == path and one.stream_length]
        count = sum(one.stream_length for one in parts)
        if not count:
            return None
        mean = math.fsum(one.stream_length * one.mean for one in parts) / count
        squares = math.fsum(one.stream_length * (one.variance + (one.mean - mean) ** 2) for one in parts)
        return Together(count=count, mean=mean, std_dev=math.sqrt(squares / count))
