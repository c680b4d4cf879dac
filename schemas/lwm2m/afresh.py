"""Values that came before the definition of their object was known, read as it says (OMA LwM2M Core 1.1, appendix C).

What no definition knows is carried as it came (`schemas.lwm2m.fit`, `.tlv`, `.text`), and of each such value its type
tells how it was written: bytes stood in TLV (in the other formats a conforming device sends bytes for an OPAQUE
resource only), text in plain text or in a text field, and the rest in a format that has types of its own. So nothing
but the value is needed to read it again. Pure; it never guesses: what does not fit stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from schemas.lwm2m import fit, text, tlv
from schemas.lwm2m.errors import CodecError, WrongValue
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions, ResourceDefinition
from schemas.lwm2m.path import Path

#: Told, in words, of each value that does not fit the definition.
Misfit = Callable[[str], None]


def afresh(node: Node, definitions: Definitions, misfit: Misfit) -> Node:
    """``node`` with every value in the type that ``definitions`` has for it; ``node`` itself where nothing changes.

    ``definitions`` are those of the device (`Definitions.with_versions`). A value that does not fit is left as it came,
    and so are all instances of a multiple resource of which one does not.
    """
    match node:
        case Object():
            instances = tuple(_instance(one, definitions, misfit) for one in node.instances)
            return node if instances == node.instances else replace(node, instances=instances)
        case Instance():
            return _instance(node, definitions, misfit)
        case _:
            return _resource(node, definitions, misfit)


def _instance(node: Instance, definitions: Definitions, misfit: Misfit) -> Instance:
    resources = tuple(_resource(one, definitions, misfit) for one in node.resources)
    return node if resources == node.resources else replace(node, resources=resources)


def _resource(
    node: Resource | MultipleResource, definitions: Definitions, misfit: Misfit
) -> Resource | MultipleResource:
    definition = definitions.resource(node.path)
    if definition is None or definition.type in (None, node.type):
        return node
    try:
        if isinstance(node, Resource):
            return _value(node, definition, definition.type)
        instances = tuple(_value(one, definition, definition.type) for one in node.instances)
        return replace(node, type=definition.type, instances=instances)
    except CodecError as exc:
        misfit(str(exc))
        return node


def _value(node: Resource, definition: ResourceDefinition, kind: ResourceType) -> Resource:
    value = _READERS[node.type](node.value, node.path, definition)
    if definition.unsigned:
        fit.not_negative(value, node.path)
    return replace(node, type=kind, value=value)


def _of_bytes(value: Value, path: Path, definition: ResourceDefinition) -> Value:
    return tlv.READERS[_type(definition)](value, path, definition)  # type: ignore[arg-type]  # an OPAQUE is bytes


def _of_text(value: Value, path: Path, definition: ResourceDefinition) -> Value:
    return text.READERS[_type(definition)](value, path)  # type: ignore[arg-type]  # a STRING is a str


def _of_own_type(value: Value, path: Path, definition: ResourceDefinition) -> Value:
    return fit.typed(value, definition, path)[1]


def _of_time(value: Value, path: Path, definition: ResourceDefinition) -> Value:
    # Only CBOR says by itself that a number is a time (tag 1).
    raise WrongValue(f"{path} is of type {_type(definition).value}, but the value is a time")


def _type(definition: ResourceDefinition) -> ResourceType:
    assert definition.type is not None
    return definition.type


#: By the type in which a value was carried.
_READERS: dict[ResourceType, Callable[[Value, Path, ResourceDefinition], Value]] = {
    ResourceType.OPAQUE: _of_bytes,
    ResourceType.STRING: _of_text,
    ResourceType.INTEGER: _of_own_type,
    ResourceType.FLOAT: _of_own_type,
    ResourceType.BOOLEAN: _of_own_type,
    ResourceType.OBJLNK: _of_own_type,
    ResourceType.TIME: _of_time,
}
