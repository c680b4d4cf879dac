"""TCP ports for a test's servers that nobody else is given, also while the server is dead.

A port is bound but not listened on for as long as this process lives. Who connects while no server is there is refused;
who looks for a free port sees that it is not; and the server itself may listen on it, as all of them set SO_REUSEADDR.
"""

from __future__ import annotations

import random
import socket

_HELD: list[socket.socket] = []
#: Apart from where `headwater.servers.processes.free_port` looks, and from what the kernel gives to clients.
_RANGE = range(10_000, 15_000)


def held_port(host: str = "127.0.0.1") -> int:
    """A port of this process's own until it ends. Its number may be used for UDP as well."""
    for _ in range(1000):
        port = random.choice(_RANGE)
        holder = socket.socket()
        try:
            # Not set before: with it, the bind would also succeed on what another process holds.
            holder.bind((host, port))
        except OSError:
            holder.close()
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _HELD.append(holder)
        return port
    raise OSError(f"no free TCP port from {_RANGE.start} to {_RANGE.stop}")
