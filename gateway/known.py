"""A small memory of which requests may have been answered: it spares almost every command a look into the state file.

A Bloom filter in two generations. It says "no" only of what is not among the newest ``keep``; its "yes" has to be
looked up. Pure.
"""

from __future__ import annotations

import struct

_words = struct.Struct("<4I").unpack_from


class Known:
    """Identities of 16 evenly distributed bytes. Of what was never added, less than one in 300 is taken for known."""

    def __init__(self, keep: int) -> None:
        self._keep = max(keep, 1)
        # Twenty bits each, of which four are set.
        self._mask = (1 << (20 * self._keep - 1).bit_length()) - 1
        self._newer, self._older = self._empty(), self._empty()
        self._added = 0

    def _empty(self) -> bytearray:
        return bytearray((self._mask >> 3) + 1)

    def add(self, identity: bytes) -> None:
        """Know it, at least until ``keep`` others were added."""
        places = self._places(identity)
        if _all_set(self._newer, places):
            return
        if self._added == self._keep:
            self._older, self._newer = self._newer, self._empty()
            self._added = 0
        self._added += 1
        for bit in places:
            self._newer[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, identity: bytes) -> bool:
        places = self._places(identity)
        return _all_set(self._newer, places) or _all_set(self._older, places)

    def _places(self, identity: bytes) -> list[int]:
        return [word & self._mask for word in _words(identity)]


def _all_set(bits: bytearray, places: list[int]) -> bool:
    for bit in places:  # noqa: SIM110  # twice as quick as all() with a generator, and called for every command
        if not bits[bit >> 3] >> (bit & 7) & 1:
            return False
    return True
