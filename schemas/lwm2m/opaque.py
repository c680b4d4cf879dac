"""Opaque, content format 42: the bytes of one OPAQUE resource (OMA LwM2M Core 1.1, section 7.4.2)."""

from __future__ import annotations

from schemas.lwm2m import fit, tree
from schemas.lwm2m.errors import NotInThisFormat, WrongValue
from schemas.lwm2m.nodes import Node, Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path


def decode(payload: bytes, path: Path, definitions: Definitions) -> Resource:
    """The OPAQUE value at ``path`` (depth 3 or 4).

    Raises:
        CodecError: the path holds more than one value, or a resource that is defined with another type.
    """
    definition = tree.single(path, definitions, "opaque")
    if definition is not None and definition.type not in (None, ResourceType.OPAQUE):
        raise WrongValue(f"{path} is of type {definition.type.value}; bytes without a type cannot be its value")
    return Resource(path=path, type=ResourceType.OPAQUE, value=payload)


def encode(node: Node, definitions: Definitions) -> bytes:
    """The bytes of an OPAQUE Resource.

    Raises:
        CodecError: the node is no single value of type OPAQUE.
    """
    if isinstance(node, Resource):
        kind, value, _ = fit.outgoing(node, definitions)
        if kind is ResourceType.OPAQUE and isinstance(value, bytes):
            return value
    raise NotInThisFormat(f"{node.path}: the opaque format carries a single OPAQUE value only")
