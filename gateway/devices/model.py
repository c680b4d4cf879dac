"""What a virtual device holds: objects, instances and resources, and the LwM2M operations on them.

Pure: values in, values out; no clock, no socket, no bytes. Follows OMA LwM2M Core 1.1, section 6.3 (device management
and information reporting operations). Types, multiplicity and permitted operations come from `Definitions`; an object
that no definition knows cannot be held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions, Operation, ResourceDefinition
from schemas.lwm2m.path import MAX_ID, Path


class Refused(Exception):
    """The device does not carry out the operation; the subclass says why, and `site` knows its CoAP code.

    Refused
    ├── NoSuchPath      4.04
    ├── NotPermitted    4.05
    └── BadValue        4.00
    """


class NoSuchPath(Refused):
    """No such object, instance, resource or resource instance is on the device."""


class NotPermitted(Refused):
    """The definition of the target does not permit the operation."""


class BadValue(Refused):
    """The value's type or range is not the target's."""


#: The content of a resource: one value, a multiple resource's values by instance id, or a function that gives the
#: value of the moment (for a clock).
Content = Value | dict[int, Value] | Callable[[], Value]
#: Called with the arguments of an Execute as the server sent them.
Action = Callable[[str], None]
#: Called with the value that is about to be stored; raises BadValue to refuse it.
Check = Callable[[Value], None]
#: Called with the value of a write in place of storing it (a clock that is set).
Setter = Callable[[Value], None]


@dataclass(slots=True, kw_only=True)
class Holding:
    """One object instance: resource id → content, actions of executable ones, checks and setters of writable ones."""

    contents: dict[int, Content]
    actions: Mapping[int, Action] = field(default_factory=dict)
    checks: Mapping[int, Check] = field(default_factory=dict)
    setters: Mapping[int, Setter] = field(default_factory=dict)


#: Makes the instance that a Create asks for, from its id and the values that came with the request.
Factory = Callable[[int, Mapping[int, Content]], Holding]

_PYTHON_TYPES: Mapping[ResourceType, tuple[type, ...]] = {
    ResourceType.STRING: (str,),
    ResourceType.FLOAT: (float, int),
    ResourceType.INTEGER: (int,),
    ResourceType.BOOLEAN: (bool,),
    ResourceType.OPAQUE: (bytes,),
    ResourceType.TIME: (int,),
    ResourceType.OBJLNK: (ObjectLink,),
}


class Model:
    """The objects of one device. Single-threaded: its owner's event loop calls it."""

    def __init__(
        self,
        definitions: Definitions,
        holdings: Mapping[tuple[int, int], Holding],
        factories: Mapping[int, Factory] | None = None,
    ) -> None:
        """``holdings`` by (object id, instance id); ``factories`` by object id: the objects that allow Create."""
        self.definitions = definitions
        self._holdings = dict(holdings)
        self._factories = dict(factories or {})
        self._objects = {object_id for object_id, _ in holdings} | set(self._factories)
        #: Told each path whose content changed, by whomever.
        self.on_change: list[Callable[[Path], None]] = []
        #: Told when an instance came or went: the registration's links are no longer true.
        self.on_instances: list[Callable[[], None]] = []

    @property
    def objects(self) -> list[int]:
        """The ids of the objects that the device supports, ascending."""
        return sorted(self._objects)

    def instances(self, object_id: int) -> list[int]:
        """The ids of the object's instances, ascending."""
        return sorted(instance for an_object, instance in self._holdings if an_object == object_id)

    def resources(self, path: Path) -> list[int]:
        """The ids of the resources of the instance at ``path``, executable ones too, ascending."""
        holding = self._holding(path)
        return sorted({*holding.contents, *holding.actions})

    def dimension(self, path: Path) -> int | None:
        """How many instances the multiple resource at ``path`` has; None for any other resource."""
        content = self._holding(path).contents.get(path.ids[2])
        return len(content) if isinstance(content, dict) else None

    def has(self, path: Path) -> bool:
        """True if the object, instance, resource or resource instance exists."""
        try:
            self._require(path)
        except NoSuchPath:
            return False
        return True

    def read(self, path: Path) -> Node:
        """The node at ``path`` as it is now; within objects and instances what is not readable is left out.

        Raises:
            NoSuchPath: nothing is there.
            NotPermitted: the resource cannot be read (executable, or written only).
        """
        self._require(path)
        match path.ids:
            case (object_id,):
                return Object(
                    path=path, instances=tuple(self._instance(path.child(i)) for i in self.instances(object_id))
                )
            case (_, _):
                return self._instance(path)
            case (_, _, _):
                return self._resource(path)
            case (_, _, _, instance_id):
                multiple = self._resource(path.parent)
                assert isinstance(multiple, MultipleResource)
                return next(one for one in multiple.instances if one.path.resource_instance_id == instance_id)
        raise NotPermitted(f"{path}: reading the root needs a composite read")

    def write(self, node: Node, *, replace: bool) -> None:
        """Write a resource instance, a resource or an instance; ``replace`` as PUT does, else merged as POST does.

        Nothing is changed unless all of it may be: the checks come first.

        Raises:
            NoSuchPath, NotPermitted, BadValue: see there.
        """
        if isinstance(node, Object):
            raise NotPermitted(f"{node.path}: a write to an object is none of LwM2M's operations")
        self._require(node.path.parent if node.path.depth > 2 else node.path)
        self._write(node.resources if isinstance(node, Instance) else (node,), replace=replace)

    def write_together(self, resources: Iterable[Resource]) -> None:
        """Write resources and resource instances of any objects, as a composite write does: all of them or none.

        Raises:
            NoSuchPath, NotPermitted, BadValue: see there.
        """
        leaves = tuple(resources)
        for leaf in leaves:
            self._require(leaf.path.parent)
        self._write(leaves, replace=False)

    def _write(self, leaves: tuple[Resource | MultipleResource, ...], *, replace: bool) -> None:
        for leaf in leaves:
            self._check_write(leaf)
        for leaf in leaves:
            self._store(leaf, replace=replace)
            self.changed(leaf.path)

    def execute(self, path: Path, arguments: str) -> None:
        """Run the action of an executable resource. Raises NoSuchPath or NotPermitted."""
        self._require(path)
        action = self._holding(path).actions.get(path.ids[2]) if path.depth == 3 else None
        if action is None:
            raise NotPermitted(f"{path} is not executable")
        action(arguments)

    def create(self, object_id: int, instance_id: int | None, values: Iterable[Resource | MultipleResource]) -> Path:
        """Make an instance; without an id the lowest free one is taken. Returns its path.

        Raises:
            NoSuchPath: the device does not support the object.
            NotPermitted: the object allows no Create.
            BadValue: the instance exists already, or a value is not of its resource's type.
        """
        if object_id not in self._objects:
            raise NoSuchPath(f"/{object_id} is not on this device")
        factory = self._factories.get(object_id)
        if factory is None:
            raise NotPermitted(f"/{object_id}: instances cannot be created")
        taken = set(self.instances(object_id))
        if instance_id is None:
            instance_id = next(i for i in range(MAX_ID) if i not in taken)
        if instance_id in taken or instance_id >= MAX_ID:
            raise BadValue(f"/{object_id}/{instance_id} exists already or is no instance id")
        for value in values:
            self._check_type(value)
        contents = {value.path.ids[2]: _content(value) for value in values}
        self._holdings[object_id, instance_id] = factory(instance_id, contents)
        path = Path(object_id, instance_id)
        self._instances_changed(path)
        return path

    def delete(self, path: Path) -> None:
        """Remove an object instance or, of a resource that can be written, a resource instance.

        Raises:
            NoSuchPath: it is not there.
            NotPermitted: it stays (only objects that allow Create allow Delete).
        """
        self._require(path)
        if path.depth == 4 and Operation.WRITE in self._definition(path).operations:
            contents, resource_id = self._holding(path).contents, path.ids[2]
            present = contents[resource_id]
            assert isinstance(present, dict)
            contents[resource_id] = {i: value for i, value in present.items() if i != path.ids[3]}
            self.changed(path)
            return
        if path.depth != 2 or path.ids[0] not in self._factories:
            raise NotPermitted(f"{path} cannot be deleted")
        del self._holdings[path.ids[0], path.ids[1]]
        self._instances_changed(path)

    def add(self, path: Path, holding: Holding) -> None:
        """The device's own new instance at ``path``: a sensor was plugged in, of an object that it may not have had.

        Raises:
            ValueError: the instance is there already.
        """
        object_id, instance_id = path.ids
        if (object_id, instance_id) in self._holdings:
            raise ValueError(f"{path} is on this device already")
        self._holdings[object_id, instance_id] = holding
        self._objects.add(object_id)
        self._instances_changed(path)

    def below(self, path: Path) -> list[Path]:
        """What is one level below ``path``, which is there, ascending: instances, resources, resource instances."""
        match path.depth:
            case 1:
                return [path.child(i) for i in self.instances(path.ids[0])]
            case 2:
                return [path.child(i) for i in self.resources(path)]
            case 3:
                content = self._holding(path).contents.get(path.ids[2])
                return [path.child(i) for i in sorted(content)] if isinstance(content, dict) else []
        return []

    def value(self, path: Path) -> Value:
        """The value of a single resource, whether or not a server may read it."""
        content = self._holding(path).contents[path.ids[2]]
        assert not isinstance(content, dict), f"{path} is a multiple resource"
        return content() if callable(content) else content

    def set(self, path: Path, value: Value) -> None:
        """The device's own change of a single resource: no permission asked, observers are told."""
        self._holding(path).contents[path.ids[2]] = value
        self.changed(path)

    def changed(self, path: Path) -> None:
        """Tell who listens that the content at ``path`` changed."""
        for listener in self.on_change:
            listener(path)

    def _instances_changed(self, path: Path) -> None:
        self.changed(path)
        for listener in self.on_instances:
            listener()

    def _holding(self, path: Path) -> Holding:
        holding = self._holdings.get((path.ids[0], path.ids[1]))
        if holding is None:
            raise NoSuchPath(f"{Path(*path.ids[:2])} is not on this device")
        return holding

    def _require(self, path: Path) -> None:
        if path.depth == 1 and path.ids[0] in self._objects:
            return
        if path.depth < 2:
            raise NoSuchPath(f"{path} is not on this device")
        holding = self._holding(path)
        if path.depth == 2:
            return
        if path.ids[2] not in holding.contents and path.ids[2] not in holding.actions:
            raise NoSuchPath(f"{path} is not on this device")
        if path.depth == 4:
            content = holding.contents.get(path.ids[2])
            if not isinstance(content, dict) or path.ids[3] not in content:
                raise NoSuchPath(f"{path} is not on this device")

    def _definition(self, path: Path) -> ResourceDefinition:
        definition = self.definitions.resource(Path(*path.ids[:3]))
        if definition is None:
            raise NoSuchPath(f"{path}: no definition knows this resource")
        return definition

    def _instance(self, path: Path) -> Instance:
        found = []
        for resource_id in sorted(self._holding(path).contents):
            resource = path.child(resource_id)
            if Operation.READ in self._definition(resource).operations:
                found.append(self._resource(resource))
        return Instance(path=path, resources=tuple(found))

    def _resource(self, path: Path) -> Resource | MultipleResource:
        definition = self._definition(path)
        if Operation.READ not in definition.operations or definition.type is None:
            raise NotPermitted(f"{path} cannot be read")
        content = self._holding(path).contents[path.ids[2]]
        kind = definition.type
        if isinstance(content, dict):
            ones = (Resource(path=path.child(i), type=kind, value=content[i]) for i in sorted(content))
            return MultipleResource(path=path, type=kind, instances=tuple(ones))
        return Resource(path=path, type=kind, value=content() if callable(content) else content)

    def _check_write(self, leaf: Resource | MultipleResource) -> None:
        definition = self._definition(leaf.path)
        if Operation.WRITE not in definition.operations:
            raise NotPermitted(f"{leaf.path} cannot be written")
        holding = self._holding(leaf.path)
        if leaf.path.ids[2] not in holding.contents:
            raise NoSuchPath(f"{leaf.path} is not on this device")
        self._check_type(leaf)
        check = holding.checks.get(leaf.path.ids[2])
        if check is not None and isinstance(leaf, Resource):
            check(leaf.value)

    def _check_type(self, leaf: Resource | MultipleResource) -> None:
        definition = self._definition(leaf.path)
        if definition.type is None:
            raise NotPermitted(f"{leaf.path} has no value")
        if leaf.path.depth == 4 and not definition.multiple:
            raise NoSuchPath(f"{leaf.path.parent} is a single resource")
        if isinstance(leaf, MultipleResource) != definition.multiple and leaf.path.depth == 3:
            raise BadValue(f"{leaf.path}: {'several values are' if definition.multiple else 'one value is'} expected")
        for one in leaf.instances if isinstance(leaf, MultipleResource) else (leaf,):
            wanted = _PYTHON_TYPES[definition.type]
            if not isinstance(one.value, wanted) or (isinstance(one.value, bool) and bool not in wanted):
                raise BadValue(f"{one.path}: {definition.type.value} is expected")

    def _store(self, leaf: Resource | MultipleResource, *, replace: bool) -> None:
        holding, resource_id = self._holding(leaf.path), leaf.path.ids[2]
        if resource_id in holding.setters and isinstance(leaf, Resource):
            holding.setters[resource_id](leaf.value)
            return
        contents = holding.contents
        present = contents[resource_id]
        if leaf.path.depth == 4 and isinstance(leaf, Resource):
            kept = dict(present) if isinstance(present, dict) else {}
            contents[resource_id] = {**kept, leaf.path.ids[3]: leaf.value}
        elif isinstance(leaf, MultipleResource) and isinstance(present, dict) and not replace:
            merged = _content(leaf)
            assert isinstance(merged, dict)
            contents[resource_id] = {**present, **merged}
        else:
            contents[resource_id] = _content(leaf)


def _content(leaf: Resource | MultipleResource) -> Content:
    if isinstance(leaf, MultipleResource):
        return {one.path.ids[3]: one.value for one in leaf.instances}
    return leaf.value
