"""The requests of a campaign, and what answers them: between the machine and the records of the topics. Pure.

The ticket of a request says whose it is: ``hw-campaign:NAME:CREATED:NUMBER:EP``. It is the same whenever the request is
sent again, so that the gateway answers it again and does nothing twice.
"""

from __future__ import annotations

from cloud.campaigns.machine import Answered, Ask, Device, Pending
from cloud.campaigns.plan import Plan
from schemas.avro.records import (
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
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Instance, MultipleResource, Resource, ResourceType
from schemas.lwm2m.path import Path

MARK = "hw-campaign:"
#: As it stands in the bytes of a record.
MARK_BYTES = MARK.encode()
#: Firmware Version of object 3.
_VERSION = Path(3, 0, 3)


def ticket(plan: Plan, device: Device, pending: Pending) -> str:
    return f"{MARK}{plan.name}:{plan.created}:{pending.number}:{device.ep}"


def of_ticket(text: str) -> tuple[str, int, int, str] | None:
    """Name and time of creation of the campaign, number of the request, endpoint; None for others' tickets."""
    if not text.startswith(MARK):
        return None
    parts = text[len(MARK) :].split(":", 3)
    try:
        name, created, number, ep = parts
        return name, int(created), int(number), ep
    except ValueError:
        return None


def request(plan: Plan, device: Device, pending: Pending) -> Request:
    """The record that carries out what is pending."""
    row = plan.task.row
    target = Path(row.number, plan.task.instance)
    file = FileRequest(sha256=plan.file.sha256, size=plan.file.size, name=plan.file.name)
    nothing = Resource(path=target.child(row.uri), type=ResourceType.STRING, value="")
    table: dict[Ask, tuple[RequestKind, Path, RequestBody | None]] = {
        Ask.LOOK: (RequestKind.READ, target, None),
        Ask.OBSERVE_STATE: (RequestKind.OBSERVE, target.child(row.state), None),
        Ask.OBSERVE_RESULT: (RequestKind.OBSERVE, target.child(row.result), None),
        Ask.FORGET_STATE: (RequestKind.OBSERVE_CANCEL, target.child(row.state), None),
        Ask.FORGET_RESULT: (RequestKind.OBSERVE_CANCEL, target.child(row.result), None),
        Ask.RESET: (RequestKind.WRITE, nothing.path, WriteRequest(mode=WriteMode.REPLACE, node=nothing)),
        Ask.TELL_URI: (RequestKind.WRITE, target.child(row.uri), file),
        Ask.SEND: (RequestKind.WRITE, target.child(row.package), file),
        Ask.EXECUTE: (RequestKind.EXECUTE, target.child(row.execute), ExecuteRequest(parameters="")),
        Ask.ACTIVATE: (RequestKind.EXECUTE, target.child(row.activate or 0), ExecuteRequest(parameters="")),
        Ask.VERSION: (RequestKind.READ, _VERSION, None),
    }
    kind, path, body = table[pending.ask]
    return Request(
        server_id=plan.gateway,
        ep=device.ep,
        ticket=ticket(plan, device, pending),
        payload=RequestPayload(kind=kind, path=str(path), content_format=RequestFormat.TLV, body=body),
        expires=pending.expires,
    )


def answered(number: int, response: Response) -> Answered:
    """A reply as the machine takes it."""
    values: dict[int, object] = {}
    body = response.rep.body
    if isinstance(body, ReadBody):
        content = body.content
        resources = content.resources if isinstance(content, Instance) else (content,)
        for one in resources:
            if isinstance(one, MultipleResource):
                values[one.path.ids[2]] = tuple(each.value for each in one.instances)
            elif isinstance(one, Resource):
                values[one.path.ids[2]] = one.value
    return Answered(
        number=number,
        code=response.rep.code,
        values=values,
        message=body.message if isinstance(body, GenericBody) else "",
    )
