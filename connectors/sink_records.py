"""From a record as it stands in Kafka to one that a sink can take. Pure; it never decides what becomes of a bad one."""

from __future__ import annotations

from functools import lru_cache

from connectors.dead_letters import RawRecord
from connectors.sinks.sink import SinkRecord
from schemas.avro import serde
from schemas.avro.records import Key
from schemas.avro.topics import TopicKind, Topics


@lru_cache(maxsize=1024)
def owner(topic: str) -> tuple[str, TopicKind]:
    """Whose topic it is, and of which family; asked for with every record.

    Raises:
        UnknownTopic: it is none of a gateway's.
    """
    topics, kind = Topics.of(topic)
    return topics.gateway, kind


def sink_record(raw: RawRecord) -> SinkRecord:
    """The record, decoded.

    Raises:
        SerdeError: the key or the value is no record of ours.
    """
    key = None if raw.key is None else serde.decode(raw.key)
    if key is not None and not isinstance(key, Key):
        raise serde.SerdeError(f"the key is a {type(key).__name__}")
    return SinkRecord(
        topic=raw.topic,
        partition=raw.partition,
        offset=raw.offset,
        timestamp=raw.timestamp,
        headers=raw.headers,
        key=key,
        record=serde.decode(raw.value or b""),
        gateway=owner(raw.topic)[0],
    )
