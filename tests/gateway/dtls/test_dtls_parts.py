"""The pure parts of DTLS: key schedule, records, handshake messages, pieces."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dtls import key_schedule
from gateway.dtls.handshake import MOST_MESSAGE, Pieces
from gateway.dtls.messages import Fragment, fragments, message, parse_client_hello, parse_client_key_exchange
from gateway.dtls.records import MAX_DATAGRAM, BadRecord, Malformed, ReadState, Record, WriteState, plain_record, split
from gateway.dtls.suites import SUITES, Suite, choose
from tests.gateway.dtls.dtls_client import Client


def test_prf_gives_the_published_vector() -> None:
    secret = bytes.fromhex("9bbe436ba940f017b17652849a71db35")
    seed = bytes.fromhex("a0ba9f936cda311827a6f796ffd5198c")
    expected = bytes.fromhex(
        "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af"
        "0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701"
        "87347b66"
    )
    assert key_schedule.prf(secret, b"test label", seed, 100) == expected


def test_premaster_secret_of_a_key_is_as_in_rfc_4279() -> None:
    assert key_schedule.premaster_secret(b"abc") == b"\0\x03\0\0\0\0\x03abc"


def test_no_suite_is_chosen_for_who_offers_none_of_ours() -> None:
    assert choose([0xC02B, 0x00FF]) is None


@pytest.mark.parametrize("suite", SUITES, ids=[suite.name for suite in SUITES])
@pytest.mark.parametrize("cid", [b"", b"12345678"])
@given(data=st.binary(max_size=300))
def test_protected_record_opens_once_and_not_when_any_byte_is_another(suite: Suite, cid: bytes, data: bytes) -> None:
    write = WriteState(suite, b"k" * 16, b"salt", cid)
    read = ReadState(suite, b"k" * 16, b"salt")
    datagram = write.protect(23, data)
    (record,) = split(datagram)
    at = int.from_bytes(os.urandom(2), "big") % len(datagram)
    mangled = datagram[:at] + bytes((datagram[at] ^ 1,)) + datagram[at + 1 :]
    try:
        records = list(split(mangled))
    except Malformed:
        records = []
    for changed in records:
        with pytest.raises(BadRecord):
            read.open(changed)
    assert read.open(record) == (23, data, True)
    with pytest.raises(BadRecord, match="replayed"):
        read.open(record)


def test_sequence_numbers_end() -> None:
    write = WriteState(SUITES[0], b"k" * 16, b"salt", b"")
    write._sequence = (1 << 48) - 1
    assert write.protect(23, b"")[3:11] == b"\0\x01" + b"\xff" * 6
    with pytest.raises(OverflowError):
        write.protect(23, b"")


def test_datagram_cut_anywhere_has_the_whole_records_and_is_malformed_then() -> None:
    parts = [
        plain_record(22, 1, b"abc"),
        plain_record(20, 2, b""),
        b"\x19\xfe\xfd\0\x01" + bytes(6) + b"c" * 8 + b"\0\1x",
    ]
    whole = b"".join(parts)
    assert [record.fragment for record in split(whole)] == [b"abc", b"", b"x"]
    ends = {0, len(parts[0]), len(parts[0]) + len(parts[1]), len(whole)}
    for size in range(len(whole)):
        found: list[Record] = []
        try:
            found.extend(split(whole[:size]))
            assert size in ends
        except Malformed:
            assert size not in ends


@pytest.mark.parametrize(
    ("reason", "datagram"),
    [
        ("content type", b"\x18\xfe\xfd" + bytes(10)),
        ("record version", b"\x16\x03\x03" + bytes(10)),
        ("record version", b"\x17\xfe\xff\0\x01" + bytes(8)),
        ("truncated record header", b"\x16\xfe\xfd"),
        ("truncated record", b"\x16\xfe\xfd" + bytes(8) + b"\xff\xff"),
        ("datagram too long", bytes(MAX_DATAGRAM + 1)),
    ],
)
def test_what_is_no_record_is_named(reason: str, datagram: bytes) -> None:
    with pytest.raises(Malformed, match=f"^{reason}$"):
        list(split(datagram))


def _hello() -> bytes:
    return Client(cid=b"abc").start()[0][25:]


def test_client_hello_cut_anywhere_is_malformed_but_without_extensions() -> None:
    hello = _hello()
    without = 2 + 32 + 1 + 1 + 2 + 4 + 2
    for size in range(len(hello)):
        if size == without:
            assert parse_client_hello(hello[:size]).extensions == {}
            continue
        with pytest.raises(Malformed):
            parse_client_hello(hello[:size])
    assert parse_client_hello(hello).extensions == {23: b"", 54: b"\x03abc"}
    with pytest.raises(Malformed):
        parse_client_hello(hello + b"\0")


@pytest.mark.parametrize(
    "block",
    [
        "00170000" * 2,
        "0017000100",
        "00360000",
        "0036000105",
        "ff010000",
        "ff01000102",
        "00170004",
    ],
)
def test_extensions_that_lie_are_malformed(block: str) -> None:
    extensions = bytes.fromhex(block)
    bare = Client(extended=False).start()[0][25:]
    with pytest.raises(Malformed):
        parse_client_hello(bare + len(extensions).to_bytes(2, "big") + extensions)


def test_thousands_of_extensions_are_malformed() -> None:
    extensions = b"".join(number.to_bytes(2, "big") + b"\0\0" for number in range(100, 800))
    bare = Client(extended=False).start()[0][25:]
    with pytest.raises(Malformed):
        parse_client_hello(bare + len(extensions).to_bytes(2, "big") + extensions)


@given(st.binary(max_size=80))
def test_any_bytes_are_fragments_or_malformed(payload: bytes) -> None:
    try:
        for fragment in fragments(payload):
            assert fragment.offset + len(fragment.body) <= fragment.length
    except Malformed:
        pass


def test_messages_built_are_the_fragments_read() -> None:
    assert list(fragments(message(16, 7, b"abc") + message(20, 8, b""))) == [
        Fragment(16, 3, 7, 0, b"abc"),
        Fragment(20, 0, 8, 0, b""),
    ]


@pytest.mark.parametrize(("length", "offset", "size"), [(3, 1, 3), (3, 4, 0), (3, 0, 4), (0, 0xFFFFFF, 1)])
def test_fragment_beyond_its_message_is_malformed(length: int, offset: int, size: int) -> None:
    head = b"\x10" + length.to_bytes(3, "big") + b"\0\2" + offset.to_bytes(3, "big") + size.to_bytes(3, "big")
    with pytest.raises(Malformed, match="handshake fragment length"):
        list(fragments(head + bytes(size)))


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\x02a", b"\0\x01ab"])
def test_key_exchange_whose_length_lies_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse_client_key_exchange(body)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_pieces_of_any_size_and_order_make_the_message(body: bytes, data: st.DataObject) -> None:
    pieces = Pieces()
    bounds = st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))
    several = data.draw(st.lists(bounds, max_size=8))
    cuts = [(at, min(at + 7, len(body))) for at in range(0, len(body), 7)]
    order = data.draw(st.permutations(several + cuts))
    whole = None
    for one, other in order:
        start, end = min(one, other), max(one, other)
        whole = pieces.add(Fragment(16, len(body), 2, start, body[start:end])) or whole
    assert whole == body


def test_piece_of_another_length_begins_anew_and_a_long_one_is_refused() -> None:
    pieces = Pieces()
    assert pieces.add(Fragment(16, 4, 2, 0, b"xx")) is None
    assert pieces.add(Fragment(16, 3, 2, 0, b"ab")) is None
    assert pieces.add(Fragment(16, 3, 2, 2, b"c")) == b"abc"
    assert pieces.add(Fragment(16, 3, 2, 0, b"xy")) is None
    assert pieces.add(Fragment(16, 3, 2, 2, b"z")) == b"xyz"
    with pytest.raises(Malformed):
        pieces.add(Fragment(16, MOST_MESSAGE + 1, 2, 0, b"a"))
