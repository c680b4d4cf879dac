"""Records through bytes and back, and what bytes of others may do to the reader."""

from __future__ import annotations

import json
import re
import tracemalloc
from dataclasses import replace
from io import BytesIO
from pathlib import Path as File
from types import MappingProxyType
from typing import Any

import pytest
from fastavro import schemaless_reader
from hypothesis import example, given, settings
from hypothesis import strategies as st

import schemas.avro
from schemas.avro.errors import InvalidRecord, MalformedRecord, NotFramed, SerdeError, UnknownSchemaId
from schemas.avro.records import (
    CompositeBody,
    CreateRequest,
    FileRequest,
    GenericBody,
    Key,
    Link,
    Notification,
    ReadBody,
    Record,
    Registration,
    RegistrationKind,
    RegistrationUpdate,
    Request,
    RequestFormat,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    ResponsePayload,
    WriteCompositeRequest,
    WriteMode,
    WriteRequest,
)
from schemas.avro.registry import SCHEMAS
from schemas.avro.serde import decode, encode, request_from_json, request_to_json, to_json
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.path import Path
from tests.record_strategies import records, requests

# --- there and back ------------------------------------------------------------------------------------------------


@given(records)
def test_every_record_comes_back_from_its_bytes(record: Record) -> None:
    assert decode(encode(record)) == record


@given(records)
def test_every_record_has_valid_json(record: Record) -> None:
    assert json.loads(json.dumps(to_json(record), allow_nan=False)) == to_json(record)


@given(requests())
def test_every_request_comes_back_from_its_json(request: Request) -> None:
    assert request_from_json(json.dumps(request_to_json(request))) == request


FLOAT = Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=21.5)
MULTIPLE = MultipleResource(
    path=Path(3, 0, 7),
    type=ResourceType.INTEGER,
    instances=tuple(Resource(path=Path(3, 0, 7, i), type=ResourceType.INTEGER, value=3800 + i) for i in (0, 2)),
)
DEVICE = Instance(
    path=Path(3, 0),
    resources=(
        Resource(path=Path(3, 0, 0), type=ResourceType.STRING, value="ACME"),
        MULTIPLE,
        Resource(path=Path(3, 0, 13), type=ResourceType.TIME, value=1_790_000_000_123),
    ),
)


def notification(content: Node, kind: RequestKind = RequestKind.OBSERVE) -> Notification:
    assert isinstance(content, (Object, Instance, MultipleResource, Resource))
    return Notification(
        ticket="ticket#1",
        observation_id="0a0b",
        server_id="rock64",
        ep="EP",
        path=str(content.path),
        timestamp=1_790_000_000_000,
        rep=ResponsePayload(code=ResponseCode.CONTENT, kind=kind, body=ReadBody(content=content)),
    )


def request(**payload: Any) -> Request:
    every: dict[str, Any] = {"kind": RequestKind.READ, "path": "/3/0/0", **payload}
    return Request(server_id="rock64", ep="EP", ticket="ticket#2", payload=RequestPayload(**every))


def id_of(data: bytes) -> int:
    return int.from_bytes(data[1:5], "big")


#: Records that version 1 carries, with the id that each gets, and what of versions 2 and 3 makes them take another.
VERSIONS: list[tuple[Record, int]] = [
    (Key(ep="EP"), 1),
    (notification(FLOAT), 3),
    (notification(replace(FLOAT, timestamp=5)), 6),
    (notification(FLOAT, RequestKind.SEND), 6),
    (notification(DEVICE), 3),
    (notification(replace(DEVICE, resources=(replace(FLOAT, path=Path(3, 0, 1), timestamp=0),))), 6),
    (notification(Object(path=Path(3), instances=(replace(DEVICE, resources=(replace(MULTIPLE),)),))), 3),
    (
        notification(
            Object(
                path=Path(3),
                instances=(
                    Instance(
                        path=Path(3, 0),
                        resources=(replace(MULTIPLE, instances=(replace(FLOAT, path=Path(3, 0, 7, 1), timestamp=1),)),),
                    ),
                ),
            )
        ),
        6,
    ),
    (request(), 4),
    (replace(request(), expires=0), 7),
    (request(paths=("/3/0", "/4/0"), path="/"), 7),
    (request(kind=RequestKind.OBSERVE_COMPOSITE_CANCEL), 7),
    (request(content_format=RequestFormat.SENML_CBOR), 7),
    (request(body=WriteRequest(mode=WriteMode.UPDATE, node=replace(FLOAT, timestamp=1))), 7),
    (request(body=CreateRequest(instance=DEVICE)), 4),
    (
        request(
            body=CreateRequest(
                instance=Instance(path=Path(3, 0), resources=(replace(FLOAT, path=Path(3, 0, 1), timestamp=1),))
            )
        ),
        7,
    ),
    (
        Response(
            ticket="t",
            server_id="s",
            ep="e",
            path="/3",
            timestamp=1,
            rep=ResponsePayload(code=ResponseCode.NOT_FOUND, kind=RequestKind.READ, body=GenericBody(message="no")),
        ),
        5,
    ),
    (
        Response(
            ticket="t",
            server_id="s",
            ep="e",
            path="/",
            timestamp=1,
            rep=ResponsePayload(code=ResponseCode.CHANGED, kind=RequestKind.WRITE_COMPOSITE),
        ),
        8,
    ),
    (request(content_format=RequestFormat.LWM2M_CBOR), 13),
    (request(kind=RequestKind.WRITE_COMPOSITE, path="/", body=WriteCompositeRequest(resources=(FLOAT,))), 13),
    (request(kind=RequestKind.WRITE, path="/5/0/0", body=FileRequest(sha256="0" * 64, size=9, name="f")), 13),
    (
        Response(
            ticket="t",
            server_id="s",
            ep="e",
            path="/",
            timestamp=1,
            rep=ResponsePayload(
                code=ResponseCode.CONTENT, kind=RequestKind.READ_COMPOSITE, body=CompositeBody(resources=(FLOAT,))
            ),
        ),
        14,
    ),
]


@pytest.mark.parametrize(("record", "schema_id"), VERSIONS)
def test_oldest_version_that_carries_the_record_is_written(record: Record, schema_id: int) -> None:
    data = encode(record)
    assert data[0] == 0
    assert id_of(data) == schema_id
    assert decode(data) == record


def test_a_notification_is_of_one_node() -> None:
    told = replace(notification(FLOAT), rep=ResponsePayload(
        code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE_COMPOSITE, body=CompositeBody(resources=(FLOAT,))
    ))  # fmt: skip
    with pytest.raises(InvalidRecord):
        encode(told)


def test_bytes_of_a_notification_are_these() -> None:
    # Held by hand against the Avro specification: strings, zig-zag time, enum CONTENT 3, observe 4, the branches.
    assert encode(replace(notification(FLOAT), timestamp=64)) == (
        b"\0\0\0\0\3"
        b"\x10ticket#1" b"\x080a0b" b"\x0crock64" b"\x04EP" b"\x18/3303/0/5700"
        b"\x80\x01"
        b"\x06" b"\x08" b"\x02" b"\x04"
        b"\x88\x59" b"\x18/3303/0/5700" b"\x06" b"\x02"
        b"\x02" b"\x00\x00\x00\x00\x00\x80\x35\x40"
    )  # fmt: skip


def test_a_consumer_decodes_by_the_id_alone() -> None:
    data = encode(notification(DEVICE))
    folder = File(schemas.avro.__file__).parent
    (row,) = [row for row in json.loads((folder / "ids.json").read_text()) if row["id"] == id_of(data)]
    read: Any = schemaless_reader(BytesIO(data[5:]), json.loads((folder / row["file"]).read_text()), None)
    content = read["rep"]["body"]["content"]
    assert content["kind"] == "INSTANCE"
    assert content["resources"][1] == {
        "id": 13,
        "path": "/3/0/13",
        "kind": "SINGLE_RESOURCE",
        "type": "TIME",
        "value": 1_790_000_000_123,
    }
    assert {key: one["value"] for key, one in content["multipleResources"][0]["resources"].items()} == {
        "0": 3800,
        "2": 3802,
    }


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        (ResourceType.OPAQUE, b"\x00\xff", "AP8="),
        (ResourceType.TIME, 1_790_000_000_123, 1_790_000_000_123),
        (ResourceType.OBJLNK, ObjectLink(65535, 65535), "65535:65535"),
        (ResourceType.FLOAT, 3, 3.0),
        (ResourceType.INTEGER, 3, 3),
        (ResourceType.BOOLEAN, True, True),
        (ResourceType.STRING, "3", "3"),
    ],
)
def test_values_are_written_as_the_contract_says(kind: ResourceType, value: Value, written: object) -> None:
    record = notification(Resource(path=Path(9, 0, 1), type=kind, value=value))
    found = to_json(record)["rep"]["body"]["content"]["value"]
    assert found == written
    assert type(found) is type(written)
    data = encode(record)
    read: Any = schemaless_reader(BytesIO(data[5:]), SCHEMAS[id_of(data)].parsed, None)
    assert read["rep"]["body"]["content"]["value"] == written
    assert type(read["rep"]["body"]["content"]["value"]) is type(written)


def test_json_is_plain_and_shows_no_unset_field_of_version_2() -> None:
    assert to_json(notification(FLOAT)) == {
        "ticket": "ticket#1",
        "observationId": "0a0b",
        "serverId": "rock64",
        "ep": "EP",
        "path": "/3303/0/5700",
        "timestamp": 1_790_000_000_000,
        "rep": {
            "code": "CONTENT",
            "kind": "observe",
            "body": {
                "content": {
                    "id": 5700,
                    "path": "/3303/0/5700",
                    "kind": "SINGLE_RESOURCE",
                    "type": "FLOAT",
                    "value": 21.5,
                }
            },
        },
    }
    assert to_json(notification(replace(FLOAT, timestamp=7)))["rep"]["body"]["content"]["timestamp"] == 7
    assert to_json(request(paths=("/3", "/4")))["paths"] == ["/3", "/4"]
    for number, text in ((float("nan"), "NaN"), (float("-inf"), "-Infinity")):
        assert to_json(notification(replace(FLOAT, value=number)))["rep"]["body"]["content"]["value"] == text


def test_mappings_that_are_no_dict_are_written() -> None:
    link = Link(url="/3/0", at=MappingProxyType({"ver": "1.1"}))
    update = RegistrationUpdate(
        ep="e", server_id="s", reg_id="r", address="a", port=1, last_up=1, links=(link,), attributes=link.at
    )
    back = decode(encode(Registration(kind=RegistrationKind.UPDATE, body=update)))
    assert isinstance(back, Registration)
    assert back.body == replace(update, links=(Link(url="/3/0", at={"ver": "1.1"}),), attributes={"ver": "1.1"})


# --- where an instance belongs -------------------------------------------------------------------------------------


def test_instance_takes_its_object_from_its_resources_not_from_the_record() -> None:
    record = replace(notification(DEVICE), path="/")
    assert decode(encode(record)) == record


def test_empty_instance_takes_its_object_from_the_path_of_the_record() -> None:
    record = notification(Instance(path=Path(3303, 1)))
    assert decode(encode(record)) == record
    with pytest.raises(MalformedRecord, match="object"):
        decode(encode(replace(record, path="/")))


def test_resource_outside_of_its_instance_is_refused() -> None:
    stray = Instance(path=Path(1, 0), resources=(Resource(path=Path(3, 0, 1), type=ResourceType.STRING, value=""),))
    with pytest.raises(MalformedRecord, match="/3/0/1"):
        decode(encode(notification(Object(path=Path(1), instances=(stray,)))))


# --- what cannot be written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        notification(replace(FLOAT, type=ResourceType.INTEGER, value=2**63)),
        notification(replace(FLOAT, type=ResourceType.TIME, value=-(2**63) - 1)),
        notification(replace(FLOAT, type=ResourceType.INTEGER, value=1.0)),
        notification(replace(FLOAT, type=ResourceType.INTEGER, value=True)),
        notification(replace(FLOAT, type=ResourceType.BOOLEAN, value=1)),
        notification(replace(FLOAT, type=ResourceType.STRING, value=1)),
        notification(replace(FLOAT, type=ResourceType.STRING, value="\ud800")),
        notification(replace(FLOAT, type=ResourceType.OPAQUE, value="AA==")),
        notification(replace(FLOAT, type=ResourceType.OBJLNK, value="1:0")),
        notification(replace(FLOAT, value="21.5")),
        notification(replace(FLOAT, value=10**400)),
        notification(replace(FLOAT, path=Path(3303, 0))),
        notification(replace(FLOAT, timestamp=2**63)),
        replace(notification(FLOAT), timestamp=2**63),
        replace(request(), expires=-(2**63) - 1),
        Key(ep="\udfff"),
        Registration(
            kind=RegistrationKind.UPDATE,
            body=RegistrationUpdate(ep="e", server_id="s", reg_id="r", address="a", port=2**31, last_up=1),
        ),
    ],
)
def test_what_does_not_fit_is_refused(record: Record) -> None:
    with pytest.raises(InvalidRecord):
        encode(record)


# --- bytes of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [record for record, _ in VERSIONS])
def test_record_that_is_cut_anywhere_is_refused(record: Record) -> None:
    data = encode(record)
    for end in range(len(data)):
        with pytest.raises(NotFramed if end < 5 else MalformedRecord):
            decode(data[:end])


@pytest.mark.parametrize("record", [record for record, _ in VERSIONS])
def test_what_is_said_of_bad_bytes_is_the_same_each_time(record: Record) -> None:
    def said(data: bytes) -> str:
        with pytest.raises(MalformedRecord) as caught:
            decode(data)
        return str(caught.value)

    data = encode(record)
    for end in range(5, len(data)):
        text = said(data[:end])
        # Both of them alive, so that nothing of the second stands where something of the first stood.
        kept = (said(data[:end]), said(data[:end]))
        assert set(kept) == {text}
        assert re.search(r"^schema id \d+: .*, at byte \d+ of \d+$", text), text
        assert " object at 0x" not in text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\0\0\0\0\x01\x04E", "schema id 1: it ends too early, or a length in it is wrong, at byte 7 of 7"),
        (b"\0\0\0\0\x01\x04\xff\xff", "schema id 1: a text in it is no UTF-8, at byte 8 of 8"),
    ],
)
def test_what_is_wrong_with_bytes_is_said(data: bytes, says: str) -> None:
    with pytest.raises(MalformedRecord) as caught:
        decode(data)
    assert str(caught.value) == says


def test_bytes_after_the_record_are_refused() -> None:
    with pytest.raises(MalformedRecord, match="1 bytes too many"):
        decode(encode(Key(ep="EP")) + b"\0")


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"\x01\0\0\0\x01\x04EP", b'{"ep": "EP"}'])
def test_bytes_without_frame_are_refused(data: bytes) -> None:
    with pytest.raises(NotFramed):
        decode(data)


@pytest.mark.parametrize("schema_id", [0, 1_000_000, 2**32 - 1])
def test_id_that_is_not_pinned_is_refused(schema_id: int) -> None:
    with pytest.raises(UnknownSchemaId, match=str(schema_id)) as caught:
        decode(b"\0" + schema_id.to_bytes(4, "big") + b"\x04EP")
    assert caught.value.schema_id == schema_id


def varint(number: int) -> bytes:
    left, out = number << 1 ^ number >> 63, bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*out, left])


COMPOSITE = b"\0\0\0\0\x07" + b"\x02s\x02e\x02t" + b"\x00" + b"\x02/" + b"\x00" + b"\x00"


@pytest.mark.parametrize("length", [2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**40), -(2**63)])
@pytest.mark.parametrize(
    "front",
    [
        pytest.param(b"\0\0\0\0\x01", id="text"),
        pytest.param(COMPOSITE, id="array"),
        pytest.param(encode(notification(replace(MULTIPLE, instances=())))[:-1], id="map"),
    ],
)
def test_lying_length_fails_without_taking_memory(front: bytes, length: int) -> None:
    data = front + varint(length) + b"\x04EP"
    tracemalloc.start()
    try:
        with pytest.raises(MalformedRecord):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


@pytest.mark.parametrize(
    ("kind", "branch", "value"),
    [
        ("FLOAT", "string", "x"),
        ("INTEGER", "double", 1.5),
        ("BOOLEAN", "long", 1),
        ("OPAQUE", "string", "no base64!"),
        ("OBJLNK", "string", "1"),
        ("OBJLNK", "string", "1:65536"),
        ("TIME", "string", "now"),
    ],
)
def test_value_that_is_not_of_its_type_is_refused(kind: str, branch: str, value: object) -> None:
    data = encode(notification(FLOAT))
    types = ["STRING", "FLOAT", "INTEGER", "BOOLEAN", "OPAQUE", "TIME", "OBJLNK"]
    written = {
        "string": lambda: b"\0" + varint(len(str(value))) + str(value).encode(),
        "double": lambda: b"\x02" + data[-8:],
        "long": lambda: b"\x04" + varint(1),
    }[branch]()
    with pytest.raises(MalformedRecord, match=kind):
        decode(data[:-10] + varint(types.index(kind)) + written)


@given(st.binary(max_size=60), st.sampled_from(sorted(SCHEMAS)))
@example(b"\xff" * 30, 4)
def test_no_other_error_escapes_for_any_bytes(data: bytes, schema_id: int) -> None:
    for framed in (data, b"\0" + schema_id.to_bytes(4, "big") + data):
        try:
            record = decode(framed)
        except SerdeError:
            continue
        assert decode(encode(record)) is not None  # what is read can be written


@settings(max_examples=200)
@given(records, st.data())
def test_no_other_error_escapes_for_a_record_with_wrong_bytes(record: Record, data: st.DataObject) -> None:
    mangled = bytearray(encode(record))
    for _ in range(data.draw(st.integers(1, 4))):
        mangled[data.draw(st.integers(5, len(mangled) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode(bytes(mangled))
    except SerdeError:
        return
    assert decode(encode(read)) is not None
