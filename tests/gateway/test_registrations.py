"""Register, Update, De-register and expiry: in which order a change becomes true, and what a failure leaves.

On a real state file; the uplink is `tests.memory_uplink`, which reports when the test says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import cast

import pytest

from gateway import registry as registry_module
from gateway.admission import Admission
from gateway.coap.incoming import BUSY_MAX_AGE
from gateway.coap.message import Code, Message, Option, Options, Type
from gateway.coap.peers import Address, UdpAddress
from gateway.device_forms import restored
from gateway.journal import Journal
from gateway.registration import parse_announcement
from gateway.registrations import Registrations
from gateway.registry import Device, Registry
from gateway.state import State
from gateway.uplink import Uplink
from schemas.avro import serde
from schemas.avro.records import (
    Binding,
    Registration,
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
)
from tests.memory_uplink import MemoryUplink

HERE: UdpAddress = ("127.0.0.1", 5000)
THERE: Address = ("127.0.0.1", 5001)
LINKS = b'</>;rt="oma.lwm2m";ct="110 112",</1/0>,</3/0>,</3303/0>'


class Request:
    """A request that waits for its answer."""

    def __init__(
        self, code: int, path: list[str], queries: list[str], *, address: Address = HERE, mid: int = 1
    ) -> None:
        options: Options = [(Option.URI_PATH, part.encode()) for part in ["rd", *path]]
        options += [(Option.URI_QUERY, query.encode()) for query in queries]
        self.message = Message(Type.CON, code, mid, b"t", options, b"")
        self.address = address
        self.answer: tuple[int, list[bytes]] | str | None = None

    def waits(self) -> bool:
        return self.answer is None

    def reply(self, code: int, options: Options | None = None, payload: bytes = b"") -> None:
        assert self.answer is None, "answered twice"
        self.answer = code, [value for number, value in options or [] if number == Option.LOCATION_PATH]

    def busy(self) -> None:
        assert self.answer is None, "answered twice"
        self.answer = "busy"

    def drop(self) -> None:
        assert self.answer is None, "answered twice"
        self.answer = "dropped"


class Bench:
    """The registration interface with a clock in the test's hands; it is its own listener."""

    def __init__(self, state: State, journal: Journal) -> None:
        self.state = state
        self.uplink = MemoryUplink()
        self.registry = Registry()
        self.now_ms = 1_000_000
        self.events: list[str] = []
        self._ids = 0
        self.interface = Registrations(
            server_id="gw",
            local_address=lambda _: ("127.0.0.1", 5683),
            admission=Admission(None),
            uplink=cast(Uplink, self.uplink),
            state=state,
            registry=self.registry,
            journal=journal,
            listener=self,
            wall_ms=lambda: self.now_ms,
            new_id=self._new_id,
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    def registered(self, device: Device, old: Device | None) -> None:
        self.events.append(f"registered {device.ep} {'anew' if old else 'first'}")

    def moving(self, device: Device) -> None:
        self.events.append(f"moving {device.ep} from {device.at[1]}")

    def updated(self, device: Device, *, objects_changed: bool) -> None:
        self.events.append(f"updated {device.ep}{' objects' if objects_changed else ''}")

    def refreshed(self, devices: Iterable[Device]) -> None:
        self.events += [f"refreshed {device.ep}" for device in devices]

    def followed(self, device: Device, *, elsewhere: bool, objects_changed: bool) -> None:
        self.events.append(f"followed {device.ep}{' elsewhere' if elsewhere else ''}")

    def gone(self, device: Device) -> None:
        self.events.append(f"gone {device.ep}")

    def serve(self, request: Request, payload: bytes = b"") -> Request:
        self.interface.serve(request, request.message.texts(Option.URI_PATH)[1:], payload)
        self.interface.changes.records.flush()
        return request

    async def settle(self, durable: bool = True) -> None:
        """The state is on disk, and Kafka reports."""
        await self.state.durable()
        self.uplink.report(durable)

    async def register(self, *queries: str, ep: str = "a", address: Address = HERE, mid: int = 1) -> Request:
        request = Request(Code.POST, [], [f"ep={ep}", *queries], address=address, mid=mid)
        self.serve(request, LINKS)
        await self.settle()
        return request

    def records(self) -> list[Registration]:
        decoded = [serde.decode(value) for _, _, _, value, _ in self.uplink.records]
        return [record for record in decoded if isinstance(record, Registration)]


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


def _stored(directory: FilePath) -> dict[str, str]:
    """What a gateway that starts now would find: registration ids by endpoint."""
    state = State.open(directory)
    try:
        return {row.ep: row.reg_id for row in state.registrations()}
    finally:
        asyncio.run(state.close())


def test_registration_holds_and_is_answered_only_when_it_is_durable_in_both(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            request = bench.serve(Request(Code.POST, [], ["ep=a", "lt=60", "lwm2m=1.1", "b=U", "Q"]), LINKS)
            assert request.waits() and len(bench.registry) == 0
            bench.uplink.report()  # Kafka alone
            assert request.waits() and len(bench.registry) == 0
            await bench.state.durable()
            assert request.answer == (Code.CREATED, [b"rd", b"id1"])
            device = bench.registry.device("a")
            assert device is not None and device.queue and device.binding is Binding.UQ
            assert bench.events == ["registered a first"]
            (record,) = bench.records()
            assert record.kind is RegistrationKind.NEW and isinstance(record.body, RegistrationNew)
            assert (record.body.reg_id, record.body.lt, record.body.ver, record.body.port) == ("id1", 60, "1.1", 5000)
            assert dict(bench.uplink.records[0][4]) == {"coap.mid": b"\0\1", "coap.peer": b"127.0.0.1 5000"}

    asyncio.run(run())
    assert _stored(tmp_path) == {"a": "id1"}


def test_registration_that_kafka_does_not_take_is_refused_and_holds_nowhere_in_memory(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            request = bench.serve(Request(Code.POST, [], ["ep=a"]), LINKS)
            await bench.settle(durable=False)
            assert request.answer == "busy"
            assert len(bench.registry) == 0 and bench.events == []
            bench.uplink.room = len(bench.uplink.records)
            request = bench.serve(Request(Code.POST, [], ["ep=a"], mid=2), LINKS)
            await bench.settle()
            assert request.answer == "busy"
            bench.uplink.closed = "down"
            assert bench.serve(Request(Code.POST, [], ["ep=a"], mid=3), LINKS).answer == "busy"

    asyncio.run(run())


def test_request_gets_no_answer_while_the_refusal_is_young_and_is_taken_when_it_comes_again(tmp_path: FilePath) -> None:
    # Zephyr's client takes any error for the last word: after a 5.03 it does not register again by itself.
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            bench.uplink.closed, bench.uplink.briefly = "the gateway is starting", True
            assert bench.serve(Request(Code.POST, [], ["ep=a"]), LINKS).answer == "dropped"
            assert bench.serve(Request(Code.POST, ["id"], [], mid=2)).answer == "dropped"
            bench.uplink.briefly = False
            assert bench.serve(Request(Code.POST, [], ["ep=a"]), LINKS).answer == "busy"
            assert bench.interface.changes.refused == 3 and bench.uplink.records == []
            bench.uplink.closed = None
            again = bench.serve(Request(Code.POST, [], ["ep=a"]), LINKS)
            await bench.settle()
            assert isinstance(again.answer, tuple) and again.answer[0] == Code.CREATED

    asyncio.run(run())


def test_what_waits_to_become_durable_takes_room_until_it_holds_or_fails(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "MOST_ANNOUNCED", parse_announcement(LINKS).cost)

    async def run() -> None:
        async with _bench(tmp_path) as bench:
            first = bench.serve(Request(Code.POST, [], ["ep=a"]), LINKS)
            assert bench.serve(Request(Code.POST, [], ["ep=b"], mid=2), b"</3/0>").answer == "busy"
            alike = bench.serve(Request(Code.POST, [], ["ep=c"], mid=3), LINKS)  # no memory of its own
            await bench.settle(durable=False)
            assert first.answer == alike.answer == "busy"
            assert (await bench.register(mid=4)).answer == (Code.CREATED, [b"rd", b"id3"])
            changing = bench.serve(Request(Code.POST, ["id3"], [], mid=5), b"</3/0>")
            await bench.settle()
            assert changing.answer == (Code.CHANGED, [])
            assert bench.registry._announced == parse_announcement(b"</3/0>").cost

    asyncio.run(run())


def test_registering_again_replaces_and_the_old_id_is_not_found(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register()
            await bench.register(address=THERE, mid=2)
            assert bench.events == ["registered a first", "registered a anew"]
            request = bench.serve(Request(Code.POST, ["id1"], []))
            assert request.answer == (Code.NOT_FOUND, [])
            device = bench.registry.device("a")
            assert device is not None and (device.reg_id, device.address) == ("id2", THERE)

    asyncio.run(run())
    assert _stored(tmp_path) == {"a": "id2"}


def test_bare_update_moves_the_expiry_and_is_recorded(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register("lt=60")
            bench.now_ms += 50_000
            request = bench.serve(Request(Code.POST, ["id1"], [], mid=2))
            assert request.waits()
            await bench.settle()
            assert request.answer == (Code.CHANGED, [])
            bench.now_ms += 59_000
            bench.interface.expire()
            assert bench.events == ["registered a first", "refreshed a"]
            record = bench.records()[-1]
            assert isinstance(record.body, RegistrationUpdate) and record.body.last_up == 1_050_000
            assert record.body.links is None and record.body.lt is None

    asyncio.run(run())


def test_update_changes_what_it_names_and_the_address(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register("lt=60", "b=U")
            request = Request(Code.POST, ["id1"], ["lt=120", "b=UQ"], address=THERE, mid=2)
            bench.serve(request, b"</3/0>,</5/0>")
            await bench.settle()
            assert request.answer == (Code.CHANGED, [])
            device = bench.registry.at(THERE)
            assert device is not None and bench.registry.at(HERE) is None
            assert (device.lifetime, device.queue) == (120, True)
            assert [str(path) for path in device.announcement.paths] == ["/3/0", "/5/0"]
            assert bench.events[-1] == "updated a objects"
            await bench.state.durable()

    asyncio.run(run())
    state = State.open(tmp_path)
    try:
        (row,) = state.registrations()
        device = restored(row, cast(Uplink, MemoryUplink()))
        assert (device.address, device.lifetime, device.queue) == (THERE, 120, True)
        assert [str(path) for path in device.announcement.paths] == ["/3/0", "/5/0"]
    finally:
        asyncio.run(state.close())


def test_update_that_fails_changes_nothing(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register("lt=60")
            for mid, queries in ((2, ["lt=120"]), (3, [])):
                request = bench.serve(Request(Code.POST, ["id1"], queries, mid=mid))
                await bench.settle(durable=False)
                assert request.answer in ("busy", "dropped")
            device = bench.registry.device("a")
            assert device is not None and (device.lifetime, device.last_up) == (60, 1_000_000)
            assert bench.events == ["registered a first"]

    asyncio.run(run())


def test_changes_hold_one_after_the_other_in_memory_and_in_the_state(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register("lt=86400", "b=U")
            first = bench.serve(Request(Code.POST, ["id1"], ["lt=60"], mid=2))
            # Neither of these can be worked on yet: they come again.
            for mid, queries in ((3, ["b=UQ"]), (4, [])):
                assert bench.serve(Request(Code.POST, ["id1"], queries, mid=mid)).answer == "dropped"
            assert bench.serve(Request(Code.DELETE, ["id1"], [], mid=5)).answer == "dropped"
            await bench.settle()
            assert first.answer == (Code.CHANGED, [])
            second = bench.serve(Request(Code.POST, ["id1"], ["b=UQ"], mid=3))
            await bench.settle(durable=False)
            assert second.answer == "busy"
            second = bench.serve(Request(Code.POST, ["id1"], ["b=UQ"], mid=6))  # a failed change is out of the way
            await bench.settle()
            assert second.answer == (Code.CHANGED, [])
            device = bench.registry.device("a")
            assert device is not None and (device.lifetime, device.queue) == (60, True)
            assert len(bench.records()) == 4

    asyncio.run(run())
    state = State.open(tmp_path)
    try:
        (row,) = state.registrations()
        assert (row.lifetime, row.queue) == (60, True)
    finally:
        asyncio.run(state.close())


def test_nothing_changes_a_registration_that_is_ending(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            for ep, number in (("a", 1), ("b", 2)):
                await bench.register("lt=60", ep=ep, mid=number, address=(HERE[0], 6000 + number))
            leaving = bench.serve(Request(Code.DELETE, ["id1"], [], mid=3))
            bench.now_ms += 60_000
            bench.interface.expire()  # "b", and "a" too, were it not leaving
            for reg_id in ("id1", "id2"):
                for mid, queries in ((4, ["lt=90"]), (5, [])):
                    assert bench.serve(Request(Code.POST, [reg_id], queries, mid=mid)).answer == "dropped"
            await bench.settle()
            assert leaving.answer == (Code.DELETED, [])
            assert len(bench.registry) == 0 and bench.events[2:] == ["gone a", "gone b"]
            assert bench.serve(Request(Code.POST, ["id1"], ["lt=90"], mid=6)).answer == (Code.NOT_FOUND, [])
            bench.interface.expire()
            assert [record.kind for record in bench.records()] == [RegistrationKind.NEW] * 2 + [
                RegistrationKind.DELETE
            ] * 2

    asyncio.run(run())
    assert _stored(tmp_path) == {}


def test_bare_update_does_not_put_the_old_address_back_behind_a_change_of_it(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register()
            bench.serve(Request(Code.POST, ["id1"], [], mid=2))
            moved = bench.serve(Request(Code.POST, ["id1"], [], address=THERE, mid=3))
            await bench.settle()
            assert moved.answer == (Code.CHANGED, [])

    asyncio.run(run())
    state = State.open(tmp_path)
    try:
        (row,) = state.registrations()
        assert (row.address, row.port) == THERE
    finally:
        asyncio.run(state.close())


def test_deregistration_ends_it_and_comes_to_nothing_the_second_time(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register()
            request = bench.serve(Request(Code.DELETE, ["id1"], [], mid=2))
            assert request.waits() and len(bench.registry) == 1
            await bench.settle()
            assert request.answer == (Code.DELETED, [])
            assert bench.events[-1] == "gone a" and len(bench.registry) == 0
            record = bench.records()[-1]
            assert isinstance(record.body, RegistrationDelete) and not record.body.expired
            assert bench.serve(Request(Code.DELETE, ["id1"], [], mid=3)).answer == (Code.NOT_FOUND, [])

    asyncio.run(run())
    assert _stored(tmp_path) == {}


def test_deregistration_of_the_old_id_leaves_the_new_registration(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register()
            leaving = bench.serve(Request(Code.DELETE, ["id1"], [], mid=2))
            await bench.register(mid=3)  # before the first is durable
            assert leaving.answer == (Code.DELETED, [])
            device = bench.registry.device("a")
            assert device is not None and device.reg_id == "id2"

    asyncio.run(run())
    assert _stored(tmp_path) == {"a": "id2"}


def test_what_is_said_of_the_old_registration_does_not_touch_the_one_that_is_coming(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register("lt=60")
            bench.now_ms += 60_000
            new = bench.serve(Request(Code.POST, [], ["ep=a"], mid=2), LINKS)
            # All of these come late, and before the new registration is durable.
            leaving = bench.serve(Request(Code.DELETE, ["id1"], [], mid=3))
            bare = bench.serve(Request(Code.POST, ["id1"], [], mid=4))
            update = bench.serve(Request(Code.POST, ["id1"], ["lt=9"], mid=5))
            bench.interface.expire()
            await bench.settle()
            await bench.settle()
            assert new.answer == (Code.CREATED, [b"rd", b"id2"])
            assert leaving.answer == (Code.DELETED, [])
            assert bare.answer == update.answer == (Code.NOT_FOUND, [])
            assert [record.kind for record in bench.records()] == [RegistrationKind.NEW] * 2
            assert bench.events == ["registered a first", "registered a anew"]
            # Once it holds, it is spoken of as any other.
            gone = bench.serve(Request(Code.POST, ["id2"], ["lt=9"], mid=6))
            await bench.settle()
            assert gone.answer == (Code.CHANGED, [])

    asyncio.run(run())
    assert _stored(tmp_path) == {"a": "id2"}


def test_registration_that_failed_leaves_the_old_one_to_go_on(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register()
            bench.serve(Request(Code.POST, [], ["ep=a"], mid=2), LINKS)
            await bench.settle(durable=False)
            update = bench.serve(Request(Code.POST, ["id1"], ["lt=90"], mid=3))
            await bench.settle()
            assert update.answer == (Code.CHANGED, [])

    asyncio.run(run())
    assert _stored(tmp_path) == {"a": "id1"}


def test_expired_registration_is_recorded_once_and_removed_once_durable(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register("lt=60")
            bench.now_ms += 60_000
            bench.interface.expire()
            bench.interface.expire()
            assert len(bench.registry) == 1
            await bench.settle()
            assert len(bench.registry) == 0 and bench.events[-1] == "gone a"
            deletes = [record.body for record in bench.records() if isinstance(record.body, RegistrationDelete)]
            assert [(body.expired, body.last_up) for body in deletes] == [(True, 1_000_000)]

    asyncio.run(run())


def test_expiry_that_kafka_does_not_take_comes_again(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register("lt=60")
            bench.now_ms += 60_000
            bench.uplink.closed = "down"
            bench.interface.expire()
            bench.uplink.closed = None
            bench.interface.expire()
            assert len(bench.registry) == 1, "who was refused meanwhile gets time to be heard"
            bench.now_ms += 3 * BUSY_MAX_AGE * 1000
            bench.interface.expire()
            await bench.settle(durable=False)
            assert len(bench.registry) == 1
            bench.interface.expire()
            await bench.settle()
            assert len(bench.registry) == 0

    asyncio.run(run())


def test_request_that_a_dead_gateway_recorded_is_answered_and_not_recorded_again(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register()
            bench.uplink.records.clear()
            bench.interface.changes.know(
                {
                    ("127.0.0.1", 5000, 1): (RegistrationKind.NEW, "id1"),
                    ("127.0.0.1", 5000, 9): (RegistrationKind.DELETE, ""),
                }
            )
            again = bench.serve(Request(Code.POST, [], ["ep=a"], mid=1), LINKS)
            assert again.answer == (Code.CREATED, [b"rd", b"id1"])
            assert bench.serve(Request(Code.DELETE, ["gone"], [], mid=9)).answer == (Code.DELETED, [])
            assert bench.uplink.records == []
            # Another endpoint with that message id, or another address, is new.
            other = bench.serve(Request(Code.POST, [], ["ep=b"], mid=1), LINKS)
            await bench.settle()
            assert other.answer == (Code.CREATED, [b"rd", b"id2"])

    asyncio.run(run())


def test_requests_that_make_no_sense_are_refused_and_recorded_nowhere(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            await bench.register()
            bench.uplink.records.clear()
            cases = [
                (Request(Code.POST, [], []), LINKS, Code.BAD_REQUEST),
                (Request(Code.POST, [], ["ep=a", "lt=-1"]), LINKS, Code.BAD_REQUEST),
                (Request(Code.POST, [], ["ep=a", "lwm2m=1.3"]), LINKS, Code.PRECONDITION_FAILED),
                (Request(Code.POST, [], ["ep=a", "sms=call me"]), LINKS, Code.BAD_REQUEST),
                (Request(Code.POST, [], ["ep=a"]), b"no links", Code.BAD_REQUEST),
                (Request(Code.POST, [], ["ep=a"]), b"", Code.BAD_REQUEST),
                (Request(Code.POST, [], ["ep=a"]), b'</>;rt="oma.lwm2m",</sensors>', Code.BAD_REQUEST),
                (Request(Code.POST, [], ["ep=a"]), b'</lwm2m>;rt="oma.lwm2m",</3/0>', Code.BAD_REQUEST),
                (Request(Code.POST, ["id1"], ["b=X"]), b"", Code.BAD_REQUEST),
                (Request(Code.POST, ["id9"], []), b"", Code.NOT_FOUND),
                (Request(Code.DELETE, ["id9"], []), b"", Code.NOT_FOUND),
                (Request(Code.GET, [], []), b"", Code.METHOD_NOT_ALLOWED),
                (Request(Code.PUT, ["id1"], []), b"", Code.METHOD_NOT_ALLOWED),
                (Request(Code.DELETE, [], []), b"", Code.METHOD_NOT_ALLOWED),
                (Request(Code.POST, ["id1", "more"], []), b"", Code.NOT_FOUND),
            ]
            for request, payload, code in cases:
                assert bench.serve(request, payload).answer == (code, [])
            assert bench.uplink.records == [] and len(bench.registry) == 1

    asyncio.run(run())
