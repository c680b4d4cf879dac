"""What the server tells whoever owns the socket: datagrams to send, and what became of the sessions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.dtls.session import Address, Session


class Ending(StrEnum):
    """Why a session is over."""

    CLOSE_NOTIFY = "the peer closed it"
    ALERT = "the peer sent a fatal alert"
    REPLACED = "the peer made another at its address"
    SILENT = "nothing was heard for too long"
    EVICTED = "it was the longest silent one when there were too many"


@dataclass(frozen=True, slots=True)
class Send:
    """Send this datagram there."""

    datagram: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class Established:
    """The peer has shown that it has the key of ``session.identity``."""

    session: Session
    resumed: bool


@dataclass(frozen=True, slots=True)
class Received:
    """Application data of one record, authentic and not here before."""

    session: Session
    data: bytes


@dataclass(frozen=True, slots=True)
class Moved:
    """The peer's records come from ``session.address`` now, by its Connection ID (RFC 9146 section 6).

    The address has not shown that it can be reached: an attacker in the path can send the newest record from anywhere.
    Until something comes back for what was sent there, answers must stay small.
    """

    session: Session
    before: Address


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over and forgotten; `Server.send` refuses it from now on."""

    session: Session
    ending: Ending


Event = Established | Received | Moved | Closed | Send
