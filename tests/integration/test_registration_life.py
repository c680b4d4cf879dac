"""The life of a registration at a gateway process, hand-driven by datagrams, seen in the topics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster
from schemas.avro.records import (
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
    ResponseCode,
)
from tests.raw_device import LINKS, RawDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

TEMPERATURE, HUMIDITY = "/3303/0/5700", "/3304/0/5700"


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("registration")
    with Gateway("registration", kafka, folder, observe=("/3303/*/5700", "/3304/*/5700")) as one:
        one.wait_ready()
        yield one


def _kinds(gateway: Gateway, ep: str) -> list[RegistrationKind]:
    return [one.kind for one in gateway.registrations(ep)]


def _wait_for_an_end(gateway: Gateway, ep: str, *, after: int) -> None:
    until("the end of a registration", lambda: _kinds(gateway, ep).count(RegistrationKind.DELETE) > after)


def _notify(gateway: Gateway, device: RawDevice, path: str, number: int, value: float) -> str:
    """A notification that is acknowledged; returns the observation id of its record."""
    before = len(gateway.notifications(device.ep, path))
    assert device.tell(path, number, value)
    until("its record", lambda: len(gateway.notifications(device.ep, path)) > before)
    last = gateway.notifications(device.ep, path)[-1]
    assert last.rep.code is ResponseCode.CONTENT
    return last.observation_id


def test_a_registration_that_is_not_updated_expires_with_a_record(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "short-lived") as device:
        device.register(lifetime=2)
        device.wait_observed(TEMPERATURE)
        until("two records", lambda: len(gateway.registrations("short-lived")) >= 2)
        new, delete = gateway.registrations("short-lived")
        assert isinstance(new.body, RegistrationNew)
        assert (new.kind, new.body.lt, new.body.port) == (RegistrationKind.NEW, 2, device.port)
        assert isinstance(delete.body, RegistrationDelete)
        assert (delete.kind, delete.body.expired) == (RegistrationKind.DELETE, True)
        # It is not there any more: no update, no command, and its notifications are reset.
        assert device.ask(Code.POST, device.location).code == Code.NOT_FOUND
        gateway.request("short-lived", "too-late", RequestKind.READ, "/3/0/0")
        assert gateway.reply("too-late").rep.code is ResponseCode.NOT_FOUND
        assert not device.tell(TEMPERATURE, 9, 20.0)


def test_a_registration_that_is_updated_does_not_expire(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "kept-alive") as device, RawDevice(gateway.address, "clock") as clock:
        # Updated every two seconds or so it lives longer than its lifetime; a slow machine has room.
        device.register(lifetime=9)
        for _ in range(5):
            # Another registration of two seconds is the clock.
            clock.register(lifetime=2)
            ends = _kinds(gateway, "clock").count(RegistrationKind.DELETE)
            _wait_for_an_end(gateway, "clock", after=ends)
            device.update()
        assert _kinds(gateway, "kept-alive") == [RegistrationKind.NEW, *[RegistrationKind.UPDATE] * 5]


def test_observations_keep_their_ids_when_a_device_registers_anew(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "returning") as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        before = _notify(gateway, device, TEMPERATURE, 2, 20.5)
        device.observed.clear()
        device.register()
        device.wait_observed(TEMPERATURE)
        assert _notify(gateway, device, TEMPERATURE, 2, 20.75) == before
        assert _kinds(gateway, "returning") == [RegistrationKind.NEW] * 2


def test_a_device_that_moves_is_heard_and_reached_at_its_new_address(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "moving") as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        before, old_port = _notify(gateway, device, TEMPERATURE, 2, 20.5), device.port
        device.move()
        assert device.port != old_port
        device.update()
        until("the record of the update", lambda: len(gateway.registrations("moving")) == 2)
        update = gateway.registrations("moving")[-1].body
        assert isinstance(update, RegistrationUpdate)
        assert (update.address, update.port) == ("127.0.0.1", device.port)
        assert _notify(gateway, device, TEMPERATURE, 3, 20.75) == before
        gateway.request("moving", "moved", RequestKind.READ, "/3303/0/5700")
        assert gateway.reply("moved").rep.code is ResponseCode.CONTENT
        # The new address outlives the gateway.
        gateway.kill()
        gateway.start()
        gateway.wait_ready()
        assert _notify(gateway, device, TEMPERATURE, 4, 21.0) == before
        gateway.request("moving", "moved again", RequestKind.READ, "/3303/0/5700")
        assert gateway.reply("moved again").rep.code is ResponseCode.CONTENT


def test_an_update_that_announces_more_objects_brings_their_observations(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "growing") as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        assert HUMIDITY not in device.observed
        device.update(links=f"{LINKS},</3304/0>")
        device.wait_observed(HUMIDITY)
        _notify(gateway, device, HUMIDITY, 2, 45.0)
        _notify(gateway, device, TEMPERATURE, 2, 20.5)
        # And one that announces fewer ends them.
        device.update(links=LINKS)
        assert not device.tell(HUMIDITY, 3, 46.0)
        _notify(gateway, device, TEMPERATURE, 3, 20.75)


def test_a_device_that_leaves_is_gone(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "leaving") as device:
        device.register()
        assert device.ask(Code.DELETE, device.location).code == Code.DELETED
        until("its end", lambda: len(gateway.registrations("leaving")) == 2)
        delete = gateway.registrations("leaving")[-1].body
        assert isinstance(delete, RegistrationDelete)
        assert not delete.expired
        assert device.ask(Code.DELETE, device.location).code == Code.NOT_FOUND


def test_a_second_gateway_on_the_same_state_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    with Gateway(
        "registration", gateway.cluster, tmp_path, "--state", str(gateway.state), name="second gateway"
    ) as second:
        assert second.wait_ended() == 5
        assert str(gateway.state) in second.said()
    assert gateway.is_ready
