"""The folder of an identity, as every program that speaks TLS is given it (``--kafka-tls DIR``).

Owns the names of its files and whether they belong together: ``ca.pem`` (whom we trust: one authority, two while it is
rotated), ``cert.pem``, ``key.pem``, and ``keystore.pem`` (key and certificate in one file, as Kafka wants it). Each may
be a link, or a secret that Docker has mounted. Never writes them; that is `security.authority`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from security.certificates import PrivateKey, belongs, identity_of, names_of, signed_by
from security.errors import FolderError, SecretError
from security.identities import Identity
from security.secrets import read_bounded, read_key
from security.tls_files import CA, CERTIFICATE, FILES, KEY, KEYSTORE

__all__ = [
    "CA",
    "CERTIFICATE",
    "FILES",
    "KEY",
    "KEYSTORE",
    "Side",
    "TlsFolder",
    "load_key",
    "read_certificates",
    "read_folder",
]


class Side(Enum):
    """Which end of a TLS connection."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFolder:
    """What a folder holds, without the key. The files are absolute paths."""

    path: Path
    identity: Identity
    certificate: x509.Certificate
    authorities: tuple[x509.Certificate, ...]

    @property
    def ca_file(self) -> Path:
        return self.path / CA

    @property
    def certificate_file(self) -> Path:
        return self.path / CERTIFICATE

    @property
    def key_file(self) -> Path:
        return self.path / KEY

    @property
    def keystore_file(self) -> Path:
        return self.path / KEYSTORE

    @property
    def names(self) -> tuple[str, ...]:
        """The host names and addresses under which it serves; none for a client."""
        return names_of(self.certificate)

    @property
    def not_after(self) -> datetime:
        """When the certificate runs out, in UTC."""
        return self.certificate.not_valid_after_utc

    def check_dates(self, now: datetime) -> None:
        """Refuse what no peer would take now.

        Raises:
            FolderError: the certificate has run out, or does not hold yet, which means that this machine's clock is
                behind.
        """
        if now > self.not_after:
            raise FolderError(
                f"{self.certificate_file}: the certificate of {self.identity} ran out on {_shown(self.not_after)}: "
                f"headwater certs renew {self.identity}, where the authority is, and put the new files here"
            )
        if now < self.certificate.not_valid_before_utc:
            raise FolderError(
                f"{self.certificate_file}: the certificate of {self.identity} holds from "
                f"{_shown(self.certificate.not_valid_before_utc)} on, and this machine's clock says {_shown(now)}: "
                "set the clock"
            )

    def context(self, side: Side) -> ssl.SSLContext:
        """TLS 1.2 or later, both ends with certificates of this authority; a client also compares the host's name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if side is Side.CLIENT else ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cafile=self.ca_file)
        context.load_cert_chain(self.certificate_file, self.key_file)
        return context


def read_folder(path: Path) -> TlsFolder:
    """A folder whose files are there, belong together, and whose key nobody else can read.

    Raises:
        FolderError: one is missing, damaged, or does not belong to the others; the message names it.
        SecretError, Exposed: the key cannot be read, or lies open.
    """
    path = path.absolute()
    if not path.is_dir():
        raise FolderError(
            f"there is no folder {path}: it should hold {CA}, {CERTIFICATE} and {KEY}, as headwater certs create makes "
            "them"
        )
    authorities = read_certificates(path / CA)
    certificates = read_certificates(path / CERTIFICATE)
    certificate = certificates[0]
    key = load_key(path / KEY)
    if not belongs(key, certificate):
        raise FolderError(f"{path}: {KEY} is not the key of {CERTIFICATE}; they were copied from different places")
    if not any(signed_by(certificate, authority) for authority in authorities):
        raise FolderError(f"{path}: {CERTIFICATE} was signed by none of the authorities in {CA}")
    identity = identity_of(certificate)
    if (path / KEYSTORE).exists():
        stored = read_certificates(path / KEYSTORE)[0]
        if stored != certificate or not belongs(load_key(path / KEYSTORE), certificate):
            raise FolderError(f"{path}: {KEYSTORE} holds another key or certificate than {KEY} and {CERTIFICATE}")
    return TlsFolder(path=path, identity=identity, certificate=certificate, authorities=tuple(authorities))


def read_certificates(file: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file, one at least.

    Raises:
        FolderError: it cannot be read, or holds none.
    """
    try:
        content = read_bounded(file)
    except SecretError as exc:
        raise FolderError(str(exc)) from exc
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as exc:
        raise FolderError(f"{file}: there is no certificate in it, or a damaged one") from exc


def load_key(file: Path) -> PrivateKey:
    """The private key in a PEM file.

    Raises:
        SecretError: it cannot be read, or is no such key; nothing of it is told.
        Exposed: others than its owner may read or change it.
    """
    try:
        key = serialization.load_pem_private_key(_key_block(read_key(file)), password=None)
    except (ValueError, TypeError):  # a TypeError: it has a passphrase
        raise SecretError(f"{file}: there is no key without a passphrase in it, or a damaged one") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SecretError(f"{file}: the key is no elliptic curve key, and ours all are")
    return key


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _key_block(content: bytes) -> bytes:
    """The key alone, of a file that may hold certificates too."""
    start = content.find(b"-----BEGIN PRIVATE KEY-----")
    return content[start:] if start >= 0 else content
