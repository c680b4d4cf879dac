"""Object definitions from OMA LwM2M XML files (OMA LwM2M Core 1.1, appendix D.1; schema LWM2M-v1_1.xsd).

The files come from vendors and from the web, so they are hostile until read: a document type (and with it every entity)
is refused, size, depth and the number of elements are bounded, nothing outside the file is ever opened. What is wrong
is told with the line and the column of the element that it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from xml.etree.ElementTree import Element, TreeBuilder, tostring
from xml.parsers import expat

from schemas.lwm2m.objects import (
    DEFAULT_VERSION,
    TYPES,
    DefinitionError,
    ObjectDefinition,
    Operation,
    ResourceDefinition,
    version_key,
)
from schemas.lwm2m.path import MAX_ID

#: The largest file of the public registry has 170 KB, 1,400 elements and a depth of 5.
MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_ELEMENTS = 100_000

#: The line and the column of each element, both from 1.
_Places = dict[Element, tuple[int, int]]


class _Wrong(DefinitionError):
    """Something is wrong with ``element``."""

    def __init__(self, element: Element, words: str) -> None:
        super().__init__(words)
        self.element = element


class _Refused(DefinitionError):
    """The file is not read any further than to ``place``."""

    def __init__(self, place: tuple[int, int], words: str) -> None:
        super().__init__(words)
        self.place = place


def load(folder: FilePath) -> tuple[list[ObjectDefinition], list[str]]:
    """Every object of every ``*.xml`` in ``folder`` (not below it), and a sentence for everything left out.

    Raises:
        DefinitionError: the folder is not there or cannot be read.
    """
    found: list[tuple[FilePath, list[ObjectDefinition]]] = []
    problems: list[str] = []
    for name in files(folder):
        try:
            found.append((name, read(name)))
        except DefinitionError as exc:
            problems.append(str(exc))
    definitions, doubled = together(found)
    return definitions, problems + doubled


def files(folder: FilePath) -> list[FilePath]:
    """The ``*.xml`` in ``folder``, by name.

    Raises:
        DefinitionError: the folder is not there or cannot be read.
    """
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() == ".xml" and entry.is_file())
    except OSError as exc:
        raise DefinitionError(f"{folder}: cannot read this folder of object definitions: {exc.strerror}") from exc


def together(
    found: Iterable[tuple[FilePath, list[ObjectDefinition]]],
) -> tuple[list[ObjectDefinition], list[str]]:
    """The objects of several files, and a sentence for each that two define differently: the last one counts."""
    by_version: dict[tuple[int, str], tuple[FilePath, ObjectDefinition]] = {}
    problems: list[str] = []
    for file, definitions in found:
        for one in definitions:
            first = by_version.get((one.id, one.version))
            if first is not None and first[1] != one:
                problems.append(
                    f"{file}: object {one.id} version {one.version} is defined differently in {first[0].name}; "
                    f"that in {file.name} is used: remove one of the two"
                )
            by_version[one.id, one.version] = file, one
    return [definition for _, definition in by_version.values()], problems


def read(file: FilePath) -> list[ObjectDefinition]:
    """The objects of one file.

    Raises:
        DefinitionError: the file cannot be read, is no XML, has a document type, or is no LwM2M definition.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as exc:
        raise DefinitionError(f"{file}: {exc.strerror}") from exc
    return parse(data, str(file))


def parse(data: bytes, name: str) -> list[ObjectDefinition]:
    """The objects of what a file named ``name`` holds, in any encoding that its first line or its BOM says.

    Raises:
        DefinitionError: as `read`; with the line and the column, both from 1, where that can be said.
    """
    return [definition for definition, _ in _parsed(data, name)]


def parse_each(data: bytes, name: str) -> list[tuple[ObjectDefinition, bytes]]:
    """As `parse`, each object with the XML of a file that holds it alone: ``data`` itself if it is the only one."""
    found = _parsed(data, name)
    if len(found) == 1:
        return [(found[0][0], data)]
    return [(definition, _alone(element)) for definition, element in found]


def _alone(element: Element) -> bytes:
    root = Element("LWM2M")
    root.append(element)
    data: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return data


def _parsed(data: bytes, name: str) -> list[tuple[ObjectDefinition, Element]]:
    if len(data) > MAX_BYTES:
        raise DefinitionError(f"{name}: larger than {MAX_BYTES} bytes")
    places: _Places = {}
    try:
        return list(_objects(_tree(data, places)))
    except (_Wrong, _Refused) as exc:
        line, column = exc.place if isinstance(exc, _Refused) else places[exc.element]
        raise DefinitionError(f"{name}, line {line}, column {column}: {exc}") from exc
    except expat.ExpatError as exc:
        words = expat.ErrorString(exc.code)
        raise DefinitionError(f"{name}, line {exc.lineno}, column {exc.offset + 1}: this is no XML: {words}") from exc
    except (ValueError, LookupError) as exc:
        # LookupError: an encoding that Python does not know.
        raise DefinitionError(f"{name}: it is in an encoding that cannot be read; save it as UTF-8: {exc}") from exc


def _tree(data: bytes, places: _Places) -> Element:
    builder = TreeBuilder()
    depth = 0

    def here() -> tuple[int, int]:
        return parser.CurrentLineNumber, parser.CurrentColumnNumber + 1

    def refuse(words: str) -> None:
        raise _Refused(here(), words)

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            refuse(f"elements are nested deeper than {MAX_DEPTH}")
        if len(places) == MAX_ELEMENTS:
            refuse(f"there are more than {MAX_ELEMENTS} elements")
        places[builder.start(tag, attributes)] = here()

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def document_type(*_: object) -> None:
        # It could define entities that grow without bound, or that are files of this machine.
        refuse("a document type (DOCTYPE) is not allowed; remove that line")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = document_type
    parser.Parse(data, True)
    return builder.close()


def _objects(root: Element) -> Iterator[tuple[ObjectDefinition, Element]]:
    if root.tag != "LWM2M":
        raise _Wrong(root, f"the outermost element is <{root.tag}>, not <LWM2M>: this is no LwM2M object definition")
    objects = root.findall("Object")
    if not objects:
        raise _Wrong(root, "there is no <Object> in it")
    seen: set[tuple[int, str]] = set()
    for element in objects:
        # Section 7.2.2: an object without a version is of version 1.0.
        version = _text(element, "ObjectVersion") or DEFAULT_VERSION
        if version_key(version) is None:
            raise _Wrong(_at(element, "ObjectVersion"), f"<ObjectVersion> {version!r:.60} is not like 1.0")
        resources: dict[int, ResourceDefinition] = {}
        for item in element.iterfind("Resources/Item"):
            resource = _resource(item)
            if resource.id in resources:
                raise _Wrong(item, f"resource {resource.id} is defined twice")
            resources[resource.id] = resource
        an_id = _number(_text(element, "ObjectID"), "<ObjectID>", _at(element, "ObjectID"))
        if (an_id, version) in seen:
            raise _Wrong(element, f"object {an_id} version {version} is defined twice")
        seen.add((an_id, version))
        definition = ObjectDefinition(
            id=an_id,
            name=_text(element, "Name"),
            version=version,
            multiple=_flag(element, "MultipleInstances", "Multiple", "Single"),
            mandatory=_flag(element, "Mandatory", "Mandatory", "Optional"),
            resources=resources,
        )
        yield definition, element


def _resource(item: Element) -> ResourceDefinition:
    an_id = _number(item.get("ID", ""), "the ID of an <Item>", item)
    where = f"resource {an_id}"
    letters = _text(item, "Operations")
    kind = _text(item, "Type").lower()
    if not set(letters) <= set("RWE"):
        raise _Wrong(_at(item, "Operations"), f"{where}: <Operations> {letters!r:.60} is not made of R, W and E")
    if kind not in TYPES:
        known = ", ".join(name for name in TYPES if name)
        raise _Wrong(_at(item, "Type"), f"{where}: <Type> {kind!r:.60} is no LwM2M data type; these are: {known}")
    return ResourceDefinition(
        id=an_id,
        name=_text(item, "Name"),
        operations=frozenset(Operation(letter) for letter in letters),
        multiple=_flag(item, "MultipleInstances", "Multiple", "Single", f"{where}: "),
        mandatory=_flag(item, "Mandatory", "Mandatory", "Optional", f"{where}: "),
        type=TYPES[kind],
        unit=_text(item, "Units") or None,
        unsigned=kind == "unsigned integer",
        links=kind == "corelnk",
    )


def _at(element: Element, tag: str) -> Element:
    """The element that words about ``tag`` are about: where there is none, the one in which it would stand."""
    found = element.find(tag)
    return element if found is None else found


def _text(element: Element, tag: str) -> str:
    return " ".join((element.findtext(tag) or "").split())


def _number(text: str, what: str, where: Element) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > MAX_ID:
        raise _Wrong(where, f"{what} is {text!r:.60}, not a number from 0 to {MAX_ID}")
    return int(text)


def _flag(element: Element, tag: str, yes: str, no: str, what: str = "") -> bool:
    text = _text(element, tag).lower()
    if text not in (yes.lower(), no.lower()):
        raise _Wrong(_at(element, tag), f"{what}<{tag}> is {text!r:.60}, not {yes} or {no}")
    return text == yes.lower()
