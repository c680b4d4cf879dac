"""Which series and samples of Prometheus a record becomes.

Owns the names, labels and times that ``docs/sinks/prometheus.md`` describes (Prometheus' "Metric and label naming").
Pure: it sends nothing. The values themselves are never converted, except times, which Prometheus has in seconds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from operator import attrgetter

from connectors.sinks import prometheus_wire as wire
from connectors.sinks.sink import SinkRecord
from schemas.avro.records import Notification, ReadBody, Registration, RegistrationDelete
from schemas.lwm2m.nodes import Resource, ResourceType, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path, PathPattern

#: The label names of our own; operators' labels have others.
OWN_LABELS = frozenset({"__name__", "gateway", "endpoint", "object", "instance", "path", "unit"})

#: What a unit of the definitions is in a metric's name. A unit without such a word is in the label only.
_UNITS: Mapping[str, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "min": "minutes",
    "m": "meters",
    "m/s": "meters_per_second",
    "mV": "millivolts",
    "mA": "milliamperes",
    "V": "volts",
    "A": "amperes",
    "W": "watts",
    "Wh": "watt_hours",
    "var": "vars",
    "varh": "var_hours",
    "Cel": "celsius",
    "K": "kelvin",
    "Hz": "hertz",
    "Pa": "pascals",
    "lx": "lux",
    "deg": "degrees",
    "lat": "degrees",
    "lon": "degrees",
    "dB": "decibels",
    "dBm": "decibel_milliwatts",
    "B": "bytes",
    "KB": "kilobytes",
    "%": "percent",
    "/100": "percent",
}

#: A value of a label has no more characters: what is longer is cut and ends with a part of its hash.
LONGEST_LABEL = 200

#: Series that are remembered, and how many bytes the labels of one of them may have for that.
_REMEMBERED, _LONGEST_REMEMBERED = 50_000, 1_500

#: Different values of a series in one millisecond are moved by at most so many of them.
MOST_MOVED_MS = 1_000

_INT64 = range(-(2**63), 2**63)

#: Gateway, endpoint, path, and whether the value is a time.
_Place = tuple[str, str, str, bool]


class SampleTime(Enum):
    """Which time is a sample's."""

    #: The device's own where it gave one, else the gateway's.
    DEVICE = "device"
    #: When the gateway had the value.
    GATEWAY = "gateway"


class NoSample(ValueError):
    """Prometheus can never have this; the text says why."""


class LeftOut(Enum):
    """Why a value of a chosen path is no sample, though nothing is wrong with it."""

    NO_NUMBER = "no number"
    NO_VALUE = "no value"


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A metric with its labels."""

    labels: Mapping[str, str]
    #: As `prometheus_wire.labels` has them; they tell series apart.
    encoded: bytes


@dataclass(slots=True)
class Sample:
    """A value at a time of a series."""

    value: float
    #: Epoch ms, as it is sent: perhaps moved behind another value of the same millisecond.
    time_ms: int
    #: Epoch ms, as it came.
    said_ms: int
    record: SinkRecord = field(repr=False)
    #: Tells the samples of one record apart.
    position: int

    @property
    def key(self) -> tuple[str, int, int, int]:
        """Its identity."""
        return self.record.topic, self.record.partition, self.record.offset, self.position

    def is_same(self, other: float) -> bool:
        """Whether it has this value; all NaNs are one."""
        return self.value == other or (self.value != self.value and other != other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What an operator says about series."""

    prefix: str
    labels: Mapping[str, str]
    #: Those that are samples; all if there are none.
    paths: Sequence[PathPattern]
    time: SampleTime


class Sampler:
    """Makes samples; remembers the series that it has made, up to a bound."""

    def __init__(self, naming: Naming, definitions: Definitions) -> None:
        self._naming = naming
        self._definitions = definitions
        self._device = naming.time is SampleTime.DEVICE
        #: None where the path is not chosen.
        self._series: dict[_Place, Series | None] = {}

    def samples(self, record: SinkRecord, left_out: Mapping[LeftOut, list[str]]) -> list[tuple[Series, Sample]]:
        """The samples of ``record``, in its order; paths of chosen values that are no samples go to ``left_out``.

        Raises:
            NoSample: the record is nothing of this store's, or a number in it is beyond what Prometheus has.
        """
        said = record.record
        match said:
            case Registration():
                online = 0.0 if isinstance(said.body, RegistrationDelete) else 1.0
                # An expired registration carries the time of its last update; Kafka's is that of the event.
                return [(self._online(record.gateway, said.body.ep), _sample(record, online, record.timestamp, 0))]
            case Notification():
                return self._values(record, said, left_out)
        raise NoSample(f"a {type(said).__name__} is nothing that this store keeps")

    def _values(
        self, record: SinkRecord, said: Notification, left_out: Mapping[LeftOut, list[str]]
    ) -> list[tuple[Series, Sample]]:
        made: list[tuple[Series, Sample]] = []
        body, gateway, ep, now = said.rep.body, record.gateway, said.ep, said.timestamp
        content = body.content if isinstance(body, ReadBody) else None
        if content is None:
            every = []
        else:
            # Nearly all of them are of one resource.
            every = [content] if isinstance(content, Resource) else values(content)
        for position, one in enumerate(every):
            path, is_time = str(one.path), one.type is ResourceType.TIME
            try:
                series = self._series[gateway, ep, path, is_time]
            except KeyError:
                series = self._remember((gateway, ep, path, is_time), one.path)
            if series is None:
                continue
            value = one.value
            if not isinstance(value, (float, int)):
                left_out[LeftOut.NO_NUMBER].append(path)
                continue
            try:
                number = float(value)
            except OverflowError as exc:
                raise NoSample(f"{path} is a number beyond all that Prometheus has") from exc
            at = now if one.timestamp is None or not self._device else one.timestamp
            made.append((series, _sample(record, number / 1000 if is_time else number, at, position)))
        if not every:
            left_out[LeftOut.NO_VALUE].append(said.path)
        return made

    def _online(self, gateway: str, ep: str) -> Series:
        key = (gateway, ep, "", False)
        series = self._series.get(key)
        if series is None:
            name = f"{self._naming.prefix}_endpoint_online"
            series = self._made(key, {"__name__": name, "gateway": gateway, "endpoint": ep})
        return series

    def _remember(self, key: _Place, path: Path) -> Series | None:
        if self._naming.paths and not any(_is_below(path, pattern) for pattern in self._naming.paths):
            if len(self._series) >= _REMEMBERED:
                self._series.clear()
            self._series[key] = None
            return None
        name, unit = self._name(path, is_time=key[3])
        object_id, instance_id = path.object_id, path.instance_id
        return self._made(
            key,
            {
                "__name__": name,
                "gateway": key[0],
                "endpoint": key[1],
                "object": "" if object_id is None else str(object_id),
                "instance": "" if instance_id is None else str(instance_id),
                "path": str(path),
                "unit": unit or "",
            },
        )

    def _name(self, path: Path, *, is_time: bool) -> tuple[str, str | None]:
        """The metric's name, and the unit by the definitions."""
        known = None if path.object_id is None else self._definitions.object(path.object_id)
        resource = self._definitions.resource(path)
        # "LwM2M Server" need not be lwm2m_lwm2m_server.
        object_part = slug(known.name).removeprefix(f"{self._naming.prefix}_") if known else ""
        resource_part = slug(resource.name) if resource else ""
        name = "_".join(
            (
                self._naming.prefix,
                object_part or str(path.object_id),
                resource_part or str("" if path.resource_id is None else path.resource_id),
            )
        ).rstrip("_")
        unit = resource.unit if resource else None
        if is_time:
            return f"{name}_timestamp_seconds", None
        word = _UNITS.get(unit or "")
        return (f"{name}_{word}" if word and not name.endswith(f"_{word}") else name), unit

    def _made(self, key: _Place, named: Mapping[str, str]) -> Series:
        # To Prometheus an empty label and none are the same.
        kept = {name: bounded(value) for name, value in (*self._naming.labels.items(), *named.items()) if value}
        series = Series(kept, wire.labels(kept))
        if len(self._series) >= _REMEMBERED:
            self._series.clear()
        if len(series.encoded) + sum(map(len, map(str, key))) <= _LONGEST_REMEMBERED:
            self._series[key] = series
        return series


def _sample(record: SinkRecord, value: float, time_ms: int, position: int) -> Sample:
    if time_ms not in _INT64:
        raise NoSample(f"the time {time_ms} ms is none that Prometheus has")
    return Sample(value, time_ms, time_ms, record, position)


def in_order(samples: Iterable[Sample]) -> tuple[list[Sample], list[Sample]]:
    """One series: its samples in order of time, each in a millisecond of its own, and those that have no place.

    A value that is there already, at the time that it came with, is left out. Another one of the same millisecond moves
    behind it, by at most `MOST_MOVED_MS`.
    """
    placed: list[Sample] = []
    homeless: list[Sample] = []
    for sample in sorted(samples, key=attrgetter("time_ms")):
        if placed and sample.time_ms <= placed[-1].time_ms:
            last = placed[-1]
            if sample.said_ms == last.said_ms and sample.is_same(last.value):
                continue
            if last.time_ms + 1 - sample.said_ms > MOST_MOVED_MS or last.time_ms + 1 not in _INT64:
                homeless.append(sample)
                continue
            sample = replace(sample, time_ms=last.time_ms + 1)
        placed.append(sample)
    return placed, homeless


def slug(name: str) -> str:
    """``name`` in the characters of a metric's name: ``Sensor Value`` is ``sensor_value``, ``APN`` is ``apn``."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def bounded(value: str) -> str:
    """``value`` as a label may be: what is too long is cut, and still told apart from all others."""
    if len(value) <= LONGEST_LABEL:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{value[: LONGEST_LABEL - 17]}~{digest}"


def _is_below(path: Path, pattern: PathPattern) -> bool:
    ids = path.ids
    return len(ids) >= len(pattern.levels) and all(
        level in (None, an_id) for level, an_id in zip(pattern.levels, ids, strict=False)
    )
