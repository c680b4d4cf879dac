"""The demo's face: a live view and keys on a terminal, a line now and then where there is none.

Owns the terminal's mode while it is open, and gives it back whatever happens.
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

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from headwater.output import table
from headwater.traffic import Flow, Traffic
from headwater.values import shown
from schemas.lwm2m.path import Path

#: What the virtual sensors tell: the columns of the view.
_COLUMNS = {
    "temperature 0, °C": Path(3303, 0, 5700),
    "temperature 1, °C": Path(3303, 1, 5700),
    "humidity, %RH": Path(3304, 0, 5700),
}
_ROWS = 12
_LINE_EVERY = 5.0


class Face(Protocol):
    """Shows how things stand; `key` is what was typed since, or an empty text."""

    def show(self, flow: Flow, traffic: Traffic) -> None: ...

    def key(self) -> str: ...


class Lines:
    """A line every five seconds, and whenever the link changes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._next = 0.0
        self._cut = False

    def show(self, flow: Flow, traffic: Traffic) -> None:
        if flow.seconds >= self._next or flow.link_cut is not self._cut:
            self._next = flow.seconds + _LINE_EVERY
            self._cut = flow.link_cut
            self._say(_line(flow))

    def key(self) -> str:
        return ""


def _line(flow: Flow) -> str:
    return (
        f"{flow.seconds:5.0f} s  devices {flow.devices}  acknowledged {flow.acknowledged}  edge {flow.edge} "
        f"({flow.edge_rate:.1f}/s)  cloud {flow.cloud} ({flow.cloud_rate:.1f}/s)  behind {flow.behind}  "
        f"rows {flow.rows}  WAN {'CUT' if flow.link_cut else 'up'}"
    )


class LiveView:
    """The view on a terminal."""

    def __init__(self, live: Live, head: str) -> None:
        self._live = live
        self._head = head

    def show(self, flow: Flow, traffic: Traffic) -> None:
        self._live.update(_view(flow, traffic, self._head), refresh=True)

    def key(self) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], 0)
        # Not by sys.stdin: it would take all that is there, and select sees nothing of its buffer.
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") if ready else ""


def _view(flow: Flow, traffic: Traffic, head: str) -> RenderableType:
    rows = []
    picture = traffic.picture
    for ep in sorted(picture.devices)[:_ROWS]:
        device = picture.devices[ep]
        told = [picture.value(ep, path) for path in _COLUMNS.values()]
        rows.append(
            (
                ep,
                device.state.value,
                *("" if value is None else shown(value.resource) for value in told),
            )
        )
    more = len(picture.devices) - _ROWS
    return Group(
        table(("device", "state", *_COLUMNS), rows, title=f"{head}  ·  {flow.seconds:.0f} s"),
        Text(f"  … and {more} more devices") if more > 0 else Text(""),
        table(
            ("acknowledged", "edge", "/s", "cloud", "/s", "behind", "stored", "WAN"),
            [
                (
                    str(flow.acknowledged),
                    str(flow.edge),
                    f"{flow.edge_rate:.1f}",
                    str(flow.cloud),
                    f"{flow.cloud_rate:.1f}",
                    str(flow.behind),
                    str(flow.rows),
                    "CUT" if flow.link_cut else "up",
                )
            ],
        ),
        Text("c: cut the WAN for 20 s    q: stop and audit    Ctrl-C: stop", style="dim"),
    )


@contextmanager
def face(*, live: bool, head: str, say: Callable[[str], None]) -> Iterator[Face]:
    """A live view with keys where ``live`` (stdin and stdout are a terminal), else lines."""
    if not live:
        yield Lines(say)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        with Live(Text(""), console=Console(), auto_refresh=False, vertical_overflow="crop") as shown_live:
            yield LiveView(shown_live, head)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
