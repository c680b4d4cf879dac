"""What the gateway's state file holds: the values that go in and come out, and the SQL of both ways.

Owns the rows of the tables that `gateway.state_file` makes. It knows no threads and no event loop; when what is written
is `gateway.state`'s.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from gateway.state_file import StateUnavailable

#: The next offset by the id of the topic (which tells it from another of the same name, KIP-516) and the partition.
Positions = Mapping[tuple[str, int], int]


class CommandState(IntEnum):
    """Where a command stands."""

    QUEUED = 0
    #: It may have left, and must not be repeated.
    SENT = 1
    #: It was sent and waits again: it may be repeated, and the device may have done it.
    TRIED = 2


class StoredRegistration(NamedTuple):
    """A registered device. ``links_text`` is the payload of the registration as it came; times are epoch ms.

    The first REGISTRATION_COLUMNS are the row of its table, in that order.
    """

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
    #: What the device showed over DTLS; None for one that speaks in the clear.
    identity: str | None = None
    #: Of a device behind a gateway: the gateway's endpoint name, and the prefix of its paths there.
    behind: str | None = None
    prefix: str | None = None


REGISTRATION_COLUMNS = 15


class StoredObservation(NamedTuple):
    """An established observation; ``declared`` ones come from the operator's patterns, the others from a request.

    It is the row of its table.
    """

    token: bytes
    ep: str
    path: str
    ticket: str
    observation_id: str
    content_format: int | None
    declared: bool
    created_ms: int
    #: What it began with in its query (LwM2M 1.2): ``pmin=5&pmax=60``.
    attributes: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCommand:
    """A request on its way to a device. ``sequence`` ascends in the order of the topic and is unique."""

    sequence: int
    #: What is the same for the same request, and which record of the topic it was (`gateway.request_records`).
    identity: bytes
    occurrence: int
    ticket: str
    ep: str
    #: The record's value as it came.
    request: bytes
    state: CommandState
    received_ms: int
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOscoreContext:
    """What must not be forgotten of a security context (RFC 8613 section 7.5), known by the digest of its keys.

    No number from ``next_number`` on was used; ``highest`` and ``taken`` are its window against replays. ``id_context``
    is what its keys were derived with anew (appendix B.2), None for those of the credential itself, whose digest it is.
    """

    digest: bytes
    next_number: int
    highest: int
    taken: bytes
    id_context: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOscoreObservation:
    """The Partial IV of the request that an observation with this token was made by: its notifications answer that."""

    token: bytes
    digest: bytes
    partial_iv: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredState:
    """What a gateway starts from, beside what there may be much of: registrations, observations and commands."""

    #: From where on the requests topic is not done with.
    positions: Positions
    #: The number of answers that are kept, and the highest sequence among the commands (0: none).
    answered: int
    last_sequence: int
    oscore_contexts: tuple[StoredOscoreContext, ...] = ()
    oscore_observations: tuple[StoredOscoreObservation, ...] = ()
    #: The tokens of those that are still observations.
    oscore_observed: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The reply to a request, and which record of the requests topic it answered."""

    occurrence: int
    reply: bytes


Done = Callable[[StateUnavailable | None], None]
#: What is known of the identities that were asked for.
Found = Callable[[Mapping[bytes, Answer] | StateUnavailable], None]
#: Reads something, on the writer's thread.
Look = Callable[[sqlite3.Connection], object]
Row = tuple[Any, ...]
#: Identity, occurrence, reply, and when it was given (epoch ms): what 64 bits hold.
AnswerRow = tuple[bytes, int, bytes, int]
_T = TypeVar("_T")


@dataclass(slots=True)
class Group:
    """What one transaction writes. Touched by the loop until it is handed over, then by the writer's thread alone.

    ``callbacks`` stays the loop's throughout: the thread never reads it.
    """

    registrations: dict[str, Row | None] = field(default_factory=dict)
    #: Of those registrations, the ones behind a gateway.
    behind: dict[str, Row | None] = field(default_factory=dict)
    touches: dict[str, Row] = field(default_factory=dict)
    observations: dict[bytes, Row | None] = field(default_factory=dict)
    oscore_contexts: dict[bytes, Row | None] = field(default_factory=dict)
    oscore_observations: dict[bytes, Row | None] = field(default_factory=dict)
    commands: dict[int, Row | None] = field(default_factory=dict)
    answers: dict[bytes, Row] = field(default_factory=dict)
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    forget_answered_before_ms: int | None = None
    lookups: list[tuple[Look, Callable[[Any], None]]] = field(default_factory=list)
    found: list[object] = field(default_factory=list)
    callbacks: list[Done] = field(default_factory=list)
    size: int = 0
    urgent: bool = False


def count_answers(db: sqlite3.Connection) -> int:
    """How many answers are kept."""
    count: int = db.execute("SELECT count(*) FROM answers").fetchone()[0]
    return count


def answered_identities(db: sqlite3.Connection) -> Iterator[bytes]:
    """The requests whose answers are kept, in any order: so their index is enough, and no reply is read."""
    for row in db.execute("SELECT identity FROM answers"):
        yield row[0]


def load(db: sqlite3.Connection, *, answered: int) -> StoredState:
    """What is stored, but for registrations, observations and commands; ``answered`` is how many answers are kept.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    select = db.execute
    positions = {(row[0], row[1]): row[2] for row in select("SELECT topic, partition, next_offset FROM positions")}
    last: int = select("SELECT coalesce(max(sequence), 0) FROM commands").fetchone()[0]
    return StoredState(
        positions=MappingProxyType(positions),
        answered=answered,
        last_sequence=last,
        oscore_contexts=tuple(StoredOscoreContext(**row) for row in map(dict, select("SELECT * FROM oscore_contexts"))),
        oscore_observations=tuple(
            StoredOscoreObservation(**row) for row in map(dict, select("SELECT * FROM oscore_observations"))
        ),
        oscore_observed=frozenset(
            row[0] for row in select("SELECT token FROM oscore_observations JOIN observations USING (token)")
        ),
    )


def registrations(db: sqlite3.Connection) -> Iterator[StoredRegistration]:
    """One at a time, by endpoint name: all their rows would be as much memory again as what is made of them.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    columns = ", ".join(StoredRegistration._fields)
    for row in _tuples(db, f"SELECT {columns} FROM registrations LEFT JOIN behind USING (ep) ORDER BY ep"):
        yield StoredRegistration._make((*row[:_QUEUE], bool(row[_QUEUE]), *row[_QUEUE + 1 :]))


def observations(db: sqlite3.Connection) -> Iterator[StoredObservation]:
    """One at a time, by device, path and age.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    columns = ", ".join(StoredObservation._fields)
    for row in _tuples(db, f"SELECT {columns} FROM observations ORDER BY ep, path, created_ms"):
        yield StoredObservation._make((*row[:_DECLARED], bool(row[_DECLARED]), *row[_DECLARED + 1 :]))


def _tuples(db: sqlite3.Connection, select: str) -> Iterator[Row]:
    cursor = db.cursor()
    cursor.row_factory = None
    return cursor.execute(select)


#: Truth is a number in the file.
_QUEUE = StoredRegistration._fields.index("queue")
_DECLARED = StoredObservation._fields.index("declared")


def unanswered_commands(db: sqlite3.Connection) -> Iterator[StoredCommand]:
    """The unanswered commands in order, one at a time: together they may be more than the memory.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """
    for row in db.execute(
        "SELECT sequence, identity, occurrence, ticket, ep, request, state, received_ms, expires_ms "
        "FROM commands ORDER BY sequence"
    ):
        yield StoredCommand(**{**dict(row), "state": CommandState(row["state"])})


def write(db: sqlite3.Connection, group: Group, *, answered: int, keep_answered: int) -> int:
    """Write a group in one transaction, and look up what it asks for; returns how many answers are kept then.

    ``answered`` is how many there were, ``keep_answered`` how many there may be.

    Raises:
        sqlite3.Error: nothing of it is written; the transaction is still open.
    """
    db.execute("BEGIN IMMEDIATE")
    _write_keyed(db, "registrations", "ep", REGISTRATION_COLUMNS, group.registrations)
    if any(group.behind.values()) or db.execute("SELECT EXISTS (SELECT 1 FROM behind)").fetchone()[0]:
        _write_keyed(db, "behind", "ep", 3, group.behind)
    for portion in _portions(list(group.touches.values())):
        values = ", ".join(["(?, ?, ?, ?)"] * len(portion))
        db.execute(
            "UPDATE registrations SET last_up_ms = said.column1, address = said.column2, port = said.column3 "
            f"FROM (VALUES {values}) AS said WHERE ep = said.column4",
            list(chain.from_iterable(portion)),
        )
    _write_keyed(db, "observations", "token", 9, group.observations)
    _write_keyed(db, "oscore_contexts", "digest", 5, group.oscore_contexts)
    _write_keyed(db, "oscore_observations", "token", 3, group.oscore_observations)
    _write_keyed(db, "commands", "sequence", 9, group.commands)
    if group.answers:
        for rows in _portions(list(group.answers.values())):
            # The first answer stays.
            answered += db.execute(
                "INSERT INTO answers (identity, occurrence, reply, answered_ms) "
                f"VALUES {', '.join(['(?, ?, ?, ?)'] * len(rows))} ON CONFLICT (identity) DO NOTHING",
                list(chain.from_iterable(rows)),
            ).rowcount
    if group.positions:
        places = [(*place, offset) for place, offset in group.positions.items()]
        db.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", places)
        # The last word is of the topic that is there now.
        db.execute("DELETE FROM positions WHERE topic <> ?", (places[-1][0],))
    if group.forget_answered_before_ms is not None:
        answered -= db.execute(
            "DELETE FROM answers WHERE number < coalesce("
            "(SELECT number FROM answers WHERE answered_ms >= ? ORDER BY number LIMIT 1), 9223372036854775807)",
            (group.forget_answered_before_ms,),
        ).rowcount
    # In portions, so that not every group pays for it.
    if answered > keep_answered + min(keep_answered, 10_000) // 10:
        answered -= db.execute(
            "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT ?)",
            (answered - keep_answered,),
        ).rowcount
    db.execute("COMMIT")
    group.found = [_looked_up(db, look) for look, _ in group.lookups]
    return answered


def _write_keyed(db: sqlite3.Connection, table: str, key: str, columns: int, changes: Mapping[Any, Row | None]) -> None:
    if not changes:
        return
    gone = [name for name, row in changes.items() if row is None]
    for names in _portions(gone):
        db.execute(f"DELETE FROM {table} WHERE {key} IN ({_marks(len(names))})", names)
    rows = [row for row in changes.values() if row is not None]
    row_marks = f"({_marks(columns)})"
    for portion in _portions(rows):
        values = ", ".join([row_marks] * len(portion))
        db.execute(f"INSERT OR REPLACE INTO {table} VALUES {values}", list(chain.from_iterable(portion)))


#: Rows a statement, the largest first: a few statements that are prepared once, whatever the size of a group. At every
#: statement this thread gives the interpreter's lock away, and the event loop is slow to give it back.
_ROWS_A_STATEMENT = (64, 16, 4, 1)


def _portions(rows: list[_T]) -> Iterator[list[_T]]:
    at = 0
    for size in _ROWS_A_STATEMENT:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _looked_up(db: sqlite3.Connection, look: Look) -> object:
    try:
        return look(db)
    except sqlite3.Error as exc:
        return StateUnavailable(f"the state cannot be read: {exc}")


def find_answers(db: sqlite3.Connection, identities: Sequence[bytes]) -> Mapping[bytes, Answer]:
    """Those answers that are kept."""
    found = {}
    for identity in identities:
        row = db.execute("SELECT occurrence, reply FROM answers WHERE identity = ?", (identity,)).fetchone()
        if row is not None:
            found[identity] = Answer(occurrence=row[0], reply=row[1])
    return MappingProxyType(found)


def find_request(db: sqlite3.Connection, sequence: int) -> bytes | None:
    """What a command that is stored asks for."""
    row = db.execute("SELECT request FROM commands WHERE sequence = ?", (sequence,)).fetchone()
    return None if row is None else row[0]
