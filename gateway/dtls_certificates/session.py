"""One session with a certificate: who the peer is, where it is, and OpenSSL's connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.dtls.events import Closed, Established, Received, Send
from gateway.dtls.session import Address

if TYPE_CHECKING:
    from OpenSSL import SSL


class CertificateSession:
    """A DTLS association after its handshake; made and changed by the server only.

    ``identity`` is a `gateway.certificate_proof.Proof` as text, ``heard`` the time of the last authentic record, and
    ``expires`` when the first of the peer's certificates runs out; both in seconds of the owner's clock.
    """

    __slots__ = ("address", "connection", "expires", "heard", "identity", "open")

    def __init__(
        self, address: Address, identity: bytes, connection: SSL.Connection, *, heard: float, expires: float
    ) -> None:
        self.address = address
        self.identity = identity
        self.connection = connection
        self.heard = heard
        self.expires = expires
        self.open = True


CertificateEvent = Established[CertificateSession] | Received[CertificateSession] | Closed[CertificateSession] | Send
