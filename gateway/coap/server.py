"""The server role of an endpoint (RFC 7252 section 1.2): requests that come in, and the answers to them.

Owns that a request is handed out once and answered once: the memory of what was answered, for copies (section 4.5); how
many may be open; what is said to one with options that nobody here knows (section 5.4.1); and how much may be sent to
whom. What a request means is for the handler, or for aiocoap.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from random import Random

from gateway.coap.drops import UNRECOGNISED
from gateway.coap.exchanges import Exchanges, Noted, RequestLog
from gateway.coap.incoming import AMPLIFICATION, BUSY, Fallback, Handler, Incoming
from gateway.coap.lines import Lines
from gateway.coap.message import Code, Message, Option, Options, Type, build
from gateway.coap.peers import Address, OscorePeer, SecurePeer, UdpAddress

#: Requests that may wait for durability at once; more are answered 5.03.
MOST_OPEN_REQUESTS = 5_000
#: Bytes of words below which there are none.
_LEAST_WORDS = 10


class CoapServer:
    """That of one endpoint. ``now`` is monotonic seconds; ``exchanges`` has the message ids towards each peer, which
    are one series in both roles; ``dropped`` counts by reason."""

    def __init__(
        self,
        lines: Lines,
        handler: Handler,
        exchanges: Exchanges,
        dropped: Counter[str],
        now: Callable[[], float],
        random: Random,
    ) -> None:
        self._lines = lines
        self._send = lines.send
        self.handler = handler
        #: Who has the requests that the handler does not take; without it they are answered 4.04.
        self.fallback: Fallback | None = None
        self._exchanges = exchanges
        self._dropped = dropped
        self.now = now
        self._random = random
        #: What was asked lately, for copies of it.
        self.requests = RequestLog()
        #: Requests without an answer yet.
        self._open: set[Incoming] = set()

    def take(self, message: Message, address: Address, size: int) -> None:
        """A request, which came in ``size`` bytes."""
        if message.unrecognised and message.type == Type.NON:
            self._dropped[UNRECOGNISED] += 1
            return
        if self.is_repeated(address, message.mid, size, answer=message.type == Type.CON):
            return
        incoming = Incoming(self, message, address, size)
        self._open.add(incoming)
        if len(self._open) > MOST_OPEN_REQUESTS:
            incoming.busy()
            return
        if message.unrecognised:
            self._dropped[UNRECOGNISED] += 1
            # RFC 7252 sections 5.4.1 and 5.7.2.
            if message.unrecognised in (Option.PROXY_URI, Option.PROXY_SCHEME):
                incoming.reply(Code.PROXYING_NOT_SUPPORTED)
            else:
                words = b"option %d" % message.unrecognised
                if message.unrecognised == Option.URI_QUERY:
                    words += b": longer than 255 bytes; shorten the endpoint name (ep) or parameter"
                incoming.reply(Code.BAD_OPTION, payload=words)
            return
        try:
            if not self.handler.request(incoming):
                if self.fallback is None:
                    incoming.reply(Code.NOT_FOUND)
                else:
                    self.fallback.serve(incoming)
        except Exception:
            # Every request ends: one that stayed open would count against MOST_OPEN_REQUESTS for ever.
            incoming.reply(Code.INTERNAL_SERVER_ERROR)
            raise

    def anew(self, peer: SecurePeer) -> None:
        """The peer's message ids begin anew, and what it asked in the session before is not answered in this one."""
        self.requests.forget_peer(peer)
        for incoming in [one for one in self._open if one.address is peer]:
            incoming.answered = True
            self._open.discard(incoming)

    # Answers (`Incoming`)

    def answer(self, incoming: Incoming, code: int, options: Options, payload: bytes) -> None:
        """Send the response of ``incoming`` and keep it for duplicates; a second answer is ignored."""
        if incoming.answered:
            return
        request = incoming.message
        type_, mid = (
            (Type.ACK, request.mid)
            if request.type == Type.CON
            else (Type.NON, self._exchanges.next_mid(incoming.address, self._random.getrandbits(16)))
        )
        datagram = build(type_, code, mid, request.token, options, payload)
        if code == Code.CONTENT and not self._may_send(len(datagram), incoming.size, incoming.address):
            # A content that is cut would be another content. Once registered, the peer may have it.
            code, options, payload = Code.UNAUTHORIZED, [], b"register first"
            datagram = build(type_, code, mid, request.token, options, payload)
        if code >= Code.BAD_REQUEST and not self._may_send(len(datagram), incoming.size, incoming.address):
            # The beginning of the words is better than none.
            room = AMPLIFICATION * incoming.size - len(build(type_, code, mid, request.token, options)) - 1
            words = payload[:room].decode("utf-8", "ignore") if room >= _LEAST_WORDS else ""
            datagram = build(type_, code, mid, request.token, options, words.encode())
        # What is cut is words for people and then the options; the code stays.
        for less in (options if code < Code.BAD_REQUEST else [], []):
            if not self._may_send(len(datagram), incoming.size, incoming.address):
                datagram = build(type_, code, mid, request.token, less)
        self._answer_with(incoming, datagram)

    def _may_send(self, size: int, request_size: int, address: Address) -> bool:
        if size <= AMPLIFICATION * request_size:
            return True
        return address.proven if isinstance(address, SecurePeer) else self.handler.verified(address)

    def _answer_with(self, incoming: Incoming, datagram: bytes) -> None:
        incoming.answered = True
        self._open.discard(incoming)
        address, mid = incoming.address, incoming.message.mid
        if isinstance(address, OscorePeer) and self._lines.oscore is not None:
            self._lines.oscore.answer(address, mid, datagram)
        else:
            self.requests.answer(address, mid, datagram)
            self._send(datagram, address)

    @property
    def open_requests(self) -> int:
        """How many requests have no answer yet."""
        return len(self._open)

    def refuse_open(self) -> None:
        """Answer every request that has no answer yet with 5.03: what it waits for does not come for now."""
        for incoming in list(self._open):
            incoming.busy()

    def forget(self, incoming: Incoming) -> None:
        """Take a retransmission of the request as new; but with OSCORE it has one answer, for ever."""
        if incoming.answered and isinstance(incoming.address, OscorePeer):
            return
        self.requests.forget(incoming.address, incoming.message.mid)

    def dropped(self, incoming: Incoming) -> None:
        """The request is given up without an answer."""
        self._open.discard(incoming)
        self.requests.forget(incoming.address, incoming.message.mid)
        if isinstance(incoming.address, OscorePeer) and self._lines.oscore is not None:
            self._lines.oscore.drop(incoming.address, incoming.message.mid)

    # Requests that have no `Incoming`: those of a short path.

    def is_repeated(self, address: Address, mid: int, size: int, *, answer: bool = True) -> bool:
        """Note a request of ``size`` bytes; True if it came lately. With ``answer`` it is answered as it was then."""
        duplicate, response = self.requests.seen(address, mid, self.now())
        if duplicate:
            self._dropped["duplicate request"] += 1
            if response is not None and answer and self._may_send(len(response), size, address):
                self._send(response, address)
        return duplicate

    def address_of(self, name: bytes) -> UdpAddress:
        """A socket address as the other methods want it."""
        assert self._lines.many is not None
        return self._lines.many.address(name)

    def answer_all(self, answers: Sequence[tuple[Address, bytes, Noted, bytes]]) -> None:
        """Send the answers of requests that were noted, and keep them for copies of the requests: to each address, or
        its socket address where that is at hand."""
        keep = self.requests.keep
        slots: defaultdict[int, list[bytes]] = defaultdict(list)
        for address, name, noted, datagram in answers:
            keep(noted, datagram)
            if name:
                slots[len(datagram)].append(name + datagram)
            else:
                self._send(datagram, address)
        if (many := self._lines.many) is not None:
            for size, some in slots.items():
                many.send(some, size)

    def refuse_noted(self, address: Address, mid: int, token: bytes) -> None:
        """Answer 5.03 with Max-Age, and take the request anew when it comes again."""
        self.requests.forget(address, mid)
        self._send(build(Type.ACK, Code.SERVICE_UNAVAILABLE, mid, token, BUSY), address)

    def forget_noted(self, address: Address, mid: int) -> None:
        """Take the request anew when it comes again."""
        self.requests.forget(address, mid)
