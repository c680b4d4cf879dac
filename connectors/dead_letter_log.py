"""Looking at the dead letters of a gateway: what lies in ``iot.<gw>.deadletter``, without taking anything out of it.

Owns reading them without a consumer group. A letter of any origin is told as far as its headers go: those of sinks and
of commands name the record that they were made from, those of a device's payload have no such record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from connectors.dead_letters import (
    ERROR,
    ORIGIN_OFFSET,
    ORIGIN_PARTITION,
    ORIGIN_TIMESTAMP,
    ORIGIN_TOPIC,
    STAGE,
    RawRecord,
    raw_record,
)
from connectors.kafka import (
    Cluster,
    KafkaError,
    KafkaException,
    TopicMissing,
    TopicPartition,
    Unreachable,
    admin,
    consumer,
    log_bounds,
    partition_counts,
    read_to_end,
)
from schemas.avro import serde
from schemas.avro.records import Key
from schemas.avro.topics import Topics


class NoSuchLetter(Exception):
    """There is no dead letter at that place; the text says what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the record was read that became a dead letter; ``timestamp`` in epoch milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A dead letter as it lies in its topic."""

    raw: RawRecord
    stage: str | None
    reason: str | None
    origin: Origin | None

    @property
    def ep(self) -> str | None:
        """The endpoint, if the key tells it."""
        try:
            key = serde.decode(self.raw.key or b"")
        except serde.SerdeError:
            return None
        return key.ep if isinstance(key, Key) else None


def letter(raw: RawRecord) -> Letter:
    """What the headers of a dead letter say."""
    said = {name: (value or b"").decode("utf-8", "replace") for name, value in raw.headers}
    origin = None
    if ORIGIN_TOPIC in said:
        partition, offset, timestamp = (
            _number(said.get(n)) for n in (ORIGIN_PARTITION, ORIGIN_OFFSET, ORIGIN_TIMESTAMP)
        )
        if partition is not None and offset is not None:
            origin = Origin(topic=said[ORIGIN_TOPIC], partition=partition, offset=offset, timestamp=timestamp)
    return Letter(raw=raw, stage=said.get(STAGE), reason=said.get(ERROR), origin=origin)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else None


def read_letters(cluster: Cluster, gateway: str, *, since_ms: int | None = None) -> Iterator[Letter]:
    """Every dead letter of ``gateway`` up to the present end, the oldest of each partition first.

    ``since_ms``: only those with a time (epoch ms, of the dead letter) of then or later.

    Raises:
        Unreachable: Kafka does not answer. TopicMissing: the gateway has no topic at all there.
    """
    topics = Topics(gateway)
    found = partition_counts(cluster, list(topics.partitions()))
    if not found:
        raise TopicMissing(f"gateway {gateway} has no topics at {cluster.bootstrap}; is its id right?")
    if topics.deadletter not in found:
        # It is made with the first letter.
        return
    for message in read_to_end(cluster, [topics.deadletter], since_ms=since_ms):
        raw = raw_record(message)
        # Times need not grow with the offsets.
        if since_ms is None or raw.timestamp >= since_ms:
            yield letter(raw)


def read_letter(cluster: Cluster, gateway: str, *, partition: int | None, offset: int, timeout: float = 10.0) -> Letter:
    """The dead letter at one place; ``partition`` may be None where there is but one.

    Raises:
        NoSuchLetter: it is not there, or the partition must be said.
        Unreachable: Kafka does not answer within ``timeout`` seconds. TopicMissing: there are no dead letters.
    """
    topic = Topics(gateway).deadletter
    count = partition_counts(cluster, [topic], timeout=timeout).get(topic)
    if count is None:
        raise TopicMissing(f"topic {topic} does not exist at {cluster.bootstrap}, so there are no dead letters")
    if partition is None and count > 1:
        raise NoSuchLetter(f"{topic} has {count} partitions: say which, as in 0:{offset}")
    place = (topic, partition or 0)
    if place[1] >= count:
        raise NoSuchLetter(f"{topic} has no partition {place[1]}; it has {count}, counted from 0")
    first, end = log_bounds(admin(cluster), [place], timeout=timeout)[place]
    if not first <= offset < end:
        held = f"offsets {first} to {end - 1}" if end > first else "none"
        raise NoSuchLetter(f"there is no dead letter {place[1]}:{offset} in {topic}; the partition holds {held}")
    reader = consumer(cluster, "headwater-reader", enable_partition_eof=True)
    try:
        reader.assign([TopicPartition(*place, offset)])
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            message = reader.poll(min(left, 0.2))
            if message is None:
                continue
            error = message.error()
            if error is None and message.offset() == offset:
                return letter(raw_record(message))
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                # A place where a transaction ends, or what was compacted or deleted meanwhile.
                raise NoSuchLetter(f"there is no record at {place[1]}:{offset} in {topic}")
            if error.fatal():
                raise KafkaException(error)
    finally:
        reader.close()
    raise Unreachable(f"Kafka at {cluster.bootstrap} went silent while {topic} was read")
