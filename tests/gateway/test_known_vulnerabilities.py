"""What others' implementations of these protocols were once brought down by, tried on ours; by the report's number."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from gateway.coap.message import Malformed, parse
from gateway.dtls.events import Established, Send
from gateway.dtls.server import Server
from gateway.dtls.settings import Settings
from schemas.lwm2m import xml_files
from schemas.lwm2m.objects import DefinitionError
from tests.gateway.dtls.dtls_client import Client, Ticket
from tests.gateway.dtls.dtls_link import KEY, connect, of, say, verified_hello

SETTINGS = Settings(most_handshakes=256)


def _server() -> Server:
    return Server({b"dev": KEY, b"other": KEY}.get, SETTINGS)


def _abandon(server: Server, client: Client, stage: int, port: int, now: float) -> None:
    """Begin a handshake and leave it: before the cookie, after it, with a wrong key, or with the last flight unsaid."""
    address = ("198.51.100.7", port)
    if stage == 0:
        server.receive(client.start()[0], address, now)
        return
    hello = verified_hello(server, client, address, now)
    events = server.receive(hello, address, now)
    if stage == 1:
        return
    flight = [said for event in of(Send, events) for said in client.hear(event.datagram)]
    for datagram in flight if stage == 2 else flight[:1]:
        server.receive(datagram, address, now)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_handshakes_that_fail_leave_nothing_that_keeps_the_next_one_out(stage: int) -> None:
    """CVE-2022-39368 and CVE-2020-27222 (Californium): failed handshakes were counted for ever, or their state stayed;
    after enough of them nobody got in."""
    server, now = _server(), 1000.0
    for number in range(2_000):
        now += 0.01
        _abandon(server, Client(identity=b"dev", key=KEY[::-1]), stage, 1024 + number, now)
        server.tick(now)
    assert server.open_handshakes <= SETTINGS.most_handshakes
    # While they are open, and after they are forgotten.
    assert connect(server, Client(), ("192.0.2.9", 1), now).open
    server.tick(now + SETTINGS.handshake_for + 1)
    assert server.open_handshakes == 0
    assert connect(server, Client(), ("192.0.2.9", 2), now + SETTINGS.handshake_for + 1).open
    assert server.deadline() is not None


def test_resumptions_that_fail_end_no_session_and_are_not_counted() -> None:
    """CVE-2022-2576 (Californium): a resumption with a session id that did not fit was never cleaned up."""
    server, now = _server(), 1000.0
    client = Client()
    session = connect(server, client, now=now)
    ticket = client.take_ticket()
    for number in range(2_000):
        now += 0.01
        forged = Client(identity=b"dev", key=KEY[::-1], ticket=Ticket(ticket.session_id, bytes(48)))
        address = ("198.51.100.7", 1024 + number)
        events = say(server, forged, [verified_hello(server, forged, address, now)], address, now)
        assert not of(Established, events)
    assert session.open
    server.tick(now + SETTINGS.handshake_for + 1)
    assert server.open_handshakes == 0
    again = Client(ticket=ticket)
    assert connect(server, again, ("192.0.2.9", 1), now + SETTINGS.handshake_for + 1).open


@pytest.mark.parametrize("is_known", [True, False])
def test_resumption_without_a_cookie_gets_the_small_request_for_one_and_leaves_nothing(is_known: bool) -> None:
    """CVE-2022-2576 (Californium): a ClientHello with a session id that was not known began a full handshake without a
    HelloVerifyRequest, whose flight went to an address that anybody may have written."""
    server, now = _server(), 1000.0
    client = Client()
    session = connect(server, client, now=now)
    ticket = client.take_ticket()
    for number in range(100):
        again = Client(ticket=ticket if is_known else Ticket(number.to_bytes(32), ticket.master))
        (hello,) = again.start()
        address = ("198.51.100.7", 1024 + number)
        (request,) = server.receive(hello, address, now)
        assert isinstance(request, Send)
        assert request.address == address
        assert len(request.datagram) <= len(hello)
        # A handshake record with a HelloVerifyRequest, and nothing behind it.
        assert (request.datagram[0], request.datagram[13]) == (22, 3)
        assert len(request.datagram) == 13 + int.from_bytes(request.datagram[11:13])
    assert (server.open_handshakes, server.open_sessions) == (0, 1)
    assert session.open


@pytest.mark.parametrize("word", ["SYSTEM", "PUBLIC 'x'"])
def test_model_file_brings_nothing_in_from_outside(word: str, tmp_path: Path) -> None:
    """CVE-2023-41034 (Leshan): a DDF model file named other files and hosts (XXE), and their contents came in."""
    bait = tmp_path / "bait.txt"
    bait.write_text("secret")
    head = f'<?xml version="1.0"?><!DOCTYPE LWM2M [<!ENTITY x {word} "{bait.as_uri()}">]>'
    with pytest.raises(DefinitionError, match="DOCTYPE") as told:
        xml_files.parse(f"{head}<LWM2M><Object><Name>&x;</Name></Object></LWM2M>".encode(), "bad.xml")
    assert "secret" not in str(told.value)


def test_handshake_without_a_proof_of_the_key_is_no_handshake() -> None:
    """CVE-2021-34433 (Californium): a message that proves the key could be left out."""
    server = _server()
    client = Client()
    events = server.receive(verified_hello(server, client), ("192.0.2.1", 5684), 0)
    flight = [said for event in of(Send, events) for said in client.hear(event.datagram)]
    assert len(flight) == 3  # ClientKeyExchange, ChangeCipherSpec, Finished
    for left_out in range(3):
        told = [event for datagram in flight[:left_out] for event in server.receive(datagram, ("192.0.2.1", 5684), 0)]
        assert not of(Established, told)
    assert server.open_sessions == 0
    assert not server.receive(client.send(b"data"), ("192.0.2.1", 5684), 0)


@pytest.mark.parametrize("steps", [1, 2, 40, 500])
def test_option_numbers_do_not_wrap_around(steps: int) -> None:
    """CVE-2020-12887 (mbed-coap): numbers that add up beyond 65,535 were taken for small ones."""
    to_the_end = b"\xe0" + (65535 - 269).to_bytes(2, "big")
    past_it = b"\x10" * steps
    assert parse(b"\x40\x01\x00\x01" + to_the_end).options == [(65535, b"")]
    with pytest.raises(Malformed, match="option number"):
        parse(b"\x40\x01\x00\x01" + to_the_end + past_it)
    # In 16 bits it would be 11, Uri-Path.
    with pytest.raises(Malformed, match="option number"):
        parse(b"\x40\x01\x00\x01" + to_the_end + b"\xc0")


def test_message_that_says_it_goes_on_ends_with_its_datagram() -> None:
    """CVE-2021-41040 (Wakaama): a block or an option of a length that lies was read for ever, or beyond the end."""
    tracemalloc.start()
    try:
        for head in (b"\x40\x03\x00\x01", b"\x4f\x03\x00\x01", b"\x48\x03\x00\x01"):
            for nibble in range(256):
                for tail in (b"", b"\xff", b"\xff\xff", b"\xff" * 64, b"\xdd" * 64, b"\xee" * 64, bytes(64)):
                    try:
                        message = parse(head + bytes([nibble]) + tail)
                    except Malformed:
                        continue
                    assert sum(len(value) for _, value in message.options) + len(message.payload) <= 65
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
