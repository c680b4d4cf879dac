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
        self._bits = 1 << (20 * self._keep - 1).bit_length()
        self._newer, self._older = self._empty(), self._empty()
        self._added = 0

    def _empty(self) -> bytearray:
        return bytearray((self._bits + 7) // 8)

    def add(self, identity: bytes) -> None:
        """Know it, at least until ``keep`` others were added."""
        if self._added == self._keep:
            self._older, self._newer = self._newer, self._empty()
            self._added = 0
        self._added += 1
        mask = self._bits - 1
        for word in _words(identity):
            bit = word & mask
            self._newer[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, identity: bytes) -> bool:
        mask = self._bits - 1
        places = [word & mask for word in _words(identity)]
        return any(all(bits[bit >> 3] >> (bit & 7) & 1 for bit in places) for bits in (self._newer, self._older))
