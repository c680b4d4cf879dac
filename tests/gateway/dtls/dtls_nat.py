"""A NAT between a client and the server on 127.0.0.1; when it forgets its mapping, the client comes from elsewhere."""

from __future__ import annotations

import select
import socket
import threading


def _bound() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    return made


class Nat:
    """Carries datagrams of one client to ``port`` and back."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._inner, self._outer = _bound(), _bound()
        self.port: int = self._inner.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Nat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._inner.close()
        self._outer.close()

    def move(self) -> None:
        """Take another port; what comes to the old one is lost."""
        old, self._outer = self._outer, _bound()
        old.close()

    def _run(self) -> None:
        client = ("", 0)
        while not self._stop.is_set():
            outer = self._outer
            try:
                ready = select.select([self._inner, outer], [], [], 0.05)[0]
                if self._inner in ready:
                    datagram, client = self._inner.recvfrom(65536)
                    self._outer.sendto(datagram, self._server)
                if outer in ready:
                    self._inner.sendto(outer.recv(65536), client)
            except (OSError, ValueError):
                continue  # the mapping was forgotten just now
