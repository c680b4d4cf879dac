"""An endpoint on a real UDP socket, and who speaks to it by hand-made datagrams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Busy, Incoming
from gateway.coap.message import Code, Message, Option, Type, build, empty
from gateway.coap.peers import Address

WAIT = 10.0


class Recorder:
    """A handler that writes down what it is given and answers requests as the test says."""

    notify_all = None

    def __init__(self) -> None:
        self.requests: list[Incoming] = []
        self.responses: list[Message] = []
        self.resets: list[int] = []
        self.notified: list[bytes] = []
        self.batches = 0
        self.takes_notifications = False
        self.takes_responses = False
        self.is_verified = False
        self.on_request: Callable[[Incoming], None] = lambda incoming: incoming.reply(Code.CHANGED, payload=b"ok")
        self.on_notify: Callable[[], None] = lambda: None

    def notify(self, datagram: bytes, address: Address) -> bool:
        self.notified.append(datagram)
        self.on_notify()
        return self.takes_notifications

    def response(self, message: Message, address: Address) -> bool:
        self.responses.append(message)
        return self.takes_responses

    def reset(self, address: Address, mid: int) -> None:
        self.resets.append(mid)

    def request(self, incoming: Incoming) -> bool:
        self.requests.append(incoming)
        self.on_request(incoming)
        return True

    def batch_done(self) -> None:
        self.batches += 1

    def verified(self, address: Address) -> bool:
        return self.is_verified


class Peer:
    """A UDP socket of the test's."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        self._server = server

    @property
    def address(self) -> tuple[str, int]:
        name = self._socket.getsockname()
        return name[0], name[1]

    def send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self._server)

    async def receive(self) -> bytes:
        async with asyncio.timeout(WAIT):
            return await asyncio.get_running_loop().sock_recv(self._socket, 4096)

    async def ask(self, datagram: bytes) -> bytes:
        self.send(datagram)
        return await self.receive()

    async def answers_before_ping(self) -> list[bytes]:
        """What came before the answer to a ping that is sent now: all that the datagrams before it drew."""
        self.send(empty(Type.CON, 0xFEED))
        seen: list[bytes] = []
        while (datagram := await self.receive()) != empty(Type.RST, 0xFEED):
            seen.append(datagram)
        return seen

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def running(handler: Recorder | Busy) -> AsyncIterator[tuple[Endpoint, Peer]]:
    endpoint = Endpoint(("127.0.0.1", 0), handler, seed=1)
    peer = Peer(endpoint.lines.local_address)
    endpoint.start(asyncio.get_running_loop())
    try:
        yield endpoint, peer
    finally:
        peer.close()
        endpoint.close()


def post(mid: int = 1, *, token: bytes = b"tok", type_: Type = Type.CON, payload: bytes = b"") -> bytes:
    return build(type_, Code.POST, mid, token, [(Option.URI_PATH, b"rd")], payload)
