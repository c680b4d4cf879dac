"""Mutated CoAP datagrams, seeded: what a broken or hostile peer sends to a gateway.

`valid` makes well-formed LwM2M messages (registrations, updates, notifications, empty messages, block-wise parts);
`mutated` yields endlessly from them, each spoilt in one to three of the ways of `MUTATIONS`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

CON, NON, ACK, RST = range(4)
POST, DELETE, CONTENT, CONTINUE = 0x02, 0x04, 0x45, 0x5F
OBSERVE, LOCATION_PATH, URI_PATH, CONTENT_FORMAT, URI_QUERY, BLOCK2, BLOCK1 = 6, 8, 11, 12, 15, 23, 27


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A CoAP message in parts (RFC 7252 section 3); options by ascending number."""

    kind: int
    code: int
    message_id: int
    token: bytes = b""
    options: tuple[tuple[int, bytes], ...] = ()
    payload: bytes = b""


def encode(parts: Parts) -> bytes:
    """The datagram of a message; the token length is written as it is, so a long token makes an illegal message."""
    head = bytes([0x40 | parts.kind << 4 | len(parts.token) & 0x0F, parts.code]) + parts.message_id.to_bytes(2, "big")
    options, last = b"", 0
    for number, value in sorted(parts.options, key=lambda option: option[0]):
        delta, delta_extended = _nibble(number - last)
        length, length_extended = _nibble(len(value))
        options += bytes([delta << 4 | length]) + delta_extended + length_extended + value
        last = number
    return head + parts.token + options + (b"\xff" + parts.payload if parts.payload else b"")


def _nibble(number: int) -> tuple[int, bytes]:
    if number < 13:
        return number, b""
    if number < 269:
        return 13, bytes([number - 13])
    return 14, (number - 269).to_bytes(2, "big")


def _path(*segments: str) -> tuple[tuple[int, bytes], ...]:
    return tuple((URI_PATH, segment.encode()) for segment in segments)


def _query(*texts: str) -> tuple[tuple[int, bytes], ...]:
    return tuple((URI_QUERY, text.encode()) for text in texts)


_LINKS = b'</>;rt="oma.lwm2m";ct="110 112 11542",</1/0>,</3/0>,</3303/0>,</3303/1>,</3304/0>'


def valid(tokens: Sequence[bytes] = (b"\x01", b"\xa0\xb1\xc2\xd3")) -> list[Parts]:
    """Well-formed messages of a device; ``tokens`` are used by the notifications (give those of real observations)."""
    messages = [
        Parts(
            kind=CON,
            code=POST,
            message_id=1,
            token=b"reg",
            options=(*_path("rd"), (CONTENT_FORMAT, b"\x28"), *_query("ep=fuzz-1", "lt=300", "lwm2m=1.1", "b=U")),
            payload=_LINKS,
        ),
        Parts(
            kind=CON,
            code=POST,
            message_id=2,
            token=b"reg",
            options=(*_path("rd"), (CONTENT_FORMAT, b"\x28"), *_query("ep=fuzz-2", "lt=60", "lwm2m=1.0", "b=UQ")),
            payload=_LINKS,
        ),
        Parts(kind=CON, code=POST, message_id=3, token=b"upd", options=(*_path("rd", "a1b2c3"), *_query("lt=120"))),
        Parts(kind=CON, code=DELETE, message_id=4, token=b"del", options=_path("rd", "a1b2c3")),
        Parts(
            kind=CON,
            code=POST,
            message_id=5,
            token=b"blk",
            options=(
                *_path("rd"),
                (CONTENT_FORMAT, b"\x28"),
                *_query("ep=fuzz-3", "lt=300", "lwm2m=1.1"),
                (BLOCK1, b"\x0a"),
            ),
            payload=(_LINKS * 2)[:64],
        ),
        Parts(kind=CON, code=POST, message_id=6, token=b"snd", options=(*_path("dp"), (CONTENT_FORMAT, b"\x6e"))),
        Parts(kind=CON, code=0, message_id=7),
        Parts(kind=ACK, code=0, message_id=8),
        Parts(kind=RST, code=0, message_id=9),
    ]
    for number, token in enumerate(tokens):
        tlv = bytes.fromhex("e8164408") + b"\x40\x35\x00\x00\x00\x00\x00\x00"
        senml = b'[{"bn":"/3303/0/5700","v":21.5}]'
        block = ((BLOCK2, b"\x0a"),)
        for kind, content_format, payload, more in (
            (CON, b"\x2d\x16", tlv, ()),
            (NON, b"\x6e", senml, ()),
            (ACK, b"\x2d\x16", tlv, ()),
            (CON, b"\x2d\x16", tlv * 6, block),
        ):
            messages.append(
                Parts(
                    kind=kind,
                    code=CONTENT,
                    message_id=100 + number,
                    token=token,
                    options=((OBSERVE, bytes([number + 2])), (CONTENT_FORMAT, content_format), *more),
                    payload=payload,
                )
            )
    return messages


def _flip(data: bytes, source: random.Random) -> bytes:
    spoilt = bytearray(data or b"\x00")
    for _ in range(source.randint(1, 8)):
        spoilt[source.randrange(len(spoilt))] ^= 1 << source.randrange(8)
    return bytes(spoilt)


def _truncate(data: bytes, source: random.Random) -> bytes:
    return data[: source.randrange(len(data) + 1)]


def _append(data: bytes, source: random.Random) -> bytes:
    return data + source.randbytes(source.randint(1, 64))


def _token_length(data: bytes, source: random.Random) -> bytes:
    """Says another token length than there is, also the reserved 9 to 15."""
    return bytes([data[0] & 0xF0 | source.randrange(16)]) + data[1:] if data else data


def _huge_token(data: bytes, source: random.Random) -> bytes:
    return data[:1] + data[1:4] + source.randbytes(source.randint(9, 400)) + data[4:]


def _length_lie(data: bytes, source: random.Random) -> bytes:
    """Changes one length nibble somewhere behind the head, also to the reserved 15."""
    if len(data) < 6:
        return data
    at = source.randrange(4, len(data))
    return data[:at] + bytes([data[at] & 0xF0 | source.choice((0, 12, 13, 14, 15))]) + data[at + 1 :]


def _delta_lie(data: bytes, source: random.Random) -> bytes:
    if len(data) < 6:
        return data
    at = source.randrange(4, len(data))
    return data[:at] + bytes([data[at] & 0x0F | source.choice((0, 13, 14, 15)) << 4]) + data[at + 1 :]


def _extended_lie(data: bytes, source: random.Random) -> bytes:
    """An option whose extended delta or length names far more than there is."""
    at = source.randint(4, max(4, len(data)))
    return data[:at] + bytes([source.choice((0xEE, 0xE0, 0x0E, 0xDD, 0xED)), 0xFF, 0xFF]) + data[at:]


def _bad_text(data: bytes, source: random.Random) -> bytes:
    """A path or query option that is no UTF-8 (and one of no, or of great, length), in front of all others."""
    number = source.choice((3, LOCATION_PATH, URI_PATH, URI_QUERY, 20, 35, 39))
    value = source.choice((b"\xff\xfe", b"ep=\xc3\x28", b"\xed\xa0\x80", b"", b"a" * source.randint(256, 1100)))
    delta, delta_extended = _nibble(number)
    length, length_extended = _nibble(len(value))
    return data[:4] + bytes([delta << 4 | length]) + delta_extended + length_extended + value + data[4:]


def _unknown_option(data: bytes, source: random.Random) -> bytes:
    """A critical option that nobody knows, at the end of the options or in the payload."""
    return data + bytes([0xE3]) + (source.randrange(65000) | 1).to_bytes(2, "big") + b"abc"


def _marker(data: bytes, source: random.Random) -> bytes:
    """A payload marker with nothing behind it, which RFC 7252 section 3 makes a format error, or one in the middle."""
    at = source.randint(min(4, len(data)), len(data))
    return data[:at] + b"\xff" + (data[at:] if source.random() < 0.5 else b"")


def _random(data: bytes, source: random.Random) -> bytes:
    return source.randbytes(source.randint(0, 1500))


def _other_version(data: bytes, source: random.Random) -> bytes:
    return bytes([data[0] & 0x3F | source.choice((0, 2, 3)) << 6]) + data[1:] if data else data


def _other_code(data: bytes, source: random.Random) -> bytes:
    return data[:1] + bytes([source.randrange(256)]) + data[2:] if len(data) > 1 else data


def _swap_tail(data: bytes, source: random.Random) -> bytes:
    if len(data) < 8:
        return data
    at = source.randrange(4, len(data))
    return data[:4] + data[at:] + data[4:at]


Mutation = Callable[[bytes, random.Random], bytes]

MUTATIONS: Mapping[str, Mutation] = {
    "flip bits": _flip,
    "truncate": _truncate,
    "append": _append,
    "token length": _token_length,
    "huge token": _huge_token,
    "length lie": _length_lie,
    "delta lie": _delta_lie,
    "extended lie": _extended_lie,
    "no UTF-8": _bad_text,
    "unknown critical option": _unknown_option,
    "payload marker": _marker,
    "random bytes": _random,
    "other version": _other_version,
    "other code": _other_code,
    "swapped tail": _swap_tail,
}


def mutated(seed: int, corpus: Sequence[Parts] | None = None) -> Iterator[bytes]:
    """Endless datagrams, the same for the same seed and corpus; at most 4,096 bytes each. Some may still be valid."""
    source = random.Random(seed)
    messages = list(corpus) if corpus is not None else valid()
    ways = list(MUTATIONS.values())
    while True:
        parts = source.choice(messages)
        fresh = Parts(
            kind=parts.kind,
            code=parts.code,
            message_id=source.randrange(65536),
            token=parts.token,
            options=parts.options,
            payload=parts.payload,
        )
        data = encode(fresh)
        for _ in range(source.randint(1, 3)):
            data = source.choice(ways)(data, source)
        yield data[:4096]
