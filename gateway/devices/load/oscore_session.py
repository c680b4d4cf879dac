"""The OSCORE of one device of a load, between its connected UDP socket and its messages (RFC 8613).

Keys are derived with the device's first message (appendix B.2), and anew when the gateway does not know them any more;
`gateway.devices.oscore` does it all. This is its socket, what is above it, and where it tells what went wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from gateway.devices.oscore import OscoreTransport
from security.credentials.kinds import Oscore

_CONNECTED: Final = ()


class OscoreSession:
    """As `session.Session` is for DTLS; it is open from the beginning, as there is no handshake."""

    __slots__ = (
        "_begin",
        "_came",
        "_sock",
        "_transport",
        "deadline",
        "failed",
        "is_open",
        "listening",
        "slept_through",
    )

    def __init__(self, context: Oscore, endpoint: str, sock: socket.socket, on_again: Callable[[], None]) -> None:
        """``on_again``: the gateway has lost what it knew of the device, and new keys are there."""
        self.failed = ""
        self.is_open = True
        self.deadline = float("inf")
        # As those that are above a transport have it; a device of a load never sleeps.
        self.listening = True
        self.slept_through = 0
        self._sock = sock
        self._came: list[bytes] = []
        self._begin = partial(OscoreTransport, self, context, ep=endpoint, on_again=on_again, log=self)
        self._transport = self._begun()

    def _begun(self) -> OscoreTransport:
        transport = self._begin()
        transport.connection_made(cast("asyncio.DatagramTransport", self))
        return transport

    # For the device, as `Session` has it

    def connect(self, now: float) -> None:
        """There is nothing to do: keys are derived with the first message."""

    def send(self, message: bytes, now: float) -> None:
        """Say it, after the derivation of keys if there are none."""
        if self.failed:
            self.failed = ""
            self._transport = self._begun()
        self._transport.sendto(message, _CONNECTED)

    def again(self, message: bytes, now: float) -> None:
        """Say once more what went unheard: there is no other way here."""
        self._transport.sendto(message, _CONNECTED)

    def receive(self, datagram: bytes, now: float) -> list[bytes]:
        """The message in a datagram of the server, if there is one."""
        self._transport.datagram_received(datagram, _CONNECTED)
        came, self._came = self._came, []
        return came

    def tick(self, now: float) -> None:
        """There is nothing to do by any time."""

    def close(self) -> None:
        """There is nobody to be told."""

    # For the transport: what is above

    def stay_awake(self) -> None:
        """It always is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It may send from now on."""

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._came.append(data)

    # For the transport: what is below

    def sendto(self, data: bytes, addr: tuple[Any, ...]) -> None:
        # Like a datagram that got lost: it is said again.
        with contextlib.suppress(OSError):
            self._sock.send(data)

    def is_closing(self) -> bool:
        return False

    # For the transport: its log

    def info(self, event: str, **words: object) -> None:
        """Other keys are no failure; ``on_again`` hears of them."""

    def warning(self, event: str, **words: object) -> None:
        self.failed = f"{event}: {words.get('reason')}; {words.get('do')}"
