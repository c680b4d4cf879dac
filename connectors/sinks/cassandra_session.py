"""A connection to Cassandra: its keyspace and tables made when missing, and many statements under way at once.

Owns the driver, and which of its errors means what. Knows nothing of records.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connectors.sinks.cassandra_options import CassandraOptions, contact_point
from connectors.sinks.cassandra_tables import tables
from connectors.sinks.sink import SinkConfigError

if TYPE_CHECKING:
    from cassandra.cluster import Cluster, Session
    from cassandra.query import BoundStatement, PreparedStatement

#: Making a table takes longer than any other request.
_MAKE_S = 30.0
#: The values of a parcel, in bytes; Cassandra refuses 50 KiB unless its ``batch_size_fail_threshold`` says otherwise,
#: and then its rows go alone.
_PARCEL_BYTES = 16 * 1024
#: How long what a full connection did not take waits, where nothing is under way any more, in seconds.
_FULL_S = 0.01
#: What Cassandra says when a table or the keyspace was dropped under us.
_GONE = re.compile(r"unconfigured table|(table|keyspace) \S+ (does not|doesn't) exist|unknown (table|keyspace)", re.I)


class Unavailable(Exception):
    """Cassandra cannot be written to now; the text says why."""


class Refused(Exception):
    """Cassandra, or the driver, refuses one statement for what it holds."""


def check_driver() -> None:
    """Raises SinkConfigError where the driver is not installed, or has no event loop."""
    try:
        from cassandra import DependencyException
    except ImportError as exc:
        raise SinkConfigError("cassandra-driver is not installed: pip install 'headwater[cassandra]'") from exc
    try:
        import cassandra.cluster  # noqa: F401  # it looks for an event loop when it is imported
    except (ImportError, DependencyException) as exc:
        raise SinkConfigError(
            "cassandra-driver has no event loop here: install one of its wheels, which bring libev,"
            " or libev itself before it is built"
        ) from exc


@dataclass(slots=True)
class _Parcel:
    """Statements that travel together, each with its number; ``size`` is that of their values, in bytes."""

    statements: list[tuple[int, Any]]
    size: int = 0


class _Flight:
    """Parcels under way, a bounded number at once. One that is refused is sent again as its single statements."""

    def __init__(self, session: Session, options: CassandraOptions) -> None:
        self._session, self._number = session, options.concurrency
        self._free = threading.Semaphore(options.concurrency)
        # The driver answers for each of them within the timeout; more time than this is a driver that hangs.
        self._patience = 3 * options.timeout_s + 5
        self._broken: Exception | None = None
        self._split: list[_Parcel] = []
        #: The driver's connection took no more when it was their turn, and why.
        self._left: list[tuple[_Parcel, Exception]] = []
        self._refused: dict[int, Refused] = {}

    def send(self, parcel: _Parcel) -> None:
        """Returns when it is on its way. Raises Unavailable when one before it could not be executed."""
        self._wait()
        if self._broken is not None:
            self._free.release()
            self.land()
        try:
            future = self._session.execute_async(_as_one(parcel))
            future.add_callbacks(self._done, self._failed, errback_args=(parcel,))
        except Exception as exc:  # noqa: BLE001  # whatever the driver raises before anything is on its way
            self._failed(exc, parcel)

    def land(self) -> dict[int, Refused]:
        """Those that were refused, when all have arrived. Raises Unavailable."""
        self._settle()
        until = time.monotonic() + self._patience
        while (self._left or self._split) and self._broken is None:
            again, self._left = self._left, []
            for parcel, _ in again:
                self.send(parcel)
            if self._split:
                for one in self._split.pop().statements:
                    self.send(_Parcel([one]))
            self._settle()
            if len(self._left) < len(again) or not again:
                until = time.monotonic() + self._patience
            elif time.monotonic() > until:
                self._broken = self._left[0][1]
            else:
                time.sleep(_FULL_S)
        if self._broken is not None:
            raise Unavailable(words(self._broken)) from self._broken
        return self._refused

    def _settle(self) -> None:
        for _ in range(self._number):
            self._wait()
        for _ in range(self._number):
            self._free.release()

    def _wait(self) -> None:
        if not self._free.acquire(timeout=self._patience):
            raise Unavailable("the driver does not answer")

    # In the driver's thread.

    def _done(self, _result: object) -> None:
        self._free.release()

    def _failed(self, exc: Exception, parcel: _Parcel) -> None:
        if _is_full(exc):
            self._left.append((parcel, exc))
        elif not _about_the_statement(exc):
            self._broken = exc
        elif len(parcel.statements) > 1:
            self._split.append(parcel)
        else:
            ((number, _),) = parcel.statements
            self._refused[number] = Refused(words(exc))
        self._free.release()


def _as_one(parcel: _Parcel) -> Any:
    from cassandra.query import BatchStatement, BatchType

    if len(parcel.statements) == 1:
        return parcel.statements[0][1]
    batch = BatchStatement(BatchType.UNLOGGED)
    for _, statement in parcel.statements:
        batch.add(statement)
    return batch


class CassandraSession:
    """An open session in the sink's keyspace."""

    def __init__(self, options: CassandraOptions) -> None:
        """Connect.

        Raises:
            Unavailable: not now. SinkConfigError: the password's file or a certificate cannot be read, or the tables
                are none of ours.
        """
        from cassandra.query import BoundStatement

        self._options = options
        self._bound = BoundStatement
        cluster = _cluster(options)
        self._cluster = cluster
        try:
            with _told():
                self._session: Session = cluster.connect()
                self._make_what_is_missing()
                self._session.set_keyspace(options.keyspace)
        except BaseException:
            cluster.shutdown()
            raise

    def close(self) -> None:
        """Never raises."""
        self._cluster.shutdown()

    def prepare(self, cql: str) -> PreparedStatement:
        """Raises Unavailable."""
        with _told():
            return self._session.prepare(cql)

    def rows(self, statement: PreparedStatement, parameters: Sequence[object]) -> list[Any]:
        """What a query answers. Raises Unavailable or Refused."""
        with _told():
            return list(self._session.execute(bound(statement, parameters)))

    def write(self, statements: Iterable[Any]) -> dict[int, Refused]:
        """Execute ``statements``, some at once, and return those (by number) that Cassandra refuses.

        Raises:
            Unavailable: not all of them could be executed now.
        """
        flight = _Flight(self._session, self._options)
        parcels: dict[object, _Parcel] = {}
        for number, statement in enumerate(statements):
            if not isinstance(statement, self._bound):
                flight.send(_Parcel([(number, statement)]))
                continue
            owner = self._owner(statement)
            parcel = parcels.setdefault(owner, _Parcel([]))
            parcel.statements.append((number, statement))
            for value in statement.values:
                if type(value) is bytes:
                    parcel.size += len(value)
            if len(parcel.statements) >= self._options.batch_rows or parcel.size >= _PARCEL_BYTES:
                flight.send(parcels.pop(owner))
        for parcel in parcels.values():
            flight.send(parcel)
        return flight.land()

    def _owner(self, statement: BoundStatement) -> object:
        """The first of the nodes that have the row: what is its own goes there together, and goes no further."""
        replicas = self._cluster.metadata.get_replicas(self._options.keyspace, statement.routing_key)
        return replicas[0] if replicas else None

    def _make_what_is_missing(self) -> None:
        # First a look: a user that may not make anything can still write what is there.
        session, keyspace = self._session, self._options.keyspace
        found = session.execute("SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (keyspace,))
        there = {row.table_name for row in found}
        keyspaces = session.execute(
            "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s", (keyspace,)
        )
        if keyspaces.one() is None:
            session.execute(
                f'CREATE KEYSPACE IF NOT EXISTS "{keyspace}" WITH replication = {_replication(self._options)}',
                timeout=_MAKE_S,
            )
        wanted = tables(self._options.bucket)
        missing = [statement for name, statement in wanted.items() if name not in there]
        if missing:
            session.set_keyspace(keyspace)
            for statement in missing:
                session.execute(statement, timeout=_MAKE_S)
        for name in wanted.keys() & {"history", "readings"} & there:
            columns = session.execute(
                "SELECT column_name FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s",
                (keyspace, name),
            )
            if self._options.bucket.value not in {row.column_name for row in columns}:
                raise SinkConfigError(
                    f"the table {name} of the keyspace {keyspace} has no column {self._options.bucket.value}: it was"
                    " made with another bucket, or by somebody else; change the option bucket, or take another keyspace"
                )


def _cluster(options: CassandraOptions) -> Cluster:
    from cassandra import ConsistencyLevel
    from cassandra.auth import PlainTextAuthProvider
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import ConstantReconnectionPolicy, DCAwareRoundRobinPolicy, TokenAwarePolicy

    log = logging.getLogger("cassandra")
    if log.level == logging.NOTSET:
        # It tells every attempt to reconnect, with a traceback; what is wrong the sink tells itself, once.
        log.setLevel(logging.CRITICAL)
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(local_dc=options.datacenter or "")),
        consistency_level=ConsistencyLevel.name_to_value[options.consistency.value],
        request_timeout=options.timeout_s,
    )
    password = options.secret()
    return Cluster(
        [contact_point(text) for text in options.contact_points],
        auth_provider=PlainTextAuthProvider(options.user, password) if options.user is not None else None,
        ssl_context=options.ssl_context(),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ConstantReconnectionPolicy(1.0, max_attempts=None),
        connect_timeout=options.timeout_s,
        control_connection_timeout=options.timeout_s,
        # One is told of a node in such a time whether it is there, also where nothing is to be written.
        idle_heartbeat_timeout=options.timeout_s,
        monitor_reporting_enabled=False,
    )


def _replication(options: CassandraOptions) -> str:
    how = options.replication
    factors: Mapping[str, int] = {"replication_factor": how} if isinstance(how, int) else how
    return "{'class': 'NetworkTopologyStrategy'" + "".join(f", '{n}': {f}" for n, f in factors.items()) + "}"


def bound(statement: PreparedStatement, parameters: Sequence[object]) -> BoundStatement:
    """Raises Refused for a value that has no form in Cassandra."""
    try:
        return statement.bind(parameters)
    except (TypeError, ValueError, OverflowError) as exc:  # a UnicodeError is a ValueError
        raise Refused(_short(str(exc))) from exc
    except Exception as exc:
        # The driver packs numbers with struct, whose error is of no other kind.
        if type(exc).__name__ == "error":
            raise Refused(_short(str(exc))) from exc
        raise


@contextmanager
def _told() -> Iterator[None]:
    """Turns the driver's errors into ours."""
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable
    from cassandra.connection import ConnectionException
    from cassandra.protocol import ErrorMessage

    try:
        yield
    except (DriverException, ErrorMessage, NoHostAvailable, ConnectionException, OSError) as exc:
        raise Unavailable(words(exc)) from exc


def _is_full(exc: Exception) -> bool:
    """Whether a connection is there, but has as much to send as it can: over a slow line that is soon so."""
    from cassandra.cluster import NoHostAvailable
    from cassandra.connection import ConnectionBusy

    errors = exc.errors if isinstance(exc, NoHostAvailable) and isinstance(exc.errors, Mapping) else {}
    return any(isinstance(error, ConnectionBusy) for error in errors.values())


def _about_the_statement(exc: Exception) -> bool:
    from cassandra import InvalidRequest

    return isinstance(exc, InvalidRequest) and _GONE.search(str(exc)) is None


def words(exc: BaseException) -> str:
    """What an error of the driver says, in one line, without what people cannot use."""
    from cassandra import AuthenticationFailed, Unauthorized
    from cassandra.cluster import NoHostAvailable

    if isinstance(exc, NoHostAvailable):
        errors: Mapping[object, BaseException] = exc.errors if isinstance(exc.errors, Mapping) else {}
        if errors:
            node, first = next(iter(errors.items()))
            return f"no node takes it; {node}: {words(first)}"
        return _short(str(exc.args[0]))
    said = _short(str(exc)) or type(exc).__name__
    if isinstance(exc, AuthenticationFailed):
        return f"it refuses the user or the password: {said}"
    if isinstance(exc, Unauthorized):
        return f"the user may not do this: {said}"
    return f"{type(exc).__name__}: {said}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:300]} … {line[-90:]}"
