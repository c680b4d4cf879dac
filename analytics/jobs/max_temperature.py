"""The job ``max-temperature``: any function over any windows, by default the maximum of temperatures over 30 seconds.

Results of a series are ordinary observations, as of old: the record's path is the series' with the function behind it
(``/3303/0/5700-max``), the resource in it keeps its own path, its time is the start of the window, and observationId
and ticket are the job's name. No sink reads them: the resource's own path would put them among the readings. Results of
a whole endpoint have no path, and are records of `Aggregate`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from analytics.durations import Duration
from analytics.job import Emit, JobConfigError, JobKind, Surroundings
from analytics.jobs.aggregate import aggregate
from analytics.jobs.common_options import Pattern, TopicName
from analytics.jobs.window_options import SAMPLE, WindowOptions
from analytics.results import encoded_key
from analytics.windowing import By, Rules, Windowing
from analytics.windows import Function, Hopping, Sliding, Window, Windows
from schemas.avro.records import Notification, ReadBody, RequestKind, ResponseCode, ResponsePayload
from schemas.avro.serde import encode
from schemas.avro.topics import FAMILIES, TopicKind, Topics
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path

NAME = "max-temperature"


class MaxTemperatureOptions(WindowOptions):
    IDENTITY: ClassVar[tuple[str, ...]] = (
        *WindowOptions.IDENTITY,
        *("window", "hop", "sliding", "function", "by", "to"),
    )

    path: Pattern | None = Field(
        default="/3303/*/5700", description="Only paths at or below this. Default: temperatures, '/3303/*/5700'."
    )
    window: Duration = Field(default=30_000, description="How long a window is: 30s.")
    hop: Duration | None = Field(default=None, description="Begin a window this often (hopping): 10s.")
    sliding: bool = Field(default=False, description="A window for each reading: of the time before it, up to it.")
    function: Function = Field(default=Function.MAX, description="What is put out.")
    by: By = Field(default=By.SERIES, description="A result for each endpoint and path, or for each endpoint.")
    to: TopicName | None = Field(default=None, description="The topic of the results. Default: as the contract has it.")


def _windows(options: MaxTemperatureOptions) -> Windows:
    if options.sliding and options.hop is not None:
        raise JobConfigError("--sliding and --hop exclude each other: a sliding window begins with each reading")
    try:
        if options.sliding:
            return Sliding(options.window, options.grace)
        return Hopping(options.window, _hop(options), options.grace)
    except ValueError as exc:
        raise JobConfigError(f"--window, --hop, --grace: {exc}") from exc


def _hop(options: MaxTemperatureOptions) -> int:
    return options.window if options.hop is None else options.hop


def _to(options: MaxTemperatureOptions, topics: Topics) -> str:
    if options.to is not None:
        return options.to
    return topics.maxper30sec if options.by is By.SERIES else topics.name(TopicKind.AGGREGATES)


def _make(options: MaxTemperatureOptions, around: Surroundings) -> Windowing:
    topic, gateway, show, function = _to(options, around.topics), around.gateway, around.show, options.function
    if topic == around.topics.observations:
        raise JobConfigError(f"--to {topic}: that is what the job reads; it would read its own results")
    windows = _windows(options)

    def publish(ep: str, path: str | None, window: Window, emit: Emit) -> None:
        record = (
            aggregate(gateway, ep, None, window) if path is None else _observation(gateway, ep, path, window, function)
        )
        emit(topic, encoded_key(ep), encode(record))
        if show is not None:
            show(record)

    rules = Rules(
        windows=windows,
        told=f"windows {options.window} {_hop(options)} {options.sliding} {options.by.value}",
        by=(options.by,),
        only=options.only,
        ahead=options.ahead,
        idle=options.idle,
    )
    return Windowing(rules, publish, around.metrics)


def _observation(gateway: str, ep: str, path: str, window: Window, function: Function) -> Notification:
    resource = Resource(path=Path.parse(path), type=ResourceType.FLOAT, value=window.value(function))
    return Notification(
        ticket=NAME,
        observation_id=NAME,
        server_id=gateway,
        ep=ep,
        path=f"{path}-{function.value}",
        timestamp=window.start,
        rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=resource)),
    )


def _writes(options: MaxTemperatureOptions, topics: Topics) -> dict[str, int]:
    return {_to(options, topics): FAMILIES[TopicKind.MAXPER30SEC].partitions}


KIND = JobKind(
    name=NAME,
    summary="The maximum of each series over 30 s; path, window and function are options: any windowed aggregate.",
    options=MaxTemperatureOptions,
    make=_make,
    writes=_writes,
    output="analytics.<gw>.observations.maxper30sec",
    sample=f"""\
# The length of a window; windows begin at multiples of it (of the hop, where there is one), in event time.
window = "30s"
# Hopping windows: one begins this often.
# hop = "10s"
# Sliding windows: one for each reading, of the time before it up to it.
sliding = false
# count, min, max, mean, sum, last or range.
function = "max"
# series: a result for each endpoint and path, as an observation; endpoint: one for each endpoint, as an aggregate.
by = "series"
# The topic of the results. Default: analytics.<gw>.observations.maxper30sec; by endpoint analytics.<gw>.aggregates.
# to = "weather"
{SAMPLE.replace('# path = "/3303/*/5700"', 'path = "/3303/*/5700"').replace(" Default: all.", "", 1)}""",
    examples=("", "--window 5m --hop 1m --function mean --path '/3304/*/5700' --to humidity", "--sliding --window 10s"),
)
