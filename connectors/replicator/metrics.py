"""What the replicator tells of itself to Prometheus. Counts what others do, does nothing."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PREFIX = "headwater_replicator"


class Metrics:
    """All series of one replicator process, in ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.records = Counter(
            f"{_PREFIX}_records", "Records that a committed transaction carried", ["lane", "topic"], registry=registry
        )
        self.payload = Counter(
            f"{_PREFIX}_payload_bytes",
            "Keys, values and headers of those records",
            ["lane", "topic"],
            registry=registry,
        )
        self.transactions = Counter(f"{_PREFIX}_transactions", "Committed transactions", ["lane"], registry=registry)
        self.commit_seconds = Histogram(
            f"{_PREFIX}_commit_seconds",
            "From the last record handed over to the transaction committed",
            ["lane"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        self.restarts = Counter(
            f"{_PREFIX}_restarts", "Times a lane had to begin anew from the target's word", ["lane"], registry=registry
        )
        self.connected = Gauge(
            f"{_PREFIX}_connected", "1 while the lane reaches both its sides", ["lane"], registry=registry
        )
        self.lag = Gauge(
            f"{_PREFIX}_lag_records",
            "Offsets of the source that the target does not have yet",
            ["topic", "partition"],
            registry=registry,
        )
        self.lag_seconds = Gauge(
            f"{_PREFIX}_lag_seconds",
            "Age of the oldest record of the source that the target does not have yet; 0 when it has all",
            ["topic", "partition"],
            registry=registry,
        )
        self.retention_left = Gauge(
            f"{_PREFIX}_retention_left_seconds",
            "Time until the source's retention deletes what is not replicated; +Inf: nothing is at stake",
            ["topic", "partition"],
            registry=registry,
        )
        self.lost = Counter(
            f"{_PREFIX}_records_lost_to_retention",
            "Offsets that the source's retention deleted before they were replicated",
            ["topic"],
            registry=registry,
        )
        self.refused = Counter(
            f"{_PREFIX}_records_refused",
            "Records that are larger than the target's topic takes, left out",
            ["topic"],
            registry=registry,
        )
        self.replaced = Counter(
            f"{_PREFIX}_sources_replaced",
            "Times a source topic turned out to be another one of the same name, or to have lost its end",
            ["topic"],
            registry=registry,
        )

    def begin(self, lane: str, topics: Iterable[str]) -> None:
        """Show what may go wrong with ``lane`` and its ``topics`` from 0 on: Prometheus takes a series that begins with
        1 for one that has not risen."""
        self.restarts.labels(lane)
        for topic in topics:
            for counter in (self.lost, self.refused, self.replaced):
                counter.labels(topic)
