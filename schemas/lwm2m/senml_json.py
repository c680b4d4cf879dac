"""SenML JSON, content format 110 (RFC 8428, section 5; OMA LwM2M Core 1.1, section 7.4.4).

Owns the JSON and the base64url of ``vd``; what the records mean is in `schemas.lwm2m.senml`.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable

from schemas.lwm2m import json_text, senml
from schemas.lwm2m.errors import MalformedPayload, NotInThisFormat
from schemas.lwm2m.nodes import Node, Value
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path


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
    """The pack of a node, or of several; see `senml.records`.

    Raises:
        NotInThisFormat: a FLOAT is NaN or infinite, which JSON does not have.
    """
    return json_text.write(
        [{label: _json(value) for label, value in record.items()} for record in senml.records(node, definitions)]
    )


def _json(value: Value) -> Value:
    if isinstance(value, bytes):
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
    if isinstance(value, float) and not math.isfinite(value):
        raise NotInThisFormat(f"JSON has no number {value!r}")
    return value


def _records(payload: bytes) -> list[senml.Record]:
    pack = json_text.read(payload)
    if type(pack) is not list:
        raise MalformedPayload("SenML JSON must be an array of records")
    for record in pack:
        if type(record) is not dict:
            raise MalformedPayload("a SenML JSON record must be an object")
        if "vd" in record:
            record["vd"] = read_base64(record["vd"])
    return pack


def read_base64(text: object) -> bytes:
    """Bytes of base64url without padding, as RFC 8428 has it, or of what else devices send: with it, or plain base64.

    Raises:
        MalformedPayload: the text is neither.
    """
    if type(text) is not str:
        raise MalformedPayload("bytes must be base64 text in JSON")
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise MalformedPayload(f"{text[:40]!r} is no base64") from exc
