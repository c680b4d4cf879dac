"""One virtual device of a load: a thread in JMeter's terms, with at most one sample open at a time.

Owns what the device says next and what it makes of what it hears: registration (OMA LwM2M Core 1.1, section 6.2),
observation, notifications, Send, and the message layer below them (RFC 7252 section 4): retransmission, deduplication,
message ids. It reads no clock and waits for nothing; the engine gives it the time (monotonic seconds) and datagrams.
Written for speed where a message is acknowledged and the next one sent; everything else goes the plain way.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import Struct
from typing import Final

from gateway.coap.exchanges import (
    ACK_RANDOM_FACTOR,
    ACK_TIMEOUT,
    EXCHANGE_LIFETIME,
    MAX_RETRANSMIT,
    MAX_TRANSMIT_WAIT,
)
from gateway.coap.message import Code, Malformed, Message, Option, Options, Type, build, empty, name, parse
from gateway.devices.load.content import LINK_FORMAT
from gateway.devices.load.notification import Template, template
from gateway.devices.load.plan import Kind
from gateway.devices.load.samples import Sample
from gateway.devices.load.session import SecureSession
from gateway.devices.load.shared import EXPECTED, LABELS, Doing, Load, option_bytes

#: Message ids that are used in a row between two looks at when they were used before.
_BLOCK: Final = 4096
#: So many ids a second can be used without one coming back within EXCHANGE_LIFETIME (RFC 7252 section 4.4).
IDS_A_SECOND: Final = 265
#: After a registration or a handshake that was refused, in seconds; doubled up to the longest.
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: So often the gateway is waited for to observe, with an update of the registration in between.
_OBSERVE_WAITS: Final = 2
#: Between the answer to an observe request and the first notification: the gateway writes the observation down first,
#: and what comes before that would be said again seconds later.
_SETTLING: Final = 0.25
#: Sent so often in vain, a message is said again in a new DTLS session.
_IN_VAIN: Final = 3
_NEVER: Final = float("inf")
_SPREAD: Final = ACK_TIMEOUT * (ACK_RANDOM_FACTOR - 1.0)
_REQUEST = Struct(">BBHI")
_EMPTY_ACK: Final = Struct(">HH").pack
_made: Final = tuple.__new__
#: To get at a member by way of its enumeration takes ten times as long.
_NOTIFY: Final = Doing.NOTIFY
_NOTHING: Final = Doing.NOTHING
#: In the first byte of a message's header, and the option Observe (6) with three bytes.
_NON: Final = 0x10
_OBSERVE: Final = 0x63000000
_CONTENT: Final = int(Code.CONTENT)
_NO_TEMPLATE: Final = Template(Struct("").pack, 0, b"", b"")


class Device:
    """Thread ``number``, from 1. ``awaited`` is the one datagram that says that the open exchange went well."""

    __slots__ = (
        "_acknowledged",
        "_began",
        "_datagram",
        "_delay",
        "_expected",
        "_interval",
        "_label",
        "_leaving",
        "_left",
        "_load",
        "_location",
        "_loops",
        "_mid",
        "_observe",
        "_open_mid",
        "_pause",
        "_refresh_at",
        "_retry",
        "_said",
        "_separate",
        "_share",
        "_template",
        "_ticket",
        "_token",
        "_told",
        "_tries",
        "_unobserved",
        "_value",
        "awaited",
        "deadline",
        "doing",
        "endpoint",
        "number",
        "observed",
        "receive",
        "session",
        "sock",
    )  # fmt: skip

    def __init__(
        self, number: int, endpoint: str, load: Load, sock: socket.socket, session: SecureSession | None, now: float
    ) -> None:
        self.number = number
        self.endpoint = endpoint
        self.sock = sock
        self.receive = sock.recv
        self.session = session
        self.awaited: bytes | None = None
        self.deadline = _NEVER
        self.doing = Doing.NOTHING
        #: The token of the gateway's observation, None while there is none.
        self.observed: bytes | None = None
        self._load = load
        self._loops = load.plan.loops or -1
        self._location: list[tuple[int, bytes]] | None = None
        self._refresh_at = _NEVER
        self._leaving = False
        self._unobserved = 0
        self._share = load.plan.shares[0]
        self._delay = 0.0
        self._pause = 0.0
        self._retry = _PAUSE
        # They follow the clock, so that another run from the same port uses others (RFC 7252 section 4.4).
        self._mid = int((now + load.offset) * IDS_A_SECOND) & 0xFFFF
        self._left: dict[int, float] = {}
        self._token = number << 16 & 0xFFFF0000
        self._ticket = ""
        # The open exchange.
        self._label = ""
        self._began = self._interval = 0.0
        self._datagram = b""
        self._open_mid = -1
        self._expected = 0
        self._tries = 0
        self._acknowledged = False
        #: The message id of the last separate response, in case it comes again.
        self._separate = -1
        #: The last value that was given out, that of the open exchange, and the last one that was read.
        self._value = 0.0
        self._said = 0.0
        self._told = 0.0
        # Of the observation.
        self._observe = 1
        self._template = _NO_TEMPLATE

    @property
    def registered(self) -> bool:
        return self._location is not None

    # What comes next

    def step(self, now: float) -> None:
        """Begin the next sample; nothing is open now."""
        load = self._load
        if load.ending or not self._loops:
            self.leave(now)
            return
        if not self._mid % _BLOCK and self._held_back(now):
            return
        if self.session is not None and not self.session.is_open:
            self._open(Doing.HANDSHAKE, now)
            self.deadline = _NEVER
            self.session.connect(now)
        elif self._location is None:
            self._register(now)
        elif now >= self._refresh_at:
            self._update(now)
        elif self.observed is None and load.plan.observed:
            self._open(Doing.OBSERVE, now)
            self.deadline = now + load.plan.patience
        else:
            self._loops -= 1
            share = self._share = load.share()
            self._delay = share.delay
            if share.kind is Kind.NOTIFY:
                self._notify(now)
            else:
                _BEGIN[share.kind](self, now)

    def leave(self, now: float) -> None:
        """De-register, unless the devices are to stay, and be done. Nothing is open now."""
        if self._leaving:
            return
        self._leaving = True
        if self._location is None or self._load.plan.keep:
            self._end()
        else:
            self._request(Doing.DEREGISTER, Code.DELETE, option_bytes(self._location), now)

    def abandon(self, now: float) -> None:
        """There is no time left to wait for what is open; a registration is still given up if nothing else is."""
        if self.doing is not Doing.NOTHING:
            self._load.counts["unfinished"] += 1
            self._close()
        if self._leaving:
            self._end()
        else:
            self.leave(now)

    def _end(self) -> None:
        if self.session is not None:
            self.session.close()
        self._load.done(self)

    def _register(self, now: float) -> None:
        queries = (f"ep={self.endpoint}", f"lt={self._load.plan.lifetime}", "lwm2m=1.1", "b=U")
        options = [(Option.URI_PATH, b"rd"), (Option.CONTENT_FORMAT, LINK_FORMAT)]
        options += [(Option.URI_QUERY, one.encode()) for one in queries]
        self.observed = None
        self._request(Doing.REGISTER, Code.POST, option_bytes(options) + b"\xff" + self._load.content.links, now)

    def _register_again(self, now: float) -> None:
        # The registration that follows is made by `step`; the last one is given up by `leave`.
        assert self._location is not None
        if self._loops:
            self._request(Doing.DEREGISTER, Code.DELETE, option_bytes(self._location), now)
        else:
            self.leave(now)

    def _update(self, now: float) -> None:
        assert self._location is not None
        self._request(Doing.UPDATE, Code.POST, option_bytes(self._location), now)

    def _send(self, now: float) -> None:
        load = self._load
        value = self._said = self._clock(now)
        if load.ledger is not None:
            load.ledger.sent(self.endpoint, load.path, value, True)
        self._request(Doing.SEND, Code.POST, load.send_body + load.send_payload(value), now)

    def _notify(self, now: float) -> None:
        """Notify the next value. Written out for speed, as is `went_well`: a load mostly consists of the two."""
        load = self._load
        token = self.observed
        assert token is not None
        mid = self._mid
        self._mid = mid + 1 & 0xFFFF
        self._observe = number = self._observe + 1 & 0xFFFFFF
        value = (now + load.offset) * 1e6 // 1
        if value <= self._value:
            value = self._value + 1.0
        self._value = self._said = value
        confirmable = self._share.confirmable
        pack, first, before, after = self._template
        if not confirmable:
            first |= _NON
        # As `Template.fill` does it.
        datagram = pack(first, _CONTENT, mid, token, _OBSERVE | number, before, value, after)
        if load.ledger is not None:
            load.ledger.sent(self.endpoint, load.path, value, confirmable)
        if not confirmable:
            self._notify_non(datagram, now)
            return
        self.doing = _NOTIFY
        self._datagram = datagram
        self._label = "notify CON"
        self._began = now
        self._tries = 0
        self._acknowledged = False
        self._open_mid = mid
        self.awaited = _EMPTY_ACK(0x6000, mid)
        self._interval = interval = ACK_TIMEOUT + _SPREAD * load.random.random()
        self.deadline = now + interval
        if self.session is None:
            try:
                self.sock.send(datagram)
            except OSError:
                load.counts["not sent"] += 1
        else:
            self.session.send(datagram, now)

    def _notify_non(self, datagram: bytes, now: float) -> None:
        load = self._load
        failure = ""
        try:
            if self.session is None:
                self.sock.send(datagram)
            else:
                self.session.send(datagram, now)
        except OSError as exc:
            failure = f"it could not be sent: {exc.strerror}"
        at = int((now + load.offset) * 1000)
        code, size = "error" if failure else "", len(datagram)
        load.record(Sample(at, 0, "notify NON", self.endpoint, self.number, code, not failure, failure, size))
        # By way of the engine, so that others have their turn.
        if self._delay:
            load.wait(now + self._delay, self)
        else:
            load.turn(self)

    def _ask(self, now: float) -> None:
        load = self._load
        assert load.reads is not None
        self._open(Doing.ANSWER, now)
        self.deadline = now + load.plan.patience
        self._ticket = f"{load.run}-{self.number}-{self._token & 0xFFFF}"
        self._token = (self._token & 0xFFFF0000) | (self._token + 1 & 0xFFFF)
        load.reads.ask(self._ticket, self.endpoint, load.path)

    def _clock(self, now: float) -> float:
        """The device's clock in epoch microseconds, which rises with each look."""
        value = float(int((now + self._load.offset) * 1e6))
        if value <= self._value:
            value = self._value + 1.0
        self._value = value
        return value

    def _held_back(self, now: float) -> bool:
        """Whether the next message ids were used too lately; then `step` is called again when they are free."""
        block = self._mid // _BLOCK
        self._left[(block - 1) % (0x10000 // _BLOCK)] = now
        free = self._left.get(block, -EXCHANGE_LIFETIME) + EXCHANGE_LIFETIME
        if now >= free:
            return False
        self._load.counts["held back"] += 1
        self._load.wait(free, self)
        return True

    # The open exchange

    def _open(self, doing: Doing, now: float) -> None:
        self.doing = doing
        self._label = LABELS.get(doing, "")
        self._began = now
        self._tries = 0
        self._acknowledged = False
        self._datagram = b""

    def _request(self, doing: Doing, code: int, body: bytes, now: float) -> None:
        self._open(doing, now)
        mid = self._mid
        self._mid = mid + 1 & 0xFFFF
        self._token = (self._token & 0xFFFF0000) | (self._token + 1 & 0xFFFF)
        self._expected = EXPECTED[doing]
        datagram = _REQUEST.pack(0x44, code, mid, self._token) + body
        # That of a registration has its location.
        awaited = None if doing is Doing.REGISTER else _REQUEST.pack(0x64, self._expected, mid, self._token)
        self._confirm(mid, datagram, awaited, now)

    def _confirm(self, mid: int, datagram: bytes, awaited: bytes | None, now: float) -> None:
        self._open_mid = mid
        self._datagram = datagram
        self.awaited = awaited
        self._interval = ACK_TIMEOUT + _SPREAD * self._load.random.random()
        self.deadline = now + self._interval
        self._transmit(datagram, now)

    def _transmit(self, datagram: bytes, now: float) -> None:
        if self.session is not None:
            self.session.send(datagram, now)
            return
        try:
            self.sock.send(datagram)
        except OSError:
            # Like a datagram that got lost: it is said again.
            self._load.counts["not sent"] += 1

    def overdue(self, now: float) -> None:
        """``deadline`` is over: say it again, or give it up (RFC 7252 section 4.2)."""
        if not self._datagram or self._acknowledged or self._tries >= MAX_RETRANSMIT:
            self._finish(now, "timeout", False, self._in_vain())
        else:
            self._tries += 1
            self._interval *= 2
            self.deadline = now + self._interval
            self._load.counts["retransmitted"] += 1
            if self.session is not None and self._tries >= _IN_VAIN:
                self.session.again(self._datagram, now)
            else:
                self._transmit(self._datagram, now)

    def _in_vain(self) -> str:
        plan = self._load.plan
        if self.doing is Doing.OBSERVE:
            pattern = f"/{plan.path.object_id}/*/{plan.path.resource_id}"
            return (
                f"the gateway did not observe {plan.path} within {plan.patience:g} s: start it with --observe "
                f"'{pattern}', or say `headwater observe {self.endpoint} {plan.path}`"
            )
        if self.doing is Doing.ANSWER:
            return f"no reply within {plan.patience:g} s"
        if self._acknowledged:
            return f"acknowledged, and not answered within {MAX_TRANSMIT_WAIT:g} s"
        failed = "" if self.session is None or not self.session.failed else f" ({self.session.failed})"
        return f"no answer to {MAX_RETRANSMIT + 1} transmissions{failed}"

    def tick(self, now: float) -> None:
        """What the DTLS session has to do by now."""
        session = self.session
        assert session is not None
        if session.deadline <= now:
            session.tick(now)
            self._look_at_session(now)

    def _look_at_session(self, now: float) -> None:
        session = self.session
        assert session is not None
        if self.doing is Doing.HANDSHAKE:
            if session.is_open:
                self._retry = _PAUSE
                self._finish(now, "", True)
            elif session.failed:
                self._fail(now, "error", session.failed)
        elif self.doing is Doing.REGISTER and session.is_open and session.failed:
            # OSCORE: the keys are derived with the registration, and the gateway does not have them.
            self._fail(now, "error", session.failed)

    def _close(self) -> None:
        self.doing = Doing.NOTHING
        self.awaited = None
        self.deadline = _NEVER

    def _finish(self, now: float, code: str, success: bool, message: str = "", received: int = 0) -> None:
        doing, load = self.doing, self._load
        load.record(
            Sample(
                int((self._began + load.offset) * 1000),
                int((now - self._began) * 1e6),
                self._label,
                self.endpoint,
                self.number,
                code,
                success,
                message,
                len(self._datagram),
                received,
            )
        )
        self._close()
        self._go_on(doing, success, now)

    def _go_on(self, doing: Doing, success: bool, now: float) -> None:
        """What follows an exchange that is over."""
        load = self._load
        if self._leaving:
            self._end()
            return
        if doing is Doing.OBSERVE:
            self._unobserved = 0 if success else self._unobserved + 1
            if self._unobserved == _OBSERVE_WAITS:
                load.counts["not observed"] += 1
                self.leave(now)
                return
            if not success:
                # An update has the gateway ask again.
                self._refresh_at = now
        if not success and doing in (Doing.REGISTER, Doing.HANDSHAKE):
            # A loop each, so that a load without a server comes to its end.
            self._loops -= 1
            self._pause = max(self._pause, self._retry * load.random.uniform(0.5, 1.0))
            self._retry = min(self._retry * 2, _LONGEST_PAUSE)
        wait = _SETTLING if doing is Doing.OBSERVE and success else self._pause
        if doing is Doing.REGISTER and load.only_registers:
            wait = max(wait, self._share.delay)
        elif doing not in (Doing.HANDSHAKE, Doing.REGISTER, Doing.OBSERVE):
            wait = max(wait, self._delay)
        self._pause = 0.0
        if wait and self._loops and not load.ending:
            load.wait(now + wait, self)
        else:
            self.step(now)

    def _fail(self, now: float, code: str, message: str, received: int = 0) -> None:
        self._finish(now, code, False, message, received)

    def went_well(self, now: float, received: int) -> None:
        """``awaited`` came. After a notification the next one follows at once, unless something else is due."""
        if self.doing is not _NOTIFY:
            self._answered(now, received)
            return
        load, began = self._load, self._began
        if load.ledger is not None:
            load.ledger.acknowledged(self.endpoint, load.path, self._said)
        at, elapsed = int((began + load.offset) * 1000), int((now - began) * 1e6)
        size, endpoint, number = len(self._datagram), self.endpoint, self.number
        # What `Sample` itself does, without its call in Python.
        load.record(_made(Sample, (at, elapsed, "notify CON", endpoint, number, "ACK", True, "", size, received)))
        self.awaited = None
        if (
            load.only_notifies
            and self._loops
            and self._mid % _BLOCK
            and now < self._refresh_at
            and self.observed is not None
            and not load.ending
        ):
            if self._delay:
                self.doing = _NOTHING
                self.deadline = _NEVER
                load.wait(now + self._delay, self)
            else:
                self._loops -= 1
                self._notify(now)
        else:
            self._close()
            self._go_on(_NOTIFY, True, now)

    def _answered(self, now: float, received: int) -> None:
        """A request was answered as it should be."""
        doing, load = self.doing, self._load
        if doing is Doing.SEND:
            if load.ledger is not None:
                load.ledger.acknowledged(self.endpoint, load.path, self._said)
        elif doing is Doing.DEREGISTER:
            self._location, self.observed = None, None
        else:
            self._retry = _PAUSE
            self._refresh_at = now + 0.7 * load.plan.lifetime
        self._finish(now, name(self._expected), True, "", received)

    # What is heard

    def hear(self, datagram: bytes, now: float) -> None:
        """Take a datagram that is not ``awaited``."""
        session = self.session
        if session is None:
            self._hear(datagram, now)
            return
        for message in session.receive(datagram, now):
            if message == self.awaited:
                self.went_well(now, len(message))
            else:
                self._hear(message, now)
        self._look_at_session(now)

    def _hear(self, datagram: bytes, now: float) -> None:
        try:
            message = parse(datagram)
        except Malformed:
            self._load.counts["malformed"] += 1
            return
        if message.is_request:
            self._asked(message, now)
        elif message.is_response:
            self._responded(message, len(datagram), now)
        elif message.type == Type.CON:
            self._transmit(empty(Type.RST, message.mid), now)  # a ping (RFC 7252 section 4.3)
        elif message.mid != self._open_mid or (not self.awaited and self.doing is not Doing.REGISTER):
            if message.type == Type.RST and self.doing is Doing.NOTHING:
                # It may well be about a NON: the gateway knows this observation no more.
                self._load.counts["resets"] += 1
                self.forgotten()
            else:
                self._stray(message.mid)
        elif message.type == Type.RST:
            if self.doing is Doing.NOTIFY:
                self.forgotten()
            self._fail(now, "RST", "the gateway does not know this observation, or this device", len(datagram))
        else:
            self._acknowledged = True
            self.deadline = now + MAX_TRANSMIT_WAIT

    def _stray(self, mid: int) -> None:
        """What answers nothing that is open: a copy, if it answers what was said last or before."""
        self._load.counts["copies" if (self._mid - mid & 0xFFFF) < _BLOCK else "strays"] += 1

    def forgotten(self) -> None:
        """The gateway knows neither registration nor observation any more: the next step registers."""
        self._location, self.observed = None, None

    def _responded(self, message: Message, size: int, now: float) -> None:
        is_open = self.doing in EXPECTED and message.token == self._token.to_bytes(4, "big")
        if message.type == Type.ACK and message.mid != self._open_mid:
            is_open = False
        if message.type == Type.CON:
            known = is_open or message.mid == self._separate
            self._transmit(empty(Type.ACK if known else Type.RST, message.mid), now)
            self._separate = message.mid if is_open else self._separate
        if not is_open:
            self._stray(message.mid if message.type == Type.ACK else self._mid)
            return
        if message.code == self._expected:
            if self.doing is Doing.REGISTER:
                location = [one for one in message.options if one[0] == Option.LOCATION_PATH]
                if not location:
                    self._fail(now, name(message.code), "the answer has no Location-Path", size)
                    return
                self._location = [(Option.URI_PATH, value) for _, value in location]
            self.went_well(now, size)
            return
        if message.code == Code.NOT_FOUND or self._leaving:
            self.forgotten()
        if message.code == Code.SERVICE_UNAVAILABLE:
            # Max-Age is the time to wait, 60 s if it is left out (RFC 7252 sections 5.9.3.4 and 5.10.5).
            seconds = message.uint(Option.MAX_AGE)
            self._pause = min(60.0 if seconds is None else float(seconds), _LONGEST_PAUSE)
        words = message.payload[:200].decode("utf-8", "replace")
        self._fail(now, name(message.code), words or f"the gateway answered {name(message.code)}", size)

    def _asked(self, message: Message, now: float) -> None:
        """A request of the gateway; one that comes again is answered as before."""
        address = (self.endpoint, self.number)
        again, answer = self._load.seen.seen(address, message.mid, now)
        if again:
            self._load.counts["requests again"] += 1
        else:
            answer = self._answer(message, now)
            self._load.seen.answer(address, message.mid, answer)
        if answer is not None:
            self._transmit(answer, now)
        if self.doing is Doing.OBSERVE and self.observed is not None:
            self._finish(now, "2.05", True)

    def _answer(self, message: Message, now: float) -> bytes:
        value = self._clock(now)
        code, options, payload = self._load.content.asked(message, self.endpoint, value)
        mine = message.texts(Option.URI_PATH) == [str(one) for one in self._load.plan.path.ids]
        if code == Code.CONTENT and mine:
            self._told = value
            observe = message.uint(Option.OBSERVE)
            if observe == 0:
                self._observed_as(message.token, options)
                options = [*options, (Option.OBSERVE, self._observe.to_bytes(3, "big"))]
            elif observe == 1 and message.token == self.observed:
                self.observed = None
        if message.type == Type.CON:
            return build(Type.ACK, code, message.mid, message.token, options, payload)
        mid, self._mid = self._mid, self._mid + 1 & 0xFFFF
        return build(Type.NON, code, mid, message.token, options, payload)

    def _observed_as(self, token: bytes, options: Options) -> None:
        content_format = options[0][1]
        self.observed = token
        self._template = template(self._load.content, len(token), content_format)

    def replied(self, ticket: str, code: str, value: float | None, message: str, now: float) -> None:
        """The reply to a read by way of Kafka: the CoAP code that it comes to, and the value in it."""
        if self.doing is not Doing.ANSWER or ticket != self._ticket:
            self._load.counts["late replies"] += 1
        elif code != "2.05":
            self._fail(now, code, message)
        elif value != self._told:
            self._fail(now, code, f"the reply has {value!r}, the device answered {self._told!r}")
        else:
            self._finish(now, code, True)


_BEGIN: Final[dict[Kind, Callable[[Device, float], None]]] = {
    Kind.REGISTER: Device._register_again,
    Kind.UPDATE: Device._update,
    Kind.SEND: Device._send,
    Kind.ANSWER: Device._ask,
}
