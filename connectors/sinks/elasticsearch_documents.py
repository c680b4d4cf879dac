"""The documents of the Elasticsearch sink, their identities, the names of their indices, and the templates of both.

Pure. Nothing that a device or a person says becomes the name of a field: mappings are closed (``dynamic: false``) and
what has names of its own, such as attributes, is a list of pairs. So no input makes a mapping grow.
"""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from connectors.sinks.graph import Event, endpoint_properties, held_objects, object_name
from connectors.sinks.history import points
from connectors.sinks.sink import SinkRecord
from schemas.avro.records import Link, Notification, Response
from schemas.lwm2m.nodes import ObjectLink, Value
from schemas.lwm2m.objects import Definitions

_DAY_MS = 86_400_000
#: 9999-12-31; ``epoch_millis`` begins at 0 (Elasticsearch 7 takes no time before it).
_LAST_DAY = 2_932_896

_KEYWORD: Mapping[str, object] = {"type": "keyword", "ignore_above": 8191}
#: A term is at most 32,766 bytes, and a character at most 4; what is longer is kept, and only not found by itself.
_TEXT: Mapping[str, object] = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 1024}}}
_TIME: Mapping[str, object] = {"type": "date", "format": "epoch_millis"}
#: Of a device: one that cannot be a time is kept, and only not found.
_THEIR_TIME: Mapping[str, object] = {**_TIME, "ignore_malformed": True}
_NUMBER: Mapping[str, object] = {"type": "long", "ignore_malformed": True}
_BOOLEAN: Mapping[str, object] = {"type": "boolean"}
_KEPT: Mapping[str, object] = {"type": "object", "enabled": False}

_HISTORY: Mapping[str, Mapping[str, object]] = {
    "@timestamp": _TIME,
    "deviceTime": _THEIR_TIME,
    **dict.fromkeys(
        ("gateway", "serverId", "ep", "path", "type", "kind", "code", "ticket", "observationId", "topic"), _KEYWORD
    ),
    "value": {"type": "double"},
    "ivalue": {"type": "long"},
    "svalue": _TEXT,
    "bvalue": _BOOLEAN,
    "data": {"type": "binary"},
    "late": _BOOLEAN,
    "partition": {"type": "integer"},
    "offset": {"type": "long"},
    "position": {"type": "integer"},
}

_PAIRS: Mapping[str, object] = {"properties": {"name": _KEYWORD, "value": _KEYWORD}}

_ENDPOINTS: Mapping[str, Mapping[str, object]] = {
    **dict.fromkeys(("serverId", "name", "regId", "regAddress", "address", "ver", "bnd", "sms", "root"), _KEYWORD),
    **dict.fromkeys(("regDate", "regLastUpdate"), _THEIR_TIME),
    **dict.fromkeys(("regPort", "port", "lt"), _NUMBER),
    **dict.fromkeys(("expired", "online"), _BOOLEAN),
    "attributes": _PAIRS,
    "objects": {
        "properties": {
            "id": _NUMBER,
            "version": _KEYWORD,
            "instance": _NUMBER,
            "name": _KEYWORD,
        }
    },
    "links": _KEPT,
    "applied": _KEPT,
}


class NotForUs(ValueError):
    """Elasticsearch has no form for this record."""


class Document(NamedTuple):
    """One action of a bulk request. ``body`` is its lines as they are sent."""

    record: SinkRecord
    index_name: str
    body: bytes


def endpoints_index(prefix: str) -> str:
    """The index of the asset graph; no history index has this name, they all have dots."""
    return f"{prefix}-endpoints"


def templates(prefix: str, shards: int, replicas: int) -> dict[str, bytes]:
    """Composable index templates by name: ``PUT /_index_template/NAME``."""
    settings = {"number_of_shards": shards, "number_of_replicas": replicas}

    def made(pattern: str, properties: Mapping[str, object]) -> bytes:
        return json.dumps(
            {
                "index_patterns": [pattern],
                # Two that match may not be of one priority; the longer prefix knows better.
                "priority": 200 + len(prefix),
                "template": {"settings": settings, "mappings": {"dynamic": False, "properties": properties}},
                "_meta": {"made-by": "headwater"},
            }
        ).encode()

    return {
        f"{prefix}-history": made(f"{prefix}-*-*.*.*", _HISTORY),
        f"{prefix}-endpoints": made(endpoints_index(prefix), _ENDPOINTS),
    }


@lru_cache(maxsize=4096)
def _index(prefix: str, gateway: str, day: int) -> str:
    if not 0 <= day <= _LAST_DAY:
        raise NotForUs("its time is before 1970 or after 9999: there is no index of that day")
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)
    # Names of indices are lower case. Two gateways that differ in case only share one; their documents stay apart.
    return f"{prefix}-{gateway.lower()}-{date:%Y.%m.%d}"


def history_documents(prefix: str, record: SinkRecord, said: Notification | Response) -> Iterator[Document]:
    """One document a point.

    Raises:
        NotForUs: a number or time is beyond what there is.
    """
    index = _index(prefix, record.gateway, said.timestamp // _DAY_MS)
    topic, partition, offset = record.topic, record.partition, record.offset
    for point in points(record, said):
        document: dict[str, object] = {
            "@timestamp": point.gateway_time_ms,
            "gateway": record.gateway,
            "serverId": point.server,
            "ep": point.ep,
            "path": point.path,
            "kind": point.kind,
            "code": point.code,
            "ticket": point.ticket,
            "late": point.late,
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "position": point.position,
        }
        if point.type is not None:
            document["type"] = point.type
        if point.observation_id is not None:
            document["observationId"] = point.observation_id
        if point.device_time_ms is not None:
            document["deviceTime"] = point.device_time_ms
        if point.value is not None:
            _put(document, point.value)
        # The time is part of the identity: a topic that was made anew begins again with offset 0.
        identity = f"{topic}/{partition}/{offset}/{point.gateway_time_ms}/{point.position}"
        yield Document(record, index, _lines("index", {"_index": index, "_id": identity}, document))


def _put(document: dict[str, object], value: Value) -> None:
    match value:
        case bool():
            document["bvalue"] = value
        case int():
            # JSON's number is read as it stands, so that of ``ivalue`` keeps every digit.
            if -(2**63) <= value < 2**63:
                document["ivalue"] = value
            try:
                document["value"] = float(value)
            except OverflowError as exc:
                raise NotForUs("an integer is larger than any number of Elasticsearch") from exc
            if "ivalue" not in document:
                document["svalue"] = str(value)
        case float():
            if math.isfinite(value):
                document["value"] = value
            else:
                # JSON has no such numbers.
                document["svalue"] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case bytes():
            document["data"] = b64encode(value).decode()
        case ObjectLink():
            document["svalue"] = str(value)
        case str():
            document["svalue"] = value


def _lines(action: str, meta: Mapping[str, object], document: Mapping[str, object]) -> bytes:
    # Escapes beyond ASCII: a text that is no Unicode (a lone surrogate) has a form too.
    return f"{json.dumps({action: meta})}\n{json.dumps(document)}\n".encode("ascii")


def endpoint_identity(server: str, ep: str) -> str:
    """The ``_id`` of an endpoint: a name may be longer than an ``_id``, and hold anything."""
    return hashlib.sha256(json.dumps([server, ep]).encode("ascii")).hexdigest()


def endpoint_changes(body: Event, root: str, definitions: Definitions) -> dict[str, Any]:
    """What of an endpoint's document an event changes; ``root`` is where its objects are, if it says nothing of it."""
    changes: dict[str, Any] = {"serverId": body.server_id, "name": body.ep} | endpoint_properties(body)
    attributes, links = changes.get("attributes"), changes.get("links")
    if attributes is not None:
        changes["attributes"] = _pairs(attributes)
    if links is not None:
        changes["links"] = [_link(link) for link in links]
        changes["objects"] = [
            {"id": number, "version": version, "instance": instance, "name": object_name(definitions, number, version)}
            for number, version, instance in held_objects(links, changes.get("root") or root)
        ]
    return changes


def _pairs(named: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(named.items())]


def _link(link: Link) -> dict[str, object]:
    return {"url": link.url, "at": _pairs(link.at)}


def endpoint_document(
    record: SinkRecord,
    index: str,
    identity: str,
    changes: Mapping[str, object],
    seen: tuple[int, int] | None,
    *,
    whole: bool,
) -> Document:
    """The action that writes ``changes``, only if the document is still what it was when it was ``seen`` (sequence
    number, primary term), or still missing (None). ``whole``: they are all of it."""
    meta: dict[str, object] = {"_index": index, "_id": identity}
    if seen is None:
        return Document(record, index, _lines("create", meta, changes))
    meta |= {"if_seq_no": seen[0], "if_primary_term": seen[1]}
    if whole:
        # Elasticsearch need not read and merge the old one.
        return Document(record, index, _lines("index", meta, changes))
    return Document(record, index, _lines("update", meta, {"doc": changes}))
