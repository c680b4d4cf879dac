"""The memory that waiting commands take: their bytes are bounded for each device and in all."""

from __future__ import annotations

import asyncio

from gateway.command import Command
from gateway.exchange import CoapRequest, CoapResponse, DeviceView, Failure, NotRegistered, Overloaded
from gateway.lanes import Lanes
from gateway.limits import Limits
from gateway.reaching import Answered
from schemas.avro import serde
from schemas.avro.records import CommandPhase, Request, RequestKind, RequestPayload
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

NOW = 1_000_000
RAW = serde.encode(
    Request(server_id="gw", ep="e", ticket="t", payload=RequestPayload(kind=RequestKind.READ, path="/3/0/0"))
)


class Devices:
    """Devices in queue mode that sleep until they are woken, and then answer every request."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.awoken: set[str] = set()

    def view(self, ep: str) -> DeviceView | None:
        return DeviceView(ep=ep, version="1.1") if ep in self.names else None

    def front(self, ep: str) -> str:
        return ep

    def queue_mode(self, ep: str) -> bool:
        return True

    def files(self, ep: str) -> str:
        return "coap://127.0.0.1/files/"

    def awake(self, ep: str) -> bool:
        return ep in self.awoken

    def send_again(self, ep: str) -> None:
        raise AssertionError("no device here is heard of while it has a request")

    async def request(self, ep: str, request: CoapRequest, timeout: float) -> CoapResponse:
        return CoapResponse(code=0x45, content_format=0, payload=b"x")

    def begin(self, ep: str, request: CoapRequest, timeout: float, answered: Answered) -> bool:
        return False

    async def observe(self, ep: str, path: Path, ticket: str, request: CoapRequest, timeout: float) -> CoapResponse:
        raise AssertionError("nothing is observed here")

    async def cancel(self, ep: str, path: Path, request: CoapRequest, timeout: float) -> CoapResponse:
        raise AssertionError("nothing is observed here")


async def _nothing_is_sent(command: Command) -> None:
    raise AssertionError("nothing here must not be repeated")


async def _nothing_is_read(sequence: int) -> bytes | None:
    raise AssertionError("all of it is in memory here")


def _nothing_is_told(command: Command, phase: CommandPhase, words: str) -> None:
    raise AssertionError("nothing of it was told before")


def test_bytes_that_wait_are_bounded_for_a_device_and_in_all() -> None:
    async def run() -> None:
        devices = Devices("a", "b", "c")
        finished: list[tuple[str, CoapResponse | Failure]] = []
        all_answered = asyncio.Event()

        def finish(command: Command, outcome: CoapResponse | Failure, _: DeviceView | None) -> None:
            finished.append((command.ep, outcome))
            if isinstance(outcome, CoapResponse):
                all_answered.set()

        def command(ep: str) -> Command:
            return Command(
                identity=b"i",
                occurrence=0,
                sequence=0,
                ep=ep,
                raw=RAW,
                size=len(RAW),
                received_ms=NOW,
                expires_ms=None,
                deadline_ms=NOW + 60_000,
            )

        lanes = Lanes(
            link=devices,
            definitions=Definitions.builtin(),
            record_sent=_nothing_is_sent,
            record_tried=lambda _: None,
            request_of=_nothing_is_read,
            tell=_nothing_is_told,
            finish=finish,
            now_ms=lambda: NOW,
            limits=Limits(bytes_per_device=2 * len(RAW), bytes_in_all=3 * len(RAW)),
        )
        try:
            for ep in ("a", "a", "a", "b", "b", "c"):
                lanes.enqueue(command(ep))
            assert [ep for ep, _ in finished] == ["a", "b", "c"]
            assert all(isinstance(outcome, Overloaded) for _, outcome in finished)
            assert (lanes.waiting, lanes.size) == (3, 3 * len(RAW))
            finished.clear()
            # Whoever leaves or wakes up makes room.
            devices.names.discard("a")
            lanes.device_gone("a")
            assert [type(outcome) for _, outcome in finished] == [NotRegistered, NotRegistered]
            assert lanes.size == len(RAW)
            devices.awoken.add("b")
            lanes.device_awake("b")
            async with asyncio.timeout(20):
                await all_answered.wait()
            assert (lanes.waiting, lanes.size) == (0, 0)
            finished.clear()
            for _ in range(2):
                lanes.enqueue(command("c"))
            assert finished == [] and lanes.size == 2 * len(RAW)
        finally:
            await lanes.stop(timeout=0)

    asyncio.run(run())


def test_command_that_expires_while_it_waits_makes_room() -> None:
    async def run() -> None:
        now = [NOW]
        expired = asyncio.Event()
        lanes = Lanes(
            link=Devices("a"),
            definitions=Definitions.builtin(),
            record_sent=_nothing_is_sent,
            record_tried=lambda _: None,
            request_of=_nothing_is_read,
            tell=_nothing_is_told,
            finish=lambda *_: expired.set(),
            now_ms=lambda: now[0],
            limits=Limits(),
        )
        try:
            lanes.enqueue(
                Command(
                    identity=b"i",
                    occurrence=0,
                    sequence=0,
                    ep="a",
                    raw=RAW,
                    size=len(RAW),
                    received_ms=NOW,
                    expires_ms=NOW + 1,
                    deadline_ms=NOW + 1,
                )
            )
            assert lanes.size == len(RAW)
            now[0] += 1
            async with asyncio.timeout(20):
                await expired.wait()
            assert (lanes.waiting, lanes.size) == (0, 0)
        finally:
            await lanes.stop(timeout=0)

    asyncio.run(run())


class Behind(Devices):
    """All of these are behind the gateway ``gw``, which takes one request at a time."""

    open = 0

    def front(self, ep: str) -> str:
        return "gw"

    def awake(self, ep: str) -> bool:
        return "gw" in self.awoken

    async def request(self, ep: str, request: CoapRequest, timeout: float) -> CoapResponse:
        self.open += 1
        assert self.open == 1
        await asyncio.sleep(0)
        self.open -= 1
        return await super().request(ep, request, timeout)


def test_devices_behind_a_gateway_have_one_turn_after_the_other_and_bounds_of_their_own() -> None:
    async def run() -> None:
        devices = Behind("gw", "gw/a", "gw/b", "gw/c", "e")
        all_done = asyncio.Event()
        finished: list[tuple[str, str]] = []

        def finish(command: Command, outcome: CoapResponse | Failure, _: DeviceView | None) -> None:
            finished.append((command.ep, type(outcome).__name__))
            if len(finished) == 6:
                all_done.set()

        lanes = Lanes(
            link=devices,
            definitions=Definitions.builtin(),
            record_sent=_nothing_is_sent,
            record_tried=lambda _: None,
            request_of=_nothing_is_read,
            tell=_nothing_is_told,
            finish=finish,
            now_ms=lambda: NOW,
            limits=Limits(per_device=2),
        )
        try:
            for ep in ("gw/a", "gw", "gw/b", "gw/a", "gw/a", "gw/c"):
                lanes.enqueue(
                    Command(
                        identity=ep.encode(),
                        occurrence=0,
                        sequence=0,
                        ep=ep,
                        raw=RAW,
                        size=len(RAW),
                        received_ms=NOW,
                        expires_ms=None,
                        deadline_ms=NOW + 60_000,
                    )
                )
            assert finished == [("gw/a", "Overloaded")] and lanes.waiting == 5
            # One of them goes: what waits for it is answered, and the others keep their turns.
            devices.names.discard("gw/c")
            lanes.device_gone("gw/c", "gw")
            assert finished[1:] == [("gw/c", "NotRegistered")] and lanes.waiting == 4
            devices.awoken.add("gw")
            lanes.device_awake("gw")
            async with asyncio.timeout(20):
                await all_done.wait()
            assert [ep for ep, _ in finished[2:]] == ["gw/a", "gw", "gw/b", "gw/a"]
            assert (lanes.waiting, lanes.size) == (0, 0)
        finally:
            await lanes.stop(timeout=0)

    asyncio.run(run())


def test_turn_that_is_taken_at_once_keeps_all_else_waiting_until_it_is_given_back() -> None:
    async def run() -> None:
        devices = Devices("a", "b")
        lanes = Lanes(
            link=devices,
            definitions=Definitions.builtin(),
            record_sent=_nothing_is_sent,
            record_tried=lambda _: None,
            request_of=_nothing_is_read,
            tell=_nothing_is_told,
            finish=lambda *_: None,
            now_ms=lambda: NOW,
            limits=Limits(),
        )
        ran = asyncio.Event()

        async def own() -> None:
            ran.set()

        give_back = lanes.take_turn("a")
        assert give_back is not None and lanes.take_turn("a") is None
        other = lanes.take_turn("b")
        assert other is not None
        other()
        assert lanes.take_turn("b") is not None  # it was given back with nothing waiting
        lanes.submit_internal("a", own)
        await asyncio.sleep(0.05)
        assert not ran.is_set()
        give_back()
        async with asyncio.timeout(60):
            await ran.wait()
        await lanes.stop(timeout=1.0)
        assert lanes.take_turn("c") is None

    asyncio.run(run())
