"""SenML CBOR, content format 112 (RFC 8428, section 6; OMA LwM2M Core 1.1, section 7.4.5).

Owns the labels only; what the records mean is in `schemas.lwm2m.senml`.
"""

from __future__ import annotations

from collections.abc import Iterable

import cbor2

from schemas.lwm2m import senml
from schemas.lwm2m.cbor import read_item
from schemas.lwm2m.errors import MalformedPayload
from schemas.lwm2m.nodes import Node, Value
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

#: RFC 8428, table 4. ``vlo`` is LwM2M's own and has a text label, as has every field without a number.
LABELS: dict[object, str] = {
    -6: "bs",
    -5: "bv",
    -4: "bu",
    -3: "bt",
    -2: "bn",
    -1: "bver",
    0: "n",
    1: "u",
    2: "v",
    3: "vs",
    4: "vb",
    5: "s",
    6: "t",
    7: "ut",
    8: "vd",
}
_NUMBERS = {label: number for number, label in LABELS.items()}


def decode(payload: bytes, path: Path, definitions: Definitions, received_ms: int | None = None) -> Node:
    """The node at ``path``; see `senml.decode`."""
    return senml.decode(_records(payload), path, definitions, received_ms)


def decode_series(payload: bytes, path: Path, definitions: Definitions, received_ms: int | None = None) -> list[Node]:
    """One node a distinct time; see `senml.decode_series`."""
    return senml.decode_series(_records(payload), path, definitions, received_ms)


def decode_paths(payload: bytes) -> list[Path]:
    """What a composite request asks for; see `senml.paths`."""
    return senml.paths(_records(payload))


def encode(node: Node | Iterable[Node], definitions: Definitions) -> bytes:
    """The pack of a node, or of several; see `senml.records`."""
    made: list[dict[object, Value]] = [
        {_NUMBERS.get(label, label): value for label, value in record.items()}
        for record in senml.records(node, definitions)
    ]
    return cbor2.dumps(made)


def _records(payload: bytes) -> list[senml.Record]:
    pack = read_item(payload)
    if type(pack) is not list:
        raise MalformedPayload("SenML CBOR must be an array of records")
    found: list[senml.Record] = []
    for item in pack:
        if type(item) is not dict:
            raise MalformedPayload("a SenML CBOR record must be a map")
        record: dict[str, object] = {}
        for key, value in item.items():
            if type(key) is int and key not in LABELS:
                continue  # a label of the future: none with a number is of the kind that must be understood
            label = LABELS[key] if type(key) is int else key
            if type(label) is not str or label in record:
                raise MalformedPayload("a SenML CBOR record has a label that is no text or integer, or one twice")
            record[label] = value
        found.append(record)
    return found
