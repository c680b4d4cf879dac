"""The job ``join``: two or more series aligned in event time, and what the user's own functions make of what meets.

Each result is an ordinary observation in ``analytics.<gw>.joined``, so that every sink that keeps readings takes it.
"""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from analytics.alignment import Alignment, AlignmentError, Direction, Missing, Mode
from analytics.durations import Duration
from analytics.job import JobConfigError, JobKind, JobOptions, Surroundings, result_topics
from analytics.join_plan import Plan, Series, rekeyed_topic
from analytics.join_state import LEAST_BYTES
from analytics.joining import MOST_BYTES, Joining
from analytics.user_code import load
from schemas.avro.topics import FAMILIES, TopicKind, Topics
from schemas.lwm2m.path import Path


def _resource(text: str) -> str:
    path = Path.parse(text)
    if path.depth != 3:
        raise ValueError(f"{text!r} is no resource, such as /3303/100/5700")
    return str(path)


class JoinOptions(JobOptions):
    model_config = ConfigDict(populate_by_name=True)
    IDENTITY: ClassVar[tuple[str, ...]] = (
        *("left", "right", "series", "mode", "code", "as_path", "endpoint"),
        *("tolerance", "before", "after", "direction", "missing"),
    )

    code: FilePath = Field(description="A Python file with on_join(a, b) and, if wanted, ingest(record).")
    left: str | None = Field(
        default=None, description="The first series, such as '/3303/0/5700' or 'station-1:/3303/*/5700'."
    )
    right: str | None = Field(default=None, description="The series that is joined to it.")
    series: tuple[str, ...] = Field(
        default=(), description="A series; give it twice or more in the place of --left and --right."
    )
    mode: Mode = Field(
        default=Mode.AS_OF, description="as-of: each left reading with one of each other; interval: all that are near."
    )
    tolerance: Duration = Field(default=5_000, description="How far apart, in event time, readings may be: 5s.")
    before: Duration | None = Field(
        default=None, description="Interval: how long before the left the others may be; --tolerance when left out."
    )
    after: Duration | None = Field(
        default=None, description="Interval: how long after the left the others may be; --tolerance when left out."
    )
    direction: Direction = Field(
        default=Direction.BACKWARD, description="As-of: the latest at or before the left (backward), or the nearest."
    )
    missing: Missing = Field(
        default=Missing.INNER,
        description="As-of: leave out what finds no partner (inner), or join it with None (left).",
    )
    grace: Duration = Field(default=10_000, description="How late, in event time, a reading may come: 10s.")
    patience: Duration | None = Field(
        default=None,
        description="How far a series may run ahead of the slowest; 0 for one endpoint, 1m for several.",
    )
    limit: int = Field(default=1000, ge=1, le=100_000, description="Readings kept of a series.")
    ahead: Duration = Field(
        default=600_000,
        description="A reading whose own time is further ahead of the gateway's gets the gateway's: 10m.",
    )
    idle: Duration = Field(
        default=60_000,
        description="As-of: what waits in a join that heard nothing for so long is given out: 60s; 0 never.",
    )
    as_path: Annotated[str, AfterValidator(_resource)] = Field(
        default="/3300/100/5700", alias="as", description="The resource as which a plain result is observed."
    )
    endpoint: str | None = Field(
        default=None, min_length=1, description="The endpoint that results are of; the left reading's when left out."
    )

    def parsed(self) -> list[Series]:
        """The series in order.

        Raises:
            JobConfigError: there are none, too few, or one is no series.
        """
        pair = [one for one in (self.left, self.right) if one is not None]
        if self.series and pair:
            raise JobConfigError("give --left and --right, or --series twice or more, but not both")
        if len(pair) == 1 or (not pair and len(self.series) < 2):
            raise JobConfigError("a join needs --left and --right, or --series twice or more")
        return [Series.parse(one) for one in (pair or self.series)]


def _crosses(options: JoinOptions) -> bool:
    return Plan.crosses(options.parsed())


def _rekeyed(options: JoinOptions, topics: Topics) -> str | None:
    return rekeyed_topic(topics.gateway, options.parsed()) if _crosses(options) else None


def _make(options: JoinOptions, around: Surroundings) -> Joining:
    series = options.parsed()
    rekeyed = _rekeyed(options, around.topics)
    interval = options.mode is Mode.INTERVAL
    if not interval and (options.before is not None or options.after is not None):
        raise JobConfigError("--before and --after are of --mode interval; an as-of join has --tolerance")
    patience = options.patience
    if patience is None:
        patience = 0 if rekeyed is None else 60_000
    # By default there may be more series than fit: the bound by bytes is there then, and nobody asked for the number.
    fits = MOST_BYTES // (LEAST_BYTES * len(series))
    if "limit" in options.model_fields_set and options.limit > fits:
        raise JobConfigError(
            f"--limit {options.limit}: a join keeps at most {MOST_BYTES} bytes, as Kafka takes no larger state: "
            f"{fits} readings of each of {len(series)} series"
        )
    try:
        alignment = Alignment(
            series=len(series),
            mode=options.mode,
            before_ms=options.tolerance if options.before is None else options.before,
            after_ms=0 if not interval else options.tolerance if options.after is None else options.after,
            direction=options.direction,
            missing=options.missing,
            grace_ms=options.grace,
            patience_ms=patience,
            limit=options.limit,
        )
    except AlignmentError as exc:
        raise JobConfigError(str(exc)) from exc
    plan = Plan(
        series=series,
        alignment=alignment,
        path=Path.parse(options.as_path),
        ep=options.endpoint,
        output=around.topics.name(TopicKind.JOINED),
        rekeyed=rekeyed,
        ahead=options.ahead,
        idle=options.idle,
    )
    return Joining(plan, load(options.code, len(series)), around)


def _reads(options: JoinOptions, topics: Topics) -> list[str]:
    rekeyed = _rekeyed(options, topics)
    return [topics.observations, *([] if rekeyed is None else [rekeyed])]


def _writes(options: JoinOptions, topics: Topics) -> dict[str, int]:
    rekeyed = _rekeyed(options, topics)
    results = result_topics([TopicKind.JOINED], topics)
    return results if rekeyed is None else {**results, rekeyed: FAMILIES[TopicKind.JOINED].partitions}


KIND = JobKind(
    name="join",
    summary="Two or more series aligned in event time; your own on_join(a, b) makes new observations of them.",
    options=JoinOptions,
    make=_make,
    reads=_reads,
    writes=_writes,
    output="analytics.<gw>.joined",
    sample="""\
# A Python file with on_join(a, b) and, if wanted, ingest(record).
code = "dew_point.py"
# The series; on_join gets a reading of each, in this order. ENDPOINT:PATH where they are of several endpoints.
series = ["/3303/*/5700", "/3304/*/5700"]
# as-of: each reading of the first with the latest of each other; interval: all that are near.
mode = "as-of"
# How far apart readings may be, in event time.
tolerance = "5s"
# Interval joins: how long before and after the first the others may be. Default: the tolerance.
# before = "5s"
# after = "5s"
# As-of joins: backward (the latest at or before the first), or nearest.
direction = "backward"
# As-of joins: inner leaves out what finds no partner, left joins it with None.
missing = "inner"
# How late a reading may come, in event time. What is later is counted, and left out.
grace = "10s"
# How far a series may run ahead of the slowest. Default: 0s, and 1m for series of several endpoints.
# patience = "0s"
# Readings kept of a series.
limit = 1000
# A device whose clock is further ahead of the gateway's than this: the gateway's time is taken, and it is counted.
ahead = "10m"
# As-of joins: where nothing came for so long, what waits is given out as it is. 0: it waits for a reading.
idle = "60s"
# The resource as which a plain result is observed.
as = "/3300/100/5700"
# The endpoint that results are of. Default: that of the first reading.
# endpoint = "weather"
""",
    examples=(
        "--left /3303/0/5700 --right /3304/0/5700 --tolerance 5s --code dew_point.py --as /3303/100/5700",
        "--left in:/3303/0/5700 --right out:/3303/0/5700 --mode interval --code difference.py",
    ),
)
