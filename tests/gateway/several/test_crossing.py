"""What is another process's gets there, and nothing else does; a line that is full loses datagrams and no facts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from gateway.coap.message import Code, Option, Type, build
from gateway.coap.peers import Address, SecurePeer, UdpAddress
from gateway.request_records import RawRequest
from gateway.several.crossing import Crossing
from gateway.several.lines import By, Kind
from gateway.several.owners import owner_of, share
from gateway.several.seat import Seat
from schemas.avro import serde
from schemas.avro.records import Request, RequestKind, RequestPayload

HERE, THERE = ("127.0.0.1", 1000), ("127.0.0.1", 2000)


class Taken:
    """In the place of an endpoint."""

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, UdpAddress]] = []

    def handed(self, datagrams: list[tuple[bytes, UdpAddress]]) -> None:
        self.datagrams += datagrams

    def batch_done(self, received: int) -> None:
        assert received == 0


class Devices:
    """In the place of a registry with devices at addresses and with registration ids, all in the clear."""

    def __init__(self, *found: tuple[str, Address]) -> None:
        self.told: Callable[[str | None, object, bool], None] | None = None
        self.found = [type("Device", (), {"reg_id": reg_id, "address": address})() for reg_id, address in found]

    def __iter__(self) -> Any:
        return iter(self.found)

    def at(self, address: Address) -> object | None:
        return next((one for one in self.found if one.address == address), None)

    def registration(self, reg_id: str) -> object | None:
        return next((one for one in self.found if one.reg_id == reg_id), None)


def pair(buffer: int | None = None) -> tuple[Crossing, Crossing]:
    lines = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for line in lines:
        if buffer is not None:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    seats = [
        Seat(number=n, processes=2, coap=None, coaps=None, lines={1 - n: line.detach()}, parent=-1)
        for n, line in enumerate(lines)
    ]
    return Crossing(seats[0]), Crossing(seats[1])


def begin(crossing: Crossing, devices: Devices) -> Taken:
    taken = Taken()
    crossing.start(asyncio.get_running_loop(), taken, None)  # type: ignore[arg-type]
    crossing.know(devices)  # type: ignore[arg-type]
    return taken


def request(code: int, *path: str, ep: str = "") -> bytes:
    options = [(int(Option.URI_PATH), one.encode()) for one in path]
    return build(Type.CON, code, 1, b"t", [*options, *([(int(Option.URI_QUERY), f"ep={ep}".encode())] if ep else [])])


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def name_of(owner: int) -> str:
    return next(ep for ep in (f"device-{n}" for n in range(100)) if owner_of(ep, 2) == owner)


def test_each_message_goes_to_whom_it_is_for() -> None:
    async def scenario() -> None:
        one, other = pair()
        begin(one, Devices(("mine", HERE)))
        taken = begin(other, Devices(("theirs", THERE)))
        await one.all_heard()
        await other.all_heard()
        notification = build(Type.CON, Code.CONTENT, 5, b"token", [(int(Option.OBSERVE), b"\1")], b"1")
        unknown = ("127.0.0.1", 3000)
        for datagram, address in (
            (notification, HERE),
            (notification, unknown),
            (request(Code.POST, "rd", ep=name_of(0)), THERE),
            (request(Code.POST, "rd", "mine"), THERE),
            (request(Code.POST, "rd", "nobodys"), unknown),
            (request(Code.POST, "dp"), HERE),
            (request(Code.POST, "rd"), unknown),
            (b"\x42\x02\xff", unknown),
            (b"\x48\x02\0\1junk", unknown),
        ):
            assert one.plain(datagram, address) is False
        theirs = [
            (b"", THERE),
            (notification, THERE),
            (request(Code.POST, "rd", ep=name_of(1)), HERE),
            (request(Code.POST, "rd", "theirs"), unknown),
            (request(Code.DELETE, "rd", "theirs"), HERE),
            (request(Code.POST, "dp"), THERE),
        ]
        for datagram, address in theirs:
            assert one.plain(datagram, address)
        await turns()
        assert taken.datagrams == theirs
        for crossing in (one, other):
            crossing.close()

    asyncio.run(scenario())


def test_a_fact_is_known_before_what_follows_from_it_and_ends_with_it() -> None:
    async def scenario() -> None:
        one, other = pair()
        begin(one, Devices())
        begin(other, Devices())
        await one.all_heard()
        ack = build(Type.ACK, Code.EMPTY, 7, b"", [])
        assert not one.plain(ack, THERE)
        other._registry_says("id", THERE, True)
        # No turn of the event loop was needed for it.
        assert one.plain(ack, THERE)
        other._registry_says("id", THERE, False)
        await turns()
        assert not one.plain(ack, THERE)
        # Whoever says last that it is there has it.
        other._registry_says(None, THERE, True)
        await turns()
        one._registry_says(None, THERE, True)
        assert not one.plain(ack, THERE)
        for crossing in (one, other):
            crossing.close()

    asyncio.run(scenario())


def test_a_process_that_begins_anew_is_told_all_and_has_others_forget_what_it_had() -> None:
    async def scenario() -> None:
        one, other = pair()
        begin(one, Devices(("mine", HERE)))
        begin(other, Devices(("old", THERE)))
        await one.all_heard()
        ack = build(Type.ACK, Code.EMPTY, 7, b"", [])
        # The next life of the other, on the same line, without that device.
        other.pause()
        line = other.seat.lines[0]
        again = Crossing(Seat(number=1, processes=2, coap=None, coaps=None, lines={0: line}, parent=-1))
        again.start(asyncio.get_running_loop(), Taken(), None)  # type: ignore[arg-type]
        await again.all_heard()
        assert again.plain(ack, HERE)
        # Until it has told, what it had is still its own: it waits for it.
        assert one.plain(ack, THERE)
        again.know(Devices(("new", ("127.0.0.1", 4000))))  # type: ignore[arg-type]
        await turns()
        assert not one.plain(ack, THERE)
        assert one.plain(ack, ("127.0.0.1", 4000))
        one.close()
        again.pause()

    asyncio.run(scenario())


def test_facts_that_found_a_line_full_are_told_later_and_datagrams_are_counted() -> None:
    async def scenario() -> None:
        one, other = pair(buffer=64 << 10)
        begin(one, Devices())
        begin(other, Devices(("theirs", THERE)))
        await one.all_heard()
        await other.all_heard()
        other.pause()
        for number in range(400):
            one.plain(number.to_bytes(2, "big") * 750, THERE)
        one._flush()
        assert one.dropped["no room on the line"] > 0
        registry = one._registry
        assert registry is not None
        found = [(f"id-{n}", ("127.0.0.1", 5000 + n)) for n in range(900)]
        registry.found = Devices(*found).found  # type: ignore[attr-defined]
        for reg_id, address in found:
            one._registry_says(reg_id, address, True)
        one._flush()
        other.start(asyncio.get_running_loop(), Taken(), None)  # type: ignore[arg-type]
        ack = build(Type.ACK, Code.EMPTY, 7, b"", [])
        async with asyncio.timeout(30):
            while not all(other.plain(ack, address) for _, address in found):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for crossing in (one, other):
            crossing.close()

    asyncio.run(scenario())


def test_whoever_begins_anew_hears_of_more_than_a_line_has_room_for() -> None:
    async def scenario() -> None:
        one, other = pair(buffer=16 << 10)
        found = [(f"id-{n}", (f"10.{n >> 8}.{n & 255}.1", 5000)) for n in range(20_000)]
        begin(one, Devices(*found))
        begin(other, Devices())
        async with asyncio.timeout(60):
            await other.all_heard()
        # What comes meanwhile is not told before what was there.
        ack = build(Type.ACK, Code.EMPTY, 7, b"", [])
        assert all(other.plain(ack, address) for _, address in found)
        for crossing in (one, other):
            crossing.close()

    asyncio.run(scenario())


def test_what_comes_and_goes_while_all_is_told_is_right_in_the_end() -> None:
    async def scenario() -> None:
        one, other = pair(buffer=16 << 10)
        found = [(f"id-{n}", (f"10.{n >> 8}.{n & 255}.1", 5000)) for n in range(5_000)]
        devices = Devices(*found)
        begin(one, devices)
        begin(other, Devices())
        # Nobody has read yet, and the line is full: half of them go, one by one, and others come.
        assert one._telling.owed
        gone, came = found[::2], [(f"new-{n}", (f"11.{n >> 8}.{n & 255}.1", 5000)) for n in range(60_000)]
        for reg_id, address in gone:
            one._registry_says(reg_id, address, False)
        for reg_id, address in came:
            one._registry_says(reg_id, address, True)
        devices.found = Devices(*found[1::2], *came).found
        # What waits is bounded: beyond that all is told afresh.
        assert len(one._telling.owed[1].packets) <= one._telling.owed[1].most
        async with asyncio.timeout(60):
            while one._telling.owed or other._elsewhere.renewed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for _, address in (*found[1::2], *came):
            assert other.plain(b"", address)
        for _, address in gone:
            assert not other.plain(b"", address)
        for crossing in (one, other):
            crossing.close()

    asyncio.run(scenario())


def test_a_process_that_finds_a_line_full_asks_again() -> None:
    async def scenario() -> None:
        one, other = pair(buffer=16 << 10)
        begin(one, Devices())
        begin(other, Devices(("theirs", THERE)))
        await one.all_heard()
        # What this life has to say and nobody has read yet.
        while one._lines.send(1, Kind.PLAIN, [(bytes(1000), HERE)]):
            pass
        while one._lines.send(1, Kind.PLAIN, []):
            pass
        one.pause()
        again = Crossing(Seat(number=0, processes=2, coap=None, coaps=None, lines={1: one.seat.lines[1]}, parent=-1))
        begin(again, Devices())
        async with asyncio.timeout(60):
            await again.all_heard()
        assert again.plain(b"", THERE)
        again.pause()
        other.close()

    asyncio.run(scenario())


def test_the_end_of_what_a_process_before_was_told_is_not_taken_for_all() -> None:
    async def scenario() -> None:
        one, other = pair()
        other._lines.send(0, Kind.FACTS, [(int(By.ADDRESS), ("127.0.0.1", 4000), True)])
        other._lines.send(0, Kind.WHOLE, None)
        begin(one, Devices())
        await turns()
        assert one.waits_for == "process 1 of the gateway is not there yet"
        begin(other, Devices(("theirs", THERE)))
        async with asyncio.timeout(60):
            await one.all_heard()
        assert one.plain(b"", THERE)
        assert not one.plain(b"", ("127.0.0.1", 4000))
        for crossing in (one, other):
            crossing.close()

    asyncio.run(scenario())


def test_an_address_is_its_who_registered_there_last() -> None:
    async def scenario() -> None:
        one, other = pair()
        begin(one, Devices(("mine", THERE)))
        begin(other, Devices())
        await one.all_heard()
        send, ack = request(Code.POST, "dp"), build(Type.ACK, Code.EMPTY, 7, b"", [])
        assert not one.plain(send, THERE) and not one.plain(ack, THERE)
        # A NAT has given the address to a device of the other, and the one that had it has not been heard since.
        other._registry_says("theirs", THERE, True)
        await turns()
        assert one.plain(send, THERE) and one.plain(ack, THERE)
        other._registry_says("theirs", THERE, False)
        await turns()
        assert not one.plain(send, THERE) and not one.plain(ack, THERE)
        for crossing in (one, other):
            crossing.close()

    asyncio.run(scenario())


def test_a_file_is_fetched_where_it_is_and_takes_nobodys_session_away() -> None:
    async def scenario() -> None:
        one, other = pair()
        peer, stranger = SecurePeer("press", HERE), SecurePeer("pump", HERE)
        begin(one, Devices(("mine", peer)))
        begin(other, Devices())
        await one.all_heard()
        fetched, anywhere = request(Code.GET, "files", "ab" * 32), ("127.0.0.1", 4000)
        other.say_file("ab" * 32, True)
        await turns()
        assert one.plain(fetched, anywhere)
        assert one.of_message(fetched, stranger) == 1
        # Who is registered stays, whoever else has the file: what it is heard of is known here alone.
        assert one.of_message(fetched, peer) is None
        one.say_file("ab" * 32, True)
        other.say_file("cd" * 32, True)
        await turns()
        for crossing in (one, other):
            assert not crossing.plain(fetched, anywhere)
            crossing.close()

    asyncio.run(scenario())


def test_exactly_one_process_takes_each_request() -> None:
    takes = [share(number, 3) for number in range(3)]
    payload = RequestPayload(kind=RequestKind.READ, path="/3/0/0")
    for offset in range(60):
        whole = serde.encode(Request(server_id="gw", ep=f"device-{offset}", ticket="t", payload=payload))
        for value in (whole, whole[:7], b"", None, b"\0\0\0\0\1\xff\xff\xff\xff\xff\xff"):
            raw = RawRequest(topic="t", topic_id="i", partition=0, offset=offset, timestamp=1, key=None, value=value)
            assert sum(is_mine(raw) for is_mine in takes) == 1
            if value is whole:
                assert takes[owner_of(f"device-{offset}", 3)](raw)
