"""A job as the command runs it, in a process of its own that a test may kill, and what it has committed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from connectors.kafka import Cluster, admin, log_bounds, partition_counts, read_to_end
from tests.kafka_brokers import end_child_with_this_process
from tests.sink_harness import PATIENCE_S

ROOT = Path(__file__).parents[2]


class Process:
    """The command, on one folder of state."""

    def __init__(self, job: str, cluster: Cluster, gateway: str, state: Path, flags: Sequence[str]) -> None:
        self.state = state
        self._command = [sys.executable, "-c", "from headwater.cli import main; main()", "analytics", "run", job]
        self._command += ["--gateway", gateway, "--kafka", cluster.bootstrap, "--state", str(state), "--quiet", *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.state.parent / "job.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end_child_with_this_process(self._process.pid)

    def works(self) -> bool:
        """Raises AssertionError with what it said where it has ended by itself."""
        assert self._process is not None
        assert self._process.poll() is None, (self.state.parent / "job.log").read_text("utf-8")[-4000:]
        return True

    def end(self, how: signal.Signals) -> int:
        """Its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self._process.wait(PATIENCE_S)


@contextmanager
def started(process: Process) -> Iterator[Process]:
    process.start()
    try:
        yield process
    finally:
        process.end(signal.SIGKILL)


def committed(cluster: Cluster, topics: Sequence[str]) -> Counter[tuple[str, bytes | None, bytes]]:
    """All that readers of committed data see."""
    there = list(partition_counts(cluster, topics))
    found = read_to_end(cluster, there) if there else iter(())
    return Counter((one.topic(), one.key(), one.value()) for one in found)


def committed_at_least(number: int, process: Process, cluster: Cluster, outputs: Sequence[str]) -> None:
    """Wait for so many results. A transaction that nobody ends holds up readers and the next instance for a while."""
    until, tick = time.monotonic() + 3 * PATIENCE_S, threading.Event()
    while (seen := committed(cluster, outputs).total()) < number:
        assert process.works()
        assert time.monotonic() < until, f"{seen} results, not {number}"
        tick.wait(0.3)


def kill_in_a_transaction(process: Process, cluster: Cluster, output: str, work: Iterator[None]) -> None:
    """SIGKILL as soon as there are results that are not committed; each step of ``work`` gives the job more to do.

    On a machine so slow that none is seen, it is killed when there is no more work.
    """
    client = admin(cluster)
    places = [(output, partition) for partition in range(partition_counts(cluster, [output])[output])]
    for _ in work:
        assert process.works()
        if log_bounds(client, places, committed=True) != log_bounds(client, places, committed=False):
            break
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
