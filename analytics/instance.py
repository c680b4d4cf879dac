"""Which instance of a job a process is, as long as it has the lock on one of the numbered folders of the state.

Owns the folders ``0``, ``1``, … below that of a job's state, a lock in each, and the name in it by which Kafka knows
the instance's transactions. An instance that was killed and is started again finds its folder free and takes its name,
so that Kafka ends at once what it had under way; with a new name readers would wait for the time-out of a transaction.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from types import TracebackType

_MOST = 1000


class Instance:
    """A folder of one's own below ``parent``; made when it is entered, given back when it is left.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._lock: int | None = None
        self.folder = parent
        self.id = ""

    def __enter__(self) -> Instance:
        for number in range(_MOST):
            folder = self._parent / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "instance", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            self._lock, self.folder = lock, folder
            self.id = os.pread(lock, 64, 0).decode("ascii", "replace")
            if len(self.id) != 32 or not self.id.isalnum():
                self.id = uuid.uuid4().hex
                os.ftruncate(lock, 0)
                os.pwrite(lock, self.id.encode(), 0)
                os.fsync(lock)
            return self
        raise OSError(f"{self._parent}: {_MOST} instances use it already")

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
