"""LwM2M values: what a device holds at a path (OMA LwM2M Core 1.1, section 6.1, and appendix C for the data types).

Every node knows its own absolute path, so it can be moved, stored and printed without context.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from schemas.lwm2m.path import Path


class ResourceType(Enum):
    """The data types of appendix C; Unsigned Integer is carried as INTEGER, Corelnk as STRING."""

    STRING = "STRING"
    FLOAT = "FLOAT"
    INTEGER = "INTEGER"
    BOOLEAN = "BOOLEAN"
    OPAQUE = "OPAQUE"
    TIME = "TIME"
    OBJLNK = "OBJLNK"


@dataclass(frozen=True, slots=True)
class ObjectLink:
    """An Objlnk: object id and instance id, each 0 to 65535 (65535:65535 is the null link)."""

    object_id: int
    instance_id: int

    def __str__(self) -> str:
        return f"{self.object_id}:{self.instance_id}"


#: The Python type by ResourceType: STRING str, FLOAT float, INTEGER int, BOOLEAN bool, OPAQUE bytes,
#: TIME int (epoch milliseconds; the wire has seconds), OBJLNK ObjectLink.
Value = str | float | int | bool | bytes | ObjectLink


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One value: a single-instance resource (path depth 3) or an instance of a multiple resource (path depth 4)."""

    path: Path
    type: ResourceType
    value: Value
    #: The device's own time of the value in epoch milliseconds, where it gave one (SenML bt/t).
    timestamp: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipleResource:
    """A multiple-instance resource (path depth 3); ``instances`` are Resources with path depth 4, by ascending id."""

    path: Path
    type: ResourceType
    instances: tuple[Resource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An object instance (path depth 2) with its resources, single and multiple, by ascending id."""

    path: Path
    resources: tuple[Resource | MultipleResource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """An object (path depth 1) with its instances, by ascending id."""

    path: Path
    instances: tuple[Instance, ...] = field(default=())


Node = Object | Instance | MultipleResource | Resource


def values(node: Node) -> list[Resource]:
    """All single values below ``node``, in order: what history keeps as rows."""
    match node:
        case Resource():
            return [node]
        case MultipleResource():
            return list(node.instances)
        case Instance():
            return [value for resource in node.resources for value in values(resource)]
        case Object():
            return [value for instance in node.instances for value in values(instance)]
