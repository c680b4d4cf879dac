"""The loop of a load: one UDP socket a device, all of them under one epoll, and the times of all devices.

Owns the sockets, who starts, waits and leaves when, and the end: by itself once every device has done its loops or the
duration is over, in a bounded time once it is told to stop. One thread does it all. Devices have a port of their own
each, since a gateway tells them apart by their addresses.
"""

from __future__ import annotations

import random
import resource
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from gateway.coap.message import MAX_DATAGRAM
from gateway.devices.load.content import Content
from gateway.devices.load.device import Device
from gateway.devices.load.plan import Plan
from gateway.devices.load.samples import Ledger, Recorder
from gateway.devices.load.session import Session
from gateway.devices.load.shared import Doing, Load, Reads
from gateway.devices.load.waiting import Waiting
from security.credentials.kinds import Oscore, Psk

#: How often what waits is looked through, and ``watch`` is called, in seconds.
LOOK_EVERY = 0.1
#: Devices that leave at a time, so that the end of a load is no load of its own.
_LEAVING = 64
#: Once told to stop: how long open exchanges are waited for, and how long in all.
FINISH_FOR, LEAVE_FOR = 4.0, 8.5
#: Descriptors beside the devices' sockets: Kafka's client, files, epoll.
_OTHER_FILES = 128
_MOST_EVENTS = 1024
_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


class CannotLoad(Exception):
    """The load cannot run here; the text says what to do."""


class Reply(NamedTuple):
    """What became of a read: a code as ``2.05``, the value in the reply, else the words."""

    ticket: str
    code: str
    value: float | None
    message: str


class Reading(Reads, Protocol):
    """`Reads`, with what comes back: ``fileno`` is readable when there is some."""

    def fileno(self) -> int: ...

    def replies(self) -> Iterable[Reply]: ...


@dataclass(slots=True)
class Activity:
    """How many devices were started, and are done."""

    threads: int
    started: int = 0
    finished: int = 0

    @property
    def active(self) -> int:
        return self.started - self.finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the load came to, beside its samples. ``counts`` has what was noticed, by its name."""

    activity: Activity
    stopped: bool
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)


def resolve(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    """The family and address of the server. Raises OSError: the name does not resolve."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return family, address


def make_room(devices: int) -> None:
    """Let this process have a socket for each device, before anything is begun.

    Raises:
        CannotLoad: it may not have as many files, or there are not as many ports.
    """
    needed = devices + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise CannotLoad(
                f"{devices} devices need {needed} open files, and this process may have {hard}: raise that (ulimit -n "
                f"{needed}, LimitNOFILE={needed} of a systemd unit), or take fewer --threads"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    try:
        first, last = map(int, _PORTS.read_text().split())
    except (OSError, ValueError):
        return  # no Linux
    if devices > last - first + 1:
        raise CannotLoad(
            f"{devices} devices need a UDP port each, and one address of this machine has {last - first + 1}: raise "
            "that (sysctl net.ipv4.ip_local_port_range='10000 65535'), or take fewer --threads here and others on "
            "another machine"
        )


class Engine:
    """One run of a plan. ``watch`` is called every tenth of a second."""

    def __init__(
        self,
        plan: Plan,
        server: tuple[int, tuple[object, ...]],
        recorder: Recorder,
        ledger: Ledger | None,
        *,
        reads: Reading | None = None,
        keys: Mapping[str, Psk | Oscore] | None = None,
        watch: Callable[[Activity], None] = lambda activity: None,
        activity: Activity | None = None,
        seed: int | None = None,
    ) -> None:
        self._plan = plan
        self._server = server
        self._reads = reads
        self._keys = keys or {}
        self._watch = watch
        self._clock = clock = time.monotonic
        self.activity = activity or Activity(plan.threads)
        self._devices: dict[int, Device] = {}
        #: Devices that wait, by when they go on.
        self._waiting = Waiting[Device]()
        #: Devices that go on at once, after the others have had their turn.
        self._next: list[Device] = []
        self._leaving: deque[Device] = deque()
        source = random.Random(seed)
        self._load = Load(
            plan=plan,
            content=Content(plan.path, plan.lifetime),
            recorder=recorder,
            ledger=ledger,
            reads=reads,
            offset=time.time() - clock(),
            wait=self._waiting.wait,
            turn=self._next.append,
            done=self._done,
            run=f"load-{random.getrandbits(48):012x}",
            random=source,
        )
        self._going: set[Device] = set()
        #: For the replies to reads.
        self._by_number: dict[int, Device] = {}
        self._poll: select.epoll | None = None

    @property
    def unreachable(self) -> int:
        """How often ICMP said that nobody listens there."""
        return self._load.counts["unreachable"]

    def run(self, stop: threading.Event) -> Outcome:
        """Do it all; returns once every device is done, or a few seconds after ``stop`` is set.

        Raises:
            CannotLoad: a device gets no socket, though `make_room` was called before.
        """
        begin = self._clock()
        with select.epoll() as poll:
            self._poll = poll
            if self._reads is not None:
                poll.register(self._reads.fileno(), select.EPOLLIN)
            try:
                self._loop(poll, begin, stop)
            finally:
                for device in self._devices.values():
                    device.sock.close()
        seconds = self._clock() - begin
        return Outcome(
            activity=self.activity, stopped=stop.is_set(), seconds=seconds, counts=Counter(self._load.counts)
        )

    def _loop(self, poll: select.epoll, begin: float, stop: threading.Event) -> None:
        plan, load, clock, waiting = self._plan, self._load, self._clock, self._waiting
        settle = load.recorder.settle
        ends = begin + plan.duration if plan.duration is not None else float("inf")
        look_at = begin
        stopped_at: float | None = None
        while True:
            now = clock()
            if now >= look_at:
                look_at = now + LOOK_EVERY
                if stop.is_set() and stopped_at is None:
                    stopped_at = now
                if not load.ending and (stopped_at is not None or now >= ends):
                    self._end_all()
                if stopped_at is not None:
                    self._hurry(now, now - stopped_at)
                self._look(now)
                self._watch(self.activity)
            if not load.ending:
                self._start_due(begin, now)
            elif self._leaving:
                self._leave_some(now)
            if self.activity.finished == self.activity.started and (
                load.ending or self.activity.started == plan.threads
            ):
                self._watch(self.activity)
                return
            for device in waiting.due(now):
                device.step(now)
            if self._next:
                for device in self._taken():
                    device.step(now)
            settle()
            until = now if self._next else min(look_at, waiting.next)
            if not load.ending and self.activity.started < plan.threads:
                until = min(until, begin + plan.start_of(self.activity.started + 1))
            self._take(poll, max(0.0, until - clock()))

    def _taken(self) -> list[Device]:
        """Whose turn it is; with what they do they may have another one."""
        taken = self._next.copy()
        self._next.clear()
        return taken

    def _take(self, poll: select.epoll, timeout: float) -> None:
        """Take one datagram of each socket that has some; the others come the next time."""
        devices, clock = self._devices, self._clock
        for number, _ in poll.poll(timeout, _MOST_EVENTS):
            device = devices.get(number)
            if device is None:
                if self._reads is not None and number == self._reads.fileno():
                    self._take_replies(self._reads)
                continue
            try:
                datagram = device.receive(MAX_DATAGRAM)
            except BlockingIOError:  # a checksum that was wrong
                continue
            except OSError:  # ICMP: nobody is there
                self._load.counts["unreachable"] += 1
                continue
            if datagram == device.exchange.awaited:
                device.went_well(clock(), len(datagram))
            else:
                device.hear(datagram, clock())

    def _take_replies(self, reads: Reading) -> None:
        now = self._clock()
        for reply in reads.replies():
            number = reply.ticket.removeprefix(f"{self._load.run}-").partition("-")[0]
            device = self._by_number.get(int(number)) if number.isdigit() else None
            if device is not None:
                device.replied(*reply, now)

    # Who starts, waits and leaves

    def _start_due(self, begin: float, now: float) -> None:
        plan, activity = self._plan, self.activity
        # A few at a time, so that those who run are heard meanwhile.
        for _ in range(_LEAVING):
            if activity.started == plan.threads or begin + plan.start_of(activity.started + 1) > now:
                return
            device = self._new(activity.started + 1, now)
            activity.started += 1
            device.step(now)

    def _new(self, number: int, now: float) -> Device:
        family, address = self._server
        endpoint = self._plan.endpoints[number - 1]
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(address)
        except OSError as exc:
            sock.close()
            raise CannotLoad(
                f"device {number} of {self._plan.threads} gets no UDP port ({exc.strerror}): is the server's address "
                "one that can be reached from here, and are there so many ports (net.ipv4.ip_local_port_range)?"
            ) from exc
        device = Device(number, endpoint, self._load, sock, now)
        key = self._keys.get(endpoint)
        if isinstance(key, Psk):
            device.exchange.session = Session(key, sock)
        elif key is not None:
            from gateway.devices.load.oscore_session import OscoreSession

            device.exchange.session = OscoreSession(key, endpoint, sock, device.forgotten)
        self._devices[sock.fileno()] = device
        if self._reads is not None:
            self._by_number[number] = device
        assert self._poll is not None
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return device

    def _done(self, device: Device) -> None:
        self.activity.finished += 1
        self._going.discard(device)
        self._by_number.pop(device.number, None)
        del self._devices[device.sock.fileno()]
        device.sock.close()

    def _look(self, now: float) -> None:
        """Whose time is over, and what DTLS has to say again."""
        for device in list(self._devices.values()):
            exchange = device.exchange
            if exchange.deadline <= now:
                device.overdue(now)
            if exchange.session is not None and exchange.session.deadline <= now:
                device.tick(now)

    def _end_all(self) -> None:
        """Nobody begins anything; who waits for nothing leaves in turn, the others when their exchange is done."""
        self._load.ending = True
        self._waiting.clear()
        self._next.clear()
        self._leaving.extend(one for one in self._devices.values() if one.exchange.doing is Doing.NOTHING)

    def _leave_some(self, now: float) -> None:
        while self._leaving and len(self._going) < _LEAVING:
            device = self._leaving.popleft()
            if device.exchange.doing is Doing.NOTHING:
                self._going.add(device)
                device.leave(now)

    def _hurry(self, now: float, since: float) -> None:
        """Give up what is still open ``since`` seconds after it was told to stop."""
        if since < FINISH_FOR:
            return
        everything = since >= LEAVE_FOR
        if everything:
            self._load.counts["not de-registered"] += sum(one.registered for one in self._devices.values())
        for device in list(self._devices.values()):
            if device.exchange.doing is not Doing.NOTHING and (
                everything or device.exchange.doing is not Doing.DEREGISTER
            ):
                device.abandon(now)
        if everything:
            for device in list(self._devices.values()):
                self._done(device)
            self._leaving.clear()
