"""The pinned schemas: ``ids.json`` and the ``.avsc`` files that it names, read once at import.

Each file is one subject's schema in full (nested types in line at their first use), so that any Avro program takes it
as it is. A file that is in use is never edited: a change is a new version in a new file with a new id.
Subjects follow Confluent's TopicNameStrategy per topic family: ``iot.<gw>.observations`` is ``iot.observations-value``,
and the one key schema of all topics is ``iot-key``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastavro.schema import parse_schema

NAMESPACE = "io.zeelos.leshan.avro"

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """One row of ``ids.json``; ``text`` is the schema as in its file, ``parsed`` as fastavro wants it."""

    id: int
    subject: str
    version: int
    record: str
    file: str
    fingerprint: str
    text: str
    parsed: Any

    @property
    def frame(self) -> bytes:
        """What every record of the schema begins with in Confluent's wire format: byte 0 and the id, big-endian."""
        return b"\0" + self.id.to_bytes(4, "big")


def _load() -> dict[int, Schema]:
    rows: list[dict[str, Any]] = json.loads((_FOLDER / "ids.json").read_text(encoding="utf-8"))
    texts = [(_FOLDER / row["file"]).read_text(encoding="utf-8") for row in rows]
    return {
        # Own named_schemas each: the files repeat one another's types, in different versions.
        row["id"]: Schema(**row, text=text, parsed=parse_schema(json.loads(text), named_schemas={}))
        for row, text in zip(rows, texts, strict=True)
    }


#: Every schema by its id: what a reader accepts, on any topic.
SCHEMAS: Mapping[int, Schema] = _load()


def schema_of(record: str, version: int) -> Schema:
    """The schema of a record by its name without :data:`NAMESPACE` (``request.AvroRequest``) and version.

    Raises:
        KeyError: there is none.
    """
    name = f"{NAMESPACE}.{record}"
    for schema in SCHEMAS.values():
        if schema.record == name and schema.version == version:
            return schema
    raise KeyError(f"{name} version {version}")
