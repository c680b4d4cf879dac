"""Two DTLS servers on one socket: that of pre-shared keys, and that of certificates where there is one.

Owns which of the two a datagram is for, and that a device at one address has a session of one of them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.dtls.events import Event
from gateway.dtls.greeting import suites_offered
from gateway.dtls.records import ContentType
from gateway.dtls.server import Server
from gateway.dtls.session import Address, Session
from gateway.dtls.suites import choose

if TYPE_CHECKING:
    from gateway.dtls_certificates.server import CertificateServer
    from gateway.dtls_certificates.session import CertificateEvent, CertificateSession

    AnySession = Session | CertificateSession
    AnyEvent = Event | CertificateEvent

_TLS12_CID = bytes((ContentType.TLS12_CID,))


class Sides:
    """Both as one; times are monotonic, in seconds. Its methods are those of each (`gateway.dtls.server`)."""

    def __init__(self, keys: Server, certificates: CertificateServer | None) -> None:
        self.keys = keys
        self.certificates = certificates

    def receive(self, datagram: bytes, address: Address, now: float) -> Sequence[AnyEvent]:
        """Take one datagram. Never raises."""
        certificates = self.certificates
        if certificates is None:
            return self.keys.receive(datagram, address, now)
        offered = suites_offered(datagram)
        if offered is not None:
            # Who offers both gets what we prefer: a pre-shared key costs us less, and has a Connection ID.
            if choose(offered) is None and certificates.wants(offered):
                return certificates.receive(datagram, address, now)
            return self.keys.receive(datagram, address, now)
        if not certificates.has(address) or datagram[:1] == _TLS12_CID:
            return self.keys.receive(datagram, address, now)
        events: Sequence[AnyEvent] = certificates.receive(datagram, address, now)
        # A handshake of the other kind may be about to replace the session: each takes what is its own.
        return [*events, *self.keys.receive(datagram, address, now)] if self.keys.has(address) else events

    def receive_data(self, datagram: bytes, address: Address, now: float) -> tuple[Session, bytes] | None:
        """The short path of `receive` (`gateway.dtls.server`): None leaves the datagram to it."""
        certificates = self.certificates
        if certificates is not None and datagram[:1] != _TLS12_CID and certificates.has(address):
            return None
        return self.keys.receive_data(datagram, address, now)

    def send(self, session: AnySession, data: bytes) -> bytes:
        """The datagram with ``data``.

        Raises:
            SessionClosed: the session is over.
            ValueError: more than 16,384 bytes (RFC 6347 section 4.1).
        """
        if isinstance(session, Session):
            return self.keys.send(session, data)
        assert self.certificates is not None
        return self.certificates.send(session, data)

    def close(self, session: AnySession) -> bytes:
        """End the session; the datagram that tells the peer, empty if it was over."""
        if isinstance(session, Session):
            return self.keys.close(session)
        assert self.certificates is not None
        return self.certificates.close(session)

    def replaced_by(self, session: AnySession) -> AnySession | None:
        """The session of the other kind whose place a new one takes at its address (RFC 6347 section 4.2.8)."""
        if self.certificates is None:
            return None
        return (self.certificates if isinstance(session, Session) else self.keys).at(session.address)

    def deadline(self) -> float | None:
        """When `tick` has something to do next."""
        ours = self.keys.deadline()
        other = None if self.certificates is None else self.certificates.deadline()
        return min((one for one in (ours, other) if one is not None), default=None)

    def tick(self, now: float) -> Sequence[AnyEvent]:
        """Send again what is unanswered, and forget what is over by now."""
        events: Sequence[AnyEvent] = self.keys.tick(now)
        return events if self.certificates is None else [*events, *self.certificates.tick(now)]
