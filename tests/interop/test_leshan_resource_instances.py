"""Eclipse Leshan's client as the device: resource instances as targets, from the topics and from the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from headwater.cli import app
from schemas.avro.records import (
    DiscoverBody,
    GenericBody,
    Notification,
    RequestFormat,
    RequestKind,
    Response,
    ResponseCode,
    WriteAttributesRequest,
    WriteMode,
    WriteRequest,
    values_told,
)
from schemas.lwm2m.link import parse_links
from schemas.lwm2m.nodes import Instance, MultipleResource, Resource, ResourceType, Value
from schemas.lwm2m.path import Path
from tests.interop.gateway_process import GatewayProcess, plain
from tests.interop.leshan_device import LeshanDevice

pytestmark = [pytest.mark.interop, pytest.mark.kafka]

FORMATS = [RequestFormat.TLV, RequestFormat.SENML_JSON, RequestFormat.SENML_CBOR]
every_format = pytest.mark.parametrize("content_format", FORMATS, ids=lambda one: one.value)
#: Portfolio's Identity, of several instances.
IDENTITY, FIRST = Path(16, 0, 0), "/16/0/0/0"


def text(path: Path, value: str) -> Resource:
    return Resource(path=path, type=ResourceType.STRING, value=value)


def told(record: Notification | Response) -> dict[str, Value]:
    """The texts by path. TLV names no types, and no definition of the gateway's knows the object."""
    return {
        str(one.path): one.value.decode() if isinstance(one.value, bytes) else one.value
        for one in values_told(record.rep.body)
    }


@every_format
def test_resource_instance_is_read_written_observed_and_cancelled(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    value = f"is {content_format.value}"
    observed = gateway.ask(leshan.endpoint, RequestKind.OBSERVE, FIRST, content_format=content_format)
    assert observed.rep.code is ResponseCode.CONTENT, plain(observed)
    node = text(IDENTITY.child(0), value)
    body = WriteRequest(mode=WriteMode.REPLACE, node=node)
    written = gateway.ask(leshan.endpoint, RequestKind.WRITE, FIRST, body, content_format=content_format)
    assert written.rep.code is ResponseCode.CHANGED, plain(written)
    one = gateway.notification(lambda one: one.ticket == observed.ticket and told(one) == {FIRST: value})
    assert (one.path, one.ep) == (FIRST, leshan.endpoint)
    read = gateway.ask(leshan.endpoint, RequestKind.READ, FIRST, content_format=content_format)
    assert told(read) == {FIRST: value}, plain(read)
    cancelled = gateway.ask(leshan.endpoint, RequestKind.OBSERVE_CANCEL, FIRST, content_format=content_format)
    assert cancelled.rep.code in (ResponseCode.CONTENT, ResponseCode.DELETED), plain(cancelled)


@every_format
def test_resource_instance_is_made_by_updating_its_resource(
    gateway: GatewayProcess, leshan: LeshanDevice, content_format: RequestFormat
) -> None:
    number = 5 + FORMATS.index(content_format)
    made = MultipleResource(path=IDENTITY, type=ResourceType.STRING, instances=(text(IDENTITY.child(number), "made"),))
    body = WriteRequest(mode=WriteMode.UPDATE, node=Instance(path=Path(16, 0), resources=(made,)))
    for target in ("/16/0/0", "/16/0"):
        reply = gateway.ask(leshan.endpoint, RequestKind.WRITE, target, body, content_format=content_format)
        assert reply.rep.code is ResponseCode.CHANGED, plain(reply)
    read = gateway.ask(leshan.endpoint, RequestKind.READ, "/16/0/0", content_format=content_format)
    found = told(read)
    assert found[f"/16/0/0/{number}"] == "made"
    assert {FIRST, "/16/0/0/1"} <= found.keys()


def test_resource_instance_has_attributes_and_is_discovered_with_its_resource(
    gateway: GatewayProcess, leshan: LeshanDevice
) -> None:
    body = WriteAttributesRequest(observe_spec="pmin=1&pmax=600")
    reply = gateway.ask(leshan.endpoint, RequestKind.WRITE_ATTRIBUTES, "/16/0/0/1", body)
    assert reply.rep.code is ResponseCode.CHANGED, plain(reply)
    found = gateway.ask(leshan.endpoint, RequestKind.DISCOVER, "/16/0/0")
    assert isinstance(found.rep.body, DiscoverBody), plain(found)
    links = {link.url: dict(link.attributes) for link in parse_links(found.rep.body.object_links)}
    assert links["/16/0/0/1"] == {"pmin": "1", "pmax": "600"}
    assert FIRST in links


def run(gateway: GatewayProcess, *arguments: str) -> Any:
    place = ["--gateway", gateway.gateway_id, "--kafka", gateway.cluster.bootstrap, "--timeout", "60"]
    return CliRunner().invoke(app, [*arguments, *place, "--output", "json"])


def test_resource_instance_is_a_target_on_the_command_line(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    ep = leshan.endpoint
    for arguments in (
        ("write", ep, FIRST, "by hand", "--type", "string"),
        ("attributes", ep, FIRST, "pmax=600"),
        ("observe", ep, FIRST),
        ("cancel", ep, FIRST),
        ("discover", ep, "/16/0/0"),
    ):
        done = run(gateway, *arguments)
        assert done.exit_code == 0, done.output
    read = run(gateway, "read", ep, FIRST, "--format", "senml-json")
    assert [one["value"] for one in json.loads(read.stdout)["values"]] == ["by hand"]


def test_what_1_1_does_not_have_is_refused_in_words(gateway: GatewayProcess, leshan: LeshanDevice) -> None:
    ep = leshan.endpoint
    for arguments, words in (
        (("delete", ep, "/16/0/0/1"), "in which a resource instance like /16/0/0/1 cannot be deleted (1.2 can)"),
        (("observe", ep, FIRST, "--pmin", "5"), "in which an observation has no attributes of its own"),
        (("discover", ep, "/16", "--depth", "1"), "in which a discover has no depth"),
        (("discover", ep, FIRST), "discover needs an object, an object instance or a resource"),
    ):
        done = run(gateway, *arguments)
        assert (done.exit_code, words in done.output) == (1, True), done.output
    reply = gateway.ask(ep, RequestKind.DELETE, "/16/0/0/1")
    assert reply.rep.code is ResponseCode.BAD_REQUEST
    assert isinstance(reply.rep.body, GenericBody) and "speaks LwM2M 1.1" in reply.rep.body.message
