"""The OrientDB sink: the asset graph of servers, endpoints and objects, to be walked with SQL or Gremlin.

Owns the database's classes (`connectors.sinks.orientdb_graph`) and the order of a write. Deletes no endpoint.

The steps for some `CHUNK` endpoints, in one transaction of OrientDB:

 1. read     their vertices: the place in Kafka of the last event that was applied, and the version
 2. fold     the events that are newer (`connectors.sinks.graph.is_newer`) into one change an endpoint
 3. write    it under the condition that the vertex still has that version

So a record that comes again changes nothing, and of two writers with the same endpoint one starts again from step 1.

OrientDB acknowledges a transaction before it is on its disk (see `SETTLE_S`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from connectors.sinks import orientdb_graph as sql
from connectors.sinks.graph import Event, object_name
from connectors.sinks.options import object_definitions, parse_options
from connectors.sinks.orientdb_client import BinaryClient, Client, OrientError, OrientRefused, OrientUnreachable
from connectors.sinks.orientdb_database import ATTEMPTS, NO_ACCESS, Conflict, GraphDatabase, pause
from connectors.sinks.orientdb_http import HttpClient
from connectors.sinks.orientdb_options import OrientdbOptions, Protocol
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from schemas.avro.records import Notification, Registration, Response
from schemas.avro.topics import TopicKind

#: A transaction: so many endpoints, or fewer with so many links.
CHUNK, CHUNK_LINKS = 50, 1_000
#: OrientDB says that a transaction is done up to ``storage.wal.commitTimeout`` (1 s) before its log is on the disk. So
#: what was written in these last seconds, and this is ample, is written again once the server went away and is back.
SETTLE_S = 5.0
#: Making a database takes longer than any other request.
CREATE_S = 30.0

#: What OrientDB says when another writer was faster, or has removed what we knew.
_CONFLICTS = frozenset(
    {
        "OConcurrentModificationException",
        "OConcurrentCreateException",
        "ORecordDuplicatedException",
        "ORecordNotFoundException",
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
#: Says nothing itself: its causes do. Alone it is, for one, an edge to a vertex that is not there any more.
_WRAPPER = "OCommandExecutionException"
_NO_DATABASE = "OStorageDoesNotExistException"


#: The usual port.
_PORTS: Mapping[Protocol, int] = {Protocol.BINARY: 2424, Protocol.HTTP: 2480}


class _Endpoint(NamedTuple):
    """What a batch says about one endpoint, in order."""

    server_id: str
    ep: str
    events: list[tuple[SinkRecord, Event | sql.Facts]]


_Batch = Mapping[str, _Endpoint]


class _Unfit(Exception):
    """OrientDB refuses something for what it holds."""


class OrientdbSink:
    """`connectors.sinks.sink.Sink` on one database."""

    def __init__(self, options: OrientdbOptions) -> None:
        self._options = options
        self._port = options.port or _PORTS[options.protocol]
        self._where = f"OrientDB {options.host}:{self._port}/{options.database}"
        self._definitions = object_definitions("orientdb", options.definitions)
        # What can be read now is looked at now.
        options.secret()
        options.ssl_context()
        self._database: GraphDatabase | None = None
        #: What was written lately, with the (monotonic) time; OrientDB may still forget it.
        self._unsettled: deque[tuple[float, Sequence[SinkRecord]]] = deque()
        self._doubtful = False

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: a transaction for every `CHUNK` endpoints."""
        rejected: list[tuple[SinkRecord, str]] = []
        try:
            if self._doubtful:
                for _, before in self._unsettled:
                    self._write_all(before)
                self._doubtful = False
            rejected = self._write_all(records)
        except OrientUnreachable as exc:
            self.close()
            self._doubtful = True
            raise RetryLater(f"{self._where}: {exc}") from exc
        except OrientRefused as exc:
            self.close()
            raise RetryLater(f"{self._where} refuses: {exc}") from exc
        now = time.monotonic()
        self._unsettled.append((now, tuple(records)))
        while self._unsettled[0][0] < now - SETTLE_S:
            self._unsettled.popleft()
        if rejected:
            raise RejectedRecords(rejected)

    def _write_all(self, records: Sequence[SinkRecord]) -> list[tuple[SinkRecord, str]]:
        batch, rejected = _by_endpoint(records)
        for chunk in _chunks(batch):
            rejected += self._write(chunk)
        return rejected

    def close(self) -> None:
        """See `Sink.close`."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def connect(self) -> GraphDatabase:
        """The open database; if there is none, it is opened, and made with its classes if need be.

        Raises:
            RetryLater: not now. SinkConfigError: pyorient is missing.
        """
        if self._database is not None:
            return self._database
        database = GraphDatabase(self._opened())
        try:
            database.prepare()
        except BaseException as exc:
            database.close()
            if isinstance(exc, OrientRefused) and exc.names & NO_ACCESS:
                raise RetryLater(
                    f"{self._where}: the user {self._options.user} may not make the classes;"
                    " `headwater stores orientdb` makes them"
                ) from exc
            if isinstance(exc, OrientError):
                raise RetryLater(f"{self._where}: {exc}") from exc
            raise
        self._database = database
        return database

    def _opened(self) -> Client:
        options = self._options
        client = self._new_client(options.timeout_s)
        try:
            try:
                client.open()
            except OrientRefused as exc:
                client.close()
                if _NO_DATABASE not in exc.names:
                    raise
                client = self._new_client(max(CREATE_S, options.timeout_s))
                client.create()
        except OrientError as exc:
            client.close()
            if isinstance(exc, OrientRefused) and exc.names & NO_ACCESS:
                raise RetryLater(
                    f"{self._where}: it refuses the user {options.user} with this password; where the database does"
                    " not exist, it takes a user of the server to make it"
                ) from exc
            raise RetryLater(f"{self._where}: {exc}") from exc
        return client

    def _new_client(self, timeout: float) -> Client:
        options = self._options
        try:
            password, tls = options.secret(), options.ssl_context()
        except SinkConfigError as exc:
            # They could be read when the sink was opened: somebody is changing it.
            raise RetryLater(str(exc)) from exc
        client = BinaryClient if options.protocol is Protocol.BINARY else partial(HttpClient, tls=tls)
        return client(
            host=options.host,
            port=self._port,
            database=options.database,
            user=options.user,
            password=password,
            timeout=timeout,
        )

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
            except Conflict:
                refusal = None
                if self._database is not None:
                    self._database.forget()
            except OrientRefused as exc:
                # What became of a transaction that broke off is the server's affair: start with a new session.
                self.close()
                names = exc.names - {_WRAPPER}
                if names & _ABOUT_RECORDS:
                    raise _Unfit(str(exc)) from exc
                if names and not names & _CONFLICTS:
                    raise
                refusal = None if names else exc
            pause(attempt)
        if refusal is not None:
            raise _Unfit(str(refusal))
        raise RetryLater(f"{self._where}: other writers change the same endpoints all the time")

    def _try(self, batch: _Batch) -> None:
        database = self.connect()
        known = database.endpoints(batch)
        changes = {name: sql.fold(known.get(name), endpoint.events) for name, endpoint in batch.items()}
        changes = {name: change for name, change in changes.items() if change.properties}
        if not changes:
            return
        database.trim()
        database.ensure(
            "Servers", {sql.identity(batch[n].server_id): {"serverId": batch[n].server_id} for n in changes}
        )
        database.ensure("Objects", self._objects(held for change in changes.values() for held in change.held or ()))
        edges = database.edges([known[n].rid for n, one in changes.items() if n in known and one.held is not None])
        changed: list[tuple[str, str, int]] = []
        statements: list[str] = []
        abandoned: set[str] = set()
        for number, (name, change) in enumerate(changes.items()):
            server_id, ep, _ = batch[name]
            wanted = {(database.rid(sql.identity(an_id, version)), at) for an_id, version, at in change.held or ()}
            if name not in known:
                content = {"name": ep, "identity": name, **change.properties}
                statements.append(sql.creation(number, content, database.rid(sql.identity(server_id)), wanted))
                continue
            rid = known[name].rid
            changed.append((sql.update(rid, change.properties), rid, known[name].version))
            has = edges.get(rid, {})
            gone = [edge for edge, what in has.items() if what not in wanted]
            abandoned |= {has[edge][0] for edge in gone}
            statements.append(sql.edges(rid, wanted.difference(has.values()), gone))
        database.transact(statements, changed)
        if abandoned:
            self._remove(database, abandoned)

    def _remove(self, database: GraphDatabase, abandoned: set[str]) -> None:
        try:
            database.remove_objects(abandoned)
        except OrientRefused:
            # Somebody has just got one of them, or removed it too. One that stays for nobody does no harm.
            self.close()

    def _objects(self, held: Iterable[sql.Held]) -> dict[str, dict[str, object]]:
        return {
            sql.identity(an_id, version): {
                "id": an_id,
                "version": version,
                "name": object_name(self._definitions, an_id, version),
            }
            for an_id, version, _ in held
        }


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


def _chunks(batch: _Batch) -> Iterator[_Batch]:
    chunk: dict[str, _Endpoint] = {}
    links = 0
    for name, endpoint in batch.items():
        here = max(len(getattr(event, "links", None) or ()) for _, event in endpoint.events)
        if chunk and (len(chunk) == CHUNK or links + here > CHUNK_LINKS):
            yield chunk
            chunk, links = {}, 0
        chunk[name] = endpoint
        links += here
    if chunk:
        yield chunk


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
    library="pyorient",
    sample_config="""\
# The asset graph in an OrientDB database.
[orientdb]
# Where OrientDB listens.
host = "127.0.0.1"
# "binary" (with pyorient), or "http", which is faster.
protocol = "binary"
# Default: 2424 for binary, 2480 for http.
# port = 2424
# It is made if it does not exist and the user may, and so are its classes.
database = "headwater"
# A user of the database, or of the server; there is no default.
user = "headwater"
# The password stands alone in this file, or here as: password = "..."
password_file = "/run/secrets/orientdb_password"
# Whether TLS is spoken, which only "http" can; the certificate must be of the name by which OrientDB is reached here.
# tls = false
# A file with the certificates (PEM) of those who may have signed OrientDB's. Default: the system's.
# ca_file = "ca.pem"
# How long to wait for each answer, in seconds.
timeout_s = 5.0
# A folder of OMA LwM2M XML files, for the names of objects beyond the built-in ones.
# definitions = "objects/"
""",
)
