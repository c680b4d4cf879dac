"""Fitting values to the types of their resources (OMA LwM2M Core 1.1, appendix C), the same for every format.

Owns the rules which a value that a format has read must obey before it becomes a node, and a node's value before it is
written. Never guesses: text is no number, a number is no boolean, and what does not fit is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from schemas.lwm2m.errors import WrongValue
from schemas.lwm2m.nodes import ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions, ResourceDefinition
from schemas.lwm2m.path import MAX_ID, Path

#: Integers are carried as 64 bit signed (Avro long); an Unsigned Integer above that is refused, not wrapped.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1

#: What a format may read before the type is known, by Python's own types.
Raw = str | float | int | bool | bytes | ObjectLink


def typed(raw: Raw, definition: ResourceDefinition | None, path: Path) -> tuple[ResourceType, Value]:
    """The type and the value of what a self-describing format has read at ``path``.

    A resource that no definition knows, or that has no type, is carried as it came: integer numbers as INTEGER, others
    as FLOAT, text as STRING, bytes as OPAQUE.

    Raises:
        WrongValue: the value does not fit the type.
    """
    kind = definition.type if definition is not None else None
    if kind is None:
        kind = own_type(raw)
    value = FITTERS[kind](raw, path)
    if definition is not None and definition.unsigned:
        not_negative(value, path)
    return kind, value


def not_negative(value: Value, path: Path) -> None:
    """Raises WrongValue for an Unsigned Integer below 0."""
    if isinstance(value, int) and value < 0:
        raise WrongValue(f"{path} is an unsigned integer; {value} is below 0")


def own_type(raw: Raw) -> ResourceType:
    """The type that a value has by itself."""
    match raw:
        case bool():
            return ResourceType.BOOLEAN
        case int():
            return ResourceType.INTEGER
        case str():
            return ResourceType.STRING
        case bytes():
            return ResourceType.OPAQUE
        case ObjectLink():
            return ResourceType.OBJLNK
        case _:
            return ResourceType.FLOAT


def as_string(raw: Raw, path: Path) -> str:
    if not isinstance(raw, str):
        raise _wrong(raw, ResourceType.STRING, path)
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError as exc:
            raise WrongValue(f"{path}: the text holds half of a surrogate pair, which is no character") from exc
    return raw


def as_float(raw: Raw, path: Path) -> float:
    if type(raw) is float:
        return raw
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise _wrong(raw, ResourceType.FLOAT, path)
    try:
        value = float(raw)
    except OverflowError:  # an int beyond a double
        value = math.inf
    if math.isinf(value):
        raise WrongValue(f"{path}: the number is too large for a FLOAT (a double)")
    return value


def as_integer(raw: Raw, path: Path) -> int:
    if type(raw) is not int:
        raw = _whole(raw, ResourceType.INTEGER, path)
    if not MIN_INTEGER <= raw <= MAX_INTEGER:
        raise WrongValue(f"{path}: the number is too large for an INTEGER (64 bit, signed)")
    return raw


def as_time(raw: Raw, path: Path) -> int:
    """Epoch milliseconds of a number of seconds."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise _wrong(raw, ResourceType.TIME, path)
    return milliseconds(raw, f"{path}: the TIME")


def milliseconds(seconds: float, what: str) -> int:
    """Milliseconds of seconds, rounded to the nearest; ``what`` begins the error's text.

    Raises:
        WrongValue: not a finite number, or beyond 64 bit.
    """
    if not -1e16 < seconds < 1e16:  # also False for NaN
        raise WrongValue(f"{what} is out of range; it must be seconds since 1970")
    value = seconds * 1000 if isinstance(seconds, int) else round(float(seconds) * 1000)
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        raise WrongValue(f"{what} is out of range; it must be seconds since 1970")
    return value


def seconds(value: int) -> int | float:
    """The seconds of epoch milliseconds: an int where nothing is lost."""
    return value / 1000 if value % 1000 else value // 1000


def as_boolean(raw: Raw, path: Path) -> bool:
    if not isinstance(raw, bool):
        raise _wrong(raw, ResourceType.BOOLEAN, path)
    return raw


def as_opaque(raw: Raw, path: Path) -> bytes:
    if not isinstance(raw, bytes):
        raise _wrong(raw, ResourceType.OPAQUE, path)
    return raw


def as_link(raw: Raw, path: Path) -> ObjectLink:
    """An ObjectLink, or the text ``object:instance`` of one."""
    if isinstance(raw, ObjectLink):
        if not (0 <= raw.object_id <= MAX_ID and 0 <= raw.instance_id <= MAX_ID):
            raise WrongValue(f"{path}: {raw} is no object link; both ids are 0 to {MAX_ID}")
        return raw
    if not isinstance(raw, str):
        raise _wrong(raw, ResourceType.OBJLNK, path)
    ids = raw.split(":", 2)
    if len(ids) != 2 or not all(i.isascii() and i.isdigit() and len(i) <= 5 and int(i) <= MAX_ID for i in ids):
        raise WrongValue(f"{path}: {raw[:40]!r} is no object link; one looks like 3303:0")
    return ObjectLink(int(ids[0]), int(ids[1]))


#: From what a format has read to the value of a node.
FITTERS: dict[ResourceType, Callable[[Raw, Path], Value]] = {
    ResourceType.STRING: as_string,
    ResourceType.FLOAT: as_float,
    ResourceType.INTEGER: as_integer,
    ResourceType.TIME: as_time,
    ResourceType.BOOLEAN: as_boolean,
    ResourceType.OPAQUE: as_opaque,
    ResourceType.OBJLNK: as_link,
}


def outgoing(resource: Resource, definitions: Definitions) -> tuple[ResourceType, Value, ResourceDefinition | None]:
    """Type and value to write for ``resource``: in its definition's type, where it has one.

    Whole numbers go into FLOAT resources and FLOATs without a fraction into INTEGER ones, because people and JSON
    do not tell 21 from 21.0; nothing else is converted.

    Raises:
        WrongValue: the value fits neither its own type nor the definition's.
    """
    path, kind, value = resource.path, resource.type, resource.value
    if path.object_id is None or path.resource_id is None:
        raise WrongValue(f"{path}: a value needs the path of a resource, like /3303/0/5700")
    definition = definitions.of(path.object_id, path.resource_id)
    wanted = definition.type if definition is not None and definition.type is not None else kind
    if wanted is not kind and {wanted, kind} != {ResourceType.FLOAT, ResourceType.INTEGER}:
        raise WrongValue(f"{path} is of type {wanted.value}; a value of type {kind.value} cannot be written to it")
    if wanted is ResourceType.TIME:  # already milliseconds
        return wanted, as_integer(value, path), definition
    fitted = FITTERS[wanted](value, path)
    if definition is not None and definition.unsigned:
        not_negative(fitted, path)
    return wanted, fitted, definition


def _whole(raw: Raw, kind: ResourceType, path: Path) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise _wrong(raw, kind, path)
    if not -1e19 < raw < 1e19 or raw != int(raw):
        raise WrongValue(f"{path} is of type INTEGER; the device's number is not a whole one of 64 bit")
    return int(raw)


_WORDS = {
    ResourceType.STRING: "a text",
    ResourceType.FLOAT: "a number",
    ResourceType.INTEGER: "a number",
    ResourceType.BOOLEAN: "a boolean",
    ResourceType.OPAQUE: "bytes",
    ResourceType.OBJLNK: "an object link",
}


def _wrong(raw: Raw, kind: ResourceType, path: Path) -> WrongValue:
    return WrongValue(f"{path} is of type {kind.value}, but the value is {_WORDS[own_type(raw)]}")
