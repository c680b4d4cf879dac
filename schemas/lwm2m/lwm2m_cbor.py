"""LwM2M CBOR, content format 11544 (OMA LwM2M Core 1.2, section 7.4, "LwM2M CBOR"; RFC 8949).

``{3: {0: {0: "Open Mobile Alliance", 6: {0: 1, 1: 5}}}}``: maps in maps, from the root down, each key an id or an array
of the ids of several levels, ``{[3, 0, 0]: "Open Mobile Alliance"}``. Values are those of CBOR (`schemas.lwm2m.cbor`).
The format has no times. A map without entries is read, but is no value of its own: an instance, or a multiple resource,
of which nothing is told inside of another node is left out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import cbor2

from schemas.lwm2m import cbor, fit, tree
from schemas.lwm2m.errors import MalformedPayload, NotInThisFormat
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, Resource
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import MAX_ID, Path

#: Four maps, and in the innermost a decimal fraction.
MAX_DEPTH = 6
#: What a map in the making holds: by id, a map or what CBOR has for a value.
_Map = dict[int, object]


def decode(payload: bytes, path: Path, definitions: Definitions) -> Node:
    """The node at ``path`` (depth 1 to 4).

    Raises:
        MalformedPayload: no CBOR map of maps, a key that is no id or array of ids, a path twice (also in two
            spellings), or ``path`` is the root, which may hold several nodes.
        WrongPath: a value, or an empty map, lies outside of ``path``.
        WrongValue: a value does not fit the type of its resource.
    """
    if path.object_id is None:
        raise MalformedPayload("values of several objects are no single node")
    return tree.build(path, _resources(payload, path, definitions), definitions)


def decode_series(payload: bytes, path: Path, definitions: Definitions, received_ms: int | None = None) -> list[Node]:
    """The one node at ``path``; at the root one Object for each object, by ascending id. Raises as `decode`."""
    if path.object_id is not None:
        return [decode(payload, path, definitions)]
    by_object: dict[int, list[Resource]] = {}
    for value in _resources(payload, path, definitions):
        by_object.setdefault(value.path.ids[0], []).append(value)
    return [tree.build(Path(i), by_object[i], definitions) for i in sorted(by_object)]


def encode(node: Node | Iterable[Node], definitions: Definitions) -> bytes:
    """The map of a node, or of several for a composite operation; every key is one id.

    Raises:
        WrongValue: a value does not fit the type of its resource.
        NotInThisFormat: a path is there twice, as happens where a resource has values of several times.
    """
    root: _Map = {}
    for one in [node] if isinstance(node, Node) else node:
        _put(root, one, definitions)
    return cbor2.dumps(root)


def encode_paths(paths: Iterable[Path]) -> bytes:
    """The map of a request to read ``paths``, of which none lies within another: a null at each.

    Raises:
        NotInThisFormat: the root is one of them, which no key names.
    """
    root: _Map = {}
    for path in paths:
        if not path.ids:
            raise NotInThisFormat("LwM2M CBOR cannot name the root /; use SENML_CBOR or SENML_JSON")
        *above, last = path.ids
        _map_at(root, above, path)[last] = None
    return cbor2.dumps(root)


def decode_paths(payload: bytes) -> list[Path]:
    """What a composite request asks for: the paths of its nulls.

    Raises:
        MalformedPayload: as `decode`; or there is something else than a null at a path.
    """
    item = cbor.read_item(payload, MAX_DEPTH)
    if type(item) is not dict:
        raise MalformedPayload("LwM2M CBOR must be a map")
    found: list[Path] = []
    for where, raw in _entries(item, ()) if item else ():
        if raw is None or raw[0] is not None:
            raise MalformedPayload(f"{where}: a request has a null at each path that it asks for")
        found.append(where)
    return found


def _put(root: _Map, node: Node, definitions: Definitions) -> None:
    match node:
        case Resource():
            *above, last = node.path.ids
            kind, value, _ = fit.outgoing(node, definitions)
            into = _map_at(root, above, node.path)
            if last in into:
                raise NotInThisFormat(f"{node.path} is given twice")
            into[last] = cbor.item(kind, value)
            return
        case MultipleResource():
            below: Iterable[Node] = node.instances
        case Instance():
            below = node.resources
        case Object():
            below = node.instances
    _map_at(root, node.path.ids, node.path)
    for one in below:
        _put(root, one, definitions)


def _map_at(root: _Map, ids: Iterable[int], path: Path) -> _Map:
    at = root
    for i in ids:
        below = at.setdefault(i, {})
        if not isinstance(below, dict):
            raise NotInThisFormat(f"{path} is given twice")
        at = below
    return at


def _resources(payload: bytes, path: Path, definitions: Definitions) -> list[Resource]:
    item = cbor.read_item(payload, MAX_DEPTH)
    if type(item) is not dict:
        raise MalformedPayload("LwM2M CBOR must be a map")
    found: list[Resource] = []
    seen: set[Path] = set()
    for where, raw in _entries(item, ()):
        if raw is None:  # an empty map
            if not (path.contains(where) or where.contains(path)):
                raise tree.outside(where, path)
            continue
        if where in seen:
            raise MalformedPayload(f"the payload holds {where} twice")
        seen.add(where)
        if where.resource_id is None:
            raise MalformedPayload(f"the payload holds a value at {where}, which is no resource")
        if not path.contains(where):
            raise tree.outside(where, path)
        definition = definitions.of(where.ids[0], where.resource_id)
        found.append(cbor.resource(raw[0], definition, where))
    return found


def _entries(level: dict[object, object], above: tuple[int, ...]) -> Iterator[tuple[Path, tuple[object] | None]]:
    """Every value with its path, and every empty map with None."""
    if not level:
        yield Path(*above), None
    for key, value in level.items():
        ids = above + _ids(key)
        if len(ids) > 4:
            raise MalformedPayload("the payload has more than four ids above a value")
        if type(value) is dict:
            yield from _entries(value, ids)
        else:
            yield Path(*ids), (value,)


def _ids(key: object) -> tuple[int, ...]:
    ids = key if type(key) is tuple else (key,)
    if not 1 <= len(ids) <= 4 or not all(type(i) is int and 0 <= i <= MAX_ID for i in ids):
        raise MalformedPayload(f"a key of LwM2M CBOR must be an id from 0 to {MAX_ID}, or an array of one to four")
    return ids
