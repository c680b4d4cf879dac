"""The handshakes that are under way at one server: one an address, bounded in number, and when they are due."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable

from gateway.dtls.handshake import Handshake
from gateway.dtls.session import Address


class Handshakes:
    """Half-open handshakes by address; when there are too many, the oldest goes.

    The oldest, not the newest: whoever fills the table with addresses that it holds would else keep everybody out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_address: OrderedDict[Address, Handshake] = OrderedDict()
        self._due: list[tuple[float, int, Handshake]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._by_address)

    def at(self, address: Address) -> Handshake | None:
        """The handshake with this address."""
        return self._by_address.get(address)

    def add(self, handshake: Handshake) -> bool:
        """Take it in, in place of one at the same address; False if another had to go for it."""
        self._by_address.pop(handshake.address, None)
        self._by_address[handshake.address] = handshake
        if len(self._by_address) > self._most:
            self._by_address.popitem(last=False)
            return False
        return True

    def remove(self, handshake: Handshake) -> None:
        """It is over."""
        del self._by_address[handshake.address]

    def forget(self, is_over: Callable[[Handshake], bool]) -> None:
        """Those of which it is true are over; looks at every handshake."""
        for handshake in [one for one in self._by_address.values() if is_over(one)]:
            self.remove(handshake)

    def wait(self, handshake: Handshake) -> None:
        """Its ``deadline`` is another now."""
        self._pushed += 1
        handshake.timer = self._pushed
        heapq.heappush(self._due, (handshake.deadline, self._pushed, handshake))
        # Entries of handshakes that are done stay until their time; a flood of them must not.
        if len(self._due) > 2 * len(self._by_address) + 64:
            self._due = [entry for entry in self._due if self._waits(entry)]
            heapq.heapify(self._due)

    def deadline(self) -> float | None:
        """When `due` has something next; done handshakes are forgotten on the way."""
        while self._due and not self._waits(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def due(self, now: float) -> list[Handshake]:
        """Those whose deadline has come; each is to wait again or to be removed."""
        found: list[Handshake] = []
        while self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)
            if self._waits(entry):
                found.append(entry[2])
        return found

    def _waits(self, entry: tuple[float, int, Handshake]) -> bool:
        _, timer, handshake = entry
        return handshake.timer == timer and self._by_address.get(handshake.address) is handshake
