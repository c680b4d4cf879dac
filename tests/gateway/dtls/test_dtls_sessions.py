"""Sessions of the DTLS server: Connection ID, replays, resumption, ends, bounds and what they cost."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from gateway.dtls.events import Closed, Ending, Established, Event, Moved, Received, Send
from gateway.dtls.server import Server, SessionClosed
from gateway.dtls.session import Address
from gateway.dtls.settings import Settings
from tests.gateway.dtls.dtls_client import CCM_8, GCM, Client
from tests.gateway.dtls.dtls_link import ELSEWHERE, HERE, KEY, connect, of, say


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
    assert session.identity == b"dev"
    assert session.session_id == first.session_id
    assert server.receive(again.send(b"up"), ELSEWHERE, 1) == [Received(session, b"up")]
    third = Client(cid=cid, suites=(suite,), ticket=again.take_ticket())
    connect(server, third, ("203.0.113.1", 1))
    assert third.resumed


def test_resumption_ends_with_time_key_extended_master_secret_suite_and_fatal_alert() -> None:
    keys = {b"dev": KEY}
    server = Server(keys.get, Settings(resumable_for=1000))
    client = Client()
    session = connect(server, client, now=5)
    ticket = client.take_ticket()

    def resumed(now: float = 10, **different: object) -> bool:
        again = Client(ticket=ticket, **different)  # type: ignore[arg-type]  # fields of the dataclass
        connect(server, again, ELSEWHERE, now)
        return again.resumed

    assert resumed()
    assert not resumed(1005)
    assert not resumed(extended=False)
    assert not resumed(suites=(GCM,))
    keys[b"dev"] = b"a new key"
    assert not resumed(key=b"a new key")
    keys[b"dev"] = KEY
    assert resumed()
    server.receive(client.alert(2, 20), HERE, 10)
    assert not session.open
    assert not resumed()


def test_what_may_be_resumed_is_bounded() -> None:
    server = Server({b"dev": KEY}.get, Settings(most_resumable=10))
    tickets = []
    for port in range(30):
        client = Client()
        connect(server, client, ("192.0.2.1", port))
        tickets.append(client.take_ticket())
    found = []
    for port, ticket in enumerate(tickets):
        again = Client(ticket=ticket)
        (hello,) = say(server, again, again.start(), ("192.0.2.2", port))[1:2]
        assert isinstance(hello, Send)
        found.append(again.resumed)
    assert sum(found) <= 10
    assert found[0] is False


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
    (notice,) = server.revoke(b"dev")
    assert notice.address == HERE
    client.hear(notice.datagram)
    assert client.alerts == [(1, 0)]
    again = Client(ticket=client.take_ticket())
    say(server, again, again.start())
    assert not again.established
    assert session.open


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
