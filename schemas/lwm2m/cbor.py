"""CBOR, content format 60: one value as one CBOR item (OMA LwM2M Core 1.2, section 7.4.6; RFC 8949).

TIME is a number of seconds, with tag 1 or without, or a date and time as text with tag 0; OBJLNK is the text
``object:instance``. Also owns how any CBOR from a device is read: no more depth, no other tags and no bytes behind the
item than the formats need.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import cbor2

from schemas.lwm2m import fit, tree
from schemas.lwm2m.errors import MalformedPayload, NotInThisFormat, WrongValue
from schemas.lwm2m.nodes import Node, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions, ResourceDefinition
from schemas.lwm2m.path import Path

#: An array of maps of values, and a decimal fraction as a value.
MAX_DEPTH = 4
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


def decode(payload: bytes, path: Path, definitions: Definitions) -> Resource:
    """One value at ``path`` (depth 3 or 4).

    Raises:
        CodecError: the path holds more than one value, the bytes are not exactly one plain CBOR item, or the value does
            not fit the type.
    """
    return resource(read_item(payload), tree.single(path, definitions, "CBOR"), path)


def resource(raw: object, definition: ResourceDefinition | None, path: Path) -> Resource:
    """The Resource at ``path`` of what `read_item` gave for its value.

    Raises:
        MalformedPayload: a collection, or null.
        WrongValue: the value does not fit the type.
    """
    if type(raw) is _Epoch:
        kind = ResourceType.TIME
        if definition is not None and definition.type not in (None, kind):
            raise WrongValue(f"{path} is of type {definition.type.value}, but the value is a time (CBOR tag 0 or 1)")
        return Resource(path=path, type=kind, value=fit.as_time(raw.seconds, path))
    if not isinstance(raw, int | float | str | bytes):
        raise MalformedPayload(f"{path}: a CBOR value must be a number, text, bytes or a boolean, not {_word(raw)}")
    kind, value = fit.typed(raw, definition, path)
    return Resource(path=path, type=kind, value=value)


def encode(node: Node, definitions: Definitions) -> bytes:
    """The CBOR item of a Resource; TIME with tag 1, in whole seconds where nothing is lost.

    Raises:
        CodecError: the node is no single value, or its value does not fit the type of its resource.
    """
    if not isinstance(node, Resource):
        raise NotInThisFormat(f"{node.path}: CBOR carries a single value only; use SenML CBOR")
    kind, value, _ = fit.outgoing(node, definitions)
    return cbor2.dumps(item(kind, value))


def item(kind: ResourceType, value: Value) -> object:
    """A value as cbor2 writes it: TIME with tag 1, OBJLNK as text."""
    if kind is ResourceType.TIME:
        return cbor2.CBORTag(1, fit.seconds(value))  # type: ignore[arg-type]  # a TIME is an int
    return str(value) if isinstance(value, ObjectLink) else value


class _Epoch:
    """A number of seconds since 1970 that carried tag 1, or was told with tag 0."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: int | float) -> None:
        self.seconds = seconds


def _epoch(content: object, _: bool) -> _Epoch:
    if type(content) is int or type(content) is float:
        return _Epoch(content)
    raise MalformedPayload("a CBOR time (tag 1) must be a number")


def _date_and_time(content: object, _: bool) -> _Epoch:
    """Tag 0, the text of RFC 3339: Zephyr's client answers a TIME so. Whole seconds stay whole."""
    if type(content) is str:
        try:
            told = datetime.fromisoformat(content)
        except ValueError:
            pass
        else:
            if told.tzinfo is not None:
                seconds = (told - _BEGIN).total_seconds()
                return _Epoch(int(seconds) if seconds.is_integer() else seconds)
    raise MalformedPayload("a CBOR time (tag 0) must be text with a zone, such as 2026-11-23T12:00:00Z")


def _decimal_fraction(content: object, _: bool) -> int | float:
    """Tag 4, mantissa times ten to the exponent, which RFC 8428 (section 6) allows for numbers.

    As a number with bounds: cbor2 makes a Decimal, whose conversion to int can take all memory.
    """
    match content:
        case (int() as exponent, int() as mantissa) if -400 <= exponent <= 400:
            return mantissa * 10**exponent if 0 <= exponent <= 20 else float(f"{mantissa}e{exponent}")
    raise MalformedPayload("a CBOR decimal fraction must be two integers, within what a double can hold")


def _refuse(_: object, __: bool) -> object:
    raise MalformedPayload("the CBOR holds a tag that no LwM2M value has")


#: cbor2 gives these tags a meaning (regular expressions, shared references, big numbers, ...) that no payload needs;
#: the others it hands over as CBORTag, which no value may be.
TAGS: Mapping[int, Callable[[Any, bool], Any]] = {
    **dict.fromkeys((2, 3, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261), _refuse),
    **dict.fromkeys((1004, 43000, 55799), _refuse),
    0: _date_and_time,
    1: _epoch,
    4: _decimal_fraction,
}


def read_item(payload: bytes, max_depth: int = MAX_DEPTH) -> object:
    """The one CBOR item in ``payload``; nothing may follow it.

    Raises:
        MalformedPayload: no CBOR, too deep, a map with a key twice, an unexpected tag, or bytes behind the item.
    """
    stream = io.BytesIO(payload)
    try:
        found: object = cbor2.CBORDecoder(
            stream, semantic_decoders=TAGS, max_depth=max_depth, allow_duplicate_keys=False
        ).decode()
    except cbor2.CBORDecodeError as exc:
        reason = exc.__cause__ if isinstance(exc.__cause__, MalformedPayload) else exc
        raise MalformedPayload(f"the payload is no valid CBOR: {reason}") from exc
    if stream.tell() != len(payload):
        raise MalformedPayload(f"the CBOR item ends after {stream.tell()} of {len(payload)} bytes")
    return found


def write_item(item: object) -> bytes:
    """What `read_item` gave, as CBOR again."""
    return cbor2.dumps(item, default=_write_epoch)


def _write_epoch(encoder: cbor2.CBOREncoder, value: object) -> None:
    if not isinstance(value, _Epoch):
        raise MalformedPayload(f"{type(value).__name__} is nothing that CBOR carries here")
    encoder.encode(cbor2.CBORTag(1, value.seconds))


def _word(raw: object) -> str:
    if isinstance(raw, list | tuple | Mapping):
        return "a collection"
    return "null" if raw is None else type(raw).__name__
