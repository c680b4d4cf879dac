"""Keys and certificates as people and programs write them: hex, base64, PEM, DER.

Owns what is accepted. No message tells anything of what was given, since it may be a key.
"""

from __future__ import annotations

import base64
import re

from security.credentials.kinds import MOST_DER
from security.errors import InvalidCredential

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


def bytes_of(what: str, text: str) -> bytes:
    """The bytes that ``00ff`` (hex), ``hex:00ff`` or ``base64:AP8=`` say; white space around them is left out.

    Raises:
        InvalidCredential: it is neither.
    """
    given = text.strip()
    if given.startswith("base64:"):
        try:
            return base64.b64decode(given.removeprefix("base64:"), validate=True)
        except ValueError:
            raise InvalidCredential(f"the {what} is no base64") from None
    given = given.removeprefix("hex:").removeprefix("0x")
    if _HEX.fullmatch(given) is None:
        raise InvalidCredential(f"the {what} is bytes in hex (00ff) or base64 (base64:AP8=), and this is neither")
    return bytes.fromhex(given)


def public_key_of(data: bytes) -> bytes:
    """The SubjectPublicKeyInfo in DER of a public key in PEM, or in DER already.

    Raises:
        InvalidCredential: it is none, or a private key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    form = _pem_of("public key", data)
    if form is not None and form != b"PUBLIC KEY":
        raise InvalidCredential(
            "that is no public key: the PEM of one begins with -----BEGIN PUBLIC KEY-----"
            + ("; keep the private key on the device (openssl pkey -pubout)" if b"PRIVATE" in form else "")
        )
    read = serialization.load_der_public_key if form is None else serialization.load_pem_public_key
    try:
        key = read(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidCredential("that is no public key in PEM or DER (SubjectPublicKeyInfo)") from None
    # As it was given where it is DER: that is what the device sends, byte by byte.
    return (
        data
        if form is None
        else key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def certificate_of(data: bytes) -> bytes:
    """The DER of one certificate in PEM, or in DER already.

    Raises:
        InvalidCredential: it is none, or there are several.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    form = _pem_of("certificate", data)
    try:
        if form is None:
            x509.load_der_x509_certificate(data)
            return data
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, TypeError):
        raise InvalidCredential("that is no certificate in PEM or DER") from None
    if len(found) != 1:
        raise InvalidCredential(f"there are {len(found)} certificates in it, and one is expected")
    return found[0].public_bytes(serialization.Encoding.DER)


def document_of(what: str, text: str) -> bytes:
    """A text for `public_key_of` or `certificate_of`: PEM as it is, otherwise as `bytes_of`."""
    data = text.strip().encode("utf-8", "surrogatepass")
    return data if _PEM.search(data) else bytes_of(what, text)


def _pem_of(what: str, data: bytes) -> bytes | None:
    """The first label of a PEM, or None for what is none."""
    if len(data) > 4 * MOST_DER:
        raise InvalidCredential(f"the {what} has {len(data)} bytes, and {MOST_DER} are the most")
    found = _PEM.search(data)
    return None if found is None or data[:1] == b"\x30" else found[1]
