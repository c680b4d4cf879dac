"""Processes and ports of this machine: start one that lives on, know it again later, end it, find a free port.

Owns the rule that a process id alone is never trusted: the kernel gives ids out again, so an id counts only together
with the time at which its process began. It never ends a process that the caller has not named by id.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

# Our own children, so that a dead one is reaped and not taken for one that lives.
_children: dict[int, subprocess.Popen[bytes]] = {}


def spawn(command: Sequence[str], out: IO[bytes], *, cwd: Path) -> int:
    """Start ``command`` in a session of its own, so that neither Ctrl-C nor the end of this process reaches it."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True
    )
    _children[child.pid] = child
    return child.pid


def start_time(pid: int) -> str | None:
    """When the process began, in a form that is only good for comparison; None if it is not alive."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
        return None
    if Path("/proc/self/stat").exists():
        try:
            # proc(5): the name in parentheses may hold anything, so count the fields after the last one.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        # A killed process whose other threads still wind up already shows as a zombie, but holds its ports.
        if fields[0] in "ZX" and len(list(Path(f"/proc/{pid}").glob("task/*"))) <= 1:
            return None
        return fields[19]
    done = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
    )
    state, _, started = done.stdout.strip().partition(" ")
    return None if not started or state.startswith("Z") else started.strip()


def end(pid: int, *, timeout: float) -> None:
    """Ask the process to end, wait ``timeout`` seconds, then kill it (0: kill at once); returns when it is gone."""
    started = start_time(pid)
    if started is None:
        return
    until = time.monotonic() + timeout
    asked = timeout > 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM if asked else signal.SIGKILL)
    while start_time(pid) == started:
        if asked and time.monotonic() > until:
            asked = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on.

    From below the range out of which the kernel serves outgoing connections: a server that is stopped and started
    again on its port would else find it taken by some client.
    """
    for _ in range(1000):
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port between 15000 and 32000")


def listener(port: int) -> tuple[int, str] | None:
    """The process id and name of who listens on a TCP port; None where that cannot be known."""
    inodes = {
        fields[9]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for fields in (line.split() for line in Path(table).read_text().splitlines()[1:])
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    }
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):  # other people's processes do not show their files, others end meanwhile
            for descriptor in (process / "fd").iterdir():
                if descriptor.readlink().name.removeprefix("socket:[").removesuffix("]") in inodes:
                    return int(process.name), (process / "comm").read_text().strip()
    return None
