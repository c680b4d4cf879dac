"""Where bytes of strangers come in, one row each: what takes them, and good ones of every kind.

A row's ``take`` returns True for what it took and False for what it refused in its own words; it raises where a gateway
or a command would have failed. Hypothesis drives the rows in the tests (`test_fuzz_surfaces.py`), coverage-guided
fuzzing drives them with `make fuzz` (`run.py`). What either found goes into ``found`` and stays there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path as FilePath

from gateway.coap.message import Malformed, parse, parse_any_size
from gateway.registration import Refused, parse_announcement, parse_parameters
from schemas.avro import serde
from schemas.avro.errors import InvalidRequest, SerdeError
from schemas.avro.records import (
    ExecuteRequest,
    Notification,
    ReadBody,
    Request,
    RequestBody,
    RequestKind,
    RequestPayload,
    ResponseCode,
    ResponsePayload,
    WriteAttributesRequest,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m import xml_files
from schemas.lwm2m.attributes import ObserveSpecError, format_spec, parse_spec
from schemas.lwm2m.errors import CodecError, NotInThisFormat
from schemas.lwm2m.formats import ContentFormat, decode_series, encode
from schemas.lwm2m.link import format_links, parse_links
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, ObjectLink, Resource, ResourceType
from schemas.lwm2m.objects import DefinitionError, Definitions
from schemas.lwm2m.path import Path
from tests.faults import mutate

Take = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """One row. A row with a state of its own (sessions) keeps it from one input to the next."""

    take: Take
    #: All of them are taken, whatever came before.
    good: tuple[bytes, ...]
    found: tuple[bytes, ...] = ()
    #: How many inputs a test may try: fewer where each is a handshake.
    tries: int = 200


def _coap(data: bytes) -> bool:
    try:
        message = parse(data)
    except Malformed:
        return False
    assert parse_any_size(message.encode()) == message
    return True


DEFINITIONS = Definitions.builtin()


def _resource(path: str, kind: ResourceType, value: object) -> Resource:
    return Resource(path=Path.parse(path), type=kind, value=value)  # type: ignore[arg-type]  # a table of samples


_SOURCES = MultipleResource(
    path=Path(3, 0, 6),
    type=ResourceType.INTEGER,
    instances=(
        _resource("/3/0/6/0", ResourceType.INTEGER, 1),
        _resource("/3/0/6/1", ResourceType.INTEGER, 5),
    ),
)
_DEVICE = Instance(
    path=Path(3, 0),
    resources=(
        _resource("/3/0/0", ResourceType.STRING, "Open Mobile Alliance"),
        _SOURCES,
        _resource("/3/0/9", ResourceType.INTEGER, -129),
        _resource("/3/0/13", ResourceType.TIME, 1_700_000_000_000),
    ),
)
#: What is asked for, by the first byte of an input; the rest is the payload.
NODES: tuple[Node, ...] = (
    _resource("/3303/0/5700", ResourceType.FLOAT, 21.5),
    _DEVICE,
    Object(path=Path(3), instances=(_DEVICE,)),
    _SOURCES,
    _resource("/3/0/6/1", ResourceType.INTEGER, 5),
    _resource("/3/0/0", ResourceType.STRING, "Zürich"),
    _resource("/3/0/13", ResourceType.TIME, 1_700_000_000_000),
    _resource("/1/0/6", ResourceType.BOOLEAN, True),
    _resource("/5/0/0", ResourceType.OPAQUE, b"\x00\x01\xff"),
    _resource("/60000/0/1", ResourceType.STRING, "</3/0>;ver=1.1,</4>"),
    _resource("/60000/0/2", ResourceType.OBJLNK, ObjectLink(3, 0)),
)


def _told(node: Node) -> bytes:
    """The record that a notification of ``node`` becomes."""
    assert isinstance(node, Object | Instance | Resource | MultipleResource)
    payload = ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=node))
    return serde.encode(
        Notification(
            ticket="t", observation_id="o", server_id="gw", ep="ep", path=str(node.path), timestamp=1, rep=payload
        )
    )


def _payload(fmt: ContentFormat) -> Surface:
    def take(data: bytes) -> bool:
        wanted = NODES[data[0] % len(NODES)].path if data else Path(3)
        try:
            nodes = decode_series(fmt, data[1:], wanted, DEFINITIONS, 1_700_000_000_000)
        except CodecError as exc:
            assert str(exc)
            return False
        for node in nodes:
            # Whatever a device tells, its record can be written and read.
            serde.decode(_told(node))
        return True

    good = []
    for number, node in enumerate(NODES):
        try:
            good.append(bytes([number]) + encode(fmt, node, DEFINITIONS))
        except NotInThisFormat:
            continue
    return Surface(take=take, good=tuple(good))


def _links(data: bytes) -> bool:
    try:
        links = parse_links(data.decode(errors="replace"))
        text = format_links(links)
    except CodecError:
        return False
    assert parse_links(text) == links
    return True


def _attributes(data: bytes) -> bool:
    try:
        found = parse_spec(data.decode(errors="replace"))
    except ObserveSpecError:
        return False
    assert parse_spec(format_spec(found)) == found
    return True


def _registration(data: bytes) -> bool:
    """Query options, a line each, and behind an empty line the links."""
    head, _, links = data.partition(b"\n\n")
    try:
        parse_parameters([line.decode(errors="replace") for line in head.split(b"\n")])
        said = parse_announcement(links)
    except Refused:
        return False
    assert all(1 <= path.depth <= 2 for path in said.paths)
    return True


def _model(data: bytes) -> bool:
    try:
        found = xml_files.parse_each(data, "model.xml")
    except DefinitionError as exc:
        assert str(exc).startswith("model.xml")
        return False
    for definition, alone in found:
        assert [one.id for one in xml_files.parse(alone, "alone.xml")] == [definition.id]
    return True


def _request_json(data: bytes) -> bool:
    try:
        request = serde.request_from_json(data)
    except InvalidRequest as exc:
        assert str(exc)
        return False
    assert serde.decode(serde.encode(request)) == request
    return True


def _avro(data: bytes) -> bool:
    try:
        record = serde.decode(data)
    except SerdeError:
        return False
    serde.decode(serde.encode(record))
    return True


def _requests() -> tuple[Request, ...]:
    writes = [node for node in NODES if isinstance(node, Object | Instance | Resource)]
    bodies: list[tuple[RequestKind, str, RequestBody | None]] = [
        (RequestKind.READ, "/3/0/0", None),
        (RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters="0='now',1")),
        (RequestKind.WRITE_ATTRIBUTES, "/3303/0/5700", WriteAttributesRequest(observe_spec="pmin=1&pmax=60")),
        *(
            (RequestKind.WRITE, str(node.path), WriteRequest(mode=WriteMode.UPDATE, node=node))
            for node in writes
            if not isinstance(node, Resource) or node.type is not ResourceType.OBJLNK
        ),
    ]
    return tuple(
        Request(server_id="gw", ep="ep", ticket="t", payload=RequestPayload(kind=kind, path=path, body=body))
        for kind, path, body in bodies
    )


_FORMATS = {
    "text": ContentFormat.TEXT,
    "opaque": ContentFormat.OPAQUE,
    "corelnk": ContentFormat.LINK,
    "cbor": ContentFormat.CBOR,
    "tlv": ContentFormat.TLV,
    "json": ContentFormat.JSON,
    "senml-json": ContentFormat.SENML_JSON,
    "senml-cbor": ContentFormat.SENML_CBOR,
    "lwm2m-cbor": ContentFormat.LWM2M_CBOR,
}


def _of(module: str, name: str) -> Callable[[], Surface]:
    def made() -> Surface:
        surface: Surface = getattr(import_module(f"tests.fuzz.{module}"), name)()
        return surface

    return made


def _pure() -> dict[str, Callable[[], Surface]]:
    links = b'</>;rt="oma.lwm2m";ct="110 112",</1/0>;ver=1.1,</3/0>,</3303/0>;pmin=10;title="a, \\"b"'
    query = b"ep=lamp\nlt=300\nlwm2m=1.1\nb=U\nQ\nsms=+491701234\nsite=7"
    models = sorted((FilePath(__file__).parents[1] / "data" / "oma").glob("*.xml"))
    return {
        "coap": lambda: Surface(take=_coap, good=tuple(mutate.encode(one) for one in mutate.valid())),
        **{name: lambda fmt=fmt: _payload(fmt) for name, fmt in _FORMATS.items()},  # type: ignore[misc]
        "links": lambda: Surface(take=_links, good=(links, b"", b"</a>;b=c;d")),
        "attributes": lambda: Surface(take=_attributes, good=(b"pmin=1&pmax=60", b"gt=20.5&lt=-3&st=0.5", b"?pmax=")),
        "registration": lambda: Surface(take=_registration, good=(query + b"\n\n" + links, b"ep=a\n\n</3/0>")),
        "model-xml": lambda: Surface(take=_model, good=tuple(file.read_bytes() for file in models), tries=60),
        "request-json": lambda: Surface(
            take=_request_json,
            good=tuple(json.dumps(serde.request_to_json(one)).encode() for one in _requests()),
        ),
        "avro": lambda: Surface(
            take=_avro, good=(*(serde.encode(one) for one in _requests()), *(_told(node) for node in NODES))
        ),
    }


#: Each is made once in a process, when it is wanted.
SURFACES: Mapping[str, Callable[[], Surface]] = {
    **_pure(),
    "notifications": _of("sessions", "notifications"),
    "dtls-keys": _of("sessions", "keys"),
    "dtls-client": _of("sessions", "client"),
    "dtls-certificates": _of("sessions", "certificates"),
    "oscore": _of("protected", "oscore"),
    "bootstrap": _of("bootstrapping", "bootstrap"),
}
