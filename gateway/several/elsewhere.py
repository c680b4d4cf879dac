"""What one process of a gateway knows of the others: whose each device, session and file is, as they have told.

Each tells all that it has when either of the two begins, and every change from then on (`gateway.several.telling`).
Sends nothing, and knows nothing of what this process has itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from gateway.several.lines import By, Fact


class Elsewhere:
    """``others`` are the numbers of the other processes."""

    def __init__(self, others: Iterable[int]) -> None:
        #: Whose it is, where it is another's. These dictionaries stay the same ones.
        self.by: dict[By, dict[Any, int]] = {by: {} for by in By}
        #: What those have told who are telling all.
        self.renewed: dict[int, set[tuple[int, Any]]] = {}
        self._unheard = set(others)
        self._all_heard = asyncio.Event()
        if not self._unheard:
            self._all_heard.set()

    async def all_heard(self) -> None:
        """Wait until each of the others has told what it has, once: before that, what is theirs seems nobody's."""
        await self._all_heard.wait()

    def is_unheard(self, number: int) -> bool:
        """Whether it has not told yet what it has."""
        return number in self._unheard

    @property
    def waits_for(self) -> str | None:
        """Who has not told yet, in words."""
        if not self._unheard:
            return None
        return f"process {', '.join(map(str, sorted(self._unheard)))} of the gateway is not there yet"

    def believe(self, number: int, facts: list[Fact]) -> None:
        """A process has, or has no more, what it says."""
        renewed = self.renewed.get(number)
        for by, key, has in facts:
            known = self.by[By(by)]
            if has:
                known[key] = number
                if renewed is not None:
                    renewed.add((by, key))
            elif known.get(key) == number:
                del known[key]

    def afresh(self, number: int) -> None:
        """A process begins to tell all that it has."""
        self.renewed[number] = set()

    def whole(self, number: int) -> None:
        """It has told all: it has nothing else."""
        told = self.renewed.pop(number, None)
        if told is None:  # what it was the end of, the one before this process has had
            return
        for by, known in self.by.items():
            for key in [key for key, owner in known.items() if owner == number and (int(by), key) not in told]:
                del known[key]
        self._unheard.discard(number)
        if not self._unheard:
            self._all_heard.set()
