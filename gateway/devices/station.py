"""Stations of a sensor city: devices with the objects Server (1) and Device (3) and a sensor for each metric.

Owns which sensors a station has, and that it may get another while it runs: its registration then tells of one more
object instance, and whoever observes by pattern sees the new readings. The readings are `course`'s, what the metrics
are `metrics`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from gateway.devices.basics import VERSIONS, Basics
from gateway.devices.client import Device, DeviceConfig, Version
from gateway.devices.course import Course, Outliers
from gateway.devices.fleet import names, run_fleet
from gateway.devices.gauge import (
    APPLICATION,
    HIGHEST,
    LOWEST,
    MAXIMUM,
    MINIMUM,
    RESET,
    SENSOR_TYPE,
    TIMESTAMP,
    UNITS,
    VALUE,
    reset,
    show,
)
from gateway.devices.metrics import CITY, METRICS, Metric
from gateway.devices.model import Content, Holding, Model
from gateway.devices.sensor import Tally
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from security.credentials.kinds import Oscore, Psk

_log = structlog.get_logger("headwater.device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An outlier that a station made, at ``timestamp`` in epoch milliseconds: what finds outliers must find it."""

    ep: str
    path: Path
    value: float
    timestamp: int


#: Told each outlier when it is made.
OnOutlier = Callable[[Made], None]


class Station:
    """One station. ``clock`` gives the time of day in epoch milliseconds; a seeded ``random_source`` repeats a run."""

    def __init__(
        self,
        config: DeviceConfig,
        metrics: Iterable[Metric],
        *,
        lifetime: int,
        outliers: Outliers,
        tally: Tally,
        random_source: random.Random,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        on_outlier: OnOutlier | None = None,
    ) -> None:
        self._endpoint = config.endpoint
        self._outliers = outliers
        self._clock = clock
        self._on_outlier = on_outlier
        # Each sensor has randomness of its own, so that neither a retry nor another sensor changes its readings.
        self._seed = random_source.random()
        self._courses: dict[Path, Course] = {}
        version = "1.0" if config.version is Version.V1_0 else "1.1"
        self._definitions = Definitions.builtin().with_versions(
            {**VERSIONS[config.version], **{one.instance.ids[0]: version for one in METRICS.values()}}
        )
        basics = Basics(config, kind="sensor city station", lifetime=lifetime, clock=clock)
        self.model = Model(self._definitions, basics.holdings())
        for metric in metrics:
            self.add(metric)
        self.device = Device(config, self.model, tally.of(config.endpoint), random_source)
        basics.belongs_to(self.device)

    @property
    def sensors(self) -> list[Path]:
        """The object instances of its sensors, in the order in which they came."""
        return list(self._courses)

    def add(self, metric: Metric) -> bool:
        """Plug in a sensor; on a station that runs, its registration is updated. False if it has one already."""
        here = metric.instance
        if here in self._courses:
            return False
        course = Course(metric.distribution, random.Random(f"{self._seed} {metric.name}"), outliers=self._outliers)
        self._courses[here] = course
        self.model.add(here, self._holding(metric, self._read(here, course)))
        return True

    def measure(self) -> None:
        """Take a reading of every sensor."""
        for here, course in self._courses.items():
            reading = self._read(here, course)
            if self._definitions.of(here.ids[0], TIMESTAMP) is not None:
                self.model.set(here.child(TIMESTAMP), self._whole_seconds())
            show(self.model, here, reading)

    def _read(self, here: Path, course: Course) -> float:
        reading = course.next()
        if reading.outlier and self._on_outlier is not None:
            self._on_outlier(
                Made(ep=self._endpoint, path=here.child(VALUE), value=reading.value, timestamp=self._clock())
            )
        return reading.value

    def _whole_seconds(self) -> int:
        """The wire has whole seconds."""
        return self._clock() // 1000 * 1000

    def _holding(self, metric: Metric, first: float) -> Holding:
        definition = self._definitions.object(metric.instance.ids[0])
        assert definition is not None, f"no definition of {metric.instance}"
        distribution = metric.distribution
        told: dict[int, Content] = {VALUE: first, MINIMUM: first, MAXIMUM: first, TIMESTAMP: self._whole_seconds()}
        if metric.unit is not None:
            told[UNITS] = metric.unit
        told |= {i: v for i, v in ((LOWEST, distribution.low), (HIGHEST, distribution.high)) if math.isfinite(v)}
        told[SENSOR_TYPE if SENSOR_TYPE in definition.resources else APPLICATION] = metric.title
        return Holding(
            contents={i: content for i, content in told.items() if i in definition.resources},
            actions={RESET: lambda _: reset(self.model, metric.instance)},
        )


async def run_stations(
    server: str,
    endpoint: str,
    *,
    stop: asyncio.Event,
    count: int = 1,
    metrics: Sequence[Metric] = tuple(CITY.values()),
    later: Sequence[Metric] = (),
    after: float | None = None,
    more: asyncio.Event | None = None,
    period: float = 1.0,
    lifetime: int = 300,
    version: Version = Version.V1_1,
    queue: bool = False,
    outliers: Outliers,
    tally: Tally | None = None,
    on_outlier: OnOutlier | None = None,
    seed: int | None = None,
    keys: Mapping[str, Psk | Oscore] | None = None,
) -> Tally:
    """Run ``count`` stations with a sensor for each of ``metrics`` until ``stop`` is set. Returns the tally.

    The stations get a sensor for the next of ``later`` at each time that ``more`` is set, and all of them once they
    have run for ``after`` seconds. An endpoint that is in ``keys`` speaks DTLS or OSCORE with its own.

    Raises:
        ValueError, OSError: as `fleet.run_fleet`.
    """
    counted = tally if tally is not None else Tally()
    stations: list[Station] = []

    def make(config: DeviceConfig, source: random.Random) -> Station:
        stations.append(
            Station(
                config,
                metrics,
                lifetime=lifetime,
                outliers=outliers,
                tally=counted,
                random_source=source,
                on_outlier=on_outlier,
            )
        )
        return stations[-1]

    growing = asyncio.create_task(_grow(stations, later, after, more if more is not None else asyncio.Event()))
    try:
        await run_fleet(
            server,
            names(endpoint, count),
            make,
            stop=stop,
            period=period,
            version=version,
            queue=queue,
            seed=seed,
            keys=keys,
        )
    finally:
        growing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await growing
    return counted


async def _grow(stations: Sequence[Station], later: Sequence[Metric], after: float | None, more: asyncio.Event) -> None:
    due = None if after is None else asyncio.get_running_loop().time() + after
    for metric in later:
        with contextlib.suppress(TimeoutError):  # once it is over, all are due
            async with asyncio.timeout_at(due):
                await more.wait()
        more.clear()
        for station in stations:
            station.add(metric)
        _log.info("stations have a new sensor", metric=metric.name, path=str(metric.path), stations=len(stations))
