"""New credentials for devices that have none yet: random keys, key pairs, certificates of their own.

Owns how they are made; the private part is in `Made` only, to be shown once, and in no store. Randomness and the time
are passed in, but for the key pairs, which `cryptography` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import X509, Aead, Credential, Hkdf, Oscore, Psk, Rpk, is_pattern
from security.errors import InvalidCredential
from security.secrets import Secret

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

#: Bytes of a random key: all of the strength of the cipher suite (RFC 7925 section 4.2), half of what devices take.
KEY_BYTES = 16
#: Bytes of random OSCORE ids; few, since they are in every message.
RECIPIENT_BYTES, SENDER_BYTES = 4, 1
#: RFC 5280 appendix A.1, ub-common-name.
MOST_COMMON_NAME = 64

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A credential, and what goes onto the device: the key in hex, or the private key (and certificate) in PEM."""

    credential: Credential
    secret: Secret


def new_psk(endpoint: str, identity: bytes, *, now: datetime, random: Random) -> Made:
    """A pre-shared key of 16 random bytes."""
    key = random(KEY_BYTES)
    return Made(
        credential=Psk(endpoint=endpoint, created=now, identity=identity, key=KeyBytes(key)), secret=Secret(key.hex())
    )


def new_oscore(
    endpoint: str,
    *,
    now: datetime,
    random: Random,
    sender_id: bytes | None = None,
    recipient_id: bytes | None = None,
    master_salt: bytes = b"",
    id_context: bytes | None = None,
    aead: Aead = Aead.AES_CCM_16_64_128,
    hkdf: Hkdf = Hkdf.SHA_256,
) -> Made:
    """A master secret of 16 random bytes; ids as given (see `Oscore` for whose they are), random where they are not."""
    secret = random(KEY_BYTES)
    if recipient_id is None:
        recipient_id = _other_than(sender_id, random, min(RECIPIENT_BYTES, aead.most_id))
    if sender_id is None:
        sender_id = _other_than(recipient_id, random, SENDER_BYTES)
    credential = Oscore(
        endpoint=endpoint,
        created=now,
        master_secret=KeyBytes(secret),
        master_salt=KeyBytes(master_salt),
        sender_id=sender_id,
        recipient_id=recipient_id,
        id_context=id_context,
        aead=aead,
        hkdf=hkdf,
    )
    return Made(credential=credential, secret=Secret(secret.hex()))


def new_rpk(endpoint: str, *, now: datetime) -> Made:
    """A key pair on P-256 (RFC 7925 section 4.3)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Made(credential=Rpk(endpoint=endpoint, created=now, public_key=public), secret=Secret(_pem(key)))


def new_x509(endpoint: str, *, now: datetime, days: int) -> Made:
    """A key pair on P-256 and a certificate that it signs itself, pinned as domain-issued (usage 3).

    Its CN and SAN are the endpoint's name, or the SAN alone where that has more than 64 characters.

    Raises:
        InvalidCredential: the endpoint is a pattern, or no name that fits into a certificate.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    if is_pattern(endpoint):
        raise InvalidCredential(f"a certificate is of one device, and {endpoint!r:.80} is a pattern")
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        common = [x509.NameAttribute(NameOID.COMMON_NAME, endpoint)] if len(endpoint) <= MOST_COMMON_NAME else []
        name = x509.Name(common)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([_alternative(endpoint)]), critical=not common)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
    except (ValueError, OverflowError) as exc:
        raise InvalidCredential(f"no certificate can be made for {endpoint!r:.80}: {exc}") from None
    pem = _pem(key) + made.public_bytes(serialization.Encoding.PEM).decode("ascii")
    der = made.public_bytes(serialization.Encoding.DER)
    return Made(credential=X509(endpoint=endpoint, created=now, certificate=der), secret=Secret(pem))


def _other_than(taken: bytes | None, random: Random, length: int) -> bytes:
    while (found := random(length)) == taken:
        pass
    return found


def _alternative(endpoint: str) -> x509.GeneralName:
    from cryptography import x509

    # Names such as urn:imei:… are URIs (OMA LwM2M Core, section 6.2.1); others look like those of hosts.
    if endpoint.isascii():
        return x509.UniformResourceIdentifier(endpoint) if endpoint.startswith("urn:") else x509.DNSName(endpoint)
    raise InvalidCredential(f"no certificate can be made for {endpoint!r:.80}: its name has more than ASCII characters")


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
