"""What the client tells whoever owns the socket: datagrams to send, and what became of its one session."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.dtls.events import Ending


class Failure(StrEnum):
    """Why there was no session at the end of a handshake."""

    SILENT = "the server did not answer"
    KEY = "the server does not take this identity with this key"
    REFUSED = "the server refused the handshake"
    FOREIGN = "the server answered with what was not offered"


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this datagram to the server."""

    datagram: bytes


@dataclass(frozen=True, slots=True)
class Connected:
    """The server has shown that it has our key. ``resumed`` if it still knew the session before."""

    resumed: bool


@dataclass(frozen=True, slots=True)
class Arrived:
    """Application data of one record, authentic and not here before."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The server ended the session; `Client.send` refuses until there is another."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class Failed:
    """The handshake came to nothing. ``alert`` is the server's number for it, if it gave one (RFC 5246 section 7.2)."""

    failure: Failure
    alert: int | None


ClientEvent = Transmit | Connected | Arrived | Ended | Failed
