"""What a person types as a value, as LwM2M nodes; and values as a person reads them.

Owns the text forms of the command line. The type of a value is the object definition's, unless one is given. Never
guesses: a resource that no definition knows needs a type.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

from headwater.exits import Exit, Stop
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions, Operation
from schemas.lwm2m.path import MAX_ID, Path, PathError

#: Year 9999, in seconds: a larger number is milliseconds by mistake.
_LAST_SECOND = 253402300799


#: ``5601=1.5`` and the comma after it; a value that has a comma is in quotes.
_PAIR = re.compile(r"""\s*([^=,\s]+)\s*=\s*(?:'([^']*)'\s*(?:,|\Z)|"([^"]*)"\s*(?:,|\Z)|([^,]*)(?:,|\Z))""")


class ValueProblem(Stop):
    """What was typed is no value of the resource; the text says which form is expected."""

    def __init__(self, message: str) -> None:
        super().__init__(Exit.USAGE, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Turns typed values into nodes: by the definitions, or all as ``type`` where one was given."""

    definitions: Definitions
    type: ResourceType | None = None

    def node(self, path: Path, text: str) -> Object | Instance | Resource:
        """The node to write at ``path``: one value, ``5601=1.5,5602=2`` or JSON for an instance, JSON for an object.

        Raises:
            ValueProblem: the text does not fit the path or the type.
        """
        match path.depth:
            case 3:
                self._single(path)
                return self.resource(path, text)
            case 4:
                return self.resource(path, text)
            case 2:
                return self.instance(path, text)
            case 1:
                content = _json(text, path, 'of an object is JSON: {"0": {"5601": 1.5}}')
                instances = [
                    self._instance_of(_child(path, key), inner) for key, inner in _mapping(content, path).items()
                ]
                return Object(path=path, instances=tuple(sorted(instances, key=lambda one: one.path.ids)))
            case _:
                raise ValueProblem(
                    "the root cannot be written; give an object, an instance or a resource: /3303/0/5700"
                )

    def new_instance(self, path: Path, text: str) -> Instance:
        """The instance to create: at ``/object/instance``, or at ``/object`` with an id that the device chooses."""
        if path.depth == 1:
            # The reserved id stands for "none given" (OMA LwM2M Core 1.1, section 6.2).
            return self.instance(path.child(MAX_ID), text)
        if path.depth == 2:
            return self.instance(path, text)
        raise ValueProblem(f"{path}: create takes /object (the device chooses the id) or /object/instance")

    def instance(self, path: Path, text: str) -> Instance:
        """``5601=1.5,5602=2`` (quote a value that has a comma) or JSON ``{"5601": 1.5, "6": {"0": 1, "1": 5}}``."""
        if text.lstrip().startswith("{"):
            return self._instance_of(path, _json(text, path, "starts as JSON but is none"))
        pairs: dict[str, Any] = {}
        position = 0
        while position < len(text.rstrip()):
            pair = _PAIR.match(text, position)
            if pair is None:
                raise ValueProblem(
                    f"{path}: {text[position:].strip()!r} is not ID=VALUE; an instance is 5601=1.5,5602=2 or JSON"
                )
            if pair[1] in pairs:
                raise ValueProblem(f"{path}: resource {pair[1]} is given twice")
            pairs[pair[1]] = pair[4].strip() if pair[4] is not None else pair[2] or pair[3] or ""
            position = pair.end()
        return self._instance_of(path, pairs)

    def _instance_of(self, path: Path, content: Any) -> Instance:
        resources: list[Resource | MultipleResource] = []
        for key, inner in _mapping(content, path).items():
            child = _child(path, key)
            if child.depth == 4:  # 6/0=1 among the pairs
                child, inner = child.parent, {str(child.resource_instance_id): inner}
            if isinstance(inner, dict):
                instances = [self.resource(_child(child, index), one) for index, one in inner.items()]
                instances.sort(key=lambda one: one.path.ids)
                before = next((one for one in resources if one.path == child), None)
                if isinstance(before, MultipleResource):
                    resources.remove(before)
                    instances = [*before.instances, *instances]
                kind = instances[0].type if instances else self._type(child)
                resources.append(MultipleResource(path=child, type=kind, instances=tuple(instances)))
            else:
                self._single(child)
                resources.append(self.resource(child, inner))
        return Instance(path=path, resources=tuple(sorted(resources, key=lambda one: one.path.ids)))

    def resource(self, path: Path, given: Any) -> Resource:
        """One value, as text or as JSON gave it."""
        kind = self._type(path)
        try:
            return Resource(path=path, type=kind, value=_READ[kind](given))
        except (ValueError, TypeError, OverflowError) as exc:
            raise ValueProblem(f"{_shown(path)} is {_named(self.definitions, path)}{kind.value}: {exc}") from exc

    def _single(self, path: Path) -> None:
        definition = self.definitions.resource(path)
        if definition is not None and definition.multiple:
            raise ValueProblem(
                f"{path} ({definition.name}) has instances: write one, {path}/0, or all of them with their object "
                f'instance: {path.parent} \'{{"{path.resource_id}": {{"0": …, "1": …}}}}\' --update'
            )

    def _type(self, path: Path) -> ResourceType:
        if self.type is not None:
            return self.type
        definition = self.definitions.resource(path)
        if definition is None:
            known = ", ".join(kind.value.lower() for kind in ResourceType)
            raise ValueProblem(f"no definition knows {_shown(path)}: say the type of the value with --type ({known})")
        if definition.type is None:
            hint = "; it is executed: headwater execute" if Operation.EXECUTE in definition.operations else ""
            raise ValueProblem(f"{_shown(path)} ({definition.name}) holds no value{hint}")
        return definition.type


def _shown(path: Path) -> str:
    """The path for people: an instance that does not exist yet has no number."""
    return str(path).replace(f"/{MAX_ID}/", "/*/")


def _json(text: str, path: Path, otherwise: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ValueProblem(f"{path}: the value {otherwise} ({exc})") from exc


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueProblem(f'{path}: a JSON object of ids is expected, as in {{"5601": 1.5}}')
    return content


def _child(path: Path, key: str) -> Path:
    try:
        inner = Path.parse(key)
        if not inner.ids:
            raise PathError(f"{key!r} is no id")
        for an_id in inner.ids:
            path = path.child(an_id)
    except PathError as exc:
        raise ValueProblem(str(exc)) from exc
    return path


def _named(definitions: Definitions, path: Path) -> str:
    definition = definitions.resource(path)
    return f"{definition.name}, of type " if definition else "of type "


# --- text → value ----------------------------------------------------------------------------------------------------


def _string(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError(f"text is expected, not {given!r}")
    return given


def _float(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise TypeError(f"a number is expected, not {given!r}")
    try:
        return float(given)
    except ValueError:
        raise ValueError(f"a number is expected, such as 21.5, not {given!r}") from None


def _integer(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise TypeError(f"a whole number is expected, not {given!r}")
    try:
        number = int(given)
    except ValueError:
        raise ValueError(f"a whole number is expected, not {given!r}") from None
    if not -(2**63) <= number < 2**63:
        raise OverflowError(f"{number} does not fit into 64 bits")
    return number


def _boolean(given: Any) -> bool:
    word = str(given).lower()
    if word in ("true", "1", "on", "yes"):
        return True
    if word in ("false", "0", "off", "no"):
        return False
    raise ValueError(f"true or false is expected, not {given!r}")


def _opaque(given: Any) -> bytes:
    text = _string(given)
    if text.startswith("@"):
        try:
            return FilePath(text[1:]).read_bytes()
        except OSError as exc:
            raise ValueError(f"{text[1:]}: {exc.strerror}") from exc
    try:
        if text.startswith("base64:"):
            return base64.b64decode(text.removeprefix("base64:"), validate=True)
        return bytes.fromhex(text.removeprefix("hex:").removeprefix("0x"))
    except (ValueError, binascii.Error):
        raise ValueError("bytes are given in hex (00ff), as base64:AP8= or as @FILE") from None


def _time(given: Any) -> int:
    text = str(given)
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("a time is given as 2026-03-01T12:00:00Z or in seconds since 1970") from None
        if moment.tzinfo is None:
            raise ValueError("the time needs its zone: 2026-03-01T12:00:00Z") from None
        return round(moment.timestamp() * 1000)
    if not math.isfinite(seconds) or abs(seconds) > _LAST_SECOND:
        raise ValueError(f"{given!r} is no time in seconds since 1970 (are these milliseconds?)")
    return round(seconds * 1000)


def _link(given: Any) -> ObjectLink:
    object_id, colon, instance_id = str(given).partition(":")
    if not (colon and object_id.isdecimal() and instance_id.isdecimal()):
        raise ValueError(f"an object link is OBJECT:INSTANCE, such as 3303:0, not {given!r}")
    if max(int(object_id), int(instance_id)) > MAX_ID:
        raise ValueError(f"ids go up to {MAX_ID}")
    return ObjectLink(int(object_id), int(instance_id))


_READ: Mapping[ResourceType, Callable[[Any], Value]] = {
    ResourceType.STRING: _string,
    ResourceType.FLOAT: _float,
    ResourceType.INTEGER: _integer,
    ResourceType.BOOLEAN: _boolean,
    ResourceType.OPAQUE: _opaque,
    ResourceType.TIME: _time,
    ResourceType.OBJLNK: _link,
}


# --- value → text ----------------------------------------------------------------------------------------------------


def shown(resource: Resource) -> str:
    """The value as a person reads it: times in UTC, bytes in hex."""
    value = resource.value
    if resource.type is ResourceType.TIME and isinstance(value, int):
        return moment(value)
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 32 else f"{value[:32].hex()}… ({len(value)} bytes)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def plain(resource: Resource) -> str | int | float | bool | None:
    """The value as JSON: as in the records, so bytes are base64 and times epoch milliseconds; no number is NaN."""
    value = resource.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, ObjectLink):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def moment(milliseconds: int) -> str:
    """An epoch time in milliseconds as ISO 8601 in UTC; as the number where no calendar reaches."""
    try:
        return (
            datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)
