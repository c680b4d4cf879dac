"""The records that analytics jobs write beside ordinary observations. Field names are the Avro names in snake_case.

Times are epoch milliseconds of event time: the device's own where it gave one, else the gateway's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """AvroAggregate: one window, ``start`` inclusive, ``end`` exclusive; ``path`` None is the whole endpoint."""

    server_id: str
    ep: str
    start: int
    end: int
    count: int
    min: float
    max: float
    mean: float
    sum: float
    last: float
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """AvroStatistics: of a series since its beginning, up to the value at ``timestamp``."""

    server_id: str
    ep: str
    path: str
    timestamp: int
    mean: float
    std_dev: float
    variance: float
    stream_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichedReading:
    """AvroEnrichedReading: a reading, the distribution that it was held against, and the verdict."""

    server_id: str
    ep: str
    path: str
    timestamp: int
    value: float
    mean: float
    std_dev: float
    z_score: float
    outlier: bool


class AlertState(Enum):
    FIRING = "FIRING"
    RESOLVED = "RESOLVED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """AvroAlert: an alert that began (FIRING) or ended (RESOLVED); both have the same ``id`` and ``since``."""

    id: str
    rule: str
    server_id: str
    ep: str
    path: str
    severity: str
    state: AlertState
    value: float
    threshold: float
    since: int
    timestamp: int
    summary: str


AnalyticsRecord = Aggregate | Statistics | EnrichedReading | Alert
