"""OSCORE between a device's UDP socket and its messages (RFC 8613; LwM2M Transport 1.1, section 5.5).

Owns the security context with the one server. A device that keeps no sequence numbers has its keys derived anew each
time it begins (appendix B.2), so nothing is on disk; likewise when the server does not know the keys any more. Towards
the socket it is a protocol, towards `DeviceSocket` the transport, which sees plain messages. Messages without content
are not protected (section 4.2). What goes out again goes out as the very bytes of before, so no number is used twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import structlog

from gateway.coap.message import Code, Malformed, Message, Type, build, name, parse
from gateway.oscore import messages
from gateway.oscore.context import SecurityContext, Unauthentic
from gateway.oscore.option import Compressed, Undecodable, decode, partial_iv
from gateway.oscore.renewal import unwrapped, wrapped
from gateway.oscore.window import ReplayWindow
from security.credentials.kinds import Oscore

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from gateway.devices.secure import Above, SocketAddress

#: Messages that wait for keys; datagrams that are known again; requests of ours, and the server's, to be answered.
_MOST_HELD: Final = 32
_MOST_KNOWN: Final = 64
_MOST_ASKED: Final = 64
_MOST_SERVED: Final = 4096
#: Bytes of the device's parts of an ID Context.
_OWN_PART: Final = 8
_FIRST_IV: Final = partial_iv(0)

_log = structlog.get_logger("headwater.device")


class Log(Protocol):
    """Whom it is told what went wrong; structlog's loggers are such."""

    def info(self, event: str, **words: object) -> object: ...

    def warning(self, event: str, **words: object) -> object: ...


@dataclass(frozen=True, slots=True)
class _Beginning:
    """The request with which a derivation begins, as it is said again and again, and the keys for it alone."""

    token: bytes
    context: SecurityContext
    datagram: bytes


class OscoreTransport(asyncio.DatagramProtocol, asyncio.DatagramTransport):
    """One device's OSCORE. ``on_again`` is called when keys were derived for another time than the first."""

    def __init__(
        self,
        above: Above,
        credential: Oscore,
        *,
        ep: str,
        on_again: Callable[[], None] = lambda: None,
        log: Log = _log,
    ) -> None:
        """``credential`` is as the server has it, and has no ID Context."""
        super().__init__()
        self._above = above
        # The ids are the other way round here.
        self._own = replace(credential, sender_id=credential.recipient_id, recipient_id=credential.sender_id)
        self._ep = ep
        self._on_again = on_again
        self._log = log
        self._below: asyncio.DatagramTransport | None = None
        self._server: SocketAddress = ()
        #: The keys, None until they are derived, and the ID Context that they were derived with.
        self._context: SecurityContext | None = None
        self._id_context = b""
        self._number = 0
        self._window = ReplayWindow()
        #: The request that begins the derivation, and what waits for its end, each once.
        self._beginning: _Beginning | None = None
        self._held: dict[bytes, None] = {}
        #: The Partial IVs of requests by their tokens: ours, and the server's.
        self._asked: OrderedDict[bytes, bytes] = OrderedDict()
        self._served: OrderedDict[bytes, bytes] = OrderedDict()
        #: What was protected, and opened, by what it was before.
        self._said: OrderedDict[bytes, bytes] = OrderedDict()
        self._heard: OrderedDict[bytes, bytes] = OrderedDict()
        self._has_complained = False
        #: How often keys were derived, and datagrams that were not the server's or not protected.
        self.derived = 0
        self.strangers = 0

    def forget_held(self) -> None:
        """Nobody waits any more for what was not sent yet."""
        self._held.clear()

    # asyncio.DatagramProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, no check: asyncio's own datagram transport does not derive from DatagramTransport.
        self._below = cast("asyncio.DatagramTransport", transport)
        self._above.connection_made(self)

    def datagram_received(self, data: bytes, addr: SocketAddress) -> None:
        if not self._above.listening:
            self._above.slept_through += 1
        elif addr[:2] != self._server[:2]:
            self.strangers += 1
        elif len(data) == 4 or (opened := self._opened(data)) is None:
            if len(data) == 4:
                self._above.datagram_received(data, addr)
        else:
            self._above.datagram_received(opened, addr)

    def error_received(self, exc: Exception) -> None:
        # As over UDP: the message is said again.
        pass

    # asyncio.DatagramTransport

    def sendto(self, data: Any, addr: SocketAddress | str | Buffer | None = None) -> None:
        """Protect and send; without keys, after they are derived."""
        assert isinstance(addr, tuple), "a device names its server"
        self._server = addr
        plain = bytes(data)
        if len(plain) == 4:
            self._transmit(plain)
        elif self._context is not None:
            self._say(self._context, plain)
        elif 0 < plain[1] < 0x20:
            self._held[plain] = None
            if len(self._held) > _MOST_HELD:
                del self._held[next(iter(self._held))]
            # Again with each time that the message layer says its own again.
            self._transmit(self._first_request())

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert self._below is not None, "the socket is not open"
        return self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._below is None or self._below.is_closing()

    def close(self) -> None:
        """Close the socket."""
        if self._below is not None:
            self._below.close()

    def abort(self) -> None:
        """Close the socket."""
        self.close()

    # What goes

    def _say(self, context: SecurityContext, plain: bytes) -> None:
        if plain not in self._said:
            message = parse(plain)
            own = partial_iv(self._number)
            if message.is_request:
                _keep(self._asked, message.token, own, _MOST_ASKED)
                protected = messages.close_request(context, plain, own, wrapped(self._id_context))
            elif (request_iv := self._served.get(message.token)) is not None:
                self._served.move_to_end(message.token)
                protected = messages.close_numbered_response(context, plain, request_iv, own)
            else:
                return  # asked under keys that are no more
            self._number += 1
            _keep(self._said, plain, protected, _MOST_KNOWN)
        self._transmit(self._said[plain])

    def _transmit(self, datagram: bytes) -> None:
        if self._below is not None and not self._below.is_closing():
            self._below.sendto(datagram, self._server)

    # What comes

    def _opened(self, data: bytes) -> bytes | None:
        """The plain message; None: it was for us, or is none."""
        if data in self._heard:
            return self._heard[data]
        try:
            message = parse(data)
            value = messages.option_of(message)
            if value is None:
                self._unprotected(message)
                return None
            fields = decode(value)
            plain = (self._request if message.is_request else self._response)(message, fields)
        except (Malformed, Undecodable, Unauthentic):
            self.strangers += 1
            return None
        if plain is not None:
            _keep(self._heard, data, plain, _MOST_KNOWN)
        return plain

    def _request(self, message: Message, fields: Compressed) -> bytes:
        if self._context is None or fields.partial_iv is None or fields.kid != self._own.recipient_id:
            raise Unauthentic
        number = int.from_bytes(fields.partial_iv, "big")
        if self._window.has(number):
            raise Unauthentic
        plain = messages.open_request(self._context, message, fields.partial_iv)
        self._window.take(number)
        _keep(self._served, message.token, fields.partial_iv, _MOST_SERVED)
        return plain

    def _response(self, message: Message, fields: Compressed) -> bytes | None:
        if self._beginning is not None and message.token == self._beginning.token:
            self._derive(message, fields, self._beginning.context, _FIRST_IV)
            return None
        asked = self._asked.get(message.token)
        if self._context is None or asked is None:
            raise Unauthentic
        if fields.kid_context is not None:
            # The server does not know these keys, and begins anew.
            self._derive(message, fields, self._context, asked)
            return None
        return messages.open_response(self._context, message, asked, fields.partial_iv)

    def _unprotected(self, message: Message) -> None:
        """An error in the clear (section 8.2): the server could not open what was said."""
        is_first = self._beginning is not None and message.token == self._beginning.token
        if not message.is_response or (message.token not in self._asked and not is_first):
            self.strangers += 1
            return
        # Anybody may have said it, and all that it does is to have keys derived anew.
        self._context = self._beginning = None
        if not self._has_complained:
            self._has_complained = True
            self._log.warning(
                "no OSCORE context",
                ep=self._ep,
                kid=self._own.sender_id.hex(),
                reason=f"the server answered {name(message.code)} in the clear",
                do="compare secret, salt and ids with what `headwater credentials import` was given at the gateway",
            )

    # Keys derived anew (appendix B.2)

    def _first_request(self) -> bytes:
        """One that says a random ID Context; it asks for nothing, and the answer is never but an ID Context."""
        if self._beginning is None:
            self._id_context = secrets.token_bytes(_OWN_PART)
            token, mid = secrets.token_bytes(8), int.from_bytes(secrets.token_bytes(2), "big")
            context = SecurityContext(self._own, self._id_context)
            asks = build(Type.NON, Code.GET, mid, token, [], b"")
            said = messages.close_request(context, asks, _FIRST_IV, wrapped(self._id_context))
            self._beginning = _Beginning(token, context, said)
        return self._beginning.datagram

    def _derive(self, message: Message, fields: Compressed, asked_by: SecurityContext, request_iv: bytes) -> None:
        """The server's part has come, to a request under ``asked_by``; behind it stands another of ours, and the keys
        are those of both.

        Raises:
            Unauthentic: it is not the server's.
        """
        theirs = None if fields.kid_context is None else unwrapped(fields.kid_context)
        if theirs is None:
            raise Unauthentic
        kid = self._own.sender_id
        between = SecurityContext(self._own, theirs + self._id_context)
        if between.open(message.payload, asked_by.nonce(kid, request_iv), kid, request_iv)[0] != Code.UNAUTHORIZED:
            raise Unauthentic
        self._id_context = theirs + secrets.token_bytes(_OWN_PART)
        self._context = context = SecurityContext(self._own, self._id_context)
        self._beginning, self._number, self._window = None, 0, ReplayWindow()
        for known in (self._asked, self._served, self._said, self._heard):
            known.clear()
        self._has_complained = False
        self.derived += 1
        held, self._held = self._held, {}
        for plain in held:
            self._say(context, plain)
        if self.derived > 1:
            self._log.info("other OSCORE keys", ep=self._ep)
            self._on_again()


def _keep(known: OrderedDict[bytes, bytes], key: bytes, value: bytes, most: int) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)
