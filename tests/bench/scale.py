"""One gateway process with 20,000 devices and 40,000 observations: how it starts, what it holds, and how it returns.

Owns one measurement: a real Kafka, a gateway process with its defaults, and a `fleet` of devices with two observations
each. The clock of the cold start runs from the start of the gateway's process until every device is registered and
observed; that of the restart from the start of the next process, after a SIGKILL, until a notification is acknowledged,
which it is when Kafka has it. The fleet is written in Python and shares the cores.

    python -m tests.bench.scale --seconds 20
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from connectors.kafka import Cluster, ensure_topics
from headwater.servers import broker
from schemas.avro.topics import Topics
from tests.bench.fleet import OBSERVATIONS, PATTERN, Fleet, most_devices
from tests.bench.memory import cpu_seconds, rss
from tests.ports import held_port

#: As many as are wanted, or as many as the limit of open files allows.
DEVICES = min(20_000, most_devices())
#: Devices beside which the many are measured.
FEW = 100
#: Seconds, at most.
_COLD, _RESTART = 300.0, 60.0


def measure(*, devices: int = DEVICES, seconds: float = 20.0) -> dict[str, float]:
    """Run it, with ``seconds`` of notifications at full rate each time.

    Returns ``cold_s``, ``registrations_per_s`` (each with its observations), ``restart_s``, ``rss_registered_mb``,
    ``rss_peak_mb`` and ``rss_restarted_mb`` in MiB, and ``cpu_s_per_10k_few`` and ``cpu_s_per_10k_many``, the seconds
    of the process per 10,000 notifications of FEW devices and of ``devices``.

    Raises:
        FleetError: the gateway did not register, observe or take back the devices.
        BrokerError: Kafka could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-scale-") as name:
        folder = Path(name)
        running = broker.start("scale", held_port(), folder, heap="512m")
        try:
            few = _few(running.cluster, folder, seconds)
            return {"devices": devices, "observations": devices * OBSERVATIONS, **few} | _many(
                running.cluster, folder, devices, seconds
            )
        finally:
            broker.stop("scale", folder)


def _few(cluster: Cluster, folder: Path, seconds: float) -> dict[str, float]:
    coap = held_port()
    with _gateway(cluster, folder, "few", coap) as gateway, Fleet(("127.0.0.1", coap), FEW) as fleet:
        fleet.register(timeout=_COLD)
        return {"cpu_s_per_10k_few": _cpu(fleet, gateway.pid, seconds)}


def _many(cluster: Cluster, folder: Path, devices: int, seconds: float) -> dict[str, float]:
    coap = held_port()
    with Fleet(("127.0.0.1", coap), devices) as fleet:
        begun = time.monotonic()
        with _gateway(cluster, folder, "many", coap) as gateway:
            fleet.register(timeout=_COLD)
            cold = time.monotonic() - begun
            registered = rss(gateway.pid)["VmRSS"]
            cpu = _cpu(fleet, gateway.pid, seconds)
            peak = rss(gateway.pid)["VmHWM"]
            gateway.kill()
            gateway.wait(10)
        begun = time.monotonic()
        with _gateway(cluster, folder, "many", coap) as gateway:
            fleet.first_acknowledged(timeout=_RESTART)
            restart = time.monotonic() - begun
            return {
                "cold_s": cold,
                "registrations_per_s": devices / cold,
                "rss_registered_mb": registered,
                "rss_peak_mb": peak,
                "cpu_s_per_10k_many": cpu,
                "restart_s": restart,
                "rss_restarted_mb": rss(gateway.pid)["VmRSS"],
            }


def _cpu(fleet: Fleet, pid: int, seconds: float) -> float:
    """CPU-seconds of the process per 10,000 notifications."""
    before, cpu = fleet.tally.acknowledged, cpu_seconds(pid)
    fleet.notify(seconds, lambda: None)
    return (cpu_seconds(pid) - cpu) * 1e4 / max(1, fleet.tally.acknowledged - before)


@contextmanager
def _gateway(cluster: Cluster, folder: Path, name: str, coap: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a gateway with this id and state; what it said is told if the measurement fails."""
    ensure_topics(cluster, Topics(name).partitions())
    log = folder / f"{name}.log"
    command = [
        *(sys.executable, "-m", "headwater.cli", "gateway", "--id", name, "--kafka", cluster.bootstrap),
        *("--coap", f"127.0.0.1:{coap}", "--state", str(folder / name), "--metrics", "0", "--observe", PATTERN),
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    except BaseException:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description="A gateway with many devices: cold start, memory, restart.")
    parser.add_argument("--devices", type=int, default=DEVICES, help=f"each with {OBSERVATIONS} observations")
    parser.add_argument("--seconds", type=float, default=20.0, help="of notifications at full rate, twice")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    text = json.dumps(measure(devices=options.devices, seconds=options.seconds), indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
