"""What a machine needs to run Docker in tests, and a Docker daemon of the test's own.

Each `Daemon` is a dockerd in namespaces of its own (network, mounts, host name, processes), with a data folder and a
socket of its own: whatever Docker the machine has is neither used nor disturbed, and what the test makes in it is gone
with it. Its first process ends with the test's, even by ``kill -9``, and the kernel then ends all in its namespace:
containerd, its shims and every container.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.kafka_brokers import end_child_with_this_process

#: Patience with a busy machine, in seconds.
START_S = 120.0
ANSWER_S = 300.0

#: What is called, and the Debian package that has it.
_PROGRAMS = {
    "docker": "docker.io",
    "dockerd": "docker.io",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}


class CannotRun(Exception):
    """This machine cannot run Docker; the text says why."""


def have_docker() -> None:
    """See that this machine can run a daemon; installs what is missing where that can be done.

    Raises:
        CannotRun: it cannot, and why.
    """
    if not sys.platform.startswith("linux"):
        raise CannotRun(f"Docker Swarm is tested on Linux; this is {sys.platform}")
    if os.geteuid() != 0:
        raise CannotRun(f"a Docker daemon is started by root alone, and this is user {os.geteuid()}")
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        _install(missing)
    still = sorted(program for program in _PROGRAMS if shutil.which(program) is None)
    if still:
        raise CannotRun(f"no {', '.join(still)} here, though {', '.join(missing)} was installed")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        check=False,
    )
    if tried.returncode:
        raise CannotRun(f"this machine lets root make no namespaces: {tried.stderr.strip()}")


def _install(packages: list[str]) -> None:
    if shutil.which("apt-get") is None:
        raise CannotRun(f"not installed: {', '.join(packages)}; and there is no apt-get to install them with")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(
            # Else Debian would start a daemon for the whole machine.
            ["apt-get", "--quiet", "--quiet", *words],
            env=environment | {"RUNLEVEL": "1"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if done.returncode:
            raise CannotRun(f"apt-get {' '.join(words)} failed: {done.stderr.strip()[-1000:]}")


class DockerError(AssertionError):
    """A docker command failed; the text is what it said."""


@dataclass(slots=True, kw_only=True)
class Daemon:
    """A dockerd of the test's own; `start` again after `kill` is its next life, with the same data."""

    #: Its host name, and that of the node that it becomes.
    name: str
    #: Holds its data, its log and its socket.
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    @property
    def log(self) -> Path:
        return self.folder / "dockerd.log"

    @property
    def cgroup(self) -> str:
        return f"headwater-test-{os.getpid()}-{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """For every program that shall talk to it; nothing of the user's own Docker settings."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "HEADWATER_"))}
        return kept | {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.folder),
            "DOCKER_CLI_HINTS": "false",
        }

    def prepare(self) -> None:
        """Start its first process, in whose namespaces it will run; `serve` lets it go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "daemon.json").write_text("{}\n")  # nor of the machine's
        self.socket.unlink(missing_ok=True)
        init = shutil.which("docker-init")
        dockerd = [
            *([init, "-s", "--"] if init else []),
            "dockerd",
            *("--config-file", str(self.folder / "daemon.json"), "--data-root", str(self.data)),
            *("--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "--host", f"unix://{self.socket}"),
            *("--cgroup-parent", self.cgroup, "--log-level", "warn"),
        ]
        # It waits for a line, so that its network can be made before.
        script = 'hostname "$0" && mount -t tmpfs tmpfs /run && ip link set lo up && read -r _ && exec "$@"'
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"),
                    *("sh", "-c", script, self.name, *dockerd),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end_child_with_this_process(self.process.pid)
        until = time.monotonic() + START_S
        while not self._forked():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, f"{self.name} has no namespaces"
            time.sleep(0.01)

    def _forked(self) -> str:
        assert self.process is not None
        pid = self.process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()

    @property
    def pid(self) -> int:
        """Its first process, as this machine counts."""
        return int(self._forked().split()[0])

    def inside(self, *command: str) -> None:
        """Run a command in its network."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--net", *command],
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def serve(self) -> None:
        """Let it go on; returns when it answers."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.close()
        until = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None, f"dockerd of {self.name} ended:\n{self.said()}"
            try:
                self.docker("version", "--format", "{{.Server.Version}}", timeout=10)
                return
            except (DockerError, subprocess.TimeoutExpired):
                assert time.monotonic() < until, f"dockerd of {self.name} does not answer:\n{self.said()}"
                time.sleep(0.1)

    def start(self) -> None:
        """Start it without a network; returns when it answers."""
        self.prepare()
        self.serve()

    def docker(self, *words: str, stdin: str | None = None, timeout: float = ANSWER_S, cwd: Path | None = None) -> str:
        """What a docker command says, without the last line's end.

        Raises:
            DockerError: it failed.
        """
        done = subprocess.run(
            ["docker", *words],
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=cwd,
        )
        if done.returncode:
            raise DockerError(
                f"docker {' '.join(words)} at {self.name}: {(done.stderr or done.stdout).strip()[-4000:]}"
            )
        return done.stdout.strip()

    def stop(self) -> None:
        """As a machine that is shut down; what it holds stays."""
        if self.process is not None and self.process.poll() is None:
            subprocess.run(["kill", "-TERM", str(self.pid)], timeout=ANSWER_S, check=False)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        self._gone()

    def kill(self) -> None:
        """A power cut; what it holds stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(ANSWER_S)
        self._gone()

    def _gone(self) -> None:
        self.process = None
        for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
            mine = root / self.cgroup
            for folder in sorted((one for one in mine.rglob("*") if one.is_dir()), reverse=True):
                _rmdir(folder)
            _rmdir(mine)

    def remove(self) -> None:
        """End it, with all that it holds."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def said(self) -> str:
        """The end of its log, for failures."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-15:]) if self.log.exists() else ""


def _rmdir(cgroup: Path) -> None:
    until = time.monotonic() + 5
    while cgroup.is_dir():
        try:
            cgroup.rmdir()
        except OSError:  # the kernel is still ending its processes
            if time.monotonic() > until:
                return
            time.sleep(0.05)
