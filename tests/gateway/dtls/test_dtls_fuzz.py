"""Whatever comes in, the DTLS server does not raise, keeps its bounds, and serves the next client."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dtls.events import Closed, Send
from gateway.dtls.server import Server
from gateway.dtls.settings import Settings
from tests.gateway.dtls.dtls_client import Client
from tests.gateway.dtls.dtls_link import HERE, KEY, connect, of, say

_SETTINGS = Settings(most_handshakes=8, most_sessions=8, most_resumable=8)


def _flights() -> list[bytes]:
    """Datagrams of a real client: all of a full and of an abbreviated handshake, data and alerts."""
    server = Server({b"dev": KEY}.get)
    found: list[bytes] = []
    client = Client(cid=b"abc", cut=9)
    client.cut = 10_000
    for each in (client, Client(), Client(extended=False)):
        waiting = each.start()
        while waiting:
            found.append(waiting[0])
            for event in of(Send, server.receive(waiting.pop(0), HERE, 0)):
                found.append(event.datagram)
                waiting += each.hear(event.datagram)
        found += [each.send(b"data"), each.alert(1, 0), each.protect(22, b"\x01" + bytes(11))]
    return found


_FLIGHTS = _flights()


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    datagram = bytearray(draw(st.sampled_from(_FLIGHTS)))
    for _ in range(draw(st.integers(1, 4))):
        way = draw(st.integers(0, 4))
        at = draw(st.integers(0, max(len(datagram) - 1, 0)))
        if way == 0 and datagram:
            datagram[at] = draw(st.integers(0, 255))
        elif way == 1:
            del datagram[at:]
        elif way == 2:
            datagram[at:at] = draw(st.binary(max_size=20))
        elif way == 3:
            del datagram[at : at + draw(st.integers(1, 8))]
        else:
            datagram += draw(st.sampled_from(_FLIGHTS))
    return bytes(datagram)


@given(st.lists(st.one_of(st.binary(max_size=200), _mutated()), max_size=20))
@settings(max_examples=150, deadline=None)
def test_anything_is_survived(datagrams: list[bytes]) -> None:
    server = Server({b"dev": KEY}.get, _SETTINGS)
    for now, datagram in enumerate(datagrams):
        server.receive(datagram, HERE, now)
        server.tick(now)
    connect(server, Client(), HERE, 50)


@st.composite
def _edit(draw: st.DrawFn) -> tuple[int, int, int]:
    """(which datagram, where from the end of its headers, what)."""
    return draw(st.integers(0, 5)), draw(st.integers(0, 120)), draw(st.integers(0, 255))


@given(st.lists(_edit(), min_size=1, max_size=6), st.booleans(), st.sampled_from([None, b"", b"cd"]))
@settings(max_examples=300, deadline=None)
def test_handshake_with_bytes_changed_on_the_way_ends_nothing_else(
    edits: list[tuple[int, int, int]], also_cookie: bool, cid: bytes | None
) -> None:
    """Behind the cookie, where random bytes do not get: a real client whose datagrams are edited as they come."""
    server = Server({b"dev": KEY}.get, _SETTINGS)
    live = Client(identity=b"dev", cid=cid)
    session = connect(server, live, ("192.0.2.9", 1))
    client = Client(cid=cid)
    waiting, number = client.start(), 0
    while waiting and number < 20:
        datagram = bytearray(waiting.pop(0))
        for which, at, value in edits:
            if which == number and at < len(datagram) and (number or also_cookie):
                datagram[at] = value
        number += 1
        events = server.receive(bytes(datagram), HERE, number)
        assert not of(Closed, events)
        for event in of(Send, events):
            waiting += client.hear(event.datagram)
    while (deadline := server.deadline()) is not None and deadline < 1000:
        server.tick(deadline)
    assert server.open_handshakes == 0
    assert session.open
    connect(server, Client(), HERE, 50)


@given(message_sequence=st.integers(0, 65535), record_sequence=st.integers(0, (1 << 48) - 1))
@settings(max_examples=60, deadline=None)
def test_hello_with_a_right_cookie_and_any_sequence_numbers_is_survived(
    message_sequence: int, record_sequence: int
) -> None:
    server = Server({b"dev": KEY}.get, _SETTINGS)
    client = Client()
    (request,) = of(Send, server.receive(client.start()[0], HERE, 0))
    (hello,) = client.hear(request.datagram)
    mangled = hello[:5] + record_sequence.to_bytes(6, "big") + hello[11:17] + message_sequence.to_bytes(2, "big")
    say(server, client, [mangled + hello[19:]])
    while (deadline := server.deadline()) is not None and deadline < 100:
        server.tick(deadline)


def test_floods_of_every_kind_do_not_grow_it() -> None:
    server = Server({b"dev": KEY}.get, _SETTINGS)
    client = Client(cid=b"")
    connect(server, client)
    others = [datagram for datagram in _FLIGHTS if datagram[0] != 22 or datagram[13] != 1]

    def flood() -> None:
        for number in range(300):
            for datagram in others:
                server.receive(datagram, HERE, number)
            server.receive(client.plain(22, b"\x10" + bytes(11)), HERE, number)

    flood()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    flood()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 4000
