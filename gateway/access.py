"""The credentials of devices, as a running gateway asks for them.

Owns what becomes of a store that fails: nobody is let in by it, whoever is in stays, and the operator is told. Knows no
CoAP and no DTLS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from gateway.certificate_proof import OSCORE_MARK, Proof, endpoints, proof_of, vouches
from security.credentials.kinds import X509, Credential, CredentialId, Kind, Oscore, Psk, is_pattern, may_register
from security.credentials.store import CredentialStore, Position
from security.errors import CredentialStoreError

_T = TypeVar("_T")
_log = structlog.get_logger("headwater.access")

#: How often a store that fails is written about, in seconds.
_COMPLAIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Identities of PSK and OSCORE whose keys were ended (removed or changed), or added; whether certificates were, and
    the endpoints (or patterns) that they were added for; ``everything``: it is not known which."""

    ended: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    certificates: bool = False
    certified: frozenset[str] = frozenset()
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.ended or self.added or self.certificates or self.everything)


class Access:
    """Answers from one store of credentials, on the event loop: a lookup takes some ten microseconds.

    An identity is that of a pre-shared key, a proof as text (`gateway.certificate_proof`), or the mark and the name of
    an OSCORE credential.
    """

    def __init__(self, store: CredentialStore, *, has_certificates: bool = False) -> None:
        """``has_certificates``: devices may show certificates; otherwise those in the store are not looked at.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        self._store = store
        self._has_certificates = has_certificates
        self._position: Position = store.position()
        self._complained_at = -1e9
        #: What was wrong when it was looked at last.
        self._lost: CredentialStoreError | None = None
        #: True if the last question for the anchors was in vain.
        self._anchors_lost = False
        #: How often the store could not be read.
        self.failures = 0

    def key(self, identity: bytes) -> bytes | None:
        """The pre-shared key of an identity. Never raises: without the store there is none."""
        try:
            found = self._ask(lambda store: store.psk(identity))
        except CredentialStoreError:
            return None
        return None if found is None else found.key.reveal()

    def admits(self, proof: Proof) -> bool:
        """Whether somebody with this proof may register anything. Never raises: without the store, nobody may."""
        try:
            return bool(self._ask(lambda store: endpoints(proof, store)))
        except CredentialStoreError:
            return False

    def is_revoked(self, identity: str) -> bool:
        """Whether nothing may be registered with it. Never raises: without the store, nobody is revoked."""
        try:
            return not self.endpoints(identity)
        except CredentialStoreError:
            return False

    def anchors(self) -> tuple[bytes, ...]:
        """The certificates (DER) that are trusted to sign those of devices. Never raises: without the store, none, and
        `changed` says once more that there is something new."""
        try:
            self._anchors_lost = False
            return self._ask(lambda store: store.anchors())
        except CredentialStoreError:
            self._anchors_lost = True
            return ()

    def psk(self, identity: str) -> Psk | None:
        """The pre-shared key of an identity.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        return self._ask(lambda store: store.psk(identity.encode("utf-8")))

    def oscore_context(self, kid: bytes, kid_context: bytes | None) -> Oscore | None:
        """The OSCORE credential that a message names. Never raises: without the store there is none."""
        try:
            return self._ask(lambda store: store.oscore(kid, kid_context))
        except CredentialStoreError:
            return None

    def speaks_oscore(self) -> bool:
        """Whether any device has a credential of OSCORE.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        return self._ask(lambda store: store.has(Kind.OSCORE))

    def oscore(self, name: str) -> Oscore | None:
        """The OSCORE credential with this name.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        found = self._ask(lambda store: store.find(CredentialId(Kind.OSCORE, name)))
        return found if isinstance(found, Oscore) else None

    def _with_key(self, identity: str) -> Psk | Oscore | None:
        if identity.startswith(OSCORE_MARK):
            return self.oscore(identity.removeprefix(OSCORE_MARK))
        return self.psk(identity)

    def endpoints(self, identity: str) -> frozenset[str]:
        """The endpoint names, or patterns of them, that an identity is for; empty: it is no longer good.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        if (proof := proof_of(identity)) is not None:
            return self._ask(lambda store: endpoints(proof, store)) if self._has_certificates else frozenset()
        found = self._with_key(identity)
        return frozenset() if found is None else frozenset({found.endpoint})

    def may_register(self, identity: str, ep: str) -> bool:
        """Whether who has shown this identity may register as ``ep``.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        if (proof := proof_of(identity)) is not None:
            return self._has_certificates and any(
                vouches(one, proof, ep)
                for one in self._ask(lambda store: store.of_endpoint(ep))
                if isinstance(one, X509)
            )
        found = self._with_key(identity)
        return found is not None and may_register(found, ep)

    def only_endpoint(self, identity: str) -> str | None:
        """The one endpoint that an identity is for; None for a pattern, or if the store cannot tell."""
        try:
            found = self.endpoints(identity)
        except CredentialStoreError:
            return None
        return next(iter(found)) if len(found) == 1 and not any(map(is_pattern, found)) else None

    def is_secured(self, ep: str) -> bool:
        """True if there is a credential with which one may register as ``ep``.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        return bool(self.covering(ep))

    def covering(self, ep: str) -> frozenset[str]:
        """The endpoint names, or patterns of them, of the credentials with which one may register as ``ep``.

        Raises:
            CredentialStoreError: the store cannot be read.
        """
        kinds = (Psk, Oscore, *((X509,) if self._has_certificates else ()))
        return frozenset(
            one.endpoint for one in self._ask(lambda store: store.of_endpoint(ep)) if isinstance(one, kinds)
        )

    def _ask(self, question: Callable[[CredentialStore], _T]) -> _T:
        try:
            if self._lost is not None:
                # Whoever took it away, or opened it to others, may have meant to.
                raise self._lost
            return question(self._store)
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
        certificates = changes.ended | changes.added if self._has_certificates else frozenset()
        return Changed(
            ended=self._identities(changes.ended),
            added=self._identities(changes.added),
            certificates=self._anchors_lost or any(one.kind is Kind.X509 for one in certificates),
            certified=self._certified(changes.added & certificates),
            everything=changes.everything,
        )

    def _identities(self, ids: frozenset[CredentialId]) -> frozenset[str]:
        with_keys = {one.name for one in ids if one.kind is Kind.PSK}
        return frozenset(with_keys | {OSCORE_MARK + one.name for one in ids if one.kind is Kind.OSCORE})

    def _certified(self, added: frozenset[CredentialId]) -> frozenset[str]:
        def look(store: CredentialStore) -> list[Credential | None]:
            return [store.find(one) for one in added if one.kind is Kind.X509]

        try:
            return frozenset(one.endpoint for one in self._ask(look) if one is not None)
        except CredentialStoreError:
            return frozenset()

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _failed(self, exc: CredentialStoreError) -> None:
        self.failures += 1
        now = time.monotonic()
        if now - self._complained_at > _COMPLAIN_S:
            self._complained_at = now
            _log.warning("the store of credentials cannot be read, so nobody new gets in", reason=str(exc))
