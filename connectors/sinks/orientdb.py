"""The OrientDB sink: the asset graph of servers, endpoints and objects, to be walked with SQL or Gremlin.

Owns the database's classes (`connectors.sinks.orientdb_graph`) and the order of a write. Deletes no endpoint.

The steps for some `CHUNK` endpoints, in one transaction of OrientDB:

 1. read     their vertices: the place in Kafka of the last event that was applied, and the version
 2. fold     the events that are newer (`connectors.sinks.graph.is_newer`) into one change an endpoint
 3. write    it under the condition that the vertex still has that version

So a record that comes again changes nothing, and of two writers with the same endpoint one starts again from step 1.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path as FilePath
from typing import NamedTuple

from pydantic import Field, SecretStr, model_validator

from connectors.sinks import orientdb_graph as sql
from connectors.sinks.graph import Event, object_name
from connectors.sinks.options import SinkOptions, parse_options
from connectors.sinks.orientdb_client import BinaryClient, OrientError, OrientRefused, OrientUnreachable
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from schemas.avro.records import Notification, Registration, Response
from schemas.avro.topics import TopicKind
from schemas.lwm2m.objects import DefinitionError, Definitions

#: Endpoints a transaction.
CHUNK = 50
#: How often a transaction that met another writer's is tried, and the wait between, at most doubled each time.
ATTEMPTS, PAUSE_S = 8, 0.02
#: Making a database takes longer than any other request.
CREATE_S = 30.0
#: Vertices of servers and objects that are known by heart.
REMEMBERED = 50_000

#: What OrientDB says when another writer was faster, or has removed what we knew.
_CONFLICTS = frozenset(
    {
        "OConcurrentModificationException",
        "OConcurrentCreateException",
        "ORecordDuplicatedException",
        "ORecordNotFoundException",
        "OCommandExecutionException",
        "ONeedRetryException",
    }
)
#: What it says about a value.
_ABOUT_RECORDS = frozenset(
    {
        "OValidationException",
        "OTooBigIndexKeyException",
        "OSerializationException",
        "IllegalArgumentException",
        "NumberFormatException",
        "ClassCastException",
    }
)
_NO_DATABASE = "OStorageDoesNotExistException"
_NO_ACCESS = frozenset({"OSecurityAccessException", "OSecurityException"})


class OrientdbOptions(SinkOptions):
    """The options of the sink."""

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(2424, ge=1, le=65535)
    database: str = Field("headwater", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    user: str = Field(min_length=1, description="a user of the database, or of the server")
    password: SecretStr | None = None
    password_file: FilePath | None = None
    timeout_s: float = Field(5.0, ge=0.1, le=100.0)
    definitions: FilePath | None = None

    @model_validator(mode="after")
    def _one_password(self) -> OrientdbOptions:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("it needs password or password_file, and not both")
        return self

    def secret(self) -> str:
        """The password, from its file if it is in one.

        Raises:
            SinkConfigError: the file cannot be read.
        """
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else ""
        try:
            return self.password_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, ValueError) as exc:
            raise SinkConfigError(f"password_file of the sink orientdb: {exc}") from exc


class _Endpoint(NamedTuple):
    """What a batch says about one endpoint, in order."""

    server_id: str
    ep: str
    events: list[tuple[SinkRecord, Event | sql.Facts]]


_Batch = Mapping[str, _Endpoint]


class _Conflict(Exception):
    """Another writer was faster: read again, write again."""


class _Unfit(Exception):
    """OrientDB refuses something for what it holds."""


class OrientdbSink:
    """`connectors.sinks.sink.Sink` on one database."""

    def __init__(self, options: OrientdbOptions) -> None:
        self._options = options
        self._where = f"OrientDB {options.host}:{options.port}/{options.database}"
        self._definitions = Definitions.builtin()
        if options.definitions is not None:
            try:
                self._definitions = self._definitions.load_folder(options.definitions)
            except DefinitionError as exc:
                raise SinkConfigError(str(exc)) from exc
        options.secret()
        self._client: BinaryClient | None = None
        #: Identity to record id of servers and objects that are in the database.
        self._known: dict[str, str] = {}

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: a transaction for every `CHUNK` endpoints."""
        batch, rejected = _by_endpoint(records)
        names = list(batch)
        try:
            for start in range(0, len(names), CHUNK):
                rejected += self._write({name: batch[name] for name in names[start : start + CHUNK]})
        except OrientUnreachable as exc:
            self.close()
            raise RetryLater(f"{self._where}: {exc}") from exc
        except OrientRefused as exc:
            self.close()
            raise RetryLater(f"{self._where} refuses: {exc}") from exc
        if rejected:
            raise RejectedRecords(rejected)

    def close(self) -> None:
        """See `Sink.close`."""
        client, self._client = self._client, None
        self._known.clear()
        if client is not None:
            client.close()

    def connect(self) -> BinaryClient:
        """The connection; if there is none, it is made, and so are the database and its classes if need be.

        Raises:
            RetryLater: not now. SinkConfigError: pyorient is missing, or the password's file.
        """
        if self._client is not None:
            return self._client
        client = self._opened()
        try:
            self._prepare(client)
        except OrientError as exc:
            client.close()
            if isinstance(exc, OrientRefused) and exc.names & _NO_ACCESS:
                raise RetryLater(f"{self._where}: the user {self._options.user} may not make the classes") from exc
            raise RetryLater(f"{self._where}: {exc}") from exc
        except BaseException:
            client.close()
            raise
        self._client = client
        return client

    def _opened(self) -> BinaryClient:
        options = self._options
        login = {"database": options.database, "user": options.user, "password": options.secret()}
        client = BinaryClient(host=options.host, port=options.port, timeout=options.timeout_s, **login)
        try:
            try:
                client.open()
            except OrientRefused as exc:
                client.close()
                if _NO_DATABASE not in exc.names:
                    raise
                client = BinaryClient(
                    host=options.host, port=options.port, timeout=max(CREATE_S, options.timeout_s), **login
                )
                client.create()
        except OrientError as exc:
            client.close()
            if isinstance(exc, OrientRefused) and exc.names & _NO_ACCESS:
                raise RetryLater(
                    f"{self._where}: it refuses the user {options.user} with this password; where the database does"
                    " not exist, it takes a user of the server to make it"
                ) from exc
            raise RetryLater(f"{self._where}: {exc}") from exc
        return client

    @staticmethod
    def _prepare(client: BinaryClient) -> None:
        for attempt in range(ATTEMPTS):
            classes = client.query(
                "SELECT name, properties.name AS fields FROM (SELECT EXPAND(classes) FROM metadata:schema)"
            )
            indexes = client.query("SELECT name FROM (SELECT EXPAND(indexes) FROM metadata:indexmanager)")
            missing = list(
                sql.missing_schema(
                    frozenset(str(row["name"]) for row in classes),
                    frozenset(f"{row['name']}.{field}" for row in classes for field in row.get("fields") or ()),
                    frozenset(str(row["name"]) for row in indexes),
                )
            )
            if not missing:
                return
            try:
                for statement in missing:
                    client.script(statement)
            except OrientRefused as exc:
                # Perhaps another sink makes them right now: look again.
                if exc.names & _NO_ACCESS or attempt == ATTEMPTS - 1:
                    raise
                _pause(attempt)

    def _write(self, batch: _Batch) -> list[tuple[SinkRecord, str]]:
        """Write ``batch``, without what OrientDB refuses, which is returned with its reasons."""
        try:
            self._apply(batch)
        except _Unfit as exc:
            # Something in here cannot be stored. Only now is it worth finding out what.
            rejected: list[tuple[SinkRecord, str]] = []
            for name, (server_id, ep, events) in batch.items():
                if len(batch) == 1 and len(events) == 1:
                    return [(events[0][0], str(exc))]
                parts = [events] if len(batch) > 1 else [[event] for event in events]
                for part in parts:
                    rejected += self._write({name: _Endpoint(server_id, ep, part)})
            return rejected
        return []

    def _apply(self, batch: _Batch) -> None:
        refusal: OrientRefused | None = None
        for attempt in range(ATTEMPTS):
            try:
                self._try(batch)
                return
            except UnicodeEncodeError as exc:
                raise _Unfit(f"a text in it is none: {exc}") from exc
            except _Conflict:
                self._known.clear()
            except OrientRefused as exc:
                # What became of a transaction that broke off is the server's affair: start with a new session.
                self.close()
                if exc.names & _ABOUT_RECORDS:
                    raise _Unfit(str(exc)) from exc
                if not exc.names & _CONFLICTS:
                    raise
                refusal = exc
            _pause(attempt)
        if refusal is not None and refusal.names <= {"OCommandExecutionException"}:
            raise _Unfit(str(refusal))
        raise RetryLater(f"{self._where}: other writers change the same endpoints all the time")

    def _try(self, batch: _Batch) -> None:
        client = self.connect()
        rows = client.query(sql.select_by_identity(sql.FIELDS, "Endpoints", batch))
        known = {str(row["identity"]): sql.Known.from_row(row) for row in rows}
        changes = {name: sql.fold(known.get(name), endpoint.events) for name, endpoint in batch.items()}
        changes = {name: change for name, change in changes.items() if change.properties}
        if not changes:
            return
        self._ensure("Servers", {sql.identity(batch[n].server_id): {"serverId": batch[n].server_id} for n in changes})
        self._ensure("Objects", self._objects(held for change in changes.values() for held in change.held or ()))
        edges = self._edges([known[n].rid for n, change in changes.items() if n in known and change.held is not None])
        statements, abandoned = [], set()
        for number, (name, change) in enumerate(changes.items()):
            wanted = {
                (self._known[sql.identity(an_id, version)], instance) for an_id, version, instance in change.held or ()
            }
            if name not in known:
                server_id, ep, _ = batch[name]
                content = {"name": ep, "identity": name, **change.properties}
                statements.append(
                    sql.creation(number, content, self._known[sql.identity(server_id)], sorted(wanted, key=str))
                )
                continue
            has = edges.get(known[name].rid, {}) if change.held is not None else {}
            gone = [edge for edge, what in has.items() if what not in wanted]
            abandoned |= {has[edge][0] for edge in gone}
            new = sorted(wanted.difference(has.values()), key=str)
            statements.append(sql.change(number, known[name], change.properties, new, gone))
        if client.script(sql.transaction(statements)) == sql.STALE:
            raise _Conflict
        if abandoned:
            self._remove_objects(client, abandoned)

    def _objects(self, held: Iterable[sql.Held]) -> dict[str, dict[str, object]]:
        return {
            sql.identity(an_id, version): {
                "id": an_id,
                "version": version,
                "name": object_name(self._definitions, an_id, version),
            }
            for an_id, version, _ in held
        }

    def _ensure(self, vertex: str, wanted: Mapping[str, Mapping[str, object]]) -> None:
        """Let these servers or objects be in the database and in ``_known``."""
        unknown = {name: content for name, content in wanted.items() if name not in self._known}
        if not unknown:
            return
        if len(self._known) > REMEMBERED:
            self._known.clear()
            unknown = dict(wanted)
        client = self.connect()
        rows = {
            str(row["identity"]): row
            for row in client.query(sql.select_by_identity("@rid AS rid, identity, name", vertex, unknown))
        }
        statements = []
        for name, content in unknown.items():
            if name not in rows:
                statements.append(sql.vertex(vertex, {"identity": name, **content}))
            elif content.get("name") not in (None, rows[name].get("name")):
                # A definition has come since.
                statements.append(sql.renamed(sql.record_id(rows[name]["rid"]), content["name"]))
        if statements:
            client.script(sql.transaction(statements))
            rows = {
                str(row["identity"]): row
                for row in client.query(sql.select_by_identity("@rid AS rid, identity", vertex, unknown))
            }
        for name in unknown:
            if name not in rows:
                raise _Conflict
            self._known[name] = sql.record_id(rows[name]["rid"])

    def _edges(self, endpoints: Sequence[str]) -> dict[str, dict[str, tuple[str, int | None]]]:
        """Endpoint to edge to (object, instance), by record ids."""
        found: dict[str, dict[str, tuple[str, int | None]]] = {}
        if endpoints:
            for row in self.connect().query(sql.select_edges(endpoints)):
                instance = row.get("instance")
                found.setdefault(sql.record_id(row["ofEndpoint"]), {})[sql.record_id(row["rid"])] = (
                    sql.record_id(row["ofObject"]),
                    None if instance is None else int(str(instance)),
                )
        return found

    def _remove_objects(self, client: BinaryClient, abandoned: Iterable[str]) -> None:
        """Remove those of the objects that no endpoint has any more."""
        try:
            client.script(sql.removal(abandoned))
        except OrientRefused:
            # Somebody has just got one of them, or removed it too.
            self.close()
        else:
            # Which of them are gone is not told.
            self._known.clear()


def _by_endpoint(records: Sequence[SinkRecord]) -> tuple[dict[str, _Endpoint], list[tuple[SinkRecord, str]]]:
    """Endpoints by identity, and the records that no store keeps."""
    batch: dict[str, _Endpoint] = {}
    rejected: list[tuple[SinkRecord, str]] = []
    for record in records:
        event: Event | sql.Facts | None
        match record.record:
            case Registration(body=body):
                event = body
            case Notification() | Response():
                event = sql.facts(record, record.record)
            case other:
                rejected.append((record, f"a {type(other).__name__} is nothing that this store keeps"))
                continue
        if event is not None:
            name = sql.identity(event.server_id, event.ep)
            batch.setdefault(name, _Endpoint(event.server_id, event.ep, [])).events.append((record, event))
    return batch, rejected


def _pause(attempt: int) -> None:
    # Different for each writer, so that two of them do not meet again and again.
    time.sleep(random.uniform(0, PAUSE_S * 2**attempt))


def open_orientdb(options: Mapping[str, object]) -> OrientdbSink:
    """The sink of `KIND`. A server that does not answer now is tried again by the first write.

    Raises:
        SinkConfigError: wrong options, or pyorient is not installed.
    """
    sink = OrientdbSink(parse_options("orientdb", OrientdbOptions, options))
    with suppress(RetryLater):
        sink.connect()
    return sink


KIND = SinkKind(
    name="orientdb",
    open=open_orientdb,
    topics=(TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.REPLIES),
    sample_config="""\
# The asset graph in an OrientDB database.
[orientdb]
# Where OrientDB listens for its binary protocol.
host = "127.0.0.1"
port = 2424
# It is made if it does not exist and the user may, and so are its classes.
database = "headwater"
# A user of the database, or of the server; there is no default.
user = "headwater"
# The password stands alone in this file, or here as: password = "..."
password_file = "/run/secrets/orientdb_password"
# How long to wait for each answer, in seconds.
timeout_s = 5.0
# A folder of OMA LwM2M XML files, for the names of objects beyond the built-in ones.
# definitions = "objects/"
""",
)
