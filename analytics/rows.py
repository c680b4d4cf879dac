"""Records → rows of a selection: a row a value, or one where a record has none. Pure.

Owns what each field of `analytics.selection.FIELDS` is of which record.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from analytics.sql_compiler import FIELDS
from analytics.sql_values import Scalar
from schemas.avro.records import (
    CommandKey,
    Key,
    Notification,
    Record,
    Registration,
    RegistrationDelete,
    RegistrationNew,
    RegistrationUpdate,
    Request,
    Response,
    values_told,
)
from schemas.lwm2m.nodes import ObjectLink, Resource, Value
from schemas.lwm2m.path import Path, PathError

_NOTHING: dict[str, Scalar] = dict.fromkeys(FIELDS)


def rows(record: Record, *, topic: str, partition: int, offset: int, late: bool) -> Iterator[dict[str, Scalar]]:
    """The rows of ``record``, at least one; every field is in each, None where the record has no such thing."""
    row = {**_NOTHING, "topic": topic, "partition": partition, "offset": offset, "late": late}
    match record:
        case Notification() | Response():
            row |= {
                "ep": record.ep,
                "serverId": record.server_id,
                "ticket": record.ticket,
                "time": record.timestamp,
                "gateway_time": record.timestamp,
                "kind": record.rep.kind.value,
                "code": record.rep.code.value,
                "observationId": record.observation_id if isinstance(record, Notification) else None,
            }
            found = values_told(record.rep.body)
            for one in found:
                yield _value(dict(row), one, suffixed(record.path, one.path))
            if not found:
                yield _path(row, record.path)
        case Registration(kind=kind, body=body):
            yield {**row, **_registration(body), "kind": kind.value}
        case Request():
            row |= {"ep": record.ep, "serverId": record.server_id, "ticket": record.ticket}
            yield _path({**row, "kind": record.payload.kind.value}, record.payload.path)
        case Key() | CommandKey():
            yield {**row, "ep": record.ep}
        case _:
            yield _result(row, record)


def _registration(body: RegistrationNew | RegistrationUpdate | RegistrationDelete) -> dict[str, Scalar]:
    return {"ep": body.ep, "serverId": body.server_id, "time": body.last_up, "gateway_time": body.last_up}


def _result(row: dict[str, Scalar], record: Any) -> dict[str, Scalar]:
    """Of the jobs' own records: what they have of a reading."""
    time = getattr(record, "timestamp", None)
    row |= {
        "ep": record.ep,
        "serverId": record.server_id,
        "time": getattr(record, "start", None) if time is None else time,
        "value": getattr(record, "value", None),
        "kind": type(record).__name__,
    }
    path = getattr(record, "path", None)
    return row if path is None else _path(row, path)


def _value(row: dict[str, Scalar], resource: Resource, path: str) -> dict[str, Scalar]:
    value = _scalar(resource.value)
    row["value"], row["type"] = value, resource.type.value
    row["svalue"] = value if isinstance(value, str) else None
    row["bvalue"] = value if isinstance(value, bool) else None
    if resource.timestamp is not None:
        row["time"] = resource.timestamp
    return _path(row, path)


def _path(row: dict[str, Scalar], path: str) -> dict[str, Scalar]:
    row["path"] = path
    try:
        known = Path.parse(path.partition("-")[0])
    except PathError:
        return row
    row["object"], row["instance"], row["resource"] = known.object_id, known.instance_id, known.resource_id
    return row


def suffixed(record: str, path: Path) -> str:
    """The windows' results have the function behind the record's path, and only there: ``/3303/0/5700-max``."""
    plain, mark, suffix = record.partition("-")
    return f"{path}{mark}{suffix}" if mark and plain == str(path) else str(path)


def _scalar(value: Value) -> Scalar:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value) if isinstance(value, ObjectLink) else value
