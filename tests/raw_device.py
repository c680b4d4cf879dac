"""A device in a test's hands, datagram by datagram: what it is asked, what it answers, when it hears and where it is.

The messages are read and written by aiocoap, so not by the code that is tested. A thread receives; requests of the
gateway are kept (each message id once) and answered by ``answer``, and nothing is retransmitted but by `ask`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aiocoap import Message, error
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import ACK, CON, RST, Type

LINKS = '</>;rt="oma.lwm2m";ct="0 11542",</1/0>,</3/0>,</3303/0>'
TEXT, LINK_FORMAT = 0, 40

#: What a device says to a request of the gateway; None: nothing at all.
Answer = Callable[[Message], Message | None]


def polite(request: Message) -> Message:
    """2.05 with a number to a read or an observe request, 2.04 to all else."""
    if request.code != Code.GET:
        return Message(code=Code.CHANGED)
    response = Message(code=Code.CONTENT, payload=b"21.5", content_format=TEXT)
    if request.opt.observe == 0:
        response.opt.observe = 1
    return response


class RawDevice:
    """``server`` is the gateway's address. The context ends its thread and its socket."""

    #: Where it binds; port 0: any.
    bound_host = "127.0.0.1"
    bound_to = 0

    def __init__(self, server: tuple[str, int], ep: str, *, answer: Answer = polite, first_mid: int = 1) -> None:
        self.ep = ep
        self.answer = answer
        #: False: what arrives is lost, as while a device sleeps.
        self.listening = True
        self.location: tuple[str, ...] = ()
        #: The gateway's requests in the order in which they came, each once.
        self.requests: list[Message] = []
        #: The token of each path that is observed.
        self.observed: dict[str, bytes] = {}
        #: Acknowledgements and resets by message id.
        self.acknowledged: Counter[int] = Counter()
        self.reset: Counter[int] = Counter()
        self._server = server
        self._mid = first_mid
        self._asked: set[tuple[int, bytes]] = set()
        self._responses: dict[bytes, Message] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._open()

    @property
    def port(self) -> int:
        """Where it is now."""
        port: int = self._socket.getsockname()[1]
        return port

    def _open(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((self.bound_host, self.bound_to))
        self._socket.settimeout(0.1)
        threading.Thread(target=self._receive, args=(self._socket,), daemon=True).start()

    def move(self) -> None:
        """Go on from another port; what still comes to the old one is lost."""
        self._socket.close()
        self._open()

    def next_mid(self) -> int:
        self._mid = (self._mid + 1) % 65536
        return self._mid

    # Requests of the device

    def ask(
        self,
        code: Any,
        path: tuple[str, ...],
        query: tuple[str, ...] = (),
        payload: bytes = b"",
        content_format: int = LINK_FORMAT,
        accept: int | None = None,
    ) -> Message:
        """Send a request, again each second, and return the answer.

        Raises:
            AssertionError: there was none in 30 s.
        """
        token = self.next_mid().to_bytes(2, "big")
        message = Message(code=code, uri_path=path, uri_query=query, payload=payload, accept=accept)
        if payload:
            message.opt.content_format = content_format
        message.mtype, message.mid, message.token = CON, self.next_mid(), token
        end = time.monotonic() + 30
        while time.monotonic() < end:
            self.send(message.encode())
            with self._changed:
                if self._changed.wait_for(lambda: token in self._responses, 1.0):
                    return self._responses.pop(token)
        raise AssertionError(f"no answer to {code} /{'/'.join(path)}")

    def try_to_register(self, *more: str, links: str = LINKS, lifetime: int = 300, version: str = "1.0") -> Message:
        """One Register request; returns the answer, whatever it is."""
        query = (f"ep={self.ep}", f"lt={lifetime}", f"lwm2m={version}", *more)
        return self.ask(Code.POST, ("rd",), query, links.encode())

    def register(self, *more: str, links: str = LINKS, lifetime: int = 300, version: str = "1.0") -> None:
        response = self.try_to_register(*more, links=links, lifetime=lifetime, version=version)
        assert response.code == Code.CREATED, response
        self.location = response.opt.location_path

    def update(self, *query: str, links: str = "") -> None:
        response = self.ask(Code.POST, self.location, query, links.encode())
        assert response.code == Code.CHANGED, response

    def notify(self, path: str, number: int, value: float, kind: Type = CON) -> int:
        """Send a notification once, confirmable or not; returns its message id."""
        mid = self.next_mid()
        self.send(self._notification(path, number, value, mid, kind))
        return mid

    def _notification(self, path: str, number: int, value: float, mid: int, kind: Type = CON) -> bytes:
        message = Message(code=Code.CONTENT, payload=repr(value).encode(), content_format=TEXT)
        message.opt.observe = number
        message.mtype, message.mid, message.token = kind, mid, self.observed[path]
        datagram: bytes = message.encode()
        return datagram

    def tell(self, path: str, number: int, value: float) -> bool:
        """A notification, sent again each second until it is acknowledged (True) or reset (False)."""
        mid = self.next_mid()
        return self._until_taken(self._notification(path, number, value, mid), mid, path)

    def notify_with(self, path: str, number: int, payload: bytes, content_format: int) -> bool:
        """As `tell`, with any payload."""
        message = Message(code=Code.CONTENT, payload=payload, content_format=content_format)
        message.opt.observe = number
        message.mtype, message.mid, message.token = CON, self.next_mid(), self.observed[path]
        return self._until_taken(message.encode(), message.mid, path)

    def _until_taken(self, datagram: bytes, mid: int, path: str) -> bool:
        for _ in range(30):
            self.send(datagram)
            with self._changed:
                if self._changed.wait_for(lambda: self.acknowledged[mid] + self.reset[mid] > 0, 1.0):
                    return self.acknowledged[mid] > 0
        raise AssertionError(f"no answer to a notification of {path}")

    def ping(self, timeout: float = 60.0) -> None:
        """Wait until the gateway has read all before it: it answers a ping with a reset (RFC 7252 section 4.3)."""
        message = Message(code=Code.EMPTY)
        message.mtype, message.mid = CON, self.next_mid()
        self.reset.pop(message.mid, None)
        self.send(message.encode())
        self.until("the answer to a ping", lambda: self.reset[message.mid] > 0, timeout)

    def send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self._server)

    # What comes

    def until(self, what: str, true: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait until something that came makes it true."""
        with self._changed:
            assert self._changed.wait_for(true, timeout), f"{self.ep} waited {timeout:.0f} s in vain: {what}"

    def wait_observed(self, *paths: str) -> None:
        self.until(f"observe requests for {paths}", lambda: set(paths) <= set(self.observed))

    def asked(self, code: Any) -> list[Message]:
        """The gateway's requests with this method so far."""
        return [request for request in self.requests if request.code == code]

    def _receive(self, mine: socket.socket) -> None:
        while True:
            data = b""
            try:
                data = mine.recv(65536)
            except TimeoutError:
                pass
            except OSError:
                return  # closed
            with self._changed:
                if self._ended:
                    return
                if not data or not self.listening:
                    continue
                for datagram in self._opened(data):
                    try:
                        message = Message.decode(datagram)
                    except (error.UnparsableMessage, UnicodeDecodeError):
                        continue
                    self._take(message)
                self._changed.notify_all()

    def _opened(self, datagram: bytes) -> list[bytes]:
        """The messages in what came."""
        return [datagram]

    def _take(self, message: Message) -> None:
        if message.mtype is ACK and message.code == Code.EMPTY:
            self.acknowledged[message.mid] += 1
        elif message.mtype is RST:
            self.reset[message.mid] += 1
        elif message.code.is_response():
            self._responses[message.token] = message
        elif message.code.is_request() and (message.mid, message.token) not in self._asked:
            # The token tells a copy from what a gateway that was started anew asks with the same message id.
            self._asked.add((message.mid, message.token))
            self.requests.append(message)
            if message.code == Code.GET and message.opt.observe == 0:
                self.observed["/" + "/".join(message.opt.uri_path)] = message.token
            response = self.answer(message)
            if response is not None:
                kind: Type = ACK
                response.mtype, response.mid, response.token = kind, message.mid, message.token
                self.send(response.encode())

    def close(self) -> None:
        with self._changed:
            # Nothing is answered any more, so nothing is sent on a socket that is closed.
            self._ended = True
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
