"""The short path of application data against the plain one: two servers that are alike get the same datagrams, one of
them by way of the short path, and are held equal after each."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dtls.events import Event, Received
from gateway.dtls.records import MAX_DATAGRAM
from gateway.dtls.server import Server
from gateway.dtls.session import Address, Session
from tests.gateway.dtls.dtls_client import CCM, CCM_8, GCM, Client
from tests.gateway.dtls.dtls_link import ELSEWHERE, HERE, KEY, connect

_THIRD = ("192.0.2.9", 1)
_CIDS = [None, b"", b"cd"]


class _Twins:
    """A server with the short path and one without, each with the same sessions of the same two devices."""

    def __init__(self, cid: bytes | None, suite: int) -> None:
        self.short, self.plain = (Server({b"dev": KEY, b"other": KEY}.get, random=_randomness()) for _ in range(2))
        self.sessions: list[tuple[Session, Session]] = []
        self.clients: list[Client] = []
        for identity, address in ((b"dev", HERE), (b"other", _THIRD)):
            pair = []
            for server in (self.short, self.plain):
                client = Client(identity=identity, cid=cid, suites=(suite,), random=identity.ljust(32))
                pair.append(connect(server, client, address))
            self.clients.append(client)
            self.sessions.append((pair[0], pair[1]))
        #: What the short path took.
        self.taken = 0

    def receive(self, datagram: bytes, address: Address, now: float) -> list[tuple[object, ...]]:
        """What both make of it."""
        found = self.short.receive_data(datagram, address, now)
        if found is None:
            mine: list[Event] = self.short.receive(datagram, address, now)
        else:
            self.taken += 1
            mine = [Received(*found)]
        told = [_told(event) for event in mine]
        assert told == [_told(event) for event in self.plain.receive(datagram, address, now)]
        assert self.short.dropped == self.plain.dropped
        for one, other in self.sessions:
            assert _state(one) == _state(other)
        assert self.short.deadline() == self.plain.deadline()
        return told


def _randomness() -> Callable[[int], bytes]:
    return random.Random(1).randbytes


def _told(event: Event) -> tuple[object, ...]:
    session = getattr(event, "session", None)
    told = (getattr(event, name, None) for name in ("data", "datagram", "address", "before", "ending"))
    return type(event), session and session.identity, *told


def _state(session: Session) -> tuple[object, ...]:
    read, write = session.read, session.write
    return (
        *(session.address, session.open, session.heard, session.final_flight),
        *(read._newest, read._seen, write._sequence),
    )


@dataclass(frozen=True)
class _Step:
    """Say the record made as the ``which``-th from here or elsewhere, with one byte changed if ``at`` is not None."""

    which: int
    at: int | None
    value: int
    address: Address
    twice: bool


_STEPS = st.lists(
    st.builds(
        _Step,
        which=st.integers(0, 200),
        at=st.one_of(st.none(), st.none(), st.integers(0, 70)),
        value=st.integers(0, 255),
        address=st.sampled_from([HERE, HERE, HERE, ELSEWHERE, _THIRD]),
        twice=st.booleans(),
    ),
    max_size=40,
)


def _records(one: Client, other: Client) -> list[bytes]:
    """In the order of their sequence numbers, of all kinds."""
    found = []
    for number in range(100):
        found.append(one.send(b"%d" % number))
        if number % 10 == 3:
            found.append(one.send(b""))
            found.append(one.protect(23, b"zeros\0\0"))
        if number % 10 == 5:
            found.append(one.protect(22, b"\x01" + bytes(11)))
            found.append(one.protect(21, b"\x01\x5a"))
        if number % 10 == 7:
            found.append(one.send(b"two") + one.send(b"together"))
            found.append(other.send(b"of another"))
        if number % 10 == 8 and one.server_cid:
            found.append(one.protect(23, b"padded", padding=3))
    return found


@given(_STEPS, st.sampled_from(_CIDS), st.sampled_from([CCM_8, GCM]))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_the_short_path_ends_as_the_plain_one(steps: list[_Step], cid: bytes | None, suite: int) -> None:
    twins = _Twins(cid, suite)
    records = _records(*twins.clients)
    for now, step in enumerate(steps):
        datagram = bytearray(records[step.which % len(records)])
        if step.at is not None and step.at < len(datagram):
            datagram[step.at] = step.value
        for _ in range(1 + step.twice):
            twins.receive(bytes(datagram), step.address, float(now))


@pytest.mark.parametrize("cid", _CIDS)
@pytest.mark.parametrize("suite", [CCM_8, CCM, GCM])
def test_data_in_order_takes_the_short_path_once(cid: bytes | None, suite: int) -> None:
    twins = _Twins(cid, suite)
    client = twins.clients[0]
    for number in range(200):
        datagram = client.send(b"%d" % number)
        assert [one[2] for one in twins.receive(datagram, HERE, 1)] == [b"%d" % number]
        assert twins.receive(datagram, HERE, 1) == []
    assert twins.taken == 200
    assert twins.short.dropped == {"replayed record": 200}


@pytest.mark.parametrize("cid", _CIDS)
def test_every_truncation_and_every_changed_byte_is_dropped(cid: bytes | None) -> None:
    twins = _Twins(cid, CCM_8)
    datagram = twins.clients[0].send(b"a notification")
    for at in range(len(datagram)):
        assert twins.receive(datagram[:at], HERE, 1) == []
        assert twins.receive(datagram[:at] + bytes((datagram[at] ^ 1,)) + datagram[at + 1 :], HERE, 1) == []
    assert twins.taken == 0
    assert [one[2] for one in twins.receive(datagram, HERE, 1)] == [b"a notification"]


@pytest.mark.parametrize("cid", _CIDS)
def test_a_datagram_of_more_than_the_longest_is_left_to_the_plain_path(cid: bytes | None) -> None:
    twins = _Twins(cid, CCM_8)
    client = twins.clients[0]
    longest = client.send(bytes(MAX_DATAGRAM - len(client.send(b""))))
    assert len(longest) == MAX_DATAGRAM
    assert [len(one[2]) for one in twins.receive(longest, HERE, 1)] == [MAX_DATAGRAM - len(client.send(b""))]  # type: ignore[arg-type]
    assert twins.receive(client.send(bytes(MAX_DATAGRAM)), HERE, 1) == []
    assert twins.taken == 1


def test_a_device_that_moved_takes_the_short_path_again_from_there() -> None:
    twins = _Twins(b"", CCM_8)
    client = twins.clients[0]
    twins.receive(client.send(b"1"), HERE, 1)
    twins.receive(client.send(b"2"), ELSEWHERE, 2)
    assert twins.taken == 1
    twins.receive(client.send(b"3"), ELSEWHERE, 3)
    assert twins.taken == 2
