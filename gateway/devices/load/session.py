"""The DTLS session of one device of a load, between its connected UDP socket and its messages.

Owns when a handshake begins: when there is something to say and no session, and anew once what was said stays unheard.
The handshake itself is `gateway.dtls.client`'s. Times are monotonic seconds that the caller passes in.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Protocol

from gateway.dtls.client import Client
from gateway.dtls.client_events import Arrived, ClientEvent, Connected, Ended, Failed, Transmit
from gateway.dtls.settings import Settings
from security.credentials.kinds import Psk

#: A device with a key needs no longer for a flight than for any other message (RFC 7252 section 4.8).
_SETTINGS = Settings(flight_timeout=2.0, handshake_for=62.0)


class SecureSession(Protocol):
    """What makes a device's messages secure: DTLS (`Session`) or OSCORE (`oscore_session`)."""

    #: Why nothing can be said, in words, while that is so.
    failed: str

    @property
    def is_open(self) -> bool: ...
    @property
    def deadline(self) -> float: ...
    def connect(self, now: float) -> None: ...
    def send(self, message: bytes, now: float) -> None: ...
    def again(self, message: bytes, now: float) -> None: ...
    def receive(self, datagram: bytes, now: float) -> list[bytes]: ...
    def tick(self, now: float) -> None: ...
    def close(self) -> None: ...


class Session:
    """``failed`` has the words for the last handshake that came to nothing, until the next begins."""

    __slots__ = ("_client", "_held", "_sock", "failed", "handshakes", "resumed")

    def __init__(self, psk: Psk, sock: socket.socket) -> None:
        self._client = Client(psk.identity, psk.key.reveal(), _SETTINGS)
        self._sock = sock
        #: Said before there was a session: what the device waits for an answer to, one message alone.
        self._held = b""
        self.failed = ""
        self.handshakes = 0
        self.resumed = 0

    @property
    def is_open(self) -> bool:
        return self._client.is_open

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        deadline = self._client.deadline()
        return float("inf") if deadline is None else deadline

    def connect(self, now: float) -> None:
        """Begin a handshake, in place of what there is."""
        self.failed = ""
        self._do(self._client.connect(now))

    def send(self, message: bytes, now: float) -> None:
        """Say it, after a handshake if there is no session."""
        if self._client.is_open:
            self._transmit(self._client.send(message))
            return
        self._held = message
        if not self._client.is_connecting:
            self.connect(now)

    def again(self, message: bytes, now: float) -> None:
        """Say in a session of its own what went unheard: a server that was killed says nothing to the old one's."""
        self._held = message
        if not self._client.is_connecting:
            self.connect(now)

    def receive(self, datagram: bytes, now: float) -> list[bytes]:
        """The messages in a datagram of the server."""
        return self._do(self._client.receive(datagram, now))

    def tick(self, now: float) -> None:
        """Say an unanswered flight again, or give up."""
        self._do(self._client.tick(now))

    def close(self) -> None:
        """Tell the server that it is over."""
        if datagram := self._client.close():
            self._transmit(datagram)

    def _do(self, events: list[ClientEvent]) -> list[bytes]:
        messages = []
        for event in events:
            match event:
                case Arrived():
                    messages.append(event.data)
                case Transmit():
                    self._transmit(event.datagram)
                case Connected():
                    self.handshakes += 1
                    self.resumed += event.resumed
                    if self._held:
                        held, self._held = self._held, b""
                        self._transmit(self._client.send(held))
                case Failed():
                    self.failed = str(event.failure)
                case Ended():
                    pass  # The next message makes another.
        return messages

    def _transmit(self, datagram: bytes) -> None:
        # Like a datagram that got lost: it is said again.
        with contextlib.suppress(OSError):
            self._sock.send(datagram)
