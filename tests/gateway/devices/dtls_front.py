"""A DTLS server of ours in front of a plain CoAP server, where each identity is a UDP socket of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from gateway.dtls.events import Established, Event, Received, Send
from gateway.dtls.server import Server, SessionClosed
from gateway.dtls.session import Session


class _Behind(asyncio.DatagramProtocol):
    """The socket of one identity towards the plain server."""

    def __init__(self, front: Front, identity: bytes) -> None:
        self._front, self._identity = front, identity

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._front.down(self._identity, data)


class Front(asyncio.DatagramProtocol):
    """``keys`` by identity; ``events`` has all that the DTLS server told."""

    def __init__(self, keys: dict[bytes, bytes], behind: int) -> None:
        self._keys, self._behind = keys, behind
        self.server = Server(keys.get)
        self.events: list[Event] = []
        self.deaf = False
        self._sessions: dict[bytes, Session] = {}
        self._ports: dict[bytes, asyncio.DatagramTransport] = {}
        self._waiting: dict[bytes, list[bytes]] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    @property
    def port_of_the_device(self) -> int:
        """Where the plain server reaches the newest identity's device."""
        return int(list(self._ports.values())[-1].get_extra_info("sockname")[1])

    @property
    def handshakes(self) -> list[bool]:
        """For each that was completed, whether a session was resumed."""
        return [event.resumed for event in self.events if isinstance(event, Established)]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not self.deaf:
            self._do(self.server.receive(data, addr, self._loop.time()))

    def down(self, identity: bytes, data: bytes) -> None:
        session = self._sessions[identity]
        with suppress(SessionClosed):
            self._transport.sendto(self.server.send(session, data), session.address)

    def close_sessions(self) -> None:
        """As a gateway does that is told to stop."""
        for session in self._sessions.values():
            self._transport.sendto(self.server.close(session), session.address)

    def be_another(self) -> None:
        """As after ``kill -9``: what was known of sessions is gone."""
        self.server = Server(self._keys.get)

    def _do(self, events: Iterable[Event]) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, Send):
                self._transport.sendto(event.datagram, event.address)
            elif isinstance(event, Established):
                identity = event.session.identity
                self._sessions[identity] = event.session
                if identity not in self._ports:
                    self._waiting[identity] = []
                    self._opening.add(self._loop.create_task(self._open(identity)))
            elif isinstance(event, Received):
                self._up(event.session.identity, event.data)

    def _up(self, identity: bytes, data: bytes) -> None:
        if identity in self._ports:
            self._ports[identity].sendto(data)
        else:
            self._waiting[identity].append(data)

    async def _open(self, identity: bytes) -> None:
        port, _ = await self._loop.create_datagram_endpoint(
            lambda: _Behind(self, identity), remote_addr=("127.0.0.1", self._behind)
        )
        self._ports[identity] = port
        for data in self._waiting.pop(identity, []):
            port.sendto(data)

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self._do(self.server.tick(self._loop.time()))

    def close(self) -> None:
        for port in self._ports.values():
            port.close()
        self._transport.close()


@asynccontextmanager
async def front(keys: dict[bytes, bytes], behind: int, host: str = "127.0.0.1") -> AsyncIterator[Front]:
    """A front on a free port of ``host`` before the plain server at the port ``behind`` of 127.0.0.1."""
    loop = asyncio.get_running_loop()
    _, made = await loop.create_datagram_endpoint(lambda: Front(keys, behind), local_addr=(host, 0))
    ticking = asyncio.create_task(made.tick())
    try:
        yield made
    finally:
        ticking.cancel()
        made.close()
