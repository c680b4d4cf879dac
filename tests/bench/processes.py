"""What a gateway of two processes would carry on two cores of its own, against one of one process.

On a machine whose cores the load generator and Kafka take a share of, that cannot be seen as a rate. So what is
measured is the work: seconds of CPU (user and system) of each process of the gateway for each notification that was
acknowledged, which means that Kafka has it. All processes of the gateway are bound to one core and everything else to
the other ones. A process that only burns that core leaves them less than they could use, so that work always waits, as
it does on a core that is full; each has as many devices. Where each process has a core of its own, the busiest one sets
the pace: ``carried`` is how many notifications all together are done with for a second of its CPU, and ``ratio`` is
that of two processes to that of one.

Notifications arrive at the process that owns their device, where the kernel takes the program for it
(`gateway.several.steering`); where it takes none, half of them cross over, and that is in the figures too.

What it does not show: what two cores take from one another (caches, memory, the kernel's locks of a port).

    python -m tests.bench.processes --loadgen …/loadgen --devices 1000 --seconds 12 --runs 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from connectors.kafka import Cluster
from headwater.servers import broker
from tests.ports import held_port
from tests.way import Gateway

#: Kafka and the load are not to be what is measured, nor to be in its way.
_GATEWAY_CORE = 0
_WARM_UP_S = 2.0
#: Behind the one that burns the core: a process of the gateway gets a fourth of it, and always has work that waits.
_NICE = 5


def measure(*, loadgen: Path, devices: int, seconds: float, runs: int) -> dict[str, float]:
    """Run it, one and two processes in turn; returns the figures by name, medians of ``runs``.

    ``loadgen`` is the yardstick's load generator, built; ``devices`` are those of a process.

    Raises:
        BrokerError: Kafka could not be started.
        RuntimeError: notifications got lost, or there is one core only.
    """
    others = os.sched_getaffinity(0) - {_GATEWAY_CORE}
    if not others:
        raise RuntimeError("the load needs a core beside that of the gateway, and there is one core only")
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="headwater-processes-") as name:
        folder = Path(name)
        # What is started from here on stays off the gateway's core.
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, others)
        burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        os.sched_setaffinity(burner.pid, {_GATEWAY_CORE})
        running = broker.start("processes", held_port(), folder, heap="512m")
        try:
            for number in range(runs):
                for processes in found:
                    place = folder / f"{processes}-{number}"
                    place.mkdir()
                    one = _run(running.cluster, place, loadgen, processes, devices * processes, seconds)
                    found[processes].append(one)
                    print(f"{processes} processes: {one}", file=sys.stderr, flush=True)
        finally:
            burner.kill()
            burner.wait()
            broker.stop("processes", folder)
            os.sched_setaffinity(0, mine)
    medians: dict[str, float] = {"devices": devices, "runs": runs}
    for processes, each in found.items():
        for key in each[0]:
            medians[f"{key}_{processes}"] = statistics.median(one[key] for one in each)
    medians["ratio"] = medians["carried_2"] / medians["carried_1"]
    return medians


def _run(
    cluster: Cluster, folder: Path, loadgen: Path, processes: int, devices: int, seconds: float
) -> dict[str, float]:
    words = ("--processes", str(processes), "--state", str(folder / "state"))
    with Gateway(f"processes-{folder.name}", cluster, folder, *words, observe=("/3303/*/5700",)) as gateway:
        gateway.wait_ready()
        pid = gateway.process.pid
        parts = _children(pid) if processes > 1 else [pid]
        for one in (pid, *parts):
            _bind(one, _GATEWAY_CORE)
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
        told: dict[str, Any] = json.loads(said.stdout)
        return _figures(told, [f"part{number}" for number in range(len(parts))])


def _figures(told: dict[str, Any], parts: list[str]) -> dict[str, float]:
    """``per_s`` is what one core carried beside Kafka and the load on the other: no more for two processes."""
    notified = told["notify"]
    # On a machine that others load as well, a device may have said something twice: what came late is stray.
    wrong = {what: count for what, count in told["faults"].items() if count and what != "stray"}
    if notified["lost"] or notified["reset"] or wrong:
        raise RuntimeError(f"notifications got lost: {notified}, {wrong}")
    spent = [float(notified["usage"]["processes"][part]["cpu_s"]) for part in parts]
    return {
        "carried": notified["acked"] / max(spent),
        "cpu_s_per_10k": sum(spent) * 1e4 / notified["acked"],
        "busiest_share": max(spent) / sum(spent),
        "per_s": float(notified["per_s"]),
    }


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _bind(pid: int, core: int) -> None:
    """A process with all its threads, behind who burns that core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), {core})
            os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Two processes of a gateway against one.")
    parser.add_argument("--loadgen", type=Path, required=True, help="the yardstick's load generator, built")
    parser.add_argument("--devices", type=int, default=1000, help="of each process")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures = measure(loadgen=options.loadgen, devices=options.devices, seconds=options.seconds, runs=options.runs)
    text = json.dumps(figures, indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
