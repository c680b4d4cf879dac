"""The tables of the Cassandra sink, and how a record becomes their rows.

Owns the schema of the keyspace and what of a record goes where (``docs/sinks/cassandra.md``). Pure: it opens nothing.

The gateway is that of the topic, as in every store, whatever name of its own a record's server has.
Every row is identified by what it stands for, so that a record that comes again writes the same row. Where a later
record replaces an earlier one, Cassandra keeps the cell with the higher write timestamp, whichever comes first; so
those rows are written with a timestamp that follows from the record (`write_timestamp`), and none has to be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from connectors.sinks.graph import Event, endpoint_properties, links_json
from connectors.sinks.history import Point, points
from connectors.sinks.sink import SinkRecord
from schemas.avro.analytics_records import EnrichedReading
from schemas.avro.records import Notification, Response
from schemas.lwm2m.nodes import ObjectLink, Value


class Bucket(Enum):
    """How long a partition of history lasts."""

    DAY = "day"
    HOUR = "hour"


class Unkeepable(ValueError):
    """Cassandra has no room for this; the text names what it is."""


class _Span(NamedTuple):
    """A bucket: its column's type, its length, and the unit of its compaction window."""

    type: str
    length_ms: int
    window: str


_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000
_SPANS: Mapping[Bucket, _Span] = {
    Bucket.DAY: _Span("date", _DAY_MS, "DAYS"),
    Bucket.HOUR: _Span("timestamp", _HOUR_MS, "HOURS"),
}

#: The parts of a partition key together (of Cassandra: 16 bits for its length), with room for what is between them.
LONGEST_KEY = 65_000
#: The years 1 to 9999, in epoch ms: Cassandra has more of them, but its clients do not read such a row any more.
OLDEST_MS, NEWEST_MS = -62_135_596_800_000, 253_402_300_799_999

#: Bits of a write timestamp below the millisecond, and the highest millisecond that leaves room for them (in 2248).
_BITS = 20
_LAST_MS = 2**43 - 1

_VALUE = "type text, number double, integer bigint, text text, bool boolean, blob blob"
_SAID = "kind text, code text, ticket text, observation_id text"
_ENDPOINT = {
    "reg_date": "timestamp",
    "reg_id": "text",
    "reg_address": "text",
    "reg_port": "int",
    "address": "text",
    "port": "int",
    "lt": "bigint",
    "expired": "boolean",
    "ver": "text",
    "bnd": "text",
    "reg_last_update": "timestamp",
    "online": "boolean",
    "sms": "text",
    "attributes": "frozen<map<text, text>>",
    "root": "text",
    "links": "text",
}


def tables(bucket: Bucket) -> dict[str, str]:
    """The statement that makes each table, within its keyspace."""
    span = _SPANS[bucket]
    windows = (
        "compaction = {'class': 'TimeWindowCompactionStrategy',"
        f" 'compaction_window_unit': '{span.window}', 'compaction_window_size': 1}}"
    )
    return {
        "history": f"CREATE TABLE IF NOT EXISTS history (gateway text, ep text, path text, {bucket.value} {span.type},"
        f" time timestamp, gateway_time timestamp, kafka_offset bigint, position int, source text, {_VALUE}, {_SAID},"
        f" late boolean, PRIMARY KEY ((gateway, ep, path, {bucket.value}), time, gateway_time, kafka_offset, position,"
        " source)) WITH CLUSTERING ORDER BY (time DESC, gateway_time DESC, kafka_offset DESC, position DESC,"
        f" source ASC) AND {windows}",
        # What is looked at first: SELECT * shows the key's columns in this order, and then the others by their names.
        "readings": "CREATE TABLE IF NOT EXISTS readings (gateway text, ep text, path text,"
        f" {bucket.value} {span.type}, time timestamp, kafka_offset bigint, value double, mean double,"
        f" std_dev double, z_score double, outlier boolean, PRIMARY KEY ((gateway, ep, path, {bucket.value}), time,"
        f" kafka_offset)) WITH CLUSTERING ORDER BY (time DESC, kafka_offset DESC) AND {windows}",
        "latest": "CREATE TABLE IF NOT EXISTS latest (gateway text, ep text, path text,"
        f" time timestamp, gateway_time timestamp, {_VALUE}, {_SAID}, PRIMARY KEY ((gateway, ep), path))",
        "endpoints": "CREATE TABLE IF NOT EXISTS endpoints (gateway text, ep text,"
        f" {', '.join(f'{name} {kind}' for name, kind in _ENDPOINT.items())}, PRIMARY KEY (gateway, ep))",
        "endpoint_objects": "CREATE TABLE IF NOT EXISTS endpoint_objects (gateway text, ep text, object_id int,"
        # An object without instances has a row of its own; no part of a key can be null.
        " version text, instance int, name text, PRIMARY KEY ((gateway, ep), object_id, version, instance))",
    }


_PLACE_COLUMNS = ("time", "gateway_time", "kafka_offset", "position", "source")
_VALUE_COLUMNS = ("type", "number", "integer", "text", "bool", "blob")
_SAID_COLUMNS = ("kind", "code", "ticket", "observation_id")


def _insert(table: str, columns: Iterable[str], using: str) -> str:
    names = tuple(columns)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) USING {using} ?"


def insert_history(bucket: Bucket) -> str:
    """Its parameters are a row of `HistoryRows.history`."""
    return _insert(
        "history",
        ("gateway", "ep", "path", bucket.value, *_PLACE_COLUMNS, *_VALUE_COLUMNS, *_SAID_COLUMNS, "late"),
        "TTL",
    )


def insert_reading(bucket: Bucket) -> str:
    """Its parameters are a `reading_row`."""
    measured = ("value", "mean", "std_dev", "z_score", "outlier")
    return _insert("readings", ("gateway", "ep", "path", bucket.value, "time", "kafka_offset", *measured), "TTL")


#: Its parameters are a row of `HistoryRows.latest`.
INSERT_LATEST = _insert(
    "latest", ("gateway", "ep", "path", "time", "gateway_time", *_VALUE_COLUMNS, *_SAID_COLUMNS), "TIMESTAMP"
)
#: gateway, ep, the columns of `endpoint_row`, the write timestamp.
INSERT_ENDPOINT = _insert("endpoints", ("gateway", "ep", *_ENDPOINT), "TIMESTAMP")
SELECT_ROOT = "SELECT root FROM endpoints WHERE gateway = ? AND ep = ?"
#: The write timestamp, gateway, ep.
DELETE_OBJECTS = "DELETE FROM endpoint_objects USING TIMESTAMP ? WHERE gateway = ? AND ep = ?"
INSERT_OBJECT = _insert("endpoint_objects", ("gateway", "ep", "object_id", "version", "instance", "name"), "TIMESTAMP")
#: The ``instance`` of an object that has none.
NO_INSTANCE = -1


def write_timestamp(time_ms: int, offset: int) -> int:
    """The write timestamp of what a record at ``offset`` says about ``time_ms``: the later, the higher; always even.

    Cassandra's own are microseconds, which would leave room for a thousand offsets; two with the same timestamp would
    be mixed cell by cell.
    """
    ms = max(-_LAST_MS, min(time_ms, _LAST_MS))
    return (ms << _BITS) | (offset << 1) & ((1 << _BITS) - 1)


class HistoryRows(NamedTuple):
    """What one record of history is in the tables."""

    #: The last column is how many seconds the row is to live, 0: for ever.
    history: list[tuple[object, ...]]
    #: By (gateway, ep, path): the last column is the write timestamp.
    latest: dict[tuple[str, str, str], tuple[object, ...]]


def history_rows(
    record: SinkRecord, said: Notification | Response, bucket: Bucket, ttl_s: int, unset: object
) -> HistoryRows:
    """The rows of ``history`` and ``latest``; ``unset`` stands in a row of ``history`` where there is no value.

    A null would be a tombstone that is kept, read and compacted like a value. In ``latest`` it is one on purpose: it
    replaces what was there.

    Raises:
        Unkeepable: a key is too long, or a time is none.
    """
    source = f"{record.topic}-{record.partition}"
    history: list[tuple[object, ...]] = []
    latest: dict[tuple[str, str, str], tuple[object, ...]] = {}
    for point in points(record, said):
        series = (record.gateway, point.ep, point.path)
        _fit(*series)
        time = _in_range(point.time_ms)
        _in_range(point.gateway_time_ms)
        value = (point.type, *_typed(point.value))
        common = (point.kind, point.code, point.ticket, point.observation_id)
        history.append(
            (
                *series,
                _bucket(time, bucket),
                time,
                point.gateway_time_ms,
                record.offset,
                point.position,
                source,
                *(unset if part is None else part for part in (*value, *common)),
                point.late,
                ttl_s,
            )
        )
        if point.type is not None and not point.late:
            latest[series] = _latest(record, point, series, value, common, latest.get(series))
    return HistoryRows(history, latest)


def reading_row(record: SinkRecord, reading: EnrichedReading, bucket: Bucket, ttl_s: int) -> tuple[object, ...]:
    """The parameters of `insert_reading`.

    Raises:
        Unkeepable: a key is too long, or the time is none.
    """
    series = (record.gateway, reading.ep, reading.path)
    _fit(*series)
    time = _in_range(reading.timestamp)
    measured = (reading.value, reading.mean, reading.std_dev, reading.z_score, reading.outlier)
    return (*series, _bucket(time, bucket), time, record.offset, *measured, ttl_s)


def _latest(
    record: SinkRecord,
    point: Point,
    series: tuple[str, str, str],
    value: tuple[object, ...],
    common: tuple[object, ...],
    before: tuple[object, ...] | None,
) -> tuple[object, ...]:
    # A device whose clock is ahead must not keep its own later values out, once its clock is right again.
    at = write_timestamp(min(point.time_ms, point.gateway_time_ms), record.offset)
    # Replies and notifications have offsets of their own.
    at += isinstance(record.record, Notification)
    if before is not None and newer(before, at):
        return before
    return (*series, point.time_ms, point.gateway_time_ms, *value, *common, at)


def newer(row: tuple[object, ...], at: int) -> bool:
    """Whether a row of ``latest`` is newer than the write timestamp ``at``."""
    return int(str(row[-1])) > at


def _bucket(time_ms: int, bucket: Bucket) -> int:
    number = time_ms // _SPANS[bucket].length_ms
    # The native protocol has dates as days, with 1970-01-01 in the middle of an unsigned integer of 32 bits.
    return number + 2**31 if bucket is Bucket.DAY else number * _HOUR_MS


def _in_range(time_ms: int) -> int:
    if not OLDEST_MS <= time_ms <= NEWEST_MS:
        raise Unkeepable(f"the time {time_ms} ms is before the year 1 or after 9999")
    return time_ms


def _fit(*parts: str) -> None:
    # Nothing of Unicode has more than four bytes: most keys are short enough at a glance.
    length = 0
    for part in parts:
        length += len(part)
    if length * 4 > LONGEST_KEY and sum(len(part.encode("utf-8", "surrogatepass")) for part in parts) > LONGEST_KEY:
        raise Unkeepable(
            f"gateway, endpoint name and path have more than {LONGEST_KEY} bytes, which no key of Cassandra has"
        )


def endpoint_row(record: SinkRecord, body: Event, unset: object) -> tuple[object, ...]:
    """The parameters of `INSERT_ENDPOINT`; ``unset`` is what the event says nothing about.

    Raises:
        Unkeepable: a key is too long, or a time is none.
    """
    _fit(record.gateway, body.ep)
    columns = {_column(name): value for name, value in endpoint_properties(body).items()}
    if columns.get("links") is not None:
        columns["links"] = json.dumps(links_json(body.links or ()), ensure_ascii=False)  # type: ignore[union-attr]
    for name in ("reg_date", "reg_last_update"):
        when = columns.get(name)
        if isinstance(when, int):
            _in_range(when)
    return (
        record.gateway,
        body.ep,
        *(columns.get(name, unset) for name in _ENDPOINT),
        write_timestamp(record.timestamp, record.offset),
    )


@lru_cache(maxsize=64)
def _column(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def _typed(value: Value | None) -> tuple[object, object, object, object, object]:
    """The columns (number, integer, text, bool, blob): an integer is a number too, of all others one is set."""
    match value:
        case None:
            return None, None, None, None, None
        case bool(flag):
            return None, None, None, flag, None
        case float(number):
            return number, None, None, None, None
        case int(number):
            return float(number), number, None, None, None
        case bytes(data):
            return None, None, None, None, data
        case ObjectLink():
            return None, None, str(value), None, None
        case str(text):
            return None, None, text, None, None
    raise TypeError(f"a {type(value).__name__} is no LwM2M value")
