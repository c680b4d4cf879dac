"""X.509 certificates and revocation lists as we make them (RFC 5280), and what one says.

Pure: keys, serial numbers and the time come from the caller, and nothing is written. P-256 with SHA-256 throughout.

- The authority: ``CA:TRUE``, path length 0 (it signs leaves only), key usage certSign and cRLSign.
- A leaf: subject ``CN=<principal>`` alone (a broker reads the principal out of it), ``CA:FALSE``, digitalSignature; a
  broker is server and client in TLS (brokers speak to one another), everybody else is a client only, so that a stolen
  client key cannot play a broker.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.errors import FolderError, Refused
from security.identities import Identity, InvalidIdentity, Role

#: A certificate begins to hold so long before it is made: the clocks of edges are not always right.
BACKDATED = timedelta(days=1)
#: Revocation lists promise the next one within this; every change makes a new one.
LIST_LASTS = timedelta(days=397)

# Underscores are no letters of host names, but container networks have them, and OpenSSL and Java (17 on) compare them.
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")

PrivateKey = ec.EllipticCurvePrivateKey


def new_key() -> PrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """PKCS#8 without encryption, as Kafka, librdkafka and Docker's secrets take it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def belongs(key: PrivateKey, certificate: x509.Certificate) -> bool:
    """True if the certificate is for this key."""
    return key.public_key() == certificate.public_key()


def make_authority(*, key: PrivateKey, number: int, serial: int, now: datetime, days: int) -> x509.Certificate:
    """An authority's own certificate. Each has a name of its own, so that two in one file are not mistaken."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = _name(f"Headwater authority {number} {identifier.digest[:4].hex()}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_leaf(
    *,
    identity: Identity,
    key: PrivateKey,
    names: Sequence[str],
    authority: x509.Certificate,
    authority_key: PrivateKey,
    serial: int,
    now: datetime,
    days: int,
) -> x509.Certificate:
    """An identity's certificate. ``names`` (of a broker only) are as `check_name` gives them back."""
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role is Role.BROKER:
        uses.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(identity.principal))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(max(now - BACKDATED, authority.not_valid_before_utc))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """One row of a revocation list."""

    serial: int
    at: datetime


def make_list(
    *,
    authority: x509.Certificate,
    authority_key: PrivateKey,
    withdrawn: Sequence[Withdrawn],
    number: int,
    now: datetime,
) -> x509.CertificateRevocationList:
    """The revocation list of one authority (RFC 5280 §5); ``number`` grows with each."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now)
        .next_update(now + LIST_LASTS)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    for one in withdrawn:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(one.at).build()
        )
    return builder.sign(authority_key, hashes.SHA256())


def check_name(text: str) -> str:
    """A host name or an IP address that a broker is reached by, in the form in which certificates compare it.

    Raises:
        Refused: it is neither; it says what is wrong.
    """
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if len(text) > 253 or _HOST.fullmatch(text) is None or re.fullmatch(r"[0-9.]+", text) is not None:
        raise Refused(
            f"{text[:120]!r} is no host name and no IP address: letters, digits and '-' between dots are expected, "
            "such as kafka.example (no wildcard and no port)"
        )
    return text.lower()


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names and IP addresses of a certificate, as `check_name` writes them."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(one.value).lower() for one in found if isinstance(one, x509.DNSName | x509.IPAddress))


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name; the whole subject where it has not exactly one."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else certificate.subject.rfc4514_string()


def identity_of(certificate: x509.Certificate) -> Identity:
    """Whose certificate it is.

    Raises:
        FolderError: the subject is none of our identities.
    """
    try:
        if len(certificate.subject) != 1:
            raise InvalidIdentity("more than a common name")
        return Identity.parse(common_name(certificate))
    except InvalidIdentity as exc:
        raise FolderError(
            f"the certificate's subject is {certificate.subject.rfc4514_string()!r}; CN=ROLE:NAME alone was expected"
        ) from exc


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """True if the authority's key signed it; dates are not looked at."""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001  InvalidSignature, ValueError, TypeError: each of them is a no
        return False
    return True


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
