"""The way in for devices with credentials, as a gateway and a bootstrap server have it: the store, and the DTLS port.

Owns what is opened of both, and in which order. Loaded only where there are credentials: DTLS is ten megabytes. Who
may do what is `gateway.admission`'s rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.access import Access
from gateway.coap.secure import SecureLine
from security.credentials.opening import StorePlace, open_store

if TYPE_CHECKING:
    import socket

    from gateway.dtls_certificates.server import CertificateServer
    from gateway.dtls_certificates.settings import CertificateFiles
    from gateway.several.crossing import Crossing


def open_entrance(
    credentials: StorePlace,
    coaps: tuple[str, int],
    certificate: CertificateFiles | None,
    *,
    make: bool,
    bound: socket.socket | None = None,
    crossing: Crossing | None = None,
) -> tuple[Access, SecureLine]:
    """The store of ``credentials`` (made where there is none, with ``make``), and DTLS at ``coaps`` for who is in it:
    with keys, and with certificates where there is one to be shown to them. ``bound`` and ``crossing`` as in
    `SecureLine`.

    Raises:
        CredentialStoreError: the credentials cannot be read.
        SecretError, Exposed, CertificateUnusable: the certificate or its key cannot be used.
        OSError: the address cannot be bound.
    """
    access = Access(open_store(credentials, make=make), has_certificates=certificate is not None)
    try:
        line = SecureLine(
            *coaps,
            access.key,
            access.only_endpoint,
            certificates=None if certificate is None else _certificates(certificate, access),
            bound=bound,
            crossing=crossing,
        )
    except BaseException:
        access.close()
        raise
    return access, line


def _certificates(files: CertificateFiles, access: Access) -> CertificateServer:
    """Loaded here alone: pyOpenSSL, and OpenSSL's memory, are for servers that show a certificate."""
    from gateway.dtls_certificates.context import CertificateContext, ServerCertificate
    from gateway.dtls_certificates.server import CertificateServer
    from gateway.dtls_certificates.settings import Settings

    own = ServerCertificate(files.certificate, files.key, files.authorities)
    server = CertificateServer(
        CertificateContext(own, access.admits), access.admits, Settings(most_sessions=files.most_sessions)
    )
    server.trust(access.anchors())
    return server
