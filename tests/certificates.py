"""Certificates for tests, of devices and of those who sign them, with dates as they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL


@dataclass(frozen=True, slots=True)
class Holder:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_der(self) -> bytes:
        """PKCS#8."""
        return self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """The files of the certificate and of the key, in PEM."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        key.touch(mode=0o600)
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, key


def issue(
    name: str,
    signer: Holder | None = None,
    *,
    is_authority: bool = False,
    days: float = 10,
    alternatives: Sequence[str] = (),
) -> Holder:
    """A certificate whose CN is ``name``, by ``signer`` or by itself, that began 20 days ago and ends in ``days``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if signer is None else signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=20))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if alternatives:
        names = x509.SubjectAlternativeName([x509.DNSName(one) for one in alternatives])
        made = made.add_extension(names, critical=not name)
    return Holder(made.sign(key if signer is None else signer.key, hashes.SHA256()), key)


def dtls_client(holder: Holder, before: SSL.Connection | None = None) -> SSL.Connection:
    """OpenSSL's client with this certificate, in memory: it believes every server, and has said nothing yet. It resumes
    the session of ``before``, which was made here too."""
    if before is None:
        context = SSL.Context(SSL.DTLS_CLIENT_METHOD)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        context.set_cipher_list(b"ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0")
        context.use_certificate(holder.certificate)
        context.use_privatekey(holder.key)
    else:
        context = before.get_context()
    made = SSL.Connection(context, None)
    made.set_connect_state()
    made.set_ciphertext_mtu(1200)
    if before is not None:
        session = before.get_session()
        assert session is not None
        made.set_session(session)
    return made
