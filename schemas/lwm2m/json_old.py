"""The JSON of LwM2M 1.0, content format 11543 and, before its registration, 1543 (OMA LwM2M 1.0, section 6.4.4).

``{"bn": "/3/0/", "bt": 1367491215, "e": [{"n": "0", "sv": "..."}, {"n": "9", "v": 100, "t": -5}]}``

Without ``bn`` names are relative to the path that was asked for. Opaque values are base64 in ``sv``; ``ov`` is an
object link. Times are those of the SenML draft of its day: base time and time summed up are seconds since 1970 if above
0, and relative to the moment of reception otherwise.
"""

from __future__ import annotations

import base64
import math
from typing import Any

from schemas.lwm2m import json_text, senml
from schemas.lwm2m.errors import MalformedPayload, NotInThisFormat
from schemas.lwm2m.nodes import Node, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from schemas.lwm2m.senml_json import read_base64

#: Any sum above 0 is a time since 1970.
_ABSOLUTE = 0.001
_LABELS = {"v": "v", "sv": "vs", "bv": "vb", "ov": "vlo"}
_OLD = {label: old for old, label in _LABELS.items()}


def decode(payload: bytes, path: Path, definitions: Definitions, received_ms: int | None = None) -> Node:
    """The node at ``path`` (depth 1 to 4); where a resource has values of several times, the newest.

    Raises:
        CodecError: no JSON of this form, about another path, or a value that does not fit its type.
    """
    return senml.decode(_records(payload, path, definitions), path, definitions, received_ms, _ABSOLUTE)


def decode_series(payload: bytes, path: Path, definitions: Definitions, received_ms: int | None = None) -> list[Node]:
    """One node a distinct time, oldest first."""
    return senml.decode_series(_records(payload, path, definitions), path, definitions, received_ms, _ABSOLUTE)


def encode(node: Node, definitions: Definitions) -> bytes:
    """The JSON of a node.

    Raises:
        CodecError: a value does not fit the type of its resource, or is a FLOAT that JSON does not have.
    """
    outer: dict[str, Any] = {}
    entries: list[dict[str, Any]] = []
    for record in senml.records(node, definitions):
        entry: dict[str, Any] = {}
        for label, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NotInThisFormat(f"JSON has no number {value!r}")
            if label in ("bn", "bt"):
                outer[label] = value
            elif isinstance(value, bytes):
                entry["sv"] = base64.b64encode(value).decode()
            else:
                entry[_OLD.get(label, label)] = value
        entries.append(entry)
    return json_text.write({"bn": str(node.path), **outer, "e": entries})


def _records(payload: bytes, path: Path, definitions: Definitions) -> list[senml.Record]:
    """The entries as SenML records with whole names and times."""
    outer = json_text.read(payload)
    if type(outer) is not dict or type(outer.get("e")) is not list:
        raise MalformedPayload('LwM2M JSON must be an object with the array "e" in it')
    base_name = senml.name(outer["bn"]) if "bn" in outer else str(path) + "/"
    base_time = senml.number(outer.get("bt", 0), "bt")
    found: list[senml.Record] = []
    for entry in outer["e"]:
        if type(entry) is not dict:
            raise MalformedPayload('an entry of "e" must be an object')
        where = senml.resource_path((base_name + senml.name(entry.get("n", ""))).rstrip("/"))
        record: dict[str, object] = {"n": str(where)}
        if base_time or "t" in entry:
            record["t"] = base_time + senml.number(entry.get("t", 0), "t")
        for label in _LABELS.keys() & entry.keys():
            record[_LABELS[label]] = entry[label]
        definition = definitions.resource(where)
        if "vs" in record and definition is not None and definition.type is ResourceType.OPAQUE:
            record["vd"] = read_base64(record.pop("vs"))
        found.append(record)
    return found
