"""Replay: a span of time of the log into a store once more, through the sink that also writes it while it runs.

Owns which records those are and where it stands. It reads without a consumer group, so the sink that runs is not
disturbed, and what it reads ends where the log ended when it was planned. It never produces: what cannot be decoded or
is refused was made a dead letter when the sink met it, and is only counted and told here.

The writes of a sink are idempotent, so a replay that was cut short, by whatever, is simply run again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from connectors.dead_letters import RawRecord, raw_record
from connectors.kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    NotAllowed,
    TopicMissing,
    TopicPartition,
    Unreachable,
    admin,
    consumer,
    in_words,
    log_bounds,
    offset_since,
    partition_counts,
    topic_counts,
)
from connectors.share import Partition
from connectors.sink_records import owner, sink_record
from connectors.sink_settings import ALL_GATEWAYS, SinkSettings
from connectors.sinks import SINKS
from connectors.sinks.sink import RejectedRecords, RetryLater, Sink, SinkKind, SinkRecord
from schemas.avro import serde
from schemas.avro.topics import TopicKind, Topics, UnknownTopic

FIRST_BACKOFF_S = 0.25
MAX_BACKOFF_S = 30.0
#: A Kafka from which nothing came for this long, with records still to come, is given up.
SILENCE_S = 30.0
#: So many records of other times are passed over before it is told how far it is.
REPORT_AFTER = 20_000
#: So many refusals are kept with their reasons; all are counted.
KEPT_REFUSALS = 20

DECODE = "decode"

#: Under which a replay only looks; nobody joins it.
GROUP = "headwater-replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The offsets of one partition that are read: from ``first`` up to, and without, ``end``."""

    first: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is replayed: by partition, and of it what has a time from ``from_ms`` up to, and without, ``to_ms``.

    Times are those of the Kafka records in epoch milliseconds; None is the beginning, or the end as it was found.
    """

    settings: SinkSettings
    from_ms: int | None
    to_ms: int | None
    spans: Mapping[Partition, Span]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A record that is not in the store, and why; ``stage`` as of a dead letter."""

    topic: str
    partition: int
    offset: int
    stage: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """How far a replay is; it grows while it runs."""

    #: All before these offsets is in the store, or was refused, or is of another time.
    done: dict[Partition, int]
    stored: int = 0
    #: Of those that are stored: whose values were decoded afresh.
    redecoded: int = 0
    refused: int = 0
    #: The first `KEPT_REFUSALS`.
    refusals: list[Refusal] = field(default_factory=list)
    #: Why the store takes nothing now.
    waits: str | None = None


#: What becomes of a record on its way into the store: another with the same identity, or None if it is left out.
Change = Callable[[SinkRecord], SinkRecord | None]


def plan_replay(
    settings: SinkSettings,
    *,
    from_ms: int | None,
    to_ms: int | None,
    kinds: Collection[TopicKind] | None = None,
    timeout: float = 10.0,
) -> Plan:
    """Find out what there is to replay; ``settings`` say the sink, its gateway (or all) and Kafka.

    ``kinds`` are the topics to read of those that the sink stores; None: all.

    Raises:
        TopicMissing: there are no topics of that gateway.
        Unreachable: Kafka does not answer. KafkaException: it refuses to.
    """
    client = admin(settings.kafka)
    places = [
        (topic, partition) for topic, count in _topics(settings, kinds, timeout).items() for partition in range(count)
    ]
    until = time.monotonic() + timeout
    while True:
        try:
            bounds = log_bounds(client, places, timeout=timeout)
            break
        except Unreachable:
            # The leader of a topic that was made this moment, or of a broker that just went, is not known yet.
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    spans = {}
    for place, (first, end) in bounds.items():
        start = first if from_ms is None else max(first, offset_since(client, place, from_ms, timeout=timeout))
        spans[place] = Span(first=min(start, end), end=end)
    return Plan(settings=settings, from_ms=from_ms, to_ms=to_ms, spans=spans)


def _topics(settings: SinkSettings, only: Collection[TopicKind] | None, timeout: float) -> dict[str, int]:
    kinds = [kind for kind in SINKS[settings.sink].topics if only is None or kind in only]
    if settings.gateway == ALL_GATEWAYS:
        found = {
            name: n for name, n in topic_counts(settings.kafka, timeout=timeout).items() if _is_one_of(name, kinds)
        }
    else:
        names = [Topics(settings.gateway).name(kind) for kind in kinds]
        found = partition_counts(settings.kafka, names, timeout=timeout)
    if not found:
        whose = "no gateway" if settings.gateway == ALL_GATEWAYS else f"gateway {settings.gateway}"
        has = "has" if settings.gateway == ALL_GATEWAYS else "has none of the"
        raise TopicMissing(
            f"{whose} {has} topics of the sink {settings.sink} at {settings.kafka.bootstrap}; is its id right?"
        )
    return found


def _is_one_of(topic: str, kinds: Sequence[TopicKind]) -> bool:
    try:
        return owner(topic)[1] in kinds
    except UnknownTopic:
        return False


def replay(
    plan: Plan,
    stop: threading.Event,
    report: Callable[[Tally], None] = lambda _tally: None,
    kind: SinkKind | None = None,
    change: Change | None = None,
) -> Tally:
    """Write what ``plan`` says into the store; returns when it is done, or soon after ``stop`` is set.

    ``change`` makes of each record the one that is written, or None where none is to be.

    ``report`` is called after every batch and when the store begins to wait. A store that is down is waited for.
    ``kind`` stands in for the row of `SINKS`.

    Raises:
        SinkConfigError: the sink's options are wrong.
        Unreachable: Kafka went silent before the end was reached. TopicMissing: a topic was deleted meanwhile.
    """
    sink = (kind or SINKS[plan.settings.sink]).open(plan.settings.options)
    try:
        return _Replay(plan, sink, stop, report, change).run()
    finally:
        sink.close()


class _Replay:
    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        stop: threading.Event,
        report: Callable[[Tally], None],
        change: Change | None,
    ) -> None:
        self._plan = plan
        self._change = change
        self._sink = sink
        self._stop = stop
        self._report = report
        self._stage = f"sink:{plan.settings.sink}"
        self.tally = Tally(done={place: span.first for place, span in plan.spans.items()})
        self._open = {place for place, span in plan.spans.items() if span.first < span.end}
        #: What was read of each partition, which is more than `Tally.done` while a batch is under way.
        self._read = dict(self.tally.done)

    def run(self) -> Tally:
        if not self._open:
            return self.tally
        reader = consumer(
            self._plan.settings.kafka,
            GROUP,
            enable_partition_eof=True,
            # Bounds what librdkafka holds in front of us, for all partitions together.
            queued_max_messages_kbytes=8192,
            fetch_message_max_bytes=1024 * 1024,
        )
        try:
            reader.assign([TopicPartition(*place, self._plan.spans[place].first) for place in self._open])
            while self._open and not self._stop.is_set():
                if self._write(self._gather(reader)):
                    self.tally.done.update(self._read)
                    self._report(self.tally)
        finally:
            reader.close()
        return self.tally

    def _gather(self, reader: Consumer) -> list[RawRecord]:
        settings = self._plan.settings
        batch: list[RawRecord] = []
        size = seen = 0
        heard = time.monotonic()
        while (
            len(batch) < settings.batch_records and size < settings.batch_bytes and self._open and seen < REPORT_AFTER
        ):
            messages = reader.consume(min(500, settings.batch_records - len(batch)), timeout=0.2)
            if self._stop.is_set() or (batch and not messages):
                break
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_S:
                raise Unreachable(self._silent())
            seen += len(messages)
            for message in messages:
                raw = self._take(message, reader)
                if raw is not None:
                    batch.append(raw)
                    size += raw.size
        return batch

    def _take(self, message: Message, reader: Consumer) -> RawRecord | None:
        """The record if it is one to replay."""
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicMissing(f"topic {message.topic()} was deleted meanwhile")
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise NotAllowed(error, in_words(error, self._plan.settings.kafka, f"read {message.topic()}"))
            if error.fatal():
                raise KafkaException(error)
            # One connection of several: librdkafka goes on by itself, or the silence tells.
            return None
        place = (message.topic(), message.partition())
        end = self._plan.spans[place].end
        offset = message.offset()
        beyond = error is not None or offset >= end
        self._read[place] = end if beyond else max(self._read[place], offset + 1)
        if self._read[place] >= end and place in self._open:
            self._open.discard(place)
            # What comes now is the running sink's.
            reader.pause([TopicPartition(*place)])
        if beyond:
            return None
        raw = raw_record(message)
        # By the record, not by the offset: times need not grow with the offsets.
        after = self._plan.from_ms is None or raw.timestamp >= self._plan.from_ms
        before = self._plan.to_ms is None or raw.timestamp < self._plan.to_ms
        return raw if after and before else None

    def _silent(self) -> str:
        left = ", ".join(
            f"{topic} {partition} at {self._read[topic, partition]} of {self._plan.spans[topic, partition].end}"
            for topic, partition in sorted(self._open)
        )
        return (
            f"Kafka at {self._plan.settings.kafka.bootstrap} went silent ({left}); run it again when Kafka is back: "
            "what was written is not written twice"
        )

    def _write(self, batch: Sequence[RawRecord]) -> bool:
        """False if it was not written because the replay stops."""
        records = []
        refused: list[Refusal] = []
        for raw in batch:
            try:
                record = sink_record(raw)
            except serde.SerdeError as exc:
                refused.append(_refusal(raw, DECODE, str(exc)))
                continue
            changed = record if self._change is None else self._change(record)
            if changed is not None:
                records.append(changed)
        backoff = FIRST_BACKOFF_S
        while records:
            try:
                self._sink.write(records)
                self.tally.stored += len(records)
                break
            except RejectedRecords as exc:
                self.tally.stored += len(records) - len(exc.rejected)
                refused.extend(_refusal(record, self._stage, reason) for record, reason in exc.rejected)
                break
            except RetryLater as exc:
                self.tally.waits = exc.reason
                self._report(self.tally)
                wait = min(MAX_BACKOFF_S, backoff if exc.after_s is None else exc.after_s)
                backoff = min(MAX_BACKOFF_S, backoff * 2)
                if self._stop.wait(wait):
                    return False
        self.tally.waits = None
        self.tally.redecoded += sum(record.redecoded for record in records)
        self.tally.refused += len(refused)
        self.tally.refusals.extend(refused[: max(0, KEPT_REFUSALS - len(self.tally.refusals))])
        return True


def _refusal(record: RawRecord | SinkRecord, stage: str, reason: str) -> Refusal:
    return Refusal(topic=record.topic, partition=record.partition, offset=record.offset, stage=stage, reason=reason)


def left(plan: Plan, tally: Tally) -> dict[Partition, int]:
    """How many offsets are still to be done, by partition that is not at its end."""
    return {place: span.end - tally.done[place] for place, span in plan.spans.items() if tally.done[place] < span.end}
