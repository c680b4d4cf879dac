"""Payloads of several devices: split by prefix, and what has none stays as it is."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.lwm2m import formats, prefixes
from schemas.lwm2m.errors import CodecError, WrongPath
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import Instance, Node, Resource, ResourceType, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

KNOWN = Definitions.builtin()
NAMED = [
    ContentFormat.SENML_JSON,
    ContentFormat.SENML_CBOR,
    ContentFormat.JSON,
    ContentFormat.JSON_OLD,
    ContentFormat.LWM2M_CBOR,
]
TEMPERATURE = Path(3303, 0, 5700)


def _told(content_format: int, payload: bytes) -> list[tuple[str, Any, int | None]]:
    nodes = formats.decode_series(content_format, payload, Path(), KNOWN)
    return [(str(one.path), one.value, one.timestamp) for node in nodes for one in values(node)]


PACK: list[dict[str, Any]] = [
    {"bn": "/dev0/3303/0/", "bt": 1_700_000_000, "n": "5700", "v": 1.5},
    {"n": "5701", "vs": "Cel", "t": 5},
    {"bn": "/dev1", "bv": 100},
    {"n": "/3303/0/5700", "v": 0.25},
    {"bn": "", "bt": 0, "bv": 0, "n": "/3/0/9", "v": 80},
    {"n": "/dev0/3303/1/5700", "v": 2},
]


def test_one_pack_of_senml_becomes_one_a_device_with_all_that_counted_for_its_records() -> None:
    numbers = {"bn": -2, "bt": -3, "bv": -5, "n": 0, "v": 2, "vs": 3, "t": 6}
    packed = {
        ContentFormat.SENML_JSON: json.dumps(PACK).encode(),
        ContentFormat.SENML_CBOR: cbor2.dumps([{numbers[key]: value for key, value in one.items()} for one in PACK]),
    }
    for content_format, payload in packed.items():
        parts = prefixes.split(content_format, payload)
        assert {of: _told(content_format, part) for of, part in parts.items()} == {
            "dev0": [
                ("/3303/0/5700", 1.5, 1_700_000_000_000),
                ("/3303/0/5701", "Cel", 1_700_000_005_000),
                # Without a moment of reception what has no time comes last.
                ("/3303/1/5700", 2.0, None),
            ],
            "dev1": [("/3303/0/5700", 100.25, 1_700_000_000_000)],
            "": [("/3/0/9", 80, None)],
        }


def test_lwm2m_cbor_has_the_prefix_outermost_in_either_spelling() -> None:
    payload = cbor2.dumps(
        {
            "dev0": {3303: {0: {5700: 1.5}}},
            ("dev1", 3303, 0, 5700): 2.5,
            ("dev1", 3): {0: {13: cbor2.CBORTag(1, 1_700_000_000)}},
            3: {0: {9: 80}},
        }
    )
    parts = prefixes.split(ContentFormat.LWM2M_CBOR, payload)
    assert {of: _told(ContentFormat.LWM2M_CBOR, part) for of, part in parts.items()} == {
        "dev0": [("/3303/0/5700", 1.5, None)],
        "dev1": [("/3/0/13", 1_700_000_000_000, None), ("/3303/0/5700", 2.5, None)],
        "": [("/3/0/9", 80, None)],
    }


@pytest.mark.parametrize("content_format", NAMED)
def test_what_is_joined_with_a_prefix_is_the_same_without_it(content_format: ContentFormat) -> None:
    one = Resource(path=TEMPERATURE, type=ResourceType.FLOAT, value=21.5)
    unit = Resource(path=Path(3303, 0, 5701), type=ResourceType.STRING, value="Cel")
    nodes: list[Node] = [one, Instance(path=Path(3303, 0), resources=(one, unit))]
    for node in nodes:
        plain = formats.encode(content_format, node, KNOWN)
        joined = prefixes.join(content_format, plain, "dev0")
        assert joined != plain and b"dev0" in joined
        assert set(prefixes.split(content_format, joined)) == {"dev0"}
        assert formats.decode(content_format, prefixes.own(content_format, joined, "dev0"), node.path, KNOWN) == node
        assert formats.decode(content_format, prefixes.own(content_format, plain, "dev0"), node.path, KNOWN) == node
        # As it is on the wire nobody else could read it.
        with pytest.raises(CodecError):
            formats.decode(content_format, joined, node.path, KNOWN)
        with pytest.raises(WrongPath, match="dev0"):
            prefixes.own(content_format, joined, "dev1")


@pytest.mark.parametrize("content_format", NAMED)
def test_what_has_no_prefix_stays_byte_for_byte(content_format: ContentFormat) -> None:
    node = Instance(path=Path(3303, 0), resources=(Resource(path=TEMPERATURE, type=ResourceType.FLOAT, value=1.0),))
    payload = formats.encode(content_format, node, KNOWN)
    assert prefixes.split(content_format, payload) == {"": payload}


def test_a_payload_of_two_devices_is_none_of_one() -> None:
    payload = json.dumps([{"n": "/dev0/3303/0/5700", "v": 1}, {"n": "/3303/0/5701", "vs": "Cel"}]).encode()
    with pytest.raises(WrongPath):
        prefixes.own(ContentFormat.SENML_JSON, payload, "dev0")


@given(content_format=st.sampled_from([*NAMED, 0, 42, 11542, 9999]), payload=st.binary(max_size=80))
def test_whatever_the_bytes_are_they_are_split_or_left_as_they_are(content_format: int, payload: bytes) -> None:
    parts = prefixes.split(content_format, payload)
    assert parts
    if set(parts) == {""}:
        assert parts[""] == payload


_SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=8)
_RECORDS = st.dictionaries(
    st.sampled_from(["bn", "n", "bt", "bv", "v", "vs", "bver"]),
    _SCALARS | st.sampled_from(["/a/3/0/1", "/3/0/1", "/a/", "/"]),
)


@given(pack=st.lists(_RECORDS, max_size=5))
def test_senml_that_lies_raises_nothing_but_what_decoders_say(pack: list[dict[str, Any]]) -> None:
    payload = json.dumps(pack).encode().replace(b"Infinity", b"1")
    for part in prefixes.split(ContentFormat.SENML_JSON, payload).values():
        with suppress(CodecError):
            formats.decode_series(ContentFormat.SENML_JSON, part, Path(), KNOWN)


@pytest.mark.parametrize("text", ["dev0", "a", "00:11:22:aa", "x" * 40, "3303a", "~"])
def test_a_prefix_is_one_segment_that_is_no_id(text: str) -> None:
    assert prefixes.is_prefix(text)


@pytest.mark.parametrize(
    "text", ["", "3303", "0", "a/b", ".", "..", "a b", "x" * 41, "é", "a\n", "<a>", "%41", "\u0661"]
)
def test_what_could_be_taken_for_something_else_is_no_prefix(text: str) -> None:
    assert not prefixes.is_prefix(text)


def test_links_lose_their_prefix_and_others_stay() -> None:
    assert prefixes.strip_links("</a/3>;ver=1.1,</a/3/0/1>,</a>,</3/0>,</ab/3>", "a") == (
        "</3>;ver=1.1,</3/0/1>,</>,</3/0>,</ab/3>"
    )
