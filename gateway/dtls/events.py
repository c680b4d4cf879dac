"""What the server tells whoever owns the socket: datagrams to send, and what became of the sessions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from gateway.dtls.session import Address, Session

#: The session of a pre-shared key, or that of a certificate (`gateway.dtls_certificates.session`).
S = TypeVar("S")


class Ending(StrEnum):
    """Why a session is over."""

    CLOSE_NOTIFY = "the peer closed it"
    ALERT = "the peer sent a fatal alert"
    REPLACED = "the peer made another at its address"
    SILENT = "nothing was heard for too long"
    EVICTED = "it was the longest silent one when there were too many"
    EXPIRED = "the peer's certificate ran out"


@dataclass(frozen=True, slots=True)
class Send:
    """Send this datagram there."""

    datagram: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class Established(Generic[S]):
    """The peer has shown that it has the key that ``session.identity`` says."""

    session: S
    resumed: bool


@dataclass(frozen=True, slots=True)
class Received(Generic[S]):
    """Application data of one record, authentic and not here before."""

    session: S
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
class Closed(Generic[S]):
    """The session is over and forgotten; `Server.send` refuses it from now on."""

    session: S
    ending: Ending


@dataclass(frozen=True, slots=True)
class Unproven:
    """Somebody at ``address`` has named ``identity``, and has not its key, or nobody has that identity; once a
    handshake. Whoever can write to the port can cause it."""

    identity: bytes
    address: Address


Event = Unproven | Established[Session] | Received[Session] | Moved | Closed[Session] | Send
