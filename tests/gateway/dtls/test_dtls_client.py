"""The DTLS client against our server: all ways through, bad links, ends, wrong keys, and people who mean no good."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dtls.client import Client
from gateway.dtls.client_events import Arrived, Connected, Ended, Failed, Failure, Transmit
from gateway.dtls.events import Closed, Ending, Established, Received, Send
from gateway.dtls.messages import Alert, HandshakeType, alert, fragments, message, parse_client_hello
from gateway.dtls.records import ContentType, plain_record, split
from gateway.dtls.server import Server, SessionClosed
from gateway.dtls.settings import Settings
from gateway.dtls.suites import SUITES
from tests.gateway.dtls.dtls_link import HERE, KEY, of
from tests.gateway.dtls.dtls_pair import Pair, told


def _pair(*, seed: int = 0, loss: float = 0.0, key: bytes = KEY, **settings: float) -> Pair:
    given_ = dataclasses.replace(Settings(), **settings)  # type: ignore[arg-type]  # ints too
    return Pair(Client(b"dev", key, given_), Server({b"dev": KEY}.get, given_), seed=seed, loss=loss)


def _open(pair: Pair) -> Pair:
    pair.connect()
    pair.run(1.0, Connected)
    assert pair.client.is_open
    pair.run(0.1)
    return pair


def test_data_goes_both_ways_after_a_handshake() -> None:
    pair = _open(_pair())
    (established,) = of(Established, pair.served)
    session = established.session
    assert session.identity == b"dev"
    assert session.suite.name == "TLS_PSK_WITH_AES_128_CCM_8"
    assert session.cid
    assert session.session_id
    pair.say(b"up")
    pair.run(1.0)
    assert told(Arrived, pair.events) == [Arrived(b"echo up")]
    assert told(Connected, pair.events) == [Connected(resumed=False)]
    assert not pair.client.dropped
    assert not pair.server.dropped
    assert pair.client.deadline() is None


def test_hello_offers_what_the_profile_of_rfc_7925_asks_for() -> None:
    (first,) = told(Transmit, Client(b"dev", KEY).connect(0))
    (record,) = split(first.datagram)
    (fragment,) = fragments(record.fragment)
    hello = parse_client_hello(fragment.body)
    assert hello.suites == (0xC0A8, 0xC0A4, 0x00A8, 0x00FF)
    assert hello.extensions == {23: b"", 54: b"\0"}
    assert hello.session_id == hello.cookie == b""


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("flight_timeout", [0.7, 2.0])
def test_handshake_and_data_get_through_a_bad_link_and_resume_through_it(seed: int, flight_timeout: float) -> None:
    pair = _pair(seed=seed, loss=0.25, flight_timeout=flight_timeout)
    pair.until_answered(within=85)
    assert told(Connected, pair.events)[-1] == Connected(resumed=False)
    pair.events.clear()
    pair.until_answered(within=85)
    assert told(Connected, pair.events)[-1] == Connected(resumed=True)
    assert not told(Failed, pair.events)
    pair.run(90)
    assert pair.server.open_sessions == 1


@pytest.mark.parametrize("number", range(len(SUITES)))
def test_each_suite_that_is_offered_is_spoken(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.dtls.greeting.choose", lambda offered: SUITES[number])
    pair = _open(_pair())
    pair.say(b"up")
    pair.run(1.0)
    assert told(Arrived, pair.events) == [Arrived(b"echo up")]
    assert of(Established, pair.served)[0].session.suite is SUITES[number]


def test_unanswered_flight_is_said_again_later_and_later_until_the_handshake_fails() -> None:
    client = Client(b"dev", KEY, Settings(flight_timeout=1.0, handshake_for=20.0))
    client.connect(100.0)
    times, events = [], []
    while client.is_connecting:
        now = client.deadline()
        assert now is not None
        events = client.tick(now)
        times.append(now - 100.0)
    assert times == [1.0, 3.0, 7.0, 15.0, 20.0]
    assert events == [Failed(Failure.SILENT, None)]
    assert client.retransmitted_flights == 4
    assert client.deadline() is None


@pytest.mark.parametrize(("identity", "key"), [(b"dev", b"another key of 21"), (b"nobody", KEY)])
def test_wrong_key_and_unknown_identity_fail_for_the_key(identity: bytes, key: bytes) -> None:
    pair = Pair(Client(identity, key), Server({b"dev": KEY}.get))
    pair.connect()
    pair.run(10.0, Failed)
    assert told(Failed, pair.events) == [Failed(Failure.KEY, Alert.DECRYPT_ERROR)]
    assert not pair.client.is_open
    assert pair.now < 1006
    with pytest.raises(SessionClosed):
        pair.client.send(b"data")


def test_server_that_only_pretends_to_have_the_key_gets_no_session() -> None:
    pair = Pair(Client(b"dev", KEY), Server({b"dev": b"what it guessed"}.get))
    pair.connect()
    pair.run(100.0)
    assert not told(Connected, pair.events)
    assert told(Failed, pair.events)


def test_alert_in_the_clear_does_not_end_a_handshake_that_goes_on() -> None:
    pair = _pair()
    pair.connect()
    pair.take(pair.client.receive(plain_record(ContentType.ALERT, 0, alert(Alert.HANDSHAKE_FAILURE)), pair.now))
    pair.run(5.0)
    assert told(Connected, pair.events)
    pair.take(pair.client.receive(plain_record(ContentType.ALERT, 0, alert(Alert.HANDSHAKE_FAILURE)), pair.now))
    assert pair.client.is_open


def test_alert_in_the_clear_with_nothing_after_it_is_told_soon() -> None:
    client = Client(b"dev", KEY)
    client.connect(0)
    client.receive(plain_record(ContentType.ALERT, 0, alert(Alert.HANDSHAKE_FAILURE)), 0.5)
    assert client.deadline() == 2.5
    assert client.tick(2.5) == [Failed(Failure.REFUSED, Alert.HANDSHAKE_FAILURE)]


def test_restart_of_the_server_within_a_handshake_means_another_cookie_and_no_failure() -> None:
    pair = _pair(flight_timeout=1.0)
    pair.connect()
    (first,) = told(Transmit, pair.events)
    (request,) = of(Send, Server({b"dev": KEY}.get).receive(first.datagram, HERE, pair.now))
    pair.take(pair.client.receive(request.datagram, pair.now))
    pair.run(10.0, Connected)
    assert pair.client.is_open


def test_close_notify_of_the_server_is_answered_and_the_next_session_is_resumed() -> None:
    pair = _open(_pair())
    session = of(Established, pair.served)[0].session
    goodbye = pair.server.close(session)
    events = pair.client.receive(goodbye, pair.now)
    assert [type(event) for event in events] == [Transmit, Ended]
    assert events[1] == Ended(Ending.CLOSE_NOTIFY)
    assert not pair.client.is_open
    pair.connect()
    pair.run(1.0)
    assert told(Connected, pair.events)[-1] == Connected(resumed=True)


def test_our_close_notify_ends_the_session_of_the_server() -> None:
    pair = _open(_pair())
    goodbye = pair.client.close()
    (answer, closed) = pair.server.receive(goodbye, HERE, pair.now)
    assert isinstance(answer, Send)
    assert isinstance(closed, Closed)
    assert closed.ending is Ending.CLOSE_NOTIFY
    assert pair.client.close() == b""
    assert not pair.client.is_open
    assert pair.client.receive(answer.datagram, pair.now) == []


def test_server_that_forgot_the_session_gets_a_whole_handshake() -> None:
    pair = _open(_pair())
    pair.server = Server({b"dev": KEY}.get)
    pair.connect()
    pair.run(1.0)
    assert told(Connected, pair.events) == [Connected(resumed=False), Connected(resumed=False)]


def test_data_of_the_session_before_arrives_until_there_is_the_next() -> None:
    pair = _open(_pair())
    session = of(Established, pair.served)[0].session
    late, later = pair.server.send(session, b"late"), pair.server.send(session, b"later")
    pair.connect()
    assert pair.client.receive(late, pair.now) == [Arrived(b"late")]
    assert pair.client.receive(late, pair.now) == []
    with pytest.raises(SessionClosed):
        pair.client.send(b"data")
    pair.run(1.0)
    assert told(Connected, pair.events)[-1] == Connected(resumed=True)
    assert pair.client.receive(later, pair.now) == []
    pair.say(b"up")
    pair.run(1.0)
    assert pair.events[-1] == Arrived(b"echo up")


def test_session_is_not_offered_after_its_time_nor_after_a_fatal_alert() -> None:
    pair = _open(_pair(resumable_for=3600.0))
    pair.now += 3600.0
    pair.connect()
    pair.run(1.0)
    assert told(Connected, pair.events)[-1] == Connected(resumed=False)
    session = of(Established, pair.served)[-1].session
    fatal = session.write.protect(ContentType.ALERT, alert(Alert.ILLEGAL_PARAMETER))
    assert pair.client.receive(fatal, pair.now) == [Ended(Ending.ALERT)]
    pair.connect()
    pair.run(1.0)
    assert told(Connected, pair.events)[-1] == Connected(resumed=False)


def test_lost_last_flight_of_a_resumed_handshake_is_said_again() -> None:
    pair = _open(_pair(flight_timeout=1.0))
    pair.client.close()
    pair.events.clear()
    pair.connect()
    while not pair.client.is_open:
        pair.run(0.0011)
    # The flight with our Finished is on its way; it is lost.
    pair.way.clear()
    pair.run(2.0)
    assert of(Established, pair.served)[-1].resumed
    assert pair.client.retransmitted_flights == 1


def test_record_is_taken_once() -> None:
    pair = _open(_pair())
    session = of(Established, pair.served)[0].session
    datagram = pair.server.send(session, b"once")
    newer = [pair.server.send(session, b"newer") for _ in range(64)]
    assert pair.client.receive(datagram, 0) == [Arrived(b"once")]
    assert pair.client.receive(datagram, 0) == []
    for one in reversed(newer):
        assert pair.client.receive(one, 0) == [Arrived(b"newer")]
    assert pair.client.receive(datagram, 0) == []
    assert pair.client.dropped == {"replayed record": 2}


def test_forged_and_mangled_records_change_nothing() -> None:
    pair = _open(_pair())
    session = of(Established, pair.served)[0].session
    datagram = pair.server.send(session, b"data")
    for at in range(len(datagram)):
        mangled = datagram[:at] + bytes((datagram[at] ^ 1,)) + datagram[at + 1 :]
        assert not told(Arrived, pair.client.receive(mangled, 0))
    assert pair.client.receive(plain_record(ContentType.ALERT, 9, b"\x01\x00"), 0) == []
    assert pair.client.receive(datagram, 0) == [Arrived(b"data")]
    assert pair.client.is_open


def test_renegotiation_is_refused_with_a_warning() -> None:
    pair = _open(_pair())
    session = of(Established, pair.served)[0].session
    request = session.write.protect(ContentType.HANDSHAKE, message(HandshakeType.HELLO_REQUEST, 9, b""))
    (refusal,) = told(Transmit, pair.client.receive(request, 0))
    assert not of(Received, pair.server.receive(refusal.datagram, HERE, pair.now))
    assert pair.client.is_open
    assert pair.server.open_sessions == 1


def test_more_than_a_record_takes_is_an_error() -> None:
    pair = _open(_pair())
    with pytest.raises(ValueError, match="16385 bytes"):
        pair.client.send(bytes(16385))


_MANGLE = st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=3)), max_size=4)


@given(st.booleans(), st.sampled_from([1, 3, 5]), _MANGLE, st.integers(0, 400), st.binary(max_size=80))
def test_mangled_flights_are_never_an_error_and_a_session_still_comes_to_be(
    resumed: bool, which: int, changes: list[tuple[int, bytes]], cut: int, garbage: bytes
) -> None:
    pair = _pair(flight_timeout=1.0)
    if resumed:
        _open(pair).client.close()
        pair.events.clear()
    pair.connect()
    # The server's flights are the second datagram on the way, the fourth, and the sixth where nothing is resumed.
    for step in range(6):
        if step == which and pair.way:
            assert not pair.way[0][2]
            datagram = bytearray(pair.way[0][3])
            for at, change in changes:
                datagram[at % len(datagram) : at % len(datagram) + len(change)] = change
            pair.take(pair.client.receive(bytes(datagram[: cut or None]), pair.now))
            pair.take(pair.client.receive(garbage, pair.now))
        pair.run(0.0011)
    pair.run(100.0)
    ended = [event for event in pair.events if isinstance(event, Connected | Failed)]
    assert ended
    if isinstance(ended[-1], Failed):
        pair.connect()
        pair.run(5.0)
    assert pair.client.is_open


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_garbage_is_counted_and_no_more(datagrams: list[bytes]) -> None:
    pair = _open(_pair())
    for datagram in datagrams:
        assert pair.client.receive(datagram, pair.now) == []
    pair.say(b"still here")
    pair.run(1.0)
    assert Arrived(b"echo still here") in pair.events
