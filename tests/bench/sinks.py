"""How fast each sink writes, beside its store's bare client; and how fast one worker goes from Kafka into a store.

Owns two measurements on real servers, which it starts and removes itself:

 - batches: the same decoded records, in batches as the runner's, through the sink and through `bare_clients`, in turn;
 - workers: ``headwater sink NAME`` as a process of its own, from its start until its store has all of a full topic.

    python -m tests.bench.sinks --runs 3 --records 40000 [--only sqlite,influxdb] --out FILE
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from connectors.kafka import Cluster, ensure_topics, producer
from connectors.sink_settings import sinks_from_toml
from connectors.sinks import SINKS, SinkRecord
from headwater.servers import broker
from schemas.avro import serde
from schemas.avro.records import Key, Record, RegistrationNew
from schemas.avro.topics import Topics
from tests.bench.bare_clients import BARE
from tests.bench.targets import BARE_CLIENT, SINK
from tests.bench.watch import committed_rate, running, say
from tests.ports import held_port
from tests.sink_samples import at, new, notification, resource
from tests.stores import STORES
from tests.stores.store import Keeps, Store

#: What the runner hands a sink at most.
BATCH = 2_000
ENDPOINTS = 200
#: Of the graph: every one changes again and again.
REGISTERED = 1_000
#: Prometheus takes nothing that is hours old.
START_MS = int(time.time() * 1000) - 600_000


def notifications(number: int) -> list[SinkRecord]:
    """One FLOAT each, of two series an endpoint; times go up by a millisecond."""
    return [
        at(
            offset,
            notification(
                resource("/3303/0/5700" if offset % 2 else "/3304/0/5700", 20 + offset % 1000 / 7.0),
                ep=f"station-{offset % ENDPOINTS}",
                timestamp=START_MS + offset,
            ),
            timestamp=START_MS + offset,
        )
        for offset in range(number)
    ]


def registrations(number: int) -> list[SinkRecord]:
    """Each changes the registration id, the lifetime and the port of one of `REGISTERED` endpoints."""
    found = []
    for offset in range(number):
        event = new(ep=f"station-{offset % REGISTERED}", reg_id=f"r{offset}", last_up=START_MS + offset)
        assert isinstance(event.body, RegistrationNew)
        body = replace(event.body, lt=60 + offset % 1000, port=1024 + offset % 40_000)
        found.append(at(offset, replace(event, body=body), timestamp=START_MS + offset))
    return found


Write = Callable[[Sequence[SinkRecord]], None]


def rates(writes: Sequence[Write], records: Sequence[SinkRecord], batch: int = BATCH) -> list[float]:
    """Of each, batch by batch in turn: what a server has not compiled yet, and what else the machine does, is all's."""
    # One batch to get going: connections, statements, the store's own first time.
    for write in writes:
        write(records[:batch])
    rest = records[batch:]
    took = [0.0] * len(writes)
    for number, start in enumerate(range(0, len(rest), batch)):
        for turn in range(len(writes)):
            who = (number + turn) % len(writes)
            began = time.perf_counter()
            writes[who](rest[start : start + batch])
            took[who] += time.perf_counter() - began
    return [len(rest) / seconds for seconds in took]


def batches(name: str, folder: Path, number: int) -> tuple[float, float]:
    """Records/s of the sink ``name`` and of its store's bare client, each on a fresh store."""
    kind = STORES[name]
    only_graph = kind.keeps == {Keeps.GRAPH}
    records = registrations(max(2 * BATCH, number // 10)) if only_graph else notifications(number)
    store = kind.make(folder / "ours")
    sink = SINKS[name].open(options(name, store))
    try:
        ours, bare = rates([sink.write, BARE[name](kind.make(folder / "bare"))], records)
    finally:
        sink.close()
    return ours, bare


def options(name: str, store: Store) -> dict[str, object]:
    """Those of the tests that make a sink slow on purpose are left at their defaults."""
    return {key: value for key, value in store.options().items() if key not in ("publish_s", "max_events")}


class Worker(NamedTuple):
    """One measurement of `workers`: which sink, what it is fed, and how many."""

    sink: str
    records: Callable[[int], list[SinkRecord]]
    share: float


#: The figures that are asked of one worker.
WORKERS: Mapping[str, Worker] = {
    "influxdb worker": Worker("influxdb", notifications, 5),
    "sqlite worker": Worker("sqlite", notifications, 5),
    "orientdb worker": Worker("orientdb", registrations, 0.25),
}


def worker(one: Worker, cluster: Cluster, folder: Path, number: int) -> float:
    """Records/s of ``headwater sink`` from the first record that it took until its offsets are those of the end."""
    gateway = f"bench-{one.sink}-{time.time_ns()}"
    topics = Topics(gateway)
    ensure_topics(cluster, topics.partitions())
    records = one.records(number)
    is_history = one.records is notifications
    topic = topics.observations if is_history else topics.registrations
    _fill(cluster, topic, [record.record for record in records])
    store = STORES[one.sink].make(folder)
    config = folder / "sinks.toml"
    config.write_text(
        f"[{one.sink}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in options(one.sink, store).items())
    )
    command = [
        *(sys.executable, "-m", "headwater.cli", "sink", "run", str(config)),
        *("--gateway", gateway, "--kafka", cluster.bootstrap, "--metrics", "0"),
    ]
    (settings,) = sinks_from_toml(config.read_text(), gateway=gateway, kafka=cluster)
    with running(command, folder / "worker.log") as process:
        return committed_rate(process, settings.group_id, cluster, [topic])


def _fill(cluster: Cluster, topic: str, records: Sequence[Record]) -> None:
    sender = producer(cluster)
    key = serde.encode(Key(ep="station"))
    for number, record in enumerate(records):
        sender.produce(topic, value=serde.encode(record), key=key, partition=number % 2)
        if number % 10_000 == 0:
            sender.flush()
    left = sender.flush(60)
    assert left == 0, f"{left} records could not be produced"


def measure(*, names: Sequence[str], runs: int, number: int) -> dict[str, list[dict[str, float]]]:
    """All of it, run by run in turn: figures ``NAME per_s`` of both subjects."""
    found: dict[str, list[dict[str, float]]] = {SINK: [], BARE_CLIENT: []}
    with tempfile.TemporaryDirectory(prefix="headwater-sinks-") as name:
        folder = Path(name)
        kafka = broker.start("sinks", held_port(), folder, heap="512m")
        try:
            for run in range(runs):
                ours: dict[str, float] = {}
                bare: dict[str, float] = {}
                for sink in names:
                    place = folder / f"{sink}-{run}"
                    ours[f"{sink} per_s"], bare[f"{sink} per_s"] = batches(sink, place, number)
                    say(f"{sink}: {ours[f'{sink} per_s']:,.0f}/s, bare client {bare[f'{sink} per_s']:,.0f}/s")
                for label, one in WORKERS.items():
                    if one.sink in names:
                        place = folder / f"worker-{one.sink}-{run}"
                        place.mkdir()
                        ours[f"{label} per_s"] = worker(one, kafka.cluster, place, int(number * one.share))
                        say(f"{label}: {ours[f'{label} per_s']:,.0f}/s")
                found[SINK].append(ours)
                found[BARE_CLIENT].append(bare)
        finally:
            broker.stop("sinks", folder)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.sinks", description="Sinks beside their stores' bare clients.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--records", type=int, default=40_000, metavar="N", help="of each measurement of a sink")
    parser.add_argument("--only", default=",".join(sorted(BARE)), metavar="A,B", help="these sinks")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the figures, as JSON")
    chosen = parser.parse_args()
    figures = measure(names=chosen.only.split(","), runs=chosen.runs, number=chosen.records)
    text = json.dumps(figures, indent=1)
    if chosen.out is not None:
        chosen.out.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
