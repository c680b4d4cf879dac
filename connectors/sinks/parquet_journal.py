"""The journal of the Parquet sink: what was written and is in no Parquet file yet.

Owns the files ``ROOT/_headwater/NNNNNNNN.journal``. A journal belongs to the process that holds its lock (flock); the
kernel lets go of the lock when that process dies, and whoever finds the journal then takes it over. A journal is a
sequence of frames: length and CRC-32 of the content (big-endian, 4 bytes each), content. The first frame's content is
the schema (Arrow IPC); that of all others, the length of a name (2 bytes), the name (JSON: gateway, topic, partition,
hour) and one record batch (Arrow IPC). What a power cut or a kill has torn is at the end, and was never acknowledged.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from connectors.sinks.parquet_rows import SCHEMA, Batches, Hour

_FRAME = struct.Struct(">II")
_NAME = struct.Struct(">H")
#: What an Arrow batch costs in memory besides its values, in bytes; about.
_OVERHEAD = 4096


class Journal:
    """An open journal, locked, and what it holds; made by `create` and `orphans`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._end = 0
        #: What it holds, in the order in which it came.
        self.pending: dict[Hour, list[pa.RecordBatch]] = {}
        #: About how many bytes of memory that is.
        self.size = 0

    def append(self, batches: Batches) -> None:
        """Write ``batches`` durably.

        Raises:
            OSError: the journal holds none of them, and takes no more.
        """
        frames = [] if self._end else [_framed(SCHEMA.serialize().to_pybytes())]
        for hour, batch in batches.items():
            name = json.dumps(hour).encode()
            frames.append(_framed(_NAME.pack(len(name)) + name + batch.serialize().to_pybytes()))
        data = memoryview(b"".join(frames))
        end = self._end + len(data)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end = end
        self._hold(batches)

    def is_there(self) -> bool:
        """Whether its file is still what it was made as; one that was deleted would keep nothing."""
        try:
            found, ours = self.path.stat(), os.fstat(self._descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def discard(self) -> None:
        """Delete it: all that it holds is elsewhere; raises OSError if it is still there."""
        if self.is_there():
            self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Let go of it; what it holds is for whoever finds it."""
        os.close(self._descriptor)

    def _hold(self, batches: Batches) -> None:
        for hour, batch in batches.items():
            self.pending.setdefault(hour, []).append(batch)
            self.size += batch.nbytes + _OVERHEAD

    def _read(self) -> None:
        data = self.path.read_bytes()
        frames = _frames(data)
        schema_frame = next(frames, None)
        if schema_frame is None:
            return
        schema = pa.ipc.read_schema(pa.py_buffer(schema_frame))
        for frame in frames:
            (length,) = _NAME.unpack_from(frame)
            hour = Hour(*json.loads(frame[_NAME.size : _NAME.size + length]))
            self._hold({hour: pa.ipc.read_record_batch(pa.py_buffer(frame[_NAME.size + length :]), schema)})


def create(folder: Path) -> Journal:
    """A new journal in ``folder``; raises OSError."""
    number = max((int(path.stem) for path in _journals(folder)), default=0)
    while True:
        number += 1
        path = folder / f"{number:08}.journal"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            continue
        journal = _locked(path, descriptor)
        if journal is not None:
            sync_folder(folder)
            return journal


def orphans(folder: Path) -> Iterator[Journal]:
    """The journals whose processes are gone, each locked and read when it is asked for; raises OSError."""
    for path in _journals(folder):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        journal = _locked(path, descriptor)
        if journal is not None:
            try:
                journal._read()
            except BaseException:
                journal.release()
                raise
            yield journal


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or deleted in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _journals(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.journal") if path.stem.isdecimal())


def _locked(path: Path, descriptor: int) -> Journal | None:
    """None if it is another's, or was deleted by another between our finding and our locking it."""
    journal = Journal(path, descriptor)
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if journal.is_there():
            return journal
    journal.release()
    return None


def _framed(content: bytes) -> bytes:
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


def _frames(data: bytes) -> Iterator[bytes]:
    """The contents of all frames in front of the first that is torn."""
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        content = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(content) < length or zlib.crc32(content) != checksum or not content:
            return
        yield content
        at += _FRAME.size + length
