"""How a notification or a reply becomes points of InfluxDB, in its line protocol.

Owns the measurement, tags and fields that ``docs/sinks/influxdb.md`` describes, and the rule that gives every point a
time of its own. Pure: it sends nothing. It writes the lines itself, because the client's ``Point`` takes more than
twice the time and changes what it cannot keep (a newline, a backslash at the end). What is escaped how follows the
parser of InfluxDB 1.8 (``models/points.go``), which version 2 shares.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from connectors.sinks.history import points
from connectors.sinks.sink import SinkRecord
from schemas.avro.records import Notification, Response
from schemas.lwm2m.nodes import ObjectLink, Value

MEASUREMENT = "resources"

#: What InfluxDB takes as a time, epoch nanoseconds (``models/time.go``: MinNanoTime, MaxNanoTime).
OLDEST_NS, NEWEST_NS = -(2**63) + 2, 2**63 - 2

#: Nanoseconds of a millisecond, and how many of them each offset has to itself.
_MS, _LANES = 1_000_000, 8

#: Beginnings of lines that are remembered, one a series, and how long one may be: together this bounds the memory.
_HEADS, _LONGEST_HEAD = 20_000, 1_000

_TAG = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})
_STRING = str.maketrans({'"': '\\"', "\\": "\\\\"})


class PointTime(Enum):
    """Which time is a point's."""

    #: The record's timestamp: when the gateway had the value.
    GATEWAY = "gateway"
    #: The device's own where it gave one.
    DEVICE = "device"


class Unkeepable(ValueError):
    """The line protocol has no form for this; the text names what it is."""


class Lines(NamedTuple):
    """The points of one record."""

    record: SinkRecord
    number: int
    text: bytes


class Formatter:
    """Makes lines; remembers the beginnings of those that it has made."""

    def __init__(self, time: PointTime) -> None:
        self._device_time = time is PointTime.DEVICE
        self._heads: dict[tuple[object, ...], str] = {}

    def lines(self, record: SinkRecord) -> Lines:
        """The points of ``record``.

        Raises:
            Unkeepable: a tag, a text or the time is nothing that InfluxDB keeps, or the record is none of history.
        """
        said = record.record
        if not isinstance(said, (Notification, Response)):
            raise Unkeepable(f"a {type(said).__name__} is nothing that this store keeps")
        made: list[str] = []
        sub = record.offset * _LANES + record.partition % _LANES
        seen: dict[tuple[str, int], int] = {}
        for server, ep, path, kind_of, value, device, now, kind, code, ticket, observation, late, _ in points(
            record, said
        ):
            tags = (ep, kind, late, observation, path, server, ticket)
            head = self._heads.get(tags) or self._head(tags)
            if value is None:
                fields = f'code="{code}"'
            elif kind_of is None:
                fields = f'code="{code}",{_text(value)}'
            else:
                fields = _FIELDS[type(value)](value)
                if record.redecoded and not fields.startswith("svalue="):
                    # What the point has as text is the value as it came; a field can be emptied, but never removed.
                    fields += ',svalue=""'
            ms = now
            if device is not None:
                fields += f",deviceTime={device}i"
                if self._device_time:
                    ms = device
            again = seen[path, ms] = seen.get((path, ms), -1) + 1
            # Values of one series in the same millisecond stand in it in the order of their offsets, and each of them
            # stands where it stood when it comes again.
            ns = ms * _MS + (sub + again) % _MS
            if not OLDEST_NS <= ns <= NEWEST_NS:
                raise Unkeepable(f"the time {ms} ms is none that InfluxDB has")
            made.append(f"{head}{fields} {ns}")
        try:
            return Lines(record, len(made), "\n".join(made).encode())
        except UnicodeEncodeError as exc:
            raise Unkeepable(f"a text is no Unicode: {exc.reason}") from exc

    def _head(self, tags: tuple[object, ...]) -> str:
        ep, kind, late, observation, path, server, ticket = tags
        # In the order of InfluxDB, which would have to sort them otherwise.
        named = {
            "ep": ep,
            "kind": kind,
            "late": "true" if late else None,
            "observationId": observation,
            "path": path,
            "serverId": server,
            "ticket": ticket,
        }
        # To InfluxDB an empty tag and none are the same, and the line protocol has only the latter.
        head = f"{MEASUREMENT}{''.join(f',{name}={_tag(name, str(value))}' for name, value in named.items() if value)} "
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        if len(head) <= _LONGEST_HEAD:
            self._heads[tags] = head
        return head


def _tag(name: str, value: str) -> str:
    # A backslash cannot be escaped in a tag: before a separator it would hide that, and a line ends at any newline.
    if "\n" in value or value.endswith("\\") or "\\ " in value:
        raise Unkeepable(
            "InfluxDB keeps no tag with a newline, or with a backslash at its end or before a space:"
            f" {name} is {value[:200]!r}"
        )
    return value.translate(_TAG)


def _text(value: object) -> str:
    return f'svalue="{str(value).translate(_STRING)}"'


def _float(value: float) -> str:
    # InfluxDB has no such numbers and would refuse the point.
    if math.isnan(value):
        return 'svalue="NaN"'
    if math.isinf(value):
        return 'svalue="Infinity"' if value > 0 else 'svalue="-Infinity"'
    return f"value={value!r}"


_FIELDS: Mapping[type[Value], Callable[[Any], str]] = {
    float: _float,
    int: lambda value: f"value={value}",
    bool: lambda value: f"bvalue={'true' if value else 'false'}",
    str: _text,
    ObjectLink: _text,
    bytes: lambda value: f'svalue="{base64.b64encode(value).decode()}"',
}
