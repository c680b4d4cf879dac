"""What is done with each record of a job, and between records: the turn.

Owns how a record comes to the job, what becomes of one that cannot be handled, and what is done when none comes. It
never looks into a value: that is the job's.

One turn, in Quix's own order (`quixstreams.checkpointing`), of about `JobSettings.commit_s`:
 1. take    each record goes to the job, which reads and writes its state and puts out results, in one Kafka transaction
 2. log     changes of the state go to the changelog topic, in the same transaction
 3. commit  the offsets go into the transaction, and it is committed: results, state and offsets are there, or none is
 4. keep    the state is written to the folder (RocksDB)
A process that dies before 3 leaves nothing; what was done is done again, from the state of the last commit. A folder
that is behind or gone is made good from the changelog topic.

Results go to the producer of the transaction straight, and the state is asked for by partition: both are what Quix's
own `StreamingDataFrame` does, less a serialization and a state per message key; why is told in the decision on windows
(docs/decisions/).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
from quixstreams import MessageContext, message_context

from analytics.application import JobApplication
from analytics.job import (
    NO_STATE,
    WHEN_PUT_OUT,
    BadRecord,
    Emit,
    Headers,
    Incoming,
    Job,
    JobKind,
    PartlyDone,
    State,
)
from analytics.metrics import JobMetrics
from connectors import kafka
from connectors.dead_letters import DeadLetter, RawRecord, letter_headers, shorter
from schemas.avro.serde import SerdeError

__all__ = ["Turn", "idled"]

_log = structlog.get_logger("headwater.analytics")

#: Above it a dead letter goes without its value: one that Kafka refuses would fail the transaction for ever.
_MOST_LETTER_BYTES = 900_000


class Turn:
    """What Quix calls for each record and between records. Belongs to the thread of the application."""

    def __init__(
        self,
        app: JobApplication,
        job: Job,
        kind: JobKind,
        metrics: JobMetrics,
        deadletter: str,
        turned: Callable[[], None],
    ) -> None:
        """``deadletter``: the topic of dead letters; ``turned`` is called about once a second while the loop turns."""
        self._app = app
        self._job = job
        self._kind = kind
        self._metrics = metrics
        self._deadletter = deadletter
        self._turned = turned
        #: Not told to the metrics yet: records taken in, and put out.
        self._taken = self._put = 0

    def tell(self) -> None:
        """The metrics, of what was done since the last time."""
        taken, put = self._taken, self._put
        self._taken = self._put = 0
        self._metrics.records.inc(taken)
        self._metrics.results.inc(put)

    def read(self, name: str) -> None:
        """Take the records of a topic."""
        topic = self._app.topic(name, key_deserializer="bytes", value_deserializer="bytes")
        frame = self._app.dataframe(topic)
        stateful = self._kind.stateful
        if stateful:
            frame.register_store()
        context = frame.processing_context
        stream = frame.stream_id
        produce = context.producer.produce
        job, monotonic = self._job, time.monotonic
        #: When each partition last had a record, by the monotonic clock.
        heard: dict[int, float] = {}
        #: The states of the partitions in the checkpoint that is under way.
        states: dict[int, State] = {}
        checkpoint: object = None
        expected, skipped = self._app.next_offsets(name), self._app.skipped

        def state_of(partition: int) -> State:
            nonlocal checkpoint
            if not stateful:
                return NO_STATE
            if context.checkpoint is not checkpoint:
                checkpoint = context.checkpoint
                states.clear()
            state = states.get(partition)
            if state is None:
                state = context.checkpoint.get_store_transaction(stream, partition).as_state(prefix=b"")
                states[partition] = state
            return state

        def emit(
            topic: str, key: bytes | None, value: bytes | None, timestamp: int = WHEN_PUT_OUT, headers: Headers = ()
        ) -> None:
            # 0 is now, for Kafka's client.
            carried: Any = [*headers] if headers else None
            try:
                produce(topic, value, key, carried, timestamp=max(timestamp, 0))
            except kafka.KafkaException as exc:
                if exc.args[0].code() != kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                self._too_large(topic, len(value or b""))
                return
            self._put += 1

        def take(value: Any, key: Any, timestamp: int, headers: Any) -> None:
            at: MessageContext = message_context()
            partition = at.partition
            record = Incoming(at.topic, partition, at.offset, timestamp, key, value, headers or ())
            heard[partition] = monotonic()
            if record.offset != (due := expected.get(partition, record.offset)):
                skipped(name, partition, due, record.offset)
            expected[partition] = record.offset + 1
            try:
                job.take(record, state_of(partition), emit)
            except (SerdeError, BadRecord, PartlyDone) as exc:
                self._bury(record, exc, emit)
            self._taken += 1

        looked = monotonic()

        def between() -> None:
            """Called at every turn of the loop."""
            nonlocal looked
            now = monotonic()
            if now - looked < 1.0:
                return
            looked = now
            self._turned()
            self.tell()
            if not stateful or context.state_manager.recovery_required:
                return
            mine = context.state_manager.get_store(stream).partitions
            for gone in heard.keys() - mine.keys():
                # When it comes back, its silence begins then.
                del heard[gone]
            for partition in mine:
                silent = now - heard.setdefault(partition, now)
                if silent >= 1.0:
                    failed = idled(job, silent, state_of(partition), emit)
                    if failed is not None:
                        self._idle_failed(name, partition, failed)

        frame.update(take, metadata=True)
        self._app.between(between)

    # ---- what cannot be handled

    def _bury(self, record: Incoming, error: Exception, emit: Callable[..., None]) -> None:
        """Into the dead-letter topic, in the same transaction: once, whatever happens."""
        stage = "decode" if isinstance(error, SerdeError) else f"analytics:{self._kind.name}"
        self._metrics.dead_letter(stage)
        if record.topic == self._deadletter:
            # A filter reads it: a dead letter of the dead letter would be read next, for ever.
            _log.warning("dead letter left where it is", job=self._kind.name, error=str(error)[:200])
            return
        raw = RawRecord(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            headers=tuple(record.headers),
            key=record.key,
            value=record.value,
        )
        letter = DeadLetter(record=raw, error=str(error), stage=stage)
        while letter.record.size > _MOST_LETTER_BYTES and (less := shorter(letter)) != letter:
            letter = less
        emit(self._deadletter, letter.record.key, letter.record.value, WHEN_PUT_OUT, letter_headers(letter))
        _log.warning(
            "record put into the dead-letter topic",
            job=self._kind.name,
            stage=stage,
            error=str(error)[:200],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )

    def _too_large(self, topic: str, size: int) -> None:
        """A result that Kafka would never take is left out: the record would be done again for ever."""
        self._metrics.too_large()
        _log.error("result left out, too large for Kafka", job=self._kind.name, topic=topic, bytes=size)

    def _idle_failed(self, topic: str, partition: int, error: Exception) -> None:
        self._metrics.idle_failure(topic, partition)
        _log.warning(
            "left out of a silent partition",
            job=self._kind.name,
            topic=topic,
            partition=partition,
            error=str(error)[:200],
        )


def idled(job: Job, silent: float, state: State, emit: Emit) -> Exception | None:
    """Tell ``job`` of a silence; what it could not put out, or None.

    No record is at hand that could be a dead letter. Raised, it would end the process again after each start.
    """
    try:
        job.idle(silent, state, emit)
    except (SerdeError, BadRecord, PartlyDone) as exc:
        return exc
    return None
