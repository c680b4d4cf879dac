"""A look at a peer's certificates, as OpenSSL verifies them: whom they prove, or why they are refused.

Owns which of OpenSSL's findings count. A certificate that is known itself (LwM2M object 0, resource 15, usage 3) needs
no signer; dates, purpose and strength are looked at with every usage. It keeps nothing beyond one handshake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from datetime import datetime
from enum import IntEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.certificate_proof import Proof

#: Names of one certificate that are looked at; more is no device.
MOST_NAMES: Final = 16
_MOST_NAME: Final = 255
_LEAST_EC_BITS, _LEAST_RSA_BITS = 256, 2048


class Finding(IntEnum):
    """What OpenSSL says of a certificate (X509_V_ERR_…, x509_vfy.h)."""

    UNABLE_TO_GET_ISSUER_CERT = 2
    CERT_NOT_YET_VALID = 9
    CERT_HAS_EXPIRED = 10
    DEPTH_ZERO_SELF_SIGNED_CERT = 18
    SELF_SIGNED_CERT_IN_CHAIN = 19
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY = 20
    UNABLE_TO_VERIFY_LEAF_SIGNATURE = 21
    CERT_UNTRUSTED = 27


_WITHOUT_SIGNER: Final = frozenset(
    {
        Finding.UNABLE_TO_GET_ISSUER_CERT,
        Finding.DEPTH_ZERO_SELF_SIGNED_CERT,
        Finding.SELF_SIGNED_CERT_IN_CHAIN,
        Finding.UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        Finding.UNABLE_TO_VERIFY_LEAF_SIGNATURE,
        Finding.CERT_UNTRUSTED,
    }
)
_DATES: Final = {
    Finding.CERT_NOT_YET_VALID: "certificate not yet valid",
    Finding.CERT_HAS_EXPIRED: "certificate expired",
}
_UNKNOWN: Final = "certificate of nobody"


class Look:
    """One verification. ``authorities`` are the SHA-256 of those that the gateway was told; ``admits`` says whether the
    store knows a proof, and does not raise."""

    __slots__ = ("_admits", "_authorities", "_chain", "_has_signer", "expires", "proof", "refusal")

    def __init__(self, authorities: Collection[str], admits: Callable[[Proof], bool]) -> None:
        self._authorities = authorities
        self._admits = admits
        self._chain: dict[int, x509.Certificate] = {}
        self._has_signer = True
        self.proof: Proof | None = None
        #: When the first of the certificates runs out; as long as there is a proof.
        self.expires: datetime | None = None
        #: Why it was refused; safe to use as a metric label.
        self.refusal: str | None = None

    def take(self, certificate: x509.Certificate, finding: int, depth: int, *, is_good: bool) -> bool:
        """Whether to go on, of one certificate at ``depth`` above the peer's own, which comes last if all is well.

        Raises:
            Exception: the certificate cannot be read.
        """
        if finding in _WITHOUT_SIGNER:
            self._has_signer = False
            # Here OpenSSL tells the peer that its authority is unknown; later it can only say internal_error.
            return depth > 0 or self._decide(certificate)
        if not is_good:
            self.refusal = _DATES.get(Finding(finding)) if finding in _DATES else f"certificate finding {finding}"
            return False
        if is_weak(certificate, is_signed=depth < max(self._chain, default=0)):
            self.refusal = "weak certificate"
            return False
        self._chain[depth] = certificate
        return depth > 0 or self._decide(certificate)

    def _decide(self, certificate: x509.Certificate) -> bool:
        signers = [one for depth, one in sorted(self._chain.items()) if depth > 0] if self._has_signer else []
        digests = tuple(map(digest_of, signers))
        proof = Proof(
            certificate=digest_of(certificate),
            signers=digests,
            is_vetted=any(one in self._authorities for one in digests),
            names=names_of(certificate),
        )
        if not self._admits(proof):
            self.refusal = _UNKNOWN
            return False
        self.proof = proof
        self.expires = min(one.not_valid_after_utc for one in (certificate, *signers))
        return True


def digest_of(certificate: x509.Certificate) -> str:
    """The SHA-256 of its DER, in hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The common name, and the DNS names and URIs among the SANs, that may be endpoint names; `MOST_NAMES` at most.

    Raises:
        Exception: the certificate cannot be read; `cryptography` has several.
    """
    found = [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        alternatives = None
    if alternatives is not None:
        found += alternatives.get_values_for_type(x509.DNSName)
        found += alternatives.get_values_for_type(x509.UniformResourceIdentifier)
    fitting = (one for one in found if isinstance(one, str) and 0 < len(one) <= _MOST_NAME and one.isprintable())
    return tuple(dict.fromkeys(fitting))[:MOST_NAMES]


def is_weak(certificate: x509.Certificate, *, is_signed: bool) -> bool:
    """True for a key of less than 112 bits of strength, or where ``is_signed`` for a signature by SHA-1 or older.

    OpenSSL is told not to look (`gateway.dtls_certificates.context`).
    """
    try:
        key = certificate.public_key()
        digest = certificate.signature_hash_algorithm
    except Exception:  # noqa: BLE001  UnsupportedAlgorithm, ValueError: whatever cannot be told is not good enough
        return True
    if isinstance(key, ec.EllipticCurvePublicKey):
        weak = key.curve.key_size < _LEAST_EC_BITS
    elif isinstance(key, rsa.RSAPublicKey):
        weak = key.key_size < _LEAST_RSA_BITS
    else:
        weak = True
    return weak or (is_signed and not isinstance(digest, SHA256 | SHA384 | SHA512))
