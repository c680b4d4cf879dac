"""The Redis sink: the latest value and the running statistics of every resource, a stream, and who is online.

Owns the steps of a write; what stands where is `connectors.sinks.redis_changes`, how it merges there
`connectors.sinks.redis_script`, how Redis is spoken with `connectors.sinks.redis_session`. It deletes nothing but what
of an endpoint's registration is no more, and sets no expiry.

The statistics are sums, which a record that comes again would change. So the store keeps which offsets are in, and a
batch goes in together with its offsets in one step, a script, that does nothing unless these are still what the batch
was folded against:

 1. look: what is applied of the batch's partitions (known from the last batch) and its endpoints;
 2. fold: leave out what is in, and make of the rest one change a series;
 3. apply: the script compares, merges and writes; where another instance was first, begin again with 1.

Two instances that both think that a partition is theirs, as in the moment of a rebalance, thus cannot both count a
record. An answer that was lost on its way is found in 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

from connectors.sinks.options import object_definitions, parse_options
from connectors.sinks.redis_applied import Applied
from connectors.sinks.redis_changes import Changes, Keys, Known, fold, is_kept, place_and_time, source
from connectors.sinks.redis_options import RedisOptions
from connectors.sinks.redis_session import OTHERS_KEY, RedisSession
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from schemas.avro.records import Registration
from schemas.avro.topics import TopicKind

_log = structlog.get_logger()

#: More entries than these go in several steps: while a script runs, Redis does nothing else.
_ENTRIES: Final = 20_000

#: Attempts at a batch while others write the same partitions, and partitions that are remembered.
_ATTEMPTS: Final = 8
_REMEMBERED: Final = 10_000

#: What a record may hold that makes it impossible to fold.
_RECORD_ERRORS = (ValueError, TypeError, OverflowError)


class RedisSink:
    """`connectors.sinks.sink.Sink` on one Redis, Valkey, or Redis Cluster."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self._definitions = object_definitions("redis", options.definitions)
        self._session = RedisSession(options)
        #: What is applied, by the key of the hash and the partition, as it was after our last write.
        self._applied: dict[tuple[str, str], str] = {}

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: one step for the records of each gateway."""
        rejected: list[tuple[SinkRecord, str]] = []
        by_gateway: dict[str, list[SinkRecord]] = {}
        for record in records:
            if is_kept(record):
                by_gateway.setdefault(record.gateway, []).append(record)
            else:
                rejected.append((record, f"a {type(record.record).__name__} is nothing that this store keeps"))
        for gateway, batch in by_gateway.items():
            rejected += self._write(Keys(self._options.prefix, gateway), batch)
        if rejected:
            raise RejectedRecords(rejected)

    def close(self) -> None:
        """See `Sink.close`."""
        self._session.close()

    def prepare(self) -> None:
        """Look at what can be known without Redis.

        Raises:
            SinkConfigError: the library is missing, or a file that the options name.
        """
        try:
            import redis  # noqa: F401
        except ImportError as exc:
            raise SinkConfigError("redis is not installed: pip install 'headwater[redis]'") from exc
        self._options.check_files()
        self._options.secret()

    # ---- a batch of one gateway

    def _write(self, keys: Keys, records: Sequence[SinkRecord]) -> list[tuple[SinkRecord, str]]:
        """The records that cannot be stored; all others are. Raises RetryLater."""
        try:
            self._apply(keys, records)
            return []
        except _RECORD_ERRORS:
            # Some record cannot be folded. Only now is it worth finding out which.
            rejected = [(record, reason) for record in records if (reason := self._unkeepable(keys, record))]
            if not rejected:
                raise
        guilty = {id(record) for record, _ in rejected}
        kept = [record for record in records if id(record) not in guilty]
        if kept:
            self._apply(keys, kept)
        return rejected

    def _unkeepable(self, keys: Keys, record: SinkRecord) -> str | None:
        try:
            self._fold(keys, [record], {}, {})
        except _RECORD_ERRORS as exc:
            return f"{type(exc).__name__}: {exc}"[:400]
        return None

    def _fold(
        self, keys: Keys, records: Sequence[SinkRecord], applied: Mapping[str, str], endpoints: Mapping[str, Known]
    ) -> Changes:
        return fold(
            records,
            keys,
            applied=applied,
            endpoints=endpoints,
            definitions=self._definitions,
            stream_max=self._options.stream_max,
        )

    def _apply(self, keys: Keys, records: Sequence[SinkRecord]) -> None:
        for _ in range(_ATTEMPTS):
            applied, endpoints = self._look(keys, records)
            changes = self._fold(keys, records, applied, endpoints)
            if changes.size > _ENTRIES and len(records) > 1:
                half = len(records) // 2
                self._apply(keys, records[:half])
                self._apply(keys, records[half:])
                return
            if self._session.run(changes):
                self._remember(keys, changes.applied)
                return
            self._forget(keys, applied)
        raise RetryLater(f"{self._session.where}: others write the same partitions all the time")

    def _look(self, keys: Keys, records: Sequence[SinkRecord]) -> tuple[dict[str, str], dict[str, Known]]:
        """What is applied of the partitions, and what is known of the endpoints that are registered."""
        places = dict.fromkeys(source(record) for record in records)
        unknown = [place for place in places if (keys.applied, place) not in self._applied]
        names = list(dict.fromkeys(r.record.body.ep for r in records if isinstance(r.record, Registration)))
        found: dict[str, Known] = {}
        if unknown or names:
            asked = [(keys.applied, unknown)] if unknown else []
            asked += [(keys.name("endpoint", name), ["at", "root"]) for name in names]
            answers = self._session.ask(asked)
            try:
                if unknown:
                    there = dict(zip(unknown, answers.pop(0), strict=True))
                    for text in there.values():
                        Applied(text)
                    self._remember(keys, there)
                for name, (at, root) in zip(names, answers, strict=True):
                    if at:
                        place_and_time(at)
                    found[name] = Known(at, root or "/")
            except ValueError as exc:
                raise RetryLater(f"{self._session.where}: {OTHERS_KEY}") from exc
        return {place: self._applied[keys.applied, place] for place in places}, found

    def _remember(self, keys: Keys, applied: Mapping[str, str]) -> None:
        if len(self._applied) > _REMEMBERED:
            self._applied.clear()
        self._applied.update({(keys.applied, where): text for where, text in applied.items()})

    def _forget(self, keys: Keys, believed: Mapping[str, str]) -> None:
        """Somebody else has written, or Redis has lost what it had; the latter is told."""
        mine = {where: text for where in believed if (text := self._applied.pop((keys.applied, where), None))}
        if not mine:
            return
        (there,) = self._session.ask([(keys.applied, list(mine))])
        for (where, text), now in zip(mine.items(), there, strict=True):
            with suppress(ValueError):
                if Applied(now).next < Applied(text).next:
                    _log.warning(
                        "Redis has lost what it had acknowledged",
                        redis=self._options.host,
                        partition=where,
                        first=Applied(now).next,
                        last=Applied(text).next - 1,
                        hint="headwater replay --sink redis puts back what is missing, and only that",
                    )


def open_redis(options: Mapping[str, object]) -> RedisSink:
    """The sink of `KIND`. It asks nothing of Redis yet.

    Raises:
        SinkConfigError: wrong options, or redis is not installed.
    """
    sink = RedisSink(parse_options("redis", RedisOptions, options))
    sink.prepare()
    return sink


KIND = SinkKind(
    name="redis",
    open=open_redis,
    topics=(TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.REPLIES, TopicKind.STATISTICS, TopicKind.JOINED),
    library="redis",
    sample_config="""\
# The latest value and the running statistics of every resource, a stream, and who is online, in Redis or Valkey.
[redis]
# Where Redis answers.
host = "127.0.0.1"
# port = 6379
# The number of the database.
# database = 0
# Whether it is a Redis Cluster; host and port are then of any of its nodes.
# cluster = false
# The user of Redis's ACL. Default: the user "default".
# user = "headwater"
# The password. Default: none, for a server that asks for none.
# password = "secret"
# Instead of password: a file that holds it, such as a secret of the stack.
# password_file = "/run/secrets/redis_password"
# Whether to speak TLS, and (PEM) who may have signed the server's certificate, and our own certificate and its key.
# tls = false
# ca_file = "ca.pem"
# cert_file = "client.pem"
# key_file = "client.key"
# How long Redis may take for an answer, in seconds.
# timeout_s = 5
# What all keys begin with.
# prefix = "hw"
# How many of the last values the stream of a gateway holds, about; 0: there is no stream.
# stream_max = 10000
# Whether a batch counts as written only when it is on Redis's disk (WAITAOF: Redis 7.2, Valkey; appendonly yes).
# wait_for_disk = false
# A folder of OMA LwM2M XML files, for the names of objects beyond the built-in ones.
# definitions = "objects/"
""",
)
