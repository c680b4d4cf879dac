"""The window against replays (RFC 8613 section 7.4): which sequence numbers of a device were taken.

One window for all that a device says under its key, requests, responses and notifications: it gives no number twice
(section 5.2), so none is taken twice. Pure.
"""

from __future__ import annotations

from typing import Final

#: Numbers below the highest of which it is known whether they were taken; what is older counts as taken.
SIZE: Final = 1024
_MASK: Final = (1 << SIZE) - 1


class ReplayWindow:
    """``highest`` is the highest number that was taken, -1 before the first; bit n of ``taken`` is ``highest - n``."""

    __slots__ = ("highest", "taken")

    def __init__(self, highest: int = -1, taken: int = 0) -> None:
        self.highest = highest
        self.taken = taken

    def has(self, number: int) -> bool:
        """True if it was taken, or may have been."""
        back = self.highest - number
        return back >= 0 and (back >= SIZE or bool(self.taken >> back & 1))

    def is_too_old(self, number: int) -> bool:
        """True if nobody knows any more whether it was taken."""
        return self.highest - number >= SIZE

    def take(self, number: int) -> None:
        """It was taken; of one that is too old nothing is noted."""
        back = self.highest - number
        if back < 0:
            self.taken = ((self.taken << -back if -back < SIZE else 0) | 1) & _MASK
            self.highest = number
        elif back < SIZE:
            self.taken |= 1 << back

    def give_back(self, number: int) -> None:
        """It was not taken after all."""
        back = self.highest - number
        if 0 <= back < SIZE:
            self.taken &= ~(1 << back)
