"""Calls that may never return, and how the process ends all the same.

Owns what is being asked of a store right now. Knows no store and no Kafka.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class LeftBehind(Exception):
    """The store was asked for too long at the end; nobody waits for this thread any more."""


class StoreCalls:
    """What one thread asks of its store; any other may go without the answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: str | None = None
        #: Nobody waits any more: whoever comes back from the store does nothing further.
        self.left_behind = False

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Around each call into the store. Raises LeftBehind once nobody waits for it any more."""
        self._now(what)
        try:
            yield
        finally:
            self._now(None)

    def leave_behind(self) -> str | None:
        """Go without the answer: what was asked, or None if nothing is being asked."""
        with self._lock:
            self.left_behind = self._asked is not None
            return self._asked

    def _now(self, what: str | None) -> None:
        with self._lock:
            self._asked = what
            if self.left_behind:
                raise LeftBehind


def within(seconds: float, act: Callable[[], None]) -> None:
    """Do it, or give up waiting for it: with Kafka away, leaving a group can take minutes."""
    thread = threading.Thread(target=act, name="leave", daemon=True)
    thread.start()
    thread.join(timeout=seconds)
