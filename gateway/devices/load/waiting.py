"""Who waits until when: a timer wheel of one millisecond a slot, so that a thousand pauses cost what they should.

Of use where many wait and all of them for as long: a heap would compare its way through a thousand for each.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_SLOTS_A_SECOND = 1000


class Waiting(Generic[T]):
    """``wait`` puts in, and ``due`` takes out, at most a millisecond late and never early. Times are seconds."""

    def __init__(self) -> None:
        self._slots: dict[int, list[T]] = {}
        #: The numbers of the slots, a heap.
        self._order: list[int] = []

    def wait(self, when: float, one: T) -> None:
        slot = int(when * _SLOTS_A_SECOND) + 1
        try:
            self._slots[slot].append(one)
        except KeyError:
            self._slots[slot] = [one]
            heapq.heappush(self._order, slot)

    def due(self, now: float) -> Iterator[T]:
        """Those whose time has come, earliest first. What is put in meanwhile comes with the next call."""
        order, last = self._order, int(now * _SLOTS_A_SECOND)
        while order and order[0] <= last:
            yield from self._slots.pop(heapq.heappop(order))

    @property
    def next(self) -> float:
        """When the next one is due; infinity if nobody waits."""
        return self._order[0] / _SLOTS_A_SECOND if self._order else float("inf")

    def clear(self) -> None:
        self._slots.clear()
        self._order.clear()
