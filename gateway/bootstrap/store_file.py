"""The file of a bootstrap server: what it did, and which keys it has given out. Made, checked and opened.

Owns the schema and the permissions (its owner's alone). There is no key in it. Of what is in it, `trace` owns the
runs and `ledger` the keys' identities.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

#: ``PRAGMA user_version`` of the files this code writes, and the mark (``application_id``) that they are ours: "HdWb".
SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x48645762

_SCHEMA: Final = f"""
BEGIN;
CREATE TABLE runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, ep TEXT NOT NULL, address TEXT NOT NULL, identity TEXT,
    profile TEXT NOT NULL, began_ms INTEGER NOT NULL, ended_ms INTEGER, outcome TEXT NOT NULL, why TEXT NOT NULL
);
CREATE INDEX runs_of ON runs (ep, number);
CREATE TABLE steps (
    run INTEGER NOT NULL, number INTEGER NOT NULL, at_ms INTEGER NOT NULL, step TEXT NOT NULL, answer TEXT NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE keys (
    store TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, ep TEXT NOT NULL, short_id INTEGER NOT NULL,
    made_ms INTEGER NOT NULL, taken INTEGER NOT NULL, PRIMARY KEY (store, kind, name)
) WITHOUT ROWID;
CREATE INDEX keys_of ON keys (ep);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class BootstrapFileError(Exception):
    """The file of a bootstrap server cannot be used; the text says why, and what to do."""


class BootstrapFile:
    """The open file. Its transactions may be made from any thread, one after the other."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        """Open it; with ``make`` it is made where there is none, its folder too (0700).

        Raises:
            BootstrapFileError: there is none, it is open to others, damaged, not ours, or the disk refuses.
        """
        self._path = path
        self._lock = Lock()
        try:
            if make:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                # Nobody else can ever have had it open.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            mode = path.stat().st_mode
        except FileNotFoundError:
            raise BootstrapFileError(
                f"there is no file {path}; headwater bootstrap serve makes it, at the place of its --trace"
            ) from None
        except OSError as exc:
            raise BootstrapFileError(f"{path}: {exc.strerror or exc}") from exc
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise BootstrapFileError(f"{path} is open to others on this machine, or no file: chmod 600 {path}")
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            self._set_up()
        except BaseException:
            self._db.close()
            raise

    def _set_up(self) -> None:
        try:
            mark = self._db.execute("PRAGMA application_id").fetchone()[0]
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if mark == 0 and not tables:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.executescript(_SCHEMA)
            elif mark != APPLICATION_ID:
                raise BootstrapFileError(f"{self._path} is no file of a bootstrap server; name another")
            elif version > SCHEMA_VERSION:
                raise BootstrapFileError(f"{self._path} was written by a later version of headwater: update headwater")
            # What it says of a key has to be on the disk before the key is anywhere.
            self._db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as exc:
            raise self._in_words(exc) from exc

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction, committed at the end and on the disk then.

        Raises:
            BootstrapFileError: the disk refuses, or the file is damaged; nothing of it is stored.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
            except sqlite3.Error as exc:
                raise self._in_words(exc) from exc

    def _in_words(self, exc: sqlite3.Error) -> BootstrapFileError:
        return BootstrapFileError(f"{self._path} cannot be used: {exc}")

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._db.close()
