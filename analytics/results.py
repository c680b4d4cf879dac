"""Results of which there is one a reading, straight to bytes: what ``serde.encode`` makes of the same record. Pure.

Written for speed: all in front of the time is the same for a series, and the rest is numbers. So there is no record and
no dict between. Tests hold it equal to ``serde.encode``.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from schemas.avro.registry import schema_of

_STATISTICS = schema_of("analytics.AvroStatistics", 1).frame
_READING = schema_of("analytics.AvroEnrichedReading", 1).frame
_THREE = Struct("<3d")
_FOUR = Struct("<4d?")


def statistics(
    server_id: str, ep: str, path: str, timestamp: int, mean: float, std_dev: float, variance: float, length: int
) -> bytes:
    """A `schemas.avro.records.Statistics` in Confluent's wire format; integers are of 64 bits."""
    front = _front(_STATISTICS, server_id, ep, path)
    return front + _long(timestamp) + _THREE.pack(mean, std_dev, variance) + _long(length)


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
    return front + _long(timestamp) + _FOUR.pack(value, mean, std_dev, z_score, outlier)


@lru_cache(maxsize=65536)
def _front(frame: bytes, server_id: str, ep: str, path: str) -> bytes:
    texts = (text.encode() for text in (server_id, ep, path))
    return frame + b"".join(_long(len(text)) + text for text in texts)


def _long(number: int) -> bytes:
    """Avro 1.11, 'Binary encoding': zigzag, then seven bits a byte, the lowest first."""
    rest = number << 1 if number >= 0 else ~(number << 1)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)
