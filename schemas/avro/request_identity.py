"""What tells one request from another: the same for the same request, however often it is in a topic. Pure.

The gateway marks replies (header ``request.id``) and states (AvroCommandKey) with it, so whoever reads the topics finds
what belongs together although people use a ticket twice.
"""

from __future__ import annotations

from hashlib import blake2b

from schemas.avro.records import Request


def identity_of(value: bytes, request: Request, payload_at: int | None = None) -> bytes:
    """16 bytes that are the same for the same request: endpoint, ticket and payload (kind, path, format, body, paths).

    People reuse tickets for different requests (the contract's own examples do), so a ticket alone is no identity.
    ``serverId`` and ``expires`` do not count: a request that is sent again with a later time is the same one.
    ``value`` is the record that ``request`` was decoded from: its payload is hashed as it stands there, since to encode
    it once more would cost as much as decoding did. ``payload_at`` is where that begins, if it is known.
    """
    if payload_at is None:
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
    at, end, texts = 5, len(value), []
    for _ in range(3):
        length, shift = 0, 0
        while True:
            if at >= end or shift > 28:
                raise ValueError("the record ends early")
            byte = value[at]
            at += 1
            if byte < 0x80:
                length |= byte << shift
                break
            length |= (byte & 0x7F) << shift
            shift += 7
        if length & 1 or (length := length >> 1) > end - at:
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
