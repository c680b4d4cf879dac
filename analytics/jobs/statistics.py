"""The job ``statistics``: mean, variance and standard deviation of each series since its beginning.

Owns when results are put out. What is remembered of a series is the state of `analytics.welford` and the time of its
latest reading; it has the same size after a year.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import sqrt
from struct import Struct
from typing import ClassVar

from pydantic import Field

from analytics import results
from analytics.alarms import UNUSABLE, Alarms, left_out
from analytics.durations import Duration
from analytics.job import Emit, Incoming, JobKind, State, Surroundings, result_topics
from analytics.jobs.series_options import SAMPLE, SeriesOptions
from analytics.memory import MOMENTS_SIZE, admitted, names, packed, series_key, unpacked
from analytics.readings import observed, within
from analytics.results import encoded_key
from analytics.welford import Moments, add
from analytics.windows import LATEST
from schemas.avro.serde import decode
from schemas.avro.topics import TopicKind

#: Behind the moments: time of the latest reading, and whether an alarm is set.
_REST = Struct("<q?")
#: Alarms ring up to so long late, in ms. It is part of the state, so it is no option.
_TICK_MS = 1000
_OWNER = hashlib.sha256(b"statistics").digest()[:16]


class StatisticsOptions(SeriesOptions):
    IDENTITY: ClassVar[tuple[str, ...]] = (*SeriesOptions.IDENTITY, "every")

    every: Duration = Field(
        default=0, description="At most one result per series in so long, the latest; 0, a result for each reading."
    )


class StatisticsJob:
    """See `analytics.job.Job`."""

    def __init__(self, options: StatisticsOptions, around: Surroundings) -> None:
        self._every, self._ahead, self._most = options.every, options.ahead, options.max_series
        self._wanted = lru_cache(maxsize=65536)(options.only.matches)
        self._topic = around.topics.name(TopicKind.STATISTICS)
        self._gateway, self._metrics, self._show = around.gateway, around.metrics, around.show
        self._alarms = Alarms(_TICK_MS, _OWNER, around.metrics)

    def take(self, record: Incoming, state: State, emit: Emit) -> None:
        told = within(observed(record.value), record.timestamp, self._ahead)
        if told.skipped:
            self._metrics.skipped(told.skipped)
        now, every, ep = told.time, self._every, told.ep
        if every:
            # What no calendar has stops no clock.
            now, due = self._alarms.now(state, min(max(told.time, 0), LATEST), record.timestamp)
            if due:
                self._ring(state, now, now, emit)
        for path, value, time, own in told.readings:
            if not self._wanted(ep, path):
                continue
            key = series_key(ep, path)
            kept = state.get_bytes(key)
            if kept is None:
                if not admitted(state, ep, self._most):
                    self._metrics.crowded()
                    continue
                latest, waits = -(2**63), False
            else:
                latest, waits = _REST.unpack_from(kept, MOMENTS_SIZE)
            if own and not 0 <= time <= told.time + self._ahead:
                self._metrics.ahead()
                time = told.time
            before = unpacked(kept)
            moments, latest = add(before, value), max(latest, time)
            if moments.length == before.length:
                # Beyond what squares of doubles hold: counted in the state, and no news.
                self._metrics.skipped(1)
            elif not every:
                self._publish(ep, path, moments, latest, emit)
            elif not waits:
                self._alarms.set(state, key, now + every)
                waits = True
            state.set_bytes(key, packed(moments) + _REST.pack(latest, waits))

    def idle(self, silent_s: float, state: State, emit: Emit) -> None:
        silent = int(silent_s * 1000)
        if not 0 < self._every <= silent:
            return
        clock = self._alarms.silent(state, silent)
        if clock is not None:
            self._ring(state, clock + silent, clock, emit)

    def _ring(self, state: State, now: int, clock: int, emit: Emit) -> None:
        for key in self._alarms.ring(state, now, clock):
            try:
                self._rung(key, state, emit)
            except UNUSABLE as exc:
                left_out(key, exc, self._metrics)

    def _rung(self, key: bytes, state: State, emit: Emit) -> None:
        kept = state.get_bytes(key)
        if kept is None:
            return
        moments = unpacked(kept)
        latest, _ = _REST.unpack_from(kept, MOMENTS_SIZE)
        state.set_bytes(key, packed(moments) + _REST.pack(latest, False))
        ep, path = names(key)
        self._publish(ep, path, moments, latest, emit)

    def _publish(self, ep: str, path: str, moments: Moments, latest: int, emit: Emit) -> None:
        variance = moments.variance
        value = results.statistics(
            self._gateway, ep, path, latest, moments.mean, sqrt(variance), variance, moments.length
        )
        emit(self._topic, encoded_key(ep), value)
        if self._show is not None:
            self._show(decode(value))


KIND = JobKind(
    name="statistics",
    summary="Running mean, variance and standard deviation of each series since its beginning.",
    options=StatisticsOptions,
    make=StatisticsJob,
    writes=lambda _options, topics: result_topics([TopicKind.STATISTICS], topics),
    output="analytics.<gw>.statistics",
    sample=f"""\
# At most one result per series in so long, with all that came until then. 0: a result for each reading.
every = "0s"
{SAMPLE}""",
    examples=("", "--every 10s --path '/3303/*/5700'"),
)
