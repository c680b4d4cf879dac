"""The bootstrap server's side of CoAP: what devices ask of it, and what they answer to its requests.

The first byte of an input says what the rest is: a datagram, from a stranger and in a device's session; the query of a
Bootstrap-Request, an option a line; that of a Bootstrap-Pack-Request; or how the device answers one of the requests
of its run (which one, the code, then options and payload as on the wire). It answers well besides, as a device that has
been heard wrongly says it again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from aiocoap import Message, resource
from aiocoap.numbers.types import CON

from gateway.access import Access
from gateway.admission import Admission
from gateway.bootstrap.config_file import ConfigFile
from gateway.bootstrap.interface import Interface, PackResource
from gateway.bootstrap.issuing import Issuer
from gateway.bootstrap.ledger import Ledger
from gateway.bootstrap.runs import Runs
from gateway.bootstrap.store_file import BootstrapFile
from gateway.bootstrap.trace import Outcome, Trace
from gateway.coap.aiocoap_link import AiocoapLink
from gateway.coap.incoming import Busy
from gateway.coap.message import Code, Malformed, Option, Options, Type, build, parse
from gateway.coap.peers import Address, SecurePeer
from gateway.device_link import DeviceLink
from security.credentials.sqlite import SqliteCredentials
from tests.bootstrap_process import WITH_KEY, Answers
from tests.fuzz.endpoints import Loop, Loud, folder
from tests.fuzz.surfaces import Surface
from tests.secure_device import new_store

EP, STRANGER = "press-7", ("198.51.100.7", 40000)
CONFIG = WITH_KEY.format(port=5684) + "  read: [/1]\n"
LINKS = b'</>;lwm2m=1.1,</0/1>,</0/2>;ssid=5;uri="coap://old"'
#: What a device says to the first request: Content-Format 40, and its links.
DISCOVERED = b"\x45\xc1\x28\xff" + LINKS


class Bootstrapping:
    """A server with its files, and a device that does what it is asked."""

    def __init__(self) -> None:
        self._folder = folder()
        here = Path(self._folder.name)
        (here / "bootstrap.yaml").write_text(CONFIG)
        file = BootstrapFile(here / "bootstrap.db", make=True)
        self._loop, self._mids = Loop(), count(1)
        self._endpoint = Loud(Busy(), self._loop, self._said)
        root = resource.Site()
        self._loop.run(self._start(root))
        self._runs = Runs(
            Trace(file, lambda: 0),
            Issuer(Ledger(file, lambda: 0), lambda: datetime.now(UTC), secrets.token_bytes),
            DeviceLink(self._endpoint.client, self._link),
            self._tasks,
            step_timeout=1.0,
            most=8,
        )
        access = Access(SqliteCredentials(new_store(here / "keys.db", {EP: b"a factory's key."})))
        interface = Interface(ConfigFile(here / "bootstrap.yaml"), Admission(access), self._runs, self._spawn)
        root.add_resource(["bspack"], PackResource(interface))
        self._endpoint.serve(interface)
        self._device = SecurePeer(EP, ("192.0.2.9", 5684))
        self._device.proven = True
        self._answers = Answers()
        #: Which request is answered how, while an input says so.
        self._instead: tuple[int, bytes] | None = None
        self._codes: list[int] = []

    async def _start(self, root: resource.Site) -> None:
        self._link = AiocoapLink(self._endpoint, root)
        # It is never left: a task that raises is told to the loop then.
        self._tasks = await asyncio.TaskGroup().__aenter__()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(work)

    # The device's side

    def _said(self, datagram: bytes, address: Address) -> None:
        self._loop.asyncio.call_soon(self._answer, datagram, address)

    def _answer(self, datagram: bytes, address: Address) -> None:
        message = parse(datagram)
        if not message.is_request:
            self._codes.append(message.code)
            return
        if self._instead is not None and self._instead[0] == len(self._answers.asked):
            said = self._instead[1]
            head = bytes((0x60 | len(message.token), *said[:1], message.mid >> 8, message.mid & 255))
            self._endpoint.hear(head + message.token + said[1:], address)
        answer = self._answers(Message.decode(datagram))
        assert answer is not None
        answer.mtype, answer.mid, answer.token = CON, next(self._mids) % 0x10000, message.token
        self._endpoint.hear(answer.encode(), address)

    # What comes

    async def _over(self) -> None:
        """Whatever was begun has come to its end."""
        while len(self._runs) or self._endpoint.server.open_requests:  # noqa: ASYNC110  neither tells of it
            await asyncio.sleep(0.0005)

    def _hear(self, datagram: bytes, address: Address) -> None:
        async def heard() -> None:
            self._endpoint.hear(datagram, address)
            await self._over()

        self._answers, self._codes = Answers(), []
        self._loop.run(heard())

    def _asks(self, code: Code, path: bytes, query: bytes) -> None:
        options: Options = [(Option.URI_PATH, path), *((Option.URI_QUERY, line) for line in query.split(b"\n"))]
        mid = next(self._mids) % 0x10000
        self._hear(build(Type.CON, code, mid, mid.to_bytes(2, "big"), options), self._device)

    def _begins(self, query: bytes) -> bool:
        """True if it was bootstrapped."""
        done = self._runs.ended[Outcome.DONE.value]
        self._asks(Code.POST, b"bs", query)
        return self._runs.ended[Outcome.DONE.value] > done

    def take(self, data: bytes) -> bool:
        kind, rest = (data[0] % 4, data[1:]) if data else (0, b"")
        if kind == 0:
            taken = _is_message(rest)
            for address in (STRANGER, self._device):
                self._hear(rest, address)
        elif kind == 1:
            taken = self._begins(rest)
        elif kind == 2:
            self._asks(Code.GET, b"bspack", rest)
            taken = Code.CONTENT in self._codes
        else:
            self._instead = (rest[0] % 8, rest[1:]) if rest else None
            taken = self._begins(b"ep=" + EP.encode())
            self._instead = None
        # Whatever came: the device is bootstrapped.
        assert self._begins(b"ep=" + EP.encode()), self._codes
        return taken


def _is_message(datagram: bytes) -> bool:
    try:
        parse(datagram)
    except Malformed:
        return False
    return True


def bootstrap() -> Surface:
    """As `Bootstrapping`."""
    asked = build(Type.CON, Code.POST, 1, b"tk", [(Option.URI_PATH, b"bs"), (Option.URI_QUERY, b"ep=lamp")])
    good = (
        b"\x00" + asked,
        b"\x01ep=press-7",
        b"\x01ep=press-7\npct=112",
        b"\x02ep=press-7",
        b"\x03\x00" + DISCOVERED,
        # It reads its servers to us in TLV, then takes the first account in another format.
        b"\x03\x01\x45\xc2\x2d\x16\xff\x08\x00\x03\xc1\x00\x7b",
        b"\x03\x04\x8f",
    )
    return Surface(take=Bootstrapping().take, good=good, tries=30)
