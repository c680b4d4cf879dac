"""The file of results, a JTL: JMeter's CSV with its default columns, one line a sample, which JMeter's tools read.

`elapsed` and `Latency` are whole milliseconds there, as JMeter has them, so percentiles that are made from a file are
no finer than that. `threadName` is ``ENDPOINT 1-THREAD``. `jtl_reader` reads it.

A thread writes: a disk that is slow or full never holds the load up. What was not written then is told by `failure`,
and the file ends with a whole line.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.devices.load.samples import Sample

COLUMNS = (
    "timeStamp,elapsed,label,responseCode,responseMessage,threadName,dataType,success,failureMessage,bytes,sentBytes,"
    "grpThreads,allThreads,URL,Latency,IdleTime,Connect"
)
#: What waits for the disk at most; above it the file is given up, and not the load.
MOST_WAITING_BYTES = 64 << 20
_CHUNK = 64 << 10
#: Of names and of kinds of lines, that are held ready.
_MOST_NAMES = 100_000
_MOST_KINDS = 2_000


class JtlError(Exception):
    """A file of results cannot be used; the message says which, where and why."""


def quoted(text: str) -> str:
    """A field of a CSV line: in quotes where it must be (RFC 4180 section 2, as JMeter has it)."""
    if any(special in text for special in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


class JtlWriter:
    """Writes samples to ``path``; ``url`` is that of the server, for the column of that name.

    ``add`` formats and hands over, which takes about a microsecond a sample; ``flush``, once a second, lets the file
    have what is there, so that a process that is killed loses no more than that.
    """

    def __init__(self, path: Path, *, url: str = "", overwrite: bool = False) -> None:
        """Raises JtlError: there is such a file already and ``overwrite`` is not said, or it cannot be made."""
        self.path = path
        #: Why the file is not complete, or None; the samples since are not in it.
        self.failure: str | None = None
        self._url = quoted(url)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if overwrite else os.O_EXCL)
        header = (COLUMNS + "\n").encode()
        try:
            self._file = os.open(path, flags, 0o644)
            try:
                os.write(self._file, header)
            except OSError:
                os.close(self._file)
                raise
        except FileExistsError:
            raise JtlError(f"{path}: there is such a file already; name another one, or remove it") from None
        except OSError as exc:
            raise JtlError(f"{path}: the file of results cannot be written: {exc.strerror}") from exc
        #: Bytes of the file up to the last line that is complete.
        self._whole = len(header)
        self._lines: list[str] = []
        self._lines_bytes = 0
        #: (bytes, how many samples they hold), for the thread.
        self._waiting: deque[tuple[bytes, int]] = deque()
        # Counters of which the load writes the one and the thread the other, so that neither has to lock.
        self._handed_bytes = self._taken_bytes = 0
        self._not_handed = self._not_written = 0
        self._more = threading.Event()
        self._ending = False
        #: The parts of a line that come again and again.
        self._names: dict[tuple[str, int], str] = {}
        self._kinds: dict[tuple[str, str, bool, str], tuple[str, str]] = {}
        self._thread = threading.Thread(target=self._write, name="jtl", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def missing(self) -> int:
        """Samples that are not in the file; final after `close`."""
        return self._not_handed + self._not_written

    def add(self, batch: Sequence[Sample], active: int) -> None:
        """Format samples; ``active`` is how many devices are at work, for the columns of threads."""
        if self.failure is not None:
            self._not_handed += len(batch)
            return
        names, lines = self._names, self._lines
        # What a line ends with is mostly that of the line before.
        last: tuple[object, ...] = ()
        kind = tail = ""
        for at, elapsed, label, endpoint, thread, code, success, message, sent, received in batch:
            try:
                name = names[endpoint, thread]
            except KeyError:
                name = self._name(endpoint, thread)
            this = (label, code, success, message, sent, received)
            if this != last:
                last = this
                kind, fate = self._kind(label, code, success, message)
                tail = f",text,{fate},{received},{sent},{active},{active},{self._url},"
            ms = (elapsed + 500) // 1000
            lines.append(f"{at},{ms},{kind},{name}{tail}{ms},0,0\n")
        self._lines_bytes += 120 * len(batch)
        if self._lines_bytes >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Let the thread write what there is, now."""
        if not self._lines:
            return
        samples = len(self._lines)
        # A lone surrogate is in no file of UTF-8.
        data = "".join(self._lines).encode("utf-8", "backslashreplace")
        self._lines.clear()
        self._lines_bytes = 0
        if self._handed_bytes - self._taken_bytes + len(data) > MOST_WAITING_BYTES:
            self._fail("the disk takes it slower than it comes")
        if self.failure is not None:
            self._not_handed += samples
            return
        self._handed_bytes += len(data)
        self._waiting.append((data, samples))
        self._more.set()

    def close(self) -> None:
        """Write the rest, wait for it and close the file; ``failure`` is final then."""
        if self._ending:
            return
        self.flush()
        self._ending = True
        self._more.set()
        self._thread.join()
        os.close(self._file)

    def _write(self) -> None:
        while True:
            self._more.wait()
            self._more.clear()
            ending = self._ending
            while self._waiting:
                data, samples = self._waiting.popleft()
                self._taken_bytes += len(data)
                if self.failure is not None:
                    self._not_written += samples
                    continue
                try:
                    left = memoryview(data)
                    while left:
                        left = left[os.write(self._file, left) :]
                    self._whole += len(data)
                except OSError as exc:
                    self._fail(exc.strerror or str(exc))
                    self._not_written += samples
                    with contextlib.suppress(OSError):  # a pipe cannot be made shorter
                        os.ftruncate(self._file, self._whole)
            if ending:
                return

    def _fail(self, why: str) -> None:
        if self.failure is None:
            self.failure = f"{self.path}: the file of results is not complete: {why}"

    def _name(self, endpoint: str, thread: int) -> str:
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        name = self._names[endpoint, thread] = quoted(f"{endpoint} 1-{thread}")
        return name

    def _kind(self, label: str, code: str, success: bool, message: str) -> tuple[str, str]:
        """The columns from label to responseMessage, and those from success to failureMessage."""
        try:
            return self._kinds[label, code, success, message]
        except KeyError:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
        said = "OK" if success else message
        kind = (
            f"{quoted(label)},{quoted(code)},{quoted(said)}",
            f"{'true' if success else 'false'},{quoted(message)}",
        )
        self._kinds[label, code, success, message] = kind
        return kind
