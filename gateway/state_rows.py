"""What the gateway's state file holds: the values that go in and come out, and the SQL of both ways.

Owns the rows of the tables that `gateway.state_file` makes. It knows no threads and no event loop; when what is written
is `gateway.state`'s.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from gateway.state_file import StateUnavailable


class CommandState(IntEnum):
    """Where a command stands. ANSWERED rows hold the reply, so that a repeated request is answered again."""

    QUEUED = 0
    SENT = 1
    ANSWERED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRegistration:
    """A registered device. ``links_text`` is the payload of the registration as it came; times are epoch ms."""

    ep: str
    reg_id: str
    address: str
    port: int
    lifetime: int
    version: str
    binding: str
    sms: str | None
    root: str
    links_text: bytes
    #: The other attributes of the registration, as a JSON object.
    attributes: str
    queue: bool
    reg_date_ms: int
    last_up_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObservation:
    """An established observation; ``declared`` ones come from the operator's patterns, the others from a request."""

    token: bytes
    ep: str
    path: str
    ticket: str
    observation_id: str
    content_format: int | None
    declared: bool
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCommand:
    """A request on its way to a device. ``sequence`` ascends in the order of the topic and is unique."""

    sequence: int
    identity: bytes
    ticket: str
    ep: str
    #: The record's value as it came.
    request: bytes
    state: CommandState
    received_ms: int
    expires_ms: int | None = None
    reply: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredState:
    """All that a gateway starts from. ``commands`` are the unanswered ones, in order."""

    registrations: tuple[StoredRegistration, ...]
    observations: tuple[StoredObservation, ...]
    commands: tuple[StoredCommand, ...]
    #: By partition of the requests topic, the offset of the first record that was not admitted yet.
    positions: Mapping[int, int]
    #: The number of answered commands that are kept, and the highest sequence among all that are stored (0: none).
    answered: int
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What became of one call of `State.admit_commands`.

    ``known`` has the commands that were stored before, by identity: the reply of an answered one, None for one that
    is not answered yet. All others of the call are new, and durable now.
    """

    known: Mapping[bytes, bytes | None]


Done = Callable[[StateUnavailable | None], None]
AdmittedDone = Callable[[Admitted | StateUnavailable], None]
Row = tuple[Any, ...]


@dataclass(slots=True)
class Group:
    """What one transaction writes. Touched by the loop until it is handed over, then by the writer's thread alone.

    ``callbacks`` stays the loop's throughout: the thread never reads it.
    """

    registrations: dict[str, Row | None] = field(default_factory=dict)
    touches: dict[str, Row] = field(default_factory=dict)
    observations: dict[bytes, Row | None] = field(default_factory=dict)
    states: dict[bytes, int] = field(default_factory=dict)
    answers: dict[bytes, Row] = field(default_factory=dict)
    forgotten: set[bytes] = field(default_factory=set)
    admissions: list[tuple[list[Row], AdmittedDone]] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)
    forget_answered_before_ms: int | None = None
    admitted: list[Admitted] = field(default_factory=list)
    callbacks: list[Done] = field(default_factory=list)
    size: int = 0
    urgent: bool = False


def count_answered(db: sqlite3.Connection) -> int:
    """How many answered commands are kept."""
    count: int = db.execute("SELECT count(*) FROM commands WHERE state = 2").fetchone()[0]
    return count


def load(db: sqlite3.Connection, *, answered: int) -> StoredState:
    """All that is stored; ``answered`` is what `count_answered` and `write` told last.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    select = db.execute
    registrations = tuple(
        StoredRegistration(**{**row, "queue": bool(row["queue"])})
        for row in map(dict, select("SELECT * FROM registrations ORDER BY ep"))
    )
    observations = tuple(
        StoredObservation(**{**row, "declared": bool(row["declared"])})
        for row in map(dict, select("SELECT * FROM observations ORDER BY ep, path, created_ms"))
    )
    commands = tuple(
        StoredCommand(**{**row, "state": CommandState(row["state"])})
        for row in map(
            dict,
            select(
                "SELECT sequence, identity, ticket, ep, request, state, received_ms, expires_ms, reply "
                "FROM commands WHERE state < 2 ORDER BY sequence"
            ),
        )
    )
    positions = {row[0]: row[1] for row in select("SELECT partition, next_offset FROM positions")}
    last: int = select("SELECT coalesce(max(sequence), 0) FROM commands").fetchone()[0]
    return StoredState(
        registrations=registrations,
        observations=observations,
        commands=commands,
        positions=MappingProxyType(positions),
        answered=answered,
        last_sequence=last,
    )


def write(db: sqlite3.Connection, group: Group, *, answered: int, keep_answered: int) -> int:
    """Write a group in one transaction, and tell its admissions; returns how many answered commands are kept then.

    ``answered`` is how many there were, ``keep_answered`` how many there may be.

    Raises:
        sqlite3.Error: nothing of it is written; the transaction is still open.
    """
    db.execute("BEGIN IMMEDIATE")
    _write_keyed(db, "registrations", "ep", 14, group.registrations)
    if group.touches:
        db.executemany(
            "UPDATE registrations SET last_up_ms = ?, address = ?, port = ? WHERE ep = ?", group.touches.values()
        )
    _write_keyed(db, "observations", "token", 8, group.observations)
    if group.states:
        db.executemany(
            "UPDATE commands SET state = ? WHERE identity = ? AND state < 2",
            [(state, identity) for identity, state in group.states.items()],
        )
    if group.answers:
        answered += db.executemany(
            "UPDATE commands SET state = 2, reply = ?, answered_ms = ?, request = x'' WHERE identity = ? AND state < 2",
            group.answers.values(),
        ).rowcount
    if group.forgotten:
        db.executemany(
            "DELETE FROM commands WHERE identity = ? AND state < 2", [(identity,) for identity in group.forgotten]
        )
    if group.positions:
        db.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", group.positions.items())
    # After the answers: a request that is repeated while its answer is being written must find it.
    admitted = [Admitted(known=MappingProxyType(_admit(db, rows))) for rows, _ in group.admissions]
    if group.forget_answered_before_ms is not None:
        answered -= db.execute(
            "DELETE FROM commands WHERE state = 2 AND answered_ms < ?", (group.forget_answered_before_ms,)
        ).rowcount
    # In portions, so that not every group pays for the scan.
    if answered > keep_answered + min(keep_answered, 10_000) // 10:
        answered -= db.execute(
            "DELETE FROM commands WHERE sequence IN "
            "(SELECT sequence FROM commands WHERE state = 2 ORDER BY answered_ms, sequence LIMIT ?)",
            (answered - keep_answered,),
        ).rowcount
    db.execute("COMMIT")
    group.admitted = admitted
    return answered


def _write_keyed(db: sqlite3.Connection, table: str, key: str, columns: int, changes: Mapping[Any, Row | None]) -> None:
    if not changes:
        return
    gone = [(name,) for name, row in changes.items() if row is None]
    if gone:
        db.executemany(f"DELETE FROM {table} WHERE {key} = ?", gone)
    rows = [row for row in changes.values() if row is not None]
    if rows:
        db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * columns)})", rows)


def _admit(db: sqlite3.Connection, rows: list[Row]) -> dict[bytes, bytes | None]:
    known: dict[bytes, bytes | None] = {}
    for row in rows:
        stored = db.execute(
            "INSERT INTO commands (sequence, identity, ticket, ep, request, state, received_ms, expires_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (identity) DO NOTHING",
            row,
        )
        if stored.rowcount == 0:
            known[row[1]] = db.execute("SELECT reply FROM commands WHERE identity = ?", (row[1],)).fetchone()[0]
    return known
