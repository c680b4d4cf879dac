"""CoAP messages on the wire (RFC 7252 section 3): bytes to values and back. Pure.

This is the guard at the door: whatever `parse` lets through is well-formed, so nothing behind it has to be careful.
It covers the message format and the options' value formats; it knows nothing of exchanges, blocks or resources.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

#: A datagram that could not be a single CoAP message of ours (RFC 7252 section 4.6 suggests 1152; blocks may be 1024).
MAX_DATAGRAM = 2048


class Malformed(ValueError):
    """The datagram is no CoAP message; the text is a short reason that is safe to use as a metric label."""


class Type(IntEnum):
    CON = 0
    NON = 1
    ACK = 2
    RST = 3


class Code(IntEnum):
    EMPTY = 0x00
    GET = 0x01
    POST = 0x02
    PUT = 0x03
    DELETE = 0x04
    FETCH = 0x05
    PATCH = 0x06
    IPATCH = 0x07
    CREATED = 0x41
    DELETED = 0x42
    VALID = 0x43
    CHANGED = 0x44
    CONTENT = 0x45
    CONTINUE = 0x5F
    BAD_REQUEST = 0x80
    UNAUTHORIZED = 0x81
    BAD_OPTION = 0x82
    FORBIDDEN = 0x83
    NOT_FOUND = 0x84
    METHOD_NOT_ALLOWED = 0x85
    NOT_ACCEPTABLE = 0x86
    REQUEST_ENTITY_INCOMPLETE = 0x88
    PRECONDITION_FAILED = 0x8C
    REQUEST_ENTITY_TOO_LARGE = 0x8D
    UNSUPPORTED_CONTENT_FORMAT = 0x8F
    INTERNAL_SERVER_ERROR = 0xA0
    SERVICE_UNAVAILABLE = 0xA3
    PROXYING_NOT_SUPPORTED = 0xA5


class Option(IntEnum):
    IF_MATCH = 1
    URI_HOST = 3
    ETAG = 4
    IF_NONE_MATCH = 5
    OBSERVE = 6
    URI_PORT = 7
    LOCATION_PATH = 8
    OSCORE = 9
    URI_PATH = 11
    CONTENT_FORMAT = 12
    MAX_AGE = 14
    URI_QUERY = 15
    ACCEPT = 17
    LOCATION_QUERY = 20
    BLOCK2 = 23
    BLOCK1 = 27
    SIZE2 = 28
    PROXY_URI = 35
    PROXY_SCHEME = 39
    SIZE1 = 60


#: Longest value by option number, where RFC 7252 table 4, RFC 7641 and RFC 7959 limit it.
_LONGEST: dict[int, int] = {
    Option.IF_MATCH: 8,
    Option.URI_HOST: 255,
    Option.ETAG: 8,
    Option.IF_NONE_MATCH: 0,
    Option.OBSERVE: 3,
    Option.URI_PORT: 2,
    Option.LOCATION_PATH: 255,
    Option.URI_PATH: 255,
    Option.CONTENT_FORMAT: 2,
    Option.MAX_AGE: 4,
    Option.URI_QUERY: 255,
    Option.ACCEPT: 2,
    Option.LOCATION_QUERY: 255,
    Option.BLOCK2: 3,
    Option.BLOCK1: 3,
    Option.SIZE2: 4,
    Option.PROXY_URI: 1034,
    Option.PROXY_SCHEME: 255,
    Option.SIZE1: 4,
}
_TEXT = (
    Option.URI_HOST,
    Option.LOCATION_PATH,
    Option.URI_PATH,
    Option.URI_QUERY,
    Option.LOCATION_QUERY,
    Option.PROXY_URI,
    Option.PROXY_SCHEME,
)
#: More than this is no message of a sane device; it bounds what one datagram can make us allocate.
_MOST_OPTIONS = 64

#: The critical options (odd numbers, RFC 7252 section 5.4.1) that somebody here acts on, in requests and in responses.
#: An option is not recognised where it is not defined (section 5.4).
_CRITICAL_OF_REQUEST = (
    Option.URI_HOST,
    Option.URI_PORT,
    Option.URI_PATH,
    Option.URI_QUERY,
    Option.ACCEPT,
    Option.BLOCK2,
    Option.BLOCK1,
)
_CRITICAL_OF_RESPONSE = (Option.BLOCK2, Option.BLOCK1)


def _limits(critical: tuple[Option, ...]) -> dict[int, int]:
    # Plain ints: looked up once an option on every message.
    return {int(option): size for option, size in _LONGEST.items() if not option & 1 or option in critical}


_LIMITS_OF_REQUEST = _limits(_CRITICAL_OF_REQUEST)
_LIMITS_OF_RESPONSE = _limits(_CRITICAL_OF_RESPONSE)
_TEXT_NUMBERS = frozenset(map(int, _TEXT))
#: Options of one occurrence at most (RFC 7252 table 4), and those that are never empty.
_ONCE = frozenset(
    map(
        int,
        (
            Option.URI_HOST,
            Option.OBSERVE,
            Option.URI_PORT,
            Option.CONTENT_FORMAT,
            Option.MAX_AGE,
            Option.ACCEPT,
            Option.BLOCK2,
            Option.BLOCK1,
            Option.SIZE2,
            Option.SIZE1,
        ),
    )
)
_NEVER_EMPTY = frozenset(map(int, (Option.URI_HOST, Option.ETAG)))

#: Code classes 1, 3, 6 and 7 are reserved or unused over UDP (RFC 7252 section 3 and 12.1).
_CLASSES = frozenset((0, 2, 4, 5))


#: (option number, value), in wire order.
Options = list[tuple[int, bytes]]


@dataclass(slots=True)
class Message:
    """One CoAP message; ``token`` is 0 to 8 bytes.

    ``unrecognised`` is the number of the first critical option that is not understood here, 0 if there is none: such a
    message must not be acted on (RFC 7252 section 5.4.1).
    """

    type: int
    code: int
    mid: int
    token: bytes
    options: Options
    payload: bytes
    unrecognised: int = field(default=0, compare=False)

    @property
    def is_request(self) -> bool:
        return 0 < self.code < 0x20

    @property
    def is_response(self) -> bool:
        return self.code >= 0x40

    def uint(self, number: int) -> int | None:
        """The first value of an option in uint format (RFC 7252 section 3.2), None where the option is absent."""
        for option, value in self.options:
            if option == number:
                return int.from_bytes(value, "big")
        return None

    def texts(self, number: int) -> list[str]:
        """All values of a repeatable string option such as Uri-Path."""
        return [value.decode() for option, value in self.options if option == number]

    def encode(self) -> bytes:
        """The message as it goes on the wire."""
        return build(self.type, self.code, self.mid, self.token, self.options, self.payload)

    def block(self, number: int) -> Block | None:
        """The Block1 or Block2 option (RFC 7959 section 2.2)."""
        value = self.uint(number)
        return None if value is None else Block(value >> 4, bool(value & 8), value & 7)


@dataclass(frozen=True, slots=True)
class Block:
    number: int
    more: bool
    #: The block size is ``2 ** (szx + 4)``; 7 is reserved over UDP.
    szx: int

    @property
    def size(self) -> int:
        return 1 << (self.szx + 4)


def parse(datagram: bytes) -> Message:
    """Parse one datagram strictly: at most MAX_DATAGRAM bytes; otherwise as `parse_any_size`."""
    if len(datagram) > MAX_DATAGRAM:
        raise Malformed("too long")
    return parse_any_size(datagram)


def parse_any_size(datagram: bytes) -> Message:
    """Parse one message strictly, also one put together from blocks.

    An option of a length that it cannot have, or once more than it may come, counts as unrecognised (RFC 7252 sections
    5.4.3 and 5.4.5): it is left out, and a critical one is noted in ``unrecognised``. A response that ends with the
    payload marker has an empty payload: section 3 makes it a format error, but Zephyr's LwM2M client answers so where
    an object is empty, and whoever asked would wait for an answer that came.

    Raises:
        Malformed: any message format error of RFC 7252 section 3, or text that is not UTF-8.
    """
    size = len(datagram)
    if size < 4:
        raise Malformed("short header")
    first = datagram[0]
    if first >> 6 != 1:
        raise Malformed("version")
    token_length = first & 15
    if token_length > 8:
        raise Malformed("token length")
    code = datagram[1]
    at = 4 + token_length
    if size < at:
        raise Malformed("truncated token")
    if code == 0 and size != 4:
        raise Malformed("empty message with content")
    if code >> 5 not in _CLASSES:
        raise Malformed("code class")
    options: Options = []
    payload = b""
    number = unrecognised = 0
    limits = _LIMITS_OF_REQUEST if code < 0x20 else _LIMITS_OF_RESPONSE
    while at < size:
        head = datagram[at]
        at += 1
        if head == 0xFF:
            if at == size and code < Code.CREATED:
                raise Malformed("payload marker without payload")
            payload = datagram[at:]
            break
        delta, length = head >> 4, head & 15
        if delta > 12:
            delta, at = _extended(datagram, at, delta)
        if length > 12:
            length, at = _extended(datagram, at, length)
        number += delta
        end = at + length
        if end > size:
            raise Malformed("truncated option")
        if number > 65535:
            raise Malformed("option number")
        longest = limits.get(number)
        if longest is None:
            if number & 1 and not unrecognised:
                unrecognised = number
        elif length > longest or (not length and number in _NEVER_EMPTY) or (not delta and number in _ONCE):
            if number & 1 and not unrecognised:
                unrecognised = number
            at = end
            continue
        value = datagram[at:end]
        if number in _TEXT_NUMBERS:
            try:
                value.decode()
            except UnicodeDecodeError:
                raise Malformed("option text") from None
        options.append((number, value))
        if len(options) > _MOST_OPTIONS:
            raise Malformed("too many options")
        at = end
    return Message(
        (first >> 4) & 3,
        code,
        datagram[2] << 8 | datagram[3],
        datagram[4 : 4 + token_length],
        options,
        payload,
        unrecognised,
    )


def _extended(datagram: bytes, at: int, nibble: int) -> tuple[int, int]:
    """The extended option delta or length of RFC 7252 section 3.1, and where it ends."""
    if nibble == 15:
        raise Malformed("reserved option nibble")
    width = 1 if nibble == 13 else 2
    if at + width > len(datagram):
        raise Malformed("truncated option header")
    return int.from_bytes(datagram[at : at + width], "big") + (13 if nibble == 13 else 269), at + width


def build(type_: int, code: int, mid: int, token: bytes, options: Options, payload: bytes = b"") -> bytes:
    """The bytes of one message; ``options`` may come in any order and are sorted (stably) by number."""
    return head(type_, code, mid, token) + encode_rest(options, payload)


def head(type_: int, code: int, mid: int, token: bytes) -> bytes:
    """The bytes of a message before its options."""
    return bytes((0x40 | type_ << 4 | len(token), code, mid >> 8, mid & 255)) + token


def encode_rest(options: Options, payload: bytes = b"") -> bytes:
    """The bytes of a message behind its token."""
    out = bytearray()
    last = 0
    for number, value in sorted(options, key=_number) if len(options) > 1 else options:
        delta, length = number - last, len(value)
        last = number
        if delta < 13 and length < 13:
            out.append(delta << 4 | length)
        else:
            out.append(_nibble(delta) << 4 | _nibble(length))
            out += _extension(delta) + _extension(length)
        out += value
    if payload:
        out.append(0xFF)
        out += payload
    return bytes(out)


def _number(option: tuple[int, bytes]) -> int:
    return option[0]


def _nibble(value: int) -> int:
    return value if value < 13 else 13 if value < 269 else 14


def _extension(value: int) -> bytes:
    if value < 13:
        return b""
    return bytes((value - 13,)) if value < 269 else (value - 269).to_bytes(2, "big")


def uint(value: int) -> bytes:
    """The shortest uint option value (RFC 7252 section 3.2); zero is the empty string."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def empty(type_: int, mid: int) -> bytes:
    """An Empty message: an acknowledgement, a reset, or (CON) a ping."""
    return bytes((0x40 | type_ << 4, 0, mid >> 8, mid & 255))


def name(code: int) -> str:
    """``4.04`` for 0x84: how people write codes."""
    return f"{code >> 5}.{code & 31:02}"
