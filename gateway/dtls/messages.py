"""Handshake messages and alerts on the wire (RFC 6347 section 4.2, RFC 5246 section 7.4, RFC 4279).

Bytes to values and back: pure, and the guard at the door of the handshake: whatever is parsed here is well-formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from gateway.dtls.records import DTLS_1_0, DTLS_1_2, MOST_TOGETHER, Malformed

RANDOM_LENGTH: Final = 32
NULL_COMPRESSION: Final = 0
#: TLS_EMPTY_RENEGOTIATION_INFO_SCSV (RFC 5746 section 3.3).
RENEGOTIATION_SCSV: Final = 0x00FF
_HEADER: Final = 12
_MOST_SESSION_ID: Final = 32
#: More than this is no ClientHello of a sane device.
_MOST_EXTENSIONS: Final = 64
_FATAL: Final = 2
_WARNING: Final = 1


class HandshakeType(IntEnum):
    HELLO_REQUEST = 0
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    HELLO_VERIFY_REQUEST = 3
    SERVER_KEY_EXCHANGE = 12
    SERVER_HELLO_DONE = 14
    CLIENT_KEY_EXCHANGE = 16
    FINISHED = 20


class Extension(IntEnum):
    EXTENDED_MASTER_SECRET = 23  # RFC 7627
    CONNECTION_ID = 54  # RFC 9146
    RENEGOTIATION_INFO = 0xFF01  # RFC 5746


class Alert(IntEnum):
    CLOSE_NOTIFY = 0
    BAD_RECORD_MAC = 20
    HANDSHAKE_FAILURE = 40
    ILLEGAL_PARAMETER = 47
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    NO_RENEGOTIATION = 100
    UNKNOWN_PSK_IDENTITY = 115  # RFC 4279


class Fragment(NamedTuple):
    """A handshake message or a part of one: ``body`` is what lies at ``offset`` of ``length`` bytes."""

    type: int
    length: int
    sequence: int
    offset: int
    body: bytes

    @property
    def whole(self) -> bool:
        return len(self.body) == self.length


def fragments(payload: bytes) -> Iterator[Fragment]:
    """The handshake messages of one record.

    Raises:
        Malformed: a length lies; what came before stands.
    """
    at, end = 0, len(payload)
    found = 0
    while at < end:
        found += 1
        if found > MOST_TOGETHER:
            raise Malformed("too many handshake messages")
        start = at + _HEADER
        if start > end:
            raise Malformed("truncated handshake header")
        length = int.from_bytes(payload[at + 1 : at + 4], "big")
        offset = int.from_bytes(payload[at + 6 : at + 9], "big")
        stop = start + int.from_bytes(payload[at + 9 : at + 12], "big")
        if stop > end or offset + stop - start > length:
            raise Malformed("handshake fragment length")
        yield Fragment(payload[at], length, payload[at + 4] << 8 | payload[at + 5], offset, payload[start:stop])
        at = stop


def message(type_: int, sequence: int, body: bytes) -> bytes:
    """A handshake message in one piece, which is how the transcript has it too (RFC 6347 section 4.2.6)."""
    length = len(body).to_bytes(3, "big")
    return bytes((type_,)) + length + sequence.to_bytes(2, "big") + b"\0\0\0" + length + body


class Reader:
    """Takes a body apart from its beginning; raises Malformed where it is too short."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def take(self, length: int) -> bytes:
        start = self._at
        self._at = start + length
        if self._at > len(self._data):
            raise Malformed(f"truncated {self._what}")
        return self._data[start : self._at]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))

    @property
    def at(self) -> int:
        return self._at

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def end(self) -> None:
        if self.left:
            raise Malformed(f"bytes after {self._what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """A ClientHello (RFC 6347 section 4.2.1).

    ``parameters`` are the bytes that a cookie is bound to: all but the cookie and the extensions.
    """

    version: bytes
    random: bytes
    session_id: bytes
    cookie: bytes
    suites: tuple[int, ...]
    compression: bytes
    extensions: dict[int, bytes]
    parameters: bytes


def parse_client_hello(body: bytes) -> ClientHello:
    """A ClientHello without its handshake header.

    Raises:
        Malformed: it is none.
    """
    reader = Reader(body, "ClientHello")
    version = reader.take(2)
    random = reader.take(RANDOM_LENGTH)
    session_id = reader.vector(1)
    if len(session_id) > _MOST_SESSION_ID:
        raise Malformed("session id length")
    cookie_at = reader.at
    cookie = reader.vector(1)
    after_cookie = reader.at
    suites = reader.vector(2)
    if not suites or len(suites) % 2:
        raise Malformed("cipher suites length")
    compression = reader.vector(1)
    parameters = body[:cookie_at] + body[after_cookie : reader.at]
    extensions = parse_extensions(reader)
    return ClientHello(
        version=version,
        random=random,
        session_id=session_id,
        cookie=cookie,
        suites=tuple(suites[at] << 8 | suites[at + 1] for at in range(0, len(suites), 2)),
        compression=compression,
        extensions=extensions,
        parameters=parameters,
    )


def parse_extensions(reader: Reader) -> dict[int, bytes]:
    """The extensions that end a hello, by type; none if there are none.

    Raises:
        Malformed: they are not well-formed, or one of ours is not.
    """
    if not reader.left:
        return {}  # RFC 5246 section 7.4.1.2: detected by what is left
    block = Reader(reader.vector(2), "extensions")
    reader.end()
    extensions: dict[int, bytes] = {}
    while block.left:
        type_ = block.number(2)
        if type_ in extensions or len(extensions) == _MOST_EXTENSIONS:
            raise Malformed("repeated or too many extensions")
        extensions[type_] = block.vector(2)
    if extensions.get(Extension.EXTENDED_MASTER_SECRET):
        raise Malformed("extended_master_secret with content")
    cid = extensions.get(Extension.CONNECTION_ID)
    if cid is not None and (not cid or cid[0] != len(cid) - 1):
        raise Malformed("connection id length")
    renegotiation = extensions.get(Extension.RENEGOTIATION_INFO)
    if renegotiation is not None and (not renegotiation or renegotiation[0] != len(renegotiation) - 1):
        raise Malformed("renegotiation_info length")
    return extensions


def hello_verify_request(cookie: bytes) -> bytes:
    """The message, always the first (RFC 6347 section 4.2.1, which also asks for the version 1.0 in it)."""
    body = DTLS_1_0 + bytes((len(cookie),)) + cookie
    return message(HandshakeType.HELLO_VERIFY_REQUEST, 0, body)


def server_hello(random: bytes, session_id: bytes, suite: int, extensions: dict[int, bytes]) -> bytes:
    """The body of a ServerHello; ``extensions`` in the order in which they are sent."""
    head = DTLS_1_2 + random + bytes((len(session_id),)) + session_id + suite.to_bytes(2, "big")
    return head + bytes((NULL_COMPRESSION,)) + extensions_block(extensions)


def extensions_block(extensions: dict[int, bytes]) -> bytes:
    """The end of a hello; nothing without extensions (RFC 5246 section 7.4.1.2)."""
    block = b"".join(
        type_.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value for type_, value in extensions.items()
    )
    return len(block).to_bytes(2, "big") + block if extensions else b""


def parse_client_key_exchange(body: bytes) -> bytes:
    """The PSK identity of a ClientKeyExchange (RFC 4279 section 2).

    Raises:
        Malformed: it is none.
    """
    reader = Reader(body, "ClientKeyExchange")
    identity = reader.vector(2)
    reader.end()
    return identity


def alert(description: Alert) -> bytes:
    """The two bytes of an alert; fatal, but for those that are warnings by their nature (RFC 5246 section 7.2)."""
    warning = description in (Alert.CLOSE_NOTIFY, Alert.NO_RENEGOTIATION)
    return bytes((_WARNING if warning else _FATAL, description))


def parse_alert(payload: bytes) -> tuple[bool, int]:
    """(fatal, description).

    Raises:
        Malformed: it is no alert.
    """
    if len(payload) != 2:
        raise Malformed("alert length")
    return payload[0] == _FATAL, payload[1]
