"""Eclipse Leshan's client as the device: the composite operations, through the topics alone.

The numbers are those of OMA's Enabler Test Specification for LwM2M 1.1, LightweightM2M-1.1-int-NNN.
"""

from __future__ import annotations

import pytest

from schemas.avro.records import (
    CompositeBody,
    CreateRequest,
    GenericBody,
    Notification,
    ReadBody,
    RegistrationNew,
    RequestFormat,
    RequestKind,
    Response,
    ResponseCode,
    WriteCompositeRequest,
)
from schemas.lwm2m.nodes import Instance, Resource, ResourceType, Value, values
from schemas.lwm2m.path import Path
from tests.interop.gateway_process import GatewayProcess, plain
from tests.interop.leshan_device import LeshanDevice

pytestmark = [pytest.mark.interop, pytest.mark.kafka]

FORMATS = [RequestFormat.TLV, RequestFormat.SENML_JSON, RequestFormat.SENML_CBOR]
every_format = pytest.mark.parametrize("content_format", FORMATS, ids=lambda one: one.value)


def text(path: str, value: str) -> Resource:
    return Resource(path=Path.parse(path), type=ResourceType.STRING, value=value)


def found(reply: Response) -> dict[str, Value]:
    assert reply.rep.code is ResponseCode.CONTENT, plain(reply)
    assert isinstance(reply.rep.body, CompositeBody)
    return {str(one.path): one.value for one in reply.rep.body.resources}


def told(notification: Notification) -> dict[str, Value]:
    body = notification.rep.body
    return {str(one.path): one.value for one in values(body.content)} if isinstance(body, ReadBody) else {}


@every_format
@pytest.mark.ets("LightweightM2M-1.1-int-229")
def test_paths_of_several_objects_are_read_at_once(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    """229, 280."""
    reply = gateway.ask(
        leshan.endpoint,
        RequestKind.READ_COMPOSITE,
        "/",
        content_format=content_format,
        paths=("/3303/1/5701", "/3/0/0", "/3/0/6", "/3/0/0", "/1/0"),
    )
    here = found(reply)
    assert here["/3/0/0"] == "Eclipse Leshan"
    assert (here["/3/0/6/0"], here["/3/0/6/1"]) == (1, 5)
    assert here["/3303/1/5701"] == "Cel"
    assert here["/1/0/1"] == 300
    assert {path.split("/")[1] for path in here} == {"1", "3", "3303"}
    assert (reply.path, reply.rep.kind) == ("/", RequestKind.READ_COMPOSITE)


@every_format
def test_what_a_device_does_not_have_is_left_out(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    """236, 281."""
    paths = ("/3/0/3", "/3303/77/5700", "/3/0/13", "/4242")
    reply = gateway.ask(leshan.endpoint, RequestKind.READ_COMPOSITE, "/", content_format=content_format, paths=paths)
    assert found(reply) == {"/3/0/3": "2.0.0-M18"}


@every_format
def test_the_root_is_all_that_a_device_has(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    """235."""
    here = found(
        gateway.ask(leshan.endpoint, RequestKind.READ_COMPOSITE, "/", content_format=content_format, paths=("/",))
    )
    told = gateway.registration(
        lambda one: one.body.ep == leshan.endpoint and isinstance(one.body, RegistrationNew)
    ).body
    assert isinstance(told, RegistrationNew)
    registered = {url.split("/")[1] for link in told.links if (url := link.url) not in ("/", "")}
    # Of every object that has a value to be read; access control has none here, and its own security is not told.
    assert {"1", "3", "16", "3303"} <= {path.split("/")[1] for path in here} <= registered


@every_format
@pytest.mark.ets("LightweightM2M-1.1-int-230")
def test_resources_of_several_objects_are_written_at_once(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    """230, 257."""
    zone, room = f"+0{FORMATS.index(content_format)}", f"hall {content_format.value}"
    reply = gateway.ask(
        leshan.endpoint,
        RequestKind.WRITE_COMPOSITE,
        "/",
        WriteCompositeRequest(resources=(text("/3/0/14", zone), text("/3303/0/5750", room))),
        content_format=content_format,
    )
    assert reply.rep.code is ResponseCode.CHANGED, plain(reply)
    read = gateway.ask(leshan.endpoint, RequestKind.READ_COMPOSITE, "/", paths=("/3/0/14", "/3303/0/5750"))
    assert found(read) == {"/3/0/14": zone, "/3303/0/5750": room}


def test_a_composite_write_that_the_device_refuses_is_told_in_words(
    gateway: GatewayProcess, leshan: LeshanDevice
) -> None:
    body = WriteCompositeRequest(resources=(text("/3303/0/5701", "Far"), text("/3/0/14", "+09")))
    reply = gateway.ask(leshan.endpoint, RequestKind.WRITE_COMPOSITE, "/", body)
    assert reply.rep.code is ResponseCode.METHOD_NOT_ALLOWED, plain(reply)
    assert isinstance(reply.rep.body, GenericBody)
    assert "/3303/0/5701, /3/0/14" in reply.rep.body.message


@every_format
def test_paths_are_observed_together_until_that_is_cancelled(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    """304, 305, 310."""
    number = 100 + FORMATS.index(content_format)
    paths = ("/3303/1/5601", "/3303/0/5602", "/3/0/0")
    reply = gateway.ask(leshan.endpoint, RequestKind.OBSERVE_COMPOSITE, "/", content_format=content_format, paths=paths)
    assert set(found(reply)) == set(paths)
    leshan.set("/3303/1/5601", f"-{number}.5")
    first = gateway.notification(lambda one: one.ep == leshan.endpoint and -number - 0.5 in told(one).values())
    assert (first.path, first.ticket, first.rep.kind) == (
        "/3303/1/5601",
        reply.ticket,
        RequestKind.OBSERVE_COMPOSITE,
    )
    leshan.set("/3303/0/5602", f"{number}.25")
    seen = gateway.notifications(lambda one: one.ep == leshan.endpoint and number + 0.25 in told(one).values())
    ours = [one for one in seen if one.ticket == reply.ticket]
    assert {one.observation_id for one in ours} == {first.observation_id}
    assert {one.path for one in ours} <= set(paths)

    cancelled = gateway.ask(
        leshan.endpoint,
        RequestKind.OBSERVE_COMPOSITE_CANCEL,
        "/",
        content_format=content_format,
        paths=tuple(reversed(paths)),
    )
    assert cancelled.rep.code in (ResponseCode.CONTENT, ResponseCode.DELETED), plain(cancelled)
    leshan.set("/3303/1/5601", "-44.75")
    # One connection, one order: what a still living observation told would be recorded before this one.
    leshan.set("/3303/0/5700", f"{number}.125")
    after = gateway.notifications(lambda one: one.ep == leshan.endpoint and number + 0.125 in told(one).values())
    assert -44.75 not in [value for one in after if one.ticket == reply.ticket for value in told(one).values()]


def test_instances_that_come_and_go_are_told_of(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    """308, 309."""
    reply = gateway.ask(leshan.endpoint, RequestKind.OBSERVE_COMPOSITE, "/", paths=("/3303", "/3/0/14"))
    assert "/3303/0/5700" in found(reply)
    node = Instance(
        path=Path(3303, 30),
        resources=(Resource(path=Path(3303, 30, 5700), type=ResourceType.FLOAT, value=5.5),),
    )
    made = gateway.ask(leshan.endpoint, RequestKind.CREATE, "/3303", CreateRequest(instance=node))
    assert made.rep.code is ResponseCode.CREATED, plain(made)
    leshan.set("/3303/30/5700", "77.5")
    there = gateway.notification(lambda one: one.ticket == reply.ticket and 77.5 in told(one).values())
    assert there.path == "/3303"
    gone = gateway.ask(leshan.endpoint, RequestKind.DELETE, "/3303/30")
    assert gone.rep.code is ResponseCode.DELETED, plain(gone)
    leshan.set("/3303/1/5700", "78.5")
    without = gateway.notification(lambda one: one.ticket == reply.ticket and 78.5 in told(one).values())
    assert "/3303/30/5700" not in told(without)
    stopped = gateway.ask(leshan.endpoint, RequestKind.OBSERVE_COMPOSITE_CANCEL, "/", paths=("/3303", "/3/0/14"))
    assert stopped.rep.code in (ResponseCode.CONTENT, ResponseCode.DELETED), plain(stopped)


@every_format
def test_what_is_long_goes_in_blocks_both_ways(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    long_name = f"{content_format.value} " * 300
    written = gateway.ask(
        leshan.endpoint,
        RequestKind.WRITE_COMPOSITE,
        "/",
        WriteCompositeRequest(resources=(text("/3303/0/5750", long_name), text("/3/0/14", "+00"))),
        content_format=content_format,
    )
    assert written.rep.code is ResponseCode.CHANGED, plain(written)
    paths = ("/3303/0/5750", "/3/0/14")
    read = gateway.ask(leshan.endpoint, RequestKind.READ_COMPOSITE, "/", content_format=content_format, paths=paths)
    assert found(read) == {"/3303/0/5750": long_name, "/3/0/14": "+00"}
    observed = gateway.ask(
        leshan.endpoint, RequestKind.OBSERVE_COMPOSITE, "/", content_format=content_format, paths=paths
    )
    assert found(observed) == found(read)
    longer = long_name + "!"
    leshan.set("/3303/0/5750", longer)
    gateway.notification(lambda one: one.ticket == observed.ticket and longer in told(one).values())
    stopped = gateway.ask(
        leshan.endpoint, RequestKind.OBSERVE_COMPOSITE_CANCEL, "/", content_format=content_format, paths=paths
    )
    assert stopped.rep.code in (ResponseCode.CONTENT, ResponseCode.DELETED), plain(stopped)


def test_what_is_not_observed_together_cannot_be_cancelled(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    reply = gateway.ask(leshan.endpoint, RequestKind.OBSERVE_COMPOSITE_CANCEL, "/", paths=("/3/0/0", "/1"))
    assert reply.rep.code is ResponseCode.BAD_REQUEST
    assert isinstance(reply.rep.body, GenericBody)
    assert "/1, /3/0/0 of" in reply.rep.body.message and "not observed together" in reply.rep.body.message
