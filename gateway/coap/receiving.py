"""From the UDP socket to whoever takes a datagram, many at a time.

Owns when the socket is looked at, the batches, and who is offered a datagram before it is parsed: the short paths of
notifications and of POST requests, and another process of the port. All else is a message, and is not looked into here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.coap.drops import Drops
from gateway.coap.exchanges import Exchanges
from gateway.coap.incoming import Handler
from gateway.coap.lines import Lines
from gateway.coap.many import MOST, ManyDatagrams
from gateway.coap.message import MAX_DATAGRAM, Code
from gateway.coap.peers import Address, UdpAddress
from gateway.coap.udp import BATCH, FEW

#: Seconds for which notifications are gathered while FEW come.
GATHERING = 0.005
_Peer = TypeVar("_Peer", bound=Address)


class Receiving:
    """What comes to one endpoint, and what is handed to it.

    ``take`` has what is left as a message, and never raises; ``is_elsewhere`` may hand a datagram to another process,
    and tells so; ``exchanges`` are those that are open.
    """

    def __init__(
        self,
        lines: Lines,
        handler: Handler,
        exchanges: Exchanges,
        drops: Drops,
        take: Callable[[bytes, Address], None],
        is_elsewhere: Callable[[bytes, UdpAddress], bool] | None,
    ) -> None:
        self._lines = lines
        self.handler = handler
        self._exchanges = exchanges
        self._drops = drops
        self._take = take
        self._is_elsewhere = is_elsewhere
        self._in_the_clear = lines.in_the_clear
        #: The short path of POST requests in the clear; False leaves one to the ordinary way.
        self.on_post: Callable[[bytes, Address], bool] = _not_in_the_clear
        #: The same of what `Handler.notify_all` has read.
        self.on_post_slot: Callable[[bytes, int, bytes, bytes], bool] = _no_slot
        self._loop: asyncio.AbstractEventLoop | None = None
        #: When the socket is looked at next, while notifications are gathered; None: as soon as something is there.
        self._gathering: asyncio.TimerHandle | None = None
        #: True while datagrams of the socket are handed out.
        self._draining = False
        #: What came in the clear and was no notification of the short path.
        self.others = 0
        #: Datagrams, of all lines.
        self.received = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to receive, if there is a socket."""
        self._loop = loop
        if self._lines.socket is not None:
            loop.add_reader(self._lines.socket.fileno(), self._drain)

    def pause(self) -> None:
        """Stop receiving."""
        self.gather(False)
        udp = self._lines.socket
        if self._loop is not None and udp is not None and udp.fileno() >= 0:
            self._loop.remove_reader(udp.fileno())

    # When

    @property
    def is_gathering(self) -> bool:
        """True while what comes is left in the socket for a moment."""
        return self._gathering is not None

    def gather(self, wanted: bool) -> None:
        """Leave what comes in the socket for GATHERING seconds, or be told of it.

        A wake-up of the process costs many times what a notification does, and notifications can wait for
        milliseconds: Kafka takes as long. Nothing else waits: not the answer to a request of ours, and no request
        longer than the one time that it begins with.
        """
        if not wanted and self._gathering is None:
            return
        udp = self._lines.socket
        if self._loop is None or udp is None:
            return
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
            if not wanted:
                self._loop.add_reader(udp.fileno(), self._drain)
        else:
            self._loop.remove_reader(udp.fileno())
        if wanted:
            self._gathering = self._loop.call_later(GATHERING, self._drain)

    def _drain(self) -> None:
        others, many = self.others, self._lines.many
        self._draining = True
        try:
            taken = self._drain_one_by_one() if many is None else self._drain_many(many)
        finally:
            self._draining = False
        self.batch_done(taken)
        self.gather(self._in_the_clear and 0 < taken < FEW and self.others == others and not self._exchanges)

    def batch_done(self, received: int) -> None:
        """The waiting datagrams of a socket have been handed out."""
        self.received += received
        # What was handed over in the middle of a batch is of that batch, which ends once.
        if not self._draining:
            self.handler.batch_done()

    # What

    def _drain_many(self, many: ManyDatagrams) -> int:
        taken = 0
        while taken < BATCH:
            try:
                sizes = many.receive()
            except OSError as exc:
                # An ICMP error of an earlier send; the next call has the next datagram.
                self._drops.by_reason[f"socket error {exc.errno}"] += 1
                break
            taken += len(sizes)
            self._hand_out(many, sizes)
            if len(sizes) < MOST:
                break
        return taken

    def _hand_out(self, many: ManyDatagrams, sizes: list[int]) -> None:
        slots = enumerate(sizes)
        while self._in_the_clear and (notify_all := self.handler.notify_all) is not None:
            try:
                # Not in one statement: others are counted meanwhile.
                updates = notify_all(many, slots, self._take_other, self.on_post_slot)
                self.others += updates
                return
            except Exception:  # noqa: BLE001  # of the short path; what was before it counts, and it goes on behind it
                self._drops.failed(b"", ("", 0))
        for slot, size in slots:
            datagram, address = many.datagram(slot, size)
            if self._in_the_clear:
                self._offer(datagram, address, self._take_other)
            else:
                self._take(datagram, address)

    def _drain_one_by_one(self) -> int:
        """Where the system gives one datagram a call."""
        assert self._lines.socket is not None
        receive = self._lines.socket.recvfrom
        notify = self.handler.notify if self._in_the_clear else _not_in_the_clear
        take = self._take_other if self._in_the_clear else self._take
        taken = 0
        datagram, address = b"", ("", 0)
        try:
            for _ in range(BATCH):
                datagram, address = receive(MAX_DATAGRAM + 1)
                taken += 1
                # 2.05 Content: a notification, or else the response to a request of ours.
                if 4 < len(datagram) <= MAX_DATAGRAM and datagram[1] == 0x45 and notify(datagram, address):
                    continue
                take(datagram, address)
        except BlockingIOError:
            pass
        except OSError as exc:
            # An ICMP error of an earlier send; the next call has the next datagram.
            self._drops.by_reason[f"socket error {exc.errno}"] += 1
        except Exception:  # noqa: BLE001  # of the short path; the batch before it counts, the next call goes on
            self._drops.failed(datagram, address)
        return taken

    def handed(self, datagrams: Sequence[tuple[bytes, UdpAddress]]) -> None:
        """Datagrams that another process got, which has a socket of the same port; `batch_done` follows."""
        for datagram, address in datagrams:
            self._offer(datagram, address, self._take_here)

    def arrived(self, datagram: bytes, peer: Address) -> None:
        """A message over DTLS, or one with OSCORE that was opened."""
        self._offer(datagram, peer, self._take)

    # To whom

    def _offer(self, datagram: bytes, peer: _Peer, leave: Callable[[bytes, _Peer], None]) -> None:
        """To the short path, which leaves what it does not take."""
        try:
            taken = 4 < len(datagram) <= MAX_DATAGRAM and datagram[1] == 0x45 and self.handler.notify(datagram, peer)
        except Exception:  # noqa: BLE001  # of the short path; the next one goes on
            self._drops.failed(datagram, peer)
        else:
            if not taken:
                leave(datagram, peer)

    def _take_other(self, datagram: bytes, address: UdpAddress) -> None:
        """What came in the clear and is no notification of a device of this process."""
        if self._post(datagram, address):
            return
        # Another process's may be an answer that is waited for there, and the next one must not wait here.
        self.others += 1
        if self._is_elsewhere is None or not self._is_elsewhere(datagram, address):
            self._take(datagram, address)

    def _take_here(self, datagram: bytes, address: Address) -> None:
        """The same, and it is for this process."""
        if not self._post(datagram, address):
            self.others += 1
            self._take(datagram, address)

    def _post(self, datagram: bytes, address: Address) -> bool:
        """To the short path of POST requests; False leaves it to the ordinary way."""
        try:
            taken = 4 < len(datagram) <= MAX_DATAGRAM and datagram[1] == Code.POST and self.on_post(datagram, address)
        except Exception:  # noqa: BLE001  # of the short path; the next one goes on
            self._drops.failed(datagram, address)
            return True
        self.others += taken
        return taken


def _not_in_the_clear(datagram: bytes, address: Address) -> bool:
    """In the place of the short path where OSCORE alone is spoken."""
    return False


def _no_slot(name: bytes, first: int, mid: bytes, rest: bytes) -> bool:
    return False
