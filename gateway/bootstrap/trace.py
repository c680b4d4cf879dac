"""What became of each bootstrap run, kept to be read afterwards.

Owns how much is kept. What a step says is given to it in words, without keys; it knows no LwM2M.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.bootstrap.store_file import BootstrapFile

#: Runs that are kept: of one endpoint, and of all.
MOST_OF_ONE: Final = 20
MOST_RUNS: Final = 20_000
#: Steps of a run, and characters of a text of it.
MOST_STEPS: Final = 200
MOST_TEXT: Final = 400


class Outcome(Enum):
    """How a run ended."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    #: The device began again before it was at its end.
    REPLACED = "replaced"
    #: The server was stopped, or died.
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedStep:
    """What a device was asked, and what came of it. ``at_ms``: epoch milliseconds of the end of the step."""

    at_ms: int
    step: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRun:
    """One run. Times are epoch milliseconds; ``identity`` is None for what came in the clear."""

    number: int
    ep: str
    address: str
    identity: str | None
    profile: str
    began_ms: int
    ended_ms: int | None
    outcome: Outcome
    why: str
    steps: tuple[TracedStep, ...]


class Trace:
    """The runs in a file. All of it waits for the disk."""

    def __init__(self, file: BootstrapFile, now_ms: Callable[[], int]) -> None:
        self._file = file
        self._now_ms = now_ms

    def recover(self) -> int:
        """Mark what was under way when the server before this one died; how many runs that were.

        Raises:
            BootstrapFileError: the file cannot be written.
        """
        with self._file.transaction() as db:
            return db.execute(
                "UPDATE runs SET outcome = ?, why = ?, ended_ms = ? WHERE outcome = ?",
                (Outcome.INTERRUPTED.value, "the server died in the middle", self._now_ms(), Outcome.RUNNING.value),
            ).rowcount

    def begin(self, ep: str, address: str, identity: str | None, profile: str) -> int:
        """A run has begun; its number.

        Raises:
            BootstrapFileError: the file cannot be written.
        """
        with self._file.transaction() as db:
            number = db.execute(
                "INSERT INTO runs (ep, address, identity, profile, began_ms, outcome, why) "
                "VALUES (?, ?, ?, ?, ?, ?, '')",
                (ep, address, identity, profile, self._now_ms(), Outcome.RUNNING.value),
            ).lastrowid
            assert number is not None
            old = db.execute(
                "SELECT number FROM runs WHERE ep = ? ORDER BY number DESC LIMIT -1 OFFSET ?", (ep, MOST_OF_ONE)
            ).fetchall()
            older = db.execute("SELECT number FROM runs WHERE number <= ? LIMIT 100", (number - MOST_RUNS,)).fetchall()
            for table, column in (("steps", "run"), ("runs", "number")):
                db.executemany(f"DELETE FROM {table} WHERE {column} = ?", old + older)
            return number

    def step(self, run: int, number: int, step: str, answer: str) -> None:
        """A step of a run is over.

        Raises:
            BootstrapFileError: the file cannot be written.
        """
        if number >= MOST_STEPS:
            return
        with self._file.transaction() as db:
            db.execute(
                "INSERT INTO steps VALUES (?, ?, ?, ?, ?)", (run, number, self._now_ms(), _short(step), _short(answer))
            )

    def end(self, run: int, outcome: Outcome, why: str = "") -> None:
        """A run is over.

        Raises:
            BootstrapFileError: the file cannot be written.
        """
        with self._file.transaction() as db:
            db.execute(
                "UPDATE runs SET outcome = ?, why = ?, ended_ms = ? WHERE number = ?",
                (outcome.value, _short(why), self._now_ms(), run),
            )

    def runs(self, ep: str | None, limit: int) -> list[TracedRun]:
        """The last runs, of one endpoint or of all, the newest first.

        Raises:
            BootstrapFileError: the file cannot be read.
        """
        fields = "number, ep, address, identity, profile, began_ms, ended_ms, outcome, why"
        with self._file.transaction() as db:
            if ep is None:
                rows = db.execute(f"SELECT {fields} FROM runs ORDER BY number DESC LIMIT ?", (limit,)).fetchall()
            else:
                rows = db.execute(
                    f"SELECT {fields} FROM runs WHERE ep = ? ORDER BY number DESC LIMIT ?", (ep, limit)
                ).fetchall()
            steps = {
                row[0]: db.execute(
                    "SELECT at_ms, step, answer FROM steps WHERE run = ? ORDER BY number", (row[0],)
                ).fetchall()
                for row in rows
            }
        return [
            TracedRun(
                number=row[0],
                ep=row[1],
                address=row[2],
                identity=row[3],
                profile=row[4],
                began_ms=row[5],
                ended_ms=row[6],
                outcome=Outcome(row[7]),
                why=row[8],
                steps=tuple(TracedStep(at_ms=at, step=step, answer=answer) for at, step, answer in steps[row[0]]),
            )
            for row in rows
        ]


def _short(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"
