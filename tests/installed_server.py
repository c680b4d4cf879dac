"""Other people's servers in a test's hands: installed once for this user, killed and restarted, gone with pytest."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headwater.servers.installed import installed as installed
from tests import standing_still
from tests.kafka_brokers import end_child_with_this_process

#: Patience with a busy machine, in seconds.
ANSWER_S = 60.0


@dataclass(slots=True, kw_only=True)
class Server:
    """A server that keeps all that it has in ``directory``; ``process`` is None between a kill and the restart."""

    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def run(
        self, command: Sequence[str | Path], answers: Callable[[], object], *, env: Mapping[str, str] | None = None
    ) -> None:
        """Start it; returns when ``answers`` raises no OSError any more."""
        output = self.directory / "server.log"
        with output.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=env,
                start_new_session=True,
            )
        end_child_with_this_process(self.process.pid)
        until = time.monotonic() + ANSWER_S
        while True:
            assert self.process.poll() is None, output.read_text("utf-8", "replace")[-4000:]
            try:
                answers()
                return
            except OSError:
                assert time.monotonic() < until, f"{command[0]} does not answer"
                time.sleep(0.05)

    def pause(self) -> None:
        """As a machine that hangs: its port still takes connections, and nothing answers."""
        assert self.process is not None
        standing_still.stand_still(self.process.pid)

    def go_on(self) -> None:
        assert self.process is not None
        standing_still.go_on(self.process.pid)

    def stop(self) -> None:
        """As people stop it: all is on the disk then."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(ANSWER_S)
        self.process = None

    def kill(self) -> None:
        """SIGKILL, as a power cut; returns when it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(ANSWER_S)
            self.process = None

    def remove(self) -> None:
        """End it, with all that it holds."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
