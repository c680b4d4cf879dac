"""Nodes (``schemas.lwm2m.nodes``) ⇄ the ``resource.*`` records, as the plain dicts that fastavro writes and reads.

The value rules of the contract: OPAQUE is base64 text, TIME epoch milliseconds, OBJLNK ``"object:instance"``,
FLOAT double, INTEGER long. The branch of the union is named on writing, so an int never becomes a double.

An AvroInstanceResource has an id and no path: reading takes the object id from the object around it, else from its
first resource's path, else from the path of the record.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

from schemas.avro.errors import InvalidRecord, MalformedRecord
from schemas.lwm2m.nodes import (
    Instance,
    MultipleResource,
    Node,
    Object,
    ObjectLink,
    Resource,
    ResourceType,
    Value,
)
from schemas.lwm2m.path import MAX_ID, Path, PathError

OBJECT = "io.zeelos.leshan.avro.resource.AvroObjectResource"
INSTANCE = "io.zeelos.leshan.avro.resource.AvroInstanceResource"
RESOURCE = "io.zeelos.leshan.avro.resource.AvroResource"
MULTIPLE = "io.zeelos.leshan.avro.resource.AvroMultipleResource"

_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1

Fields = dict[str, Any]


# --- node → dict ---------------------------------------------------------------------------------------------------


def node_to_avro(node: Node) -> tuple[str, Fields]:
    """The union branch (full name, fields) of a node.

    Raises:
        InvalidRecord: a value does not fit its type, or an id is missing from a path.
    """
    if type(node) is Resource:
        return RESOURCE, resource_fields(node)
    if type(node) is Instance:
        return INSTANCE, instance_fields(node)
    if type(node) is MultipleResource:
        return MULTIPLE, _multiple_fields(node)
    if type(node) is Object:
        return OBJECT, {
            "id": _id(node.path, node.path.object_id),
            "kind": "OBJECT",
            "instances": [instance_fields(instance) for instance in node.instances],
        }
    raise InvalidRecord(f"{type(node).__name__} is no node")


def instance_fields(node: Instance) -> Fields:
    """AvroInstanceResource: single and multiple resources go into an array each."""
    multiple = [_multiple_fields(one) for one in node.resources if type(one) is MultipleResource]
    return {
        "id": _id(node.path, node.path.instance_id),
        "kind": "INSTANCE",
        "resources": [resource_fields(one) for one in node.resources if type(one) is Resource],
        "multipleResources": ("array", multiple) if multiple else None,
    }


def has_timestamp(node: Node) -> bool:
    """True if a value below ``node`` has the device's own time, which takes version 2 to carry."""
    if type(node) is Resource:
        return node.timestamp is not None
    if type(node) is Instance:
        return any(map(has_timestamp, node.resources))
    if type(node) is MultipleResource or type(node) is Object:
        return any(map(has_timestamp, node.instances))
    return False


def resource_fields(node: Resource) -> Fields:
    """AvroResource: a resource, or an instance of one."""
    path = node.path
    try:
        value = _TO_AVRO[node.type](node.value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidRecord(f"{path}: {node.value!r} is no {node.type.value}: {exc}") from exc
    last = path.resource_instance_id
    if path.resource_id is None:
        raise InvalidRecord(f"{path} is no path of a resource")
    return {
        "id": _id(path, path.resource_id if last is None else last),
        "path": _text_of(path),
        "kind": "SINGLE_RESOURCE",
        "type": node.type._value_,
        "value": value,
        "timestamp": None if node.timestamp is None else ("long", node.timestamp),
    }


def _multiple_fields(node: MultipleResource) -> Fields:
    return {
        "id": _id(node.path, node.path.resource_id),
        "path": str(node.path),
        "kind": "MULTIPLE_RESOURCE",
        "type": node.type._value_,
        "resources": {
            str(_id(one.path, one.path.resource_instance_id)): resource_fields(one) for one in node.instances
        },
    }


def _text_of(path: Path) -> str:
    """``str(path)``, quickly for what has a value."""
    if path.resource_instance_id is None:
        return f"/{path.object_id}/{path.instance_id}/{path.resource_id}"
    return f"/{path.object_id}/{path.instance_id}/{path.resource_id}/{path.resource_instance_id}"


def _id(path: Path, an_id: int | None) -> int:
    if an_id is None or not 0 <= an_id <= MAX_ID:
        raise InvalidRecord(f"{path} has no id between 0 and {MAX_ID} at the level of its node")
    return an_id


def _text(value: Value) -> tuple[str, str]:
    if isinstance(value, str):
        return "string", value
    raise TypeError("text is expected")


def _double(value: Value) -> tuple[str, float]:
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        return "double", float(value)
    raise TypeError("a number is expected")


def _long(value: Value) -> tuple[str, int]:
    if isinstance(value, int) and not isinstance(value, bool):
        if _LONG_MIN <= value <= _LONG_MAX:
            return "long", value
        raise OverflowError("it does not fit into 64 bits")
    raise TypeError("an integer is expected")


def _boolean(value: Value) -> tuple[str, bool]:
    if isinstance(value, bool):
        return "boolean", value
    raise TypeError("true or false is expected")


def _base64(value: Value) -> tuple[str, str]:
    if isinstance(value, bytes):
        return "string", b64encode(value).decode("ascii")
    raise TypeError("bytes are expected")


def _link(value: Value) -> tuple[str, str]:
    if isinstance(value, ObjectLink):
        return "string", str(value)
    raise TypeError("an object link is expected")


_TO_AVRO: dict[ResourceType, Callable[[Value], tuple[str, Any]]] = {
    ResourceType.STRING: _text,
    ResourceType.FLOAT: _double,
    ResourceType.INTEGER: _long,
    ResourceType.BOOLEAN: _boolean,
    ResourceType.OPAQUE: _base64,
    ResourceType.TIME: _long,
    ResourceType.OBJLNK: _link,
}


# --- dict → node ---------------------------------------------------------------------------------------------------


def node_from_avro(branch: tuple[str, Fields], record_path: str) -> Node:
    """The node of a union branch as fastavro reads it; ``record_path`` is the path of the record around it.

    Raises:
        MalformedRecord: a path or value is not what its type allows, or does not fit what is around it.
    """
    name, fields = branch
    return _FROM_AVRO[name](fields, record_path)


def instance_from_avro(fields: Fields, record_path: str) -> Instance:
    """An instance that stands alone: its object id is its first resource's, else the record path's."""
    every = [*fields["resources"], *(fields["multipleResources"] or ())]
    where = _path(next((one["path"] for one in every if one["path"]), record_path))
    if where.object_id is None:
        raise MalformedRecord(f"instance {fields['id']} of the record of {record_path!r}: nothing tells its object")
    return _instance(fields, Path(where.object_id))


def resource_from_avro(fields: Fields) -> Resource:
    """A resource, or an instance of one, that says its whole path itself."""
    return _resource(fields, "/")


def _object(fields: Fields, record_path: str) -> Object:
    path = Path(_level(fields["id"]))
    return Object(path=path, instances=tuple(_instance(one, path) for one in fields["instances"]))


def _instance(fields: Fields, parent: Path) -> Instance:
    # Leshan's records have -1 for an instance whose id the device shall choose; MAX_ID is LwM2M's reserved "none".
    path = Path(parent.object_id, MAX_ID if fields["id"] == -1 else _level(fields["id"]))
    found: list[Resource | MultipleResource] = [_resource_below(one, path) for one in fields["resources"]]
    if fields["multipleResources"]:
        found += [_multiple_below(one, path) for one in fields["multipleResources"]]
        found.sort(key=lambda one: one.path.ids)
    return Instance(path=path, resources=tuple(found))


def _resource_below(fields: Fields, instance: Path) -> Resource:
    path = _path(fields["path"]) if fields["path"] else instance.child(_level(fields["id"]))
    return _resource_at(fields, _below(path, instance))


def _multiple_below(fields: Fields, instance: Path) -> MultipleResource:
    path = _path(fields["path"]) if fields["path"] else instance.child(_level(fields["id"]))
    return _multiple_at(fields, _below(path, instance))


def _resource(fields: Fields, record_path: str) -> Resource:
    path = _path(fields["path"] or record_path)
    if path.resource_id is None:
        raise MalformedRecord(f"{path} is no path of a resource")
    return _resource_at(fields, path)


def _multiple(fields: Fields, record_path: str) -> MultipleResource:
    path = _path(fields["path"] or record_path)
    if path.depth != 3:
        raise MalformedRecord(f"{path} is no path of a resource with instances")
    return _multiple_at(fields, path)


def _resource_at(fields: Fields, path: Path) -> Resource:
    kind = _TYPES[fields["type"]]
    value = fields["value"]
    try:
        value = _VALUES[kind](value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise MalformedRecord(f"{path}: {str(value)[:80]!r} is no {fields['type']}: {exc}") from exc
    return Resource(path=path, type=kind, value=value, timestamp=fields.get("timestamp"))


def _multiple_at(fields: Fields, path: Path) -> MultipleResource:
    # The key of the map is the truth for the instance's id: some writers repeat the resource's own path inside.
    instances = [_resource_at(one, path.child(_key(key))) for key, one in fields["resources"].items()]
    instances.sort(key=lambda one: one.path.ids)
    return MultipleResource(path=path, type=_TYPES[fields["type"]], instances=tuple(instances))


_FROM_AVRO: dict[str, Callable[[Fields, str], Node]] = {
    OBJECT: _object,
    INSTANCE: instance_from_avro,
    RESOURCE: _resource,
    MULTIPLE: _multiple,
}


def _path(text: str) -> Path:
    try:
        return Path.parse(text)
    except PathError as exc:
        raise MalformedRecord(str(exc)) from exc


def _below(path: Path, instance: Path) -> Path:
    if path.depth != 3 or not instance.contains(path):
        raise MalformedRecord(f"{path} is no resource of the instance {instance} that holds it")
    return path


def _level(an_id: int) -> int:
    if not 0 <= an_id <= MAX_ID:
        raise MalformedRecord(f"{an_id} is no id between 0 and {MAX_ID}")
    return an_id


def _key(key: str) -> int:
    if not (key.isascii() and key.isdigit()) or len(key) > 5:
        raise MalformedRecord(f"{key[:80]!r} is no id of a resource instance")
    return _level(int(key))


def _a_float(value: Any) -> float:
    # A long in a FLOAT is a number all the same; the other way round would lose its fraction.
    return float(_double(value)[1])


def _an_int(value: Any) -> int:
    return _long(value)[1]


def _a_text(value: Any) -> str:
    return _text(value)[1]


def _a_bool(value: Any) -> bool:
    return _boolean(value)[1]


def _some_bytes(value: Any) -> bytes:
    return b64decode(_text(value)[1], validate=True)


def _an_object_link(value: Any) -> ObjectLink:
    parts = _text(value)[1].split(":")
    if len(parts) != 2:
        raise ValueError("object:instance is expected")
    return ObjectLink(_key(parts[0]), _key(parts[1]))


_TYPES = {one.value: one for one in ResourceType}

_VALUES: dict[ResourceType, Callable[[Any], Value]] = {
    ResourceType.STRING: _a_text,
    ResourceType.FLOAT: _a_float,
    ResourceType.INTEGER: _an_int,
    ResourceType.BOOLEAN: _a_bool,
    ResourceType.OPAQUE: _some_bytes,
    ResourceType.TIME: _an_int,
    ResourceType.OBJLNK: _an_object_link,
}
