"""What a batch changes in Redis. Pure.

Owns the names of the keys and what stands in them (``docs/sinks/redis.md``), and folds a batch so that each series and
each endpoint is touched once, however many records of it there are. `connectors.sinks.redis_script` applies the result
if the store is still in the state that was given here.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

from connectors.sinks.graph import Event, endpoint_properties, held_objects, is_newer, links_json, object_name
from connectors.sinks.history import Point, points
from connectors.sinks.redis_applied import Applied
from connectors.sinks.sink import SinkRecord
from schemas.avro.records import Notification, Registration, RegistrationDelete, Response, Statistics
from schemas.lwm2m.nodes import ObjectLink, Value
from schemas.lwm2m.objects import Definitions

#: What is beyond it is left out of the statistics: its square is near the end of what a double holds.
LARGEST: Final = 1e150

#: The types that have statistics.
NUMBERS: Final = frozenset({"FLOAT", "INTEGER"})

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode

#: Newest is largest: not late, event time, gateway time, offset, position.
Order = tuple[int, int, int, int, int]


class Keys(NamedTuple):
    """The keys of one gateway. All have its id as hash tag, so Redis Cluster keeps them in one slot."""

    prefix: str
    gateway: str

    def name(self, kind: str, *rest: str) -> str:
        """``<prefix>:{<gateway>}:<kind>[:<rest>…]``: a gateway id has no colon or brace, and a path no colon."""
        return ":".join((self.prefix, f"{{{self.gateway}}}", kind, *rest))

    @property
    def applied(self) -> str:
        return self.name("applied")


class Known(NamedTuple):
    """What Redis has of an endpoint: where its last event stood (empty: it has none), and its root path."""

    at: str = ""
    root: str = "/"


def source(record: SinkRecord) -> str:
    """The record's partition, as a field of the hash of what is applied."""
    return f"{record.topic}:{record.partition}"


def place_and_time(at: str) -> tuple[str, int, int]:
    """Partition, offset and time of the last event of an endpoint, from its field ``at``; raises ValueError."""
    where, offset, event_time_ms = at.split(" ")
    return where, int(offset), int(event_time_ms)


def is_kept(record: SinkRecord) -> bool:
    """Whether this store has a place for it."""
    return isinstance(record.record, (Notification, Response, Registration, Statistics))


class Changes(NamedTuple):
    """KEYS and ARGV[1] of the script, what it makes of the applied hash, and how many entries it handles."""

    keys: tuple[str, ...]
    payload: bytes
    applied: Mapping[str, str]
    size: int


@dataclass(slots=True)
class _Series:
    """The values of one series in this batch."""

    values: list[float] = field(default_factory=list)
    left_out: int = 0
    last: float = 0.0
    order: Order = (-1, 0, 0, 0, 0)


@dataclass(slots=True)
class _Endpoint:
    """An endpoint that is changed in this batch; a field that is None goes."""

    expected: str
    at: str
    root: str
    fields: dict[str, str | None] = field(default_factory=dict)


def fold(
    records: Sequence[SinkRecord],
    keys: Keys,
    *,
    applied: Mapping[str, str],
    endpoints: Mapping[str, Known],
    definitions: Definitions,
    stream_max: int,
) -> Changes:
    """What ``records``, all of one gateway and all kept here, change in a store that has ``applied`` and ``endpoints``.

    Raises:
        ValueError, TypeError, OverflowError: one of them holds what cannot be stored.
    """
    batch = _Fold(keys, applied, endpoints, definitions, streams=stream_max > 0)
    for record in records:
        match record.record:
            case Notification() | Response() as said:
                batch.history(record, said)
            case Registration(body=body):
                batch.register(record, body)
            case Statistics() as statistics:
                batch.statistics(record, statistics)
            case other:
                raise TypeError(f"a {type(other).__name__} is nothing that this store keeps")
    return batch.changes(stream_max)


class _Fold:
    def __init__(
        self,
        keys: Keys,
        applied: Mapping[str, str],
        endpoints: Mapping[str, Known],
        definitions: Definitions,
        *,
        streams: bool,
    ) -> None:
        self._keys = keys
        self._before = applied
        self._known = endpoints
        self._definitions = definitions
        self._streams = streams
        self._applied: dict[str, Applied] = {}
        self._latest: dict[tuple[str, str, str], tuple[Order, Callable[[], dict[str, object]]]] = {}
        self._series: dict[tuple[str, str], _Series] = {}
        self._stream: list[tuple[str, ...]] = []
        self._endpoints: dict[str, _Endpoint] = {}

    def history(self, record: SinkRecord, said: Notification | Response) -> None:
        where = source(record)
        if where not in self._applied:
            self._applied[where] = Applied(self._before.get(where, ""))
        # A record that is in the store already cannot change what is latest either; but a latest value that was lost
        # comes back with it.
        fresh = self._applied[where].add(record.offset, said.timestamp)
        counts = isinstance(said, Notification)
        for point in points(record, said):
            now, device = point.gateway_time_ms, point.device_time_ms
            # A value cannot be of later than the gateway had it: a clock that is ahead would hide all that follow.
            time = now if device is None or device > now else device
            if fresh and self._streams:
                self._stream.append(_entry(point, time))
            if point.type is None:
                continue
            order = (0 if point.late else 1, time, now, record.offset, point.position)
            self._offer("latest", point.ep, point.path, order, partial(_latest, point, time))
            if fresh and counts and point.type in NUMBERS:
                self._count(point, order)

    def _offer(self, kind: str, ep: str, path: str, order: Order, make: Callable[[], dict[str, object]]) -> None:
        there = self._latest.get((kind, ep, path))
        if there is None or order > there[0]:
            self._latest[kind, ep, path] = order, make

    def _count(self, point: Point, order: Order) -> None:
        series = self._series.get((point.ep, point.path))
        if series is None:
            series = self._series[point.ep, point.path] = _Series()
        value = point.value
        # False for NaN as well.
        if not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
            series.left_out += 1
            return
        series.values.append(float(value))
        if order > series.order:
            series.order, series.last = order, float(value)

    def statistics(self, record: SinkRecord, said: Statistics) -> None:
        order = (1, said.timestamp, record.timestamp, record.offset, 0)

        def make() -> dict[str, object]:
            return {
                "mean": _json(said.mean),
                "std_dev": _json(said.std_dev),
                "variance": _json(said.variance),
                "stream_length": said.stream_length,
                "timestamp": said.timestamp,
            }

        self._offer("statistics", said.ep, said.path, order, make)

    def register(self, record: SinkRecord, body: Event) -> None:
        changed = self._endpoints.get(body.ep)
        if changed is None:
            known = self._known.get(body.ep, Known())
            changed = _Endpoint(known.at, known.at, known.root)
        if changed.at:
            where, offset, event_time_ms = place_and_time(changed.at)
            if not is_newer(record, same_source=where == source(record), offset=offset, event_time_ms=event_time_ms):
                return
        properties = endpoint_properties(body)
        fields = changed.fields
        fields |= {"name": body.ep, "server": body.server_id}
        fields |= {name: _text(value) for name, value in properties.items() if name not in ("attributes", "links")}
        if "attributes" in properties:
            fields["attributes"] = None if properties["attributes"] is None else _encode(properties["attributes"])
        changed.root = str(properties.get("root", changed.root))
        if not isinstance(body, RegistrationDelete) and body.links is not None:
            fields["links"] = _encode(links_json(body.links))
            fields["objects"] = _encode(
                [
                    {"id": an_id, "version": version, "instance": instance, "name": self._name(an_id, version)}
                    for an_id, version, instance in held_objects(body.links, changed.root)
                ]
            )
        changed.at = f"{source(record)} {record.offset} {record.timestamp}"
        self._endpoints[body.ep] = changed

    def _name(self, object_id: int, version: str) -> str | None:
        return object_name(self._definitions, object_id, version)

    def changes(self, stream_max: int) -> Changes:
        name = self._keys.name
        numbers: dict[str, int] = {}

        def key(*parts: str) -> int:
            # Lua counts from one.
            return numbers.setdefault(name(*parts), len(numbers) + 1)

        for kind in ("applied", "stream", "endpoints", "online"):
            key(kind)
        applied = {where: state.text for where, state in self._applied.items()}
        moved = [(where, self._before.get(where, ""), text) for where, text in applied.items()]
        content = {
            "applied": moved,
            "endpoints": [
                (key("endpoint", ep), ep, one.expected, one.fields.get("online") == "true", *_set_and_gone(one))
                for ep, one in self._endpoints.items()
            ],
            "latest": [
                (key(kind, ep), path, order, _encode({**make(), "order": order}))
                for (kind, ep, path), (order, make) in self._latest.items()
            ],
            "statistics": [
                {"key": key("stats", ep, path), **_moments(series)} for (ep, path), series in self._series.items()
            ],
            "stream": self._stream,
            "stream_max": stream_max,
        }
        size = len(self._stream) + len(self._latest) + len(self._series) + len(self._endpoints)
        return Changes(tuple(numbers), _encode(content).encode(), applied, size)


def _set_and_gone(endpoint: _Endpoint) -> tuple[list[str], list[str]]:
    kept = {"at": endpoint.at} | {name: value for name, value in endpoint.fields.items() if value is not None}
    gone = [name for name, value in endpoint.fields.items() if value is None]
    return [part for item in kept.items() for part in item], gone


def _moments(series: _Series) -> dict[str, Any]:
    """In two passes: of a batch, that is exact to the last digits."""
    values = series.values
    made: dict[str, Any] = {"count": len(values), "left_out": series.left_out}
    if not values:
        return made
    if len(values) == 1:
        total = mean = values[0]
        low = squares = 0.0
    else:
        total = math.fsum(values)
        mean = total / len(values)
        low = math.fsum(value - mean for value in values) / len(values)
        squares = math.fsum((value - mean - low) ** 2 for value in values)
    return made | {
        "mean": mean,
        "mean_low": low,
        "m2": squares,
        "min": min(values),
        "max": max(values),
        "sum": total,
        "last": series.last,
        "last_time": str(series.order[1]),
        "order": series.order,
    }


def _entry(point: Point, time: int) -> tuple[str, ...]:
    return (
        point.ep,
        point.path,
        point.type or "",
        _encode(_json(point.value)),
        str(time),
        str(point.gateway_time_ms),
        point.kind,
        point.code,
        point.ticket,
        point.observation_id or "",
        "true" if point.late else "false",
    )


def _latest(point: Point, time: int) -> dict[str, object]:
    return {
        "value": _json(point.value),
        "type": point.type,
        "time": time,
        "gatewayTime": point.gateway_time_ms,
        "deviceTime": point.device_time_ms,
        "kind": point.kind,
        "ticket": point.ticket,
        "observationId": point.observation_id,
        "late": point.late,
    }


def _json(value: Value | None) -> object:
    """``value`` as JSON has it: OPAQUE in base64, an object link as 3:0, and what is no finite number as a text."""
    match value:
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case bytes():
            return base64.b64encode(value).decode()
        case ObjectLink():
            return str(value)
    return value


def _text(value: object) -> str | None:
    """A property of an endpoint as the text of a field."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)
