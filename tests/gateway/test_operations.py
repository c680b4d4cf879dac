"""The whole table of operations, each row from request to bytes and from response to reply."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.operations import (
    OPERATIONS,
    CoapRequest,
    CoapResponse,
    DeviceReset,
    DeviceView,
    Expired,
    ExpiredUnanswered,
    Failure,
    GatewayFault,
    Method,
    NotRegistered,
    OutcomeUnknown,
    Overloaded,
    Refused,
    RefusedRequest,
    TimedOut,
    build,
    reply,
)
from gateway.replies import ANSWERS, FAILURES
from schemas.avro import serde
from schemas.avro.records import (
    CreateBody,
    CreateRequest,
    DiscoverBody,
    ExecuteRequest,
    FileRequest,
    GenericBody,
    ReadBody,
    Request,
    RequestBody,
    RequestFormat,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    WriteAttributesRequest,
    WriteMode,
    WriteRequest,
)
from schemas.avro.registry import schema_of
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import MAX_ID, Path

DEFINITIONS = Definitions.builtin()
OLD = DeviceView(ep="lamp", version="1.0")
NEWEST = DeviceView(ep="lamp", version="1.2")
NEW = DeviceView(ep="lamp", version="1.1", content_formats=frozenset({60, 110, 112, 11542, 11543}))
COMPOSITE = {
    RequestKind.READ_COMPOSITE,
    RequestKind.WRITE_COMPOSITE,
    RequestKind.OBSERVE_COMPOSITE,
    RequestKind.OBSERVE_COMPOSITE_CANCEL,
}


def request(
    kind: RequestKind,
    path: str,
    body: RequestBody | None = None,
    content_format: RequestFormat = RequestFormat.TLV,
) -> Request:
    return Request(
        server_id="informative",
        ep="lamp",
        ticket="t1",
        payload=RequestPayload(kind=kind, path=path, content_format=content_format, body=body),
    )


def with_query(kind: RequestKind, path: str, spec: str, *paths: str) -> Request:
    asked = request(kind, path, WriteAttributesRequest(observe_spec=spec))
    return replace(asked, payload=replace(asked.payload, paths=paths))


def resource(path: str, kind: ResourceType, value: str | float | int | bool | bytes) -> Resource:
    return Resource(path=Path.parse(path), type=kind, value=value)


def write(path: str, node: Object | Instance | Resource, mode: WriteMode = WriteMode.REPLACE) -> Request:
    return request(RequestKind.WRITE, path, WriteRequest(mode=mode, node=node))


LIFETIME = resource("/1/0/1", ResourceType.INTEGER, 60)
STORING = resource("/1/0/6", ResourceType.BOOLEAN, False)
SERVER = Instance(path=Path(1, 0), resources=(LIFETIME, STORING))

#: TLV of the two: identifier byte, id, value (OMA LwM2M Core 1.1, section 7.4.3).
LIFETIME_TLV = b"\xc1\x01\x3c"
STORING_TLV = b"\xc1\x06\x00"

TABLE: list[tuple[str, Request, CoapRequest]] = [
    (
        "read",
        request(RequestKind.READ, "/3/0/0"),
        CoapRequest(method=Method.GET, uri_path=("3", "0", "0"), accept=11542),
    ),
    ("read an object", request(RequestKind.READ, "3"), CoapRequest(method=Method.GET, uri_path=("3",), accept=11542)),
    (
        "write replaces",
        write("/1/0", SERVER),
        CoapRequest(method=Method.PUT, uri_path=("1", "0"), content_format=11542, payload=LIFETIME_TLV + STORING_TLV),
    ),
    (
        "write updates",
        write("/1/0", SERVER, WriteMode.UPDATE),
        CoapRequest(method=Method.POST, uri_path=("1", "0"), content_format=11542, payload=LIFETIME_TLV + STORING_TLV),
    ),
    (
        "write a resource",
        write("/1/0/6", STORING),
        CoapRequest(method=Method.PUT, uri_path=("1", "0", "6"), content_format=11542, payload=STORING_TLV),
    ),
    (
        "update of a single value is a replacement",
        write("/1/0/6", STORING, WriteMode.UPDATE),
        CoapRequest(method=Method.PUT, uri_path=("1", "0", "6"), content_format=11542, payload=STORING_TLV),
    ),
    (
        "a resource updates its instance",
        write("/1/0", STORING, WriteMode.UPDATE),
        CoapRequest(method=Method.POST, uri_path=("1", "0"), content_format=11542, payload=STORING_TLV),
    ),
    (
        "an object is unwrapped",
        write("/1/0/6", Object(path=Path(1), instances=(Instance(path=Path(1, 0), resources=(STORING,)),))),
        CoapRequest(method=Method.PUT, uri_path=("1", "0", "6"), content_format=11542, payload=STORING_TLV),
    ),
    (
        "write attributes",
        request(RequestKind.WRITE_ATTRIBUTES, "/3303/0/5700", WriteAttributesRequest(observe_spec="pmin=1&pmax=10")),
        CoapRequest(method=Method.PUT, uri_path=("3303", "0", "5700"), uri_query=("pmin=1", "pmax=10")),
    ),
    (
        "execute",
        request(RequestKind.EXECUTE, "/3/0/4"),
        CoapRequest(method=Method.POST, uri_path=("3", "0", "4"), repeatable=False),
    ),
    (
        "execute with parameters",
        request(RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters="param1,param2")),
        CoapRequest(
            method=Method.POST,
            uri_path=("3", "0", "4"),
            content_format=0,
            payload=b"param1,param2",
            repeatable=False,
        ),
    ),
    (
        "observe",
        request(RequestKind.OBSERVE, "/3303/0/5700"),
        CoapRequest(method=Method.GET, uri_path=("3303", "0", "5700"), accept=11542, observe=0),
    ),
    (
        "cancel",
        request(RequestKind.OBSERVE_CANCEL, "/3303/0/5700"),
        CoapRequest(method=Method.GET, uri_path=("3303", "0", "5700"), accept=11542, observe=1),
    ),
    ("delete", request(RequestKind.DELETE, "/3303/1"), CoapRequest(method=Method.DELETE, uri_path=("3303", "1"))),
    ("discover", request(RequestKind.DISCOVER, "/3"), CoapRequest(method=Method.GET, uri_path=("3",), accept=40)),
    (
        "create",
        request(
            RequestKind.CREATE,
            "/1",
            CreateRequest(
                instance=Instance(path=Path(1, 5), resources=(resource("/1/5/1", ResourceType.INTEGER, 60),))
            ),
        ),
        CoapRequest(
            method=Method.POST,
            uri_path=("1",),
            content_format=11542,
            payload=b"\x03\x05" + LIFETIME_TLV,
            repeatable=False,
        ),
    ),
    (
        "create, the device chooses the id",
        request(
            RequestKind.CREATE,
            "/1",
            CreateRequest(
                instance=Instance(
                    path=Path(1, MAX_ID),
                    resources=(Resource(path=Path(1, MAX_ID, 1), type=ResourceType.INTEGER, value=60),),
                )
            ),
        ),
        CoapRequest(method=Method.POST, uri_path=("1",), content_format=11542, payload=LIFETIME_TLV, repeatable=False),
    ),
]


def test_create_that_leaves_the_id_to_the_device_is_tlv_whatever_it_announces() -> None:
    [asked] = [row[1] for row in TABLE if row[0] == "create, the device chooses the id"]
    device = DeviceView(ep="lamp", version="1.1", content_formats=frozenset({110}))
    sent = build(asked, device, DEFINITIONS)
    assert (sent.content_format, sent.payload) == (11542, LIFETIME_TLV)
    senml = replace(asked, payload=replace(asked.payload, content_format=RequestFormat.SENML_JSON))
    with pytest.raises(RefusedRequest, match="ask for TLV, or give an id, like /1/0"):
        build(senml, device, DEFINITIONS)


@pytest.mark.parametrize("device", [OLD, NEW], ids=["1.0", "1.1"])
@pytest.mark.parametrize(("asked", "sent"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_operation_goes_out_as_the_specification_says(asked: Request, sent: CoapRequest, device: DeviceView) -> None:
    assert build(asked, device, DEFINITIONS) == sent


def test_table_is_tested_whole() -> None:
    assert set(OPERATIONS) == set(ANSWERS) == set(RequestKind) - {RequestKind.SEND}
    # Those have tests of their own.
    assert {row[1].payload.kind for row in TABLE} == set(OPERATIONS) - COMPOSITE


def test_kind_without_a_row_is_refused() -> None:
    with pytest.raises(RefusedRequest, match="send is not supported"):
        build(request(RequestKind.SEND, "/3"), NEW, DEFINITIONS)


FILE = FileRequest(sha256="0a" * 32, size=3, name="v2.bin")


def test_a_file_is_pushed_to_what_takes_bytes_and_told_to_what_takes_a_uri() -> None:
    device = replace(NEW, files="coap://10.0.0.1:5683/files/")
    for path in ("/5/0/0", "/9/3/2", "/33333/0/1"):
        made = build(request(RequestKind.WRITE, path, FILE), device, DEFINITIONS)
        assert (made.method, made.content_format, made.payload) == (Method.PUT, 42, b"")
        assert (made.file, made.pushes) == (FILE.sha256, True)
    for path in ("/5/0/1", "/9/3/3"):
        asked = request(RequestKind.WRITE, path, FILE, RequestFormat.TEXT_CODE)
        made = build(asked, device, DEFINITIONS)
        assert (made.content_format, made.payload) == (0, b"coap://10.0.0.1:5683/files/" + b"0a" * 32)
        assert (made.file, made.pushes) == (FILE.sha256, False)


@pytest.mark.parametrize("path", ["/5/0/0", "/5/0/1", "/9/0/2"])
def test_a_file_is_not_for_a_device_behind_a_gateway(path: str) -> None:
    with pytest.raises(RefusedRequest, match="bridge/lamp is behind a gateway, which takes files for itself alone"):
        build(request(RequestKind.WRITE, path, FILE), replace(NEW, ep="bridge/lamp", prefix="dev0"), DEFINITIONS)


@pytest.mark.parametrize("sha256", ["", "0A" * 32, "../" * 21 + "a", "0a" * 33])
def test_a_file_is_known_by_its_hash_alone(sha256: str) -> None:
    with pytest.raises(RefusedRequest, match="is no SHA-256 in small hex"):
        build(request(RequestKind.WRITE, "/5/0/1", replace(FILE, sha256=sha256)), NEW, DEFINITIONS)


@pytest.mark.parametrize("path", ["/5/0", "/5/0/3", "/3/0/6/1"])
def test_a_file_is_not_for_what_takes_no_file(path: str) -> None:
    with pytest.raises(RefusedRequest, match=f"{path}"):
        build(request(RequestKind.WRITE, path, FILE), NEW, DEFINITIONS)


@pytest.mark.parametrize(("version", "named"), [("1.0", None), ("1.1", None), ("1.1", frozenset({110, 112}))])
def test_lwm2m_cbor_is_of_1_2(version: str, named: frozenset[int] | None) -> None:
    asked = request(RequestKind.READ, "/3/0", None, RequestFormat.LWM2M_CBOR)
    device = DeviceView(ep="lamp", version=version, content_formats=named)
    with pytest.raises(RefusedRequest, match=f"speaks LwM2M {version}, which has no LWM2M_CBOR"):
        build(asked, device, DEFINITIONS)
    for able in (replace(device, version="1.2"), replace(device, content_formats=formats_of(11544))):
        assert build(asked, able, DEFINITIONS).accept == 11544


def test_alternate_path_goes_in_front() -> None:
    device = DeviceView(ep="lamp", version="1.1", root="/deep/lwm2m")
    assert build(request(RequestKind.READ, "/3/0"), device, DEFINITIONS).uri_path == ("deep", "lwm2m", "3", "0")


def formats_of(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


@pytest.mark.parametrize(
    ("asked", "version", "named", "spoken"),
    [
        (RequestFormat.TLV, "1.0", None, 11542),
        (RequestFormat.TLV, "1.0", formats_of(11543), 11542),
        (RequestFormat.TLV, "1.0", formats_of(1542, 1543), 1542),
        (RequestFormat.JSON_CODE, "1.0", formats_of(1542, 1543), 1543),
        (RequestFormat.JSON_CODE, "1.0", None, 11543),
        (RequestFormat.TEXT_CODE, "1.0", None, 0),
        (RequestFormat.OPAQUE_CODE, "1.0", None, 42),
        (RequestFormat.SENML_JSON, "1.0", formats_of(110), 110),
        (RequestFormat.TLV, "1.1", None, 11542),
        (RequestFormat.TLV, "1.1", formats_of(110, 112, 11542), 11542),
        (RequestFormat.TLV, "1.1", formats_of(110, 112), 112),
        (RequestFormat.TLV, "1.1", formats_of(110), 110),
        (RequestFormat.TLV, "1.1", formats_of(0, 60), 11542),
        (RequestFormat.JSON_CODE, "1.1", formats_of(110, 112), 110),
        (RequestFormat.SENML_CBOR, "1.1", None, 112),
        (RequestFormat.SENML_JSON, "1.2", formats_of(112), 110),
        (RequestFormat.TLV, "1.2", formats_of(11544), 11544),
        (RequestFormat.TLV, "1.2", formats_of(60, 110, 11544), 11544),
        # Times of values can be given in SenML.
        (RequestFormat.TLV, "1.2", formats_of(112, 11544), 112),
        (RequestFormat.TLV, "1.2", formats_of(11542, 11544), 11542),
        (RequestFormat.TLV, "1.2", None, 11542),
        (RequestFormat.CBOR, "1.1", None, 60),
        (RequestFormat.TEXT_CODE, "1.1", formats_of(112), 0),
    ],
)
def test_format_follows_request_version_and_ct(
    asked: RequestFormat, version: str, named: frozenset[int] | None, spoken: int
) -> None:
    device = DeviceView(ep="lamp", version=version, content_formats=named)
    assert build(request(RequestKind.READ, "/3/0/0", None, asked), device, DEFINITIONS).accept == spoken


def test_write_speaks_what_the_device_has() -> None:
    device = DeviceView(ep="lamp", version="1.1", content_formats=formats_of(110))
    sent = build(write("/1/0/6", STORING), device, DEFINITIONS)
    assert sent.content_format == 110
    assert b"/1/0/6" in sent.payload


def test_write_speaks_lwm2m_cbor_where_the_device_names_it() -> None:
    device = DeviceView(ep="lamp", version="1.2", content_formats=formats_of(60, 11544))
    sent = build(write("/1/0/6", STORING), device, DEFINITIONS)
    assert (sent.content_format, cbor2.loads(sent.payload)) == (11544, {1: {0: {6: False}}})
    sent = build(request(RequestKind.CREATE, "/1", CreateRequest(instance=SERVER)), device, DEFINITIONS)
    assert sent.content_format == 11544
    assert list(cbor2.loads(sent.payload)) == [1]


def test_attributes_of_1_2_go_to_devices_of_1_2() -> None:
    device = DeviceView(ep="lamp", version="1.2")
    assert build(attributes("con=1&hqmax=5"), device, DEFINITIONS).uri_query == ("con=1", "hqmax=5")
    with pytest.raises(RefusedRequest, match=r"epmin is an attribute of LwM2M 1\.1"):
        build(attributes("epmin=1"), OLD, DEFINITIONS)


def test_multiple_resource_comes_inside_its_instance() -> None:
    sources = MultipleResource(
        path=Path(3, 0, 6), type=ResourceType.INTEGER, instances=(resource("/3/0/6/1", ResourceType.INTEGER, 5),)
    )
    node = Instance(path=Path(3, 0), resources=(sources,))
    replaced = build(write("/3/0/6", node), OLD, DEFINITIONS)
    assert (replaced.method, replaced.payload) == (Method.PUT, b"\x83\x06\x41\x01\x05")
    assert build(write("/3/0/6", node, WriteMode.UPDATE), NEW, DEFINITIONS).method == Method.POST
    with pytest.raises(RefusedRequest, match=r"1\.0.*not update"):
        build(write("/3/0/6", node, WriteMode.UPDATE), OLD, DEFINITIONS)


def attributes(spec: str, path: str = "/3303/0/5700") -> Request:
    return request(RequestKind.WRITE_ATTRIBUTES, path, WriteAttributesRequest(observe_spec=spec))


@pytest.mark.parametrize("path", ["/3/0", "/3/0/6", "/3/0/6/1"])
def test_observation_of_1_2_has_attributes_of_its_own(path: str) -> None:
    asked = with_query(RequestKind.OBSERVE, path, "pmin=5&pmax=60")
    # It goes through the topic as it is: no new version is needed for it.
    assert serde.decode(serde.encode(asked)) == asked
    assert serde.encode(asked).startswith(schema_of("request.AvroRequest", 1).frame)
    payload = {"kind": "observe", "path": path, "body": {"observeSpec": "pmin=5&pmax=60"}}
    assert serde.request_from_json({"ep": "lamp", "ticket": "t1", "payload": payload}).payload == asked.payload
    sent = build(asked, NEWEST, DEFINITIONS)
    assert (sent.observe, sent.uri_query) == (0, ("pmin=5", "pmax=60"))
    assert build(request(RequestKind.OBSERVE_CANCEL, path), NEWEST, DEFINITIONS).uri_query == ()


def test_what_is_observed_together_has_attributes_of_its_own() -> None:
    sent = build(with_query(RequestKind.OBSERVE_COMPOSITE, "/", "pmin=5&con=1", "/3", "/1/0/1"), NEWEST, DEFINITIONS)
    assert (sent.method, sent.observe, sent.uri_query) == (Method.FETCH, 0, ("pmin=5", "con=1"))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (with_query(RequestKind.OBSERVE, "/3303/0/5700", "pmin=5&pmax=1"), "pmax=1 is below pmin=5"),
        (with_query(RequestKind.OBSERVE, "/3303/0", "gt=5"), "gt belongs to a resource"),
        (with_query(RequestKind.OBSERVE, "/3303/0/5700", "pmin"), "pmin has no value"),
        (with_query(RequestKind.OBSERVE, "/3303/0/5700", "depth=1"), "no such attribute"),
        (with_query(RequestKind.OBSERVE_COMPOSITE, "/", "gt=5", "/3303/0/5700"), "gt is for one resource"),
        (with_query(RequestKind.DISCOVER, "/3", "depth=4"), "from depth=0 to depth=3"),
        (with_query(RequestKind.DISCOVER, "/3", "depth=1&depth=2"), "from depth=0 to depth=3"),
    ],
)
def test_query_that_makes_no_sense_is_refused(asked: Request, words: str) -> None:
    with pytest.raises(RefusedRequest, match=words):
        build(asked, NEWEST, DEFINITIONS)


@pytest.mark.parametrize("levels", range(4))
def test_discover_of_1_2_has_a_depth(levels: int) -> None:
    asked = with_query(RequestKind.DISCOVER, "/3/0", f"depth={levels}")
    assert serde.encode(asked).startswith(schema_of("request.AvroRequest", 1).frame)
    assert build(asked, NEWEST, DEFINITIONS).uri_query == (f"depth={levels}",)


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        (request(RequestKind.READ, "/3/0/6/1"), Method.GET),
        (request(RequestKind.OBSERVE, "/3/0/6/1"), Method.GET),
        (request(RequestKind.OBSERVE_CANCEL, "/3/0/6/1"), Method.GET),
        (with_query(RequestKind.WRITE_ATTRIBUTES, "/3/0/7/1", "pmin=5&gt=3"), Method.PUT),
        (write("/16/0/0/5", resource("/16/0/0/5", ResourceType.STRING, "x")), Method.PUT),
        (request(RequestKind.DELETE, "/16/0/0/5"), Method.DELETE),
    ],
)
def test_resource_instance_is_a_target_from_1_1_on(asked: Request, method: Method) -> None:
    sent = build(asked, NEWEST, DEFINITIONS)
    assert (sent.method, "/" + "/".join(sent.uri_path)) == (method, asked.payload.path)
    with pytest.raises(RefusedRequest, match=r"lamp speaks LwM2M 1\.0, in which a resource instance"):
        build(asked, OLD, DEFINITIONS)


NO_BODY = "needs a body of type Avro"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request(RequestKind.READ, "/"), "the root"),
        (request(RequestKind.READ, "/3/x"), "no id"),
        (request(RequestKind.READ, "/3/0/0/0/0"), "at most four"),
        (request(RequestKind.READ, "/3/65535"), "reserved"),
        (request(RequestKind.READ, "/3/0", None, RequestFormat.TEXT_CODE), "one value"),
        (request(RequestKind.READ, "/3/0/0", None, RequestFormat.LINK_CODE), "format of discover"),
        (request(RequestKind.EXECUTE, "/3/0"), "needs a resource"),
        (request(RequestKind.EXECUTE, "/3/0/4/1"), "needs a resource"),
        (request(RequestKind.DELETE, "/3"), "needs an object instance"),
        (request(RequestKind.DELETE, "/3/0/1"), "needs an object instance or a resource instance"),
        (request(RequestKind.DELETE, "/3/0/6/1"), r"speaks LwM2M 1\.1, in which .* /3/0/6/1 cannot be deleted"),
        (with_query(RequestKind.OBSERVE, "/3303/0/5700", "pmin=5"), "headwater attributes lamp PATH 'pmin=5'"),
        (with_query(RequestKind.OBSERVE_COMPOSITE, "/", "pmin=5", "/3", "/1"), "no attributes of its own"),
        (with_query(RequestKind.DISCOVER, "/3", "depth=1"), r"speaks LwM2M 1\.1, in which a discover has no depth"),
        (with_query(RequestKind.DISCOVER, "/3", "pmin=1"), "nothing but a depth"),
        (request(RequestKind.DISCOVER, "/3/0/6/0"), "needs an object"),
        (request(RequestKind.DISCOVER, "/"), "the root"),
        (request(RequestKind.OBSERVE, "/"), "the root"),
        (request(RequestKind.OBSERVE_CANCEL, "/"), "the root"),
        (request(RequestKind.CREATE, "/1/5", CreateRequest(instance=SERVER)), "needs an object"),
        (request(RequestKind.CREATE, "/1/5/1", CreateRequest(instance=SERVER)), "needs an object"),
        (request(RequestKind.CREATE, "/3303", CreateRequest(instance=SERVER)), "not below the target"),
        (request(RequestKind.CREATE, "/1"), NO_BODY),
        (request(RequestKind.WRITE, "/1/0"), NO_BODY),
        (request(RequestKind.WRITE, "/1/0", ExecuteRequest(parameters="")), NO_BODY),
        (request(RequestKind.WRITE_ATTRIBUTES, "/1/0"), NO_BODY),
        (write("/", SERVER), "the root"),
        (write("/1", Object(path=Path(1), instances=(SERVER,))), "an object"),
        (write("/1/1", SERVER), "is for /1/0"),
        (write("/1/0/1", STORING), "is for /1/0/6"),
        (write("/1/0/1", SERVER), "is for /1/0"),
        (write("/1/0", STORING), "drop all else"),
        (write("/1/0/6", resource("/1/0/6", ResourceType.STRING, "no")), "BOOLEAN"),
        (write("/1/0/1", resource("/1/0/1", ResourceType.BOOLEAN, True)), "INTEGER"),
        (attributes("pmin=x"), "pmin"),
        (attributes("pmin=-1"), "pmin"),
        (attributes("nonsense=1"), "nonsense"),
        (attributes("pmin=10&pmax=5"), "pmax"),
        (attributes("gt=1", "/3303/0"), "gt"),
        (attributes(""), "attribute"),
        (attributes("edge=1", "/3303/0/5700"), "boolean resource"),
        (attributes("hqmax=5"), "hqmax is an attribute of LwM2M 1.2; the device speaks 1.1"),
    ],
)
def test_nonsense_is_refused_in_words(asked: Request, words: str) -> None:
    with pytest.raises(RefusedRequest, match=words) as refused:
        build(asked, NEW, DEFINITIONS)
    answer = replied(asked, refused.value.refused)
    assert answer.rep.code is ResponseCode.BAD_REQUEST
    assert answer.rep.body == GenericBody(message=str(refused.value))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request(RequestKind.READ, "/3/0/6/0"), r"1\.0"),
        (request(RequestKind.READ, "/3/0", None, RequestFormat.SENML_CBOR), "has no SENML_CBOR"),
    ],
)
def test_old_device_is_not_asked_for_what_came_later(asked: Request, words: str) -> None:
    with pytest.raises(RefusedRequest, match=words):
        build(asked, OLD, DEFINITIONS)
    build(asked, NEW, DEFINITIONS)


# --- replies --------------------------------------------------------------------------------------------------------


def replied(asked: Request, response: CoapResponse | Failure, device: DeviceView | None = NEW) -> Response:
    answer = reply(asked, response, now_ms=1_000, server_id="gw", definitions=DEFINITIONS, device=device)
    assert (answer.ticket, answer.ep, answer.server_id, answer.timestamp) == ("t1", "lamp", "gw", 1_000)
    assert answer.rep.kind is asked.payload.kind
    # Whatever a device says, the record can be written.
    assert serde.decode(serde.encode(answer)) == answer
    return answer


def message(answer: Response) -> str:
    assert isinstance(answer.rep.body, GenericBody)
    return answer.rep.body.message


TEMPERATURE = resource("/3303/0/5700", ResourceType.FLOAT, 21.5)
TEMPERATURE_TLV = b"\xe4\x16\x44\x41\xac\x00\x00"


@pytest.mark.parametrize(
    ("asked", "response", "code", "body"),
    [
        (
            request(RequestKind.READ, "3303/0/5700"),
            CoapResponse(code=0x45, content_format=11542, payload=TEMPERATURE_TLV),
            ResponseCode.CONTENT,
            ReadBody(content=TEMPERATURE),
        ),
        (
            request(RequestKind.READ, "/3303/0/5700"),
            CoapResponse(code=0x45, payload=b"21.5"),
            ResponseCode.CONTENT,
            ReadBody(content=TEMPERATURE),
        ),
        (
            request(RequestKind.READ, "/3303/0"),
            CoapResponse(code=0x45, payload=TEMPERATURE_TLV),
            ResponseCode.CONTENT,
            ReadBody(content=Instance(path=Path(3303, 0), resources=(TEMPERATURE,))),
        ),
        (
            request(RequestKind.READ, "/3303/0/5700"),
            CoapResponse(code=0x45, content_format=11544, payload=cbor2.dumps({(3303, 0): {5700: 21.5}})),
            ResponseCode.CONTENT,
            ReadBody(content=TEMPERATURE),
        ),
        (
            # A history: the one reply has the newest value, and the device's time of it, half a second ago.
            request(RequestKind.READ, "/3303/0/5700"),
            CoapResponse(
                code=0x45,
                content_format=112,
                payload=cbor2.dumps([{-2: "/3303/0/5700", 6: -0.5, 2: 21.5}, {6: -0.75, 2: 20}]),
            ),
            ResponseCode.CONTENT,
            ReadBody(content=replace(TEMPERATURE, timestamp=500)),
        ),
        (
            request(RequestKind.OBSERVE, "/3303/0/5700"),
            CoapResponse(code=0x45, content_format=0, payload=b"21.5", observe=3),
            ResponseCode.CONTENT,
            ReadBody(content=TEMPERATURE),
        ),
        (
            request(RequestKind.OBSERVE_CANCEL, "/3303/0/5700"),
            CoapResponse(code=0x45, content_format=0, payload=b"21.5"),
            ResponseCode.CONTENT,
            ReadBody(content=TEMPERATURE),
        ),
        (
            request(RequestKind.OBSERVE_CANCEL, "/3303/0/5700"),
            CoapResponse(code=0x45),
            ResponseCode.CONTENT,
            None,
        ),
        (write("/1/0/6", STORING), CoapResponse(code=0x44), ResponseCode.CHANGED, None),
        (attributes("pmin=1"), CoapResponse(code=0x44), ResponseCode.CHANGED, None),
        (request(RequestKind.EXECUTE, "/3/0/4"), CoapResponse(code=0x44), ResponseCode.CHANGED, None),
        (request(RequestKind.DELETE, "/3303/1"), CoapResponse(code=0x42), ResponseCode.DELETED, None),
        (
            request(RequestKind.DISCOVER, "/3"),
            CoapResponse(code=0x45, content_format=40, payload=b"</3>,</3/0>;pmin=1"),
            ResponseCode.CONTENT,
            DiscoverBody(object_links="</3>,</3/0>;pmin=1"),
        ),
        (
            request(RequestKind.CREATE, "/1", CreateRequest(instance=SERVER)),
            CoapResponse(code=0x41, location=("1", "7")),
            ResponseCode.CREATED,
            CreateBody(location="/1/7"),
        ),
        (
            request(RequestKind.CREATE, "/1", CreateRequest(instance=SERVER)),
            CoapResponse(code=0x41),
            ResponseCode.CREATED,
            CreateBody(location="/1/0"),
        ),
    ],
)
def test_success_is_read(asked: Request, response: CoapResponse, code: ResponseCode, body: object) -> None:
    answer = replied(asked, response)
    assert answer.rep.code is code
    assert answer.rep.body == body
    assert answer.path == str(Path.parse(asked.payload.path))


def test_location_below_an_alternate_path_is_a_path_to_ask_for() -> None:
    device = DeviceView(ep="lamp", version="1.1", root="/lwm2m")
    asked = request(RequestKind.CREATE, "/1", CreateRequest(instance=SERVER))
    answer = replied(asked, CoapResponse(code=0x41, location=("lwm2m", "1", "7")), device)
    assert answer.rep.body == CreateBody(location="/1/7")


@pytest.mark.parametrize(
    ("asked", "response"),
    [
        (request(RequestKind.READ, "/3303/0/5700"), CoapResponse(code=0x45, content_format=11542, payload=b"\xff")),
        (request(RequestKind.READ, "/3303/0/5700"), CoapResponse(code=0x45, content_format=0, payload=b"warm")),
        (request(RequestKind.READ, "/3303/0/5700"), CoapResponse(code=0x45, content_format=9999, payload=b"")),
        (request(RequestKind.READ, "/3303/0/5700"), CoapResponse(code=0x45, content_format=11544, payload=b"\xa1\xa1")),
        (
            request(RequestKind.READ, "/3303/0/5700"),
            CoapResponse(code=0x45, content_format=110, payload=b'[{"n":"/3303/0/5700","v":1,"t":1700000000000}]'),
        ),
        (request(RequestKind.READ, "/3/0/0"), CoapResponse(code=0x45, payload=b"\xff\xfe")),
        (request(RequestKind.DISCOVER, "/3"), CoapResponse(code=0x45, content_format=40, payload=b"\xff\xfe")),
        (request(RequestKind.DISCOVER, "/3"), CoapResponse(code=0x45, content_format=11542, payload=b"")),
        (request(RequestKind.READ, "/3/0/0"), CoapResponse(code=0x44)),
        (request(RequestKind.DELETE, "/3/0"), CoapResponse(code=0x45)),
        (request(RequestKind.READ, "/3/0/0"), CoapResponse(code=0x43)),
        (request(RequestKind.READ, "/3/0/0"), CoapResponse(code=0xA3)),
    ],
)
def test_answer_that_makes_no_sense_is_unknown(asked: Request, response: CoapResponse) -> None:
    answer = replied(asked, response)
    assert answer.rep.code is ResponseCode.UNKNOWN
    assert message(answer)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0x80, ResponseCode.BAD_REQUEST),
        (0x81, ResponseCode.UNAUTHORIZED),
        (0x83, ResponseCode.FORBIDDEN),
        (0x84, ResponseCode.NOT_FOUND),
        (0x85, ResponseCode.METHOD_NOT_ALLOWED),
        (0x86, ResponseCode.NOT_ACCEPTABLE),
        (0x88, ResponseCode.REQUEST_ENTITY_INCOMPLETE),
        (0x8C, ResponseCode.PRECONDITION_FAILED),
        (0x8D, ResponseCode.REQUEST_ENTITY_TOO_LARGE),
        (0x8F, ResponseCode.UNSUPPORTED_CONTENT_FORMAT),
        (0xA0, ResponseCode.INTERNAL_SERVER_ERROR),
        (0x82, ResponseCode.UNKNOWN),
        (0xA3, ResponseCode.UNKNOWN),
        (0xFF, ResponseCode.UNKNOWN),
        (0x00, ResponseCode.UNKNOWN),
    ],
)
def test_error_code_has_its_words(code: int, expected: ResponseCode) -> None:
    answer = replied(request(RequestKind.READ, "/9/9"), CoapResponse(code=code))
    assert answer.rep.code is expected
    assert "/9/9" in message(answer)
    assert f"{code >> 5}.{code & 31:02}" in message(answer)


def test_words_of_the_device_are_passed_on_bounded_and_harmless() -> None:
    asked = request(RequestKind.READ, "/9")
    assert message(replied(asked, CoapResponse(code=0x84, payload=b"no such object"))).endswith("says: no such object")
    long = message(replied(asked, CoapResponse(code=0x84, payload="é".encode() * 5_000)))
    assert 1_000 < len(long.encode()) < 1_200
    assert "\x1b" not in message(replied(asked, CoapResponse(code=0x84, payload=b"\x1b[2Jboo")))
    assert "says" not in message(replied(asked, CoapResponse(code=0x84, payload=b"\xff\xfe")))


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (TimedOut(seconds=93), ResponseCode.UNKNOWN, "no answer within 93 s"),
        (NotRegistered(), ResponseCode.NOT_FOUND, "no device lamp is registered at gw"),
        (Expired(), ResponseCode.PRECONDITION_FAILED, "it was not executed"),
        (ExpiredUnanswered(), ResponseCode.UNKNOWN, "it may have been executed"),
        (Refused(words="makes no sense"), ResponseCode.BAD_REQUEST, "makes no sense"),
        (OutcomeUnknown(), ResponseCode.UNKNOWN, "outcome unknown"),
        (DeviceReset(), ResponseCode.UNKNOWN, "Reset"),
        (Overloaded(words="too many wait"), ResponseCode.INTERNAL_SERVER_ERROR, "too many wait"),
        (GatewayFault(words="it broke"), ResponseCode.INTERNAL_SERVER_ERROR, "it broke"),
    ],
)
def test_failure_has_its_code_and_words(failure: Failure, code: ResponseCode, words: str) -> None:
    answer = replied(request(RequestKind.EXECUTE, "/3/0/4"), failure, None)
    assert answer.rep.code is code
    assert words in message(answer)


def test_every_failure_has_a_row() -> None:
    assert set(FAILURES) == set(Failure.__args__)


def test_refused_path_comes_back_as_it_was() -> None:
    assert replied(request(RequestKind.READ, "/3/what"), Refused(words="no path")).path == "/3/what"


@given(
    kind=st.sampled_from(list(RequestKind)),
    path=st.sampled_from(["/", "/3", "/3/0", "/3/0/6", "/3/0/6/1", "/3303/0/5700", "/31000/0/1", "nonsense"]),
    code=st.integers(0, 255),
    content_format=st.none() | st.sampled_from([0, 40, 42, 60, 110, 112, 11542, 11543, 1542, 1543, 7]),
    payload=st.binary(max_size=60),
    location=st.lists(st.text(max_size=5), max_size=3),
)
def test_no_answer_of_a_device_raises(
    kind: RequestKind, path: str, code: int, content_format: int | None, payload: bytes, location: list[str]
) -> None:
    response = CoapResponse(code=code, content_format=content_format, payload=payload, location=tuple(location))
    replied(request(kind, path), response)


def test_composite_operations_are_not_for_devices_behind_a_gateway() -> None:
    device = DeviceView(ep="hub/lamp", version="1.1", root="/dev0", prefix="dev0")
    payload = RequestPayload(kind=RequestKind.READ_COMPOSITE, path="/", paths=("/3/0/0", "/3303/0"))
    with pytest.raises(RefusedRequest, match="behind a gateway"):
        build(Request(server_id="gw", ep="hub/lamp", ticket="t", payload=payload), device, Definitions.builtin())


def test_a_device_of_1_0_is_asked_for_no_bootstrap_trigger() -> None:
    asked = request(RequestKind.EXECUTE, "/1/0/9", ExecuteRequest(parameters=""))
    with pytest.raises(RefusedRequest, match=r"1\.0, which has no Bootstrap-Request Trigger"):
        build(asked, OLD, DEFINITIONS)
    assert build(asked, NEW, DEFINITIONS)
