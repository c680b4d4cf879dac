"""The SQLite file of credentials: made, checked and opened.

Owns the schema, who may read the file (its owner alone), and the words for what is wrong with it. Never puts an empty
store in the place of a damaged one, and changes nothing in a file that is not ours.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

from security.errors import CredentialStoreError, StoreBusy, StoreExposed, StoreForeign, StoreMissing

#: ``PRAGMA user_version`` of the files this code writes, and the mark (``application_id``) that they are ours: "HdWc".
SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x48645763

#: Seconds for which a writer waits for another one.
WRITE_WAIT_S: Final = 30.0
#: Seconds for which a lookup waits. In WAL mode it waits for no writer, only for who mends the log after a crash.
READ_WAIT_S: Final = 0.1

_SCHEMA: Final = """
CREATE TABLE about (epoch TEXT NOT NULL, salt BLOB NOT NULL);
CREATE TABLE credentials (
    kind TEXT NOT NULL, name TEXT NOT NULL, endpoint TEXT NOT NULL, pattern INTEGER NOT NULL, recipient BLOB,
    created_s INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE INDEX credentials_by_endpoint ON credentials (endpoint);
CREATE INDEX credentials_by_recipient ON credentials (recipient) WHERE recipient IS NOT NULL;
CREATE INDEX credentials_of_patterns ON credentials (endpoint) WHERE pattern = 1;
CREATE TABLE changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, name TEXT NOT NULL, ended INTEGER NOT NULL
);
"""

#: What was put once (`security.credentials.store.Put.ONCE`), by id: of which contents, as a hash with the store's salt.
#: Made when it is needed first, so it may lack in a store, and a version of before takes no notice of it.
TAKEN_UP: Final = """
CREATE TABLE IF NOT EXISTS taken_up (
    kind TEXT NOT NULL, name TEXT NOT NULL, contents BLOB NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID
"""


def make(path: Path) -> None:
    """Make an empty store, its owner's alone, unless there is one; its folder too (0700), if there is none.

    Raises:
        CredentialStoreError: the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Of two who make it at once, the second one finds it.
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not os.path.lexists(path):
                _make(path)
                os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        raise CredentialStoreError(f"the store of credentials {path} cannot be made: {exc.strerror or exc}") from exc
    except sqlite3.Error as exc:
        raise CredentialStoreError(f"the store of credentials {path} cannot be made: {exc}") from exc


def _make(path: Path) -> None:
    # Renamed when it is complete, so that an empty file is never ours.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    try:
        with closing(sqlite3.connect(draft, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.executescript(_SCHEMA)
            db.execute("INSERT INTO about VALUES (?, ?)", (secrets.token_hex(16), secrets.token_bytes(32)))
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        draft.chmod(0o600)
        draft.rename(path)
    except BaseException:
        for end in ("", "-wal", "-shm"):
            draft.with_name(draft.name + end).unlink(missing_ok=True)
        raise


def connect(path: Path, *, wait_s: float) -> sqlite3.Connection:
    """A connection to a store that is there, in autocommit mode; it may go from thread to thread.

    Raises:
        StoreMissing: there is none.
        StoreExposed: others may read or change it; says what to do.
        StoreForeign: it is damaged, not ours, or of a later version.
        CredentialStoreError: the disk refuses.
    """
    check_owner_only(path)
    # By its absolute name: the process may change its folder before the log is opened. `mode=rw`: never made here.
    db = None
    try:
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=wait_s,
        )
        # Looked at before anything is set: a file that is not ours is left as it is.
        mark = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if mark != APPLICATION_ID:
            raise StoreForeign(
                f"{path} is no store of credentials; name another with --store, or move it away (mv {path} elsewhere/)"
            )
        if version > SCHEMA_VERSION:
            raise StoreForeign(
                f"{path} was written by a later version of headwater (its form is {version}, this one knows "
                f"{SCHEMA_VERSION}): update headwater here"
            )
        db.execute("PRAGMA synchronous = FULL")
        # What was removed is overwritten, and not only marked as free.
        db.execute("PRAGMA secure_delete = ON")
    except sqlite3.Error as exc:
        if db is not None:
            db.close()
        raise in_words(path, exc) from exc
    except StoreForeign:
        if db is not None:
            db.close()
        raise
    return db


def check_owner_only(path: Path) -> os.stat_result:
    """What the system knows of a file that is its owner's alone.

    Raises:
        StoreMissing, StoreExposed, CredentialStoreError: says what to do.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise StoreMissing(
            f"there is no store of credentials {path}; the first headwater credentials add, or import, makes one"
        ) from None
    except OSError as exc:
        raise CredentialStoreError(f"the store of credentials {path}: {exc.strerror}") from exc
    mode = found.st_mode
    if not stat.S_ISREG(mode):
        raise CredentialStoreError(f"the store of credentials {path} is no file")
    if mode & 0o077:
        raise StoreExposed(
            f"the store of credentials {path} is open to others on this machine ({stat.filemode(mode)}): chmod 600 "
            f"{path}; if others were there, give the devices other keys"
        )
    return found


def in_words(path: Path, error: sqlite3.Error) -> CredentialStoreError:
    """What to tell of an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"another process is writing to the store of credentials {path}; try again when it is done")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or not isinstance(error, sqlite3.OperationalError):
        return StoreForeign(
            f"the store of credentials {path} is damaged or not ours ({error}); put a backup in its place, or name "
            "another with --store"
        )
    return CredentialStoreError(f"the store of credentials {path} cannot be used: {error}")
