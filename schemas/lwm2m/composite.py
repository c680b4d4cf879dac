"""Composite operations: several paths of a device in one message (OMA LwM2M Core 1.1, sections 6.3.8 to 6.4.5).

Owns which formats have them, how a list of paths is written and read, and how values from anywhere on a device become
the nodes of the paths that were asked for. In SenML a path is a record with a name and no value; in LwM2M CBOR it is
the path of a null. SenML of a request may go by a name of its own, SenML-ETCH. Pure: bytes and nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import cbor2

from schemas.lwm2m import json_text, lwm2m_cbor, senml_cbor, senml_json, tree
from schemas.lwm2m.errors import UnknownFormat, WrongPath
from schemas.lwm2m.formats import ContentFormat, decode_series
from schemas.lwm2m.nodes import Node, Resource, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

#: The formats that name every value by its path, in the order in which they are to be preferred: a device can give the
#: times of its values in SenML.
FORMATS = (ContentFormat.SENML_CBOR, ContentFormat.LWM2M_CBOR, ContentFormat.SENML_JSON)
#: What SenML is named in a request (RFC 8790). The bytes of what LwM2M says in it are the same.
ETCH: Mapping[int, ContentFormat] = {
    ContentFormat.SENML_JSON: ContentFormat.SENML_ETCH_JSON,
    ContentFormat.SENML_CBOR: ContentFormat.SENML_ETCH_CBOR,
}
#: The formats of requests.
REQUEST_FORMATS = (*FORMATS, *ETCH.values())
#: And back.
PLAIN: Mapping[int, int] = {etch: plain for plain, etch in ETCH.items()}


def covering(paths: Iterable[Path]) -> tuple[Path, ...]:
    """``paths`` by ascending ids, without those that lie within another: each value is asked for once."""
    kept: list[Path] = []
    for path in sorted(set(paths), key=lambda path: path.ids):
        # Sorted so, what contains a path stands before it, and all between lies within it too.
        if not kept or not kept[-1].contains(path):
            kept.append(path)
    return tuple(kept)


def encode_paths(content_format: int, paths: Sequence[Path]) -> bytes:
    """The payload of a request to read or observe ``paths``, of which none lies within another.

    Raises:
        CodecError: another format, or the root in LwM2M CBOR, which cannot name it.
    """
    match PLAIN.get(content_format, content_format):
        case ContentFormat.SENML_JSON:
            return json_text.write([{"n": str(path)} for path in paths])
        case ContentFormat.SENML_CBOR:
            return cbor2.dumps([{0: str(path)} for path in paths])
        case ContentFormat.LWM2M_CBOR:
            return lwm2m_cbor.encode_paths(paths)
    raise UnknownFormat(f"content format {content_format} has no composite operations")


def decode_paths(content_format: int, payload: bytes) -> list[Path]:
    """The paths in the payload of a request, as they stand there.

    Raises:
        CodecError: another format, or no list of paths.
    """
    match PLAIN.get(content_format, content_format):
        case ContentFormat.SENML_JSON:
            return senml_json.decode_paths(payload)
        case ContentFormat.SENML_CBOR:
            return senml_cbor.decode_paths(payload)
        case ContentFormat.LWM2M_CBOR:
            return lwm2m_cbor.decode_paths(payload)
    raise UnknownFormat(f"content format {content_format} has no composite operations")


def encode_values(content_format: int, resources: Iterable[Resource], definitions: Definitions) -> bytes:
    """The payload of values from anywhere on a device, each in the type of its definition.

    Raises:
        CodecError: another format, or a value that does not fit its type.
    """
    every = list(resources)
    for one in every:
        tree.check(one)
    match PLAIN.get(content_format, content_format):
        case ContentFormat.SENML_JSON:
            return senml_json.encode(every, definitions)
        case ContentFormat.SENML_CBOR:
            return senml_cbor.encode(every, definitions)
        case ContentFormat.LWM2M_CBOR:
            return lwm2m_cbor.encode(every, definitions)
    raise UnknownFormat(f"content format {content_format} has no composite operations")


def decode_values(
    content_format: int,
    payload: bytes,
    paths: Sequence[Path],
    definitions: Definitions,
    received_ms: int | None = None,
) -> list[Resource]:
    """Every value within ``paths``, by ascending path; of one with several times, the newest.

    Raises:
        CodecError: as `schemas.lwm2m.formats.decode`; also for a value outside of all ``paths``.
    """
    asked = {path.ids: path for path in paths}
    found: dict[Path, Resource] = {}
    for node in _at_root(PLAIN.get(content_format, content_format), payload, definitions, received_ms):
        for value in values(node):
            _owner(value.path, asked)
            found[value.path] = value  # the newest time comes last
    return sorted(found.values(), key=lambda value: value.path.ids)


def decode_nodes(
    content_format: int,
    payload: bytes,
    paths: Sequence[Path],
    definitions: Definitions,
    received_ms: int | None = None,
) -> list[Node]:
    """A node for each time that the device gave and each of ``paths`` of which it told something, the oldest first.

    What is told of the root is a node an object.

    Raises:
        CodecError: as `decode_values`.
    """
    asked = {path.ids: path for path in paths}
    found: list[Node] = []
    together: dict[Path, list[Resource]] = {}
    timestamp: int | None = None
    objects: set[int | None] = set()
    for node in _at_root(PLAIN.get(content_format, content_format), payload, definitions, received_ms):
        told = values(node)
        if not told:
            continue
        # One node for each time and object came from there, so the same object again is another time.
        if told[0].timestamp != timestamp or node.path.object_id in objects:
            found += _built(together, definitions)
            together, objects = {}, set()
        timestamp = told[0].timestamp
        objects.add(node.path.object_id)
        for value in told:
            owner = _owner(value.path, asked)
            together.setdefault(owner if owner.ids else Path(value.path.object_id), []).append(value)
    return found + _built(together, definitions)


def _built(together: dict[Path, list[Resource]], definitions: Definitions) -> list[Node]:
    return [
        tree.build(path, several, definitions)
        for path, several in sorted(together.items(), key=lambda entry: entry[0].ids)
    ]


def _at_root(content_format: int, payload: bytes, definitions: Definitions, received_ms: int | None) -> list[Node]:
    if content_format not in FORMATS:
        raise UnknownFormat(f"content format {content_format} has no composite operations")
    return decode_series(content_format, payload, Path(), definitions, received_ms)


def _owner(path: Path, asked: Mapping[tuple[int, ...], Path]) -> Path:
    for depth in range(len(path.ids) + 1):
        if path.ids[:depth] in asked:
            return asked[path.ids[:depth]]
    words = ", ".join(map(str, asked.values()))
    raise WrongPath(f"the payload holds a value of {path}, which lies outside of {words[:200]}")
