"""How far behind the target is, and when the source's retention will delete what it does not have yet.

Looks at the source alone, so it goes on while the line to the target is cut: that is when it matters. It has a consumer
of its own for a glance at the oldest record that is not replicated, and changes nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from connectors import kafka
from connectors.replicator.lane import Lane
from connectors.replicator.metrics import Metrics
from connectors.replicator.survey import Partition

_log = structlog.get_logger("headwater.replicator")

_EVERY = 5.0
_CALL = 5.0
_GLANCE = 50
_ALARM_HOURS = 24.0
_ALARM_EVERY = 3600.0
_UNLIMITED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What of one source partition the target does not have."""

    records: int
    oldest_ms: int  # time stamp of its first record, epoch ms
    record_bytes: float  # of one record on average
    records_per_second: float  # that the source still takes in


def hours_left(backlog: Backlog, now_ms: int, *, retention_ms: int, retention_bytes: int) -> float:
    """Hours until the source's retention may delete the first record of the backlog; inf if it never will.

    Kafka deletes whole segments, by the time stamp of their last record and by the bytes of what follows; this is the
    earliest that it can come to that. Retention settings are Kafka's: ms and bytes of a partition, -1 for no limit.
    """
    if backlog.records == 0:
        return math.inf
    left = math.inf
    if retention_ms != _UNLIMITED:
        left = (backlog.oldest_ms + retention_ms - now_ms) / 3_600_000
    if retention_bytes != _UNLIMITED:
        room = retention_bytes - backlog.records * backlog.record_bytes
        growth = backlog.records_per_second * backlog.record_bytes
        if room <= 0:
            left = 0.0
        elif growth > 0:
            left = min(left, room / growth / 3600)
    return max(0.0, left)


class Meter:
    """Measures all lanes' sources every five seconds, in a thread of its own."""

    def __init__(
        self, lanes: Sequence[Lane], metrics: Metrics, stop: threading.Event, wall_ms: Callable[[], int]
    ) -> None:
        self._lanes = lanes
        self._metrics = metrics
        self._stop = stop
        self._wall_ms = wall_ms
        self._ends: dict[Partition, tuple[float, int]] = {}
        self._alarmed: dict[str, float] = {}

    def run(self) -> None:
        """Measure until the stop event is set; a source that does not answer is measured when it does."""
        while not self._stop.is_set():
            for lane in self._lanes:
                try:
                    self._measure(lane, lane.source)
                except (kafka.KafkaException, kafka.Unreachable) as exc:
                    _log.debug("not measured", lane=lane.spec.name, reason=str(exc))
                if self._stop.is_set():
                    return
            self._stop.wait(_EVERY)

    def _measure(self, lane: Lane, client: kafka.AdminClient) -> None:
        facts = kafka.describe_topics(client, lane.spec.topics, timeout=_CALL)
        partitions = [(name, number) for name, fact in facts.items() for number in range(fact.partitions)]
        bounds = kafka.log_bounds(client, partitions, timeout=_CALL)
        positions = self._positions(lane, partitions)
        behind = {}
        for key, (first, end) in bounds.items():
            at = max(first, positions.get(key, first))
            self._metrics.lag.labels(key[0], str(key[1])).set(max(0, end - at))
            if end > at:
                behind[key] = (at, end)
            else:
                self._metrics.lag_seconds.labels(key[0], str(key[1])).set(0)
                self._metrics.retention_left.labels(key[0], str(key[1])).set(math.inf)
                self._ends.pop(key, None)
        if not behind:
            return
        settings = kafka.topic_configs(client, sorted({topic for topic, _ in behind}), timeout=_CALL)
        for key, (at, end) in behind.items():
            self._weigh(lane, key, at, end, settings[key[0]])

    def _positions(self, lane: Lane, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """What the lane has carried; of one that has not reached its target yet, what it last told the source."""
        if lane.progress is not None:
            return {key: at.offset for key, at in lane.progress.items()}
        if not lane.spec.tell_source or not partitions:
            return {}
        with kafka.glance(lane.spec.source, lane.spec.group) as reader:
            told = reader.committed([kafka.TopicPartition(*key) for key in partitions], timeout=_CALL)
        return {(tp.topic, tp.partition): tp.offset for tp in told if tp.offset >= 0}

    def _weigh(self, lane: Lane, key: Partition, at: int, end: int, settings: dict[str, str]) -> None:
        series = (key[0], str(key[1]))
        glance = self._glance(lane, key, at)
        if glance:
            age_ms = self._wall_ms() - glance[0].timestamp()[1]
            self._metrics.lag_seconds.labels(*series).set(max(0, age_ms) / 1000)
        if not glance or "delete" not in settings["cleanup.policy"]:
            self._metrics.retention_left.labels(*series).set(math.inf)
            return
        now = time.monotonic()
        before, end_before = self._ends.setdefault(key, (now, end))
        backlog = Backlog(
            records=end - at,
            oldest_ms=glance[0].timestamp()[1],
            record_bytes=sum(_bytes(message) for message in glance) / len(glance),
            records_per_second=(end - end_before) / (now - before) if now - before >= _EVERY / 2 else 0.0,
        )
        hours = hours_left(
            backlog,
            self._wall_ms(),
            retention_ms=int(settings["retention.ms"]),
            retention_bytes=int(settings["retention.bytes"]),
        )
        # A series begins with its first value: one that is made before it is known would show 0, an alarm.
        self._metrics.retention_left.labels(*series).set(hours * 3600)
        if hours < _ALARM_HOURS and now - self._alarmed.get(key[0], -math.inf) > _ALARM_EVERY:
            self._alarmed[key[0]] = now
            _log.warning(
                f"retention will delete records that are not replicated in {hours:.1f} hours",
                gateway=lane.spec.gateway,
                topic=key[0],
                partition=key[1],
                behind=end - at,
            )

    def _glance(self, lane: Lane, key: Partition, at: int) -> list[kafka.Message]:
        """The first records from ``at`` on."""
        with kafka.glance(
            lane.spec.source, lane.spec.group, enable_partition_eof=True, fetch_message_max_bytes=16_384,
            queued_max_messages_kbytes=64,
        ) as reader:  # fmt: skip
            reader.assign([kafka.TopicPartition(*key, at)])
            first = reader.poll(_CALL)
            found = [] if first is None else [first, *reader.consume(_GLANCE - 1, 0)]
        return [message for message in found if message.error() is None]


def _bytes(message: kafka.Message) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in message.headers() or ())
    return len(message) + len(message.key() or b"") + headers + 16
