"""Records (``schemas.avro.records``) ⇄ the plain dicts that fastavro writes and reads: one function a record and way.

Flat and by hand, because the gateway's command loop and the sinks go through here for every record. Makes no bytes.
Branches of unions are ``(name, value)``; ``None`` is null. Fields of version 2 are always there; a writer of
version 1 does not look at them. Version 3 has more bodies and one more content format, and no field more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schemas.avro.errors import InvalidRecord, MalformedRecord
from schemas.avro.records import (
    Binding,
    CompositeBody,
    CreateBody,
    CreateRequest,
    DiscoverBody,
    ExecuteRequest,
    FileRequest,
    GenericBody,
    Key,
    Link,
    Notification,
    ReadBody,
    Registration,
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    Request,
    RequestBody,
    RequestFormat,
    RequestKind,
    RequestPayload,
    Response,
    ResponseBody,
    ResponseCode,
    ResponsePayload,
    WriteAttributesRequest,
    WriteCompositeRequest,
    WriteMode,
    WriteRequest,
)
from schemas.avro.registry import NAMESPACE
from schemas.avro.resources import (
    Fields,
    has_timestamp,
    instance_fields,
    instance_from_avro,
    node_from_avro,
    node_to_avro,
    resource_fields,
    resource_from_avro,
)
from schemas.lwm2m.nodes import MultipleResource

NEW = f"{NAMESPACE}.registration.AvroRegistrationNew"
UPDATE = f"{NAMESPACE}.registration.AvroRegistrationUpdate"
DELETE = f"{NAMESPACE}.registration.AvroRegistrationDelete"
CREATE_REQUEST = f"{NAMESPACE}.request.AvroCreateRequest"
EXECUTE_REQUEST = f"{NAMESPACE}.request.AvroExecuteRequest"
ATTRIBUTES_REQUEST = f"{NAMESPACE}.request.AvroWriteAttributesRequest"
WRITE_REQUEST = f"{NAMESPACE}.request.AvroWriteRequest"
WRITE_COMPOSITE_REQUEST = f"{NAMESPACE}.request.AvroWriteCompositeRequest"
FILE_REQUEST = f"{NAMESPACE}.request.AvroFileRequest"
READ_BODY = f"{NAMESPACE}.response.AvroReadResponseBody"
DISCOVER_BODY = f"{NAMESPACE}.response.AvroDiscoverResponse"
CREATE_BODY = f"{NAMESPACE}.response.AvroCreateResponse"
GENERIC_BODY = f"{NAMESPACE}.response.AvroGenericResponse"
COMPOSITE_BODY = f"{NAMESPACE}.response.AvroCompositeResponse"

_KINDS_OF_2 = frozenset(
    {
        RequestKind.READ_COMPOSITE.value,
        RequestKind.WRITE_COMPOSITE.value,
        RequestKind.OBSERVE_COMPOSITE.value,
        RequestKind.OBSERVE_COMPOSITE_CANCEL.value,
        RequestKind.SEND.value,
    }
)
_FORMATS_OF_2 = frozenset({RequestFormat.SENML_JSON.value, RequestFormat.SENML_CBOR.value, RequestFormat.CBOR.value})


# --- record → dict -------------------------------------------------------------------------------------------------


def key_fields(record: Key) -> Fields:
    return {"ep": record.ep}


def registration_fields(record: Registration) -> Fields:
    body = record.body
    return {"kind": record.kind._value_, "body": _BODY_OF_REGISTRATION[type(body)](body)}


def _new(body: RegistrationNew) -> tuple[str, Fields]:
    return NEW, {
        "ep": body.ep,
        "serverId": body.server_id,
        "regDate": body.reg_date,
        "address": body.address,
        "port": _int(body.port, "port"),
        "regAddr": body.reg_addr,
        "regPort": _int(body.reg_port, "regPort"),
        "lt": body.lt,
        "sms": body.sms,
        "ver": body.ver,
        "bnd": body.bnd._value_,
        "regId": body.reg_id,
        "links": [{"url": link.url, "at": dict(link.at)} for link in body.links],
        "attributes": None if body.attributes is None else ("map", dict(body.attributes)),
        "root": body.root,
        "lastUp": body.last_up,
    }


def _update(body: RegistrationUpdate) -> tuple[str, Fields]:
    return UPDATE, {
        "ep": body.ep,
        "serverId": body.server_id,
        "regId": body.reg_id,
        "address": body.address,
        "port": _int(body.port, "port"),
        "lt": body.lt,
        "sms": body.sms,
        "bnd": None if body.bnd is None else body.bnd._value_,
        "links": None
        if body.links is None
        else ("array", [{"url": link.url, "at": dict(link.at)} for link in body.links]),
        "attributes": None if body.attributes is None else ("map", dict(body.attributes)),
        "lastUp": body.last_up,
    }


def _delete(body: RegistrationDelete) -> tuple[str, Fields]:
    return DELETE, {
        "ep": body.ep,
        "serverId": body.server_id,
        "expired": body.expired,
        "lastUp": body.last_up,
    }


_BODY_OF_REGISTRATION: dict[type, Callable[[Any], tuple[str, Fields]]] = {
    RegistrationNew: _new,
    RegistrationUpdate: _update,
    RegistrationDelete: _delete,
}


def request_fields(record: Request) -> Fields:
    payload = record.payload
    body = payload.body
    return {
        "serverId": record.server_id,
        "ep": record.ep,
        "ticket": record.ticket,
        "payload": {
            "kind": payload.kind._value_,
            "path": payload.path,
            "contentFormat": payload.content_format._value_,
            "body": None if body is None else _BODY_OF_REQUEST[type(body)](body),
        },
        "paths": list(payload.paths),
        "expires": None if record.expires is None else ("long", record.expires),
    }


_BODY_OF_REQUEST: dict[type, Callable[[Any], tuple[str, Fields]]] = {
    CreateRequest: lambda body: (CREATE_REQUEST, {"instance": instance_fields(body.instance)}),
    ExecuteRequest: lambda body: (EXECUTE_REQUEST, {"parameters": body.parameters}),
    WriteAttributesRequest: lambda body: (ATTRIBUTES_REQUEST, {"observeSpec": body.observe_spec}),
    WriteRequest: lambda body: (WRITE_REQUEST, {"mode": body.mode._value_, "node": node_to_avro(body.node)}),
    WriteCompositeRequest: lambda body: (
        WRITE_COMPOSITE_REQUEST,
        {"resources": [resource_fields(one) for one in body.resources]},
    ),
    FileRequest: lambda body: (FILE_REQUEST, {"sha256": body.sha256, "size": body.size, "name": body.name}),
}


def response_fields(record: Response) -> Fields:
    return {
        "ticket": record.ticket,
        "serverId": record.server_id,
        "ep": record.ep,
        "path": record.path,
        "timestamp": record.timestamp,
        "rep": _rep(record.rep),
    }


def notification_fields(record: Notification) -> Fields:
    return {
        "ticket": record.ticket,
        "observationId": record.observation_id,
        "serverId": record.server_id,
        "ep": record.ep,
        "path": record.path,
        "timestamp": record.timestamp,
        "rep": _rep(record.rep),
    }


def _rep(payload: ResponsePayload) -> Fields:
    body = payload.body
    return {
        "code": payload.code._value_,
        "kind": payload.kind._value_,
        "body": None if body is None else _BODY_OF_RESPONSE[type(body)](body),
    }


_BODY_OF_RESPONSE: dict[type, Callable[[Any], tuple[str, Fields]]] = {
    ReadBody: lambda body: (READ_BODY, {"content": node_to_avro(body.content)}),
    DiscoverBody: lambda body: (DISCOVER_BODY, {"objectLinks": body.object_links}),
    CreateBody: lambda body: (CREATE_BODY, {"location": body.location}),
    GenericBody: lambda body: (GENERIC_BODY, {"message": body.message}),
    CompositeBody: lambda body: (COMPOSITE_BODY, {"resources": [resource_fields(one) for one in body.resources]}),
}


def _int(value: int, field: str) -> int:
    if -(2**31) <= value < 2**31:
        return value
    raise InvalidRecord(f"{field}: {value} does not fit into 32 bits")


# --- the oldest version that carries a record ----------------------------------------------------------------------


def request_version(record: Request) -> int:
    payload = record.payload
    if payload.content_format is RequestFormat.LWM2M_CBOR or isinstance(
        payload.body, (WriteCompositeRequest, FileRequest)
    ):
        return 3
    if (
        record.expires is not None
        or payload.paths
        or payload.kind._value_ in _KINDS_OF_2
        or payload.content_format._value_ in _FORMATS_OF_2
    ):
        return 2
    body = payload.body
    if isinstance(body, WriteRequest):
        return 2 if has_timestamp(body.node) else 1
    if isinstance(body, CreateRequest):
        return 2 if has_timestamp(body.instance) else 1
    return 1


def reply_version(record: Response | Notification) -> int:
    payload = record.rep
    if type(payload.body) is CompositeBody:
        return 3
    if payload.kind._value_ in _KINDS_OF_2:
        return 2
    body = payload.body
    return 2 if type(body) is ReadBody and has_timestamp(body.content) else 1


# --- dict → record -------------------------------------------------------------------------------------------------


def key_record(fields: Fields) -> Key:
    return Key(ep=fields["ep"])


def registration_record(fields: Fields) -> Registration:
    name, body = fields["body"]
    kind = _REGISTRATION_KINDS[fields["kind"]]
    if name == NEW:
        return Registration(
            kind=kind,
            body=RegistrationNew(
                ep=body["ep"],
                server_id=body["serverId"],
                reg_date=body["regDate"],
                address=body["address"],
                port=_port(body["port"]),
                reg_addr=body["regAddr"],
                reg_port=_port(body["regPort"]),
                lt=body["lt"],
                ver=body["ver"],
                bnd=_BINDINGS[body["bnd"]],
                reg_id=body["regId"],
                links=_links(body["links"]),
                root=body["root"],
                last_up=body["lastUp"],
                sms=body["sms"],
                attributes=body["attributes"],
            ),
        )
    if name == UPDATE:
        links, bnd = body["links"], body["bnd"]
        return Registration(
            kind=kind,
            body=RegistrationUpdate(
                ep=body["ep"],
                server_id=body["serverId"],
                reg_id=body["regId"],
                address=body["address"],
                port=_port(body["port"]),
                last_up=body["lastUp"],
                lt=body["lt"],
                sms=body["sms"],
                bnd=None if bnd is None else _BINDINGS[bnd[1]],  # named, as every branch that is a reference is
                links=None if links is None else _links(links),
                attributes=body["attributes"],
            ),
        )
    return Registration(
        kind=kind,
        body=RegistrationDelete(
            ep=body["ep"], server_id=body["serverId"], expired=body["expired"], last_up=body["lastUp"]
        ),
    )


def _port(value: int) -> int:
    # Avro's int has 32 bits; the reader takes the same bytes as for a long.
    if -(2**31) <= value < 2**31:
        return value
    raise MalformedRecord(f"a port of {value}")


def _links(rows: list[Fields]) -> tuple[Link, ...]:
    return tuple([Link(url=row["url"], at=row["at"]) for row in rows])


def request_record(fields: Fields) -> Request:
    payload = fields["payload"]
    path, body = payload["path"], payload["body"]
    return Request(
        server_id=fields["serverId"],
        ep=fields["ep"],
        ticket=fields["ticket"],
        payload=RequestPayload(
            kind=_REQUEST_KINDS[payload["kind"]],
            path=path,
            content_format=_REQUEST_FORMATS[payload["contentFormat"]],
            body=None if body is None else _REQUEST_BODY[body[0]](body[1], path),
            paths=tuple(fields.get("paths", ())),
        ),
        expires=fields.get("expires"),
    )


def _write_request(fields: Fields, path: str) -> WriteRequest:
    node = node_from_avro(fields["node"], path)
    if isinstance(node, MultipleResource):  # the union has no such branch, but a mistaken caller may
        raise MalformedRecord("a write takes an object, an instance or a resource")
    return WriteRequest(mode=_WRITE_MODES[fields["mode"]], node=node)


_REQUEST_BODY: dict[str, Callable[[Fields, str], RequestBody]] = {
    CREATE_REQUEST: lambda fields, path: CreateRequest(instance=instance_from_avro(fields["instance"], path)),
    EXECUTE_REQUEST: lambda fields, path: ExecuteRequest(parameters=fields["parameters"]),
    ATTRIBUTES_REQUEST: lambda fields, path: WriteAttributesRequest(observe_spec=fields["observeSpec"]),
    WRITE_REQUEST: _write_request,
    WRITE_COMPOSITE_REQUEST: lambda fields, path: WriteCompositeRequest(
        resources=tuple([resource_from_avro(one) for one in fields["resources"]])
    ),
    FILE_REQUEST: lambda fields, path: FileRequest(sha256=fields["sha256"], size=fields["size"], name=fields["name"]),
}


def response_record(fields: Fields) -> Response:
    return Response(
        ticket=fields["ticket"],
        server_id=fields["serverId"],
        ep=fields["ep"],
        path=fields["path"],
        timestamp=fields["timestamp"],
        rep=_payload(fields["rep"], fields["path"]),
    )


def notification_record(fields: Fields) -> Notification:
    return Notification(
        ticket=fields["ticket"],
        observation_id=fields["observationId"],
        server_id=fields["serverId"],
        ep=fields["ep"],
        path=fields["path"],
        timestamp=fields["timestamp"],
        rep=_payload(fields["rep"], fields["path"]),
    )


def _payload(fields: Fields, path: str) -> ResponsePayload:
    body = fields["body"]
    return ResponsePayload(
        code=_RESPONSE_CODES[fields["code"]],
        kind=_REQUEST_KINDS[fields["kind"]],
        body=None if body is None else _RESPONSE_BODY[body[0]](body[1], path),
    )


_RESPONSE_BODY: dict[str, Callable[[Fields, str], ResponseBody]] = {
    READ_BODY: lambda fields, path: ReadBody(content=node_from_avro(fields["content"], path)),
    DISCOVER_BODY: lambda fields, path: DiscoverBody(object_links=fields["objectLinks"]),
    CREATE_BODY: lambda fields, path: CreateBody(location=fields["location"]),
    GENERIC_BODY: lambda fields, path: GenericBody(message=fields["message"]),
    COMPOSITE_BODY: lambda fields, path: CompositeBody(
        resources=tuple([resource_from_avro(one) for one in fields["resources"]])
    ),
}

_REGISTRATION_KINDS = {one.value: one for one in RegistrationKind}
_BINDINGS = {one.value: one for one in Binding}
_REQUEST_KINDS = {one.value: one for one in RequestKind}
_REQUEST_FORMATS = {one.value: one for one in RequestFormat}
_WRITE_MODES = {one.value: one for one in WriteMode}
_RESPONSE_CODES = {one.value: one for one in ResponseCode}
