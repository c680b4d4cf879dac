"""Who is at the other end: a UDP address, or somebody who has shown who they are.

It is what messages, exchanges, registrations and observations are told apart by: over UDP the address (RFC 7252 section
4.2), over DTLS the security association (section 9.1), whatever address it has at the moment; with OSCORE the security
context (RFC 8613).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from gateway.certificate_proof import OSCORE_MARK, shown

if TYPE_CHECKING:
    from gateway.dtls.session import Session
    from gateway.dtls_certificates.session import CertificateSession

#: As a socket gives it; in IPv6 with flow information and scope.
UdpAddress = tuple[str, int] | tuple[str, int, int, int]


class SecurePeer:
    """A device with a DTLS session. It stays the same when its address changes, and where its key is for one endpoint
    also from one session to the next.

    ``identity`` is what it has shown: that of a pre-shared key, or a proof (`gateway.certificate_proof`); ``udp`` where
    it was heard last. Equal to itself alone.
    """

    __slots__ = ("identity", "life", "moved_at", "proven", "session", "udp")

    def __init__(self, identity: str, udp: UdpAddress) -> None:
        self.identity = identity
        self.udp = udp
        #: Another one after each whole handshake, in all processes: message ids are of such a life.
        self.life = secrets.token_hex(6)
        #: None while there is no session: before the first after the gateway's start, and after the end of one.
        self.session: Session | CertificateSession | None = None
        #: True if its address has shown that it can be reached: by a handshake, or by an answer.
        self.proven = False
        #: When ``udp`` changed within a session, in seconds of the event loop's clock.
        self.moved_at = 0.0

    def __repr__(self) -> str:
        host, port = host_port(self)
        return f"{shown(self.identity)} at {host} port {port}"


class OscorePeer(SecurePeer):
    """A device that speaks OSCORE over plain UDP. It stays the same as long as its credential has the same id.

    Its identity is the id of its credential behind a mark; it has no session.
    """

    __slots__ = ("__weakref__",)

    def __init__(self, credential: str, udp: UdpAddress) -> None:
        super().__init__(OSCORE_MARK + credential, udp)
        # Its message ids go on over a restart of the gateway.
        self.life = f"oscore-{credential}"

    @property
    def credential(self) -> str:
        """The name of its credential's id (`security.credentials.kinds.CredentialId`)."""
        return self.identity.removeprefix(OSCORE_MARK)


Address = UdpAddress | SecurePeer


def peer_of(identity: str, udp: UdpAddress) -> SecurePeer:
    """The peer that had shown this identity, as the state file has it."""
    if identity.startswith(OSCORE_MARK):
        return OscorePeer(identity.removeprefix(OSCORE_MARK), udp)
    return SecurePeer(identity, udp)


def host_port(address: Address) -> tuple[str, int]:
    """Where a peer was heard last."""
    host, port = (address.udp if isinstance(address, SecurePeer) else address)[:2]
    return host, port


def udp_address(host: str, port: int) -> UdpAddress:
    """An address as the socket gives it."""
    return (host, port, 0, 0) if ":" in host else (host, port)
