"""When the link of a demo is cut, and how long it was.

Owns the timetable: once in the middle where it is asked for, and whenever somebody presses the key. Times are seconds
after the demo's start.
"""

from __future__ import annotations

from headwater.demo.link import Link

KEY_CUT = 20.0


class Cuts:
    """Cuts ``link`` and restores it. `at` is called every now and then, `end` once."""

    def __init__(self, link: Link, *, wan_cut: float, duration: float | None) -> None:
        """``wan_cut``: how long it is cut in the middle of ``duration`` (None: after ten seconds); 0: not at all."""
        self._link = link
        self._from = self._until = 0.0
        self._since = self._seconds = 0.0
        if wan_cut > 0:
            self._from = 10.0 if duration is None else max(0.0, (duration - wan_cut) / 2)
            self._until = self._from + wan_cut

    @property
    def is_cut(self) -> bool:
        return self._link.is_cut

    def at(self, now: float) -> None:
        """Do what is due."""
        if self._from <= now < self._until and not self._link.is_cut:
            self._link.cut()
            self._since = now
        elif self._link.is_cut and now >= self._until:
            self._restore(now)

    def on_key(self, now: float) -> None:
        """Cut it for `KEY_CUT` seconds, unless it is cut."""
        if not self._link.is_cut:
            self._from, self._until = now, now + KEY_CUT

    def end(self, now: float) -> float:
        """Restore the link; returns for how many seconds it was cut in all."""
        if self._link.is_cut:
            self._restore(now)
        return self._seconds

    def _restore(self, now: float) -> None:
        self._link.restore()
        self._seconds += now - self._since
