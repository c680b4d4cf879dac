"""The message format of CoAP (RFC 7252 section 3), against the standard, against aiocoap and against hostile bytes."""

from __future__ import annotations

import aiocoap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.coap.message import (
    MAX_DATAGRAM,
    Block,
    Code,
    Malformed,
    Message,
    Option,
    Options,
    Type,
    build,
    empty,
    name,
    parse,
    parse_any_size,
    uint,
)

# RFC 7252, appendix A: figures 16 (GET /temperature), 17, and the messages of the observe and separate examples.
VECTORS: list[tuple[str, Message]] = [
    ("40017d34bb74656d7065726174757265", Message(0, Code.GET, 0x7D34, b"", [(11, b"temperature")], b"")),
    ("60457d34ff32322e332043", Message(2, Code.CONTENT, 0x7D34, b"", [], b"22.3 C")),
    ("41017d3520bb74656d7065726174757265", Message(0, Code.GET, 0x7D35, b"\x20", [(11, b"temperature")], b"")),
    ("61457d3520ff32322e332043", Message(2, Code.CONTENT, 0x7D35, b"\x20", [], b"22.3 C")),
    ("60007d38", Message(2, Code.EMPTY, 0x7D38, b"", [], b"")),
    ("70007d38", Message(3, Code.EMPTY, 0x7D38, b"", [], b"")),
    # An extended delta of one byte (Size1 = 60) and of two (2049), an extended length of one.
    ("4001000dd12f07", Message(0, Code.GET, 13, b"", [(60, b"\x07")], b"")),
    ("40010001e006f4", Message(0, Code.GET, 1, b"", [(2049, b"")], b"")),
    ("40010001bd0361626364656667686162636465666768", Message(0, 1, 1, b"", [(11, b"abcdefgh" * 2)], b"")),
]


@pytest.mark.parametrize(("wire", "message"), VECTORS, ids=[wire[:16] for wire, _ in VECTORS])
def test_vector_is_parsed_and_built(wire: str, message: Message) -> None:
    assert parse(bytes.fromhex(wire)) == message
    assert message.encode() == bytes.fromhex(wire)


_LONGEST = {1: 8, 3: 255, 4: 8, 5: 0, 6: 3, 7: 2, 8: 255, 11: 255, 12: 2, 14: 4, 15: 255, 17: 2, 20: 255}
_LONGEST |= {23: 3, 27: 3, 28: 4, 35: 1034, 39: 255, 60: 4}
_TEXT = (3, 8, 11, 15, 20, 35, 39)
_ONCE = (3, 6, 7, 12, 14, 17, 23, 27, 28, 60)
_NEVER_EMPTY = (3, 4)


@st.composite
def _options(draw: st.DrawFn) -> tuple[int, bytes]:
    number = draw(st.one_of(st.sampled_from(sorted(_LONGEST)), st.integers(0, 65535)))
    least = 1 if number in _NEVER_EMPTY else 0
    if number in _TEXT:
        return number, draw(st.text(min_size=least, max_size=60).map(str.encode))
    return number, draw(st.binary(min_size=least, max_size=min(_LONGEST.get(number, 300), 300)))


_CODES = st.one_of(st.integers(1, 31), st.integers(0x40, 0x5F), st.integers(0x80, 0xBF))
_MESSAGES = st.builds(
    Message,
    st.integers(0, 3),
    _CODES,
    st.integers(0, 65535),
    st.binary(max_size=8),
    st.lists(_options(), max_size=6, unique_by=lambda option: option[0] if option[0] in _ONCE else object()),
    st.binary(max_size=80),
)


@given(_MESSAGES)
def test_what_is_built_parses_to_the_same(message: Message) -> None:
    back = parse_any_size(message.encode())
    assert back.options == sorted(message.options, key=lambda option: option[0])
    back.options = message.options
    assert back == message


@given(_MESSAGES)
def test_truncation_anywhere_is_malformed_or_a_shorter_message(message: Message) -> None:
    wire = message.encode()
    for size in range(len(wire)):
        try:
            shorter = parse_any_size(wire[:size])
        except Malformed:
            continue
        # What parses is itself well-formed, and builds to exactly the bytes that were there; of a response that ends
        # with the payload marker, to those before it.
        assert shorter.encode() in (wire[:size], wire[: size - 1] if shorter.is_response else None)


def test_truncation_of_a_message_of_every_part_is_malformed_where_a_part_is_cut() -> None:
    wire = build(0, 1, 9, b"abcd", [(11, b"p" * 20), (2000, b"v" * 300)], b"payload")
    well_formed = []
    for size in range(len(wire)):
        try:
            parse(wire[:size])
            well_formed.append(size)
        except Malformed:
            pass
    first = 4 + 4 + 2 + 20
    second = first + 5 + 300
    # Whole after the token, after each option, and with each part of the payload.
    assert well_formed == [8, first, second, *range(second + 2, len(wire))]


MALFORMED: list[tuple[str, bytes]] = [
    ("short header", b"\x40\x01\x00"),
    ("version", b"\x80\x01\x00\x00"),
    ("version", b"\x00\x01\x00\x00"),
    ("token length", b"\x49\x01\x00\x00" + b"123456789"),
    ("token length", b"\x4f\x01\x00\x00" + b"123456789012345"),
    ("truncated token", b"\x48\x01\x00\x001234567"),
    ("truncated token", b"\x41\x00\x00\x00"),
    ("empty message with content", b"\x40\x00\x00\x00\xff1"),
    ("empty message with content", b"\x41\x00\x00\x00\x01"),
    ("code class", b"\x40\x20\x00\x00"),
    ("code class", b"\x40\x60\x00\x00"),
    ("code class", b"\x40\xc5\x00\x00"),
    ("code class", b"\x40\xe0\x00\x00"),
    ("payload marker without payload", b"\x40\x01\x00\x00\xff"),
    ("reserved option nibble", b"\x40\x01\x00\x00\xf1a"),
    ("reserved option nibble", b"\x40\x01\x00\x00\x1fa"),
    ("truncated option header", b"\x40\x01\x00\x00\xd0"),
    ("truncated option header", b"\x40\x01\x00\x00\xe0\x01"),
    ("truncated option header", b"\x40\x01\x00\x00\xbe\x01"),
    ("truncated option", b"\x40\x01\x00\x00\xb5abc"),
    ("option number", b"\x40\x01\x00\x00\xe0\xff\xff"),
    ("option number", b"\x40\x01\x00\x00\xe0\xfe\xf2\x10"),
    ("option text", b"\x40\x01\x00\x00\xb2\xc3\x28"),
    ("option text", b"\x40\x01\x00\x00\xb3\xed\xa0\x80"),
    ("option text", b"\x40\x01\x00\x00\xd1\x16\xcb"),
    ("too many options", b"\x40\x01\x00\x00" + b"\xb0" + b"\x00" * 64),
    ("too long", b"\x40\x01\x00\x00\xff" + b"x" * MAX_DATAGRAM),
]


@pytest.mark.parametrize(("reason", "datagram"), MALFORMED)
def test_format_error_is_refused_with_its_reason(reason: str, datagram: bytes) -> None:
    with pytest.raises(Malformed, match=f"^{reason}$"):
        parse(datagram)


@pytest.mark.parametrize("code", [Code.CONTENT, Code.CHANGED, Code.NOT_FOUND])
def test_response_that_ends_with_the_payload_marker_has_an_empty_payload(code: Code) -> None:
    # What Zephyr's client answers to the read of an object that is empty: the options, the marker, and nothing behind.
    options: Options = [(Option.CONTENT_FORMAT, b"\x2d\x16")]
    answer = parse(build(Type.ACK, code, 7, b"to", options) + b"\xff")
    assert answer == Message(Type.ACK, code, 7, b"to", list(options), b"")


_REQUEST, _RESPONSE = Code.POST, Code.CONTENT
UNRECOGNISED: list[tuple[int, list[tuple[int, bytes]], int]] = [
    # What a registration and what a block of an answer have.
    (_REQUEST, [(3, b"h"), (7, b"\x16\x33"), (11, b"rd"), (15, b"ep=a"), (17, b"("), (23, b""), (27, b"")], 0),
    (_REQUEST, [(11, b"rd"), (11, b"1"), (15, b"ep=a"), (15, b"lt=9"), (2048, b"x"), (65000, b"")], 0),
    (_RESPONSE, [(6, b"\1"), (12, b"("), (23, b"\x0e"), (27, b"\x0e")], 0),
    # Of the standards, but nothing here acts on them.
    (_REQUEST, [(1, b"e"), (11, b"rd")], 1),
    (_REQUEST, [(5, b"")], 5),
    (_REQUEST, [(9, b"")], 9),
    (_REQUEST, [(35, b"coap://h/")], 35),
    (_REQUEST, [(39, b"coap")], 39),
    (_REQUEST, [(11, b"rd"), (2049, b""), (65001, b"x")], 2049),
    # Not defined for a response (RFC 7252 section 5.4).
    (_RESPONSE, [(11, b"rd")], 11),
    (_RESPONSE, [(65001, b"")], 65001),
    # Of a length that they cannot have (section 5.4.3).
    (_REQUEST, [(3, b"")], 3),
    (_REQUEST, [(7, b"abc")], 7),
    (_REQUEST, [(11, b"x" * 256)], 11),
    (_REQUEST, [(17, b"abc")], 17),
    (_REQUEST, [(27, b"abcd")], 27),
    (_RESPONSE, [(23, b"abcd")], 23),
    # Once more than they may come (section 5.4.5).
    (_REQUEST, [(3, b"h"), (3, b"h")], 3),
    (_REQUEST, [(17, b"("), (17, b"*")], 17),
    (_RESPONSE, [(23, b""), (23, b"")], 23),
]


@pytest.mark.parametrize(("code", "options", "number"), UNRECOGNISED)
def test_critical_option_that_is_not_understood_is_noted(
    code: int, options: list[tuple[int, bytes]], number: int
) -> None:
    assert parse(build(Type.CON, code, 1, b"t", options, b"x")).unrecognised == number


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ([(6, b"abcd"), (12, b"(")], [(12, b"(")]),  # too long
        ([(4, b""), (12, b"abc")], []),  # too short, too long
        ([(6, b"\1"), (6, b"\2"), (14, b""), (14, b"\1")], [(6, b"\1"), (14, b"")]),  # twice
        ([(4, b"a"), (4, b"b")], [(4, b"a"), (4, b"b")]),  # may come twice
    ],
)
def test_elective_option_that_is_not_understood_is_left_out(
    options: list[tuple[int, bytes]], left: list[tuple[int, bytes]]
) -> None:
    message = parse(build(Type.CON, Code.CONTENT, 1, b"t", options, b"x"))
    assert (message.options, message.unrecognised, message.payload) == (left, 0, b"x")


@settings(max_examples=500)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.binary(max_size=60).map(lambda rest: b"\x44\x01\x12\x34tokn" + rest),
        st.tuples(_MESSAGES, st.data()).map(lambda pair: pair[0].encode()),
    )
)
def test_nothing_but_malformed_escapes_and_what_parses_is_canonical_in_meaning(datagram: bytes) -> None:
    try:
        message = parse(datagram)
    except Malformed:
        return
    assert datagram[0] >> 6 == 1
    assert len(message.token) <= 8
    assert (message.code == 0) == (len(datagram) == 4 and datagram[1] == 0)
    for number, value in message.options:
        assert message.unrecognised or len(value) <= _LONGEST.get(number, MAX_DATAGRAM)
    assert parse(message.encode()) == message
    assert all(isinstance(text, str) for number in _TEXT for text in message.texts(number))


@settings(max_examples=300)
@given(_MESSAGES, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_message_is_malformed_or_a_message(message: Message, changes: list[tuple[int, int]]) -> None:
    wire = bytearray(message.encode())
    for at, byte in changes:
        wire[at % len(wire)] = byte
    try:
        changed = parse_any_size(bytes(wire))
    except Malformed:
        return
    assert parse_any_size(changed.encode()) == changed


@settings(max_examples=300)
@given(_MESSAGES)
def test_aiocoap_reads_the_same_and_writes_what_we_read(message: Message) -> None:
    wire = message.encode()
    theirs = aiocoap.Message.decode(wire)
    assert (int(theirs.mtype), int(theirs.code), theirs.mid, theirs.token, theirs.payload) == (
        message.type,
        message.code,
        message.mid,
        message.token,
        message.payload,
    )
    theirs.direction = aiocoap.message.Direction.OUTGOING
    again = parse_any_size(theirs.encode())
    assert (again.type, again.code, again.mid, again.token, again.payload) == (
        message.type,
        message.code,
        message.mid,
        message.token,
        message.payload,
    )
    # aiocoap makes integers of uint options, so zeros in front go, and of an option that may not be repeated it keeps
    # what it likes: compared are the options that come once.
    numbers = [number for number, _ in message.options]
    ours = {number: value for number, value in message.options if numbers.count(number) == 1}
    for number, value in again.options:
        if number in ours:
            assert value in (ours[number], ours[number].lstrip(b"\0")), number


@given(st.integers(0, 2**32))
def test_uint_is_the_shortest_form(value: int) -> None:
    data = uint(value)
    assert int.from_bytes(data, "big") == value
    assert not data.startswith(b"\0")


def test_values_are_read_by_their_formats() -> None:
    message = parse(build(0, 1, 1, b"", [(Option.URI_PATH, "ä".encode()), (Option.BLOCK2, b"\x1e"), (11, b"b")]))
    assert message.texts(Option.URI_PATH) == ["ä", "b"]
    assert message.block(Option.BLOCK2) == Block(1, True, 6)
    assert Block(1, True, 6).size == 1024
    assert message.block(Option.BLOCK1) is None
    assert message.uint(Option.OBSERVE) is None
    assert message.is_request and not message.is_response
    assert parse(build(0, 1, 1, b"", [(Option.BLOCK1, b"")])).block(Option.BLOCK1) == Block(0, False, 0)


def test_empty_message_and_name_of_code() -> None:
    assert parse(empty(Type.RST, 0xABCD)) == Message(Type.RST, 0, 0xABCD, b"", [], b"")
    assert name(Code.NOT_FOUND) == "4.04"
    assert name(Code.CONTENT) == "2.05"
