"""TLV, content format 11542 and, before its registration, 1542 (OMA LwM2M Core 1.1, section 7.4.3).

Owns the binary tree of object instances, resources and resource instances. The tree has a fixed depth of three, so
nothing here recurses on what a device sent. A resource that no definition knows is OPAQUE.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from schemas.lwm2m import fit, tree
from schemas.lwm2m.errors import MalformedPayload, NotInThisFormat, WrongPath, WrongValue
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions, ResourceDefinition
from schemas.lwm2m.path import Path

# Bits 7 and 6 of the type byte.
_OBJECT_INSTANCE, _RESOURCE_INSTANCE, _MULTIPLE_RESOURCE, _RESOURCE = 0x00, 0x40, 0x80, 0xC0
_NAMES = {
    _OBJECT_INSTANCE: "an object instance",
    _RESOURCE_INSTANCE: "a resource instance",
    _MULTIPLE_RESOURCE: "a multiple resource",
    _RESOURCE: "a resource",
}
#: The length field has at most 24 bits.
MAX_LENGTH = 0xFFFFFF

#: One entry: kind, id, value.
_Entry = tuple[int, int, bytes]


def decode(payload: bytes, path: Path, definitions: Definitions) -> Node:
    """The node at ``path`` (depth 1 to 4).

    Both common habits of devices are understood: a read of an instance answered with or without its object instance
    entry, and a read of a multiple resource answered with or without the entry of the resource.

    Raises:
        CodecError: no TLV, about another path, or a value that does not fit its type.
    """
    entries = list(_entries(payload))
    match path.depth:
        case 4 | 3 if not entries:
            return tree.nothing(path, definitions)
        case 4:
            return _resource_instance(entries, path, definitions)
        case 3:
            return _resource_alone(entries, path, definitions)
        case 2:
            return _instance_alone(entries, path, definitions)
        case 1:
            return _object(entries, path, definitions)
        case _:
            raise NotInThisFormat("TLV cannot carry values of several objects; use SenML")


def encode(node: Node, definitions: Definitions) -> bytes:
    """The TLV of a node: an Object as its instances, an Instance as its resources (section 7.4.3, examples).

    TIME is written in whole seconds (fractions are cut off); FLOAT in 4 bytes where nothing is lost, else in 8.

    Raises:
        CodecError: a value does not fit the type of its resource, or is too long.
    """
    match node:
        case Object():
            return b"".join(
                _entry(_OBJECT_INSTANCE, instance.path.instance_id, _resources_bytes(instance, definitions))
                for instance in node.instances
            )
        case Instance():
            return _resources_bytes(node, definitions)
        case _:
            return _resource_bytes(node, definitions)


# --- reading


def _entries(data: bytes) -> Iterator[_Entry]:
    position, end = 0, len(data)
    while position < end:
        head = data[position]
        wide_id, length_bytes, length = head & 0x20, (head >> 3) & 3, head & 7
        value = position + 2 + (1 if wide_id else 0) + length_bytes
        if value > end:
            raise MalformedPayload(f"the TLV ends within the entry that begins at byte {position}")
        if wide_id:
            an_id = data[position + 1] << 8 | data[position + 2]
        else:
            an_id = data[position + 1]
        if length_bytes:
            # "000" must stand there when a length field follows; as others do, it is ignored.
            length = int.from_bytes(data[value - length_bytes : value], "big")
        position = value + length
        if position > end:
            raise MalformedPayload(
                f"the TLV entry of id {an_id} announces {length} bytes, but {end - value} are left of the payload"
            )
        yield head & 0xC0, an_id, data[value:position]


def _object(entries: list[_Entry], path: Path, definitions: Definitions) -> Object:
    if entries and entries[0][0] != _OBJECT_INSTANCE:
        # Section 7.4.3 lets a single-instance object leave out the entry of its instance 0.
        definition = definitions.object(path.ids[0])
        if definition is not None and definition.multiple:
            raise MalformedPayload(f"the TLV of {path} holds {_NAMES[entries[0][0]]}, not object instances")
        return Object(path=path, instances=(_instance(entries, path.child(0), definitions),))
    instances: dict[int, Instance] = {}
    for kind, an_id, value in entries:
        if kind != _OBJECT_INSTANCE:
            raise MalformedPayload(f"the TLV of {path} holds {_NAMES[kind]} among object instances")
        if an_id in instances:
            raise MalformedPayload(f"the payload holds {path.child(an_id)} twice")
        instances[an_id] = _instance(list(_entries(value)), path.child(an_id), definitions)
    return Object(path=path, instances=tuple(instances[i] for i in sorted(instances)))


def _instance_alone(entries: list[_Entry], path: Path, definitions: Definitions) -> Instance:
    if entries and entries[0][0] == _OBJECT_INSTANCE:
        if len(entries) > 1:
            raise MalformedPayload(f"the TLV of {path} holds more than one object instance")
        _, an_id, value = entries[0]
        if an_id != path.instance_id:
            raise tree.outside(Path(path.object_id, an_id), path)
        entries = list(_entries(value))
    return _instance(entries, path, definitions)


def _instance(entries: list[_Entry], path: Path, definitions: Definitions) -> Instance:
    resources: dict[int, Resource | MultipleResource] = {}
    for entry in entries:
        if entry[1] in resources:
            raise MalformedPayload(f"the payload holds {path.child(entry[1])} twice")
        resources[entry[1]] = _resource(entry, Path(path.object_id, path.instance_id, entry[1]), definitions)
    return Instance(path=path, resources=tuple(resources[i] for i in sorted(resources)))


def _resource_alone(entries: list[_Entry], path: Path, definitions: Definitions) -> Resource | MultipleResource:
    kind, an_id, _ = entries[0]
    if kind == _RESOURCE_INSTANCE:
        return _instances(entries, path, definitions)
    if kind == _OBJECT_INSTANCE:
        # A few devices wrap the resource that was asked for into its instance.
        resources = _instance_alone(entries, path.parent, definitions).resources
        if len(resources) == 1 and resources[0].path == path:
            return resources[0]
        raise WrongPath(f"the payload holds {path.parent}, not {path} alone")
    if len(entries) > 1:
        raise MalformedPayload(f"the TLV of {path} holds more than one resource")
    if an_id != path.resource_id:
        raise tree.outside(path.parent.child(an_id), path)
    return _resource(entries[0], path, definitions)


def _resource(entry: _Entry, path: Path, definitions: Definitions) -> Resource | MultipleResource:
    kind, _, value = entry
    if kind == _RESOURCE:
        return _value(value, path, definitions)
    if kind == _MULTIPLE_RESOURCE:
        return _instances(list(_entries(value)), path, definitions)
    raise MalformedPayload(f"the TLV holds {_NAMES[kind]} where {path} must be a resource")


def _instances(entries: list[_Entry], path: Path, definitions: Definitions) -> MultipleResource:
    instances: dict[int, Resource] = {}
    for kind, an_id, value in entries:
        if kind != _RESOURCE_INSTANCE:
            raise MalformedPayload(f"the TLV holds {_NAMES[kind]} among the instances of {path}")
        if an_id in instances:
            raise MalformedPayload(f"the payload holds {path.child(an_id)} twice")
        instances[an_id] = _value(value, path.child(an_id), definitions)
    definition = definitions.resource(path)
    kind_of_all = (definition and definition.type) or ResourceType.OPAQUE
    return MultipleResource(path=path, type=kind_of_all, instances=tuple(instances[i] for i in sorted(instances)))


def _resource_instance(entries: list[_Entry], path: Path, definitions: Definitions) -> Resource:
    kind, an_id, value = entries[0]
    if len(entries) == 1 and kind == _RESOURCE_INSTANCE:
        if an_id != path.resource_instance_id:
            raise tree.outside(path.parent.child(an_id), path)
        return _value(value, path, definitions)
    owner = _resource_alone(entries, path.parent, definitions)
    if isinstance(owner, MultipleResource) and [i.path for i in owner.instances] == [path]:
        return owner.instances[0]
    raise WrongPath(f"the payload holds {path.parent}, not {path} alone")


def _value(data: bytes, path: Path, definitions: Definitions) -> Resource:
    definition = definitions.of(path.object_id, path.resource_id)  # type: ignore[arg-type]  # depth 3 or 4
    if definition is None or definition.type is None:
        return Resource(path=path, type=ResourceType.OPAQUE, value=data)
    return Resource(path=path, type=definition.type, value=READERS[definition.type](data, path, definition))


def _length(data: bytes, path: Path, kind: ResourceType, lengths: str) -> WrongValue:
    return WrongValue(f"{path} is of type {kind.value}, which has {lengths} bytes in TLV, but {len(data)} came")


def _read_string(data: bytes, path: Path, _: ResourceDefinition) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise WrongValue(f"{path} is of type STRING, but the bytes are no valid UTF-8") from exc


_FLOAT, _DOUBLE = struct.Struct(">f"), struct.Struct(">d")


def _read_float(data: bytes, path: Path, _: ResourceDefinition) -> float:
    value: float
    if len(data) == 4:
        (value,) = _FLOAT.unpack(data)
    elif len(data) == 8:
        (value,) = _DOUBLE.unpack(data)
    else:
        raise _length(data, path, ResourceType.FLOAT, "4 or 8")
    return value


def _read_integer(data: bytes, path: Path, definition: ResourceDefinition) -> int:
    if len(data) not in (1, 2, 4, 8):
        raise _length(data, path, ResourceType.INTEGER, "1, 2, 4 or 8")
    value = int.from_bytes(data, "big", signed=not definition.unsigned)
    return value if value <= fit.MAX_INTEGER else fit.as_integer(value, path)


def _read_time(data: bytes, path: Path, _: ResourceDefinition) -> int:
    if len(data) not in (1, 2, 4, 8):
        raise _length(data, path, ResourceType.TIME, "1, 2, 4 or 8")
    return fit.as_time(int.from_bytes(data, "big", signed=True), path)


def _read_boolean(data: bytes, path: Path, _: ResourceDefinition) -> bool:
    if len(data) != 1:
        raise _length(data, path, ResourceType.BOOLEAN, "1")
    if data[0] > 1:
        raise WrongValue(f"{path} is of type BOOLEAN, which is 0 or 1 in TLV, but {data[0]} came")
    return data[0] == 1


def _read_opaque(data: bytes, _: Path, __: ResourceDefinition) -> bytes:
    return data


def _read_link(data: bytes, path: Path, _: ResourceDefinition) -> ObjectLink:
    if len(data) != 4:
        raise _length(data, path, ResourceType.OBJLNK, "4")
    return ObjectLink(data[0] << 8 | data[1], data[2] << 8 | data[3])


#: From the bytes of a TLV entry to a node's value.
READERS: dict[ResourceType, Callable[[bytes, Path, ResourceDefinition], Value]] = {
    ResourceType.STRING: _read_string,
    ResourceType.FLOAT: _read_float,
    ResourceType.INTEGER: _read_integer,
    ResourceType.TIME: _read_time,
    ResourceType.BOOLEAN: _read_boolean,
    ResourceType.OPAQUE: _read_opaque,
    ResourceType.OBJLNK: _read_link,
}

# --- writing


def _entry(kind: int, an_id: int | None, value: bytes) -> bytes:
    if an_id is None:
        raise NotInThisFormat("a node without an id cannot be written as TLV")
    length = len(value)
    if length > MAX_LENGTH:
        raise NotInThisFormat(f"{_NAMES[kind]} of {length} bytes is too long for TLV")
    wide = an_id > 0xFF
    length_bytes = 0 if length < 8 else (length.bit_length() + 7) // 8
    head = kind | (0x20 if wide else 0) | length_bytes << 3 | (0 if length_bytes else length)
    announced = length.to_bytes(length_bytes, "big") if length_bytes else b""
    return bytes((head,)) + an_id.to_bytes(2 if wide else 1, "big") + announced + value


def _resources_bytes(instance: Instance, definitions: Definitions) -> bytes:
    return b"".join(_resource_bytes(resource, definitions) for resource in instance.resources)


def _resource_bytes(resource: Resource | MultipleResource, definitions: Definitions) -> bytes:
    if isinstance(resource, MultipleResource):
        several = b"".join(_resource_bytes(instance, definitions) for instance in resource.instances)
        return _entry(_MULTIPLE_RESOURCE, resource.path.resource_id, several)
    value = _value_bytes(resource, definitions)
    if resource.path.resource_instance_id is not None:
        return _entry(_RESOURCE_INSTANCE, resource.path.resource_instance_id, value)
    return _entry(_RESOURCE, resource.path.resource_id, value)


def _value_bytes(resource: Resource, definitions: Definitions) -> bytes:
    kind, value, definition = fit.outgoing(resource, definitions)
    match value:
        case bool():
            return b"\x01" if value else b"\x00"
        case int() if kind is ResourceType.TIME:
            return _integer_bytes(value // 1000, signed=True)
        case int():
            return _integer_bytes(value, signed=definition is None or not definition.unsigned)
        case float():
            return _float_bytes(value)
        case str():
            return value.encode()
        case bytes():
            return value
        case ObjectLink():
            return value.object_id.to_bytes(2, "big") + value.instance_id.to_bytes(2, "big")


def _integer_bytes(value: int, *, signed: bool) -> bytes:
    bits = (value if value >= 0 else ~value).bit_length() + (1 if signed else 0)
    length = next(n for n in (1, 2, 4, 8) if bits <= 8 * n)
    return value.to_bytes(length, "big", signed=signed)


def _float_bytes(value: float) -> bytes:
    try:
        short = _FLOAT.pack(value)
    except OverflowError:
        return _DOUBLE.pack(value)
    # A NaN is never equal to itself and has no digits to lose.
    return short if value != value or _FLOAT.unpack(short)[0] == value else _DOUBLE.pack(value)
