"""The audit of a load: every value that was acknowledged has to be in the observations topic, once and in order.

A thread reads the topic while the load runs, from where it ended when `Audit.start` was called, committed records only.

What its latencies mean:
- ``to_topic``: from the device's clock when it made the value until this process, reading along, had the record in its
  hands. At the cloud's Kafka that is the whole way: device, gateway, edge Kafka, replicator, cloud Kafka, and a reader.
- ``to_edge_log``: from the same clock to the record's time stamp, which the gateway gave it when it wrote it to the
  edge's Kafka and which the replicator keeps; that clock is the gateway's, so both should run on one clock.
A retransmission, a full queue, a WAN that is cut: all of it is in these times, as they begin with the value. So are
some milliseconds of this process, where the load keeps its interpreter busy.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from connectors.kafka import (
    REFUSALS,
    Cluster,
    Consumer,
    KafkaError,
    KafkaException,
    NotAllowed,
    TopicPartition,
    Unreachable,
    admin,
    consumer,
    end_offsets,
    in_words,
    log_bounds,
    partition_counts,
)
from gateway.devices.load.audited import AuditResult, Latency
from gateway.devices.load.histogram import Histogram
from gateway.devices.load.observed import Observations
from gateway.devices.load.tally import Arrival, Tally

#: Seconds without a value that is still missing until the audit gives it up.
PATIENCE = 30.0
#: Once everything is there: seconds in which a second record of a value would be seen too.
_AFTER = 2.0
_POLL = 0.1
_BATCH = 2000
#: How many of the lost ones are named.
_NAMED = 10
#: Kafka's client prefetches at most so much.
_PREFETCH_KBYTES = 16_384


class AuditError(Exception):
    """The audit could not be made; the message says why. Nothing is known of what was lost then."""


class Audit:
    """A `Ledger`, and the thread that holds it against ``topic`` of ``cluster``.

    ``group`` is the name of a consumer group that the identity may use; nothing is committed to it.
    """

    def __init__(self, cluster: Cluster, topic: str, *, group: str = "headwater-reader") -> None:
        self._cluster = cluster
        self.topic = topic
        self._group = group
        self._reader: Consumer | None = None
        #: What the load told, in its order: (endpoint, path, value, confirmable, or None for an acknowledgement).
        self._told: deque[tuple[str, str, float, bool | None]] = deque()
        self._tell = self._told.append
        # Of the thread alone, but for reading.
        self._tally = Tally()
        self._observations = Observations()
        self._to_topic = Histogram()
        self._to_edge_log = Histogram()
        self._offsets: dict[int, int] = {}
        self._last_arrival = time.monotonic()
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    @property
    def has_topic(self) -> bool:
        """True once the topic is there."""
        return bool(self._offsets)

    def sent(self, endpoint: str, path: str, value: float, confirmable: bool) -> None:
        """To be called before the datagram goes out."""
        self._tell((endpoint, path, value, confirmable))

    def acknowledged(self, endpoint: str, path: str, value: float) -> None:
        self._tell((endpoint, path, value, None))

    def start(self, *, timeout: float = 10.0) -> None:
        """Note where the topic ends, and begin to read. It may come to be later: then from its beginning.

        Raises:
            Unreachable: no broker answered within ``timeout`` seconds. NotAllowed, KafkaException: Kafka refuses.
        """
        ends = end_offsets(self._cluster, [self.topic], timeout=timeout)
        self._offsets = {partition: end for (_, partition), end in ends.items()}
        self._reader = consumer(
            self._cluster, self._group, enable_partition_eof=True, queued_max_messages_kbytes=_PREFETCH_KBYTES
        )
        if self._offsets:
            self._assign(self._reader)
        self._thread.start()

    def finish(
        self, *, patience: float = PATIENCE, progress: Callable[[int, int], None] = lambda there, wanted: None
    ) -> AuditResult:
        """Wait until all that was acknowledged is there, or nothing of it has come for ``patience`` seconds.

        Blocks; ``progress`` is called each second with how many of the acknowledged values are there, and how many
        there should be. Nothing is called lost before the topic has been read to its end.

        Raises:
            AuditError: the topic could not be read. Unreachable, NotAllowed: why, where Kafka is the reason.
        """
        began = time.monotonic()
        wanted = self._ends()
        until = time.monotonic() + patience
        stuck_at: dict[int, int] | None = None
        told_at = 0.0
        while True:
            self._raise_failure()
            tally, now = self._tally, time.monotonic()
            if now - told_at >= 1.0:
                told_at = now
                progress(tally.acknowledged_there, tally.acknowledged)
            whole = not self._told and not tally.lost and self._has_read(wanted)
            # From the beginning of this too: by then the thread has heard all that it was told.
            if whole and now - max(self._last_arrival, began) >= min(_AFTER, patience):
                break
            if now >= max(until, self._last_arrival + patience):
                # Is it not there, or is it we who have not read it?
                if self._has_read(self._ends()):
                    break
                if stuck_at == self._offsets:
                    raise AuditError(f"{self.topic} at {self._cluster.bootstrap} could not be read to its end")
                stuck_at = dict(self._offsets)
                until = now + patience
            time.sleep(0.05)
        self.close()
        self._raise_failure()
        progress(self._tally.acknowledged_there, self._tally.acknowledged)
        return self.result()

    def result(self) -> AuditResult:
        """What is known by now; final after `finish`."""
        tally = self._tally
        return AuditResult(
            topic=self.topic,
            at=self._cluster.bootstrap,
            confirmable=tally.confirmable,
            acknowledged=tally.acknowledged,
            unconfirmable=tally.unconfirmable,
            acknowledged_there=tally.acknowledged_there,
            unacknowledged_there=tally.unacknowledged_there,
            unconfirmable_there=tally.unconfirmable_there,
            lost=tally.lost,
            doubled=tally.doubled,
            out_of_order=tally.out_of_order,
            foreign=tally.foreign,
            unreadable=self._observations.unreadable,
            to_topic=Latency.of(self._to_topic),
            to_edge_log=Latency.of(self._to_edge_log),
            lost_ones=() if self._thread.is_alive() else tuple(islice(tally.missing(), _NAMED)),
        )

    def close(self) -> None:
        """Stop reading; what is known stays."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _has_read(self, ends: dict[int, int]) -> bool:
        return all(self._offsets.get(partition, 0) >= end for partition, end in ends.items())

    def _raise_failure(self) -> None:
        if self._failure is not None:
            if isinstance(self._failure, KafkaException | Unreachable):
                raise self._failure
            raise AuditError(f"the audit stopped: {self._failure}") from self._failure

    def _ends(self) -> dict[int, int]:
        """Where each partition ends now for a reader of committed records."""
        count = partition_counts(self._cluster, [self.topic]).get(self.topic, 0)
        bounds = log_bounds(admin(self._cluster), [(self.topic, partition) for partition in range(count)])
        return {partition: end for (_, partition), (_, end) in bounds.items()}

    # What follows runs in the thread.

    def _run(self) -> None:
        reader = self._reader
        assert reader is not None
        try:
            while not self._stop.is_set():
                if not self._offsets:
                    self._await_topic(reader)
                first = reader.poll(_POLL)
                messages = [] if first is None else [first, *reader.consume(_BATCH, timeout=0)]
                now_us = time.time_ns() // 1000
                # After the records came and before they are looked at: what is in them was told before.
                self._listen()
                if messages:
                    self._take(messages, now_us)
            self._listen()
        except Exception as exc:  # noqa: BLE001  # told by `finish`
            self._failure = exc
        finally:
            reader.close()

    def _await_topic(self, reader: Consumer) -> None:
        """Begin with its first record once it has been made, as the replicator does that with the first record."""
        try:
            count = partition_counts(self._cluster, [self.topic], timeout=1.0).get(self.topic, 0)
        except Unreachable:
            count = 0
        if count:
            self._offsets = dict.fromkeys(range(count), 0)
            self._assign(reader)
        else:
            self._stop.wait(0.5)

    def _assign(self, reader: Consumer) -> None:
        reader.assign([TopicPartition(self.topic, partition, offset) for partition, offset in self._offsets.items()])

    def _listen(self) -> None:
        tally = self._tally
        for _ in range(len(self._told)):
            endpoint, path, value, confirmable = self._told.popleft()
            if confirmable is None:
                tally.acknowledge(endpoint, path, value)
            else:
                tally.sent(endpoint, path, value, confirmable)

    def _take(self, messages: list[Any], now_us: int) -> None:
        to_topic, to_edge_log = [], []
        arrive, read = self._tally.arrive, self._observations.read
        ours = False
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    # Behind the last record there may be marks of transactions, which nobody reads.
                    self._offsets[message.partition()] = message.offset()
                    continue
                if error.code() in REFUSALS:
                    raise NotAllowed(error, in_words(error, self._cluster, f"read {self.topic}"))
                if error.fatal():
                    raise KafkaException(error)
                continue  # a broker that is away: the client goes on by itself
            for endpoint, path, value in read(message.value()):
                arrival = arrive(endpoint, path, value)
                if arrival is Arrival.FIRST:
                    ours = True
                    sent_us = int(value)
                    to_topic.append(now_us - sent_us)
                    to_edge_log.append(message.timestamp()[1] * 1000 - sent_us)
            self._offsets[message.partition()] = message.offset() + 1
        self._to_topic.add(to_topic)
        self._to_edge_log.add(to_edge_log)
        if ours:
            self._last_arrival = time.monotonic()
