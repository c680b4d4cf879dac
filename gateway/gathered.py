"""The records of a turn of the event loop into one topic: those of a partition share the delivery report of the last.

Owns what is gathered until the turn ends, and who is told of the report. Delivery is in order and gapless
(`gateway.uplink`), so the report of the last record vouches for those before it; a report for each would cost more than
the record itself. Each ``done`` is called once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.uplink import MOST_RECORD_BYTES, Done, Headers, Uplink

_log = structlog.get_logger("headwater.uplink")

_Held = tuple[bytes, bytes, Headers, Done]


class Gathered:
    """What is on its way into ``topic``. It needs a running event loop."""

    def __init__(self, uplink: Uplink, topic: str) -> None:
        self._uplink = uplink
        self._topic = topic
        partitions = uplink.partitions[topic]
        #: By partition: the last record, and who waits for the report of those before it.
        self._held: list[_Held | None] = [None] * partitions
        self._waiting: list[dict[Done, None]] = [{} for _ in range(partitions)]
        self._due = False
        #: Of a turn: the producer's own way in, and how many records went there.
        self._produce: Callable[..., None] | None = None
        self._sent = 0

    def send(self, partition: int, key: bytes, value: bytes, headers: Headers, done: Done) -> None:
        """Write a record by the end of this turn of the event loop; ``done`` is told how it went, perhaps at once."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.flush)
        # What is too large would keep the others from a report.
        if len(value) > MOST_RECORD_BYTES or not self.hold(partition, key, value, headers, done):
            done(False)

    def hold(self, partition: int, key: bytes, value: bytes, headers: Headers, done: Done) -> bool:
        """Write a small record when `flush` is called, for who calls it at the end of the turn. False: it is not taken,
        and ``done`` not told. A ``done`` that several records of the turn share is told once a partition.
        """
        held = self._held[partition]
        if held is not None:
            # Handed over without a report.
            before, produce = held, self._produce or self._begin()
            try:
                produce(self._topic, before[1], before[0], partition, None, None, 0, before[2])
            except Exception:  # noqa: BLE001  # tried again where what it means is known
                if not self._uplink.send(self._topic, partition, *before[:3], None):
                    return False
            else:
                self._sent += 1
            self._waiting[partition][before[3]] = None
        self._held[partition] = key, value, headers, done
        return True

    def _begin(self) -> Callable[..., None]:
        self._produce = self._uplink.produce
        return self._produce

    def flush(self) -> None:
        """The turn has ended."""
        # Who only holds waits for nothing that cannot come a little later.
        patient, self._due = not self._due, False
        self._uplink.sent += self._sent
        self._produce, self._sent = None, 0
        for partition, held in enumerate(self._held):
            if held is None:
                continue
            key, value, headers, done = held
            before = self._waiting[partition]
            self._held[partition] = None
            if before:
                self._waiting[partition] = {}
                before[done] = None
            report = _reporter(list(before)) if len(before) > 1 else done
            if not self._uplink.send(self._topic, partition, key, value, headers, report, patient=patient):
                # Those before it may be in Kafka, and nobody would ever say so.
                report(False)


def _reporter(told: list[Done]) -> Callable[[bool], None]:
    def report(durable: bool) -> None:
        for done in told:
            try:
                done(durable)
            except Exception:  # noqa: BLE001  # the others must still be told
                _log.exception("a delivery report could not be handled")

    return report
