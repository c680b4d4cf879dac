"""Devices behind a gateway: what its object 25 says is made true, whatever Kafka and the disk do meanwhile.

Registrations and state file are the real ones; the uplink is `tests.memory_uplink`, and what the gateway answers is in
the test's hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Any, cast

from gateway.admission import Admission
from gateway.behind import Behind
from gateway.coap.exchanges import NoAnswer
from gateway.coap.message import Message, Option, Type, uint
from gateway.coap.peers import Address
from gateway.device_forms import kafka_place, restored
from gateway.device_link import DeviceLink
from gateway.exchange import CoapRequest
from gateway.journal import Journal
from gateway.observing import Observing
from gateway.own_reads import OwnReads
from gateway.registration import parse_announcement
from gateway.registrations import Registrations
from gateway.registry import Device, Registry
from gateway.state import State
from gateway.uplink import Uplink
from schemas.avro import serde
from schemas.avro.records import Binding, Registration
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from tests.gateway_device import OBJECTS, TLV, Instances, object_25
from tests.memory_uplink import MemoryUplink

TWO: Instances = {0: ("a", "p0", OBJECTS), 1: ("b", "p1", OBJECTS)}


class Bench:
    """A gateway process as far as it concerns devices behind others; it is the listener of its registrations."""

    def __init__(self, state: State, journal: Journal) -> None:
        self.state = state
        self.uplink = MemoryUplink()
        self.registry = Registry()
        self.says: tuple[int, bytes] | None = (0x45, object_25(TWO))
        self.asked: list[str] = []
        self.turns: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.forgot: list[str] = []
        self.completed: list[str] = []
        self._ids = 0
        uplink = cast(Uplink, self.uplink)
        self.registrations = Registrations(
            server_id="gw",
            local_address=lambda _: ("127.0.0.1", 5683),
            admission=Admission(None),
            uplink=uplink,
            state=state,
            registry=self.registry,
            journal=journal,
            listener=self,
            wall_ms=lambda: 1_000,
            new_id=self._new_id,
        )
        self.behind = Behind(
            registry=self.registry,
            registrations=self.registrations,
            admission=Admission(None),
            observing=cast(Observing, self),
            own=OwnReads(
                server_id="gw",
                link=cast(DeviceLink, self),
                definitions=Definitions.builtin(),
                wall_ms=lambda: 1_000,
            ),
            in_order=lambda ep, factory: self.turns.append(factory),
            awake=lambda ep: True,
            wall_ms=lambda: 1_000,
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    # The listener, the observations, the link

    def registered(self, device: Device, old: Device | None) -> None:
        self.behind.registered(device, old)

    def moving(self, device: Device) -> None:
        raise AssertionError("nobody moves by itself here")

    def updated(self, device: Device, *, objects_changed: bool) -> None:
        self.behind.updated(device, objects_changed=objects_changed)

    def refreshed(self, devices: Iterable[Device]) -> None:
        for device in devices:
            self.updated(device, objects_changed=False)

    def followed(self, device: Device, *, elsewhere: bool, objects_changed: bool) -> None:
        self.behind.followed(device)

    def gone(self, device: Device) -> None:
        self.behind.gone(device)

    def forgotten(self, device: Device) -> None:
        self.forgot.append(device.ep)

    def complete(self, device: Device) -> None:
        self.completed.append(device.ep)

    async def send(self, address: Address, request: CoapRequest, *, timeout: float) -> Message:
        self.asked.append("/".join(request.uri_path))
        if self.says is None:
            raise NoAnswer("no answer")
        code, payload = self.says
        return Message(Type.ACK, code, 1, b"t", [(Option.CONTENT_FORMAT, uint(TLV))], payload)

    # What a test does

    def join(self, links: str = "</3/0>,</25>;ver=2.0", *, port: int = 5000) -> Device:
        device = Device(
            ep="hub",
            reg_id=self._new_id(),
            address=("127.0.0.1", port),
            lifetime=60,
            version="1.1",
            binding=Binding.U,
            queue=False,
            sms=None,
            announcement=parse_announcement(links.encode()),
            attributes={},
            reg_date=1_000,
            last_up=1_000,
            place=kafka_place("hub", cast(Uplink, self.uplink)),
        )
        self.registered(device, self.registry.add(device))
        return device

    async def run(self) -> None:
        """Let those have their turn that wait for it."""
        turns, self.turns = self.turns, []
        for factory in turns:
            await factory()

    async def settle(self, durable: bool = True) -> None:
        await self.state.durable()
        self.uplink.report(durable)

    @property
    def devices(self) -> set[str]:
        return {device.ep for device in self.registry if device.behind is not None}

    @property
    def records(self) -> list[tuple[str, str]]:
        self.registrations.changes.records.flush()
        found = [serde.decode(value) for _, _, _, value, _ in self.uplink.records]
        return [(one.kind.value, one.body.ep) for one in found if isinstance(one, Registration)]


@asynccontextmanager
async def _bench(directory: FilePath) -> AsyncIterator[Bench]:
    state = State.open(directory)
    journal = Journal(directory)
    try:
        async with asyncio.timeout(30):
            yield Bench(state, journal)
    finally:
        journal.close()
        await state.close()


def test_what_kafka_does_not_take_is_tried_until_it_does(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            bench.uplink.closed = "no Kafka"
            bench.join()
            await bench.run()
            bench.behind.follow_up()
            assert bench.records == []
            bench.uplink.closed = None
            bench.behind.follow_up()
            bench.behind.follow_up()
            # Once, as long as it is under way.
            assert bench.records == [("NEW", "hub/a"), ("NEW", "hub/b")] and bench.devices == set()
            await bench.settle(durable=False)
            assert bench.devices == set()
            bench.behind.follow_up()
            await bench.settle()
            assert bench.devices == {"hub/a", "hub/b"} and len(bench.behind) == 2
            before = len(bench.records)
            bench.behind.follow_up()
            assert len(bench.records) == before

    asyncio.run(run())


def test_an_end_that_kafka_does_not_take_is_tried_until_it_does(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            hub = bench.join()
            await bench.run()
            await bench.settle()
            bench.registry.remove("hub")
            bench.gone(hub)
            await bench.settle(durable=False)
            assert bench.devices == {"hub/a", "hub/b"}
            # Nobody may change them meanwhile, but who is in front of them.
            bench.behind.follow_up()
            await bench.settle()
            assert bench.devices == set() and bench.records[-2:] == [("DELETE", "hub/a"), ("DELETE", "hub/b")]
            assert len(bench.registry) == 0 and not bench.turns

    asyncio.run(run())


def test_a_gateway_that_leaves_while_its_devices_are_under_way_takes_them_along(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            hub = bench.join()
            await bench.run()
            bench.registry.remove("hub")
            bench.gone(hub)
            await bench.settle()
            bench.behind.follow_up()
            await bench.settle()
            assert bench.devices == set()

    asyncio.run(run())


def test_a_silent_gateway_is_asked_again_at_its_next_update(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            bench.says = None
            hub = bench.join()
            await bench.run()
            bench.behind.follow_up()
            assert bench.asked == ["25"] and not bench.turns
            bench.says = (0x45, object_25(TWO))
            bench.updated(hub, objects_changed=False)
            bench.updated(hub, objects_changed=False)
            assert len(bench.turns) == 1
            await bench.run()
            await bench.settle()
            assert bench.devices == {"hub/a", "hub/b"}
            # An update is when what they should be observed of and are not is asked for.
            assert bench.completed == []
            bench.updated(hub, objects_changed=False)
            assert sorted(bench.completed) == ["hub/a", "hub/b"]

    asyncio.run(run())


def test_an_answer_that_cannot_be_read_changes_nothing_and_is_counted_once(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            hub = bench.join()
            await bench.run()
            await bench.settle()
            for says in ((0x45, b"\xff\xff\xff"), (0xA0, b"")):
                bench.says = says
                bench.behind.notified(hub, Path(25, 0, 3))
                await bench.run()
                await bench.settle()
                assert bench.devices == {"hub/a", "hub/b"}
                assert bench.behind.refused == {"object 25 unreadable": 1}
            # It has none any more, or says that there is none.
            for says in ((0x84, b""), (0x45, b"")):
                bench.says = says
                bench.behind.notified(hub, Path(25))
                await bench.run()
                await bench.settle()
                assert bench.devices == set()

    asyncio.run(run())


def test_a_notification_of_something_else_is_none_of_its_business(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            hub = bench.join()
            await bench.run()
            await bench.settle()
            bench.behind.notified(hub, Path(3303, 0))
            a = bench.registry.device("hub/a")
            assert a is not None
            # A gateway behind a gateway is a device like any other.
            bench.behind.notified(a, Path(25))
            assert not bench.turns

    asyncio.run(run())


def test_devices_of_the_state_file_are_those_that_there_are_until_the_gateway_says_otherwise(
    tmp_path: FilePath,
) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            bench.join()
            await bench.run()
            await bench.settle()
            rows = list(bench.state.registrations())
            assert [(row.ep, row.behind, row.prefix) for row in rows] == [
                ("hub/a", "hub", "p0"),
                ("hub/b", "hub", "p1"),
            ]
        async with _bench(tmp_path) as bench:
            # The gateway's own row is there in one life and not in the other.
            for row in rows:
                bench.registry.add(restored(row, cast(Uplink, bench.uplink)))
            hub = bench.join(port=6000)
            bench.turns.clear()
            bench.behind.restored()
            assert {device.address for device in bench.registry} == {hub.address}
            prefixes = bench.behind.by_prefix(hub)
            assert prefixes is not None and sorted(prefixes) == ["p0", "p1"]
            bench.behind.follow_up()
            await bench.settle()
            # Its address is recorded, and nothing ends before it is asked.
            assert bench.records == [("UPDATE", "hub/a"), ("UPDATE", "hub/b")]
        async with _bench(tmp_path) as bench:
            for row in rows:
                bench.registry.add(restored(row, cast(Uplink, bench.uplink)))
            bench.behind.restored()
            bench.behind.follow_up()
            await bench.settle()
            assert bench.records == [("DELETE", "hub/a"), ("DELETE", "hub/b")] and len(bench.registry) == 0
            assert list(bench.state.registrations()) == []

    asyncio.run(run())


def test_a_gateway_that_registers_anew_keeps_its_devices_which_have_forgotten_all(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            bench.join()
            await bench.run()
            await bench.settle()
            a = bench.registry.device("hub/a")
            hub = bench.join()
            assert a is not None and a.gateway is hub and a.address is hub.address
            assert bench.forgot == ["hub/a", "hub/b"]
            await bench.run()
            await bench.settle()
            assert bench.registry.device("hub/a") is a
            # Without object 25 it is no gateway any more.
            bench.join("</3/0>")
            await bench.settle()
            assert bench.devices == set() and not bench.turns
            assert bench.behind.by_prefix(hub) is None

    asyncio.run(run())
