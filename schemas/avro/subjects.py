"""Subjects: under which names other people's programs ask for our schemas, and whether a schema is one of ours.

Pure. Owns Confluent's TopicNameStrategy (``<topic>-key``, ``<topic>-value``) over the families of topics: the subject
of any gateway's topic is that of its family. Two schemas are the same here if their Parsing Canonical Forms are (Avro
1.11, "Transforming into Parsing Canonical Form"): what it leaves out (docs, defaults, aliases, Java's names for its
string classes) does not change a byte of what is written, so a program that has its own copy finds the id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from fastavro.schema import SchemaParseException, UnknownType, fingerprint, parse_schema, to_parsing_canonical_form

from schemas.avro.registry import SCHEMAS, Schema
from schemas.avro.topics import FAMILIES, TopicKind, Topics, UnknownTopic

#: A schema of others that is longer is none of ours.
MAX_SCHEMA_CHARS = 200_000

_KEY, _VALUE = "-key", "-value"


class InvalidSchema(ValueError):
    """The text is no Avro schema."""


def _by_subject() -> dict[str, tuple[Schema, ...]]:
    found: dict[str, list[Schema]] = {}
    for schema in sorted(SCHEMAS.values(), key=lambda one: one.version):
        found.setdefault(schema.subject, []).append(schema)
    return {subject: tuple(versions) for subject, versions in sorted(found.items())}


#: The versions of every subject of ``ids.json``, the oldest first.
SUBJECTS: Mapping[str, tuple[Schema, ...]] = _by_subject()


def family_of(subject: str) -> str | None:
    """The subject of ``ids.json`` that a subject means, or None.

    >>> family_of("iot.rock64.observations-value")
    'iot.observations-value'
    >>> family_of("iot.rock64.observations-key")
    'iot-key'

    A topic that holds records of several schemas (dead letters, joins) has no subject of its values: each record says
    its schema's id. Dead letters have none of their keys either, which are as they came; files have none at all, being
    bytes of their own.
    """
    if subject in SUBJECTS:
        return subject
    for ending in (_KEY, _VALUE):
        if subject.endswith(ending):
            try:
                kind = Topics.of(subject.removesuffix(ending))[1]
            except UnknownTopic:
                return None
            if ending == _KEY:
                return None if kind in (TopicKind.DEADLETTER, TopicKind.FILES) else FAMILIES[kind].key_subject
            return FAMILIES[kind].subject
    return None


def subjects_of(gateway: str) -> list[str]:
    """The subjects of one gateway's topics, for lists.

    Raises:
        InvalidGatewayId: the id is none.
    """
    topics = Topics(gateway)
    named = [f"{topics.name(kind)}{ending}" for kind in FAMILIES for ending in (_KEY, _VALUE)]
    return sorted(subject for subject in named if family_of(subject) is not None)


def same_as(text: str, versions: tuple[Schema, ...]) -> Schema | None:
    """The one of these that the schema ``text`` (JSON) is, or None.

    Raises:
        InvalidSchema: the text is no Avro schema.
    """
    parsed, _ = parse(text)
    try:
        mark = fingerprint(to_parsing_canonical_form(parsed), "SHA-256")
    except _TROUBLE as exc:
        raise InvalidSchema(f"no canonical form can be made of it: {_words(exc)}") from exc
    return next((one for one in versions if one.fingerprint == mark), None)


def parse(text: str) -> tuple[Any, dict[str, Any]]:
    """An Avro schema as fastavro holds it (names in full, ids of later uses), and its named types.

    Raises:
        InvalidSchema: it is none.
    """
    if len(text) > MAX_SCHEMA_CHARS:
        raise InvalidSchema(f"a schema of more than {MAX_SCHEMA_CHARS} characters is not read")
    named: dict[str, Any] = {}
    try:
        return parse_schema(json.loads(text), named_schemas=named), named
    except _TROUBLE as exc:
        raise InvalidSchema(_words(exc)) from exc


def compact(schema: Schema) -> str:
    """The schema's JSON on one line, as registries hand it out; docs are left in."""
    return _on_one_line(schema.text)


@cache
def _on_one_line(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


#: fastavro tells what is no schema in many ways: a list where a text belongs is a TypeError somewhere inside.
_TROUBLE = (SchemaParseException, UnknownType, ValueError, TypeError, KeyError, AttributeError, RecursionError)


def _words(exc: Exception) -> str:
    match exc:
        case RecursionError():
            return "it is nested too deeply"
        case UnknownType():
            return f"the type {str(exc.name)[:80]!r} is not known"
        case json.JSONDecodeError():
            return f"it is no JSON: {exc}"
        case SchemaParseException():
            return str(exc)[:200]
        case _:
            return "it is not of the form of an Avro schema"
