"""What the gateway serves through aiocoap, seen from a socket that nobody knows: discovery and uploads in blocks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import cast

from gateway.admission import Admission
from gateway.coap.aiocoap_link import AiocoapLink
from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Incoming
from gateway.coap.message import Code, Message, Option, Options, Type, build, parse
from gateway.coap.peers import Address
from gateway.journal import Journal
from gateway.registrations import Registrations
from gateway.registry import Device, Registry
from gateway.resources import site
from gateway.sending import Sends
from gateway.state import State
from gateway.uplink import Uplink
from schemas.lwm2m.link import parse_links
from schemas.lwm2m.objects import Definitions
from tests.memory_uplink import MemoryUplink

WAIT = 20.0
DISCOVERY: Options = [(Option.URI_PATH, b".well-known"), (Option.URI_PATH, b"core")]


class Served:
    """A gateway without devices: the endpoint's handler and the registrations' listener."""

    notify_all = None

    def __init__(self, state: State, journal: Journal) -> None:
        self.endpoint = Endpoint(("127.0.0.1", 0), self, seed=1)
        self.uplink = MemoryUplink()
        self.registry = Registry()
        self.registrations = Registrations(
            server_id="gw",
            local_address=self.endpoint.lines.local_address_of,
            admission=Admission(None),
            uplink=cast(Uplink, self.uplink),
            state=state,
            registry=self.registry,
            journal=journal,
            listener=self,
            wall_ms=lambda: 1_000_000,
            new_id=lambda: "id1",
        )
        self.heard: list[str] = []
        self.sends = Sends(
            server_id="gw",
            uplink=cast(Uplink, self.uplink),
            registry=self.registry,
            definitions=Definitions.builtin(),
            heard=lambda device: self.heard.append(device.ep),
            wall_ms=lambda: 1_000_000,
        )
        self.link = AiocoapLink(self.endpoint, site(self.registrations, self.sends))
        self.endpoint.start(asyncio.get_running_loop())
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))

    def send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self.endpoint.lines.local_address)

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._socket, 4096)

    async def ask(self, datagram: bytes) -> bytes:
        self.send(datagram)
        return await self.receive()

    def close(self) -> None:
        self._socket.close()
        self.endpoint.close()

    # Handler

    def notify(self, datagram: bytes, address: Address) -> bool:
        return False

    def response(self, message: Message, address: Address) -> bool:
        return False

    def reset(self, address: Address, mid: int) -> None:
        return None

    def request(self, incoming: Incoming) -> bool:
        return self.registrations.request(incoming) or self.sends.request(incoming)

    def batch_done(self) -> None:
        return None

    def verified(self, address: Address) -> bool:
        return self.registry.at(address) is not None

    # Listener

    def registered(self, device: Device, old: Device | None) -> None:
        return None

    def moving(self, device: Device) -> None:
        return None

    def updated(self, device: Device, *, objects_changed: bool) -> None:
        return None

    def refreshed(self, devices: Iterable[Device]) -> None:
        return None

    def followed(self, device: Device, *, elsewhere: bool, objects_changed: bool) -> None:
        return None

    def gone(self, device: Device) -> None:
        return None


@asynccontextmanager
async def _served(directory: FilePath) -> AsyncIterator[Served]:
    state = State.open(directory)
    journal = Journal(directory)
    served = Served(state, journal)
    try:
        async with asyncio.timeout(WAIT):
            yield served
    finally:
        served.close()
        journal.close()
        await state.close()


def test_discovery_by_a_stranger_fits_three_times_the_shortest_request(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _served(tmp_path) as served:
            request = build(Type.CON, Code.GET, 1, b"", DISCOVERY)
            datagram = await served.ask(request)
            assert len(datagram) <= 3 * len(request)
            answer = parse(datagram)
            assert (answer.type, answer.code, answer.uint(Option.CONTENT_FORMAT)) == (Type.ACK, Code.CONTENT, 40)
            links = {link.url: link.attributes for link in parse_links(answer.payload.decode())}
            assert links["/rd"]["rt"] == "core.rd" and "/.well-known/core" in links

    asyncio.run(run())
