"""What the stations of a sensor city measure: which IPSO object carries a metric, its unit, and its distribution.

Owns the table. All objects are registered ones that `Definitions.builtin` knows: Temperature (3303), Humidity (3304),
Barometer (3315), Loudness (3324), Illuminance (3301), Concentration (3325) for particulate matter, Rate (3346) for wind
speed and rainfall, Generic Sensor (3300) for the air quality index, which has no unit, Depth (3319) for a river.
Units are those of the SenML registry (RFC 8428 section 12.1, RFC 8798).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.devices.gauge import VALUE
from schemas.lwm2m.path import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A normal distribution; beyond ``low`` and ``high`` nothing is physical."""

    mean: float
    sigma: float
    low: float = -math.inf
    high: float = math.inf

    def physical(self, value: float) -> float:
        """``value``, or the nearest that is physical."""
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A kind of sensor. ``unit`` is None for a number without one."""

    name: str
    #: The object instance that carries it: two kinds may share an object (3346/0, 3346/1).
    instance: Path
    unit: str | None
    #: The text for people, in Sensor Type (5751) or else Application Type (5750).
    title: str
    distribution: Distribution

    @property
    def path(self) -> Path:
        """The resource that has the reading."""
        return self.instance.child(VALUE)


def _metric(
    name: str, instance: tuple[int, int], unit: str | None, title: str, distribution: Distribution
) -> tuple[str, Metric]:
    return name, Metric(name=name, instance=Path(*instance), unit=unit, title=title, distribution=distribution)


#: The nine of a station.
CITY: Mapping[str, Metric] = dict(
    [
        _metric("temperature", (3303, 0), "Cel", "air temperature", Distribution(mean=25.0, sigma=2.0, low=-273.15)),
        _metric(
            "humidity", (3304, 0), "%RH", "relative humidity", Distribution(mean=60.0, sigma=3.0, low=0.0, high=100.0)
        ),
        _metric("pressure", (3315, 0), "hPa", "air pressure", Distribution(mean=1013.0, sigma=2.0, low=0.0)),
        _metric("air_quality", (3300, 0), None, "air quality index", Distribution(mean=200.0, sigma=20.0, low=0.0)),
        _metric("particulate_matter", (3325, 0), "ug/m3", "PM10", Distribution(mean=30.0, sigma=2.0, low=0.0)),
        _metric("noise", (3324, 0), "dB", "noise level", Distribution(mean=50.0, sigma=3.0, low=0.0)),
        _metric("illuminance", (3301, 0), "lx", "illuminance", Distribution(mean=500.0, sigma=50.0, low=0.0)),
        _metric("wind_speed", (3346, 0), "m/s", "wind speed", Distribution(mean=5.0, sigma=20.0, low=0.0)),
        _metric("rainfall", (3346, 1), "mm/h", "rainfall", Distribution(mean=0.0, sigma=3.0, low=0.0)),
    ]
)

#: All kinds: those of a station, and one that a city gets later.
METRICS: Mapping[str, Metric] = {
    **CITY,
    **dict([_metric("water_level", (3319, 0), "m", "river level", Distribution(mean=2.0, sigma=0.1, low=0.0))]),
}
