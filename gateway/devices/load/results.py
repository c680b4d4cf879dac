"""The results of a load: takes each sample, and hands it to the timeline, the lines of the summary and the file.

`Results.record` is on the way of every exchange of a load: it is the `append` of a list. Some hundreds of samples are
worked off at once, which takes well below a millisecond, so that a device's clock is not held up by it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from gateway.devices.load.histogram import PERCENTILES
from gateway.devices.load.jtl import JtlWriter
from gateway.devices.load.samples import Sample
from gateway.devices.load.summary import Summary, Threads
from gateway.devices.load.timeline import Cell, ErrorKind, Timeline

#: Fewer are not worth the while before the next second.
BATCH = 512
#: So often the file and the lines get what there is, in seconds.
TICK = 1.0


class Results:
    """A `Recorder`. ``threads`` tells how many devices are at work; ``summary`` and ``jtl`` may be None.

    Whoever runs the load calls `tick` each second (`ticking` does) and `close` at its end, all on one thread.
    """

    def __init__(
        self,
        *,
        jtl: JtlWriter | None = None,
        summary: Summary | None = None,
        threads: Callable[[], Threads] = Threads,
    ) -> None:
        self.timeline = Timeline()
        self.jtl = jtl
        self._summary = summary
        self._threads = threads
        self._pending: list[Sample] = []
        #: Takes a sample.
        self.record: Callable[[Sample], None] = self._pending.append

    def settle(self) -> None:
        """Work off what has come together, if it is enough to be worth it."""
        if len(self._pending) >= BATCH:
            self._work_off()

    def tick(self, now_ms: int) -> None:
        """What is due each second: the file gets what there is, and lines of the summary are told."""
        self._work_off()
        if self.jtl is not None:
            self.jtl.flush()
        if self._summary is not None:
            self._summary.tick(now_ms)

    def close(self, now_ms: int) -> None:
        """Count the rest, tell the last lines and close the file; `failure` is final then."""
        self._work_off()
        if self._summary is not None:
            self._summary.close(now_ms)
        if self.jtl is not None:
            self.jtl.close()

    @property
    def failure(self) -> str | None:
        """Why the file of results is not complete, for people, with how much is missing; None: it is."""
        if self.jtl is None or self.jtl.failure is None:
            return None
        return f"{self.jtl.failure} ({self.jtl.missing} samples are not in it)"

    def _work_off(self) -> None:
        batch = self._pending
        if not batch:
            return
        self.timeline.add(batch)
        if self._summary is not None:
            self._summary.add(batch)
        if self.jtl is not None:
            self.jtl.add(batch, self._threads().active)
        batch.clear()


async def ticking(results: Results) -> None:
    """Call `Results.tick` each second until cancelled."""
    while True:
        await asyncio.sleep(TICK)
        results.tick(time.time_ns() // 1_000_000)


def figures(cell: Cell) -> dict[str, Any]:
    """What people and programs are told of a cell: times in ms, rates a second."""
    times = cell.times
    seconds = cell.seconds or 1.0
    return {
        "count": cell.count,
        "errors": cell.errors,
        "error_percent": round(100 * cell.errors / cell.count, 4) if cell.count else 0.0,
        "min_ms": (times.least if cell.count else 0) / 1000,
        "avg_ms": round(times.mean / 1000, 3),
        **{
            f"{name}_ms": value / 1000
            for name, value in zip(PERCENTILES, times.percentiles(PERCENTILES.values()), strict=True)
        },
        "max_ms": times.most / 1000,
        "rate": round(cell.rate, 3),
        "received_bytes_per_s": round(cell.received / seconds, 1),
        "sent_bytes_per_s": round(cell.sent / seconds, 1),
        "starts_ms": cell.starts if cell.count else None,
        "ends_ms": cell.ends if cell.count else None,
    }


def results_json(timeline: Timeline) -> dict[str, Any]:
    """All results but those over time, for ``--output json``: the total, by label, and the errors, most often first."""
    return {
        "total": figures(timeline.total()),
        "labels": {label: figures(timeline.total(label)) for label in sorted(timeline.labels)},
        "errors": [
            {"label": label, "code": code, "message": message, "count": count}
            for (label, code, message), count in most_errors(timeline)
        ],
    }


def most_errors(timeline: Timeline, most: int = 20) -> list[tuple[ErrorKind, int]]:
    """The most frequent kinds of errors, and how often each was."""
    return sorted(timeline.errors.items(), key=lambda kind: (-kind[1], kind[0]))[:most]
