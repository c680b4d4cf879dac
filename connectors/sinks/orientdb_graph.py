"""The asset graph as OrientDB keeps it: its classes, what a record says of an endpoint, and the statements for it.

Pure: it opens nothing (``docs/sinks/orientdb.md``). No text of a device or of a gateway ever stands in a statement but
inside JSON (`as_json`): vertices are found by `identity`, which is a digest, and by the record ids that OrientDB gives.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from connectors.sinks.graph import Event, endpoint_properties, held_objects, is_newer, links_json
from connectors.sinks.history import points
from connectors.sinks.sink import SinkRecord
from schemas.avro.records import CompositeBody, Notification, ReadBody, RegistrationDelete, RegistrationNew, Response

#: Class to property to type of the vertices, in the contract's names; what is ours beyond them comes last.
VERTICES: Mapping[str, Mapping[str, str]] = {
    "Servers": {"serverId": "STRING", "identity": "STRING"},
    "Endpoints": {
        "name": "STRING",
        "regDate": "LONG",
        "regId": "STRING",
        "regPort": "INTEGER",
        "regAddress": "STRING",
        "port": "INTEGER",
        "address": "STRING",
        "lt": "LONG",
        "expired": "BOOLEAN",
        "ver": "STRING",
        "bnd": "STRING",
        "regLastUpdate": "LONG",
        "online": "BOOLEAN",
        "sms": "STRING",
        "attributes": "EMBEDDEDMAP STRING",
        "manufacturer": "STRING",
        "model": "STRING",
        "serial": "STRING",
        "firmware": "STRING",
        "root": "STRING",
        "links": "STRING",
        "identity": "STRING",
        "heldDigest": "STRING",
        "deviceTold": "STRING",
        "sourceTopic": "STRING",
        "sourcePartition": "INTEGER",
        "sourceOffset": "LONG",
        "sourceTime": "LONG",
    },
    "Objects": {"id": "INTEGER", "name": "STRING", "version": "STRING", "identity": "STRING"},
}
EDGES: Mapping[str, Mapping[str, str]] = {"hasEndpoint": {}, "hasObject": {"instance": "INTEGER"}}
#: Index to (class, property, kind). The unique ones keep two writers from making one vertex twice.
INDEXES: Mapping[str, tuple[str, str, str]] = {
    "Servers.identity": ("Servers", "identity", "UNIQUE"),
    "Endpoints.identity": ("Endpoints", "identity", "UNIQUE"),
    "Objects.identity": ("Objects", "identity", "UNIQUE"),
    "Endpoints.name": ("Endpoints", "name", "NOTUNIQUE"),
}

#: What of the Device object (OMA LwM2M Core 1.1, appendix E.4) an endpoint carries.
DEVICE_PROPERTIES = {"/3/0/0": "manufacturer", "/3/0/1": "model", "/3/0/2": "serial", "/3/0/3": "firmware"}

#: What `FIELDS` selects.
FIELDS = (
    "@rid AS rid, @version AS version, identity, sourceTopic, sourcePartition, sourceOffset, sourceTime, root,"
    " heldDigest, deviceTold"
)

#: The script's answer where a vertex has changed since it was read; nothing of the script was done then.
STALE = "stale"
DONE = "done"

Held = tuple[int, str, int | None]
"""(object id, version, instance) of an edge."""


class Facts(NamedTuple):
    """What a notification or a reply tells about the device: `DEVICE_PROPERTIES` to texts; the gateway's time, ms."""

    server_id: str
    ep: str
    time_ms: int
    values: Mapping[str, str]


class Known(NamedTuple):
    """An endpoint's vertex, as far as it decides what is news."""

    rid: str
    version: int
    source: tuple[str, int] | None
    offset: int
    time_ms: int
    root: str
    held_digest: str | None
    #: Property to (gateway's time, offset) of the record that told it last.
    told: Mapping[str, tuple[int, int]]

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> Known:
        """From a row of `FIELDS`."""
        topic = row.get("sourceTopic")
        told = json.loads(str(row.get("deviceTold") or "{}"))
        return cls(
            rid=record_id(row["rid"]),
            version=int(str(row["version"])),
            source=None if topic is None else (str(topic), int(str(row["sourcePartition"]))),
            offset=int(str(row.get("sourceOffset") or 0)),
            time_ms=int(str(row.get("sourceTime") or 0)),
            root=str(row.get("root") or "/"),
            held_digest=None if row.get("heldDigest") is None else str(row["heldDigest"]),
            told={name: (when[0], when[1]) for name, when in told.items()},
        )


class Change(NamedTuple):
    """What becomes of an endpoint: properties to set, and its objects (None: they stay as they are)."""

    properties: Mapping[str, object]
    held: Sequence[Held] | None


def identity(*parts: object) -> str:
    """What a vertex is found by: SHA-256 in hex, so that nothing of ``parts`` can be more than a part of a name."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def record_id(value: object) -> str:
    """``#12:0`` as OrientDB gives it, and nothing else.

    Raises:
        ValueError: it is no record id.
    """
    text = str(value)
    if not re.fullmatch(r"#\d+:\d+", text):
        raise ValueError(f"{text!r} is no record id")
    return text


def as_json(content: Mapping[str, object]) -> str:
    r"""``content`` as it may stand in a statement.

    Not ASCII only: OrientDB turns ``\u0022`` into a quote before it looks at the statement, as Java's compiler does; so
    the fewer such escapes the better. What is left of them are control characters, and a backslash of the text itself
    is doubled, which makes it none.

    Raises:
        UnicodeEncodeError: a text is none (half of a surrogate pair).
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def attribute_name(name: str) -> str:
    r"""A key of ``attributes``; OrientDB mangles keys with ``"``, ``\`` and control characters, and reads ``@type``.

    These characters and ``%`` are percent-encoded.
    """
    escaped = re.sub(r'[%"\\\x00-\x1f]', lambda found: quote(found[0], safe=""), name)
    return f"%40{escaped[1:]}" if escaped.startswith("@") else escaped


def facts(record: SinkRecord, said: Notification | Response) -> Facts | None:
    """What ``said`` tells about the device itself; None if nothing. Late notifications tell nothing."""
    body = said.rep.body
    if isinstance(body, ReadBody):
        told = body.content.path.object_id in (None, 3)
    else:
        told = isinstance(body, CompositeBody)
    if not told or record.header("late") == b"1":
        return None
    values = {
        DEVICE_PROPERTIES[point.path]: point.value
        for point in points(record, said)
        if point.path in DEVICE_PROPERTIES and isinstance(point.value, str)
    }
    return Facts(said.server_id, said.ep, said.timestamp, values) if values else None


def fold(known: Known | None, events: Iterable[tuple[SinkRecord, Event | Facts]]) -> Change:
    """What ``events``, in order, change about an endpoint whose vertex is ``known``; old ones change nothing."""
    properties: dict[str, object] = {}
    held: Sequence[Held] | None = None
    source, offset, time_ms = (None, 0, 0) if known is None else (known.source, known.offset, known.time_ms)
    root = known.root if known else "/"
    told = dict(known.told) if known else {}
    for record, event in events:
        if isinstance(event, Facts):
            now = (event.time_ms, record.offset)
            for name, value in event.values.items():
                if name not in told or now > told[name]:
                    told[name] = now
                    properties |= {name: value, "deviceTold": json.dumps(told)}
            continue
        place = (record.topic, record.partition)
        if source is not None and not is_newer(
            record, same_source=source == place, offset=offset, event_time_ms=time_ms
        ):
            continue
        source, offset, time_ms = place, record.offset, record.timestamp
        properties |= _stored(event) | {
            "sourceTopic": record.topic,
            "sourcePartition": record.partition,
            "sourceOffset": offset,
            "sourceTime": time_ms,
        }
        if isinstance(event, RegistrationDelete):
            continue
        if isinstance(event, RegistrationNew):
            root = event.root
        if event.links is not None:
            held = held_objects(event.links, root)
    if held is not None:
        digest = identity(held)
        if known is not None and digest == known.held_digest:
            held = None
        else:
            properties["heldDigest"] = digest
    return Change(properties, held)


def _stored(event: Event) -> dict[str, object]:
    properties = endpoint_properties(event)
    attributes = getattr(event, "attributes", None)
    if attributes is not None:
        properties["attributes"] = {attribute_name(name): value for name, value in attributes.items()}
    links = getattr(event, "links", None)
    if links is not None:
        properties["links"] = json.dumps(links_json(links), ensure_ascii=False)
    return properties


def creation(number: int, content: Mapping[str, object], server: str, objects: Iterable[tuple[str, int | None]]) -> str:
    """The statements for a new endpoint: its vertex, and edges from ``server`` and to ``objects`` (record ids)."""
    made = f"$v{number}"
    return "".join(
        (
            f"LET v{number} = CREATE VERTEX Endpoints CONTENT {as_json(content)};",
            f"CREATE EDGE hasEndpoint FROM {server} TO {made};",
            edges(made, objects, ()),
        )
    )


def update(rid: str, content: Mapping[str, object]) -> str:
    """The statement that sets some properties of the vertex ``rid``."""
    return f"UPDATE {rid} MERGE {as_json(content)};"


def edges(endpoint: str, objects: Iterable[tuple[str, int | None]], gone: Iterable[str]) -> str:
    """The statements for new edges to ``objects``, and for those that are ``gone`` (record ids)."""
    return "".join(
        (
            *(f"DELETE EDGE {edge};" for edge in gone),
            *(_edge(endpoint, an_object, instance) for an_object, instance in sorted(objects, key=str)),
        )
    )


def _edge(endpoint: str, an_object: str, instance: int | None) -> str:
    number = "" if instance is None else f" SET instance = {instance:d}"
    return f"CREATE EDGE hasObject FROM {endpoint} TO {an_object}{number};"


def transaction(statements: Iterable[str], changed: Sequence[tuple[str, str, int]] = ()) -> str:
    """All of ``statements`` or none; none either if one of ``changed`` is not as it was read.

    ``changed`` are vertices: (its `update`, record id, version). They keep their versions until the end of the
    transaction, which fails if another one has changed them meanwhile. Versions only grow, so their sum tells; to ask
    each one with a WHERE takes OrientDB twice as long as the change itself.
    """
    guard = ""
    if changed:
        total = sum(version for _, _, version in changed)
        guard = (
            f"LET seen = SELECT count(*) AS n, sum(@version) AS v FROM [{', '.join(rid for _, rid, _ in changed)}];"
            f'IF ($seen[0].n != {len(changed)} OR $seen[0].v != {total}) {{ ROLLBACK; RETURN "{STALE}"; }}'
        )
    return f'BEGIN;{"".join(one for one, _, _ in changed)}{guard}{"".join(statements)}COMMIT;RETURN "{DONE}";'


def select_by_identity(fields: str, vertex: str, identities: Iterable[str]) -> str:
    """A SELECT of the vertices of a class."""
    among = ", ".join(f"'{digest}'" for digest in identities)
    return f"SELECT {fields} FROM {vertex} WHERE identity IN [{among}]"


def missing_schema(classes: frozenset[str], properties: frozenset[str], indexes: frozenset[str]) -> Iterator[str]:
    """The statements that make what is missing; ``properties`` are ``Class.property``."""
    for base, members in (("V", VERTICES), ("E", EDGES)):
        for name, fields in members.items():
            if name not in classes:
                yield f"CREATE CLASS {name} EXTENDS {base}"
            for field, kind in fields.items():
                if f"{name}.{field}" not in properties:
                    yield f"CREATE PROPERTY {name}.{field} {kind}"
    for index, (name, field, kind) in INDEXES.items():
        if index not in indexes:
            yield f"CREATE INDEX {index} ON {name} ({field}) {kind}"


def vertex(name: str, content: Mapping[str, object]) -> str:
    """The statement for a new vertex of the class ``name``."""
    return f"CREATE VERTEX {name} CONTENT {as_json(content)};"


def select_edges(endpoints: Iterable[str]) -> str:
    """A SELECT of the edges to the objects of these endpoints (record ids): ofEndpoint, rid, ofObject, instance."""
    return (
        "SELECT out.@rid AS ofEndpoint, @rid AS rid, in.@rid AS ofObject, instance"
        f" FROM (SELECT EXPAND(outE('hasObject')) FROM [{', '.join(endpoints)}])"
    )


def removal(objects: Iterable[str]) -> str:
    """The statement that removes those of ``objects`` (record ids) that no endpoint has."""
    return f"DELETE VERTEX Objects WHERE @rid IN [{', '.join(sorted(objects))}] AND in('hasObject').size() = 0;"
