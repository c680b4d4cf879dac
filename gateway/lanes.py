"""One device, one command at a time: the order in which commands reach devices (RFC 7252, section 4.7: NSTART = 1).

Owns the queue of each device, whether a device in queue mode sleeps (OMA LwM2M Core 1.1, section 6.5), how long a
command waits, and what a failed exchange means for it. Devices are reached through `DeviceLink`; it never touches a
socket, and what came of a command goes to `Finish`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from gateway.command import Command, request_in
from gateway.exchange import (
    CoapRequest,
    CoapResponse,
    DeviceReset,
    DeviceView,
    Expired,
    Failure,
    GatewayFault,
    NotRegistered,
    OutcomeUnknown,
    Overloaded,
    Refused,
    RefusedRequest,
    TimedOut,
)
from gateway.operations import build
from gateway.state import StateError
from schemas.avro.records import Request, RequestKind
from schemas.avro.serde import SerdeError
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

_log = structlog.get_logger("headwater.commands")

#: The longest delay of one timer, in seconds.
_LONGEST_TIMER: Final = 3600.0


class DeviceTimeout(Exception):
    """The device did not answer in time."""


class DeviceMoved(Exception):
    """The device was not reached at the address that it had, and is at another one now."""


class DeviceSentReset(Exception):
    """The device answered with RST."""


class DeviceGone(Exception):
    """The device is not registered (any more)."""


class DeviceLink(Protocol):
    """The way to the devices. The three requests raise DeviceTimeout, DeviceMoved, DeviceSentReset, DeviceGone
    or RefusedRequest.

    They end by their ``timeout``: whoever waits for them sets no other.
    """

    def view(self, ep: str) -> DeviceView | None:
        """The registration as operations need it; None: not registered."""

    def queue_mode(self, ep: str) -> bool:
        """True if the device sleeps (binding with Q)."""

    def awake(self, ep: str) -> bool:
        """True if the device can be reached now: not in queue mode, or heard of within the awake window."""

    async def request(self, ep: str, request: CoapRequest, timeout: float) -> CoapResponse:
        """Send and wait for the response."""

    async def observe(self, ep: str, path: Path, ticket: str, request: CoapRequest, timeout: float) -> CoapResponse:
        """As `request`, and take the notifications that follow; of ``request.paths`` where it is composite."""

    async def cancel(self, ep: str, path: Path, request: CoapRequest, timeout: float) -> CoapResponse:
        """Stop the notifications of ``path``, or of ``request.paths`` where it is composite.

        The response is made up where no message was needed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the command loop. Times in seconds."""

    #: Commands that may wait for one device, and for all.
    per_device: int = 256
    in_all: int = 20_000
    #: Their bytes together: a request may have a megabyte, and waits in memory as well as in the state.
    bytes_per_device: int = 16 << 20
    bytes_in_all: int = 64 << 20
    #: How long to wait for a response: MAX_TRANSMIT_WAIT (RFC 7252, section 4.8.2).
    answer: float = 93.0
    #: How long a command waits for a sleeping device when it has no ``expires``.
    longest_wait: float = 86_400.0
    #: How long an answered request is known.
    remember: float = 86_400.0
    #: Between tries of what the disk or Kafka did not take.
    retry: float = 0.2


#: Takes what came of a command, and the registration it was sent by.
Finish = Callable[[Command, CoapResponse | Failure, DeviceView | None], None]
CoroutineFactory = Callable[[], Awaitable[object]]
#: Makes durable that a command is being sent; raises StateError.
RecordSent = Callable[[Command], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits for one device, and who is at it."""

    ep: str
    waiting: deque[Command | CoroutineFactory] = field(default_factory=deque)
    #: Bytes of the commands that wait.
    size: int = 0
    busy: bool = False
    #: A device in queue mode that did not answer; until it is heard of again.
    asleep: bool = False
    #: How often it was heard of while something waited.
    heard: int = 0


class Lanes:
    """The queues of all devices."""

    def __init__(
        self,
        *,
        link: DeviceLink,
        definitions: Definitions,
        record_sent: RecordSent,
        finish: Finish,
        now_ms: Callable[[], int],
        limits: Limits,
    ) -> None:
        self._record_sent = record_sent
        self._link = link
        self._definitions = definitions
        self._finish = finish
        self._now_ms = now_ms
        self._limits = limits
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        #: Commands that wait for a device; that devices have now; that were sent since the start.
        self.waiting = 0
        #: Bytes of those that wait.
        self.size = 0
        self.in_flight = 0
        self.sent = 0

    async def stop(self, *, timeout: float) -> None:
        """Send nothing new, and wait for what devices have now; the rest waits for the next start."""
        self._stopping = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for lane in self._lanes.values():
            for entry in lane.waiting:
                if isinstance(entry, Command):
                    entry.cancel_timer()

    def enqueue(self, command: Command) -> None:
        """Let a command wait for its turn, or finish it at once if it can have none."""
        limits = self._limits
        if command.request is None:
            try:
                command.request = request_in(command.raw)
            except SerdeError as exc:
                self._finish(command, Refused(words=f"the request cannot be read: {exc}"), None)
                return
        lane = self._lanes.get(command.ep)
        if self._now_ms() >= command.deadline_ms:
            self._finish(command, Expired(), None)
        elif self._link.view(command.ep) is None:
            self._finish(command, NotRegistered(), None)
        elif self.waiting >= limits.in_all:
            self._finish(
                command, Overloaded(words=f"{self.waiting} commands wait at this gateway; try again later"), None
            )
        elif lane is not None and len(lane.waiting) >= limits.per_device:
            words = f"{len(lane.waiting)} commands wait for {command.ep} already; try again later"
            self._finish(command, Overloaded(words=words), None)
        elif self._too_large(lane, len(command.raw)):
            words = f"commands of {self.size} bytes wait at this gateway; try again later"
            self._finish(command, Overloaded(words=words), None)
        else:
            if lane is None:
                lane = self._lanes[command.ep] = _Lane(ep=command.ep)
            at_once = not lane.busy and not lane.waiting
            lane.waiting.append(command)
            self._count(lane, command, 1)
            self._kick(lane)
            if not (at_once and lane.busy):
                self._wait(command, lane)

    def _too_large(self, lane: _Lane | None, size: int) -> bool:
        limits = self._limits
        return self.size + size > limits.bytes_in_all or (
            lane is not None and lane.size + size > limits.bytes_per_device
        )

    def _count(self, lane: _Lane, command: Command, change: int) -> None:
        """One command more (1) or less (-1) waits."""
        self.waiting += change
        self.size += change * len(command.raw)
        lane.size += change * len(command.raw)

    def submit_internal(self, ep: str, factory: CoroutineFactory) -> None:
        """Run something of the gateway's own in the device's order: ``factory`` is called when its turn has come.

        Its errors are logged. It also has its turn when the device sleeps, unless commands wait before it.
        """
        lane = self._lanes.get(ep)
        if lane is None:
            lane = self._lanes[ep] = _Lane(ep=ep)
        lane.waiting.append(factory)
        self._kick(lane)

    def device_awake(self, ep: str) -> None:
        """The device was heard of (registration, update, notification, Send): what waits for it is sent.

        Cheap where nothing waits: it may be called for every notification.
        """
        lane = self._lanes.get(ep)
        if lane is not None:
            lane.asleep = False
            lane.heard += 1
            if not lane.busy:
                self._kick(lane)

    def device_gone(self, ep: str) -> None:
        """The device de-registered, or its registration expired: what waits for it is answered so."""
        lane = self._lanes.get(ep)
        if lane is None:
            return
        waiting = list(lane.waiting)
        lane.waiting.clear()
        if not lane.busy:
            del self._lanes[ep]
        for entry in waiting:
            if isinstance(entry, Command):
                self._count(lane, entry, -1)
                self._finish(entry, NotRegistered(), None)

    def _kick(self, lane: _Lane) -> None:
        if lane.busy or self._stopping or not lane.waiting:
            return
        if isinstance(lane.waiting[0], Command) and self._asleep(lane):
            return
        lane.busy = True
        task = asyncio.get_running_loop().create_task(self._drain(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _asleep(self, lane: _Lane) -> bool:
        return lane.asleep or (self._link.view(lane.ep) is not None and not self._link.awake(lane.ep))

    async def _drain(self, lane: _Lane) -> None:
        try:
            while lane.waiting and not self._stopping:
                entry = lane.waiting[0]
                if not isinstance(entry, Command):
                    lane.waiting.popleft()
                    await self._run_internal(lane.ep, entry)
                    continue
                if self._asleep(lane):
                    break
                lane.waiting.popleft()
                self._count(lane, entry, -1)
                await self._carry_out(lane, entry)
        finally:
            lane.busy = False
            if not lane.waiting and self._lanes.get(lane.ep) is lane:
                del self._lanes[lane.ep]

    async def _run_internal(self, ep: str, factory: CoroutineFactory) -> None:
        try:
            await factory()
        except Exception as exc:  # noqa: BLE001  # it must not keep the commands of the device waiting
            _log.error("the gateway's own request failed", ep=ep, error=f"{type(exc).__name__}: {exc}")

    async def _carry_out(self, lane: _Lane, command: Command) -> None:
        command.cancel_timer()
        view = self._link.view(command.ep)
        try:
            outcome = await self._ask(lane, command, view)
        except Exception as exc:  # noqa: BLE001  # whatever fails here, the request has a reply and the next its turn
            _log.error("a command failed", ep=command.ep, ticket=command.ticket, error=f"{type(exc).__name__}: {exc}")
            outcome = OutcomeUnknown() if command.sent else GatewayFault(words=f"{type(exc).__name__}: {exc}")
        if outcome is not None:
            self._finish(command, outcome, view)

    async def _ask(self, lane: _Lane, command: Command, view: DeviceView | None) -> CoapResponse | Failure | None:
        """What came of it; None: the device sleeps, and the command waits again."""
        if self._now_ms() >= command.deadline_ms:
            return Expired()
        if view is None:
            return NotRegistered()
        request = command.request or request_in(command.raw)
        command.request = request
        try:
            coap = build(request, view, self._definitions)
        except RefusedRequest as exc:
            return exc.refused
        if not coap.repeatable:
            try:
                async with asyncio.timeout(self._limits.answer):
                    await self._record_sent(command)
            except (StateError, TimeoutError) as exc:
                return GatewayFault(words=f"the command could not be stored, so it was not sent: {exc}")
        self.sent += 1
        self.in_flight += 1
        command.sent = not coap.repeatable
        heard = lane.heard
        try:
            return await self._exchange(request, coap)
        except RefusedRequest as exc:
            return exc.refused
        except DeviceSentReset:
            return DeviceReset()
        except DeviceGone:
            return NotRegistered() if coap.repeatable else OutcomeUnknown()
        except DeviceMoved:
            if not coap.repeatable:
                return OutcomeUnknown()
            self._put_back(lane, command)
            return None
        except DeviceTimeout:
            if not coap.repeatable:
                return OutcomeUnknown()
            if not self._link.queue_mode(command.ep):
                return TimedOut(seconds=self._limits.answer)
            # Heard of meanwhile, perhaps at a new address: it is asked again at once.
            lane.asleep = lane.heard == heard
            self._put_back(lane, command)
            return None
        finally:
            self.in_flight -= 1

    def _put_back(self, lane: _Lane, command: Command) -> None:
        """The command is the next one again."""
        lane.waiting.appendleft(command)
        self._count(lane, command, 1)
        self._wait(command, lane)

    async def _exchange(self, request: Request, coap: CoapRequest) -> CoapResponse:
        timeout = self._limits.answer
        match request.payload.kind:
            case RequestKind.OBSERVE | RequestKind.OBSERVE_COMPOSITE:
                path = Path.parse(request.payload.path)
                return await self._link.observe(request.ep, path, request.ticket, coap, timeout)
            case RequestKind.OBSERVE_CANCEL | RequestKind.OBSERVE_COMPOSITE_CANCEL:
                return await self._link.cancel(request.ep, Path.parse(request.payload.path), coap, timeout)
            case _:
                return await self._link.request(request.ep, coap, timeout)

    def _wait(self, command: Command, lane: _Lane) -> None:
        # The bytes are enough while it waits.
        command.request = None
        delay = min(max(command.deadline_ms - self._now_ms(), 0) / 1000, _LONGEST_TIMER)
        command.timer = asyncio.get_running_loop().call_later(delay, self._deadline, command, lane)

    def _deadline(self, command: Command, lane: _Lane) -> None:
        command.timer = None
        if command not in lane.waiting:
            return
        if self._now_ms() < command.deadline_ms:
            self._wait(command, lane)
            return
        lane.waiting.remove(command)
        self._count(lane, command, -1)
        if not lane.waiting and not lane.busy:
            self._lanes.pop(lane.ep, None)
        self._finish(command, Expired(), None)
