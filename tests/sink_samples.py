"""Records as sinks get them, for the tests of sinks and of the runner."""

from __future__ import annotations

from collections.abc import Mapping

from connectors.sinks import SinkRecord
from schemas.avro.records import (
    Binding,
    Key,
    Link,
    Notification,
    ReadBody,
    Record,
    Registration,
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
    Response,
    ResponseBody,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, Resource, ResourceType, Value
from schemas.lwm2m.path import Path

GATEWAY = "gw1"
TOPICS = Topics(GATEWAY)
LINKS = (
    Link(url="/", at={"rt": '"oma.lwm2m"', "ct": "110"}),
    Link(url="/1/0", at={}),
    Link(url="/3/0", at={}),
    Link(url="/3303", at={"ver": "1.1"}),
    Link(url="/3303/0", at={}),
    Link(url="/3303/1", at={}),
    Link(url="/33333/0", at={}),
)


def resource(
    path: str, value: Value, kind: ResourceType = ResourceType.FLOAT, timestamp: int | None = None
) -> Resource:
    return Resource(path=Path.parse(path), type=kind, value=value, timestamp=timestamp)


def notification(
    content: Object | Instance | Resource | MultipleResource,
    *,
    ep: str = "ep-1",
    timestamp: int = 1_000,
    server: str = GATEWAY,
    ticket: str = "ticket#1",
) -> Notification:
    return Notification(
        ticket=ticket,
        observation_id="obs-1",
        server_id=server,
        ep=ep,
        path=str(content.path),
        timestamp=timestamp,
        rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=content)),
    )


def reply(
    body: ResponseBody | None,
    *,
    path: str,
    code: ResponseCode = ResponseCode.CONTENT,
    kind: RequestKind = RequestKind.READ,
    timestamp: int = 1_000,
) -> Response:
    return Response(
        ticket="ticket#9",
        server_id=GATEWAY,
        ep="ep-1",
        path=path,
        timestamp=timestamp,
        rep=ResponsePayload(code=code, kind=kind, body=body),
    )


def new(*, links: tuple[Link, ...] = LINKS, ep: str = "ep-1", reg_id: str = "r1", last_up: int = 100) -> Registration:
    return Registration(
        kind=RegistrationKind.NEW,
        body=RegistrationNew(
            ep=ep,
            server_id=GATEWAY,
            reg_date=50,
            address="10.0.0.7",
            port=40_000,
            reg_addr="10.0.0.1",
            reg_port=5683,
            lt=300,
            ver="1.1",
            bnd=Binding.UQ,
            reg_id=reg_id,
            links=links,
            root="/",
            last_up=last_up,
            sms="+4912345",
            attributes={"model": "Thermo é"},
        ),
    )


def update(*, links: tuple[Link, ...] | None = None, lt: int | None = None, port: int = 41_000) -> Registration:
    return Registration(
        kind=RegistrationKind.UPDATE,
        body=RegistrationUpdate(
            ep="ep-1", server_id=GATEWAY, reg_id="r1", address="10.0.0.8", port=port, last_up=200, links=links, lt=lt
        ),
    )


def delete(*, expired: bool = False, ep: str = "ep-1") -> Registration:
    return Registration(
        kind=RegistrationKind.DELETE,
        body=RegistrationDelete(ep=ep, server_id=GATEWAY, expired=expired, last_up=300),
    )


def at(
    offset: int,
    record: Record,
    *,
    topic: str | None = None,
    partition: int = 0,
    timestamp: int | None = None,
    headers: Mapping[str, bytes] | None = None,
) -> SinkRecord:
    """``record`` as it stands at ``offset`` of the topic that it belongs to; its Kafka time follows the offset."""
    belongs = {Registration: TOPICS.registrations, Notification: TOPICS.observations, Response: TOPICS.replies}
    return SinkRecord(
        topic=topic or belongs.get(type(record), TOPICS.observations),
        partition=partition,
        offset=offset,
        timestamp=1_000_000 + offset if timestamp is None else timestamp,
        headers=tuple((headers or {}).items()),
        key=Key(ep="ep-1"),
        record=record,
        gateway=GATEWAY,
    )
