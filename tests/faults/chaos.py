"""A UDP proxy between devices and a server on 127.0.0.1 that drops, doubles, delays and reorders datagrams.

Seeded: the fate of a datagram depends on the seed, on its device (by order of first appearance), its direction and its
number in that direction, and on nothing else; so a run with the same traffic meets the same faults. Each device gets
an upstream socket of its own, so that the server sees as many addresses as there are devices.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import cast

Address = tuple[str, int]


class Direction(Enum):
    """Where a datagram goes."""

    UP = "up"  # from a device to the server
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities from 0 to 1, judged anew for each datagram; times in seconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    #: Held back by a time between nothing and ``longest_delay``; later ones overtake it.
    delay: float = 0.0
    longest_delay: float = 0.2
    #: Held back until the next datagram of the same device and direction has passed.
    reorder: float = 0.0
    #: At the latest after this time a held one goes, in case that none follows.
    longest_hold: float = 0.5


NONE = Faults()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What happens to one datagram: ``copies`` of 0 is a drop."""

    copies: int
    delay: float
    held: bool


def fate(faults: Faults, source: random.Random) -> Fate:
    """Draw the fate of the next datagram; always five draws, so that one probability does not move the others."""
    drop, duplicate, delay, how_long, reorder = (source.random() for _ in range(5))
    return Fate(
        copies=0 if drop < faults.drop else 2 if duplicate < faults.duplicate else 1,
        delay=how_long * faults.longest_delay if delay < faults.delay else 0.0,
        held=reorder < faults.reorder,
    )


class _Way:
    """One direction of one device."""

    def __init__(self, source: random.Random, send: Callable[[bytes], None]) -> None:
        self.source = source
        self.send = send
        self.held: list[tuple[bytes, asyncio.TimerHandle]] = []


class _Upstream(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._received(data)

    def error_received(self, exc: Exception) -> None:
        # "Connection refused": the server is down just now, which is one of the faults.
        pass


class ChaosProxy(asyncio.DatagramProtocol):
    """The proxy; `start` makes one. ``up`` and ``down`` may be changed while it runs."""

    def __init__(self, server: Address, seed: int, up: Faults, down: Faults) -> None:
        self.up = up
        self.down = down
        #: What happened, by (direction, "passed" | "dropped" | "duplicated" | "delayed" | "reordered").
        self.counts: Counter[tuple[Direction, str]] = Counter()
        self._server = server
        self._seed = seed
        self._transport: asyncio.DatagramTransport | None = None
        self._ways: dict[Address, dict[Direction, _Way]] = {}
        self._sockets: list[asyncio.DatagramTransport] = []
        self._opening: dict[Address, list[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._stopped = False
        self._counted = asyncio.Event()

    @property
    def address(self) -> Address:
        """Where devices send to."""
        assert self._transport is not None, "the proxy is not started"
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, no check: asyncio's own datagram transport does not derive from DatagramTransport.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        ways = self._ways.get(addr)
        if ways is not None:
            self._pass(ways[Direction.UP], Direction.UP, data)
        elif addr in self._opening:
            self._opening[addr].append(data)
        else:
            self._opening[addr] = [data]
            task = asyncio.get_running_loop().create_task(self._open(addr, number=len(self._ways) + len(self._opening)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def error_received(self, exc: Exception) -> None:
        # A device that went away: its datagrams are lost, as they are on a network.
        pass

    async def _open(self, device: Address, number: int) -> None:
        loop = asyncio.get_running_loop()
        down_source = random.Random(f"{self._seed}/{number}/down")
        downstream = self._transport
        assert downstream is not None
        down = _Way(down_source, lambda data: downstream.sendto(data, device))
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Upstream(lambda data: self._pass(down, Direction.DOWN, data)), remote_addr=self._server
        )
        self._sockets.append(transport)
        up = _Way(random.Random(f"{self._seed}/{number}/up"), transport.sendto)
        self._ways[device] = {Direction.UP: up, Direction.DOWN: down}
        for data in self._opening.pop(device):
            self._pass(up, Direction.UP, data)

    def _pass(self, way: _Way, direction: Direction, data: bytes) -> None:
        if self._stopped:
            return
        faults = self.up if direction is Direction.UP else self.down
        what = fate(faults, way.source)
        if what.copies == 0:
            self._count(direction, "dropped")
            return
        if what.held:
            self._count(direction, "reordered")
            entry = (data, self._later(faults.longest_hold, lambda: self._release(way, direction)))
            way.held.append(entry)
            return
        if what.copies == 2:
            self._count(direction, "duplicated")
        for _ in range(what.copies):
            if what.delay:
                self._count(direction, "delayed")
                self._later(what.delay, lambda: self._send(way, direction, data))
            else:
                self._send(way, direction, data)
        self._release(way, direction)

    def _release(self, way: _Way, direction: Direction) -> None:
        held, way.held = way.held, []
        for data, timer in held:
            timer.cancel()
            self._timers.discard(timer)
            self._send(way, direction, data)

    def _send(self, way: _Way, direction: Direction, data: bytes) -> None:
        if not self._stopped:
            self._count(direction, "passed")
            way.send(data)

    def _later(self, seconds: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        def run() -> None:
            self._timers.discard(timer)
            action()

        timer = asyncio.get_running_loop().call_later(seconds, run)
        self._timers.add(timer)
        return timer

    def _count(self, direction: Direction, what: str) -> None:
        self.counts[direction, what] += 1
        self._counted.set()

    async def until(self, direction: Direction, what: str, number: int = 1) -> None:
        """Wait until that has happened ``number`` times."""
        while self.counts[direction, what] < number:
            self._counted.clear()
            await self._counted.wait()

    def cut(self) -> None:
        """Nothing passes any more in either direction; `mend` ends it. What is held back or delayed is lost too."""
        self.up = self.down = Faults(drop=1.0)
        self._forget()

    def mend(self, up: Faults = NONE, down: Faults = NONE) -> None:
        """Go on with these faults, by default none."""
        self.up, self.down = up, down

    def stop(self) -> None:
        """Close all sockets; what is under way is lost."""
        self._stopped = True
        self._forget()
        for task in self._tasks:
            task.cancel()
        for one in (self._transport, *self._sockets):
            if one is not None:
                one.close()

    def _forget(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for ways in self._ways.values():
            for way in ways.values():
                way.held.clear()


async def start(server: Address, *, seed: int, up: Faults = NONE, down: Faults = NONE) -> ChaosProxy:
    """Open a proxy to ``server`` on a free port of 127.0.0.1."""
    _, proxy = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: ChaosProxy(server, seed, up, down), local_addr=("127.0.0.1", 0)
    )
    return proxy
