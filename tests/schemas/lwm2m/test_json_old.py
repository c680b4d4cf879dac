"""The JSON of LwM2M 1.0: the examples of its section 6.4.4, and its rules."""

import json

import pytest

from schemas.lwm2m import json_old
from schemas.lwm2m.errors import CodecError, MalformedPayload, WrongPath, WrongValue
from schemas.lwm2m.nodes import ObjectLink, Resource, ResourceType, Value, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

BUILTIN = Definitions.builtin()
NOW = 1_700_000_000_000

DEVICE = b"""{"bn":"/3/0/","e":[
{"n":"0","sv":"Open Mobile Alliance"},{"n":"1","sv":"Lightweight M2M Client"},{"n":"2","sv":"345000123"},
{"n":"3","sv":"1.0"},{"n":"6/0","v":1},{"n":"6/1","v":5},{"n":"7/0","v":3800},{"n":"7/1","v":5000},
{"n":"8/0","v":125},{"n":"8/1","v":900},{"n":"9","v":100},{"n":"10","v":15},{"n":"11/0","v":0},
{"n":"13","v":1367491215},{"n":"14","sv":"+02:00"},{"n":"16","sv":"U"}]}"""


def _values(payload: object, path: str) -> dict[str, Value]:
    node = json_old.decode(json.dumps(payload).encode(), Path.parse(path), BUILTIN)
    return {str(v.path): v.value for v in values(node)}


@pytest.mark.parametrize("payload", [DEVICE, DEVICE.replace(b'"bn":"/3/0/",', b"")], ids=["bn", "relative"])
def test_the_device_object_of_the_specification(payload: bytes) -> None:
    found = {str(v.path): v.value for v in values(json_old.decode(payload, Path(3, 0), BUILTIN))}
    assert len(found) == 16
    assert found["/3/0/0"] == "Open Mobile Alliance"
    assert found["/3/0/7/1"] == 5000
    assert found["/3/0/13"] == 1367491215000


def test_a_history_of_the_specification() -> None:
    payload = b"""{"bn":"/72/","bt":25462634,"e":[
        {"n":"1/2","v":22.4,"t":-5},{"n":"1/2","v":22.9,"t":-30},{"n":"1/2","v":24.1,"t":-50}]}"""
    nodes = json_old.decode_series(payload, Path(72, 1, 2), BUILTIN, NOW)
    assert [(v.timestamp, v.value) for node in nodes for v in values(node)] == [
        (25462584000, 24.1),
        (25462604000, 22.9),
        (25462629000, 22.4),
    ]
    newest = json_old.decode(payload, Path(72, 1, 2), BUILTIN)
    assert newest == Resource(path=Path(72, 1, 2), type=ResourceType.FLOAT, value=22.4, timestamp=25462629000)


def test_times_without_a_base_are_about_the_moment_of_reception() -> None:
    payload = b'{"e":[{"n":"","v":1,"t":-5},{"n":"","v":2}]}'
    nodes = json_old.decode_series(payload, Path(3, 0, 9), BUILTIN, NOW)
    assert [(v.timestamp, v.value) for node in nodes for v in values(node)] == [(NOW - 5000, 1), (None, 2)]


def test_object_links_of_the_specification() -> None:
    payload = {"bn": "/", "e": [{"n": "65/0/0/0", "ov": "66:0"}, {"n": "65/0/0/1", "ov": "66:1"}]}
    assert _values(payload, "/65/0/0") == {"/65/0/0/0": ObjectLink(66, 0), "/65/0/0/1": ObjectLink(66, 1)}


@pytest.mark.parametrize(
    "payload",
    [
        {"bn": "/3/0/9", "e": [{"v": 90}]},
        {"bn": "/3/0/9", "e": [{"n": "", "v": 90}]},
        {"bn": "/3/0", "e": [{"n": "/9", "v": 90}]},
        {"bn": "", "e": [{"n": "/3/0/9", "v": 90}]},
        {"e": [{"v": 90}]},
        {"e": [{"n": "", "v": 90}]},
    ],
)
def test_names_of_a_resource_as_devices_write_them(payload: object) -> None:
    assert _values(payload, "/3/0/9") == {"/3/0/9": 90}


def test_opaque_values_are_base64() -> None:
    assert _values({"bn": "/5/0/0", "e": [{"sv": "AP8="}]}, "/5/0/0") == {"/5/0/0": b"\x00\xff"}


@pytest.mark.parametrize(
    ("payload", "path", "error", "words"),
    [
        ([], "/3/0", MalformedPayload, "array"),
        ({}, "/3/0", MalformedPayload, '"e"'),
        ({"e": {}}, "/3/0", MalformedPayload, '"e"'),
        ({"e": [1]}, "/3/0", MalformedPayload, "object"),
        ({"e": [{"n": "9"}]}, "/3/0", MalformedPayload, "exactly one"),
        ({"bn": 3, "e": []}, "/3/0", MalformedPayload, "text"),
        ({"bt": "x", "e": []}, "/3/0", MalformedPayload, "'bt'"),
        ({"bn": "/4/0/", "e": [{"n": "1", "v": 1}]}, "/3/0", WrongPath, "/4/0/1"),
        ({"e": [{"n": "9", "sv": "90"}]}, "/3/0", WrongValue, "INTEGER, but the value is a text"),
        ({"e": [{"n": "9", "bv": True}]}, "/3/0", WrongValue, "boolean"),
    ],
)
def test_what_is_wrong_is_said(payload: object, path: str, error: type[CodecError], words: str) -> None:
    with pytest.raises(error, match=words):
        _values(payload, path)
