"""The client role of an endpoint (RFC 7252 section 1.2): requests that go out, and what comes back.

Owns tokens and message ids of our requests, their exchanges from the first datagram over the retransmissions (section
4.2) to the end, which response belongs to which of them (section 5.3.2), and the acknowledgement of separate responses.
What belongs to none goes to the handler, which knows the notifications, or to aiocoap; else it is reset.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random

from gateway.coap.alarm import Alarm
from gateway.coap.drops import UNRECOGNISED
from gateway.coap.exchanges import (
    MAX_TRANSMIT_WAIT,
    AcknowledgedResponses,
    Exchange,
    ExchangeError,
    Exchanges,
    NoAnswer,
    Stopped,
    WasReset,
)
from gateway.coap.incoming import Fallback, Handler
from gateway.coap.lines import Lines
from gateway.coap.message import Message, Option, Options, Type, empty, encode_rest, head
from gateway.coap.peers import Address, OscorePeer, SecurePeer
from gateway.coap.receiving import Receiving

#: Seconds in which notifications right behind the answer to an observe request are left to come again, not reset.
SETTLING = 10.0


class CoapClient:
    """That of one endpoint. ``now`` is seconds of the event loop's clock; ``token_mark`` is what all tokens begin with,
    its first bit set; ``dropped`` counts by reason."""

    def __init__(
        self,
        lines: Lines,
        receiving: Receiving,
        handler: Handler,
        exchanges: Exchanges,
        dropped: Counter[str],
        now: Callable[[], float],
        random: Random,
        token_mark: bytes,
    ) -> None:
        self._lines = lines
        self._send = lines.send
        #: Looks at its socket at once where an answer is waited for.
        self._receiving = receiving
        self._gather = receiving.gather
        self.handler = handler
        #: Who may have asked what the handler does not know.
        self.fallback: Fallback | None = None
        #: Those that are open.
        self.exchanges = exchanges
        self._dropped = dropped
        self.now = now
        self._random = random
        self._token_mark = token_mark
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm = Alarm(self._retransmit)
        #: Responses that were messages of their own, for copies of them.
        self.acknowledged = AcknowledgedResponses()
        #: Until when, the soonest first.
        self._settling: dict[tuple[Address, bytes], float] = {}
        #: Told whose notification was reset: that device believes in an observation that nobody knows here.
        self.notified_in_vain: Callable[[Address], None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Requests can be sent from now on."""
        self._loop = loop

    def close(self) -> None:
        """Every open request fails with Stopped."""
        self._alarm.cancel()
        for exchange in self.exchanges.close_all():
            exchange.finish(Stopped("the gateway is stopping"))

    # Requests

    def request(
        self,
        address: Address,
        code: int,
        options: Options,
        payload: bytes = b"",
        *,
        token: bytes | None = None,
        timeout: float = MAX_TRANSMIT_WAIT,
        defer: bool = False,
    ) -> asyncio.Future[Message]:
        """Send a confirmable request that fits one datagram; the future has the response.

        Fails with NoAnswer, WasReset or Stopped. Cancelling the future ends the exchange.
        """
        assert self._loop is not None
        future: asyncio.Future[Message] = self._loop.create_future()

        def finish(result: Message | ExchangeError) -> None:
            if future.done():
                return
            if isinstance(result, ExchangeError):
                future.set_exception(result)
            else:
                future.set_result(result)

        exchange = self.begin(address, code, options, payload, token or self.new_token(), finish, timeout, defer=defer)
        future.add_done_callback(lambda _: self.exchanges.close(exchange))
        return future

    def begin(
        self,
        address: Address,
        code: int,
        options: Options,
        payload: bytes,
        token: bytes,
        finish: Callable[[Message | ExchangeError], None],
        timeout: float,
        *,
        defer: bool = False,
    ) -> Exchange:
        """Send a confirmable request and retransmit it until it is acknowledged or answered (``defer``: Exchange)."""
        return self.begin_encoded(address, code, encode_rest(options, payload), token, finish, timeout, defer=defer)

    def begin_encoded(
        self,
        address: Address,
        code: int,
        rest: bytes,
        token: bytes,
        finish: Callable[[Message | ExchangeError], None],
        timeout: float,
        *,
        defer: bool = False,
    ) -> Exchange:
        """As `begin`; ``rest`` is what follows the token (`gateway.coap.message.encode_rest`)."""
        exchange = self.open(address, code, rest, token, finish, timeout, defer=defer)
        self._send_request(exchange)
        return exchange

    def open(
        self,
        address: Address,
        code: int,
        rest: bytes,
        token: bytes,
        finish: Callable[[Message | ExchangeError], None],
        timeout: float,
        *,
        defer: bool = False,
    ) -> Exchange:
        """As `begin_encoded`, for who sends the datagram of the exchange for the first time himself, and now."""
        now = self.now()
        mid = self.exchanges.next_mid(address, self._random.getrandbits(16))
        datagram = head(Type.CON, code, mid, token) + rest
        exchange = Exchange(address, mid, token, datagram, finish, now + timeout, defer=defer)
        self.exchanges.begin(exchange, now, self._random.random())
        self._gather(False)
        self._arm()
        return exchange

    def _send_request(self, exchange: Exchange) -> None:
        address = exchange.address
        if isinstance(address, OscorePeer):
            oscore = self._lines.oscore
            if oscore is not None and not oscore.seal(exchange, address):
                return
        self._send(exchange.datagram, address)

    def send_again(self, address: Address) -> None:
        """A peer that may have slept was heard of, or what is said to it can be protected now: the newest request to it
        that it has not acknowledged is sent once more, now. Its own retransmissions stay as they are."""
        exchange = self.exchanges.overdue(address, self.now())
        if exchange is not None:
            self._send_request(exchange)

    def was_answered(self, exchange: Exchange) -> None:
        """The response to a request of ours was taken by a short path."""
        self._receiving.others += 1
        self.exchanges.close(exchange)

    def end(self, exchange: Exchange) -> None:
        """Nobody waits for this exchange any more."""
        self.exchanges.close(exchange)

    def abandon(self, address: Address) -> None:
        """The peer is not at ``address`` any more: its open exchanges fail now, and its session ends."""
        if isinstance(address, SecurePeer) and self._lines.secure is not None:
            self._lines.secure.end(address)
        for exchange in self.exchanges.close_of(address):
            exchange.finish(NoAnswer("the device is at another address now"))

    def new_token(self) -> bytes:
        """Eight random bytes, never starting with zero: aiocoap's own tokens are shorter, so the two never meet."""
        token = (self._random.getrandbits(63) | 1 << 63).to_bytes(8, "big")
        return self._token_mark + token[len(self._token_mark) :]

    # What comes back

    def take_empty(self, message: Message, address: Address) -> None:
        """An empty ACK or an RST."""
        exchange = self.exchanges.acknowledged(address, message.mid)
        if exchange is None and self._lines.oscore is not None:
            exchange = self._lines.oscore.acknowledged(address, message.mid)
        if exchange is not None:
            _prove(address, exchange)
        if message.type == Type.RST:
            if exchange is None:
                self.handler.reset(address, message.mid)
            else:
                self.exchanges.close(exchange)
                exchange.finish(WasReset("the device reset the request"))

    def take_response(self, message: Message, address: Address) -> None:
        """A response, or a notification that no short path has taken."""
        if message.unrecognised:
            # RFC 7252 section 5.4.1: rejected, so no exchange ends by it.
            self._dropped[UNRECOGNISED] += 1
            if message.type == Type.CON:
                self._send(empty(Type.RST, message.mid), address)
            return
        if message.type == Type.CON and self.acknowledged.is_copy(address, message.mid, message.token, self.now()):
            self._acknowledge_copy(address, message.mid)
            return
        acknowledged = message.mid if message.type == Type.ACK else None
        exchange = self.exchanges.answered(address, message.token, acknowledged)
        if exchange is None and self._lines.oscore is not None and self._lines.oscore.is_not_opened(message, address):
            return
        if exchange is not None:
            _prove(address, exchange)
            if message.type == Type.CON and not exchange.defer:
                self.acknowledge(address, message.mid, message.token)
            if message.uint(Option.OBSERVE) is not None:
                self._settle(address, message.token)
            exchange.finish(message)
            return
        if self.handler.response(message, address):
            return
        if self.fallback is not None and self.fallback.match(message, address):
            if message.type == Type.CON:
                self.acknowledge(address, message.mid)
            return
        if message.type == Type.CON and self.acknowledged.has(address, message.mid, self.now()):
            self._acknowledge_copy(address, message.mid)
            return
        if self._settling.get((address, message.token), 0.0) > self.now():
            self._dropped["notification before its observation"] += 1
            return
        self._dropped["response to nothing"] += 1
        if message.type != Type.ACK:
            # Towards a notification it cancels the observation (RFC 7641 section 3.6).
            self._send(empty(Type.RST, message.mid), address)
            if self.notified_in_vain is not None and message.uint(Option.OBSERVE) is not None:
                self.notified_in_vain(address)

    def acknowledge(self, address: Address, mid: int, token: bytes | None = None) -> None:
        """Send an empty ACK, to a response that came as a message of its own, with ``token`` where it is known."""
        self.acknowledged.add(address, mid, self.now(), token)
        self._send(empty(Type.ACK, mid), address)

    def _acknowledge_copy(self, address: Address, mid: int) -> None:
        # RFC 7252 section 4.2: our acknowledgement was lost.
        self._dropped["duplicate response"] += 1
        self._send(empty(Type.ACK, mid), address)

    def _settle(self, address: Address, token: bytes) -> None:
        # Whoever asked to observe learns of the answer a turn of the event loop later, or after more blocks; an RST
        # to a notification in between would end the observation that it has just got.
        now, settling = self.now(), self._settling
        settling.pop((address, token), None)
        settling[address, token] = now + SETTLING
        while (first := next(iter(settling))) is not None and settling[first] <= now:
            del settling[first]

    # Retransmission

    def _arm(self) -> None:
        if self._loop is not None:
            self._alarm.set(self._loop, self.exchanges.next_deadline())

    def _retransmit(self) -> None:
        again, failed = self.exchanges.due(self.now())
        for exchange in again:
            self._send_request(exchange)
        for exchange in failed:
            exchange.finish(NoAnswer("the device did not answer"))
        self._arm()


def _prove(address: Address, exchange: Exchange) -> None:
    """Something came back for what was sent there (RFC 9175 section 2.4)."""
    if isinstance(address, SecurePeer) and exchange.began >= address.moved_at:
        address.proven = True
