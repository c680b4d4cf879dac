"""SenML: packs of records to nodes and back, for both of its representations (RFC 8428; OMA LwM2M Core 1.1, 7.4.4).

Owns the resolution of base fields, names and times, and the fitting of values. The bytes are read and written by
`schemas.lwm2m.senml_json` and `schemas.lwm2m.senml_cbor`, which give and take records with the JSON labels.

Times: a sum of base time and time of 2**28 or more is seconds since 1970; below, it is relative to the moment the
payload was received (RFC 8428, section 4.5.3). That moment is passed in; without it a relative time is left out of the
node. A sum of 0 says "now", which is no time of the device's own. A time before 1970 or after 9999 is an error: it is
one of another unit, like milliseconds, and no store would know what to do with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from schemas.lwm2m import fit, tree
from schemas.lwm2m.errors import MalformedPayload, WrongValue
from schemas.lwm2m.nodes import Node, ObjectLink, Resource, ResourceType, Value, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path, PathError

#: A record as read: JSON labels to JSON or CBOR scalars.
Record = Mapping[str, object]
ABSOLUTE = 2**28
#: The end of the year 9999, in epoch milliseconds.
LATEST_MS = 253_402_300_799_999
#: The longest path has 24 characters; a longer name is refused before it is joined thousands of times.
MAX_NAME = 64
VERSION = 10

_BASE = frozenset({"bn", "bt", "bu", "bv", "bs", "bver"})
_VALUES = ("v", "vs", "vb", "vd", "vlo")


def decode(
    records: Iterable[Record],
    path: Path,
    definitions: Definitions,
    received_ms: int | None = None,
    absolute: float = ABSOLUTE,
) -> Node:
    """The node at ``path`` (depth 1 to 4); where a resource has values of several times, the newest.

    Raises:
        CodecError: see `resolve`; a time makes no sense; or ``path`` is the root, which may hold several nodes.
    """
    if path.object_id is None:
        raise MalformedPayload("values of several objects are no single node")
    resolved = resolve(records, path, definitions)
    if len(resolved) > 1 and any(time != resolved[0][0] for time, _ in resolved):
        resolved = _newest(resolved, absolute)
    return tree.build(path, [_stamped(time, value, received_ms, absolute) for time, value in resolved], definitions)


def decode_series(
    records: Iterable[Record],
    path: Path,
    definitions: Definitions,
    received_ms: int | None = None,
    absolute: float = ABSOLUTE,
) -> list[Node]:
    """One node a distinct time, oldest first; at the root, for each time one Object for each object.

    Raises:
        CodecError: see `resolve`; or a time makes no sense.
    """
    by_time: dict[float, list[Resource]] = {}
    for time, value in resolve(records, path, definitions):
        by_time.setdefault(time, []).append(_stamped(time, value, received_ms, absolute))
    if not by_time and path.object_id is not None:
        return [tree.nothing(path, definitions)]
    ordered = sorted(by_time, key=lambda time: _moment(time, received_ms, absolute))
    if path.object_id is not None:
        return [tree.build(path, by_time[time], definitions) for time in ordered]
    nodes: list[Node] = []
    for time in ordered:
        by_object: dict[int, list[Resource]] = {}
        for value in by_time[time]:
            by_object.setdefault(value.path.object_id or 0, []).append(value)
        nodes.extend(tree.build(Path(i), by_object[i], definitions) for i in sorted(by_object))
    return nodes


def resolve(records: Iterable[Record], path: Path, definitions: Definitions) -> list[tuple[float, Resource]]:
    """Every value with its time in seconds, as sent (0, relative or absolute); the Resources have no timestamp yet.

    Raises:
        MalformedPayload: a field has the wrong type or is one that must be understood (its label ends in ``_``), a name
            is no path, a record has none or several values, or the version is newer than 10.
        WrongPath: a name lies outside ``path``.
        WrongValue: a value does not fit the type of its resource.
    """
    base_name, base_time, base_value = "", 0.0, 0.0
    found: list[tuple[float, Resource]] = []
    for record in records:
        if not _BASE.isdisjoint(record):
            base_name = name(record.get("bn", base_name))
            base_time = number(record.get("bt", base_time), "bt")
            base_value = number(record.get("bv", base_value), "bv")
            if number(record.get("bver", VERSION), "bver") > VERSION:
                raise MalformedPayload(f"SenML version {record['bver']} is newer than {VERSION}")
        raw: object = None
        given = 0
        for label in record:
            if label in _VALUES:
                raw = _value(label, record[label])
                given += 1
            elif label.endswith("_"):
                raise MalformedPayload(f"the SenML field {label[:20]!r} must be understood and is not known")
        if given != 1:
            if given == 0 and record and all(label in _BASE for label in record):
                continue  # base fields for the records that follow
            raise MalformedPayload("a SenML record must have exactly one of v, vs, vb, vd and vlo")
        if base_value and "v" in record:
            raw = number(raw, "v") + base_value
        where = resource_path(base_name + name(record.get("n", "")))
        if not path.contains(where):
            raise tree.outside(where, path)
        time = base_time + number(record["t"], "t") if "t" in record else base_time
        if not -1e16 < time < 1e16:
            raise MalformedPayload("a SenML time is out of range")
        definition = definitions.of(where.object_id, where.resource_id)  # type: ignore[arg-type]  # depth 3 or 4
        kind, value = fit.typed(raw, definition, where)  # type: ignore[arg-type]  # _value gives nothing else
        found.append((time, Resource(path=where, type=kind, value=value)))
    return found


def paths(records: Iterable[Record]) -> list[Path]:
    """The paths that a composite request names: records without values.

    Raises:
        MalformedPayload: a record has a value, or its name is no path.
    """
    base_name = ""
    found: list[Path] = []
    for record in records:
        base_name = name(record.get("bn", base_name))
        if any(label in record for label in _VALUES):
            raise MalformedPayload("a SenML record that asks for a path must have no value")
        text = base_name + name(record.get("n", ""))
        try:
            found.append(Path.parse(text))
        except PathError as exc:
            raise MalformedPayload(f"the SenML name {text!r} is no LwM2M path: {exc}") from exc
    return found


def records(node: Node | Iterable[Node], definitions: Definitions) -> list[dict[str, Value]]:
    """The SenML records of a node, or of several for a composite operation; vd is bytes, vlo ``object:instance``.

    A common base name is given once, in the first record; values of several objects have one an instance. Names are
    short so: Zephyr's client cuts one off after nine characters. A node's timestamps become ``bt`` or ``t``.

    Raises:
        CodecError: a value does not fit the type of its resource.
    """
    nodes: Iterable[Node] = [node] if isinstance(node, Node) else list(node)
    resources = [resource for one in nodes for resource in values(one)]
    made: list[dict[str, Value]] = []
    outgoing = [fit.outgoing(resource, definitions) for resource in resources]
    common = _base([resource.path for resource in resources])
    base = ""
    last_time: int | float = 0
    for resource, (kind, value, _) in zip(resources, outgoing, strict=True):
        record: dict[str, Value] = {}
        here = common if common != "/" else f"/{resource.path.object_id}/{resource.path.instance_id}/"
        if here != base:
            record["bn"] = base = here
        time = 0 if resource.timestamp is None else fit.seconds(resource.timestamp)
        if not made and time and all(other.timestamp == resource.timestamp for other in resources):
            record["bt"] = last_time = time
        name = str(resource.path)[len(base) :]
        if name:
            record["n"] = name
        record[_LABELS[kind]] = _outgoing(kind, value)
        if time != last_time:
            record["t"] = time
        made.append(record)
    return made


_LABELS = {
    ResourceType.STRING: "vs",
    ResourceType.FLOAT: "v",
    ResourceType.INTEGER: "v",
    ResourceType.TIME: "v",
    ResourceType.BOOLEAN: "vb",
    ResourceType.OPAQUE: "vd",
    ResourceType.OBJLNK: "vlo",
}


def _outgoing(kind: ResourceType, value: Value) -> Value:
    if kind is ResourceType.TIME:
        return fit.seconds(value)  # type: ignore[arg-type]  # a TIME is an int
    return str(value) if isinstance(value, ObjectLink) else value


def _base(paths: list[Path]) -> str:
    if len(paths) == 1:
        return str(paths[0])
    ids = paths[0].ids[:-1] if paths else ()
    for path in paths:
        while path.ids[: len(ids)] != ids or len(path.ids) == len(ids):
            ids = ids[:-1]
    return "".join(f"/{i}" for i in ids) + "/"


def _value(label: str, raw: object) -> fit.Raw:
    match label, raw:
        case "v", bool():
            pass
        case "v", int() | float():
            return raw
        case "vs", str():
            return raw
        case "vb", bool():
            return raw
        case "vd", bytes():
            return raw
        case "vlo", str():
            return fit.as_link(raw, Path())
    raise MalformedPayload(f"the SenML field {label!r} cannot be of type {type(raw).__name__}")


def name(raw: object) -> str:
    if type(raw) is not str:
        raise MalformedPayload("a SenML name must be text")
    if len(raw) > MAX_NAME:
        raise MalformedPayload(f"the SenML name {raw[:20]!r}... is longer than any LwM2M path")
    return raw


def number(raw: object, label: str) -> int | float:
    # The bound is for sums: within it none overflows, nor does a large int next to a float.
    if (type(raw) is float or type(raw) is int) and -1e300 < raw < 1e300:
        return raw
    raise MalformedPayload(f"the SenML field {label!r} must be a number, and within what can be summed up")


def resource_path(name: str) -> Path:
    try:
        path = Path.parse(name)
    except PathError as exc:
        raise MalformedPayload(f"the SenML name {name!r} is no LwM2M path: {exc}") from exc
    if path.resource_id is None:
        raise MalformedPayload(f"the SenML name {name!r} is no path of a resource, like /3303/0/5700")
    return path


def _moment(time: float, received_ms: int | None, absolute: float) -> float:
    if time >= absolute:
        return time
    # Without a clock: after everything with an absolute time, in their own order.
    return time + (received_ms / 1000 if received_ms is not None else 1e16)


def _stamped(time: float, value: Resource, received_ms: int | None, absolute: float) -> Resource:
    if not time:
        return value
    timestamp = fit.milliseconds(time, "the SenML time")
    if time < absolute:
        if received_ms is None:
            return value
        timestamp += received_ms
    if not 0 <= timestamp <= LATEST_MS:
        raise WrongValue(
            f"{value.path}: the SenML time {time:g} makes no sense; it is not in seconds since 1970 or now"
        )
    return Resource(path=value.path, type=value.type, value=value.value, timestamp=timestamp)


def _newest(resolved: list[tuple[float, Resource]], absolute: float) -> list[tuple[float, Resource]]:
    newest: dict[Path, tuple[float, Resource]] = {}
    seen: set[tuple[float, Path]] = set()
    for time, value in resolved:
        if (time, value.path) in seen:
            raise MalformedPayload(f"the payload holds {value.path} twice with the same time")
        seen.add((time, value.path))
        held = newest.get(value.path)
        if held is None or _moment(held[0], None, absolute) < _moment(time, None, absolute):
            newest[value.path] = (time, value)
    return list(newest.values())
