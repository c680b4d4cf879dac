"""The kinds of credential that a device may have, and the limits that each keeps.

Owns what a credential is: pre-shared key and raw public key (RFC 7925 section 4.2 and 4.3, RFC 7250), certificate
(RFC 7925 section 4.4, certificate usage as in LwM2M object 0, resource 15), OSCORE (RFC 8613 section 3.2). A credential
that exists is within its limits. Says which endpoint names it may register. A key is masked in every repr. Never looks
at a clock, makes no key and opens no file. What DER means is looked at by `security.credentials.encodings`, so that who
only uses pre-shared keys loads no certificate code.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, IntEnum
from fnmatch import fnmatchcase

from security.credentials.key_bytes import KeyBytes
from security.errors import InvalidCredential

#: Signs of the longest endpoint name that the gateway takes.
MOST_ENDPOINT = 255
#: Bytes of a PSK identity (RFC 4279 section 5.3: up to 128 must be supported).
MOST_IDENTITY = 128
#: Bytes of a pre-shared key: 128 bits at least, and up to 64 bytes must be supported (RFC 4279 section 5.3).
LEAST_KEY, MOST_KEY = 16, 64
#: Bytes of an OSCORE master salt, and of an ID Context: each has to fit into an option of 255 bytes with the rest.
MOST_SALT, MOST_CONTEXT = 64, 64
#: Bytes of a public key or a certificate; a DTLS handshake of a small device bears no more.
MOST_DER = 16384


_NO_SALT = KeyBytes(b"")


class Kind(Enum):
    """What a device proves itself with."""

    PSK = "psk"
    RPK = "rpk"
    X509 = "x509"
    OSCORE = "oscore"


class CertificateUsage(IntEnum):
    """LwM2M object 0, resource 15 (the values of TLSA, RFC 6698 section 2.1.1)."""

    CA_CONSTRAINT = 0
    SERVICE_CERTIFICATE_CONSTRAINT = 1
    TRUST_ANCHOR_ASSERTION = 2
    DOMAIN_ISSUED_CERTIFICATE = 3

    @property
    def is_anchor(self) -> bool:
        """The stored certificate signs that of the device; otherwise it is the device's own."""
        return self in (CertificateUsage.CA_CONSTRAINT, CertificateUsage.TRUST_ANCHOR_ASSERTION)


class Aead(Enum):
    """The AEAD algorithms of OSCORE: COSE's number (RFC 9053 section 4), bytes of the nonce."""

    AES_CCM_16_64_128 = (10, 13)
    AES_CCM_16_64_256 = (11, 13)
    AES_CCM_64_64_128 = (12, 7)
    AES_CCM_16_128_128 = (30, 13)
    AES_CCM_16_128_256 = (31, 13)
    AES_GCM_128 = (1, 12)
    AES_GCM_192 = (2, 12)
    AES_GCM_256 = (3, 12)
    CHACHA20_POLY1305 = (24, 12)

    @property
    def text(self) -> str:
        """As RFC 9053 writes it: ``AES-CCM-16-64-128``."""
        return "ChaCha20/Poly1305" if self is Aead.CHACHA20_POLY1305 else self.name.replace("_", "-")

    @property
    def most_id(self) -> int:
        """Bytes of the longest sender or recipient id: the nonce's length minus 6 (RFC 8613 section 3.3)."""
        return self.value[1] - 6


class Hkdf(Enum):
    """The key derivation of OSCORE; object 21 has the number of its HMAC, 5 and 7."""

    SHA_256 = "HKDF-SHA-256"
    SHA_512 = "HKDF-SHA-512"


@dataclass(frozen=True, slots=True, order=True)
class CredentialId:
    """What makes a credential this one and no other: its kind, and a text that is unique in it and no secret.

    PSK: the identity. RPK: the SHA-256 of the public key in hex. X.509: the SHA-256 of the certificate in hex, and for
    an anchor ``/`` and whom it vouches for. OSCORE: the recipient id in hex (``-`` if it is empty), and ``/`` and the
    ID Context in hex where there is one.
    """

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Psk:
    """A pre-shared key. ``identity``: 1 to 128 bytes of UTF-8 without controls; ``key``: 16 to 64 bytes."""

    endpoint: str
    created: datetime
    identity: bytes
    key: KeyBytes

    def __post_init__(self) -> None:
        _check_common(self.endpoint, self.created)
        _within("PSK identity", len(self.identity), 1, MOST_IDENTITY)
        try:
            text = self.identity.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidCredential("a PSK identity is UTF-8 (RFC 7925 section 4.2), and this is none") from None
        if _has_controls(text):
            raise InvalidCredential(f"the PSK identity {text!r:.80} has a control character in it")
        _within("pre-shared key", len(self.key), LEAST_KEY, MOST_KEY)

    @property
    def id(self) -> CredentialId:
        return CredentialId(Kind.PSK, self.identity.decode("utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpk:
    """The public key of a device: a SubjectPublicKeyInfo in DER (RFC 7250 section 3), up to 16,384 bytes."""

    endpoint: str
    created: datetime
    public_key: bytes

    def __post_init__(self) -> None:
        _check_common(self.endpoint, self.created)
        _check_der("public key", self.public_key)

    @property
    def id(self) -> CredentialId:
        return CredentialId(Kind.RPK, hashlib.sha256(self.public_key).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class X509:
    """A certificate in DER: the device's own, or by ``usage`` an anchor that signs it.

    ``subject`` is the CN, or a SAN, that the device's certificate must have; None: the name with which it registers.
    """

    endpoint: str
    created: datetime
    certificate: bytes
    usage: CertificateUsage = CertificateUsage.DOMAIN_ISSUED_CERTIFICATE
    subject: str | None = None

    def __post_init__(self) -> None:
        _check_common(self.endpoint, self.created)
        _check_der("certificate", self.certificate)
        if self.subject is not None:
            _check_name("expected subject", self.subject)

    @property
    def id(self) -> CredentialId:
        digest = hashlib.sha256(self.certificate).hexdigest()
        if not self.usage.is_anchor:
            return CredentialId(Kind.X509, digest)
        # One anchor vouches for many devices.
        return CredentialId(Kind.X509, f"{digest}/{self.endpoint if self.subject is None else self.subject}")

    def expected_subject(self, endpoint: str) -> str:
        """What the certificate of a device that registers as ``endpoint`` must have as its CN or as a SAN."""
        return endpoint if self.subject is None else self.subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Oscore:
    """An OSCORE security context, **as the gateway has it** (RFC 8613 section 3.2).

    The gateway's ``recipient_id`` is the device's Sender ID, which the device sends as ``kid``; the gateway's
    ``sender_id`` is the device's Recipient ID. An id may be empty (``b""``); how long it may be, the algorithm says: 7
    bytes for AES-CCM-16-64-128. ``master_secret``: 16 to 64 bytes; ``master_salt``: up to 64; ``id_context``: 1 to 64,
    or None where there is none.
    """

    endpoint: str
    created: datetime
    master_secret: KeyBytes
    sender_id: bytes
    recipient_id: bytes
    master_salt: KeyBytes = _NO_SALT
    id_context: bytes | None = None
    aead: Aead = Aead.AES_CCM_16_64_128
    hkdf: Hkdf = Hkdf.SHA_256

    def __post_init__(self) -> None:
        _check_common(self.endpoint, self.created)
        _within("OSCORE master secret", len(self.master_secret), LEAST_KEY, MOST_KEY)
        _within("OSCORE master salt", len(self.master_salt), 0, MOST_SALT)
        if self.id_context is not None:
            _within("OSCORE ID Context", len(self.id_context), 1, MOST_CONTEXT)
        for what, given in (("sender id", self.sender_id), ("recipient id", self.recipient_id)):
            if len(given) > self.aead.most_id:
                raise InvalidCredential(
                    f"an OSCORE {what} has {self.aead.most_id} bytes at most with {self.aead.text}, whose nonce has "
                    f"{self.aead.value[1]} (RFC 8613 section 3.3); this one has {len(given)}"
                )
        if self.sender_id == self.recipient_id:
            # The nonces of both directions would be the same, under one key.
            raise InvalidCredential("OSCORE sender id and recipient id must differ (RFC 8613 section 3.3)")

    @property
    def id(self) -> CredentialId:
        context = "" if self.id_context is None else f"/{self.id_context.hex()}"
        return CredentialId(Kind.OSCORE, f"{self.recipient_id.hex() or '-'}{context}")


Credential = Psk | Rpk | X509 | Oscore


def is_pattern(endpoint: str) -> bool:
    """True for a glob pattern (``*``, ``?``, ``[…]``), False for the name of one endpoint."""
    return any(sign in endpoint for sign in "*?[")


def may_register(credential: Credential, endpoint: str) -> bool:
    """Whether who has it may register as ``endpoint``: its very name, or one that fits its pattern. Case counts."""
    return credential.endpoint == endpoint or fnmatchcase(endpoint, credential.endpoint)


def fingerprint(credential: Credential, salt: bytes) -> str:
    """What tells two credentials apart in a listing.

    RPK and X.509: the SHA-256 of the DER in hex, as other programs say it. PSK and OSCORE: 16 hex digits of a hash with
    the store's own ``salt``, by which nobody else can try out keys.
    """
    match credential:
        case Psk():
            secret = credential.key.reveal()
        case Oscore():
            secret = credential.master_secret.reveal()
        case Rpk():
            return hashlib.sha256(credential.public_key).hexdigest()
        case X509():
            return hashlib.sha256(credential.certificate).hexdigest()
    return hmac.new(salt, secret, hashlib.sha256).hexdigest()[:16]


def _check_common(endpoint: str, created: datetime) -> None:
    _check_name("endpoint", endpoint)
    if created.tzinfo is None:
        raise InvalidCredential("the time at which a credential was created has no zone")


def _check_name(what: str, text: str) -> None:
    if not (0 < len(text) <= MOST_ENDPOINT and text.isprintable() and text.strip()):
        raise InvalidCredential(f"the {what} {text!r:.80} is not 1 to {MOST_ENDPOINT} printable characters")


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(sign) == "Cc" for sign in text)


def _within(what: str, length: int, least: int, most: int) -> None:
    if not least <= length <= most:
        article = "an" if what[0] in "AEIO" else "a"
        raise InvalidCredential(f"{article} {what} has {least} to {most} bytes; this one has {length}")


def _check_der(what: str, der: bytes) -> None:
    if len(der) > MOST_DER:
        raise InvalidCredential(f"the {what} has {len(der)} bytes, and {MOST_DER} are the most")
    # One SEQUENCE, and nothing behind it: another spelling of the same would be another identity.
    if len(der) < 2 or der[0] != 0x30:
        raise InvalidCredential(f"the {what} is no DER")
    size = der[1] & 0x7F if der[1] & 0x80 else 0
    length = int.from_bytes(der[2 : 2 + size]) if size else der[1]
    if len(der) != 2 + size + length:
        raise InvalidCredential(f"the {what} is no complete DER, or has something behind it")
