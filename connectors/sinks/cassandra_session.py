"""A connection to Cassandra: its keyspace and tables made when missing, and many statements under way at once.

Owns the driver, and which of its errors means what. Knows nothing of records.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from connectors.sinks.cassandra_options import CassandraOptions, contact_point
from connectors.sinks.cassandra_tables import tables
from connectors.sinks.sink import SinkConfigError

if TYPE_CHECKING:
    from cassandra.cluster import Cluster, Session
    from cassandra.query import BoundStatement, PreparedStatement

#: Making a table takes longer than any other request.
_MAKE_S = 30.0
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


class CassandraSession:
    """An open session in the sink's keyspace."""

    def __init__(self, options: CassandraOptions) -> None:
        """Connect.

        Raises:
            Unavailable: not now. SinkConfigError: the password's file or a certificate cannot be read, or the tables
                are none of ours.
        """
        self._options = options
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
        free = threading.Semaphore(self._options.concurrency)
        errors: dict[int, Exception] = {}
        broken = threading.Event()

        def done(_result: object) -> None:
            free.release()

        def failed(exc: Exception, number: int) -> None:
            errors[number] = exc
            if not _about_the_statement(exc):
                broken.set()
            free.release()

        # The driver answers for each of them within the timeout; more time than this is a driver that hangs.
        patience = 3 * self._options.timeout_s + 5
        for number, statement in enumerate(statements):
            if not free.acquire(timeout=patience):
                raise Unavailable("the driver does not answer")
            if broken.is_set():
                free.release()
                break
            try:
                self._session.execute_async(statement).add_callbacks(done, failed, errback_args=(number,))
            except Exception as exc:  # noqa: BLE001  # whatever the driver raises before anything is on its way
                failed(exc, number)
        for _ in range(self._options.concurrency):
            if not free.acquire(timeout=patience):
                raise Unavailable("the driver does not answer")
        for error in errors.values():
            if not _about_the_statement(error):
                raise Unavailable(words(error)) from error
        return {number: Refused(words(error)) for number, error in errors.items()}

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
