"""Whether one schema reads what another wrote, held against what fastavro then really reads."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import parse_schema

from schemas.avro.compatibility import objections
from schemas.avro.registry import SCHEMAS
from schemas.avro.subjects import SUBJECTS


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


#: Reader, writer, a value of the writer, and where the reader stumbles over it (None: it reads it).
TABLE: list[tuple[Any, Any, Any, str | None]] = [
    ("long", "int", 5, None),
    ("double", "int", 5, None),
    ("double", "float", 1.5, None),
    ("float", "long", 5, None),
    ("int", "long", 2**40, "/: int does not read long"),
    ("string", "bytes", b"a", None),
    ("bytes", "string", "a", None),
    ("string", "int", 5, "/: string does not read int"),
    (["null", "long"], "int", 5, None),
    (["null", "string"], "int", 5, "/: no branch of the reader's union reads int"),
    ("string", ["null", "string"], None, "/: string does not read null"),
    ({"type": "array", "items": "long"}, {"type": "array", "items": "int"}, [1], None),
    ({"type": "array", "items": "int"}, {"type": "map", "values": "int"}, {"a": 1}, "/: array does not read map"),
    (
        {"type": "map", "values": "int"},
        {"type": "map", "values": "string"},
        {"a": "b"},
        "/{}: int does not read string",
    ),
    (enum("A", "B"), enum("A"), "A", None),
    (enum("A"), enum("A", "B"), "B", "/: enum E lacks B, and has no default"),
    (enum("A", default="A"), enum("A", "B"), "B", None),
    (record(field("a", "int")), record(field("a", "int"), field("b", "int")), {"a": 1, "b": 2}, None),
    (record(field("a", "int"), field("b", "int", default=7)), record(field("a", "int")), {"a": 1}, None),
    (
        record(field("a", "int"), field("b", "int")),
        record(field("a", "int")),
        {"a": 1},
        "/b: the writer has no such field, and the reader no default for it",
    ),
    (record(field("new", "int", aliases=["old"])), record(field("old", "int")), {"old": 1}, None),
    (record(field("a", "int")), record(field("a", "string")), {"a": "x"}, "/a: int does not read string"),
    (
        record(field("a", record(field("x", "int"), name="I"))),
        record(field("a", record(name="I"))),
        {"a": {}},
        "/a/x: the writer has no such field, and the reader no default for it",
    ),
    (
        {"type": "fixed", "name": "F", "size": 2},
        {"type": "fixed", "name": "F", "size": 1},
        b"a",
        "/: fixed F and fixed F differ in name or size",
    ),
]


@pytest.mark.parametrize(("reader", "writer", "value", "stumble"), TABLE, ids=range(len(TABLE)))
def test_schema_resolution(reader: Any, writer: Any, value: Any, stumble: str | None) -> None:
    assert objections(json.dumps(reader), json.dumps(writer)) == ([] if stumble is None else [stumble])
    out = BytesIO()
    schemaless_writer(out, parse_schema(writer, {}), value)
    out.seek(0)
    if stumble is None:
        schemaless_reader(out, parse_schema(writer, {}), parse_schema(reader, {}))
    else:
        with pytest.raises(Exception):  # noqa: B017  fastavro has no one kind of error for it
            schemaless_reader(out, parse_schema(writer, {}), parse_schema(reader, {}))


def test_records_of_other_names_are_others_but_for_an_alias() -> None:
    writer = json.dumps(record(name="Old", namespace="n"))
    assert objections(json.dumps(record(name="New")), writer) == ["/: record n.Old is no record New"]
    assert objections(json.dumps(record(name="New", aliases=["n.Old"])), writer) == []
    assert objections(json.dumps(record(name="Old", namespace="m")), writer) == []


def test_a_record_that_holds_itself_is_looked_at_once() -> None:
    def tree(kind: str) -> str:
        return json.dumps(record(field("v", kind), field("more", {"type": "array", "items": "R"})))

    assert objections(tree("long"), tree("int")) == []
    assert objections(tree("int"), tree("long")) == ["/v: int does not read long"]


def test_many_names_within_one_another_take_no_time_worth_naming() -> None:
    inner: Any = record(field("v", "int"), name="R0")
    for number in range(1, 60):
        inner = record(field("a", inner), field("b", f"R{number - 1}"), name=f"R{number}")
    text = json.dumps(inner)
    assert objections(text, text) == []
    assert len(objections(text.replace('"int"', '"null"'), text)) <= 20


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_each_version_of_ours_reads_all_that_came_before_it(subject: str) -> None:
    versions = SUBJECTS[subject]
    for index, newer in enumerate(versions):
        for older in versions[: index + 1]:
            assert objections(newer.text, older.text) == []


def test_an_older_version_does_not_read_a_newer_one() -> None:
    assert objections(SCHEMAS[3].text, SCHEMAS[6].text) == [
        "/rep/kind: enum io.zeelos.leshan.avro.request.AvroRequestKind lacks observeComposite, observeCompositeCancel, "
        "readComposite, send, writeComposite, and has no default"
    ]
