"""One device, one command at a time: the order in which commands reach devices (RFC 7252, section 4.7: NSTART = 1).

Owns the queue of each device, whether a device in queue mode sleeps (OMA LwM2M Core 1.1, section 6.5), how long a
command waits, and what a failed exchange means for it. Devices are reached through `DeviceLink`; it never touches a
socket, and what came of a command goes to `Finish`. What waits is in memory with little more than its name once the
state file has it (`Lanes.park`), and is read back when its turn has come.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

import structlog

from gateway.command import Command, request_in
from gateway.command_states import Tell
from gateway.exchange import (
    CoapRequest,
    CoapResponse,
    DeviceReset,
    DeviceView,
    Expired,
    ExpiredUnanswered,
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
from schemas.avro.records import CommandPhase, FileRequest, Request, RequestKind
from schemas.avro.serde import SerdeError
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

_log = structlog.get_logger("headwater.commands")

#: The longest delay of one timer, in seconds.
_LONGEST_TIMER: Final = 3600.0
#: Commands that expire in the same tenth of a second are looked for together (milliseconds).
_EXPIRY_GRAIN: Final = 100
#: So many commands are answered at once when all of a device's are; then others have their turn.
_PORTION: Final = 200


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

    def front(self, ep: str) -> str:
        """Whose turn a request to ``ep`` waits for: the gateway's that it is behind, or its own."""

    def queue_mode(self, ep: str) -> bool:
        """True if the device sleeps (binding with Q)."""

    def files(self, ep: str) -> str:
        """The URI, less the hash, at which the device finds the gateway's files. Raises DeviceGone."""

    def awake(self, ep: str) -> bool:
        """True if the device can be reached now: not in queue mode, or heard of within the awake window."""

    def send_again(self, ep: str) -> None:
        """Send what a device that was heard of has not acknowledged once more, now."""

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
    per_device: int = 20_000
    in_all: int = 100_000
    #: Their bytes together, which are in the state file.
    bytes_per_device: int = 64 << 20
    bytes_in_all: int = 512 << 20
    #: Bytes that are not in the state file yet: no more is read from Kafka then.
    bytes_in_memory: int = 64 << 20
    #: Requests that were read and of which no start knows yet that they are done with: the same.
    behind: int = 40_000
    #: How long to wait for a response: MAX_TRANSMIT_WAIT (RFC 7252, section 4.8.2).
    answer: float = 93.0
    #: How long at least, where it expires sooner.
    shortest_answer: float = 5.0
    #: How long a file may take to be sent when its request has no ``expires``.
    push: float = 3_600.0
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
#: Has the next start know that a command was sent that may be sent again.
RecordTried = Callable[[Command], None]
#: The request of a command by its sequence, from the state file; raises StateError.
RequestOf = Callable[[int], Awaitable[bytes | None]]


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits for one device and those behind it, and who is at it."""

    ep: str
    waiting: deque[Command | CoroutineFactory] = field(default_factory=deque)
    #: How many of the commands are for which endpoint.
    commands: Counter[str] = field(default_factory=Counter)
    #: Bytes of the commands that wait.
    size: int = 0
    busy: bool = False
    #: A device in queue mode that did not answer; until it is heard of again.
    asleep: bool = False
    #: How often it was heard of while something waited.
    heard: int = 0
    #: For the command that expires first, and when that is (epoch ms).
    timer: asyncio.TimerHandle | None = None
    due_ms: int = 0


class Lanes:
    """The queues of all devices."""

    def __init__(
        self,
        *,
        link: DeviceLink,
        definitions: Definitions,
        record_sent: RecordSent,
        record_tried: RecordTried,
        request_of: RequestOf,
        finish: Finish,
        tell: Tell,
        now_ms: Callable[[], int],
        limits: Limits,
    ) -> None:
        self._record_sent = record_sent
        self._record_tried = record_tried
        self._request_of = request_of
        self._tell = tell
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
        #: Bytes of those that wait; that wait and are not in the state file alone.
        self.size = 0
        self.in_memory = 0
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
            if lane.timer is not None:
                lane.timer.cancel()

    def enqueue(self, command: Command) -> None:
        """Let a command wait for its turn, or finish it at once if it can have none."""
        limits = self._limits
        if command.request is None and not command.on_disk:
            try:
                command.request = request_in(command.raw)
            except SerdeError as exc:
                self._finish(command, Refused(words=f"the request cannot be read: {exc}"), None)
                return
        front = self._link.front(command.ep)
        lane = self._lanes.get(front)
        if self._now_ms() >= command.deadline_ms:
            self._finish(command, _expired(command), None)
        elif self._link.view(command.ep) is None:
            self._finish(command, NotRegistered(), None)
        elif self.waiting >= limits.in_all:
            self._finish(
                command, Overloaded(words=f"{self.waiting:,} commands wait at this gateway; try again later"), None
            )
        elif lane is not None and lane.commands[command.ep] >= limits.per_device:
            words = f"{lane.commands[command.ep]:,} commands wait for {command.ep} already; try again when it was awake"
            self._finish(command, Overloaded(words=words), None)
        elif self._too_large(lane, command.size):
            words = f"commands of {self.size:,} bytes wait at this gateway; try again later"
            self._finish(command, Overloaded(words=words), None)
        else:
            if lane is None:
                lane = self._lanes[front] = _Lane(ep=front)
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
        command.waits = change > 0
        self.waiting += change
        self.size += change * command.size
        lane.size += change * command.size
        lane.commands[command.ep] += change
        if not lane.commands[command.ep]:
            del lane.commands[command.ep]
        if change > 0 and command.on_disk:
            command.raw = b""
        self.in_memory += change * len(command.raw)

    def park(self, command: Command) -> None:
        """The state file has the command: while it waits, its request is nowhere else."""
        if command.waits:
            self.in_memory -= len(command.raw)
            command.raw = b""

    def standing(self, command: Command) -> tuple[CommandPhase, str]:
        """Where an unanswered command stands, and why."""
        if not command.waits:
            return CommandPhase.SENT, ""
        lane = self._lanes.get(self._link.front(command.ep))
        sleeps = lane is not None and self._asleep(lane)
        return CommandPhase.QUEUED, command.words or ("the device sleeps" if sleeps else "")

    def submit_internal(self, ep: str, factory: CoroutineFactory) -> None:
        """Run something of the gateway's own in the device's order: ``factory`` is called when its turn has come.

        Its errors are logged. It also has its turn when the device sleeps, unless commands wait before it.
        """
        ep = self._link.front(ep)
        lane = self._lanes.get(ep)
        if lane is None:
            lane = self._lanes[ep] = _Lane(ep=ep)
        lane.waiting.append(factory)
        self._kick(lane)

    def take_turn(self, ep: str) -> Callable[[], None] | None:
        """The device's turn for something of the gateway's own, if nothing waits for it: then no task is needed.

        What is returned gives the turn back, and is to be called once; until then all else waits.
        """
        ep = self._link.front(ep)
        if self._stopping or ep in self._lanes:
            return None
        lane = self._lanes[ep] = _Lane(ep=ep, busy=True)
        return partial(self._give_back, lane)

    def _give_back(self, lane: _Lane) -> None:
        lane.busy = False
        if lane.waiting:
            self._kick(lane)
        else:
            self._drop(lane)

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
            elif self._link.queue_mode(ep):
                # What it has slept through would come again by the times of RFC 7252, and it may sleep by then.
                self._link.send_again(ep)

    def device_gone(self, ep: str, behind: str | None = None) -> None:
        """The device, perhaps ``behind`` a gateway, has no registration any more: what waits for it is answered so."""
        if behind is not None:
            self._behind_gone(ep, behind)
            return
        lane = self._lanes.get(ep)
        if lane is None:
            return
        waiting = [entry for entry in lane.waiting if isinstance(entry, Command)]
        lane.waiting.clear()
        if not lane.busy:
            self._drop(lane)
        for command in waiting:
            self._count(lane, command, -1)
        self._finish_all(waiting, lambda _: NotRegistered())

    def _finish_all(self, commands: list[Command], failure: Callable[[Command], Failure]) -> None:
        for command in commands[:_PORTION]:
            self._finish(command, failure(command), None)
        if rest := commands[_PORTION:]:
            asyncio.get_running_loop().call_soon(self._finish_all, rest, failure)

    def _drop(self, lane: _Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
        if self._lanes.get(lane.ep) is lane:
            del self._lanes[lane.ep]

    def _behind_gone(self, ep: str, front: str) -> None:
        lane = self._lanes.get(front)
        if lane is None or not lane.commands[ep]:
            return
        gone = [entry for entry in lane.waiting if isinstance(entry, Command) and entry.ep == ep]
        lane.waiting = deque(entry for entry in lane.waiting if not isinstance(entry, Command) or entry.ep != ep)
        for command in gone:
            self._count(lane, command, -1)
        if not lane.waiting and not lane.busy:
            self._drop(lane)
        self._finish_all(gone, lambda _: NotRegistered())

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
                if entry.raw or entry.request is not None or await self._read_back(lane, entry):
                    await self._carry_out(lane, entry)
        finally:
            lane.busy = False
            if not lane.waiting:
                self._drop(lane)

    async def _read_back(self, lane: _Lane, command: Command) -> bool:
        """Have the request again; False: the disk does not give it now, and the command is the next one again."""
        try:
            raw = await self._request_of(command.sequence)
        except StateError as exc:
            _log.warning("a command cannot be read, trying again", ep=lane.ep, ticket=command.ticket, error=str(exc))
            self._put_back(lane, command)
            await asyncio.sleep(self._limits.retry)
            return False
        if raw is None:
            self._finish(command, GatewayFault(words="the request is not in the gateway's state file any more"), None)
            return False
        command.raw = raw
        return True

    async def _run_internal(self, ep: str, factory: CoroutineFactory) -> None:
        try:
            await factory()
        except Exception as exc:  # noqa: BLE001  # it must not keep the commands of the device waiting
            _log.error("the gateway's own request failed", ep=ep, error=f"{type(exc).__name__}: {exc}")

    async def _carry_out(self, lane: _Lane, command: Command) -> None:
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
        now = self._now_ms()
        if now >= command.deadline_ms:
            return _expired(command)
        if view is None:
            return NotRegistered()
        request = command.request or request_in(command.raw)
        command.request = request
        try:
            if isinstance(request.payload.body, FileRequest):
                view = replace(view, files=self._link.files(command.ep))
            coap = build(request, view, self._definitions)
        except RefusedRequest as exc:
            return exc.refused
        except DeviceGone:
            return NotRegistered()
        if not coap.repeatable:
            try:
                async with asyncio.timeout(self._limits.answer):
                    await self._record_sent(command)
            except (StateError, TimeoutError) as exc:
                return GatewayFault(words=f"the command could not be stored, so it was not sent: {exc}")
        self.sent += 1
        self.in_flight += 1
        command.sent = not coap.repeatable
        command.attempts += 1
        if coap.repeatable and command.attempts == 1:
            self._record_tried(command)
        command.since_ms = now
        if command.told:
            self._tell(command, CommandPhase.SENT, "")
        heard = lane.heard
        try:
            return await self._exchange(request, coap, self._patience(command, request, coap, now))
        except RefusedRequest as exc:
            return exc.refused
        except DeviceSentReset:
            return DeviceReset()
        except DeviceGone:
            return NotRegistered() if coap.repeatable else OutcomeUnknown()
        except DeviceMoved:
            if not coap.repeatable:
                return OutcomeUnknown()
            self._put_back(lane, command, "the device moved to another address meanwhile")
            return None
        except DeviceTimeout:
            sleeps = self._link.queue_mode(command.ep)
            if sleeps:
                # Heard of meanwhile, perhaps at a new address: it is asked again, or the next, at once. Else whatever
                # comes next waits for its next wake-up, also behind a command that must not be repeated.
                lane.asleep = lane.heard == heard
            if not coap.repeatable:
                return OutcomeUnknown()
            if self._now_ms() >= command.deadline_ms:
                return _expired(command)
            if not sleeps:
                return TimedOut(seconds=self._limits.answer)
            self._put_back(lane, command, f"no answer within {self._limits.answer:g} s: the device sleeps")
            return None
        finally:
            self.in_flight -= 1

    def _put_back(self, lane: _Lane, command: Command, why: str = "") -> None:
        """The command is the next one again."""
        lane.waiting.appendleft(command)
        self._count(lane, command, 1)
        self._wait(command, lane)
        if why:
            command.words = why
            command.since_ms = self._now_ms()
            if command.told:
                self._tell(command, CommandPhase.QUEUED, why)

    def _patience(self, command: Command, request: Request, coap: CoapRequest, now_ms: int) -> float:
        """For how many seconds a command is sent, again and again, and its answer waited for."""
        limits = self._limits
        timeout = min(limits.answer, max(limits.shortest_answer, (command.deadline_ms - now_ms) / 1000))
        if not coap.pushes:
            return timeout
        return max(timeout, limits.push if request.expires is None else (request.expires - now_ms) / 1000)

    async def _exchange(self, request: Request, coap: CoapRequest, timeout: float) -> CoapResponse:
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
        if lane.timer is None or command.deadline_ms < lane.due_ms:
            self._arm(lane, command.deadline_ms)

    def _arm(self, lane: _Lane, due_ms: int) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
        lane.due_ms = due_ms
        delay = min(max(due_ms - self._now_ms(), 0) / 1000, _LONGEST_TIMER)
        lane.timer = asyncio.get_running_loop().call_later(delay, self._due, lane)

    def _due(self, lane: _Lane) -> None:
        """Answer what has expired, wherever in the queue it is."""
        lane.timer = None
        now = self._now_ms()
        if now < lane.due_ms:
            self._arm(lane, lane.due_ms)
            return
        kept: deque[Command | CoroutineFactory] = deque()
        expired: list[Command] = []
        due_ms = None
        for entry in lane.waiting:
            if isinstance(entry, Command):
                if entry.deadline_ms <= now:
                    expired.append(entry)
                    continue
                due_ms = entry.deadline_ms if due_ms is None else min(due_ms, entry.deadline_ms)
            kept.append(entry)
        lane.waiting = kept
        if due_ms is not None:
            self._arm(lane, max(due_ms, now + _EXPIRY_GRAIN))
        for command in expired:
            self._count(lane, command, -1)
        if not kept and not lane.busy:
            self._drop(lane)
        self._finish_all(expired, _expired)


def _expired(command: Command) -> Expired | ExpiredUnanswered:
    return ExpiredUnanswered() if command.attempts else Expired()
