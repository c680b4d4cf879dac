"""One virtual device of a load: a thread in JMeter's terms, with at most one sample open at a time.

Owns what the device says next and what it makes of what it hears: registration (OMA LwM2M Core 1.1, section 6.2),
observation, notifications, Send. The message layer below is `exchange`, what the gateway reads and observes is `value`.
It reads no clock and waits for nothing; the engine gives it the time (monotonic seconds) and datagrams. Written for
speed where a message is acknowledged and the next one sent; everything else goes the plain way.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import Struct
from typing import Final

from gateway.coap.exchanges import ACK_TIMEOUT
from gateway.coap.message import Code, Malformed, Message, Option, Type, build, empty, name, parse
from gateway.devices.load.content import LINK_FORMAT
from gateway.devices.load.exchange import BLOCK, SPREAD, Exchange
from gateway.devices.load.plan import Kind
from gateway.devices.load.samples import Sample
from gateway.devices.load.shared import Doing, Load, option_bytes
from gateway.devices.load.value import ObservedValue

#: After a registration or a handshake that was refused, in seconds; doubled up to the longest.
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: So often the gateway is waited for to observe, with an update of the registration in between.
_OBSERVE_WAITS: Final = 2
#: Between the answer to an observe request and the first notification: the gateway writes the observation down first,
#: and what comes before that would be said again seconds later.
_SETTLING: Final = 0.25
_NEVER: Final = float("inf")
_EMPTY_ACK: Final = Struct(">HH").pack
_made: Final = tuple.__new__
#: To get at a member by way of its enumeration takes ten times as long.
_NOTIFY: Final = Doing.NOTIFY
_NOTHING: Final = Doing.NOTHING
#: In the first byte of a message's header, and the option Observe (6) with three bytes.
_NON: Final = 0x10
_OBSERVE: Final = 0x63000000
_CONTENT: Final = int(Code.CONTENT)


class Device:
    """Thread ``number``, from 1."""

    __slots__ = (
        "_delay",
        "_leaving",
        "_load",
        "_location",
        "_loops",
        "_pause",
        "_refresh_at",
        "_retry",
        "_said",
        "_share",
        "_ticket",
        "_unobserved",
        "_value",
        "endpoint",
        "exchange",
        "number",
        "receive",
        "sock",
    )  # fmt: skip

    def __init__(self, number: int, endpoint: str, load: Load, sock: socket.socket, now: float) -> None:
        self.number = number
        self.endpoint = endpoint
        self.sock = sock
        self.receive = sock.recv
        self.exchange = Exchange(number, load, sock, now)
        self._value = ObservedValue(endpoint, load)
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
        #: Of the open exchange: the ticket of a read, and the value that is said.
        self._ticket = ""
        self._said = 0.0

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
        exchange = self.exchange
        if not exchange.next_mid % BLOCK and self._held_back(now):
            return
        session = exchange.session
        if session is not None and not session.is_open:
            exchange.open(Doing.HANDSHAKE, now)
            session.connect(now)
        elif self._location is None:
            self._register(now)
        elif now >= self._refresh_at:
            self._update(now)
        elif self._value.observer is None and load.plan.observed:
            exchange.open(Doing.OBSERVE, now, now + load.plan.patience)
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
            self.exchange.request(Doing.DEREGISTER, Code.DELETE, option_bytes(self._location), now)

    def abandon(self, now: float) -> None:
        """There is no time left to wait for what is open; a registration is still given up if nothing else is."""
        if self.exchange.doing is not Doing.NOTHING:
            self._load.counts["unfinished"] += 1
            self.exchange.close()
        if self._leaving:
            self._end()
        else:
            self.leave(now)

    def _end(self) -> None:
        if self.exchange.session is not None:
            self.exchange.session.close()
        self._load.done(self)

    def _register(self, now: float) -> None:
        queries = (f"ep={self.endpoint}", f"lt={self._load.plan.lifetime}", "lwm2m=1.1", "b=U")
        options = [(Option.URI_PATH, b"rd"), (Option.CONTENT_FORMAT, LINK_FORMAT)]
        options += [(Option.URI_QUERY, one.encode()) for one in queries]
        self._value.observer = None
        self.exchange.request(
            Doing.REGISTER, Code.POST, option_bytes(options) + b"\xff" + self._load.content.links, now
        )

    def _register_again(self, now: float) -> None:
        # The registration that follows is made by `step`; the last one is given up by `leave`.
        assert self._location is not None
        if self._loops:
            self.exchange.request(Doing.DEREGISTER, Code.DELETE, option_bytes(self._location), now)
        else:
            self.leave(now)

    def _update(self, now: float) -> None:
        assert self._location is not None
        self.exchange.request(Doing.UPDATE, Code.POST, option_bytes(self._location), now)

    def _send(self, now: float) -> None:
        load = self._load
        value = self._said = self._value.next(now)
        if load.ledger is not None:
            load.ledger.sent(self.endpoint, load.path, value, True)
        self.exchange.request(Doing.SEND, Code.POST, load.send_body + load.send_payload(value), now)

    def _notify(self, now: float) -> None:
        """Notify the next value. Written out for speed, as is `went_well`: a load mostly consists of the two."""
        load, exchange, watched = self._load, self.exchange, self._value
        token = watched.observer
        assert token is not None
        mid = exchange.next_mid
        exchange.next_mid = mid + 1 & 0xFFFF
        watched.number = number = watched.number + 1 & 0xFFFFFF
        # As `ObservedValue.next` does it.
        value = (now + load.offset) * 1e6 // 1
        if value <= watched.last:
            value = watched.last + 1.0
        watched.last = self._said = value
        confirmable = self._share.confirmable
        pack, first, before, after = watched.template
        if not confirmable:
            first |= _NON
        # As `Template.fill` does it.
        datagram = pack(first, _CONTENT, mid, token, _OBSERVE | number, before, value, after)
        if load.ledger is not None:
            load.ledger.sent(self.endpoint, load.path, value, confirmable)
        if not confirmable:
            self._notify_non(datagram, now)
            return
        # As `Exchange.request` does it with a request.
        exchange.doing = _NOTIFY
        exchange.datagram = datagram
        exchange.label = "notify CON"
        exchange.began = now
        exchange.tries = 0
        exchange.acknowledged = False
        exchange.mid = mid
        exchange.awaited = _EMPTY_ACK(0x6000, mid)
        exchange.interval = interval = ACK_TIMEOUT + SPREAD * load.random.random()
        exchange.deadline = now + interval
        session = exchange.session
        if session is None:
            try:
                self.sock.send(datagram)
            except OSError:
                load.counts["not sent"] += 1
        else:
            session.send(datagram, now)

    def _notify_non(self, datagram: bytes, now: float) -> None:
        load = self._load
        failure = ""
        try:
            session = self.exchange.session
            if session is None:
                self.sock.send(datagram)
            else:
                session.send(datagram, now)
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
        self.exchange.open(Doing.ANSWER, now, now + load.plan.patience)
        self._ticket = f"{load.run}-{self.number}-{self.exchange.new_token()}"
        load.reads.ask(self._ticket, self.endpoint, load.path)

    def _held_back(self, now: float) -> bool:
        """Whether the next message ids were used too lately; then `step` is called again when they are free."""
        free = self.exchange.free_at(now)
        if now >= free:
            return False
        self._load.counts["held back"] += 1
        self._load.wait(free, self)
        return True

    # How an exchange ends

    def overdue(self, now: float) -> None:
        """The exchange's ``deadline`` is over: it is said again, or given up."""
        if not self.exchange.say_again(now):
            self._finish(now, "timeout", False, self._in_vain())

    def _in_vain(self) -> str:
        plan, doing = self._load.plan, self.exchange.doing
        if doing is Doing.OBSERVE:
            pattern = f"/{plan.path.object_id}/*/{plan.path.resource_id}"
            return (
                f"the gateway did not observe {plan.path} within {plan.patience:g} s: start it with --observe "
                f"'{pattern}', or say `headwater observe {self.endpoint} {plan.path}`"
            )
        if doing is Doing.ANSWER:
            return f"no reply within {plan.patience:g} s"
        return self.exchange.why_in_vain()

    def tick(self, now: float) -> None:
        """What the DTLS session has to do by now."""
        session = self.exchange.session
        assert session is not None
        if session.deadline <= now:
            session.tick(now)
            self._look_at_session(now)

    def _look_at_session(self, now: float) -> None:
        session = self.exchange.session
        assert session is not None
        doing = self.exchange.doing
        if doing is Doing.HANDSHAKE:
            if session.is_open:
                self._retry = _PAUSE
                self._finish(now, "", True)
            elif session.failed:
                self._fail(now, "error", session.failed)
        elif doing is Doing.REGISTER and session.is_open and session.failed:
            # OSCORE: the keys are derived with the registration, and the gateway does not have them.
            self._fail(now, "error", session.failed)

    def _finish(self, now: float, code: str, success: bool, message: str = "", received: int = 0) -> None:
        exchange, load = self.exchange, self._load
        doing = exchange.doing
        load.record(
            Sample(
                int((exchange.began + load.offset) * 1000),
                int((now - exchange.began) * 1e6),
                exchange.label,
                self.endpoint,
                self.number,
                code,
                success,
                message,
                len(exchange.datagram),
                received,
            )
        )
        exchange.close()
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
        """What was awaited came. After a notification the next one follows at once, unless something else is due."""
        exchange = self.exchange
        if exchange.doing is not _NOTIFY:
            self._answered(now, received)
            return
        load, began = self._load, exchange.began
        if load.ledger is not None:
            load.ledger.acknowledged(self.endpoint, load.path, self._said)
        at, elapsed = int((began + load.offset) * 1000), int((now - began) * 1e6)
        size, endpoint, number = len(exchange.datagram), self.endpoint, self.number
        # What `Sample` itself does, without its call in Python.
        load.record(_made(Sample, (at, elapsed, "notify CON", endpoint, number, "ACK", True, "", size, received)))
        exchange.awaited = None
        if (
            load.only_notifies
            and self._loops
            and exchange.next_mid % BLOCK
            and now < self._refresh_at
            and self._value.observer is not None
            and not load.ending
        ):
            if self._delay:
                exchange.doing = _NOTHING
                exchange.deadline = _NEVER
                load.wait(now + self._delay, self)
            else:
                self._loops -= 1
                self._notify(now)
        else:
            exchange.close()
            self._go_on(_NOTIFY, True, now)

    def _answered(self, now: float, received: int) -> None:
        """A request was answered as it should be."""
        doing, load = self.exchange.doing, self._load
        if doing is Doing.SEND:
            if load.ledger is not None:
                load.ledger.acknowledged(self.endpoint, load.path, self._said)
        elif doing is Doing.DEREGISTER:
            self._location, self._value.observer = None, None
        else:
            self._retry = _PAUSE
            self._refresh_at = now + 0.7 * load.plan.lifetime
        self._finish(now, name(self.exchange.expected), True, "", received)

    # What is heard

    def hear(self, datagram: bytes, now: float) -> None:
        """Take a datagram that is not what the exchange ``awaited``."""
        session = self.exchange.session
        if session is None:
            self._hear(datagram, now)
            return
        for message in session.receive(datagram, now):
            if message == self.exchange.awaited:
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
        exchange = self.exchange
        if message.is_request:
            self._asked(message, now)
        elif message.is_response:
            if exchange.is_answered_by(message, now):
                self._responded(message, len(datagram), now)
        elif message.type == Type.CON:
            exchange.transmit(empty(Type.RST, message.mid), now)  # a ping (RFC 7252 section 4.3)
        elif not exchange.is_about(message.mid):
            if message.type == Type.RST and exchange.doing is Doing.NOTHING:
                # It may well be about a NON: the gateway knows this observation no more.
                self._load.counts["resets"] += 1
                self.forgotten()
            else:
                exchange.stray(message.mid)
        elif message.type == Type.RST:
            if exchange.doing is Doing.NOTIFY:
                self.forgotten()
            self._fail(now, "RST", "the gateway does not know this observation, or this device", len(datagram))
        else:
            exchange.acknowledge(now)

    def forgotten(self) -> None:
        """The gateway knows neither registration nor observation any more: the next step registers."""
        self._location, self._value.observer = None, None

    def _responded(self, message: Message, size: int, now: float) -> None:
        """What is open has its answer."""
        if message.code == self.exchange.expected:
            if self.exchange.doing is Doing.REGISTER:
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
            code, options, payload = self._value.asked(message, now)
            if message.type == Type.CON:
                answer = build(Type.ACK, code, message.mid, message.token, options, payload)
            else:
                answer = build(Type.NON, code, self.exchange.new_mid(), message.token, options, payload)
            self._load.seen.answer(address, message.mid, answer)
        if answer is not None:
            self.exchange.transmit(answer, now)
        if self.exchange.doing is Doing.OBSERVE and self._value.observer is not None:
            self._finish(now, "2.05", True)

    def replied(self, ticket: str, code: str, value: float | None, message: str, now: float) -> None:
        """The reply to a read by way of Kafka: the CoAP code that it comes to, and the value in it."""
        if self.exchange.doing is not Doing.ANSWER or ticket != self._ticket:
            self._load.counts["late replies"] += 1
        elif code != "2.05":
            self._fail(now, code, message)
        elif value != self._value.told:
            self._fail(now, code, f"the reply has {value!r}, the device answered {self._value.told!r}")
        else:
            self._finish(now, code, True)


_BEGIN: Final[dict[Kind, Callable[[Device, float], None]]] = {
    Kind.REGISTER: Device._register_again,
    Kind.UPDATE: Device._update,
    Kind.SEND: Device._send,
    Kind.ANSWER: Device._ask,
}
