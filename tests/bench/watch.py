"""Looks at a process under measurement from outside: the offsets that it commits, and its memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from connectors.kafka import Cluster, Consumer, KafkaException, TopicPartition, consumer, end_offsets

#: Patience, in seconds.
PATIENCE_S = 1800.0


@contextmanager
def running(command: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process of ``command`` while it is measured; what it said is told if that fails."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    except BaseException:
        say(log.read_text("utf-8", "replace")[-4000:])
        raise
    finally:
        process.terminate()
        process.wait(30)


def done(reader: Consumer, places: Sequence[TopicPartition]) -> int:
    """How many records of ``places`` the group of ``reader`` has committed."""
    try:
        return sum(max(0, one.offset) for one in reader.committed([*places], timeout=10))
    except KafkaException:  # a coordinator that is just being made
        return 0


def committed_rate(process: subprocess.Popen[bytes], group: str, cluster: Cluster, topics: Sequence[str]) -> float:
    """Records/s between the first look that sees offsets of ``group`` and the one that sees all of ``topics``."""
    ends = {place: end for place, end in end_offsets(cluster, topics).items() if end}
    wanted = sum(ends.values())
    reader = consumer(cluster, group)
    places = [TopicPartition(*place) for place in ends]
    began, first = 0.0, 0
    until = time.monotonic() + PATIENCE_S
    try:
        while True:
            seen = done(reader, places)
            now = time.perf_counter()
            if seen and not began:
                began, first = now, seen
            if seen == wanted:
                return (wanted - first) / (now - began) if now > began and wanted > first else float(wanted)
            assert process.poll() is None, "the process ended"
            assert time.monotonic() < until, f"{seen} of {wanted} records after {PATIENCE_S:g} s"
            time.sleep(0.02)
    finally:
        reader.close()


def memory_mb(pid: int, kind: str) -> float:
    """``VmRSS`` or ``VmHWM`` of a process, as the kernel counts it, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)
