"""The test vectors of RFC 8613, appendix C, and what the option and the window hold."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.coap.message import parse
from gateway.oscore import messages
from gateway.oscore.context import SecurityContext, Unauthentic
from gateway.oscore.option import Compressed, Undecodable, decode, encode, partial_iv
from gateway.oscore.window import SIZE, ReplayWindow
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Oscore

SECRET = bytes.fromhex("0102030405060708090a0b0c0d0e0f10")
SALT = bytes.fromhex("9e7ca92223786340")
ID_CONTEXT = bytes.fromhex("37cbf3210017a2d3")


def _context(
    sender: bytes, recipient: bytes, *, salt: bytes = SALT, id_context: bytes | None = None
) -> SecurityContext:
    return SecurityContext(
        Oscore(
            endpoint="vector",
            created=datetime(2026, 1, 1, tzinfo=UTC),
            master_secret=KeyBytes(SECRET),
            master_salt=KeyBytes(salt),
            sender_id=sender,
            recipient_id=recipient,
            id_context=id_context,
        )
    )


# C.1, C.2, C.3: nonces by the client's id and Partial IV 0, which show the common IV.
@pytest.mark.parametrize(
    ("context", "id_", "nonce"),
    [
        (_context(b"", b"\x01"), b"", "4622d4dd6d944168eefb54987c"),
        (_context(b"", b"\x01"), b"\x01", "4722d4dd6d944169eefb54987c"),
        (_context(b"\x00", b"\x01", salt=b""), b"\x00", "bf35ae297d2dace910c52e99f9"),
        (_context(b"\x00", b"\x01", salt=b""), b"\x01", "bf35ae297d2dace810c52e99f9"),
        (_context(b"", b"\x01", id_context=ID_CONTEXT), b"", "2ca58fb85ff1b81c0b7181b85e"),
        (_context(b"", b"\x01", id_context=ID_CONTEXT), b"\x01", "2da58fb85ff1b81d0b7181b85e"),
    ],
)
def test_nonces_of_the_appendix(context: SecurityContext, id_: bytes, nonce: str) -> None:
    assert context.nonce(id_, b"\x00").hex() == nonce


PLAIN_REQUEST = bytes.fromhex("44015d1f00003974396c6f63616c686f737483747631")
PLAIN_RESPONSE = bytes.fromhex("64455d1f00003974ff48656c6c6f20576f726c6421")
REQUEST = {
    # C.4: the client's request; the sender id is empty.
    "C.4": "44025d1f00003974396c6f63616c686f7374620914ff612f1092f1776f1c1668b3825e",
    # C.5: without a salt, sender id 00.
    "C.5": "44025d1f00003974396c6f63616c686f737463091400ff4ed339a5a379b0b8bc731fffb0",
    # C.6: with an ID Context.
    "C.6": "44025d1f00003974396c6f63616c686f73746b19140837cbf3210017a2d3ff72cd7273fd331ac45cffbe55c3",
}
SERVERS = {
    "C.4": _context(b"\x01", b""),
    "C.5": _context(b"\x01", b"\x00", salt=b""),
    "C.6": _context(b"\x01", b"", id_context=ID_CONTEXT),
}


@pytest.mark.parametrize("vector", REQUEST)
def test_requests_of_the_appendix_are_opened(vector: str) -> None:
    message = parse(bytes.fromhex(REQUEST[vector]))
    fields = decode(messages.option_of(message) or b"")
    assert fields.partial_iv == b"\x14"
    opened = parse(messages.open_request(SERVERS[vector], message, fields.partial_iv))
    # The host is outside, and of no use to us.
    assert (opened.code, opened.token, opened.mid) == (1, b"\x00\x00\x39\x74", 0x5D1F)
    assert opened.options == [(11, b"tv1")]


@pytest.mark.parametrize("vector", REQUEST)
def test_requests_of_the_appendix_are_closed(vector: str) -> None:
    client = {
        "C.4": _context(b"", b"\x01"),
        "C.5": _context(b"\x00", b"\x01", salt=b""),
        "C.6": _context(b"", b"\x01", id_context=ID_CONTEXT),
    }[vector]
    # The appendix has the host in front of the OSCORE option; we send none.
    plain = bytes.fromhex("44015d1f00003974b3747631")
    closed = parse(messages.close_request(client, plain, b"\x14"))
    wanted = parse(bytes.fromhex(REQUEST[vector]))
    assert (closed.code, closed.payload) == (wanted.code, wanted.payload)
    assert messages.option_of(closed) == messages.option_of(wanted)


def test_responses_of_the_appendix() -> None:
    # C.7 under the request's nonce; C.8 with a Partial IV of the server's own.
    without = "64445d1f0000397490ffdbaad1e9a7e7b2a813d3c31524378303cdafae119106"
    own = "64445d1f00003974920100ff4d4c13669384b67354b2b6175ff4b8658c666a6cf88e"
    server, client = _context(b"\x01", b""), _context(b"", b"\x01")
    assert messages.close_response(server, PLAIN_RESPONSE, b"\x14").hex() == without
    for text, number in ((without, None), (own, b"\x00")):
        opened = messages.open_response(client, parse(bytes.fromhex(text)), b"\x14", number)
        assert opened == PLAIN_RESPONSE
        with pytest.raises(Unauthentic):
            messages.open_response(client, parse(bytes.fromhex(text)), b"\x15", number)


@given(st.binary(max_size=40))
def test_option_is_read_as_it_is_written_or_refused(value: bytes) -> None:
    try:
        fields = decode(value)
    except Undecodable:
        return
    assert encode(fields) == value


@given(st.integers(0, (1 << 40) - 1), st.none() | st.binary(max_size=7), st.none() | st.binary(max_size=64))
def test_what_the_option_says_comes_back(number: int, kid: bytes | None, kid_context: bytes | None) -> None:
    fields = Compressed(partial_iv(number), kid, kid_context)
    assert decode(encode(fields)) == fields


@given(st.lists(st.integers(0, 3 * SIZE), max_size=60))
def test_window_takes_no_number_twice(numbers: list[int]) -> None:
    window, taken = ReplayWindow(), set[int]()
    for number in numbers:
        # What is too old counts as taken; nothing that was taken counts as new.
        assert window.has(number) == (number in taken or number <= window.highest - SIZE)
        window.take(number)
        taken.add(number)
        assert window.has(number)
        assert ReplayWindow(window.highest, window.taken).has(number)


def test_window_gives_a_number_back() -> None:
    window = ReplayWindow()
    window.take(5)
    window.give_back(5)
    assert not window.has(5)
    assert "SecurityContext" in repr(SERVERS["C.4"])
    assert SECRET.hex() not in repr(SERVERS["C.4"])
