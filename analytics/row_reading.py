"""Kafka's records → rows of a selection, with the fields that the query names and no others. Pure.

The plain way is ``serde.decode`` and `analytics.rows`; it is taken for all that is rare or not in order, so that its
errors are the only ones. Written for speed is the way of a notification of one resource, which is nearly every record:
from fastavro's dict straight to the named fields, without the dataclasses of `schemas.avro.records` between. A test
holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from io import BytesIO
from struct import error as StructError
from typing import Any, NamedTuple

from fastavro import schemaless_reader

from analytics.job import Incoming
from analytics.rows import rows, suffixed
from analytics.sql_compiler import FIELDS
from analytics.sql_values import Scalar
from schemas.avro import serde
from schemas.avro.conversions import READ_BODY, notification_record
from schemas.avro.errors import SerdeError
from schemas.avro.records import Record
from schemas.avro.registry import schema_of
from schemas.avro.resources import RESOURCE
from schemas.lwm2m.path import Path, PathError

_SCHEMAS = {(schema := schema_of("response.AvroResponseObserve", version)).frame: schema.parsed for version in (1, 2)}
_BAD_BYTES = (EOFError, IndexError, KeyError, ValueError, TypeError, OverflowError, MemoryError, StructError)
#: The types of resources whose values are in a row as they are in Avro. The others have a form to be looked at.
_AS_THEY_ARE = {"FLOAT": float, "INTEGER": int, "TIME": int, "BOOLEAN": bool, "STRING": str}


#: Longer ones are no paths of devices, and are not to be remembered.
_LONGEST_PATHS = 100


class _Place(NamedTuple):
    path: str
    object_id: int | None
    instance_id: int | None
    resource_id: int


class _Found(NamedTuple):
    """What a field is taken from: fastavro's dicts of the record and of its resource, and where the resource is."""

    said: Any
    resource: Any
    place: _Place
    record: Incoming


_TAKEN: Mapping[str, Callable[[_Found], Scalar]] = {
    "ep": lambda found: found.said["ep"],
    "path": lambda found: found.place.path,
    "object": lambda found: found.place.object_id,
    "instance": lambda found: found.place.instance_id,
    "resource": lambda found: found.place.resource_id,
    "value": lambda found: found.resource["value"],
    "svalue": lambda found: found.resource["value"] if type(found.resource["value"]) is str else None,
    "bvalue": lambda found: found.resource["value"] if type(found.resource["value"]) is bool else None,
    "type": lambda found: found.resource["type"],
    "time": lambda found: _own_time(found.resource, found.said["timestamp"]),
    "gateway_time": lambda found: found.said["timestamp"],
    "kind": lambda found: found.said["rep"]["kind"],
    "code": lambda found: found.said["rep"]["code"],
    "ticket": lambda found: found.said["ticket"],
    "observationId": lambda found: found.said["observationId"],
    "serverId": lambda found: found.said["serverId"],
    "late": lambda found: _late(found.record),
    "topic": lambda found: found.record.topic,
    "partition": lambda found: found.record.partition,
    "offset": lambda found: found.record.offset,
}
assert _TAKEN.keys() == FIELDS.keys()


class RowReader:
    """Reads rows with the fields in ``used``; a row may have more."""

    def __init__(self, used: Iterable[str]) -> None:
        self._taken = [(name, _TAKEN[name]) for name in used if name in _TAKEN]

    def rows(self, record: Incoming) -> Iterable[dict[str, Scalar]]:
        """The rows of a record that is no tombstone, at least one.

        Raises:
            SerdeError: it is no record of ours.
        """
        data = record.value or b""
        schema = _SCHEMAS.get(data[:5])
        if schema is None:
            return _plain(serde.decode(data), record)
        source = BytesIO(data)
        source.seek(5)
        try:
            said: Any = schemaless_reader(source, schema, None, return_record_name=True)
            if source.tell() == len(data):
                body = said["rep"]["body"]
                if body is None or body[0] != READ_BODY or body[1]["content"][0] != RESOURCE:
                    return _plain(notification_record(said), record)
                resource = body[1]["content"][1]
                whole, path = said["path"], resource["path"]
                place = _place(whole, path) if len(whole) + len(path) <= _LONGEST_PATHS else None
                if place is not None and type(resource["value"]) is _AS_THEY_ARE.get(resource["type"]):
                    found = _Found(said, resource, place, record)
                    return ({name: taken(found) for name, taken in self._taken},)
        except (SerdeError, *_BAD_BYTES):
            pass
        return _plain(serde.decode(data), record)


def _plain(said: Record, record: Incoming) -> Iterable[dict[str, Scalar]]:
    return rows(said, topic=record.topic, partition=record.partition, offset=record.offset, late=_late(record))


def _late(record: Incoming) -> bool:
    return any(name == "late" and value == b"1" for name, value in record.headers)


def _own_time(resource: Any, time: int) -> int:
    own: int | None = resource.get("timestamp")
    return time if own is None else own


@lru_cache(maxsize=65536)
def _place(record_path: str, path: str) -> _Place | None:
    """Where the resource at ``path`` is; None where the plain way has to look."""
    try:
        known = Path.parse(path or record_path)
    except PathError:
        return None
    if known.resource_id is None:
        return None
    return _Place(suffixed(record_path, known), known.object_id, known.instance_id, known.resource_id)
