"""One device, one command at a time: the order in which commands reach devices (RFC 7252, section 4.7: NSTART = 1).

Owns the queue of each device, whether a device in queue mode sleeps (OMA LwM2M Core 1.1, section 6.5) and how long a
command waits. Asking a device is `gateway.asking`'s, and what came of a command goes to `Finish`. What waits is in
memory with little more than its name once the state file has it (`Lanes.park`), and is read back when its turn comes.

A command that finds its device free, and takes no more than a datagram and its answer, goes the short way: it has no
task of its own. All others go through `_drain`; what came of either is dealt with in one place, `_came_of`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from gateway.asking import Again, Asking, Outcome, RecordSent, RecordTried, Silent, expired
from gateway.command import Command, request_in
from gateway.command_states import Tell
from gateway.exchange import (
    CoapResponse,
    DeviceView,
    Failure,
    GatewayFault,
    NotRegistered,
    Overloaded,
    Refused,
)
from gateway.limits import Limits
from gateway.reaching import DeviceLink, Rest
from gateway.state import StateError
from schemas.avro.records import CommandPhase
from schemas.avro.serde import SerdeError
from schemas.lwm2m.objects import Definitions

_log = structlog.get_logger("headwater.commands")

#: The longest delay of one timer, in seconds.
_LONGEST_TIMER: Final = 3600.0
#: Commands that expire in the same tenth of a second are looked for together (milliseconds).
_EXPIRY_GRAIN: Final = 100
#: So many commands are answered at once when all of a device's are; then others have their turn.
_PORTION: Final = 200


#: Takes what came of a command, and the registration it was sent by.
Finish = Callable[[Command, CoapResponse | Failure, DeviceView | None], None]
CoroutineFactory = Callable[[], Awaitable[object]]
#: The request of a command by its sequence, from the state file; raises StateError.
RequestOf = Callable[[int], Awaitable[bytes | None]]


@dataclass(slots=True, eq=False)
class Lane:
    """What waits for one device and those behind it, and who is at it."""

    ep: str
    waiting: deque[Command | CoroutineFactory] = field(default_factory=deque)
    #: How many of the commands are for which endpoint.
    commands: dict[str, int] = field(default_factory=dict)
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
        self.asking = Asking(
            link=link,
            definitions=definitions,
            record_sent=record_sent,
            record_tried=record_tried,
            tell=tell,
            now_ms=now_ms,
            limits=limits,
        )
        self._request_of = request_of
        self._tell = tell
        self._link = link
        self._finish = finish
        self._now_ms = now_ms
        self._limits = limits
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stopped = False
        #: Commands that are asked without a task; told when there is none any more, at the end.
        self._without_task = 0
        self._none_without_task: asyncio.Future[None] | None = None
        #: Commands that wait for a device.
        self.waiting = 0
        #: Bytes of those that wait; that wait and are not in the state file alone.
        self.size = 0
        self.in_memory = 0

    @property
    def in_flight(self) -> int:
        """Commands that devices have now."""
        return self.asking.in_flight

    @property
    def sent(self) -> int:
        """How often one was sent since the start."""
        return self.asking.sent

    async def stop(self, *, timeout: float) -> None:
        """Send nothing new, and wait for what devices have now; the rest waits for the next start."""
        self._stopping = True
        waited: set[asyncio.Future[None]] = {*self._tasks}
        if self._without_task:
            self._none_without_task = asyncio.get_running_loop().create_future()
            waited.add(self._none_without_task)
        if waited:
            _, late = await asyncio.wait(waited, timeout=timeout)
            for one in late:
                one.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._stopped = True
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
            self._finish(command, expired(command), None)
        elif self._link.view(command.ep) is None:
            self._finish(command, NotRegistered(), None)
        elif self.waiting >= limits.in_all:
            self._finish(
                command, Overloaded(words=f"{self.waiting:,} commands wait at this gateway; try again later"), None
            )
        elif lane is not None and lane.commands.get(command.ep, 0) >= limits.per_device:
            words = f"{lane.commands[command.ep]:,} commands wait for {command.ep} already; try again when it was awake"
            self._finish(command, Overloaded(words=words), None)
        elif self._too_large(lane, command.size):
            words = f"commands of {self.size:,} bytes wait at this gateway; try again later"
            self._finish(command, Overloaded(words=words), None)
        else:
            if lane is None:
                lane = self._lanes[front] = Lane(ep=front)
            at_once = not lane.busy and not lane.waiting
            if at_once and self._begin(lane, command):
                return
            lane.waiting.append(command)
            self._count(lane, command, 1)
            self._kick(lane)
            if not (at_once and lane.busy):
                self._wait(command, lane)

    def _too_large(self, lane: Lane | None, size: int) -> bool:
        limits = self._limits
        return self.size + size > limits.bytes_in_all or (
            lane is not None and lane.size + size > limits.bytes_per_device
        )

    def _count(self, lane: Lane, command: Command, change: int) -> None:
        """One command more (1) or less (-1) waits."""
        command.waits = change > 0
        self.waiting += change
        self.size += change * command.size
        lane.size += change * command.size
        lane.commands[command.ep] = lane.commands.get(command.ep, 0) + change
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
            lane = self._lanes[ep] = Lane(ep=ep)
        lane.waiting.append(factory)
        self._kick(lane)

    def take_turn(self, ep: str) -> Callable[[], None] | None:
        """The device's turn for something of the gateway's own, if nothing waits for it: then no task is needed.

        What is returned gives the turn back, and is to be called once; until then all else waits.
        """
        ep = self._link.front(ep)
        if self._stopping or ep in self._lanes:
            return None
        lane = self._lanes[ep] = Lane(ep=ep, busy=True)
        return partial(self._give_back, lane)

    def free_turn(self, ep: str, size: int) -> Lane | None:
        """The turn of a device that is behind no other, for a command of ``size`` bytes that is asked without a task;
        None: the command is to be enqueued. `turn_over` or `came` gives it back.
        """
        if ep in self._lanes or self._stopping or self.waiting >= self._limits.in_all or self._too_large(None, size):
            return None
        lane = self._lanes[ep] = Lane(ep=ep, busy=True)
        self._without_task += 1
        return lane

    def _give_back(self, lane: Lane) -> None:
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

    def _drop(self, lane: Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
        if self._lanes.get(lane.ep) is lane:
            del self._lanes[lane.ep]

    def _behind_gone(self, ep: str, front: str) -> None:
        lane = self._lanes.get(front)
        if lane is None or ep not in lane.commands:
            return
        gone = [entry for entry in lane.waiting if isinstance(entry, Command) and entry.ep == ep]
        lane.waiting = deque(entry for entry in lane.waiting if not isinstance(entry, Command) or entry.ep != ep)
        for command in gone:
            self._count(lane, command, -1)
        if not lane.waiting and not lane.busy:
            self._drop(lane)
        self._finish_all(gone, lambda _: NotRegistered())

    def _kick(self, lane: Lane) -> None:
        if lane.busy or self._stopping or not lane.waiting:
            return
        if isinstance(lane.waiting[0], Command) and self._asleep(lane):
            return
        lane.busy = True
        self._spawn(self._drain(lane))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _asleep(self, lane: Lane) -> bool:
        return lane.asleep or (self._link.view(lane.ep) is not None and not self._link.awake(lane.ep))

    async def _drain(self, lane: Lane) -> None:
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

    async def _read_back(self, lane: Lane, command: Command) -> bool:
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

    def _begin(self, lane: Lane, command: Command) -> bool:
        """Ask at once and without a task, if the device can hear it and no more is needed."""
        view = self._link.view(command.ep)
        if view is None or self._stopping or self._asleep(lane):
            return False
        heard = lane.heard

        def came(outcome: Outcome | Rest) -> None:
            self.came(lane, command, view, outcome, heard)

        if not self.asking.begin(command, view, came):
            return False
        self._without_task += 1
        lane.busy = True
        return True

    def came(self, lane: Lane, command: Command, view: DeviceView, outcome: Outcome | Rest, heard: int) -> None:
        """What came of a command that was asked without a task, by ``view``; `Lane.heard` was ``heard`` before."""
        if self._stopped:
            return  # the next start asks again
        if isinstance(outcome, Rest):
            self._spawn(self._await_rest(lane, command, view, outcome, heard))
        else:
            self._ended(lane, command, view, outcome, heard)

    async def _await_rest(self, lane: Lane, command: Command, view: DeviceView, rest: Rest, heard: int) -> None:
        try:
            outcome = await self.asking.rest_of(command, rest)
        except Exception as exc:  # noqa: BLE001  # as in _carry_out
            outcome = self.asking.fault(command, exc)
        self._ended(lane, command, view, outcome, heard)

    def _ended(self, lane: Lane, command: Command, view: DeviceView, outcome: Outcome, heard: int) -> None:
        """What was asked without a task has come to its end, and the next has its turn."""
        try:
            self._came_of(lane, command, view, outcome, heard)
        finally:
            self.turn_over(lane)

    def turn_over(self, lane: Lane) -> None:
        """The turn of a command that was asked without a task is over."""
        self._without_task -= 1
        if self._none_without_task is not None and not self._without_task:
            self._none_without_task.set_result(None)
        self._give_back(lane)

    async def _carry_out(self, lane: Lane, command: Command) -> None:
        view, heard = self._link.view(command.ep), lane.heard
        try:
            outcome = await self.asking.ask(command, view)
        except Exception as exc:  # noqa: BLE001  # whatever fails here, the request has a reply and the next its turn
            outcome = self.asking.fault(command, exc)
        self._came_of(lane, command, view, outcome, heard)

    def _came_of(self, lane: Lane, command: Command, view: DeviceView | None, outcome: Outcome, heard: int) -> None:
        """Finish the command, or have it wait again; ``heard`` is how often the device was heard of before."""
        if isinstance(outcome, Silent):
            # Heard of meanwhile, perhaps at a new address: it is asked again, or the next, at once. Else whatever
            # comes next waits for its next wake-up, also behind a command that must not be repeated.
            lane.asleep = lane.heard == heard
            outcome = outcome.then
        if isinstance(outcome, Again):
            self._put_back(lane, command, outcome.words)
        else:
            self._finish(command, outcome, view)

    def _put_back(self, lane: Lane, command: Command, why: str = "") -> None:
        """The command is the next one again."""
        lane.waiting.appendleft(command)
        self._count(lane, command, 1)
        self._wait(command, lane)
        if why:
            command.words = why
            command.since_ms = self._now_ms()
            if command.told:
                self._tell(command, CommandPhase.QUEUED, why)

    def _wait(self, command: Command, lane: Lane) -> None:
        # The bytes are enough while it waits.
        command.request = None
        if lane.timer is None or command.deadline_ms < lane.due_ms:
            self._arm(lane, command.deadline_ms)

    def _arm(self, lane: Lane, due_ms: int) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
        lane.due_ms = due_ms
        delay = min(max(due_ms - self._now_ms(), 0) / 1000, _LONGEST_TIMER)
        lane.timer = asyncio.get_running_loop().call_later(delay, self._due, lane)

    def _due(self, lane: Lane) -> None:
        """Answer what has expired, wherever in the queue it is."""
        lane.timer = None
        now = self._now_ms()
        if now < lane.due_ms:
            self._arm(lane, lane.due_ms)
            return
        kept: deque[Command | CoroutineFactory] = deque()
        late: list[Command] = []
        due_ms = None
        for entry in lane.waiting:
            if isinstance(entry, Command):
                if entry.deadline_ms <= now:
                    late.append(entry)
                    continue
                due_ms = entry.deadline_ms if due_ms is None else min(due_ms, entry.deadline_ms)
            kept.append(entry)
        lane.waiting = kept
        if due_ms is not None:
            self._arm(lane, max(due_ms, now + _EXPIRY_GRAIN))
        for command in late:
            self._count(lane, command, -1)
        if not kept and not lane.busy:
            self._drop(lane)
        self._finish_all(late, expired)
