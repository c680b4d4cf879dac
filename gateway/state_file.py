"""The file of the gateway's state: made, locked, checked and opened.

Owns the schema, the errors, the lock of the directory (one gateway each) and the owner-only permissions. Never starts
empty in place of a file that is damaged. What is in the file is `gateway.state`'s.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path as FilePath
from typing import Final

#: ``PRAGMA user_version`` of the files this code writes, and the mark (``application_id``) that they are ours: "HdWt".
SCHEMA_VERSION: Final = 6
APPLICATION_ID: Final = 0x48645774

_COMMANDS: Final = """
CREATE TABLE commands (
    sequence INTEGER PRIMARY KEY, identity BLOB NOT NULL UNIQUE, occurrence INTEGER NOT NULL, ticket TEXT NOT NULL,
    ep TEXT NOT NULL, request BLOB NOT NULL, state INTEGER NOT NULL, received_ms INTEGER NOT NULL, expires_ms INTEGER
);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY, identity BLOB NOT NULL UNIQUE, occurrence INTEGER NOT NULL, reply BLOB NOT NULL,
    answered_ms INTEGER NOT NULL
);
CREATE TABLE positions (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
"""
#: Registrations of devices behind a gateway: the gateway's endpoint name, and the prefix of their paths there.
_BEHIND: Final = """
CREATE TABLE behind (ep TEXT PRIMARY KEY, behind TEXT NOT NULL, prefix TEXT NOT NULL) WITHOUT ROWID;
"""
#: ``next_number`` is where to go on counting; the window is that of `gateway.oscore.window`.
_OSCORE: Final = """
CREATE TABLE oscore_contexts (
    digest BLOB PRIMARY KEY, next_number INTEGER NOT NULL, highest INTEGER NOT NULL, taken BLOB NOT NULL,
    id_context BLOB
) WITHOUT ROWID;
CREATE TABLE oscore_observations (
    token BLOB PRIMARY KEY, digest BLOB NOT NULL, partial_iv BLOB NOT NULL
) WITHOUT ROWID;
"""
_SCHEMA: Final = f"""
{_COMMANDS}{_BEHIND}{_OSCORE}CREATE TABLE registrations (
    ep TEXT PRIMARY KEY, reg_id TEXT NOT NULL, address TEXT NOT NULL, port INTEGER NOT NULL, lifetime INTEGER NOT NULL,
    version TEXT NOT NULL, binding TEXT NOT NULL, sms TEXT, root TEXT NOT NULL, links_text BLOB NOT NULL,
    attributes TEXT NOT NULL, queue INTEGER NOT NULL, reg_date_ms INTEGER NOT NULL, last_up_ms INTEGER NOT NULL,
    identity TEXT
) WITHOUT ROWID;
CREATE TABLE observations (
    token BLOB PRIMARY KEY, ep TEXT NOT NULL, path TEXT NOT NULL, ticket TEXT NOT NULL, observation_id TEXT NOT NULL,
    content_format INTEGER, declared INTEGER NOT NULL, created_ms INTEGER NOT NULL, attributes TEXT
) WITHOUT ROWID;
"""
#: What brings a file to the next version, by the version that it has.
_UPGRADES: Final = {
    # Where to go on reading is told by the offset that was committed then; a reply was marked with the sequence.
    1: f"""
ALTER TABLE commands RENAME TO old;
DROP TABLE positions;
{_COMMANDS}
INSERT INTO commands SELECT sequence, identity, sequence, ticket, ep, request, state, received_ms, expires_ms FROM old
    WHERE state < 2;
INSERT INTO answers (identity, occurrence, reply, answered_ms) SELECT identity, 0, reply, answered_ms FROM old
    WHERE state = 2 ORDER BY answered_ms, sequence;
DROP TABLE old;
""",
    2: "ALTER TABLE registrations ADD COLUMN identity TEXT;",
    3: _BEHIND,
    4: _OSCORE,
    5: "ALTER TABLE observations ADD COLUMN attributes TEXT;",
}


class StateError(Exception):
    """The root of what can go wrong with the durable state.

    StateError
    ├── StateLocked        another gateway has the directory
    ├── StateCorrupted     the file is damaged, or not ours
    ├── StateUnavailable   the disk refused a write: full, gone, failing (later writes are tried all the same)
    └── StateOverloaded    more is waiting for the disk than the bound allows
    """


class StateLocked(StateError):
    """Another process holds the state directory."""


class StateCorrupted(StateError):
    """The database file is damaged, not ours or of a later version; the message names it and says what to do."""


class StateUnavailable(StateError):
    """A group could not be written; nothing of it is stored."""


class StateOverloaded(StateError):
    """The backlog is full; the caller should refuse its peer for now (5.03)."""


def lock_directory(directory: FilePath) -> int:
    """Take the directory for this process; returns the descriptor that holds it until closed.

    Raises:
        StateLocked: another process has it.
        OSError: the directory cannot be written.
    """
    descriptor = os.open(directory / "gateway.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StateLocked(
            f"another gateway (process {holder}) uses the state directory {directory}; "
            "stop it, or give this one a directory of its own"
        ) from exc
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def open_file(path: FilePath) -> sqlite3.Connection:
    """Open the database, or create it if there is none.

    Raises:
        StateCorrupted: it is damaged, not ours, or of a later version.
        StateUnavailable: the disk refuses.
    """
    try:
        if not path.exists():
            if path.with_name(path.name + "-wal").exists():
                raise corrupted(path, "it is missing, but its write-ahead log is there")
            _create(path)
        path.chmod(0o600)
        if path.stat().st_size == 0:
            raise corrupted(path, "it is empty")
    except OSError as exc:
        raise StateUnavailable(f"{path} cannot be opened: {exc.strerror or exc}") from exc
    db = _connect(path)
    try:
        # Looked at before anything is set: a file that is not ours is left as it is.
        mark = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if mark != APPLICATION_ID:
            raise corrupted(path, "it is no gateway state")
        if version > SCHEMA_VERSION:
            raise StateCorrupted(
                f"{path} was written by a later version of this program (format {version}): start that one, or move "
                f"the file away with its -wal file (mv {path}* elsewhere/) to start without it"
            )
        damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            raise corrupted(path, " ".join(damage.split()))
        _prepare(db)
        for number in range(version, SCHEMA_VERSION):
            db.executescript(f"BEGIN IMMEDIATE; {_UPGRADES[number]} PRAGMA user_version = {number + 1}; COMMIT;")
    except sqlite3.OperationalError as exc:
        db.close()
        raise StateUnavailable(f"{path} cannot be opened: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        db.close()
        raise corrupted(path, str(exc)) from exc
    except StateCorrupted:
        db.close()
        raise
    return db


def _create(path: FilePath) -> None:
    # Made under another name and renamed when complete, so an empty gateway.db is always damage, never a first start.
    unfinished = path.with_name(path.name + ".new")
    for leftover in (unfinished, unfinished.with_name(unfinished.name + "-wal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        db = _connect(unfinished)
        _prepare(db)
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.close()
    except sqlite3.Error as exc:
        raise StateUnavailable(f"{path} cannot be created: {exc}") from exc
    unfinished.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _connect(path: FilePath) -> sqlite3.Connection:
    # The writer thread has it alone after `load`; check_same_thread would forbid that hand-over.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    db.row_factory = sqlite3.Row
    # Exclusive: no shared-memory file, and no other program can write beside us.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")


def corrupted(path: FilePath, detail: str) -> StateCorrupted:
    """The error that names the file and says what to do."""
    return StateCorrupted(
        f"the gateway's state {path} is damaged ({detail}). Put a copy back, or move it away with its -wal file "
        f"(mv {path}* elsewhere/) to start without it: devices come back as they register, waiting commands are lost"
    )
