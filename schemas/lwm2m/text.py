"""Plain text, content format 0: one value as text (OMA LwM2M Core 1.1, section 7.4.1 and appendix C).

Opaque values are base64. A resource that no definition knows is a STRING.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from decimal import Decimal

from schemas.lwm2m import fit, tree
from schemas.lwm2m.errors import MalformedPayload, NotInThisFormat, WrongValue
from schemas.lwm2m.nodes import Node, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

_INTEGER = re.compile(r"[-+]?[0-9]{1,20}\Z")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?\Z")


def decode(payload: bytes, path: Path, definitions: Definitions) -> Resource:
    """One value at ``path`` (depth 3 or 4).

    Raises:
        CodecError: the path holds more than one value, the bytes are no UTF-8, or the text does not fit the type.
    """
    definition = tree.single(path, definitions, "text")
    kind = (definition and definition.type) or ResourceType.STRING
    try:
        text = payload.decode()
    except UnicodeDecodeError as exc:
        raise MalformedPayload(f"{path}: the text is no valid UTF-8") from exc
    value = READERS[kind](text, path)
    if definition is not None and definition.unsigned:
        fit.not_negative(value, path)
    return Resource(path=path, type=kind, value=value)


def encode(node: Node, definitions: Definitions) -> bytes:
    """The text of a Resource.

    Raises:
        CodecError: the node is no single value, or its value does not fit the type of its resource.
    """
    if not isinstance(node, Resource):
        raise NotInThisFormat(f"{node.path}: text carries a single value only; use TLV or SenML")
    kind, value, _ = fit.outgoing(node, definitions)
    return WRITERS[kind](value, node.path).encode()


def _decimal(text: str, path: Path, kind: ResourceType) -> float:
    if len(text) > 400 or not _DECIMAL.match(text):
        raise WrongValue(f"{path} is of type {kind.value}; {text[:40]!r} is no decimal number")
    value = float(text)
    if math.isinf(value):
        raise WrongValue(f"{path}: {text[:40]!r} is too large for a FLOAT (a double)")
    return value


def _integer(text: str, path: Path, kind: ResourceType) -> int:
    if not _INTEGER.match(text):
        raise WrongValue(f"{path} is of type {kind.value}; {text[:40]!r} is no whole number")
    return int(text)


def _time(text: str, path: Path) -> int:
    # Seconds; a fraction is more than appendix C allows, but its meaning is clear.
    if len(text) > 40 or not _DECIMAL.match(text):
        raise WrongValue(f"{path} is of type TIME; {text[:40]!r} is no number of seconds since 1970")
    return fit.milliseconds(int(text) if _INTEGER.match(text) else float(text), f"{path}: the TIME")


def _boolean(text: str, path: Path) -> bool:
    if text not in ("0", "1"):
        raise WrongValue(f"{path} is of type BOOLEAN, which is 0 or 1 in text; it cannot be {text[:40]!r}")
    return text == "1"


def _opaque(text: str, path: Path) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise WrongValue(f"{path} is of type OPAQUE, which is base64 in text; {text[:40]!r} is not") from exc


#: From text to a node's value.
READERS: dict[ResourceType, Callable[[str, Path], Value]] = {
    ResourceType.STRING: fit.as_string,
    ResourceType.FLOAT: lambda text, path: _decimal(text, path, ResourceType.FLOAT),
    ResourceType.INTEGER: lambda text, path: fit.as_integer(_integer(text, path, ResourceType.INTEGER), path),
    ResourceType.TIME: _time,
    ResourceType.BOOLEAN: _boolean,
    ResourceType.OPAQUE: _opaque,
    ResourceType.OBJLNK: fit.as_link,
}


def _write_float(value: Value, path: Path) -> str:
    if not math.isfinite(value):  # type: ignore[arg-type]  # a FLOAT is a float
        raise NotInThisFormat(f"{path}: {value!r} cannot be written as text")
    # Without an exponent, which appendix C does not know.
    return format(Decimal(repr(value)), "f")


#: From a node's value to text.
WRITERS: dict[ResourceType, Callable[[Value, Path], str]] = {
    ResourceType.STRING: lambda value, _: str(value),
    ResourceType.FLOAT: _write_float,
    ResourceType.INTEGER: lambda value, _: str(value),
    ResourceType.TIME: lambda value, _: format(Decimal(int(value)).scaleb(-3).normalize(), "f"),  # type: ignore[arg-type]  # a TIME is an int
    ResourceType.BOOLEAN: lambda value, _: "1" if value else "0",
    ResourceType.OPAQUE: lambda value, _: base64.b64encode(value).decode(),  # type: ignore[arg-type]  # an OPAQUE is bytes
    ResourceType.OBJLNK: lambda value, _: str(value),
}
