"""A CoAP endpoint: the message layer (RFC 7252 section 4) on UDP, also on what comes over DTLS or in OSCORE.

Owns the parts that it is made of, and who takes a message: `gateway.coap.receiving` has the datagrams,
`gateway.coap.server` the requests that come in, `gateway.coap.client` ours and what comes back for them,
`gateway.coap.lines` what is sent, and `gateway.coap.oscore_entry` what OSCORE adds. It guards them against malformed
messages, and knows no LwM2M.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from gateway.coap.client import CoapClient
from gateway.coap.drops import Drops
from gateway.coap.exchanges import Exchanges
from gateway.coap.incoming import Fallback, Handler
from gateway.coap.lines import Lines
from gateway.coap.message import Code, Malformed, Message, Option, Type, empty, parse
from gateway.coap.oscore_entry import OscoreEntry
from gateway.coap.peers import Address, UdpAddress
from gateway.coap.receiving import Receiving
from gateway.coap.server import CoapServer
from gateway.coap.udp import bind

if TYPE_CHECKING:
    import socket

    from gateway.coap.secure import SecureLine
    from gateway.oscore.line import OscoreLine


class Endpoint:
    """A CoAP endpoint on one UDP socket."""

    def __init__(
        self,
        coap: tuple[str, int] | None,
        handler: Handler,
        *,
        secure: SecureLine | None = None,
        seed: int | None = None,
        bound: socket.socket | None = None,
        is_elsewhere: Callable[[bytes, UdpAddress], bool] | None = None,
        token_mark: bytes = b"",
    ) -> None:
        """Bind at once; ``coap`` is where messages come in the clear, None: nowhere (`speak_oscore`).

        ``bound`` is a socket that is there already; ``is_elsewhere`` may hand a datagram to another process, and tells
        so; ``token_mark`` is what all tokens begin with, its first bit set.

        Raises:
            OSError: the address cannot be bound.
        """
        udp = bound if bound is not None or coap is None else bind(*coap)
        self._random = Random(seed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_the_clear = coap is not None
        self._drops = Drops(self.now)
        #: What was received and dropped, by reason; `metrics` shows it.
        self.dropped_datagrams = dropped = self._drops.by_reason
        self.lines = Lines(udp, secure, dropped, in_the_clear=self._in_the_clear)
        exchanges = Exchanges()
        self.receiving = Receiving(self.lines, handler, exchanges, self._drops, self._take, is_elsewhere)
        self.server = CoapServer(self.lines, handler, exchanges, dropped, self.now, self._random)
        self.client = CoapClient(
            self.lines, self.receiving, handler, exchanges, dropped, self.now, self._random, token_mark
        )
        # The receiver of what comes over DTLS, and what OSCORE stands on; the first is called for every message.
        self.arrived, self.batch_done = self.receiving.arrived, self.receiving.batch_done
        self.anew, self.transmit = self.server.anew, self.lines.transmit
        #: Told of a message with OSCORE while it is not spoken; may begin to (`speak_oscore`).
        self.on_oscore: Callable[[], None] | None = None
        self._closed = False

    def now(self) -> float:
        """Seconds of the event loop's clock."""
        return self._loop.time() if self._loop is not None else 0.0

    def serve(self, handler: Handler) -> None:
        """Hand messages to ``handler`` from now on."""
        self.receiving.handler = self.server.handler = self.client.handler = handler

    def fall_back(self, fallback: Fallback) -> None:
        """Hand to ``fallback`` what the handler does not take."""
        self.server.fallback = self.client.fallback = fallback

    def speak_oscore(self, line: OscoreLine, coap: tuple[str, int]) -> None:
        """Take messages with OSCORE: where they come in the clear, or else at ``coap``, and there no others.

        Raises:
            OSError: ``coap`` cannot be bound.
        """
        if self.lines.socket is None:
            self.lines.listen(coap)
            if self._loop is not None:
                self.receiving.start(self._loop)
        client = self.client
        self.lines.oscore = OscoreEntry(
            line, self, client.exchanges, self.server.requests, client.acknowledged, self._random
        )
        line.on_numbers = client.send_again

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to receive."""
        self._loop = loop
        self.client.start(loop)
        self.receiving.start(loop)
        if self.lines.secure is not None:
            self.lines.secure.start(loop, self)

    def pause(self) -> None:
        """Stop receiving; what is under way can still be answered."""
        self.receiving.pause()
        if self.lines.secure is not None:
            self.lines.secure.pause()

    def close(self) -> None:
        """Stop receiving and close the sockets; every open request of ours fails with Stopped."""
        if self._closed:
            return
        self._closed = True
        self.pause()
        self.client.close()
        self.lines.close()

    # Messages

    def _take(self, datagram: bytes, address: Address) -> None:
        """A datagram that no short path has taken. Never raises."""
        try:
            message = parse(datagram)
        except Malformed as exc:
            self._drops.drop(str(exc), address)
            # RFC 7252 section 4.2: what is confirmable and cannot be processed is rejected. Another version is silently
            # ignored (section 3).
            if len(datagram) >= 4 and datagram[0] & 0xF0 == 0x40:
                self.lines.send(empty(Type.RST, datagram[2] << 8 | datagram[3]), address)
            return
        try:
            is_protected = message.unrecognised == Option.OSCORE
            if is_protected and self.lines.oscore is None and self.on_oscore is not None:
                self.on_oscore()
            if is_protected and self.lines.oscore is not None and isinstance(address, tuple):
                self.lines.oscore.take(message, address, len(datagram))
            elif (
                not self._in_the_clear
                and self.lines.oscore is not None
                and isinstance(address, tuple)
                and message.code != Code.EMPTY
            ):
                self.lines.oscore.take_unprotected(message, address, len(datagram))
            else:
                self._dispatch(message, address, len(datagram))
        except Exception:  # noqa: BLE001  # one datagram must never end the gateway; it is counted and logged
            self._drops.failed(datagram, address)

    def _dispatch(self, message: Message, address: Address, size: int) -> None:
        if message.is_request:
            if message.type in (Type.CON, Type.NON):
                self.server.take(message, address, size)
            else:
                self._drops.drop("request as ACK or RST", address)
        elif message.code == Code.EMPTY:
            if message.type == Type.CON:  # a ping (RFC 7252 section 4.3)
                self.lines.send(empty(Type.RST, message.mid), address)
            elif message.type in (Type.ACK, Type.RST):
                self.client.take_empty(message, address)
        elif message.type == Type.RST:
            self._drops.drop("RST with a code", address)
        else:
            self.client.take_response(message, address)
