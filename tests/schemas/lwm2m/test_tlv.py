"""TLV: the examples of OMA LwM2M Core 1.1, section 7.4.3, and what devices get wrong."""

import math
import struct

import pytest

from schemas.lwm2m import tlv
from schemas.lwm2m.errors import CodecError, MalformedPayload, NotInThisFormat, WrongPath, WrongValue
from schemas.lwm2m.nodes import (
    Instance,
    MultipleResource,
    Object,
    ObjectLink,
    Resource,
    ResourceType,
    Value,
    values,
)
from schemas.lwm2m.objects import Definitions, ObjectDefinition, ResourceDefinition
from schemas.lwm2m.path import Path

BUILTIN = Definitions.builtin()

#: Tables 7.4.3.2-1 (with the entry of the instance) and 7.4.3.1-1.
DEVICE = bytes.fromhex(
    "C800144F70656E204D6F62696C6520416C6C69616E6365C801164C69676874776569676874204D324D20436C69656E74"
    "C80209333435303030313233C303312E30860641000141010588070842000ED842011388870841007D42010384C10964"
    "C10A0F830B410000C40D5182428FC60E2B30323A3030C11055"
)
#: Table 7.4.3.2-2: two instances of Access Control.
ACCESS = bytes.fromhex("08000EC10001C101008302417F07C1037F080212C10003C101008702417F0761013601C1037F")
#: Table 7.4.3.2-3: one instance of the Server object.
SERVER = bytes.fromhex("08000FC10001C40100015180C10601C10755")
#: Section 7.4.3.3: links between objects 65 and 66.
OBJECT_65 = bytes.fromhex("88000C440000420000440100420001C8010D38363133383030373535353030C40212345678")
LINKS = Definitions(
    [
        ObjectDefinition(
            id=65,
            name="Example 65",
            version="1.0",
            multiple=True,
            mandatory=False,
            resources={
                i: ResourceDefinition(
                    id=i, name=f"Res {i}", operations=frozenset(), multiple=i == 0, mandatory=True, type=kind
                )
                for i, kind in enumerate((ResourceType.OBJLNK, ResourceType.STRING, ResourceType.INTEGER))
            },
        )
    ]
)


def _values(payload: bytes, path: str, definitions: Definitions = BUILTIN) -> dict[str, Value]:
    return {str(v.path): v.value for v in values(tlv.decode(payload, Path.parse(path), definitions))}


def test_the_device_object_of_the_specification() -> None:
    assert _values(DEVICE, "/3/0") == {
        "/3/0/0": "Open Mobile Alliance",
        "/3/0/1": "Lightweight M2M Client",
        "/3/0/2": "345000123",
        "/3/0/3": "1.0",
        "/3/0/6/0": 1,
        "/3/0/6/1": 5,
        "/3/0/7/0": 3800,
        "/3/0/7/1": 5000,
        "/3/0/8/0": 125,
        "/3/0/8/1": 900,
        "/3/0/9": 100,
        "/3/0/10": 15,
        "/3/0/11/0": 0,
        "/3/0/13": 1367491215000,
        "/3/0/14": "+02:00",
        "/3/0/16": "U",
    }


def test_multiple_instances_of_the_specification() -> None:
    assert _values(ACCESS, "/2") == {
        "/2/0/0": 1,
        "/2/0/1": 0,
        "/2/0/2/127": 7,
        "/2/0/3": 127,
        "/2/2/0": 3,
        "/2/2/1": 0,
        "/2/2/2/127": 7,
        "/2/2/2/310": 1,
        "/2/2/3": 127,
    }


def test_the_server_object_of_the_specification() -> None:
    assert _values(SERVER, "/1") == {"/1/0/0": 1, "/1/0/1": 86400, "/1/0/6": True, "/1/0/7": "U"}


def test_object_links_of_the_specification() -> None:
    assert _values(OBJECT_65, "/65/0", LINKS) == {
        "/65/0/0/0": ObjectLink(66, 0),
        "/65/0/0/1": ObjectLink(66, 1),
        "/65/0/1": "8613800755500",
        "/65/0/2": 0x12345678,
    }


@pytest.mark.parametrize(
    ("payload", "path", "definitions"),
    [(DEVICE, "/3/0", BUILTIN), (ACCESS, "/2", BUILTIN), (SERVER, "/1", BUILTIN), (OBJECT_65, "/65/0", LINKS)],
)
def test_the_examples_are_written_byte_for_byte(payload: bytes, path: str, definitions: Definitions) -> None:
    assert tlv.encode(tlv.decode(payload, Path.parse(path), definitions), definitions) == payload


@pytest.mark.parametrize(
    ("payload", "path", "definitions"),
    [(DEVICE, "/3/0", BUILTIN), (ACCESS, "/2", BUILTIN), (SERVER, "/1", BUILTIN), (OBJECT_65, "/65/0", LINKS)],
)
def test_a_payload_cut_anywhere_is_an_error_or_holds_whole_values_only(
    payload: bytes, path: str, definitions: Definitions
) -> None:
    whole = set(values(tlv.decode(payload, Path.parse(path), definitions)))
    errors = 0
    for end in range(len(payload)):
        try:
            node = tlv.decode(payload[:end], Path.parse(path), definitions)
        except CodecError:
            errors += 1
        else:
            assert set(values(node)) < whole
    assert errors > len(payload) / 2


def test_an_instance_is_understood_with_and_without_its_entry() -> None:
    wrapped = bytes.fromhex("080079") + DEVICE
    assert tlv.decode(wrapped, Path(3, 0), BUILTIN) == tlv.decode(DEVICE, Path(3, 0), BUILTIN)


def test_a_single_instance_object_may_leave_out_the_entry_of_its_instance() -> None:
    node = tlv.decode(DEVICE, Path(3), BUILTIN)
    assert node == Object(path=Path(3), instances=(tlv.decode(DEVICE, Path(3, 0), BUILTIN),))  # type: ignore[arg-type]  # an Instance


def test_a_multiple_instance_object_may_not() -> None:
    with pytest.raises(MalformedPayload, match="/3303"):
        tlv.decode(bytes.fromhex("E4164441AC0000"), Path(3303), BUILTIN)


def test_a_resource() -> None:
    node = tlv.decode(bytes.fromhex("E4164441AC0000"), Path(3303, 0, 5700), BUILTIN)
    assert node == Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=21.5)


@pytest.mark.parametrize("payload", ["8606410001410105", "410001410105"])
def test_a_multiple_resource_with_and_without_its_entry(payload: str) -> None:
    node = tlv.decode(bytes.fromhex(payload), Path(3, 0, 6), BUILTIN)
    assert isinstance(node, MultipleResource)
    assert node.type is ResourceType.INTEGER
    assert [(str(i.path), i.value) for i in node.instances] == [("/3/0/6/0", 1), ("/3/0/6/1", 5)]


@pytest.mark.parametrize("payload", ["8306410105", "410105"])
def test_a_resource_instance_with_and_without_the_entry_of_its_resource(payload: str) -> None:
    node = tlv.decode(bytes.fromhex(payload), Path(3, 0, 6, 1), BUILTIN)
    assert node == Resource(path=Path(3, 0, 6, 1), type=ResourceType.INTEGER, value=5)


def test_a_resource_wrapped_into_its_instance_is_understood() -> None:
    node = tlv.decode(bytes.fromhex("0300C10964"), Path(3, 0, 9), BUILTIN)
    assert node == Resource(path=Path(3, 0, 9), type=ResourceType.INTEGER, value=100)


def test_instances_and_resources_come_out_by_ascending_id() -> None:
    node = tlv.decode(bytes.fromhex("C10A0FC10964"), Path(3, 0), BUILTIN)
    assert isinstance(node, Instance)
    assert [r.path.resource_id for r in node.resources] == [9, 10]


def test_an_empty_payload_is_no_instances_or_no_resources_but_never_a_value() -> None:
    assert tlv.decode(b"", Path(3303), BUILTIN) == Object(path=Path(3303))
    assert tlv.decode(b"", Path(3303, 0), BUILTIN) == Instance(path=Path(3303, 0))
    assert tlv.decode(b"", Path(3, 0, 6), BUILTIN) == MultipleResource(path=Path(3, 0, 6), type=ResourceType.INTEGER)
    for path in (Path(3303, 0, 5700), Path(3, 0, 6, 1), Path(60000, 0, 1)):
        with pytest.raises(MalformedPayload, match="none"):
            tlv.decode(b"", path, BUILTIN)


def test_what_no_definition_knows_is_opaque() -> None:
    node = tlv.decode(bytes.fromhex("C2FF0102 83FE 41000A"), Path(60000, 0), BUILTIN)
    assert node == Instance(
        path=Path(60000, 0),
        resources=(
            MultipleResource(
                path=Path(60000, 0, 254),
                type=ResourceType.OPAQUE,
                instances=(Resource(path=Path(60000, 0, 254, 0), type=ResourceType.OPAQUE, value=b"\x0a"),),
            ),
            Resource(path=Path(60000, 0, 255), type=ResourceType.OPAQUE, value=b"\x01\x02"),
        ),
    )


@pytest.mark.parametrize(
    ("payload", "path", "error", "words"),
    [
        ("C10A0F", "/3/0/9", WrongPath, "/3/0/10"),
        ("410005", "/3/0/6/1", WrongPath, "/3/0/6/0"),
        ("0803 03C10964", "/3/0", WrongPath, "/3/3"),
        ("0300C1096401 00", "/3/0", MalformedPayload, "announces 1 bytes, but 0"),
        ("C10964C10964", "/3/0", MalformedPayload, "/3/0/9 twice"),
        ("8606410001410005", "/3/0/6", MalformedPayload, "/3/0/6/0 twice"),
        ("0300C109640300C10964", "/3", MalformedPayload, "/3/0 twice"),
        ("0300C109640301C10964", "/3/0", MalformedPayload, "more than one object instance"),
        ("C10964C10A0F", "/3/0/9", MalformedPayload, "more than one resource"),
        ("0300C10964C10964", "/3", MalformedPayload, "among object instances"),
        ("C109640300C10964", "/3/0", MalformedPayload, "an object instance"),
        ("8306C10005", "/3/0/6", MalformedPayload, "among the instances"),
        ("41000141000AC10A0F", "/3/0/6", MalformedPayload, "among the instances|twice"),
        ("C4096400", "/3/0/9", MalformedPayload, "announces 4 bytes, but 2"),
        ("C809", "/3/0/9", MalformedPayload, "ends within"),
        ("D8090000", "/3/0/9", MalformedPayload, "ends within"),
        ("E1", "/3/0/9", MalformedPayload, "ends within"),
        ("C3096400FF", "/3/0/9", WrongValue, "INTEGER, which has 1, 2, 4 or 8 bytes"),
        ("C009", "/3/0/9", WrongValue, "0 came"),
        ("E21644 41AC", "/3303/0/5700", WrongValue, "FLOAT, which has 4 or 8 bytes"),
        ("C30D000001", "/3/0/13", WrongValue, "TIME"),
        ("C80D087FFFFFFFFFFFFFFF", "/3/0/13", WrongValue, "out of range"),
        ("C10602", "/1/0/6", WrongValue, "0 or 1"),
        ("C2060001", "/1/0/6", WrongValue, "BOOLEAN"),
        ("C300C328FF", "/3/0/0", WrongValue, "UTF-8"),
        ("C20D0001", "/2/0/0", WrongPath, "/2/0/13"),
        ("C3 00 000000", "/9/0/11", WrongPath, "/9/0/0"),
    ],
)
def test_what_is_wrong_is_said(payload: str, path: str, error: type[CodecError], words: str) -> None:
    with pytest.raises(error, match=words):
        tlv.decode(bytes.fromhex(payload), Path.parse(path), BUILTIN)


def test_an_object_link_has_four_bytes() -> None:
    with pytest.raises(WrongValue, match="OBJLNK"):
        tlv.decode(bytes.fromhex("8304410001"), Path(65, 0, 4), Definitions([_link_object()]))


def test_the_root_cannot_be_read_in_tlv() -> None:
    with pytest.raises(NotInThisFormat, match="SenML"):
        tlv.decode(DEVICE, Path(), BUILTIN)


def _link_object() -> ObjectDefinition:
    link = ResourceDefinition(
        id=4, name="Link", operations=frozenset(), multiple=True, mandatory=False, type=ResourceType.OBJLNK
    )
    return ObjectDefinition(id=65, name="X", version="1.0", multiple=False, mandatory=False, resources={4: link})


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 1), (127, 1), (128, 2), (-128, 1), (-129, 2), (32767, 2), (32768, 4), (-32769, 4),
        (2**31 - 1, 4), (2**31, 8), (-(2**31), 4), (-(2**31) - 1, 8), (2**63 - 1, 8), (-(2**63), 8),
    ],
)  # fmt: skip
def test_integers_take_the_fewest_bytes(value: int, size: int) -> None:
    node = Resource(path=Path(3, 0, 9), type=ResourceType.INTEGER, value=value)
    payload = tlv.encode(node, BUILTIN)
    assert payload == bytes([0xC0 | (size if size < 8 else 8), 9]) + (b"\x08" if size == 8 else b"") + value.to_bytes(
        size, "big", signed=True
    )
    assert tlv.decode(payload, Path(3, 0, 9), BUILTIN) == node


def test_unsigned_integers_have_no_sign_bit() -> None:
    # /0/0/16 DTLS/TLS Ciphersuite.
    node = Resource(path=Path(0, 0, 16, 0), type=ResourceType.INTEGER, value=0xC0A8)
    assert tlv.encode(node, BUILTIN) == bytes.fromhex("4200C0A8")
    assert tlv.decode(bytes.fromhex("4200C0A8"), Path(0, 0, 16, 0), BUILTIN) == node
    with pytest.raises(WrongValue, match="64 bit"):
        tlv.decode(bytes.fromhex("480008FFFFFFFFFFFFFFFF"), Path(0, 0, 16, 0), BUILTIN)
    with pytest.raises(WrongValue, match="below 0"):
        tlv.encode(Resource(path=Path(0, 0, 16, 0), type=ResourceType.INTEGER, value=-1), BUILTIN)


@pytest.mark.parametrize(("value", "size"), [(21.5, 4), (22.4, 8), (1e300, 8), (math.inf, 4), (-0.0, 4)])
def test_floats_take_eight_bytes_only_where_four_would_lose_something(value: float, size: int) -> None:
    payload = tlv.encode(Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=value), BUILTIN)
    assert payload.endswith(struct.pack(">f" if size == 4 else ">d", value))
    assert tlv.decode(payload, Path(3303, 0, 5700), BUILTIN) == Resource(
        path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=value
    )


def test_a_device_may_report_that_a_float_is_not_a_number() -> None:
    node = tlv.decode(bytes.fromhex("E416447FC00000"), Path(3303, 0, 5700), BUILTIN)
    assert isinstance(node, Resource) and isinstance(node.value, float)
    assert math.isnan(node.value)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 255, 256, 65535, 65536])
@pytest.mark.parametrize("an_id", [0, 255, 256, 65535])
def test_every_width_of_length_and_id(length: int, an_id: int) -> None:
    node = Resource(path=Path(60000, 0, an_id), type=ResourceType.OPAQUE, value=b"x" * length)
    payload = tlv.encode(node, BUILTIN)
    assert tlv.decode(payload, node.path, BUILTIN) == node
    widths = (2 if an_id > 255 else 1) + (0 if length < 8 else (length.bit_length() + 7) // 8)
    assert len(payload) == 1 + widths + length


def test_a_value_that_is_too_long_is_refused() -> None:
    node = Resource(path=Path(60000, 0, 0), type=ResourceType.OPAQUE, value=bytes(0x1000000))
    with pytest.raises(NotInThisFormat, match="too long"):
        tlv.encode(node, BUILTIN)


def test_time_is_written_in_whole_seconds() -> None:
    node = Resource(path=Path(3, 0, 13), type=ResourceType.TIME, value=1367491215999)
    assert tlv.encode(node, BUILTIN) == bytes.fromhex("C40D5182428F")
