"""Files that are there whole or not at all, readable by their owner only, also after ``kill -9`` and loss of power.

Owns: one file replaced (written beside it, fsync, rename, fsync of the folder); a folder of files that appears at once;
a folder whose files change **together**; the lock of a folder. Knows nothing of what is in the files.

A folder of files that change together holds ``.current``, a link to the folder of the version that counts, and a link
``NAME → .current/NAME`` for each file. Another version is another folder, and renaming one link makes it count. So a
key and the certificate for it are never of two versions. (Kubernetes mounts its secrets in this way.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from security.errors import AuthorityBusy

#: What a killed process may have left behind begins with a dot and ends so; it is swept when the lock is held.
PART = ".part"
_CURRENT, _VERSION = ".current", ".version-"

#: Seconds between two tries to get the lock.
_LOCK_STEP_S = 0.05


def make_folder(folder: Path) -> None:
    """Make a folder, owner-only, and those above it, as the process's umask has it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        _sync_folder(folder.parent)


def write_file(file: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a file in the place of what is there, if anything; after the return it outlives a loss of power."""
    part = file.with_name(f".{file.name}-{secrets.token_hex(4)}{PART}")
    try:
        _write_new(part, content, mode)
        part.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync_folder(file.parent)


def make_folder_of(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder of files that change together; it appears with all of them.

    Raises:
        FileExistsError: there is something of that name.
    """
    part = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}{PART}")
    try:
        part.mkdir(mode=0o700)
        version = _write_version(part, files)
        (part / _CURRENT).symlink_to(version.name)
        for name in files:
            (part / name).symlink_to(f"{_CURRENT}/{name}")
        _sync_folder(part)
        if os.path.lexists(folder):
            raise FileExistsError(f"{folder} is there already")
        part.rename(folder)  # an empty folder that came in between is replaced; anything else is refused by the system
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _sync_folder(folder.parent)


def change_folder_of(folder: Path, files: Mapping[str, bytes]) -> None:
    """Give all files of a folder made by `make_folder_of` their next version, at once. ``files`` are the same names, or
    fewer: a link to what is left out leads nowhere."""
    before = (folder / _CURRENT).readlink()
    version = _write_version(folder, files)
    link = folder / f"{_CURRENT}-{secrets.token_hex(4)}{PART}"
    try:
        link.symlink_to(version.name)
        link.replace(folder / _CURRENT)
    except BaseException:
        shutil.rmtree(version, ignore_errors=True)
        with contextlib.suppress(OSError):
            link.unlink()
        raise
    _sync_folder(folder)
    shutil.rmtree(folder / before, ignore_errors=True)


def is_folder_of(folder: Path) -> bool:
    """True for a folder that `make_folder_of` made."""
    return (folder / _CURRENT).is_symlink()


def move(source: Path, target: Path) -> None:
    """Rename a folder; ``target``'s parent is there already.

    Raises:
        OSError: there is something at the target.
    """
    source.rename(target)
    _sync_folder(target.parent)
    _sync_folder(source.parent)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, and in the folders of files that change together in it.

    To be called by the holder of the lock only: another's work in progress looks the same.
    """
    for child in folder.iterdir():
        if child.name.startswith(".") and child.name.endswith(PART):
            _remove(child)
        elif child.is_dir() and not child.is_symlink() and is_folder_of(child):
            current = (child / _CURRENT).readlink().name
            for inner in child.iterdir():
                is_old = inner.name.startswith(_VERSION) and inner.name != current
                if is_old or (inner.name.startswith(".") and inner.name.endswith(PART)):
                    _remove(inner)


@contextlib.contextmanager
def locked(folder: Path, *, wait_s: float) -> Iterator[None]:
    """Hold the folder's lock (flock on itself); the system lets go of it however the process ends.

    Raises:
        AuthorityBusy: another process held it for ``wait_s`` seconds.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise AuthorityBusy(
                        f"another process changes {folder} and has done so for {wait_s:g} s; try again when it is done"
                    ) from None
                time.sleep(_LOCK_STEP_S)
        yield
    finally:
        os.close(descriptor)


def _write_version(folder: Path, files: Mapping[str, bytes]) -> Path:
    version = folder / f"{_VERSION}{secrets.token_hex(6)}"
    try:
        version.mkdir(mode=0o700)
        for name, content in files.items():
            _write_new(version / name, content, 0o600)
        _sync_folder(version)
    except BaseException:
        shutil.rmtree(version, ignore_errors=True)
        raise
    return version


def _write_new(file: Path, content: bytes, mode: int) -> None:
    # O_EXCL follows no link that somebody laid there.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(what: Path) -> None:
    if what.is_dir() and not what.is_symlink():
        shutil.rmtree(what, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            what.unlink()
