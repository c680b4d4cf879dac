"""What is read at each registration, with a link to the devices that is a dict in the test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from gateway.coap.exchanges import NoAnswer
from gateway.coap.message import Message, Option, Type
from gateway.coap.peers import Address
from gateway.device_link import DeviceLink
from gateway.exchange import CoapRequest
from gateway.first_reads import MOST_READS, READ_TICKET, FirstReads
from gateway.own_reads import OwnReads
from gateway.registration import parse_announcement
from gateway.registry import Device, KafkaPlace, Registry
from schemas.avro.records import Binding, GenericBody, ReadBody, Response, ResponseCode
from schemas.lwm2m.nodes import values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import PathError

LINKS = "</3/0>,</3303/0>,</3303/1>"


class Bench:
    """The part under test; devices answer what ``says`` has for a path, and are silent where it has nothing."""

    def __init__(self, *patterns: str) -> None:
        self.says: dict[str, tuple[int, bytes]] = {"/3/0/1": (0x45, b"M1"), "/3/0/3": (0x45, b"1.0.7")}
        self.asked: list[str] = []
        self.replies: list[Response] = []
        self.reports: list[Callable[[bool], None]] = []
        self.open = True
        self.is_awake = True
        self.registry = Registry()
        self.turns: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.reads = FirstReads(
            patterns=patterns,
            own=OwnReads(
                server_id="gw",
                link=cast(DeviceLink, self),
                definitions=Definitions.builtin(),
                wall_ms=lambda: 1_000,
            ),
            registry=self.registry,
            publish=self._publish,
            in_order=lambda ep, factory: self.turns.append(factory),
            awake=lambda ep: self.is_awake,
        )

    async def send(self, address: Address, request: CoapRequest, *, timeout: float) -> Message:
        path = "/" + "/".join(request.uri_path)
        self.asked.append(path)
        if path not in self.says:
            raise NoAnswer("no answer")
        code, payload = self.says[path]
        return Message(Type.ACK, code, 1, b"t", [(Option.CONTENT_FORMAT, b"")], payload)

    def _publish(self, reply: Response, done: Callable[[bool], None] | None) -> bool:
        if not self.open:
            return False
        self.replies.append(reply)
        assert done is not None
        self.reports.append(done)
        return True

    def run(self) -> None:
        """Let those have their turn that wait for it."""
        turns, self.turns = self.turns, []
        for factory in turns:
            asyncio.run(factory())

    def report(self, durable: bool = True) -> None:
        reports, self.reports = self.reports, []
        for done in reports:
            done(durable)

    def register(self, links: str = LINKS, reg_id: str = "r1") -> Device:
        device = Device(
            ep="lamp",
            reg_id=reg_id,
            address=("127.0.0.1", 5000),
            lifetime=60,
            version="1.1",
            binding=Binding.U,
            queue=False,
            sms=None,
            announcement=parse_announcement(links.encode()),
            attributes={},
            reg_date=0,
            last_up=0,
            place=KafkaPlace(key=b"lamp", observations=0, registrations=0, replies=0),
        )
        self.reads.registered(device, self.registry.add(device))
        return device


def test_registration_is_followed_by_reads_whose_answers_are_replies() -> None:
    bench = Bench("/3/0/1", "/3/*/3", "/5/0")
    bench.register()
    bench.run()
    assert bench.asked == ["/3/0/1", "/3/0/3"]
    assert [(one.ticket, one.ep, one.path, one.rep.code) for one in bench.replies] == [
        (READ_TICKET, "lamp", "/3/0/1", ResponseCode.CONTENT),
        (READ_TICKET, "lamp", "/3/0/3", ResponseCode.CONTENT),
    ]
    bodies = [one.rep.body for one in bench.replies]
    said = [value.value for body in bodies if isinstance(body, ReadBody) for value in values(body.content)]
    assert said == ["M1", "1.0.7"]
    assert bench.reads.devices == 1
    bench.report()
    assert (bench.reads.devices, bench.reads.answered) == (0, 2)


def test_each_registration_is_read_anew() -> None:
    bench = Bench("/3/0/1")
    for number in range(3):
        bench.register(reg_id=f"r{number}")
        bench.run()
        bench.report()
    assert bench.asked == ["/3/0/1"] * 3


def test_silent_device_is_asked_again_at_its_next_update_and_not_before() -> None:
    bench = Bench("/3/0/0", "/3/0/1")
    device = bench.register()
    bench.run()
    # Nobody answers the first: the second would be asked in vain.
    assert bench.asked == ["/3/0/0"] and bench.turns == []
    bench.says["/3/0/0"] = (0x45, b"ACME")
    bench.reads.complete(device)
    bench.reads.complete(device)
    assert len(bench.turns) == 1
    bench.run()
    bench.report()
    bench.reads.complete(device)
    assert bench.asked == ["/3/0/0", "/3/0/0", "/3/0/1"] and bench.turns == []


@pytest.mark.parametrize("taken", [True, False])
def test_answer_that_kafka_did_not_keep_is_asked_for_again(taken: bool) -> None:
    bench = Bench("/3/0/1")
    device = bench.register()
    bench.open = taken
    bench.run()
    bench.report(durable=False)
    bench.open = True
    assert bench.reads.devices == 1
    bench.reads.complete(device)
    bench.run()
    bench.report()
    assert bench.asked == ["/3/0/1"] * 2 and bench.reads.devices == 0


def test_error_of_the_device_is_an_answer() -> None:
    bench = Bench("/3/0/1")
    bench.says["/3/0/1"] = (0x84, b"")
    device = bench.register()
    bench.run()
    bench.report()
    [reply] = bench.replies
    assert reply.rep.code is ResponseCode.NOT_FOUND and isinstance(reply.rep.body, GenericBody)
    bench.reads.complete(device)
    assert bench.turns == []


def test_sleeping_device_is_read_when_it_wakes() -> None:
    bench = Bench("/3/0/1")
    device = bench.register()
    bench.is_awake = False
    bench.run()
    assert bench.asked == []
    bench.is_awake = True
    bench.reads.complete(device)
    bench.run()
    assert bench.asked == ["/3/0/1"]


def test_device_that_left_or_came_anew_is_not_asked_for_the_old_registration() -> None:
    bench = Bench("/3/0/1")
    device = bench.register()
    bench.reads.gone(device)
    bench.run()
    assert bench.asked == [] and bench.reads.devices == 0
    bench.register(reg_id="r2")
    bench.register(reg_id="r3")
    bench.run()
    assert bench.asked == ["/3/0/1"]


def test_device_from_before_a_restart_is_read_at_its_next_update() -> None:
    bench = Bench("/3/0/1")
    device = bench.register()
    bench.turns.clear()
    bench.reads.gone(device)
    bench.reads.restored(device)
    assert bench.turns == []
    bench.reads.complete(device)
    bench.run()
    assert bench.asked == ["/3/0/1"]


def test_reads_of_one_device_are_bounded() -> None:
    bench = Bench("/3303/*/5700")
    bench.register(",".join(f"</3303/{number}>" for number in range(3 * MOST_READS)))
    bench.says = {f"/3303/{number}/5700": (0x45, b"1") for number in range(3 * MOST_READS)}
    bench.run()
    assert len(bench.asked) == MOST_READS


def test_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(PathError):
        Bench("/*/0")
