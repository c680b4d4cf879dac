"""A command loop on the real state file, with devices and Kafka in the same process."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from gateway.answering import HEADER_NOT_SENT, HEADER_REQUEST_ID, HEADER_STATE, Done, Headers, Said
from gateway.command_loop import CommandLoop
from gateway.commands import DeviceGone, Limits
from gateway.exchange import CoapRequest, CoapResponse, DeviceView, Method
from gateway.reaching import Answered
from gateway.request_records import RawRequest, occurrence_of
from gateway.state import Positions, State
from schemas.avro import serde
from schemas.avro.records import (
    CommandKey,
    CommandPhase,
    CommandStatus,
    ExecuteRequest,
    GenericBody,
    Request,
    RequestBody,
    RequestKind,
    RequestPayload,
    Response,
)
from schemas.avro.request_identity import identity_of
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

NOW = 1_700_000_000_000
WAIT = 10.0
#: The requests topic.
PLACE = ("id", 0)


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
        #: How long each answer was to be waited for.
        self.timeouts: list[float] = []
        self._tasks: set[asyncio.Future[CoapResponse]] = set()

    def add(self, ep: str, *, queue: bool = False, awake: bool = True, open_gate: bool = True) -> Device:
        device = self.devices[ep] = Device(queue=queue, awake=awake)
        if open_gate:
            device.gate.set()
        return device

    def view(self, ep: str) -> DeviceView | None:
        return DeviceView(ep=ep, version="1.1") if ep in self.devices else None

    def front(self, ep: str) -> str:
        return ep

    def queue_mode(self, ep: str) -> bool:
        return self.devices[ep].queue

    def files(self, ep: str) -> str:
        return "coap://127.0.0.1/files/"

    def awake(self, ep: str) -> bool:
        return self.devices[ep].awake

    def send_again(self, ep: str) -> None:
        self.calls.append(("send again", ep))

    async def request(self, ep: str, request: CoapRequest, timeout: float) -> CoapResponse:
        self.calls.append(("request", ep))
        self.timeouts.append(timeout)
        return await self._ask(ep, request)

    def begin(self, ep: str, request: CoapRequest, timeout: float, answered: Answered) -> bool:
        if ep not in self.devices:
            raise DeviceGone(ep)
        self.calls.append(("request", ep))
        self.timeouts.append(timeout)
        task = asyncio.ensure_future(self.devices[ep].ask(request))
        self._tasks.add(task)

        def done(_: object) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                failure = task.exception()
                answered(failure if isinstance(failure, Exception) else task.result())

        task.add_done_callback(done)
        return True

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
        #: What was told of commands, in order.
        self.told: list[CommandStatus] = []
        self.request_ids: list[bytes] = []
        #: The replies as a start finds them in their topic.
        self.said: list[Said] = []
        self.letters: list[tuple[RawRequest, str]] = []
        self.kafka_takes = True
        self.kafka_keeps = True
        #: What of the requests topic is done with.
        self.passed: Positions = {}
        self.every_passed: list[int] = []
        self._changed = asyncio.Event()
        self.topic: list[RawRequest] = []
        self.loop = CommandLoop(
            server_id="gw",
            state=state,
            link=self.link,
            definitions=Definitions.builtin(),
            publish=self._publish,
            publish_state=self._publish_state,
            bury=self._bury,
            passed=self._passed,
            now_ms=lambda: self.now,
            limits=limits,
        )

    def _passed(self, positions: Positions) -> None:
        self.passed = positions
        self.every_passed.append(positions[PLACE])

    def _publish(self, ep: str, value: bytes, headers: Headers, done: Done) -> bool:
        if not self.kafka_takes:
            return False
        if self.kafka_keeps:
            reply = serde.decode(value)
            assert isinstance(reply, Response)
            assert reply.ep == ep
            self.replies.append(reply)
            told = dict(headers)
            self.request_ids.append(told[HEADER_REQUEST_ID])
            phase = CommandPhase(told.get(HEADER_STATE, b"ANSWERED").decode())
            self.said.append(Said(reply=value, sent=HEADER_NOT_SENT not in told, phase=phase))
        asyncio.get_running_loop().call_soon(done, self.kafka_keeps)
        asyncio.get_running_loop().call_soon(self._changed.set)
        return True

    def _publish_state(self, key: bytes, value: bytes, done: Done) -> bool:
        if not self.kafka_takes:
            return False
        if self.kafka_keeps:
            status, whose = serde.decode(value), serde.decode(key)
            assert isinstance(status, CommandStatus) and isinstance(whose, CommandKey)
            assert status.ep == whose.ep
            self.told.append(status)
        asyncio.get_running_loop().call_soon(done, self.kafka_keeps)
        asyncio.get_running_loop().call_soon(self._changed.set)
        return True

    def states(self, ticket: str) -> list[str]:
        """What was told of a command, in order."""
        return [one.state.value for one in self.told if one.ticket == ticket]

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
        offset = len(self.topic)
        raw = RawRequest(topic="t", topic_id="id", partition=0, offset=offset, timestamp=NOW, key=None, value=value)
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
