"""The gateway's UDP sockets."""

from __future__ import annotations

import contextlib
import socket

#: Datagrams taken from a socket before the event loop has its turn again.
BATCH = 500
#: With fewer at once, the cost is that of waking up for them.
FEW = 32
RECEIVE_BUFFER = 4 << 20


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that does not block; ``shared``: beside others of this user that share the port.

    Raises:
        OSError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        # The kernel caps SO_RCVBUF at rmem_max; with CAP_NET_ADMIN it need not.
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), RECEIVE_BUFFER)
        sock.setblocking(False)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def name_of(sock: socket.socket) -> tuple[str, int]:
    """The host and port that are bound."""
    name = sock.getsockname()
    return name[0], name[1]
