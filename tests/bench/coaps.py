"""Notifications over DTLS with pre-shared keys: the gateway beside Leshan, in turn, on one Kafka, with the same load.

Owns one measurement: a real Kafka, run by run a fresh process of each server, and a `secure_fleet` of devices with a
key each, in this process. First as fast as each acknowledges, then a thousand a second for the latency. The peer is
`LeshanCoapsPeer.java`. Everything is below a temporary folder and on 127.0.0.1, and is gone afterwards.

    python -m tests.bench.coaps --runs 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.kafka import Cluster, end_offsets, ensure_topics
from headwater.servers import broker
from headwater.servers.kafka_jars import java_binary
from schemas.avro.topics import Topics
from tests.bench.fleet import FleetError
from tests.bench.memory import cpu_seconds, rss
from tests.bench.secure_fleet import PATH, SecureFleet, key_of
from tests.bench.targets import COAPS, COAPS_PEER
from tests.interop import leshan_device
from tests.ports import held_port
from tests.secure_device import new_store
from tests.way import Gateway

_HERE = Path(__file__).parent
_HEAP = "1g"
#: Notifications a second of the latency step.
_RATE = 1000.0
#: The warm-up is repeated until so many notifications were acknowledged, and so often at most.
_WARM, _MOST_WARM_UPS = 150_000, 4
#: What the warm-up leaves uncertain of the rate: so many times as much is protected ahead.
_SPARE = 3.0

#: A server that runs: its process id, where it speaks DTLS, and the topic of its notifications.
Running = tuple[int, tuple[str, int], str]


def measure(
    *, runs: int, devices: int, warm_up: float, seconds: float, only: str = ""
) -> dict[str, list[dict[str, float]]]:
    """Run it; returns the figures by server and run. ``only`` leaves out the other server.

    Raises:
        BrokerError: Kafka could not be started.
        FleetError: a server did not let the devices in, or observed nothing.
    """
    names = [f"device-{number:06}" for number in range(devices)]
    measured: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="headwater-coaps-") as name:
        folder = Path(name)
        kafka = broker.start("coaps", held_port(), folder, heap="512m")
        try:
            for run in range(runs):
                for subject, start in SERVERS.items():
                    if only in ("", subject):
                        with start(
                            kafka.cluster, _made(folder / f"{run}-{subject.split()[0]}"), f"bench{run}", names
                        ) as running:
                            figures = _measured(kafka.cluster, running, names, warm_up, seconds)
                        print(f"{subject}: {json.dumps(figures)}", file=sys.stderr, flush=True)
                        measured.setdefault(subject, []).append(figures)
        finally:
            broker.stop("coaps", folder)
    return measured


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextmanager
def _gateway(cluster: Cluster, folder: Path, gateway_id: str, names: list[str]) -> Iterator[Running]:
    store = new_store(folder / "credentials.db", {name: key_of(name) for name in names})
    pattern = f"/{'/'.join(PATH)}"
    with Gateway(gateway_id, cluster, folder, credentials=store, observe=(pattern,)) as gateway:
        gateway.wait_ready()
        yield gateway.process.pid, gateway.secure_address, gateway.topics.observations
        gateway.stop()


@contextmanager
def _peer(cluster: Cluster, folder: Path, gateway_id: str, names: list[str]) -> Iterator[Running]:
    topics = Topics(f"{gateway_id}-peer")
    ensure_topics(cluster, topics.partitions())
    keys, port = folder / "keys", held_port()
    keys.write_text("".join(f"{name} {key_of(name).hex()}\n" for name in names))
    class_path = leshan_device.build(_HERE / "LeshanCoapsPeer.java", _HERE / "leshan_server_jars.tsv")
    command = [
        *(str(java_binary()), f"-Xmx{_HEAP}", "-cp", os.pathsep.join(class_path), "LeshanCoapsPeer", str(port)),
        *(cluster.bootstrap, topics.observations, f"/{'/'.join(PATH)}", str(keys)),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise FleetError("the Leshan peer did not start; what it said is above")
        yield process.pid, ("127.0.0.1", port), topics.observations
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


SERVERS: dict[str, Callable[[Cluster, Path, str, list[str]], contextlib.AbstractContextManager[Running]]] = {
    COAPS_PEER: _peer,
    COAPS: _gateway,
}


def _measured(cluster: Cluster, running: Running, names: list[str], warm_up: float, seconds: float) -> dict[str, float]:
    pid, address, topic = running
    with SecureFleet(address, names) as fleet:
        began = time.monotonic()
        fleet.set_up()
        set_up = time.monotonic() - began
        # The first values, which came with the answers to the observe requests.
        before = _settled(cluster, topic)
        rate = fleet.notify(warm_up)
        for _ in range(_MOST_WARM_UPS - 1):
            # A Java on a busy machine is not warm by the clock, but by what it has done.
            if fleet.tally.acknowledged >= _WARM:
                break
            rate = fleet.notify(warm_up)
        fleet.protect_ahead(int(rate * seconds * _SPARE / len(names)))
        fleet.tally.in_place = 0
        cpu, others = cpu_seconds(pid), time.process_time()
        notified = fleet.tally.acknowledged
        per_s = fleet.notify(seconds)
        notified = fleet.tally.acknowledged - notified
        others = time.process_time() - others
        full = sorted(fleet.tally.took_s)
        time.sleep(0.3)
        cpu = cpu_seconds(pid) - cpu
        in_place = fleet.tally.in_place
        fleet.protect_ahead(int(_RATE * seconds * 1.1 / len(names)) + 1)
        cpu_slow, slow_before = cpu_seconds(pid), fleet.tally.acknowledged
        fleet.notify_at(_RATE, seconds)
        slow = sorted(fleet.tally.took_s)
        time.sleep(0.3)
        cpu_slow = cpu_seconds(pid) - cpu_slow
        tally = fleet.tally
        landed = _settled(cluster, topic) - before
        return {
            "devices": len(names),
            "set_up_s": set_up,
            "notify_max per_s": per_s,
            "notify_max cpu_s_per_10k": cpu * 1e4 / max(1, notified),
            "notify_max ack_p50_ms": _percentile(full, 0.5),
            "notify_max ack_p99_ms": _percentile(full, 0.99),
            "notify_max load_cpu_s": others,
            "notify_max in_place": in_place,
            "notify_1000 ack_p50_ms": _percentile(slow, 0.5),
            "notify_1000 ack_p99_ms": _percentile(slow, 0.99),
            "notify_1000 cpu_s_per_10k": cpu_slow * 1e4 / max(1, tally.acknowledged - slow_before),
            "acknowledged": tally.acknowledged,
            "landed_share": landed / max(1, tally.acknowledged),
            "retried": tally.retried,
            "lost": tally.lost + tally.refused,
            "rss_peak_mb": rss(pid)["VmHWM"],
        }


def _settled(cluster: Cluster, topic: str) -> int:
    """How many records a topic has, once it gets no more."""
    found = -1
    while (now := sum(end_offsets(cluster, [topic]).values())) != found:
        found = now
        time.sleep(1.0)
    return found


def _percentile(ordered: list[float], share: float) -> float:
    """In milliseconds."""
    return ordered[int(len(ordered) * share)] * 1000 if ordered else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Notifications over DTLS-PSK: the gateway beside Leshan.")
    parser.add_argument("--runs", type=int, default=3, help="how often both are measured, in turn")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--warm-up", type=float, default=10.0, metavar="S")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each step")
    parser.add_argument("--only", choices=tuple(SERVERS), default="", help="leave the other one out")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measured = measure(
        runs=options.runs,
        devices=options.devices,
        warm_up=options.warm_up,
        seconds=options.seconds,
        only=options.only,
    )
    text = json.dumps(measured, indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
