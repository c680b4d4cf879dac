"""The tables of the SQLite sink, and how a record becomes their rows.

Owns the schema of the file and what of a record goes where (``docs/sinks/sqlite.md``). Pure: it opens nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from connectors.sinks.sink import SinkRecord
from schemas.avro.records import (
    CreateBody,
    DiscoverBody,
    GenericBody,
    Link,
    Notification,
    ReadBody,
    RegistrationDelete,
    RegistrationNew,
    RegistrationUpdate,
    Response,
    ResponseBody,
)
from schemas.lwm2m.nodes import ObjectLink, Resource, values
from schemas.lwm2m.path import Path, PathError

#: ``PRAGMA application_id`` and ``user_version`` of our files: "HWTR", and the number of `MIGRATIONS` applied.
APPLICATION_ID = 0x48575452

#: The schema, as steps: a file is brought from its ``user_version`` to the length of this list. Steps are only added.
MIGRATIONS = (
    """
    CREATE TABLE sources (id INTEGER PRIMARY KEY, topic TEXT NOT NULL, "partition" INTEGER NOT NULL,
        UNIQUE (topic, "partition"));

    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        server TEXT NOT NULL, ep TEXT NOT NULL, path TEXT NOT NULL,
        type TEXT,
        number, text TEXT, bool INTEGER, blob BLOB,
        device_time_ms INTEGER, gateway_time_ms INTEGER NOT NULL,
        kind TEXT NOT NULL, code TEXT NOT NULL, ticket TEXT NOT NULL, observation_id TEXT,
        late INTEGER NOT NULL,
        source INTEGER NOT NULL REFERENCES sources (id), "offset" INTEGER NOT NULL, position INTEGER NOT NULL,
        value AS (coalesce(number, text, bool, blob)),
        UNIQUE (source, "offset", gateway_time_ms, position));
    CREATE INDEX history_of_path ON history (ep, path, gateway_time_ms, "offset");

    CREATE TABLE series (server TEXT, ep TEXT, path TEXT, PRIMARY KEY (server, ep, path)) WITHOUT ROWID;
    CREATE VIEW latest AS
        SELECT h.server, h.ep, h.path, h.type, h.value, h.device_time_ms, h.gateway_time_ms, h.kind, h.ticket,
            h.observation_id
        FROM series s JOIN history h ON h.id = coalesce(
            (SELECT id FROM history WHERE ep = s.ep AND path = s.path AND server = s.server AND type IS NOT NULL
                AND late = 0 ORDER BY gateway_time_ms DESC, "offset" DESC, position DESC LIMIT 1),
            (SELECT id FROM history WHERE ep = s.ep AND path = s.path AND server = s.server AND type IS NOT NULL
                ORDER BY gateway_time_ms DESC, "offset" DESC, position DESC LIMIT 1));

    CREATE TABLE servers (server_id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE endpoints (
        server TEXT NOT NULL REFERENCES servers (server_id), name TEXT NOT NULL,
        reg_date INTEGER, reg_id TEXT, reg_address TEXT, reg_port INTEGER, address TEXT, port INTEGER,
        lt INTEGER, expired INTEGER NOT NULL, ver TEXT, bnd TEXT, reg_last_update INTEGER, online INTEGER NOT NULL,
        sms TEXT, attributes TEXT, root TEXT, links TEXT,
        source INTEGER NOT NULL REFERENCES sources (id), "offset" INTEGER NOT NULL, event_time_ms INTEGER NOT NULL,
        PRIMARY KEY (server, name));
    CREATE TABLE objects (id INTEGER NOT NULL, version TEXT NOT NULL, name TEXT, PRIMARY KEY (id, version));
    CREATE TABLE has_object (
        server TEXT NOT NULL, endpoint TEXT NOT NULL, object_id INTEGER NOT NULL, object_version TEXT NOT NULL,
        instance INTEGER,
        FOREIGN KEY (server, endpoint) REFERENCES endpoints (server, name),
        FOREIGN KEY (object_id, object_version) REFERENCES objects (id, version));
    CREATE INDEX has_object_from ON has_object (server, endpoint);
    CREATE INDEX has_object_to ON has_object (object_id, object_version);
    CREATE VIEW has_endpoint AS SELECT server, name AS endpoint FROM endpoints;
    CREATE VIEW online_endpoints AS SELECT * FROM endpoints WHERE online = 1;
    """,
)

# DO NOTHING and not OR IGNORE: that would swallow any constraint, not only the identity.
INSERT_HISTORY = """
    INSERT INTO history (server, ep, path, type, number, text, bool, blob, device_time_ms, gateway_time_ms, kind, code,
        ticket, observation_id, late, source, "offset", position)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


def is_stale(applied: tuple[int, int, int], source: int, record: SinkRecord) -> bool:
    """Whether what is applied is newer than, or the same as, ``record``.

    The same endpoint is always on the same partition, so offsets decide. An offset that is lower while the time is
    later is a topic that was made anew; another partition, one whose partitions were increased: there, time decides.
    """
    applied_source, applied_offset, applied_time = applied
    if source == applied_source:
        return record.offset <= applied_offset and record.timestamp <= applied_time
    return record.timestamp < applied_time


def endpoint_columns(body: RegistrationNew | RegistrationUpdate | RegistrationDelete) -> dict[str, object]:
    """What an event says about the endpoint; NEW says everything, the others only what they carry."""
    match body:
        case RegistrationNew():
            return {
                "reg_date": body.reg_date,
                "reg_id": body.reg_id,
                "reg_address": body.reg_addr,
                "reg_port": body.reg_port,
                "address": body.address,
                "port": body.port,
                "lt": body.lt,
                "expired": 0,
                "ver": body.ver,
                "bnd": body.bnd.value,
                "reg_last_update": body.last_up,
                "online": 1,
                "sms": body.sms,
                "attributes": None if body.attributes is None else _json(dict(body.attributes)),
                "root": body.root,
                "links": _links_json(body.links),
            }
        case RegistrationUpdate():
            carried = {
                "lt": body.lt,
                "bnd": None if body.bnd is None else body.bnd.value,
                "sms": body.sms,
                "attributes": None if body.attributes is None else _json(dict(body.attributes)),
                "links": None if body.links is None else _links_json(body.links),
            }
            return {
                "reg_id": body.reg_id,
                "address": body.address,
                "port": body.port,
                "reg_last_update": body.last_up,
                "expired": 0,
                "online": 1,
            } | {name: value for name, value in carried.items() if value is not None}
        case RegistrationDelete():
            return {"expired": int(body.expired), "online": 0, "reg_last_update": body.last_up}


def held_objects(links: Sequence[Link], root: str) -> list[tuple[int, str, int | None]]:
    """(object id, version, instance id) of each object link, below ``root``; other links are no objects.

    An object without a ``ver`` attribute is version 1.0 (OMA LwM2M Core 1.1, section 7.2.2); one without instances has
    a row of its own with the instance None.
    """
    prefix = root.rstrip("/")
    versions: dict[int, str] = {}
    found: dict[int, set[int]] = {}
    for link in links:
        if prefix and not link.url.startswith(f"{prefix}/"):
            continue
        try:
            path = Path.parse(link.url.removeprefix(prefix))
        except PathError:
            continue
        if path.object_id is None:
            continue
        instances = found.setdefault(path.object_id, set())
        if path.instance_id is not None:
            instances.add(path.instance_id)
        if "ver" in link.at:
            versions[path.object_id] = link.at["ver"].strip('"')
    held: list[tuple[int, str, int | None]] = []
    for object_id, instances in sorted(found.items()):
        version = versions.get(object_id, "1.0")
        held.extend((object_id, version, instance) for instance in sorted(instances))
        if not instances:
            held.append((object_id, version, None))
    return held


def history_rows(record: SinkRecord, said: Notification | Response, source: int) -> Iterator[tuple[object, ...]]:
    observation = said.observation_id if isinstance(said, Notification) else None
    # The kind of an answer to a command, the late mark of a notification that was overtaken on its way.
    common = (said.rep.kind.value, said.rep.code.value, said.ticket, observation, int(record.header("late") == b"1"))
    place = (source, record.offset)
    body = said.rep.body
    content = values(body.content) if isinstance(body, ReadBody) else []
    for position, value in enumerate(content):
        yield (
            said.server_id,
            said.ep,
            str(value.path),
            value.type.value,
            *_typed(value),
            value.timestamp,
            said.timestamp,
            *common,
            *place,
            position,
        )
    if not content:
        # No value but words, or not even these: what happened is still kept.
        text = (None, _words(body), None, None)
        yield (said.server_id, said.ep, said.path, None, *text, None, said.timestamp, *common, *place, 0)


def _words(body: ResponseBody | None) -> str | None:
    match body:
        case GenericBody(message=text) | DiscoverBody(object_links=text) | CreateBody(location=text):
            return text
    return None


def _typed(resource: Resource) -> tuple[object, object, object, object]:
    """The columns (number, text, bool, blob), one of which is set."""
    match resource.value:
        case bool(flag):
            return None, None, int(flag), None
        case float(number) if math.isnan(number):
            # SQLite has no NaN: it would turn into NULL, "no value".
            return None, "NaN", None, None
        case int() | float():
            return resource.value, None, None, None
        case bytes(data):
            return None, None, None, data
        case ObjectLink():
            return None, str(resource.value), None, None
        case str(text):
            return None, text, None, None
    raise TypeError(f"{resource.path}: a {type(resource.value).__name__} is no LwM2M value")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _links_json(links: Sequence[Link]) -> str:
    return json.dumps([{"url": link.url, "at": dict(link.at)} for link in links], ensure_ascii=False)
