"""Runs a sink in a thread and puts records into real topics, for the tests of the runner."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from connectors.dead_letters import DeadLetter, raw_record, read_back
from connectors.kafka import Cluster, Message, ensure_topics, producer, read_to_end
from connectors.runner import Runner, SinkSettings
from connectors.sinks import Sink, SinkKind, SinkRecord
from connectors.sinks.sqlite import KIND, open_sqlite
from schemas.avro import serde
from schemas.avro.records import Key, Record
from schemas.avro.topics import Topics

#: Patience with a machine that is busy; nothing is asserted about time.
PATIENCE_S = 60.0


def produce(
    cluster: Cluster,
    topic: str,
    records: Iterable[Record | bytes | None],
    *,
    ep: str = "ep-1",
    partition: int = 0,
    headers: list[tuple[str, bytes]] | None = None,
) -> None:
    """Put records (or raw bytes) into one partition; returns when all are acknowledged."""
    sender = producer(cluster, message_max_bytes=2_000_000)
    failures: list[object] = []

    def report(error: object, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    for record in records:
        value = record if record is None or isinstance(record, bytes) else serde.encode(record)
        sender.produce(
            topic,
            key=serde.encode(Key(ep=ep)),
            value=value,
            partition=partition,
            headers=headers or [],
            on_delivery=report,
        )
        sender.poll(0)
    assert sender.flush(PATIENCE_S) == 0
    assert not failures


def make_topics(cluster: Cluster, gateway: str) -> Topics:
    topics = Topics(gateway)
    ensure_topics(cluster, topics.partitions())
    return topics


def eventually(what: Callable[[], object], wanted: object) -> None:
    """Wait until ``what()`` is ``wanted``."""
    end = time.monotonic() + PATIENCE_S
    tick = threading.Event()
    while (seen := what()) != wanted:
        assert time.monotonic() < end, f"still {seen!r}, not {wanted!r}"
        tick.wait(0.05)


def rows(file: Path, sql: str) -> list[tuple[object, ...]]:
    """What the file holds; [] while it is not there yet."""
    if not file.exists():
        return []
    db = sqlite3.connect(file, timeout=30)
    try:
        return db.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


def count(file: Path) -> Callable[[], int]:
    def ask() -> int:
        found = rows(file, "SELECT count(*) FROM history")
        return int(str(found[0][0])) if found else 0

    return ask


def dead_letters(cluster: Cluster, gateway: str) -> list[DeadLetter]:
    found = [read_back(raw_record(message)) for message in read_to_end(cluster, [Topics(gateway).deadletter])]
    assert None not in found
    return [letter for letter in found if letter is not None]


def wrapped(around: Callable[[Sink, Sequence[SinkRecord]], None]) -> SinkKind:
    """The SQLite sink with ``around`` in front of its write."""

    class Wrapped:
        def __init__(self, inner: Sink) -> None:
            self._inner = inner

        def write(self, records: Sequence[SinkRecord]) -> None:
            around(self._inner, records)

        def close(self) -> None:
            self._inner.close()

    def open_wrapped(options: Mapping[str, object]) -> Sink:
        return Wrapped(open_sqlite(options))

    return replace(KIND, open=open_wrapped)


@contextmanager
def running(settings: SinkSettings, kind: SinkKind | None = None) -> Iterator[Runner]:
    """A runner in a thread; leaving the block stops it, and it must have stopped well."""
    stop = threading.Event()
    runner = Runner(settings, kind)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            runner.run(stop)
        except BaseException as exc:  # noqa: BLE001  told below
            failures.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield runner
    finally:
        stop.set()
        thread.join(timeout=PATIENCE_S)
        if failures:
            raise failures[0]
    assert not thread.is_alive()
