"""A real cAdvisor in a test's hands: its manager and its collector, built once for this user from their source.

Its command is a Go module of its own that the module proxy does not have; ``tests/stacks/cadvisor/main.go`` starts the
same out of cAdvisor's library, of the version whose image `stacks/monitoring.yml` takes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater.servers.installed import installed
from tests.installed_server import ANSWER_S, Server
from tests.prometheus_server import BUILD_S

SOURCE = Path(__file__).parent / "stacks/cadvisor"
CADVISOR_VERSION = "0.52.1"


def cadvisor() -> Path:
    """The program, built first if need be."""
    return installed(f"cadvisor-{CADVISOR_VERSION}", _build) / "cadvisor"


def _build(staging: Path) -> Path:
    source, made = staging / "source", staging / "bin"
    shutil.copytree(SOURCE, source)
    made.mkdir()
    done = subprocess.run(
        [
            Path(sysconfig.get_path("scripts")) / "go",
            "build",
            "-trimpath",
            "-mod=readonly",
            "-o",
            made / "cadvisor",
            ".",
        ],
        cwd=source,
        env=os.environ
        | {
            "GOPATH": str(staging / "path"),
            "GOCACHE": str(staging / "cache"),
            "GOTMPDIR": str(staging),
            "GOFLAGS": "-modcacherw",  # else what was downloaded could not be deleted
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"cAdvisor {CADVISOR_VERSION} could not be built:\n{done.stderr[-4000:]}")
    # The list of its metrics, of this very version; a module's files are read-only.
    (told,) = (staging / "path").glob("pkg/mod/github.com/google/cadvisor@*/docs/storage/prometheus.md")
    shutil.copyfile(told, made / "prometheus.md")
    return made


def documented_metrics() -> set[str]:
    """The names of all metrics that cAdvisor says it shows."""
    return set(re.findall(r"^`((?:container|machine)_\w+)`", (cadvisor().parent / "prometheus.md").read_text(), re.M))


@dataclass(slots=True, kw_only=True)
class CadvisorServer(Server):
    """One real cAdvisor, which sees the control groups of this machine and, where it may, Docker's containers."""

    port: int
    #: Where Docker answers, and the words before its command that bring it to where Docker's containers are processes.
    docker: str = "unix:///var/run/docker.sock"
    within: Sequence[str] = ()

    def start(self) -> None:
        """Returns when it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.run(
            [*self.within, cadvisor(), "-listen", f"127.0.0.1:{self.port}", "-docker", self.docker],
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=ANSWER_S).close(),
            env={"HOME": str(self.directory), "PATH": os.environ["PATH"], "GOMAXPROCS": "2"},
        )
