"""The UDP socket and the CoAP message layer (RFC 7252 section 4), also on what comes over DTLS or in OSCORE.

Owns receiving in batches, the guard against malformed datagrams, deduplication of requests, retransmission of our own,
and the choice of who takes a message: the notification short path, an open exchange of ours, the LwM2M registration
interface, or aiocoap for everything else (blocks, discovery, what we do not know). It knows no LwM2M. What OSCORE adds
is in `gateway.coap.oscore_entry`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import structlog

from gateway.coap.alarm import Alarm
from gateway.coap.exchanges import (
    MAX_TRANSMIT_WAIT,
    AcknowledgedResponses,
    Exchange,
    ExchangeError,
    Exchanges,
    NoAnswer,
    Noted,
    RequestLog,
    Stopped,
    WasReset,
)
from gateway.coap.incoming import AMPLIFICATION, BUSY, Fallback, Handler, Incoming
from gateway.coap.many import MOST, ManyDatagrams, many_datagrams
from gateway.coap.message import (
    MAX_DATAGRAM,
    Code,
    Malformed,
    Message,
    Option,
    Options,
    Type,
    build,
    empty,
    encode_rest,
    head,
    parse,
)
from gateway.coap.oscore_entry import OscoreEntry
from gateway.coap.peers import Address, OscorePeer, SecurePeer, UdpAddress
from gateway.coap.udp import BATCH, FEW, bind, name_of

if TYPE_CHECKING:
    import socket

    from gateway.coap.secure import SecureLine
    from gateway.oscore.line import OscoreLine

_log = structlog.get_logger("headwater.coap")

#: Requests that may wait for durability at once; more are answered 5.03.
MOST_OPEN_REQUESTS = 5_000
#: Seconds for which notifications are gathered while FEW come.
GATHERING = 0.005
#: Seconds in which notifications right behind the answer to an observe request are left to come again, not reset.
SETTLING = 10.0
#: Bytes of words below which there are none.
_LEAST_WORDS = 10
_UNRECOGNISED = "unrecognised critical option"
_NO_PLAIN = "no plain CoAP here"
_Peer = TypeVar("_Peer", bound=Address)


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
        self._random = random.Random(seed)
        self._socket = bound if bound is not None or coap is None else bind(*coap)
        self._is_elsewhere = is_elsewhere
        self._token_mark = token_mark
        self._many: ManyDatagrams | None = None if self._socket is None else many_datagrams(self._socket)
        #: False: on the socket OSCORE alone is spoken.
        self._in_the_clear = coap is not None
        self._secure = secure
        self._handler = handler
        self.fallback: Fallback | None = None
        #: The short path of POST requests in the clear; False leaves one to the ordinary way.
        self.on_post: Callable[[bytes, Address], bool] = _not_in_the_clear
        #: The same of what `Handler.notify_all` has read.
        self.on_post_slot: Callable[[bytes, int, bytes, bytes], bool] = _no_slot
        #: Opens and protects messages with OSCORE; None: they are answered 4.02.
        self._oscore: OscoreEntry | None = None
        #: Told of a message with OSCORE while it is not spoken; may begin to (`speak_oscore`).
        self.on_oscore: Callable[[], None] | None = None
        self._exchanges = Exchanges()
        #: What was asked lately, for copies of it.
        self.requests = RequestLog()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm = Alarm(self._retransmit)
        #: When the socket is looked at next, while notifications are gathered; None: as soon as something is there.
        self._gathering: asyncio.TimerHandle | None = None
        #: True while datagrams of the socket are handed out.
        self._draining = False
        #: Messages that were no notifications of the short path.
        self._others = 0
        #: Requests without an answer yet.
        self._open: set[Incoming] = set()
        #: Until when, the soonest first.
        self._settling: dict[tuple[Address, bytes], float] = {}
        self._acknowledged = AcknowledgedResponses()
        #: What was received and dropped, by reason; `metrics` shows it.
        self.dropped_datagrams: Counter[str] = Counter()
        self.received = 0
        self._complained_at = -1e9
        self._closed = False

    @property
    def local_address(self) -> tuple[str, int]:
        """The host and port that are bound: for messages in the clear, or else for those over DTLS."""
        if self._socket is not None:
            return name_of(self._socket)
        assert self._secure is not None
        return self._secure.local_address

    @property
    def plain_address(self) -> tuple[str, int] | None:
        """The host and port that are bound for messages in the clear, or with OSCORE."""
        return None if self._socket is None else name_of(self._socket)

    def local_address_of(self, peer: Address) -> tuple[str, int]:
        """The host and port at which a peer reaches us."""
        if self._secure is not None and isinstance(peer, SecurePeer) and not isinstance(peer, OscorePeer):
            return self._secure.local_address
        return self.local_address

    def serve(self, handler: Handler) -> None:
        """Hand messages to ``handler`` from now on."""
        self._handler = handler

    def speak_oscore(self, line: OscoreLine, coap: tuple[str, int]) -> None:
        """Take messages with OSCORE: where they come in the clear, or else at ``coap``, and there no others.

        Raises:
            OSError: ``coap`` cannot be bound.
        """
        if self._socket is None:
            self._socket = bind(*coap)
            self._many = many_datagrams(self._socket)
            if self._loop is not None:
                self._loop.add_reader(self._socket.fileno(), self._drain)
        self._oscore = OscoreEntry(line, self, self._exchanges, self.requests, self._acknowledged, self._random)
        line.on_numbers = self.send_again

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to receive."""
        self._loop = loop
        if self._socket is not None:
            loop.add_reader(self._socket.fileno(), self._drain)
        if self._secure is not None:
            self._secure.start(loop, self)

    def pause(self) -> None:
        """Stop receiving; what is under way can still be answered."""
        self._gather(False)
        if self._loop is not None and self._socket is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        if self._secure is not None:
            self._secure.pause()

    def close(self) -> None:
        """Stop receiving and close the sockets; every open request of ours fails with Stopped."""
        if self._closed:
            return
        self._closed = True
        self.pause()
        self._alarm.cancel()
        for exchange in self._exchanges.close_all():
            exchange.finish(Stopped("the gateway is stopping"))
        if self._socket is not None:
            self._socket.close()
        if self._secure is not None:
            self._secure.close()

    # Receiving

    def _drain(self) -> None:
        others = self._others
        self._draining = True
        try:
            taken = self._drain_one_by_one() if self._many is None else self._drain_many(self._many)
        finally:
            self._draining = False
        self.batch_done(taken)
        self._gather(0 < taken < FEW and self._others == others and not self._exchanges)

    def _gather(self, wanted: bool) -> None:
        """Leave what comes in the socket for GATHERING seconds, or be told of it.

        A wake-up of the process costs many times what a notification does, and notifications can wait for
        milliseconds: Kafka takes as long. Nothing else waits: not the answer to a request of ours, and no request
        longer than the one time that it begins with.
        """
        if self._loop is None or self._socket is None or (not wanted and self._gathering is None):
            return
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
            if not wanted:
                self._loop.add_reader(self._socket.fileno(), self._drain)
        else:
            self._loop.remove_reader(self._socket.fileno())
        if wanted:
            self._gathering = self._loop.call_later(GATHERING, self._drain)

    def _drain_many(self, many: ManyDatagrams) -> int:
        taken = 0
        while taken < BATCH:
            try:
                sizes = many.receive()
            except OSError as exc:
                # An ICMP error of an earlier send; the next call has the next datagram.
                self.dropped_datagrams[f"socket error {exc.errno}"] += 1
                break
            taken += len(sizes)
            self._hand_out(many, sizes)
            if len(sizes) < MOST:
                break
        return taken

    def _hand_out(self, many: ManyDatagrams, sizes: list[int]) -> None:
        slots = enumerate(sizes)
        while self._in_the_clear and (notify_all := self._handler.notify_all) is not None:
            try:
                # Not in one statement: others are counted meanwhile.
                updates = notify_all(many, slots, self._take_other, self.on_post_slot)
                self._others += updates
                return
            except Exception:  # noqa: BLE001  # of the short path; what was before it counts, and it goes on behind it
                self._failed(b"", ("", 0))
        for slot, size in slots:
            datagram, address = many.datagram(slot, size)
            if self._in_the_clear:
                self._offer(datagram, address, self._take_other)
            else:
                self._take(datagram, address)

    def _drain_one_by_one(self) -> int:
        """Where the system gives one datagram a call."""
        assert self._socket is not None
        receive = self._socket.recvfrom
        notify = self._handler.notify if self._in_the_clear else _not_in_the_clear
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
            self.dropped_datagrams[f"socket error {exc.errno}"] += 1
        except Exception:  # noqa: BLE001  # of the short path; the batch before it counts, the next call goes on
            self._failed(datagram, address)
        return taken

    def handed(self, datagrams: Sequence[tuple[bytes, UdpAddress]]) -> None:
        """Datagrams that another process got, which has a socket of the same port; `batch_done` follows."""
        for datagram, address in datagrams:
            self._offer(datagram, address, self._take_here)

    def arrived(self, datagram: bytes, peer: Address) -> None:
        """A message over DTLS."""
        self._offer(datagram, peer, self._take)

    def _offer(self, datagram: bytes, peer: _Peer, leave: Callable[[bytes, _Peer], None]) -> None:
        """To the short path, which leaves what it does not take."""
        try:
            taken = 4 < len(datagram) <= MAX_DATAGRAM and datagram[1] == 0x45 and self._handler.notify(datagram, peer)
        except Exception:  # noqa: BLE001  # of the short path; the next one goes on
            self._failed(datagram, peer)
        else:
            if not taken:
                leave(datagram, peer)

    def anew(self, peer: SecurePeer) -> None:
        """The peer's message ids begin anew, and what it asked in the session before is not answered in this one."""
        self.requests.forget_peer(peer)
        for incoming in [one for one in self._open if one.address is peer]:
            incoming.answered = True
            self._open.discard(incoming)

    def batch_done(self, received: int) -> None:
        """The waiting datagrams of a socket have been handed out."""
        self.received += received
        # What was handed over in the middle of a batch is of that batch, which ends once.
        if not self._draining:
            self._handler.batch_done()

    def _take_other(self, datagram: bytes, address: UdpAddress) -> None:
        """What came in the clear and is no notification of a device of this process."""
        if self._post(datagram, address):
            return
        if self._is_elsewhere is not None and self._is_elsewhere(datagram, address):
            # It may be an answer that is waited for there, and the next one must not wait here.
            self._others += 1
        else:
            self._take(datagram, address)

    def _take_here(self, datagram: bytes, address: Address) -> None:
        """The same, and it is for this process."""
        if not self._post(datagram, address):
            self._take(datagram, address)

    def _post(self, datagram: bytes, address: Address) -> bool:
        """To the short path of POST requests; False leaves it to the ordinary way."""
        try:
            taken = 4 < len(datagram) <= MAX_DATAGRAM and datagram[1] == Code.POST and self.on_post(datagram, address)
        except Exception:  # noqa: BLE001  # of the short path; the next one goes on
            self._failed(datagram, address)
            return True
        self._others += taken
        return taken

    def _take(self, datagram: bytes, address: Address) -> None:
        self._others += 1
        try:
            message = parse(datagram)
        except Malformed as exc:
            self._drop(str(exc), address)
            # RFC 7252 section 4.2: what is confirmable and cannot be processed is rejected. Another version is silently
            # ignored (section 3).
            if len(datagram) >= 4 and datagram[0] & 0xF0 == 0x40:
                self.reject(address, datagram[2] << 8 | datagram[3])
            return
        try:
            if message.unrecognised == Option.OSCORE and self._oscore is None and self.on_oscore is not None:
                self.on_oscore()
            if message.unrecognised == Option.OSCORE and self._oscore is not None and isinstance(address, tuple):
                self._oscore.take(message, address, len(datagram))
            elif (
                not self._in_the_clear
                and self._oscore is not None
                and isinstance(address, tuple)
                and message.code != Code.EMPTY
            ):
                self._oscore.take_unprotected(message, address, len(datagram))
            else:
                self._dispatch(message, address, len(datagram))
        except Exception:  # noqa: BLE001  # one datagram must never end the gateway; it is counted and logged
            self._failed(datagram, address)

    def _failed(self, datagram: bytes, address: Address) -> None:
        self.dropped_datagrams["internal error"] += 1
        if self._may_complain():
            _log.exception("a datagram could not be handled", address=address, datagram=datagram.hex())

    def _drop(self, reason: str, address: Address) -> None:
        self.dropped_datagrams[reason] += 1
        if self._may_complain():
            _log.warning(
                "datagrams are dropped", reason=reason, address=address, dropped=self.dropped_datagrams.total()
            )

    def _may_complain(self) -> bool:
        """True every ten seconds: what peers send must not fill the log."""
        now = self.now()
        if now - self._complained_at < 10:
            return False
        self._complained_at = now
        return True

    def _dispatch(self, message: Message, address: Address, size: int) -> None:
        if message.is_request:
            if message.type in (Type.CON, Type.NON):
                self._take_request(message, address, size)
            else:
                self._drop("request as ACK or RST", address)
        elif message.code == Code.EMPTY:
            self._take_empty(message, address)
        elif message.type == Type.RST:
            self._drop("RST with a code", address)
        else:
            self._take_response(message, address)

    def _take_request(self, message: Message, address: Address, size: int) -> None:
        if message.unrecognised and message.type == Type.NON:
            self.dropped_datagrams[_UNRECOGNISED] += 1
            return
        if self.is_repeated(address, message.mid, size, answer=message.type == Type.CON):
            return
        incoming = Incoming(self, message, address, size)
        self._open.add(incoming)
        if len(self._open) > MOST_OPEN_REQUESTS:
            incoming.busy()
            return
        if message.unrecognised:
            self.dropped_datagrams[_UNRECOGNISED] += 1
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
            if not self._handler.request(incoming):
                if self.fallback is None:
                    incoming.reply(Code.NOT_FOUND)
                else:
                    self.fallback.serve(incoming)
        except Exception:
            # Every request ends: one that stayed open would count against MOST_OPEN_REQUESTS for ever.
            incoming.reply(Code.INTERNAL_SERVER_ERROR)
            raise

    # Requests that have no `Incoming`: those of a short path.

    def is_repeated(self, address: Address, mid: int, size: int, *, answer: bool = True) -> bool:
        """Note a request of ``size`` bytes; True if it came lately. With ``answer`` it is answered as it was then."""
        duplicate, response = self.requests.seen(address, mid, self.now())
        if duplicate:
            self.dropped_datagrams["duplicate request"] += 1
            if response is not None and answer and self._may_send(len(response), size, address):
                self._send(response, address)
        return duplicate

    def address_of(self, name: bytes) -> UdpAddress:
        """A socket address as the other methods want it."""
        assert self._many is not None
        return self._many.address(name)

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
        if self._many is not None:
            for size, some in slots.items():
                self._many.send(some, size)

    def refuse_noted(self, address: Address, mid: int, token: bytes) -> None:
        """Answer 5.03 with Max-Age, and take the request anew when it comes again."""
        self.requests.forget(address, mid)
        self._send(build(Type.ACK, Code.SERVICE_UNAVAILABLE, mid, token, BUSY), address)

    def forget_noted(self, address: Address, mid: int) -> None:
        """Take the request anew when it comes again."""
        self.requests.forget(address, mid)

    def _take_empty(self, message: Message, address: Address) -> None:
        if message.type == Type.CON:  # a ping (RFC 7252 section 4.3)
            self._send(empty(Type.RST, message.mid), address)
        elif message.type in (Type.ACK, Type.RST):
            exchange = self._exchanges.acknowledged(address, message.mid)
            if exchange is None and self._oscore is not None:
                exchange = self._oscore.acknowledged(address, message.mid)
            if exchange is not None:
                _prove(address, exchange)
            if message.type == Type.RST:
                if exchange is None:
                    self._handler.reset(address, message.mid)
                else:
                    self._exchanges.close(exchange)
                    exchange.finish(WasReset("the device reset the request"))

    def _take_response(self, message: Message, address: Address) -> None:
        if message.unrecognised:
            # RFC 7252 section 5.4.1: rejected, so no exchange ends by it.
            self.dropped_datagrams[_UNRECOGNISED] += 1
            if message.type == Type.CON:
                self.reject(address, message.mid)
            return
        if message.type == Type.CON and self._acknowledged.is_copy(address, message.mid, message.token, self.now()):
            self._acknowledge_copy(address, message.mid)
            return
        acknowledged = message.mid if message.type == Type.ACK else None
        exchange = self._exchanges.answered(address, message.token, acknowledged)
        if exchange is None and self._oscore is not None and self._oscore.is_not_opened(message, address):
            return
        if exchange is not None:
            _prove(address, exchange)
            if message.type == Type.CON and not exchange.defer:
                self.acknowledge(address, message.mid, message.token)
            if message.uint(Option.OBSERVE) is not None:
                self._settle(address, message.token)
            exchange.finish(message)
            return
        if self._handler.response(message, address):
            return
        if self.fallback is not None and self.fallback.match(message, address):
            if message.type == Type.CON:
                self.acknowledge(address, message.mid)
            return
        if message.type == Type.CON and self._acknowledged.has(address, message.mid, self.now()):
            self._acknowledge_copy(address, message.mid)
            return
        if self._settling.get((address, message.token), 0.0) > self.now():
            self.dropped_datagrams["notification before its observation"] += 1
            return
        self.dropped_datagrams["response to nothing"] += 1
        if message.type != Type.ACK:
            self._send(empty(Type.RST, message.mid), address)

    def _acknowledge_copy(self, address: Address, mid: int) -> None:
        # RFC 7252 section 4.2: our acknowledgement was lost.
        self.dropped_datagrams["duplicate response"] += 1
        self._send(empty(Type.ACK, mid), address)

    def _settle(self, address: Address, token: bytes) -> None:
        # Whoever asked to observe learns of the answer a turn of the event loop later, or after more blocks; an RST
        # to a notification in between would end the observation that it has just got.
        now, settling = self.now(), self._settling
        settling.pop((address, token), None)
        settling[address, token] = now + SETTLING
        while (first := next(iter(settling))) is not None and settling[first] <= now:
            del settling[first]

    # Sending

    def acknowledge(self, address: Address, mid: int, token: bytes | None = None) -> None:
        """Send an empty ACK, to a response that came as a message of its own, with ``token`` where it is known."""
        self._acknowledged.add(address, mid, self.now(), token)
        self._send(empty(Type.ACK, mid), address)

    def reject(self, address: Address, mid: int) -> None:
        """Send an RST; towards a notification it cancels the observation (RFC 7641 section 3.6)."""
        self._send(empty(Type.RST, mid), address)

    def _send(self, datagram: bytes, address: Address) -> None:
        """Send a message; one to a device that speaks OSCORE is protected already, or has no content."""
        if isinstance(address, OscorePeer):
            if self._oscore is None:
                self.dropped_datagrams["no OSCORE here"] += 1
            else:
                self._oscore.send(datagram, address)
        elif isinstance(address, SecurePeer):
            if self._secure is not None:
                self._secure.send(datagram, address)
        elif self._in_the_clear or len(datagram) == 4:
            self.transmit(datagram, address)
        else:
            self.dropped_datagrams[_NO_PLAIN] += 1

    def transmit(self, datagram: bytes, address: UdpAddress) -> None:
        """Send a datagram as it is over UDP; what cannot go is lost, and counted."""
        if self._socket is None:
            self.dropped_datagrams[_NO_PLAIN] += 1
            return
        try:
            self._socket.sendto(datagram, address)
        except OSError as exc:
            # UDP may lose datagrams; the layers above retransmit.
            self.dropped_datagrams[f"send error {exc.errno}"] += 1

    @property
    def sendto(self) -> Callable[[bytes, Address], object]:
        """The quickest way to send, for the short path's acknowledgements; raises OSError or loses what cannot go."""
        if self._secure is None and self._oscore is None and self._socket is not None:
            return self._socket.sendto  # type: ignore[return-value]  # without credentials all addresses are UDP's
        return self._send

    def send_many(self, slots: list[bytes]) -> None:
        """Send messages without content, each a slot of what `Handler.notify_all` was given."""
        if self._many is not None:
            self._many.send(slots)

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
        self.answer_with(incoming, datagram)

    def _may_send(self, size: int, request_size: int, address: Address) -> bool:
        if size <= AMPLIFICATION * request_size:
            return True
        return address.proven if isinstance(address, SecurePeer) else self._handler.verified(address)

    def answer_with(self, incoming: Incoming, datagram: bytes) -> None:
        """Send ``datagram`` as the response of ``incoming``."""
        incoming.answered = True
        self._open.discard(incoming)
        address, mid = incoming.address, incoming.message.mid
        if isinstance(address, OscorePeer) and self._oscore is not None:
            self._oscore.answer(address, mid, datagram)
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
        if isinstance(incoming.address, OscorePeer) and self._oscore is not None:
            self._oscore.drop(incoming.address, incoming.message.mid)

    # Our own requests

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
        future.add_done_callback(lambda _: self._exchanges.close(exchange))
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
        mid = self._exchanges.next_mid(address, self._random.getrandbits(16))
        datagram = head(Type.CON, code, mid, token) + rest
        exchange = Exchange(address, mid, token, datagram, finish, now + timeout, defer=defer)
        self._exchanges.begin(exchange, now, self._random.random())
        self._gather(False)
        self._arm()
        return exchange

    @property
    def sends_together(self) -> bool:
        """Whether there is `send_requests` for peers in the clear."""
        return self._many is not None and self._in_the_clear

    def name_of(self, address: UdpAddress) -> bytes:
        """To whom `send_requests` sends, of a peer in the clear."""
        assert self._many is not None
        return self._many.name_of(address)

    def send_requests(self, requests: list[tuple[bytes, bytes]]) -> None:
        """Send datagrams of exchanges that were opened: each to whom (`name_of`), and what."""
        assert self._many is not None
        for code in self._many.send_requests(requests):
            # As in `transmit`.
            self.dropped_datagrams[f"send error {code}"] += 1

    def was_answered(self, exchange: Exchange) -> None:
        """The response to a request of ours was taken by a short path."""
        self._others += 1
        self._exchanges.close(exchange)

    def _send_request(self, exchange: Exchange) -> None:
        address = exchange.address
        if isinstance(address, OscorePeer) and self._oscore is not None and not self._oscore.seal(exchange, address):
            return
        self._send(exchange.datagram, address)

    def send_again(self, address: Address) -> None:
        """A peer that may have slept was heard of, or what is said to it can be protected now: the newest request to it
        that it has not acknowledged is sent once more, now. Its own retransmissions stay as they are."""
        exchange = self._exchanges.overdue(address, self.now())
        if exchange is not None:
            self._send_request(exchange)

    def abandon(self, address: Address) -> None:
        """The peer is not at ``address`` any more: its open exchanges fail now, and its session ends."""
        if isinstance(address, SecurePeer) and self._secure is not None:
            self._secure.end(address)
        for exchange in self._exchanges.close_of(address):
            exchange.finish(NoAnswer("the device is at another address now"))

    def end(self, exchange: Exchange) -> None:
        """Nobody waits for this exchange any more."""
        self._exchanges.close(exchange)

    def new_token(self) -> bytes:
        """Eight random bytes, never starting with zero: aiocoap's own tokens are shorter, so the two never meet."""
        token = (self._random.getrandbits(63) | 1 << 63).to_bytes(8, "big")
        return self._token_mark + token[len(self._token_mark) :]

    # Timers

    def now(self) -> float:
        """Seconds of the event loop's clock."""
        return self._loop.time() if self._loop is not None else 0.0

    def _arm(self) -> None:
        if self._loop is not None:
            self._alarm.set(self._loop, self._exchanges.next_deadline())

    def _retransmit(self) -> None:
        again, failed = self._exchanges.due(self.now())
        for exchange in again:
            self._send_request(exchange)
        for exchange in failed:
            exchange.finish(NoAnswer("the device did not answer"))
        self._arm()


def _not_in_the_clear(datagram: bytes, address: Address) -> bool:
    """In the place of the short path where OSCORE alone is spoken."""
    return False


def _no_slot(name: bytes, first: int, mid: bytes, rest: bytes) -> bool:
    return False


def _prove(address: Address, exchange: Exchange) -> None:
    """Something came back for what was sent there (RFC 9175 section 2.4)."""
    if isinstance(address, SecurePeer) and exchange.began >= address.moved_at:
        address.proven = True
