"""A cap on bytes a second that several lanes share, with the urgent ones first.

A token bucket that may go into debt by one record, so that a record larger than a second's worth still passes. It
holds no clock and does not wait: the lanes ask, and come again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum

#: How long what an urgent lane was refused keeps the bulk from being let through, in seconds.
_PRECEDENCE_S = 0.5


class Urgency(Enum):
    """What goes first where not all can go at once."""

    URGENT = "urgent"
    BULK = "bulk"


class Bandwidth:
    """At most ``rate`` bytes a second on average, a quarter second's worth at once; ``clock`` gives seconds."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._burst = rate / 4
        self._balance = self._burst
        self._at = clock()
        self._urgent_waits_until = 0.0

    def take(self, size: int, urgency: Urgency) -> float:
        """0.0: ``size`` bytes may go, and are counted. Else the seconds after which to ask again."""
        with self._lock:
            now = self._clock()
            self._balance = min(self._burst, self._balance + (now - self._at) * self._rate)
            self._at = now
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
