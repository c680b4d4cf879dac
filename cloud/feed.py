"""A feed: the decoded records of some topics from a chosen place on, as they come.

Owns reading without a consumer group (nothing is left behind on the brokers), committed records only. It never raises
for a record that cannot be decoded: that is an Item with an error.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

from connectors.kafka import (
    Cluster,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    NotAllowed,
    TopicMissing,
    TopicPartition,
    Unreachable,
    consumer,
    in_words,
    partition_counts,
    silence,
)
from schemas.avro.records import Record
from schemas.avro.serde import SerdeError, decode

#: How long one call into librdkafka may take: it holds back Ctrl-C for as long.
SLICE = 0.2
#: How often a feed from which nothing comes asks whether Kafka answers, and how long it waits for that.
_LOOK_EVERY_S, _LOOK_S = 4.0, 1.0

_NO_LEADER_YET = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


class Start(Enum):
    BEGINNING = "beginning"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One record as it lies in its topic; ``record`` is None where ``error`` says why it could not be decoded."""

    topic: str
    partition: int
    offset: int
    #: The record's time in epoch ms as Kafka has it; -1 where it has none.
    timestamp: int
    key: Record | None
    record: Record | None
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...] = ()
    error: str | None = None


class Feed:
    """The records of ``topics``: from the beginning, from the end, or the last ``last`` of each partition.

    The places are fixed when it is made, so that what is produced afterwards is certainly in the feed.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        TopicMissing: one of the topics does not exist.
    """

    def __init__(
        self,
        cluster: Cluster,
        topics: Sequence[str],
        *,
        start: Start = Start.BEGINNING,
        last: int | None = None,
        timeout: float = 10.0,
    ) -> None:
        counts = partition_counts(cluster, topics, timeout=timeout)
        for topic in topics:
            if topic not in counts:
                raise TopicMissing(f"topic {topic} does not exist at {cluster.bootstrap}")
        self._cluster = cluster
        self._silence: str | None = None
        self._looked = time.monotonic()
        #: By partition: where it ended when the feed was made.
        self._ends: dict[tuple[str, int], int] = {}
        self._consumer: Consumer = consumer(cluster, "headwater-feed", enable_partition_eof=True)
        try:
            self._places = [
                self._place(TopicPartition(topic, partition), start, last, timeout)
                for topic in topics
                for partition in range(counts[topic])
            ]
        except BaseException:
            self._consumer.close()
            raise
        self._behind = {(place.topic, place.partition) for place in self._places}
        self._consumer.assign(self._places)

    def _place(self, of: TopicPartition, start: Start, last: int | None, timeout: float) -> TopicPartition:
        deadline = time.monotonic() + timeout
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(of, timeout=max(0.1, deadline - time.monotonic()))
                break
            except KafkaException as exc:
                # A topic that was made this moment has no leader yet.
                if exc.args[0].code() in _NO_LEADER_YET and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                if exc.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise NotAllowed(exc.args[0], in_words(exc.args[0], self._cluster, f"read {of.topic}")) from exc
                raise Unreachable(
                    f"Kafka at {self._cluster.bootstrap} did not say where {of.topic} ends ({exc.args[0].str()}); "
                    "is the broker that leads it running?"
                ) from exc
        self._ends[of.topic, of.partition] = high
        if last is not None:
            return TopicPartition(of.topic, of.partition, max(low, high - last))
        return TopicPartition(of.topic, of.partition, low if start is Start.BEGINNING else high)

    @property
    def caught_up(self) -> bool:
        """True once all that was there when the feed was made has been given; later records change nothing."""
        return not self._behind

    def poll(self, timeout: float = SLICE) -> list[Item]:
        """The records that came within ``timeout`` seconds, maybe none.

        Raises:
            Unreachable: the client gave up for good.
        NotAllowed: the right to read was taken away.
            TopicMissing: a topic was deleted meanwhile.
        """
        items = []
        for message in self._consumer.consume(500, timeout=timeout):
            error = message.error()
            if error is None:
                items.append(item(message))
                # Where records come all the time the end of a partition may never be met, and what was there has come.
                place = (message.topic(), message.partition())
                if place in self._behind and message.offset() + 1 >= self._ends[place]:
                    self._behind.discard(place)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard((message.topic(), message.partition()))
            elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise NotAllowed(error, in_words(error, self._cluster, f"read {message.topic()}"))
            elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicMissing(f"topic {message.topic()} does not exist at {self._cluster.bootstrap} any more")
            elif error.fatal():
                raise Unreachable(f"Kafka at {self._cluster.bootstrap}: {error.str()}")
        return items

    def silence(self) -> str | None:
        """Why nothing comes, if it is that Kafka does not answer; asked every few seconds.

        For whoever follows for long and got nothing: Kafka's client waits in silence for one that is away.
        """
        if time.monotonic() - self._looked >= _LOOK_EVERY_S:
            try:
                self._consumer.list_topics(self._places[0].topic, timeout=_LOOK_S)
                self._silence = None
            except KafkaException:
                self._silence = silence(self._cluster)
            self._looked = time.monotonic()
        return self._silence

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def item(message: Message) -> Item:
    """A Kafka message as an Item; a key that is no known record is left out, as console producers send any."""
    value = message.value() or b""
    record, error = None, None
    try:
        record = decode(value)
    except SerdeError as exc:
        error = str(exc)
    key = None
    if message.key():
        try:
            key = decode(message.key())
        except SerdeError:
            key = None
    _, timestamp = message.timestamp()
    return Item(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp=timestamp,
        key=key,
        record=record,
        value=value,
        headers=tuple(message.headers() or ()),
        error=error,
    )
