"""Records ⇄ bytes in Confluent's wire format: byte 0, the schema id (4 bytes, big-endian), Avro 1.11 binary.

Owns framing and the choice of version: a record is written with the oldest version of its schema that can carry it, so
that old consumers keep working, and every id in ``ids.json`` is read, on any topic. Never asks a registry.
The JSON form of requests is in :mod:`schemas.avro.request_json`; it is offered here as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from struct import Struct
from struct import error as StructError
from typing import Any

from fastavro import schemaless_reader, schemaless_writer

from schemas.avro import analytics_conversions, command_records, conversions
from schemas.avro.analytics_records import Aggregate, Alert, EnrichedReading, Statistics
from schemas.avro.command_records import CommandKey, CommandStatus
from schemas.avro.errors import (
    InvalidRecord,
    InvalidRequest,
    MalformedRecord,
    NotFramed,
    SerdeError,
    UnknownSchemaId,
    malformed,
)
from schemas.avro.records import Key, Notification, Record, Registration, Request, Response
from schemas.avro.registry import SCHEMAS, schema_of
from schemas.avro.request_json import request_from_json, request_to_json
from schemas.avro.resources import Fields

__all__ = [
    "InvalidRecord",
    "InvalidRequest",
    "MalformedRecord",
    "NotFramed",
    "SerdeError",
    "UnknownSchemaId",
    "decode",
    "encode",
    "request_from_json",
    "request_to_json",
    "to_json",
]

_HEADER = Struct(">BI")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """How one kind of record goes both ways."""

    record: str
    to_fields: Callable[[Any], Fields]
    from_fields: Callable[[Fields], Record]
    #: The oldest version that carries the record, of those that there are.
    version: Callable[[Any], int] = lambda record: 1
    versions: tuple[int, ...] = (1,)


_ROWS: dict[type, _Row] = {
    Key: _Row(
        record="AvroKey",
        to_fields=conversions.key_fields,
        from_fields=conversions.key_record,
    ),
    Registration: _Row(
        record="registration.AvroRegistrationResponse",
        to_fields=conversions.registration_fields,
        from_fields=conversions.registration_record,
    ),
    Request: _Row(
        record="request.AvroRequest",
        to_fields=conversions.request_fields,
        from_fields=conversions.request_record,
        version=conversions.request_version,
        versions=(1, 2, 3),
    ),
    Response: _Row(
        record="response.AvroResponse",
        to_fields=conversions.response_fields,
        from_fields=conversions.response_record,
        version=conversions.reply_version,
        versions=(1, 2, 3),
    ),
    Notification: _Row(
        record="response.AvroResponseObserve",
        to_fields=conversions.notification_fields,
        from_fields=conversions.notification_record,
        version=conversions.reply_version,
        versions=(1, 2),
    ),
    Aggregate: _Row(
        record="analytics.AvroAggregate",
        to_fields=analytics_conversions.aggregate_fields,
        from_fields=analytics_conversions.aggregate_record,
    ),
    Statistics: _Row(
        record="analytics.AvroStatistics",
        to_fields=analytics_conversions.statistics_fields,
        from_fields=analytics_conversions.statistics_record,
    ),
    EnrichedReading: _Row(
        record="analytics.AvroEnrichedReading",
        to_fields=analytics_conversions.reading_fields,
        from_fields=analytics_conversions.reading_record,
    ),
    Alert: _Row(
        record="analytics.AvroAlert",
        to_fields=analytics_conversions.alert_fields,
        from_fields=analytics_conversions.alert_record,
    ),
    CommandKey: _Row(
        record="command.AvroCommandKey",
        to_fields=command_records.key_fields,
        from_fields=command_records.key_record,
    ),
    CommandStatus: _Row(
        record="command.AvroCommandStatus",
        to_fields=command_records.status_fields,
        from_fields=command_records.status_record,
    ),
}

#: (frame, parsed schema) by record class and version, and (parsed schema, dict → record) by schema id.
_WRITERS = {
    (kind, version): (schema_of(row.record, version).frame, schema_of(row.record, version).parsed)
    for kind, row in _ROWS.items()
    for version in row.versions
}
_READERS = {
    schema_of(row.record, version).id: (schema_of(row.record, version).parsed, row.from_fields)
    for row in _ROWS.values()
    for version in row.versions
}
assert _READERS.keys() == SCHEMAS.keys(), "every pinned schema has a reader"

#: What fastavro and the conversions raise on bytes that are no record of their schema.
_BAD_BYTES = (EOFError, IndexError, KeyError, ValueError, TypeError, OverflowError, MemoryError, StructError)
#: What they raise on a record whose fields are not of their types.
_BAD_FIELDS = (ValueError, TypeError, OverflowError, KeyError, AttributeError, StructError)


def encode(record: Record) -> bytes:
    """The record in Confluent's wire format, in the oldest schema version that carries it.

    Raises:
        InvalidRecord: a value is not of its type or does not fit (an integer beyond 64 bits, a lone surrogate).
    """
    row = _ROWS[type(record)]
    out = BytesIO()
    try:
        frame, schema = _WRITERS[type(record), row.version(record)]
        out.write(frame)
        schemaless_writer(out, schema, row.to_fields(record))
    except SerdeError:
        raise
    except _BAD_FIELDS as exc:
        raise InvalidRecord(f"{row.record}: {exc}") from exc
    return out.getvalue()


def decode(data: bytes) -> Record:
    """The record in ``data``, of any schema and version in ``ids.json``.

    No other error escapes, whatever the bytes; a length that lies costs no memory.

    Raises:
        NotFramed: no zero byte and id in front.
        UnknownSchemaId: the id is not ours.
        MalformedRecord: the rest is no record of that schema: it ends early, goes on, or holds an impossible value.
    """
    if len(data) < 5 or data[0] != 0:
        raise NotFramed(f"{len(data)} bytes without Confluent's frame (a zero byte and a schema id) in front")
    schema_id = int.from_bytes(data[1:5], "big")
    try:
        schema, from_fields = _READERS[schema_id]
    except KeyError:
        raise UnknownSchemaId(schema_id) from None
    source = BytesIO(data)
    source.seek(5)
    try:
        fields: Any = schemaless_reader(source, schema, None, return_record_name=True)
        if source.tell() != len(data):
            raise MalformedRecord(f"schema id {schema_id}: {len(data) - source.tell()} bytes too many at the end")
        return from_fields(fields)
    except SerdeError:
        raise
    except _BAD_BYTES as exc:
        raise malformed(schema_id, exc, source.tell(), len(data)) from exc


def to_json(record: Record) -> dict[str, Any]:
    """The record as plain JSON values with Avro's field names, for people and ``--output json``.

    Branches of unions are not named, and fields of version 2 are there only where they are set. A number that JSON
    does not have is text: ``"NaN"``, ``"Infinity"``, ``"-Infinity"``.

    Raises:
        InvalidRecord: as :func:`encode`.
    """
    plain = _plain(_ROWS[type(record)].to_fields(record))
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    match value:
        case tuple():  # (branch, value)
            return _plain(value[1])
        case dict():
            return {
                name: _plain(field)
                for name, field in value.items()
                if not (name in _OF_2 and (field is None or field == []))
            }
        case list():
            return [_plain(one) for one in value]
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case _:
            return value


_OF_2 = frozenset({"timestamp", "paths", "expires"})
