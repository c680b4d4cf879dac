"""A record of the requests topic: what it is, where it stands, and what tells it from all others. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from gateway.state import Positions
from schemas.avro.records import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRequest:
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


def identity_of(value: bytes, request: Request) -> bytes:
    """16 bytes that are the same for the same request: endpoint, ticket and payload (kind, path, format, body, paths).

    People reuse tickets for different requests (the contract's own examples do), so a ticket alone is no identity.
    ``serverId`` and ``expires`` do not count: a request that is sent again with a later time is the same one.
    ``value`` is the record that ``request`` was decoded from: its payload is hashed as it stands there, since to encode
    it once more would cost as much as decoding did.
    """
    _, payload_at = leading_strings(value)
    payload = value[payload_at:]
    if request.expires is not None:
        payload = payload.removesuffix(b"\x02" + _zigzag(request.expires)) + b"\x00"
    digest = blake2b(payload, digest_size=16)
    for text in (request.ep, request.ticket):
        encoded = text.encode()
        digest.update(b"%d:%s" % (len(encoded), encoded))
    return digest.digest()


def leading_strings(value: bytes) -> tuple[list[str], int]:
    """The three strings that an AvroRequest of any version begins with (serverId, ep, ticket), and where they end.

    Raises:
        ValueError: the bytes do not begin like a request.
    """
    at, texts = 5, []
    for _ in range(3):
        length, shift = 0, 0
        while True:
            if at >= len(value) or shift > 28:
                raise ValueError("the record ends early")
            byte = value[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        length = length >> 1 ^ -(length & 1)
        if not 0 <= length <= len(value) - at:
            raise ValueError("the record ends early")
        texts.append(value[at : at + length].decode())
        at += length
    return texts, at


def _zigzag(number: int) -> bytes:
    rest = number << 1 ^ number >> 63
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)
