"""What the job ``filter`` does with a record: a row for each value, and what the query takes of them goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analytics.job import WHEN_PUT_OUT, Emit, Incoming, JobConfigError, State
from analytics.row_reading import RowReader
from analytics.selection import NOW, QueryError, Selection, compile_query
from analytics.sql_values import Scalar
from schemas.avro import serde


def selection_of(query: str) -> Selection:
    """The query, compiled. Raises JobConfigError."""
    try:
        return compile_query(query)
    except QueryError as exc:
        raise JobConfigError(f"--query: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A job (`analytics.job.Job`); it remembers nothing. ``clock`` gives ``now()`` in epoch milliseconds."""

    selection: Selection
    reader: RowReader
    to: str | None
    show: Callable[[Any], None] | None
    clock: Callable[[], int]

    def take(self, record: Incoming, state: State, emit: Emit) -> None:
        if record.value is None:
            return  # a tombstone says nothing
        selection, now = self.selection, self.clock()
        for row in self.reader.rows(record):
            row[NOW] = now
            if not selection.takes(row):
                continue
            if selection.fields is None:
                if self.to is not None:
                    emit(self.to, record.key, record.value, WHEN_PUT_OUT, record.headers)
                if self.show is not None:
                    self.show(serde.decode(record.value))
                return  # once, however many of its values are taken
            chosen = {name: _plain(value) for name, value in selection.project(row).items()}
            if self.to is not None:
                emit(self.to, record.key, json.dumps(chosen, ensure_ascii=False).encode())
            if self.show is not None:
                self.show(chosen)

    def idle(self, silent_s: float, state: State, emit: Emit) -> None:
        """Nothing waits here."""


def _plain(value: Scalar) -> Scalar:
    """JSON has no such numbers; they are text, as in every other JSON of ours."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
