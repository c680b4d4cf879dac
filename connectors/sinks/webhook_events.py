"""What the webhook sink sends: records as events in JSON, which of them, and the signature.

Owns the shape of an event and the recipe of the signature (``docs/sinks/webhook.md``). Pure: it sends nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from connectors.sinks.graph import endpoint_properties, links_json
from connectors.sinks.history import points
from connectors.sinks.sink import SinkRecord
from schemas.avro.analytics_records import Alert
from schemas.avro.records import Notification, Registration, Response
from schemas.lwm2m.nodes import ObjectLink, Value
from schemas.lwm2m.path import Path, PathError, PathPattern


class EventKind(Enum):
    """What an event is about; each can be chosen."""

    HISTORY = "history"
    REGISTRATIONS = "registrations"
    ALERTS = "alerts"


class Event(NamedTuple):
    """One record as it is sent."""

    record: SinkRecord
    #: The same whenever the record comes, and no other record's: the receiver tells by it what it has already.
    id: str
    #: JSON, UTF-8.
    body: bytes


#: Made once: `json.dumps` with other than its defaults makes one each time.
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Unsendable(ValueError):
    """The record is nothing that is sent, or cannot be put into JSON."""


def event(record: SinkRecord, kinds: frozenset[EventKind], paths: Sequence[PathPattern]) -> Event | None:
    """``record`` as an event; None if it was not chosen. Without ``paths``, all paths are.

    Raises:
        Unsendable: it is no history and no registration, or holds what UTF-8 cannot.
    """
    match record.record:
        case Notification() | Response():
            kind, at, said = EventKind.HISTORY, record.record.timestamp, _history(record, record.record, paths)
        case Registration():
            # Its own times are the device's life, not this event's.
            kind, at, said = EventKind.REGISTRATIONS, record.timestamp, _registration(record.record)
        case Alert():
            kind, at, said = EventKind.ALERTS, record.record.timestamp, _alert(record.record, paths)
        case other:
            raise Unsendable(f"a {type(other).__name__} is nothing that this store keeps")
    if kind not in kinds or said is None:
        return None
    # The time is part of it, so that a topic which was deleted and made anew does not pass for the old one.
    name = f"{record.topic}/{record.partition}/{record.offset}/{at}"
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    whole = {"id": name, "kind": kind.value, "gateway": record.gateway, "time": at, **place, **said}
    try:
        return Event(record, name, _ENCODE(whole).encode())
    except UnicodeError as exc:
        raise Unsendable(str(exc)) from exc


def sign(secret: bytes, timestamp: int, body: bytes) -> str:
    """The signature's header: ``t=<epoch seconds>,v1=<hex>``, HMAC-SHA256 over ``<epoch seconds>.<body>``."""
    digest = hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def _history(
    record: SinkRecord, said: Notification | Response, paths: Sequence[PathPattern]
) -> Mapping[str, object] | None:
    every = list(points(record, said))
    chosen = [point for point in every if not paths or _is_chosen(point.path, paths)]
    if not chosen:
        return None
    first = chosen[0]
    return {
        "server": first.server,
        "ep": first.ep,
        "path": said.path,
        "operation": first.kind,
        "code": first.code,
        "ticket": first.ticket,
        "observationId": first.observation_id,
        "late": first.late,
        "values": [
            {"path": point.path, "type": point.type, "value": _json(point.value), "deviceTime": point.device_time_ms}
            for point in chosen
        ],
    }


def _registration(said: Registration) -> Mapping[str, object]:
    body = said.body
    properties = endpoint_properties(body)
    if properties.get("links") is not None:
        properties["links"] = links_json(body.links or ())  # type: ignore[union-attr]  # a DELETE has no such property
    if properties.get("attributes") is not None:
        properties["attributes"] = dict(body.attributes or {})  # type: ignore[union-attr]  # nor this one
    return {"server": body.server_id, "ep": body.ep, "event": said.kind.value, "endpoint": properties}


def _alert(said: Alert, paths: Sequence[PathPattern]) -> Mapping[str, object] | None:
    if paths and not _is_chosen(said.path, paths):
        return None
    return {
        "server": said.server_id,
        "ep": said.ep,
        "path": said.path,
        "alert": said.id,
        "rule": said.rule,
        "severity": said.severity,
        "state": said.state.value,
        "value": _json(said.value),
        "threshold": _json(said.threshold),
        "since": said.since,
        "summary": said.summary,
    }


def _is_chosen(path: str, paths: Sequence[PathPattern]) -> bool:
    try:
        ids = Path.parse(path).ids
    except PathError:
        return False
    return any(
        len(ids) >= len(pattern.levels)
        and all(level in (None, an_id) for level, an_id in zip(pattern.levels, ids, strict=False))
        for pattern in paths
    )


def _json(value: Value | None) -> str | float | int | bool | None:
    """JSON has no bytes, no links, and only numbers that are numbers."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case ObjectLink():
            return str(value)
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
    return value
