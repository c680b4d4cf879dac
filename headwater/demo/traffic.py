"""What flows through a demo, as anybody could read it: both Kafkas, the journal's length, the rows of the store.

Owns counting and rates. It reads the cloud's Kafka directly, not through the link that can be cut, so that the view
shows what has arrived there.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cloud.feed import Feed
from cloud.inventory import Picture
from connectors.kafka import Cluster
from schemas.avro.records import Notification, Registration, RegistrationKind
from schemas.avro.topics import Topics

#: Rates are of the last so many seconds.
_WINDOW = 5.0


class Rate:
    """The change of a count a second, over the last five seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, now: float, count: int) -> float:
        """Note ``count`` at ``now`` (seconds of any clock that only goes on) and tell the rate."""
        self._seen.append((now, count))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()
        (then, before), (_, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - then) if now > then else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The counts at one moment, and notifications a second at the edge and in the cloud."""

    seconds: float
    link_cut: bool
    devices: int
    registrations: int
    acknowledged: int
    edge: int
    cloud: int
    rows: int
    edge_rate: float
    cloud_rate: float

    @property
    def behind(self) -> int:
        """Notifications that the cloud does not have yet."""
        return max(0, self.edge - self.cloud)


class Traffic:
    """Counts what is in the topics of both sides, from the beginning on."""

    def __init__(self, gateway: str, edge: Cluster, cloud: Cluster, journal: Path, database: Path) -> None:
        topics = Topics(gateway)
        self.picture = Picture()
        self.registrations = 0
        self._journal, self._journal_read, self._acknowledged = journal, 0, 0
        self._database, self._rows = database, 0
        self._edge_count = self._cloud_count = 0
        self._edge_rate, self._cloud_rate = Rate(), Rate()
        self._edge = Feed(edge, [topics.observations])
        try:
            self._cloud = Feed(cloud, [topics.registrations, topics.observations])
        except BaseException:
            self._edge.close()
            raise

    def look(self, *, seconds: float, link_cut: bool) -> Flow:
        """Read what came since the last look (waits a tenth of a second for each side) and count it."""
        self._edge_count += sum(isinstance(item.record, Notification) for item in self._edge.poll(0.1))
        for item in self._cloud.poll(0.1):
            if item.record is None:
                continue
            self.picture.take(item.record)
            if isinstance(item.record, Registration):
                self.registrations += item.record.kind is RegistrationKind.NEW
            self._cloud_count += isinstance(item.record, Notification)
        self._count_journal()
        self._count_rows()
        return Flow(
            seconds=seconds,
            link_cut=link_cut,
            devices=len(self.picture.devices),
            registrations=self.registrations,
            acknowledged=self._acknowledged,
            edge=self._edge_count,
            cloud=self._cloud_count,
            rows=self._rows,
            edge_rate=self._edge_rate.at(seconds, self._edge_count),
            cloud_rate=self._cloud_rate.at(seconds, self._cloud_count),
        )

    def _count_journal(self) -> None:
        if self._journal.exists():
            with self._journal.open("rb") as file:
                file.seek(self._journal_read)
                new = file.read()
            self._journal_read += len(new)
            self._acknowledged += new.count(b"\n")

    def _count_rows(self) -> None:
        if not self._database.exists():
            return
        try:
            with closing(sqlite3.connect(f"{self._database.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as db:
                # Ids are given in order and never deleted, so the largest is the count, without a walk over the table.
                self._rows = db.execute("SELECT coalesce(max(id), 0) FROM history").fetchone()[0]
        except sqlite3.OperationalError:
            return  # it is being made, or is locked for a moment: the next look counts

    def close(self) -> None:
        self._edge.close()
        self._cloud.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
