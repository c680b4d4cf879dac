"""A fleet of LwM2M devices with several observations each, that notify as fast as they are acknowledged.

Owns the device side of the memory measurement: one UDP socket a device, one outstanding confirmable message a device
(NSTART, RFC 7252, section 4.7), the observations of a device in turn, retransmission as in section 4.2. It is not the
load generator that throughput is compared with (that one notifies a single observation a client) and measures no
latency. Setting up goes through aiocoap's codec; a notification is put together from bytes.
"""

from __future__ import annotations

import resource
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiocoap import Message
from aiocoap.numbers import codes, types

#: What is observed of the devices: the temperature of their sensors, two unless told otherwise.
PATTERN = "/3303/*/5700"
OBSERVATIONS = 2
#: What is observed where the value is to have a length: the sensors' application type, a string.
TEXT_PATTERN = "/3303/*/5750"

_TEXT, _TLV = 0, 11542
_ACK_TIMEOUT, _MAX_RETRANSMIT = 3.0, 4
#: What is longer goes in blocks of that (RFC 7959, section 2.6), which the server fetches.
_BLOCK, _SZX = 1024, 6
#: An Observe number of three bytes, so that its option keeps its length (RFC 7641, section 4.4).
_FIRST_SEQUENCE = 0x010000
_WINDOW = 64


#: Files that the process has open beside the devices' sockets.
_OTHER_FILES = 100


class FleetError(Exception):
    """The server did not let the fleet do its work."""


def most_devices() -> int:
    """How many a fleet may have here, by the limit of open files (``ulimit -Hn``)."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _OTHER_FILES


@dataclass(frozen=True, slots=True)
class _Form:
    """One content format: its number, its option after Observe, and how a value is put."""

    number: int
    option: bytes
    value: Callable[[float], bytes]


#: Observe is option 6, Content-Format 12; text is number 0, an option without a value. TLV: resource 5700, a double.
_FORMS = {
    _TEXT: _Form(_TEXT, b"\x60", lambda value: b"%.2f" % value),
    _TLV: _Form(_TLV, b"\x62\x2d\x16", lambda value: b"\xe8\x16\x44\x08" + struct.pack(">d", value)),
}
#: After it: the payload marker; or Block2 (option 23), the first of several, and the marker.
_WHOLE, _FIRST_BLOCK = b"\xff", bytes((0xB1, 0x08 | _SZX, 0xFF))


def _text_forms(length: int) -> dict[int, _Form]:
    """The same for resource 5750, a string of ``length`` bytes."""

    def text(value: float) -> bytes:
        return (b"%.2f" % value).ljust(length, b".")[:length]

    # OMA LwM2M TS Core 1.1.1, section 7.4.3: a resource, an identifier of two bytes, the length in the type or after.
    if length < 8:
        header = bytes((0xE0 | length, 0x16, 0x76))
    else:
        width = (length.bit_length() + 7) // 8
        header = bytes((0xE0 | width << 3, 0x16, 0x76)) + length.to_bytes(width, "big")
    return {
        _TEXT: _Form(_TEXT, _FORMS[_TEXT].option, text),
        _TLV: _Form(_TLV, _FORMS[_TLV].option, lambda value: header + text(value)),
    }


@dataclass(slots=True)
class Tally:
    """What was acknowledged, sent again, given up, and refused with a Reset or an error."""

    acknowledged: int = 0
    retried: int = 0
    lost: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Device:
    endpoint: str
    sock: socket.socket
    mid: int
    registered: bool = False
    #: By path: the bytes of a notification before its Observe number, without message id, and its format.
    observed: dict[str, tuple[bytes, _Form]] = field(default_factory=dict)
    #: By path: what was told last, where that is fetched in blocks.
    told: dict[str, bytes] = field(default_factory=dict)
    sequence: int = _FIRST_SEQUENCE
    turn: int = 0
    waiting: bytes = b""
    sent_at: float = 0.0
    again: int = 0


class Fleet:
    """``count`` devices that speak to ``server``; a context manager that closes their sockets.

    Each is observed ``observations`` times. Their endpoint names count from ``first``. With ``length`` they tell
    strings of so many bytes (`TEXT_PATTERN`), else temperatures (`PATTERN`).
    """

    def __init__(
        self,
        server: tuple[str, int],
        count: int,
        *,
        observations: int = OBSERVATIONS,
        first: int = 0,
        length: int | None = None,
    ) -> None:
        self._observations = observations
        self._forms = _FORMS if length is None else _text_forms(length)
        sensors = "".join(f",</3303/{number}>" for number in range(observations))
        self._links = f'</>;rt="oma.lwm2m",</1/0>,</3/0>{sensors}'.encode()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if count > most_devices():
            raise FleetError(f"{count} devices need a socket each, and {hard} open files are allowed: raise ulimit -Hn")
        self.tally = Tally()
        self._poll = select.epoll()
        self._devices: dict[int, _Device] = {}
        for number in range(first, first + count):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(server)
            self._poll.register(sock.fileno(), select.EPOLLIN)
            self._devices[sock.fileno()] = _Device(endpoint=f"fleet-{number:06}", sock=sock, mid=number & 0xFFFF)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        self._poll.close()
        for device in self._devices.values():
            device.sock.close()

    def register(self, *, timeout: float = 120.0) -> None:
        """Register every device and answer until each is observed as often as it should be.

        Raises:
            FleetError: not done within ``timeout`` seconds.
        """
        missing = list(self._devices.values())
        end = time.monotonic() + timeout
        while any(len(device.observed) < self._observations for device in self._devices.values()):
            if time.monotonic() > end:
                done = sum(len(device.observed) == self._observations for device in self._devices.values())
                raise FleetError(f"{done} of {len(self._devices)} devices were observed in {timeout:.0f} s")
            under_way = sum(bool(device.waiting) for device in self._devices.values())
            for _ in range(min(len(missing), _WINDOW - under_way)):
                self._send_registration(missing.pop())
            self._turn(0.05)

    def notify(self, seconds: float, every_second: Callable[[], None]) -> float:
        """Notify in a closed loop and wait for what is outstanding; returns the seconds of full rate."""
        begin = time.monotonic()
        end, tick = begin + seconds, begin + 1.0
        # All at once would only overflow the server's socket buffer.
        for number, device in enumerate(self._devices.values()):
            self._send_notification(device)
            if number % _WINDOW == 0:
                self._turn(0.01, again=True)
        while (now := time.monotonic()) < end:
            self._turn(0.05, again=True)
            if now >= tick:
                tick = now + 1.0
                every_second()
        took = time.monotonic() - begin
        drained = time.monotonic() + 10.0
        while time.monotonic() < drained and any(device.waiting for device in self._devices.values()):
            self._turn(0.05)
        return took

    def notify_at(self, rate: float, seconds: float, every_second: Callable[[], None]) -> float:
        """Notify ``rate`` times a second, whatever is acknowledged when, and wait for what is outstanding.

        The devices take turns; one that still waits for an acknowledgement is passed over (NSTART). Returns the seconds
        of that rate. What could not be sent when it was due, since all waited, is sent as soon as one may.
        """
        devices = tuple(self._devices.values())
        begin = time.monotonic()
        tick, sent, turn = begin + 1.0, 0, 0
        while (now := time.monotonic()) < begin + seconds:
            for _ in range(int((now - begin) * rate) - sent):
                for _ in devices:
                    turn = (turn + 1) % len(devices)
                    if not devices[turn].waiting:
                        self._send_notification(devices[turn])
                        sent += 1
                        break
            self._turn(0.002)
            if now >= tick:
                tick = now + 1.0
                every_second()
        took = time.monotonic() - begin
        drained = time.monotonic() + 60.0
        while time.monotonic() < drained and any(device.waiting for device in devices):
            self._turn(0.05)
        return took

    def first_acknowledged(self, *, timeout: float) -> None:
        """Notify from one device, over and over, until a notification is acknowledged.

        Raises:
            FleetError: none was within ``timeout`` seconds.
        """
        device = next(iter(self._devices.values()))
        before, end = self.tally.acknowledged, time.monotonic() + timeout
        self._send_notification(device)
        while self.tally.acknowledged == before:
            if time.monotonic() > end:
                raise FleetError(f"no notification was acknowledged in {timeout:.0f} s")
            self._turn(0.02)
            if device.waiting:
                self._datagram(device, device.waiting)

    def _turn(self, wait: float, *, again: bool = False) -> None:
        """Take what came in; with ``again`` each acknowledged device sends its next notification."""
        devices, tally = self._devices, self.tally
        for number, _ in self._poll.poll(wait, 512):
            device = devices[number]
            try:
                data = device.sock.recv(2048)
            except OSError:  # ICMP's port unreachable, or a readiness that was none
                continue
            if data[:2] == b"\x60\x00" and device.waiting and data[2:4] == device.waiting[2:4]:
                device.waiting = b""
                tally.acknowledged += 1
                if again:
                    self._send_notification(device)
            else:
                self._take(device, data)
        self._repeat()

    def _send_notification(self, device: _Device) -> None:
        observed = tuple(device.observed.items())
        device.turn = (device.turn + 1) % len(observed)
        path, (head, form) = observed[device.turn]
        device.sequence += 1
        device.mid = (device.mid + 1) & 0xFFFF
        mid, sequence = device.mid.to_bytes(2, "big"), device.sequence.to_bytes(3, "big")
        value, rest = form.value(device.sequence % 9000 / 100), _WHOLE
        if len(value) > _BLOCK:
            device.told[path] = value
            value, rest = value[:_BLOCK], _FIRST_BLOCK
        self._transmit(device, b"".join((head[:2], mid, head[2:], sequence, form.option, rest, value)))

    def _send_registration(self, device: _Device) -> None:
        device.mid = (device.mid + 1) & 0xFFFF
        message = Message(code=codes.POST, payload=self._links)
        message.mtype, message.mid, message.token = types.Type.CON, device.mid, b"\x01"
        message.opt.uri_path = ("rd",)
        message.opt.uri_query = (f"ep={device.endpoint}", "lt=86400", "lwm2m=1.1", "b=U")
        message.opt.content_format = 40
        self._transmit(device, message.encode())

    def _transmit(self, device: _Device, data: bytes) -> None:
        device.waiting, device.again, device.sent_at = data, 0, time.monotonic()
        self._datagram(device, data)

    def _datagram(self, device: _Device, data: bytes) -> None:
        try:
            device.sock.send(data)
        except OSError:  # like a datagram that got lost: it is repeated
            return

    _checked_at = 0.0

    def _repeat(self) -> None:
        now = time.monotonic()
        if now < self._checked_at + 0.5:
            return
        self._checked_at = now
        for device in self._devices.values():
            if device.waiting and now - device.sent_at > _ACK_TIMEOUT * 2**device.again:
                if device.again == _MAX_RETRANSMIT:
                    self.tally.lost += 1
                    device.waiting = b""
                    if device.registered:
                        self._send_notification(device)
                else:
                    device.again += 1
                    device.sent_at = now
                    self.tally.retried += 1
                    self._datagram(device, device.waiting)

    def _take(self, device: _Device, data: bytes) -> None:
        """What is no plain acknowledgement: the answer to a registration, an observe request, a Reset."""
        message = Message.decode(data)
        if message.code is codes.GET:
            if message.opt.observe is None:  # what is told in blocks, from the first or a later one
                self._datagram(device, _block(message, device.told["/".join(message.opt.uri_path)]))
            else:
                self._observed(device, message)
        elif message.code is codes.CREATED and device.waiting and not device.registered:
            device.waiting, device.registered = b"", True
        elif message.mtype is types.Type.RST or not (message.code is codes.EMPTY or message.code.is_successful()):
            self.tally.refused += 1  # an empty acknowledgement that comes late answers what was sent twice

    def _observed(self, device: _Device, request: Message) -> None:
        if request.opt.accept not in (None, _TEXT, _TLV):
            raise FleetError(f"the gateway asks for content format {request.opt.accept}; the fleet has text and TLV")
        # RFC 7641, section 4.2: every notification has the format of the first value.
        form = self._forms[_TLV if request.opt.accept == _TLV else _TEXT]
        answer = Message(code=codes.CONTENT)
        answer.mtype, answer.mid, answer.token = types.Type.ACK, request.mid, request.token
        answer.opt.observe = _FIRST_SEQUENCE
        answer.opt.content_format = form.number
        path, value = "/".join(request.opt.uri_path), form.value(21.0)
        answer.payload = value[:_BLOCK]
        if len(value) > _BLOCK:
            device.told[path] = value
            answer.opt.block2 = (0, True, _SZX)
        self._datagram(device, answer.encode())
        head = bytes((0x40 | len(request.token), codes.CONTENT)) + request.token + b"\x63"
        device.observed[path] = (head, form)


def _block(request: Message, value: bytes) -> bytes:
    """The answer with one block of ``value``; it has the format that was asked for."""
    number = request.opt.block2.block_number if request.opt.block2 is not None else 0
    answer = Message(code=codes.CONTENT)
    answer.mtype, answer.mid, answer.token = types.Type.ACK, request.mid, request.token
    answer.opt.content_format = _TLV if request.opt.accept == _TLV else _TEXT
    answer.opt.block2 = (number, (number + 1) * _BLOCK < len(value), _SZX)
    answer.payload = value[number * _BLOCK : (number + 1) * _BLOCK]
    return bytes(answer.encode())
