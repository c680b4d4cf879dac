"""The short path of bare updates: the same records and answers as the ordinary way, and what it leaves to that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path as FilePath

import pytest

from gateway import updates as updates_module
from gateway.coap.message import Code, Option, Type, build
from gateway.coap.peers import Address
from gateway.state import State
from schemas.avro.records import RegistrationKind
from tests.gateway.test_registrations import HERE, THERE, Bench, Request

TOKEN = b"tok"


class Door:
    """What the endpoint does for the short path."""

    def __init__(self) -> None:
        self.noted: set[tuple[Address, int]] = set()
        self.answers: list[tuple[Address, bytes]] = []
        self.busy: list[tuple[int, bytes]] = []

    def is_repeated(self, address: Address, mid: int, size: int) -> bool:
        repeated = (address, mid) in self.noted
        self.noted.add((address, mid))
        return repeated

    def answer_noted(self, address: Address, mid: int, datagram: bytes) -> None:
        assert (address, mid) in self.noted
        self.answers.append((address, datagram))

    def refuse_noted(self, address: Address, mid: int, token: bytes) -> None:
        self.noted.discard((address, mid))
        self.busy.append((mid, token))

    def forget_noted(self, address: Address, mid: int) -> None:
        self.noted.discard((address, mid))


def _update(reg_id: str = "id1", mid: int = 7, **other: bytes) -> bytes:
    options = [(Option.URI_PATH, b"rd"), (Option.URI_PATH, reg_id.encode())]
    if query := other.get("query"):
        options.append((Option.URI_QUERY, query))
    return build(Type.CON, Code.POST, mid, TOKEN, [(int(n), v) for n, v in options], other.get("payload", b""))


@asynccontextmanager
async def _registered(directory: FilePath) -> AsyncIterator[tuple[Bench, Door]]:
    state = State.open(directory)
    try:
        async with asyncio.timeout(30):
            bench, door = Bench(state), Door()
            bench.interface.updates.start(door)
            await bench.register("lt=60")
            yield bench, door
    finally:
        await state.close()


def test_bare_update_is_recorded_and_answered_as_on_the_ordinary_way(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bench.now_ms += 50_000
            ordinary = bench.serve(Request(Code.POST, ["id1"], [], mid=7))
            await bench.settle()
            assert ordinary.answer == (Code.CHANGED, [])
            assert bench.interface.updates.take(_update(mid=7), HERE)
            await asyncio.sleep(0)  # the turn ends
            assert door.answers == []
            bench.uplink.report()
            assert door.answers == [(HERE, build(Type.ACK, Code.CHANGED, 7, TOKEN, []))]
            assert bench.uplink.records[-1] == bench.uplink.records[-2]
            assert bench.interface.updates.updated == 2
            assert bench.events[1:] == ["updated a"] * 2
            bench.now_ms += 59_000
            bench.interface.expire()
            assert len(bench.registry) == 1

    asyncio.run(run())


def test_updates_of_a_turn_share_a_report_and_each_has_its_answer(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            for mid in range(5):
                assert bench.interface.updates.take(_update(mid=mid), HERE)
            assert bench.interface.updates.take(_update(mid=0), HERE)  # a copy
            await asyncio.sleep(0)
            assert len(bench.uplink.reports) == 1
            bench.uplink.report()
            assert [datagram[3] for _, datagram in door.answers] == [0, 1, 2, 3, 4]

    asyncio.run(run())


def test_what_is_no_bare_update_of_its_own_device_is_left_to_the_ordinary_way(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            take = bench.interface.updates.take
            whole = _update()
            left = [
                _update(query=b"lt=9"),
                _update(payload=b"</3/0>"),
                _update("id2"),
                _update("nobody-has-so-long-an-id"),
                build(Type.NON, Code.POST, 7, TOKEN, [(Option.URI_PATH, b"rd"), (Option.URI_PATH, b"id1")]),
                build(Type.CON, Code.POST, 7, TOKEN, [(Option.URI_PATH, b"rx"), (Option.URI_PATH, b"id1")]),
                build(Type.CON, Code.POST, 7, TOKEN, [(Option.URI_PATH, b"rd")]),
                b"\x49" + whole[1:],
                *(whole[:size] for size in range(5, len(whole))),
            ]
            assert [datagram for datagram in left if take(datagram, HERE)] == []
            assert not take(whole, THERE)
            bench.interface.changes.recorded["127.0.0.1", 5000, 9] = RegistrationKind.UPDATE, "id1"
            assert not take(whole, HERE)
            bench.interface.changes.recorded.clear()
            bench.uplink.closed = "down"
            assert not take(whole, HERE)
            bench.uplink.closed = None
            changing = bench.serve(Request(Code.POST, ["id1"], ["lt=90"], mid=8))
            assert not take(whole, HERE)
            await bench.settle()
            assert changing.answer == (Code.CHANGED, [])
            with monkeypatch.context() as patch:
                patch.setattr(updates_module, "MOST_WAITING", 0)
                assert not take(whole, HERE)
            assert door.noted == set()
            assert take(whole, HERE)

    asyncio.run(run())


def test_update_that_kafka_did_not_take_is_taken_when_it_comes_again(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            assert bench.interface.updates.take(_update(), HERE)
            await asyncio.sleep(0)
            bench.uplink.report(False)
            assert door.answers == [] and door.noted == set()
            bench.uplink.room = len(bench.uplink.records)
            assert bench.interface.updates.take(_update(), HERE)
            await asyncio.sleep(0)
            assert door.answers == [] and door.noted == set()
            bench.uplink.room += 1
            assert bench.interface.updates.take(_update(), HERE)
            await asyncio.sleep(0)
            bench.uplink.report()
            assert len(door.answers) == 1

    asyncio.run(run())


def test_updates_that_wait_for_a_silent_kafka_are_refused_and_hold_if_it_had_them(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bench.now_ms += 50_000
            assert bench.interface.updates.take(_update(), HERE)
            await asyncio.sleep(0)
            bench.interface.updates.refuse_waiting()
            assert door.busy == [(7, TOKEN)]
            bench.uplink.report()
            assert door.answers == []
            device = bench.registry.device("a")
            assert device is not None and device.last_up == bench.now_ms

    asyncio.run(run())
