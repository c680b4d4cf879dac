"""The jobs that are windows: readings into groups, groups into windows, windows to whoever puts them out.

Owns how a job of windows keeps its groups (a series, or a whole endpoint) in its state, and when a group that fell
silent is closed and forgotten. What a window is, is `analytics.windows`'; what becomes of one, the job's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from analytics.alarms import UNUSABLE, Alarms, left_out
from analytics.job import Emit, Incoming, Metrics, State
from analytics.memory import names
from analytics.readings import observed, within
from analytics.series import SeriesPattern
from analytics.windows import LATEST, Window, Windows, heard_at, latest

#: A group that said nothing for so long (ms of the gateway's clock) is forgotten, and begins anew when it speaks.
FORGET_MS = 3_600_000

#: What a job does with a closed window: endpoint, path (None: the whole endpoint), window.
Publish = Callable[[str, str | None, Window, Emit], None]


class By(Enum):
    """What readings are put together by."""

    ENDPOINT = "endpoint"
    SERIES = "series"


#: Of the alarms: so much later than told may the windows of a silent series come.
_TICK_MS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which readings are folded into which windows; times in ms."""

    windows: Windows
    #: Texts that tell these windows from others: state of other windows is not taken up.
    told: str
    by: Sequence[By]
    only: SeriesPattern
    #: A reading whose own time is further ahead of the gateway's gets the gateway's.
    ahead: int
    #: A partition that had no record for so long by the wall clock goes by that clock; 0: never.
    idle: int


class Windowing:
    """A job (`analytics.job.Job`) that hands each closed window to ``publish``."""

    def __init__(self, rules: Rules, publish: Publish, metrics: Metrics) -> None:
        self._rules = rules
        self._windows = rules.windows
        self._publish = publish
        self._metrics = metrics
        self._forget = max(FORGET_MS, 2 * rules.windows.patience)
        owner = hashlib.sha256(rules.told.encode()).digest()[:16]
        self._alarms = Alarms(_TICK_MS, owner, metrics)
        self._wanted = lru_cache(maxsize=65536)(rules.only.matches)
        self._by = [by is By.SERIES for by in rules.by]

    def take(self, record: Incoming, state: State, emit: Emit) -> None:
        told = within(observed(record.value), record.timestamp, self._rules.ahead)
        if told.skipped:
            self._metrics.skipped(told.skipped)
        # What no calendar has stops no clock.
        now, due = self._alarms.now(state, min(max(told.time, 0), LATEST), record.timestamp)
        if due:
            self._ring(state, now, now, emit)
        ep, windows = told.ep, self._windows
        newest = told.time + self._rules.ahead
        for path, value, time, own in told.readings:
            if not self._wanted(ep, path):
                continue
            if own and not 0 <= time <= newest:
                self._metrics.ahead()
                time = told.time
            late = False
            for of_series in self._by:
                group = _group(ep, path if of_series else "")
                kept = state.get_bytes(group)
                step = windows.add(kept, time, value, now)
                if step.late:
                    late = True
                    continue
                if kept is None or windows.empty(kept):
                    self._alarms.set(state, b"c" + group, now + windows.patience)
                state.set_bytes(group, step.kept)
                for window in step.closed:
                    self._publish(ep, path if of_series else None, window, emit)
            if late:
                self._metrics.late()

    def idle(self, silent_s: float, state: State, emit: Emit) -> None:
        silent = int(silent_s * 1000)
        if not 0 < self._rules.idle <= silent:
            return
        clock = self._alarms.silent(state, silent)
        if clock is not None:
            self._ring(state, clock + silent, clock, emit)

    def _ring(self, state: State, now: int, clock: int, emit: Emit) -> None:
        before = self._alarms.clock(state)
        put_back = before is not None and clock < before
        for name in self._alarms.ring(state, now, clock):
            try:
                self._rung(name, now, put_back, state, emit)
            except UNUSABLE as exc:
                left_out(name, exc, self._metrics)

    def _rung(self, name: bytes, now: int, put_back: bool, state: State, emit: Emit) -> None:
        windows, alarms = self._windows, self._alarms
        group = name[1:]
        kept = state.get_bytes(group)
        if kept is None:
            return
        heard = windows.heard(kept)
        if heard > now:
            self._put_back(name, kept, now, state, emit)
            return
        if name[:1] == b"f":
            # Of an earlier silence, if a window is open; the next silence will set another.
            if windows.empty(kept) and heard + self._forget <= now:
                state.delete(group)
            elif put_back and windows.empty(kept):
                # It rang before its time, as all do then.
                alarms.set(state, name, heard + self._forget)
        elif heard + windows.patience <= now:
            step = windows.silence(kept)
            state.set_bytes(group, step.kept)
            alarms.set(state, b"f" + group, heard + self._forget)
            ep, path = names(group)
            for window in step.closed:
                self._publish(ep, path or None, window, emit)
        else:
            alarms.set(state, name, heard + windows.patience)

    def _put_back(self, name: bytes, kept: bytes, now: int, state: State, emit: Emit) -> None:
        """The clock is put back to ``now``, and the group was heard by it as it was before."""
        group, windows = name[1:], self._windows
        if latest(kept) > now + self._rules.ahead:
            # Its readings were dated by that clock too: all to come would be late.
            state.delete(group)
            ep, path = names(group)
            for window in windows.silence(kept).closed:
                self._publish(ep, path or None, window, emit)
            return
        state.set_bytes(group, heard_at(kept, now))
        self._alarms.set(state, name, now + (self._forget if name[:1] == b"f" else windows.patience))


@lru_cache(maxsize=65536)
def _group(ep: str, path: str) -> bytes:
    """The key of a group in the state: no two of them are the same, whatever an endpoint calls itself."""
    return f"g{len(ep)}:{ep}{path}".encode()
