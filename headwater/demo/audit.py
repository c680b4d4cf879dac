"""The audit: is everything that was promised there, once, everywhere it should be?

Owns the comparison, which is pure (`judge`), and reading what it compares: the sensors' journal (what the gateway
acknowledged), the topics on both sides, the rows of the SQLite file. A notification is known by its endpoint, path,
CoAP message id, Observe number and values, so that nothing passes for another.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from cloud.feed import item
from connectors.kafka import Cluster, end_offsets, read_to_end
from headwater.demo.journal import Entry, read_journal
from headwater.values import plain
from schemas.avro.records import Notification, Record, Registration, RegistrationKind, Response, values_told
from schemas.avro.topics import Topics

#: The headers under which a gateway notes a notification's CoAP message id and Observe number, as unsigned integers.
HEADER_MID, HEADER_OBSERVE = "coap.mid", "coap.observe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One record of a topic, as far as an audit needs it."""

    topic: str
    partition: int
    offset: int
    #: All that the replicator must keep: key, value, headers.
    content: tuple[bytes, bytes, tuple[tuple[str, bytes | None], ...]]
    record: Record | None
    mid: int | None = None
    observe: int | None = None

    @property
    def told(self) -> tuple[tuple[str, Any], ...]:
        """The values of a notification or reply by path, sorted; empty for anything else."""
        record = self.record
        if not isinstance(record, (Notification, Response)):
            return ()
        return tuple(sorted((str(one.path), plain(one)) for one in values_told(record.rep.body)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of history: where its record stands in the cloud's Kafka, and what it says."""

    topic: str
    partition: int
    offset: int
    ep: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the audit found; the counts of ``lost`` and ``doubled`` are explained by the fields after them."""

    #: NEW registrations in the cloud, and the endpoints that they are of.
    registrations: int
    devices: int
    #: Notifications that the gateway acknowledged to a device.
    acknowledged: int
    #: Records in the cloud: of notifications, and of all topics that go up.
    cloud_notifications: int
    cloud_records: int
    stored_rows: int
    lost_on_the_way: int
    lost_to_the_cloud: int
    lost_rows: int
    doubled_in_the_cloud: int
    doubled_by_replication: int
    doubled_rows: int

    @property
    def lost(self) -> int:
        """Acknowledged notifications, edge records and rows that should be there and are not."""
        return self.lost_on_the_way + self.lost_to_the_cloud + self.lost_rows

    @property
    def doubled(self) -> int:
        """What is there more than once."""
        return self.doubled_in_the_cloud + self.doubled_by_replication + self.doubled_rows

    def right(self, sensors: int) -> bool:
        """True if nothing is lost or doubled, every sensor registered, and there was something to lose."""
        return self.lost == 0 and self.doubled == 0 and self.devices >= sensors and self.acknowledged > 0


#: Endpoint, path, CoAP message id, Observe number, values by path.
_Told = tuple[str, str, int | None, int | None, tuple[tuple[str, Any], ...]]


def judge(
    journal: Sequence[Entry],
    edge: Sequence[Stored],
    cloud: Sequence[Stored],
    rows: Sequence[Row] | None,
    topics: Topics,
    *,
    late: Sequence[Stored] = (),
) -> Verdict:
    """Compare what was promised with what is there.

    ``rows`` None: there is no such store. ``late`` are the edge's records that came while the cloud was read: they may
    be in ``cloud`` and need not be.
    """
    notified = [one for one in cloud if one.topic == topics.observations]
    promised: Counter[_Told] = Counter((one.ep, one.path, one.mid, one.observe, one.values) for one in journal)
    arrived: Counter[_Told] = Counter(
        (one.record.ep, one.record.path, one.mid, one.observe, one.told)
        for one in notified
        if isinstance(one.record, Notification)
    )
    at_the_edge = Counter((one.topic, one.content) for one in edge)
    came_meanwhile = Counter((one.topic, one.content) for one in late)
    in_the_cloud = Counter((one.topic, one.content) for one in cloud)
    lost_rows, doubled_rows = (0, 0) if rows is None else _rows(cloud, rows, topics)
    new = [
        one.record.body.ep
        for one in cloud
        if isinstance(one.record, Registration) and one.record.kind is RegistrationKind.NEW
    ]
    return Verdict(
        registrations=len(new),
        devices=len(set(new)),
        acknowledged=len(journal),
        cloud_notifications=len(notified),
        cloud_records=len(cloud),
        stored_rows=len(rows or ()),
        lost_on_the_way=(promised - arrived).total(),
        lost_to_the_cloud=(at_the_edge - in_the_cloud).total(),
        lost_rows=lost_rows,
        doubled_in_the_cloud=sum(count - 1 for count in arrived.values()),
        doubled_by_replication=(in_the_cloud - at_the_edge - came_meanwhile).total(),
        doubled_rows=doubled_rows,
    )


def _rows(cloud: Sequence[Stored], rows: Sequence[Row], topics: Topics) -> tuple[int, int]:
    """How many rows of values are missing, and how many are too many."""
    expected: Counter[tuple[str, int, int, str, str]] = Counter()
    for one in cloud:
        if one.topic in (topics.observations, topics.replies) and isinstance(one.record, (Notification, Response)):
            for path, _ in one.told:
                expected[one.topic, one.partition, one.offset, one.record.ep, path] += 1
    valued = {place[:3] for place in expected}
    found = Counter(
        (row.topic, row.partition, row.offset, row.ep, row.path)
        for row in rows
        # Replies without values (an execute) have a row of their own, which is not counted here.
        if (row.topic, row.partition, row.offset) in valued
    )
    return (expected - found).total(), (found - expected).total()


def read_side(cluster: Cluster, names: Iterable[str]) -> list[Stored]:
    """All committed records of topics on one side.

    Raises:
        Unreachable: the broker went silent.
    """
    found = []
    for message in read_to_end(cluster, list(names)):
        decoded = item(message)
        headers: Mapping[str, bytes | None] = dict(decoded.headers)
        found.append(
            Stored(
                topic=decoded.topic,
                partition=decoded.partition,
                offset=decoded.offset,
                content=(message.key() or b"", decoded.value, decoded.headers),
                record=decoded.record,
                mid=_number(headers.get(HEADER_MID)),
                observe=_number(headers.get(HEADER_OBSERVE)),
            )
        )
    return found


def _number(header: bytes | None) -> int | None:
    return None if header is None else int.from_bytes(header, "big")


def read_rows(file: FilePath) -> list[Row]:
    """The rows of history in a SQLite sink's file; none where there is no file yet."""
    if not file.exists():
        return []
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as db:
        try:
            found = db.execute(
                'SELECT s.topic, s."partition", h."offset", h.ep, h.path '
                "FROM history h JOIN sources s ON s.id = h.source"
            ).fetchall()
        except sqlite3.OperationalError as exc:
            if "no such table" in str(exc):  # the sink has made the file and not yet its tables
                return []
            raise
    return [Row(topic=t, partition=p, offset=o, ep=ep, path=path) for t, p, o, ep, path in found]


def audit(gateway: str, edge: Cluster, cloud: Cluster, journal: FilePath, database: FilePath | None) -> Verdict:
    """Read everything and compare it; ``database`` None: no SQLite file is looked at.

    Raises:
        Unreachable: a broker went silent.
        OSError, sqlite3.Error: the journal or the database cannot be read.
    """
    topics = Topics(gateway)
    # What the gateway writes. What analytics jobs write may come into being on either side.
    carried = (topics.registrations, topics.observations, topics.replies, topics.deadletter)
    journaled = list(read_journal(journal))
    # The edge's ends first and its records last. The gateway may write at any time (somebody sends a command): what it
    # writes after the ends were fixed is not missed in the cloud, and what of it is there already is found at the edge.
    ends = end_offsets(edge, carried)
    there = read_side(cloud, carried)
    here = read_side(edge, carried)
    due = [one for one in here if one.offset < ends.get((one.topic, one.partition), 0)]
    late = [one for one in here if one.offset >= ends.get((one.topic, one.partition), 0)]
    return judge(journaled, due, there, None if database is None else read_rows(database), topics, late=late)
