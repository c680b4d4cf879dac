"""Notifications → readings: the numbers of an observation's record, each with its series and its event time. Pure.

Event time is the device's own where it gave one (``timestamp`` of the resource), else the gateway's. A number is a
FLOAT or an INTEGER that is finite; text, booleans, opaque values, links and times are no readings.

Written for speed, as every job goes through here for every record: from fastavro's dicts straight to tuples, without
the dataclasses of `schemas.avro.records` between. A test holds it equal to the plain way through ``serde.decode``.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from math import isfinite
from struct import error as StructError
from typing import Any, NamedTuple

from fastavro import schemaless_reader

from schemas.avro.conversions import READ_BODY
from schemas.avro.errors import MalformedRecord, NotFramed, SerdeError, UnknownSchemaId, malformed
from schemas.avro.registry import SCHEMAS, schema_of
from schemas.avro.resources import INSTANCE, MULTIPLE, OBJECT, RESOURCE
from schemas.lwm2m.path import Path, PathError


class Reading(NamedTuple):
    """One number of one series; ``time`` is the event time in epoch ms, ``own`` True where the device gave it."""

    path: str
    value: float
    time: int
    own: bool


class Observed(NamedTuple):
    """What a notification tells; ``time`` is the gateway's, in epoch ms.

    ``skipped``: numbers that were left out as they are not finite.
    """

    server_id: str
    ep: str
    time: int
    readings: list[Reading]
    skipped: int = 0


#: So much later than its Kafka record may the gateway's time in it be, in ms, where a job is told of no more.
GATEWAY_AHEAD_MS = 86_400_000

_SCHEMAS = {(schema := schema_of("response.AvroResponseObserve", version)).id: schema.parsed for version in (1, 2)}
_NUMBERS = frozenset(("FLOAT", "INTEGER"))
_BAD_BYTES = (EOFError, IndexError, KeyError, ValueError, TypeError, OverflowError, MemoryError, StructError)


def observed(data: bytes | None) -> Observed:
    """The readings of the notification in ``data`` (Confluent's wire format), in the record's order.

    Raises:
        NotFramed, UnknownSchemaId, MalformedRecord: as ``serde.decode``; also for a record of another kind.
    """
    if data is None or len(data) < 5 or data[0] != 0:
        raise NotFramed(f"{len(data or b'')} bytes without Confluent's frame (a zero byte and a schema id) in front")
    schema_id = int.from_bytes(data[1:5], "big")
    schema = _SCHEMAS.get(schema_id)
    if schema is None:
        if schema_id in SCHEMAS:
            raise MalformedRecord(f"a {SCHEMAS[schema_id].record.rpartition('.')[2]} is no notification")
        raise UnknownSchemaId(schema_id)
    source = BytesIO(data)
    source.seek(5)
    try:
        fields: Any = schemaless_reader(source, schema, None, return_record_name=True)
        if source.tell() != len(data):
            raise MalformedRecord(f"schema id {schema_id}: {len(data) - source.tell()} bytes too many at the end")
        time = fields["timestamp"]
        rep = fields["rep"]
        body = rep["body"]
        found: list[Reading] = []
        if body is None or rep["code"] != "CONTENT" or body[0] != READ_BODY:
            return Observed(fields["serverId"], fields["ep"], time, found)
        name, content = body[1]["content"]
        if name == RESOURCE:
            skipped = _resource(content, content["path"] or fields["path"], time, found)
        else:
            skipped = _BRANCHES[name](content, fields["path"], time, found)
        return Observed(fields["serverId"], fields["ep"], time, found, skipped)
    except SerdeError:
        raise
    except _BAD_BYTES as exc:
        raise malformed(schema_id, exc, source.tell(), len(data)) from exc


def within(told: Observed, kafka_time: int, ahead: int) -> Observed:
    """``told``, with Kafka's time of the record (epoch ms) for the gateway's where that is too far ahead of it.

    The gateway's times are a partition's clock, which never goes back: one of the year 9999 would stop it there, and no
    silence would be heard any more. ``ahead`` in ms; a day is let through in any case.
    """
    time = max(kafka_time, 0)
    if told.time <= time + max(ahead, GATEWAY_AHEAD_MS):
        return told
    readings = [one if one.own else one._replace(time=time) for one in told.readings]
    return told._replace(time=time, readings=readings)


def _resource(fields: Any, path: str, time: int, found: list[Reading]) -> int:
    if fields["type"] not in _NUMBERS:
        return 0
    value = fields["value"]
    if type(value) is int:
        value = float(value)
    elif type(value) is not float:
        raise MalformedRecord(f"{path}: {str(value)[:80]!r} is no {fields['type']}")
    if not isfinite(value):
        return 1
    own = fields.get("timestamp")
    found.append(Reading(_canonical(path), value, time if own is None else own, own is not None))
    return 0


def _multiple(fields: Any, path: str, time: int, found: list[Reading]) -> int:
    where = fields["path"] or path
    return sum(_resource(one, f"{where}/{key}", time, found) for key, one in _ordered(fields["resources"]))


def _instance(fields: Any, path: str, time: int, found: list[Reading]) -> int:
    skipped = sum(
        _resource(one, one["path"] or f"{_two_levels(path, fields['id'])}/{one['id']}", time, found)
        for one in fields["resources"]
    )
    return skipped + sum(
        _multiple(one, f"{_two_levels(path, fields['id'])}/{one['id']}", time, found)
        for one in fields["multipleResources"] or ()
    )


def _object(fields: Any, _path: str, time: int, found: list[Reading]) -> int:
    return sum(_instance(one, f"/{fields['id']}", time, found) for one in fields["instances"])


_BRANCHES = {OBJECT: _object, INSTANCE: _instance, MULTIPLE: _multiple}


def _two_levels(path: str, instance_id: int) -> str:
    return f"/{path.strip('/').split('/')[0]}/{instance_id}"


def _ordered(resources: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(resources.items(), key=lambda entry: int(entry[0]))


@lru_cache(maxsize=65536)
def _canonical(path: str) -> str:
    try:
        known = Path.parse(path)
    except PathError as exc:
        raise MalformedRecord(str(exc)) from exc
    if known.resource_id is None:
        raise MalformedRecord(f"{known} is no path of a resource")
    return str(known)
