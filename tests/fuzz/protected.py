"""OSCORE at an endpoint (RFC 8613), while a device is in session: the option, the ciphertext, and what is in it.

The first byte of an input says what the rest is: a datagram as a stranger sends it; edits (where, what) of a request
that the device has just protected; what is inside of such a request, or of a notification of its. So inputs get behind
the replay window and the AEAD, which mere bytes do not.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from gateway.access import Access
from gateway.coap.message import Code, Option, Options, Type, build, parse
from gateway.coap.peers import Address, OscorePeer
from gateway.oscore.context import SecurityContext
from gateway.oscore.line import OscoreLine
from gateway.oscore.messages import option_of
from gateway.oscore.option import Compressed, decode, encode, partial_iv
from gateway.state import State
from security.credentials.sqlite import SqliteCredentials
from tests.fuzz.endpoints import Loop, Loud, Polite, folder
from tests.fuzz.surfaces import Surface
from tests.oscore_device import credential, oscore_store

HERE, STRANGER = ("192.0.2.9", 5683), ("198.51.100.7", 40000)
OF = credential("press-1", b"\x01")
OBSERVED = b"observed"
#: Code, options and payload: a registration, an update, and a value.
REGISTER = b"\x02\xb2rd\x47ep=lamp\xff</3/0>"
UPDATE = b"\x02\xb2rd\x02a1"
VALUE = b"\x45\x60\x60\xff21.5"


class Device:
    """Its side of the context: seals what it is told to, under numbers that it never used."""

    def __init__(self) -> None:
        self._context = SecurityContext(replace(OF, sender_id=OF.recipient_id, recipient_id=OF.sender_id))
        self._number = 0
        #: The Partial IV of the gateway's request to observe.
        self.observed = b""

    def _next(self) -> bytes:
        self._number += 1
        return partial_iv(self._number)

    @property
    def mid(self) -> int:
        return self._number % 0x10000

    def request(self, inside: bytes) -> bytes:
        iv, kid = self._next(), self._context.sender_id
        sealed = self._context.seal(inside, self._context.nonce(kid, iv), kid, iv)
        options: Options = [(Option.OSCORE, encode(Compressed(iv, kid, None)))]
        return build(Type.CON, Code.POST, self.mid, b"tk", options, sealed)

    def notification(self, inside: bytes) -> bytes:
        iv, nonce_of = self._next(), self._context.sender_id
        sealed = self._context.seal(
            inside, self._context.nonce(nonce_of, iv), self._context.recipient_id, self.observed
        )
        options: Options = [(Option.OBSERVE, b""), (Option.OSCORE, encode(Compressed(iv, None, None)))]
        return build(Type.CON, Code.CONTENT, self.mid, OBSERVED, options, sealed)


class Protected:
    """The line behind an endpoint, with its state on disk, and the device."""

    def __init__(self) -> None:
        self._folder = folder()
        here = Path(self._folder.name)
        self._state = State.open(here / "state")
        self._loop, self._handler, self._device = Loop(), Polite(), Device()
        self._said: list[Address] = []
        self._endpoint = Loud(self._handler, self._loop, lambda _, address: self._said.append(address))
        self._handler.endpoint = self._endpoint
        access = Access(SqliteCredentials(oscore_store(here / "credentials.db", [OF])))
        self._line = OscoreLine(access, self._state, self._state.load(), time.time)
        self._endpoint.speak_oscore(self._line, ("127.0.0.1", 0))
        assert self._hear(self._device.request(REGISTER), HERE)
        self._observe()

    def _hear(self, datagram: bytes, address: Address) -> bool:
        """True if a message came through."""
        for kept in (self._handler.requests, self._handler.responses, self._said):
            kept.clear()

        async def heard() -> None:
            self._endpoint.hear(datagram, address)
            # Answers leave when their numbers are on disk.
            await self._state.durable()

        self._loop.run(heard())
        return bool(self._handler.requests or self._handler.responses)

    def _observe(self) -> None:
        """The gateway's own request; the device has it."""
        peer = self._handler.requests[0].address
        assert isinstance(peer, OscorePeer)
        plain = build(Type.CON, Code.GET, 7, OBSERVED, [(Option.OBSERVE, b""), (Option.URI_PATH, b"3303")])
        closed = self._line.close_request(peer, plain, self._loop.asyncio.time())
        assert closed is not None
        asked = decode(option_of(parse(closed)) or b"").partial_iv
        assert asked is not None
        self._device.observed = asked

    def take(self, data: bytes) -> bool:
        kind, rest = (data[0] % 4, data[1:]) if data else (0, b"")
        if kind == 0:
            taken = any([self._hear(rest, STRANGER), self._hear(rest, HERE)])
        elif kind == 1:
            made = bytearray(self._device.request(UPDATE))
            for at, value in zip(rest[::2], rest[1::2], strict=False):
                if at < len(made):
                    made[at] = value
            taken = self._hear(bytes(made), STRANGER)
        elif kind == 2:
            taken = self._hear(self._device.request(rest), HERE)
        else:
            taken = self._hear(self._device.notification(rest), HERE)
        # Whatever came, and from wherever: the device is heard, and answered where it is.
        assert self._hear(self._device.request(UPDATE), HERE)
        assert self._said == [HERE]
        assert (len(self._line), self._endpoint.server.open_requests) == (1, 0)
        return taken


def oscore() -> Surface:
    """As `Protected`."""
    return Surface(
        take=Protected().take, good=(b"\x01", b"\x02" + REGISTER, b"\x02" + UPDATE, b"\x03" + VALUE), tries=100
    )
