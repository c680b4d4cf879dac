"""Requests ⇄ Avro's JSON form (Avro 1.11, "JSON Encoding"), as console producers and people write them.

Reading is forgiving where the meaning is plain: contentFormat may be missing (TLV), body may be missing (null),
branches of unions may be named shortly (``AvroWriteRequest``) or be left away, a value may stand without its branch
when ``type`` is given, ids and paths of a node may be left to what is around it. A field that is unknown is refused,
since a misspelt ``expires`` would otherwise be a command that never expires. Writing is exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from schemas.avro import conversions
from schemas.avro.errors import InvalidRequest, MalformedRecord
from schemas.avro.records import Request, RequestFormat, RequestKind, WriteMode
from schemas.avro.resources import INSTANCE, OBJECT, RESOURCE, Fields
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.path import Path, PathError

_KINDS = [one.value for one in RequestKind]
_FORMATS = [one.value for one in RequestFormat]
_MODES = [one.value for one in WriteMode]
_TYPES = [one.value for one in ResourceType]
_LONG_MAX = 2**63 - 1
_FIELDS_OF_2 = frozenset({"timestamp", "paths", "expires"})
_SHA256 = re.compile("[0-9a-f]{64}")

_MISSING: Any = object()


def request_from_json(source: str | bytes | Mapping[str, Any]) -> Request:
    """The request in a JSON text, or in what ``json.loads`` made of it.

    Raises:
        InvalidRequest: says where (``payload.body.node.value``) and what is expected there.
    """
    request = _Place("", _parsed(source))
    request.only("serverId", "ep", "ticket", "payload", "paths", "expires")
    payload = request.at("payload")
    payload.only("kind", "path", "contentFormat", "body", "paths")
    kind = payload.at("kind").symbol(_KINDS)
    # The record has the paths beside the payload; people look for them beside the path.
    paths = [_path(one) for one in (payload if "paths" in payload.value else request).at("paths", []).items()]
    # Composite operations have their paths beside it, and each resource that is written has its own.
    composite = paths or kind == RequestKind.WRITE_COMPOSITE.value
    path = _path(payload.at("path", "/" if composite else _MISSING))
    expires = request.at("expires", None).branch("long")
    fields = {
        # Informative only: the topic says which gateway is meant.
        "serverId": request.at("serverId", "").text(),
        "ep": request.at("ep").text(),
        "ticket": request.at("ticket").text(),
        "payload": {
            "kind": kind,
            "path": path,
            "contentFormat": payload.at("contentFormat", "TLV").symbol(_FORMATS),
            "body": _body(payload.at("body", None), kind, path),
        },
        "paths": paths,
        "expires": None if expires.value is None else expires.integer(0, _LONG_MAX),
    }
    try:
        return conversions.request_record(fields)
    except MalformedRecord as exc:
        raise InvalidRequest(f"payload.body: {exc}") from exc


def request_to_json(request: Request) -> dict[str, Any]:
    """The request in Avro's JSON form, every branch named, in the oldest schema version that carries it.

    Raises:
        InvalidRecord: as :func:`schemas.avro.serde.encode`.
    """
    form = _branches_named(conversions.request_fields(request), conversions.request_version(request))
    assert isinstance(form, dict)
    return form


def _branches_named(value: Any, version: int) -> Any:
    match value:
        case tuple():
            return {value[0]: _branches_named(value[1], version)}
        case dict():
            return {
                name: _branches_named(field, version)
                for name, field in value.items()
                if version > 1 or name not in _FIELDS_OF_2
            }
        case list():
            return [_branches_named(one, version) for one in value]
        case _:
            return value


def _parsed(source: str | bytes | Mapping[str, Any]) -> Any:
    if not isinstance(source, (str, bytes)):
        return source
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the request is no JSON: {exc}") from exc


class _Place:
    """A value and where it stands in the text, so that each refusal can say so."""

    __slots__ = ("value", "where")

    def __init__(self, where: str, value: Any) -> None:
        self.where = where
        self.value = value

    def refuse(self, expected: str) -> InvalidRequest:
        what = "missing" if self.value is _MISSING else f"{json.dumps(self.value, default=repr)[:80]} found"
        return InvalidRequest(f"{self.where or 'the request'}: {expected} is expected, {what}")

    def only(self, *names: str) -> None:
        if not isinstance(self.value, Mapping):
            raise self.refuse(f"an object with {', '.join(names)}")
        for name in self.value:
            if name not in names:
                where = f"{self.where}.{name}" if self.where else name
                raise InvalidRequest(f"{where}: no such field; there are {', '.join(names)}")

    def at(self, name: str, default: Any = _MISSING) -> _Place:
        return _Place(f"{self.where}.{name}" if self.where else name, self.value.get(name, default))

    def items(self) -> list[_Place]:
        if not isinstance(self.value, (list, tuple)):
            raise self.refuse("an array")
        return [_Place(f"{self.where}[{i}]", one) for i, one in enumerate(self.value)]

    def entries(self) -> dict[str, _Place]:
        if not isinstance(self.value, Mapping):
            raise self.refuse("an object")
        return {name: _Place(f"{self.where}.{name}", one) for name, one in self.value.items()}

    def branch(self, name: str) -> _Place:
        """What a branch of a union holds, or the value itself where the branch is not named."""
        if isinstance(self.value, Mapping) and list(self.value) == [name]:
            return self.at(name)
        return self

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.refuse("text")
        return self.value

    def symbol(self, symbols: list[str]) -> str:
        if not isinstance(self.value, str) or self.value not in symbols:
            raise self.refuse(f"one of {', '.join(symbols)}")
        return self.value

    def integer(self, least: int, most: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not least <= self.value <= most:
            raise self.refuse(f"an integer from {least} to {most}")
        return self.value


def _path(place: _Place) -> str:
    text = place.text()
    try:
        Path.parse(text)
    except PathError as exc:
        raise InvalidRequest(f"{place.where}: {exc}") from exc
    return text


# --- bodies --------------------------------------------------------------------------------------------------------


def _body(place: _Place, kind: str, path: str) -> tuple[str, Fields] | None:
    if place.value is None:
        return None
    if not isinstance(place.value, Mapping):
        raise place.refuse("null or an object")
    name, inner = _named(place, _BODIES)
    if name is None:
        of_file = kind == RequestKind.WRITE.value and "sha256" in place.value
        name = conversions.FILE_REQUEST if of_file else _BODY_OF_KIND.get(kind)
    if name is None:
        raise place.refuse(f"null or one of {', '.join(map(_short, _BODIES))}")
    return name, _BODIES[name](inner, path)


def _create(place: _Place, path: str) -> Fields:
    place.only("instance")
    return {"instance": _instance(place.at("instance"), path)}


def _execute(place: _Place, path: str) -> Fields:
    place.only("parameters")
    return {"parameters": place.at("parameters").text()}


def _attributes(place: _Place, path: str) -> Fields:
    place.only("observeSpec")
    return {"observeSpec": place.at("observeSpec").text()}


def _write(place: _Place, path: str) -> Fields:
    place.only("mode", "node")
    node = place.at("node")
    if not isinstance(node.value, Mapping):
        raise node.refuse("an object")
    name, inner = _named(node, _NODES)
    if name is None:
        name = next((name for field, name in _TELLING.items() if field in node.value), RESOURCE)
    return {"mode": place.at("mode", "REPLACE").symbol(_MODES), "node": (name, _NODES[name](inner, path))}


def _write_composite(place: _Place, path: str) -> Fields:
    place.only("resources")
    return {"resources": [_resource_with_path(one) for one in place.at("resources").items()]}


def _file(place: _Place, path: str) -> Fields:
    place.only("sha256", "size", "name")
    digest = place.at("sha256")
    if not _SHA256.fullmatch(digest.text()):
        raise digest.refuse("the SHA-256 of the file as 64 lower-case hexadecimal digits")
    return {
        "sha256": digest.text(),
        "size": place.at("size").integer(0, _LONG_MAX),
        "name": place.at("name", "").text(),
    }


_BODIES: dict[str, Callable[[_Place, str], Fields]] = {
    conversions.CREATE_REQUEST: _create,
    conversions.EXECUTE_REQUEST: _execute,
    conversions.ATTRIBUTES_REQUEST: _attributes,
    conversions.WRITE_REQUEST: _write,
    conversions.WRITE_COMPOSITE_REQUEST: _write_composite,
    conversions.FILE_REQUEST: _file,
}

_BODY_OF_KIND = {
    RequestKind.CREATE.value: conversions.CREATE_REQUEST,
    RequestKind.EXECUTE.value: conversions.EXECUTE_REQUEST,
    RequestKind.WRITE_ATTRIBUTES.value: conversions.ATTRIBUTES_REQUEST,
    # What stands in the query of these, from LwM2M 1.2 on.
    RequestKind.OBSERVE.value: conversions.ATTRIBUTES_REQUEST,
    RequestKind.OBSERVE_COMPOSITE.value: conversions.ATTRIBUTES_REQUEST,
    RequestKind.DISCOVER.value: conversions.ATTRIBUTES_REQUEST,
    RequestKind.WRITE.value: conversions.WRITE_REQUEST,
    RequestKind.WRITE_COMPOSITE.value: conversions.WRITE_COMPOSITE_REQUEST,
}


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _named(place: _Place, branches: Mapping[str, Any]) -> tuple[str | None, _Place]:
    """The branch that the value names, in full or shortly, and what it holds; (None, itself) if it names none."""
    if len(place.value) == 1:
        (key,) = place.value
        for name in branches:
            if key in (name, _short(name)):
                return name, _Place(f"{place.where}.{_short(name)}", place.value[key])
    return None, place


# --- nodes ---------------------------------------------------------------------------------------------------------


def _object(place: _Place, path: str) -> Fields:
    place.only("id", "kind", "instances")
    ids = Path.parse(path).ids
    object_id = _id(place.at("id", ids[0] if ids else _MISSING))
    return {"id": object_id, "instances": [_instance(one, f"/{object_id}") for one in place.at("instances").items()]}


def _instance(place: _Place, path: str) -> Fields:
    place.only("id", "kind", "resources", "multipleResources")
    ids = Path.parse(path).ids
    an_id = place.at("id", ids[1] if len(ids) > 1 else _MISSING).integer(-1, 65535)
    multiple = place.at("multipleResources", None).branch("array")
    # Below an instance whose id the device chooses (-1) paths say no more than the ids do.
    below = "" if an_id == -1 or not ids else f"/{ids[0]}/{an_id}"
    return {
        "id": an_id,
        "resources": [_resource_below(one, below) for one in place.at("resources", []).items()],
        "multipleResources": None if multiple.value is None else [_multiple(one, below) for one in multiple.items()],
    }


def _resource_below(place: _Place, instance: str) -> Fields:
    place.only(*_RESOURCE_FIELDS)
    if instance and not place.value.get("path"):
        return _resource(place, f"{instance}/{_id(place.at('id'))}")
    return _resource(place, "")


def _resource_with_path(place: _Place) -> Fields:
    place.only(*_RESOURCE_FIELDS)
    where = place.at("path")
    if Path.parse(_path(where)).depth < 3:
        raise where.refuse("the path of a resource (/3/0/14) or of an instance of one (/3/0/6/1)")
    return _resource(place, "")


def _resource(place: _Place, path: str) -> Fields:
    """``path`` is where the resource is if it does not say."""
    place.only(*_RESOURCE_FIELDS)
    where = _path(place.at("path", "")) or path
    ids = Path.parse(where).ids
    return {"id": _id(place.at("id", ids[-1] if ids else _MISSING)), "path": where, **_typed_value(place, _MISSING)}


def _multiple(place: _Place, path: str) -> Fields:
    place.only("id", "path", "kind", "type", "resources")
    an_id = _id(place.at("id"))
    kind = place.at("type").symbol(_TYPES)
    resources = place.at("resources").entries()
    for one in resources.values():
        one.only(*_RESOURCE_FIELDS)
    return {
        "id": an_id,
        "path": _path(place.at("path", f"{path}/{an_id}" if path else "")),
        "type": kind,
        "resources": {key: _typed_value(one, kind) for key, one in resources.items()},
    }


def _typed_value(place: _Place, kind: Any) -> Fields:
    """``kind`` is the type that is known from around, or missing."""
    value, implied = _value(place.at("value"))
    timestamp = place.at("timestamp", None).branch("long")
    return {
        "type": place.at("type", implied if kind is _MISSING else kind).symbol(_TYPES),
        "value": value,
        "timestamp": None if timestamp.value is None else timestamp.integer(-_LONG_MAX - 1, _LONG_MAX),
    }


_RESOURCE_FIELDS = ("id", "path", "kind", "type", "value", "timestamp")

#: The field by which a node without a branch name tells what it is.
_TELLING = {"instances": OBJECT, "resources": INSTANCE, "multipleResources": INSTANCE}

_NODES: dict[str, Callable[[_Place, str], Fields]] = {OBJECT: _object, INSTANCE: _instance, RESOURCE: _resource}


def _id(place: _Place) -> int:
    return place.integer(0, 65535)


#: Avro's names of the branches of a value, the JSON values that each takes, and the LwM2M type that it says by itself.
_BRANCHES: dict[str, tuple[type | tuple[type, ...], ResourceType]] = {
    "string": (str, ResourceType.STRING),
    "double": ((int, float), ResourceType.FLOAT),
    "float": ((int, float), ResourceType.FLOAT),
    "long": (int, ResourceType.INTEGER),
    "int": (int, ResourceType.INTEGER),
    "boolean": (bool, ResourceType.BOOLEAN),
}


def _value(place: _Place) -> tuple[Any, Any]:
    """The value and the type that its branch implies (or that there is none)."""
    if not isinstance(place.value, Mapping):
        if isinstance(place.value, (str, int, float)):
            return place.value, _MISSING
        raise place.refuse("text, a number, true or false")
    if len(place.value) != 1 or next(iter(place.value)) not in _BRANCHES:
        raise place.refuse(f"a value or an object with one of {', '.join(_BRANCHES)}")
    (name,) = place.value
    kinds, implied = _BRANCHES[name]
    value = place.value[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and name != "boolean"):
        raise place.at(name).refuse(f"a {name}")
    return value, implied.value
