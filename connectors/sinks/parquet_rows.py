"""The rows of the Parquet sink: its columns, and how records become batches of them, one a file's worth of identity.

Owns the schema of the files and what of a record goes where (``docs/sinks/parquet.md``). Pure: it opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path as FilePath
from typing import NamedTuple

import pyarrow as pa

from connectors.sinks.history import points
from connectors.sinks.sink import SinkRecord
from schemas.avro.records import Notification, Response
from schemas.lwm2m.nodes import ObjectLink, Value

_HOUR_MS = 3_600_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: What `datetime` can tell, epoch ms: beyond it, a reader that turns one row into Python's types fails on all of them.
_FIRST_MS = int((datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) / timedelta(milliseconds=1))
_LAST_MS = int((datetime(9999, 12, 31, 23, tzinfo=UTC) - _EPOCH) / timedelta(milliseconds=1))

_TIME = pa.timestamp("ms", "UTC")

SCHEMA = pa.schema(
    [
        ("server", pa.string()),
        ("ep", pa.string()),
        ("path", pa.string()),
        ("type", pa.string()),
        ("number", pa.float64()),
        ("integer", pa.int64()),
        ("text", pa.string()),
        ("bool", pa.bool_()),
        ("blob", pa.binary()),
        ("device_time", _TIME),
        ("gateway_time", _TIME),
        ("kind", pa.string()),
        ("code", pa.string()),
        ("ticket", pa.string()),
        ("observation_id", pa.string()),
        ("late", pa.bool_()),
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("position", pa.int32()),
    ]
)

#: What tells one row from every other of its topic and partition. The gateway's time is part of it, so that a topic
#: which was deleted and made anew does not pass for the old one.
IDENTITY = ("offset", "gateway_time", "position")

#: What a value, a text or a time that Arrow cannot hold raises; Arrow's own errors are among them.
_RECORD_ERRORS = (ValueError, TypeError, OverflowError)


class Hour(NamedTuple):
    """One partition of one topic, in one hour of the gateway's time: nobody but its owner writes files of it."""

    gateway: str
    topic: str
    partition: int
    #: Hours since the epoch, UTC.
    hour: int

    @property
    def folder(self) -> FilePath:
        """Where its files are, relative to the root; hive partitioning."""
        begins = _EPOCH + timedelta(hours=self.hour)
        return FilePath(f"gateway={self.gateway}", f"date={begins.date()}", f"hour={begins:%H}")

    @property
    def lane(self) -> str:
        """What its files' names begin with."""
        return f"{self.topic}-{self.partition}"


Batches = Mapping[Hour, pa.RecordBatch]


def batches(records: Sequence[SinkRecord]) -> tuple[Batches, list[tuple[SinkRecord, str]]]:
    """The rows of ``records`` by where they belong, and the records that have none, each with the reason."""
    try:
        return _batches(records), []
    except _RECORD_ERRORS:
        # Some record cannot be kept. Only now is it worth finding out which.
        good, refused = [], []
        for record in records:
            try:
                _batches([record])
            except _RECORD_ERRORS as exc:
                refused.append((record, f"{type(exc).__name__}: {exc}"))
            else:
                good.append(record)
        return _batches(good), refused


def _batches(records: Iterable[SinkRecord]) -> Batches:
    rows: dict[Hour, list[tuple[object, ...]]] = {}
    for record in records:
        said = record.record
        if not isinstance(said, Notification | Response):
            raise TypeError(f"a {type(said).__name__} is nothing that this store keeps")
        hour = Hour(record.gateway, record.topic, record.partition, _time(said.timestamp) // _HOUR_MS)
        _rows(rows.setdefault(hour, []), record, said)
    return {hour: _batch(found) for hour, found in rows.items()}


def _rows(into: list[tuple[object, ...]], record: SinkRecord, said: Notification | Response) -> None:
    place = (record.topic, record.partition, record.offset)
    for server, ep, path, kind, value, device, now, *common, position in points(record, said):
        time = None if device is None else _time(device)
        into.append((server, ep, path, kind, *_typed(value), time, now, *common, *place, position))


def _batch(rows: list[tuple[object, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def _time(epoch_ms: int) -> int:
    if not _FIRST_MS <= epoch_ms <= _LAST_MS:
        raise ValueError(f"{epoch_ms} ms is no time of the years 1 to 9999")
    return epoch_ms


def _typed(value: Value | None) -> tuple[object, object, object, object, object]:
    """The columns (number, integer, text, bool, blob); an integer is in both of the first, exact in the second."""
    match value:
        case None:
            return None, None, None, None, None
        case bool(flag):
            return None, None, None, flag, None
        case int(whole):
            return float(whole), whole, None, None, None
        case float(number):
            return number, None, None, None, None
        case str(text):
            return None, None, text, None, None
        case bytes(data):
            return None, None, None, None, data
        case ObjectLink():
            return None, None, str(value), None, None
    raise TypeError(f"a {type(value).__name__} is no LwM2M value")
