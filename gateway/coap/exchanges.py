"""The state of the CoAP message layer (RFC 7252 section 4): what was sent and waits, what came and was answered.

Owns retransmission timing and the memory of answered requests. It sends nothing and knows no clock: the caller passes
the time (monotonic seconds) and does what it is told.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gateway.coap.message import Message
from gateway.coap.peers import Address

# RFC 7252 section 4.8.
ACK_TIMEOUT = 2.0
ACK_RANDOM_FACTOR = 1.5
MAX_RETRANSMIT = 4
EXCHANGE_LIFETIME = 247.0
MAX_TRANSMIT_WAIT = 93.0


class ExchangeError(Exception):
    """A request of ours came to no response."""


class NoAnswer(ExchangeError):
    """The peer acknowledged nothing through all retransmissions, or sent no response in the time given."""


class WasReset(ExchangeError):
    """The peer answered with RST: it does not want this message."""


class Stopped(ExchangeError):
    """The endpoint was closed first."""


class Exchange:
    """One confirmable message of ours on its way: retransmitted until acknowledged, done when answered.

    ``finish`` is called once, with the response or an ExchangeError. With ``defer`` a confirmable response is not
    acknowledged by the endpoint: whoever takes it does so once it is durable.
    """

    __slots__ = (
        "acknowledged",
        "address",
        "began",
        "datagram",
        "deadline",
        "defer",
        "finish",
        "give_up",
        "interval",
        "mid",
        "open",
        "sealed",
        "sent",
        "token",
        "tries",
    )

    def __init__(
        self,
        address: Address,
        mid: int,
        token: bytes,
        datagram: bytes,
        finish: Callable[[Message | ExchangeError], None],
        give_up: float,
        *,
        defer: bool = False,
    ) -> None:
        self.address = address
        self.mid = mid
        self.token = token
        self.datagram = datagram
        self.finish = finish
        self.defer = defer
        #: When to stop waiting for a response, whatever the message layer says.
        self.give_up = give_up
        self.began = 0.0
        #: When it was sent last.
        self.sent = 0.0
        self.deadline = 0.0
        self.interval = 0.0
        self.tries = 0
        self.acknowledged = False
        #: True from when it begins until it is closed.
        self.open = False
        #: True once the datagram is protected by OSCORE: it is the same each time that it is sent.
        self.sealed = False


class Exchanges:
    """All exchanges that the gateway began and that are still open."""

    def __init__(self) -> None:
        self._by_mid: dict[tuple[Address, int], Exchange] = {}
        self._by_token: dict[tuple[Address, bytes], Exchange] = {}
        self._due: list[tuple[float, int, Exchange]] = []
        self._sequence = 0
        self._mids: OrderedDict[Address, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_mid)

    def next_mid(self, address: Address, first: int) -> int:
        """The next message id towards ``address``; ``first`` (a random one) begins the series of a new peer.

        A series a peer, so that an id comes back only after 65,536 messages to the same peer (RFC 7252 section 4.4).
        """
        mid = (self._mids.pop(address, first) + 1) & 0xFFFF
        self._mids[address] = mid
        if len(self._mids) > 65536:
            self._mids.popitem(last=False)
        return mid

    def begin(self, exchange: Exchange, now: float, jitter: float) -> None:
        """Note that the first transmission happens now; ``jitter`` is uniform in [0, 1)."""
        exchange.began = exchange.sent = now
        exchange.interval = ACK_TIMEOUT * (1 + jitter * (ACK_RANDOM_FACTOR - 1))
        exchange.deadline = min(now + exchange.interval, exchange.give_up)
        key = exchange.address, exchange.mid
        if (before := self._by_mid.get(key)) is not None:
            before.open = False
        exchange.open = True
        self._by_mid[key] = exchange
        self._by_token[(exchange.address, exchange.token)] = exchange
        self._push(exchange)

    def _push(self, exchange: Exchange) -> None:
        self._sequence += 1
        if len(self._due) > 2 * len(self._by_mid) + 64:
            # Almost all are done long before they would be sent again.
            self._due = [entry for entry in self._due if entry[2].open]
            heapq.heapify(self._due)
        heapq.heappush(self._due, (exchange.deadline, self._sequence, exchange))

    def next_deadline(self) -> float | None:
        """When `due` has something to do next; done exchanges are forgotten on the way."""
        while self._due and not self._due[0][2].open:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def due(self, now: float) -> tuple[list[Exchange], list[Exchange]]:
        """What to send again, and what has failed (already closed), as of ``now``."""
        again: list[Exchange] = []
        failed: list[Exchange] = []
        while self._due and self._due[0][0] <= now:
            deadline, _, exchange = heapq.heappop(self._due)
            if not exchange.open or deadline != exchange.deadline:
                continue
            if now >= exchange.give_up or (not exchange.acknowledged and exchange.tries >= MAX_RETRANSMIT):
                self.close(exchange)
                failed.append(exchange)
                continue
            if not exchange.acknowledged:
                exchange.tries += 1
                exchange.sent = now
                exchange.interval *= 2
                again.append(exchange)
            exchange.deadline = exchange.give_up if exchange.acknowledged else now + exchange.interval
            exchange.deadline = min(exchange.deadline, exchange.give_up)
            self._push(exchange)
        return again, failed

    def overdue(self, address: Address, now: float) -> Exchange | None:
        """The newest exchange with a peer if it is not acknowledged and was last sent over ACK_TIMEOUT ago; it counts
        as sent now."""
        exchange = self._by_mid.get((address, self._mids.get(address, -1)))
        if exchange is None or exchange.acknowledged or now - exchange.sent < ACK_TIMEOUT:
            return None
        exchange.sent = now
        return exchange

    def acknowledged(self, address: Address, mid: int) -> Exchange | None:
        """The exchange that an empty ACK or an RST with ``mid`` is about; an ACK ends its retransmissions."""
        exchange = self._by_mid.get((address, mid))
        if exchange is not None:
            exchange.acknowledged = True
        return exchange

    def answered(self, address: Address, token: bytes, acknowledged: int | None = None) -> Exchange | None:
        """The exchange that a response with ``token`` ends (RFC 7252 section 5.3.2), now closed.

        ``acknowledged`` is the message id of a piggybacked response, which must be that of the request: a late copy of
        the answer to an earlier request with the same token (an observation's) ends nothing.
        """
        exchange = self._by_token.get((address, token))
        if exchange is None or acknowledged not in (None, exchange.mid):
            return None
        self.close(exchange)
        return exchange

    def close(self, exchange: Exchange) -> None:
        """Forget the exchange; harmless when it is gone already."""
        if exchange.open:
            exchange.open = False
            del self._by_mid[(exchange.address, exchange.mid)]
            if self._by_token.get((exchange.address, exchange.token)) is exchange:
                del self._by_token[(exchange.address, exchange.token)]

    def close_of(self, address: Address) -> list[Exchange]:
        """Forget the exchanges with one peer and return them."""
        left = [exchange for (peer, _), exchange in self._by_mid.items() if peer == address]
        for exchange in left:
            self.close(exchange)
        return left

    def close_all(self) -> list[Exchange]:
        """Forget every exchange and return them."""
        left = list(self._by_mid.values())
        for exchange in left:
            exchange.open = False
        self._by_mid.clear()
        self._by_token.clear()
        self._due.clear()
        return left


@dataclass(slots=True)
class Noted:
    """A request of a `RequestLog`."""

    mid: int
    #: 0: it is in the log no more.
    until: float
    #: None while the request is still being worked on.
    response: bytes | None


class AcknowledgedResponses:
    """The message ids of separate responses that were acknowledged, for their copies (RFC 7252 section 4.2).

    Bounded: the newest ``most`` of all devices.
    """

    def __init__(self, *, most: int = 16384) -> None:
        self._most = most
        self._until: OrderedDict[tuple[Address, int], tuple[float, bytes | None]] = OrderedDict()

    def add(self, address: Address, mid: int, now: float, token: bytes | None = None) -> None:
        """Note an acknowledgement that is being sent; ``token`` is that of the response."""
        self._until[address, mid] = now + EXCHANGE_LIFETIME, token
        self._until.move_to_end((address, mid))
        if len(self._until) > self._most:
            self._until.popitem(last=False)

    def has(self, address: Address, mid: int, now: float) -> bool:
        """True if the message was acknowledged within EXCHANGE_LIFETIME."""
        return self._until.get((address, mid), (now, None))[0] > now

    def is_copy(self, address: Address, mid: int, token: bytes, now: float) -> bool:
        """True if the message was acknowledged, and had this token: it answers no later request with the token."""
        until, had = self._until.get((address, mid), (now, None))
        return until > now and had == token


class RequestLog:
    """Which requests came lately and what they were answered (RFC 7252 section 4.5).

    Bounded: at most ``per_peer`` requests of each of ``peers`` addresses, and ``most_bytes`` of answers in all; the
    longest silent address goes first.
    """

    def __init__(self, *, peers: int = 16384, per_peer: int = 8, most_bytes: int = 8 << 20) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._peers: OrderedDict[Address, list[Noted]] = OrderedDict()
        self._most_peers = peers
        self._per_peer = per_peer

    def seen(self, address: Address, mid: int, now: float) -> tuple[bool, bytes | None]:
        """(True, the answer if there is one) for a duplicate; else (False, None), and the request is noted."""
        if self.note(address, mid, now) is not None:
            return False, None
        return True, self.answer_to(address, mid, now)

    def note(self, address: Address, mid: int, now: float) -> Noted | None:
        """Note a request, for `keep`; None for a duplicate."""
        entries = self._peers.get(address)
        if entries is None:
            entries = self._peers[address] = []
            if len(self._peers) > self._most_peers:
                self._drop_oldest()
        else:
            self._peers.move_to_end(address)
            for entry in entries:
                if entry.mid == mid and entry.until > now:
                    return None
            if len(entries) >= self._per_peer:
                self._forgotten(entries.pop(0))
        noted = Noted(mid, now + EXCHANGE_LIFETIME, None)
        entries.append(noted)
        return noted

    def keep(self, noted: Noted, response: bytes) -> None:
        """As `answer`, of a request at hand."""
        if noted.until:
            self._bytes += len(response) - len(noted.response or b"")
            noted.response = response
            while self._bytes > self._most_bytes:
                self._drop_oldest()

    def _forgotten(self, noted: Noted) -> None:
        self._bytes -= len(noted.response or b"")
        noted.until = 0.0

    def answer_to(self, address: Address, mid: int, now: float) -> bytes | None:
        """The answer to a request that was seen, if it is kept."""
        entries = self._peers.get(address, ())
        return next((entry.response for entry in entries if entry.mid == mid and entry.until > now), None)

    def answer(self, address: Address, mid: int, response: bytes) -> None:
        """Keep the answer, so that a duplicate of the request gets it again."""
        for noted in self._peers.get(address, ()):
            if noted.mid == mid:
                self._bytes += len(response) - len(noted.response or b"")
                noted.response = response
        while self._bytes > self._most_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        for noted in self._peers.popitem(last=False)[1]:
            self._forgotten(noted)

    def forget_peer(self, address: Address) -> None:
        """Drop all of a peer: its message ids begin anew."""
        for noted in self._peers.pop(address, ()):
            self._forgotten(noted)

    def forget(self, address: Address, mid: int) -> None:
        """Drop the request, so that its retransmission is worked on anew."""
        entries = self._peers.get(address)
        if entries is not None:
            for noted in entries:
                if noted.mid == mid:
                    self._forgotten(noted)
            entries[:] = [noted for noted in entries if noted.mid != mid]
