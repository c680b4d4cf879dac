"""Each analytics job's fold as Quix Streams alone does it, with nothing of ours: what the jobs are measured against.

A row of `PLAIN` builds the stream the way Quix's documentation shows: the same records, guarantee (exactly-once),
commit interval and state; fastavro reads them, results go out as JSON. Nothing here looks for readings that come late,
bad records, clocks that are ahead, or endpoints with many paths.

    python -m tests.bench.plain_quix NAME --kafka HOST:PORT --gateway GW --group GROUP --state DIR
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from fastavro import parse_schema, schemaless_reader
from quixstreams import Application, State
from quixstreams.dataframe import StreamingDataFrame
from quixstreams.dataframe.windows import Count, Latest, Max, Mean, Min, Sum
from quixstreams.models import Deserializer, Topic

from schemas.avro.topics import Topics

_SCHEMA = Path(__file__).parents[2] / "schemas" / "avro" / "AvroResponseObserve.v1.avsc"


class _Readings(Deserializer):
    """Confluent's wire format to a dict of what the folds use."""

    def __init__(self) -> None:
        self._schema = parse_schema(json.loads(_SCHEMA.read_text()))

    def __call__(self, value: bytes, ctx: object) -> dict[str, Any]:
        said: Any = schemaless_reader(BytesIO(value[5:]), self._schema, None)
        resource = said["rep"]["body"]["content"]
        return {"ep": said["ep"], "path": resource["path"], "value": resource["value"], "time": said["timestamp"]}


class _Plain:
    """One application; a row of `PLAIN` gets it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.app = Application(
            broker_address=options.kafka,
            consumer_group=options.group,
            auto_offset_reset="earliest",
            processing_guarantee="exactly-once",
            commit_interval=1.0,
            state_dir=options.state,
            loglevel="WARNING",
        )
        self.topics = Topics(options.gateway)
        self.out: Topic = self.app.topic(f"{options.group}-out", value_serializer="json", key_serializer="bytes")

    def frame(self, topic: str | None = None) -> StreamingDataFrame:
        name = topic or self.topics.observations
        return self.app.dataframe(self.app.topic(name, key_deserializer="bytes", value_deserializer=_Readings()))


def _window(frame: StreamingDataFrame, name: str) -> StreamingDataFrame:
    return (
        frame.tumbling_window(60_000, grace_ms=10_000, name=name)
        .agg(
            count=Count(),
            min=Min("value"),
            max=Max("value"),
            mean=Mean("value"),
            sum=Sum("value"),
            last=Latest("value"),
        )
        .final()
    )


def aggregate(plain: _Plain) -> None:
    """Two windows, as the job has: by endpoint, and by series. An endpoint has one path here, so both are by key."""
    frame = plain.frame()
    for name in ("endpoint", "series"):
        _window(frame, name).to_topic(plain.out)


def max_temperature(plain: _Plain) -> None:
    plain.frame().tumbling_window(30_000, grace_ms=10_000).agg(max=Max("value")).final().to_topic(plain.out)


def _welford(reading: dict[str, Any], state: State[Any, Any]) -> dict[str, Any]:
    count, mean, squares = state.get("w", (0, 0.0, 0.0))
    value = reading["value"]
    z_score = (value - mean) / math.sqrt(squares / count) if squares else 0.0
    count += 1
    delta = value - mean
    mean += delta / count
    squares += delta * (value - mean)
    state.set("w", (count, mean, squares))
    variance = squares / count
    return reading | {
        "mean": mean,
        "variance": variance,
        "std_dev": math.sqrt(variance),
        "stream_length": count,
        "z_score": z_score,
        "outlier": abs(z_score) > 3,
    }


def statistics(plain: _Plain) -> None:
    plain.frame().apply(_welford, stateful=True).to_topic(plain.out)


def filtered(plain: _Plain) -> None:
    frame = plain.frame()
    frame[frame["value"] < 40].to_topic(plain.out)


def join(plain: _Plain) -> None:
    """Quix's own as-of join takes two topics; so each side has its own here."""
    left, right = (plain.frame(f"{plain.topics.observations}.{side}") for side in ("left", "right"))

    def both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        return {"ep": one["ep"], "time": one["time"], "value": one["value"] - other["value"]}

    left.join_asof(right, how="inner", on_merge=both, grace_ms=5_000).to_topic(plain.out)


PLAIN: Mapping[str, Callable[[_Plain], None]] = {
    "aggregate": aggregate,
    "max-temperature": max_temperature,
    "statistics": statistics,
    "outliers": statistics,
    "filter": filtered,
    "join": join,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.bench.plain_quix")
    parser.add_argument("name", choices=PLAIN)
    for option in ("--kafka", "--gateway", "--group", "--state"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()
    plain = _Plain(options)
    PLAIN[options.name](plain)
    plain.app.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
