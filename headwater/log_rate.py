"""A kind of line is written so often and no more, whatever peers do: what strangers send must not fill a disk.

A kind is what says it and its words without the values. What is left out is told by the next line of its kind that is
written, as ``left_out``; how often a thing happened is what the metrics count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from structlog import DropEvent

#: So many lines of a kind in so many seconds.
MOST = 20
SECONDS = 10.0
#: So many kinds are told apart; a process has far fewer.
MOST_KINDS = 1_000


@dataclass(slots=True)
class _Kind:
    begun: float
    written: int = 0
    left_out: int = 0


class LogRate:
    """A processor of structlog's. The clock is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def __call__(self, logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """
        Raises:
            DropEvent: there were enough of this kind.
        """
        now = self._clock()
        which = str(getattr(logger, "name", "")), str(event.get("event", ""))
        kind = self._kinds.get(which)
        if kind is None:
            if len(self._kinds) >= MOST_KINDS:
                self._kinds.clear()
            kind = self._kinds[which] = _Kind(now)
        elif now - kind.begun >= SECONDS:
            kind.begun, kind.written = now, 0
        if kind.written == MOST:
            kind.left_out += 1
            raise DropEvent
        kind.written += 1
        if kind.left_out:
            event["left_out"], kind.left_out = kind.left_out, 0
        return event
