"""What each sink is measured against: the store's own client, and nothing of ours around it.

A row of `BARE` makes a function that writes a batch of records durably, the way the client's documentation shows. Both
sides get the same decoded records, so that what a client makes of them (points, rows, documents) is inside the clock of
both. Nothing here looks for records that come again, refused ones, or a store that is away.
"""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import cramjam
import pyarrow as pa
import pyarrow.parquet as pq
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster
from cassandra.concurrent import execute_concurrent_with_args

from connectors.sinks import SINKS, SinkRecord
from connectors.sinks import prometheus_wire as wire
from connectors.sinks.orientdb import open_orientdb
from connectors.sinks.orientdb_client import BinaryClient
from connectors.sinks.parquet_rows import SCHEMA
from connectors.sinks.sqlite_rows import MIGRATIONS
from connectors.sinks.webhook_events import sign
from schemas.avro.records import Notification, ReadBody, Registration, RegistrationNew
from schemas.lwm2m.nodes import Resource
from tests import cassandra_server
from tests.orientdb_server import ADMIN, PASSWORD
from tests.sink_samples import at, notification, resource
from tests.stores.cassandra import CassandraStore
from tests.stores.elasticsearch import ElasticsearchStore
from tests.stores.influxdb import InfluxdbStore
from tests.stores.orientdb import OrientdbStore
from tests.stores.parquet import ParquetStore
from tests.stores.prometheus import PrometheusStore
from tests.stores.redis import RedisStore
from tests.stores.sqlite import SqliteStore
from tests.stores.store import Store
from tests.stores.webhook import WebhookStore
from tests.webhook_receiver import SECRET

Write = Callable[[Sequence[SinkRecord]], None]


class Reading(NamedTuple):
    """What a bare client takes of a notification of one resource."""

    said: Notification
    path: str
    value: float
    time_ms: int
    offset: int


def readings(records: Sequence[SinkRecord]) -> list[Reading]:
    """The values, by the shortest way."""
    found = []
    for record in records:
        said = record.record
        assert isinstance(said, Notification)
        assert isinstance(said.rep.body, ReadBody)
        content = said.rep.body.content
        assert isinstance(content, Resource)
        assert isinstance(content.value, float)
        found.append(Reading(said, str(content.path), content.value, said.timestamp, record.offset))
    return found


def _make_with_the_sink(name: str, store: Store) -> None:
    """Tables, templates: what the sink makes for its first record."""
    sink = SINKS[name].open(store.options())
    sink.write([at(0, notification(resource("/3303/0/5700", 1.0), ep="first"))])
    sink.close()


def sqlite(store: SqliteStore) -> Write:
    """``executemany`` into the sink's own table, a transaction a thousand rows."""
    store.file.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(store.file, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.executescript(";\n".join(MIGRATIONS))
    db.execute("INSERT INTO sources VALUES (1, 'topic', 0)")
    insert = (
        "INSERT INTO history (server, ep, path, type, number, gateway_time_ms, kind, code, ticket, observation_id,"
        ' late, source, "offset", position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'
    )

    def write(records: Sequence[SinkRecord]) -> None:
        rows = [
            (
                *(said.server_id, said.ep, path, "FLOAT", value, time_ms, said.rep.kind.value, said.rep.code.value),
                *(said.ticket, said.observation_id, 0, 1, offset, 0),
            )
            for said, path, value, time_ms, offset in readings(records)
        ]
        for start in range(0, len(rows), 1000):
            db.execute("BEGIN")
            db.executemany(insert, rows[start : start + 1000])
            db.execute("COMMIT")

    return write


def influxdb(store: InfluxdbStore) -> Write:
    """Line protocol as text, and one request a batch over a connection of the standard library: no client at all.

    What a device says is not escaped. Not compressed: on one machine that would only cost both sides.
    """
    options = store.options()
    url = urlsplit(str(options["url"]))
    connection = HTTPConnection(url.hostname or "", url.port, timeout=60)
    asked = f"/api/v2/write?org=-&precision=ns&bucket={quote(str(options['bucket']), safe='')}"
    headers = {"Authorization": f"Token {options['token']}", "Content-Type": "text/plain; charset=utf-8"}

    def write(records: Sequence[SinkRecord]) -> None:
        body = "\n".join(
            f"resources,ep={said.ep},kind={said.rep.kind.value},observationId={said.observation_id},path={path},"
            f"serverId={said.server_id},ticket={said.ticket} value={value!r} {time_ms * 1_000_000 + offset % 1_000_000}"
            for said, path, value, time_ms, offset in readings(records)
        )
        connection.request("POST", asked, body.encode(), headers)
        answer = connection.getresponse()
        words = answer.read()
        assert answer.status == 204, words

    return write


def parquet(store: ParquetStore) -> Write:
    """pyarrow, with rows as its documentation shows: a file a batch, its columns as the sink's, synced."""
    folder = Path(str(store.options()["folder"]))
    folder.mkdir(parents=True, exist_ok=True)
    written = iter(range(1_000_000))

    def write(records: Sequence[SinkRecord]) -> None:
        rows = [
            {
                "server": said.server_id,
                "ep": said.ep,
                "path": path,
                "type": "FLOAT",
                "number": value,
                "gateway_time": time_ms,
                "kind": said.rep.kind.value,
                "code": said.rep.code.value,
                "ticket": said.ticket,
                "observation_id": said.observation_id,
                "late": False,
                "topic": "observations",
                "partition": 0,
                "offset": offset,
                "position": 0,
            }
            for said, path, value, time_ms, offset in readings(records)
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        with (folder / f"{next(written)}.parquet").open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())

    return write


def webhook(store: WebhookStore) -> Write:
    """The standard library's HTTP client: the same events, signed, five hundred a request as the sink's default."""
    options = store.options()
    url = urlsplit(str(options["url"]))
    connection = HTTPConnection(url.hostname or "", url.port, timeout=30)

    def write(records: Sequence[SinkRecord]) -> None:
        events = [
            {
                "id": str(offset),
                "kind": "history",
                "gateway": said.server_id,
                "time": time_ms,
                "topic": "observations",
                "partition": 0,
                "offset": offset,
                "server": said.server_id,
                "ep": said.ep,
                "path": path,
                "operation": said.rep.kind.value,
                "code": said.rep.code.value,
                "ticket": said.ticket,
                "observationId": said.observation_id,
                "late": False,
                "values": [{"path": path, "type": "FLOAT", "value": value, "deviceTime": None}],
            }
            for said, path, value, time_ms, offset in readings(records)
        ]
        for start in range(0, len(events), 500):
            body = json.dumps(events[start : start + 500]).encode()
            headers = {
                "Content-Type": "application/json",
                "Headwater-Signature": sign(SECRET.encode(), int(time.time()), body),
            }
            connection.request("POST", f"{url.path}?{url.query}", body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 204, answer.status

    return write


def orientdb(store: OrientdbStore) -> Write:
    """pyorient's ``batch``, as the sink teaches it this server: fifty upserts of endpoints each, no edge, no look."""
    options = store.options()
    open_orientdb(options).close()  # makes the database and its classes
    client = BinaryClient(
        host=str(options["host"]),
        port=store.server.port,
        database=store.database,
        user=ADMIN,
        password=PASSWORD,
        timeout=60.0,
    )
    client.open()

    def write(records: Sequence[SinkRecord]) -> None:
        for start in range(0, len(records), 50):
            lines = []
            for record in records[start : start + 50]:
                assert isinstance(record.record, Registration)
                body = record.record.body
                assert isinstance(body, RegistrationNew)
                key = json.dumps(f"{body.server_id} {body.ep}")
                content = {
                    "name": body.ep,
                    "regId": body.reg_id,
                    "address": body.address,
                    "port": body.port,
                    "lt": body.lt,
                    "online": True,
                    "regLastUpdate": body.last_up,
                }
                sets = ", ".join(f"{name} = {json.dumps(value)}" for name, value in content.items())
                # The sink's unique index.
                lines.append(f"UPDATE Endpoints SET identity = {key}, {sets} UPSERT WHERE identity = {key};")
            client.script("\n".join(["BEGIN;", *lines, "COMMIT;", "RETURN 0;"]))

    return write


def redis(store: RedisStore) -> Write:
    """redis-py's pipeline: the latest value into a hash, every value into a stream; no statistics, no offsets."""

    def write(records: Sequence[SinkRecord]) -> None:
        pipeline = store.client.pipeline(transaction=False)
        for said, path, value, time_ms, _ in readings(records):
            kept = json.dumps({"value": value, "type": "FLOAT", "time": time_ms, "ticket": said.ticket})
            pipeline.hset(f"latest:{said.ep}", path, kept)
            pipeline.xadd(
                "stream",
                {"ep": said.ep, "path": path, "value": value, "time": time_ms, "ticket": said.ticket},
                maxlen=10_000,
            )
        pipeline.execute()

    return write


def cassandra(store: CassandraStore) -> Write:
    """cassandra-driver's concurrent execution of one prepared insert into the sink's own table of history."""
    _make_with_the_sink("cassandra", store)
    cluster = Cluster(
        [("127.0.0.1", store.server.port)],
        auth_provider=PlainTextAuthProvider(cassandra_server.ADMIN, cassandra_server.PASSWORD),
        connect_timeout=60,
        protocol_version=5,
    )
    session = cluster.connect(store.keyspace)
    session.default_timeout = 60
    columns = (
        "gateway, ep, path, day, time, gateway_time, kafka_offset, position, source, type, number, kind, code, ticket,"
        " observation_id, late"
    )
    insert = session.prepare(f"INSERT INTO history ({columns}) VALUES ({', '.join('?' * 16)})")

    def write(records: Sequence[SinkRecord]) -> None:
        rows = [
            (
                *(said.server_id, said.ep, path, time_ms // 86_400_000 + 2**31, time_ms, time_ms, offset, 0, "topic-0"),
                *("FLOAT", value, said.rep.kind.value, said.rep.code.value, said.ticket, said.observation_id, False),
            )
            for said, path, value, time_ms, offset in readings(records)
        ]
        execute_concurrent_with_args(session, insert, rows, concurrency=128)

    return write


def elasticsearch(store: ElasticsearchStore) -> Write:
    """The standard library's HTTP client: a bulk request a batch, with ids of its own, compressed."""
    _make_with_the_sink("elasticsearch", store)
    # One of those that the sink's template is for.
    index = f"{store.prefix}-bare-2026.01.01"
    url = urlsplit(store.server.url)
    connection = HTTPConnection(url.hostname or "", url.port, timeout=60)
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}

    def write(records: Sequence[SinkRecord]) -> None:
        lines = []
        for said, path, value, time_ms, offset in readings(records):
            lines.append(json.dumps({"index": {"_index": index, "_id": f"observations-0-{offset}"}}))
            document = {
                "@timestamp": time_ms,
                "serverId": said.server_id,
                "ep": said.ep,
                "path": path,
                "type": "FLOAT",
                "value": value,
                "kind": said.rep.kind.value,
                "code": said.rep.code.value,
                "ticket": said.ticket,
                "observationId": said.observation_id,
                "topic": "observations",
                "partition": 0,
                "offset": offset,
            }
            lines.append(json.dumps(document))
        body = gzip.compress(("\n".join(lines) + "\n").encode(), 1)
        connection.request("POST", "/_bulk", body, headers)
        answer = json.load(connection.getresponse())
        assert answer["errors"] is False

    return write


def prometheus(store: PrometheusStore) -> Write:
    """A remote-write request a batch. Prometheus publishes no client for it; the few bytes of wire are the sink's."""
    url = urlsplit(store.server.write_url)
    connection = HTTPConnection(url.hostname or "", url.port, timeout=60)
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}

    def write(records: Sequence[SinkRecord]) -> None:
        series: dict[tuple[str, str], list[bytes]] = {}
        for said, path, value, time_ms, _ in readings(records):
            series.setdefault((said.ep, path), []).append(wire.sample(value, time_ms))
        body = wire.request(
            wire.series(
                wire.labels({"__name__": "bare", "test": store.test, "endpoint": ep, "path": path}) + b"".join(samples)
            )
            for (ep, path), samples in series.items()
        )
        connection.request("POST", url.path, bytes(cramjam.snappy.compress_raw(body)), headers)
        answer = connection.getresponse()
        words = answer.read()
        assert answer.status == 204, words

    return write


#: By the sink's name; each takes the store of that name.
BARE: Mapping[str, Callable[[Any], Write]] = {
    "cassandra": cassandra,
    "elasticsearch": elasticsearch,
    "influxdb": influxdb,
    "orientdb": orientdb,
    "parquet": parquet,
    "prometheus": prometheus,
    "redis": redis,
    "sqlite": sqlite,
    "webhook": webhook,
}
