"""A link between the test's client and the server, in simulated time: a perfect one, or a bad one."""

from __future__ import annotations

import heapq
import random
from typing import TypeVar

from gateway.dtls.events import Established, Event, Received, Send
from gateway.dtls.server import Server
from gateway.dtls.session import Address, Session
from tests.gateway.dtls.dtls_client import Client

KEY = b"sixteen byte key"
HERE: Address = ("192.0.2.1", 5684)
ELSEWHERE: Address = ("198.51.100.9", 40000)
_E = TypeVar("_E", bound=Event)


def of(kind: type[_E], events: list[Event]) -> list[_E]:
    return [event for event in events if isinstance(event, kind)]


def say(server: Server, client: Client, datagrams: list[bytes], address: Address = HERE, now: float = 0) -> list[Event]:
    """Carry datagrams to and fro until nobody has anything to say; what the server told on the way."""
    told: list[Event] = []
    while datagrams:
        events = server.receive(datagrams.pop(0), address, now)
        told += events
        for event in of(Send, events):
            assert event.address == address
            datagrams += client.hear(event.datagram)
    return told


def connect(server: Server, client: Client, address: Address = HERE, now: float = 0) -> Session:
    """A handshake without a loss."""
    events = say(server, client, client.start(), address, now)
    assert client.established
    (established,) = of(Established, events)
    assert established.session.identity == client.identity
    assert established.resumed == client.resumed
    session: Session = established.session
    return session


def verified_hello(server: Server, client: Client, address: Address = HERE, now: float = 0) -> bytes:
    """The ClientHello with the cookie, not sent yet."""
    (first,) = client.start()
    (request,) = of(Send, server.receive(first, address, now))
    (second,) = client.hear(request.datagram)
    return second


class BadLink:
    """Loses and doubles datagrams by chance, and lets each take its own time. Says what is unanswered again."""

    def __init__(
        self, server: Server, client: Client, seed: int, *, loss: float = 0.25, address: Address = HERE
    ) -> None:
        self.server = server
        self.client = client
        self.events: list[Event] = []
        self.now = 1000.0
        self._address = address
        self._random = random.Random(seed)
        self._loss = loss
        self._way: list[tuple[float, int, bool, bytes]] = []
        self._sent = 0

    def until_answered(self, *, within: float, every: float = 1.0) -> None:
        """Run until the server's echo of our data has come."""
        self._send(self.client.start(), up=True)
        again = self.now + every
        end = self.now + within
        while not self.client.received:
            assert self.now < end, (self.client, self.server.dropped)
            deadline = self.server.deadline()
            times = [again, *([deadline] if deadline is not None else []), *([self._way[0][0]] if self._way else [])]
            self.now = max(self.now, min(times))
            self._do(self.server.tick(self.now))
            while self._way and self._way[0][0] <= self.now:
                _, _, up, datagram = heapq.heappop(self._way)
                if up:
                    self._do(self.server.receive(datagram, self._address, self.now))
                else:
                    self._send(self.client.hear(datagram), up=True)
            if self.now >= again:
                again = self.now + every
                self._send([self.client.send(b"data")] if self.client.established else self.client.again(), up=True)

    def _do(self, events: list[Event]) -> None:
        self.events += events
        for event in events:
            if isinstance(event, Send):
                self._send([event.datagram], up=False)
            elif isinstance(event, Received) and event.session.open:
                self._send([self.server.send(event.session, b"echo " + event.data)], up=False)

    def _send(self, datagrams: list[bytes], *, up: bool) -> None:
        for datagram in datagrams:
            for _ in range(2 if self._random.random() < 0.1 else 1):
                if self._random.random() >= self._loss:
                    self._sent += 1
                    arrives = self.now + self._random.uniform(0, 0.3)
                    heapq.heappush(self._way, (arrives, self._sent, up, datagram))
