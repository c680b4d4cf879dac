"""What one of several processes is given by the one that started it: its number, and sockets that outlive it.

The parent opens them all and keeps them open, so the kernel's choice among the sockets of a port stays what it was
while a process is away, and what arrives meanwhile waits for the next one.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """The place of one process; the numbers are of open files, for the program that it becomes."""

    number: int
    processes: int
    #: Its sockets of the ports of ``--coap`` and ``--coaps``; None: nobody speaks so.
    coap: int | None
    coaps: int | None
    #: To each of the others, by their number; packets in order, none lost, both ways.
    lines: dict[int, int]
    #: To the parent: it asks by it, and it ends with it.
    parent: int

    @property
    def files(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(one for one in (self.coap, self.coaps, *self.lines.values(), self.parent) if one is not None)


def adopted(number: int | None) -> socket.socket | None:
    """The socket that is open under this number."""
    if number is None:
        return None
    sock = socket.socket(fileno=number)
    sock.setblocking(False)
    return sock
