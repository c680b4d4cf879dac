"""Queue mode (OMA LwM2M Core 1.1, section 6.5): commands wait while the device sleeps, whatever happens meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import ACK, CON, NON

from connectors.kafka import Cluster, producer
from schemas.avro import serde
from schemas.avro.records import (
    CommandPhase,
    CommandStatus,
    ExecuteRequest,
    GenericBody,
    ReadBody,
    RegistrationNew,
    Request,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.raw_device import RawDevice, polite
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


def _told(gateway: Gateway, ticket: str) -> list[CommandStatus]:
    """What was told of a command by now, in order."""
    found = gateway.seen(gateway.topics.commands)
    return [one for one in found if isinstance(one, CommandStatus) and one.ticket == ticket]


def _until_told(gateway: Gateway, ticket: str, phase: CommandPhase, attempts: int | None = None) -> CommandStatus:
    def so() -> bool:
        told = _told(gateway, ticket)
        return bool(told) and told[-1].state is phase and attempts in (None, told[-1].attempts)

    until(f"{ticket} is {phase.value}; the gateway said:\n{gateway.said()}", so)
    return _told(gateway, ticket)[-1]


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
        for number in range(1, 6):
            _until_told(gateway, f"sleeper-{number}", CommandPhase.QUEUED)
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
        for number in range(1, 6):
            last = _until_told(gateway, f"sleeper-{number}", CommandPhase.ANSWERED)
            assert last.message == "CHANGED" and last.attempts >= 1
            told = [one.state.value for one in _told(gateway, f"sleeper-{number}")]
            assert told.count("ANSWERED") == 1
            assert told[-2:] == ["SENT", "ANSWERED"]


def _send(device: RawDevice) -> None:
    pack = b'[{"bn":"/3303/0/5700","v":20.5}]'
    assert device.ask(Code.POST, ("dp",), payload=pack, content_format=110).code == Code.CHANGED


#: What a device does when it wakes up.
WAKING: dict[str, Callable[[RawDevice], object]] = {
    "update": lambda device: device.update(),
    "confirmable notify": lambda device: device.notify("/3303/0/5700", 7, 20.5, CON),
    "non-confirmable notify": lambda device: device.notify("/3303/0/5700", 7, 20.5, NON),
    "send": _send,
}


@pytest.mark.parametrize("waking", WAKING)
def test_what_waits_is_sent_in_order_and_one_at_a_time_when_the_device_is_heard_of(
    gateway: Gateway, waking: str
) -> None:
    ep = f"waking-{waking.replace(' ', '-')}"
    tickets = [f"{ep}-{number}" for number in range(1, 5)]
    with RawDevice(gateway.address, ep) as device:
        device.register("b=UQ", version="1.1")
        gateway.request(ep, f"{ep}-observe", RequestKind.OBSERVE, "/3303/0/5700")
        assert gateway.reply(f"{ep}-observe").rep.code is ResponseCode.CONTENT
        device.listening = False
        for number, ticket in enumerate(tickets, 1):
            gateway.request(ep, ticket, RequestKind.WRITE, "/1/0/1", _write(number))
        # The first was sent in vain: now the device is known to sleep, and so the others were not sent.
        assert "no answer" in _until_told(gateway, tickets[0], CommandPhase.QUEUED, 1).message
        for ticket in tickets[1:]:
            _until_told(gateway, ticket, CommandPhase.QUEUED, 0)
        assert all(not gateway.replies(ticket) for ticket in tickets)
        device.answer = lambda _: None
        device.requests.clear()
        device.listening = True
        WAKING[waking](device)
        for number in range(1, 5):
            device.until(f"write {number}", lambda number=number: len(device.asked(Code.PUT)) >= number)  # type: ignore[misc]
            # While this one has no answer, no other comes.
            device.ping()
            assert [one.payload[-1] for one in device.asked(Code.PUT)] == list(range(1, number + 1))
            assert not gateway.replies(tickets[number - 1])
            asked = device.asked(Code.PUT)[-1]
            response = polite(asked)
            assert response is not None
            response.mtype, response.mid, response.token = ACK, asked.mid, asked.token
            device.send(response.encode())
        assert all(gateway.reply(ticket).rep.code is ResponseCode.CHANGED for ticket in tickets)
        replied = [one.ticket for one in gateway.seen(gateway.topics.replies) if isinstance(one, Response)]
        assert [ticket for ticket in replied if ticket in tickets] == tickets
        for ticket in tickets:
            _until_told(gateway, ticket, CommandPhase.ANSWERED)


def test_a_device_that_falls_asleep_midway_gets_the_rest_at_its_next_wake_up(gateway: Gateway) -> None:
    def one_write(request: Message) -> Message | None:
        return polite(request) if request.payload[-1:] == b"\x01" else None

    with RawDevice(gateway.address, "midway", answer=one_write) as device:
        device.register("b=UQ", version="1.1")
        device.listening = False
        for number in range(1, 4):
            gateway.request("midway", f"midway-{number}", RequestKind.WRITE, "/1/0/1", _write(number))
        gateway.request("midway", "midway-4", RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters=""))
        gateway.request("midway", "midway-5", RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters=""))
        _until_told(gateway, "midway-1", CommandPhase.QUEUED, 1)
        device.listening = True
        device.update()
        assert gateway.reply("midway-1").rep.code is ResponseCode.CHANGED
        assert "no answer" in _until_told(gateway, "midway-2", CommandPhase.QUEUED, 1).message
        assert _until_told(gateway, "midway-3", CommandPhase.QUEUED).attempts == 0
        # The next time it answers the writes, and sleeps when it is to execute.
        device.answer = lambda request: None if request.code == Code.POST else polite(request)
        device.update()
        for number in (2, 3):
            assert gateway.reply(f"midway-{number}").rep.code is ResponseCode.CHANGED
        unknown = gateway.reply("midway-4")
        assert isinstance(unknown.rep.body, GenericBody) and "outcome unknown" in unknown.rep.body.message
        assert _until_told(gateway, "midway-4", CommandPhase.FAILED).attempts == 1
        # It was not repeated, and the one behind it was not sent to a device that sleeps.
        _until_told(gateway, "midway-5", CommandPhase.QUEUED, 0)
        assert len(device.asked(Code.POST)) == 1
        device.answer = polite
        device.update()
        assert gateway.reply("midway-5").rep.code is ResponseCode.CHANGED
        assert len(device.asked(Code.POST)) == 2


def test_thousands_wait_and_come_in_order_after_a_kill(gateway: Gateway) -> None:
    count = 3_000
    with RawDevice(gateway.address, "patient") as device:
        device.register("b=UQ", version="1.1")
        device.listening = False
        client = producer(gateway.cluster)
        for number in range(count):
            payload = RequestPayload(kind=RequestKind.WRITE, path="/1/0/1", body=_write(number + 1_000))
            asked = Request(server_id="", ep="patient", ticket=f"patient-{number}", payload=payload)
            client.produce(gateway.topics.requests, serde.encode(asked))
        assert client.flush(30) == 0
        _until_told(gateway, f"patient-{count - 1}", CommandPhase.QUEUED)
        _restart(gateway)
        assert gateway.metric("commands_waiting") >= count
        device.requests.clear()
        device.listening = True
        device.update()
        device.until("all of them", lambda: len(device.asked(Code.PUT)) >= count, 300)
        values = [int.from_bytes(one.payload[-2:], "big") for one in device.asked(Code.PUT)]
        assert values == list(range(1_000, 1_000 + count))
        _until_told(gateway, f"patient-{count - 1}", CommandPhase.ANSWERED)


def test_a_command_that_expires_while_the_device_sleeps_is_answered_and_not_sent(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "expiring") as device:
        device.register("b=UQ")
        device.listening = False
        gateway.request("expiring", "kept", RequestKind.WRITE, "/1/0/1", _write(1))
        soon = round(time.time() * 1000) + 15_000
        gateway.request("expiring", "expiring", RequestKind.EXECUTE, "/3/0/4", ExecuteRequest(parameters=""), soon)
        # It is stored by then, so the gateway of after the kill answers it, and not only when the device wakes.
        _until_told(gateway, "expiring", CommandPhase.QUEUED)
        _restart(gateway)
        reply = gateway.reply("expiring")
        assert isinstance(reply.rep.body, GenericBody)
        assert "expire" in reply.rep.body.message
        assert (reply.ep, reply.path, reply.rep.kind) == ("expiring", "/3/0/4", RequestKind.EXECUTE)
        # While the other still waits.
        assert _until_told(gateway, "expiring", CommandPhase.EXPIRED).expires == soon
        assert _until_told(gateway, "kept", CommandPhase.QUEUED)
        device.listening = True
        device.update()
        assert gateway.reply("kept").rep.code is ResponseCode.CHANGED
        assert not device.asked(Code.POST)


def test_people_see_where_the_commands_of_a_sleeping_device_stand(gateway: Gateway) -> None:
    def shown(*arguments: str) -> list[dict[str, Any]]:
        place = ("--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap, "--output", "json")
        done = subprocess.run(
            [sys.executable, "-m", "headwater.cli", "commands", "looked-at", *place, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    with RawDevice(gateway.address, "looked-at") as device:
        device.register("b=UQ", version="1.1")
        gateway.request("looked-at", "seen-1", RequestKind.READ, "/3/0/0")
        gateway.reply("seen-1")
        device.listening = False
        for number in (2, 3):
            gateway.request("looked-at", f"seen-{number}", RequestKind.WRITE, "/1/0/1", _write(number))
        _until_told(gateway, "seen-2", CommandPhase.QUEUED, 1)
        _until_told(gateway, "seen-3", CommandPhase.QUEUED)
        assert [(one["ticket"], one["kind"], one["path"], one["state"], one["attempts"]) for one in shown()] == [
            ("seen-1", "read", "/3/0/0", "answered", None),
            ("seen-2", "write", "/1/0/1", "queued", 1),
            ("seen-3", "write", "/1/0/1", "queued", 0),
        ]
        assert [one["ticket"] for one in shown("--state", "queued")] == ["seen-2", "seen-3"]
        assert "no answer" in shown("--state", "queued")[0]["message"]
        place = ("--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap, "--output", "json")
        words = (sys.executable, "-m", "headwater.cli", "commands", "looked-at", "--follow", *place)
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follower:
            try:
                assert follower.stdout is not None
                seen = [json.loads(follower.stdout.readline()) for _ in range(3)]
                device.listening = True
                device.update()
                while seen[-1]["ticket"] != "seen-3" or seen[-1]["state"] != "answered":
                    seen.append(json.loads(follower.stdout.readline()))
                follower.send_signal(signal.SIGINT)
                assert follower.wait(30) == 0
            finally:
                follower.kill()
        for ticket in ("seen-2", "seen-3"):
            states = [one["state"] for one in seen if one["ticket"] == ticket]
            assert states[0] == "queued" and states[-1] == "answered"
        assert [one["state"] for one in shown()] == ["answered"] * 3


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
