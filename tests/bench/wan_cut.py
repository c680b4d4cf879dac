"""Catching up after a cut of the line between edge and cloud, and how long commands and replies wait meanwhile.

Owns one measurement: two real Kafkas, a line that can be cut in front of the cloud's, and one replicator process. A
backlog of observations is carried twice: once it was there before the replicator began, once it came up during a cut.
Meanwhile a command goes down, and a reply up, every 50 ms. Both have lanes of their own, so they overtake the backlog;
observations that are new do not: they are behind it in the same partitions, and order is kept. Everything is below a
temporary folder and on 127.0.0.1, and is gone afterwards.

    python -m tests.bench.wan_cut --records 300000 --cut 10
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from connectors import kafka
from connectors.kafka import Cluster
from headwater.demo.link import Link
from headwater.servers import broker
from schemas.avro.topics import Topics
from tests.ports import held_port
from tests.replication import ReplicatorProcess, wait_until

_GATEWAY = "cut"
_PARTITIONS = 2
_EVERY_S = 0.05
_PATIENCE_S = 300.0
_PROBE = b"sent "


class Probe:
    """Writes a small record to a topic on one side every 50 ms, and notes how long each takes to the other side."""

    def __init__(self, topic: str, source: Cluster, target: Cluster) -> None:
        self._topic = topic
        #: When each was sent and how long it took, in seconds.
        self.took: list[tuple[float, float]] = []
        self._producer = kafka.producer(source, linger_ms=0)
        self._reader = kafka.consumer(target, f"probe-{topic}")
        self._reader.assign([kafka.TopicPartition(topic, partition, 0) for partition in range(_PARTITIONS)])
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def _write(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._producer.produce(self._topic, _PROBE + b"%d" % time.monotonic_ns(), None, 0)
            self._producer.poll(0)

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._reader.poll(0.1)
            if message is None or message.error() is not None or not (value := message.value()):
                continue
            now = time.monotonic()
            sent = int(value.removeprefix(_PROBE)) / 1e9
            self.took.append((sent, now - sent))

    def between(self, begin: float, end: float) -> list[float]:
        """How long those took that were sent then, in order of size; waits for the last of them."""
        wait_until(lambda: bool(self.took) and self.took[-1][0] > end, _PATIENCE_S)
        return sorted(took for sent, took in self.took if begin <= sent <= end)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self._producer.flush(10)
        self._reader.close()


@dataclass(slots=True)
class Arrivals:
    """The records of a topic as they come, read by a consumer that sees committed ones only."""

    reader: kafka.Consumer

    def wait(self, count: int) -> tuple[float, float, int]:
        """Take ``count`` records: when the first batch came and the last, and how many came after that batch."""
        came, first = 0, 0.0
        behind = 0
        deadline = time.monotonic() + _PATIENCE_S
        while came < count:
            batch = [one for one in self.reader.consume(5000, 0.1) if one.error() is None]
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"{came} of {count} records arrived within {_PATIENCE_S:.0f} s")
            if batch and not came:
                first, behind = now, count - len(batch)
            came += len(batch)
        return first, time.monotonic(), behind


def measure(*, records: int, size: int, cut: float) -> dict[str, float]:
    """The figures of one run; times in milliseconds or seconds, as their names say.

    Raises:
        BrokerError: Kafka could not be started.
        TimeoutError: the backlog did not arrive.
    """
    listener = broker.LinkListener(port=held_port(), advertised_port=held_port())
    with tempfile.TemporaryDirectory(prefix="headwater-cut-") as name:
        folder = Path(name)
        try:
            edge = broker.start("edge", held_port(), folder, heap="256m").cluster
            cloud = broker.start("cloud", held_port(), folder, heap="256m", link=listener).cluster
            with Link(listener.advertised_port, listener.port) as link:
                linked = Cluster(bootstrap=f"127.0.0.1:{listener.advertised_port}")
                return _with_kafkas(edge, cloud, linked, link, folder, records, size, cut)
        finally:
            for one in ("edge", "cloud"):
                broker.stop(one, folder)


def _with_kafkas(
    edge: Cluster, cloud: Cluster, linked: Cluster, link: Link, folder: Path, records: int, size: int, cut: float
) -> dict[str, float]:
    topics = Topics(_GATEWAY)
    for side in (edge, cloud):
        kafka.ensure_topics(side, dict.fromkeys((topics.observations, topics.replies, topics.requests), _PARTITIONS))
    reader = kafka.consumer(cloud, "bench-cut", queued_min_messages=100_000)
    reader.assign([kafka.TopicPartition(topics.observations, partition, 0) for partition in range(_PARTITIONS)])
    arrivals = Arrivals(reader)
    commands, replies = Probe(topics.requests, cloud, edge), Probe(topics.replies, edge, cloud)
    _fill(edge, topics.observations, records, size)
    replicator = ReplicatorProcess(_GATEWAY, edge, linked, folder / "replicator.log")
    try:
        first, last, behind = arrivals.wait(records)
        without = behind / (last - first)
        time.sleep(5)
        quiet = time.monotonic()
        calm = {"command": commands.between(quiet - 3, quiet), "reply": replies.between(quiet - 3, quiet)}
        link.cut()
        _fill(edge, topics.observations, records, size)
        time.sleep(cut)
        link.restore()
        restored = time.monotonic()
        first, last, behind = arrivals.wait(records)
        after = behind / (last - first)
        busy = {"command": commands.between(first, last), "reply": replies.between(first, last)}
    finally:
        replicator.kill()
        commands.close()
        replies.close()
        reader.close()
    figures = {
        "records": records,
        "per_s_without_cut": without,
        "per_s_after_cut": after,
        "rate_ratio": after / without,
        "first_after_restore_s": first - restored,
        "all_after_restore_s": last - restored,
    }
    for what in ("command", "reply"):
        figures[f"{what}_quiet_p50_ms"] = _part(calm[what], 0.5) * 1000
        figures[f"{what}_p50_ms"] = _part(busy[what], 0.5) * 1000
        figures[f"{what}_max_ms"] = _part(busy[what], 1.0) * 1000
    return figures


def _fill(cluster: Cluster, topic: str, records: int, size: int) -> None:
    sender = kafka.producer(cluster, linger_ms=20, queue_buffering_max_messages=200_000)
    value = bytes(range(256)) * (size // 256 + 1)
    for number in range(records):
        while True:
            try:
                sender.produce(
                    topic, value[number % 7 : number % 7 + size], b"ep-%d" % (number % 997), number % _PARTITIONS
                )
                break
            except BufferError:
                sender.poll(0.05)
        if not number % 1000:
            sender.poll(0)
    if sender.flush(_PATIENCE_S):
        raise TimeoutError(f"{cluster.bootstrap} did not take the records")


def _part(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description="Catching up after a cut of the line, and who waits meanwhile.")
    parser.add_argument("--records", type=int, default=300_000, help="of the backlog, each time")
    parser.add_argument("--size", type=int, default=200, help="bytes of one")
    parser.add_argument("--cut", type=float, default=10.0, help="seconds, after the backlog has been written")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    text = json.dumps(measure(records=options.records, size=options.size, cut=options.cut), indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
