"""The child processes of a demo: ``headwater`` commands and stores, each in a process group of its own, with its log in
a file.

Owns starting, watching and stopping them, and the reaper that ends them should this process be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from headwater.demo.reaper import signal_group
from headwater.servers import processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process that was started; ``log`` has what it wrote."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def ended(self) -> int | None:
        """The exit code once it has ended."""
        return self.process.poll()

    def last_lines(self, count: int = 12) -> str:
        """The end of its log."""
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-count:]) or "(its log is empty)"


class Children:
    """The children of this process. Leaving the context ends them all, in the reverse order of their start."""

    def __init__(self, logs: Path, config: Path) -> None:
        """``config`` is the settings file that each child is told, so that it takes none that lies around."""
        self._logs = logs
        self._config = config
        self._running: dict[str, Child] = {}
        # Settings of the person who started the demo are not meant for its parts.
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("HEADWATER_")}
        logs.mkdir(parents=True, exist_ok=True)
        self._reaper = subprocess.Popen(
            [sys.executable, "-m", "headwater.demo.reaper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def guard_broker(self, name: str, directory: Path) -> None:
        """Let the reaper also end the broker ``name`` of ``directory``."""
        self._tell({"broker": name, "directory": str(directory.absolute())})

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start ``headwater ARGUMENTS`` as the child ``name``."""
        return self.run(name, [sys.executable, "-m", "headwater.cli", *arguments, "--config", str(self._config)])

    def run(self, name: str, command: Sequence[str], *, directory: Path | None = None) -> Child:
        """Start any program as the child ``name``, in ``directory`` if one is given."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=self._environment,
                start_new_session=True,
            )
        self._tell({"child": process.pid, "started": processes.start_time(process.pid)})
        self._running[name] = Child(name=name, process=process, log=log)
        return self._running[name]

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the child ``name``, if it still runs."""
        if self._running[name].ended is None:
            self._running[name].process.send_signal(number)

    def dead(self) -> list[Child]:
        """Those that ended though nobody stopped them."""
        return [child for child in self._running.values() if child.ended is not None]

    def stop(self, *names: str, timeout: float = 10.0) -> None:
        """Stop these children (all, where none is named): asked first, killed after ``timeout`` seconds."""
        chosen = [self._running.pop(name) for name in names or tuple(self._running) if name in self._running]
        for child in reversed(chosen):
            if child.ended is None:
                signal_group(child.process.pid, signal.SIGTERM)
        until = time.monotonic() + timeout
        for child in reversed(chosen):
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                signal_group(child.process.pid, signal.SIGKILL)
                child.process.wait(5.0)
            self._tell({"gone": child.process.pid})

    def _tell(self, what: dict[str, object]) -> None:
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(json.dumps(what).encode() + b"\n")
        self._reaper.stdin.flush()

    def close(self) -> None:
        """Stop all children and then the reaper, which has nothing left to do but to look for the brokers."""
        self.stop()
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        try:
            self._reaper.wait(30.0)
        except subprocess.TimeoutExpired:
            self._reaper.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
