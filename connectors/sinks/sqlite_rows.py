"""The tables of the SQLite sink, and how a record becomes their rows.

Owns the schema of the file and what of a record goes where (``docs/sinks/sqlite.md``). Pure: it opens nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache

from connectors.sinks.graph import Event, endpoint_properties, links_json
from connectors.sinks.history import points
from connectors.sinks.sink import SinkRecord
from schemas.avro.records import Notification, Response
from schemas.lwm2m.nodes import ObjectLink, Value

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

#: Of a record that is `SinkRecord.redecoded`: the value that is there was read without knowing its type.
CORRECT_HISTORY = INSERT_HISTORY.replace(
    "ON CONFLICT DO NOTHING",
    """ON CONFLICT (source, "offset", gateway_time_ms, position) DO UPDATE SET
        type = excluded.type, number = excluded.number, text = excluded.text, bool = excluded.bool,
        blob = excluded.blob""",
)


def endpoint_columns(body: Event) -> dict[str, object]:
    """What an event says about the endpoint, as the columns of its row."""
    columns = {_column(name): value for name, value in endpoint_properties(body).items()}
    attributes, links = columns.get("attributes"), columns.get("links")
    if attributes is not None:
        columns["attributes"] = _json(attributes)
    if links is not None:
        columns["links"] = json.dumps(links_json(body.links or ()), ensure_ascii=False)  # type: ignore[union-attr]
    return columns


@lru_cache(maxsize=64)
def _column(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def history_rows(record: SinkRecord, said: Notification | Response, source: int) -> Iterator[tuple[object, ...]]:
    """The rows of ``history``: see `INSERT_HISTORY`."""
    for server, ep, path, kind, value, device, now, *common, late, position in points(record, said):
        yield (server, ep, path, kind, *_typed(value), device, now, *common, late, source, record.offset, position)


def _typed(value: Value | None) -> tuple[object, object, object, object]:
    """The columns (number, text, bool, blob), one of which is set; none where there is no value."""
    match value:
        case None:
            return None, None, None, None
        case bool(flag):
            return None, None, int(flag), None
        case float(number) if math.isnan(number):
            # SQLite has no NaN: it would turn into NULL, "no value".
            return None, "NaN", None, None
        case int() | float():
            return value, None, None, None
        case bytes(data):
            return None, None, None, data
        case ObjectLink():
            return None, str(value), None, None
        case str(text):
            return None, text, None, None
    raise TypeError(f"a {type(value).__name__} is no LwM2M value")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
