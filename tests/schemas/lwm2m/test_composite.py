"""Lists of paths and values from anywhere on a device, in the formats of composite operations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.lwm2m import composite
from schemas.lwm2m.errors import CodecError, MalformedPayload, NotInThisFormat, UnknownFormat, WrongPath
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import Instance, Node, Object, Resource, ResourceType, Value, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

DEFINITIONS = Definitions.builtin()
every_format = pytest.mark.parametrize("content_format", composite.FORMATS, ids=lambda one: one.name)


def paths(*texts: str) -> tuple[Path, ...]:
    return tuple(map(Path.parse, texts))


def resource(
    path: str, value: Value, kind: ResourceType = ResourceType.FLOAT, timestamp: int | None = None
) -> Resource:
    return Resource(path=Path.parse(path), type=kind, value=value, timestamp=timestamp)


NAME = resource("/3/0/0", "ACME", ResourceType.STRING)
SOURCE = resource("/3/0/6/1", 5, ResourceType.INTEGER)
FIRST, SECOND = resource("/3303/0/5700", 21.5), resource("/3303/1/5700", 30.0)
ASKED = paths("/3/0/0", "/3/0/6", "/3303")


def test_what_lies_within_another_path_is_asked_for_once() -> None:
    given_ = paths("/3303/0/5700", "/3", "/33/0", "/3/0/6/1", "/3303/0/5700", "/3303/0/5701", "/3/1")
    assert composite.covering(given_) == paths("/3", "/33/0", "/3303/0/5700", "/3303/0/5701")
    assert composite.covering(paths("/3/0", "/", "/1")) == paths("/")
    assert composite.covering([]) == ()


ids = st.integers(0, 3)
some_paths = st.lists(st.lists(ids, max_size=4).map(lambda found: Path(*found)), max_size=8)


@given(some_paths)
def test_covering_drops_nothing_and_keeps_nothing_twice(asked: list[Path]) -> None:
    kept = composite.covering(asked)
    assert all(any(one.contains(path) for one in kept) for path in asked)
    assert not any(one.contains(other) for one in kept for other in kept if one != other)


@pytest.mark.parametrize(
    ("content_format", "payload"),
    [
        (ContentFormat.SENML_JSON, b'[{"n":"/3/0/0"},{"n":"/3303"}]'),
        (ContentFormat.SENML_CBOR, cbor2.dumps([{0: "/3/0/0"}, {0: "/3303"}])),
        (ContentFormat.LWM2M_CBOR, cbor2.dumps({3: {0: {0: None}}, 3303: None})),
    ],
)
def test_paths_are_written_without_values(content_format: int, payload: bytes) -> None:
    assert composite.encode_paths(content_format, paths("/3/0/0", "/3303")) == payload
    assert composite.decode_paths(content_format, payload) == list(paths("/3/0/0", "/3303"))


@pytest.mark.parametrize(
    ("content_format", "payload", "words"),
    [
        (110, b'[{"n":"/3/0/0","v":1}]', "must have no value"),
        (110, b'[{"n":"/3/x"}]', "is no LwM2M path"),
        (112, cbor2.dumps([{0: "/3", 3: ""}]), "must have no value"),
        (112, cbor2.dumps({0: "/3"}), "must be an array"),
        (11544, cbor2.dumps({3: 1}), "a null at each path"),
        (11544, cbor2.dumps({3: {}}), "a null at each path"),
        (11544, cbor2.dumps([3]), "must be a map"),
    ],
)
def test_what_is_no_list_of_paths_is_refused(content_format: int, payload: bytes, words: str) -> None:
    with pytest.raises(MalformedPayload, match=words):
        composite.decode_paths(content_format, payload)


def test_a_base_name_is_before_the_names_that_follow() -> None:
    pack = [{"bn": "/3303/0/", "n": "5700"}, {"n": "5701"}, {"bn": "/3/0/0"}]
    asked = list(paths("/3303/0/5700", "/3303/0/5701", "/3/0/0"))
    assert composite.decode_paths(ContentFormat.SENML_JSON, json.dumps(pack).encode()) == asked


@every_format
@given(asked=some_paths)
def test_paths_go_and_come(content_format: int, asked: list[Path]) -> None:
    wanted = [path for path in composite.covering(asked) if path.ids]
    assert composite.decode_paths(content_format, composite.encode_paths(content_format, wanted)) == wanted


def test_the_root_has_no_name_in_lwm2m_cbor() -> None:
    assert json.loads(composite.encode_paths(ContentFormat.SENML_JSON, paths("/"))) == [{"n": "/"}]
    with pytest.raises(NotInThisFormat, match="cannot name the root"):
        composite.encode_paths(ContentFormat.LWM2M_CBOR, paths("/"))


@every_format
def test_values_from_several_objects_go_and_come(content_format: int) -> None:
    sent = composite.encode_values(content_format, [SECOND, NAME, SOURCE, FIRST], DEFINITIONS)
    assert composite.decode_values(content_format, sent, ASKED, DEFINITIONS) == [NAME, SOURCE, FIRST, SECOND]


@every_format
def test_values_have_the_types_of_their_definitions(content_format: int) -> None:
    with pytest.raises(CodecError, match="/3/0/9"):
        composite.encode_values(content_format, [resource("/3/0/9", "full", ResourceType.STRING)], DEFINITIONS)


@every_format
def test_each_path_that_is_told_of_is_a_node(content_format: int) -> None:
    told = composite.encode_values(content_format, [FIRST, SECOND, NAME], DEFINITIONS)
    temperatures = Object(
        path=Path(3303),
        instances=(
            Instance(path=Path(3303, 0), resources=(FIRST,)),
            Instance(path=Path(3303, 1), resources=(SECOND,)),
        ),
    )
    assert composite.decode_nodes(content_format, told, ASKED, DEFINITIONS) == [NAME, temperatures]
    several: list[Node] = [NAME, FIRST, SECOND]
    asked = paths("/3/0/0", "/3303/0/5700", "/3303/1/5700")
    assert composite.decode_nodes(content_format, told, asked, DEFINITIONS) == several
    # Of the root: a node an object.
    assert composite.decode_nodes(content_format, told, paths("/"), DEFINITIONS) == [
        Object(path=Path(3), instances=(Instance(path=Path(3, 0), resources=(NAME,)),)),
        temperatures,
    ]


@every_format
def test_nothing_is_no_value_and_no_node(content_format: int) -> None:
    nothing = composite.encode_values(content_format, [], DEFINITIONS)
    assert composite.decode_values(content_format, nothing, ASKED, DEFINITIONS) == []
    assert composite.decode_nodes(content_format, nothing, ASKED, DEFINITIONS) == []


@every_format
def test_what_was_not_asked_for_is_refused(content_format: int) -> None:
    told = composite.encode_values(content_format, [NAME, FIRST], DEFINITIONS)
    for decode in (composite.decode_values, composite.decode_nodes):
        with pytest.raises(WrongPath, match="a value of /3303/0/5700, which lies outside of /1, /3/0"):
            decode(content_format, told, paths("/1", "/3/0"), DEFINITIONS)


def test_of_a_history_a_reply_has_the_newest_and_notifications_have_all() -> None:
    pack = [
        {-2: "/3303/", -3: 1_700_000_000, 0: "0/5700", 2: 20},
        {0: "1/5700", 2: 30},
        {0: "0/5700", 2: 21, 6: -60},
        {0: "0/5700", 2: 22, 6: 60},
    ]
    payload = cbor2.dumps(pack)
    found = composite.decode_values(ContentFormat.SENML_CBOR, payload, paths("/3303"), DEFINITIONS)
    assert [(str(one.path), one.value) for one in found] == [("/3303/0/5700", 22.0), ("/3303/1/5700", 30.0)]
    asked = paths("/3303/0/5700", "/3303/1/5700")
    nodes = composite.decode_nodes(ContentFormat.SENML_CBOR, payload, asked, DEFINITIONS)
    rows = [
        (str(one.path), one.value, (one.timestamp or 0) // 1000 - 1_700_000_000) for n in nodes for one in values(n)
    ]
    assert rows == [
        ("/3303/0/5700", 21.0, -60),
        ("/3303/0/5700", 20.0, 0),
        ("/3303/1/5700", 30.0, 0),
        ("/3303/0/5700", 22.0, 60),
    ]


def test_times_that_differ_by_less_than_a_millisecond_are_values_of_their_own() -> None:
    pack = [{"bn": "/3303/0/5700", "bt": 1_700_000_000, "v": 20}, {"t": 0.0001, "v": 21}]
    nodes = composite.decode_nodes(
        ContentFormat.SENML_JSON, json.dumps(pack).encode(), paths("/3303/0/5700"), DEFINITIONS
    )
    assert [one.value for n in nodes for one in values(n)] == [20.0, 21.0]


@pytest.mark.parametrize("content_format", [0, 42, 60, 11542, 11543, 9])
def test_other_formats_have_no_composite_operations(content_format: int) -> None:
    with pytest.raises(UnknownFormat, match=f"content format {content_format} has no composite operations"):
        composite.encode_paths(content_format, paths("/3"))
    with pytest.raises(UnknownFormat):
        composite.decode_paths(content_format, b"")
    with pytest.raises(UnknownFormat):
        composite.encode_values(content_format, [NAME], DEFINITIONS)
    with pytest.raises(UnknownFormat):
        composite.decode_values(content_format, b"", paths("/3"), DEFINITIONS)


@every_format
@given(payload=st.binary(max_size=60))
def test_no_other_error_escapes_whatever_the_bytes(content_format: int, payload: bytes) -> None:
    for decode in (composite.decode_values, composite.decode_nodes):
        with suppress(CodecError):
            decode(content_format, payload, ASKED, DEFINITIONS, 1_000)


@every_format
def test_truncation_is_an_error_at_every_byte(content_format: int) -> None:
    whole = composite.encode_values(content_format, [NAME, FIRST, SECOND], DEFINITIONS)
    for size in range(len(whole)):
        with pytest.raises(MalformedPayload):
            composite.decode_values(content_format, whole[:size], ASKED, DEFINITIONS)


leaves = st.builds(Path, ids, ids, ids) | st.builds(Path, ids, ids, ids, ids)


@every_format
@given(
    asked=st.lists(st.lists(ids, min_size=1, max_size=3).map(lambda found: Path(*found)), min_size=1, max_size=4),
    where=st.lists(leaves, unique=True, max_size=8),
)
def test_nodes_hold_all_values_and_each_once(content_format: int, asked: Sequence[Path], where: list[Path]) -> None:
    unknown = Definitions()
    wanted = composite.covering(asked)
    told = [
        Resource(path=path, type=ResourceType.INTEGER, value=number)
        for number, path in enumerate(where)
        if any(one.contains(path) for one in wanted) and path.parent not in where
    ]
    payload = composite.encode_values(content_format, told, unknown)
    nodes = composite.decode_nodes(content_format, payload, wanted, unknown)
    assert [str(node.path) for node in nodes] == [
        str(path) for path in wanted if any(path.contains(one.path) for one in told)
    ]
    expected = sorted(told, key=lambda one: one.path.ids)
    assert sorted((one for node in nodes for one in values(node)), key=lambda one: one.path.ids) == expected
    assert composite.decode_values(content_format, payload, wanted, unknown) == expected
