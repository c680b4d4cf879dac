"""How one process of a gateway tells the others what it has: every change, in order, and all of it to who begins.

Owns what was not told yet. A line that is full loses no fact: what it had no room for follows, bounded; beyond that all
is told afresh, which is what the process has by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.several.lines import By, Fact, Kind, Lines

#: Facts in a packet.
_FACTS = 500
#: Packets of facts that are kept for who has no room for them, beside what is told afresh; beyond that all is.
_MOST_OWED = 100


@dataclass(slots=True)
class Debt:
    """Packets for a line that was full, in their order."""

    packets: deque[tuple[Kind, list[Fact] | None]] = field(default_factory=deque)
    #: How many may wait. 0: they are not made yet, and all is told afresh as soon as there is room.
    most: int = 0


class Telling:
    """``again`` calls a method with a line's number a little later."""

    def __init__(self, lines: Lines, again: Callable[[Callable[[int], None], int], None]) -> None:
        self._lines = lines
        self._again = again
        #: All that this process has; None: that is not known yet.
        self.everything: Callable[[], Iterable[Fact]] | None = None
        self._facts: list[Fact] = []
        #: What those have still to be told whose line was full.
        self.owed: dict[int, Debt] = {}

    def add(self, by: By, key: object, has: bool) -> None:
        """Have it told with the next `tell`."""
        self._facts.append((int(by), key, has))

    def tell(self) -> None:
        """Tell all of them what is new."""
        facts, self._facts = self._facts, []
        for at in range(0, len(facts), _FACTS):
            for number in self._lines:
                self._tell_of(number, facts[at : at + _FACTS])

    def tell_all(self, number: int) -> None:
        """All that this process has; what the line has no room for now goes as soon as it has."""
        if self.everything is None:
            return  # told as soon as it is known
        is_tried_again = number in self.owed
        self.owed[number] = Debt()
        if not is_tried_again:
            self._pay(number)

    def _pay(self, number: int) -> None:
        assert self.everything is not None
        debt = self.owed[number]
        packets = debt.packets
        if not debt.most and self._lines.send(number, Kind.AFRESH, None):
            facts = list(self.everything())
            packets.extend((Kind.FACTS, facts[at : at + _FACTS]) for at in range(0, len(facts), _FACTS))
            packets.append((Kind.WHOLE, None))
            debt.most = len(packets) + _MOST_OWED
        while packets and self._lines.send(number, *packets[0]):
            packets.popleft()
        if debt.most and not packets:
            del self.owed[number]
        else:
            self._again(self._pay, number)

    def _tell_of(self, number: int, facts: list[Fact]) -> None:
        """What is new, behind what is owed already."""
        debt = self.owed.get(number)
        if debt is None:
            if not self._lines.send(number, Kind.FACTS, facts):
                self.tell_all(number)
        elif debt.most:
            last = debt.packets[-1][1]
            if last is not None and len(last) + len(facts) <= _FACTS:
                last += facts
            else:
                debt.packets.append((Kind.FACTS, facts))
            if len(debt.packets) > debt.most:
                self.owed[number] = Debt()
