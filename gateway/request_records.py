"""A record of the requests topic: what it is, where it stands, and what tells it from all others. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.state import Positions


class RawRequest(NamedTuple):
    """A record of the requests topic as it came; ``timestamp`` is Kafka's, epoch ms."""

    topic: str
    #: What tells the topic from another of the same name (KIP-516).
    topic_id: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()


def next_positions(batch: Sequence[RawRequest]) -> Positions:
    """Where to go on after ``batch``."""
    return {(raw.topic_id, raw.partition): raw.offset + 1 for raw in batch}


def occurrence_of(raw: RawRequest) -> int:
    """63 bits that tell a record from every other of the topic, also when the topic was made anew, and are the same
    when it is read again: its offset, partition and time.
    """
    return (raw.offset & (1 << 39) - 1) << 24 | (raw.partition & 0xFF) << 16 | raw.timestamp & 0xFFFF


def place_of(occurrence: int) -> tuple[int, int]:
    """The partition and the offset of `occurrence_of`."""
    return occurrence >> 16 & 0xFF, occurrence >> 24
