"""A credential out of named texts, as a line of a CSV file or an object of a JSON file has them.

Owns which fields each kind has. No message tells what stands in a field but for the endpoint and the identity: where
columns are mixed up, it may be a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from security.credentials.encodings import bytes_of, certificate_of, document_of, public_key_of
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import (
    X509,
    Aead,
    CertificateUsage,
    Credential,
    Hkdf,
    Kind,
    Oscore,
    Psk,
    Rpk,
    is_pattern,
)
from security.credentials.rows import aead_of
from security.errors import InvalidCredential

#: The fields of each kind, beside ``endpoint`` and ``kind``.
FIELDS: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.PSK: ("identity", "key"),
    Kind.RPK: ("public_key",),
    Kind.X509: ("certificate", "usage", "subject"),
    Kind.OSCORE: ("master_secret", "master_salt", "sender_id", "recipient_id", "id_context", "aead", "hkdf"),
}
ALL: Final = ("endpoint", "kind", *(name for names in FIELDS.values() for name in names))
#: An empty text is an empty id (RFC 8613 section 3.3), and not none.
_MAY_BE_EMPTY: Final = frozenset({"sender_id", "recipient_id"})


def credential_of(fields: Mapping[str, str], now: datetime) -> Credential:
    """The credential that the fields say, created ``now``. An empty field is as one that is not there.

    Raises:
        InvalidCredential: says which field is wrong, and how it should look.
    """
    unknown = next((name for name in fields if name not in ALL), None)
    if unknown is not None:
        raise InvalidCredential(f"{unknown!r:.40} is no field; there are: {', '.join(ALL)}")
    endpoint = _needed(fields, "endpoint")
    kind = _kind(fields)
    for name, value in fields.items():
        if value and name not in ("endpoint", "kind", *FIELDS[kind]):
            raise InvalidCredential(f"the field {name} is none of {kind.value}, which has: {', '.join(FIELDS[kind])}")
    return _READ[kind](endpoint, now, fields)


def _kind(fields: Mapping[str, str]) -> Kind:
    text = _needed(fields, "kind")
    try:
        return Kind(text.strip().lower())
    except ValueError:
        known = ", ".join(one.value for one in Kind)
        raise InvalidCredential(f"there is no such kind; there are: {known}") from None


def _psk(endpoint: str, now: datetime, fields: Mapping[str, str]) -> Psk:
    key = KeyBytes(bytes_of("key", _needed(fields, "key")))
    return Psk(endpoint=endpoint, created=now, identity=psk_identity(endpoint, fields.get("identity") or None), key=key)


def psk_identity(endpoint: str, given: str | None) -> bytes:
    """The PSK identity that was given, or else the endpoint's name.

    Raises:
        InvalidCredential: none was given, and the endpoint is a pattern.
    """
    if given is None and is_pattern(endpoint):
        raise InvalidCredential(f"{endpoint!r:.80} is a pattern and names nobody: give it an identity")
    try:
        return (endpoint if given is None else given).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidCredential("a PSK identity is UTF-8 (RFC 7925 section 4.2), and this cannot be") from None


def _rpk(endpoint: str, now: datetime, fields: Mapping[str, str]) -> Rpk:
    public_key = public_key_of(document_of("public_key", _needed(fields, "public_key")))
    return Rpk(endpoint=endpoint, created=now, public_key=public_key)


def _x509(endpoint: str, now: datetime, fields: Mapping[str, str]) -> X509:
    return X509(
        endpoint=endpoint,
        created=now,
        certificate=certificate_of(document_of("certificate", _needed(fields, "certificate"))),
        usage=usage_of(fields.get("usage") or "3"),
        subject=fields.get("subject") or None,
    )


def usage_of(text: str) -> CertificateUsage:
    """The certificate usage of a number from 0 to 3.

    Raises:
        InvalidCredential: it is none.
    """
    for one in CertificateUsage:
        if text.strip() == str(one.value):
            return one
    raise InvalidCredential(
        "there is no such certificate usage: 0 is a CA constraint, 1 a service certificate constraint, "
        "2 a trust anchor assertion, 3 a domain-issued certificate (LwM2M object 0)"
    )


def _oscore(endpoint: str, now: datetime, fields: Mapping[str, str]) -> Oscore:
    context = fields.get("id_context") or None
    return Oscore(
        endpoint=endpoint,
        created=now,
        master_secret=KeyBytes(bytes_of("master_secret", _needed(fields, "master_secret"))),
        master_salt=KeyBytes(bytes_of("master_salt", fields.get("master_salt", ""))),
        sender_id=bytes_of("sender_id", _needed(fields, "sender_id")),
        recipient_id=bytes_of("recipient_id", _needed(fields, "recipient_id")),
        id_context=None if context is None else bytes_of("id_context", context),
        aead=aead_named(fields.get("aead") or Aead.AES_CCM_16_64_128.text),
        hkdf=hkdf_named(fields.get("hkdf") or Hkdf.SHA_256.value),
    )


def aead_named(text: str) -> Aead:
    """The AEAD algorithm of a name as RFC 9053 writes it.

    Raises:
        InvalidCredential: there is none; says which there are.
    """
    try:
        return aead_of(text.strip())
    except ValueError:
        known = ", ".join(one.text for one in Aead)
        raise InvalidCredential(f"there is no such AEAD algorithm; there are: {known}") from None


def hkdf_named(text: str) -> Hkdf:
    """The key derivation of this name.

    Raises:
        InvalidCredential: there is none; says which there are.
    """
    try:
        return Hkdf(text.strip())
    except ValueError:
        known = ", ".join(one.value for one in Hkdf)
        raise InvalidCredential(f"there is no such HKDF; there are: {known}") from None


def _needed(fields: Mapping[str, str], name: str) -> str:
    found = fields.get(name)
    if found is None or (not found and name not in _MAY_BE_EMPTY):
        raise InvalidCredential(f"the field {name} is missing")
    return found


_READ: Final[Mapping[Kind, Callable[[str, datetime, Mapping[str, str]], Credential]]] = {
    Kind.PSK: _psk,
    Kind.RPK: _rpk,
    Kind.X509: _x509,
    Kind.OSCORE: _oscore,
}
