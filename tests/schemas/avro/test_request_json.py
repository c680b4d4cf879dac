"""Requests as people and console producers write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro.errors import InvalidRequest
from schemas.avro.records import (
    CreateRequest,
    ExecuteRequest,
    FileRequest,
    Request,
    RequestBody,
    RequestFormat,
    RequestKind,
    RequestPayload,
    WriteAttributesRequest,
    WriteCompositeRequest,
    WriteMode,
    WriteRequest,
)
from schemas.avro.serde import decode, encode, request_from_json, request_to_json
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, ObjectLink, Resource, ResourceType
from schemas.lwm2m.path import Path

#: The contract's six, letter by letter, and what they mean.
VERBATIM: list[tuple[str, Request]] = [
    (
        '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#1", "payload": {"kind": "observe", "path": "/3303/0/5700", "contentFormat": "TLV", "body": null}}',  # noqa: E501
        Request(
            server_id="rock64",
            ep="EP",
            ticket="ticket#1",
            payload=RequestPayload(kind=RequestKind.OBSERVE, path="/3303/0/5700"),
        ),
    ),
    (
        '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#1", "payload": {"kind": "observeCancel", "path": "/3303/0/5700", "contentFormat": "TLV", "body": null}}',  # noqa: E501
        Request(
            server_id="rock64",
            ep="EP",
            ticket="ticket#1",
            payload=RequestPayload(kind=RequestKind.OBSERVE_CANCEL, path="/3303/0/5700"),
        ),
    ),
    (
        '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#2", "payload": {"kind": "read", "path": "/3/0/0", "contentFormat": "TLV", "body": null}}',  # noqa: E501
        Request(
            server_id="rock64",
            ep="EP",
            ticket="ticket#2",
            payload=RequestPayload(kind=RequestKind.READ, path="/3/0/0"),
        ),
    ),
    (
        '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#3", "payload": {"kind": "read", "path": "/1/0/6", "contentFormat": "TLV", "body": null}}',  # noqa: E501
        Request(
            server_id="rock64",
            ep="EP",
            ticket="ticket#3",
            payload=RequestPayload(kind=RequestKind.READ, path="/1/0/6"),
        ),
    ),
    (
        '{"serverId": "rock64", "ep": "EP", "ticket": "ticket#4", "payload": {"kind": "write", "path": "/1/0/6", "contentFormat": "TLV", "body": {"io.zeelos.leshan.avro.request.AvroWriteRequest": {"mode": "REPLACE", "node": {"io.zeelos.leshan.avro.resource.AvroResource": {"id": 6, "path": "/1/0/6", "kind": "SINGLE_RESOURCE", "type": "BOOLEAN", "value": {"boolean": false}}}}}}}',  # noqa: E501
        Request(
            server_id="rock64",
            ep="EP",
            ticket="ticket#4",
            payload=RequestPayload(
                kind=RequestKind.WRITE,
                path="/1/0/6",
                body=WriteRequest(
                    mode=WriteMode.REPLACE,
                    node=Resource(path=Path(1, 0, 6), type=ResourceType.BOOLEAN, value=False),
                ),
            ),
        ),
    ),
    (
        '{"serverId": "server1", "ep": "EP", "ticket": "ticket#5", "payload": {"kind": "execute", "path": "/3/0/4", "contentFormat": "TLV", "body": {"io.zeelos.leshan.avro.request.AvroExecuteRequest": {"parameters": "param1,param2"}}}}',  # noqa: E501
        Request(
            server_id="server1",
            ep="EP",
            ticket="ticket#5",
            payload=RequestPayload(
                kind=RequestKind.EXECUTE, path="/3/0/4", body=ExecuteRequest(parameters="param1,param2")
            ),
        ),
    ),
]


@pytest.mark.parametrize(("text", "request_"), VERBATIM)
def test_requests_of_the_contract_work_letter_by_letter(text: str, request_: Request) -> None:
    assert request_from_json(text) == request_
    assert request_from_json(text.encode()) == request_
    assert request_from_json(json.loads(text)) == request_
    assert request_to_json(request_) == json.loads(text)
    data = encode(request_)
    assert data[:5] == b"\0\0\0\0\4"
    assert decode(data) == request_


def form(**payload: Any) -> dict[str, Any]:
    return {"ep": "EP", "ticket": "t", "payload": {"kind": "write", "path": "/1/0/6", **payload}}


def body_of(**payload: Any) -> RequestBody | None:
    return request_from_json(form(**payload)).payload.body


WRITE = WriteRequest(mode=WriteMode.REPLACE, node=Resource(path=Path(1, 0, 6), type=ResourceType.BOOLEAN, value=False))


@pytest.mark.parametrize(
    "body",
    [
        {"AvroWriteRequest": {"mode": "REPLACE", "node": {"AvroResource": {"type": "BOOLEAN", "value": False}}}},
        {"mode": "REPLACE", "node": {"id": 6, "type": "BOOLEAN", "value": {"boolean": False}}},
        {"node": {"value": {"boolean": False}}},
        {"node": {"path": "1/0/6", "kind": "SINGLE_RESOURCE", "type": "BOOLEAN", "value": False}},
    ],
)
def test_what_is_plain_may_be_left_away(body: dict[str, Any]) -> None:
    assert body_of(body=body) == WRITE


def test_missing_server_format_and_body_are_informative_tlv_and_null() -> None:
    request = request_from_json({"ep": "EP", "ticket": "t", "payload": {"kind": "read", "path": "3/0"}})
    assert request == Request(
        server_id="", ep="EP", ticket="t", payload=RequestPayload(kind=RequestKind.READ, path="3/0")
    )
    assert request.payload.content_format is RequestFormat.TLV


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("FLOAT", 5, 5.0),
        ("FLOAT", {"double": 5}, 5.0),
        ("INTEGER", {"int": 5}, 5),
        ("TIME", {"long": 1_790_000_000_000}, 1_790_000_000_000),
        ("OPAQUE", "AP8=", b"\x00\xff"),
        ("OBJLNK", {"string": "3:0"}, ObjectLink(3, 0)),
        ("STRING", "5", "5"),
    ],
)
def test_plain_values_are_taken_by_their_type(kind: str, value: object, expected: object) -> None:
    body = body_of(body={"node": {"type": kind, "value": value}})
    assert isinstance(body, WriteRequest)
    assert isinstance(body.node, Resource)
    assert body.node.value == expected
    assert type(body.node.value) is type(expected)


def test_instance_with_multiple_resources_is_read_with_or_without_branches() -> None:
    inner = [{"id": 7, "type": "INTEGER", "resources": {"1": {"value": {"long": 3}}, "0": {"value": {"long": 2}}}}]
    expected = Instance(
        path=Path(3, 0),
        resources=(
            Resource(path=Path(3, 0, 1), type=ResourceType.STRING, value="x"),
            MultipleResource(
                path=Path(3, 0, 7),
                type=ResourceType.INTEGER,
                instances=(
                    Resource(path=Path(3, 0, 7, 0), type=ResourceType.INTEGER, value=2),
                    Resource(path=Path(3, 0, 7, 1), type=ResourceType.INTEGER, value=3),
                ),
            ),
        ),
    )
    for multiple in (inner, {"array": inner}):
        node = {"resources": [{"id": 1, "value": {"string": "x"}}], "multipleResources": multiple}
        body = body_of(path="/3/0", body={"mode": "UPDATE", "node": node})
        assert body == WriteRequest(mode=WriteMode.UPDATE, node=expected)
        whole = {"id": 3, "instances": [{"id": 0, **node}]}
        assert body_of(path="/3", body={"node": whole}) == WriteRequest(
            mode=WriteMode.REPLACE, node=Object(path=Path(3), instances=(expected,))
        )


def test_create_and_attributes_are_read() -> None:
    instance = {"id": 1, "resources": [{"id": 5701, "type": "STRING", "value": "Cel"}]}
    assert body_of(kind="create", path="/3303", body={"instance": instance}) == CreateRequest(
        instance=Instance(
            path=Path(3303, 1),
            resources=(Resource(path=Path(3303, 1, 5701), type=ResourceType.STRING, value="Cel"),),
        )
    )
    assert body_of(kind="create", path="/3303", body={"instance": {**instance, "id": -1}}) == CreateRequest(
        instance=Instance(
            path=Path(3303, 65535),
            resources=(Resource(path=Path(3303, 65535, 5701), type=ResourceType.STRING, value="Cel"),),
        )
    )
    assert body_of(
        kind="writeAttributes", body={"AvroWriteAttributesRequest": {"observeSpec": "pmin=1"}}
    ) == WriteAttributesRequest(observe_spec="pmin=1")


@pytest.mark.parametrize(
    "body",
    [
        {"resources": [{"path": "/3/0/14", "value": "+02"}, {"path": "/1/0/1", "value": 60, "type": "INTEGER"}]},
        {
            "AvroWriteCompositeRequest": {
                "resources": [
                    {
                        "id": 14,
                        "path": "/3/0/14",
                        "kind": "SINGLE_RESOURCE",
                        "type": "STRING",
                        "value": {"string": "+02"},
                    },
                    {"path": "/1/0/1", "value": {"long": 60}},
                ]
            }
        },
    ],
)
def test_a_composite_write_names_each_resource_by_its_path(body: dict[str, Any]) -> None:
    body = json.loads(json.dumps(body).replace('"value": "+02"}', '"value": "+02", "type": "STRING"}'))
    source = {"ep": "EP", "ticket": "t", "payload": {"kind": "writeComposite", "body": body}}
    request = request_from_json(source)
    assert request.payload == RequestPayload(
        kind=RequestKind.WRITE_COMPOSITE,
        path="/",
        body=WriteCompositeRequest(
            resources=(
                Resource(path=Path(3, 0, 14), type=ResourceType.STRING, value="+02"),
                Resource(path=Path(1, 0, 1), type=ResourceType.INTEGER, value=60),
            )
        ),
    )
    assert request_from_json(json.dumps(request_to_json(request))) == request == decode(encode(request))


@pytest.mark.parametrize("named", [True, False])
def test_a_file_may_be_the_value_of_a_write(named: bool) -> None:
    body: dict[str, Any] = {"sha256": "0a" * 32, "size": 300_000, "name": "v2.bin"}
    payload = {"kind": "write", "path": "/5/0/0", "body": {"AvroFileRequest": body} if named else body}
    request = request_from_json({"ep": "EP", "ticket": "t", "payload": payload})
    assert request.payload.body == FileRequest(sha256="0a" * 32, size=300_000, name="v2.bin")
    assert request_from_json(json.dumps(request_to_json(request))) == request == decode(encode(request))


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (
            "writeComposite",
            {"resources": [{"path": "/3/0", "value": 1}]},
            r"resources\[0\].path: the path of a resource",
        ),
        ("writeComposite", {"resources": [{"id": 14, "value": 1}]}, r"resources\[0\].path: text is expected, missing"),
        ("writeComposite", {"nodes": []}, "payload.body.nodes: no such field; there are resources"),
        ("write", {"sha256": "0A" * 32, "size": 1}, "payload.body.sha256: the SHA-256 of the file as 64"),
        ("write", {"sha256": "0a" * 32, "size": -1}, "payload.body.size: an integer"),
        ("write", {"sha256": "0a" * 32, "size": 1, "url": "x"}, "payload.body.url: no such field"),
    ],
)
def test_bodies_of_version_3_are_refused_with_their_place(kind: str, body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        request_from_json({"ep": "EP", "ticket": "t", "payload": {"kind": kind, "path": "/5/0/0", "body": body}})


@pytest.mark.parametrize("inside", [True, False])
def test_composite_paths_and_expiry_are_read(inside: bool) -> None:
    source = {"ep": "EP", "ticket": "t", "payload": {"kind": "readComposite"}, "expires": {"long": 5}}
    (source["payload"] if inside else source)["paths"] = ["/3/0", "/4/0/1"]  # type: ignore[index]  # a JSON object
    request = request_from_json(json.dumps(source))
    assert request.payload.paths == ("/3/0", "/4/0/1")
    assert request.expires == 5
    assert request_from_json({**source, "expires": 5}) == request


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        (b"\xff", "no JSON"),
        ("[]", "the request: an object"),
        ("null", "the request: an object"),
        ({}, "payload: an object with kind.* missing"),
        ({"ep": "e", "payload": {"kind": "read", "path": "/3"}}, "ticket: text is expected, missing"),
        ({"ticket": "e", "payload": {"kind": "read", "path": "/3"}}, "ep: text is expected, missing"),
        ({"ep": 5, "ticket": "t", "payload": {"kind": "read", "path": "/3"}}, "ep: text is expected, 5 found"),
        ({**form(), "expire": 5}, "expire: no such field; there are .*expires"),
        ({**form(), "expires": -1}, "expires: an integer"),
        ({**form(), "expires": 2**63}, "expires: an integer"),
        (form(kind="reed"), "payload.kind: one of read, write.*reed"),
        (form(path="/3/x"), "payload.path: '/3/x'"),
        (form(path=3), "payload.path: text"),
        (form(contentFormat="XML"), "payload.contentFormat: one of TLV"),
        (form(body=5), "payload.body: null or an object"),
        (form(kind="read", body={"parameters": ""}), "payload.body: null or one of AvroCreateRequest"),
        (form(body={"node": 5}), "payload.body.node: an object"),
        (form(body={"node": {}}), "payload.body.node.value: text, a number"),
        (form(body={"node": {"value": 5}}), "payload.body.node.type: one of STRING.*missing"),
        (form(body={"node": {"value": {"boolean": "no"}}}), "payload.body.node.value.boolean: a boolean"),
        (form(body={"node": {"value": {"long": True}}}), "payload.body.node.value.long: a long"),
        (form(body={"node": {"value": {"bytes": "x"}}}), "payload.body.node.value: a value or an object"),
        (form(body={"node": {"type": "INTEGER", "value": 2**63}}), "payload.body: /1/0/6: .* 64 bits"),
        (form(body={"node": {"type": "INTEGER", "value": "5"}}), "payload.body: /1/0/6: '5' is no INTEGER"),
        (form(body={"node": {"id": 65536, "type": "STRING", "value": ""}}), "payload.body.node.id: an integer"),
        (form(path="/1", body={"node": {"type": "STRING", "value": "", "id": 1}}), "no path of a resource"),
        (form(body={"AvroWriteRequest": {"mode": "PATCH", "node": {}}}), "AvroWriteRequest.mode: one of REPLACE"),
        (form(path="/3/0", body={"node": {"resources": [{"value": "", "type": "STRING"}]}}), r"resources\[0\].id"),
        (form(path="/3/0", body={"node": {"resources": {}}}), "node.resources: an array"),
        (form(path="/3/0", body={"node": {"resources": [{"id": True, "value": 1}]}}), r"resources\[0\].id: an integer"),
        (
            form(path="/3/0", body={"node": {"resources": [{"id": 70000, "value": 1}]}}),
            r"resources\[0\].id: an integer",
        ),
        (
            form(path="/3/0", body={"node": {"multipleResources": [{"id": 1, "type": "FLOAT", "resources": 1}]}}),
            "object",
        ),
    ],
)
def test_what_is_no_request_is_refused_with_its_place(source: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        request_from_json(source)


NAMES = """AvroResource AvroWriteRequest AvroCreateRequest instance id path kind type value resources instances
multipleResources mode node array long double string boolean timestamp 0 1""".split()  # noqa: SIM905 one can read it

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)


@given(
    json_values, st.sampled_from(["write", "create", "execute", "read"]), st.sampled_from(["/", "/3", "/3/0", "/3/0/1"])
)
def test_no_other_error_escapes_for_any_body(body: Any, kind: str, path: str) -> None:
    source = form(kind=kind, path=path, body=body)
    try:
        request_from_json(source)
    except InvalidRequest:
        return
    assert request_from_json(request_to_json(request_from_json(source))) is not None
