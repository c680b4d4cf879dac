"""The Cassandra sink: history in buckets of a day or an hour, latest values, readings, and the asset graph's tables.

Owns what of a batch is written, and that only the guilty of it are refused. The tables are
`connectors.sinks.cassandra_tables`, the connection is `connectors.sinks.cassandra_session`. Deletes no history.

Nothing is read before it is written, and no statement waits for another: a row of history is the same however often it
is written, and where a later record replaces an earlier one the write timestamp says which is which. The only thing
read is where the objects of an endpoint begin (its alternate path), because an update does not say it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from connectors.sinks import cassandra_tables as cql
from connectors.sinks.cassandra_options import CassandraOptions
from connectors.sinks.cassandra_session import CassandraSession, Refused, Unavailable, bound, check_driver
from connectors.sinks.graph import Event, held_objects, object_name
from connectors.sinks.options import object_definitions, parse_options
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from schemas.avro.analytics_records import EnrichedReading
from schemas.avro.records import Notification, Registration, RegistrationDelete, RegistrationNew, Response
from schemas.avro.topics import TopicKind
from schemas.lwm2m.objects import Definitions

if TYPE_CHECKING:
    from cassandra.query import PreparedStatement


class _Statements(NamedTuple):
    """Prepared for this session."""

    history: PreparedStatement
    reading: PreparedStatement
    latest: PreparedStatement
    endpoint: PreparedStatement
    root: PreparedStatement
    delete_objects: PreparedStatement
    object: PreparedStatement


class CassandraSink:
    """`connectors.sinks.sink.Sink` on one keyspace."""

    def __init__(self, options: CassandraOptions) -> None:
        self._options = options
        self._where = f"Cassandra at {', '.join(options.contact_points)}, keyspace {options.keyspace}"
        self._definitions = object_definitions("cassandra", options.definitions)
        check_driver()
        # What can be read now is looked at now.
        options.secret()
        options.ssl_context()
        self._open: tuple[CassandraSession, _Statements] | None = None

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: as many statements at once as the option says."""
        rejected: dict[int, str] = {}
        try:
            session, prepared = self._connection()
            made = _Batch(prepared, self._options, self._definitions, session)
            owners: list[int] = []

            def statements() -> Iterator[Any]:
                for number, statement in made.statements(records, rejected):
                    owners.append(number)
                    yield statement

            for place, refusal in session.write(statements()).items():
                rejected.setdefault(owners[place], f"Cassandra: {refusal}")
        except Unavailable as exc:
            # What became of the connections is the driver's affair: start with new ones.
            self.close()
            raise RetryLater(f"{self._where}: {exc}") from exc
        if rejected:
            raise RejectedRecords([(records[number], rejected[number]) for number in sorted(rejected)])

    def close(self) -> None:
        """See `Sink.close`."""
        opened, self._open = self._open, None
        if opened is not None:
            opened[0].close()

    def connect(self) -> tuple[CassandraSession, _Statements]:
        """Open a session; the keyspace and its tables are made if they are missing.

        Raises:
            Unavailable: not now. SinkConfigError: the tables are none of ours.
        """
        session = CassandraSession(self._options)
        try:
            self._open = (
                session,
                _Statements(
                    *map(
                        session.prepare,
                        (
                            cql.insert_history(self._options.bucket),
                            cql.insert_reading(self._options.bucket),
                            cql.INSERT_LATEST,
                            cql.INSERT_ENDPOINT,
                            cql.SELECT_ROOT,
                            cql.DELETE_OBJECTS,
                            cql.INSERT_OBJECT,
                        ),
                    )
                ),
            )
        except BaseException:
            session.close()
            raise
        return self._open

    def _connection(self) -> tuple[CassandraSession, _Statements]:
        if self._open is not None:
            return self._open
        try:
            # They were there when we began; somebody is changing them.
            self._options.secret()
            self._options.ssl_context()
        except SinkConfigError as exc:
            raise RetryLater(str(exc)) from exc
        return self.connect()


class _Batch:
    """The statements of one batch."""

    def __init__(
        self, prepared: _Statements, options: CassandraOptions, definitions: Definitions, session: CassandraSession
    ) -> None:
        from cassandra.query import UNSET_VALUE

        self._prepared, self._options, self._definitions, self._session = prepared, options, definitions, session
        self._unset = UNSET_VALUE
        #: Of the endpoints that this batch registers: the alternate path.
        self._roots: dict[tuple[str, str], str] = {}

    def statements(self, records: Sequence[SinkRecord], rejected: dict[int, str]) -> Iterator[tuple[int, Any]]:
        """Each with the number of its record; a record that has no form in Cassandra goes to ``rejected``."""
        latest: dict[tuple[str, str, str], tuple[int, tuple[object, ...]]] = {}
        for number in _by_partition(records):
            record = records[number]
            try:
                match record.record:
                    case Notification() | Response() as said:
                        rows = cql.history_rows(record, said, self._options.bucket, self._options.ttl_s, self._unset)
                        made = [bound(self._prepared.history, row) for row in rows.history]
                        for series, row in rows.latest.items():
                            before = latest.get(series)
                            if before is None or not cql.newer(before[1], int(str(row[-1]))):
                                latest[series] = number, row
                    case EnrichedReading() as reading:
                        row = cql.reading_row(record, reading, self._options.bucket, self._options.ttl_s)
                        made = [bound(self._prepared.reading, row)]
                    case Registration(body=body):
                        made = self._registration(record, body)
                    case other:
                        rejected[number] = f"a {type(other).__name__} is nothing that this store keeps"
                        continue
            except (Refused, cql.Unkeepable) as exc:
                rejected[number] = str(exc)
                continue
            for statement in made:
                yield number, statement
        for number, row in latest.values():
            yield number, bound(self._prepared.latest, row)

    def _registration(self, record: SinkRecord, body: Event) -> list[Any]:
        row = cql.endpoint_row(record, body, self._unset)
        made: list[Any] = [bound(self._prepared.endpoint, row)]
        who = (record.gateway, body.ep)
        if isinstance(body, RegistrationNew):
            self._roots[who] = body.root
        if isinstance(body, RegistrationDelete) or body.links is None:
            return made
        held = held_objects(body.links, self._root(who))
        return [*made, self._objects(who, held, cql.write_timestamp(record.timestamp, record.offset))]

    def _objects(self, who: tuple[str, str], held: Sequence[tuple[int, str, int | None]], at: int) -> Any:
        """All objects of an endpoint at once: one partition, so Cassandra makes one mutation of it."""
        from cassandra.query import BatchStatement, BatchType

        batch = BatchStatement(BatchType.UNLOGGED)
        batch.add(bound(self._prepared.delete_objects, (at, *who)))
        for object_id, version, instance in held:
            name = object_name(self._definitions, object_id, version)
            at_instance = cql.NO_INSTANCE if instance is None else instance
            # A deletion goes before a row of the same timestamp.
            batch.add(bound(self._prepared.object, (*who, object_id, version, at_instance, name, at + 1)))
        return batch

    def _root(self, who: tuple[str, str]) -> str:
        if who not in self._roots:
            rows = self._session.rows(self._prepared.root, who)
            self._roots[who] = str((rows[0].root if rows else None) or "/")
        return self._roots[who]


def _by_partition(records: Sequence[SinkRecord]) -> list[int]:
    """Their numbers: rows of one partition behind one another, as of those in one request Cassandra makes one mutation.

    Registrations stay in their order.
    """

    def partition(number: int) -> tuple[str, str]:
        said = records[number].record
        return (said.ep, said.path) if isinstance(said, (Notification, Response, EnrichedReading)) else ("", "")

    return sorted(range(len(records)), key=partition)


def open_cassandra(options: Mapping[str, object]) -> CassandraSink:
    """The sink of `KIND`. A Cassandra that does not answer now is tried again by the first write.

    Raises:
        SinkConfigError: wrong options, cassandra-driver is not installed, or the keyspace has other tables.
    """
    sink = CassandraSink(parse_options("cassandra", CassandraOptions, options))
    with suppress(Unavailable):
        sink.connect()
    return sink


KIND = SinkKind(
    name="cassandra",
    open=open_cassandra,
    topics=(TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.REPLIES, TopicKind.READINGS, TopicKind.JOINED),
    library="cassandra",
    sample_config="""\
# History, latest values, enriched readings and the asset graph in Apache Cassandra.
[cassandra]
# Where the first of Cassandra's nodes answer, each with its port if it is not 9042; the others are found through them.
contact_points = ["127.0.0.1"]
# The datacenter whose nodes are written to. Default: that of the first node that answers.
# datacenter = "datacenter1"
# It is made if it does not exist and the user may, and so are its tables. Lower case.
keyspace = "headwater"
# Of a keyspace that is made: how many nodes have each row, in every datacenter, or of each: { east = 3, west = 2 }
# replication = 1
# How many of them must have it before it counts: ONE, LOCAL_ONE, TWO, THREE, QUORUM, LOCAL_QUORUM, EACH_QUORUM, ALL.
# consistency = "LOCAL_QUORUM"
# How long a partition of history lasts: "day" or "hour"; an hour for values that come many times a second.
# bucket = "day"
# How many days history is kept. Default: for ever.
# ttl_days = 365
# Default: none, for a Cassandra that asks for none.
# user = "headwater"
# The password stands alone in this file, or here as: password = "..."
# password_file = "/run/secrets/cassandra_password"
# Whether TLS is spoken; the node's certificate must be of the name or address by which it is reached.
# tls = false
# A file with the certificates (PEM) of those who may have signed the nodes'. Default: the system's.
# ca_file = "ca.pem"
# A certificate of our own (PEM) and its key, for a Cassandra that asks for one.
# cert_file = "headwater.pem"
# key_file = "headwater.key"
# How long Cassandra may take for an answer, in seconds.
# timeout_s = 10
# How many requests are under way at once, and how many rows of the same node go together in one.
# concurrency = 32
# batch_rows = 32
# A folder of OMA LwM2M XML files, for the names of objects beyond the built-in ones.
# definitions = "objects/"
""",
)
