"""The job ``filter``: a selection in SQL between topics.

``SELECT *`` passes records on as they are, key, bytes and headers; selected fields become JSON objects, one for each
value that is taken.
"""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from analytics.job import ANY_GATEWAY, Job, JobConfigError, JobKind, JobOptions, Surroundings
from analytics.jobs.common_options import TOPIC, TopicName
from schemas.avro.topics import FAMILIES, TopicKind, Topics

if TYPE_CHECKING:
    from analytics.selection import Selection


class FilterOptions(JobOptions):
    IDENTITY: ClassVar[tuple[str, ...]] = ("query", "to")

    query: str = Field(description='SELECT … FROM … WHERE …, such as "SELECT * FROM * WHERE result < 4".')
    to: TopicName | None = Field(
        default=None, description="The topic of what is selected; it is made if it is not there."
    )
    print: bool = Field(default=False, description="Only show what is selected, with no topic.")


def _selection(options: FilterOptions) -> Selection:
    # sqlglot is loaded when a query is to be read, not to say which jobs there are.
    from analytics.filtering import selection_of

    return selection_of(options.query)


def _reads(options: FilterOptions, topics: Topics) -> list[str]:
    """The topics after FROM; each once."""
    found: dict[str, None] = {}
    for source in _selection(options).sources:
        if source == "*":
            family = FAMILIES[TopicKind.OBSERVATIONS]
            found[f"{family.prefix}.{ANY_GATEWAY}.{family.suffix}"] = None
        elif source.lower() in _FAMILIES:
            found[topics.name(_FAMILIES[source.lower()])] = None
        elif "." in source and TOPIC.fullmatch(source):
            found[source] = None
        else:
            raise JobConfigError(
                f"--query: FROM {source[:80]!r}: neither *, nor a topic's full name, nor one of {', '.join(_FAMILIES)}"
            )
    return list(found)


_FAMILIES = {kind.value: kind for kind in TopicKind}


def _writes(options: FilterOptions, topics: Topics) -> dict[str, int]:
    return {} if options.to is None else {options.to: FAMILIES[TopicKind.OBSERVATIONS].partitions}


def _make(options: FilterOptions, around: Surroundings) -> Job:
    from analytics.filtering import Filter
    from analytics.row_reading import RowReader

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
