"""How much memory a gateway holds with thousands of devices and observations that notify at full rate.

Owns one measurement: a real Kafka, a gateway process with its defaults, and a `fleet` of devices with two observations
each; the gateway's resident memory as the kernel counts it (VmRSS, VmHWM of /proc/PID/status). Everything is below a
temporary folder and on 127.0.0.1, and is gone afterwards.

    python -m tests.bench.memory --minutes 10
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from connectors.kafka import Cluster, end_offsets, ensure_topics
from headwater.servers import broker
from schemas.avro.topics import Topics
from tests.bench.fleet import OBSERVATIONS, PATTERN, Fleet
from tests.ports import held_port

_GATEWAY = "memory"
#: Ten minutes at full rate are tens of millions of records: Kafka may drop the oldest.
_KEEP = {"retention.bytes": "268435456", "segment.bytes": "67108864"}


def measure(*, devices: int, minutes: float, progress: bool = True) -> dict[str, float]:
    """Run it; returns the figures by name (``rss_*_mb`` in MiB, ``cpu_s_per_10k`` in seconds).

    Raises:
        FleetError: the gateway did not register or observe the devices.
        BrokerError: Kafka could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-memory-") as name:
        folder = Path(name)
        port = held_port()
        running = broker.start("memory", port, folder, heap="512m")
        try:
            return _with_kafka(running.cluster, folder, devices=devices, minutes=minutes, progress=progress)
        finally:
            broker.stop("memory", folder)


def _with_kafka(cluster: Cluster, folder: Path, *, devices: int, minutes: float, progress: bool) -> dict[str, float]:
    topics = Topics(_GATEWAY)
    ensure_topics(cluster, topics.partitions(), config={topics.observations: _KEEP})
    coap = held_port()
    log = folder / "gateway.log"
    command = [
        *(sys.executable, "-m", "headwater.cli", "gateway", "--id", _GATEWAY, "--kafka", cluster.bootstrap),
        *("--coap", f"127.0.0.1:{coap}", "--state", str(folder / "state"), "--metrics", "0", "--observe", PATTERN),
    ]
    with log.open("wb") as out:
        gateway = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        with Fleet(("127.0.0.1", coap), devices) as fleet:
            time.sleep(3.0)  # as the yardstick does: what counts here is the memory, not the start
            start = rss(gateway.pid)["VmRSS"]
            fleet.register()
            registered = rss(gateway.pid)["VmRSS"]
            tally = fleet.tally
            before, cpu = tally.acknowledged, cpu_seconds(gateway.pid)
            ticks = 0

            def tick() -> None:
                nonlocal ticks
                ticks += 1
                if progress and ticks % 30 == 0:
                    held, rate = rss(gateway.pid)["VmRSS"], (tally.acknowledged - before) / ticks
                    print(f"{ticks:5} s: {held:.1f} MiB, {rate:,.0f} notifications/s", file=sys.stderr, flush=True)

            at_full_rate = fleet.notify(minutes * 60, tick)
            notified = tally.acknowledged - before
            held = rss(gateway.pid)
            spent = cpu_seconds(gateway.pid) - cpu
            landed = sum(end_offsets(cluster, [topics.observations]).values())
            return {
                "devices": devices,
                "observations": devices * OBSERVATIONS,
                "minutes": round(at_full_rate / 60, 2),
                "acknowledged": notified,
                "landed": landed,
                "per_s": notified / at_full_rate,
                "retried": tally.retried,
                "lost": tally.lost,
                "refused": tally.refused,
                "cpu_s_per_10k": spent * 1e4 / max(1, notified),
                "rss_start_mb": start,
                "rss_registered_mb": registered,
                "rss_end_mb": held["VmRSS"],
                "rss_peak_mb": held["VmHWM"],
            }
    except BaseException:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        gateway.terminate()
        try:
            gateway.wait(20)
        except subprocess.TimeoutExpired:
            gateway.kill()
            gateway.wait(10)


def rss(pid: int) -> dict[str, float]:
    """``VmRSS`` and ``VmHWM`` of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        name: int(rest.split()[0]) / 1024
        for name, _, rest in (line.partition(":") for line in lines)
        if name in ("VmRSS", "VmHWM")
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of a gateway at full rate.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--devices", type=int, default=5000, help=f"each with {OBSERVATIONS} observations")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = measure(devices=options.devices, minutes=options.minutes)
    text = json.dumps(figures, indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
