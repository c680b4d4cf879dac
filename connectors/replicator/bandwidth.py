"""A cap on bytes a second that several lanes share, with the urgent ones first.

A token bucket that may go into debt by one record, so that a record larger than a second's worth still passes. It
holds no clock and does not wait: the lanes ask, and come again. What a lane may not send while it waits for the end of
a transaction is kept for it, or over a line with latency it would never come to its rate.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum

#: How long what an urgent lane was refused keeps the bulk from being let through, in seconds.
_PRECEDENCE_S = 0.5
#: Seconds' worth that may go at once, at least and at most; in between twice what a transaction takes.
_BURST_S = (0.25, 5.0)


class Urgency(Enum):
    """What goes first where not all can go at once."""

    URGENT = "urgent"
    BULK = "bulk"


class Bandwidth:
    """At most ``rate`` bytes a second on average; ``clock`` gives seconds."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._burst = rate * _BURST_S[0]
        self._taken_s: dict[str, float] = {}
        self._balance = self._burst
        self._at = clock()
        self._urgent_waits_until = 0.0

    def take(self, size: int, urgency: Urgency) -> float:
        """0.0: ``size`` bytes may go, and are counted. Else the seconds after which to ask again."""
        with self._lock:
            now = self._clock()
            self._refill(now)
            if self._balance <= 0:
                wait = -self._balance / self._rate + 0.001
                if urgency is Urgency.URGENT:
                    self._urgent_waits_until = now + wait + _PRECEDENCE_S
                return wait
            if urgency is Urgency.URGENT:
                self._urgent_waits_until = 0.0
            elif now < self._urgent_waits_until:
                return 0.01
            self._balance -= size
            return 0.0

    def spend(self, size: int) -> None:
        """Count bytes that go whatever the balance is: what the replicator itself has to say."""
        with self._lock:
            self._refill(self._clock())
            self._balance -= size

    def committed(self, lane: str, took: float) -> None:
        """A transaction of ``lane`` took so many seconds: what may not go in such a time goes at once afterwards."""
        with self._lock:
            self._refill(self._clock())
            self._taken_s[lane] = took
            least, most = _BURST_S
            self._burst = self._rate * max(least, min(most, 2 * max(self._taken_s.values())))

    def _refill(self, now: float) -> None:
        self._balance = min(self._burst, self._balance + (now - self._at) * self._rate)
        self._at = now
