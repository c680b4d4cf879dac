"""What a receiver of remote-write has of a series: ``/api/v1/query`` of Prometheus' HTTP API, and what it answers.

Pure: the sink sends. A range selector gives the samples as they were written, with their own times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

from connectors.sinks.prometheus_series import MOST_MOVED_MS

#: Of an answer no more is read: a sample takes about 30 bytes of it.
ANSWER_BYTES = 8 * 1024 * 1024


class Unknown(Exception):
    """It cannot be told what the receiver has."""


def span_ms(first_ms: int, last_ms: int) -> range:
    """The milliseconds that are asked for: also those into which a sample may have moved."""
    return range(first_ms, last_ms + MOST_MOVED_MS + 2)


def query_form(labels: Mapping[str, str], first_ms: int, last_ms: int) -> bytes:
    """The body of the POST for the samples of one series."""
    # PromQL's strings are Go's, which know what JSON writes; the escapes of `prometheus_wire.labels` come first.
    texts = {name: json.dumps(_as_sent(value), ensure_ascii=False) for name, value in labels.items()}
    selector = ",".join(f"{name}={text}" for name, text in texts.items())
    span = span_ms(first_ms, last_ms)
    # Newer servers leave the first millisecond of a range out.
    # Not len(): a span from one end of time to the other is longer than a length can be.
    asked = {"query": f"{{{selector}}}[{span.stop - span.start + 1}ms]", "time": _seconds(span.stop - 1)}
    return urlencode(asked).encode()


def found_in(body: bytes, span: range) -> Mapping[int, float]:
    """The values by their times, epoch ms.

    Raises:
        Unknown: it is no answer of the query API, or more than one series.
    """
    try:
        told = json.loads(body)
        series = told["data"]["result"]
        if told["status"] != "success" or len(series) > 1:
            raise Unknown
        pairs = series[0]["values"] if series else []
        found = {round(float(at) * 1000): float(value) for at, value in pairs}
    except (ValueError, TypeError, KeyError, LookupError) as exc:
        raise Unknown from exc
    return {at: value for at, value in found.items() if at in span}


def _as_sent(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _seconds(ms: int) -> str:
    sign, ms = ("-", -ms) if ms < 0 else ("", ms)
    return f"{sign}{ms // 1000}.{ms % 1000:03d}"
