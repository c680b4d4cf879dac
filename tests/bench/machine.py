"""What the figures are measured on, and who else used the machine meanwhile.

Owns the description of the machine (kinds and versions, no names) and `Others`, which counts the CPU that programs
outside of a measurement use. What belongs to a measurement is known by its descent: it was started by something that
belongs to it, or has inherited the mark in its environment (a server that lives on without its parent).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

#: The variable that what is measured inherits.
MARK = "BENCH_MEASUREMENT"

_TICKS = os.sysconf("SC_CLK_TCK")
#: How often `Others` looks, in seconds.
_LOOK_S = 1.0


def work() -> Path:
    """Where the yardstick has its build outputs, and measurements their files."""
    folder = Path(os.environ.get("BENCH_WORK") or Path(tempfile.gettempdir()) / "headwater-bench")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load_generator(yardstick: Path) -> Path:
    """The yardstick's load generator, built where it is not."""
    target = work() / "loadgen-target"
    command = ["cargo", "build", "--release", "--quiet"]
    subprocess.run(command, cwd=yardstick / "loadgen", env={**os.environ, "CARGO_TARGET_DIR": str(target)}, check=True)
    return target / "release" / "loadgen"


def machine() -> dict[str, str]:
    """What the figures were measured on; names nothing but kinds and versions."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    held = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    brokers = [jar.stem for jar in sorted(work().glob("kafka-libs/kafka_*.jar"))]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {cpu}, {held / 1024**2:.0f} GiB, "
        f"{platform.system()} {platform.release().partition('-')[0]}, {_governor()}",
        "Headwater": importlib.metadata.version("headwater") + _commit(),
        "Python": platform.python_version(),
        "confluent-kafka": importlib.metadata.version("confluent-kafka"),
        "Kafka": brokers[-1].rpartition("-")[2] if brokers else "as the yardstick's",
        "Java": _java(),
    }


def _governor() -> str:
    """How the kernel chooses the clock of the cores; a virtual machine is seldom told."""
    kinds = sorted(
        {
            line
            for n in os.sched_getaffinity(0)
            for line in _lines(f"/sys/devices/system/cpu/cpu{n}/cpufreq/scaling_governor")
        }
    )
    return f"clock governor {' and '.join(kinds)}" if kinds else "clock governor not told"


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    asked = [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return f" ({told.stdout.strip()})" if told.returncode == 0 else ""


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        return "none"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    return said.split('"')[1] if said.count('"') >= 2 else "unknown"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


class Process(NamedTuple):
    """A process at one look: its start tells it from a later one with the same id; ``cpu_s`` with ended children."""

    parent: int
    start: int
    cpu_s: float


def processes() -> dict[int, Process]:
    """All processes of this machine."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            ticks = sum(int(one) for one in fields[11:15])
            found[int(folder.name)] = Process(int(fields[1]), int(fields[19]), ticks / _TICKS)
    return found


def busy_s() -> float:
    """The seconds that all cores have worked so far; waiting for the disk, and what a host took away, are none."""
    fields = [int(one) for one in _lines("/proc/stat")[0].split()[1:]]
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / _TICKS


class Others:
    """Counts what others use while something is measured; a context manager, with a thread that looks once a second.

    ``environment`` is to be given to what is measured, which may then start what it likes.
    """

    def __init__(self) -> None:
        token = f"{os.getpid()}-{time.monotonic_ns()}"
        self.environment = {MARK: token}
        self._mark = f"{MARK}={token}".encode()
        #: What belongs to the measurement, by id and start; and of these, those whose parent does not.
        self._ours: dict[tuple[int, int], float] = {}
        self._orphans: set[tuple[int, int]] = set()
        #: CPU-seconds of what is measured, and of this process, which looks.
        self._spent, self._own = 0.0, time.process_time()
        self._began = self._last = (time.monotonic(), busy_s())
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="others", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._look()

    @property
    def looked_s(self) -> float:
        """Seconds from the beginning to the last look."""
        return self._last[0] - self._began[0]

    @property
    def ours_s(self) -> float:
        """CPU-seconds of what was measured, and of looking."""
        return self._spent

    @property
    def cores(self) -> float:
        """Cores that others used on average from the beginning to the last look."""
        busy = self._last[1] - self._began[1]
        return max(0.0, busy - self._spent) / max(1e-9, self.looked_s)

    def _run(self) -> None:
        while not self._end.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        found = processes()
        ours: dict[tuple[int, int], float] = {}
        pids: set[int] = set()
        orphans = set()
        # A parent before its children.
        for pid, one in sorted(found.items(), key=lambda item: item[1].start):
            key = pid, one.start
            if key in self._ours or one.parent in pids or self._is_marked(pid):
                ours[key] = one.cpu_s
                if one.parent not in pids:
                    orphans.add(key)
                pids.add(pid)
        # What has ended went into its parent's count; that of an orphan is none of ours.
        gone = sum(cpu for key, cpu in self._ours.items() if key in self._orphans and key not in ours)
        own = time.process_time()
        self._spent += sum(ours.values()) - sum(self._ours.values()) + gone + own - self._own
        self._ours, self._orphans, self._own = ours, orphans, own
        self._last = (time.monotonic(), busy_s())

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
