"""What people type as values: by the definitions, by a given type, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path as FilePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.values import Reader, ValueProblem, moment, plain, shown
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import MAX_ID, Path

READER = Reader(definitions=Definitions.builtin())


def typed(kind: ResourceType) -> Reader:
    return Reader(definitions=Definitions.builtin(), type=kind)


@pytest.mark.parametrize(
    ("path", "text", "kind", "value"),
    [
        ("/3303/0/5700", "21.5", ResourceType.FLOAT, 21.5),
        ("/3303/0/5700", "-4", ResourceType.FLOAT, -4.0),
        ("/1/0/1", "300", ResourceType.INTEGER, 300),
        ("/1/0/6", "false", ResourceType.BOOLEAN, False),
        ("/1/0/6", "1", ResourceType.BOOLEAN, True),
        ("/3/0/14", "+02:00", ResourceType.STRING, "+02:00"),
        ("/3/0/13", "2026-03-01T12:00:00Z", ResourceType.TIME, 1772366400000),
        ("/3/0/13", "2026-03-01T14:00:00+02:00", ResourceType.TIME, 1772366400000),
        ("/3/0/13", "1772366400", ResourceType.TIME, 1772366400000),
        ("/5/0/0", "00ff", ResourceType.OPAQUE, b"\x00\xff"),
        ("/5/0/0", "0x00ff", ResourceType.OPAQUE, b"\x00\xff"),
        ("/5/0/0", "base64:AP8=", ResourceType.OPAQUE, b"\x00\xff"),
        ("/3/0/6/1", "5", ResourceType.INTEGER, 5),
    ],
)
def test_value_has_the_type_of_its_definition(path: str, text: str, kind: ResourceType, value: Value) -> None:
    assert READER.node(Path.parse(path), text) == Resource(path=Path.parse(path), type=kind, value=value)


def test_value_of_an_unknown_resource_needs_a_type() -> None:
    with pytest.raises(ValueProblem, match=r"no definition knows /30000/0/1.*--type"):
        READER.node(Path.parse("/30000/0/1"), "1")
    with pytest.raises(ValueProblem, match=r"no definition knows /30000/\*/1:"):
        READER.new_instance(Path.parse("/30000"), '{"1": 1}')
    node = typed(ResourceType.OBJLNK).node(Path.parse("/30000/0/1"), "3303:0")
    assert node == Resource(path=Path(30000, 0, 1), type=ResourceType.OBJLNK, value=ObjectLink(3303, 0))


def test_bytes_are_read_from_a_file(tmp_path: FilePath) -> None:
    (tmp_path / "firmware").write_bytes(b"\x7fELF")
    node = READER.node(Path.parse("/5/0/0"), f"@{tmp_path / 'firmware'}")
    assert isinstance(node, Resource)
    assert node.value == b"\x7fELF"


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("/3303/0/5700", "warm", "Sensor Value, of type FLOAT: a number is expected"),
        ("/1/0/1", "1.5", "a whole number is expected"),
        ("/1/0/1", "99999999999999999999", "64 bits"),
        ("/1/0/6", "maybe", "true or false"),
        ("/5/0/0", "xyz", "hex"),
        ("/5/0/0", "@/nowhere/at/all", "No such file"),
        ("/3/0/13", "2026-03-01T12:00:00", "zone"),
        ("/3/0/13", "1772366400000", "milliseconds"),
        ("/3/0/4", "1", "executed"),
        ("/3/0/6", "1", "has instances"),
        ("/1/0", "1", "not ID=VALUE"),
        ("/1/0", "1=2,1=3", "twice"),
        ("/1/0", "x=2", "'x' is no id"),
        ("/1/0", "{1: 2", "is none"),
        ("/1", "[1]", "JSON object"),
        ("/", "1", "root"),
    ],
)
def test_wrong_value_is_refused_in_words(path: str, text: str, words: str) -> None:
    with pytest.raises(ValueProblem, match=words):
        READER.node(Path.parse(path), text)


@pytest.mark.parametrize(
    "text", ["5601=1.5,5602=2", "5602=2, 5601=1.5", '{"5601": 1.5, "5602": 2}', '{"5602": "2", "5601": "1.5"}']
)
def test_instance_is_written_as_pairs_or_json(text: str) -> None:
    node = READER.node(Path(3303, 0), text)
    assert node == Instance(
        path=Path(3303, 0),
        resources=(
            Resource(path=Path(3303, 0, 5601), type=ResourceType.FLOAT, value=1.5),
            Resource(path=Path(3303, 0, 5602), type=ResourceType.FLOAT, value=2.0),
        ),
    )


def test_pair_may_be_quoted_for_its_comma() -> None:
    node = READER.node(Path(3, 0), "14='a,b',15=c")
    assert isinstance(node, Instance)
    assert [one.value for one in node.resources if isinstance(one, Resource)] == ["a,b", "c"]


@pytest.mark.parametrize("text", ['{"6": {"1": 5, "0": 1}}', "6/0=1,6/1=5"])
def test_instances_of_a_resource_go_with_their_object_instance(text: str) -> None:
    node = READER.node(Path(3, 0), text)
    assert isinstance(node, Instance)
    [multiple] = node.resources
    assert isinstance(multiple, MultipleResource)
    assert [(str(one.path), one.value) for one in multiple.instances] == [("/3/0/6/0", 1), ("/3/0/6/1", 5)]


def test_object_is_written_as_json_of_its_instances() -> None:
    node = READER.node(Path(3303), '{"1": {"5601": 1}, "0": {"5601": 2}}')
    assert isinstance(node, Object)
    assert [str(one.path) for one in node.instances] == ["/3303/0", "/3303/1"]


def test_new_instance_without_an_id_leaves_it_to_the_device() -> None:
    assert READER.new_instance(Path(3303), "5601=1").path == Path(3303, MAX_ID)
    assert READER.new_instance(Path(3303, 7), "5601=1").path == Path(3303, 7)
    with pytest.raises(ValueProblem, match="create takes /object"):
        READER.new_instance(Path(3303, 7, 5700), "1")


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_go_in_as_they_are_shown(number: int) -> None:
    node = READER.node(Path(1, 0, 1), str(number))
    assert isinstance(node, Resource)
    assert shown(node) == str(number)


@given(st.binary())
def test_bytes_go_in_as_json_shows_them(content: bytes) -> None:
    out = plain(Resource(path=Path(5, 0, 0), type=ResourceType.OPAQUE, value=content))
    node = READER.node(Path(5, 0, 0), f"base64:{out}")
    assert isinstance(node, Resource)
    assert node.value == content


@given(st.text())
def test_no_text_is_more_than_refused(text: str) -> None:
    for path in (Path(3303, 0, 5700), Path(3, 0, 13), Path(1, 0), Path(3303)):
        try:
            READER.node(path, text)
        except ValueProblem as refused:
            assert str(refused)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.5])
def test_every_number_is_valid_json(value: float) -> None:
    out = plain(Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=value))
    json.dumps(out, allow_nan=False)


def test_times_are_shown_in_utc() -> None:
    assert moment(1772366400123) == "2026-03-01T12:00:00.123Z"
    assert moment(10**18) == str(10**18)
