"""The loop of a sink: from topics into a store, with nothing lost and nothing committed that was not written.

Owns the consumer group, the order of each batch's steps, back-pressure and dead letters. It knows no store: that is
`connectors.sinks.sink.Sink`. More instances with the same group share the partitions.

The steps of one batch; where one is cut short, all from the first on happen again, here or at another instance:

 1. gather    records up to a bound of count, bytes and time; more stay in Kafka
 2. decode    what cannot be decoded becomes a dead letter (stage ``decode``)
 3. write     the store takes all but those that it refuses (dead letters, stage ``sink:NAME``). While it says
              RetryLater the partitions are paused and polling goes on, so that the group keeps us; records of
              partitions that are taken away meanwhile are forgotten: their next owner reads them
 4. bury      the dead letters are acknowledged by all replicas of the dead-letter topic
 5. commit    the offsets behind the batch

A crash between 3 and 5 repeats records into the store, whose write is idempotent, and dead letters into their topic,
where their origin tells them apart. So at the end a store that hangs is left behind in the middle of 3, and nothing is
lost by it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from connectors.dead_letters import DeadLetter, DeadLetterOffice, RawRecord, raw_record
from connectors.hanging import LeftBehind, StoreCalls, within
from connectors.kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
    consumer,
    end_offsets,
)
from connectors.kafka_waits import KafkaWaits
from connectors.letters_again import LettersAgain
from connectors.runner_metrics import RunnerMetrics
from connectors.share import Partition, Share
from connectors.sink_records import owner, sink_record
from connectors.sink_settings import SinkSettings, Source
from connectors.sinks import SINKS
from connectors.sinks.sink import (
    RejectedRecords,
    Remembers,
    RetryLater,
    Sink,
    SinkKind,
    SinkRecord,
    Start,
)
from schemas.avro import serde
from schemas.avro.topics import UnknownTopic

_log = structlog.get_logger("headwater.sink")

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 30.0
#: Of the ten seconds that a process has to stop: what leaving the group may take, and when all is to be over.
CLOSE_S = 4.0
END_S = 8.5
#: A loop that has not turned for this long is stuck.
STUCK_S = 120.0

#: The stage of a dead letter that could not be decoded, by any sink.
DECODE = "decode"


@dataclass(slots=True, kw_only=True)
class Taken:
    """A record on its way: where it was read, what it is (None: not for this sink), and what became of it."""

    place: Partition
    offset: int
    raw: RawRecord | None
    decoded: SinkRecord | None = None
    letter: DeadLetter | None = None


class SinkLoop:
    """One consumer, one sink. `run` is called once; `stuck`, `waiting_for` and `partitions` from any thread."""

    def __init__(self, settings: SinkSettings, kind: SinkKind | None = None) -> None:
        """``kind`` stands in for the row of `SINKS`: a sink of one's own."""
        self.settings = settings
        self._kind = kind or SINKS[settings.sink]
        self._stage = f"sink:{self._kind.name}"
        self._metrics = RunnerMetrics(self._kind.name, settings.group_id)
        #: Records that the store took (again, where they came again), and those that became dead letters.
        self.stored = self.buried = 0
        self._turned = time.monotonic()
        self._store_waits: str | None = None
        self._kafka_waits = KafkaWaits(self._kind.name, settings)
        self._stop_seen: float | None = None
        self.calls = StoreCalls()
        #: What ended it, told before the store is closed: that may hang.
        self.failure: BaseException | None = None
        # All below belongs to the thread of the loop.
        self._stop = threading.Event()
        self._batch: list[Taken] = []
        self._work: list[Taken] = []
        self._share = Share(self._kind.name, self._metrics)
        #: For Source.DEAD_LETTERS.
        self._letters: LettersAgain | None = None
        self._looked = 0.0
        self._consumer: Consumer = None
        self._office = DeadLetterOffice(settings.kafka)
        self._remembers: Remembers | None = None

    def stuck(self) -> str | None:
        """Why the process should be started anew, or None."""
        idle = time.monotonic() - self._turned
        return f"sink {self._kind.name}: its loop has not turned for {idle:.0f} s" if idle > STUCK_S else None

    def waiting_for(self) -> str | None:
        """What keeps the sink from working now, or None."""
        return self._store_waits or self._kafka_waits.reason

    @property
    def sink(self) -> str:
        """The sink's name."""
        return self._kind.name

    @property
    def partitions(self) -> frozenset[Partition]:
        """Those that the group has given it, as of now."""
        return frozenset(self._share.held)

    @property
    def under_way(self) -> Sequence[Taken]:
        """The batch that is being handled."""
        return self._work

    def told_to_stop(self, at: float) -> None:
        """The time, of the monotonic clock, from which the end is counted."""
        self._stop_seen = at

    def leave_group(self) -> None:
        """Leave the consumer group; of a loop that was left behind, from another thread."""
        if self._consumer is not None:
            self._consumer.close()

    def run(self, stop: threading.Event) -> None:
        """Carry records until ``stop`` is set, or all dead letters are read. Raises as `connectors.runner.run_sink`.

        Raises:
            LeftBehind: nobody waited for the store any more.
        """
        self._stop = stop
        settings = self.settings
        with self.calls.asking("open"):
            sink = self._kind.open(settings.options)
        opened: object = sink
        self._remembers = opened if isinstance(opened, Remembers) else None
        try:
            if settings.source is Source.DEAD_LETTERS:
                ends = end_offsets(settings.kafka, settings.subscription())
                self._letters = LettersAgain(ends, {DECODE, self._stage}, self._kind.topics)
            self._consumer = consumer(
                settings.kafka,
                settings.group_id,
                partition_assignment_strategy="cooperative-sticky",
                topic_metadata_refresh_interval_ms=5000,
                session_timeout_ms=int(settings.session_s * 1000),
                heartbeat_interval_ms=int(settings.session_s * 1000 / 5),
                enable_partition_eof=self._letters is not None,
                # Bounds what librdkafka holds in front of us, for all partitions together.
                queued_max_messages_kbytes=8192,
                fetch_message_max_bytes=1024 * 1024,
                error_cb=self._kafka_waits.error,
                on_commit=self._share.on_commit,
            )
            self._share.consumer = self._consumer
            try:
                self._consumer.subscribe(
                    settings.subscription(),
                    on_assign=self._on_assign,
                    on_revoke=self._on_revoke,
                    on_lost=self._on_lost,
                )
                while not stop.is_set() and not self._at_the_end():
                    self._gather()
                    self._handle(sink)
                    self._look_around()
            finally:
                within(max(0.5, min(CLOSE_S, END_S - self._stopping_for())), self._leave)
        except LeftBehind:
            raise
        except BaseException as exc:
            self.failure = exc
            raise
        finally:
            self._office.close()
            with self.calls.asking("close"):
                sink.close()

    # ---- 1. gather

    def _gather(self) -> None:
        """Fill the batch up to its bounds; it may hold records that came while the last one was handled."""
        size = sum(taken.raw.size for taken in self._batch if taken.raw)
        deadline: float | None = None
        while len(self._batch) < self.settings.batch_records and size < self.settings.batch_bytes:
            if deadline is None and self._batch:
                deadline = time.monotonic() + self.settings.linger_s
            wait = 0.2 if deadline is None else min(0.2, deadline - time.monotonic())
            if wait <= 0:
                return
            size += self._poll(wait)
            if self._stop.is_set() or not self._batch:
                return

    def _poll(self, timeout: float) -> int:
        """One step of the consumer: a record into the batch (its size is returned), a rebalance, a report, nothing."""
        self._turned = time.monotonic()
        message = self._consumer.poll(timeout)
        if message is None:
            self._kafka_waits.probe(self._consumer, self._turned)
            return 0
        error = message.error()
        if error is None:
            self._kafka_waits.over()
            return self._take(raw_record(message))
        if error.code() == KafkaError._PARTITION_EOF:
            if self._letters is not None:
                self._letters.reached((message.topic(), message.partition()), message.offset())
            return 0
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            self._kafka_waits.missing(message.topic())
        else:
            self._kafka_waits.error(error)
        if error.fatal():
            raise KafkaException(error)
        return 0

    def _take(self, raw: RawRecord) -> int:
        place = (raw.topic, raw.partition)
        self._share.arrived(place)
        try:
            owner(raw.topic)
        except UnknownTopic:
            # It matched the pattern of all gateways, but is nobody's.
            self._batch.append(Taken(place=place, offset=raw.offset, raw=None))
            return raw.size
        if self._letters is None:
            self._batch.append(Taken(place=place, offset=raw.offset, raw=raw))
            return raw.size
        if not self._letters.is_old(place, raw.offset):
            return 0
        self._batch.append(Taken(place=place, offset=raw.offset, raw=self._letters.to_try(raw)))
        self._letters.reached(place, raw.offset + 1)
        return raw.size

    def _at_the_end(self) -> bool:
        return self._letters is not None and not self._batch and self._letters.all_read(self._share.held)

    # ---- 2. decode

    def _decode(self) -> None:
        for taken in self._work:
            if taken.raw is None or taken.decoded is not None or taken.letter is not None:
                continue
            try:
                taken.decoded = sink_record(taken.raw)
            except serde.SerdeError as exc:
                taken.letter = DeadLetter(record=taken.raw, error=str(exc), stage=DECODE)

    # ---- 3. write

    def _write(self, sink: Sink) -> bool:
        """Write the work; False if it was not written because the process stops."""
        backoff = FIRST_BACKOFF_S
        while True:
            # Anew for each attempt: partitions may have been taken away while we waited.
            records = [taken.decoded for taken in self._work if taken.decoded is not None]
            if not records:
                break
            try:
                with self._metrics.write_seconds.time(), self.calls.asking("write"):
                    sink.write(records)
                self._took(len(records))
                break
            except RejectedRecords as exc:
                self._took(len(records) - len(exc.rejected))
                reasons = {(r.topic, r.partition, r.offset): reason for r, reason in exc.rejected}
                for taken in self._work:
                    origin = taken.decoded and (taken.decoded.topic, taken.decoded.partition, taken.decoded.offset)
                    if taken.raw is not None and origin in reasons:
                        taken.letter = DeadLetter(record=taken.raw, error=reasons[origin], stage=self._stage)
                break
            except RetryLater as exc:
                wait = min(MAX_BACKOFF_S, backoff if exc.after_s is None else exc.after_s)
                backoff = min(MAX_BACKOFF_S, backoff * 2)
                self._store_waits = exc.reason
                self._metrics.retries.inc()
                self._metrics.waiting.set(1)
                _log.warning("the store takes nothing now", sink=self._kind.name, reason=exc.reason, retry_in_s=wait)
                if not self._wait(wait):
                    return False
        if self._store_waits is not None:
            _log.info("the store takes records again", sink=self._kind.name)
            self._store_waits = None
            self._metrics.waiting.set(0)
        return True

    def _took(self, records: int) -> None:
        self.stored += records
        self._metrics.records.inc(records)

    def _wait(self, seconds: float) -> bool:
        """Stay in the group for so long without taking more; False if the process is to stop."""
        self._share.pause()
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            self._poll(min(left, 0.2))
        return not self._stop.is_set()

    # ---- 4. bury

    def _bury(self) -> bool:
        letters = [taken.letter for taken in self._work if taken.letter is not None]
        if letters and not self._office.deliver(letters, self._kafka_may_come_back):
            return False
        self.buried += len(letters)
        for letter in letters:
            self._metrics.dead_letter(letter.stage)
        if letters:
            # One line a batch, however many there are: they are all in the topic.
            first = letters[0]
            _log.warning(
                "records put into the dead-letter topic",
                count=len(letters),
                stage=first.stage,
                error=first.error[:200],
                topic=first.record.topic,
                partition=first.record.partition,
                offset=first.record.offset,
            )
        return True

    def _kafka_may_come_back(self) -> bool:
        self._share.pause()
        self._poll(0)
        return not self._stop.is_set() or self._stopping_for() < CLOSE_S / 2

    # ---- 5. commit

    def _handle(self, sink: Sink) -> None:
        """Steps 2 to 5 for what was gathered."""
        if not self._batch:
            return
        self._work, self._batch = self._batch, []
        self._decode()
        if self._write(sink) and self._bury():
            for taken in self._work:
                self._share.wrote(taken.place, taken.offset + 1)
            self._metrics.batches.inc()
            self._share.commit()
        # else the process stops: nothing of this is committed, and what follows it has not been taken up.
        self._work = []
        self._share.resume()

    # ---- the group

    def _on_assign(self, reader: Consumer, positions: list[TopicPartition]) -> None:
        self._kafka_waits.over()
        self._share.gained(_places(positions))
        if self._kind.start is Start.BEGINNING and self.settings.source is Source.TOPICS:
            for position in positions:
                position.offset = OFFSET_BEGINNING
        reader.incremental_assign(positions)

    def _on_revoke(self, _reader: Consumer, positions: list[TopicPartition]) -> None:
        self._forget(_places(positions), commit=True)

    def _on_lost(self, _reader: Consumer, positions: list[TopicPartition]) -> None:
        # Another instance may have them already: our position is no longer ours to tell.
        self._forget(_places(positions), commit=False)

    def _forget(self, gone: set[Partition], *, commit: bool) -> None:
        self._share.losing(gone)
        self._batch = [taken for taken in self._batch if taken.place not in gone]
        self._work = [taken for taken in self._work if taken.place not in gone]
        if self._letters is not None:
            self._letters.forget_tried()
        if commit:
            # Without its coordinator librdkafka may hold a waiting commit for ever, and the whole loop with it. What is
            # not committed is read again, and the store knows it.
            within(CLOSE_S, lambda: self._share.commit_now(gone))
        self._share.gone(gone)
        if self._remembers is not None and not self.calls.left_behind:
            self._remembers.lost(gone)

    def _leave(self) -> None:
        if self.calls.left_behind:
            return
        self._share.commit_now()
        self._consumer.close()

    # ---- the surroundings

    def _look_around(self) -> None:
        """Now and then: offsets that are still to be committed, and lag."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        self._share.commit()
        for topic, partition in self._share.held:
            here = TopicPartition(topic, partition)
            try:
                _, high = self._consumer.get_watermark_offsets(here, cached=True) or (0, 0)
                position = self._consumer.position([here])[0].offset
            except KafkaException:
                # Just assigned, and not looked up yet.
                continue
            if position >= 0 and high >= 0:
                self._metrics.lag(topic, partition, max(0, high - position))

    def _stopping_for(self) -> float:
        if self._stop_seen is None:
            self._stop_seen = time.monotonic()
        return time.monotonic() - self._stop_seen


def _places(positions: Sequence[TopicPartition]) -> set[Partition]:
    return {(position.topic, position.partition) for position in positions}
