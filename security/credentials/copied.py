"""A copy of credentials in memory, as a store that is far away keeps it, and how it writes one of them down.

Owns the order of what is found, and by what it is found. Never asks anybody. A credential is kept as the text that the
store has, some 300 bytes, and read when it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import translate

from security.credentials.kinds import X509, CertificateUsage, Credential, CredentialId, Kind, Oscore, is_pattern
from security.credentials.rows import from_text, to_text
from security.credentials.store import Position
from security.errors import InvalidCredential


def text_of(credential: Credential) -> str:
    """``[endpoint, created in epoch seconds, its own fields]`` as JSON. Keys are in the clear in it."""
    return json.dumps([credential.endpoint, int(credential.created.timestamp()), to_text(credential)])


def credential_of(identity: CredentialId, text: str) -> Credential:
    """What `text_of` wrote, of this id.

    Raises:
        InvalidCredential: it is damaged, or of another; nothing of it is told.
    """
    endpoint, created_s, body = _parts(text)
    try:
        found = from_text(identity.kind.value, endpoint, datetime.fromtimestamp(created_s, UTC), body)
    except (OSError, OverflowError):
        raise InvalidCredential(f"a {identity.kind.value} credential is not in our form") from None
    if found.id != identity:
        raise InvalidCredential(f"the {identity} is another one")
    return found


def _parts(text: str) -> tuple[str, int, str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    match found:
        case [str(endpoint), int(created_s), str(body)]:
            return endpoint, created_s, body
    # It may hold a key.
    raise InvalidCredential("a credential is not in our form")


@dataclass(slots=True)
class Copied:
    """Credentials as they were at ``position``."""

    position: Position
    rows: dict[CredentialId, str] = field(default_factory=dict, repr=False)
    endpoints: dict[str, set[CredentialId]] = field(default_factory=dict)
    recipients: dict[str, set[CredentialId]] = field(default_factory=dict)
    signers: set[CredentialId] = field(default_factory=set)
    patterns: dict[str, Callable[[str], object]] = field(default_factory=dict)

    def find(self, identity: CredentialId) -> Credential | None:
        """See `security.credentials.store.CredentialStore`, as of the next three; each raises InvalidCredential where
        what is asked for is damaged."""
        return None if identity not in self.rows else credential_of(identity, self.rows[identity])

    def oscore(self, recipient_id: bytes) -> list[Oscore]:
        """All with this recipient id."""
        found = self._credentials(self.recipients.get(recipient_id.hex() or "-", set()))
        return [one for one in found if isinstance(one, Oscore)]

    def of_endpoint(self, endpoint: str) -> tuple[Credential, ...]:
        fitting = [one for one in sorted(self.patterns) if one != endpoint and self.patterns[one](endpoint)]
        names = (endpoint, *fitting)
        return tuple(one for name in names for one in self._credentials(self.endpoints.get(name, set())))

    def anchors(self) -> tuple[bytes, ...]:
        trusted = CertificateUsage.TRUST_ANCHOR_ASSERTION
        found = self._credentials(self.signers)
        return tuple({one.certificate: None for one in found if isinstance(one, X509) and one.usage is trusted})

    def all(self) -> list[Credential]:
        return sorted(self._credentials(set(self.rows)), key=lambda one: one.endpoint)

    def _credentials(self, ids: set[CredentialId]) -> list[Credential]:
        """By kind and name."""
        in_order = sorted(ids, key=lambda one: (one.kind.value, one.name))
        return [credential_of(one, self.rows[one]) for one in in_order]

    def let(self, identity: CredentialId, text: str | None) -> None:
        """What this id stands for now; None: for nothing."""
        recipient = identity.name.partition("/")[0] if identity.kind is Kind.OSCORE else None
        if (before := self.rows.pop(identity, None)) is not None:
            endpoint = _parts(before)[0]
            _drop(self.endpoints, endpoint, identity)
            self.signers.discard(identity)
            if endpoint not in self.endpoints:
                self.patterns.pop(endpoint, None)
            if recipient is not None:
                _drop(self.recipients, recipient, identity)
        if text is None:
            return
        endpoint = _parts(text)[0]
        self.rows[identity] = text
        self.endpoints.setdefault(endpoint, set()).add(identity)
        if is_pattern(endpoint) and endpoint not in self.patterns:
            self.patterns[endpoint] = re.compile(translate(endpoint)).match
        if recipient is not None:
            self.recipients.setdefault(recipient, set()).add(identity)
        # The id of an anchor has whom it vouches for behind the digest; see `CredentialId`.
        if identity.kind is Kind.X509 and "/" in identity.name:
            self.signers.add(identity)


def _drop(index: dict[str, set[CredentialId]], key: str, identity: CredentialId) -> None:
    index[key].discard(identity)
    if not index[key]:
        del index[key]
