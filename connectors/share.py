"""What one consumer has of its group: its partitions, whether they are read now, and the offsets to commit.

Owns pausing and committing, and knows what librdkafka makes of both when partitions come and go. It decides neither
when to pause nor what was written. Used by the consumer's thread alone, whose callbacks it is called from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import structlog

from connectors.kafka import Consumer, KafkaError, KafkaException, TopicPartition
from connectors.runner_metrics import RunnerMetrics

_log = structlog.get_logger("headwater.sink")

#: Topic and number.
Partition = tuple[str, int]


class Share:
    """The partitions of one member of a group; ``consumer`` is set before anything is assigned."""

    def __init__(self, sink: str, metrics: RunnerMetrics) -> None:
        self.consumer: Consumer = None
        self.held: set[Partition] = set()
        self._sink = sink
        self._metrics = metrics
        self._written: dict[Partition, int] = {}
        self._pausing = False
        self._paused: set[Partition] = set()

    # ---- whether it is read

    def pause(self) -> None:
        """Take no more records until `resume`."""
        if not self._pausing:
            self._pausing = True
            self._pause(self.held)

    def resume(self) -> None:
        """Go on where `pause` stopped; of what is ours no more nothing is left to resume."""
        self._pausing = False
        self._resume(self._paused)

    def arrived(self, place: Partition) -> None:
        """A record of ``place`` was taken; while pausing it was assigned meanwhile, and is paused as well.

        Only now is it sure to be under way: librdkafka may never begin to read a partition that is paused in the
        moment in which it is assigned.
        """
        if self._pausing:
            self._pause({place})

    def _pause(self, places: Collection[Partition]) -> None:
        self._paused.update(places)
        self.consumer.pause([TopicPartition(*place) for place in places])

    def _resume(self, places: Collection[Partition]) -> None:
        if places:
            self.consumer.resume([TopicPartition(*place) for place in places])
            self._paused = self._paused - set(places)

    # ---- what comes and goes

    def gained(self, places: Collection[Partition]) -> None:
        """The group gave us ``places``."""
        self.held.update(places)

    def losing(self, places: Collection[Partition]) -> None:
        """``places`` go to others; what was written of them can still be committed, if they were not lost already."""
        # librdkafka keeps a partition's pause while others have it: it would come back and never be read again.
        self._resume(self._paused & set(places))
        self.held.difference_update(places)

    def gone(self, places: Collection[Partition]) -> None:
        """``places`` are others' now."""
        for place in places:
            self._written.pop(place, None)
            self._metrics.lag_gone(*place)

    # ---- what is committed

    def wrote(self, place: Partition, next_offset: int) -> None:
        """All before ``next_offset`` is in the store or a dead letter."""
        self._written[place] = next_offset

    def commit(self) -> None:
        """Send the offsets off; `on_commit` strikes them out, and what Kafka did not take goes with the next."""
        if self._written:
            try:
                self.consumer.commit(offsets=_positions(self._written), asynchronous=True)
            except KafkaException as exc:
                self._commit_failed(exc.args[0])

    def commit_now(self, places: Collection[Partition] | None = None) -> None:
        """Commit what was written of ``places`` (None: of all), and wait for it, maybe for ever."""
        wanted = list(self._written) if places is None else places
        written = {place: self._written.pop(place) for place in wanted if place in self._written}
        if written:
            try:
                self.consumer.commit(offsets=_positions(written), asynchronous=False)
            except KafkaException as exc:
                # Whoever has the partition next reads these again, and the store knows them.
                self._commit_failed(exc.args[0])

    def on_commit(self, error: KafkaError | None, positions: list[TopicPartition]) -> None:
        """The consumer's ``on_commit``."""
        if error is not None:
            self._commit_failed(error)
            return
        for done in positions:
            place = (done.topic, done.partition)
            if done.error is None and self._written.get(place, 0) <= done.offset:
                self._written.pop(place, None)

    def _commit_failed(self, error: KafkaError) -> None:
        self._metrics.commit_failures.inc()
        _log.info("offsets not committed yet", sink=self._sink, error=error.str())


def _positions(offsets: Mapping[Partition, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
