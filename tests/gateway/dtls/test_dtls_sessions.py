"""Sessions of the DTLS server: Connection ID, replays, resumption, ends, bounds and what they cost."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from gateway.dtls.events import Closed, Ending, Established, Event, Moved, Received, Send
from gateway.dtls.resumption import Resumable
from gateway.dtls.server import Server, SessionClosed
from gateway.dtls.session import Address
from gateway.dtls.settings import Settings
from gateway.dtls.suites import SUITES
from tests.gateway.dtls.dtls_client import CCM_8, GCM, Client, Ticket
from tests.gateway.dtls.dtls_link import ELSEWHERE, HERE, KEY, connect, of, say, verified_hello


@pytest.fixture
def server() -> Server:
    return Server({b"dev": KEY, b"other": KEY}.get)


# Connection ID


def test_newest_record_from_elsewhere_moves_the_session(server: Server) -> None:
    client = Client(cid=b"")
    session = connect(server, client)
    assert server.receive(client.send(b"one"), ELSEWHERE, 1) == [Moved(session, HERE), Received(session, b"one")]
    assert session.address == ELSEWHERE
    client.hear(server.send(session, b"two"))
    assert client.received == [b"two"]


def test_older_record_from_elsewhere_is_taken_and_moves_nothing(server: Server) -> None:
    client = Client(cid=b"x")
    session = connect(server, client)
    late, newest = client.send(b"late"), client.send(b"newest")
    server.receive(newest, HERE, 1)
    assert server.receive(late, ELSEWHERE, 1) == [Received(session, b"late")]
    assert session.address == HERE


def test_replayed_or_forged_record_from_elsewhere_moves_nothing(server: Server) -> None:
    client = Client(cid=b"x")
    session = connect(server, client)
    record = client.send(b"once")
    server.receive(record, HERE, 1)
    forged = bytearray(client.send(b"never"))
    forged[-1] ^= 1
    assert server.receive(record, ELSEWHERE, 1) == []
    assert server.receive(bytes(forged), ELSEWHERE, 1) == []
    assert session.address == HERE
    assert server.dropped == {"replayed record": 1, "record does not authenticate": 1}


def test_session_without_connection_id_is_known_by_its_address_alone(server: Server) -> None:
    client = Client()
    connect(server, client)
    assert server.receive(client.send(b"lost"), ELSEWHERE, 1) == []
    assert server.dropped == {"no session": 1}


def test_session_with_connection_id_takes_no_record_without_it(server: Server) -> None:
    client = Client(cid=b"")
    connect(server, client)
    client.server_cid = None
    assert server.receive(client.send(b"?"), HERE, 1) == []
    assert server.dropped == {"no session": 1}


def test_padded_record_is_taken(server: Server) -> None:
    client = Client(cid=b"")
    session = connect(server, client)
    assert server.receive(client.protect(23, b"0\0", 40), HERE, 1) == [Received(session, b"0\0")]
    client.server_cid = session.cid
    # Nothing but zeros has no content type.
    assert server.receive(client.protect(0, b""), HERE, 1) == []
    assert server.dropped == {"record without a content type": 1}


def test_device_that_takes_anothers_address_does_not_end_that_ones_session(server: Server) -> None:
    first, second = Client(cid=b"1"), Client(cid=b"2", identity=b"other")
    one = connect(server, first)
    two = connect(server, second)
    assert one.open
    assert two.open
    assert server.receive(first.send(b"1"), ELSEWHERE, 1) == [Moved(one, HERE), Received(one, b"1")]
    assert server.receive(second.send(b"2"), HERE, 1) == [Received(two, b"2")]


# Replay


def test_each_record_is_taken_once_in_any_order_within_the_window(server: Server) -> None:
    client = Client()
    connect(server, client)
    records = [client.send(b"%d" % number) for number in range(64)]
    shuffled = records * 3
    random.Random(1).shuffle(shuffled)
    events = [event for record in shuffled for event in server.receive(record, HERE, 1)]
    assert sorted(int(event.data) for event in of(Received, events)) == list(range(64))
    assert server.dropped == {"replayed record": 128}


def test_record_older_than_the_window_is_dropped(server: Server) -> None:
    client = Client()
    connect(server, client)
    old, within = client.send(b"old"), client.send(b"within")
    for _ in range(63):
        newest = client.send(b"x")
    assert of(Received, server.receive(newest, HERE, 1))
    assert server.receive(old, HERE, 1) == []
    assert of(Received, server.receive(within, HERE, 1))
    client._sequence = (1 << 48) - 1
    assert of(Received, server.receive(client.send(b"last"), HERE, 1))
    assert server.receive(within, HERE, 1) == []


# Replacing and resuming


def test_two_devices_of_one_identity_do_not_end_each_others_sessions(server: Server) -> None:
    one, two = connect(server, Client(cid=b"")), connect(server, Client(cid=b""), ELSEWHERE)
    assert one.open
    assert two.open


@pytest.mark.parametrize("cid", [None, b""])
def test_old_session_is_usable_until_the_new_finished_and_not_after(server: Server, cid: bytes | None) -> None:
    old, new = Client(cid=cid), Client(cid=cid)
    session = connect(server, old)
    datagrams = new.start()
    while datagrams:
        assert server.receive(old.send(b"old"), HERE, 1) == [Received(session, b"old")]
        events = server.receive(datagrams.pop(0), HERE, 1)
        for event in of(Send, events):
            datagrams += new.hear(event.datagram)
    assert new.established
    assert [(event.session, event.ending) for event in of(Closed, events)] == [(session, Ending.REPLACED)]
    assert isinstance(events[-1], Established)
    assert server.open_sessions == 1
    with pytest.raises(SessionClosed):
        server.send(session, b"late")
    assert server.close(session) == b""
    assert not of(Received, server.receive(old.send(b"late"), HERE, 1))


@pytest.mark.parametrize("cid", [None, b"", b"c"])
@pytest.mark.parametrize("suite", [CCM_8, GCM])
def test_session_is_resumed_with_new_keys(server: Server, cid: bytes | None, suite: int) -> None:
    client = Client(cid=cid, suites=(suite,))
    first = connect(server, client)
    again = Client(cid=cid, suites=(suite,), ticket=client.take_ticket())
    session = connect(server, again, ELSEWHERE)
    assert again.resumed
    # It is the same device, though it comes from elsewhere.
    assert not first.open
    assert server.open_sessions == 1
    assert session.identity == b"dev"
    assert session.session_id == first.session_id
    assert server.receive(again.send(b"up"), ELSEWHERE, 1) == [Received(session, b"up")]
    third = Client(cid=cid, suites=(suite,), ticket=again.take_ticket())
    connect(server, third, ("203.0.113.1", 1))
    assert third.resumed


@pytest.mark.parametrize(
    ("now", "client"),
    [
        (1005, Client()),
        (10, Client(extended=False)),
        (10, Client(suites=(GCM,))),
        (10, Client(key=b"a new key")),
    ],
    ids=["time", "extended master secret", "suite", "key"],
)
def test_handshake_is_full_when_the_session_does_not_fit_any_more(now: float, client: Client) -> None:
    keys = {b"dev": KEY}
    server = Server(keys.get, Settings(resumable_for=1000))
    first = Client()
    connect(server, first, now=5)
    keys[b"dev"] = client.key
    client.ticket = first.take_ticket()
    connect(server, client, ELSEWHERE, now)
    assert not client.resumed


def test_session_that_ended_in_a_fatal_alert_is_not_resumed(server: Server) -> None:
    client = Client()
    connect(server, client)
    server.receive(client.alert(2, 20), HERE, 1)
    again = Client(ticket=client.take_ticket())
    connect(server, again)
    assert not again.resumed


def _tickets(server: Server, identities: list[bytes]) -> list[Ticket]:
    tickets = []
    for port, identity in enumerate(identities):
        client = Client(identity=identity)
        connect(server, client, ("192.0.2.1", port))
        tickets.append(client.take_ticket())
    return tickets


def _resumed(server: Server, identities: list[bytes], tickets: list[Ticket]) -> list[bool]:
    found = []
    for port, (identity, ticket) in enumerate(zip(identities, tickets, strict=True)):
        again = Client(identity=identity, ticket=ticket)
        hello = verified_hello(server, again, ("192.0.2.2", port))
        for event in of(Send, server.receive(hello, ("192.0.2.2", port), 0)):
            again.hear(event.datagram)
        found.append(again.resumed)
    return found


def test_what_may_be_resumed_is_bounded_and_the_oldest_goes() -> None:
    identities = [b"%d" % number for number in range(30)]
    server = Server(dict.fromkeys(identities, KEY).get, Settings(most_resumable=10))
    tickets = _tickets(server, identities)
    assert _resumed(server, identities, tickets) == [False] * 20 + [True] * 10


def test_newest_session_of_an_identity_alone_may_be_resumed(server: Server) -> None:
    identities = [b"dev"] * 5 + [b"other"]
    tickets = _tickets(server, identities)
    assert _resumed(server, identities, tickets) == [False] * 4 + [True, True]


def test_secrets_are_in_no_repr() -> None:
    resumable = Resumable(b"master", b"dev", b"key", SUITES[0], 1.0)
    assert repr(resumable) == "Resumable(identity=b'dev', suite=TLS_PSK_WITH_AES_128_CCM_8)"


# Ends


def test_close_notify_is_answered_and_ends_the_session(server: Server) -> None:
    client = Client()
    session = connect(server, client)
    events = say(server, client, [client.alert(1, 0)])
    assert of(Closed, events) == [Closed(session, Ending.CLOSE_NOTIFY)]
    assert client.alerts == [(1, 0)]
    assert server.open_sessions == 0


def test_fatal_alert_ends_the_session_and_a_warning_does_not(server: Server) -> None:
    client = Client()
    session = connect(server, client)
    assert say(server, client, [client.alert(1, 90)]) == []
    assert say(server, client, [client.alert(2, 80)]) == [Closed(session, Ending.ALERT)]


def test_authentic_record_of_no_sense_is_dropped_and_counted(server: Server) -> None:
    client = Client()
    session = connect(server, client)
    for type_, content in ((20, b"\1"), (21, b"\1"), (22, b"\x14"), (22, b"\x10" + bytes(11))):
        assert server.receive(client.protect(type_, content), HERE, 1) == []
    assert server.receive(b"\x17\xfe\xfd\0\1" + bytes(5) + b"\x63\0\x0fshort and short", HERE, 1) == []
    assert server.dropped == {
        "content type of a protected record": 1,
        "alert length": 1,
        "truncated handshake header": 1,
        "handshake message after the handshake": 1,
        "record too short": 1,
    }
    assert session.open


def test_no_two_sessions_have_one_connection_id() -> None:
    counter = iter(range(1000))
    server = Server({b"dev": KEY}.get, random=lambda size: bytes((next(counter) // 8 % 256,)) * size)
    connect(server, Client(cid=b""))
    taken = server._sessions.longest_silent()
    assert taken is not None
    asked = iter([taken.cid, taken.cid, b"another."])
    server._random = lambda size: next(asked)
    assert server._new_cid() == b"another."


def test_alert_in_the_clear_ends_nothing(server: Server) -> None:
    client = Client()
    session = connect(server, client)
    server.receive(client.plain(21, b"\x02\x28"), HERE, 1)
    server.receive(client.plain(21, b"\x01\x00"), HERE, 1)
    assert session.open
    assert server.dropped == {"unprotected alert": 2}


def test_our_close_tells_the_peer(server: Server) -> None:
    client = Client(cid=b"c")
    session = connect(server, client)
    client.hear(server.close(session))
    assert client.alerts == [(1, 0)]
    assert server.receive(client.send(b"x"), HERE, 1) == []


def test_revoked_identity_is_out_and_stays_out() -> None:
    keys = {b"dev": KEY, b"other": KEY}
    server = Server(keys.get)
    client, other = Client(), Client(identity=b"other")
    connect(server, client)
    session = connect(server, other, ELSEWHERE)
    del keys[b"dev"]
    ((ended, notice),) = server.revoke({b"dev"})
    assert not ended.open
    assert notice.address == HERE
    client.hear(notice.datagram)
    assert client.alerts == [(1, 0)]
    again = Client(ticket=client.take_ticket())
    say(server, again, again.start())
    assert not again.established
    assert session.open


@pytest.mark.parametrize("identities", [None, {b"dev"}])
def test_handshake_that_has_shown_a_revoked_identity_comes_to_nothing(identities: set[bytes] | None) -> None:
    keys = {b"dev": KEY}
    server = Server(keys.get)
    client = Client()
    events = server.receive(verified_hello(server, client), HERE, 0)
    exchange, *rest = [said for event in of(Send, events) for said in client.hear(event.datagram)]
    server.receive(exchange, HERE, 0)
    assert server.open_handshakes == 1
    keys[b"dev"] = KEY[::-1]
    assert server.revoke(identities) == []
    assert server.open_handshakes == 0
    assert not of(Established, [event for datagram in rest for event in server.receive(datagram, HERE, 0)])


def test_silent_session_is_forgotten_and_one_that_is_heard_is_not() -> None:
    server = Server({b"dev": KEY}.get, Settings(silence=100))
    silent, heard = Client(), Client()
    session = connect(server, silent, HERE, 0)
    connect(server, heard, ELSEWHERE, 0)
    assert server.deadline() == 100
    server.receive(heard.send(b"x"), ELSEWHERE, 60)
    assert server.tick(99) == []
    assert server.tick(100) == [Closed(session, Ending.SILENT)]
    assert server.deadline() == 160


def test_longest_silent_session_goes_when_there_are_too_many() -> None:
    server = Server({b"dev": KEY}.get, Settings(most_sessions=2))
    clients = [(Client(), ("192.0.2.1", port)) for port in range(3)]
    first = connect(server, *clients[0], 0)
    second = connect(server, *clients[1], 1)
    server.receive(clients[0][0].send(b"x"), clients[0][1], 2)
    events = say(server, clients[2][0], clients[2][0].start(), clients[2][1], 3)
    assert of(Closed, events) == [Closed(second, Ending.EVICTED)]
    assert first.open


def test_data_that_no_record_takes_is_refused(server: Server) -> None:
    session = connect(server, Client())
    with pytest.raises(ValueError, match="16385"):
        server.send(session, bytes(16385))
    assert session.open


# Costs


def test_many_hellos_in_one_datagram_get_few_answers(server: Server) -> None:
    hello = Client(extended=False).start()[0]
    events = server.receive(hello * 40, HERE, 0)
    assert len(events) == 16
    message = hello[13:]
    assert len(server.receive(Client().plain(22, message * 40), HERE, 0)) == 16
    assert server.dropped == {"too many records": 1, "too many handshake messages": 1}


def test_half_open_handshake_is_small() -> None:
    server = Server({b"dev": KEY}.get)
    hellos = [(verified_hello(server, Client(cid=b""), ("192.0.2.1", port)), port) for port in range(1000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for hello, port in hellos:
        server.receive(hello, ("192.0.2.1", port), 0)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert server.open_handshakes == 1000
    print(f"{grown / 1000:.0f} bytes a half-open handshake")
    assert grown / 1000 < 4096


def test_flood_of_client_hellos_from_anywhere_leaves_nothing() -> None:
    server = Server({b"dev": KEY}.get)
    client = Client()
    session = connect(server, client)
    hellos = [Client().start()[0] for _ in range(20)]

    def flood(first: int) -> None:
        for number in range(first, first + 5000):
            address: Address = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5684)
            server.receive(hellos[number % 20], address, number / 1000)
            if number % 500 == 0:
                server.receive(hellos[0], HERE, number / 1000)

    flood(0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    flood(5000)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 2000
    assert server.open_handshakes == 0
    assert server.receive(client.send(b"x"), HERE, 99) == [Received(session, b"x")]


@pytest.mark.parametrize("cid", [None, b""])
def test_five_thousand_devices_get_in_and_each_costs_less_than_four_kilobytes(cid: bytes | None) -> None:
    count = 5000
    keys = {b"device-%d" % number: b"sixteen byte %3d" % (number % 1000) for number in range(count)}
    server = Server(keys.get)
    established: list[Event] = []
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number, (identity, key) in enumerate(keys.items()):
        client = Client(identity=bytes(identity), key=key, cid=cid)
        address: Address = (f"10.0.{number >> 8}.{number & 255}", 40000 + number)
        established += of(Established, say(server, client, client.start(), address))
        server.receive(client.send(b"data"), address, 0)
    del client
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    print(f"{grown / count:.0f} bytes a session, connection id: {cid is not None}")
    assert len(established) == server.open_sessions == count
    assert not server.dropped
    assert grown / count < 4096
