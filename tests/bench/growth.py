"""How costs grow: a notification's with devices, observations, its value and partitions; replication's and the sinks'.

Owns one measurement on real servers, which it starts and removes itself. Its figures are named ``AXIS X FIGURE``, such
as ``devices 5000 cpu_s_per_10k``. Along an axis everything but X stays as it is: notifications come at one fixed rate,
so that batches do not grow with the fleet; with 20,000 devices each speaks seldom, with 100 often. The gateway's CPU
is what counts; the fleets run in processes of their own and share the cores.

    python -m tests.bench.growth --only devices,value --seconds 8
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from connectors.kafka import Cluster, end_offsets, ensure_topics, producer, read_to_end
from connectors.sinks import SINKS
from headwater.servers import broker
from schemas.avro.topics import Topics
from tests.bench.bare_clients import BARE
from tests.bench.fleet import PATTERN, TEXT_PATTERN, Fleet, FleetError
from tests.bench.memory import cpu_seconds
from tests.bench.sinks import notifications, options, rates
from tests.bench.watch import memory_mb, running, say
from tests.ports import held_port
from tests.stores import STORES

#: What does not grow along an axis.
DEVICES, OBSERVATIONS, PARTITIONS = 500, 2, 2
RATE = 4_000.0
#: Of values: the longest come in ten blocks, each a request of the gateway.
VALUE_RATE = 100.0
RECORD = 200
#: As many devices in one process at most: each has a socket, and a process may have so many files.
_IN_ONE_PROCESS = 8_000

#: What grows, and through which values.
NOTIFIED: Mapping[str, Sequence[int]] = {
    "devices": (100, 1_000, 5_000, 20_000),
    "observations": (1, 2, 8, 32),
    "value": (8, 100, 1_000, 10_000),
    "partitions": (1, 6, 24),
}
REPLICATED: Mapping[str, Sequence[int]] = {
    "replicated-bytes": (10, 100, 1_000, 10_000),
    "replicated-partitions": (1, 6, 24),
}
BATCHES = (1, 10, 100, 1_000, 5_000)
SINKS_BY_BATCH = ("influxdb", "sqlite")
AXES = (*NOTIFIED, *REPLICATED, "batch")

Figures = dict[str, float]


def _fleet(link: Connection, port: int, devices: int, first: int, observations: int, length: int | None) -> None:
    """A process with devices: registers them, then notifies as often as it is told ``(rate, seconds)``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    try:
        with Fleet(("127.0.0.1", port), devices, observations=observations, first=first, length=length) as fleet:
            fleet.register(timeout=300)
            link.send("registered")
            while (told := link.recv()) is not None:
                before = fleet.tally.acknowledged
                fleet.notify_at(told[0], told[1], lambda: None)
                link.send((fleet.tally.acknowledged - before, fleet.tally.lost + fleet.tally.refused))
    except FleetError as exc:
        link.send(str(exc))


class Fleets:
    """``devices`` devices in as many processes as they need; a context manager that ends them."""

    def __init__(self, port: int, devices: int, observations: int, length: int | None) -> None:
        self._stack = ExitStack()
        self._links: list[Connection] = []
        context = multiprocessing.get_context("spawn")
        count = -(-devices // _IN_ONE_PROCESS)
        for number in range(count):
            first, end = devices * number // count, devices * (number + 1) // count
            ours, theirs = context.Pipe()
            arguments = (theirs, port, end - first, first, observations, length)
            process = context.Process(target=_fleet, args=arguments, daemon=True)
            process.start()
            self._stack.callback(process.terminate)
            self._links.append(ours)
            theirs.close()

    def __enter__(self) -> Fleets:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def registered(self) -> None:
        """Wait until all devices are registered and observed.

        Raises:
            FleetError: the gateway did not do so.
        """
        for link in self._links:
            if (said := link.recv()) != "registered":
                raise FleetError(said)

    def notify(self, rate: float, seconds: float) -> int:
        """All together ``rate`` times a second; returns how many were acknowledged.

        Raises:
            FleetError: one was given up or refused.
        """
        for link in self._links:
            link.send((rate / len(self._links), seconds))
        told = [link.recv() for link in self._links]
        if lost := sum(one[1] for one in told):
            raise FleetError(f"{lost} notifications were given up or refused")
        return sum(int(one[0]) for one in told)


def notified(
    folder: Path,
    seconds: float,
    *,
    devices: int = DEVICES,
    observations: int = OBSERVATIONS,
    partitions: int = PARTITIONS,
    value: int | None = None,
) -> Figures:
    """A fresh Kafka and gateway, so many devices, and what a notification costs them."""
    name = "growth"
    topics = Topics(name)
    kafka = broker.start(name, held_port(), folder, heap="512m")
    coap = held_port()
    command = [
        *(sys.executable, "-m", "headwater.cli", "gateway", "--id", name, "--kafka", kafka.cluster.bootstrap),
        *("--coap", f"127.0.0.1:{coap}", "--state", str(folder / "state"), "--metrics", "0"),
        *("--observe", PATTERN if value is None else TEXT_PATTERN),
    ]
    rate = RATE if value is None else VALUE_RATE
    try:
        ensure_topics(kafka.cluster, {**topics.partitions(), topics.observations: partitions})
        with running(command, folder / "gateway.log") as gateway, Fleets(coap, devices, observations, value) as fleets:
            fleets.registered()
            fleets.notify(rate, min(3.0, seconds))
            before = sum(end_offsets(kafka.cluster, [topics.observations]).values())
            cpu, kafka_cpu = cpu_seconds(gateway.pid), cpu_seconds(kafka.pid)
            acknowledged = fleets.notify(rate, seconds)
            cpu, kafka_cpu = cpu_seconds(gateway.pid) - cpu, cpu_seconds(kafka.pid) - kafka_cpu
            landed = sum(end_offsets(kafka.cluster, [topics.observations]).values()) - before
            if landed < acknowledged:
                raise FleetError(f"{acknowledged - landed} of {acknowledged} acknowledged notifications are not there")
            return {
                "cpu_s_per_10k": cpu * 1e4 / acknowledged,
                "kafka_cpu_s_per_10k": kafka_cpu * 1e4 / acknowledged,
                "per_s": acknowledged / seconds,
                "rss_mb": memory_mb(gateway.pid, "VmRSS"),
            }
    finally:
        broker.stop(name, folder)


def replicated(folder: Path, number: int, *, size: int = RECORD, partitions: int = PARTITIONS) -> Figures:
    """Two fresh Kafkas, a full topic in one, and a replicator that carries it to the other."""
    topic = "growth"
    with _kafka("edge", folder) as edge, _kafka("cloud", folder) as cloud:
        ensure_topics(edge, {topic: partitions})
        _fill(edge, topic, number, size, partitions)
        command = [
            *(sys.executable, "-m", "headwater.cli", "replicate", "--gateway", "growth", "--edge", edge.bootstrap),
            *("--cloud", cloud.bootstrap, "--topic", topic, "--metrics", "0"),
        ]
        with running(command, folder / "replicator.log") as process:
            per_s, cpu = _arrived(cloud, topic, number, process.pid)
            peak = memory_mb(process.pid, "VmHWM")
        there = sum(1 for _ in read_to_end(cloud, [topic]))
        if there != number:
            raise FleetError(f"{there} of {number} records arrived")
    return {"cpu_s_per_10k": cpu, "per_s": per_s, "rss_mb": peak}


@contextmanager
def _kafka(name: str, folder: Path) -> Iterator[Cluster]:
    running = broker.start(name, held_port(), folder, heap="512m")
    try:
        yield running.cluster
    finally:
        broker.stop(name, folder)


def _fill(cluster: Cluster, topic: str, number: int, size: int, partitions: int) -> None:
    sender = producer(cluster)
    for at in range(number):
        sender.produce(topic, value=(b"%09d" % at).ljust(size, b"."), partition=at % partitions)
        if at % 2_000 == 0:
            sender.flush()
    left = sender.flush(60)
    assert left == 0, f"{left} records could not be produced"


def _arrived(cluster: Cluster, topic: str, number: int, pid: int) -> tuple[float, float]:
    """Records/s and CPU-seconds per 10,000 of the process, from the first look that sees records to the last with more.

    Besides the records a log holds a marker a transaction, so the end is when no more come.
    """
    found: list[tuple[float, int, float]] = []
    until = time.monotonic() + 300
    while not (found and found[-1][1] >= number and time.perf_counter() > found[-1][0] + 3.0):
        seen = sum(end_offsets(cluster, [topic]).values())
        if seen and (not found or seen != found[-1][1]):
            found.append((time.perf_counter(), seen, cpu_seconds(pid)))
        assert time.monotonic() < until, f"{found[-1:]} of {number} records after 300 s"
        time.sleep(0.02)
    (began, first, cpu), (ended, last, cpu_then) = found[0], found[-1]
    if last == first:  # all at once
        return float(number), cpu_then * 1e4 / number
    return (last - first) / (ended - began), (cpu_then - cpu) * 1e4 / (last - first)


def by_batch(folder: Path, name: str) -> dict[int, Figures]:
    """Records/s of a sink and of its store's bare client, in batches of several sizes, by their size."""
    found = {}
    kind = STORES[name]
    for batch in BATCHES:
        records = notifications(min(30_000, 200 * batch) + batch)
        store = kind.make(folder / f"{batch}")
        sink = SINKS[name].open(options(name, store))
        try:
            ours, bare = rates([sink.write, BARE[name](kind.make(folder / f"bare-{batch}"))], records, batch)
        finally:
            sink.close()
        found[batch] = {f"{name}_per_s": ours, f"{name}_bare_per_s": bare}
    return found


def measure(*, axes: Sequence[str], seconds: float, records: int) -> Figures:
    """All points of ``axes``, one after the other.

    Raises:
        FleetError: a server did not do its work.
    """
    figures: Figures = {}

    def point(axis: str, x: int, made: Callable[[Path], Figures]) -> None:
        with tempfile.TemporaryDirectory(prefix="headwater-growth-") as name:
            found = made(Path(name))
        figures.update({f"{axis} {x} {figure}": value for figure, value in found.items()})
        say(f"{axis} {x}: {', '.join(f'{figure} {value:.4g}' for figure, value in found.items())}")

    for axis in axes:
        for x in NOTIFIED.get(axis, ()):
            shape = {axis: x}
            point(axis, x, lambda folder, shape=shape: notified(folder, seconds, **shape))  # type: ignore[misc]  # lambda
        for x in REPLICATED.get(axis, ()):
            # The same bytes at most: a topic of ten gigabytes says no more.
            number = max(2_000, min(records, 200_000_000 // x)) if axis == "replicated-bytes" else records
            shape = {"size" if axis == "replicated-bytes" else "partitions": x}
            point(axis, x, lambda folder, n=number, shape=shape: replicated(folder, n, **shape))  # type: ignore[misc]  # lambda
        if axis == "batch":
            for name in SINKS_BY_BATCH:
                with tempfile.TemporaryDirectory(prefix="headwater-growth-") as folder:
                    for batch, found in by_batch(Path(folder), name).items():
                        point("batch", batch, lambda _, found=found: found)  # type: ignore[misc]  # lambda
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.growth", description="How costs grow with their work.")
    parser.add_argument("--only", default=",".join(AXES), metavar="A,B", help=f"of {', '.join(AXES)}")
    parser.add_argument("--seconds", type=float, default=10.0, help="of notifications a point")
    parser.add_argument("--records", type=int, default=200_000, help="to replicate a point, at most")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the figures, as JSON")
    chosen = parser.parse_args()
    axes = chosen.only.split(",")
    if unknown := [one for one in axes if one not in AXES]:
        parser.error(f"{unknown[0]!r} is none of {', '.join(AXES)}")
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    text = json.dumps(measure(axes=axes, seconds=chosen.seconds, records=chosen.records), indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
