"""OpenSSL as the gateway uses it: its certificate, its suites, and whom it believes.

Through pyOpenSSL's public interface alone. Reads the files that it is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto

from gateway.certificate_proof import Proof
from gateway.dtls_certificates.datagrams import MTU
from gateway.dtls_certificates.looking import Look, digest_of
from security.errors import CertificateUnusable
from security.secrets import read_bounded, read_key

#: RFC 7925 section 4.4 makes the first the one that every device has. OpenSSL counts the tag of CCM_8 as too short for
#: all of its levels but 0, which leaves the strength of keys and signatures to `looking.is_weak`.
_CIPHERS: Final = b"ECDHE-ECDSA-AES128-CCM8:ECDHE-ECDSA-AES128-GCM-SHA256:@SECLEVEL=0"
_DTLS_1_2: Final = 0xFEFD
#: Certificates between a device's own and its anchor.
_MOST_DEPTH: Final = 4
#: Of whose sessions OpenSSL keeps some; it wants a name where certificates are asked for.
_SESSIONS_OF: Final = b"headwater"


class ServerCertificate:
    """The gateway's certificate (first in its file, then what signed it), its key, and authorities that it is told."""

    def __init__(self, certificate: Path, key: Path, authorities: Path | None = None) -> None:
        """Read the files.

        Raises:
            SecretError, Exposed: a file cannot be read; the key is open to others.
            CertificateUnusable: what is in them cannot be used; the text says why.
        """
        self.chain = _certificates(certificate)
        self.key = _key(key)
        if self.key.public_key() != self.chain[0].public_key():
            raise CertificateUnusable(f"the key in {key} is not that of the first certificate in {certificate}")
        self.authorities = [] if authorities is None else _certificates(authorities)


class CertificateContext:
    """Makes OpenSSL's connections, and says whom they trust.

    pyOpenSSL lets nobody change a context that has made a connection; so there is another one where sessions shall not
    be kept, and a new one when a signer is believed no more.
    """

    def __init__(self, own: ServerCertificate, admits: Callable[[Proof], bool], resumable_for: int = 86_400) -> None:
        """``admits`` says whether the store knows a proof; it neither raises nor blocks. ``resumable_for`` seconds
        OpenSSL keeps a session."""
        self._own = own
        self._admits = admits
        self._resumable_for = resumable_for
        self._authorities = frozenset(map(digest_of, own.authorities))
        self._anchors: dict[str, x509.Certificate] = {}
        self._stores: list[crypto.X509Store] = []
        self.renew()

    @property
    def current(self) -> SSL.Context:
        """The one that `begin` takes."""
        return self._current

    def renew(self) -> None:
        """Keep the sessions to come apart from those before."""
        self._stores = []
        self._current, self._keeping_none = self._made(SSL.SESS_CACHE_SERVER), self._made(SSL.SESS_CACHE_OFF)

    def trust(self, anchors: Iterable[bytes]) -> bool:
        """Believe from now on what these certificates (DER) signed, and the authorities; one that cannot be read signs
        nothing. True if one of before is gone: the sessions to come are kept apart then."""
        now = {digest_of(one): one for one in _readable(anchors)}
        before, self._anchors = self._anchors, now
        if before.keys() - now.keys():
            self.renew()
            return True
        for digest in now.keys() - before.keys() - self._authorities:
            for store in self._stores:
                store.add_cert(crypto.X509.from_cryptography(now[digest]))
        return False

    def begin(self, context: SSL.Context | None = None) -> tuple[SSL.Connection, Look]:
        """A server's connection with nothing in it, and the look at the certificates that it will get. By ``context``
        it resumes what that one has kept."""
        connection = SSL.Connection(context or self._current, None)
        look = Look(self._authorities, self._admits)
        connection.set_app_data(look)
        connection.set_accept_state()
        connection.set_ciphertext_mtu(MTU)
        return connection, look

    def begin_whole(self) -> tuple[SSL.Connection, Look]:
        """As `begin`; but it resumes nothing, and cannot be resumed."""
        return self.begin(self._keeping_none)

    def _made(self, kept: int) -> SSL.Context:
        context = SSL.Context(SSL.DTLS_SERVER_METHOD)
        context.set_min_proto_version(_DTLS_1_2)
        context.set_max_proto_version(_DTLS_1_2)
        # A ticket has the device's certificate in it: a ClientHello with one is longer than the handshake that it
        # saves, and where it has to be cut in pieces, no server takes it before the cookie.
        context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
        context.set_session_cache_mode(kept)
        context.set_session_id(_SESSIONS_OF)
        context.set_timeout(self._resumable_for)
        context.set_cipher_list(_CIPHERS)
        context.use_certificate(self._own.chain[0])
        for signer in self._own.chain[1:]:
            context.add_extra_chain_cert(signer)
        context.use_privatekey(self._own.key)
        store = context.get_cert_store()
        assert store is not None
        # An anchor need not be a root: LwM2M's usage 2 may name any signer.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        for one in {**{digest_of(one): one for one in self._own.authorities}, **self._anchors}.values():
            store.add_cert(crypto.X509.from_cryptography(one))
        self._stores.append(store)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _look)
        context.set_verify_depth(_MOST_DEPTH)
        # The cookie was checked before there was a connection (`gateway.dtls_certificates.server`).
        context.set_cookie_generate_callback(lambda _: b"")
        context.set_cookie_verify_callback(lambda *_: True)
        return context


def _look(connection: SSL.Connection, certificate: crypto.X509, finding: int, depth: int, is_good: int) -> bool:
    look: Look = connection.get_app_data()
    try:
        return look.take(certificate.to_cryptography(), finding, depth, is_good=bool(is_good))
    except Exception:  # noqa: BLE001  anybody writes certificates, and what reads them raises all kinds of errors
        look.refusal = "unreadable certificate"
        return False


def _readable(anchors: Iterable[bytes]) -> Iterable[x509.Certificate]:
    for der in anchors:
        try:
            yield x509.load_der_x509_certificate(der)
        except ValueError:
            continue


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(read_bounded(file))
    except ValueError as exc:
        raise CertificateUnusable(f"{file} holds no certificate in PEM") from exc
    return found


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    content = read_key(file)
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # `from None`: nothing of a key is told.
        raise CertificateUnusable(f"{file} holds no private key in PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateUnusable(
            f"the key in {file} is no EC key, and devices have suites for those alone (RFC 7925 section 4.4): "
            "openssl ecparam -name prime256v1 -genkey -noout makes one"
        )
    return key
