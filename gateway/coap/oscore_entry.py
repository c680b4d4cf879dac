"""Where messages with OSCORE enter and leave an endpoint (RFC 8613 section 8).

Owns what the message layer does for devices that speak OSCORE: what it answers to what cannot be opened, which copies
it answers or acknowledges again, and that a message leaves once its number is on disk. Who has which keys and numbers,
and every protected byte, is `gateway.oscore.line`'s.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Protocol

from gateway.coap.exchanges import AcknowledgedResponses, Exchange, Exchanges, RequestLog, WasReset
from gateway.coap.incoming import AMPLIFICATION
from gateway.coap.message import Code, Message, Option, Type, build, empty, name
from gateway.coap.peers import Address, OscorePeer, SecurePeer, UdpAddress
from gateway.oscore.found import Again, Opened, Renewing, Stray, Unverified

if TYPE_CHECKING:
    from gateway.oscore.line import OscoreLine

#: What a device says in the clear that cannot open what it got (RFC 8613 section 8.2).
_NOT_OPENED = (Code.BAD_REQUEST, Code.UNAUTHORIZED, Code.BAD_OPTION)


class MessageLayer(Protocol):
    """The endpoint, as the entry sees it."""

    #: What was received and dropped, by reason.
    dropped_datagrams: Counter[str]

    def now(self) -> float:
        """Monotonic seconds."""

    def arrived(self, datagram: bytes, peer: SecurePeer) -> None:
        """One message, authentic. Never raises."""

    def transmit(self, datagram: bytes, address: UdpAddress) -> None:
        """Send a datagram as it is. Never raises."""


class OscoreEntry:
    """Messages with OSCORE at one endpoint, whose ``exchanges``, ``requests`` and ``acknowledged`` it looks into."""

    def __init__(
        self,
        line: OscoreLine,
        layer: MessageLayer,
        exchanges: Exchanges,
        requests: RequestLog,
        acknowledged: AcknowledgedResponses,
        random: Random,
    ) -> None:
        self._line = line
        self._layer = layer
        self._exchanges = exchanges
        self._requests = requests
        self._acknowledged = acknowledged
        self._random = random

    # What comes

    def take(self, message: Message, address: UdpAddress, size: int) -> None:
        """A message with the OSCORE option, that came in ``size`` bytes."""
        now = self._layer.now()
        found = self._line.take(message, address, now)
        if isinstance(found, Again) and message.is_request:
            answer = self._requests.answer_to(found.peer, message.mid, now) if found.is_here else None
            if answer is None:
                found = self._line.replayed(now)
            elif message.type == Type.CON and (found.peer.proven or len(answer) <= AMPLIFICATION * size):
                self._layer.dropped_datagrams["duplicate request"] += 1
                self._layer.transmit(answer, address)
        if isinstance(found, Opened):
            if message.is_request:
                # Its number is new, so it is no copy, whatever its message id.
                self._requests.forget(found.peer, message.mid)
            self._layer.arrived(found.datagram, found.peer)
        elif isinstance(found, Again) and message.is_response:
            self._layer.dropped_datagrams["duplicate response"] += 1
            if message.type == Type.CON and (found.is_taken or self._acknowledged.has(found.peer, message.mid, now)):
                self._layer.transmit(empty(Type.ACK, message.mid), address)
        elif isinstance(found, Renewing):
            self._layer.transmit(found.datagram, address)
        elif isinstance(found, Stray) and message.type != Type.ACK:
            self._layer.transmit(empty(Type.RST, message.mid), address)
        elif isinstance(found, Unverified):
            self._refuse(found, message, address, size)

    def take_unprotected(self, message: Message, address: UdpAddress, size: int) -> None:
        """A message with a code and in the clear, where OSCORE alone is spoken: of those, only errors of devices that
        could not open a request mean anything (RFC 8613 section 8.2)."""
        if message.is_request and message.type in (Type.CON, Type.NON):
            if (refused := self._line.unprotected(self._layer.now())) is not None:
                self._refuse(refused, message, address, size)
        elif message.type == Type.RST or not self.is_not_opened(message, address):
            self._layer.dropped_datagrams["not protected"] += 1

    def is_not_opened(self, message: Message, address: Address) -> bool:
        """An error in the clear to a protected request, which has ended it: the device could not open it (RFC 8613
        section 8.2)."""
        if message.code not in _NOT_OPENED or not isinstance(address, tuple):
            return False
        peer = self._line.peer_at(address)
        acknowledged = message.mid if message.type == Type.ACK else None
        exchange = None if peer is None else self._exchanges.answered(peer, message.token, acknowledged)
        if exchange is None:
            return False
        if message.type == Type.CON:
            self._layer.transmit(empty(Type.ACK, message.mid), address)
        exchange.finish(WasReset(f"the device could not open the request: {name(message.code)}"))
        return True

    def acknowledged(self, address: Address, mid: int) -> Exchange | None:
        """The exchange that an empty ACK or an RST from an address is about; they are not protected (RFC 8613 section
        4.2)."""
        peer = self._line.peer_at(address) if isinstance(address, tuple) else None
        return None if peer is None else self._exchanges.acknowledged(peer, mid)

    def _refuse(self, found: Unverified, message: Message, address: UdpAddress, size: int) -> None:
        """RFC 8613 section 8.2; not to be cached. Nothing is kept of who has shown nothing, no message id either."""
        type_, mid = (Type.ACK, message.mid) if message.type == Type.CON else (Type.NON, self._random.getrandbits(16))
        for words in (found.words, b""):
            answer = build(type_, found.code, mid, message.token, [(Option.MAX_AGE, b"")], words)
            if len(answer) <= AMPLIFICATION * size:
                self._layer.transmit(answer, address)
                return

    # What goes

    def send(self, datagram: bytes, peer: OscorePeer) -> None:
        """Send what is protected already; or what has no content, when what it acknowledges is on disk."""
        if len(datagram) > 4:
            self._layer.transmit(datagram, peer.udp)
        else:
            mid = datagram[2] << 8 | datagram[3]
            self._line.acknowledge(peer, mid, lambda: self._layer.transmit(datagram, peer.udp))

    def answer(self, peer: OscorePeer, mid: int, datagram: bytes) -> None:
        """Protect the response to the request ``mid``, keep it for duplicates, and send it when its number is on
        disk."""

        def send(protected: bytes | None) -> None:
            if protected is None:
                self._requests.forget(peer, mid)
            else:
                self._requests.answer(peer, mid, protected)
                self._layer.transmit(protected, peer.udp)

        self._line.answer(peer, mid, datagram, send)

    def drop(self, peer: OscorePeer, mid: int) -> None:
        """The request ``mid`` is given up without an answer, so it may come again."""
        self._line.dropped(peer, mid)

    def seal(self, exchange: Exchange, peer: OscorePeer) -> bool:
        """Protect a request of ours, once; False if that cannot be now. Then it counts as if it were lost: it is sent
        when it has a number, or tried again with the next retransmission."""
        if not exchange.sealed:
            protected = self._line.close_request(peer, exchange.datagram, self._layer.now())
            if protected is None:
                exchange.sent = float("-inf")
                return False
            exchange.datagram, exchange.sealed = protected, True
        return True
