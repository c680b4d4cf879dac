"""The state of a gateway, carried over when it is started with another number of processes than before.

One process has its file in the state directory itself; several have one each in ``processes/0``, ``processes/1`` and so
on, since each is written by one process alone. What is of an endpoint goes to its owner; where to go on in the requests
topic is the least that all of them had reached, and what some had answered beyond it is known by their answers.

A crash at any point leaves the old files or the new ones:

1. the new files are made in ``new``, whole and synced;
2. ``new`` is renamed to ``ready-for-N``: from here on they count;
3. they take the places of the old ones, which is done again from the beginning if it was interrupted.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from gateway.file_cache import FOLDER
from gateway.journal import NAMES, Entry, Journal
from gateway.several.owners import owner_of
from gateway.state_file import StateCorrupted, StateUnavailable, corrupted, open_file
from schemas.avro import serde
from schemas.avro.records import Registration
from schemas.avro.request_identity import leading_strings
from schemas.files import is_hash

_log = structlog.get_logger("headwater.gateway")

_FILE: Final = "gateway.db"
_NEW: Final = "new"
_READY: Final = "ready-for-"
_PROCESSES: Final = "processes"
#: Tables with an endpoint name in each row. Those without one are in `_fill`.
_BY_ENDPOINT: Final = ("registrations", "behind", "observations")
#: Of OSCORE, which several processes do not speak: kept by the first of them for the time after.
_KEPT_BY_FIRST: Final = ("oscore_contexts", "oscore_observations")


def place_of(state: Path, number: int) -> Path:
    """The state directory of one of several processes."""
    return state / _PROCESSES / str(number)


def carry_over(state: Path, processes: int) -> None:
    """Have the state of this directory, which the caller has locked, in the places for so many ``processes``.

    Raises:
        StateCorrupted: a file is damaged, not ours, or of a later version; or an older one ran meanwhile.
        StateUnavailable: the disk refuses.
    """
    try:
        if (unfinished := _unfinished(state)) is not None:
            _put_in_place(state, unfinished)
        shutil.rmtree(state / _NEW, ignore_errors=True)
        before = _count(state)
        if before > 1 and (state / _FILE).exists():
            raise StateCorrupted(
                f"{state} has a state of one process ({_FILE}) beside one of several ({_PROCESSES}), so an older "
                "version of Headwater ran on it: move the one that is not to count away"
            )
        if before == processes:
            return
        sources = [one for one in _places(state, before) if (one / _FILE).exists()]
        for source in sources:
            open_file(source / _FILE).close()  # of today's format, and with nothing left in its log
        (state / _NEW).mkdir(mode=0o700)
        for number, place in enumerate(_places(state / _NEW, processes)):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if sources:
                _fill(place / _FILE, [source / _FILE for source in sources], number, processes)
                _share_updates(place, sources, number, processes)
            _share_files(place / FOLDER, [source / FOLDER for source in sources])
            _sync(place)
        _sync(state / _NEW)
        (state / _NEW).rename(state / f"{_READY}{processes}")
        _sync(state)
        _put_in_place(state, processes)
    except OSError as exc:
        raise StateUnavailable(f"the state directory {state} cannot be used: {exc.strerror or exc}") from exc
    if sources:
        _log.info("the state was carried over to another number of processes", before=before, processes=processes)


def _places(state: Path, processes: int) -> list[Path]:
    return [state] if processes == 1 else [place_of(state, number) for number in range(processes)]


def _count(state: Path) -> int:
    """For how many processes the directory is laid out."""
    folder = state / _PROCESSES
    return sum(one.name.isdecimal() for one in folder.iterdir()) if folder.is_dir() else 1


def _unfinished(state: Path) -> int | None:
    found = next(state.glob(f"{_READY}*"), None) if state.is_dir() else None
    return None if found is None else int(found.name.removeprefix(_READY))


def _put_in_place(state: Path, processes: int) -> None:
    ready = state / f"{_READY}{processes}"
    if processes == 1:
        if (ready / _FILE).exists():
            (ready / _FILE).rename(state / _FILE)
        for name in NAMES:
            if (ready / name).exists():
                (ready / name).rename(state / name)
        if (ready / FOLDER).exists():
            shutil.rmtree(state / FOLDER, ignore_errors=True)
            (ready / FOLDER).rename(state / FOLDER)
        if (state / _PROCESSES).exists():
            shutil.rmtree(state / _PROCESSES)
    else:
        if (ready / _PROCESSES).exists():
            if (state / _PROCESSES).exists():
                shutil.rmtree(state / _PROCESSES)
            (ready / _PROCESSES).rename(state / _PROCESSES)
        for name in (_FILE, *NAMES):
            (state / name).unlink(missing_ok=True)
        shutil.rmtree(state / FOLDER, ignore_errors=True)
    _sync(state)
    shutil.rmtree(ready)
    _sync(state)


def _fill(target: Path, sources: Sequence[Path], number: int, processes: int) -> None:
    db = open_file(target)
    try:
        db.create_function("owner", 1, lambda ep: owner_of(ep, processes), deterministic=True)
        db.create_function("answered_by", 1, lambda reply: owner_of(_endpoint(reply), processes), deterministic=True)
        for source in sources:
            db.execute("ATTACH ? AS old", (str(source),))
            db.execute("BEGIN IMMEDIATE")
            for table in _BY_ENDPOINT:
                _copy(db, table, "owner(ep) = ?", number)
            if number == 0:
                for table in _KEPT_BY_FIRST:
                    _copy(db, table, "?", 1)
            _copy_commands(db, number)
            db.execute(
                "INSERT OR IGNORE INTO answers (identity, occurrence, reply, answered_ms) SELECT identity, occurrence,"
                " reply, answered_ms FROM old.answers WHERE answered_by(reply) = ? ORDER BY number",
                (number,),
            )
            _copy_positions(db, is_first=source == sources[0])
            db.execute("COMMIT")
            db.execute("DETACH old")
    except sqlite3.OperationalError as exc:
        raise StateUnavailable(f"{target} cannot be written: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        raise corrupted(target, str(exc)) from exc
    finally:
        db.close()


def _share_updates(target: Path, sources: Sequence[Path], number: int, processes: int) -> None:
    """Those that were acknowledged, and that Kafka may not have."""
    entries: list[Entry] = []
    for source in sources:
        with closing(Journal(source)) as journal:
            entries += journal.entries()
    with closing(Journal(target)) as journal:
        journal.take_over(one for one in entries if owner_of(_updated(one), processes) == number)
    # The old ones may have been there for long, and are about to go.
    for name in NAMES:
        _sync(target / name)


def _updated(entry: Entry) -> str:
    record = serde.decode(entry.value)
    assert isinstance(record, Registration)
    return record.body.ep


def _share_files(target: Path, sources: Sequence[Path]) -> None:
    """Each process has all files for devices: who was told of one may be in the middle of it."""
    target.mkdir(mode=0o700, exist_ok=True)
    for source in sources:
        for file in source.iterdir() if source.is_dir() else ():
            if not (target / file.name).exists() and is_hash(file.name):
                # No second copy: they are never written to.
                os.link(file, target / file.name)


def _endpoint(reply: bytes) -> str:
    """Of an AvroResponse, which begins with ticket, serverId and ep."""
    return leading_strings(reply)[0][2]


def _copy(db: sqlite3.Connection, table: str, condition: str, value: int) -> None:
    names = ", ".join(row["name"] for row in db.execute(f"PRAGMA main.table_info({table})"))
    db.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM old.{table} WHERE {condition}", (value,))


def _copy_commands(db: sqlite3.Connection, number: int) -> None:
    """In their order, which matters among those of an endpoint; two files may have used a number for two commands."""
    used = {row[0] for row in db.execute("SELECT sequence FROM main.commands")}
    for row in db.execute("SELECT * FROM old.commands WHERE owner(ep) = ? ORDER BY sequence", (number,)).fetchall():
        values = dict(row)
        while values["sequence"] in used:
            values["sequence"] += 1
        used.add(values["sequence"])
        marks = ", ".join(f":{name}" for name in values)
        db.execute(f"INSERT OR IGNORE INTO main.commands ({', '.join(values)}) VALUES ({marks})", values)


def _copy_positions(db: sqlite3.Connection, *, is_first: bool) -> None:
    if is_first:
        db.execute("INSERT INTO main.positions SELECT topic, partition, next_offset FROM old.positions")
        return
    # One that has none begins at the beginning, and so do all.
    both = "main.positions.topic = o.topic AND main.positions.partition = o.partition"
    db.execute(f"DELETE FROM main.positions WHERE NOT EXISTS (SELECT 1 FROM old.positions o WHERE {both})")
    db.execute(
        "UPDATE main.positions SET next_offset ="
        f" min(next_offset, (SELECT o.next_offset FROM old.positions o WHERE {both}))"
    )


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
