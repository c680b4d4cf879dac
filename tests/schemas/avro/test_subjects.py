"""Under which subjects our schemas are found, and which text is one of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.avro.compatibility import objections
from schemas.avro.registry import SCHEMAS
from schemas.avro.subjects import SUBJECTS, InvalidSchema, compact, family_of, same_as, subjects_of
from schemas.avro.topics import FAMILIES, TopicKind, Topics


@pytest.mark.parametrize(
    ("subject", "family"),
    [
        ("iot-key", "iot-key"),
        ("iot.observations-value", "iot.observations-value"),
        ("iot.rock64.observations-value", "iot.observations-value"),
        ("iot.rock64.observations-key", "iot-key"),
        ("iot.site.a-b_2.management.req-value", "iot.management.req-value"),
        ("analytics.rock64.observations.maxper30sec-value", "iot.observations-value"),
        ("analytics.rock64.alerts-key", "iot-key"),
        ("iot.rock64.commands-key", "iot.commands-key"),
        ("iot.rock64.commands-value", "iot.commands-value"),
        # Records of several schemas: none speaks for all of them.
        ("iot.rock64.deadletter-value", None),
        ("iot.rock64.deadletter-key", None),
        ("analytics.rock64.joined-value", None),
        ("iot.rock64.observations", None),
        ("iot..observations-value", None),
        ("iot.a..b.observations-value", None),
        ("iot.a/b.observations-value", None),
        ("iot.rock64.nothing-value", None),
        ("iot.observations-key", None),
        ("", None),
        ("-value", None),
        ("iot." + "a" * 101 + ".observations-value", None),
    ],
)
def test_the_subject_of_any_gateways_topic_is_its_familys(subject: str, family: str | None) -> None:
    assert family_of(subject) == family


def test_the_subjects_of_a_gateway_are_those_of_its_topics() -> None:
    listed = subjects_of("rock64")
    assert len(set(listed)) == len(listed) == 2 * len(FAMILIES) - 5
    for kind in set(FAMILIES) - {TopicKind.DEADLETTER, TopicKind.JOINED, TopicKind.FILES}:
        assert {f"{Topics('rock64').name(kind)}{part}" for part in ("-key", "-value")} <= set(listed)


@pytest.mark.parametrize("number", sorted(SCHEMAS))
def test_every_schema_is_found_by_its_text_in_any_dress(number: int) -> None:
    schema = SCHEMAS[number]
    content = json.loads(schema.text)
    dressed = json.dumps(_without_docs(content), indent=4)
    for text in (schema.text, compact(schema), dressed):
        assert same_as(text, SUBJECTS[schema.subject]) is schema


def _without_docs(content: Any) -> Any:
    """As Java's compiler writes a schema into its class."""
    if isinstance(content, dict):
        return {key: _without_docs(value) for key, value in content.items() if key != "doc"}
    return [_without_docs(one) for one in content] if isinstance(content, list) else content


def test_a_string_as_java_annotates_it_is_the_same_schema() -> None:
    text = compact(SCHEMAS[1]).replace('"type":"string"', '"type":{"type":"string","avro.java.string":"String"}')
    assert "avro.java.string" in text
    assert same_as(text, SUBJECTS["iot-key"]) is SCHEMAS[1]


def test_another_schema_is_none_of_ours() -> None:
    for text in ('"string"', compact(SCHEMAS[3]), compact(SCHEMAS[1]).replace('"ep"', '"endpoint"')):
        assert same_as(text, SUBJECTS["iot-key"]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "1",
        "null",
        "{}",
        '"Foo"',
        '{"type": "record", "name": "x", "fields": 3}',
        '{"type": "enum", "name": "a", "symbols": [1]}',
        '{"type": "record", "fields": []}',
        "[" * 50_000,
        '{"type":"array","items":' * 3_000 + '"int"' + "}" * 3_000,
        '"' + "x" * 200_001 + '"',
    ],
)
def test_what_is_no_schema_is_told_in_words(text: str) -> None:
    with pytest.raises(InvalidSchema) as told:
        same_as(text, SUBJECTS["iot-key"])
    assert "object at 0x" not in str(told.value)
    assert 0 < len(str(told.value)) < 400


NAMES = st.sampled_from(
    ["type", "name", "fields", "symbols", "items", "values", "size", "aliases", "default", "namespace"]
)
WORDS = st.sampled_from(["record", "enum", "fixed", "array", "map", "int", "string", "null", "a", "b", "a.b", "", "-"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=400, deadline=None)
@given(JSON, JSON)
def test_anything_in_json_is_a_schema_or_refused(one: object, other: object) -> None:
    try:
        same_as(json.dumps(one), SUBJECTS["iot-key"])
        objections(json.dumps(one), json.dumps(other))
    except InvalidSchema:
        pass
