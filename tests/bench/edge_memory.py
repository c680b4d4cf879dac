"""How much memory the whole edge stack holds with the settings for small machines: Kafka, gateway and replicator.

Owns one measurement: the containers of `make images` with what `stacks/settings/lowmem.env` says, each with mutual
TLS, a read-only root and the memory limit of that file; a Kafka for the cloud's side beside them, which is not counted;
and a `fleet` that notifies at a fixed rate. What is resident is read in three ways every five seconds: RSS of each
process, its proportional share (PSS of smaps_rollup: what processes share is counted once), and what the kernel charges
the container's cgroup with and cannot drop (memory.stat: anonymous memory and mapped files). At the end each
notification that was acknowledged must be in both Kafkas, once. With ``--cloud-away 120`` the cloud's Kafka is stopped
for two minutes in the middle, and what was kept meanwhile is carried after it. All containers use this machine's
network.

    python -m tests.bench.edge_memory --minutes 10 --version dev
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

from connectors.kafka import Cluster, Unreachable, ensure_topics, partition_counts, read_to_end
from gateway.notification_batches import HEADER_MID
from schemas.avro.topics import Topics
from security.authority import Authority
from security.identities import Identity, Role
from tests.bench.fleet import PATTERN, Fleet
from tests.bench.watch import say
from tests.ports import held_port

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = REPOSITORY / "stacks" / "settings" / "lowmem.env"
GATEWAY = "lowmem"
#: What the edge stack may hold, in bytes: 300 MB as the trade counts them.
MOST = 300_000_000

#: Patience, in seconds: with a server's start on a busy machine, and with the last records on their way.
_START_S, _ARRIVED_S = 180.0, 120.0
#: How often is looked, in seconds; every third time the metrics are read, as Prometheus would.
_LOOK_S = 5.0
_USER = 10001


class CannotMeasure(Exception):
    """It could not be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a container holds at one moment, in bytes."""

    rss: int
    pss: int
    cgroup: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured; bytes, over the whole run from the first notification on."""

    minutes: float
    rate: float
    acknowledged: int
    retried: int
    lost: int
    in_edge: int
    in_cloud: int
    doubled: int
    #: The largest sum over the three at one moment, by each way of counting.
    rss: int
    pss: int
    cgroup: int
    #: What each held at the end.
    at_end: Mapping[str, Held]

    @property
    def good(self) -> bool:
        """Within the limit by every way of counting, nothing lost and nothing doubled."""
        whole = self.acknowledged == self.in_edge == self.in_cloud and not self.lost and not self.doubled
        return whole and max(self.rss, self.pss, self.cgroup) <= MOST


def measure(*, version: str, minutes: float, rate: float, devices: int, away: float = 0.0) -> Figures:
    """Run it. ``away``: for how many seconds the cloud's Kafka is stopped, from a third of the time on.

    Raises:
        CannotMeasure: Docker or the images are not there, or a container did not start.
        FleetError: the gateway did not register or observe the devices.
    """
    if shutil.which("docker") is None:
        raise CannotMeasure("docker is not installed here")
    settings = settings_of(SETTINGS.read_text())
    with tempfile.TemporaryDirectory(prefix="headwater-edge-") as name, contextlib.ExitStack() as stack:
        return _Run(Path(name), settings, version).measure(
            stack, minutes=minutes, rate=rate, devices=devices, away=away
        )


def settings_of(text: str) -> dict[str, str]:
    """The variables of an environment file."""
    lines = (line.strip() for line in text.splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class _Run:
    def __init__(self, folder: Path, settings: Mapping[str, str], version: str) -> None:
        self._settings, self._version = settings, version
        self._prefix = f"headwater-edge-{os.getpid()}"
        self._edge, self._cloud, self._coap, self._coaps = held_port(), held_port(), held_port(), held_port()
        self._metrics = {name: held_port() for name in ("kafka", "gateway", "replicator")}
        authority = Authority(folder / "pki")
        authority.create()
        self._tls: dict[str, Path] = {}
        for identity in (
            *(Identity(Role.BROKER, GATEWAY), Identity(Role.BROKER, "cloud"), Identity(Role.ADMIN, "fleet")),
            *(Identity(Role.GATEWAY, GATEWAY), Identity(Role.REPLICATOR, GATEWAY)),
        ):
            # A copy that belongs to the images' user, as a secret does.
            own = folder / identity.principal.replace(":", "+")
            names = ["localhost", "127.0.0.1"] if identity.role is Role.BROKER else []
            shutil.copytree(authority.ensure(identity, names=names).folder, own)
            for path in (own, *own.rglob("*")):
                os.chown(path, _USER, _USER)
            self._tls[identity.principal] = own
        folder.chmod(0o755)
        admin = self._tls["admin:fleet"]
        self.edge = Cluster(bootstrap=f"127.0.0.1:{self._edge}", tls=admin)
        self.cloud = Cluster(bootstrap=f"127.0.0.1:{self._cloud}", tls=admin)

    def measure(
        self, stack: contextlib.ExitStack, *, minutes: float, rate: float, devices: int, away: float
    ) -> Figures:
        self._kafkas(stack)
        parts = {"kafka": f"{self._prefix}-kafka"} | self._processes(stack)
        fleet = stack.enter_context(Fleet(("127.0.0.1", self._coap), devices))
        fleet.register()
        seen: list[dict[str, Held]] = []

        begun, over = time.monotonic(), Event()

        def watch() -> None:
            while True:
                seen.append({name: held(container) for name, container in parts.items()})
                if len(seen) % 3 == 0:
                    self._scrape()
                if len(seen) % 6 == 1:
                    say(shown(time.monotonic() - begun, seen[-1]))
                if over.wait(_LOOK_S):
                    return

        def stop_the_cloud() -> None:
            if away and not over.wait(minutes * 60 / 3):
                _docker("stop", f"{self._prefix}-cloud")
                say(f"{time.monotonic() - begun:5.0f} s: the cloud's Kafka is stopped")
                over.wait(away)
                _docker("start", f"{self._prefix}-cloud")
                say(f"{time.monotonic() - begun:5.0f} s: the cloud's Kafka is started again")

        with ThreadPoolExecutor(2) as pool:
            watching, stopping = pool.submit(watch), pool.submit(stop_the_cloud)
            try:
                took = fleet.notify_at(rate, minutes * 60, lambda: None)
            finally:
                over.set()
            watching.result()
            stopping.result()
        topics = Topics(GATEWAY)
        tally = fleet.tally
        in_edge, _ = _notified(self.edge, topics.observations)
        in_cloud, different = self._arrived(topics.observations, in_edge)
        return Figures(
            minutes=round(took / 60, 2),
            rate=round(tally.acknowledged / took, 1),
            acknowledged=tally.acknowledged,
            retried=tally.retried,
            lost=tally.lost,
            # The first value of each observation is a record too, and no notification.
            in_edge=in_edge,
            in_cloud=in_cloud,
            doubled=in_cloud - different,
            rss=max(sum(one.rss for one in sample.values()) for sample in seen),
            pss=max(sum(one.pss for one in sample.values()) for sample in seen),
            cgroup=max(sum(one.cgroup for one in sample.values()) for sample in seen),
            at_end=seen[-1],
        )

    def _kafkas(self, stack: contextlib.ExitStack) -> None:
        for name, port, broker, variables in (
            ("kafka", self._edge, f"broker:{GATEWAY}", self._lowmem_kafka()),
            ("cloud", self._cloud, "broker:cloud", {"KAFKA_METRICS_PORT": "0"}),
        ):
            memory = self._settings["EDGE_KAFKA_MEMORY"] if name == "kafka" else "1g"
            variables = variables | {
                "KAFKA_ADVERTISED": f"127.0.0.1:{port}",
                "KAFKA_LISTENER_PORT": str(port),
                "KAFKA_CONTROLLER_PORT": str(held_port()),
                "KAFKA_SUPER_USERS": f"{broker},admin:fleet",
            }
            self._start(stack, name, "headwater-kafka", variables, memory, self._tls[broker], [])
        for cluster in (self.edge, self.cloud):
            self._until_it_answers(cluster)
        ensure_topics(self.edge, Topics(GATEWAY).partitions())
        for side, cluster in (("edge", self.edge), ("cloud", self.cloud)):
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "headwater.cli", "acl", "apply", "--side", side, "--gateway", GATEWAY),
                    *("--kafka", cluster.bootstrap, "--kafka-tls", str(cluster.tls)),
                ],
                capture_output=True,
                text=True,
                timeout=_START_S,
                check=False,
            )
            if done.returncode:
                raise CannotMeasure(f"headwater acl apply --side {side}: {done.stderr}")

    def _lowmem_kafka(self) -> dict[str, str]:
        told = {
            "KAFKA_PROFILE": "EDGE_KAFKA_PROFILE",
            "KAFKA_HEAP": "EDGE_KAFKA_HEAP",
            "KAFKA_RETENTION_MS": "EDGE_RETENTION_MS",
            "KAFKA_RETENTION_BYTES": "EDGE_RETENTION_BYTES",
        }
        variables = {name: self._settings.get(variable, "") for name, variable in told.items()}
        # Another port than in the stack, if it is served at all.
        if self._settings.get("EDGE_KAFKA_METRICS_PORT") == "0":
            del self._metrics["kafka"]
        return variables | {"KAFKA_METRICS_PORT": str(self._metrics.get("kafka", 0))}

    def _processes(self, stack: contextlib.ExitStack) -> dict[str, str]:
        """The gateway's and the replicator's containers, by name."""
        edge = f"127.0.0.1:{self._edge}"
        words = {
            "gateway": [
                *("gateway", f"--id={GATEWAY}", f"--kafka={edge}", "--kafka-tls=/run/secrets/kafka"),
                *(f"--coap=127.0.0.1:{self._coap}", "--state=/var/lib/headwater/state", f"--observe={PATTERN}"),
                # As the stack has it, though these devices speak in the clear.
                *(f"--coaps=127.0.0.1:{self._coaps}", "--credentials=/var/lib/headwater/credentials.db"),
                *("--make-credentials", "--insecure"),
            ],
            "replicator": [
                *("replicate", f"--gateway={GATEWAY}", f"--edge={edge}", "--edge-tls=/run/secrets/kafka"),
                *(f"--cloud=127.0.0.1:{self._cloud}", "--cloud-tls=/run/secrets/kafka"),
            ],
        }
        found = {}
        for name, command in words.items():
            variables = {"HEADWATER_METRICS": str(self._metrics[name]), "HEADWATER_METRICS_HOST": "127.0.0.1"}
            memory = self._settings[f"{name.upper()}_MEMORY"]
            tls = self._tls[f"{name}:{GATEWAY}"]
            found[name] = self._start(stack, name, "headwater", variables, memory, tls, command)
        until = time.monotonic() + _START_S
        for name, container in found.items():
            while not self._ready(name):
                if time.monotonic() > until or not _state(container).startswith("running"):
                    raise CannotMeasure(f"the {name} is not ready:\n{_docker('logs', container)[-3000:]}")
                time.sleep(0.2)
        return found

    def _start(
        self,
        stack: contextlib.ExitStack,
        name: str,
        image: str,
        variables: Mapping[str, str],
        memory: str,
        tls: Path,
        command: Sequence[str],
    ) -> str:
        container = f"{self._prefix}-{name}"
        stack.callback(_docker, "rm", "--force", "--volumes", container)
        _docker(
            *("run", "--detach", "--name", container, "--network", "host", "--read-only", "--tmpfs", "/tmp"),
            *("--init", "--cap-drop", "ALL", "--memory", memory, "--memory-swap", memory),
            *("--health-interval", self._settings.get("HEALTH_INTERVAL", "30s")),
            *("--volume", f"{tls}:/run/secrets/kafka:ro"),
            *(word for key, value in variables.items() for word in ("--env", f"{key}={value}")),
            *(f"{image}:{self._version}", *command),
        )
        return container

    def _until_it_answers(self, cluster: Cluster) -> None:
        until = time.monotonic() + _START_S
        while True:
            try:
                partition_counts(cluster, [], timeout=5)
                return
            except Unreachable:
                if time.monotonic() > until:
                    said = [_docker("logs", f"{self._prefix}-{name}")[-2000:] for name in ("kafka", "cloud")]
                    raise CannotMeasure("Kafka did not start:\n" + "\n".join(said)) from None

    def _ready(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics[name]}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _scrape(self) -> None:
        for port in self._metrics.values():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                answer.read()

    def _arrived(self, topic: str, wanted: int) -> tuple[int, int]:
        until = time.monotonic() + _ARRIVED_S
        while True:
            found = _notified(self.cloud, topic)
            if found[0] >= wanted or time.monotonic() > until:
                return found
            time.sleep(1)


def _notified(cluster: Cluster, topic: str) -> tuple[int, int]:
    """How many notifications a topic holds, and how many of them differ: in key, message id or Observe number."""
    records = [
        (message.key(), tuple(sorted(headers)))
        for message, headers in ((one, one.headers() or []) for one in read_to_end(cluster, [topic], timeout=60))
        if any(name == HEADER_MID for name, _ in headers)
    ]
    return len(records), len(set(records))


def held(container: str) -> Held:
    """What a container holds now.

    Raises:
        CannotMeasure: it does not run any more.
    """
    pid = int(_docker("inspect", "--format", "{{.State.Pid}}", container))
    if not pid:
        state = _docker(
            "inspect", "--format", "exit code {{.State.ExitCode}}, OOMKilled {{.State.OOMKilled}}", container
        )
        raise CannotMeasure(f"{container} ended ({state}):\n{_docker('logs', container)[-6000:]}")
    group = _cgroup(pid)
    rss = pss = 0
    for one in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):  # a healthcheck that has just ended
            rolled = Path(f"/proc/{one}/smaps_rollup").read_text()
            rss += _kib(rolled, "Rss")
            pss += _kib(rolled, "Pss")
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    # The second names are those of cgroup v1.
    charged = int(stat.get("anon", stat.get("total_rss", 0))) + int(
        stat.get("file_mapped", stat.get("total_mapped_file", 0))
    )
    return Held(rss, pss, charged)


def _cgroup(pid: int) -> Path:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory" + path)
        if number == "0" and len(lines) == 1:
            return Path("/sys/fs/cgroup" + path)
    raise CannotMeasure(f"no cgroup counts the memory of process {pid}")


def _kib(rolled: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", rolled, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def shown(second: float, sample: Mapping[str, Held]) -> str:
    """A line for people, in MB (10^6 bytes)."""
    ways = ("rss", "pss", "cgroup")
    sums = ", ".join(f"{way} {sum(getattr(one, way) for one in sample.values()) / 1e6:.1f}" for way in ways)
    each = "; ".join(
        f"{name} {one.rss / 1e6:.1f}/{one.pss / 1e6:.1f}/{one.cgroup / 1e6:.1f}" for name, one in sample.items()
    )
    return f"{second:5.0f} s: {sums} MB ({each})"


def _state(container: str) -> str:
    return _docker("inspect", "--format", "{{.State.Status}}", container)


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise CannotMeasure(f"docker {' '.join(words)}: {done.stderr.strip()}")
    return (done.stdout + (done.stderr if words[0] == "logs" else "")).strip()


def main() -> int:
    """The command; 0: within the limit and nothing lost, 1: not so, 2: it could not be measured."""
    parser = argparse.ArgumentParser(description="Memory of the whole edge stack on a small machine.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=500.0, help="notifications a second")
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--cloud-away", type=float, default=0.0, help="stop the cloud's Kafka for so many seconds")
    parser.add_argument("--version", default="dev", help="the tag of the images")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    # Ended from outside it leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        figures = measure(
            version=options.version,
            minutes=options.minutes,
            rate=options.rate,
            devices=options.devices,
            away=options.cloud_away,
        )
    except CannotMeasure as exc:
        say(f"error: {exc}")
        return 2
    text = json.dumps(asdict(figures), indent=1)
    if options.out is not None:
        options.out.write_text(text)
    print(text)
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
