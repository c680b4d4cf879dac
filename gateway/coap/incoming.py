"""What the endpoint hands out and to whom: a request that has to be answered once, and those who take messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gateway.coap.message import Code, Message, Option, Options, uint
from gateway.coap.peers import Address, UdpAddress

if TYPE_CHECKING:
    from gateway.coap.many import ManyDatagrams, Slots
    from gateway.coap.server import CoapServer

#: No answer to an unverified address is longer than this many times its request (RFC 9175 section 2.4).
AMPLIFICATION = 3
#: Seconds that a refused device is asked to stay away (Max-Age of 5.03).
BUSY_MAX_AGE = 30
#: The options of a 5.03.
BUSY: Options = [(Option.MAX_AGE, uint(BUSY_MAX_AGE))]
#: What is refused for less than so many seconds may go without an answer: a device sends a confirmable request for the
#: last time 30 s after the first at the soonest (RFC 7252 section 4.8).
PATIENCE = 20.0


class Incoming:
    """One request that came in and must be answered once."""

    __slots__ = ("_server", "address", "answered", "message", "size")

    def __init__(self, server: CoapServer, message: Message, address: Address, size: int) -> None:
        self._server = server
        self.message = message
        self.address = address
        self.size = size
        self.answered = False

    def reply(self, code: int, options: Options | None = None, payload: bytes = b"") -> None:
        """Answer; a confirmable request is acknowledged by it (piggybacked, RFC 7252 section 5.2.1)."""
        self._server.answer(self, code, options or [], payload)

    def reply_once(self, code: int, options: Options, payload: bytes) -> None:
        """Answer and forget it: the same request, sent again, is worked on anew. For what changes nothing (GET)."""
        self.reply(code, options, payload)
        self._server.forget(self)

    def busy(self) -> None:
        """Answer 5.03 with Max-Age, and forget the request so that the device may send it again."""
        self.reply(Code.SERVICE_UNAVAILABLE, BUSY)
        self._server.forget(self)

    def drop(self) -> None:
        """Do not answer: the device will send it again, and it is then worked on anew."""
        if not self.answered:
            self.answered = True
            self._server.dropped(self)


NotifyAll = Callable[
    ["ManyDatagrams", "Slots", Callable[[bytes, UdpAddress], None], Callable[[bytes, int, bytes, bytes], bool]], int
]


class Handler(Protocol):
    """What the endpoint hands messages to."""

    @property
    def notify_all(self) -> NotifyAll | None:
        """As `notify`, for what `ManyDatagrams` has received: hands on in order what is left, a usual POST to the last
        argument first (socket address, first byte, message id, what follows that), which says whether it took it.
        Returns how many of those were taken.

        It may raise, and then goes on behind the slot that was taken last. None: `notify` has them one by one.
        """

    def notify(self, datagram: bytes, address: Address) -> bool:
        """The short path: True if the 2.05 response was a notification and has been taken."""

    def response(self, message: Message, address: Address) -> bool:
        """A response that answers no open exchange; True if it was taken, else the sender gets an RST."""

    def reset(self, address: Address, mid: int) -> None:
        """An RST or an ACK that belongs to no open exchange came."""

    def request(self, incoming: Incoming) -> bool:
        """A request; False hands it to aiocoap."""

    def batch_done(self) -> None:
        """The datagrams that were waiting have been handed out."""

    def verified(self, address: Address) -> bool:
        """True if the address has shown that it can be reached (it is that of a live registration)."""


class Busy:
    """The handler of a gateway that can take nothing yet: all is left to come again, requests get 5.03 after a while.

    ``clock`` is seconds. To some devices (Zephyr's client) a 5.03 to their registration is the end: they try no more.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = clock() + PATIENCE
        self.notify_all = None

    def notify(self, datagram: bytes, address: Address) -> bool:
        return False

    def response(self, message: Message, address: Address) -> bool:
        return True

    def reset(self, address: Address, mid: int) -> None:
        return None

    def request(self, incoming: Incoming) -> bool:
        if self._clock() < self._until:
            incoming.drop()
        else:
            incoming.busy()
        return True

    def batch_done(self) -> None:
        return None

    def verified(self, address: Address) -> bool:
        return False


class Fallback(Protocol):
    """aiocoap, as the endpoint sees it."""

    def serve(self, incoming: Incoming) -> None:
        """Answer the request, now or later."""

    def match(self, message: Message, address: Address) -> bool:
        """True if the response was waited for."""
