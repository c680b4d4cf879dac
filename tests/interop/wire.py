"""What a device and the gateway say to one another in the clear: a relay between them, read by aiocoap."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from aiocoap import Message

SECONDS = 60.0


class Wire:
    """For one device: it speaks to `address`, and the gateway sees a socket of ours. Nothing is changed or lost."""

    def __init__(self, gateway_port: int) -> None:
        #: All that was said, in its order: True where the device said it.
        self.said: list[tuple[bool, Message]] = []
        self._device: tuple[str, int] | None = None
        self._front, self._back = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self._front.bind(("127.0.0.1", 0))
        self._back.connect(("127.0.0.1", gateway_port))
        self._ends, self._end = socket.socketpair()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._front.getsockname()[1]}"

    def of_device(self) -> list[Message]:
        return [message for is_device, message in self.said if is_device]

    def of_gateway(self) -> list[Message]:
        return [message for is_device, message in self.said if not is_device]

    def answer(self, request: Message) -> Message:
        """The answer to ``request``, whoever said it, waited for."""

        def answers(message: Message) -> bool:
            return bool(message.token == request.token and message.code.is_response())

        return self.wait(answers, since=self._index(request))

    def wait(self, wanted: Callable[[Message], bool], *, since: int = 0) -> Message:
        """The first message from ``since`` on that is wanted.

        Raises:
            AssertionError: there was none in time.
        """
        end = time.monotonic() + SECONDS
        with self._changed:
            while True:
                for _, message in self.said[since:]:
                    if wanted(message):
                        return message
                left = end - time.monotonic()
                assert left > 0, f"not said in {SECONDS:.0f} s; it was {self.said[since:]}"
                self._changed.wait(left)

    def _index(self, message: Message) -> int:
        return next(at for at, (_, one) in enumerate(self.said) if one is message)

    def _carry(self) -> None:
        while True:
            ready, _, _ = select.select([self._front, self._back, self._ends], [], [])
            if self._ends in ready:
                return
            for one in ready:
                try:
                    datagram, source = one.recvfrom(65536)
                except OSError:
                    continue  # the other end has no socket just now
                is_device = one is self._front
                with self._changed:
                    self.said.append((is_device, Message.decode(datagram)))
                    self._changed.notify_all()
                if is_device:
                    self._device = source
                    self._back.send(datagram)
                elif self._device is not None:
                    self._front.sendto(datagram, self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.send(b"x")
        self._thread.join(10)
        for one in (self._front, self._back, self._ends, self._end):
            one.close()
