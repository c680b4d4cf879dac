"""Payloads that speak of several devices: of a gateway, and of those behind it (OMA LwM2M Gateway 1.1).

A gateway gives each device behind it a prefix, which stands in front of its paths: in requests' URIs, in the names of
SenML and of the JSON of LwM2M 1.0, and as the outermost key of LwM2M CBOR. ``split`` makes of such a payload one a
device, as each would say it by itself; ``join`` puts a prefix in front of the names of a payload. Pure, and what has no
prefix in it stays as it is, byte for byte. What cannot be read is left to the decoders, which say what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from schemas.lwm2m import cbor, json_text, lwm2m_cbor, senml
from schemas.lwm2m.errors import CodecError, MalformedPayload, WrongPath
from schemas.lwm2m.formats import ContentFormat

_T = TypeVar("_T")

#: What one device's part of a payload is called: its prefix; the gateway's own is empty.
Parts = Mapping[str, bytes]
#: SenML in JSON, and in CBOR (RFC 8428, table 4): name, base name, and what else counts for the records that follow.
_Labels = tuple[Any, Any, tuple[Any, ...]]
_JSON: Final[_Labels] = ("n", "bn", ("bt", "bv", "bver"))
_CBOR: Final[_Labels] = (0, -2, (-3, -5, -1))
_BASES: Final = frozenset({"bn", "bt", "bu", "bv", "bs", "bver", -1, -2, -3, -4, -5, -6})

#: A path segment of RFC 3986 as it stands, with something in it that is no digit: else it would be an object's id.
_PREFIX: Final = re.compile(r"(?=.*[^0-9])[A-Za-z0-9._~!$&'()*+,;=:@-]{1,40}")


def is_prefix(text: str) -> bool:
    """True for what can be told from an object id in a path, and fits one segment of it."""
    return _PREFIX.fullmatch(text) is not None and text not in (".", "..")


def split(content_format: int, payload: bytes) -> Parts:
    """The payload of each device that it has something of, by prefix; the whole by "" if there is none in it."""
    reader = _SPLITTERS.get(content_format)
    found = None
    if reader is not None:
        try:
            found = reader(payload)
        except (CodecError, ValueError):
            found = None
    return found if found and set(found) != {""} else {"": payload}


def own(content_format: int, payload: bytes, prefix: str) -> bytes:
    """The payload of the device with ``prefix``, which may have left its prefix out.

    Raises:
        WrongPath: the payload holds something of another device.
    """
    parts = split(content_format, payload)
    if len(parts) == 1:
        [(of, part)] = parts.items()
        if of in ("", prefix):
            return part
    others = ", ".join(sorted(repr(of) for of in parts if of != prefix))
    raise WrongPath(f"the payload is not of the prefix {prefix!r} alone; it has also {others}")


def join(content_format: int, payload: bytes, prefix: str) -> bytes:
    """A payload of ours with ``prefix`` in front of its names; formats without names stay as they are."""
    match content_format:
        case ContentFormat.SENML_JSON:
            pack: list[dict[str, Any]] = json_text.read(payload)
            return json_text.write(_joined(pack, "bn", prefix))
        case ContentFormat.SENML_CBOR:
            records: Any = cbor.read_item(payload)
            return cbor.write_item(_joined(records, -2, prefix))
        case ContentFormat.JSON | ContentFormat.JSON_OLD:
            outer: dict[str, Any] = json_text.read(payload)
            return json_text.write({**outer, "bn": f"/{prefix}{outer['bn']}"})
        case ContentFormat.LWM2M_CBOR:
            return cbor.write_item({prefix: cbor.read_item(payload, lwm2m_cbor.MAX_DEPTH)})
        case _:
            return payload


def _joined(pack: list[dict[Any, Any]], label: object, prefix: str) -> list[dict[Any, Any]]:
    # Ours have the base name in the first record, and no other.
    return [{**record, label: f"/{prefix}{record[label]}"} if label in record else record for record in pack]


def strip_links(text: str, prefix: str) -> str:
    """Link-format text without the prefix in front of its targets."""
    return text.replace(f"</{prefix}/", "</").replace(f"</{prefix}>", "</>")


def _cut(name: str) -> tuple[str, str]:
    """The prefix of a name, and what is behind it."""
    first, slash, rest = name.removeprefix("/").partition("/")
    return (first, slash + rest) if first and not first.isdigit() else ("", name)


def _checked(item: object, kind: type[_T]) -> _T:
    if not isinstance(item, kind):
        raise MalformedPayload(f"{kind.__name__} is expected")
    return item


def _senml(pack: object, labels: _Labels) -> dict[str, list[dict[Any, Any]]]:
    """Each device's records; what counted for a record by one before it stands in it."""
    name, base_name, others = labels
    base, carried = "", dict[Any, Any]()
    found: dict[str, list[dict[Any, Any]]] = {}
    for item in _checked(pack, list):
        record = _checked(item, dict)
        base = senml.name(record.get(base_name, base))
        carried.update((label, record[label]) for label in others if label in record)
        if _BASES.issuperset(record):
            continue
        prefix, rest = _cut(base + senml.name(record.get(name, "")))
        found.setdefault(prefix, []).append({**carried, **record, base_name: "", name: rest})
    return found


def _split_senml_json(payload: bytes) -> Parts:
    found = _senml(json_text.read(payload), _JSON)
    return {prefix: json_text.write(records) for prefix, records in found.items()}


def _split_senml_cbor(payload: bytes) -> Parts:
    found = _senml(cbor.read_item(payload), _CBOR)
    return {prefix: cbor.write_item(records) for prefix, records in found.items()}


def _split_json(payload: bytes) -> Parts:
    # One base name for all: the JSON of 1.0 answers a request, so it is of one device.
    outer = _checked(json_text.read(payload), dict)
    prefix, rest = _cut(senml.name(outer.get("bn", "")))
    return {prefix: json_text.write({**outer, "bn": rest})}


def _split_lwm2m_cbor(payload: bytes) -> Parts:
    found: dict[str, dict[Any, Any]] = {}
    for key, value in _checked(cbor.read_item(payload, lwm2m_cbor.MAX_DEPTH + 1), dict).items():
        ids = key if isinstance(key, tuple) else (key,)
        prefix = ids[0] if ids and isinstance(ids[0], str) else ""
        ids = ids[1:] if prefix else ids
        below = {ids if len(ids) > 1 else ids[0]: value} if ids else _checked(value, dict)
        entries = found.setdefault(prefix, {})
        if not entries.keys().isdisjoint(below):
            raise MalformedPayload("the payload holds a path twice")
        entries.update(below)
    return {prefix: cbor.write_item(entries) for prefix, entries in found.items()}


_SPLITTERS: Mapping[int, Callable[[bytes], Parts]] = {
    ContentFormat.SENML_JSON: _split_senml_json,
    ContentFormat.SENML_CBOR: _split_senml_cbor,
    ContentFormat.JSON: _split_json,
    ContentFormat.JSON_OLD: _split_json,
    ContentFormat.LWM2M_CBOR: _split_lwm2m_cbor,
}
