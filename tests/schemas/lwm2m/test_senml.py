"""SenML in both representations: the examples of OMA LwM2M Core 1.1 (7.4.4, 7.4.5) and RFC 8428, and its rules."""

import json
import math

import cbor2
import pytest

from schemas.lwm2m import senml_cbor, senml_json
from schemas.lwm2m.errors import CodecError, MalformedPayload, WrongPath, WrongValue
from schemas.lwm2m.formats import decode
from schemas.lwm2m.nodes import (
    Instance,
    MultipleResource,
    Node,
    Object,
    ObjectLink,
    Resource,
    ResourceType,
    Value,
    values,
)
from schemas.lwm2m.objects import Definitions, ObjectDefinition
from schemas.lwm2m.path import Path
from schemas.lwm2m.tlv import decode as decode_tlv

BUILTIN = Definitions.builtin()
NOTHING = Definitions()
#: A moment of reception, epoch milliseconds.
NOW = 1_700_000_000_000

#: Table 7.4.4-2, the Device object.
DEVICE_JSON = b"""[{"bn":"/3/0/","n":"0","vs":"Open Mobile Alliance"},
{"n":"1","vs":"Lightweight M2M Client"},
{"n":"2","vs":"345000123"},
{"n":"3","vs":"1.0"},
{"n":"6/0","v":1},
{"n":"6/1","v":5},
{"n":"7/0","v":3800},
{"n":"7/1","v":5000},
{"n":"8/0","v":125},
{"n":"8/1","v":900},
{"n":"9","v":100},
{"n":"10","v":15},
{"n":"11/0","v":0},
{"n":"13","v":1367491215},
{"n":"14","vs":"+02:00"},
{"n":"16","vs":"U"}]"""
#: The same in table 7.4.5-2.
DEVICE_CBOR = bytes.fromhex(
    "90A321652F332F302F00613003744F70656E204D6F62696C6520416C6C69616E6365A200613103764C69676874776569676874204D324D20"
    "436C69656E74A20061320369333435303030313233A20061330363312E30A20063362F300201A20063362F310205A20063372F3002190ED8"
    "A20063372F3102191388A20063382F3002187DA20063382F3102190384A2006139021864A200623130020FA2006431312F300200A2006231"
    "33021A5182428FA200623134036 62B30323A3030A2006231360361 55".replace(" ", "")
)
#: The same in TLV, table 7.4.3.1-1.
DEVICE_TLV = bytes.fromhex(
    "C800144F70656E204D6F62696C6520416C6C69616E6365C801164C69676874776569676874204D324D20436C69656E74"
    "C80209333435303030313233C303312E30860641000141010588070842000ED842011388870841007D42010384C10964"
    "C10A0F830B410000C40D5182428FC60E2B30323A3030C11055"
)


def _json(records: object, path: str, definitions: Definitions = BUILTIN) -> Node:
    return senml_json.decode(json.dumps(records).encode(), Path.parse(path), definitions)


def _value(records: object, path: str, definitions: Definitions = BUILTIN) -> tuple[ResourceType, Value]:
    node = _json(records, path, definitions)
    assert isinstance(node, Resource)
    return node.type, node.value


def test_the_device_object_of_the_specification_is_the_same_in_every_format() -> None:
    node = decode_tlv(DEVICE_TLV, Path(3, 0), BUILTIN)
    assert senml_json.decode(DEVICE_JSON, Path(3, 0), BUILTIN) == node
    assert senml_cbor.decode(DEVICE_CBOR, Path(3, 0), BUILTIN) == node


def test_the_examples_are_written_byte_for_byte() -> None:
    node = decode_tlv(DEVICE_TLV, Path(3, 0), BUILTIN)
    assert senml_cbor.encode(node, BUILTIN) == DEVICE_CBOR
    assert senml_json.encode(node, BUILTIN) == DEVICE_JSON.replace(b"\n", b"")


@pytest.mark.parametrize("payload", [DEVICE_JSON.replace(b"\n", b""), DEVICE_CBOR], ids=["json", "cbor"])
def test_a_payload_cut_anywhere_is_an_error(payload: bytes) -> None:
    module = senml_json if payload.startswith(b"[") else senml_cbor
    for end in range(len(payload)):
        with pytest.raises(CodecError):
            module.decode(payload[:end], Path(3, 0), BUILTIN)


def test_object_links_of_the_specification() -> None:
    # Table 7.4.4-5: objects 65 and 66.
    node = _json([{"bn": "/", "n": "65/0/0/0", "vlo": "66:0"}, {"n": "65/0/0/1", "vlo": "66:1"}], "/65", NOTHING)
    assert [(str(v.path), v.type, v.value) for v in values(node)] == [
        ("/65/0/0/0", ResourceType.OBJLNK, ObjectLink(66, 0)),
        ("/65/0/0/1", ResourceType.OBJLNK, ObjectLink(66, 1)),
    ]
    assert cbor2.loads(senml_cbor.encode(node, NOTHING))[0]["vlo"] == "66:0"


def test_a_multiple_resource_has_its_instances() -> None:
    node = _json([{"bn": "/3/0/6/", "n": "1", "v": 5}, {"n": "0", "v": 1}], "/3/0/6")
    assert isinstance(node, MultipleResource)
    assert [(str(i.path), i.value) for i in node.instances] == [("/3/0/6/0", 1), ("/3/0/6/1", 5)]


def test_an_empty_pack_is_no_instances_but_never_a_value() -> None:
    assert _json([], "/3303") == Object(path=Path(3303))
    assert _json([], "/3303/0") == Instance(path=Path(3303, 0))
    assert _json([], "/3/0/6") == MultipleResource(path=Path(3, 0, 6), type=ResourceType.INTEGER)
    with pytest.raises(MalformedPayload, match="none"):
        _json([], "/3303/0/5700")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"v": 21}, (ResourceType.INTEGER, 21)),
        ({"v": 21.5}, (ResourceType.FLOAT, 21.5)),
        ({"v": 21.0}, (ResourceType.FLOAT, 21.0)),
        ({"vs": "on"}, (ResourceType.STRING, "on")),
        ({"vb": True}, (ResourceType.BOOLEAN, True)),
        ({"vd": "AP8"}, (ResourceType.OPAQUE, b"\x00\xff")),
        ({"vlo": "3303:0"}, (ResourceType.OBJLNK, ObjectLink(3303, 0))),
    ],
)
def test_what_no_definition_knows_keeps_its_own_type(record: object, expected: tuple[ResourceType, Value]) -> None:
    assert isinstance(record, dict)
    kind, value = _value([{"n": "/60000/0/1", **record}], "/60000/0/1")
    assert (kind, value) == expected
    assert type(value) is type(expected[1])


def test_an_unknown_resource_of_a_known_object_is_kept_too() -> None:
    assert _value([{"n": "/3/0/26999", "vs": "x"}], "/3/0/26999") == (ResourceType.STRING, "x")


def test_a_mixture_of_whole_and_other_numbers_in_an_unknown_resource_is_of_floats() -> None:
    node = _json([{"n": "/60000/0/1/0", "v": 21}, {"n": "/60000/0/1/1", "v": 21.5}], "/60000/0/1")
    assert isinstance(node, MultipleResource) and node.type is ResourceType.FLOAT
    assert [(type(i.value), i.value) for i in node.instances] == [(float, 21.0), (float, 21.5)]


@pytest.mark.parametrize(
    ("record", "path", "expected"),
    [
        ({"v": 21}, "/3303/0/5700", 21.0),
        ({"v": 100.0}, "/3/0/9", 100),
        ({"v": 1e2}, "/3/0/9", 100),
        ({"v": 1367491215.25}, "/3/0/13", 1367491215250),
        ({"v": -1}, "/3/0/13", -1000),
        ({"vd": "-_8="}, "/5/0/0", b"\xfb\xff"),
        ({"vd": "+/8"}, "/5/0/0", b"\xfb\xff"),
        ({"v": 100, "u": "%EL", "ut": 10}, "/3/0/9", 100),
    ],
)
def test_values_become_those_of_the_definition(record: dict[str, object], path: str, expected: Value) -> None:
    _, value = _value([{"n": path, **record}], path)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("record", "path", "words"),
    [
        ({"vs": "21.5"}, "/3303/0/5700", "FLOAT, but the value is a text"),
        ({"vb": True}, "/3303/0/5700", "FLOAT, but the value is a boolean"),
        ({"v": 1}, "/1/0/6", "BOOLEAN, but the value is a number"),
        ({"v": 1.5}, "/3/0/9", "not a whole one"),
        ({"v": 2**63}, "/3/0/9", "too large"),
        ({"v": -(2**63) - 1}, "/3/0/9", "too large"),
        ({"v": -1}, "/0/0/13", "below 0"),
        ({"v": 10**305 * 10**4}, "/3303/0/5700", "too large"),
        ({"v": 1e300}, "/3/0/13", "out of range"),
        ({"vs": "now"}, "/3/0/13", "TIME, but"),
        ({"v": 7}, "/3/0/0", "STRING, but"),
        ({"vs": "AAAA"}, "/5/0/0", "OPAQUE, but"),
        ({"vs": "\ud800"}, "/3/0/0", "surrogate"),
        ({"vlo": "3303"}, "/60000/0/1", "looks like 3303:0"),
        ({"vlo": "65536:0"}, "/60000/0/1", "object link"),
    ],
)
def test_a_value_of_another_type_is_refused_in_words(record: dict[str, object], path: str, words: str) -> None:
    with pytest.raises((WrongValue, MalformedPayload), match=words):
        _json([{"n": path, **record}], path)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "no valid JSON"),
        (b"{}", "must be an array"),
        (b"[1]", "must be an object"),
        (b'[{"n":"/3/0/9","v":NaN}]', "NaN"),
        (b'[{"n":"/3/0/9","v":-Infinity}]', "-Infinity"),
        (b'[{"n":"/3/0/9","v":1e999}]', "too large"),
        (b'[{"n":"/3/0/9","v":' + b"9" * 5000 + b"}]", "too large"),
        (b'[{"n":"/3/0/9","v":1,"v":2}]', "same name twice"),
        (b"[" * 60000, "nested"),
        ('[{"n":"/3/0/9","v":1}]'.encode("utf-16"), "UTF-8"),
        (b'[{"n":"/3/0/9","vs":"\xff"}]', "UTF-8"),
        (b'[{"n":"/3/0/9"}]', "exactly one of"),
        (b"[{}]", "exactly one of"),
        (b'[{"n":"/3/0/9","v":1,"vs":"1"}]', "exactly one of"),
        (b'[{"n":"/3/0/9","v":"1"}]', "cannot be of type str"),
        (b'[{"n":"/3/0/9","v":null}]', "cannot be of type NoneType"),
        (b'[{"n":"/3/0/9","vs":1}]', "cannot be of type int"),
        (b'[{"n":"/3/0/9","v":[]}]', "cannot be of type list"),
        (b'[{"n":"/3/0/9","vd":"A!"}]', "base64"),
        (b'[{"n":"/3/0/9","vd":"A"}]', "base64"),
        (b'[{"n":"/3/0/9","vd":5}]', "base64"),
        (b'[{"n":9,"v":1}]', "name must be text"),
        (b'[{"n":"/3/0/nine","v":1}]', "no LwM2M path"),
        (b'[{"n":"/3/0","v":1}]', "no path of a resource"),
        (b'[{"n":"/3/0/9/0/0","v":1}]', "no LwM2M path"),
        (b'[{"n":"/3/0/70000","v":1}]', "no LwM2M path"),
        (b'[{"bn":"' + b"x" * 100 + b'","n":"/3/0/9","v":1}]', "longer than any"),
        (b'[{"n":"/3/0/9","v":1,"t":"now"}]', "'t' must be a number"),
        (b'[{"n":"/3/0/9","v":1,"bt":true}]', "'bt' must be a number"),
        (b'[{"n":"/3/0/9","v":1,"t":1e17}]', "time"),
        (b'[{"n":"/3/0/9","v":1,"bver":11}]', "version 11"),
        (b'[{"n":"/3/0/9","v":1,"secret_":1}]', "must be understood"),
        (b'[{"n":"/3/0/9","v":1},{"n":"/3/0/9","v":1}]', "/3/0/9 twice"),
        (b'[{"n":"/3/0/9","v":1},{"n":"/3/0/9/0","v":1}]', "both as one value"),
    ],
)
def test_a_malformed_pack_is_refused_in_words(payload: bytes, words: str) -> None:
    with pytest.raises(MalformedPayload, match=words):
        senml_json.decode(payload, Path(3, 0), BUILTIN)


@pytest.mark.parametrize("name", ["/3/1/9", "/4/0/9", "/30/0/9"])
def test_a_value_outside_of_the_path_is_refused(name: str) -> None:
    with pytest.raises(WrongPath, match=name):
        _json([{"n": "/3/0/9", "v": 1}, {"n": name, "v": 1}], "/3/0")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({0: "/3/0/9", 2: 1}, "array"),
        ([[1]], "map"),
        ([{0: "/3/0/9", 2: 1, "n": "/3/0/9"}], "twice"),
        ([{0: "/3/0/9", 2: 1, 1.5: 1}], "no text or integer"),
        ([{0: "/3/0/9", 2: 1, None: 1}], "no text or integer"),
        ([{0: "/3/0/9", 2: 2**70}], "tag"),
        ([{0: "/3/0/9", 2: cbor2.CBORTag(99, 1)}], "CBORTag"),
        ([{0: "/3/0/9", 8: "AAAA"}], "'vd' cannot be"),
        ([{0: "/3/0/9", 2: cbor2.CBORTag(4, [10**9, 1])}], "decimal fraction"),
        ([{0: "/3/0/9", 2: 1, 6: math.nan}], "'t' must be"),
        ([{0: "/3/0/9", 2: [[[[1]]]]}], "depth"),
    ],
)
def test_malformed_cbor_is_refused_in_words(item: object, words: str) -> None:
    with pytest.raises(MalformedPayload, match=words):
        senml_cbor.decode(cbor2.dumps(item), Path(3, 0), BUILTIN)


def test_a_key_twice_or_bytes_behind_the_pack_are_refused() -> None:
    good = cbor2.dumps([{0: "/3/0/9", 2: 1}])
    with pytest.raises(MalformedPayload, match=f"after {len(good)} of {len(good) + 1}"):
        senml_cbor.decode(good + b"\x00", Path(3, 0), BUILTIN)
    with pytest.raises(MalformedPayload, match="no valid CBOR"):
        senml_cbor.decode(bytes.fromhex("81A2 0201 0202"), Path(3, 0), BUILTIN)


def test_decimal_fractions_and_half_floats_are_numbers() -> None:
    # RFC 8428, section 6; RFC 8949, section 3.4.4: 273.15.
    payload = bytes.fromhex("81A2006C") + b"/3303/0/5700" + bytes.fromhex("02C48221196AB3")
    node = senml_cbor.decode(payload, Path(3303, 0, 5700), BUILTIN)
    assert isinstance(node, Resource) and node.value == 273.15
    half = senml_cbor.decode(payload[:17] + bytes.fromhex("F93E00"), Path(3303, 0, 5700), BUILTIN)
    assert isinstance(half, Resource) and half.value == 1.5


def test_integer_labels_of_the_future_are_ignored() -> None:
    node = senml_cbor.decode(cbor2.dumps([{0: "/3/0/9", 2: 1, 77: "x"}]), Path(3, 0, 9), BUILTIN)
    assert isinstance(node, Resource) and node.value == 1


def test_base_value_and_base_only_records() -> None:
    pack = [{"bn": "/3303/0/", "bv": 20}, {"n": "5700", "v": 1.5}, {"n": "5601", "v": -1}]
    assert {str(v.path): v.value for v in values(_json(pack, "/3303/0"))} == {
        "/3303/0/5700": 21.5,
        "/3303/0/5601": 19.0,
    }


def _series(records: object, path: str, received_ms: int | None) -> list[tuple[int | None, Value]]:
    nodes = senml_json.decode_series(json.dumps(records).encode(), Path.parse(path), BUILTIN, received_ms)
    return [(v.timestamp, v.value) for node in nodes for v in values(node)]


HISTORY = [
    {"bn": "/3303/0/5700", "bt": 1.6e9, "t": 20.25, "v": 3},
    {"t": 0, "v": 1},
    {"t": 10, "v": 2},
]


def test_a_history_becomes_one_node_a_time_oldest_first() -> None:
    assert _series(HISTORY, "/3303/0/5700", None) == [
        (1_600_000_000_000, 1.0),
        (1_600_000_010_000, 2.0),
        (1_600_000_020_250, 3.0),
    ]


def test_reading_a_history_as_one_node_gives_the_newest() -> None:
    node = _json(HISTORY, "/3303/0/5700")
    assert node == Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=3.0, timestamp=1_600_000_020_250)


def test_relative_times_are_about_the_moment_of_reception() -> None:
    pack = [
        {"n": "/3303/0/5700", "v": 1, "t": -5},
        {"n": "/3303/0/5700", "v": 2},
        {"n": "/3303/0/5700", "v": 0, "t": -9},
    ]
    assert _series(pack, "/3303/0/5700", NOW) == [(NOW - 9000, 0.0), (NOW - 5000, 1.0), (None, 2.0)]
    # Without that moment the order stays, and the times are left out.
    assert _series(pack, "/3303/0/5700", None) == [(None, 0.0), (None, 1.0), (None, 2.0)]


def test_the_limit_between_relative_and_absolute_time() -> None:
    # RFC 8428, section 4.5.3: 2**28.
    for seconds, expected in ((2**28, 2**28 * 1000), (2**28 - 1, NOW + (2**28 - 1) * 1000)):
        assert _series([{"n": "/3/0/9", "v": 1, "t": seconds}], "/3/0/9", NOW) == [(expected, 1)]


@pytest.mark.parametrize(
    "record",
    [
        {"t": 1_700_000_000_000},  # milliseconds
        {"bt": 253_402_300_800},  # the year 10000
        {"t": -NOW // 1000 - 1},  # before 1970
        {"bt": -1e15, "t": -1e15},
        {"bt": 9e15},
    ],
)
def test_a_time_that_makes_no_sense_is_refused(record: dict[str, float]) -> None:
    pack = [{"n": "/3303/0/5700", "v": 1, **record}]
    with pytest.raises(WrongValue, match="makes no sense"):
        _series(pack, "/3303/0/5700", NOW)


def test_the_newest_of_relative_times_has_its_time() -> None:
    pack = [{"bn": "/3303/0/5700", "t": -9, "v": 1}, {"t": -5, "v": 2}]
    for fmt, payload in (
        (110, json.dumps(pack).encode()),
        (112, cbor2.dumps([{-2: "/3303/0/5700", 6: -9, 2: 1}, {6: -5, 2: 2}])),
        (11543, json.dumps({"e": [{"t": -9, "v": 1}, {"t": -5, "v": 2}]}).encode()),
    ):
        assert decode(fmt, payload, Path(3303, 0, 5700), BUILTIN, received_ms=NOW) == Resource(
            path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=2.0, timestamp=NOW - 5000
        )


def test_the_same_value_at_the_same_time_twice_is_an_error() -> None:
    pack = [*HISTORY, {"t": 10, "v": 5}]
    with pytest.raises(MalformedPayload, match="twice"):
        _series(pack, "/3303/0/5700", None)
    with pytest.raises(MalformedPayload, match="twice"):
        _json(pack, "/3303/0/5700")


def test_the_root_holds_several_objects() -> None:
    pack = [{"n": "/3303/0/5700", "v": 21}, {"n": "/3/0/9", "v": 90}, {"n": "/3303/1/5700", "v": 22}]
    nodes = senml_json.decode_series(json.dumps(pack).encode(), Path(), BUILTIN)
    assert [str(node.path) for node in nodes] == ["/3", "/3303"]
    assert sum(len(values(node)) for node in nodes) == 3
    assert senml_json.decode_series(b"[]", Path(), BUILTIN) == []
    with pytest.raises(MalformedPayload, match="no single node"):
        _json(pack, "/")


def test_several_nodes_are_written_into_one_pack() -> None:
    nodes = [
        Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=21.5),
        Resource(path=Path(3, 0, 9), type=ResourceType.INTEGER, value=90),
    ]
    assert json.loads(senml_json.encode(nodes, BUILTIN)) == [
        {"bn": "/3303/0/", "n": "5700", "v": 21.5},
        {"bn": "/3/0/", "n": "9", "v": 90},
    ]


def test_names_of_values_of_several_objects_are_within_their_instance() -> None:
    # Zephyr's client takes no more than nine characters of a name, "65535/999", and writes elsewhere what is longer.
    nodes = [
        Resource(path=Path(1, 0, 1), type=ResourceType.INTEGER, value=60),
        Resource(path=Path(1, 0, 2), type=ResourceType.INTEGER, value=1),
        Resource(path=Path(3340, 0, 5521), type=ResourceType.FLOAT, value=7.5),
        Resource(path=Path(3340, 65534, 5521), type=ResourceType.FLOAT, value=8.5),
        Resource(path=Path(3, 0, 11, 999), type=ResourceType.INTEGER, value=3),
    ]
    pack = cbor2.loads(senml_cbor.encode(nodes, BUILTIN))
    assert [(record.get(-2), record[0]) for record in pack] == [
        ("/1/0/", "1"),
        (None, "2"),
        ("/3340/0/", "5521"),
        ("/3340/65534/", "5521"),
        ("/3/0/", "11/999"),
    ]
    read = [senml_cbor.decode_series(cbor2.dumps(pack), Path(), BUILTIN)]
    assert {str(value.path): value.value for node in read[0] for value in values(node)} == {
        str(node.path): node.value for node in nodes
    }


def test_a_number_that_json_does_not_have_is_not_written() -> None:
    node = Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=math.nan)
    with pytest.raises(CodecError, match="nan"):
        senml_json.encode(node, BUILTIN)
    assert cbor2.loads(senml_cbor.encode(node, BUILTIN))[0][-2] == "/3303/0/5700"


def test_types_follow_the_version_that_the_device_announced() -> None:
    old = BUILTIN.with_versions({0: "1.0"})
    assert old.object(0) != BUILTIN.object(0)
    # The ciphersuites came with version 1.1; to a device of 1.0 they are numbers of their own type.
    node = _json([{"n": "/0/0/16", "v": 1.5}], "/0/0/16", old)
    assert isinstance(node, Resource) and node.type is ResourceType.FLOAT
    with pytest.raises(WrongValue):
        _json([{"n": "/0/0/16", "v": 1.5}], "/0/0/16")
    assert isinstance(old.object(0), ObjectDefinition)
