"""A demo's face: a live view and keys on a terminal, a line now and then where there is none.

Owns the terminal's mode while it is open, and gives it back whatever happens. What is shown is each demo's.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

_LINE_EVERY = 5.0


class Picture(Protocol):
    """How a demo stands at one moment, for both faces."""

    @property
    def seconds(self) -> float:
        """Since its start."""

    @property
    def link_cut(self) -> bool: ...

    def line(self) -> str:
        """In one line."""

    def view(self) -> RenderableType:
        """On a whole terminal."""


class Face(Protocol):
    """Shows how things stand; `key` is what was typed since, or an empty text."""

    def show(self, picture: Picture) -> None: ...

    def key(self) -> str: ...


class Lines:
    """A line every five seconds, and whenever the link changes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._next = 0.0
        self._cut = False

    def show(self, picture: Picture) -> None:
        if picture.seconds >= self._next or picture.link_cut is not self._cut:
            self._next = picture.seconds + _LINE_EVERY
            self._cut = picture.link_cut
            self._say(picture.line())

    def key(self) -> str:
        return ""


class LiveView:
    """The view on a terminal."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, picture: Picture) -> None:
        self._live.update(picture.view(), refresh=True)

    def key(self) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], 0)
        # Not by sys.stdin: it would take all that is there, and select sees nothing of its buffer.
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""


@contextmanager
def face(*, live: bool, say: Callable[[str], None]) -> Iterator[Face]:
    """A live view with keys where ``live`` (stdin and stdout are a terminal), else lines."""
    if not live:
        yield Lines(say)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        with Live(Text(""), console=Console(), auto_refresh=False, vertical_overflow="crop") as shown_live:
            yield LiveView(shown_live)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
