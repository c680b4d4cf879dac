"""A fleet of LwM2M devices over DTLS with pre-shared keys, that notify as fast as they are acknowledged.

Owns the device side of the throughput over DTLS: one UDP socket, session and observation a device, one confirmable
message outstanding (NSTART, RFC 7252 section 4.7), retransmission as in section 4.2. To take little of the cores that
it shares with the server, it protects what a device will notify before the clock runs, since message ids, Observe
numbers, values and DTLS sequence numbers are known then; what comes back is counted by its length at once, and opened
and held against its message id after the clock has stopped. A device that has to say something again opens everything
at once from then on. The DTLS client is the tests' own; it shares no code with the gateway.
"""

from __future__ import annotations

import gc
import hashlib
import random
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aiocoap import Message
from aiocoap.numbers import codes, types

from tests.bench.fleet import FleetError
from tests.gateway.dtls.dtls_client import Client

#: What a device announces, and what is to be observed of it.
LINKS = b'</>;rt="oma.lwm2m",</1/0>,</3/0>,</3303/0>'
PATH = ("3303", "0", "5700")

_TLV = 11542
#: Observe is option 6, Content-Format 12; text is number 0, an option without a value. TLV: resource 5700, a double.
_TEXT_OPTION, _TLV_OPTION = b"\x60\xff", b"\x62\x2d\x16\xff\xe8\x16\x44\x08"
#: An Observe number of three bytes, so that its option keeps its length (RFC 7641 section 4.4).
_FIRST_OBSERVE = 0x010000
#: The message ids of the notifications begin after that of the registration.
_REGISTRATION_MID, _FIRST_MID = 1, 2
#: Devices that are set up at a time.
_WINDOW = 64
#: RFC 7252 section 4.8: 2 s, by a random factor of up to 1.5, doubled up to four times.
_ACK_TIMEOUT, _ACK_RANDOM, _MAX_RETRANSMIT = 2.0, 1.5, 4
#: A record of epoch 1 without a connection id that holds four bytes: header, explicit nonce, message, tag of CCM_8.
_ACK_RECORD = 13 + 8 + 4 + 8
_NOTHING: Iterator[bytes] = iter(())


def key_of(name: str) -> bytes:
    """The pre-shared key of a device: another one for each."""
    return hashlib.sha256(b"bench " + name.encode()).digest()[:16]


@dataclass(slots=True)
class Tally:
    """What was acknowledged, sent again, given up, and answered with something that is no acknowledgement of it.

    ``took_s`` is how long each acknowledgement of the last phase was waited for; ``in_place`` counts what was protected
    while the clock ran.
    """

    acknowledged: int = 0
    retried: int = 0
    lost: int = 0
    refused: int = 0
    in_place: int = 0
    took_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Device:
    name: str
    sock: socket.socket
    client: Client
    token: bytes = b""
    tlv: bool = False
    observed: bool = False
    registered: bool = False
    #: The confirmable request that is outstanding while the device is set up, and when something was last said.
    waiting: bytes = b""
    said: float = 0.0
    #: The number of the notification that was sent last, and whether it is outstanding.
    number: int = -1
    outstanding: bool = False
    sent_at: float = 0.0
    again_after: float = 0.0
    again: int = 0
    #: Protected ahead, from ``number`` + 1 on; and what came back, from notification ``heard_from`` on.
    ready: Iterator[bytes] = _NOTHING
    heard: list[bytes] = field(default_factory=list)
    heard_from: int = 0
    careful: bool = False


class SecureFleet:
    """``names`` as devices that speak to ``server``; a context manager that closes their sockets."""

    def __init__(self, server: tuple[str, int], names: list[str]) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.tally = Tally()
        self._random = random.Random(len(names))
        self._poll = select.epoll()
        self._devices: dict[int, _Device] = {}
        self._checked_at = 0.0
        for name in names:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(server)
            self._poll.register(sock.fileno(), select.EPOLLIN)
            client = Client(identity=name.encode(), key=key_of(name), cid=b"")
            self._devices[sock.fileno()] = _Device(name, sock, client)

    def __enter__(self) -> SecureFleet:
        return self

    def __exit__(self, *exc: object) -> None:
        self._poll.close()
        for device in self._devices.values():
            device.sock.close()

    # Setting up

    def set_up(self, *, timeout: float = 180.0) -> None:
        """Make every session, register every device, and answer until each is observed.

        Raises:
            FleetError: not done within ``timeout`` seconds.
        """
        missing = list(self._devices.values())
        under_way: list[_Device] = []
        end = time.monotonic() + timeout
        while missing or under_way:
            now = time.monotonic()
            if now > end:
                raise FleetError(f"{len(missing) + len(under_way)} devices are not observed after {timeout:.0f} s")
            while missing and len(under_way) < _WINDOW:
                device = missing.pop()
                under_way.append(device)
                device.said = now
                self._say(device, *device.client.start())
            for number, _ in self._poll.poll(0.05):
                self._hear_while_set_up(self._devices[number], now)
            under_way = [device for device in under_way if not (device.registered and device.observed)]
            for device in under_way:
                if now - device.said > _ACK_TIMEOUT * _ACK_RANDOM:
                    device.said = now
                    if not device.client.established:
                        self._say(device, *device.client.again())
                    elif device.waiting:
                        self._say(device, device.client.send(device.waiting))

    def _hear_while_set_up(self, device: _Device, now: float) -> None:
        client = device.client
        self._say(device, *client.hear(device.sock.recv(4096)))
        device.said = now
        if client.established and not device.waiting and not device.registered:
            request = Message(code=codes.POST, payload=LINKS)
            request.mtype, request.mid, request.token = types.Type.CON, _REGISTRATION_MID, b"\x01"
            request.opt.uri_path = ("rd",)
            request.opt.uri_query = (f"ep={device.name}", "lt=86400", "lwm2m=1.1", "b=U")
            request.opt.content_format = 40
            device.waiting = request.encode()
            self._say(device, client.send(device.waiting))
        self._take(device)

    def _take(self, device: _Device) -> None:
        """The answer to the registration, and observe requests."""
        heard, device.client.received = device.client.received, []
        for data in heard:
            message = Message.decode(data)
            if message.code is codes.CREATED:
                device.registered, device.waiting = True, b""
            elif message.code is codes.GET and message.opt.uri_path == PATH:
                self._observe(device, message)
            elif message.code is codes.GET:
                raise FleetError(f"the server reads /{'/'.join(message.opt.uri_path)}; the fleet has only {PATH}")

    def _observe(self, device: _Device, request: Message) -> None:
        device.token, device.tlv = request.token, request.opt.accept == _TLV
        answer = Message(code=codes.CONTENT)
        answer.mtype, answer.mid, answer.token = types.Type.ACK, request.mid, request.token
        answer.opt.observe = _FIRST_OBSERVE - 1
        answer.opt.content_format = _TLV if device.tlv else 0
        answer.payload = b"\xe8\x16\x44\x08" + struct.pack(">d", 21.0) if device.tlv else b"21.00"
        self._say(device, device.client.send(answer.encode()))
        device.observed = True

    @staticmethod
    def _say(device: _Device, *datagrams: bytes) -> None:
        for datagram in datagrams:
            try:
                device.sock.send(datagram)
            except OSError:  # like a datagram that got lost: it is repeated
                return

    # Notifying

    def protect_ahead(self, notifications: int) -> None:
        """Protect what each device will notify next. What was protected before and not sent is never sent."""
        for device in self._devices.values():
            if not device.careful:
                first = device.number + 1
                send = device.client.send
                device.ready = iter([send(_message(device, first + at)) for at in range(notifications)])

    def notify(self, seconds: float) -> float:
        """Notify in a closed loop; returns how many were acknowledged a second. Then waits for what is outstanding."""
        return self._phase(seconds, self._closed_loop)

    def notify_at(self, rate: float, seconds: float) -> float:
        """Notify ``rate`` times a second, the devices in turn, whatever is acknowledged when; else as `notify`."""
        return self._phase(seconds, lambda end: self._open_loop(rate, end))

    def _phase(self, seconds: float, run: Callable[[float], None]) -> float:
        self.tally.took_s = []
        before = self.tally.acknowledged
        gc.collect()
        gc.disable()
        try:
            begin = time.perf_counter()
            run(begin + seconds)
            took = time.perf_counter() - begin
            acknowledged = self.tally.acknowledged + len(self.tally.took_s) - before
            while any(device.outstanding for device in self._devices.values()):
                self._turn(0.05)
        finally:
            gc.enable()
        self._check()
        return acknowledged / took

    def _closed_loop(self, end: float) -> None:
        # All at once would only overflow the server's socket buffer.
        for number, device in enumerate(self._devices.values()):
            self._notify(device)
            if number % _WINDOW == 0:
                self._turn(0.01, on=True)
        while time.perf_counter() < end:
            self._turn(0.05, on=True)

    def _open_loop(self, rate: float, end: float) -> None:
        devices = tuple(self._devices.values())
        begin, sent, turn = time.perf_counter(), 0, 0
        while (now := time.perf_counter()) < end:
            while sent < (now - begin) * rate:
                turn = (turn + 1) % len(devices)
                if not devices[turn].outstanding:
                    self._notify(devices[turn])
                sent += 1
            self._turn(0.001)

    def _turn(self, wait: float, *, on: bool = False) -> None:
        """Take what came in; with ``on`` each acknowledged device sends its next notification."""
        devices, took = self._devices, self.tally.took_s
        clock = time.perf_counter
        for number, _ in self._poll.poll(wait, 1024):
            device = devices[number]
            try:
                data = device.sock.recv(4096)
            except OSError:  # ICMP's port unreachable, or a readiness that was none
                continue
            if len(data) == _ACK_RECORD and device.outstanding and not device.careful:
                device.heard.append(data)
                took.append(clock() - device.sent_at)
                device.outstanding = False
                if on:
                    self._notify(device)
            else:
                self._hear(device, data, on=on)
        now = clock()
        if now > self._checked_at + 0.25:
            self._checked_at = now
            self._repeat(now, on=on)

    def _notify(self, device: _Device) -> None:
        device.number += 1
        record = next(device.ready, None)
        if record is None:
            self.tally.in_place += 1
            record = device.client.send(_message(device, device.number))
        device.outstanding, device.again = True, 0
        device.sent_at = time.perf_counter()
        try:
            device.sock.send(record)
        except OSError:  # like a datagram that got lost: it is repeated
            return

    def _repeat(self, now: float, *, on: bool) -> None:
        for device in self._devices.values():
            if not device.outstanding:
                continue
            if device.again == 0:
                device.again_after = _ACK_TIMEOUT * self._random.uniform(1.0, _ACK_RANDOM)
            if now - device.sent_at <= device.again_after:
                continue
            if device.again == _MAX_RETRANSMIT:
                self.tally.lost += 1
                device.outstanding = False
                if on:
                    self._notify(device)
                continue
            # What is protected ahead comes before this record in sequence: it is given up.
            device.careful, device.ready = True, _NOTHING
            device.again += 1
            device.again_after *= 2
            device.sent_at = now
            self.tally.retried += 1
            self._say(device, device.client.send(_message(device, device.number)))

    def _hear(self, device: _Device, data: bytes, *, on: bool) -> None:
        """What is no plain acknowledgement, or comes to a device that has said something again."""
        self._say(device, *device.client.hear(data))
        wanted = _acknowledgement(device.number)
        for message in device.client.received:
            if message == wanted and device.outstanding:
                self.tally.acknowledged += 1
                device.outstanding = False
                if on:
                    self._notify(device)
            elif message[:2] != b"\x60\x00":  # a late acknowledgement of what was sent twice
                self.tally.refused += 1
        device.client.received.clear()

    def _check(self) -> None:
        """Open what was only counted: each has to be the acknowledgement of its notification."""
        for device in self._devices.values():
            client = device.client
            for number, data in enumerate(device.heard, device.heard_from):
                client.hear(data)
                if client.received == [_acknowledgement(number)]:
                    self.tally.acknowledged += 1
                else:
                    self.tally.refused += 1
                client.received.clear()
            device.heard_from += len(device.heard)
            device.heard.clear()


def _mid(number: int) -> bytes:
    return struct.pack(">H", (_FIRST_MID + number) & 0xFFFF)


def _acknowledgement(number: int) -> bytes:
    return b"\x60\x00" + _mid(number)


def _message(device: _Device, number: int) -> bytes:
    """The notification of that number, from 0: confirmable, 2.05, Observe, Content-Format, a temperature."""
    head = bytes((0x40 | len(device.token), codes.CONTENT)) + _mid(number) + device.token
    observe = b"\x63" + (_FIRST_OBSERVE + number).to_bytes(3, "big")
    value = number % 9000 / 100
    if device.tlv:
        return head + observe + _TLV_OPTION + struct.pack(">d", value)
    return head + observe + _TEXT_OPTION + b"%.2f" % value
