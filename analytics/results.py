"""Results of which there is one a reading, straight to bytes: what ``serde.encode`` makes of the same record. Pure.

Written for speed: all in front of the time is the same for a series, and the rest is numbers. So there is no record and
no dict between. Tests hold it equal to ``serde.encode``. And the key that all results of an endpoint have.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from schemas.avro.compiled import encoded_long
from schemas.avro.records import Key
from schemas.avro.registry import schema_of
from schemas.avro.serde import encode

_STATISTICS = schema_of("analytics.AvroStatistics", 1).frame
_READING = schema_of("analytics.AvroEnrichedReading", 1).frame
_THREE = Struct("<3d")
_FOUR = Struct("<4d?")


def statistics(
    server_id: str, ep: str, path: str, timestamp: int, mean: float, std_dev: float, variance: float, length: int
) -> bytes:
    """A `schemas.avro.records.Statistics` in Confluent's wire format; integers are of 64 bits."""
    front = _front(_STATISTICS, server_id, ep, path)
    return front + encoded_long(timestamp) + _THREE.pack(mean, std_dev, variance) + encoded_long(length)


def enriched(
    server_id: str,
    ep: str,
    path: str,
    timestamp: int,
    value: float,
    mean: float,
    std_dev: float,
    z_score: float,
    outlier: bool,
) -> bytes:
    """A `schemas.avro.records.EnrichedReading` in Confluent's wire format; integers are of 64 bits."""
    front = _front(_READING, server_id, ep, path)
    return front + encoded_long(timestamp) + _FOUR.pack(value, mean, std_dev, z_score, outlier)


@lru_cache(maxsize=65536)
def _front(frame: bytes, server_id: str, ep: str, path: str) -> bytes:
    texts = (text.encode() for text in (server_id, ep, path))
    return frame + b"".join(encoded_long(len(text)) + text for text in texts)


@lru_cache(maxsize=65536)
def encoded_key(ep: str) -> bytes:
    """The key of every record of the endpoint."""
    return encode(Key(ep=ep))
