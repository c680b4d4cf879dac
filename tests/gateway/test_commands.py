"""The command loop on the real state file, with devices and Kafka in the same process."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath

import pytest

from gateway import progress, state, state_rows
from gateway.answering import HEADER_REQUEST_ID, Done, Headers
from gateway.command_loop import CommandLoop
from gateway.commands import DeviceGone, DeviceSentReset, DeviceTimeout, Limits
from gateway.exchange import CoapRequest, CoapResponse, DeviceView, Method
from gateway.intake import RawRequest, identity_of, occurrence_of
from gateway.state import CommandState, State
from schemas.avro import serde
from schemas.avro.records import (
    ExecuteRequest,
    GenericBody,
    ReadBody,
    Request,
    RequestBody,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
    ResponsePayload,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

NOW = 1_700_000_000_000
WAIT = 10.0


@dataclass
class Device:
    """A device in this process. Requests wait while ``gate`` is closed."""

    queue: bool = False
    awake: bool = True
    answers: list[CoapResponse | Exception] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    got: list[CoapRequest] = field(default_factory=list)
    at_once: int = 0

    async def ask(self, request: CoapRequest) -> CoapResponse:
        self.got.append(request)
        self.at_once += 1
        assert self.at_once == 1, "NSTART is 1"
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        answer = self.answers.pop(0) if self.answers else _answer_of(request)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _answer_of(request: CoapRequest) -> CoapResponse:
    match request.method:
        case Method.GET:
            return CoapResponse(code=0x45, content_format=0, payload=b"21.5")
        case _:
            return CoapResponse(code=0x44)


class Link:
    """A `DeviceLink` to devices of this process."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.calls: list[tuple[str, str]] = []

    def add(self, ep: str, *, queue: bool = False, awake: bool = True, open_gate: bool = True) -> Device:
        device = self.devices[ep] = Device(queue=queue, awake=awake)
        if open_gate:
            device.gate.set()
        return device

    def view(self, ep: str) -> DeviceView | None:
        return DeviceView(ep=ep, version="1.1") if ep in self.devices else None

    def queue_mode(self, ep: str) -> bool:
        return self.devices[ep].queue

    def awake(self, ep: str) -> bool:
        return self.devices[ep].awake

    async def request(self, ep: str, request: CoapRequest, timeout: float) -> CoapResponse:
        self.calls.append(("request", ep))
        return await self._ask(ep, request)

    async def observe(self, ep: str, path: Path, ticket: str, request: CoapRequest, timeout: float) -> CoapResponse:
        self.calls.append(("observe", f"{ep}{path} {ticket}"))
        return await self._ask(ep, request)

    async def cancel(self, ep: str, path: Path, request: CoapRequest, timeout: float) -> CoapResponse:
        self.calls.append(("cancel", f"{ep}{path}"))
        return await self._ask(ep, request)

    async def _ask(self, ep: str, request: CoapRequest) -> CoapResponse:
        if ep not in self.devices:
            raise DeviceGone(ep)
        return await self.devices[ep].ask(request)


class Bench:
    """A command loop with its surroundings, and a requests topic that is filled by hand."""

    def __init__(self, state: State, limits: Limits) -> None:
        self.now = NOW
        self.link = Link()
        self.state = state
        self.replies: list[Response] = []
        self.request_ids: list[bytes] = []
        self.letters: list[tuple[RawRequest, str]] = []
        self.kafka_takes = True
        self.kafka_keeps = True
        #: What of the requests topic is done with.
        self.passed: dict[int, int] = {}
        self._changed = asyncio.Event()
        self.topic: list[RawRequest] = []
        self.loop = CommandLoop(
            server_id="gw",
            state=state,
            link=self.link,
            definitions=Definitions.builtin(),
            publish=self._publish,
            bury=self._bury,
            passed=self.passed.update,
            now_ms=lambda: self.now,
            limits=limits,
        )

    def _publish(self, ep: str, value: bytes, headers: Headers, done: Done) -> bool:
        if not self.kafka_takes:
            return False
        if self.kafka_keeps:
            reply = serde.decode(value)
            assert isinstance(reply, Response)
            assert reply.ep == ep
            self.replies.append(reply)
            self.request_ids.append(dict(headers)[HEADER_REQUEST_ID])
        asyncio.get_running_loop().call_soon(done, self.kafka_keeps)
        asyncio.get_running_loop().call_soon(self._changed.set)
        return True

    def _bury(self, raw: RawRequest, error: str, done: Done) -> bool:
        if not self.kafka_takes:
            return False
        self.letters.append((raw, error))
        asyncio.get_running_loop().call_soon(done, True)
        return True

    async def send(self, *requests: Request | bytes | None) -> None:
        """Put records on the topic and wait until there is room for more."""
        await self.read(*(self.record(one) for one in requests))

    async def read(self, *records: RawRequest) -> None:
        room = asyncio.Event()
        self.loop.take(list(records), room.set)
        await asyncio.wait_for(room.wait(), WAIT)

    def record(self, one: Request | bytes | None) -> RawRequest:
        value = serde.encode(one) if isinstance(one, Request) else one
        raw = RawRequest(topic="t", partition=0, offset=len(self.topic), timestamp=NOW, key=None, value=value)
        self.topic.append(raw)
        return raw

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT):
            while not condition():
                self._changed.clear()
                try:
                    async with asyncio.timeout(0.01):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def answered(self, count: int) -> list[Response]:
        """The replies, when there are ``count`` of them and the state knows."""
        await self.until(lambda: len(self.replies) >= count and not self.loop.answering.publishing)
        await self.state.durable()
        assert len(self.replies) == count
        return self.replies


def request_id(raw: RawRequest) -> bytes:
    """What the reply to a record is marked with."""
    assert raw.value is not None
    asked = serde.decode(raw.value)
    assert isinstance(asked, Request)
    return identity_of(raw.value, asked) + occurrence_of(raw).to_bytes(8, "big")


def copy_as_after_a_kill(directory: FilePath, to: FilePath) -> None:
    """The state file as it is on the disk at this moment."""
    to.mkdir(mode=0o700)
    for file in directory.glob("gateway.db*"):
        shutil.copy(file, to)


@asynccontextmanager
async def bench(directory: FilePath, limits: Limits | None = None) -> AsyncIterator[Bench]:
    opened = State.open(directory)
    one = Bench(opened, limits or Limits(answer=5.0, retry=0.01))
    one.loop.restore(opened.load())
    try:
        yield one
    finally:
        await one.loop.stop(timeout=0)
        await opened.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(bounded())


def request(
    ticket: str,
    kind: RequestKind = RequestKind.READ,
    path: str = "/3303/0/5700",
    *,
    ep: str = "lamp",
    body: RequestBody | None = None,
    expires: int | None = None,
) -> Request:
    return Request(
        server_id="any",
        ep=ep,
        ticket=ticket,
        payload=RequestPayload(kind=kind, path=path, body=body),
        expires=expires,
    )


EXECUTE = request("reboot", RequestKind.EXECUTE, "/3/0/4", body=ExecuteRequest(parameters=""))


def words(reply: Response) -> str:
    assert isinstance(reply.rep.body, GenericBody)
    return reply.rep.body.message


def test_request_is_carried_out_and_answered_with_its_ticket(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(request("t1"))
            [reply] = await b.answered(1)
            assert (reply.ticket, reply.ep, reply.server_id, reply.path) == ("t1", "lamp", "gw", "/3303/0/5700")
            assert reply.rep.code is ResponseCode.CONTENT
            assert isinstance(reply.rep.body, ReadBody)
            assert len(device.got) == 1
            assert b.state.load().commands == ()

    run(scenario)


def test_same_request_is_answered_again_and_not_executed_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(EXECUTE)
            await b.answered(1)
            await b.send(EXECUTE)
            first, second = await b.answered(2)
            assert first == second
            assert len(device.got) == 1
            topic = b.topic
        async with bench(tmp_path) as b:
            b.topic = topic
            device = b.link.add("lamp")
            b.loop.start()
            await b.send(EXECUTE, EXECUTE)
            await b.until(lambda: b.replies)
            assert b.replies[0] == first
            assert device.got == []

    run(scenario)


def test_same_request_while_it_is_carried_out_has_one_reply(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", open_gate=False)
            await b.send(EXECUTE, EXECUTE)
            await b.until(lambda: device.got)
            await b.send(EXECUTE)
            device.gate.set()
            await b.answered(1)
            await b.send(request("next"))
            await b.answered(2)
            assert len(device.got) == 2

    run(scenario)


def test_one_ticket_for_different_requests_is_different_requests(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            observe = request("ticket#1", RequestKind.OBSERVE)
            cancel = request("ticket#1", RequestKind.OBSERVE_CANCEL)
            await b.send(observe)
            await b.send(cancel)
            replies = await b.answered(2)
            assert [r.rep.kind for r in replies] == [RequestKind.OBSERVE, RequestKind.OBSERVE_CANCEL]
            assert b.link.calls == [("observe", "lamp/3303/0/5700 ticket#1"), ("cancel", "lamp/3303/0/5700")]

    run(scenario)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (replace(request("t"), server_id="other"), True),
        (replace(request("t"), expires=NOW + 1), False),
        (request("t", ep="other"), False),
        (request("u"), False),
        (request("t", path="/3303/0"), False),
        (request("t", RequestKind.DISCOVER), False),
        (replace(request("t"), payload=replace(request("t").payload, paths=("/3",))), False),
    ],
)
def test_identity_is_endpoint_ticket_and_payload(other: Request, same: bool) -> None:
    def identity(one: Request) -> bytes:
        value = serde.encode(one)
        decoded = serde.decode(value)
        assert isinstance(decoded, Request)
        return identity_of(value, decoded)

    # What a version 2 record carries beside the request does not matter either, only its own payload.
    assert identity(replace(other, expires=5)) == identity(replace(other, expires=NOW * 7))
    assert (identity(request("t")) == identity(other)) is same


def test_identity_does_not_run_endpoint_and_ticket_together() -> None:
    def identity(ep: str, ticket: str) -> bytes:
        one = request(ticket, ep=ep)
        return identity_of(serde.encode(one), one)

    assert identity("a", "bc") != identity("ab", "c")


def test_device_has_one_command_at_a_time_in_order_and_devices_do_not_wait_for_each_other(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            slow = b.link.add("slow", open_gate=False)
            b.link.add("fast")
            paths = [f"/3303/0/{number}" for number in range(5600, 5610)]
            await b.send(
                *(request("s", path=path, ep="slow") for path in paths),
                *(request("f", path=path, ep="fast") for path in paths),
            )
            await b.until(lambda: len(b.replies) == 10)
            assert [r.path for r in b.replies] == paths
            assert {r.ep for r in b.replies} == {"fast"}
            assert len(slow.got) == 1
            slow.gate.set()
            await b.answered(20)
            assert ["/" + "/".join(one.uri_path) for one in slow.got] == paths

    run(scenario)


def test_device_that_is_not_registered_is_said_so_and_asked_once_it_is(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            await b.send(request("t1"))
            [reply] = await b.answered(1)
            assert reply.rep.code is ResponseCode.NOT_FOUND
            assert words(reply) == "no device lamp is registered at gw"
            b.link.add("lamp")
            await b.send(request("t1"))
            assert (await b.answered(2))[1].rep.code is ResponseCode.CONTENT
            assert b.request_ids[0] != b.request_ids[1]

    run(scenario)


def test_refused_request_is_answered_without_the_device(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(request("t1", RequestKind.EXECUTE, "/3"), request("t2", path="/what"))
            for reply in await b.answered(2):
                assert reply.rep.code is ResponseCode.BAD_REQUEST
            assert device.got == []

    run(scenario)


@pytest.mark.parametrize(
    ("failure", "asked", "code", "said"),
    [
        (DeviceTimeout(), request("t"), ResponseCode.UNKNOWN, "no answer within 5 s"),
        (DeviceTimeout(), EXECUTE, ResponseCode.UNKNOWN, "outcome unknown"),
        (DeviceSentReset(), request("t"), ResponseCode.UNKNOWN, "Reset"),
        (DeviceGone(), request("t"), ResponseCode.NOT_FOUND, "no device"),
        (DeviceGone(), EXECUTE, ResponseCode.UNKNOWN, "outcome unknown"),
        (LookupError("oops"), request("t"), ResponseCode.INTERNAL_SERVER_ERROR, "oops"),
        (LookupError("oops"), EXECUTE, ResponseCode.UNKNOWN, "outcome unknown"),
    ],
)
def test_failed_exchange_has_a_reply_and_the_next_command_its_turn(
    tmp_path: FilePath, failure: Exception, asked: Request, code: ResponseCode, said: str
) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp").answers = [failure]
            await b.send(asked, request("next"))
            first, second = await b.answered(2)
            assert first.rep.code is code
            assert said in words(first)
            assert second.rep.code is ResponseCode.CONTENT

    run(scenario)


def test_sleeping_device_gets_its_commands_when_it_wakes(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            await b.send(request("t1"), request("t2"), EXECUTE)
            assert b.loop.lanes.waiting == 3
            assert device.got == []
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            b.loop.start()
            assert b.loop.lanes.waiting == 3
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            assert [r.ticket for r in await b.answered(3)] == ["t1", "t2", "reboot"]

    run(scenario)


def test_timeout_puts_a_device_in_queue_mode_to_sleep_and_keeps_the_command(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True)
            device.answers = [DeviceTimeout()]
            await b.send(request("t1"), request("t2"))
            await b.until(lambda: b.loop.lanes.waiting == 2 and not b.loop.lanes.in_flight)
            assert len(device.got) == 1
            b.loop.lanes.device_awake("lamp")
            assert [r.ticket for r in await b.answered(2)] == ["t1", "t2"]

    run(scenario)


def test_device_heard_of_during_a_timeout_is_asked_again_at_once(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, open_gate=False)
            device.answers = [DeviceTimeout()]
            await b.send(request("t1"))
            await b.until(lambda: device.got)
            b.loop.lanes.device_awake("lamp")
            device.gate.set()
            assert [r.ticket for r in await b.answered(1)] == ["t1"]

    run(scenario)


def test_interrupted_execute_of_a_sleeping_device_is_not_kept(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp", queue=True).answers = [DeviceTimeout()]
            await b.send(EXECUTE)
            [reply] = await b.answered(1)
            assert "outcome unknown" in words(reply)

    run(scenario)


def test_expired_request_is_answered_and_not_sent(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(request("t1", expires=NOW))
            [reply] = await b.answered(1)
            assert reply.rep.code is ResponseCode.PRECONDITION_FAILED
            assert device.got == []

    run(scenario)


def test_request_expires_while_it_waits(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", queue=True, awake=False)
            # The timer asks the clock again, and waits on as long as that says so.
            await b.send(request("t1", expires=NOW + 1), request("t2", expires=NOW + 60_000))
            b.now = NOW + 1
            [reply] = await b.answered(1)
            assert (reply.ticket, reply.rep.code) == ("t1", ResponseCode.PRECONDITION_FAILED)
            assert b.loop.lanes.waiting == 1
            device.awake = True
            b.loop.lanes.device_awake("lamp")
            assert (await b.answered(2))[1].rep.code is ResponseCode.CONTENT

    run(scenario)


def test_request_that_expired_behind_another_is_not_sent(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", open_gate=False)
            await b.send(request("t1"), request("t2", expires=NOW + 60_000))
            await b.until(lambda: device.got)
            b.now = NOW + 60_000
            device.gate.set()
            assert [r.rep.code for r in await b.answered(2)] == [
                ResponseCode.CONTENT,
                ResponseCode.PRECONDITION_FAILED,
            ]
            assert len(device.got) == 1

    run(scenario)


def test_what_waits_for_a_device_that_leaves_is_answered(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp", queue=True, awake=False)
            await b.send(request("t1"), request("t2"))
            del b.link.devices["lamp"]
            b.loop.lanes.device_gone("lamp")
            assert {r.rep.code for r in await b.answered(2)} == {ResponseCode.NOT_FOUND}
            assert b.loop.lanes.waiting == 0

    run(scenario)


def test_queue_is_bounded_per_device_and_in_all(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, Limits(per_device=2, in_all=3, retry=0.01)) as b:
            for ep in ("a", "b"):
                b.link.add(ep, queue=True, awake=False)
            await b.send(*(request(f"{ep}{n}", ep=ep) for ep in ("a", "b") for n in range(3)))
            refused = await b.answered(3)
            assert [r.ticket for r in refused] == ["a2", "b1", "b2"]
            assert {r.rep.code for r in refused} == {ResponseCode.INTERNAL_SERVER_ERROR}
            assert "try again later" in words(refused[0])

    run(scenario)


def test_undecodable_records_go_to_the_dead_letters(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            whole = serde.encode(request("t9"))
            broken = whole[:-2]
            reply_record = serde.encode(
                serde.request_from_json('{"ep":"x","ticket":"y","payload":{"kind":"read","path":"/3"}}')
            )[:5]
            await b.send(b"{}", None, broken, b"", reply_record, whole)
            replies = await b.answered(2)
            assert [raw.value for raw, _ in b.letters] == [b"{}", None, broken, b"", reply_record]
            assert all(error for _, error in b.letters)
            said = {r.rep.code: r for r in replies}
            assert said.keys() == {ResponseCode.BAD_REQUEST, ResponseCode.CONTENT}
            assert said[ResponseCode.BAD_REQUEST].ticket == "t9"
            assert "cannot be read" in words(said[ResponseCode.BAD_REQUEST])

    run(scenario)


def test_request_whose_texts_no_reply_could_repeat_is_a_dead_letter(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            await b.send(request("t" * 20_000), request("t1"))
            [reply] = await b.answered(1)
            assert reply.ticket == "t1"
            assert [error for _, error in b.letters] == ["endpoint, ticket and path have more than 10000 characters"]

    run(scenario)


def test_answer_too_large_for_a_record_is_answered_in_words(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            # A multiple resource of many small instances (TLV): its record is ten times as large.
            instances = b"".join(b"\x61" + number.to_bytes(2, "big") + b"\x01" for number in range(40_000))
            payload = b"\x98\x01" + len(instances).to_bytes(3, "big") + instances
            device.answers.append(CoapResponse(code=0x45, content_format=11542, payload=payload))
            await b.send(request("t1", path="/2000/0/1"))
            [reply] = await b.answered(1)
            assert reply.rep.code is ResponseCode.INTERNAL_SERVER_ERROR
            assert "ask for a part of /2000/0/1" in words(reply)

    run(scenario)


def test_reply_that_kafka_does_not_take_is_produced_once_it_does(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            b.kafka_takes = False
            await b.send(*(request(f"t{n}") for n in range(5)))
            await b.until(lambda: b.loop.answering.unpublished == 5)
            b.kafka_takes = True
            assert sorted(r.ticket for r in await b.answered(5)) == [f"t{n}" for n in range(5)]
            assert len(device.got) == 5

    run(scenario)


def test_reply_reported_as_failed_that_is_in_the_topic_is_not_produced_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            b.kafka_keeps = False
            await b.send(request("t1"), request("t2", path="/3303/0/5601"))
            await b.until(lambda: b.loop.answering.unpublished == 2)
            b.kafka_takes = False
            b.loop.mark_answered(request_id(b.topic[0]), b"reply of t1")
            b.kafka_takes = b.kafka_keeps = True
            assert [r.ticket for r in await b.answered(1)] == ["t2"]

    run(scenario)


def test_restart_goes_on_where_the_gateway_was(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            b.link.add("queued", queue=True, awake=False)
            for ep in ("reading", "executing", "published"):
                b.link.add(ep, open_gate=False)
            await b.send(
                request("q1", ep="queued"),
                request("q2", ep="queued"),
                request("r", ep="reading"),
                replace(EXECUTE, ep="executing"),
                replace(EXECUTE, ep="published"),
            )
            await b.until(lambda: all(b.link.devices[ep].got for ep in ("reading", "executing", "published")))
            rows = {row.ep: row for row in b.state.load().commands}
            # What may be repeated is in Kafka: it is on the disk only if it waits for long.
            assert {ep: row.state for ep, row in rows.items()} == dict.fromkeys(
                ("executing", "published"), CommandState.SENT
            )
            topic = b.topic
        assert b.replies == []
        # Stopped in order, so all of it is recorded.
        assert b.passed == {0: 5}
        async with bench(tmp_path / "first") as b:
            assert b.state.load().positions == {0: 5}
            devices = {ep: b.link.add(ep) for ep in ("queued", "reading", "executing", "published")}
            # Its reply was produced all the same: the topic's tail tells.
            b.loop.mark_answered(request_id(topic[4]), b"said before")
            b.loop.start()
            replies = {r.ticket + r.ep: r for r in await b.answered(4)}
            assert replies["q1queued"].rep.code is ResponseCode.CONTENT
            assert replies["rreading"].rep.code is ResponseCode.CONTENT
            assert "outcome unknown" in words(replies["rebootexecuting"])
            assert devices["executing"].got == devices["published"].got == []
            assert len(devices["reading"].got) == 1
            assert [r.ticket for r in b.replies if r.ep == "queued"] == ["q1", "q2"]
            assert b.state.load().commands == ()

    run(scenario)


@pytest.mark.parametrize("known", [True, False], ids=["its reply is in the topic", "its reply is not there"])
@pytest.mark.parametrize("asked", [request("t"), EXECUTE], ids=["read", "execute"])
def test_request_that_was_under_way_in_a_crash_has_one_reply(tmp_path: FilePath, asked: Request, known: bool) -> None:
    """The gateway is killed when the device was asked, and has answered or not; then it reads the topic again."""

    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            device = b.link.add("lamp", open_gate=known)
            await b.send(asked)
            await b.until(lambda: b.replies if known else device.got)
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
            topic, before = b.topic, [*zip(b.request_ids, b.replies, strict=True)]
        async with bench(tmp_path / "second") as b:
            b.topic = topic
            device = b.link.add("lamp")
            for identity, said in before[:known]:
                b.loop.mark_answered(identity, serde.encode(said))
            b.loop.start()
            assert b.state.load().positions == {}
            await b.read(*topic)
            if not known:
                [reply] = await b.answered(1)
                assert (reply.rep.code is ResponseCode.CONTENT) is (asked is not EXECUTE)
            assert len(device.got) == (not known and asked is not EXECUTE)
            # Asked once more, it is answered once more, and without the device.
            await b.until(lambda: not b.loop.unanswered)
            await b.send(asked)
            again = (await b.answered(1 if known else 2))[-1]
            assert again == (before[0][1] if known else b.replies[0])
            assert len(device.got) == (not known and asked is not EXECUTE)

    run(scenario)


def test_record_that_is_read_again_after_its_answer_was_stored_is_not_answered_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            await b.send(request("t1"), request("t2"))
            await b.answered(2)
            await b.until(lambda: not b.loop.unanswered)
            await b.read(*b.topic)
            await b.send(request("t3"))
            assert [r.ticket for r in await b.answered(3)] == ["t1", "t2", "t3"]
            assert len(device.got) == 3

    run(scenario)


def test_request_and_its_repetition_are_both_answered_when_read_again(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            first, second = b.record(request("t1")), b.record(request("t1"))
            said = Response(
                ticket="t1",
                server_id="gw",
                ep="lamp",
                path="/3",
                timestamp=NOW,
                rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.READ),
            )
            b.loop.mark_answered(request_id(first), serde.encode(said))
            b.loop.start()
            # Only the first was answered before the crash.
            await b.read(first, second)
            await b.until(lambda: b.request_ids)
            assert (b.request_ids, b.replies) == ([request_id(second)], [said])
            assert device.got == []

    run(scenario)


def test_topic_is_passed_behind_what_is_done_with(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HOLD", 0.05)

    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp", open_gate=False)
            b.link.add("asleep", queue=True, awake=False)
            b.kafka_takes = False
            b.loop.take([b.record(b"no request")], lambda: None)
            await b.send(request("t1"), request("q", ep="asleep"))
            # What waits is recorded, but before it is a dead letter that Kafka does not take.
            await b.until(lambda: len(b.state.load().commands) == 2)
            assert b.state.load().positions == {}
            b.kafka_takes = True
            await b.until(lambda: b.passed == {0: 3})
            assert b.state.load().positions == {0: 3}
            b.link.devices["lamp"].gate.set()
            assert [r.ticket for r in await b.answered(1)] == ["t1"]
            await b.until(lambda: [row.ticket for row in b.state.load().commands] == ["q"])

    run(scenario)


def test_what_is_recorded_is_done_before_what_is_read_again(
    tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HOLD", 0.05)

    async def scenario() -> None:
        async with bench(tmp_path / "first") as b:
            b.link.add("lamp", open_gate=False)
            await b.send(*(request(f"t{n}") for n in range(3)))
            await b.until(lambda: b.passed == {0: 3})
            monkeypatch.setattr(progress, "HOLD", 60)
            await b.send(*(request(f"t{n}") for n in range(3, 6)))
            copy_as_after_a_kill(tmp_path / "first", tmp_path / "second")
            topic = b.topic
        async with bench(tmp_path / "second") as b:
            b.link.add("lamp")
            b.loop.start()
            await b.read(*topic[b.state.load().positions[0] :])
            assert [r.ticket for r in await b.answered(6)] == [f"t{n}" for n in range(6)]

    run(scenario)


def test_disk_that_refuses_keeps_the_position_back(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HOLD", 0.05)
    written = state_rows.write

    def refuse(*args: object, **more: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    async def scenario() -> None:
        async with bench(tmp_path) as b:
            b.link.add("lamp")
            b.link.add("asleep", queue=True, awake=False)
            monkeypatch.setattr(state, "write", refuse)
            await b.send(request("q", ep="asleep"), request("t1"), EXECUTE)
            await b.until(lambda: b.state.groups_failed > 3)
            replies = {r.ticket: r for r in b.replies}
            assert replies["t1"].rep.code is ResponseCode.CONTENT
            assert "not sent" in words(replies["reboot"])
            assert b.passed == {}
            monkeypatch.setattr(state, "write", written)
            await b.until(lambda: b.passed == {0: 3})
            assert [row.ticket for row in b.state.load().commands] == ["q"]
            # It was not sent, so it is tried anew.
            await b.send(EXECUTE)
            assert (await b.answered(3))[-1].rep.code is ResponseCode.CHANGED

    run(scenario)


def test_command_that_must_not_be_repeated_is_stored_as_sent_before_it_leaves(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            seen: list[CommandState] = []
            ask = device.ask

            async def look(coap: CoapRequest) -> CoapResponse:
                seen.extend(row.state for row in b.state.load().commands)
                return await ask(coap)

            device.ask = look  # type: ignore[assignment, method-assign]  # a look at the state at the moment of sending
            await b.send(EXECUTE)
            await b.answered(1)
            assert seen == [CommandState.SENT]

    run(scenario)


def test_own_requests_of_the_gateway_have_their_turn_in_the_device_s_order(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp", open_gate=False)
            order: list[str] = []

            async def own() -> None:
                order.append(f"own after {len(b.replies)} and {device.at_once}")

            async def broken() -> None:
                order.append("broken")
                raise LookupError

            await b.send(request("t1"))
            await b.until(lambda: device.got)
            b.loop.lanes.submit_internal("lamp", own)
            b.loop.lanes.submit_internal("lamp", broken)
            await b.send(request("t2"))
            device.gate.set()
            await b.answered(2)
            assert order == ["own after 1 and 0", "broken"]
            b.loop.lanes.submit_internal("stranger", own)
            await b.until(lambda: len(order) == 3)

    run(scenario)


def test_write_carries_its_value(tmp_path: FilePath) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as b:
            device = b.link.add("lamp")
            node = Resource(path=Path(1, 0, 6), type=ResourceType.BOOLEAN, value=False)
            body = WriteRequest(mode=WriteMode.REPLACE, node=node)
            await b.send(request("t4", RequestKind.WRITE, "/1/0/6", body=body))
            [reply] = await b.answered(1)
            assert (reply.rep.code, reply.rep.body) == (ResponseCode.CHANGED, None)
            assert (device.got[0].method, device.got[0].payload) == (Method.PUT, b"\xc1\x06\x00")

    run(scenario)
