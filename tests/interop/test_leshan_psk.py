"""Eclipse Leshan's client over DTLS with a pre-shared key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.kafka import Cluster
from schemas.avro.records import (
    ExecuteRequest,
    ReadBody,
    RegistrationNew,
    RequestFormat,
    RequestKind,
    ResponseCode,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Resource, ResourceType, values
from schemas.lwm2m.path import Path as LwM2mPath
from tests.interop.gateway_process import plain
from tests.interop.leshan_factory import Factory
from tests.interop.test_leshan import temperature

pytestmark = [pytest.mark.interop, pytest.mark.kafka]


@pytest.fixture(scope="module")
def factory(
    kafka: Cluster, leshan_class_path: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Factory]:
    made = Factory(kafka, tmp_path_factory.mktemp("psk"), leshan_class_path)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.ets("LightweightM2M-1.1-int-401")
def test_device_registers_and_is_read(factory: Factory) -> None:
    device, gateway = factory.device_with_a_key(), factory.gateway
    try:
        device.event("registered")
        new = gateway.registration(lambda one: isinstance(one.body, RegistrationNew) and one.body.ep == device.endpoint)
        assert isinstance(new.body, RegistrationNew)
        assert new.body.reg_port == gateway.coaps_port
        read = gateway.ask(device.endpoint, RequestKind.READ, "/3/0", content_format=RequestFormat.TLV)
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
        assert isinstance(read.rep.body, ReadBody)
        found = {str(one.path): one.value for one in values(read.rep.body.content)}
        assert found.items() >= {"/3/0/0": "Eclipse Leshan", "/3/0/2": "serial", "/3/0/16": "U"}.items()
    finally:
        device.stop()


def test_device_does_all_that_it_does_in_the_clear(factory: Factory) -> None:
    device, gateway = factory.device_with_a_key(), factory.gateway
    try:
        device.ready("/3303/0/5700")
        new = gateway.registration(lambda one: isinstance(one.body, RegistrationNew) and one.body.ep == device.endpoint)
        assert isinstance(new.body, RegistrationNew)
        assert new.body.reg_port == gateway.coaps_port
        read = gateway.ask(device.endpoint, RequestKind.READ, "/3303")
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
        assert isinstance(read.rep.body, ReadBody)
        attic = Resource(path=LwM2mPath.parse("/3303/0/5750"), type=ResourceType.STRING, value="attic")
        written = gateway.ask(
            device.endpoint, RequestKind.WRITE, "/3303/0/5750", WriteRequest(mode=WriteMode.REPLACE, node=attic)
        )
        assert written.rep.code is ResponseCode.CHANGED, plain(written)
        assert device.event("written", path="/3303/0/5750")["value"] == "attic"
        executed = gateway.ask(device.endpoint, RequestKind.EXECUTE, "/3303/0/5605", ExecuteRequest(parameters=""))
        assert executed.rep.code is ResponseCode.CHANGED, plain(executed)
        device.set("/3303/0/5700", "31.5")
        gateway.notification(lambda one: one.ep == device.endpoint and temperature(one) == 31.5)
        device.say("update")
        device.event("updated")
        device.say("deregister")
        device.event("deregistered")
    finally:
        device.stop()


def test_large_value_goes_in_blocks(factory: Factory) -> None:
    device = factory.device_with_a_key()
    try:
        device.event("registered")
        long = Resource(path=LwM2mPath.parse("/3303/0/5750"), type=ResourceType.STRING, value="x" * 3000)
        written = factory.gateway.ask(
            device.endpoint, RequestKind.WRITE, "/3303/0/5750", WriteRequest(mode=WriteMode.REPLACE, node=long)
        )
        assert written.rep.code is ResponseCode.CHANGED, plain(written)
        read = factory.gateway.ask(device.endpoint, RequestKind.READ, "/3303/0/5750")
        assert isinstance(read.rep.body, ReadBody), plain(read)
        assert read.rep.body.content == long
    finally:
        device.stop()


def test_device_in_queue_mode_gets_its_command_when_it_wakes(factory: Factory) -> None:
    device = factory.device_with_a_key(queue_mode=True)
    try:
        device.event("registered")
        reply = factory.gateway.ask(device.endpoint, RequestKind.READ, "/3/0/0")
        assert reply.rep.code is ResponseCode.CONTENT, plain(reply)
    finally:
        device.stop()


def test_device_with_a_wrong_key_does_not_get_in(factory: Factory) -> None:
    device = factory.device_with_a_key(key=b"not the right one")
    good = factory.device_with_a_key()
    try:
        good.event("registered")
        assert "registered" not in device.names(5.0)
    finally:
        device.stop()
        good.stop()


def test_device_goes_on_by_itself_after_a_restart_of_the_gateway(factory: Factory) -> None:
    device = factory.device_with_a_key()
    try:
        device.ready("/3303/0/5700")
        # A device is asked one thing after the other: the observation is established when this is answered.
        assert factory.gateway.ask(device.endpoint, RequestKind.READ, "/3/0/0").rep.code is ResponseCode.CONTENT
        device.set("/3303/0/5700", "21.5")
        factory.gateway.notification(lambda one: one.ep == device.endpoint and temperature(one) == 21.5)
        factory.restart()
        # Its next request makes another session; it does not register anew.
        device.say("update")
        device.event("updated")
        device.set("/3303/0/5700", "22.5")
        factory.gateway.notification(lambda one: one.ep == device.endpoint and temperature(one) == 22.5)
        read = factory.gateway.ask(device.endpoint, RequestKind.READ, "/3303/0/5700")
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
    finally:
        device.stop()
