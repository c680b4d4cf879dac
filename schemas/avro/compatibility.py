"""Whether one Avro schema reads what another wrote (Avro 1.11, "Schema Resolution"), and if not, why.

Pure; knows no schema of ours. Logical types do not count: they do not change what is on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas.avro.subjects import InvalidSchema, parse

#: No more than so many objections are told; the first says enough.
MAX_OBJECTIONS = 20

_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
#: What each type is promoted to when it is read (Avro 1.11, "Schema Resolution").
_PROMOTED = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}


def objections(reader: str, writer: str) -> list[str]:
    """Why the schema ``reader`` cannot read every record of ``writer``, each with its place; empty if it can.

    Raises:
        InvalidSchema: one of the two texts is no Avro schema.
    """
    read, read_names = parse(reader)
    write, write_names = parse(writer)
    try:
        return _Resolution(read_names, write_names).between(read, write, "")[:MAX_OBJECTIONS]
    except RecursionError as exc:
        raise InvalidSchema("it is nested too deeply") from exc
    except (TypeError, KeyError, AttributeError) as exc:
        # fastavro lets through what it does not use, such as aliases that are a number.
        raise InvalidSchema("it is not of the form of an Avro schema") from exc


class _Resolution:
    """One pair of schemas; records that hold themselves are looked at once."""

    def __init__(self, reader_names: dict[str, Any], writer_names: dict[str, Any]) -> None:
        self._names = (reader_names, writer_names)
        self._seen: dict[tuple[str, str], list[str]] = {}

    def between(self, reader: Any, writer: Any, place: str) -> list[str]:
        reader, writer = self._named(reader, 0), self._named(writer, 1)
        if isinstance(writer, list):
            return [said for branch in writer for said in self.between(reader, branch, place)][:MAX_OBJECTIONS]
        if isinstance(reader, list):
            if any(not self.between(branch, writer, place) for branch in reader):
                return []
            return [f"{place or '/'}: no branch of the reader's union reads {_called(writer)}"]
        kind, written = _kind(reader), _kind(writer)
        if kind != written:
            if kind in _PROMOTED.get(written, ()):
                return []
            return [f"{place or '/'}: {_called(reader)} does not read {_called(writer)}"]
        match kind:
            case "array":
                return self.between(reader["items"], writer["items"], f"{place}/[]")
            case "map":
                return self.between(reader["values"], writer["values"], f"{place}/{{}}")
            case "record" | "error":
                return self._records(reader, writer, place)
            case "enum":
                return _enums(reader, writer, place)
            case "fixed" if not _same_name(reader, writer) or reader["size"] != writer["size"]:
                return [f"{place or '/'}: {_called(reader)} and {_called(writer)} differ in name or size"]
            case _:
                return []

    def _records(self, reader: Any, writer: Any, place: str) -> list[str]:
        pair = (reader["name"], writer["name"])
        if pair in self._seen:
            return self._seen[pair]
        # While it is being looked at, what holds it within itself stands and falls with it.
        self._seen[pair] = []
        found = [] if _same_name(reader, writer) else [f"{place or '/'}: {_called(writer)} is no {_called(reader)}"]
        there = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            name = field["name"]
            theirs = next((there[one] for one in (name, *field.get("aliases", ())) if one in there), None)
            if theirs is not None:
                found += self.between(field["type"], theirs["type"], f"{place}/{name}")
            elif "default" not in field:
                found.append(f"{place}/{name}: the writer has no such field, and the reader no default for it")
        self._seen[pair] = found[:MAX_OBJECTIONS]
        return self._seen[pair]

    def _named(self, schema: Any, side: int) -> Any:
        """A type by its definition, where only its name stands; a primitive as it is."""
        if isinstance(schema, dict) and isinstance(schema.get("type"), dict | list):
            return self._named(schema["type"], side)
        if isinstance(schema, str) and schema not in _PRIMITIVES:
            return self._names[side][schema]
        return schema


def _enums(reader: Any, writer: Any, place: str) -> list[str]:
    if not _same_name(reader, writer):
        return [f"{place or '/'}: {_called(writer)} is no {_called(reader)}"]
    unknown = sorted(set(writer["symbols"]) - set(reader["symbols"]))
    if unknown and "default" not in reader:
        return [f"{place or '/'}: {_called(reader)} lacks {', '.join(unknown)}, and has no default"]
    return []


def _same_name(reader: Any, writer: Any) -> bool:
    """By the name without its namespace, or by an alias of the reader's."""
    names: Iterable[str] = (reader["name"], *reader.get("aliases", ()))
    return _short(writer["name"]) in {_short(name) for name in names}


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _kind(schema: Any) -> str:
    return str(schema["type"] if isinstance(schema, dict) else schema)


def _called(schema: Any) -> str:
    kind = _kind(schema)
    return f"{kind} {schema['name']}" if isinstance(schema, dict) and "name" in schema else kind
