"""An endpoint without a network, for surfaces that are spoken to by CoAP, and the loop that it runs on."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Handler, Incoming
from gateway.coap.message import Code, Message, Type
from gateway.coap.peers import Address, SecurePeer

_T = TypeVar("_T")
#: Seconds in which whatever an input sets going has come to its end.
SLOWEST = 9.0


class Loop:
    """An event loop that runs while an input is taken; what fails in a callback or a task of its own is raised, too."""

    def __init__(self) -> None:
        self.asyncio = asyncio.new_event_loop()
        self.asyncio.set_exception_handler(self._failed)
        self._failures: list[BaseException] = []

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.append(context.get("exception") or AssertionError(context["message"]))

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """
        Raises:
            TimeoutError: it took too long.
        """
        result = self.asyncio.run_until_complete(asyncio.wait_for(work, SLOWEST))
        if self._failures:
            raise self._failures.pop()
        return result


def folder() -> tempfile.TemporaryDirectory[str]:
    """In memory where there is such a place: the disk is not what is tried."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)


class _Said:
    """In the place of the socket and of the DTLS line: tells of what is sent."""

    def __init__(self, said: Callable[[bytes, Address], None]) -> None:
        self.sendto = self.send = said

    def end(self, peer: SecurePeer) -> None:
        """Sessions have no end here."""


class Loud(Endpoint):
    """What it says goes to ``said`` in place of a socket, and what it would count as an internal error is raised."""

    def __init__(self, handler: Handler, loop: Loop, said: Callable[[bytes, Address], None]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.start(loop.asyncio)
        self.close()
        self.lines.socket = self.lines.secure = _Said(said)  # type: ignore[assignment]
        self._drops.failed = _raise  # type: ignore[method-assign]

    def hear(self, datagram: bytes, address: Address) -> None:
        """A datagram from there, in the clear or as a session gave it."""
        self.arrived(datagram, address)


def _raise(datagram: bytes, address: Address) -> None:
    failure = sys.exception()
    assert failure is not None
    raise failure


class Polite:
    """A handler that answers 2.04 to each request and acknowledges each response."""

    notify_all = None

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None
        self.requests: list[Incoming] = []
        self.responses: list[Message] = []

    def notify(self, datagram: bytes, address: Address) -> bool:
        return False

    def response(self, message: Message, address: Address) -> bool:
        assert self.endpoint is not None
        self.responses.append(message)
        if message.type == Type.CON:
            self.endpoint.client.acknowledge(address, message.mid)
        return True

    def reset(self, address: Address, mid: int) -> None:
        return None

    def request(self, incoming: Incoming) -> bool:
        self.requests.append(incoming)
        incoming.reply(Code.CHANGED)
        return True

    def batch_done(self) -> None:
        return None

    def verified(self, address: Address) -> bool:
        return False
