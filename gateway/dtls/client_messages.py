"""The handshake messages of the other direction: what a client says, and what it hears (RFC 6347 section 4.2).

Bytes to values and back, pure, as `gateway.dtls.messages`, which has what both sides share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.dtls.messages import NULL_COMPRESSION, RANDOM_LENGTH, Reader, extensions_block, parse_extensions
from gateway.dtls.records import DTLS_1_2


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHello:
    """A ServerHello (RFC 5246 section 7.4.1.3)."""

    version: bytes
    random: bytes
    session_id: bytes
    suite: int
    compression: int
    extensions: dict[int, bytes]


def client_hello(
    random: bytes, session_id: bytes, cookie: bytes, suites: Sequence[int], extensions: dict[int, bytes]
) -> bytes:
    """The body of a ClientHello (RFC 6347 section 4.2.1); ``extensions`` in the order in which they are sent."""
    offered = b"".join(suite.to_bytes(2, "big") for suite in suites)
    return (
        DTLS_1_2
        + random
        + bytes((len(session_id),))
        + session_id
        + bytes((len(cookie),))
        + cookie
        + len(offered).to_bytes(2, "big")
        + offered
        + bytes((1, NULL_COMPRESSION))
        + extensions_block(extensions)
    )


def parse_hello_verify_request(body: bytes) -> bytes:
    """The cookie of a HelloVerifyRequest. Its version says nothing of the server's (RFC 6347 section 4.2.1).

    Raises:
        Malformed: it is none.
    """
    reader = Reader(body, "HelloVerifyRequest")
    reader.take(2)
    cookie = reader.vector(1)
    reader.end()
    return cookie


def parse_server_hello(body: bytes) -> ServerHello:
    """A ServerHello without its handshake header.

    Raises:
        Malformed: it is none.
    """
    reader = Reader(body, "ServerHello")
    version = reader.take(2)
    random = reader.take(RANDOM_LENGTH)
    session_id = reader.vector(1)
    suite = reader.number(2)
    compression = reader.number(1)
    return ServerHello(
        version=version,
        random=random,
        session_id=session_id,
        suite=suite,
        compression=compression,
        extensions=parse_extensions(reader),
    )


def parse_server_key_exchange(body: bytes) -> bytes:
    """The identity hint of a ServerKeyExchange (RFC 4279 section 2).

    Raises:
        Malformed: it is none.
    """
    reader = Reader(body, "ServerKeyExchange")
    hint = reader.vector(2)
    reader.end()
    return hint


def client_key_exchange(identity: bytes) -> bytes:
    """The body of a ClientKeyExchange (RFC 4279 section 2)."""
    return len(identity).to_bytes(2, "big") + identity
