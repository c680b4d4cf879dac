"""The log of each partition: where it begins and ends, where a time is in it, and a bounded look at its records."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.kafka.answers import REFUSALS, NotAllowed, Unreachable, answering, in_words
from connectors.kafka.cluster import Cluster, cluster_of, glance
from connectors.kafka.topics import counts_seen_by

#: librdkafka's own bounds are 64 MiB of each partition, and a second of rest once they are reached.
_READ_AHEAD: Mapping[str, Any] = {
    "enable_partition_eof": True,
    "queued_max_messages_kbytes": 4096,
    "queued_min_messages": 20_000,
    "fetch_queue_backoff_ms": 5,
    # The end of a partition is told when a question for more is answered, which Kafka else does after half a second.
    "fetch_wait_max_ms": 10,
}


def log_bounds(
    client: AdminClient, partitions: Sequence[tuple[str, int]], *, committed: bool = True, timeout: float = 10.0
) -> dict[tuple[str, int], tuple[int, int]]:
    """The first offset that is still there and the next one to come, by (topic, partition).

    ``committed``: the end is that of the data that a read_committed consumer sees; else it is the high watermark.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        KafkaException: the broker refused to tell, for instance as the topic does not exist.
    """
    if not partitions:
        return {}
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    bounds = []
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):
        asked = client.list_offsets(
            {TopicPartition(*partition): spec for partition in partitions},
            isolation_level=level,
            request_timeout=timeout,
        )
        with answering("where its logs begin and end", cluster_of(client)):
            bounds.append({(tp.topic, tp.partition): f.result(timeout + 1).offset for tp, f in asked.items()})
    first, end = bounds
    # librdkafka reports a leader that does not answer as an offset that is none.
    if min(*first.values(), *end.values(), 0, 0) < 0:
        raise Unreachable("Kafka did not tell where its logs begin and end")
    return {partition: (first[partition], end[partition]) for partition in partitions}


def offset_since(client: AdminClient, partition: tuple[str, int], since_ms: int, *, timeout: float = 10.0) -> int:
    """The offset of the first record with a time stamp of ``since_ms`` (epoch ms) or later; the end if there is none.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        KafkaException: the broker refused to tell.
    """
    asked = client.list_offsets(
        {TopicPartition(*partition): OffsetSpec.for_timestamp(since_ms)}, request_timeout=timeout
    )
    with answering("where a time is in its logs", cluster_of(client)):
        found: int = next(iter(asked.values())).result(timeout + 1).offset
    return found if found >= 0 else log_bounds(client, [partition], timeout=timeout)[partition][1]


def end_offsets(cluster: Cluster, topics: Sequence[str], *, timeout: float = 10.0) -> dict[tuple[str, int], int]:
    """The high watermark by (topic, partition) of every partition of ``topics`` that exist."""
    with glance(cluster, "headwater-offsets") as reader:
        return {
            (name, partition): _watermarks(reader, TopicPartition(name, partition), timeout)[1]
            for name, count in counts_seen_by(reader, cluster, topics, timeout).items()
            for partition in range(count)
        }


def read_to_end(
    cluster: Cluster,
    topics: Sequence[str],
    *,
    since_ms: int | None = None,
    newest: int | None = None,
    read: dict[tuple[str, int], int] | None = None,
    timeout: float = 10.0,
    group: str = "headwater-reader",
) -> Iterator[Message]:
    """Every record of ``topics`` from ``since_ms`` (epoch ms; None: the beginning) up to the end as it is now.

    With ``newest``, at most about so many of each partition, the newest ones. A few megabytes are read ahead.
    ``read`` has how far (topic, partition) were read before, which is where it goes on, and is told how far they are.

    A bounded look at the log, without a consumer group; ``group`` is a name that Kafka's client asks for all the same,
    so it has to be one that the identity may use. It ends when each partition's present end is reached, and it waits at
    most ``timeout`` seconds for the next record.

    Raises:
        Unreachable: the broker went silent before the end was reached.
    """
    with glance(cluster, group, **_READ_AHEAD) as reader:
        counts = counts_seen_by(reader, cluster, topics, timeout)
        wanted = [
            TopicPartition(name, p, OFFSET_BEGINNING if since_ms is None else since_ms)
            for name, count in counts.items()
            for p in range(count)
        ]
        if since_ms is not None:
            wanted = reader.offsets_for_times(wanted, timeout=timeout)
        if not wanted:
            return
        ends = {}
        for partition in wanted:
            low, high = _watermarks(reader, partition, timeout)
            ends[partition.topic, partition.partition] = high
            if read is not None and 0 <= (before := read.get((partition.topic, partition.partition), -1)) <= high:
                partition.offset = before
            if newest is not None and (partition.offset >= 0 or partition.offset == OFFSET_BEGINNING):
                partition.offset = max(partition.offset, low, high - newest)
        reader.assign(wanted)
        unread = dict.fromkeys(ends)
        while unread:
            # consume() alone would wait for its full count or the full timeout, also when the end is already reached.
            first = reader.poll(timeout)
            if first is None:
                raise Unreachable(f"Kafka at {cluster.bootstrap} went silent while {', '.join(topics)} was read")
            for message in (first, *reader.consume(1000, timeout=0)):
                error = message.error()
                if error is None:
                    yield message
                    # Its position is no help: librdkafka counts the end of a partition as a record.
                    if read is not None:
                        read[message.topic(), message.partition()] = message.offset() + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.pop((message.topic(), message.partition()), None)
                elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise NotAllowed(error, in_words(error, cluster, f"read {message.topic()}"))
                elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise KafkaException(error)
            # Where records come without a pause there is never an end to be told of.
            for place in reader.position([TopicPartition(*one) for one in unread]):
                if place.offset >= ends[place.topic, place.partition]:
                    unread.pop((place.topic, place.partition), None)


def _watermarks(reader: Consumer, place: TopicPartition, timeout: float) -> tuple[int, int]:
    """The low and the high one; asked again where the partition was only just made, or changes its leader."""
    until = time.monotonic() + timeout
    while True:
        try:
            low, high = reader.get_watermark_offsets(place, timeout=timeout)
            return low, high
        except KafkaException as exc:
            code = exc.args[0].code()
            if code in REFUSALS:
                raise NotAllowed(exc.args[0], in_words(exc.args[0], None, f"asked where {place.topic} ends")) from exc
            leaderless = code in (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
            if not leaderless or time.monotonic() > until:
                raise
        time.sleep(0.05)
