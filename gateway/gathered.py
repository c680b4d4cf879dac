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
        self._waiting: list[list[Done]] = [[] for _ in range(partitions)]
        self._due = False

    def send(self, partition: int, key: bytes, value: bytes, headers: Headers, done: Done) -> None:
        """Write a record by the end of this turn of the event loop; ``done`` is told how it went, perhaps at once."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.flush)
        held = self._held[partition]
        # What is too large would keep the others from a report.
        if len(value) > MOST_RECORD_BYTES or (held is not None and not self._pass_on(partition, held)):
            done(False)
        else:
            self._held[partition] = key, value, headers, done

    def _pass_on(self, partition: int, held: _Held) -> bool:
        """Hand the record held so far to Kafka, without a report; False: its queue is full."""
        key, value, headers, done = held
        if not self._uplink.send(self._topic, partition, key, value, headers, None):
            return False
        self._waiting[partition].append(done)
        return True

    def flush(self) -> None:
        """The turn has ended."""
        self._due = False
        for partition, held in enumerate(self._held):
            if held is None:
                continue
            key, value, headers, done = held
            before = self._waiting[partition]
            report = _reporter([*before, done]) if before else done
            self._held[partition], self._waiting[partition] = None, []
            if not self._uplink.send(self._topic, partition, key, value, headers, report):
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
