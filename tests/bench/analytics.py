"""How fast each analytics job is in one process, beside plain Quix Streams; and whether its memory stays flat.

Owns two measurements on a real Kafka, which it starts and removes itself:

 - rates: ``headwater analytics run NAME`` and the same fold in `plain_quix`, in turn, each in a process of its own,
   from the first offsets that it commits to the last;
 - memory: jobs over millions of readings (``statistics`` over all of them, others over a fifth); resident memory after
   the first tenth, and at the end.

    python -m tests.bench.analytics --runs 3 --records 200000 --memory-records 10000000 --out FILE
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from connectors.kafka import Cluster, TopicPartition, consumer, ensure_topics, producer
from headwater.servers import broker
from schemas.avro import serde
from schemas.avro.records import Key
from schemas.avro.topics import Topics
from tests.bench.plain_quix import PLAIN
from tests.bench.targets import JOB, QUIX
from tests.bench.watch import committed_rate, done, memory_mb, running, say
from tests.ports import held_port
from tests.sink_samples import notification, resource

ENDPOINTS = 200
#: Each job's own options, for the fold that is measured.
OPTIONS: Mapping[str, Sequence[str]] = {
    "aggregate": (),
    "max-temperature": (),
    "statistics": (),
    "outliers": (),
    "filter": ("--query", "SELECT * FROM observations WHERE value < 40", "--to", "{group}-out"),
    "join": (
        *("--left", "/3303/0/5700", "--right", "/3304/0/5700", "--tolerance", "5s", "--grace", "0s"),
        *("--code", "{folder}/difference.py", "--as", "/3300/100/5700"),
    ),
}
#: Its memory is watched over all readings; that of others over a fifth of them, as it takes as long as it takes.
FULL = "statistics"
_DIFFERENCE = "def on_join(a, b):\n    return a.value - b.value\n"


class Made(NamedTuple):
    """A record as it goes to Kafka."""

    ep: str
    path: str
    value: float
    time_ms: int


def one_path(number: int, start_ms: int) -> Iterable[Made]:
    """Each endpoint has one series; times go up by a millisecond."""
    for offset in range(number):
        path = "/3303/0/5700" if offset % 2 else "/3304/0/5700"
        yield Made(f"station-{offset % ENDPOINTS}", path, 20 + offset % 1009 / 7.0, start_ms + offset)


def two_paths(number: int, start_ms: int) -> Iterable[Made]:
    """Each endpoint has both series, in turn: of the second first."""
    for offset in range(number):
        path = "/3303/0/5700" if offset // ENDPOINTS % 2 else "/3304/0/5700"
        yield Made(f"station-{offset % ENDPOINTS}", path, 20 + offset % 1009 / 7.0, start_ms + offset)


def fill(cluster: Cluster, records: Iterable[Made], topic_of: Callable[[Made], str]) -> None:
    """All of an endpoint into the same of two partitions, as the gateway does."""
    sender = producer(cluster, **{"linger.ms": 20})
    for number, made in enumerate(records):
        said = notification(resource(made.path, made.value), ep=made.ep, timestamp=made.time_ms)
        partition = int(made.ep.partition("-")[2]) // 2 % 2
        key = serde.encode(Key(ep=made.ep))
        value = serde.encode(said)
        sender.produce(topic_of(made), value=value, key=key, partition=partition, timestamp=made.time_ms)
        if number % 10_000 == 0:
            sender.flush()
    left = sender.flush(60)
    assert left == 0, f"{left} records could not be produced"


class Bench:
    """One Kafka, and the topics of the records in it."""

    def __init__(self, cluster: Cluster, folder: Path, number: int) -> None:
        self._cluster, self._folder = cluster, folder
        self._series, self._pairs = (f"{name}-{time.time_ns()}" for name in ("series", "pairs"))
        start_ms = int(time.time() * 1000) - number
        series, pairs = Topics(self._series), Topics(self._pairs)
        # Quix's own join takes a topic for each side.
        left, right = f"{pairs.observations}.left", f"{pairs.observations}.right"
        ensure_topics(cluster, {**series.partitions(), **pairs.partitions(), left: 2, right: 2})
        fill(cluster, one_path(number, start_ms), lambda _made: series.observations)
        fill(cluster, two_paths(number, start_ms), lambda _made: pairs.observations)
        fill(cluster, two_paths(number, start_ms), lambda made: left if "3303" in made.path else right)
        (folder / "difference.py").write_text(_DIFFERENCE)

    def ours(self, name: str, run: int) -> tuple[float, float]:
        """Records/s, and the peak memory in MiB."""
        gateway, group = self._gateway(name), f"ours-{name}-{run}"
        options = [one.format(group=group, folder=self._folder) for one in OPTIONS[name]]
        command = [
            *(sys.executable, "-m", "headwater.cli", "analytics", "run", name, "--gateway", gateway, "--quiet"),
            *("--kafka", self._cluster.bootstrap, "--group", group, "--state", str(self._folder / group), *options),
        ]
        return self._run(command, group, [Topics(gateway).observations])

    def plain(self, name: str, run: int) -> tuple[float, float]:
        """The same of Quix Streams alone."""
        gateway, group = self._gateway(name), f"plain-{name}-{run}"
        command = [
            *(sys.executable, "-m", "tests.bench.plain_quix", name, "--gateway", gateway),
            *("--kafka", self._cluster.bootstrap, "--group", group, "--state", str(self._folder / group)),
        ]
        topic = Topics(gateway).observations
        return self._run(command, group, [f"{topic}.left", f"{topic}.right"] if name == "join" else [topic])

    def _gateway(self, name: str) -> str:
        return self._pairs if name == "join" else self._series

    def _run(self, command: Sequence[str], group: str, topics: Sequence[str]) -> tuple[float, float]:
        with running(command, self._folder / f"{group}.log") as process:
            rate = committed_rate(process, group, self._cluster, topics)
            return rate, memory_mb(process.pid, "VmHWM")


def flat(cluster: Cluster, folder: Path, job: str, number: int) -> tuple[float, float]:
    """A job over ``number`` readings: resident memory in MiB after a tenth of them, and at the end."""
    gateway, group = f"flat-{time.time_ns()}", f"flat-{job}"
    topics = Topics(gateway)
    keep = {"retention.bytes": "536870912", "segment.bytes": "67108864"}
    ensure_topics(cluster, topics.partitions(), config={topics.observations: keep})
    every = ("--every", "10s") if job == FULL else ()
    options = [*every, *(one.format(group=group, folder=folder) for one in OPTIONS[job])]
    command = [
        *(sys.executable, "-m", "headwater.cli", "analytics", "run", job, "--gateway", gateway, "--quiet"),
        *("--kafka", cluster.bootstrap, "--group", group, "--state", str(folder / group), *options),
    ]
    made = two_paths if job == "join" else one_path
    start_ms = int(time.time() * 1000)
    sending = threading.Thread(target=lambda: fill(cluster, made(number, start_ms), lambda _made: topics.observations))
    places = [TopicPartition(topics.observations, partition) for partition in range(2)]
    reader, early = consumer(cluster, group), 0.0
    with running(command, folder / f"{group}.log") as process:
        sending.start()
        # By what it has read, not by what there is: a job that is behind has not yet grown to its size.
        while sending.is_alive() or not early:
            if not early and done(reader, places) >= number / 10:
                early = memory_mb(process.pid, "VmRSS")
            time.sleep(0.5)
        reader.close()
        committed_rate(process, group, cluster, [topics.observations])
        return early, memory_mb(process.pid, "VmRSS")


def measure(
    *, names: Sequence[str], runs: int, number: int, memory_of: Sequence[str], memory_number: int
) -> dict[str, list[dict[str, float]]]:
    """All of it, run by run in turn: figures ``NAME per_s`` of both subjects, ``NAME rss_mb``, and of `flat`."""
    found: dict[str, list[dict[str, float]]] = {JOB: [], QUIX: []}
    with tempfile.TemporaryDirectory(prefix="headwater-analytics-") as name:
        folder = Path(name)
        kafka = broker.start("analytics", held_port(), folder, heap="512m")
        try:
            bench = Bench(kafka.cluster, folder, number)
            for run in range(runs):
                ours: dict[str, float] = {}
                plain: dict[str, float] = {}
                for job in names:
                    for figures, contender in ((ours, bench.ours), (plain, bench.plain)):
                        figures[f"{job} per_s"], figures[f"{job} rss_mb"] = contender(job, run)
                    say(f"{job}: {ours[f'{job} per_s']:,.0f}/s, plain Quix Streams {plain[f'{job} per_s']:,.0f}/s")
                found[JOB].append(ours)
                found[QUIX].append(plain)
            for job in memory_of if memory_number else ():
                early, end = flat(kafka.cluster, folder, job, memory_number if job == FULL else memory_number // 5)
                found[JOB][0] |= {f"{job} early_mb": early, f"{job} end_mb": end, f"{job} growth": end / early}
                say(f"memory of {job}: {early:.1f} MiB, in the end {end:.1f} MiB")
        finally:
            broker.stop("analytics", folder)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.analytics", description="Jobs beside plain Quix Streams.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--records", type=int, default=200_000, metavar="N", help="of each measurement of a job")
    parser.add_argument("--memory-records", type=int, default=0, metavar="N", help="of that of memory; 0: none")
    parser.add_argument("--memory-of", default=FULL, metavar="A,B", help="whose memory")
    parser.add_argument("--only", default=",".join(PLAIN), metavar="A,B", help="these jobs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the figures, as JSON")
    chosen = parser.parse_args()
    figures = measure(
        names=chosen.only.split(","),
        runs=chosen.runs,
        number=chosen.records,
        memory_of=chosen.memory_of.split(","),
        memory_number=chosen.memory_records,
    )
    text = json.dumps(figures, indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
