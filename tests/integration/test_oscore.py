"""Devices that speak OSCORE at a gateway process on a real Kafka, by aiocoap's implementation of it: who gets in as
whom, and what a gateway that is killed still knows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import CON

from connectors.kafka import Cluster
from schemas.avro.records import (
    ExecuteRequest,
    RequestKind,
    ResponseCode,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as LwM2mPath
from security.credentials.kinds import Oscore
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.oscore_device import OscoreDevice, credential
from tests.raw_device import RawDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

TEMPERATURE = "/3303/0/5700"
NAME = "/3/0/14"


class Fleet:
    """A gateway, the store that it reads, and a context for each device."""

    def __init__(self, kafka: Cluster, folder: Path) -> None:
        path = folder / "credentials.db"
        self.store = SqliteCredentials(path, make=True)
        self.gateway = Gateway("oscore", kafka, folder, observe=("/3303/*/5700",), credentials=path)
        self._ids = count(1)
        self._tickets = count(1)

    def context(self, ep: str) -> Oscore:
        made = credential(ep, next(self._ids).to_bytes(2, "big"))
        self.store.put([made], Put.ALL)
        return made

    def device(self, ep: str) -> OscoreDevice:
        return OscoreDevice(self.gateway.address, self.context(ep))

    def ticket(self) -> str:
        return f"ticket-{next(self._tickets)}"

    def values(self, ep: str) -> list[object]:
        return self.gateway.values(ep, TEMPERATURE)

    def restart(self) -> None:
        """Kill it, and start it on the same ports and state."""
        self.gateway.kill()
        self.gateway.start()
        self.gateway.wait_ready()


@pytest.fixture(scope="module")
def fleet(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    made = Fleet(kafka, tmp_path_factory.mktemp("oscore"))
    with made.gateway:
        made.gateway.wait_ready()
        yield made
    made.store.close()


def test_device_registers_is_observed_and_asked_with_oscore(fleet: Fleet) -> None:
    gateway = fleet.gateway
    with fleet.device("press-1") as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        assert device.tell(TEMPERATURE, 2, 22.5)
        until("the value", lambda: 22.5 in fleet.values("press-1"))
        read, write, execute = fleet.ticket(), fleet.ticket(), fleet.ticket()
        gateway.request("press-1", read, RequestKind.READ, TEMPERATURE)
        assert gateway.reply(read).rep.code is ResponseCode.CONTENT
        name = Resource(path=LwM2mPath.parse(NAME), type=ResourceType.STRING, value="+02")
        gateway.request("press-1", write, RequestKind.WRITE, NAME, WriteRequest(mode=WriteMode.REPLACE, node=name))
        assert gateway.reply(write).rep.code is ResponseCode.CHANGED
        gateway.request("press-1", execute, RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters=""))
        assert gateway.reply(execute).rep.code is ResponseCode.CHANGED
        device.update()
        device.update("lt=600")
        # Nothing went in the clear but what has no content.
        assert all(b"ep=press-1" not in one and b"5700" not in one for one in device.said + device.heard)
        assert device.numbers == sorted(set(device.numbers))
        assert device.ask(Code.DELETE, device.location).code == Code.DELETED


def test_name_that_has_a_context_does_not_register_in_the_clear(fleet: Fleet) -> None:
    fleet.context("press-2")
    with RawDevice(fleet.gateway.address, "press-2") as stranger:
        assert stranger.try_to_register().code == Code.FORBIDDEN


def test_registration_made_with_oscore_is_not_changed_in_the_clear(fleet: Fleet) -> None:
    with fleet.device("press-3") as device, RawDevice(fleet.gateway.address, "press-3") as stranger:
        device.register()
        assert stranger.ask(Code.DELETE, device.location).code == Code.NOT_FOUND
        device.update()


def test_context_is_for_its_endpoint_alone(fleet: Fleet) -> None:
    fleet.context("press-5")
    with fleet.device("press-4") as device:
        device.ep = "press-5"
        assert device.try_to_register().code == Code.FORBIDDEN


def test_wrong_key_and_unknown_context_are_told_in_the_clear(fleet: Fleet) -> None:
    made = fleet.context("press-6")
    for one, code in (
        (OscoreDevice(fleet.gateway.address, made, secret=bytes(16)), Code.BAD_REQUEST),
        (OscoreDevice(fleet.gateway.address, credential("press-6", b"nobody")), Code.UNAUTHORIZED),
    ):
        with one as device:
            message = Message(code=Code.POST, uri_path=("rd",), uri_query=("ep=press-6",), payload=b"</3/0>")
            message.mtype, message.mid, message.token = CON, device.next_mid(), b"xy"
            device.send(message.encode())
            device.until("a refusal", lambda found=device.refusals, code=code: code in found)  # type: ignore[misc]


def test_what_is_said_again_is_answered_once_and_a_copy_is_refused(fleet: Fleet) -> None:
    with fleet.device("press-7") as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        device.update()
        update, answers = device.said[-1], len(device.heard)
        before = fleet.gateway.metric("updates_total")
        # The very datagram, as when the answer was lost.
        device.transmit(update)
        device.until("the answer again", lambda: len(device.heard) > answers)
        assert device.heard[-1] == device.heard[answers - 1]
        # The same under another message id is somebody else's.
        other = update[:2] + b"\x77\x77" + update[4:]
        device.transmit(other)
        device.until("a refusal", lambda: Code.UNAUTHORIZED in device.refusals)
        assert fleet.gateway.metric("updates_total") == before
        assert device.tell(TEMPERATURE, 2, 30.5)
        notification = next(one for one in reversed(device.said) if len(one) > 4)
        device.transmit(notification[:2] + b"\x77\x78" + notification[4:])
        device.until("an acknowledgement", lambda: device.acknowledged[0x7778] > 0)
        assert device.tell(TEMPERATURE, 3, 31.5)
        until("the value", lambda: 31.5 in fleet.values("press-7"))
        assert fleet.values("press-7").count(30.5) == 1


def test_killed_gateway_uses_no_number_twice_and_takes_nothing_twice(fleet: Fleet) -> None:
    gateway = fleet.gateway
    with fleet.device("press-8") as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        old: list[bytes] = []
        for life in range(3):
            ticket = fleet.ticket()
            gateway.request("press-8", ticket, RequestKind.READ, TEMPERATURE)
            assert gateway.reply(ticket).rep.code is ResponseCode.CONTENT
            assert device.tell(TEMPERATURE, 2 + life, 40.5 + life)
            old.append(next(one for one in reversed(device.said) if len(one) > 4))
            device.update()
            old.append(next(one for one in reversed(device.said) if len(one) > 4))
            fleet.restart()
            # Somebody repeats it all, under other message ids.
            updates = gateway.metric("updates_total")
            device.refusals.clear()
            for number, datagram in enumerate(old):
                device.transmit(datagram[:2] + (0x7000 + 16 * life + number).to_bytes(2, "big") + datagram[4:])
            device.until("refusals", lambda life=life: device.refusals.count(Code.UNAUTHORIZED) > life)  # type: ignore[misc]
            assert gateway.metric("updates_total") == updates
        # The observation goes on, though nobody asked for it again.
        assert len([one for one in device.asked(Code.GET) if one.opt.observe == 0]) == 1
        assert device.tell(TEMPERATURE, 9, 50.5)
        until("the value", lambda: 50.5 in fleet.values("press-8"))
        assert [one for one in fleet.values("press-8") if one in (40.5, 41.5, 42.5)] == [40.5, 41.5, 42.5]
        ticket = fleet.ticket()
        gateway.request("press-8", ticket, RequestKind.READ, TEMPERATURE)
        assert gateway.reply(ticket).rep.code is ResponseCode.CONTENT
        assert device.numbers == sorted(set(device.numbers))


def test_removed_context_ends_the_registration_and_another_key_begins_anew(fleet: Fleet) -> None:
    made = fleet.context("press-9")
    with OscoreDevice(fleet.gateway.address, made) as device:
        device.register()
        fleet.store.remove([made.id])
        until("the end of the registration", lambda: len(fleet.gateway.registrations("press-9")) == 2)
        message = Message(code=Code.POST, uri_path=device.location)
        message.mtype, message.mid, message.token = CON, device.next_mid(), b"xz"
        device.send(message.encode())
        device.until("a refusal", lambda: Code.UNAUTHORIZED in device.refusals)
    other = credential("press-9", made.recipient_id, secret=bytes(range(16, 32)))
    fleet.store.put([other], Put.ALL)
    with OscoreDevice(fleet.gateway.address, other) as device:
        end = time.monotonic() + 60
        while not device.location and time.monotonic() < end:
            device.register()
        device.wait_observed(TEMPERATURE)


def test_device_that_comes_from_another_address_goes_on(fleet: Fleet) -> None:
    with fleet.device("press-10") as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        device.move()
        assert device.tell(TEMPERATURE, 2, 60.5)
        ticket = fleet.ticket()
        fleet.gateway.request("press-10", ticket, RequestKind.READ, TEMPERATURE)
        assert fleet.gateway.reply(ticket).rep.code is ResponseCode.CONTENT
        device.update()
        until("the address", lambda: fleet.gateway.registrations("press-10")[-1].body.port == device.port)  # type: ignore[union-attr]
