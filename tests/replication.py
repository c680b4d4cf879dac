"""What the replicator's tests share: a replicator in a thread or a process of its own, and a look at both sides."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from connectors import kafka
from connectors.replicator import ReplicatorSettings, run

#: Key, value, headers, time stamp: all of a record that has to arrive.
Carried = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...], int]

_PROCESS = """
import signal, sys, threading
from connectors.kafka import Cluster
from connectors.replicator import Fenced, ReplicatorSettings, run
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
gateway, edge, cloud, *topics = sys.argv[1:]
try:
    run(ReplicatorSettings(gateway=gateway, edge=Cluster(bootstrap=edge), cloud=Cluster(bootstrap=cloud),
                           topics=tuple(topics)), stop)
except Fenced as exc:
    sys.exit(f"fenced: {exc}")
"""


class Replicating:
    """A replicator in a thread; `failure` is what it ended with."""

    def __init__(self, settings: ReplicatorSettings) -> None:
        self.registry = CollectorRegistry()
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._settings = settings
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            run(self._settings, self._stop, registry=self.registry)
        except Exception as exc:  # noqa: BLE001  the test looks at it
            self.failure = exc

    def end(self) -> None:
        self._stop.set()
        self.wait_ended()

    def wait_ended(self, timeout: float = 30.0) -> None:
        self._thread.join(timeout)
        assert not self._thread.is_alive()

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"headwater_replicator_{name}", labels)


@contextmanager
def replicating(settings: ReplicatorSettings) -> Iterator[Replicating]:
    one = Replicating(settings)
    try:
        yield one
    finally:
        one.end()
    assert one.failure is None, one.failure


class ReplicatorProcess:
    """A replicator in a process of its own, which may be killed, frozen and started again."""

    def __init__(self, gateway: str, edge: kafka.Cluster, cloud: kafka.Cluster, log: Path, *topics: str) -> None:
        self._command = [sys.executable, "-c", _PROCESS, gateway, edge.bootstrap, cloud.bootstrap, *topics]
        self.log = log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdout=out, stderr=subprocess.STDOUT, cwd=Path(__file__).parent.parent
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)

    @property
    def runs(self) -> bool:
        return self._process.poll() is None


class Writer:
    """Writes numbered records to a topic in a thread, until told to stop; what Kafka acknowledged is in it once."""

    def __init__(self, cluster: kafka.Cluster, topic: str, partitions: int, *, per_second: int, seed: int) -> None:
        self._producer = kafka.producer(cluster, linger_ms=1)
        self._topic = topic
        self._partitions = partitions
        self._per_second = per_second
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self.count = 0
        # Of today, or the broker's own retention would delete them while the test runs.
        self._epoch_ms = time.time_ns() // 1_000_000
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for _ in range(max(1, self._per_second // 50)):
                value = b"%d:" % self.count + self._random.randbytes(self._random.randrange(300))
                self._producer.produce(
                    self._topic,
                    value,
                    b"ep-%d" % (self.count % 17),
                    self.count % self._partitions,
                    timestamp=self._epoch_ms + self.count,
                    headers=[("mid", b"%d" % self.count), ("none", None)],
                )
                self.count += 1
            self._producer.poll(0)

    def wait_for(self, count: int, timeout: float = 60.0) -> None:
        wait_until(lambda: self.count >= count, timeout)

    def finish(self) -> int:
        """Stop, wait until Kafka has all, and return how many there are."""
        self._stop.set()
        self._thread.join(10)
        assert self._producer.flush(60) == 0
        return self.count


def wait_until(true: Callable[[], bool], timeout: float = 60.0) -> None:
    """Look again and again until it is true; fails after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.05)


def content(cluster: kafka.Cluster, topic: str) -> dict[int, list[Carried]]:
    """All committed records of a topic, by partition, in order."""
    found: dict[int, list[Carried]] = {}
    for message in kafka.read_to_end(cluster, [topic], timeout=30):
        partition = message.partition()
        assert partition is not None
        headers = tuple((name, value) for name, value in message.headers() or ())
        found.setdefault(partition, []).append((message.key(), message.value(), headers, message.timestamp()[1]))
    return found


def count(cluster: kafka.Cluster, topic: str) -> int:
    """How many committed records a topic has; 0 if it is not there."""
    return sum(1 for _ in kafka.read_to_end(cluster, [topic], timeout=30))


def wait_for_records(cluster: kafka.Cluster, topic: str, wanted: int, timeout: float = 60.0) -> None:
    """Read a topic as a consumer does, until ``wanted`` records were seen."""
    end = time.monotonic() + timeout
    seen = 0
    reader = kafka.consumer(cluster, f"test-{topic}", topic_metadata_refresh_interval_ms=500)
    try:
        while not (partitions := kafka.partition_counts(cluster, [topic], timeout=30).get(topic, 0)):
            assert time.monotonic() < end, f"{topic} did not appear"
            time.sleep(0.1)
        reader.assign([kafka.TopicPartition(topic, p, kafka.OFFSET_BEGINNING) for p in range(partitions)])
        while seen < wanted:
            assert time.monotonic() < end, f"{seen} of {wanted} records of {topic} arrived"
            message = reader.poll(1.0)
            if message is not None and message.error() is None:
                seen += 1
    finally:
        reader.close()
