"""Commands that are asked without a task: one datagram, one answer, and the next has its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import product

import pytest

from gateway import operations
from gateway.command import Command
from gateway.exchange import CoapRequest, CoapResponse, DeviceView, Failure, RefusedRequest
from gateway.lanes import Lanes
from gateway.limits import Limits
from gateway.reaching import Answered, DeviceTimeout, Rest
from schemas.avro import serde
from schemas.avro.records import CommandPhase, ExecuteRequest, Request, RequestFormat, RequestKind, RequestPayload
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

NOW = 1_000_000
TEXT = CoapResponse(code=0x45, content_format=0, payload=b"x")


class Devices:
    """Devices that are there and awake; what is begun is answered by hand, all else with TEXT."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, CoapRequest, Answered]] = []
        self.tasks = 0

    def view(self, ep: str) -> DeviceView | None:
        return DeviceView(ep=ep, version="1.1")

    def front(self, ep: str) -> str:
        return ep

    def queue_mode(self, ep: str) -> bool:
        return False

    def files(self, ep: str) -> str:
        raise AssertionError("no files here")

    def awake(self, ep: str) -> bool:
        return True

    def send_again(self, ep: str) -> None:
        raise AssertionError("no device here is heard of while it has a request")

    def begin(self, ep: str, request: CoapRequest, timeout: float, answered: Answered) -> bool:
        self.begun.append((ep, request, answered))
        return True

    async def request(self, ep: str, request: CoapRequest, timeout: float) -> CoapResponse:
        self.tasks += 1
        return TEXT

    async def observe(self, ep: str, path: Path, ticket: str, request: CoapRequest, timeout: float) -> CoapResponse:
        raise AssertionError("nothing is observed here")

    async def cancel(self, ep: str, path: Path, request: CoapRequest, timeout: float) -> CoapResponse:
        raise AssertionError("nothing is observed here")


class Setting:
    """Lanes to `Devices`, and what came of the commands."""

    def __init__(self) -> None:
        self.devices = Devices()
        self.finished: list[tuple[str, str]] = []
        self.recorded: list[str] = []
        self.broken: Exception | None = None
        self.lanes = Lanes(
            link=self.devices,
            definitions=Definitions.builtin(),
            record_sent=self._record_sent,
            record_tried=lambda command: None,
            request_of=self._request_of,
            finish=self._finish,
            tell=self._tell,
            now_ms=lambda: NOW,
            limits=Limits(answer=5.0),
        )

    async def _record_sent(self, command: Command) -> None:
        self.recorded.append(command.ticket)

    async def _request_of(self, sequence: int) -> bytes | None:
        raise AssertionError("all of it is in memory here")

    def _tell(self, command: Command, phase: CommandPhase, words: str) -> None:
        raise AssertionError("nothing of it was told before")

    def _finish(self, command: Command, outcome: CoapResponse | Failure, _: DeviceView | None) -> None:
        self.finished.append((command.ticket, type(outcome).__name__))
        if self.broken is not None:
            raise self.broken

    def ask(self, ticket: str, kind: RequestKind = RequestKind.READ, path: str = "/3/0/0") -> None:
        body = ExecuteRequest(parameters="") if kind is RequestKind.EXECUTE else None
        payload = RequestPayload(kind=kind, path=path, body=body)
        request = Request(server_id="gw", ep="lamp", ticket=ticket, payload=payload)
        raw = serde.encode(request)
        self.lanes.enqueue(
            Command(
                identity=ticket.encode(),
                occurrence=0,
                sequence=0,
                ep="lamp",
                raw=raw,
                size=len(raw),
                received_ms=NOW,
                expires_ms=None,
                deadline_ms=NOW + 60_000,
                ticket=ticket,
                request=request,
            )
        )

    async def until(self, finished: int) -> None:
        async with asyncio.timeout(60):
            while len(self.finished) < finished:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


def run(scenario: Callable[[Setting], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(Setting()), 120)

    asyncio.run(bounded())


def test_read_of_a_device_that_is_free_needs_no_task() -> None:
    async def scenario(s: Setting) -> None:
        before = asyncio.all_tasks()
        s.ask("1")
        assert asyncio.all_tasks() == before
        [(ep, request, answered)] = s.devices.begun
        assert (ep, request.uri_path, s.lanes.in_flight, s.lanes.sent) == ("lamp", ("3", "0", "0"), 1, 1)
        answered(TEXT)
        assert (s.finished, s.lanes.in_flight) == ([("1", "CoapResponse")], 0)

    run(scenario)


def test_next_command_waits_for_its_turn() -> None:
    async def scenario(s: Setting) -> None:
        s.ask("1")
        s.ask("2")
        s.ask("3")
        await asyncio.sleep(0)
        assert (len(s.devices.begun), s.devices.tasks, s.lanes.waiting) == (1, 0, 2)
        s.devices.begun[0][2](DeviceTimeout("lamp"))
        await s.until(3)
        assert s.finished == [("1", "TimedOut"), ("2", "CoapResponse"), ("3", "CoapResponse")]

    run(scenario)


def test_command_that_must_not_be_repeated_is_recorded_first() -> None:
    async def scenario(s: Setting) -> None:
        s.ask("1", RequestKind.EXECUTE, "/3/0/4")
        await s.until(1)
        assert (s.recorded, s.devices.begun, s.devices.tasks) == (["1"], [], 1)

    run(scenario)


def test_rest_of_an_answer_is_fetched_before_the_next_command() -> None:
    async def scenario(s: Setting) -> None:
        whole = asyncio.Event()

        async def fetch() -> CoapResponse:
            await whole.wait()
            return TEXT

        s.ask("1")
        s.ask("2")
        s.devices.begun[0][2](Rest(fetch))
        await asyncio.sleep(0)
        assert (s.finished, s.lanes.in_flight, s.devices.tasks) == ([], 1, 0)
        whole.set()
        await s.until(2)
        assert s.finished == [("1", "CoapResponse"), ("2", "CoapResponse")]

    run(scenario)


def test_reply_that_cannot_be_made_does_not_keep_the_next_waiting() -> None:
    async def scenario(s: Setting) -> None:
        s.ask("1")
        s.broken = RuntimeError("no reply")
        with pytest.raises(RuntimeError, match="no reply"):
            s.devices.begun[0][2](TEXT)
        s.broken = None
        s.ask("2")
        s.devices.begun[1][2](TEXT)
        assert [ticket for ticket, _ in s.finished] == ["1", "2"]

    run(scenario)


def test_request_that_cannot_be_sent_does_not_keep_others_from_being_read() -> None:
    async def scenario(s: Setting) -> None:
        def fails(ep: str, request: CoapRequest, timeout: float, answered: Answered) -> bool:
            raise UnicodeError("no such path")

        s.devices.begin = fails  # type: ignore[method-assign]
        s.ask("1")
        await s.until(1)
        assert (s.finished, s.devices.tasks) == ([("1", "CoapResponse")], 1)

    run(scenario)


def test_stop_waits_for_the_answer() -> None:
    async def scenario(s: Setting) -> None:
        s.ask("1")
        stopping = asyncio.ensure_future(s.lanes.stop(timeout=60))
        await asyncio.sleep(0)
        s.ask("2")
        s.devices.begun[0][2](TEXT)
        await stopping
        # The second waits for the next start.
        assert (s.finished, len(s.devices.begun), s.lanes.waiting) == ([("1", "CoapResponse")], 1, 1)

    run(scenario)


def test_what_comes_after_the_stop_is_asked_for_again_by_the_next_start() -> None:
    async def scenario(s: Setting) -> None:
        s.ask("1")
        await s.lanes.stop(timeout=0)
        s.devices.begun[0][2](DeviceTimeout("the gateway is stopping"))
        assert s.finished == []

    run(scenario)


def test_read_that_is_remembered_is_what_would_be_built() -> None:
    """Whatever of a device decides how it is read: version, root, formats, and what it is behind."""
    paths = ("/3", "/3/0", "/3/0/0", "/3/0/6/1", "/3/0/6/65535", "nothing")
    devices = [
        DeviceView(ep="lamp", version=version, root=root, content_formats=formats, prefix=prefix, object_versions=of)
        for version, root, formats, prefix, of in product(
            ("1.0", "1.1", "1.2"),
            ("/", "/lwm2m", "/dev0"),
            (None, frozenset((0, 11542)), frozenset((60, 110, 112))),
            ("", "/dev0"),
            ({}, {3: "1.2"}),
        )
    ]
    for device, path, asked in product(devices, paths, RequestFormat):
        payload = RequestPayload(kind=RequestKind.READ, path=path, content_format=asked)
        request = Request(server_id="gw", ep="lamp", ticket="t", payload=payload)
        definitions = Definitions.builtin()
        try:
            built = operations._build(request, device, definitions)
        except RefusedRequest as exc:
            with pytest.raises(RefusedRequest) as refused:
                operations.build(request, device, definitions)
            assert refused.value.refused == exc.refused
        else:
            assert operations.build(request, device, definitions) == built
