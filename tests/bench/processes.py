"""What a gateway of two processes carries by one of one process, each process with the same part of a core.

On a machine whose cores the load generator and Kafka take most of, two whole processes cannot be seen to be twice as
fast as one: there is no second core for them. So each process of the gateway gets the same small part of a core
(`tests.bench.quota`), and the rest of the machine is enough for everything else, in both cases. What limits is then the
gateway alone: ``ratio``, the notifications a second of two processes by those of one, is how it scales. That the
processes did use up what they had, and so were what limited, is in the figures too (``used``), and a run in which they
did not is none.

The same fleet in both cases: each device sends its next notification when the last is acknowledged, which means that
Kafka has it. Notifications arrive at the process that owns their device, where the kernel takes the program for it
(`gateway.several.steering`); where it takes none, half of them cross over, and that is in the figure.

What it does not show: what two cores that are both full take from one another (caches, memory).

    python -m tests.bench.processes --loadgen …/loadgen --devices 1000 --seconds 12 --runs 3
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from connectors.kafka import Cluster
from headwater.servers import broker
from tests.bench.quota import quotas, why_not
from tests.ports import held_port
from tests.way import Gateway

#: Of a core, for each process of the gateway: so Kafka and the load keep up with two of them on two cores.
SHARE = 0.1
_WARM_UP_S = 3.0
#: A process that used less of its part had to wait for others.
_USED_UP = 0.85


def measure(*, loadgen: Path, devices: int, seconds: float, runs: int, share: float = SHARE) -> dict[str, float]:
    """Run it, one and two processes in turn; returns the figures by name, medians of ``runs``.

    ``loadgen`` is the yardstick's load generator, built.

    Raises:
        BrokerError: Kafka could not be started.
        RuntimeError: notifications got lost, or something else than the gateway was the limit.
        OSError: this machine gives no process a quota.
    """
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="headwater-processes-") as name:
        folder = Path(name)
        running = broker.start("processes", held_port(), folder, heap="512m")
        try:
            for number in range(runs):
                for processes in found:
                    place = folder / f"{processes}-{number}"
                    place.mkdir()
                    one = _run(running.cluster, place, loadgen, processes, devices, seconds, share)
                    found[processes].append(one)
                    print(f"{processes} processes: {one}", file=sys.stderr, flush=True)
        finally:
            broker.stop("processes", folder)
    medians: dict[str, float] = {"devices": devices, "share": share}
    for processes, each in found.items():
        for key in each[0]:
            medians[f"{key}_{processes}"] = statistics.median(one[key] for one in each)
    medians["ratio"] = medians["per_s_2"] / medians["per_s_1"]
    return medians


def _run(
    cluster: Cluster, folder: Path, loadgen: Path, processes: int, devices: int, seconds: float, share: float
) -> dict[str, float]:
    words = ("--processes", str(processes), "--state", str(folder / "state"))
    with Gateway(f"processes-{folder.name}", cluster, folder, *words, observe=("/3303/*/5700",)) as gateway:
        gateway.wait_ready()
        pid = gateway.process.pid
        parts = _children(pid) if processes > 1 else [pid]
        with quotas(parts, share):
            said = subprocess.run(
                [
                    *(str(loadgen), "--server", f"127.0.0.1:{gateway.coap_port}", "--clients", str(devices)),
                    *("--mode", "notify", "--max", "--warmup", str(_WARM_UP_S), "--duration", str(seconds), "--dereg"),
                    *(word for number, one in enumerate(parts) for word in ("--watch", f"part{number}={one}")),
                ],
                capture_output=True,
                text=True,
                timeout=seconds + 120,
                check=True,
            )
        figures = _figures(json.loads(said.stdout), [f"part{number}" for number in range(len(parts))], share)
        gateway.stop()
        return figures


def _figures(told: dict[str, Any], parts: list[str], share: float) -> dict[str, float]:
    notified = told["notify"]
    # On a machine that others load as well, a device may have said something twice: what came late is stray.
    wrong = {what: count for what, count in told["faults"].items() if count and what != "stray"}
    if notified["lost"] or notified["reset"] or wrong:
        raise RuntimeError(f"notifications got lost: {notified}, {wrong}")
    spent = [notified["usage"]["processes"][part] for part in parts]
    used = min(float(one["cores"]) for one in spent) / share
    if used < _USED_UP:
        raise RuntimeError(
            f"a process used {used:.0%} of the CPU that it had: the load, Kafka or others were the limit"
        )
    return {
        "per_s": float(notified["per_s"]),
        "cpu_s_per_10k": sum(float(one["cpu_s"]) for one in spent) * 1e4 / notified["acked"],
        "used": used,
    }


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Two processes of a gateway by one, each with a part of a core.")
    parser.add_argument("--loadgen", type=Path, required=True, help="the yardstick's load generator, built")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--share", type=float, default=SHARE, help="of a core, for each process of the gateway")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    if (why := why_not()) is not None:
        sys.exit(f"error: {why}")
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = measure(
        loadgen=options.loadgen,
        devices=options.devices,
        seconds=options.seconds,
        runs=options.runs,
        share=options.share,
    )
    text = json.dumps(figures, indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
