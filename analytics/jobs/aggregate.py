"""The job ``aggregate``: per minute, by endpoint and by endpoint and path, what there is to say of the values."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from analytics.durations import Duration
from analytics.job import Emit, JobConfigError, JobKind, Surroundings, result_topics
from analytics.jobs.window_options import SAMPLE, WindowOptions
from analytics.results import encoded_key
from analytics.windowing import By, Rules, Windowing
from analytics.windows import Hopping, Window
from schemas.avro.records import Aggregate
from schemas.avro.serde import encode
from schemas.avro.topics import TopicKind


class AggregateOptions(WindowOptions):
    IDENTITY: ClassVar[tuple[str, ...]] = (*WindowOptions.IDENTITY, "window")

    window: Duration = Field(default=60_000, description="How long a window is: 1m.")


def _make(options: AggregateOptions, around: Surroundings) -> Windowing:
    try:
        windows = Hopping(options.window, options.window, options.grace)
    except ValueError as exc:
        raise JobConfigError(f"--window, --grace: {exc}") from exc
    topic, gateway, show = around.topics.name(TopicKind.AGGREGATES), around.gateway, around.show

    def publish(ep: str, path: str | None, window: Window, emit: Emit) -> None:
        record = aggregate(gateway, ep, path, window)
        emit(topic, encoded_key(ep), encode(record))
        if show is not None:
            show(record)

    rules = Rules(
        windows=windows,
        told=f"aggregate {options.window}",
        by=(By.ENDPOINT, By.SERIES),
        only=options.only,
        ahead=options.ahead,
        idle=options.idle,
    )
    return Windowing(rules, publish, around.metrics)


def aggregate(gateway: str, ep: str, path: str | None, window: Window) -> Aggregate:
    """The record of a window."""
    return Aggregate(
        server_id=gateway,
        ep=ep,
        path=path,
        start=window.start,
        end=window.end,
        count=window.count,
        min=window.min,
        max=window.max,
        mean=window.mean,
        sum=window.sum,
        last=window.last,
    )


KIND = JobKind(
    name="aggregate",
    summary="Count, min, max, mean, sum and last value per minute, by endpoint and by endpoint and path.",
    options=AggregateOptions,
    make=_make,
    writes=lambda _options, topics: result_topics([TopicKind.AGGREGATES], topics),
    output="analytics.<gw>.aggregates",
    sample=f"""\
# The length of a window; windows begin at multiples of it, in event time.
window = "1m"
{SAMPLE}""",
    examples=("", "--window 10s --path '/3303/*/5700'"),
)
