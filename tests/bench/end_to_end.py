"""The whole way on one machine: devices, gateway, edge Kafka, replicator, cloud Kafka, sink, InfluxDB.

Owns one measurement with real processes, which it starts and removes itself; the devices are the yardstick's load
generator. The rate of confirmable notifications is doubled until it is not sustained, and rates in between are tried
then. One is sustained when the gateway acknowledges it, and InfluxDB is at most a second behind at the end; one that is
not gets a second chance. After each all that was acknowledged must be in InfluxDB. Figures of a rate are named
``rate R FIGURE``; of the lowest that was not sustained it tells the cores that each process used, and where records
waited.

    python -m tests.bench.end_to_end --yardstick DIR --seconds 15
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from connectors.kafka import Cluster, TopicPartition, consumer, end_offsets, ensure_topics
from connectors.sink_settings import sinks_from_toml
from headwater.servers import broker
from schemas.avro.topics import Topics
from tests.bench.fleet import PATTERN, FleetError
from tests.bench.machine import load_generator
from tests.bench.memory import cpu_seconds
from tests.bench.pictures import WAY
from tests.bench.sinks import options
from tests.bench.watch import done, memory_mb, running, say
from tests.ports import held_port
from tests.stores.influxdb import InfluxdbStore

GATEWAY = "whole"
CLIENTS = 1000
#: The first rate, the last that is tried, and how often it is looked between two.
FIRST, MOST, BETWEEN = 1_000.0, 128_000.0, 2
#: A rate is sustained when so much of it is acknowledged, and no more than so many seconds of it are still under way.
SHARE, BEHIND_S = 0.97, 1.0
#: Seconds of a rate before it counts, and those in which the last must have arrived.
_WARM_S, _ARRIVED_S = 3.0, 120.0

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Look:
    """The whole way: CPU-seconds by process, and then the records by place; each with its time."""

    at: float
    cpu: Mapping[str, float]
    edge_at: float
    edge: int
    #: In the cloud's Kafka, and not yet taken by the sink.
    not_taken: int
    stored: int
    stored_at: float


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one rate, per second; what was behind at its end, in records, and the cores by process."""

    rate: float
    acknowledged_per_s: float
    stored_per_s: float
    at_gateway: float
    at_replicator: float
    at_sink: float
    p99_ms: float
    cores: Mapping[str, float]

    @property
    def sustained(self) -> bool:
        """See the module's text."""
        behind = self.at_gateway + self.at_replicator + self.at_sink
        return self.acknowledged_per_s >= SHARE * self.rate and behind <= BEHIND_S * self.rate


class Way:
    """All processes of the way, started in its order; `close` ends them in the other."""

    def __init__(self, yardstick: Path, folder: Path) -> None:
        self._stack = ExitStack()
        try:
            self._start(yardstick, folder)
        except BaseException:
            self.close()
            raise

    def _start(self, yardstick: Path, folder: Path) -> None:
        self._loadgen = load_generator(yardstick)
        self.topics = Topics(GATEWAY)
        self.edge, edge_pid = self._kafka("edge", folder)
        self.cloud, cloud_pid = self._kafka("cloud", folder)
        ensure_topics(self.edge, self.topics.partitions())
        ensure_topics(self.cloud, self.topics.partitions())
        self.store = InfluxdbStore(folder)
        settings = options("influxdb", self.store)
        config = folder / "sinks.toml"
        config.write_text("[influxdb]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
        self._coap = held_port()
        no_metrics = ("--metrics", "0")
        pids = {
            "edge Kafka": edge_pid,
            "cloud Kafka": cloud_pid,
            "gateway": self._headwater(
                folder,
                *("gateway", "--id", GATEWAY, "--kafka", self.edge.bootstrap, "--coap", f"127.0.0.1:{self._coap}"),
                *("--state", str(folder / "state"), "--observe", PATTERN, *no_metrics),
            ),
            "replicator": self._headwater(
                folder,
                *("replicate", "--gateway", GATEWAY, "--edge", self.edge.bootstrap, "--cloud", self.cloud.bootstrap),
                *no_metrics,
            ),
            "sink": self._headwater(
                folder,
                *("sink", "run", str(config), "--gateway", GATEWAY, "--kafka", self.cloud.bootstrap, *no_metrics),
            ),
        }
        (sink,) = sinks_from_toml(config.read_text(), gateway=GATEWAY, kafka=self.cloud)
        self._sink = consumer(self.cloud, sink.group_id)
        self._stack.callback(self._sink.close)
        assert self.store.server.process is not None
        self._pids = {**pids, "InfluxDB": self.store.server.process.pid}
        time.sleep(5.0)  # the start is not what counts

    def _kafka(self, name: str, folder: Path) -> tuple[Cluster, int]:
        kafka = broker.start(name, held_port(), folder, heap="512m")
        self._stack.callback(broker.stop, name, folder)
        return kafka.cluster, kafka.pid

    def _headwater(self, folder: Path, *arguments: str) -> int:
        command = [sys.executable, "-m", "headwater.cli", *arguments]
        return self._stack.enter_context(running(command, folder / f"{arguments[0]}.log")).pid

    def close(self) -> None:
        """End all but InfluxDB, which is the process's own."""
        self._stack.close()

    def look(self, load: int) -> Look:
        """The CPU of every process first: counting costs some."""
        at, cpu = time.monotonic(), {name: cpu_seconds(pid) for name, pid in {**self._pids, "load": load}.items()}
        edge_at, edge = time.monotonic(), _count(self.edge, self.topics.observations)
        there = end_offsets(self.cloud, [self.topics.observations])
        taken = done(self._sink, [TopicPartition(*place) for place in there])
        return Look(at, cpu, edge_at, edge, max(0, sum(there.values()) - taken), self.stored(), time.monotonic())

    def stored(self) -> int:
        """How many notifications InfluxDB has; a reply's points have no observation."""
        rows = self.store.rows("SELECT COUNT(value) FROM resources WHERE observationId != ''")
        return sum(int(row["count"]) for row in rows)

    def memory(self) -> Figures:
        """The peak of each process, in MiB."""
        return {f"{name} peak_mb": memory_mb(pid, "VmHWM") for name, pid in self._pids.items()}

    def try_rate(self, rate: float, seconds: float) -> Tried:
        """A thousand devices that notify ``rate`` times a second together.

        Raises:
            FleetError: something acknowledged did not come to InfluxDB, or the load failed.
        """
        command = [
            *(str(self._loadgen), "--server", f"127.0.0.1:{self._coap}", "--clients", str(CLIENTS), "--mode", "notify"),
            *("--rate", str(rate), "--con", "--warmup", str(_WARM_S), "--duration", str(seconds), "--drain", "30"),
            *("--dereg", "--ep-prefix", f"way{int(rate)}-"),
        ]
        edge = _count(self.edge, self.topics.observations)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("EVENT notify-warm"):
                    break
            before = self.look(process.pid)
            # The load still goes on while it is looked.
            time.sleep(max(0.0, before.at + seconds - 1.0 - time.monotonic()))
            after = self.look(process.pid)
            out, errors = process.communicate(timeout=seconds + _ARRIVED_S)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise FleetError(f"the load generator failed: {errors[-2000:]}")
        notify = json.loads(out)["notify"]
        self._arrived(edge + notify["acked_total"])
        took = after.at - before.at
        # What came into the edge's Kafka while the others were looked at is on its way as well.
        behind = after.edge + notify["per_s"] * (after.stored_at - after.edge_at) - after.stored
        return Tried(
            rate=rate,
            acknowledged_per_s=notify["per_s"],
            stored_per_s=(after.stored - before.stored) / (after.stored_at - before.stored_at),
            at_gateway=max(0.0, rate - notify["per_s"]) * seconds,
            at_replicator=max(0.0, behind - after.not_taken),
            at_sink=min(after.not_taken, max(0.0, behind)),
            p99_ms=notify["ack_latency_ms"]["p99"],
            cores={name: (after.cpu[name] - before.cpu[name]) / took for name in WAY},
        )

    def _arrived(self, least: int) -> None:
        """Wait until InfluxDB has all that the edge's Kafka has, which must be what was acknowledged."""
        until = time.monotonic() + _ARRIVED_S
        while True:
            edge, stored = _count(self.edge, self.topics.observations), self.stored()
            if stored == edge >= least:
                return
            if time.monotonic() > until:
                raise FleetError(f"{least} were acknowledged, {edge} are in the edge's Kafka, {stored} in InfluxDB")
            time.sleep(0.5)


def _count(cluster: Cluster, topic: str) -> int:
    return sum(end_offsets(cluster, [topic]).values())


def measure(yardstick: Path, seconds: float) -> Figures:
    """Find the rate that is sustained; returns the figures by name.

    Raises:
        FleetError: see `Way.try_rate`.
    """
    figures: Figures = {"machine cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory(prefix="headwater-way-") as name:
        way = Way(yardstick, Path(name))
        try:
            way.try_rate(FIRST, 3.0)  # a server that has not compiled its code yet is not the limit
            best, worst = 0.0, math.inf
            rate, between = FIRST, 0
            while rate <= MOST and between <= BETWEEN:
                tried = way.try_rate(rate, seconds)
                if not tried.sustained:
                    tried = way.try_rate(rate, seconds)
                say(f"{rate:,.0f}/s: {'sustained' if tried.sustained else 'not sustained'}; {tried}")
                figures |= _named(tried)
                if tried.sustained:
                    best = max(best, tried.rate)
                    figures |= {"sustained_per_s": best, "sustained ack_p99_ms": tried.p99_ms}
                elif rate < worst:
                    worst = rate
                    figures |= _limit(tried)
                if worst < math.inf:
                    between += 1
                    rate = round(math.sqrt(max(best, FIRST / 4) * worst), -2)
                else:
                    rate *= 2
            stored = way.stored()
            figures["stored_share"] = stored / _count(way.edge, way.topics.observations)
            figures |= way.memory()
        finally:
            way.close()
    return figures


def _named(tried: Tried) -> Figures:
    found = {"stored_per_s": tried.stored_per_s, "ack_p99_ms": tried.p99_ms}
    found |= {f"{name} cores": cores for name, cores in tried.cores.items()}
    return {f"rate {tried.rate:.0f} {name}": value for name, value in found.items()}


def _limit(tried: Tried) -> Figures:
    return {
        "limit_per_s": tried.rate,
        "limit stored_per_s": tried.stored_per_s,
        "limit not acknowledged": tried.at_gateway,
        "limit not replicated": tried.at_replicator,
        "limit not stored": tried.at_sink,
        **{f"{name} cores": cores for name, cores in tried.cores.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.end_to_end", description="Devices to InfluxDB on one machine.")
    parser.add_argument("--yardstick", type=Path, required=True, metavar="DIR", help="with the load generator")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each rate")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the figures, as JSON")
    chosen = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    text = json.dumps(measure(chosen.yardstick, chosen.seconds), indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
