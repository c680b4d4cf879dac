"""Queue mode (OMA LwM2M Core 1.1, section 6.5): commands wait while the device sleeps, whatever happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster
from schemas.avro.records import (
    ExecuteRequest,
    GenericBody,
    ReadBody,
    RegistrationNew,
    RequestKind,
    ResponseCode,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.raw_device import RawDevice
from tests.way import Gateway, Sensors, until

pytestmark = [pytest.mark.kafka]

#: How long a device may take to answer here; it decides how soon a device counts as asleep.
ANSWER = 2


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway("queue-mode", kafka, tmp_path_factory.mktemp("queue"), "--command-timeout", str(ANSWER)) as one:
        one.wait_ready()
        yield one


def _write(number: int) -> WriteRequest:
    node = Resource(path=Lwm2mPath(1, 0, 1), type=ResourceType.INTEGER, value=number)
    return WriteRequest(mode=WriteMode.REPLACE, node=node)


def _restart(gateway: Gateway) -> None:
    gateway.kill()
    gateway.start()
    gateway.wait_ready()


def test_commands_outlive_a_killed_gateway_and_come_in_order_when_the_device_wakes(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "sleeper") as device:
        device.register("b=UQ")
        device.listening = False
        for number in range(1, 6):
            gateway.request("sleeper", f"sleeper-{number}", RequestKind.WRITE, "/1/0/1", _write(number))
        _restart(gateway)
        gateway.request("sleeper", "sleeper-6", RequestKind.READ, "/3303/0/5700")
        assert all(not gateway.replies(f"sleeper-{number}") for number in range(1, 7))
        device.requests.clear()
        device.listening = True
        device.update()
        read = gateway.reply("sleeper-6")
        assert isinstance(read.rep.body, ReadBody)
        assert all(gateway.reply(f"sleeper-{n}").rep.code is ResponseCode.CHANGED for n in range(1, 6))
        # In the order in which they were asked for.
        assert [request.payload[-1] for request in device.asked(Code.PUT)] == [1, 2, 3, 4, 5]
        assert device.requests[-1].code == Code.GET


def test_a_command_that_expires_while_the_device_sleeps_is_answered_and_not_sent(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "expiring") as device:
        device.register("b=UQ")
        device.listening = False
        gateway.request("expiring", "kept", RequestKind.WRITE, "/1/0/1", _write(1))
        soon = round(time.time() * 1000) + 3_000
        gateway.request("expiring", "expiring", RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters=""), soon)
        reply = gateway.reply("expiring")
        assert isinstance(reply.rep.body, GenericBody)
        assert "expire" in reply.rep.body.message
        assert (reply.ep, reply.path, reply.rep.kind) == ("expiring", "/3/0/4", RequestKind.EXECUTE)
        device.listening = True
        device.update()
        assert gateway.reply("kept").rep.code is ResponseCode.CHANGED
        assert not device.asked(Code.POST)


def test_an_execute_that_a_kill_interrupts_is_answered_as_unknown_and_not_repeated(gateway: Gateway) -> None:
    def silent(request: Message) -> Message | None:
        return None if request.code == Code.POST else Message(code=Code.CHANGED)

    with RawDevice(gateway.address, "interrupted", answer=silent) as device:
        device.register("b=U")
        gateway.request("interrupted", "once", RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters=""))
        device.until("the execute", lambda: bool(device.asked(Code.POST)))
        _restart(gateway)
        reply = gateway.reply("once")
        assert isinstance(reply.rep.body, GenericBody)
        assert "outcome unknown" in reply.rep.body.message
        # What comes after it is sent: the execute had its turn.
        gateway.request("interrupted", "after", RequestKind.WRITE, "/1/0/1", _write(1))
        assert gateway.reply("after").rep.code is ResponseCode.CHANGED
        # And the same request is answered as before, without asking the device.
        gateway.request("interrupted", "once", RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters=""))
        until("the second reply", lambda: len(gateway.replies("once")) == 2)
        first, second = gateway.replies("once")
        assert first == second
        assert len(device.asked(Code.POST)) == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_sensor_in_queue_mode_registers_as_such_and_answers_while_it_is_awake(
    gateway: Gateway, tmp_path: Path, version: str
) -> None:
    ep = f"queued-{version}"
    with Sensors(gateway.address, tmp_path, "--queue", "--lwm2m", version, endpoint=ep):
        until("its registration", lambda: bool(gateway.registrations(ep)))
        new = gateway.registrations(ep)[0].body
        assert isinstance(new, RegistrationNew)
        assert (new.bnd.value, new.ver) == ("UQ", version)
        gateway.request(ep, f"{ep}-read", RequestKind.READ, "/3/0/0")
        assert gateway.reply(f"{ep}-read").rep.code is ResponseCode.CONTENT
