"""Credentials for the tests of what stores them."""

from __future__ import annotations

from datetime import UTC, datetime

from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import X509, CertificateUsage, Oscore, Psk, Rpk

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = KeyBytes(bytes(range(16)))
OTHER = KeyBytes(bytes(range(1, 17)))


def psk(endpoint: str, identity: str | None = None, key: KeyBytes = KEY) -> Psk:
    return Psk(endpoint=endpoint, created=NOW, identity=(identity or endpoint).encode(), key=key)


def oscore(endpoint: str, recipient: bytes, context: bytes | None = None) -> Oscore:
    return Oscore(
        endpoint=endpoint,
        created=NOW,
        master_secret=KEY,
        sender_id=b"server",
        recipient_id=recipient,
        id_context=context,
    )


def der(filling: int) -> bytes:
    return b"\x30\x04" + filling.to_bytes(4)


RPK = Rpk(endpoint="rpk-1", created=NOW, public_key=der(1))
OWN = X509(endpoint="x509-1", created=NOW, certificate=der(2))
ANCHOR = X509(endpoint="x*", created=NOW, certificate=der(3), usage=CertificateUsage.TRUST_ANCHOR_ASSERTION)
ALL = (psk("p-1"), psk("p-*", "batch"), oscore("o-1", b"\1"), oscore("o-2", b""), RPK, OWN, ANCHOR)
