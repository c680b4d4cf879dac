"""The short path of bare updates: the same records and answers as the ordinary way, journalled before they are
acknowledged, and what it leaves to that way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path as FilePath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import bare_updates as module
from gateway.bare_updates import Answer
from gateway.changes import peer_header
from gateway.coap.exchanges import RequestLog
from gateway.coap.message import Code, Malformed, Option, Type, build, parse
from gateway.coap.peers import Address, UdpAddress
from gateway.journal import Entry, Journal
from gateway.notification_batches import HEADER_MID
from gateway.state import State
from schemas.avro.records import RegistrationKind, RegistrationUpdate
from tests.gateway.test_registrations import HERE, THERE, Bench, Request

TOKEN = b"tok"


class Door:
    """What the endpoint does for the short path, on a log of its kind."""

    def __init__(self) -> None:
        self.requests = RequestLog()
        self.answers: list[tuple[Address, bytes]] = []
        self.busy: list[tuple[int, bytes]] = []

    def address_of(self, name: bytes) -> UdpAddress:
        host, _, port = name.decode().rpartition(":")
        return host, int(port)

    def now(self) -> float:
        return 1.0

    def is_repeated(self, address: Address, mid: int, size: int) -> bool:
        repeated, answer = self.requests.seen(address, mid, 1.0)
        if answer is not None:
            self.answers.append((address, answer))
        return repeated

    def answer_all(self, answers: Sequence[Answer]) -> None:
        for address, _, noted, datagram in answers:
            self.requests.keep(noted, datagram)
            self.answers.append((address, datagram))

    def refuse_noted(self, address: Address, mid: int, token: bytes) -> None:
        self.requests.forget(address, mid)
        self.busy.append((mid, token))

    def forget_noted(self, address: Address, mid: int) -> None:
        self.requests.forget(address, mid)


def _update(reg_id: str = "id1", mid: int = 7, **other: bytes) -> bytes:
    options = [(Option.URI_PATH, b"rd"), (Option.URI_PATH, reg_id.encode())]
    if query := other.get("query"):
        options.append((Option.URI_QUERY, query))
    return build(Type.CON, Code.POST, mid, TOKEN, [(int(n), v) for n, v in options], other.get("payload", b""))


def _changed(mid: int) -> bytes:
    return build(Type.ACK, Code.CHANGED, mid, TOKEN, [])


def _take_slot(bench: Bench, datagram: bytes, address: UdpAddress) -> bool:
    """As `ShortPath.notify_all` hands it on."""
    name = f"{address[0]}:{address[1]}".encode()
    return bench.interface.bare.take_slot(name, datagram[0], datagram[2:4], datagram[4:])


@asynccontextmanager
async def _registered(directory: FilePath) -> AsyncIterator[tuple[Bench, Door]]:
    state = State.open(directory)
    journal = Journal(directory)
    try:
        async with asyncio.timeout(30):
            bench, door = Bench(state, journal), Door()
            bench.interface.bare.start(door)
            await bench.register("lt=60")
            yield bench, door
    finally:
        journal.close()
        await state.close()


def _mids(journal: Journal) -> list[int]:
    return [entry.mid[1] for entry in journal.entries()]


def test_bare_update_is_recorded_and_answered_as_on_the_ordinary_way(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bench.now_ms += 50_000
            ordinary = bench.serve(Request(Code.POST, ["id1"], [], mid=7))
            await bench.settle()
            assert ordinary.answer == (Code.CHANGED, [])
            for take in (bench.interface.bare.take, lambda *update: _take_slot(bench, *update)):
                assert take(_update(mid=7), HERE)
                bench.interface.bare.flush()
                assert door.answers.pop() == (HERE, _changed(7))
                bench.uplink.report()
                door.requests.forget(HERE, 7)
            assert bench.uplink.records[-1] == bench.uplink.records[-2] == bench.uplink.records[-3]
            assert bench.interface.updated == 3
            assert bench.events[1:] == ["refreshed a"] * 3
            bench.now_ms += 59_000
            bench.interface.expire()
            assert len(bench.registry) == 1

    asyncio.run(run())


def test_updates_are_answered_once_they_are_in_the_journal_and_not_before(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bare, records = bench.interface.bare, len(bench.uplink.records)
            for mid in range(5):
                assert bare.take(_update(mid=mid), HERE)
            assert bare.take(_update(mid=0), HERE)  # a copy
            assert door.answers == [] and bare.journal.size == 0
            bare.flush()
            assert [datagram[3] for _, datagram in door.answers] == [0, 1, 2, 3, 4] == _mids(bare.journal)
            assert len(bench.uplink.records) == records + 5
            # They share a report, and until then they stay in the journal.
            assert len(bench.uplink.reports) == 1
            bare.keep_up()
            assert _mids(bare.journal) == [0, 1, 2, 3, 4]
            bench.uplink.report()
            bare.keep_up()
            assert _mids(bare.journal) == []
            door.answers.clear()
            assert bare.take(_update(mid=3), HERE) and door.answers == [(HERE, _changed(3))]

    asyncio.run(run())


def test_what_is_no_bare_update_of_its_own_device_is_left_to_the_ordinary_way(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bare = bench.interface.bare

            def take(datagram: bytes, address: UdpAddress) -> bool:
                taken = bare.take(datagram, address)
                assert _take_slot(bench, datagram, address) is taken
                bare.flush()
                return taken

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
            assert not take(whole, ("127.0.0.1", 5001))
            bench.interface.changes.know({("127.0.0.1", 5000, 7): (RegistrationKind.UPDATE, "id1")})
            assert not take(whole, HERE)
            bench.now_ms += 248_000
            bench.uplink.closed = "down"
            assert not take(whole, HERE)
            bench.uplink.closed = None
            changing = bench.serve(Request(Code.POST, ["id1"], ["lt=90"], mid=8))
            assert not take(whole, HERE)
            await bench.settle()
            assert changing.answer == (Code.CHANGED, [])
            with monkeypatch.context() as patch:
                patch.setattr(module, "MOST_WAITING", 0)
                assert not take(whole, HERE)
            assert door.answers == [] and bare.journal.size == 0
            assert take(whole, HERE)

    asyncio.run(run())


def test_a_token_that_looks_like_the_path_is_answered_whole(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            options = [(int(Option.URI_PATH), b"rd"), (int(Option.URI_PATH), b"id1")]
            assert bench.interface.bare.take(build(Type.CON, Code.POST, 7, b"\xb2rd\x03id1", options), HERE)
            bench.interface.bare.flush()
            assert door.answers == [(HERE, build(Type.ACK, Code.CHANGED, 7, b"\xb2rd\x03id1", []))]

    asyncio.run(run())


def test_while_the_disk_refuses_updates_wait_for_kafka(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bare = bench.interface.bare
            monkeypatch.setattr(bare.journal, "write", lambda *_: None)
            bench.now_ms += 50_000
            assert bare.take(_update(mid=1), HERE)
            bare.flush()
            assert door.answers == []
            bench.uplink.report()
            assert door.answers == [(HERE, _changed(1))]
            device = bench.registry.device("a")
            assert device is not None and device.last_up == bench.now_ms
            # One that Kafka did not take is taken when it comes again.
            assert bare.take(_update(mid=2), HERE)
            bare.flush()
            bench.uplink.report(False)
            assert len(door.answers) == 1
            assert bare.take(_update(mid=2), HERE)
            bare.flush()
            bench.uplink.report()
            assert door.answers[1:] == [(HERE, _changed(2))]

    asyncio.run(run())


def test_an_update_for_which_the_queue_has_no_room_is_taken_when_it_comes_again(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bare = bench.interface.bare
            bench.uplink.room = len(bench.uplink.records)
            assert bare.take(_update(mid=1), HERE)
            assert bare.take(_update(mid=2), HERE)
            bare.flush()
            assert door.answers == [] and bare.journal.size == 0
            bench.uplink.room += 2
            assert bare.take(_update(mid=1), HERE)
            assert bare.take(_update(mid=2), HERE)
            bare.flush()
            assert [datagram for _, datagram in door.answers] == [_changed(1), _changed(2)]
            bench.uplink.report()
            bare.keep_up()
            assert bare.journal.size == 0

    asyncio.run(run())


def test_a_partition_that_took_nothing_of_a_turn_is_not_waited_for(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bare, records = bench.interface.bare, bench.interface.changes.records
            for number in range(20):
                await bench.register(ep=f"b{number}", address=THERE, mid=100 + number)
            here = bench.registry.device("a")
            assert here is not None
            there = next(one for one in bench.registry if one.place.registrations != here.place.registrations)
            # Of the other device's partition a record is held that the queue has no room for at this moment.
            records.hold(there.place.registrations, b"k", b"v", [], lambda _: None)
            assert bare.take(_update(mid=1), HERE)
            room, bench.uplink.room = bench.uplink.room, len(bench.uplink.records)
            assert bare.take(_update(there.reg_id, mid=2), THERE)
            bench.uplink.room = room
            bare.flush()
            assert door.answers == [(HERE, _changed(1))]
            bench.uplink.report()
            bare.keep_up()
            assert _mids(bare.journal) == []

    asyncio.run(run())


def test_updates_that_wait_for_a_silent_kafka_are_refused_and_hold_if_it_had_them(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bare = bench.interface.bare
            monkeypatch.setattr(bare.journal, "write", lambda *_: None)
            bench.now_ms += 50_000
            assert bare.take(_update(), HERE)
            bare.flush()
            bare.refuse_waiting()
            assert door.busy == [(7, TOKEN)]
            bench.uplink.report()
            assert door.answers == []
            device = bench.registry.device("a")
            assert device is not None and device.last_up == bench.now_ms

    asyncio.run(run())


def test_what_a_failed_producer_had_stays_in_the_journal_and_is_said_again_in_order(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bare = bench.interface.bare
            for mid in range(4):
                bench.now_ms += 1
                assert bare.take(_update(mid=mid), HERE)
                bare.flush()
            written = bench.uplink.records[-4:]
            bench.uplink.report(False)
            bare.keep_up()
            assert _mids(bare.journal) == [0, 1, 2, 3]
            # Kafka had the first two.
            missing = bare.journal.entries()[2:]
            assert bare.say_again(missing)
            assert bench.uplink.records[-2:] == written[2:]
            bare.keep_up()
            assert len(bare.journal.entries()) == 4
            bench.uplink.report()
            bare.keep_up()
            assert bare.journal.size == 0 and bare.said_again == 2
            assert len(door.answers) == 4

    asyncio.run(run())


def test_what_is_not_taken_whole_is_said_again_from_the_beginning(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, _):
            bare = bench.interface.bare
            for mid in range(3):
                assert bare.take(_update(mid=mid), HERE)
            bare.flush()
            bench.uplink.report(False)
            missing = bare.journal.entries()
            bench.uplink.room = len(bench.uplink.records) + 1
            assert not bare.say_again(missing)
            bench.uplink.report()
            bare.keep_up()
            assert _mids(bare.journal) == [0, 1, 2]
            bench.uplink.room = 1 << 30
            assert bare.say_again(missing[1:])
            bench.uplink.report()
            bare.keep_up()
            assert bare.journal.size == 0

    asyncio.run(run())


def test_the_next_process_has_the_clock_knows_the_request_and_drops_who_is_gone(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, door):
            bare = bench.interface.bare
            await bench.register(ep="b", address=THERE, mid=2)
            bench.now_ms += 50_000
            assert bare.take(_update("id1", mid=7), HERE)
            assert bare.take(_update("id2", mid=7), THERE)
            bare.flush()
            left = bare.journal.entries()
            at_ms = bench.now_ms
            # As a process that begins with the state file alone.
            device = bench.registry.device("a")
            assert device is not None
            device.last_up = at_ms - 50_000
            bench.registry.remove("b")
            bench.uplink.records.clear()
            bench.uplink.reports.clear()
            junk = Entry(at_ms=at_ms, mid=b"\0\0", peer=b"127.0.0.1 1", key=b"k", value=b"no record")
            assert bare.say_again([*left, junk])
            (record,) = bench.records()
            assert isinstance(record.body, RegistrationUpdate)
            assert (record.body.reg_id, record.body.last_up) == ("id1", at_ms)
            assert bare.dropped == 2 and device.last_up == at_ms
            # The device sends it again, as the answer was lost.
            door.requests.forget(HERE, 7)
            assert not bare.take(_update("id1", mid=7), HERE)
            again = bench.serve(Request(Code.POST, ["id1"], [], mid=7))
            assert again.answer == (Code.CHANGED, []) and len(bench.records()) == 1

    asyncio.run(run())


def test_a_clock_reaches_the_state_file_but_no_registration_that_ended_comes_back(tmp_path: FilePath) -> None:
    async def run() -> int:
        async with _registered(tmp_path) as (bench, _):
            bare = bench.interface.bare
            await bench.register("lt=60", ep="b", address=THERE, mid=2)
            bench.now_ms += 50_000
            assert bare.take(_update("id1", mid=7), HERE)
            assert bare.take(_update("id2", mid=7), THERE)
            leaving = bench.serve(Request(Code.DELETE, ["id2"], [], address=THERE, mid=8))
            bare.flush()
            bare.keep_up()
            await bench.settle()
            assert leaving.answer == (Code.DELETED, [])
            kinds = [(record.kind, record.body.ep) for record in bench.records()[2:]]
            assert kinds == [
                (RegistrationKind.UPDATE, "a"),
                (RegistrationKind.UPDATE, "b"),
                (RegistrationKind.DELETE, "b"),
            ] or kinds.index((RegistrationKind.UPDATE, "b")) < kinds.index((RegistrationKind.DELETE, "b"))
            bare.keep_up()
            return bench.now_ms

    now_ms = asyncio.run(run())
    state = State.open(tmp_path)
    rows = list(state.registrations())
    asyncio.run(state.close())
    assert [(row.ep, row.last_up_ms) for row in rows] == [("a", now_ms)]


PEERS: tuple[UdpAddress, ...] = (("127.0.0.1", 5000), ("127.0.0.1", 5001), ("127.0.0.1", 5002))


@st.composite
def _request(draw: st.DrawFn) -> tuple[bytes, UdpAddress]:
    which = draw(st.integers(0, 2))
    made = build(
        draw(st.sampled_from([Type.CON] * 9 + [Type.NON])),
        Code.POST,
        draw(st.integers(0, 6)),
        draw(st.binary(max_size=8)),
        [
            (int(Option.URI_PATH), b"rd"),
            (int(Option.URI_PATH), draw(st.sampled_from([f"id{which + 1}"] * 9 + ["id9"])).encode()),
            *([(int(Option.URI_QUERY), b"lt=70")] if draw(st.integers(0, 9)) == 0 else []),
        ],
    )
    return made, PEERS[which] if draw(st.integers(0, 9)) else draw(st.sampled_from(PEERS))


class Asked(Request):
    """A request that came as a datagram, noted at the door as the endpoint does."""

    def __init__(self, door: Door, datagram: bytes, address: UdpAddress) -> None:
        super().__init__(Code.POST, [], [], address=address)
        self.message = parse(datagram)
        self.door = door

    def reply(self, code: int, options: object = None, payload: bytes = b"") -> None:
        super().reply(code, [], payload)
        type_ = Type.ACK if self.message.type == Type.CON else Type.NON
        answer = build(type_, code, self.message.mid, self.message.token, [])
        self.door.requests.answer(self.address, self.message.mid, answer)
        self.door.answers.append((self.address, answer))

    def drop(self) -> None:
        super().drop()
        self.door.requests.forget(self.address, self.message.mid)


def _plain(bench: Bench, door: Door, datagram: bytes, address: UdpAddress) -> None:
    try:
        asked = Asked(door, datagram, address)
    except Malformed:
        return
    if not door.is_repeated(address, asked.message.mid, len(datagram)):
        bench.serve(asked)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.lists(_request(), max_size=6), max_size=4))
def test_updates_on_all_ways_leave_the_same_records_answers_and_clocks(
    tmp_path_factory: pytest.TempPathFactory, turns: list[list[tuple[bytes, UdpAddress]]]
) -> None:
    async def run(way: str) -> tuple[object, ...]:
        async with _registered(tmp_path_factory.mktemp(way)) as (bench, door):
            for number, address in enumerate(PEERS[1:]):
                await bench.register("lt=60", ep="bc"[number], address=address, mid=20 + number)
            for turn in turns:
                bench.now_ms += 1_000
                for datagram, address in turn:
                    match way:
                        case "slots":
                            taken = _take_slot(bench, datagram, address)
                        case "datagrams":
                            taken = bench.interface.bare.take(datagram, address)
                        case _:
                            taken = False
                    if not taken:
                        _plain(bench, door, datagram, address)
                bench.interface.bare.flush()
                await bench.settle()
                bench.interface.bare.keep_up()
            records = sorted(bench.uplink.records, key=lambda record: record[2])
            clocks = [(device.ep, device.at, device.last_up, device.lifetime) for device in bench.registry]
            return records, sorted(door.answers, key=repr), clocks, bench.interface.updated

    ordinary = asyncio.run(run("ordinary"))
    assert asyncio.run(run("slots")) == ordinary
    assert asyncio.run(run("datagrams")) == ordinary


def test_the_headers_are_those_by_which_the_next_process_knows_the_request(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _registered(tmp_path) as (bench, _):
            bench.interface.bare.take(_update(mid=0x0102), HERE)
            bench.interface.bare.flush()
            assert bench.uplink.records[-1][4] == [(HEADER_MID, b"\x01\x02"), ("coap.peer", peer_header(HERE))]
            (entry,) = bench.interface.bare.journal.entries()
            assert (entry.mid, entry.peer) == (b"\x01\x02", peer_header(HERE))
            assert (entry.key, entry.value) == bench.uplink.records[-1][2:4]

    asyncio.run(run())
