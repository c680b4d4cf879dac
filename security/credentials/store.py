"""What a store of credentials can do, whatever it is made of.

Owns the protocol that the gateway and the commands know. One of another kind is a file with it, a row in
`security.credentials.opening`, and fixtures for `tests.contracts.test_credential_stores`, which is its contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from security.credentials.kinds import Credential, CredentialId, Kind, Oscore, Psk


class Put(Enum):
    """How many credentials at once are taken."""

    #: All or none, and what is there with other contents is a conflict.
    NEW = "new"
    #: All or none; what is there with other contents is changed.
    ALL = "all"
    #: Those that conflict are left out.
    FITTING = "fitting"
    #: As `FITTING`, and what was put so before, with the same contents, is left out, whatever became of it since.
    ONCE = "once"
    #: None: only what would become of them.
    TRIAL = "trial"


class Done(Enum):
    """What became of a credential."""

    ADDED = "added"
    UNCHANGED = "unchanged"
    CHANGED = "changed"
    CONFLICT = "conflict"
    #: With `Put.ONCE`: it was put before, and is as people left it; perhaps it is not there any more.
    KNOWN = "known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one credential. ``holder`` is the endpoint (or pattern) that had this identity before, if any had."""

    done: Done
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """How far somebody knows a store. ``number`` counts its changes; ``epoch`` is another in another store or copy of
    it. It means nothing to another process."""

    epoch: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What happened since a position. Who holds sessions ends those of ``ended`` (removed, or changed, even if added
    again); with ``everything`` the store no longer knows, and each session is to be held to the store as it is."""

    position: Position
    added: frozenset[CredentialId] = frozenset()
    ended: frozenset[CredentialId] = frozenset()
    everything: bool = False


class CredentialStore(Protocol):
    """Credentials by what a device shows. All of it is synchronous, and may be called from any thread.

    Lookups answer within a fraction of a second or raise `CredentialStoreError`; they never wait for who writes. A
    store that is far away keeps a copy from `position` on, answers out of that, and brings it up in `changed_since`,
    which may take seconds: so who must not wait asks for the changes in a thread.
    """

    @property
    def salt(self) -> bytes:
        """Random bytes of this store, for `security.credentials.kinds.fingerprint`."""
        ...

    def psk(self, identity: bytes) -> Psk | None:
        """The pre-shared key of an identity, as it came in a handshake (any bytes)."""
        ...

    def oscore(self, recipient_id: bytes, id_context: bytes | None = None) -> Oscore | None:
        """The context for the ``kid`` (and ``kid context``) of a message (RFC 8613 section 8.2).

        A message that names no context gets the one without, or else the only one with this recipient id.
        """
        ...

    def of_endpoint(self, endpoint: str) -> tuple[Credential, ...]:
        """All with which one may register as ``endpoint``: those of that name, then those whose pattern fits."""
        ...

    def anchors(self) -> tuple[bytes, ...]:
        """The certificates (DER) of usage 2, which are trusted to sign those of devices; each once. It looks at all of
        their kind."""
        ...

    def find(self, identity: CredentialId) -> Credential | None:
        """The credential of this id."""
        ...

    def has(self, kind: Kind) -> bool:
        """Whether there is any of this kind."""
        ...

    def __iter__(self) -> Iterator[Credential]:
        """All, by endpoint and id, as they were at one moment."""
        ...

    def put(self, credentials: Sequence[Credential], how: Put) -> tuple[Outcome, ...]:
        """Add and change, in one step that is done whole or not at all; an outcome for each, in order.

        One that is there with the same contents is UNCHANGED and keeps its time of creation. One whose id another
        endpoint has is a CONFLICT. With `Put.NEW` and `Put.ALL` nothing is stored if there is one. With `Put.ONCE` the
        store remembers by id what was put so last, also of what is removed later; a CONFLICT it does not remember.

        Raises:
            CredentialStoreError: it cannot be written; nothing is stored.
        """
        ...

    def remove(self, identities: Sequence[CredentialId]) -> tuple[Credential, ...]:
        """Remove, in one step; what was there, in order. What is not there is passed over.

        Raises:
            CredentialStoreError: it cannot be written; nothing is removed.
        """
        ...

    def position(self) -> Position:
        """Where the store is now; cheap enough to be asked every second."""
        ...

    def changed_since(self, position: Position) -> Changes:
        """What happened after ``position``; cheap where nothing did."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...
