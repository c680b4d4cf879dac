"""Handshakes of the DTLS server: all ways through, bad links, and people who mean no good."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.dtls.cookies import PERIOD
from gateway.dtls.events import Closed, Established, Received, Send
from gateway.dtls.greeting import suites_offered
from gateway.dtls.server import Server
from gateway.dtls.settings import Settings
from tests.gateway.dtls.dtls_client import CCM, CCM_8, GCM, Client
from tests.gateway.dtls.dtls_link import ELSEWHERE, HERE, KEY, BadLink, connect, of, say, verified_hello


def _server(**settings: float) -> Server:
    return Server({b"dev": KEY}.get, dataclasses.replace(Settings(), **settings))  # type: ignore[arg-type]  # ints too


@pytest.mark.parametrize("suite", [CCM_8, CCM, GCM])
@pytest.mark.parametrize("cid", [None, b"", b"theirs"])
@pytest.mark.parametrize("extended", [True, False])
def test_data_goes_both_ways_after_a_handshake(suite: int, cid: bytes | None, extended: bool) -> None:
    server = _server()
    client = Client(suites=(suite,), cid=cid, extended=extended)
    session = connect(server, client)
    assert session.suite.number == suite
    assert (client.server_cid is not None) == (cid is not None) == bool(session.cid)
    assert (23 in client.server_extensions) == extended
    assert client.server_extensions[0xFF01] == b"\0"
    (received,) = say(server, client, [client.send(b"up")])
    assert received == Received(session, b"up")
    client.hear(server.send(session, b"down"))
    assert client.received == [b"down"]
    assert not server.dropped


def test_our_preferred_suite_is_chosen() -> None:
    assert connect(_server(), Client(suites=(CCM_8, CCM, GCM))).suite.number == CCM_8


def test_client_of_dtls_1_3_gets_1_2() -> None:
    connect(_server(), Client(version=b"\xfe\xfc"))


@pytest.mark.parametrize("version", [b"\xfe\xff", b"\xfe\x00"], ids=["DTLS 1.0", "Mbed TLS 2"])
def test_records_of_client_hellos_may_say_any_version(version: bytes) -> None:
    server, client = _server(), Client()

    def as_said(datagrams: list[bytes]) -> list[bytes]:
        return [one[:1] + version + one[3:] for one in datagrams]

    (hello,) = as_said(client.start())
    assert suites_offered(hello) is not None
    (request,) = of(Send, server.receive(hello, HERE, 0))
    say(server, client, as_said(client.hear(request.datagram)))
    assert client.established
    assert not server.dropped


@pytest.mark.parametrize(
    ("client", "description"),
    [
        (Client(suites=(0xC02B,)), 40),
        (Client(version=b"\xfe\xff"), 70),
        (Client(version=b"\x03\x03"), 70),
        (Client(extra_extensions=b"\xff\x01\x00\x02\x01\x00"), 40),
    ],
    ids=["suite", "DTLS 1.0", "TLS", "renegotiation"],
)
def test_what_cannot_be_is_refused_after_the_cookie_and_leaves_nothing(client: Client, description: int) -> None:
    server = _server()
    hello = verified_hello(server, client)
    say(server, client, [hello])
    assert client.alerts == [(2, description)]
    assert server.open_handshakes == 0
    assert server.deadline() is None


@pytest.mark.parametrize("cut", [1, 3, 10])
@pytest.mark.parametrize("backwards", [False, True])
def test_messages_in_pieces_in_any_order_are_put_together(cut: int, backwards: bool) -> None:
    server = _server()
    client = Client()
    hello = verified_hello(server, client)
    client.cut = cut
    (flight,) = of(Send, server.receive(hello, HERE, 0))
    datagrams = client.hear(flight.datagram)
    # The Finished in pieces is more records than are kept before their key: they stay behind it.
    plain = [datagram for datagram in datagrams if datagram[3:5] == b"\0\0"]
    protected = [datagram for datagram in datagrams if datagram not in plain]
    if backwards:
        plain.reverse()
        protected.reverse()
    events = say(server, client, [*plain, *plain[:2], *protected])
    assert of(Established, events)
    assert client.established


def test_finished_before_the_key_exchange_is_kept_for_it() -> None:
    server = _server()
    client = Client()
    (flight,) = of(Send, server.receive(verified_hello(server, client), HERE, 0))
    key_exchange, spec, finished = client.hear(flight.datagram)
    assert not server.receive(finished, HERE, 0)
    assert not server.receive(finished, HERE, 0)
    assert not server.receive(spec, HERE, 0)
    assert of(Established, say(server, client, [key_exchange]))
    assert client.established
    assert server.dropped == {"replayed record": 1}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("flight_timeout", [0.7, 9.0])
def test_handshake_and_data_get_through_a_bad_link(seed: int, flight_timeout: float) -> None:
    server = _server(flight_timeout=flight_timeout)
    client = Client(cid=[None, b"", b"c"][seed % 3], cut=[10_000, 7][seed % 2])
    BadLink(server, client, seed).until_answered(within=85)
    again = Client(cid=client.cid, ticket=client.take_ticket())
    link = BadLink(server, again, seed + 1000)
    link.until_answered(within=85)
    assert again.resumed
    # A copy of a ClientHello that came late looks like another handshake, for a while.
    assert server.open_handshakes <= 1
    assert not of(Closed, server.tick(link.now + Settings().handshake_for))
    assert server.open_handshakes == 0
    assert server.open_sessions == 1


def test_unanswered_flight_is_said_again_later_and_later_until_the_handshake_is_forgotten() -> None:
    server = _server(flight_timeout=1.0, handshake_for=20.0)
    client = Client()
    server.receive(verified_hello(server, client, now=100), HERE, 100)
    times = []
    while (deadline := server.deadline()) is not None:
        assert not server.tick(deadline - 0.001)
        if of(Send, server.tick(deadline)):
            times.append(deadline - 100)
    assert times == [1, 3, 7, 15]
    assert server.open_handshakes == 0
    assert server.dropped == {"handshake expired": 1}
    assert server.retransmitted_flights == 4


def test_repeated_client_hello_gets_the_same_flight_with_new_sequence_numbers() -> None:
    server = _server()
    client = Client()
    hello = verified_hello(server, client)
    first, second = (of(Send, server.receive(hello, HERE, 0))[0].datagram for _ in range(2))
    assert (first[:5], first[11:]) != (second[:5], second[11:])  # the second record's number differs too
    assert first[13:106] == second[13:106]
    assert first[5:11] < second[5:11]
    # RFC 6347 section 4.2.1: the series goes on from the ClientHello's.
    assert first[5:11] == hello[5:11] == bytes(5) + b"\1"
    assert server.open_handshakes == 1


def test_lost_last_flight_is_said_again_when_the_client_says_its_own_again() -> None:
    server = _server()
    client = Client(cid=b"")
    (flight,) = of(Send, server.receive(verified_hello(server, client), HERE, 0))
    datagrams = client.hear(flight.datagram)
    assert of(Established, [event for datagram in datagrams for event in server.receive(datagram, HERE, 0)])
    events = say(server, client, client.again())
    assert client.established
    assert not of(Established, events)
    assert server.retransmitted_flights == 1
    say(server, client, [client.send(b"data")])
    # It has heard us now: there is nothing to say again any more.
    assert not say(server, client, client.again())


def test_no_datagram_of_a_handshake_is_longer_than_three_times_what_asked_for_it() -> None:
    server = _server()
    client = Client(cid=b"")
    waiting = client.start()
    while waiting:
        datagram = waiting.pop(0)
        for event in of(Send, server.receive(datagram, HERE, 0)):
            if not client.cookie:
                assert len(event.datagram) < len(datagram)
            assert len(event.datagram) <= 3 * len(datagram)
            waiting += client.hear(event.datagram)
    assert client.established


def test_cookie_is_good_for_its_address_its_hello_and_its_time() -> None:
    server = _server()
    client = Client()
    hello = verified_hello(server, client)
    for address, now in ((ELSEWHERE, 0.0), (HERE, 2 * PERIOD)):
        (answer,) = of(Send, server.receive(hello, address, now))
        assert answer.datagram[13] == 3  # HelloVerifyRequest
    other = Client(cookie=client.cookie)
    (answer,) = of(Send, server.receive(other.start()[0], HERE, 0))
    assert answer.datagram[13] == 3
    assert server.open_handshakes == 0
    (answer,) = of(Send, server.receive(hello, HERE, 1.9 * PERIOD))
    assert answer.datagram[13] == 2


@pytest.mark.parametrize("again", [False, True])
def test_wrong_key_and_unknown_identity_look_the_same(again: bool) -> None:
    seen = []
    for client in (Client(key=b"another key"), Client(identity=b"abc")):
        server = _server(doubt=2.0)
        said = [(1.0, len(event.datagram)) for event in of(Send, say(server, client, client.start(), now=1))]
        if again:
            said += [(2.0, len(event.datagram)) for event in of(Send, say(server, client, client.again(), now=2))]
        while (deadline := server.deadline()) is not None:
            for event in of(Send, server.tick(deadline)):
                client.hear(event.datagram)
                said.append((deadline, len(event.datagram)))
        assert client.alerts == [(2, 51)]
        assert not client.established
        seen.append(said)
    assert seen[0] == seen[1]
    assert seen[0][-1][0] == 3


@pytest.mark.parametrize("key", [b"", bytes(16), KEY])
@pytest.mark.parametrize("kept", [None, b""])
def test_nobody_gets_in_with_an_identity_that_has_no_key(key: bytes, kept: bytes | None) -> None:
    server = Server(lambda identity: kept)
    client = Client(identity=b"nobody", key=key)
    say(server, client, client.start())
    assert not client.established
    assert server.open_sessions == 0


def test_forged_messages_do_not_spoil_a_handshake() -> None:
    """Whoever can send from the client's address, but sees nothing, costs it nothing."""
    server = _server()
    client = Client()
    hello = verified_hello(server, client)
    (flight,) = of(Send, server.receive(hello, HERE, 0))
    forged = Client(identity=b"mallory")
    forged._message_sequence = 2
    forged._say(16, b"\x00\x07mallory")
    key_exchange, garbage = forged.again()[-1], b"\x16\xfe\xfd\x00\x01" + bytes(6) + b"\x00\x28" + bytes(40)
    datagrams = client.hear(flight.datagram)
    alert = b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28"
    events = []
    for datagram in [garbage, key_exchange, garbage, alert, *datagrams]:
        events += server.receive(datagram, HERE, 0)
        events += server.receive(alert, HERE, 0)
    assert of(Established, events)
    for event in of(Send, events):
        client.hear(event.datagram)
    assert client.established
    assert not client.alerts


def test_key_exchange_forged_before_the_finished_is_made_good_by_the_next() -> None:
    server = _server(doubt=5.0)
    client = Client()
    (flight,) = of(Send, server.receive(verified_hello(server, client), HERE, 0))
    key_exchange, spec, finished = client.hear(flight.datagram)
    forged = Client()
    forged._message_sequence = 2
    forged._say(16, b"\x00\x03abc")
    events = []
    for datagram in (key_exchange, forged.again()[-1], spec, finished, *client.again()):
        events += server.receive(datagram, HERE, 0)
    assert of(Established, events)


@pytest.mark.parametrize("resumed", [False, True])
def test_right_keys_with_a_wrong_finished_make_no_session(resumed: bool) -> None:
    """Only who has seen the same handshake has the same verify_data."""
    server = _server()
    client = Client()
    if resumed:
        connect(server, client, ELSEWHERE)
        client = Client(ticket=client.take_ticket())
    (flight,) = of(Send, server.receive(verified_hello(server, client), HERE, 0))
    *before, finished = client.hear(flight.datagram)
    wrong = client._flight[-1][2][:-1] + bytes((client._flight[-1][2][-1] ^ 1,))
    of_the_server = client._flight[-1][2][:12] + bytes(12)
    for datagram in (*before, client.protect(22, wrong), client.protect(22, of_the_server)):
        assert not of(Established, server.receive(datagram, HERE, 0))
    assert server.dropped["wrong Finished"] == 2
    assert not server.receive(client.protect(22, wrong[:4] + b"\0\x09" + wrong[6:]), HERE, 0)
    right = client._flight[-1][2]
    for type_ in (20, 21, 23):
        assert not of(Established, server.receive(client.protect(type_, right), HERE, 0))
    assert of(Established, server.receive(finished, HERE, 0))


def test_compression_without_null_is_refused() -> None:
    server = _server()
    client = Client()
    hello = bytearray(verified_hello(server, client))
    at = hello.index(b"\xc0\xa8\x00\xff") + 5
    hello[at] = 1
    (request,) = of(Send, server.receive(bytes(hello), HERE, 0))  # the cookie was made for another hello
    cookie_at = bytes(hello).index(client.cookie)
    hello[cookie_at : cookie_at + len(client.cookie)] = request.datagram[-len(client.cookie) :]
    (refusal,) = of(Send, server.receive(bytes(hello), HERE, 0))
    assert refusal.datagram[13:] == b"\x02\x2f"


def test_client_hello_of_somebody_else_leaves_a_live_session_as_it_is() -> None:
    server = _server()
    client = Client()
    session = connect(server, client)
    intruder = Client(identity=b"nobody")
    datagrams = [verified_hello(server, intruder)]
    assert not of(Closed, say(server, intruder, datagrams))
    (received,) = say(server, client, [client.send(b"still here")])
    assert received == Received(session, b"still here")
    client.hear(server.send(session, b"me too"))
    assert client.received == [b"me too"]


def test_renegotiation_is_refused_and_the_session_lives() -> None:
    server = _server()
    client = Client()
    session = connect(server, client)
    hello = Client().start()[0][13:]
    say(server, client, [client.protect(22, hello)])
    assert client.alerts == [(1, 100)]
    assert session.open


def test_half_open_handshakes_are_bounded_and_the_oldest_goes() -> None:
    server = _server(most_handshakes=100)
    clients = [(Client(), ("192.0.2.7", port)) for port in range(300)]
    for client, address in clients:
        server.receive(verified_hello(server, client, address), address, 0)
        assert server.open_handshakes <= 100
        assert len(server._acceptor._handshakes._due) <= 2 * 100 + 64
    assert server.dropped == {"handshake evicted": 200}
    client, address = clients[-1]
    assert of(Established, say(server, client, client.again(), address))
    assert client.established


@pytest.mark.parametrize("identity_length", [0, 1, 128, 400])
def test_identity_of_any_sane_length_is_taken(identity_length: int) -> None:
    identity = b"i" * identity_length
    connect(Server({identity: KEY}.get), Client(identity=identity))


def test_identity_too_long_is_no_state_and_no_error() -> None:
    server = _server()
    client = Client(identity=b"i" * 1000, cut=300)
    say(server, client, client.start())
    assert not client.established
    assert server.dropped["handshake message too long"] == 4


def test_client_hello_in_pieces_is_dropped() -> None:
    """No state before the cookie, so nothing in which its pieces could be kept."""
    server = _server()
    (hello,) = Client().start()
    body = hello[25:]
    head = hello[13:19] + bytes(3) + (20).to_bytes(3, "big")
    assert server.receive(Client().plain(22, head + body[:20]), HERE, 0) == []
    assert server.dropped == {"ClientHello in pieces": 1}
