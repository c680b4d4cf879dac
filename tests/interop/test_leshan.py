"""Eclipse Leshan's client as the device: everything a user asks of a device, through the topics alone."""

from __future__ import annotations

import pytest

from schemas.avro.records import (
    CreateBody,
    CreateRequest,
    DiscoverBody,
    ExecuteRequest,
    GenericBody,
    Notification,
    ReadBody,
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    RequestFormat,
    RequestKind,
    ResponseCode,
    WriteAttributesRequest,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.link import parse_links
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, Resource, ResourceType, values
from schemas.lwm2m.path import Path
from tests.interop.gateway_process import GatewayProcess, plain
from tests.interop.leshan_device import LeshanDevice

pytestmark = [pytest.mark.interop, pytest.mark.kafka]

FORMATS = [RequestFormat.TLV, RequestFormat.SENML_JSON, RequestFormat.SENML_CBOR]
every_format = pytest.mark.parametrize("content_format", FORMATS, ids=lambda one: one.value)


def text(path: str, value: str) -> Resource:
    return Resource(path=Path.parse(path), type=ResourceType.STRING, value=value)


def temperature(notification: Notification) -> float | None:
    """The value of a notification of one resource."""
    body = notification.rep.body
    if isinstance(body, ReadBody) and isinstance(body.content, Resource) and isinstance(body.content.value, float):
        return body.content.value
    return None


def test_a_registration_its_update_and_its_end_are_recorded(
    gateway: GatewayProcess, fresh_leshan: LeshanDevice
) -> None:
    new = gateway.registration(
        lambda one: isinstance(one.body, RegistrationNew) and one.body.ep == fresh_leshan.endpoint
    )
    assert isinstance(new.body, RegistrationNew)
    assert (new.kind, new.body.ver, new.body.lt, new.body.server_id) == (
        RegistrationKind.NEW,
        "1.1",
        300,
        gateway.gateway_id,
    )
    assert {"/1/0", "/3/0", "/3303/0", "/3303/1"} <= {link.url for link in new.body.links}

    fresh_leshan.say("update")
    fresh_leshan.event("updated")
    update = gateway.registration(
        lambda one: isinstance(one.body, RegistrationUpdate) and one.body.ep == fresh_leshan.endpoint
    )
    assert isinstance(update.body, RegistrationUpdate)
    assert update.body.reg_id == new.body.reg_id

    fresh_leshan.say("deregister")
    fresh_leshan.event("deregistered")
    end = gateway.registration(
        lambda one: isinstance(one.body, RegistrationDelete) and one.body.ep == fresh_leshan.endpoint
    )
    assert isinstance(end.body, RegistrationDelete)
    assert not end.body.expired


@every_format
def test_object_instance_and_resource_are_read(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    contents = {}
    for path in ("/3303", "/3303/1", "/3303/1/5700", "/3/0/6"):
        reply = gateway.ask(leshan.endpoint, RequestKind.READ, path, content_format=content_format)
        assert reply.rep.code is ResponseCode.CONTENT, plain(reply)
        assert isinstance(reply.rep.body, ReadBody)
        contents[path] = reply.rep.body.content
    temperatures = contents["/3303"]
    assert isinstance(temperatures, Object)
    assert [one.path for one in temperatures.instances] == [Path(3303, 0), Path(3303, 1)]
    instance = contents["/3303/1"]
    assert isinstance(instance, Instance)
    here = {one.path: one.value for one in values(instance)}
    assert here[Path(3303, 1, 5700)] == 30.0
    assert here[Path(3303, 1, 5701)] == "Cel"
    assert contents["/3303/1/5700"] == Resource(path=Path(3303, 1, 5700), type=ResourceType.FLOAT, value=30.0)
    sources = contents["/3/0/6"]
    assert isinstance(sources, MultipleResource)
    assert [one.value for one in sources.instances] == [1, 5]


@every_format
def test_a_resource_is_written(gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat) -> None:
    reply = gateway.ask(
        leshan.endpoint,
        RequestKind.WRITE,
        "/3303/0/5750",
        WriteRequest(mode=WriteMode.REPLACE, node=text("/3303/0/5750", "attic")),
        content_format=content_format,
    )
    assert reply.rep.code is ResponseCode.CHANGED, plain(reply)
    assert leshan.event("written", path="/3303/0/5750")["value"] == "attic"


@every_format
def test_an_instance_is_updated_in_part(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    node = Instance(path=Path(3303, 1), resources=(text("/3303/1/5750", "cellar"),))
    reply = gateway.ask(
        leshan.endpoint,
        RequestKind.WRITE,
        "/3303/1",
        WriteRequest(mode=WriteMode.UPDATE, node=node),
        content_format=content_format,
    )
    assert reply.rep.code is ResponseCode.CHANGED, plain(reply)
    assert leshan.event("written", path="/3303/1/5750")["value"] == "cellar"
    read = gateway.ask(leshan.endpoint, RequestKind.READ, "/3303/1/5701")
    assert isinstance(read.rep.body, ReadBody)
    assert read.rep.body.content == text("/3303/1/5701", "Cel")


def test_an_executable_resource_is_executed_with_arguments(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    reply = gateway.ask(leshan.endpoint, RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters="0='now',1"))
    assert reply.rep.code is ResponseCode.CHANGED, plain(reply)
    assert leshan.event("executed", path="/3/0/4")["arguments"] == "0='now',1"


def test_a_refusal_of_the_device_is_told_in_its_own_words(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    # Leshan holds arguments to the grammar of section 6.3.5, which has no free text.
    reply = gateway.ask(leshan.endpoint, RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters="param1,param2"))
    assert reply.rep.code is ResponseCode.BAD_REQUEST, plain(reply)
    assert isinstance(reply.rep.body, GenericBody)
    assert "param1" in reply.rep.body.message


def test_what_is_not_there_is_not_found(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    reply = gateway.ask(leshan.endpoint, RequestKind.READ, "/3303/9/5700")
    assert reply.rep.code is ResponseCode.NOT_FOUND, plain(reply)


def test_what_the_operator_declared_is_observed_on_registration(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    leshan.set("/3303/1/5700", "31.25")
    told = gateway.notification(lambda one: one.ep == leshan.endpoint and temperature(one) == 31.25)
    assert (told.path, told.server_id, told.rep.kind) == ("/3303/1/5700", gateway.gateway_id, RequestKind.OBSERVE)


@every_format
def test_a_person_observes_and_cancels(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    path, number = "/3303/1/5601", FORMATS.index(content_format)
    reply = gateway.ask(leshan.endpoint, RequestKind.OBSERVE, path, content_format=content_format)
    assert reply.rep.code is ResponseCode.CONTENT, plain(reply)
    leshan.set(path, f"-3.{number}")
    told = gateway.notification(lambda one: one.ep == leshan.endpoint and temperature(one) == -3 - number / 10)
    assert (told.path, told.ticket) == (path, reply.ticket)

    cancelled = gateway.ask(leshan.endpoint, RequestKind.OBSERVE_CANCEL, path, content_format=content_format)
    assert cancelled.rep.code in (ResponseCode.CONTENT, ResponseCode.CHANGED, ResponseCode.DELETED), plain(cancelled)
    leshan.set(path, "-44.5")
    # One connection, one order: what a still living observation told would be recorded before this one.
    leshan.set("/3303/0/5700", f"{number}.125")
    seen = gateway.notifications(until=lambda one: one.ep == leshan.endpoint and temperature(one) == number + 0.125)
    assert -44.5 not in [temperature(one) for one in seen if one.ep == leshan.endpoint]


@every_format
def test_an_instance_is_observed(gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat) -> None:
    reply = gateway.ask(leshan.endpoint, RequestKind.OBSERVE, "/3303/0", content_format=content_format)
    assert reply.rep.code is ResponseCode.CONTENT, plain(reply)
    new = 40.5 + FORMATS.index(content_format)
    leshan.set("/3303/0/5602", str(new))

    def wanted(one: Notification) -> bool:
        body = one.rep.body
        return (
            one.ep == leshan.endpoint
            and isinstance(body, ReadBody)
            and isinstance(body.content, Instance)
            and new in [value.value for value in values(body.content)]
        )

    assert gateway.notification(wanted).path == "/3303/0"


def test_attributes_are_written_and_discovered(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    reply = gateway.ask(
        leshan.endpoint,
        RequestKind.WRITE_ATTRIBUTES,
        "/3303/0/5701",
        WriteAttributesRequest(observe_spec="pmin=1&pmax=60"),
    )
    assert reply.rep.code is ResponseCode.CHANGED, plain(reply)
    found = gateway.ask(leshan.endpoint, RequestKind.DISCOVER, "/3303/0")
    assert found.rep.code is ResponseCode.CONTENT, plain(found)
    assert isinstance(found.rep.body, DiscoverBody)
    links = {link.url: link.attributes for link in parse_links(found.rep.body.object_links)}
    assert "/3303/0/5700" in links
    assert dict(links["/3303/0/5701"]) == {"pmin": "1", "pmax": "60"}


@every_format
def test_an_instance_is_created_and_deleted(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    number = 5 + FORMATS.index(content_format)
    node = Instance(
        path=Path(3303, number),
        resources=(
            Resource(path=Path(3303, number, 5700), type=ResourceType.FLOAT, value=5.5),
            text(f"/3303/{number}/5750", "roof"),
        ),
    )
    made = gateway.ask(
        leshan.endpoint, RequestKind.CREATE, "/3303", CreateRequest(instance=node), content_format=content_format
    )
    assert made.rep.code is ResponseCode.CREATED, plain(made)
    assert isinstance(made.rep.body, CreateBody)
    assert Path.parse(made.rep.body.location) == Path(3303, number)
    update = gateway.registration(
        lambda one: (
            isinstance(one.body, RegistrationUpdate)
            and one.body.ep == leshan.endpoint
            and f"/3303/{number}" in [link.url for link in one.body.links or ()]
        )
    )
    assert update.kind is RegistrationKind.UPDATE

    gone = gateway.ask(leshan.endpoint, RequestKind.DELETE, f"/3303/{number}")
    assert gone.rep.code is ResponseCode.DELETED, plain(gone)
    leshan.event("deleted", path=f"/3303/{number}")
    read = gateway.ask(leshan.endpoint, RequestKind.READ, f"/3303/{number}")
    assert read.rep.code is ResponseCode.NOT_FOUND, plain(read)


@every_format
def test_a_long_value_is_read_and_written_in_blocks(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    long_name = "station " * 400
    leshan.set("/3303/0/5750", long_name)
    read = gateway.ask(leshan.endpoint, RequestKind.READ, "/3303/0/5750", content_format=content_format)
    assert isinstance(read.rep.body, ReadBody), plain(read)
    assert read.rep.body.content == text("/3303/0/5750", long_name)
    longer = "x" * 3000
    written = gateway.ask(
        leshan.endpoint,
        RequestKind.WRITE,
        "/3303/0/5750",
        WriteRequest(mode=WriteMode.REPLACE, node=text("/3303/0/5750", longer)),
        content_format=content_format,
    )
    assert written.rep.code is ResponseCode.CHANGED, plain(written)
    assert leshan.event("written", path="/3303/0/5750")["value"] == longer


every_sendable = pytest.mark.parametrize("name", ["SENML_JSON", "SENML_CBOR"])


@every_sendable
def test_what_the_device_sends_by_itself_is_recorded(gateway: GatewayProcess, leshan: LeshanDevice, name: str) -> None:
    value = {"SENML_JSON": "41.25", "SENML_CBOR": "42.5"}[name]
    leshan.set("/3303/1/5700", value)
    leshan.say(f"send {name} /3303/1/5700")
    assert leshan.event("sent")["code"] == "CHANGED(204)"
    sent = gateway.notification(
        lambda one: one.ep == leshan.endpoint and one.rep.kind is RequestKind.SEND and temperature(one) == float(value)
    )
    assert (sent.path, sent.ticket) == ("/3303/1/5700", "send")


@every_sendable
def test_what_the_device_collected_is_recorded_with_its_own_times(
    gateway: GatewayProcess, leshan: LeshanDevice, name: str
) -> None:
    base = {"SENML_JSON": 100, "SENML_CBOR": 200}[name]
    for number in range(5):
        leshan.set("/3303/1/5700", str(base + number))
        leshan.say("collect /3303/1/5700")
        leshan.event("collected")
    leshan.say(f"flush {name}")

    def sent(one: Notification) -> bool:
        return one.ep == leshan.endpoint and one.rep.kind is RequestKind.SEND

    found = gateway.notifications(lambda one: sent(one) and temperature(one) == base + 4)
    rows = [
        (one.rep.body.content.value, one.rep.body.content.timestamp)
        for one in found
        if sent(one)
        and isinstance(one.rep.body, ReadBody)
        and isinstance(one.rep.body.content, Resource)
        and (temperature(one) or 0) >= base
    ]
    assert [value for value, _ in rows] == [float(base + number) for number in range(5)]
    times = [timestamp or 0 for _, timestamp in rows]
    assert times == sorted(times) and times[0] > 1_600_000_000_000
