"""The folder of a demo: its own, empty at the start, and no second demo in it at the same time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headwater.exits import Exit, Stop


@contextmanager
def fresh(directory: Path) -> Iterator[Path]:
    """``directory``, emptied if it was a demo's, and locked against a second one.

    Raises:
        Stop: another demo runs in it, or it has something else in it.
    """
    directory = directory.absolute()
    marker = directory / ".demo"
    try:
        if directory.exists() and any(directory.iterdir()) and not marker.exists():
            raise Stop(Exit.USAGE, f"{directory} is not empty and no demo's: give another --dir, or empty it yourself")
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise Stop(Exit.CANNOT_START, f"{directory} cannot be used: {exc.strerror}; give another --dir") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(
                Exit.CANNOT_START, f"a demo already runs in {directory}: stop it, or give another --dir"
            ) from None
        for inner in directory.iterdir():
            if inner == marker:
                continue
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner)
            else:
                inner.unlink()
        yield directory
    finally:
        os.close(descriptor)
