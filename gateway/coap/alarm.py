"""One timer for many deadlines: it goes off at the earliest that it was told of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls ``due`` once, at the earliest deadline since it went off last; ``due`` tells it the next one."""

    def __init__(self, due: Callable[[], None]) -> None:
        self._due = due
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, loop: asyncio.AbstractEventLoop, deadline: float | None) -> None:
        """Go off at ``deadline`` (seconds of the loop's clock), or before; None: there is nothing to wait for."""
        if deadline is None:
            return
        if self._timer is not None:
            if self._at <= deadline:
                return
            self._timer.cancel()
        self._at = deadline
        self._timer = loop.call_at(deadline, self._go_off)

    def cancel(self) -> None:
        """Do not go off any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _go_off(self) -> None:
        self._timer = None
        self._due()
