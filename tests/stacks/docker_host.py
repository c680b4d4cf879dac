"""What a machine needs to run Docker in tests, and a Docker daemon of the test's own.

Each `Daemon` is a dockerd in namespaces of its own (network, mounts, host name, processes), with a data folder and a
socket of its own: whatever Docker the machine has is neither used nor disturbed, and what the test makes in it is gone
with it. Its first process ends with the test's, even by ``kill -9``, and the kernel then ends all in its namespace:
containerd, its shims and every container.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from headwater.servers import processes
from headwater.servers.kafka_jars import cache_folder
from tests.kafka_brokers import end_child_with_this_process

#: Patience with a busy machine, in seconds.
START_S = 120.0
ANSWER_S = 300.0

#: In a daemon's folder: which process it is. And how the names of its cgroups begin.
_RECORD, _CGROUP = "process.json", "headwater-test"

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
    missing = _missing()
    if missing:
        folder = cache_folder(os.environ)
        folder.mkdir(parents=True, exist_ok=True)
        # apt-get does not wait for another one, of another worker of this run.
        with (folder / "apt.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _missing():
                _install(missing)
    still = sorted(program for program in _PROGRAMS if shutil.which(program) is None)
    if still:
        raise CannotRun(f"no {', '.join(still)} here, though {', '.join(missing)} was installed")
    cannot = _lacking()
    if cannot:
        raise CannotRun("; ".join(cannot))
    remove_left_cgroups()


#: What a daemon and its boxes do, tried out in namespaces that are gone with the trial, and what it is that is missing.
_TRIALS = {
    "mount -t tmpfs tmpfs /run": "nothing can be mounted",
    "ip link add switch type bridge": "no network bridge can be made",
    "ip link add port type veth peer name other": "no veth pair can be made",
    "ip link add tunnel type vxlan id 1 dstport 4789": "no VXLAN tunnel can be made, and so no overlay network",
    "iptables -t nat -A POSTROUTING -j MASQUERADE": "iptables cannot translate addresses",
    "iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT": "iptables cannot follow connections",
    'mkdir low up work all && mount -t overlay -o "lowerdir=$PWD/low,upperdir=$PWD/up,workdir=$PWD/work" none all': (
        "no overlay file system can be mounted in {folder}"
    ),
}


def _lacking() -> list[str]:
    """All that this machine refuses, though it is root who asks."""
    apart = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
    refused = _refused([*apart, "true"], Path("/"))
    if refused:
        return [f"this machine lets root make no namespaces (no CAP_SYS_ADMIN?): {refused}"]
    store = cache_folder(os.environ)
    store.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory(dir=store, prefix="trial-") as name:
        for trial, missing in _TRIALS.items():
            refused = _refused([*apart, "sh", "-c", trial], Path(name))
            if refused:
                found.append(f"{missing.format(folder=store)}: {refused}")
    roots = [one for one in Path("/sys/fs/cgroup").glob("*/") if one.name in ("memory", "pids")]
    for root in roots or [Path("/sys/fs/cgroup")]:
        mine = root / f"{_CGROUP}-{os.getpid()}-trial"
        try:
            mine.mkdir()
        except OSError as exc:
            found.append(f"no cgroup can be made: {mine}: {exc.strerror}")
            break
        mine.rmdir()
    return found


def _refused(command: list[str], folder: Path) -> str:
    """What a command that fails says; empty if it does not."""
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S, check=False
    )
    return " ".join(done.stderr.split()) or f"exit code {done.returncode}" if done.returncode else ""


def _missing() -> list[str]:
    return sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})


def need_docker(what: str) -> None:
    """Fail a test of ``what`` with all that this machine lacks, if it cannot run a daemon."""
    try:
        have_docker()
        return
    except CannotRun as exc:
        why = str(exc)
    pytest.fail(
        f"{what} cannot be tested on this machine: {why} (make test SWARM=no leaves these tests out)", pytrace=False
    )


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
        return f"{_CGROUP}-{os.getpid()}-{self.name}"

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
        write_record(self.folder, self.process.pid)
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
        (self.folder / _RECORD).unlink(missing_ok=True)
        for mine in _cgroups(self.cgroup):
            _remove_cgroup(mine)

    def remove(self) -> None:
        """End it, with all that it holds."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def said(self) -> str:
        """The end of its log, for failures."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-15:]) if self.log.exists() else ""


def write_record(folder: Path, pid: int) -> None:
    """Note which process is the daemon in ``folder``, for the next run."""
    (folder / _RECORD).write_text(json.dumps({"pid": pid, "started": processes.start_time(pid)}))


def end_leftover(folder: Path) -> None:
    """End the daemon that a killed test may have left running in ``folder``, by the record that it made there."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        pid, started = int(record["pid"]), record["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if started is not None and processes.start_time(pid) == started:
        processes.end(pid, timeout=0)


def remove_left_cgroups() -> None:
    """Those of test processes that were killed; the daemons in them ended with the processes."""
    for one in _cgroups(f"{_CGROUP}-*"):
        pid = one.name.removeprefix(f"{_CGROUP}-").partition("-")[0]
        if pid.isdigit() and processes.start_time(int(pid)) is None:
            _remove_cgroup(one)


def _cgroups(pattern: str) -> list[Path]:
    """In the one hierarchy of cgroup 2, or in each of cgroup 1."""
    top = Path("/sys/fs/cgroup")
    return [one for root in (top, *top.glob("*/")) for one in root.glob(pattern)]


def _remove_cgroup(cgroup: Path) -> None:
    for folder in sorted((one for one in cgroup.rglob("*") if one.is_dir()), reverse=True):
        _rmdir(folder)
    _rmdir(cgroup)


def _rmdir(cgroup: Path) -> None:
    until = time.monotonic() + 5
    while cgroup.is_dir():
        try:
            cgroup.rmdir()
        except OSError:  # the kernel is still ending its processes
            if time.monotonic() > until:
                return
            time.sleep(0.05)
