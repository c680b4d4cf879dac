"""Records between datagrams and OpenSSL, which has a stream of them in memory (RFC 6347 section 4.1.1). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.dtls.messages import HandshakeType
from gateway.dtls.records import MOST_TOGETHER, ContentType, Malformed

#: Bytes of type, version, epoch, sequence number and length.
HEADER: Final = 13
#: The longest datagram of a handshake: it fits into IPv6's smallest MTU of 1,280 bytes.
MTU: Final = 1200
#: Where a ServerHello has the length of its session id: behind the headers of record and message, version and random.
_SESSION_ID: Final = HEADER + 12 + 2 + 32
_HANDSHAKE, _SERVER_HELLO = bytes((ContentType.HANDSHAKE,)), bytes((HandshakeType.SERVER_HELLO,))
_TYPES: Final = frozenset(
    {
        ContentType.CHANGE_CIPHER_SPEC,
        ContentType.ALERT,
        ContentType.HANDSHAKE,
        ContentType.APPLICATION_DATA,
    }
)


def records(datagram: bytes) -> Iterator[bytes]:
    """The records of a datagram, each with its header.

    Raises:
        Malformed: there is something else in it; what came before stands.
    """
    at = found = 0
    while at < len(datagram):
        found += 1
        if found > MOST_TOGETHER:
            raise Malformed("too many records")
        if len(datagram) - at < HEADER:
            raise Malformed("truncated record header")
        # RFC 6347 section 4.2.1: a first ClientHello may say 1.0.
        if datagram[at] not in _TYPES or datagram[at + 1] != 0xFE:
            raise Malformed("no DTLS")
        end = at + HEADER + int.from_bytes(datagram[at + 11 : at + HEADER], "big")
        if end > len(datagram):
            raise Malformed("truncated record")
        yield datagram[at:end]
        at = end


def datagrams(stream: bytes) -> Iterator[bytes]:
    """What OpenSSL wrote as datagrams of whole records, of no more than `MTU` bytes unless one record alone has more.

    Raises:
        Malformed: the stream ends within a record.
    """
    start = at = 0
    while at < len(stream):
        end = at + HEADER + int.from_bytes(stream[at + 11 : at + HEADER], "big")
        if end > len(stream) or len(stream) - at < HEADER:
            raise Malformed("truncated record")
        if end - start > MTU and at > start:
            yield stream[start:at]
            start = at
        at = end
    if at > start:
        yield stream[start:at]


def is_client_hello(record: bytes) -> bool:
    """True for a record in the clear that begins with a ClientHello."""
    return (
        len(record) > HEADER
        and record[0] == ContentType.HANDSHAKE
        and record[3:5] == b"\0\0"
        and record[HEADER] == HandshakeType.CLIENT_HELLO
    )


def session_id(stream: bytes) -> bytes:
    """That of the ServerHello that OpenSSL's flight begins with (RFC 5246 section 7.4.1.3); empty if there is none."""
    if stream[:1] != _HANDSHAKE or stream[HEADER : HEADER + 1] != _SERVER_HELLO:
        return b""
    return stream[_SESSION_ID + 1 : _SESSION_ID + 1 + stream[_SESSION_ID]]
