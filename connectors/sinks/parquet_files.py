"""The Parquet files: how rows get into those of one hour, each row once, whoever brings it and how often.

Owns ``ROOT/gateway=…/date=…/hour=…/*.parquet``. It knows no journal and no Kafka.

A partition of a topic has files of its own, named after the first row that was put into each. Rows are added under the
partition's lock (flock), in three steps: those that are already in a file are left out (files whose range of offsets
does not meet theirs are not even opened); the rest joins the smallest file, if there is room in it, or becomes a new
one; a file appears, whole and synced, by one rename. So a reader never sees a row twice, half a file, or a row vanish.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.sinks.parquet_journal import sync_folder
from connectors.sinks.parquet_rows import IDENTITY, SCHEMA, Hour

#: How long another process may hold a partition's lock, in seconds; below what a drain at shutdown may take.
BUSY_S = 3.0
_LOOK_S = 0.02
#: What a disk or a file that is none of ours makes of a call.
STORE_ERRORS = (OSError, pa.ArrowException)
_KNOWN = 4096
_ORDER = [(name, "ascending") for name in IDENTITY]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One file, as its footer tells."""

    path: Path
    rows: int
    first: int
    last: int
    #: Of this version's schema: others are read, and never added to.
    current: bool


class HourFiles:
    """The files below ``root``; ``hidden`` is a folder on the same file system that no reader looks into."""

    def __init__(self, root: Path, hidden: Path, *, compression: str, max_rows: int) -> None:
        self._root = root
        self._hidden = hidden
        self._compression = compression
        self._max_rows = max_rows
        self._known: dict[tuple[Path, int, int], _Part] = {}

    def add(self, hour: Hour, batches: Sequence[pa.RecordBatch]) -> None:
        """Put the rows of ``batches`` that are not there yet into the files of ``hour``, durably.

        Raises:
            STORE_ERRORS: some are there and some not; adding the same again mends it.
        """
        with self._lock(hour.lane):
            folder = self._root / hour.folder
            _make(folder)
            rows = _distinct(pa.Table.from_batches(batches))
            parts = self._parts(folder, hour)
            rows = self._new(rows, parts)
            if not rows.num_rows:
                return
            smallest = min(parts, key=lambda part: part.rows, default=None)
            room = self._max_rows - rows.num_rows
            if smallest is None or smallest.rows > room or not (smallest.current and rows.schema.equals(SCHEMA)):
                for start in range(0, rows.num_rows, self._max_rows):
                    piece = rows.slice(start, self._max_rows)
                    self._put(piece, hour.lane, folder / _name(hour, piece))
                return
            whole = pa.concat_tables([pq.ParquetFile(smallest.path).read(), rows])
            if _range(rows)[0] <= smallest.last:
                whole = whole.sort_by(_ORDER)
            self._put(whole, hour.lane, smallest.path)

    @staticmethod
    def rest() -> None:
        """Give back the memory that adding took: Arrow keeps it, several times what is ever in use."""
        pa.default_memory_pool().release_unused()

    @contextmanager
    def _lock(self, lane: str) -> Iterator[None]:
        descriptor = os.open(self._hidden / f"{lane}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            until = time.monotonic() + BUSY_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise TimeoutError(f"another process is writing files of {lane}") from None
                    time.sleep(_LOOK_S)
            yield
        finally:
            os.close(descriptor)

    def _parts(self, folder: Path, hour: Hour) -> list[_Part]:
        found = []
        for path in folder.glob(f"{hour.lane}-*.parquet"):
            stat = path.stat()
            key = (path, stat.st_ino, stat.st_mtime_ns)
            if key not in self._known:
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[key] = _part(path)
            found.append(self._known[key])
        return found

    def _new(self, rows: pa.Table, parts: Sequence[_Part]) -> pa.Table:
        """Those of ``rows`` that are in none of ``parts``."""
        for part in parts:
            if not rows.num_rows:
                break
            first, last = _range(rows)
            if part.first <= last and first <= part.last:
                stored = pq.ParquetFile(part.path).read(columns=list(IDENTITY))
                numbered = rows.select(IDENTITY).append_column("number", _count(rows))
                left = numbered.join(stored, keys=list(IDENTITY), join_type="left anti").sort_by("number")
                rows = rows.take(left["number"])
        return rows

    def _put(self, rows: pa.Table, lane: str, path: Path) -> None:
        # The same name for every attempt, under the lock: what a kill left behind is written over.
        half = self._hidden / f"{lane}.part"
        try:
            pq.write_table(rows, half, compression=self._compression)
            with half.open("rb") as file:
                os.fsync(file.fileno())
        except BaseException:
            # A full disk: give back what was taken of it.
            with suppress(OSError):
                half.unlink()
            raise
        half.rename(path)
        sync_folder(path.parent)


def _distinct(rows: pa.Table) -> pa.Table:
    """In order, each row once."""
    numbered = rows.select(IDENTITY).append_column("number", _count(rows))
    firsts = numbered.group_by(list(IDENTITY)).aggregate([("number", "min")]).sort_by(_ORDER)
    return rows.take(firsts["number_min"])


def _count(rows: pa.Table) -> pa.Array:
    return pa.array(range(rows.num_rows), pa.int64())


def _range(rows: pa.Table) -> tuple[int, int]:
    """The first and the last offset of rows that are in order."""
    return rows["offset"][0].as_py(), rows["offset"][-1].as_py()


def _name(hour: Hour, rows: pa.Table) -> str:
    offset, at, position = rows["offset"][0].as_py(), rows["gateway_time"][0].value, rows["position"][0].as_py()
    return f"{hour.lane}-{offset:020}-{at}-{position}.parquet"


def _part(path: Path) -> _Part:
    file = pq.ParquetFile(path)
    column = file.schema_arrow.get_field_index("offset")
    ranges = [file.metadata.row_group(i).column(column).statistics for i in range(file.metadata.num_row_groups)]
    return _Part(
        path=path,
        rows=file.metadata.num_rows,
        first=min(told.min for told in ranges),
        last=max(told.max for told in ranges),
        current=file.schema_arrow.equals(SCHEMA),
    )


def _make(folder: Path) -> None:
    """Create it and what is missing above it, durably."""
    if folder.is_dir():
        return
    _make(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    sync_folder(folder.parent)
