"""Our client and our server with a link between in simulated time: a perfect one, or a bad one."""

from __future__ import annotations

import heapq
import random
from typing import TypeVar

from gateway.dtls.client import Client
from gateway.dtls.client_events import Arrived, ClientEvent, Transmit
from gateway.dtls.events import Event, Received, Send
from gateway.dtls.server import Server
from tests.gateway.dtls.dtls_link import HERE

_E = TypeVar("_E", bound=ClientEvent)


def told(kind: type[_E], events: list[ClientEvent]) -> list[_E]:
    return [event for event in events if isinstance(event, kind)]


class Pair:
    """Loses, doubles and delays datagrams by chance; with ``loss`` 0 each takes a moment and comes in its turn.

    The server answers each record with the same, after ``echo ``.
    """

    def __init__(
        self, client: Client, server: Server, *, seed: int = 0, loss: float = 0.0, now: float = 1000.0
    ) -> None:
        self.client, self.server = client, server
        self.now = now
        self.events: list[ClientEvent] = []
        self.served: list[Event] = []
        self._random = random.Random(seed)
        self._loss = loss
        self.way: list[tuple[float, int, bool, bytes]] = []
        self._sent = 0

    def connect(self) -> None:
        self.take(self.client.connect(self.now))

    def say(self, data: bytes) -> None:
        self._send(self.client.send(data), up=True)

    def take(self, events: list[ClientEvent]) -> None:
        """What the client wants done."""
        self.events += events
        for event in told(Transmit, events):
            self._send(event.datagram, up=True)

    def take_served(self, events: list[Event]) -> None:
        self.served += events
        for event in events:
            if isinstance(event, Send):
                self.down(event.datagram)
            elif isinstance(event, Received) and event.session.open:
                self.down(self.server.send(event.session, b"echo " + event.data))

    def down(self, datagram: bytes) -> None:
        """Send from the server."""
        self._send(datagram, up=False)

    def run(self, seconds: float, until: type[ClientEvent] | None = None) -> None:
        """Let ``seconds`` pass, or less if the client says ``until`` before."""
        end = self.now + seconds
        while until is None or not told(until, self.events):
            times = [one for one in (self.client.deadline(), self.server.deadline()) if one is not None]
            times += [self.way[0][0]] if self.way else []
            if not times or min(times) > end:
                self.now = end
                return
            self.now = max(self.now, min(times))
            while self.way and self.way[0][0] <= self.now:
                _, _, up, datagram = heapq.heappop(self.way)
                if up:
                    self.take_served(self.server.receive(datagram, HERE, self.now))
                else:
                    self.take(self.client.receive(datagram, self.now))
            self.take(self.client.tick(self.now))
            self.take_served(self.server.tick(self.now))

    def until_answered(self, *, within: float) -> None:
        """Connect, and say data each second until one has come back."""
        self.connect()
        end = self.now + within
        while not told(Arrived, self.events):
            assert self.now < end, (self.events[-3:], self.client.dropped, self.server.dropped)
            if self.client.is_open:
                self.say(b"data")
            self.run(1.0, Arrived)

    def _send(self, datagram: bytes, *, up: bool) -> None:
        for _ in range(2 if self._loss and self._random.random() < 0.1 else 1):
            if self._random.random() >= self._loss:
                self._sent += 1
                takes = self._random.uniform(0, 0.3) if self._loss else 0.001
                heapq.heappush(self.way, (self.now + takes, self._sent, up, datagram))
