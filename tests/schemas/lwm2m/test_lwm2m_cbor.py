"""LwM2M CBOR (OMA LwM2M Core 1.2, section 7.4): spellings that devices use, and what is refused."""

import tracemalloc

import cbor2
import pytest

from schemas.lwm2m import lwm2m_cbor
from schemas.lwm2m.errors import CodecError, MalformedPayload, NotInThisFormat, WrongPath, WrongValue
from schemas.lwm2m.formats import ContentFormat, decode, decode_series, encode
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, ObjectLink, Resource, ResourceType, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

BUILTIN = Definitions.builtin()
FORMAT = ContentFormat.LWM2M_CBOR
DEVICE = Path(3, 0)
TEMPERATURE = Path(3303, 0, 5700)


def _read(payload: bytes, path: Path) -> dict[str, object]:
    return {str(one.path): one.value for one in values(decode(FORMAT, payload, path, BUILTIN))}


@pytest.mark.parametrize(
    "payload",
    [
        "a1190ce7a100a1191644fb4035800000000000",  # {3303: {0: {5700: 21.5}}}
        "bf190ce7bf00bf191644f94d60ffffff",  # of no said length, and a half of a float
        "a183190ce700191644fa41ac0000",  # {[3303, 0, 5700]: 21.5}
        "bf9f190ce700191644fffa41ac0000ff",
        "a181190ce7a18100a181191644f94d60",  # {[3303]: {[0]: {[5700]: 21.5}}}
        "a182190ce700a1191644f94d60",  # {[3303, 0]: {5700: 21.5}}
        "a1190ce7a18200191644c4822018d7",  # {3303: {[0, 5700]: 4([-1, 215])}}
    ],
)
@pytest.mark.parametrize("path", [TEMPERATURE, Path(3303, 0), Path(3303)], ids=str)
def test_every_spelling_of_a_path_is_read(payload: str, path: Path) -> None:
    assert _read(bytes.fromhex(payload), path) == {"/3303/0/5700": 21.5}


def test_the_values_of_every_type_are_read() -> None:
    said = {
        3: {0: {0: "Open Mobile Alliance", 9: 87, 13: cbor2.CBORTag(1, 1367491215), 6: {0: 1, 1: 5}}},
        (1, 0): {6: True, 1: 300},
        (5, 0, 0): b"\x00\xff",
        (60000, 0, 1): "3303:1",
    }
    nodes = decode_series(FORMAT, cbor2.dumps(said), Path(), BUILTIN)
    assert [str(node.path) for node in nodes] == ["/1", "/3", "/5", "/60000"]
    assert {str(one.path): one.value for node in nodes for one in values(node)} == {
        "/1/0/1": 300,
        "/1/0/6": True,
        "/3/0/0": "Open Mobile Alliance",
        "/3/0/6/0": 1,
        "/3/0/6/1": 5,
        "/3/0/9": 87,
        "/3/0/13": 1367491215000,
        "/5/0/0": b"\x00\xff",
        "/60000/0/1": "3303:1",
    }


def test_levels_that_are_told_in_parts_belong_together() -> None:
    # {[3, 0, 9]: 87, [3, 0]: {[0]: "x"}, 3: {0: {1: "y"}}}
    payload = cbor2.dumps({(3, 0, 9): 87, (3, 0): {(0,): "x"}, 3: {0: {1: "y"}}})
    assert _read(payload, DEVICE) == {"/3/0/0": "x", "/3/0/1": "y", "/3/0/9": 87}


def test_maps_are_written_in_maps_an_id_a_key() -> None:
    node = Instance(
        path=DEVICE,
        resources=(
            Resource(path=DEVICE.child(0), type=ResourceType.STRING, value="x"),
            MultipleResource(
                path=DEVICE.child(6),
                type=ResourceType.INTEGER,
                instances=(Resource(path=Path(3, 0, 6, 1), type=ResourceType.INTEGER, value=5),),
            ),
            Resource(path=DEVICE.child(13), type=ResourceType.TIME, value=1367491215000),
        ),
    )
    link = Resource(path=Path(60000, 0, 1), type=ResourceType.OBJLNK, value=ObjectLink(3303, 1))
    assert cbor2.loads(encode(FORMAT, node, BUILTIN), semantic_decoders={1: lambda seconds, _: ("time", seconds)}) == {
        3: {0: {0: "x", 6: {1: 5}, 13: ("time", 1367491215)}}
    }
    assert encode(FORMAT, link, BUILTIN) == cbor2.dumps({60000: {0: {1: "3303:1"}}})
    assert lwm2m_cbor.encode([node, link], BUILTIN).hex().startswith("a2")


def test_nothing_is_an_empty_map() -> None:
    assert encode(FORMAT, Object(path=Path(3303)), BUILTIN) == bytes.fromhex("a1190ce7a0")
    assert decode(FORMAT, b"\xa0", Path(3303), BUILTIN) == Object(path=Path(3303))
    assert decode(FORMAT, b"\xbf\xff", DEVICE, BUILTIN) == Instance(path=DEVICE)
    assert decode(FORMAT, cbor2.dumps({3: {0: {6: {}}}}), Path(3, 0, 6), BUILTIN) == MultipleResource(
        path=Path(3, 0, 6), type=ResourceType.INTEGER
    )
    assert decode_series(FORMAT, b"\xa0", Path(), BUILTIN) == []


@pytest.mark.parametrize(
    ("payload", "path", "error", "words"),
    [
        ("", DEVICE, MalformedPayload, "no valid CBOR"),
        ("80", DEVICE, MalformedPayload, "must be a map"),
        ("1857", TEMPERATURE, MalformedPayload, "must be a map"),
        ("a103a100a1091857ff", DEVICE, MalformedPayload, "ends after"),
        ("a16133a100a1091857", DEVICE, MalformedPayload, "must be an id"),
        ("a1f503", Path(1), MalformedPayload, "must be an id"),
        ("a1f9420003", DEVICE, MalformedPayload, "must be an id"),  # 3.0
        ("a11a0001000001", DEVICE, MalformedPayload, "must be an id"),  # 65536
        ("a12003", DEVICE, MalformedPayload, "must be an id"),  # -1
        ("a18003", DEVICE, MalformedPayload, "must be an id"),  # []
        ("a185030006010105", Path(3, 0, 6), MalformedPayload, "must be an id"),  # five ids
        ("a183030006a10105", Path(3, 0, 7), WrongPath, "outside"),
        ("a18403000601a10105", Path(3, 0, 6), MalformedPayload, "more than four ids"),
        ("a103a10005", DEVICE, MalformedPayload, "is no resource"),
        ("a1830300096178", DEVICE, WrongValue, "a text"),
        ("a183030009f6", DEVICE, MalformedPayload, "not null"),
        ("a1830300098101", DEVICE, MalformedPayload, "not a collection"),
        ("a283030009018303000902", DEVICE, MalformedPayload, "Duplicate"),
        ("a203a100a109018303000902", DEVICE, MalformedPayload, "/3/0/9 twice"),
        ("a203a100a1060183030006a10002", DEVICE, MalformedPayload, "both as one value"),
        ("a18303010901", DEVICE, WrongPath, "outside"),
        ("a104a0", DEVICE, WrongPath, "outside"),
        ("a183030009c249010000000000000000", DEVICE, MalformedPayload, "tag"),
        ("a183030009c482190fa001", DEVICE, MalformedPayload, "decimal fraction"),
        ("a0", TEMPERATURE, MalformedPayload, "holds none"),
        ("a0", Path(), MalformedPayload, "no single node"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(payload: str, path: Path, error: type[CodecError], words: str) -> None:
    with pytest.raises(error, match=words):
        decode(FORMAT, bytes.fromhex(payload), path, BUILTIN)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xbb" + b"\xff" * 8,  # a map of 2**64 - 1 entries
        b"\xba\x7f\xff\xff\xff\x03",
        b"\xa1\x9b" + b"\xff" * 8,  # a key of as many ids
        b"\xa1\x83\x03\x00\x00\x7b\x00\x00\x00\xff\xff\xff\xff\xff",  # text of a terabyte
        b"\xa1\x83\x03\x00\x00\x5f\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\xa1\x00" * 2000,
        b"\xbf\x00" * 2000,
        b"\xa1" * 2000,  # maps as keys
        b"\xa1\x9f" + b"\x9f" * 2000,
        b"\xd8\x1c" * 2000,  # shared references
    ],
    ids=lambda payload: payload[:4].hex(),
)
def test_lying_lengths_and_depth_cost_nothing(payload: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(FORMAT, payload, DEVICE, BUILTIN)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_path_that_is_given_twice_cannot_be_written() -> None:
    value = Resource(path=TEMPERATURE, type=ResourceType.FLOAT, value=21.5)
    with pytest.raises(NotInThisFormat, match="twice"):
        lwm2m_cbor.encode([value, value], BUILTIN)
    below = Resource(path=TEMPERATURE.child(0), type=ResourceType.FLOAT, value=21.5)
    with pytest.raises(NotInThisFormat, match="twice"):
        lwm2m_cbor.encode([value, below], BUILTIN)
