"""The floor under a gateway in Python: a bare loop of recvfrom and sendto that acknowledges notifications.

Owns the yardstick for "what does CoAP over UDP cost in plain Python before anything is done with it": a minimal server
that accepts every registration, observes one resource of each device and acknowledges each notification, unread, with
one `recvfrom` and one `sendto`. It records nothing, knows no duplicates and keeps nothing. The load is that of the
gateway's own measurement (the yardstick's `loadgen`).

    python -m tests.bench.floor --yardstick DIR [--rate 1000]      # measures, prints the figures as JSON
    python -m tests.bench.floor --serve PORT                       # only serves, until it is ended
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from gateway.coap.message import Code, Option, Options, Type, build, parse
from gateway.coap.udp import bind

REPOSITORY = Path(__file__).resolve().parents[2]

#: What is observed of every device.
PATH = (b"3303", b"0", b"5700")
_START_SECONDS = 30.0


def serve(port: int) -> None:
    """Serve on 127.0.0.1 until the process is ended; one datagram at a time, in order."""
    sock = bind("127.0.0.1", port)
    sock.setblocking(True)
    receive, send = sock.recvfrom, sock.sendto
    while True:
        datagram, address = receive(2049)
        if datagram[1] == 0x45:  # 2.05: a notification, or (as ACK) the answer to the observe request
            if datagram[0] & 0xF0 == 0x40:
                send(b"\x60\x00" + datagram[2:4], address)
        elif 0 < datagram[1] < 0x20:
            _answer(sock, datagram, address)


def _answer(sock: socket.socket, datagram: bytes, address: tuple[str, int]) -> None:
    """A request: registrations are accepted, and observed; all else is 2.02 Deleted, as the end of a registration."""
    asked = parse(datagram)
    where = [value for number, value in asked.options if number == Option.URI_PATH]
    if asked.code != Code.POST or where != [b"rd"]:
        sock.sendto(build(Type.ACK, Code.DELETED, asked.mid, asked.token, []), address)
        return
    who = b"%d" % address[1]
    location: Options = [(Option.LOCATION_PATH, b"rd"), (Option.LOCATION_PATH, who)]
    sock.sendto(build(Type.ACK, Code.CREATED, asked.mid, asked.token, location), address)
    observe: Options = [(Option.OBSERVE, b""), *((Option.URI_PATH, part) for part in PATH)]
    sock.sendto(build(Type.CON, Code.GET, asked.mid, who[-8:], observe), address)


def floor(
    loadgen: Path, *, rate: float | None = None, seconds: float = 20, warm_up: float = 10, clients: int = 1000
) -> dict[str, float]:
    """What the bare loop does under the load of ``clients`` devices, with confirmable notifications.

    ``rate`` is notifications a second, all together; None: each device sends the next when the last is acknowledged.
    The figures: ``per_s``; ``cpu_s_per_10k``, user and system seconds of the loop; ``ack_p50_ms``, ``ack_p99_ms``;
    ``retried`` and ``lost``; ``other_cores`` that programs outside of it used.

    Raises:
        RuntimeError: the loop did not come up, or the load ended with an error.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "tests.bench.floor", "--serve", str(port)], cwd=REPOSITORY)
    try:
        _wait_for(port, server)
        load = ("--max",) if rate is None else ("--con", "--rate", str(rate))
        ran = subprocess.run(
            [
                *(str(loadgen), "--server", f"127.0.0.1:{port}", "--watch", f"server={server.pid}"),
                *("--mode", "notify", "--clients", str(clients), *load),
                *("--warmup", str(warm_up), "--duration", str(seconds)),
            ],
            capture_output=True,
            text=True,
            timeout=warm_up + seconds + 120,
            check=False,
        )
        if ran.returncode or not ran.stdout:
            raise RuntimeError(f"the load ended with code {ran.returncode}: {ran.stderr[-1000:]}")
        found = json.loads(ran.stdout)["notify"]
    finally:
        server.terminate()
        server.wait()
    return {
        "per_s": found["per_s"],
        "cpu_s_per_10k": found["usage"]["server_cpu_s_per_10k"],
        "ack_p50_ms": found["ack_latency_ms"]["p50"],
        "ack_p99_ms": found["ack_latency_ms"]["p99"],
        "retried": found["retried"],
        "lost": found["lost"],
        "other_cores": found["usage"]["other_busy_cores"],
    }


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    wanted = f":{port:04X}"
    end = time.monotonic() + _START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        if any(line.split()[1].endswith(wanted) for line in Path("/proc/net/udp").read_text().splitlines()[1:]):
            return
        time.sleep(0.05)
    raise RuntimeError("the bare loop did not open its port")


def _loadgen(yardstick: Path) -> Path:
    """Build the load generator as the yardstick does, and say where it is."""
    work = Path(os.environ.get("BENCH_WORK") or "/tmp/headwater-bench")  # the yardstick's own place
    target = work / "loadgen-target"
    built = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(yardstick / "loadgen" / "Cargo.toml")]
    subprocess.run(built, env={**os.environ, "CARGO_TARGET_DIR": str(target)}, check=True)
    return target / "release" / "loadgen"


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.floor", description="What a bare loop in Python costs.")
    doing = parser.add_mutually_exclusive_group(required=True)
    doing.add_argument("--serve", type=int, metavar="PORT", help="only serve, on 127.0.0.1")
    doing.add_argument("--yardstick", type=Path, metavar="DIR", help="the folder of the load generator")
    parser.add_argument("--rate", type=float, help="notifications/s (as fast as they are acknowledged)")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--warm-up", type=float, default=10)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    figures = floor(_loadgen(options.yardstick), rate=options.rate, seconds=options.seconds, warm_up=options.warm_up)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
