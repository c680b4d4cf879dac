"""What the tests of both demos look at from outside: their processes, and what comes in its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def processes_of(directory: Path) -> dict[int, list[str]]:
    """The processes that work in or for a demo's folder, with their command lines; a zombie has none."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if any(str(directory) in word for word in line):
            found[int(place.name)] = line
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Look again and again."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)
