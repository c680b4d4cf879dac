"""The server on a UDP socket of 127.0.0.1, in a thread, as an echo: what other people's clients are tried against."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gateway.dtls.events import Received, Send
from gateway.dtls.server import Server
from gateway.dtls_certificates.server import CertificateServer

V = TypeVar("V", Server, CertificateServer)


class UdpServer(Generic[V]):
    """Answers each record of application data with what ``answers`` makes of it: the same, after ``echo ``.

    ``lose`` is asked for each datagram, with its number in its direction from 0 and whether it comes in.
    """

    def __init__(
        self,
        server: V,
        lose: Callable[[int, bool], bool] = lambda number, comes_in: False,
        answers: Callable[[bytes], list[bytes]] = lambda data: [b"echo " + data],
    ) -> None:
        self.server: V = server
        self.events: list[Any] = []
        self._lose = lose
        self._answers = answers
        self._counts = {True: 0, False: 0}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> UdpServer[V]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._socket.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            now = time.monotonic()
            deadline = self.server.deadline()
            wait = 0.05 if deadline is None else min(max(deadline - now, 0), 0.05)
            if select.select([self._socket], [], [], wait)[0]:
                datagram, address = self._socket.recvfrom(65536)
                if not self._lost(comes_in=True):
                    self._do(self.server.receive(datagram, address, time.monotonic()))
            self._do(self.server.tick(time.monotonic()))

    def _do(self, events: list[Any]) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, Send):
                self.send(event.datagram, event.address)
            elif isinstance(event, Received):
                for answer in self._answers(event.data):
                    self.send(self.server.send(event.session, answer), event.session.address)

    def send(self, datagram: bytes, address: tuple[str, int] | tuple[str, int, int, int]) -> None:
        if not self._lost(comes_in=False):
            self._socket.sendto(datagram, address)

    def _lost(self, *, comes_in: bool) -> bool:
        number = self._counts[comes_in]
        self._counts[comes_in] = number + 1
        return self._lose(number, comes_in)
