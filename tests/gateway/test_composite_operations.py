"""Composite operations, from request to bytes and from response to reply."""

from __future__ import annotations

import cbor2
import pytest

from gateway.operations import CoapRequest, CoapResponse, DeviceView, Method, RefusedRequest, build, reply
from gateway.replies import MAX_DIAGNOSTIC
from schemas.avro import serde
from schemas.avro.records import (
    CompositeBody,
    GenericBody,
    Request,
    RequestBody,
    RequestFormat,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    ResponsePayload,
    WriteCompositeRequest,
)
from schemas.lwm2m import composite
from schemas.lwm2m.nodes import Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import MAX_ID, Path

DEFINITIONS = Definitions.builtin()
LAMP = DeviceView(ep="lamp", version="1.1", content_formats=frozenset({60, 110, 112, 11542, 11543}))
PATHS = ("/3303/0/5700", "/1/0/1")
FETCHES = [
    (RequestKind.READ_COMPOSITE, None),
    (RequestKind.OBSERVE_COMPOSITE, 0),
    (RequestKind.OBSERVE_COMPOSITE_CANCEL, 1),
]
every_fetch = pytest.mark.parametrize(("kind", "observe"), FETCHES, ids=[kind.value for kind, _ in FETCHES])


def resource(path: str, value: Value, kind: ResourceType = ResourceType.INTEGER) -> Resource:
    return Resource(path=Path.parse(path), type=kind, value=value)


LIFETIME, ZONE = resource("/1/0/1", 60), resource("/3/0/14", "+02", ResourceType.STRING)


def request(
    kind: RequestKind = RequestKind.READ_COMPOSITE,
    *paths: str,
    path: str = "/",
    body: RequestBody | None = None,
    content_format: RequestFormat = RequestFormat.TLV,
) -> Request:
    payload = RequestPayload(kind=kind, path=path, content_format=content_format, body=body, paths=paths)
    return Request(server_id="", ep="lamp", ticket="t1", payload=payload)


def write(*resources: Resource, content_format: RequestFormat = RequestFormat.TLV) -> Request:
    body = WriteCompositeRequest(resources=resources)
    return request(RequestKind.WRITE_COMPOSITE, body=body, content_format=content_format)


@every_fetch
def test_what_is_asked_for_is_named_in_the_payload_of_a_fetch(kind: RequestKind, observe: int | None) -> None:
    asked = request(kind, *PATHS, "/1/0/1", content_format=RequestFormat.SENML_JSON)
    assert build(asked, LAMP, DEFINITIONS) == CoapRequest(
        method=Method.FETCH,
        uri_path=(),
        accept=110,
        content_format=110,
        observe=observe,
        payload=b'[{"n":"/1/0/1"},{"n":"/3303/0/5700"}]',
        paths=(Path(1, 0, 1), Path(3303, 0, 5700)),
    )


def test_values_go_in_an_ipatch() -> None:
    sent = build(write(ZONE, LIFETIME), LAMP, DEFINITIONS)
    assert (sent.method, sent.uri_path, sent.content_format, sent.repeatable) == (Method.IPATCH, (), 112, True)
    assert cbor2.loads(sent.payload) == [{-2: "/3/0/", 0: "14", 3: "+02"}, {-2: "/1/0/", 0: "1", 2: 60}]


def test_the_alternate_path_is_the_root() -> None:
    device = DeviceView(ep="lamp", version="1.1", root="/deep/lwm2m")
    assert build(request(RequestKind.READ_COMPOSITE, "/3"), device, DEFINITIONS).uri_path == ("deep", "lwm2m")


@pytest.mark.parametrize(
    ("asked", "version", "named", "paths_in", "spoken", "written_in"),
    [
        (RequestFormat.TLV, "1.1", None, 112, 112, 112),
        (RequestFormat.TLV, "1.1", {11542}, 112, 112, 112),
        (RequestFormat.TLV, "1.1", {110, 11542}, 110, 110, 110),
        (RequestFormat.TLV, "1.2", {110, 11544}, 110, 11544, 11544),
        (RequestFormat.TLV, "1.2", {110, 112, 11544}, 112, 112, 112),
        (RequestFormat.TLV, "1.2", {110, 112, 320, 322}, 322, 112, 322),
        (RequestFormat.SENML_JSON, "1.1", {112}, 110, 110, 110),
        (RequestFormat.SENML_JSON, "1.2", {110, 320}, 320, 110, 320),
        (RequestFormat.SENML_CBOR, "1.2", None, 112, 112, 112),
        # Clients that have LwM2M CBOR read no paths in it.
        (RequestFormat.LWM2M_CBOR, "1.2", None, 112, 11544, 11544),
        (RequestFormat.LWM2M_CBOR, "1.2", {112, 322, 11544}, 322, 11544, 11544),
        (RequestFormat.LWM2M_CBOR, "1.1", {11544}, 11544, 11544, 11544),
    ],
)
def test_format_is_what_was_asked_for_or_the_best_that_the_device_names(
    asked: RequestFormat, version: str, named: set[int] | None, paths_in: int, spoken: int, written_in: int
) -> None:
    device = DeviceView(ep="lamp", version=version, content_formats=None if named is None else frozenset(named))
    sent = build(request(RequestKind.READ_COMPOSITE, "/3", content_format=asked), device, DEFINITIONS)
    assert (sent.accept, sent.content_format) == (spoken, paths_in)
    assert composite.decode_paths(paths_in, sent.payload) == [Path(3)]
    written = build(write(ZONE, content_format=asked), device, DEFINITIONS)
    assert written.content_format == written_in
    assert composite.decode_values(written_in, written.payload, [Path()], DEFINITIONS) == [ZONE]


def test_lwm2m_cbor_has_a_null_at_each_path_and_maps_of_values() -> None:
    device = DeviceView(ep="lamp", version="1.2", content_formats=frozenset({11544}))
    assert cbor2.loads(build(request(RequestKind.READ_COMPOSITE, *PATHS), device, DEFINITIONS).payload) == {
        1: {0: {1: None}},
        3303: {0: {5700: None}},
    }
    assert cbor2.loads(build(write(ZONE, LIFETIME), device, DEFINITIONS).payload) == {
        3: {0: {14: "+02"}},
        1: {0: {1: 60}},
    }


OLD = DeviceView(ep="lamp", version="1.0", content_formats=frozenset({110, 11542}))


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        (request(RequestKind.READ_COMPOSITE, "/3"), OLD, "speaks LwM2M 1.0, which has no composite operations"),
        (write(ZONE), OLD, "speaks LwM2M 1.0, which has no composite operations"),
        (request(), LAMP, "needs its targets in `paths`"),
        (
            request(RequestKind.READ_COMPOSITE, "/3", path="/3/0"),
            LAMP,
            r"needs the root / \(its targets are in `paths`\)",
        ),
        (request(RequestKind.READ_COMPOSITE, "/x"), LAMP, "'x' is no id"),
        (request(RequestKind.READ_COMPOSITE, f"/3/{MAX_ID}"), LAMP, f"the id {MAX_ID} is reserved"),
        (
            request(RequestKind.READ_COMPOSITE, "/3", content_format=RequestFormat.TEXT_CODE),
            LAMP,
            "carried in SENML_CBOR, SENML_JSON or LWM2M_CBOR, not in TEXT_CODE",
        ),
        (
            request(RequestKind.READ_COMPOSITE, "/3", content_format=RequestFormat.LWM2M_CBOR),
            LAMP,
            "speaks LwM2M 1.1, which has no LWM2M_CBOR",
        ),
        (
            request(RequestKind.READ_COMPOSITE, "/", content_format=RequestFormat.LWM2M_CBOR),
            DeviceView(ep="lamp", version="1.2", content_formats=frozenset({11544})),
            "cannot name the root",
        ),
        (
            request(RequestKind.OBSERVE_COMPOSITE, *(f"/3303/{n}/5700" for n in range(99))),
            LAMP,
            "99 paths take .* bytes, and what is observed together must be named in 1024",
        ),
        (write(), LAMP, "there is no value in the body"),
        (write(ZONE, LIFETIME, ZONE), LAMP, "/3/0/14 is to be written twice"),
        (write(resource("/3/0/6/1", 5), resource("/3/0/6", 1)), LAMP, "/3/0/6/1 is to be written twice"),
        (write(resource("/1/0/1", "soon", ResourceType.STRING)), LAMP, "/1/0/1"),
        (write(resource(f"/1/{MAX_ID}/1", 1)), LAMP, f"the id {MAX_ID} is reserved"),
        (request(RequestKind.WRITE_COMPOSITE), LAMP, "needs a body of type AvroWriteCompositeRequest"),
        (
            request(RequestKind.WRITE_COMPOSITE, "/3", body=WriteCompositeRequest(resources=(ZONE,))),
            LAMP,
            "has its paths in the resources of its body",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(asked: Request, device: DeviceView, words: str) -> None:
    with pytest.raises(RefusedRequest, match=words):
        build(asked, device, DEFINITIONS)


def test_many_paths_may_be_read_in_blocks() -> None:
    asked = request(RequestKind.READ_COMPOSITE, *(f"/3303/{n}/5700" for n in range(99)))
    assert len(build(asked, LAMP, DEFINITIONS).payload) > 1024


def answered(asked: Request, response: CoapResponse) -> Response:
    made = reply(asked, response, now_ms=1_000, server_id="gw", definitions=DEFINITIONS, device=LAMP)
    assert serde.decode(serde.encode(made)) == made
    assert (made.path, made.rep.kind, made.ticket) == ("/", asked.payload.kind, "t1")
    return made


VALUES = cbor2.dumps([{-2: "/", 0: "3303/0/5700", 2: 21.5}, {0: "1/0/1", 2: 60}])
FOUND = CompositeBody(resources=(LIFETIME, resource("/3303/0/5700", 21.5, ResourceType.FLOAT)))


@every_fetch
def test_values_are_told_in_the_order_of_their_paths(kind: RequestKind, observe: int | None) -> None:
    said = answered(request(kind, *PATHS), CoapResponse(code=0x45, content_format=112, payload=VALUES))
    assert said.rep == ResponsePayload(code=ResponseCode.CONTENT, kind=kind, body=FOUND)


def test_an_answer_that_does_not_name_its_format_is_in_that_of_the_request() -> None:
    said = answered(request(RequestKind.READ_COMPOSITE, *PATHS), CoapResponse(code=0x45, payload=VALUES))
    assert said.rep.body == FOUND


def test_what_the_device_does_not_have_is_left_out() -> None:
    some = cbor2.dumps([{0: "/1/0/1", 2: 60}])
    said = answered(
        request(RequestKind.READ_COMPOSITE, *PATHS), CoapResponse(code=0x45, content_format=112, payload=some)
    )
    assert said.rep.body == CompositeBody(resources=(LIFETIME,))
    nothing = CoapResponse(code=0x45, content_format=110, payload=b"[]")
    assert answered(request(RequestKind.READ_COMPOSITE, *PATHS), nothing).rep.body == CompositeBody(resources=())


def test_a_write_and_a_cancellation_may_be_answered_without_a_payload() -> None:
    assert answered(write(ZONE), CoapResponse(code=0x44)).rep == ResponsePayload(
        code=ResponseCode.CHANGED, kind=RequestKind.WRITE_COMPOSITE
    )
    said = answered(request(RequestKind.OBSERVE_COMPOSITE_CANCEL, *PATHS), CoapResponse(code=0x42))
    assert (said.rep.code, said.rep.body) == (ResponseCode.DELETED, None)


@pytest.mark.parametrize(
    ("response", "code", "words"),
    [
        (CoapResponse(code=0x85), ResponseCode.METHOD_NOT_ALLOWED, "does not allow to read /3303/0/5700, /1/0/1"),
        (CoapResponse(code=0x84), ResponseCode.NOT_FOUND, "the device has no /3303/0/5700, /1/0/1"),
        (
            CoapResponse(code=0x45, content_format=112, payload=cbor2.dumps([{0: "/3/0/0", 3: "ACME"}])),
            ResponseCode.UNKNOWN,
            "cannot be read: the payload holds a value of /3/0/0, which lies outside of /1/0/1, /3303/0/5700",
        ),
        (
            CoapResponse(code=0x45, content_format=0, payload=b"21.5"),
            ResponseCode.UNKNOWN,
            "has no composite operations",
        ),
        (CoapResponse(code=0x45, content_format=112), ResponseCode.UNKNOWN, "the device's answer cannot be read"),
    ],
)
def test_errors_name_the_paths(response: CoapResponse, code: ResponseCode, words: str) -> None:
    said = answered(request(RequestKind.READ_COMPOSITE, *PATHS), response)
    assert said.rep.code is code
    assert isinstance(said.rep.body, GenericBody)
    assert words in said.rep.body.message


def test_words_name_the_first_of_many_paths_and_count_the_others() -> None:
    asked = request(RequestKind.READ_COMPOSITE, *(f"/3303/{n}/5700" for n in range(1000)))
    body = answered(asked, CoapResponse(code=0x84)).rep.body
    assert isinstance(body, GenericBody)
    assert body.message.endswith("/3303/7/5700 and 992 more (4.04)")
    assert len(body.message) < MAX_DIAGNOSTIC
    body = answered(write(ZONE, LIFETIME), CoapResponse(code=0x85)).rep.body
    assert isinstance(body, GenericBody)
    assert "does not allow to write /3/0/14, /1/0/1" in body.message
