"""The gateway's durable state: registrations, observations, commands and their answers, in one SQLite file.

Owns the order of writing to ``gateway.db`` in the state directory; `gateway.state_rows` has its content and
`gateway.state_file` opens it.
Callers live on the event loop and never wait for the disk: what they put joins the next group, a thread writes the
group in one transaction, and one callback a group tells that it is on disk. It never interprets what it stores.

Write-ahead log with ``synchronous=FULL``: a group that was reported durable survives ``kill -9`` and a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). What is said of a key several times within a group is written
once, the last word.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar

from gateway.known import Known
from gateway.state_file import (
    StateCorrupted,
    StateError,
    StateLocked,
    StateOverloaded,
    StateUnavailable,
    corrupted,
    lock_directory,
    open_file,
)
from gateway.state_rows import (
    REGISTRATION_COLUMNS,
    Answer,
    AnswerRow,
    CommandState,
    Done,
    Found,
    Group,
    Positions,
    Row,
    StoredCommand,
    StoredObservation,
    StoredOscoreContext,
    StoredOscoreObservation,
    StoredRegistration,
    StoredState,
    answered_identities,
    count_answers,
    find_answers,
    find_request,
    load,
    observations,
    registrations,
    unanswered_commands,
    write,
)

__all__ = [
    "Answer",
    "AnswerRow",
    "CommandState",
    "Positions",
    "State",
    "StateCorrupted",
    "StateError",
    "StateLocked",
    "StateOverloaded",
    "StateUnavailable",
    "StoredCommand",
    "StoredObservation",
    "StoredOscoreContext",
    "StoredOscoreObservation",
    "StoredRegistration",
    "StoredState",
]

_T = TypeVar("_T")
_INT64: Final = range(-(2**63), 2**63)
#: How long what is lazy waits at most for a group to go with.
_LAZY_SECONDS: Final = 1.0


class State:
    """The open store. Everything but `open` and `load` belongs to the event loop's thread and returns at once.

    What is put, deleted or forgotten and an `on_durable` in the same stretch of code (no await between) are in the same
    group, so the callback speaks for all of them.
    """

    def __init__(
        self, path: FilePath, connection: sqlite3.Connection, lock: int, max_pending: int, linger: float, keep: int
    ) -> None:
        self._path = path
        self._lock = lock
        self._connection = connection
        self._max_pending = max_pending
        self._linger = linger
        self._keep_answered = keep
        self._answered = count_answers(connection)
        # Trimming is done in portions: a tenth more may be there.
        self._known = Known(max(keep + keep // 10, self._answered))
        for identity in answered_identities(connection):
            self._known.add(identity)
        self._pending = Group()
        self._writing: Group | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
        self._closed = False
        #: Groups written and groups refused by the disk, for the metrics.
        self.groups_written = 0
        self.groups_failed = 0
        self._thread = threading.Thread(target=self._write_groups, name="state-writer", daemon=True)
        self._thread.start()

    @staticmethod
    def open(
        directory: FilePath, *, max_pending: int = 50_000, linger: float = 0.0, keep_answered: int = 100_000
    ) -> State:
        """Open or create ``directory/gateway.db``; only the owner can read it.

        ``max_pending`` bounds the rows that wait for the disk, ``linger`` (seconds) is how long a group waits for
        company, ``keep_answered`` is how many answered commands are kept (see also `forget_answered`).

        Raises:
            StateLocked: another process has the directory.
            StateCorrupted: the file is damaged, not ours, or newer than this program.
            StateUnavailable: the directory or file cannot be written.
        """
        path = directory / "gateway.db"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = lock_directory(directory)
        except OSError as exc:
            raise StateUnavailable(f"the state directory {directory} cannot be used: {exc.strerror or exc}") from exc
        try:
            return State(path, open_file(path), lock, max_pending, linger, keep_answered)
        except BaseException:
            os.close(lock)
            raise

    def load(self) -> StoredState:
        """What is stored, for the start, but for what follows: to be called before anything is put.

        Raises:
            StateCorrupted: the file is damaged.
        """
        try:
            return load(self._connection, answered=self._answered)
        except sqlite3.DatabaseError as exc:
            raise corrupted(self._path, str(exc)) from exc

    # One at a time, for the start: as `load`.

    def registrations(self) -> Iterator[StoredRegistration]:
        """By endpoint name. Raises as `load`."""
        return self._read(registrations)

    def observations(self) -> Iterator[StoredObservation]:
        """By endpoint name, path and age. Raises as `load`."""
        return self._read(observations)

    def commands(self) -> Iterator[StoredCommand]:
        """The unanswered ones in order. Raises as `load`."""
        return self._read(unanswered_commands)

    def _read(self, rows: Callable[[sqlite3.Connection], Iterator[_T]]) -> Iterator[_T]:
        try:
            yield from rows(self._connection)
        except sqlite3.DatabaseError as exc:
            raise corrupted(self._path, str(exc)) from exc

    # What callers say. StateOverloaded when the backlog is full, ValueError when a value cannot be stored.

    def put_registration(self, registration: StoredRegistration) -> None:
        """Store a registration in place of what the endpoint had before."""
        r = registration
        row = r[:REGISTRATION_COLUMNS]
        group = self._admit_rows(1, row)
        group.registrations[r.ep] = row
        group.behind[r.ep] = None if r.behind is None else (r.ep, r.behind, r.prefix)
        group.touches.pop(r.ep, None)

    def delete_registration(self, ep: str) -> None:
        """Forget a registration; its observations are forgotten one by one with `delete_observation`."""
        group = self._admit_rows(1, (ep,))
        group.registrations[ep] = group.behind[ep] = None
        group.touches.pop(ep, None)

    def touch_registration(self, ep: str, last_up_ms: int, address: str, port: int) -> None:
        """Note a sign of life. Lazy: it is written with the next group, within a second, or lost in a crash.

        Never refused: when the backlog is full it is skipped, as the next sign of life says it again.
        """
        group = self._pending
        if group.size >= self._max_pending and ep not in group.touches:
            return
        if ep not in group.touches:
            group.size += 1
        group.touches[ep] = (last_up_ms, address, port, ep)
        if self._timer is None and self._writing is None:
            self._timer = self._running_loop().call_later(_LAZY_SECONDS, self._hand_over)

    def put_observation(self, observation: StoredObservation) -> None:
        """Store an observation under its token."""
        self._admit_rows(1, observation).observations[observation.token] = observation

    def delete_observation(self, token: bytes) -> None:
        """Forget an observation."""
        self._admit_rows(1).observations[token] = None

    def put_oscore_context(self, context: StoredOscoreContext) -> None:
        """Store what must not be forgotten of a security context."""
        c = context
        row = (c.digest, c.next_number, c.highest, c.taken, c.id_context)
        self._admit_rows(1, row).oscore_contexts[c.digest] = row

    def put_oscore_observation(self, observation: StoredOscoreObservation) -> None:
        """Store by which protected request an observation was made."""
        o = observation
        row = (o.token, o.digest, o.partial_iv)
        self._admit_rows(1, row).oscore_observations[o.token] = row

    def delete_oscore_observation(self, token: bytes) -> None:
        """Forget it."""
        self._admit_rows(1).oscore_observations[token] = None

    # All of a command is lazy: Kafka has it as well, so it waits for the next group, a second at most, and needs no
    # transaction of its own. ``done`` is told when it is on disk.

    def put_command(self, command: StoredCommand, done: Done | None = None) -> None:
        """Store a command, in place of what its sequence or identity had before. Lazy."""
        c = command
        row = (
            c.sequence,
            c.identity,
            c.occurrence,
            c.ticket,
            c.ep,
            c.request,
            int(c.state),
            c.received_ms,
            c.expires_ms,
        )
        self._lazy_rows(done, row).commands[c.sequence] = row

    def forget_command(self, sequence: int, done: Done | None = None) -> None:
        """Drop a command: it needs to be known no more. Lazy."""
        self._lazy_rows(done).commands[sequence] = None

    def put_answer(
        self, identity: bytes, occurrence: int, reply: bytes, answered_ms: int, done: Done | None = None
    ) -> None:
        """Keep the reply (the record's bytes) to a request; one that has a reply keeps its first. Lazy."""
        row = (identity, occurrence, reply, answered_ms)
        self._lazy_rows(done, row).answers.setdefault(identity, row)
        self._known.add(identity)

    def put_answers(self, answers: Sequence[AnswerRow], done: Done) -> None:
        """`put_answer` for several at once: ``done`` is told once, when all are on disk. Lazy."""
        group = self._lazy_rows(done, count=len(answers))
        for row in answers:
            group.answers.setdefault(row[0], row)
            self._known.add(row[0])

    def put_positions(self, positions: Positions, done: Done | None = None) -> None:
        """Where to go on reading the requests topic. Lazy."""
        rows = ((topic, partition, offset) for (topic, partition), offset in positions.items())
        self._lazy_rows(done, *rows).positions.update(positions)

    def forget_answered(self, before_ms: int) -> None:
        """Drop what was answered before ``before_ms``: a request that is repeated later is a new one."""
        self._admit_rows(1, (before_ms,)).forget_answered_before_ms = before_ms

    def may_know(self, identity: bytes) -> bool:
        """False if there is certainly no answer to the request; else `find_answers` tells."""
        return identity in self._known

    def find_answers(self, identities: Sequence[bytes], found: Found) -> None:
        """Look for answers, those that were just put among them; ``found`` gets them, or the error of the disk."""
        self._admit_rows(1).lookups.append((partial(find_answers, identities=identities), found))

    async def request_of(self, sequence: int) -> bytes | None:
        """The record's value of a command that is stored; None: it is not.

        Raises:
            StateError: it cannot be read.
        """
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def found(outcome: bytes | StateUnavailable | None) -> None:
            if future.done():
                return
            if isinstance(outcome, StateUnavailable):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self._admit_rows(1).lookups.append((partial(find_request, sequence=sequence), found))
        return await future

    def on_durable(self, callback: Done) -> None:
        """Call ``callback`` on the loop when all that was said so far is on disk, with the error if it is not.

        It does not wait for touches.
        """
        group = self._pending
        if group.size > len(group.touches):
            group.callbacks.append(callback)
            self._hurry(group)
        elif self._writing is not None:
            self._writing.callbacks.append(callback)
        else:
            self._running_loop().call_soon(callback, None)

    async def durable(self) -> None:
        """Wait until all that was said so far is on disk.

        Raises:
            StateUnavailable: it is not, and none of its group is.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: StateUnavailable | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.on_durable(done)
        await future

    @property
    def backlog(self) -> int:
        """The rows that wait for the disk."""
        return self._pending.size + (self._writing.size if self._writing else 0)

    async def close(self, *, timeout: float = 5.0) -> None:
        """Write what is pending, and let the file and the directory go."""
        if self._closed:
            return
        if self._pending.size:
            self._pending.urgent = True
            self._hand_over()
        with suppress(StateUnavailable, TimeoutError):
            await asyncio.wait_for(self.durable(), timeout)
        self._closed = True
        if self._timer:
            self._timer.cancel()
        self._work.put(None)
        await asyncio.to_thread(self._thread.join, timeout)
        # A thread that still hangs in a write keeps its connection; the lock goes with the process then.
        if not self._thread.is_alive():
            self._connection.close()
            os.close(self._lock)

    # The loop's side of the hand-over. Only the loop's thread runs these, so no lock is needed.

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _admit_rows(self, count: int, *rows: Row) -> Group:
        """The group that goes to disk next, with room for ``count`` rows more."""
        group = self._checked(count, rows)
        self._hurry(group)
        return group

    def _lazy_rows(self, done: Done | None, *rows: Row, count: int = 1) -> Group:
        """As `_admit_rows`; but the group may wait a second for company."""
        group = self._checked(count, rows)
        if done is not None:
            group.callbacks.append(done)
        if self._timer is None and self._writing is None:
            self._timer = self._running_loop().call_later(_LAZY_SECONDS, self._hand_over)
        return group

    def _checked(self, count: int, rows: Sequence[Row]) -> Group:
        if self._closed:
            raise StateUnavailable(f"{self._path} is closed")
        group = self._pending
        if group.size + count > self._max_pending and group.size:
            raise StateOverloaded(f"{group.size} changes wait for {self._path}: the disk does not keep up")
        for row in rows:
            # One value that SQLite cannot take would fail the whole group, with everybody else's changes in it.
            for value in row:
                if type(value) is int:
                    if value not in _INT64:
                        raise ValueError(f"{value} does not fit 64 bits")
                elif type(value) is str and not value.isascii():
                    value.encode()
        group.size += count
        return group

    def _hurry(self, group: Group) -> None:
        """Write the group as soon as the disk is free."""
        if not group.urgent:
            group.urgent = True
            if self._writing is None:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._running_loop().call_later(self._linger, self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None and self._pending.size:
            self._running_loop()
            self._writing, self._pending = self._pending, Group()
            self._work.put(self._writing)

    def _written(self, group: Group, error: StateUnavailable | None) -> None:
        self._writing = None
        if error is None:
            self.groups_written += 1
        else:
            self.groups_failed += 1
        if self._pending.urgent:
            self._hand_over()
        elif self._pending.size and self._timer is None:
            self._timer = self._running_loop().call_later(_LAZY_SECONDS, self._hand_over)
        for index, (_, found) in enumerate(group.lookups):
            self._tell(found, error or group.found[index])
        for callback in group.callbacks:
            self._tell(callback, error)

    def _tell(self, callback: Callable[[Any], None], outcome: object) -> None:
        try:
            callback(outcome)
        except Exception as exc:  # noqa: BLE001  # one caller's mistake must not keep the others of the group waiting
            self._running_loop().call_exception_handler({"message": "a state callback failed", "exception": exc})

    # The thread's side.

    def _write_groups(self) -> None:
        while (group := self._work.get()) is not None:
            error: StateUnavailable | None = None
            try:
                self._answered = write(
                    self._connection, group, answered=self._answered, keep_answered=self._keep_answered
                )
            except Exception as exc:  # noqa: BLE001  # whatever the disk does, the thread lives and tells the callers
                error = StateUnavailable(f"{self._path} could not be written: {exc}")
                error.__cause__ = exc
                with suppress(sqlite3.Error):
                    self._connection.rollback()
            # The loop may be gone already when the process ends.
            with suppress(RuntimeError):
                assert self._loop is not None
                self._loop.call_soon_threadsafe(self._written, group, error)
            # Not kept until the next one comes: it may be large.
            del group, error
