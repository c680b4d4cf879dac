"""Object definitions from OMA LwM2M XML files (OMA LwM2M Core 1.1, appendix D.1; schema LWM2M-v1_1.xsd).

The files come from vendors and from the web, so they are hostile until read: a document type (and with it every entity)
is refused, depth and size are bounded, nothing outside the file is ever opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as FilePath
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from schemas.lwm2m.objects import TYPES, DefinitionError, ObjectDefinition, Operation, ResourceDefinition, version_key
from schemas.lwm2m.path import MAX_ID

#: The largest file of the public registry has 170 KB and a depth of 5.
MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32


def load(folder: FilePath) -> tuple[list[ObjectDefinition], list[str]]:
    """Every object of every ``*.xml`` in ``folder`` (not below it), and a sentence for every file left out.

    Raises:
        DefinitionError: the folder is not there or cannot be read.
    """
    try:
        names = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() == ".xml" and entry.is_file())
    except OSError as exc:
        raise DefinitionError(f"{folder}: cannot read this folder of object definitions: {exc.strerror}") from exc
    found: list[ObjectDefinition] = []
    problems: list[str] = []
    for name in names:
        try:
            found.extend(read(name))
        except DefinitionError as exc:
            problems.append(str(exc))
    return found, problems


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
    if len(data) > MAX_BYTES:
        raise DefinitionError(f"{file}: larger than {MAX_BYTES} bytes")
    try:
        return list(_objects(_tree(data)))
    except (expat.ExpatError, DefinitionError, ValueError, LookupError) as exc:
        # LookupError: an encoding that Python does not know.
        raise DefinitionError(f"{file}: no usable object definition: {exc}") from exc


def _tree(data: bytes) -> Element:
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DefinitionError(f"elements are nested deeper than {MAX_DEPTH}")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise DefinitionError("a document type (DOCTYPE) is not allowed")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(data, True)
    return builder.close()


def _objects(root: Element) -> Iterator[ObjectDefinition]:
    if root.tag != "LWM2M":
        raise DefinitionError(f"the outermost element is <{root.tag}>, not <LWM2M>")
    objects = root.findall("Object")
    if not objects:
        raise DefinitionError("there is no <Object> in it")
    for element in objects:
        # Section 7.2.2: an object without a version is of version 1.0.
        version = _text(element, "ObjectVersion") or "1.0"
        if version_key(version) is None:
            raise DefinitionError(f"<ObjectVersion> {version!r} is not like 1.0")
        resources: dict[int, ResourceDefinition] = {}
        for item in element.iterfind("Resources/Item"):
            resource = _resource(item)
            if resource.id in resources:
                raise DefinitionError(f"resource {resource.id} is defined twice")
            resources[resource.id] = resource
        yield ObjectDefinition(
            id=_number(_text(element, "ObjectID"), "<ObjectID>"),
            name=_text(element, "Name"),
            version=version,
            multiple=_flag(element, "MultipleInstances", "Multiple", "Single"),
            mandatory=_flag(element, "Mandatory", "Mandatory", "Optional"),
            resources=resources,
        )


def _resource(item: Element) -> ResourceDefinition:
    an_id = _number(item.get("ID", ""), "the ID of an <Item>")
    where = f"resource {an_id}"
    letters = _text(item, "Operations")
    kind = _text(item, "Type").lower()
    if not set(letters) <= set("RWE"):
        raise DefinitionError(f"{where}: <Operations> {letters!r} is not made of R, W and E")
    if kind not in TYPES:
        raise DefinitionError(f"{where}: <Type> {kind!r} is no LwM2M data type")
    try:
        return ResourceDefinition(
            id=an_id,
            name=_text(item, "Name"),
            operations=frozenset(Operation(letter) for letter in letters),
            multiple=_flag(item, "MultipleInstances", "Multiple", "Single"),
            mandatory=_flag(item, "Mandatory", "Mandatory", "Optional"),
            type=TYPES[kind],
            unit=_text(item, "Units") or None,
            unsigned=kind == "unsigned integer",
            links=kind == "corelnk",
        )
    except DefinitionError as exc:
        raise DefinitionError(f"{where}: {exc}") from exc


def _text(element: Element, tag: str) -> str:
    return " ".join((element.findtext(tag) or "").split())


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > MAX_ID:
        raise DefinitionError(f"{what} is {text!r}, not a number from 0 to {MAX_ID}")
    return int(text)


def _flag(element: Element, tag: str, yes: str, no: str) -> bool:
    text = _text(element, tag).lower()
    if text not in (yes.lower(), no.lower()):
        raise DefinitionError(f"<{tag}> is {text!r}, not {yes} or {no}")
    return text == yes.lower()
