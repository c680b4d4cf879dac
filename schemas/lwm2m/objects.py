"""Definitions of objects and resources: what a device may hold at a path, and of which type it is.

Owns the facts about objects (OMA LwM2M Core 1.1, appendix D.1 for the form of a definition; section 7.2.2 for object
versions) and the look-up by path and version. Built in are the rows of ``objects.tsv``; more come from folders of OMA
LwM2M XML files (`schemas.lwm2m.xml_files`). Never reads payloads: a codec asks here for the type of a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from importlib.resources import files
from pathlib import Path as FilePath

from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.path import Path


class DefinitionError(ValueError):
    """A definition cannot be read; the text names the file and says what is wrong in it."""


class Operation(Enum):
    READ = "R"
    WRITE = "W"
    EXECUTE = "E"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceDefinition:
    """One row of an object's resource table.

    ``type`` is None for executable resources. ``unsigned`` marks Unsigned Integer, which nodes carry as INTEGER but TLV
    writes without a sign bit; ``links`` marks Corelnk, which nodes carry as STRING.
    """

    id: int
    name: str
    operations: frozenset[Operation]
    multiple: bool
    mandatory: bool
    type: ResourceType | None
    unit: str | None = None
    unsigned: bool = False
    links: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDefinition:
    """An object in one version, with its resources by id."""

    id: int
    name: str
    version: str
    multiple: bool
    mandatory: bool
    resources: Mapping[int, ResourceDefinition] = field(default_factory=dict)


#: The names of types in definitions, as in OMA's XML files and (in upper case, without spaces) in ``objects.tsv``.
TYPES: dict[str, ResourceType | None] = {
    "": None,
    "string": ResourceType.STRING,
    "integer": ResourceType.INTEGER,
    "unsigned integer": ResourceType.INTEGER,
    "float": ResourceType.FLOAT,
    "boolean": ResourceType.BOOLEAN,
    "opaque": ResourceType.OPAQUE,
    "time": ResourceType.TIME,
    "objlnk": ResourceType.OBJLNK,
    "corelnk": ResourceType.STRING,
}

#: The version of an object whose link in a registration gives none (section 7.2.2).
DEFAULT_VERSION = "1.0"

_VERSION = re.compile(r"(\d{1,5})\.(\d{1,5})\Z", re.ASCII)


def version_key(version: str) -> tuple[int, int] | None:
    """``"1.10"`` is (1, 10), so that versions sort; None when the text is no object version."""
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2])) if match else None


class Definitions:
    """A set of object definitions, immutable once made; the versions of an object stand in it side by side.

    A look-up without a version takes the newest one (`with_versions` for what a device means by it). With a version it
    takes that one, or else the newest of the same major version: minor versions are backwards compatible (section
    7.2.2), major versions are not, so a device that announces an unknown major version has an object that no definition
    knows.
    """

    __slots__ = ("_current", "_implied", "_objects", "_resources", "_views", "problems")

    def __init__(
        self,
        objects: Iterable[ObjectDefinition] = (),
        *,
        problems: tuple[str, ...] = (),
        versions: Mapping[int, str] | None = None,
    ) -> None:
        """Later ``objects`` replace earlier ones of the same id and version.

        With ``versions`` a look-up without one takes what a device means that announced these: see `with_versions`.
        """
        self._objects: dict[int, dict[str, ObjectDefinition]] = {}
        for definition in objects:
            self._objects.setdefault(definition.id, {})[definition.version] = definition
        #: One sentence for every file that `load_folder` left out, naming the file.
        self.problems = problems
        # Filled as it is asked for, with every payload.
        self._implied: dict[int, ObjectDefinition | None] = {}
        self._current: dict[int, ObjectDefinition] = {}
        for object_id in self._objects:
            if versions is not None and object_id not in versions:
                found = self._of_no_version(object_id)
            else:
                found = self._find(object_id, (versions or {}).get(object_id))
            if found is not None:
                self._current[object_id] = found
        # Flat, because every payload asks here.
        self._resources = {
            (definition.id, resource.id): resource
            for definition in self._current.values()
            for resource in definition.resources.values()
        }
        self._views = lru_cache(maxsize=64)(self._view)

    @staticmethod
    def builtin() -> Definitions:
        """Objects 0 to 7, 9, 21 and the registered IPSO objects 3300 to 3347."""
        return _builtin()

    def load_folder(self, folder: FilePath | str) -> Definitions:
        """These definitions and those of every ``*.xml`` in ``folder``, which win over same id and version.

        A file that cannot be used does not stop the others: it is left out, and ``problems`` of the result has a
        sentence that names it.

        Raises:
            DefinitionError: there is no such folder, or it cannot be read.
        """
        from schemas.lwm2m import xml_files  # here: xml_files builds on the classes above

        loaded, problems = xml_files.load(FilePath(folder))
        return Definitions([*self, *loaded], problems=(*self.problems, *problems))

    def with_versions(self, versions: Mapping[int, str]) -> Definitions:
        """These definitions as a device has them that announced ``versions`` by object id (``</3>;ver=1.1``).

        An object to which it gave none, or one that is no version (``abc``), is of `DEFAULT_VERSION`; what that does
        not define, the next minor version tells that does. The result is shared: devices that announce the same get
        the same one.
        """
        pinned = []
        for object_id, version in versions.items():
            if object_id not in self._objects or version_key(version) is None:
                continue
            found = self._find(object_id, version)
            if found is None or found is not self._of_no_version(object_id):
                # Without a definition of its major version any version text stands for "unknown": fewer views.
                pinned.append((object_id, found.version if found else "0.0"))
        return self._views(tuple(sorted(pinned)))

    def object(self, object_id: int, version: str | None = None) -> ObjectDefinition | None:
        """The definition of an object, or None if none knows it in that major version."""
        return self._current.get(object_id) if version is None else self._find(object_id, version)

    def resource(self, path: Path, version: str | None = None) -> ResourceDefinition | None:
        """The definition of the resource at or above ``path`` (depth 3 or 4), or None if there is none."""
        if path.object_id is None or path.resource_id is None:
            return None
        if version is None:
            return self._resources.get((path.object_id, path.resource_id))
        found = self._find(path.object_id, version)
        return found.resources.get(path.resource_id) if found else None

    def of(self, object_id: int, resource_id: int) -> ResourceDefinition | None:
        """`resource` by ids, for the codecs."""
        return self._resources.get((object_id, resource_id))

    def __iter__(self) -> Iterator[ObjectDefinition]:
        for versions in self._objects.values():
            yield from versions.values()

    def _find(self, object_id: int, version: str | None) -> ObjectDefinition | None:
        known = self._objects.get(object_id)
        if known is None:
            return None
        if version is not None and version in known:
            return known[version]
        wanted = None if version is None else version_key(version)
        if version is not None and wanted is None:
            return None
        fitting = [(key, v) for v in known if (key := version_key(v)) and (wanted is None or key[0] == wanted[0])]
        return known[max(fitting)[1]] if fitting else None

    def _of_no_version(self, object_id: int) -> ObjectDefinition | None:
        if object_id not in self._implied:
            self._implied[object_id] = self._with_next_minors(self._find(object_id, DEFAULT_VERSION))
        return self._implied[object_id]

    def _with_next_minors(self, definition: ObjectDefinition | None) -> ObjectDefinition | None:
        # Minor versions only add. A device of LwM2M 1.1 need not say that its object 3 is of 1.1, as the enabler's
        # version says so; and many devices leave out what they would have to say.
        own = version_key(definition.version) if definition is not None else None
        if definition is None or own is None:
            return definition
        known = self._objects[definition.id].values()
        newer = [
            (key, other) for other in known if (key := version_key(other.version)) and key[0] == own[0] and key > own
        ]
        resources: dict[int, ResourceDefinition] = {}
        for _, other in sorted(newer, key=lambda pair: pair[0], reverse=True):
            resources |= other.resources
        return replace(definition, resources=resources | dict(definition.resources)) if newer else definition

    def _view(self, versions: tuple[tuple[int, str], ...]) -> Definitions:
        return Definitions(self, problems=self.problems, versions=dict(versions))


@lru_cache(maxsize=1)
def _builtin() -> Definitions:
    return Definitions(read_table(files("schemas.lwm2m").joinpath("objects.tsv").read_text("utf-8")))


def read_table(text: str) -> list[ObjectDefinition]:
    """Read the form of ``objects.tsv``, which its first lines explain.

    Raises:
        DefinitionError: a row is not of that form.
    """
    found: list[ObjectDefinition] = []
    head: list[str] = []
    resources: dict[int, ResourceDefinition] = {}

    def finish() -> None:
        if head:
            _, an_id, versions, name, instances, mandatory = head
            found.extend(
                ObjectDefinition(
                    id=int(an_id),
                    name=name,
                    version=version,
                    multiple=instances == "multiple",
                    mandatory=mandatory == "mandatory",
                    resources=resources,
                )
                for version in versions.split(",")
            )

    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        row = line.split("\t")
        try:
            if row[0] == "object":
                finish()
                head, resources = row, {}
            else:
                resource = _table_row(row)
                resources[resource.id] = resource
        except (ValueError, KeyError) as exc:
            raise DefinitionError(f"objects.tsv, line {number}: {exc}") from exc
    finish()
    return found


def _table_row(row: list[str]) -> ResourceDefinition:
    _, an_id, name, operations, instances, mandatory, kind, unit = row
    named = {"UNSIGNED": "unsigned integer", "-": ""}.get(kind, kind.lower())
    return ResourceDefinition(
        id=int(an_id),
        name=name,
        operations=frozenset(Operation(letter) for letter in operations if letter != "-"),
        multiple=instances == "multiple",
        mandatory=mandatory == "mandatory",
        type=TYPES[named],
        unit=None if unit == "-" else unit,
        unsigned=named == "unsigned integer",
        links=named == "corelnk",
    )
