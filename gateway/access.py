"""The credentials of devices, as a running gateway asks for them.

Owns what becomes of a store that fails: nobody is let in by it, whoever is in stays, and the operator is told. Knows no
CoAP and no DTLS.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from security.credentials.kinds import Kind, Psk, is_pattern
from security.credentials.store import CredentialStore, Position
from security.errors import CredentialStoreError

_log = structlog.get_logger("headwater.access")

#: How often a store that fails is written about, in seconds.
_COMPLAIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """PSK identities whose keys were ended (removed or changed), or added; ``everything``: it is not known which."""

    ended: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.ended or self.added or self.everything)


class Access:
    """Answers from one store of credentials, on the event loop: a lookup takes some ten microseconds."""

    def __init__(self, store: CredentialStore) -> None:
        """
        Raises:
            CredentialStoreError: the store cannot be read.
        """
        self._store = store
        self._position: Position = store.position()
        self._complained_at = -1e9
        #: What was wrong when it was looked at last.
        self._lost: CredentialStoreError | None = None
        #: How often the store could not be read.
        self.failures = 0

    def key(self, identity: bytes) -> bytes | None:
        """The pre-shared key of an identity. Never raises: without the store there is none."""
        try:
            found = self._find(identity)
        except CredentialStoreError:
            return None
        return None if found is None else found.key.reveal()

    def _find(self, identity: bytes) -> Psk | None:
        try:
            if self._lost is not None:
                # Whoever took it away, or opened it to others, may have meant to.
                raise self._lost
            return self._store.psk(identity)
        except CredentialStoreError as exc:
            self._failed(exc)
            raise

    def psk(self, identity: str) -> Psk | None:
        """The credential of an identity.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        return self._find(identity.encode("utf-8"))

    def only_endpoint(self, identity: str) -> str | None:
        """The one endpoint that an identity is for; None for a pattern, or if the store cannot tell."""
        try:
            found = self.psk(identity)
        except CredentialStoreError:
            return None
        return None if found is None or is_pattern(found.endpoint) else found.endpoint

    def is_secured(self, ep: str) -> bool:
        """True if there is a key with which one may register as ``ep``.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        try:
            if self._lost is not None:
                raise self._lost
            return any(isinstance(one, Psk) for one in self._store.of_endpoint(ep))
        except CredentialStoreError as exc:
            self._failed(exc)
            raise

    def changed(self) -> Changed:
        """What is another since this was asked last. Never raises; while the store cannot be looked at, it lets nobody
        in, and ends nobody."""
        try:
            changes = self._store.changed_since(self._position)
        except CredentialStoreError as exc:
            self._lost = exc
            self._failed(exc)
            return Changed()
        self._lost = None
        self._position = changes.position
        return Changed(
            ended=frozenset(one.name for one in changes.ended if one.kind is Kind.PSK),
            added=frozenset(one.name for one in changes.added if one.kind is Kind.PSK),
            everything=changes.everything,
        )

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _failed(self, exc: CredentialStoreError) -> None:
        self.failures += 1
        now = time.monotonic()
        if now - self._complained_at > _COMPLAIN_S:
            self._complained_at = now
            _log.warning("the store of credentials cannot be read, so nobody new gets in", reason=str(exc))
