"""The Parquet sink: history as hourly files, partitioned by gateway and day, for notebooks.

Owns one folder, ``docs/sinks/parquet.md`` describes it: what is published (``gateway=…/date=…/hour=…/*.parquet``, see
`connectors.sinks.parquet_files`) and what is not published yet (``_headwater``, which readers of data sets pass over).
Never deletes history.

What is acknowledged must be on disk, five times a second maybe; Parquet wants thousands of rows a file. So a batch is
appended to a journal and synced (one write, one fsync), and up to `publish_s` later all that came meanwhile goes into
Parquet in one piece. Where much comes a row is encoded about once, and how many files there are is decided by their
size and not by that of the batches. Publishing takes at most a fifth of the time, however many files there are to
write: then it comes less often. At most `MAX_HELD` bytes wait for it, then the writer does. Measured on two cores: a
batch of 2,000 readings takes 12 ms, of which making rows of them is 8; 120,000 readings a second of one gateway, 11,000
of a hundred gateways in one process, which then publishes 200 files in 1.5 s; no more than 250 MB in all.

It needs no order, and no owner: journals may hold what was published or what another's holds too (a crash between the
write and the commit, a partition that changed hands), and what is published is compared with what is there, by the
identity of each row. So a journal of a process that died is published by whoever comes next, this one or another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from pydantic import Field

from connectors.sinks.options import SinkOptions, parse_options
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from schemas.avro.topics import TopicKind

if TYPE_CHECKING:
    from connectors.sinks.parquet_journal import Journal
    from connectors.sinks.parquet_rows import Batches

#: About how many bytes of memory may wait to be published.
MAX_HELD = 16 * 1024 * 1024
#: Publishing that took a second comes again after four.
_REST = 4.0
_HIDDEN = "_headwater"


class Compression(Enum):
    """What the files are compressed with."""

    ZSTD = "zstd"
    SNAPPY = "snappy"
    GZIP = "gzip"
    LZ4 = "lz4"
    NONE = "none"


class ParquetOptions(SinkOptions):
    """The options of the sink."""

    folder: FilePath = Field(description="where the files are to be")
    compression: Compression = Compression.ZSTD
    max_rows: int = Field(100_000, ge=100, le=10_000_000)
    publish_s: float = Field(5.0, ge=0, le=3600, allow_inf_nan=False)


class ParquetSink:
    """`connectors.sinks.sink.Sink` on a folder. A thread of its own publishes what waits."""

    def __init__(self, options: ParquetOptions, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            from connectors.sinks import parquet_files, parquet_journal, parquet_rows
        except ImportError as exc:
            raise SinkConfigError(f"the sink parquet needs pyarrow: pip install 'headwater[parquet]' ({exc})") from exc
        self._journals = parquet_journal
        self._rows = parquet_rows
        self._root = options.folder.absolute()
        self._hidden = self._root / _HIDDEN
        self._files = parquet_files.HourFiles(
            self._root, self._hidden, compression=options.compression.value, max_rows=options.max_rows
        )
        self._errors = parquet_files.STORE_ERRORS
        self._publish_s = options.publish_s
        self._clock = clock
        # The journal that is appended to, those that are to be published, and why the last publishing failed.
        self._turn = threading.Lock()
        self._current: Journal | None = None
        self._sealed: list[Journal] = []
        self._failed: str | None = None
        # One publishes at a time.
        self._publishing = threading.Lock()
        self._due = clock()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._stop = threading.Event()
        self._publisher: threading.Thread | None = None

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: one append to the journal for the whole batch."""
        batches, rejected = self._rows.batches(records)
        if batches:
            if self._failed is not None or self._held() >= MAX_HELD:
                self.publish()
            idle = not self._held() and self._clock() >= self._due
            self._append(batches)
            if idle or not self._publish_s:
                # It is durable already; where publishing fails the next write tells.
                with suppress(RetryLater):
                    self.publish()
            else:
                self._start_publisher()
                self._wake.set()
                if self._held() >= MAX_HELD // 2:
                    self._hurry.set()
        if rejected:
            raise RejectedRecords(rejected)

    def publish(self) -> None:
        """Put all that was written so far into Parquet files, and what processes that died left behind.

        Raises:
            RetryLater: not now; it stays in the journal.
        """
        with self._publishing:
            began, found = self._clock(), False
            try:
                self._hidden.mkdir(parents=True, exist_ok=True)
                for journal in self._waiting():
                    found = True
                    for hour, batches in journal.pending.items():
                        self._files.add(hour, batches)
                    journal.discard()
                    with self._turn:
                        self._sealed.remove(journal)
                self._failed = None
            except self._errors as exc:
                self._failed = f"Parquet folder {self._root}: {exc}"
                raise RetryLater(self._failed) from exc
            finally:
                self._files.rest()
                now = self._clock()
                if found or self._failed is not None:
                    self._due = now + max(self._publish_s, _REST * (now - began))

    def close(self) -> None:
        """See `Sink.close`; what cannot be published now stays in the journal, for whoever comes next."""
        self._stop.set()
        self._wake.set()
        self._hurry.set()
        if self._publisher is not None:
            self._publisher.join()
        with suppress(RetryLater):
            self.publish()
        with self._turn:
            for journal in self._sealed:
                journal.release()
            self._sealed.clear()

    def _held(self) -> int:
        with self._turn:
            current = 0 if self._current is None else self._current.size
            return current + sum(journal.size for journal in self._sealed)

    def _append(self, batches: Batches) -> None:
        with self._turn:
            try:
                if self._current is not None and not self._current.is_there():
                    self._seal()
                if self._current is None:
                    self._hidden.mkdir(parents=True, exist_ok=True)
                    self._current = self._journals.create(self._hidden)
                self._current.append(batches)
            except OSError as exc:
                # What it held before is as it was. It takes no more: nobody knows what a disk that failed made of it.
                self._seal()
                raise RetryLater(f"Parquet folder {self._root}: {exc}") from exc

    def _seal(self) -> None:
        sealed, self._current = self._current, None
        if sealed is None:
            return
        if sealed.pending:
            self._sealed.append(sealed)
            return
        with suppress(OSError):
            sealed.discard()

    def _waiting(self) -> Iterator[Journal]:
        """The journals that are to be published, ours first."""
        with self._turn:
            self._seal()
            ours = list(self._sealed)
        yield from ours
        for journal in self._journals.orphans(self._hidden):
            with self._turn:
                self._sealed.append(journal)
            yield journal

    def _start_publisher(self) -> None:
        if self._publisher is None:
            self._publisher = threading.Thread(target=self._publish_on, name="parquet", daemon=True)
            self._publisher.start()

    def _publish_on(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            self._hurry.wait(max(0.0, self._due - self._clock()))
            self._hurry.clear()
            if not self._stop.is_set() and self._held():
                try:
                    self.publish()
                except RetryLater:
                    # The next write is told; when none comes, this tries on.
                    self._wake.set()


def open_parquet(options: Mapping[str, object]) -> ParquetSink:
    """The sink of `KIND`. A folder that cannot be written to now is tried again by the first write.

    Raises:
        SinkConfigError: wrong options, or pyarrow is not installed.
    """
    sink = ParquetSink(parse_options("parquet", ParquetOptions, options))
    with suppress(RetryLater):
        sink.publish()
    return sink


KIND = SinkKind(
    name="parquet",
    open=open_parquet,
    topics=(TopicKind.OBSERVATIONS, TopicKind.REPLIES, TopicKind.JOINED),
    library="pyarrow",
    sample_config="""\
# History as hourly Parquet files, partitioned by gateway and day.
[parquet]
# The folder; it is created if it is missing. Several sinks may write the same folder.
folder = "history"
# zstd, snappy, gzip, lz4 or none.
# compression = "zstd"
# A file gets no more rows than these.
# max_rows = 100000
# What was written appears in the files after at most about so many seconds; it is on disk at once. 0: with every batch.
# publish_s = 5
""",
)
