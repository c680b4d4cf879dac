"""Quix's application as the jobs need it: its settings, what it may never do to a state, and how it is getting on.

Owns every use of Quix that is no documented surface of it, but for the turn of a record (`analytics.turn`):
 - the state of a partition outlives Kafka's retention. Quix throws it away where the group's offset is older than the
   oldest record there is; here the group goes on at that record with the state as it was, and what is lost is counted
 - what it waits for: its consumer group, or its state from the changelog topics
 - how far it is behind, by partition
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from quixstreams import Application
from quixstreams.kafka import ConnectionConfig
from quixstreams.state.rocksdb import RocksDBOptions

from analytics.instance import Instance
from analytics.job import JobSettings
from analytics.metrics import JobMetrics
from connectors.kafka import KafkaException, TopicPartition

__all__ = ["JobApplication"]

_log = structlog.get_logger("headwater.analytics")

_JOINING = "joining its consumer group"
_RECOVERING = "making its state anew from Kafka"
_LOOK_S = 1.0
#: Within the call in which the group hands partitions over, which must be short.
_ASK_S = 10.0
#: Between two records.
_GAP_S = 1.0


class JobApplication(Application):
    """Quix's, for the topics ``inputs``. Everything but `waits` and `recovering` belongs to the thread that runs it."""

    def __init__(self, settings: JobSettings, instance: Instance, inputs: Sequence[str], metrics: JobMetrics) -> None:
        self._job, self._inputs, self._metrics = settings.kind.name, frozenset(inputs), metrics
        #: What the job waits for before it takes records; None: it takes them. Read by other threads.
        self.waits: str | None = _JOINING
        #: Where reading began, and the end of the log then, until records have come.
        self._began: dict[tuple[str, int], tuple[int, int]] = {}
        #: By topic and partition: the offset after the last record that was read.
        self._next: dict[str, dict[int, int]] = {}
        #: The widest gap before a record since the last look: its first offset, and the record's.
        self._gaps: dict[tuple[str, int], tuple[int, int]] = {}
        self._looked = 0.0
        super().__init__(**_settings(settings, instance))
        self.between(self._look)

    @property
    def recovering(self) -> bool:
        """Whether the state is made anew: that takes as long as it takes, and the loop does not turn."""
        return self.waits is _RECOVERING

    def between(self, task: Callable[[], None]) -> None:
        """Call ``task`` at every turn of the loop; not while the state is made anew."""
        self._dataframe_registry.register_periodic_task(task)

    # ---- what is read

    def next_offsets(self, topic: str) -> dict[int, int]:
        """Which record is expected next of each partition; whoever takes records keeps it."""
        return self._next.setdefault(topic, {})

    def skipped(self, topic: str, partition: int, first: int, offset: int) -> None:
        """The record at ``offset`` came where that at ``first`` was expected.

        Most such gaps are the markers of transactions, and what was aborted: the next look tells.
        """
        known = self._gaps.get((topic, partition))
        if offset - first > 1 and (known is None or known[1] - known[0] < offset - first):
            self._gaps[topic, partition] = (first, offset)

    # ---- partitions come and go: Quix calls these

    def _on_assign(self, consumer: Any, topic_partitions: list[TopicPartition]) -> None:
        super()._on_assign(consumer, topic_partitions)
        # None of them for an instance too many: it stands by, and that is as it should be.
        self.waits = _RECOVERING if self._state_manager.recovery_required else None

    def _assign_partitions(self, topic_partitions: list[TopicPartition]) -> None:
        self._past_what_is_lost([one for one in topic_partitions if one.topic in self._inputs])
        super()._assign_partitions(topic_partitions)

    def _on_revoke(self, consumer: Any, topic_partitions: list[TopicPartition]) -> None:
        super()._on_revoke(consumer, topic_partitions)
        self._gone(topic_partitions)

    def _on_lost(self, consumer: Any, topic_partitions: list[TopicPartition]) -> None:
        super()._on_lost(consumer, topic_partitions)
        self._gone(topic_partitions)

    def _gone(self, topic_partitions: list[TopicPartition]) -> None:
        self.waits = _JOINING
        for one in topic_partitions:
            self._began.pop((one.topic, one.partition), None)
            self._gaps.pop((one.topic, one.partition), None)
            self.next_offsets(one.topic).pop(one.partition, None)
            if one.topic in self._inputs:
                self._metrics.lag_gone(one.topic, one.partition)

    def _past_what_is_lost(self, places: list[TopicPartition]) -> None:
        """Move the group's offsets to the oldest record that is left where Kafka has deleted the next ones."""
        for one in self._consumer.committed(places, timeout=_ASK_S) if places else ():
            if one.error is not None:
                raise KafkaException(one.error)
            low, high = self._consumer.get_watermark_offsets(TopicPartition(one.topic, one.partition), timeout=_ASK_S)
            self._began[one.topic, one.partition] = (max(one.offset, low), high)
            if one.offset >= 0:
                self.next_offsets(one.topic)[one.partition] = max(one.offset, low)
            if not 0 <= one.offset < low:
                continue
            moved = TopicPartition(one.topic, one.partition, low)
            for done in self._consumer.commit(offsets=[moved], asynchronous=False) or ():
                if done.error is not None:
                    raise KafkaException(done.error)
            self._lost(one.topic, one.partition, one.offset, low)

    def _lost(self, topic: str, partition: int, first: int, goes_on_at: int) -> None:
        self._metrics.lost(goes_on_at - first)
        _log.error(
            "records are lost: Kafka deleted them before they were read; the state is kept",
            job=self._job,
            topic=topic,
            partition=partition,
            lost=goes_on_at - first,
            first=first,
            goes_on_at=goes_on_at,
        )

    def _look_into_gaps(self) -> None:
        """Whether Kafka has deleted records in front of the position: its client then goes on without a word.

        What was aborted is taken for lost where Kafka deletes it between its being passed and this look: it is not told
        when it went.
        """
        for place, (first, offset) in [*self._gaps.items()]:
            try:
                low, _ = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=_GAP_S)
            except KafkaException:
                # It is away: the rest would wait as long. They are asked for at the next look.
                return
            del self._gaps[place]
            if low > first:
                self._lost(*place, first, min(low, offset))

    # ---- how it is getting on

    def _look(self) -> None:
        if self.waits is _RECOVERING:
            self.waits = None
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        self._look_into_gaps()
        for (topic, partition), (began, end) in self._began.items():
            here = TopicPartition(topic, partition)
            try:
                watermarks = self._consumer.get_watermark_offsets(here, cached=True)
                position = self._consumer.position([here])[0].offset
            except KafkaException:
                # Just assigned, and not looked up yet.
                continue
            high = max(watermarks[1] if watermarks else -1, end)
            self._metrics.lag(topic, partition, max(0, high - (position if position >= 0 else began)))

    def _setup_signal_handlers(self) -> None:
        """The command owns these."""


def _settings(settings: JobSettings, instance: Instance) -> dict[str, Any]:
    return {
        "broker_address": ConnectionConfig.from_librdkafka_dict(
            {"bootstrap.servers": settings.bootstrap, **settings.cluster.tls_settings}
        ),
        "consumer_group": settings.group_id,
        "auto_offset_reset": "earliest",
        "processing_guarantee": "exactly-once",
        "commit_interval": settings.commit_s,
        "state_dir": instance.folder,
        "loglevel": None,
        # RocksDB would fill 64 MiB a partition with changes before it writes them, and keep 1 GiB of what it read. The
        # keys are few here, and written again and again.
        "rocksdb_options": RocksDBOptions(write_buffer_size=4 * 1024 * 1024, block_cache_size=32 * 1024 * 1024),
        "consumer_poll_timeout": 0.2,
        # Waiting for Kafka is ours.
        "broker_availability_timeout": 0,
        "on_processing_error": lambda _exc, _row, _logger: False,
        # Where records vanish between our look and its own, it begins anew, and the state is kept all the same.
        "auto_recover_from_source_offset_out_of_range": False,
        "consumer_extra_config": {
            "isolation.level": "read_committed",
            "session.timeout.ms": int(settings.session_s * 1000),
            "heartbeat.interval.ms": int(settings.session_s * 1000 / 5),
            # Quix waits as long for a flush.
            "max.poll.interval.ms": 60_000,
            # Bounds what librdkafka holds in front of us, for all partitions together.
            "queued.max.messages.kbytes": 8192,
            "fetch.message.max.bytes": 1024 * 1024,
            "reconnect.backoff.max.ms": 1000,
        },
        "producer_extra_config": {
            # Two dots end the group, as they end a gateway's id (security.acls).
            "transactional.id": f"{settings.group_id}..{instance.id}",
            # What a process that died had under way holds up readers no longer than this.
            "transaction.timeout.ms": 20_000,
            "linger.ms": 20,
            # As the gateway's producer, so that an endpoint is in the same partition everywhere.
            "partitioner": "consistent_random",
            "reconnect.backoff.max.ms": 1000,
        },
    }
