"""The short path of reads: the same requests, replies, headers and state as on the ordinary way, byte for byte."""

from __future__ import annotations

import asyncio
import gc
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, cast

import cbor2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from connectors.kafka import Cluster
from gateway import parts as parts_module
from gateway.admission import Admission
from gateway.answering import HEADER_AGAIN, HEADER_NOT_SENT, HEADER_REQUEST_ID, Said
from gateway.coap import exchanges as exchanges_module
from gateway.coap.endpoint import Endpoint
from gateway.coap.exchanges import Exchange
from gateway.coap.incoming import Busy
from gateway.coap.message import Code, Message, Option, Options, Type, build, empty, parse, uint
from gateway.command import Command
from gateway.device_forms import kafka_place, restored
from gateway.journal import Journal
from gateway.models import LiveDefinitions
from gateway.parts import Parts
from gateway.reply_batches import ReplyBatches
from gateway.request_records import RawRequest
from gateway.settings import GatewaySettings
from gateway.short_reads import Read
from gateway.state import State, StoredRegistration
from gateway.uplink import Uplink
from gateway.wanted import Declared
from schemas.avro import serde
from schemas.avro.records import (
    ExecuteRequest,
    GenericBody,
    ReadBody,
    Request,
    RequestFormat,
    RequestKind,
    RequestPayload,
    Response,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from tests.memory_uplink import MemoryUplink

NOW = 1_700_000_000_000
WAIT = 60.0
LINKS = '</>;rt="oma.lwm2m";ct="0 110 112 11542",</1/0>,</3/0>,</3303/0>'


class Kafka(MemoryUplink):
    """Reports when the test says so."""

    lives = 1

    def poll(self) -> None:
        return None


#: What a device sends for a request, in this order.
Script = Callable[[Message], list[bytes]]


@dataclass
class Device:
    """A device in this process, which answers by its script."""

    ep: str
    script: Script
    queue: bool = False
    socket: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    got: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)

    def answer(self) -> None:
        datagram, gateway = self.socket.recvfrom(2048)
        message = parse(datagram)
        self.got.append(message)
        if message.is_request:
            for one in self.script(message):
                self.socket.sendto(one, gateway)


class World:
    """The parts of a gateway on a real socket and a real state file."""

    def __init__(self, folder: FilePath, *, short: bool, timeout: float) -> None:
        self.folder = folder
        self.uplink = Kafka()
        self.state = State.open(folder)
        self.journal = Journal(folder)
        self.endpoint = Endpoint(("127.0.0.1", 0), Busy(), seed=7)
        self.definitions = LiveDefinitions(Definitions.builtin())
        self.tasks: set[asyncio.Task[None]] = set()
        self.parts = Parts(
            GatewaySettings(gateway="gw", kafka=Cluster(bootstrap="none"), state=folder, command_timeout=timeout),
            self.definitions,
            Declared((), {}),
            self.state,
            self.journal,
            self.endpoint,
            cast(Uplink, self.uplink),
            lambda work: self.tasks.add(asyncio.get_running_loop().create_task(work)),
            Admission(None),
        )
        self.loop = self.parts.commands.loop
        self.short = self.loop.short_reads
        assert self.short is not None
        if not short:
            self.loop.short_reads = None
        self.parts.restore(self.state.load())
        self.loop.start()
        self.endpoint.serve(self.parts)
        self.endpoint.start(asyncio.get_running_loop())
        self.devices: list[Device] = []
        self.offset = 0

    def add(self, device: Device, *, version: str = "1.1") -> Device:
        self.devices.append(device)
        asyncio.get_running_loop().add_reader(device.socket.fileno(), device.answer)
        host, port = device.socket.getsockname()
        self.parts.registry.add(
            restored(
                StoredRegistration(
                    ep=device.ep,
                    reg_id=f"id-{device.ep}",
                    address=host,
                    port=port,
                    lifetime=0,
                    version=version,
                    binding="UQ" if device.queue else "U",
                    sms=None,
                    root="/",
                    links_text=LINKS.encode(),
                    attributes="{}",
                    queue=device.queue,
                    reg_date_ms=NOW,
                    last_up_ms=NOW,
                ),
                cast(Uplink, self.uplink),
            )
        )
        return device

    def take(self, *values: bytes) -> asyncio.Event:
        batch = []
        for value in values:
            batch.append(RawRequest("t", "id", self.offset % 3, self.offset, NOW + self.offset, b"k", value))
            self.offset += 1
        room = asyncio.Event()
        self.loop.take(batch, room.set)
        return room

    @property
    def replies(self) -> list[tuple[int, bytes, bytes, list[tuple[str, bytes]]]]:
        topic = self.uplink.topics.replies
        return [
            (partition, key, value, headers)
            for to, partition, key, value, headers in self.uplink.records
            if to == topic
        ]

    def said(self, ep: str) -> list[Response]:
        decoded = [serde.decode(value) for _, _, value, _ in self.replies]
        return [one for one in decoded if isinstance(one, Response) and one.ep == ep]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():  # noqa: ASYNC110  # it is in sockets and threads
                await asyncio.sleep(0.001)

    async def settled(self, room: asyncio.Event | None = None) -> None:
        """Kafka has all, and so has the state; there is ``room`` for more."""

        def is_settled() -> bool:
            self.uplink.report()
            self.state.on_durable(lambda _: None)  # not a second later
            has_room = room is None or room.is_set()
            return has_room and not self.loop.unanswered and not self.loop._replied

        await self.until(is_settled)
        await self.state.durable()

    async def answers(self) -> dict[bytes, tuple[int, bytes]]:
        """What the state file has of what was answered."""
        identities = sorted({dict(headers)[HEADER_REQUEST_ID][:16] for _, _, _, headers in self.replies})
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.state.find_answers(identities, found.set_result)
        return {identity: (one.occurrence, one.reply) for identity, one in (await found).items()}


@asynccontextmanager
async def world(*, short: bool = True, timeout: float = 60.0) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "wall_ms", lambda: NOW)
        one = World(FilePath(folder) / "state", short=short, timeout=timeout)
        try:
            yield one
        finally:
            for device in one.devices:
                asyncio.get_running_loop().remove_reader(device.socket.fileno())
                device.socket.close()
            await one.loop.stop(timeout=0)
            one.endpoint.close()
            await one.state.close()
            one.journal.close()
            one.parts.files.stop()


def read(ep: str, path: str = "/3/0/0", ticket: str = "t", **more: Any) -> Request:
    content_format = more.pop("content_format", RequestFormat.TEXT_CODE)
    payload = RequestPayload(kind=RequestKind.READ, path=path, content_format=content_format)
    return Request(server_id="gw", ep=ep, ticket=ticket, payload=payload, **more)


def says(payload: bytes, *options: tuple[int, bytes], code: int = Code.CONTENT) -> Script:
    return lambda asked: [build(Type.ACK, code, asked.mid, asked.token, list(options), payload)]


FORMAT = int(Option.CONTENT_FORMAT)


def _reset(asked: Message) -> list[bytes]:
    return [empty(Type.RST, asked.mid)]


def _separate(asked: Message) -> list[bytes]:
    return [empty(Type.ACK, asked.mid), build(Type.CON, Code.CONTENT, 4711, asked.token, [], b"late")]


def _confirmable_at_once(asked: Message) -> list[bytes]:
    return [build(Type.CON, Code.CONTENT, 4712, asked.token, [], b"con")]


def _non(asked: Message) -> list[bytes]:
    return [build(Type.NON, Code.CONTENT, 4713, asked.token, [], b"non")]


def _twice(asked: Message) -> list[bytes]:
    return says(b"one")(asked) + says(b"two")(asked)


def _wrong_mid_first(asked: Message) -> list[bytes]:
    return says(b"no")(replace(asked, mid=asked.mid ^ 1)) + says(b"yes")(asked)


def _wrong_token_first(asked: Message) -> list[bytes]:
    return says(b"no")(replace(asked, token=b"12345678")) + says(b"yes")(asked)


def _malformed_first(asked: Message) -> list[bytes]:
    whole = says(b"yes", (FORMAT, b""))(asked)[0]
    return [whole[:11], whole[:12] + b"\xcf", whole[:12] + b"\xff" + bytes(3000), whole]


def _in_blocks(asked: Message) -> list[bytes]:
    block = asked.block(Option.BLOCK2)
    number = 0 if block is None else block.number
    part = bytes([65 + number]) * (64 if number < 2 else 5)
    said: Options = [(FORMAT, b""), (int(Option.BLOCK2), uint(number << 4 | (number < 2) << 3 | 2))]
    return [build(Type.ACK, Code.CONTENT, asked.mid, asked.token, said, part)]


SCRIPTS: dict[str, Script] = {
    "text": says(b"Acme"),
    "text with its format": says(b"Acme", (FORMAT, b"")),
    "format in two bytes": says(b"Acme", (FORMAT, b"\x00\x00")),
    "number": says(b"21.5"),
    "whole number": says(b"42", (FORMAT, b"")),
    "UTF-8": says("Größe".encode()),
    "no UTF-8": says(b"\xff\xfe"),
    "nothing": says(b""),
    "nothing behind the marker": lambda asked: [says(b"")(asked)[0] + b"\xff"],
    "nothing behind the format": says(b"", (FORMAT, b"")),
    "large": says(b"x" * 100),
    "larger": says(b"x" * 1000),
    "TLV text": says(b"\xc4\x00Acme", (FORMAT, uint(11542))),
    "TLV double": says(b"\xe8\x16\x44\x08" + bytes.fromhex("4035800000000000"), (FORMAT, uint(11542))),
    "TLV not a number": says(b"\xe8\x16\x44\x08" + bytes.fromhex("7ff8000000000000"), (FORMAT, uint(11542))),
    "CBOR": says(cbor2.dumps([{-2: "/3/0/", 0: "0", 3: "Acme"}]), (FORMAT, uint(112))),
    "CBOR with a time": says(cbor2.dumps([{-2: "/3/0/", -3: 1.7e9, 0: "0", 3: "Acme"}]), (FORMAT, uint(112))),
    "CBOR with a relative time": says(cbor2.dumps([{-2: "/3/0/", 0: "0", 3: "Acme", 6: -5}]), (FORMAT, uint(112))),
    "CBOR of another": says(cbor2.dumps([{-2: "/3/0/", 0: "1", 3: "Acme"}]), (FORMAT, uint(112))),
    "JSON": says(b'[{"bn":"/3303/0/","n":"5700","v":21.5}]', (FORMAT, uint(110))),
    "unknown format": says(b"Acme", (FORMAT, uint(50))),
    "more options": says(b"Acme", (int(Option.ETAG), b"e"), (FORMAT, b""), (int(Option.MAX_AGE), b"\x05")),
    "observed": says(b"Acme", (int(Option.OBSERVE), b"\x05")),
    "critical option": says(b"Acme", (9, b"")),
    "not found": says(b"no such thing", code=Code.NOT_FOUND),
    "changed": says(b"", code=Code.CHANGED),
    "unavailable": says(b"", (int(Option.MAX_AGE), b"\x05"), code=Code.SERVICE_UNAVAILABLE),
    "reset": _reset,
    "separate": _separate,
    "confirmable": _confirmable_at_once,
    "non": _non,
    "twice": _twice,
    "wrong mid first": _wrong_mid_first,
    "wrong token first": _wrong_token_first,
    "malformed first": _malformed_first,
    "in blocks": _in_blocks,
}

#: "critical option" alone is answered by nothing that ends the exchange.
_ENDS = [name for name in SCRIPTS if name != "critical option"]
_PATHS = [
    "/3/0/0",
    "/3/0/9",
    "/3/0/13",
    "/3303/0/5700",
    "/3303/0/5701",
    "/3/0/6",
    "/3/0/6/1",
    "/3/0",
    "/9999/0/1",
    "/x",
]
_FORMATS = [RequestFormat.TEXT_CODE, RequestFormat.TLV, RequestFormat.SENML_CBOR, RequestFormat.LINK_CODE]


@st.composite
def _asked(draw: st.DrawFn) -> tuple[Request | bytes, str]:
    """A request and how its device answers."""
    ep = draw(st.sampled_from(["a", "b", "lamp-é", "e" * 63, "e" * 64, "sleeper", "nobody"]))
    path = draw(st.sampled_from(_PATHS[:4] * 4 + _PATHS))
    one = read(ep, path, draw(st.sampled_from(["t1", "t2", "t-ü", "", "t" * 70])))
    one = replace(one, server_id=draw(st.sampled_from(["gw", "gw", "", "any-ö", "s" * 80])))
    chosen = draw(st.sampled_from(_FORMATS[:1] * 4 + _FORMATS))
    one = replace(one, payload=replace(one.payload, content_format=chosen))
    match draw(st.integers(0, 19)):
        case 0:
            one = replace(one, expires=NOW + 60_000)
        case 1:
            one = replace(one, expires=NOW - 1)
        case 2:
            execute = RequestPayload(kind=RequestKind.EXECUTE, path="/3/0/4", body=ExecuteRequest(parameters=""))
            one = replace(one, payload=execute)
        case 3:
            value = serde.encode(one)
            return value[: draw(st.integers(0, len(value)))] + draw(st.binary(max_size=3)), "text"
        case _:
            pass
    return one, draw(st.sampled_from(_ENDS))


async def _comparable(one: World) -> dict[str, Any]:
    """What may not depend on the way: all of one device in order."""
    by_key: dict[bytes, list[Any]] = {}
    refused: list[Any] = []
    again: list[Any] = []
    answers = await one.answers()
    for partition, key, value, headers in one.replies:
        named = dict(headers)
        # What is not sent waits for nothing, and an answer that is known for no device.
        said = again if HEADER_AGAIN in named else refused if HEADER_NOT_SENT in named else by_key.setdefault(key, [])
        said.append((partition, value, headers))
    asked = {device.ep: [(m.type, m.code, m.options, m.payload) for m in device.got] for device in one.devices}
    return {
        "replies": by_key,
        "refused": sorted(refused),
        "again": sorted(again),
        "asked": asked,
        "answers": answers,
        "outcomes": dict(one.loop.answering.outcomes),
        "dropped": +Counter(one.endpoint.dropped_datagrams),
        "counts": (
            one.loop.received,
            one.loop.repeated,
            one.loop.undecodable,
            one.loop.answering.replied,
            one.loop.answering.publishing,
            one.loop.lanes.in_flight,
            one.loop.lanes.sent,
            len(one.endpoint.client.exchanges),
        ),
        "letters": [(key, value) for to, _, key, value, _ in one.uplink.records if to == one.uplink.topics.deadletter],
    }


async def _lived(
    batches: list[list[tuple[Request | bytes, str]]], devices: Sequence[str], *, short: bool
) -> tuple[dict[str, Any], int]:
    """What came of it, and how many went the short way."""
    scripts: dict[str, str] = {}
    async with world(short=short) as one:
        for ep in devices:

            def answer(asked: Message, ep: str = ep) -> list[bytes]:
                # The later blocks of a response belong to its first.
                if asked.block(Option.BLOCK2) is not None:
                    return _in_blocks(asked)
                return SCRIPTS[scripts[ep]](asked)

            one.add(Device(ep, answer, queue=ep == "sleeper"))
        sleeper = one.parts.registry.device("sleeper")
        if sleeper is not None:
            one.parts._heard(sleeper)
        for batch in batches:
            for asked, script in batch:
                if isinstance(asked, Request):
                    scripts[asked.ep] = script
            values = [serde.encode(one) if isinstance(one, Request) else one for one, _ in batch]
            room = one.take(*values)
            await one.settled(room)
        assert one.short is not None
        return await _comparable(one), one.short.taken


_DEVICES = ("a", "b", "lamp-é", "e" * 63, "e" * 64, "sleeper")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(_asked(), min_size=1, max_size=6), min_size=1, max_size=4))
@example([[(read("a"), "text")], [(read("a"), "text")]])
@example([[(read("a"), "text"), (read("a"), "text"), (read("a", ticket="2"), "text"), (read("b"), "text")]])
@example([[(read("a", path="/3/0"), "text"), (read("a", ticket="2"), "text")]])
def test_both_ways_are_one(batches: list[list[tuple[Request | bytes, str]]]) -> None:
    plain, _ = asyncio.run(_lived(batches, _DEVICES, short=False))
    short, _ = asyncio.run(_lived(batches, _DEVICES, short=True))
    assert short == plain


@pytest.mark.parametrize("path", _PATHS[:5])
def test_every_answer_has_the_same_reply_on_both_ways(path: str) -> None:
    batch: list[tuple[Request | bytes, str]] = [(read(script, path), script) for script in _ENDS]
    plain, none = asyncio.run(_lived([batch], _ENDS, short=False))
    short, taken = asyncio.run(_lived([batch], _ENDS, short=True))
    assert short == plain
    assert sum(map(len, short["replies"].values())) == len(_ENDS)
    assert not none and taken


def test_a_device_has_one_request_at_a_time_in_the_order_of_the_topic() -> None:
    async def scenario() -> None:
        async with world() as one:
            device = one.add(Device("a", lambda asked: []))
            other = one.add(Device("b", says(b"b")))
            execute = RequestPayload(kind=RequestKind.EXECUTE, path="/3/0/4", body=ExecuteRequest(parameters=""))
            asked = [
                read("a", ticket="1"),
                replace(read("a", ticket="2"), payload=execute),
                read("a", ticket="3"),
                read("b"),
            ]
            one.take(*map(serde.encode, asked))
            one.take(serde.encode(read("a", "/3/0/1", ticket="4")))
            await one.until(lambda: device.got and one.said("b"))
            for number, code in enumerate((Code.GET, Code.POST, Code.GET, Code.GET), 1):
                await one.until(lambda number=number: len(device.got) == number)  # type: ignore[misc]
                assert device.got[-1].code == code
                assert [reply.ticket for reply in one.said("a")] == [str(done) for done in range(1, number)]
                answer = says(b"x", code=Code.CONTENT if code == Code.GET else Code.CHANGED)(device.got[-1])[0]
                device.socket.sendto(answer, one.endpoint.lines.local_address)
            await one.settled()
            assert [reply.ticket for reply in one.said("a")] == ["1", "2", "3", "4"]
            assert len(other.got) == 1
            assert one.short is not None and one.short.taken == 2

    asyncio.run(scenario())


def test_what_is_not_answered_is_sent_again_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges_module, "ACK_TIMEOUT", 0.02)

    async def scenario() -> None:
        async with world(timeout=0.5) as one:
            silent = one.add(Device("silent", lambda asked: []))
            slow: Device = one.add(Device("slow", lambda asked: says(b"x")(asked) if len(slow.got) > 1 else []))
            one.take(serde.encode(read("silent")), serde.encode(read("slow")))
            await one.settled()
            assert len(silent.got) > 2 and len({asked.encode() for asked in silent.got}) == 1
            assert slow.got[0] == slow.got[1]
            [given_up], [late] = one.said("silent"), one.said("slow")
            assert isinstance(given_up.rep.body, GenericBody) and "no answer within 0.5 s" in given_up.rep.body.message
            assert isinstance(late.rep.body, ReadBody)
            # What comes later is no answer to anything.
            silent.socket.sendto(says(b"late")(silent.got[0])[0], one.endpoint.lines.local_address)
            await one.until(lambda: one.endpoint.dropped_datagrams["response to nothing"])
            assert not one.endpoint.client.exchanges and len(one.said("silent")) == 1

    asyncio.run(scenario())


def test_device_that_moves_is_asked_at_its_new_address() -> None:
    async def scenario() -> None:
        async with world() as one:
            device = one.add(Device("a", lambda asked: []))
            one.take(serde.encode(read("a")))
            await one.until(lambda: device.got)
            registered = one.parts.registry.device("a")
            assert registered is not None
            there = Device("a", says(b"there"))
            asyncio.get_running_loop().add_reader(there.socket.fileno(), there.answer)
            one.devices.append(there)
            before = registered.address
            one.parts.registry.move(registered, there.socket.getsockname())
            one.endpoint.client.abandon(before)
            await one.settled()
            assert len(there.got) == 1 and len(one.said("a")) == 1
            one.take(serde.encode(read("a", ticket="again")))
            await one.settled()
            assert len(there.got) == 2 and len(device.got) == 1

    asyncio.run(scenario())


def test_models_that_change_are_those_of_the_next_read() -> None:
    async def scenario() -> None:
        async with world() as one:
            one.add(Device("a", says(b"42")))
            for turn, resource_type in enumerate((ResourceType.INTEGER, ResourceType.FLOAT)):
                others = []
                for known in Definitions.builtin():
                    if known.id == 3:
                        manufacturer = replace(known.resources[0], type=resource_type)
                        known = replace(known, resources={**known.resources, 0: manufacturer})
                    others.append(known)
                one.definitions.take_up(Definitions(others))
                one.take(serde.encode(read("a", ticket=str(turn))))
                await one.settled()
                body = one.said("a")[-1].rep.body
                assert isinstance(body, ReadBody) and isinstance(body.content, Resource)
                assert body.content.type is resource_type
            assert one.short is not None and one.short.taken == 2

    asyncio.run(scenario())


def test_reads_that_devices_have_at_the_end_are_asked_again_by_the_next_process() -> None:
    async def scenario() -> None:
        async with world() as one:
            device = one.add(Device("a", lambda asked: []))
            one.take(serde.encode(read("a")))
            await one.until(lambda: device.got)
            await one.loop.stop(timeout=0.01)
            one.endpoint.close()
            assert one.replies == [] and not one.loop.answering.outcomes["done"]
            assert [row.ticket for row in one.state.commands()] == ["t"]

    asyncio.run(scenario())


def _alike(one: World, count: int) -> list[str]:
    """Endpoints whose replies go to one partition."""
    by_partition: dict[int, list[str]] = {}
    for number in range(100):
        ep = f"ep{number}"
        found = by_partition.setdefault(kafka_place(ep, cast(Uplink, one.uplink)).replies, [])
        found.append(ep)
        if len(found) == count:
            return found
    raise AssertionError("no partition has so many")


@pytest.mark.parametrize("room", [0, 1, 2])
def test_replies_that_kafka_does_not_take_are_tried_again(room: int) -> None:
    async def scenario() -> None:
        async with world() as one:
            eps = _alike(one, 3)
            for ep in eps:
                one.add(Device(ep, says(b"x")))
            one.uplink.room = room
            one.take(*(serde.encode(read(ep)) for ep in eps))
            await one.until(lambda: one.short and one.short.taken == 3 and len(one.replies) == room)
            # They came by several calls perhaps; whoever has no report has none for those before either.
            assert one.loop.unanswered == 3
            one.uplink.room = 1 << 30
            await one.settled()
            assert sorted(serde.decode(value).ep for _, _, value, _ in one.replies) == sorted(eps)  # type: ignore[union-attr]
            assert one.loop.answering.publishing == 0

    asyncio.run(scenario())


def test_replies_that_did_not_become_durable_are_written_again() -> None:
    async def scenario() -> None:
        async with world() as one:
            eps = _alike(one, 3)
            for ep in eps:
                one.add(Device(ep, says(b"x")))
            one.take(*(serde.encode(read(ep)) for ep in eps))
            await one.until(lambda: len(one.replies) == 3)
            one.uplink.report(False)
            assert one.loop.unanswered == 3 and one.loop.answering.unpublished == 3
            # One of them was found in the topic.
            headers = dict(one.replies[0][3])
            one.parts.commands.mark_answered(headers[HEADER_REQUEST_ID], Said(reply=one.replies[0][2], sent=True))
            await one.settled()
            assert len(one.replies) == 5
            assert len(await one.answers()) == 3

    asyncio.run(scenario())


def test_replies_of_which_nobody_told_are_written_again_by_a_new_producer() -> None:
    async def scenario() -> None:
        async with world() as one:
            eps = _alike(one, 3)
            batches = ReplyBatches(cast(Uplink, one.uplink), one.loop.answering, retry=0.05)
            for ep in eps:
                one.add(Device(ep, says(b"x")))
            assert one.short is not None
            one.short._replies = batches
            one.uplink.room = 2
            one.short._patience = 60.0
            one.take(*(serde.encode(read(ep)) for ep in eps))
            # All three by one flush, of which two are taken.
            batches.flush = lambda expected: None  # type: ignore[method-assign]
            await one.until(lambda: one.short and one.short.taken == 3)
            del batches.flush
            batches.flush(0)
            assert len(one.replies) == 2 and one.uplink.reports == []
            one.uplink.lives += 1
            one.uplink.room = 1 << 30
            await one.settled()
            assert len(one.replies) == 5
            assert len(await one.answers()) == 3

    asyncio.run(scenario())


def test_address_of_another_family_is_for_the_ordinary_way() -> None:
    async def scenario() -> None:
        async with world(timeout=0.2) as one:
            one.add(Device("a", says(b"x")))
            registered = one.parts.registry.device("a")
            assert registered is not None
            one.parts.registry.move(registered, ("::1", 5683, 0, 0))
            one.take(serde.encode(read("a")))
            await one.settled()
            assert len(one.said("a")) == 1
            assert one.short is not None and not one.short.taken

    asyncio.run(scenario())


def _of_reads() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, Read | Exchange | Command)]


def test_nothing_of_a_read_is_left_to_the_collector() -> None:
    async def scenario() -> None:
        async with world(timeout=0.2) as one:
            one.add(Device("a", says(b"x")))
            one.add(Device("silent", lambda asked: []))
            gc.collect()
            # Other tests may have left some for good.
            before = _of_reads()
            gc.disable()
            try:
                one.take(serde.encode(read("a")), serde.encode(read("silent")))
                await one.settled()
                left = _of_reads()
                assert [some for some in left if not any(some is known for known in before)] == []
            finally:
                gc.enable()

    asyncio.run(scenario())
