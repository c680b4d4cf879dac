"""What DTLS sessions cost a gateway: thousands of devices that make a handshake with a key of their own.

Owns one measurement: a real Kafka, a gateway process with a store of credentials, and as many clients as devices, some
handshakes under way at a time, each client with a UDP socket; the gateway's resident memory as the kernel counts it
before and after. The clients are those of the tests and share no code with the gateway. Everything is below a temporary
folder and on 127.0.0.1, and is gone afterwards.

    python -m tests.bench.dtls --devices 5000
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from connectors.kafka import Cluster
from headwater.servers import broker
from tests.bench.memory import cpu_seconds, rss
from tests.gateway.dtls.dtls_client import Client
from tests.ports import held_port
from tests.secure_device import new_store
from tests.way import Gateway

_KEY = b"sixteen byte key"
#: Handshakes that are under way at a time.
_WINDOW = 64
#: A flight that draws no answer is said again after a second (RFC 6347 section 4.2.4.1), so often at most.
_AGAIN_S, _MOST_AGAIN = 1.0, 6


@dataclass(slots=True)
class _Device:
    client: Client
    sock: socket.socket
    began: float = 0.0
    said: float = 0.0
    again: int = 0


@dataclass(slots=True)
class Tally:
    """Handshakes that were completed, how long each took (ms), flights said again, and devices that gave up."""

    took_ms: list[float] = field(default_factory=list)
    retried: int = 0
    lost: int = 0


def handshakes(server: tuple[str, int], names: list[str]) -> tuple[Tally, list[socket.socket]]:
    """Let every device make a handshake; the sockets stay open, so that no two have one address."""
    poll, waiting = select.epoll(), list(names)
    under_way: dict[int, _Device] = {}
    tally, sockets = Tally(), []
    while waiting or under_way:
        while waiting and len(under_way) < _WINDOW:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(server)
            poll.register(sock.fileno(), select.EPOLLIN)
            sockets.append(sock)
            now = time.monotonic()
            device = _Device(Client(identity=waiting.pop().encode(), key=_KEY, cid=b""), sock, now, now)
            under_way[sock.fileno()] = device
            _say(device, device.client.start())
        for number, _ in poll.poll(0.05):
            _hear(under_way, number, tally)
        now = time.monotonic()
        for number, device in list(under_way.items()):
            if now - device.said > _AGAIN_S * 2**device.again:
                if device.again == _MOST_AGAIN:
                    tally.lost += 1
                    del under_way[number]
                    continue
                device.again += 1
                tally.retried += 1
                device.said = now
                _say(device, device.client.again())
    poll.close()
    return tally, sockets


def _say(device: _Device, datagrams: list[bytes]) -> None:
    for datagram in datagrams:
        device.sock.send(datagram)


def _hear(under_way: dict[int, _Device], number: int, tally: Tally) -> None:
    device = under_way.get(number)
    if device is None:
        return
    out = device.client.hear(device.sock.recv(65536))
    now = time.monotonic()
    if out:
        device.said, device.again = now, 0
        _say(device, out)
    if device.client.established:
        tally.took_ms.append((now - device.began) * 1000)
        del under_way[number]


def measure(*, devices: int) -> dict[str, float]:
    """Run it; returns the figures by name (``session_bytes`` is the growth of resident memory by the sessions).

    Raises:
        BrokerError: Kafka could not be started.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="headwater-dtls-") as name:
        folder = Path(name)
        running = broker.start("dtls", held_port(), folder, heap="256m")
        try:
            return _with_kafka(running.cluster, folder, devices)
        finally:
            broker.stop("dtls", folder)


def _with_kafka(cluster: Cluster, folder: Path, devices: int) -> dict[str, float]:
    names = [f"device-{number:06}" for number in range(devices)]
    keys = new_store(folder / "credentials.db", dict.fromkeys(["first", *names], _KEY))
    with Gateway("dtls", cluster, folder, credentials=keys) as gateway:
        gateway.wait_ready()
        # The first one loads what all need.
        sockets = handshakes(gateway.secure_address, ["first"])[1]
        time.sleep(1.0)
        pid = gateway.process.pid
        before, cpu, began = rss(pid)["VmRSS"], cpu_seconds(pid), time.monotonic()
        tally, more = handshakes(gateway.secure_address, names)
        took = time.monotonic() - began
        cpu = cpu_seconds(pid) - cpu
        # Half-open state goes with the handshakes.
        time.sleep(1.0)
        after = rss(pid)["VmRSS"]
        open_now = gateway.metric("dtls_sessions")
        for sock in (*sockets, *more):
            sock.close()
    times = sorted(tally.took_ms)
    return {
        "devices": devices,
        "completed": len(times),
        "lost": devices - len(times),
        "open": open_now,
        "retried": tally.retried,
        "per_s": len(times) / took,
        "p50_ms": times[len(times) // 2],
        "p99_ms": times[int(len(times) * 0.99)],
        "cpu_ms_each": cpu * 1000 / devices,
        "session_bytes": (after - before) * 1024**2 / devices,
        "rss_start_mb": before,
        "rss_end_mb": after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="DTLS handshakes at a gateway, and the memory of their sessions.")
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    text = json.dumps(measure(devices=options.devices), indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
