"""What an audit found, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from gateway.devices.load.histogram import Histogram

_PERCENTILES = (50.0, 90.0, 99.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of so many values, in milliseconds."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, times: Histogram) -> Self:
        """Of times in µs."""
        p50, p90, p99 = (value / 1000 for value in times.percentiles(_PERCENTILES))
        return cls(count=times.count, p50_ms=p50, p90_ms=p90, p99_ms=p99, max_ms=times.most / 1000)

    def __str__(self) -> str:
        if not self.count:
            return "no value"
        return f"p50 {self.p50_ms:.1f} ms, p90 {self.p90_ms:.1f} ms, p99 {self.p99_ms:.1f} ms, max {self.max_ms:.1f} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """The counts of an audit; `gateway.devices.load.audit` says what the latencies mean."""

    topic: str
    #: Kafka's address.
    at: str
    #: Confirmable values that were sent and that were acknowledged; others that were sent.
    confirmable: int
    acknowledged: int
    unconfirmable: int
    #: Different values in the topic, by what they were.
    acknowledged_there: int
    unacknowledged_there: int
    unconfirmable_there: int
    #: Acknowledged and not in the topic.
    lost: int
    #: Records of a value that was there already.
    doubled: int
    #: Records behind one of the same endpoint and path with a higher value.
    out_of_order: int
    #: Values in the topic that are none of this load.
    foreign: int
    #: Records that are no Avro of ours.
    unreadable: int
    to_topic: Latency
    to_edge_log: Latency
    #: Some of the lost: (endpoint, path, value).
    lost_ones: tuple[tuple[str, str, float], ...] = ()

    @property
    def empty(self) -> bool:
        """No value was acknowledged, and none came without: there is nothing to say."""
        return not (self.acknowledged or self.unacknowledged_there or self.unconfirmable_there)

    @property
    def good(self) -> bool:
        """There is something, and nothing that was acknowledged is lost, doubled or out of order."""
        return not (self.empty or self.lost or self.doubled or self.out_of_order)

    @property
    def verdict(self) -> str:
        """It in a few words."""
        if self.empty:
            return "nothing to audit, no value was acknowledged"
        return "good" if self.good else "NOT GOOD"

    def text(self) -> str:
        """Some lines for people."""
        lines = [
            f"audit of {self.topic} at {self.at}: {self.verdict}",
            f"  acknowledged {self.acknowledged} of {self.confirmable} confirmable, in the topic"
            f" {self.acknowledged_there} of them: lost {self.lost}, doubled {self.doubled},"
            f" out of order {self.out_of_order}",
            f"  not acknowledged but in the topic {self.unacknowledged_there};"
            f" not confirmable {self.unconfirmable}, in the topic {self.unconfirmable_there};"
            f" of others {self.foreign}",
            f"  device → topic:    {self.to_topic}",
            f"  device → edge log: {self.to_edge_log}",
        ]
        if self.unreadable:
            lines.append(f"  {self.unreadable} records could not be read")
        lines += [f"  lost: {endpoint} {path} {value!r}" for endpoint, path, value in self.lost_ones]
        if self.lost > len(self.lost_ones):
            lines.append(f"  … and {self.lost - len(self.lost_ones)} more")
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {"good": self.good, **asdict(self), "lost_ones": [list(one) for one in self.lost_ones]}
