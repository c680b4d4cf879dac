"""The stores of a sensor city: Cassandra for the enriched readings, Redis for the statistics.

Owns which there are, how the embedded ones are fetched, started and waited for, and reading what is in them. What the
sinks write there is `connectors.sinks`'.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING

from headwater.city.audit import Series, Told
from headwater.demo.children import Children
from headwater.demo.parts import GATEWAY, Places, port
from headwater.exits import Exit, Stop
from headwater.servers import cassandra, processes, redis
from headwater.servers.installed import FetchError

if TYPE_CHECKING:
    from redis import Redis

    from connectors.sinks.cassandra_session import CassandraSession

KEYSPACE = "city"
#: How long a store may take to come up, in seconds: Cassandra on a small, busy machine.
PATIENCE = 180.0
_CASSANDRA_HEAP = "320m"
_TIMEOUT = 10.0


class Store(Enum):
    """A store, by the name of its sink."""

    CASSANDRA = "cassandra"
    REDIS = "redis"


#: What must be importable, by what it is for, and the package that brings it.
_LIBRARIES = {Store.CASSANDRA: ("cassandra", "cassandra-driver"), Store.REDIS: ("redis", "redis")}


def check_libraries(stores: Collection[Store]) -> None:
    """See that all is installed that the city runs.

    Raises:
        Stop: something is not; the text says how to get it.
    """
    wanted = [("quixstreams", "quixstreams"), *(_LIBRARIES[store] for store in stores)]
    missing = [package for module, package in wanted if find_spec(module) is None]
    if missing:
        raise Stop(
            Exit.CANNOT_START,
            f"the sensor city also needs {', '.join(missing)}: `make city` installs and runs it, "
            "pip install 'headwater[city]' installs it elsewhere",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where the stores answer, as HOST:PORT; those that the demo starts itself are in ``embedded`` as well."""

    addresses: Mapping[Store, str] = field(default_factory=dict)
    embedded: frozenset[Store] = frozenset()

    def host_and_port(self, store: Store) -> tuple[str, int]:
        host, _, number = self.addresses[store].rpartition(":")
        return host.strip("[]"), int(number)


def choose(given: Mapping[Store, str | None], without: Collection[Store]) -> Stores:
    """The stores of a run: those ``given`` by address, none of ``without``, the others embedded on free ports.

    Raises:
        Stop: one is given and unwanted.
    """
    for store in without:
        if given.get(store) is not None:
            raise Stop(Exit.USAGE, f"--without {store.value} and --{store.value}: it is one or the other")
    wanted = [store for store in Store if store not in without]
    usual = {Store.CASSANDRA: cassandra.PORT, Store.REDIS: redis.PORT}
    embedded = frozenset(store for store in wanted if given.get(store) is None)
    return Stores(
        addresses={store: given.get(store) or f"127.0.0.1:{port(usual[store])}" for store in wanted}, embedded=embedded
    )


def fetch(stores: Stores, say: Callable[[str], None], stopping: Callable[[], bool]) -> None:
    """Fetch the embedded ones into the cache, if they are not there.

    Raises:
        DownloadStopped: ``stopping`` said so.
        Stop: they cannot be fetched.
    """
    try:
        if Store.REDIS in stores.embedded and not redis.is_here():
            say("fetching Redis into the cache, once …")
            redis.binary(stopping=stopping)
        if Store.CASSANDRA in stores.embedded and not cassandra.is_here():
            say(f"fetching Cassandra {cassandra.VERSION} into the cache, once (120 MB) …")
            cassandra.home(stopping)
    except FetchError as exc:
        raise Stop(
            Exit.CANNOT_START, f"{exc}\n--without leaves a store out, --cassandra and --redis name yours"
        ) from exc


def start(stores: Stores, children: Children, places: Places) -> None:
    """Start the embedded ones."""
    if Store.REDIS in stores.embedded:
        directory = places.directory / "redis"
        directory.mkdir()
        _, number = stores.host_and_port(Store.REDIS)
        children.run(
            "redis",
            # Its command line stays what it is, so that people see whose it is.
            redis.command(redis.binary(), port=number, directory=directory, more=["--set-proc-title", "no"]),
            directory=directory,
        )
    if Store.CASSANDRA in stores.embedded:
        directory = places.directory / "cassandra"
        _, number = stores.host_and_port(Store.CASSANDRA)
        ports = cassandra.Ports(client=number, storage=processes.free_port(), jmx=processes.free_port())
        command = cassandra.command(
            cassandra.home(),
            ports=ports,
            directory=directory,
            # A demo need not wait for the disk.
            settings={"commitlog_sync": "periodic", "commitlog_sync_period": "1s"},
            heap=_CASSANDRA_HEAP,
            durable=False,
        )
        children.run("cassandra", command, directory=directory)


def answer(stores: Stores) -> bool:
    """Whether all of them do."""
    return all(_ANSWERS[store](stores) for store in stores.addresses)


def _redis_answers(stores: Stores) -> bool:
    try:
        with _redis(stores) as client:
            return bool(client.ping())
    except Stop:
        return False


def _cassandra_answers(stores: Stores) -> bool:
    from connectors.sinks.cassandra_session import Unavailable

    try:
        with closing(_cassandra(stores)):
            return True
    except Unavailable:
        return False


_ANSWERS: Mapping[Store, Callable[[Stores], bool]] = {
    Store.CASSANDRA: _cassandra_answers,
    Store.REDIS: _redis_answers,
}


def sinks_file(stores: Stores) -> str:
    """The file for ``headwater sink run``. Pure."""
    tables = []
    if Store.CASSANDRA in stores.addresses:
        tables.append(
            f'[cassandra]\ncontact_points = ["{stores.addresses[Store.CASSANDRA]}"]\nkeyspace = "{KEYSPACE}"\n'
            'consistency = "LOCAL_ONE"\n'
        )
    if Store.REDIS in stores.addresses:
        host, number = stores.host_and_port(Store.REDIS)
        tables.append(f'[redis]\nhost = "{host}"\nport = {number}\n')
    return "\n".join(tables)


@contextmanager
def _redis(stores: Stores) -> Iterator[Redis]:
    """A client. Raises Stop where Redis does not answer."""
    from redis import Redis
    from redis.exceptions import RedisError

    host, number = stores.host_and_port(Store.REDIS)
    try:
        with Redis(
            host=host,
            port=number,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            decode_responses=True,
        ) as client:
            yield client
    except (RedisError, OSError) as exc:
        raise Stop(Exit.UNREACHABLE, f"Redis at {stores.addresses[Store.REDIS]}: {exc}") from exc


def redis_keys(stores: Stores) -> int:
    """How many keys the city has in Redis. Raises Stop where it does not answer."""
    with _redis(stores) as client:
        return sum(1 for _ in client.scan_iter(match=f"hw:{{{GATEWAY}}}:*", count=1000))


def lengths(stores: Stores) -> dict[Series, int]:
    """How many readings the statistics in Redis are of, by endpoint and path. Raises Stop as `redis_keys`."""
    start = f"hw:{{{GATEWAY}}}:statistics:"
    found = {}
    with _redis(stores) as client:
        for key in client.scan_iter(match=f"{start}*", count=1000):
            for path, told in client.hgetall(key).items():
                found[str(key).removeprefix(start), str(path)] = int(json.loads(told)["stream_length"])
    return found


def readings(stores: Stores, since_ms: int) -> list[Told]:
    """Endpoint, path and value of every enriched reading in Cassandra from ``since_ms`` (epoch ms) on.

    Raises:
        Stop: Cassandra does not answer.
    """
    with _reading(stores) as session:
        statement = session.prepare("SELECT ep, path, toUnixTimestamp(time) AS at, value FROM readings")
        return [(row.ep, row.path, row.value) for row in session.rows(statement, ()) if row.at >= since_ms]


def first_readings(stores: Stores, count: int) -> tuple[list[str], list[list[str]]]:
    """What ``SELECT * FROM city.readings LIMIT count`` shows: the columns, and rows of text.

    Raises:
        Stop: Cassandra does not answer.
    """
    with _reading(stores) as session:
        rows = session.rows(session.prepare("SELECT * FROM readings LIMIT ?"), (count,))
    columns = list(rows[0]._fields) if rows else []
    return columns, [[_text(value) for value in row] for row in rows]


@contextmanager
def _reading(stores: Stores) -> Iterator[CassandraSession]:
    from connectors.sinks.cassandra_session import Unavailable

    try:
        with closing(_cassandra(stores)) as session:
            yield session
    except Unavailable as exc:
        raise Stop(Exit.UNREACHABLE, f"Cassandra at {stores.addresses[Store.CASSANDRA]}: {exc}") from exc


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cassandra(stores: Stores) -> CassandraSession:
    """Raises Unavailable."""
    from connectors.sinks.cassandra_options import CassandraOptions
    from connectors.sinks.cassandra_session import CassandraSession
    from connectors.sinks.options import parse_options

    told = {"contact_points": [stores.addresses[Store.CASSANDRA]], "keyspace": KEYSPACE, "timeout_s": _TIMEOUT}
    return CassandraSession(parse_options("cassandra", CassandraOptions, told))
