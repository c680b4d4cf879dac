"""The job ``filter``: a selection in SQL between topics.

``SELECT *`` passes records on as they are, bytes, headers and time; selected fields become JSON objects, one for each
value that is taken.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from analytics.job import (
    ANY_GATEWAY,
    WHEN_PUT_OUT,
    Emit,
    Incoming,
    JobConfigError,
    JobKind,
    JobOptions,
    State,
    Surroundings,
)
from analytics.row_reading import RowReader
from analytics.selection import NOW, QueryError, Selection, compile_query
from analytics.sql_values import Scalar
from schemas.avro import serde
from schemas.avro.topics import FAMILIES, TopicKind, Topics

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def _topic(text: str) -> str:
    if _TOPIC.fullmatch(text) is None or text in (".", ".."):
        raise ValueError(f"{text[:80]!r} is no name of a topic: letters, digits, '.', '_' and '-' are expected")
    return text


class FilterOptions(JobOptions):
    query: str = Field(description='SELECT … FROM … WHERE …, such as "SELECT * FROM * WHERE result < 4".')
    to: Annotated[str, AfterValidator(_topic)] | None = Field(
        default=None, description="The topic of what is selected; it is made if it is not there."
    )
    print: bool = Field(default=False, description="Only show what is selected, with no topic.")


def _selection(options: FilterOptions) -> Selection:
    try:
        return compile_query(options.query)
    except QueryError as exc:
        raise JobConfigError(f"--query: {exc}") from exc


def _reads(options: FilterOptions, topics: Topics) -> list[str]:
    """The topics after FROM; each once."""
    found: dict[str, None] = {}
    for source in _selection(options).sources:
        if source == "*":
            family = FAMILIES[TopicKind.OBSERVATIONS]
            found[f"{family.prefix}.{ANY_GATEWAY}.{family.suffix}"] = None
        elif source.lower() in _FAMILIES:
            found[topics.name(_FAMILIES[source.lower()])] = None
        elif "." in source and _TOPIC.fullmatch(source):
            found[source] = None
        else:
            raise JobConfigError(
                f"--query: FROM {source[:80]!r}: neither *, nor a topic's full name, nor one of {', '.join(_FAMILIES)}"
            )
    return list(found)


_FAMILIES = {kind.value: kind for kind in TopicKind}


def _writes(options: FilterOptions, topics: Topics) -> dict[str, int]:
    return {} if options.to is None else {options.to: FAMILIES[TopicKind.OBSERVATIONS].partitions}


def _make(options: FilterOptions, around: Surroundings) -> Filter:
    selection = _selection(options)
    if options.to is None and not options.print:
        raise JobConfigError("say where what is selected goes: --to TOPIC, or --print")
    if options.to is not None and options.print:
        raise JobConfigError("--to and --print exclude each other; what goes to a topic is shown as well")
    if options.to is not None and any(fnmatchcase(options.to, read) for read in _reads(options, around.topics)):
        raise JobConfigError(f"--to {options.to}: that is what the query reads; it would read its own results")
    return Filter(
        selection=selection,
        reader=RowReader(selection.used),
        to=options.to,
        show=around.show,
        clock=lambda: time.time_ns() // 1_000_000,
    )


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


KIND = JobKind(
    name="filter",
    summary="SQL between topics: SELECT * FROM * WHERE result < 4, or chosen fields as JSON.",
    options=FilterOptions,
    make=_make,
    reads=_reads,
    writes=_writes,
    stateful=False,
    output="the topic of --to",
    sample="""\
# What is selected: SELECT * passes records on as they are, fields become JSON objects.
query = "SELECT * FROM * WHERE path LIKE '/3303/%' AND value < 4"
# The topic that it goes to; it is made if it is not there.
to = "cold"
# Only show what is selected, with no topic.
print = false
""",
    examples=(
        "--query 'SELECT * FROM * WHERE result < 4' --to cold",
        "--query \"SELECT ep, value FROM observations WHERE path LIKE '/3303/%' AND NOT late\" --print",
    ),
)
