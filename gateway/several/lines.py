"""The lines from one process of a gateway to each of the others, and the packets that go over them.

Owns the sockets and the form of a packet: its kind in one byte, and what it has. A line keeps packets in order and
loses none; one that is full takes no more, and who sends is told so.
"""

from __future__ import annotations

import asyncio
import marshal
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

import structlog

from gateway.several.seat import Seat, adopted

_log = structlog.get_logger("headwater.crossing")

_LONGEST_PACKET = 256 << 10
#: Packets that are taken from a line before the event loop has its turn again.
_BATCH = 32


class Kind(IntEnum):
    """What a packet has. All but SESSION are in `marshal`'s form, which takes a third of the time of any other."""

    #: (datagram, address) of the port for messages in the clear, and of that for DTLS.
    PLAIN = 0
    SECURE = 1
    #: (known by, key, whether it is so): what the sender has or has no more.
    FACTS = 2
    #: The sender tells all that it has, up to WHOLE; what else it was known to have is then out of date.
    AFRESH = 3
    WHOLE = 4
    #: The sender has begun and knows nothing.
    HELLO = 5
    #: A DTLS session that is the receiver's from now on.
    SESSION = 6


class By(IntEnum):
    """What a device is known by."""

    ADDRESS = 0
    REGISTRATION = 1
    SECURE_ADDRESS = 2
    CONNECTION_ID = 3
    #: A file, which it may fetch from an address that nobody knows.
    FILE = 4


Fact = tuple[int, Any, bool]


class Lines:
    """By the number of the process at the other end. ``take`` gets each packet: from whom, its kind, what it has;
    ``dropped`` counts, by reason, what came to nothing."""

    def __init__(self, seat: Seat, take: Callable[[int, int, Any], None], dropped: Counter[str]) -> None:
        self._sockets: dict[int, socket.socket] = {}
        for number, line in seat.lines.items():
            taken = adopted(line)
            assert taken is not None
            self._sockets[number] = taken
        self._take = take
        self._dropped = dropped
        self._received = bytearray(_LONGEST_PACKET)
        self._view = memoryview(self._received)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __iter__(self) -> Iterator[int]:
        return iter(self._sockets)

    def start(self, loop: asyncio.AbstractEventLoop, hear: Callable[[int], None]) -> None:
        """Have ``hear`` called with the number of each line where something came."""
        self._loop = loop
        for number, line in self._sockets.items():
            loop.add_reader(line.fileno(), hear, number)

    def pause(self) -> None:
        """Call it no more."""
        if self._loop is not None:
            for line in self._sockets.values():
                self._loop.remove_reader(line.fileno())

    def close(self) -> None:
        self._loop = None
        for line in self._sockets.values():
            line.close()

    def send(self, number: int, kind: Kind, content: Any) -> bool:
        """False: the line has no room now."""
        body = pickle.dumps(content) if kind is Kind.SESSION else marshal.dumps(content)
        try:
            self._sockets[number].send(bytes((kind,)) + body)
        except OSError:  # full; or closed, at the end
            return False
        return True

    def hear(self, number: int) -> None:
        """Take what has come over a line, `_BATCH` packets at most."""
        line = self._sockets[number]
        for _ in range(_BATCH):
            try:
                size = line.recv_into(self._received)
            except BlockingIOError:
                break
            except OSError:
                self._dropped["line broken"] += 1
                break
            if not size:  # the parent is gone, and so is this process soon
                if self._loop is not None:
                    self._loop.remove_reader(line.fileno())
                break
            try:
                kind, body = self._received[0], self._view[1:size]
                # Whole, before anything is done with it: that may read the next packet into its place.
                content = pickle.loads(body) if kind == Kind.SESSION else marshal.loads(body)
                self._take(number, kind, content)
            except Exception:  # noqa: BLE001  # one packet must not end the gateway
                self._dropped["internal error"] += 1
                _log.exception("what another process handed over could not be taken", process=number)
