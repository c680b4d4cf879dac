"""What images for devices cost notifications: many devices fetch one at once while others notify.

Owns one measurement: a real Kafka, a gateway process, devices that notify at a steady rate, and devices that fetch an
image by block-wise GET, all of them in one client process. How long acknowledgements of notifications take is measured
before the downloads begin and while they are under way, in the same run. Everything is below a temporary folder and on
127.0.0.1, and is gone afterwards.

    python -m tests.bench.firmware --devices 50 --size 1048576
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cloud import files
from connectors.kafka import Cluster
from gateway.coap.message import Code, Message, Option, Type, build, empty, parse, uint
from headwater.servers import broker
from schemas.avro.records import FileRequest, RequestKind
from schemas.files import File, describe
from tests.bench.memory import cpu_seconds
from tests.ports import held_port
from tests.way import Gateway

LINKS = b'</>;rt="oma.lwm2m";ct="11542 0",</1/0>,</3/0>,</3303/0>,</5/0>'
#: Seconds after which what was not answered is said again (RFC 7252 section 4.8).
_AGAIN_S = 2.0
_PATIENCE_S = 600.0


@dataclass(slots=True)
class _Device:
    ep: str
    sock: socket.socket
    mid: int = 0
    registered: bool = False
    #: The token of the observation of /3303/0/5700.
    token: bytes | None = None
    number: int = 1
    #: When each notification that is not acknowledged was sent, by message id.
    told: dict[int, float] = field(default_factory=dict)
    image: bytearray = field(default_factory=bytearray)
    waiting_mid: int = -1
    asked: bytes = b""
    asked_at: float = 0.0
    done_at: float = 0.0

    def say(self, type_: int, code: int, token: bytes, options: list[tuple[int, bytes]], payload: bytes = b"") -> int:
        self.mid = self.mid + 1 & 0xFFFF
        self.sock.send(build(type_, code, self.mid, token, options, payload))
        return self.mid


class Fleet:
    """Devices on sockets of their own, driven by one loop."""

    def __init__(self, server: tuple[str, int], names: list[str]) -> None:
        self._selector = selectors.DefaultSelector()
        self.devices: list[_Device] = []
        for name in names:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.connect(server)
            sock.setblocking(False)
            device = _Device(name, sock)
            self._selector.register(sock, selectors.EVENT_READ, device)
            self.devices.append(device)
        self.latencies: list[float] = []
        self.repeated = 0
        self._path: list[tuple[int, bytes]] = []
        self._size = 0

    def register(self) -> None:
        for device in self.devices:
            query = [b"ep=" + device.ep.encode(), b"lt=86400", b"lwm2m=1.1", b"b=U"]
            options = [(Option.URI_PATH, b"rd"), *((Option.URI_QUERY, part) for part in query)]
            device.say(Type.CON, Code.POST, b"r", [(int(number), value) for number, value in options], LINKS)
        self.spin(lambda: all(one.token is not None for one in self.devices), "registrations and observations")

    def notify(self, seconds: float, per_second: float, until: Callable[[], bool] = lambda: False) -> list[float]:
        """Notify in turn at this rate for so long, or ``until``; the ms that each acknowledgement took."""
        self.latencies = []
        began = time.monotonic()
        sent = 0
        while (now := time.monotonic()) - began < seconds and not until():
            while sent < (now - began) * per_second:
                self._tell(self.devices[sent % len(self.devices)], sent)
                sent += 1
            self._turn(0.001)
        self.spin(lambda: not any(one.told for one in self.devices), "acknowledgements")
        return sorted(self.latencies)

    def _tell(self, device: _Device, value: int) -> None:
        assert device.token is not None
        device.number += 1
        options = [(int(Option.OBSERVE), uint(device.number)), (int(Option.CONTENT_FORMAT), b"")]
        mid = device.say(Type.CON, Code.CONTENT, device.token, options, b"%d.5" % (value % 90))
        device.told[mid] = time.monotonic()

    def fetch(self, file: File) -> None:
        """Begin to fetch the file, each device."""
        self._path = [(int(Option.URI_PATH), b"files"), (int(Option.URI_PATH), file.sha256.encode())]
        self._size = file.size
        for device in self.devices:
            self._ask(device)

    def _ask(self, device: _Device) -> None:
        block = uint((len(device.image) // 1024) << 4 | 6)
        device.mid = device.mid + 1 & 0xFFFF
        device.waiting_mid = device.mid
        device.asked = build(Type.CON, Code.GET, device.mid, b"f", [*self._path, (int(Option.BLOCK2), block)])
        device.asked_at = time.monotonic()
        device.sock.send(device.asked)

    def spin(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not true():
            if time.monotonic() > end:
                raise RuntimeError(f"waited {_PATIENCE_S:g} s in vain for {what}")
            self._turn(0.05)

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            device: _Device = key.data
            try:
                while True:
                    self._take(device, parse(device.sock.recv(4096)))
            except BlockingIOError:
                continue
        now = time.monotonic()
        for device in self.devices:
            if device.waiting_mid >= 0 and now - device.asked_at > _AGAIN_S:
                device.asked_at = now
                self.repeated += 1
                device.sock.send(device.asked)

    def _take(self, device: _Device, message: Message) -> None:
        if message.type == Type.ACK and message.mid in device.told:
            self.latencies.append((time.monotonic() - device.told.pop(message.mid)) * 1000)
        elif message.token == b"f" and message.mid == device.waiting_mid:
            assert message.code == Code.CONTENT, message
            device.waiting_mid = -1
            device.image += message.payload
            if len(device.image) < self._size:
                self._ask(device)
            else:
                device.done_at = time.monotonic()
        elif message.token == b"r":
            assert message.code == Code.CREATED, message
            device.registered = True
        elif message.is_request:
            if message.uint(Option.OBSERVE) == 0:
                device.token = message.token
                options = [(int(Option.OBSERVE), b"\x01"), (int(Option.CONTENT_FORMAT), b"")]
                device.sock.send(build(Type.ACK, Code.CONTENT, message.mid, message.token, options, b"20.5"))
            else:
                device.sock.send(build(Type.ACK, Code.CHANGED, message.mid, message.token, []))
        elif message.type == Type.CON:
            device.sock.send(empty(Type.ACK, message.mid))

    def close(self) -> None:
        for device in self.devices:
            device.sock.close()


def measure(*, devices: int, size: int, per_second: float, seconds: float) -> dict[str, float]:
    """Run it; returns the figures by name.

    Raises:
        BrokerError: Kafka could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-firmware-") as name:
        folder = Path(name)
        running = broker.start("firmware", held_port(), folder, heap="256m")
        try:
            return _with_kafka(running.cluster, folder, devices, size, per_second, seconds)
        finally:
            broker.stop("firmware", folder)


def _with_kafka(
    cluster: Cluster, folder: Path, devices: int, size: int, per_second: float, seconds: float
) -> dict[str, float]:
    image = random.Random(1).randbytes(size)
    file = describe(image, "image.bin")
    with Gateway("firmware", cluster, folder, observe=("/3303/*/5700",)) as gateway:
        gateway.wait_ready()
        files.send(cluster, "firmware", file, image)
        fleet = Fleet(gateway.address, [f"device-{number}" for number in range(devices)])
        fleet.register()
        # It is asked for before it is taken, and so it is taken before it is told.
        wanted = FileRequest(sha256=file.sha256, size=file.size, name=file.name)
        gateway.request("device-0", "wanted", RequestKind.WRITE, "/5/0/1", wanted)
        while not gateway.metric("files"):
            time.sleep(0.1)
        # The first ones find everything cold.
        fleet.notify(2.0, per_second)
        pid = gateway.process.pid
        cpu_before = cpu_seconds(pid)
        quiet = fleet.notify(seconds, per_second)
        cpu_quiet = cpu_seconds(pid) - cpu_before
        began, cpu_before = time.monotonic(), cpu_seconds(pid)
        fleet.fetch(file)
        busy = fleet.notify(_PATIENCE_S, per_second, until=lambda: all(one.done_at for one in fleet.devices))
        took = max(one.done_at for one in fleet.devices) - began
        cpu_busy = cpu_seconds(pid) - cpu_before
        whole = sum(hashlib.sha256(one.image).hexdigest() == file.sha256 for one in fleet.devices)
        fleet.close()
    return {
        "devices": devices,
        "whole": whole,
        "damaged": devices - whole,
        "bytes_each": size,
        "took_s": took,
        "repeated": fleet.repeated,
        "notifications_per_s": per_second,
        "quiet_p50_ms": _part(quiet, 0.5),
        "quiet_p99_ms": _part(quiet, 0.99),
        "busy_p50_ms": _part(busy, 0.5),
        "busy_p99_ms": _part(busy, 0.99),
        "p99_ratio": _part(busy, 0.99) / _part(quiet, 0.99),
        "cpu_ms_per_mb": (cpu_busy - cpu_quiet * took / seconds) * 1000 / (devices * size / 1e6),
    }


def _part(values: list[float], part: float) -> float:
    return values[int(len(values) * part)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What images for many devices cost notifications.")
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--size", type=int, default=1 << 20)
    parser.add_argument("--per-second", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = measure(
        devices=options.devices, size=options.size, per_second=options.per_second, seconds=options.seconds
    )
    text = json.dumps(figures, indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
