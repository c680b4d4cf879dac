"""A credential as text, and back: what a store keeps of it beside its id, endpoint and time.

Owns the form ``{"field": "hex", …}``, of version 1. Keys are in the clear in it: it is for files that are their owner's
alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import X509, Aead, CertificateUsage, Credential, Hkdf, Kind, Oscore, Psk, Rpk
from security.errors import InvalidCredential


def to_text(credential: Credential) -> str:
    """Its own fields, as JSON."""
    content: dict[str, Any]
    match credential:
        case Psk():
            content = {"identity": credential.identity.hex(), "key": credential.key.reveal().hex()}
        case Rpk():
            content = {"public_key": credential.public_key.hex()}
        case X509():
            content = {
                "certificate": credential.certificate.hex(),
                "usage": credential.usage.value,
                "subject": credential.subject,
            }
        case Oscore():
            content = {
                "master_secret": credential.master_secret.reveal().hex(),
                "master_salt": credential.master_salt.reveal().hex(),
                "sender_id": credential.sender_id.hex(),
                "recipient_id": credential.recipient_id.hex(),
                "id_context": None if credential.id_context is None else credential.id_context.hex(),
                "aead": credential.aead.text,
                "hkdf": credential.hkdf.value,
            }
    return json.dumps(content)


def digest_of(credential: Credential, salt: bytes) -> bytes:
    """What tells, in the store of this ``salt`` alone, whether a credential says the same: whose it is, and all its
    fields."""
    return hmac.new(salt, f"{credential.endpoint}\n{to_text(credential)}".encode(), hashlib.sha256).digest()


def from_text(kind: str, endpoint: str, created: datetime, text: str) -> Credential:
    """The credential that `to_text` wrote.

    Raises:
        InvalidCredential: it is damaged, or breaks a limit; nothing of it is told.
    """
    try:
        return _READ[Kind(kind)](endpoint, created, json.loads(text))
    except (ValueError, KeyError, TypeError, StopIteration):
        # `from None`: the error may hold a key.
        raise InvalidCredential(f"a {kind} credential of {endpoint} is not in our form") from None


def aead_of(text: str) -> Aead:
    """The algorithm that is written so.

    Raises:
        ValueError: there is none.
    """
    for one in Aead:
        if one.text == text:
            return one
    raise ValueError(text)


def _psk(endpoint: str, created: datetime, row: Mapping[str, Any]) -> Psk:
    identity, key = bytes.fromhex(row["identity"]), KeyBytes(bytes.fromhex(row["key"]))
    return Psk(endpoint=endpoint, created=created, identity=identity, key=key)


def _rpk(endpoint: str, created: datetime, row: Mapping[str, Any]) -> Rpk:
    return Rpk(endpoint=endpoint, created=created, public_key=bytes.fromhex(row["public_key"]))


def _x509(endpoint: str, created: datetime, row: Mapping[str, Any]) -> X509:
    return X509(
        endpoint=endpoint,
        created=created,
        certificate=bytes.fromhex(row["certificate"]),
        usage=CertificateUsage(row["usage"]),
        subject=row["subject"],
    )


def _oscore(endpoint: str, created: datetime, row: Mapping[str, Any]) -> Oscore:
    return Oscore(
        endpoint=endpoint,
        created=created,
        master_secret=KeyBytes(bytes.fromhex(row["master_secret"])),
        master_salt=KeyBytes(bytes.fromhex(row["master_salt"])),
        sender_id=bytes.fromhex(row["sender_id"]),
        recipient_id=bytes.fromhex(row["recipient_id"]),
        id_context=None if row["id_context"] is None else bytes.fromhex(row["id_context"]),
        aead=aead_of(row["aead"]),
        hkdf=Hkdf(row["hkdf"]),
    )


_READ: Mapping[Kind, Callable[[str, datetime, Mapping[str, Any]], Credential]] = {
    Kind.PSK: _psk,
    Kind.RPK: _rpk,
    Kind.X509: _x509,
    Kind.OSCORE: _oscore,
}
