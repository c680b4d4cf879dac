"""The SQLite sink: history and the asset graph in one file that needs no server.

Owns the tables and views that ``docs/sinks/sqlite.md`` describes. ``history`` has one row a resource value, with the
device's time and the gateway's; ``servers``, ``endpoints``, ``objects`` and their edges are the asset graph, as the
registrations tell it. Never deletes history.

A row of history is identified by where its record stands in Kafka and by its position in the record; the gateway's time
is part of that identity, so that a topic which was deleted and made anew does not pass for the old one. An endpoint
keeps the place of the last registration event that was applied, so that a record that comes again changes nothing.
Several processes may write one file: each batch is one immediate transaction (WAL, synchronous=FULL: what is
acknowledged survives a power cut, because the offsets that are committed afterwards do too).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Annotated

from pydantic import AfterValidator, Field

from connectors.sinks.graph import Event, held_objects, is_newer, object_name
from connectors.sinks.options import SinkOptions, object_definitions, parse_options
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from connectors.sinks.sqlite_rows import (
    APPLICATION_ID,
    CORRECT_HISTORY,
    INSERT_HISTORY,
    MIGRATIONS,
    endpoint_columns,
    history_rows,
)
from schemas.avro.records import (
    Notification,
    Registration,
    RegistrationDelete,
    RegistrationNew,
    Response,
)
from schemas.avro.topics import TopicKind

#: How long another writer of the same file may hold us up; below what a drain at shutdown may take.
BUSY_S = 3.0

#: SQLite's own bound of ``max_page_count`` (limits.html, point 13).
MAX_PAGES = 4_294_967_294

#: What SQLite says about a value; everything else that it says is about the store.
_RECORD_ERRORS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
    TypeError,
    ValueError,
)


def _named(file: FilePath) -> FilePath:
    if not file.name:
        raise ValueError("a file is needed")
    return file


class SqliteOptions(SinkOptions):
    """The options of the sink."""

    file: Annotated[FilePath, AfterValidator(_named)] = Field(description="where the database is, or is to be")
    max_size_mb: float | None = Field(None, gt=0, allow_inf_nan=False)
    definitions: FilePath | None = None


class SqliteSink:
    """`connectors.sinks.sink.Sink` on one SQLite file."""

    def __init__(self, options: SqliteOptions) -> None:
        self._options = options
        self._definitions = object_definitions("sqlite", options.definitions)
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        # What this connection knows to be in the file.
        self._sources: dict[tuple[str, int], int] = {}
        self._series: set[tuple[str, str, str]] = set()

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: one transaction for the whole batch."""
        db = self._connection()
        rejected: list[tuple[SinkRecord, str]] = []
        try:
            try:
                self._begin(db)
                self._apply(db, records)
                db.execute("COMMIT")
            except _RECORD_ERRORS:
                # Some record cannot be stored. Only now is it worth finding out which.
                db.execute("ROLLBACK")
                self._forget()
                self._begin(db)
                rejected = self._apply_each(db, records)
                db.execute("COMMIT")
        except sqlite3.Error as exc:
            # Locked, full, unreadable, gone: whatever it is, the next attempt starts from a fresh connection.
            self.close()
            raise RetryLater(f"SQLite file {self._options.file}: {exc}") from exc
        if rejected:
            raise RejectedRecords(rejected)

    def close(self) -> None:
        """See `Sink.close`; an open transaction is rolled back."""
        db, self._db = self._db, None
        self._forget()
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def connect(self) -> None:
        """Open or create the file.

        Raises:
            RetryLater: not now. SinkConfigError: the file is something else, or of a newer Headwater.
        """
        file = self._options.file
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(file, timeout=BUSY_S, isolation_level=None)
            try:
                self._prepare(db)
                stat = file.stat()
            except BaseException:
                db.close()
                raise
        except (sqlite3.Error, OSError) as exc:
            raise RetryLater(f"SQLite file {file}: {exc}") from exc
        self._db, self._inode = db, (stat.st_dev, stat.st_ino)

    def _connection(self) -> sqlite3.Connection:
        if self._db is not None:
            # A file that was deleted or replaced under us would take our rows with it, and nobody would notice.
            try:
                stat = self._options.file.stat()
                same = (stat.st_dev, stat.st_ino) == self._inode
            except OSError:
                same = False
            if not same:
                self.close()
        if self._db is None:
            self.connect()
        assert self._db is not None
        return self._db

    def _prepare(self, db: sqlite3.Connection) -> None:
        file = self._options.file
        # In this order: another instance may be making the tables right now, and its id comes with them.
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        if tables and application != APPLICATION_ID:
            raise SinkConfigError(f"{file} is a SQLite database of something else; choose another file")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -16384")
        if self._options.max_size_mb is not None:
            (page,) = db.execute("PRAGMA page_size").fetchone()
            pages = min(max(1, int(self._options.max_size_mb * 1024 * 1024 / page)), MAX_PAGES)
            db.execute(f"PRAGMA max_page_count = {pages}")
        self._begin(db)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise SinkConfigError(
                f"{file} was written by a newer Headwater (schema {version}, this one knows {len(MIGRATIONS)})"
            )
        for step in MIGRATIONS[version:]:
            for statement in filter(str.strip, step.split(";\n")):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")

    @staticmethod
    def _begin(db: sqlite3.Connection) -> None:
        # Immediate: a read transaction that turns into a writing one can fail at once, without waiting for its turn.
        db.execute("BEGIN IMMEDIATE")

    def _forget(self) -> None:
        self._sources.clear()
        self._series.clear()

    def _apply(self, db: sqlite3.Connection, records: Sequence[SinkRecord]) -> None:
        rows: list[tuple[object, ...]] = []
        corrections: list[tuple[object, ...]] = []
        graph = False
        for record in records:
            source = self._source(db, record)
            match record.record:
                case Notification() | Response():
                    into = corrections if record.redecoded else rows
                    into.extend(history_rows(record, record.record, source))
                case Registration(body=body):
                    graph = True
                    self._register(db, record, body, source)
                case other:
                    raise TypeError(f"a {type(other).__name__} is nothing that this store keeps")
        if rows or corrections:
            db.executemany(INSERT_HISTORY, rows)
            db.executemany(CORRECT_HISTORY, corrections)
            if len(self._series) > 100_000:
                self._series.clear()
            fresh = {(row[0], row[1], row[2]) for row in (*rows, *corrections) if row[3] is not None} - self._series
            db.executemany("INSERT INTO series VALUES (?, ?, ?) ON CONFLICT DO NOTHING", fresh)
            self._series |= fresh  # type: ignore[arg-type]  # the first three columns of a row are text
        if graph:
            db.execute(
                "DELETE FROM objects WHERE NOT EXISTS"
                " (SELECT 1 FROM has_object WHERE object_id = id AND object_version = version)"
            )

    def _apply_each(self, db: sqlite3.Connection, records: Sequence[SinkRecord]) -> list[tuple[SinkRecord, str]]:
        rejected = []
        for record in records:
            db.execute("SAVEPOINT one")
            try:
                self._apply(db, [record])
            except _RECORD_ERRORS as exc:
                db.execute("ROLLBACK TO one")
                self._forget()
                rejected.append((record, f"{type(exc).__name__}: {exc}"))
            db.execute("RELEASE one")
        return rejected

    def _source(self, db: sqlite3.Connection, record: SinkRecord) -> int:
        place = (record.topic, record.partition)
        if place not in self._sources:
            db.execute('INSERT INTO sources (topic, "partition") VALUES (?, ?) ON CONFLICT DO NOTHING', place)
            (found,) = db.execute('SELECT id FROM sources WHERE topic = ? AND "partition" = ?', place).fetchone()
            self._sources[place] = found
        return self._sources[place]

    def _register(
        self,
        db: sqlite3.Connection,
        record: SinkRecord,
        body: Event,
        source: int,
    ) -> None:
        who = (body.server_id, body.ep)
        applied = db.execute(
            'SELECT source, "offset", event_time_ms FROM endpoints WHERE server = ? AND name = ?', who
        ).fetchone()
        if applied is not None and not is_newer(
            record, same_source=applied[0] == source, offset=applied[1], event_time_ms=applied[2]
        ):
            return
        columns = endpoint_columns(body) | {
            "source": source,
            "offset": record.offset,
            "event_time_ms": record.timestamp,
        }
        names = ", ".join(f'"{name}"' for name in columns)
        marks = ", ".join("?" * len(columns))
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in columns)
        db.execute("INSERT INTO servers VALUES (?) ON CONFLICT DO NOTHING", (body.server_id,))
        db.execute(
            f"INSERT INTO endpoints (server, name, {names}) VALUES (?, ?, {marks})"
            f" ON CONFLICT (server, name) DO UPDATE SET {changes}",
            (*who, *columns.values()),
        )
        if isinstance(body, RegistrationDelete) or body.links is None:
            return
        root = body.root if isinstance(body, RegistrationNew) else _root(db, who)
        held = held_objects(body.links, root)
        db.execute("DELETE FROM has_object WHERE server = ? AND endpoint = ?", who)
        db.executemany(
            "INSERT INTO objects (id, version, name) VALUES (?, ?, ?)"
            " ON CONFLICT (id, version) DO UPDATE SET name = coalesce(excluded.name, name)",
            sorted({(an_id, version, object_name(self._definitions, an_id, version)) for an_id, version, _ in held}),
        )
        db.executemany("INSERT INTO has_object VALUES (?, ?, ?, ?, ?)", [(*who, *edge) for edge in held])


def _root(db: sqlite3.Connection, who: tuple[str, str]) -> str:
    (root,) = db.execute("SELECT root FROM endpoints WHERE server = ? AND name = ?", who).fetchone()
    return str(root or "/")


def open_sqlite(options: Mapping[str, object]) -> SqliteSink:
    """The sink of `KIND`. A file that cannot be opened now is tried again by the first write.

    Raises:
        SinkConfigError: wrong options, or the file is something else.
    """
    sink = SqliteSink(parse_options("sqlite", SqliteOptions, options))
    with suppress(RetryLater):
        sink.connect()
    return sink


KIND = SinkKind(
    name="sqlite",
    open=open_sqlite,
    topics=(TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.REPLIES, TopicKind.JOINED),
    corrects=True,
    sample_config="""\
# History and the asset graph in one SQLite file.
[sqlite]
# The database file; it and its folder are created if they are missing. Several sinks may write the same file.
file = "headwater.db"
# The file grows no further than this many megabytes; the sink then waits, and nothing is lost. Default: no limit.
# max_size_mb = 2048
# A folder of OMA LwM2M XML files, for the names of objects beyond the built-in ones.
# definitions = "objects/"
""",
)
