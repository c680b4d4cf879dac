"""A process that stands still, as a machine that hangs: its ports take connections, and nothing answers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

#: Patience with a busy machine, in seconds.
_STANDS_S = 60.0


def stand_still(pid: int) -> None:
    """SIGSTOP; returns when every thread stands: each goes on until it looks at its signals, and may still answer."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    until = time.monotonic() + _STANDS_S
    while any(_state(task) not in "TtZX" for task in tasks.iterdir()):
        assert time.monotonic() < until, f"{pid} does not stand still"
        time.sleep(0.01)


def go_on(pid: int) -> None:
    """SIGCONT."""
    os.kill(pid, signal.SIGCONT)


def _state(task: Path) -> str:
    """The letter of proc(5): T for a thread that is stopped, X for one that is gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
