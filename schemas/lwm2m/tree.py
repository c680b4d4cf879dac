"""From single values with full paths to the node that was asked for, and back.

The formats that name every value by its path (SenML, the old JSON) share this; TLV has its own tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from schemas.lwm2m import fit
from schemas.lwm2m.errors import MalformedPayload, NotInThisFormat, WrongPath, WrongValue
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, Resource, ResourceType
from schemas.lwm2m.nodes import values as values_of
from schemas.lwm2m.objects import Definitions, ResourceDefinition
from schemas.lwm2m.path import MAX_ID, Path


def outside(found: Path, asked: Path) -> WrongPath:
    return WrongPath(f"the payload holds a value of {found}, which lies outside of {asked}")


def build(path: Path, values: Sequence[Resource], definitions: Definitions) -> Node:
    """The node at ``path`` (depth 1 to 4) that holds ``values``, each with a path of depth 3 or 4 within ``path``.

    Raises:
        MalformedPayload: a path comes twice, or both as a resource and as its instances; or nothing is there where
            exactly one value must be.
    """
    depth = path.depth
    if len(values) == 1 and values[0].path == path:
        return values[0]
    if depth == 4:
        raise _none_or_many(path, values)
    resources = _resources(values)
    if depth == 3:
        if resources:
            return resources[0]
        return nothing(path, definitions)
    instances: dict[int, list[Resource | MultipleResource]] = {}
    for resource in resources:
        instances.setdefault(resource.path.instance_id or 0, []).append(resource)
    if depth == 2:
        return Instance(path=path, resources=tuple(r for several in instances.values() for r in several))
    return Object(
        path=path,
        instances=tuple(Instance(path=path.child(i), resources=tuple(several)) for i, several in instances.items()),
    )


def single(path: Path, definitions: Definitions, name: str) -> ResourceDefinition | None:
    """The definition of the one value at ``path``, for the formats that carry no more than one.

    Raises:
        NotInThisFormat: there may be several values at ``path``.
    """
    if path.object_id is None or path.resource_id is None:
        raise NotInThisFormat(f"{path}: {name} carries a single value only, and this is no resource")
    definition = definitions.of(path.object_id, path.resource_id)
    if definition is not None and definition.multiple and path.resource_instance_id is None:
        raise NotInThisFormat(f"{path} has several instances, and {name} carries a single value only")
    return definition


def nothing(path: Path, definitions: Definitions) -> Node:
    """What an empty payload says about ``path``: no instances, or no resources; never a single value."""
    depth = path.depth
    if depth == 1:
        return Object(path=path)
    if depth == 2:
        return Instance(path=path)
    definition = definitions.resource(path)
    if depth == 3 and definition is not None and definition.multiple and definition.type is not None:
        return MultipleResource(path=path, type=definition.type)
    raise _none_or_many(path, ())


def _resources(values: Sequence[Resource]) -> list[Resource | MultipleResource]:
    """Resources by ascending id, the instances of multiple ones together."""
    ordered = sorted(values, key=lambda value: value.path.ids)
    found: list[Resource | MultipleResource] = []
    several: list[Resource] = []
    last: Path | None = None

    def close() -> None:
        if several:
            found.append(_multiple(several))
            several.clear()

    for value in ordered:
        if value.path == last:
            raise MalformedPayload(f"the payload holds {value.path} twice")
        last = value.path
        if value.path.resource_instance_id is None:
            close()
            found.append(value)
            continue
        owner = value.path.parent
        if several and several[0].path.parent != owner:
            close()
        if not several and found and found[-1].path == owner:
            raise MalformedPayload(f"the payload holds {owner} both as one value and as several instances")
        several.append(value)
    close()
    return found


def _multiple(instances: list[Resource]) -> MultipleResource:
    path, kind = instances[0].path.parent, instances[0].type
    kinds = {instance.type for instance in instances}
    # More than one only where no definition knows the resource.
    if kinds == {ResourceType.INTEGER, ResourceType.FLOAT}:
        # JSON writes 21 for 21.0, so such a mixture is of FLOATs.
        kind = ResourceType.FLOAT
        instances = [replace(one, type=kind, value=fit.as_float(one.value, one.path)) for one in instances]
    elif len(kinds) > 1:
        raise WrongValue(f"{path}: its instances are of different types")
    return MultipleResource(path=path, type=kind, instances=tuple(instances))


def check(node: Node) -> None:
    """What every format relies on before it writes ``node``.

    Raises:
        WrongPath: a value lies outside of its node, or has an id beyond 65535.
    """
    for value in values_of(node):
        if not node.path.contains(value.path) or not all(0 <= i <= MAX_ID for i in value.path.ids):
            raise WrongPath(f"a value for {value.path} cannot be part of {node.path}")


def _none_or_many(path: Path, values: Iterable[Resource]) -> MalformedPayload:
    return MalformedPayload(f"the payload must hold one value of {path} and holds {'several' if values else 'none'}")
