"""The store of credentials in one SQLite file: a gateway reads it while commands write, on one machine.

Owns what is stored and in which step. A change is one transaction with a full sync, so it is there whole or not at all,
also after ``kill -9``; the log of changes beside it is how a running gateway learns what to end. Keys are in the clear
in the file, as a gateway needs them to speak; so the file is its owner's alone, which is checked whenever it is opened.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import translate
from pathlib import Path
from typing import Any, Final

from security.credentials import sqlite_file
from security.credentials.kinds import (
    X509,
    CertificateUsage,
    Credential,
    CredentialId,
    Kind,
    Oscore,
    Psk,
    is_pattern,
)
from security.credentials.rows import digest_of, from_text, to_text
from security.credentials.sqlite_file import READ_WAIT_S, WRITE_WAIT_S
from security.credentials.store import Changes, Done, Outcome, Position, Put
from security.errors import InvalidCredential, StoreForeign

#: So many changes are remembered. Who has missed more holds all of his sessions to the store.
MOST_CHANGES: Final = 100_000

_FIELDS: Final = "kind, endpoint, created_s, body"


class SqliteCredentials:
    """A `security.credentials.store.CredentialStore` in a file."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        """Open the store; with ``make`` it is made where there is none.

        Raises:
            StoreMissing: there is none.
            StoreExposed: others may read or change it; says what to do.
            StoreForeign: it is damaged, not ours, or of a later version.
            CredentialStoreError: the disk refuses.
        """
        self._path = path
        self._lock = threading.RLock()
        #: The patterns as they were after that change.
        self._compiled: list[tuple[str, Callable[[str], object]]] = []
        self._patterns_of: tuple[str, int] | None = None
        if make:
            sqlite_file.make(path)
        self._open()

    def _open(self) -> None:
        file = self._place()
        db = sqlite_file.connect(self._path, wait_s=READ_WAIT_S)
        try:
            with self._told():
                row = db.execute("SELECT epoch, salt FROM about").fetchone()
            if row is None:
                raise StoreForeign(f"the store of credentials {self._path} is damaged: it has lost its mark")
        except BaseException:
            db.close()
            raise
        self._db, self._file = db, file
        self._epoch, self._salt = f"{row[0]}-{file}", bytes(row[1])

    def _place(self) -> tuple[int, int]:
        found = sqlite_file.check_owner_only(self._path)
        return found.st_dev, found.st_ino

    @property
    def salt(self) -> bytes:
        return self._salt

    # Lookups

    def psk(self, identity: bytes) -> Psk | None:
        try:
            found = self.find(CredentialId(Kind.PSK, identity.decode("utf-8")))
        except UnicodeDecodeError:
            return None
        return found if isinstance(found, Psk) else None

    def oscore(self, recipient_id: bytes, id_context: bytes | None = None) -> Oscore | None:
        found = [one for one in self._rows("WHERE recipient = ?", recipient_id) if isinstance(one, Oscore)]
        exact = next((one for one in found if one.id_context == id_context), None)
        if exact is None and id_context is None and len(found) == 1:
            return found[0]
        return exact

    def of_endpoint(self, endpoint: str) -> tuple[Credential, ...]:
        own = self._rows("WHERE endpoint = ? ORDER BY kind, name", endpoint)
        fitting = [pattern for pattern, fits in self._patterns() if pattern != endpoint and fits(endpoint)]
        more = (self._rows("WHERE endpoint = ? ORDER BY kind, name", pattern) for pattern in fitting)
        return (*own, *(one for found in more for one in found))

    def _patterns(self) -> list[tuple[str, Callable[[str], object]]]:
        """Every pattern that is there, once, in order, and what tells whether a name fits it."""
        with self._lock, self._told():
            known = (self._epoch, self._last())
            if known != self._patterns_of:
                rows = self._db.execute(
                    "SELECT DISTINCT endpoint FROM credentials WHERE pattern = 1 ORDER BY endpoint"
                ).fetchall()
                self._compiled = [(row[0], re.compile(translate(row[0])).match) for row in rows]
                self._patterns_of = known
            return self._compiled

    def anchors(self) -> tuple[bytes, ...]:
        # The id of an anchor has whom it vouches for behind the digest; see `CredentialId`.
        trusted = CertificateUsage.TRUST_ANCHOR_ASSERTION
        found = self._rows("WHERE kind = 'x509' AND name LIKE '%/%' ORDER BY name")
        return tuple({one.certificate: None for one in found if isinstance(one, X509) and one.usage is trusted})

    def find(self, identity: CredentialId) -> Credential | None:
        return next(iter(self._rows("WHERE kind = ? AND name = ?", identity.kind.value, identity.name)), None)

    def has(self, kind: Kind) -> bool:
        with self._lock, self._told():
            row = self._db.execute("SELECT 1 FROM credentials WHERE kind = ? LIMIT 1", (kind.value,)).fetchone()
        return row is not None

    def __iter__(self) -> Iterator[Credential]:
        return iter(self._rows("ORDER BY endpoint, kind, name"))

    def _rows(self, which: str, *values: object) -> list[Credential]:
        with self._lock, self._told():
            rows = self._db.execute(f"SELECT {_FIELDS} FROM credentials {which}", values).fetchall()
            return [_credential(row) for row in rows]

    # Changes

    def put(self, credentials: Sequence[Credential], how: Put) -> tuple[Outcome, ...]:
        with self._writing() as db:
            if how is Put.ONCE:
                db.execute(sqlite_file.TAKEN_UP)
                outcomes = tuple(_put_once(db, one, self._salt) for one in credentials)
            else:
                outcomes = tuple(_put(db, one, how) for one in credentials)
            conflict = any(one.done is Done.CONFLICT for one in outcomes)
            if how is Put.TRIAL or (conflict and how not in (Put.FITTING, Put.ONCE)):
                db.execute("ROLLBACK")
            return outcomes

    def remove(self, identities: Sequence[CredentialId]) -> tuple[Credential, ...]:
        with self._writing() as db:
            removed = []
            for one in identities:
                before = _find(db, one)
                if before is not None:
                    db.execute("DELETE FROM credentials WHERE kind = ? AND name = ?", (one.kind.value, one.name))
                    _note(db, one, ended=True)
                    removed.append(before)
            return tuple(removed)

    def position(self) -> Position:
        with self._lock, self._told():
            self._follow()
            return Position(self._epoch, self._last())

    def changed_since(self, position: Position) -> Changes:
        with self._lock, self._told():
            self._follow()
            last = self._last()
            if (self._epoch, last) == (position.epoch, position.number):
                return Changes(position=position)
            rows = self._db.execute(
                "SELECT number, kind, name, ended FROM changes WHERE number > ? ORDER BY number", (position.number,)
            ).fetchall()
        now = Position(self._epoch, rows[-1][0] if rows else last)
        # Numbers are given without a gap: where the next one is not there, it has been forgotten.
        if self._epoch != position.epoch or not rows or rows[0][0] != position.number + 1:
            return Changes(position=now, everything=True)
        added: set[CredentialId] = set()
        ended: set[CredentialId] = set()
        for _, kind, name, is_end in rows:
            (ended if is_end else added).add(CredentialId(Kind(kind), name))
        return Changes(position=now, added=frozenset(added), ended=frozenset(ended))

    def _last(self) -> int:
        row = self._db.execute("SELECT max(number) FROM changes").fetchone()
        return int(row[0] or 0)

    def _follow(self) -> None:
        """Open the file that has come into the place of ours, such as a backup."""
        if self._place() != self._file:
            before = self._db
            self._open()
            before.close()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction, which is committed at the end unless it was rolled back."""
        db = sqlite_file.connect(self._path, wait_s=WRITE_WAIT_S)
        try:
            with self._told():
                db.execute("BEGIN IMMEDIATE")
                yield db
                if db.in_transaction:
                    db.execute(
                        "DELETE FROM changes WHERE number <= (SELECT max(number) FROM changes) - ?", (MOST_CHANGES,)
                    )
                    db.execute("COMMIT")
                    # A key that was removed does not stay behind in the log. Who reads now keeps some of it; no matter.
                    with suppress(sqlite3.OperationalError):
                        db.execute("PRAGMA busy_timeout = 0")
                        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            # Rolls back what was not committed.
            db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            # Used after close: a bug of ours.
            raise
        except sqlite3.Error as exc:
            raise sqlite_file.in_words(self._path, exc) from exc
        except (InvalidCredential, ValueError, OverflowError) as exc:
            raise StoreForeign(f"the store of credentials {self._path} is damaged: {exc}") from exc


def _put(db: sqlite3.Connection, credential: Credential, how: Put) -> Outcome:
    before = _find(db, credential.id)
    if before is None:
        _write(db, credential)
        _note(db, credential.id, ended=False)
        return Outcome(done=Done.ADDED)
    if replace(credential, created=before.created) == before:
        return Outcome(done=Done.UNCHANGED, holder=before.endpoint)
    if before.endpoint != credential.endpoint or how is Put.NEW:
        return Outcome(done=Done.CONFLICT, holder=before.endpoint)
    _write(db, credential)
    _note(db, credential.id, ended=True)
    return Outcome(done=Done.CHANGED, holder=before.endpoint)


def _put_once(db: sqlite3.Connection, credential: Credential, salt: bytes) -> Outcome:
    own = (credential.id.kind.value, credential.id.name)
    contents = digest_of(credential, salt)
    if db.execute("SELECT contents FROM taken_up WHERE kind = ? AND name = ?", own).fetchone() == (contents,):
        return Outcome(done=Done.KNOWN)
    outcome = _put(db, credential, Put.FITTING)
    if outcome.done is not Done.CONFLICT:
        db.execute("INSERT OR REPLACE INTO taken_up VALUES (?, ?, ?)", (*own, contents))
    return outcome


def _find(db: sqlite3.Connection, identity: CredentialId) -> Credential | None:
    row = db.execute(
        f"SELECT {_FIELDS} FROM credentials WHERE kind = ? AND name = ?", (identity.kind.value, identity.name)
    ).fetchone()
    return None if row is None else _credential(row)


def _write(db: sqlite3.Connection, credential: Credential) -> None:
    recipient = credential.recipient_id if isinstance(credential, Oscore) else None
    db.execute(
        "INSERT OR REPLACE INTO credentials VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            credential.id.kind.value,
            credential.id.name,
            credential.endpoint,
            is_pattern(credential.endpoint),
            recipient,
            int(credential.created.timestamp()),
            to_text(credential),
        ),
    )


def _note(db: sqlite3.Connection, identity: CredentialId, *, ended: bool) -> None:
    db.execute("INSERT INTO changes (kind, name, ended) VALUES (?, ?, ?)", (identity.kind.value, identity.name, ended))


def _credential(row: tuple[Any, ...]) -> Credential:
    kind, endpoint, created_s, body = row
    return from_text(kind, endpoint, datetime.fromtimestamp(created_s, UTC), body)
