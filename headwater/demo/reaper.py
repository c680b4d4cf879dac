"""The reaper: ends what a demo has started when the demo itself is gone, even by ``kill -9``.

Owns nothing but a list. It reads lines of JSON from its stdin, whose other end only the demo holds; when that end is
closed it ends every process of the list that still is the one it was told of, and the brokers in their folders. It is
in a session of its own, so that Ctrl-C does not reach it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from headwater.servers import processes

#: How long a process has to end by itself, in seconds.
GRACE = 5.0


def reap(children: dict[int, str], brokers: set[tuple[str, str]]) -> None:
    """End the process groups that ``children`` lead (with their start times), then the brokers (name, directory)."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE
        for pid, started in children.items():
            if processes.start_time(pid) == started:
                signal_group(pid, number)
        while time.monotonic() < until and any(processes.start_time(p) == s for p, s in children.items()):
            time.sleep(0.05)
    if brokers:
        from headwater.servers import broker

        for name, directory in brokers:
            broker.kill(name, Path(directory))


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that ``pid`` leads, if it is still there."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def main() -> None:
    """Read until the demo's end of the pipe is closed, then reap."""
    children: dict[int, str] = {}
    brokers: set[tuple[str, str]] = set()
    for line in sys.stdin:
        told = json.loads(line)
        if "child" in told:
            children[told["child"]] = told["started"]
        elif "gone" in told:
            children.pop(told["gone"], None)
        elif "broker" in told:
            brokers.add((told["broker"], told["directory"]))
    reap(children, brokers)


if __name__ == "__main__":
    main()
