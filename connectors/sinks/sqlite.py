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

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath

from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from schemas.avro.records import (
    CreateBody,
    DiscoverBody,
    GenericBody,
    Link,
    Notification,
    ReadBody,
    Registration,
    RegistrationDelete,
    RegistrationNew,
    RegistrationUpdate,
    Response,
    ResponseBody,
)
from schemas.avro.topics import TopicKind
from schemas.lwm2m.nodes import ObjectLink, Resource, values
from schemas.lwm2m.objects import DefinitionError, Definitions
from schemas.lwm2m.path import Path, PathError

#: ``PRAGMA application_id`` and ``user_version`` of our files: "HWTR", and the number of `MIGRATIONS` applied.
APPLICATION_ID = 0x48575452

#: How long another writer of the same file may hold us up; below what a drain at shutdown may take.
BUSY_S = 3.0

#: The schema, as steps: a file is brought from its ``user_version`` to the length of this list. Steps are only added.
MIGRATIONS = (
    """
    CREATE TABLE sources (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, "partition" INTEGER NOT NULL,
        UNIQUE (topic, "partition"));

    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        server TEXT NOT NULL, ep TEXT NOT NULL, path TEXT NOT NULL,
        type TEXT,
        number, text TEXT, bool INTEGER, blob BLOB,
        device_time_ms INTEGER, gateway_time_ms INTEGER NOT NULL,
        kind TEXT NOT NULL, code TEXT NOT NULL, ticket TEXT NOT NULL, observation_id TEXT,
        late INTEGER NOT NULL,
        source INTEGER NOT NULL REFERENCES sources (id), "offset" INTEGER NOT NULL, position INTEGER NOT NULL,
        value AS (coalesce(number, text, bool, blob)),
        UNIQUE (source, "offset", gateway_time_ms, position));
    CREATE INDEX history_of_path ON history (ep, path, gateway_time_ms, "offset");

    CREATE TABLE series (server TEXT, ep TEXT, path TEXT, PRIMARY KEY (server, ep, path)) WITHOUT ROWID;
    CREATE VIEW latest AS
        SELECT h.server, h.ep, h.path, h.type, h.value, h.device_time_ms, h.gateway_time_ms, h.kind, h.ticket,
            h.observation_id
        FROM series s JOIN history h ON h.id = coalesce(
            (SELECT id FROM history WHERE ep = s.ep AND path = s.path AND server = s.server AND type IS NOT NULL
                AND late = 0 ORDER BY gateway_time_ms DESC, "offset" DESC, position DESC LIMIT 1),
            (SELECT id FROM history WHERE ep = s.ep AND path = s.path AND server = s.server AND type IS NOT NULL
                ORDER BY gateway_time_ms DESC, "offset" DESC, position DESC LIMIT 1));

    CREATE TABLE servers (server_id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE endpoints (
        server TEXT NOT NULL REFERENCES servers (server_id), name TEXT NOT NULL,
        reg_date INTEGER, reg_id TEXT, reg_address TEXT, reg_port INTEGER, address TEXT, port INTEGER,
        lt INTEGER, expired INTEGER NOT NULL, ver TEXT, bnd TEXT, reg_last_update INTEGER, online INTEGER NOT NULL,
        sms TEXT, attributes TEXT, root TEXT, links TEXT,
        source INTEGER NOT NULL REFERENCES sources (id), "offset" INTEGER NOT NULL, event_time_ms INTEGER NOT NULL,
        PRIMARY KEY (server, name));
    CREATE TABLE objects (id INTEGER NOT NULL, version TEXT NOT NULL, name TEXT, PRIMARY KEY (id, version));
    CREATE TABLE has_object (
        server TEXT NOT NULL, endpoint TEXT NOT NULL, object_id INTEGER NOT NULL, object_version TEXT NOT NULL,
        instance INTEGER,
        FOREIGN KEY (server, endpoint) REFERENCES endpoints (server, name),
        FOREIGN KEY (object_id, object_version) REFERENCES objects (id, version));
    CREATE INDEX has_object_from ON has_object (server, endpoint);
    CREATE INDEX has_object_to ON has_object (object_id, object_version);
    CREATE VIEW has_endpoint AS SELECT server, name AS endpoint FROM endpoints;
    CREATE VIEW online_endpoints AS SELECT * FROM endpoints WHERE online = 1;
    """,
)

# DO NOTHING and not OR IGNORE: that would swallow any constraint, not only the identity.
_INSERT_HISTORY = """
    INSERT INTO history (server, ep, path, type, number, text, bool, blob, device_time_ms, gateway_time_ms, kind, code,
        ticket, observation_id, late, source, "offset", position)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""

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

_NO_VALUE = (None, None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    """The options of the sink, checked."""

    file: FilePath
    max_size_mb: float | None = None
    definitions: FilePath | None = None

    @staticmethod
    def parse(options: Mapping[str, object]) -> SqliteOptions:
        """Raises SinkConfigError: an option is unknown, missing or not of its type."""
        unknown = set(options) - {"file", "max_size_mb", "definitions"}
        if unknown:
            raise SinkConfigError(
                f"the SQLite sink has no option {min(unknown)!r}; it has file, max_size_mb, definitions"
            )
        file, size, folder = options.get("file"), options.get("max_size_mb"), options.get("definitions")
        if not isinstance(file, str | FilePath) or not str(file):
            raise SinkConfigError("the SQLite sink needs the option file: where the database is, or is to be")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | float) or not size > 0):
            raise SinkConfigError(f"max_size_mb of the SQLite sink is a number above 0, not {size!r}")
        if folder is not None and not isinstance(folder, str | FilePath):
            raise SinkConfigError(f"definitions of the SQLite sink is a folder, not {folder!r}")
        return SqliteOptions(
            file=FilePath(file), max_size_mb=size, definitions=None if folder is None else FilePath(folder)
        )


class SqliteSink:
    """`connectors.sinks.sink.Sink` on one SQLite file."""

    def __init__(self, options: SqliteOptions) -> None:
        self._options = options
        self._definitions = Definitions.builtin()
        if options.definitions is not None:
            try:
                self._definitions = self._definitions.load_folder(options.definitions)
            except DefinitionError as exc:
                raise SinkConfigError(str(exc)) from exc
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
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise SinkConfigError(f"{file} is a SQLite database of something else; choose another file")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -16384")
        if self._options.max_size_mb is not None:
            (page,) = db.execute("PRAGMA page_size").fetchone()
            pages = max(1, int(self._options.max_size_mb * 1024 * 1024 / page))
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
        graph = False
        for record in records:
            source = self._source(db, record)
            match record.record:
                case Notification() | Response():
                    rows.extend(_history_rows(record, record.record, source))
                case Registration(body=body):
                    graph = True
                    self._register(db, record, body, source)
                case other:
                    raise TypeError(f"a {type(other).__name__} is nothing that this store keeps")
        if rows:
            db.executemany(_INSERT_HISTORY, rows)
            if len(self._series) > 100_000:
                self._series.clear()
            fresh = {(row[0], row[1], row[2]) for row in rows if row[3] is not None} - self._series
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
        body: RegistrationNew | RegistrationUpdate | RegistrationDelete,
        source: int,
    ) -> None:
        who = (body.server_id, body.ep)
        applied = db.execute(
            'SELECT source, "offset", event_time_ms FROM endpoints WHERE server = ? AND name = ?', who
        ).fetchone()
        if applied is not None and _is_stale(applied, source, record):
            return
        columns = _endpoint_columns(body) | {
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
        held = _held_objects(body.links, root)
        db.execute("DELETE FROM has_object WHERE server = ? AND endpoint = ?", who)
        db.executemany(
            "INSERT INTO objects (id, version, name) VALUES (?, ?, ?)"
            " ON CONFLICT (id, version) DO UPDATE SET name = coalesce(excluded.name, name)",
            sorted({(an_id, version, self._object_name(an_id, version)) for an_id, version, _ in held}),
        )
        db.executemany("INSERT INTO has_object VALUES (?, ?, ?, ?, ?)", [(*who, *edge) for edge in held])

    def _object_name(self, object_id: int, version: str) -> str | None:
        # The name does not change with the version, so a version that no definition knows still has one.
        known = self._definitions.object(object_id, version) or self._definitions.object(object_id)
        return known.name if known else None


def _is_stale(applied: tuple[int, int, int], source: int, record: SinkRecord) -> bool:
    """Whether what is applied is newer than, or the same as, ``record``.

    The same endpoint is always on the same partition, so offsets decide. An offset that is lower while the time is
    later is a topic that was made anew; another partition, one whose partitions were increased: there, time decides.
    """
    applied_source, applied_offset, applied_time = applied
    if source == applied_source:
        return record.offset <= applied_offset and record.timestamp <= applied_time
    return record.timestamp < applied_time


def _endpoint_columns(body: RegistrationNew | RegistrationUpdate | RegistrationDelete) -> dict[str, object]:
    """What an event says about the endpoint; NEW says everything, the others only what they carry."""
    match body:
        case RegistrationNew():
            return {
                "reg_date": body.reg_date,
                "reg_id": body.reg_id,
                "reg_address": body.reg_addr,
                "reg_port": body.reg_port,
                "address": body.address,
                "port": body.port,
                "lt": body.lt,
                "expired": 0,
                "ver": body.ver,
                "bnd": body.bnd.value,
                "reg_last_update": body.last_up,
                "online": 1,
                "sms": body.sms,
                "attributes": None if body.attributes is None else _json(dict(body.attributes)),
                "root": body.root,
                "links": _links_json(body.links),
            }
        case RegistrationUpdate():
            carried = {
                "lt": body.lt,
                "bnd": None if body.bnd is None else body.bnd.value,
                "sms": body.sms,
                "attributes": None if body.attributes is None else _json(dict(body.attributes)),
                "links": None if body.links is None else _links_json(body.links),
            }
            return {
                "reg_id": body.reg_id,
                "address": body.address,
                "port": body.port,
                "reg_last_update": body.last_up,
                "expired": 0,
                "online": 1,
            } | {name: value for name, value in carried.items() if value is not None}
        case RegistrationDelete():
            return {"expired": int(body.expired), "online": 0, "reg_last_update": body.last_up}


def _root(db: sqlite3.Connection, who: tuple[str, str]) -> str:
    (root,) = db.execute("SELECT root FROM endpoints WHERE server = ? AND name = ?", who).fetchone()
    return str(root or "/")


def _held_objects(links: Sequence[Link], root: str) -> list[tuple[int, str, int | None]]:
    """(object id, version, instance id) of each object link, below ``root``; other links are no objects.

    An object without a ``ver`` attribute is version 1.0 (OMA LwM2M Core 1.1, section 7.2.2); one without instances has
    a row of its own with the instance None.
    """
    prefix = root.rstrip("/")
    versions: dict[int, str] = {}
    found: dict[int, set[int]] = {}
    for link in links:
        if prefix and not link.url.startswith(f"{prefix}/"):
            continue
        try:
            path = Path.parse(link.url.removeprefix(prefix))
        except PathError:
            continue
        if path.object_id is None:
            continue
        instances = found.setdefault(path.object_id, set())
        if path.instance_id is not None:
            instances.add(path.instance_id)
        if "ver" in link.at:
            versions[path.object_id] = link.at["ver"].strip('"')
    held: list[tuple[int, str, int | None]] = []
    for object_id, instances in sorted(found.items()):
        version = versions.get(object_id, "1.0")
        held.extend((object_id, version, instance) for instance in sorted(instances))
        if not instances:
            held.append((object_id, version, None))
    return held


def _history_rows(record: SinkRecord, said: Notification | Response, source: int) -> Iterator[tuple[object, ...]]:
    observation = said.observation_id if isinstance(said, Notification) else None
    # The kind of an answer to a command, the late mark of a notification that was overtaken on its way.
    common = (said.rep.kind.value, said.rep.code.value, said.ticket, observation, int(record.header("late") == b"1"))
    place = (source, record.offset)
    body = said.rep.body
    content = values(body.content) if isinstance(body, ReadBody) else []
    for position, value in enumerate(content):
        yield (
            said.server_id,
            said.ep,
            str(value.path),
            value.type.value,
            *_typed(value),
            value.timestamp,
            said.timestamp,
            *common,
            *place,
            position,
        )
    if not content:
        # No value but words, or not even these: what happened is still kept.
        text = (None, _words(body), None, None)
        yield (said.server_id, said.ep, said.path, None, *text, None, said.timestamp, *common, *place, 0)


def _words(body: ResponseBody | None) -> str | None:
    match body:
        case GenericBody(message=text) | DiscoverBody(object_links=text) | CreateBody(location=text):
            return text
    return None


def _typed(resource: Resource) -> tuple[object, object, object, object]:
    """The columns (number, text, bool, blob), one of which is set."""
    match resource.value:
        case bool(flag):
            return None, None, int(flag), None
        case float(number) if math.isnan(number):
            # SQLite has no NaN: it would turn into NULL, "no value".
            return None, "NaN", None, None
        case int() | float():
            return resource.value, None, None, None
        case bytes(data):
            return None, None, None, data
        case ObjectLink():
            return None, str(resource.value), None, None
        case str(text):
            return None, text, None, None
    raise TypeError(f"{resource.path}: a {type(resource.value).__name__} is no LwM2M value")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _links_json(links: Sequence[Link]) -> str:
    return json.dumps([{"url": link.url, "at": dict(link.at)} for link in links], ensure_ascii=False)


def open_sqlite(options: Mapping[str, object]) -> SqliteSink:
    """The sink of `KIND`. A file that cannot be opened now is tried again by the first write.

    Raises:
        SinkConfigError: wrong options, or the file is something else.
    """
    sink = SqliteSink(SqliteOptions.parse(options))
    with suppress(RetryLater):
        sink.connect()
    return sink


KIND = SinkKind(
    name="sqlite",
    open=open_sqlite,
    topics=(TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.REPLIES),
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
