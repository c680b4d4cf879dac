"""Identities for tests, without an authority's folder: certificates as `security.certificates` makes them.

What the real authority does with its files is tested with it; here a certificate may also be of a stranger's authority,
of yesterday, or of a person who is none of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from security.certificates import PrivateKey, key_pem, make_authority, make_leaf, new_key, pem
from security.identities import Identity, Role
from security.tls_folder import CA, CERTIFICATE, KEY, KEYSTORE


@dataclass(slots=True)
class Issuer:
    """An authority of one test; ``place`` is where the folders of its identities come to lie."""

    place: Path
    number: int = 1
    key: PrivateKey = field(default_factory=new_key)
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = make_authority(
            key=self.key, number=self.number, serial=x509.random_serial_number(), now=datetime.now(UTC), days=30
        )

    def issue(
        self,
        identity: str,
        *,
        days: float = 7,
        trusted: Sequence[Issuer] = (),
        folder: Path | None = None,
    ) -> Path:
        """A new key and certificate in the identity's folder; negative ``days`` have run out already.

        ``trusted``: the authorities in its ca.pem, else this one. Files are replaced whole, as a renewal does.
        """
        parsed = Identity.parse(identity)
        folder = folder or self.place / parsed.folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = new_key()
        # It began a week before its end, so that one of the past is one.
        now = datetime.now(UTC) + timedelta(days=min(days, 7) - 7)
        leaf = make_leaf(
            identity=parsed,
            key=key,
            names=("127.0.0.1", "localhost") if parsed.role is Role.BROKER else (),
            authority=self.certificate,
            authority_key=self.key,
            serial=x509.random_serial_number(),
            now=now,
            days=7,
        )
        authorities = b"".join(pem(one.certificate) for one in trusted or (self,))
        for name, content in (
            (CA, authorities),
            (CERTIFICATE, pem(leaf)),
            (KEY, key_pem(key)),
            (KEYSTORE, key_pem(key) + pem(leaf)),
        ):
            draft = folder / f".{name}"
            draft.write_bytes(content)
            draft.chmod(0o600)
            draft.replace(folder / name)
        return folder
