"""How the readings of one sensor go on: a normal distribution around a trend, pulled back, with outliers.

Pure: randomness is passed in, there is no clock. A reading is drawn from N(centre, σ²). The centre is where the
straight line through the last 300 readings (least squares) stands at the next one, pulled back to μ by the
recalibration rate r: centre = line + r·(μ - line). A sensor that is new has no trend: its line begins at μ.

What is shown is kept to what is physical, and an outlier is only shown: neither moves the line, or a gauge that shows 0
in place of less would drift upwards for ever. So the mean of what a sensor shows that cannot go below its floor is
above μ where the floor is near (wind 5/20), as that of a normal distribution cut off there.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from gateway.devices.metrics import Distribution

#: Readings whose trend is followed.
WINDOW = 300
#: The part of the way back to μ that each reading goes.
RECALIBRATION = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outliers:
    """How often a reading is an outlier (``rate``, 0 to 1) and how far from μ at least (``size``, in σ).

    Raises:
        ValueError: the rate is no probability, or the size not above 0.
    """

    rate: float = 0.01
    size: float = 6.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"the rate of outliers is from 0 to 1, not {self.rate:g}")
        if not 0.0 < self.size < 1e6:
            raise ValueError(f"the size of outliers is above 0 σ, not {self.size:g}")


class Reading(NamedTuple):
    """What a sensor shows, and whether it was made an outlier."""

    value: float
    outlier: bool


class Trend:
    """The least-squares line through the last ``window`` values, in constant memory and time a value."""

    __slots__ = ("_at", "_moment", "_sum", "_values")

    def __init__(self, window: int = WINDOW, value: float = 0.0) -> None:
        """Begins as if ``value`` had always been. A line needs a window of two at least."""
        if window < 2:
            raise ValueError(f"a line needs two values, not {window}")
        self._values = array("d", [value]) * window
        self._at = 0
        self._sum = self._moment = 0.0
        self._total()

    def add(self, value: float) -> None:
        """The newest value; the oldest is forgotten."""
        oldest = self._values[self._at]
        self._values[self._at] = value
        # The moment is the sum of place times value, places from 0 (the oldest): all others move down by one.
        self._moment += (len(self._values) - 1) * value - (self._sum - oldest)
        self._sum += value - oldest
        self._at += 1
        if self._at == len(self._values):
            self._at = 0
            self._total()

    def _total(self) -> None:
        """Sum up anew, once a window, so that rounding never adds up. The oldest value is the first then."""
        self._sum = sum(self._values)
        self._moment = sum(place * value for place, value in enumerate(self._values))

    def forecast(self) -> float:
        """Where the line stands at the next value."""
        count = len(self._values)
        middle = (count - 1) / 2
        slope = (self._moment - middle * self._sum) / (count * (count * count - 1) / 12)
        return self._sum / count + slope * (count - middle)


class Course:
    """The readings of one sensor, one after the other; as repeatable as its ``random_source``."""

    __slots__ = ("_distribution", "_outliers", "_random", "_recalibration", "_trend")

    def __init__(
        self,
        distribution: Distribution,
        random_source: random.Random,
        *,
        outliers: Outliers,
        window: int = WINDOW,
        recalibration: float = RECALIBRATION,
        history: Iterable[float] = (),
    ) -> None:
        """``history``: readings of before, oldest first."""
        if not 0.0 <= recalibration <= 1.0:
            raise ValueError(f"the recalibration rate is from 0 to 1, not {recalibration:g}")
        self._distribution = distribution
        self._random = random_source
        self._outliers = outliers
        self._recalibration = recalibration
        # Of distances from μ: sums of small numbers keep their digits.
        self._trend = Trend(window)
        for value in history:
            self._trend.add(value - distribution.mean)

    @property
    def centre(self) -> float:
        """The mean of the distribution out of which the next reading is drawn."""
        return self._distribution.mean + (1.0 - self._recalibration) * self._trend.forecast()

    def next(self) -> Reading:
        """The next reading. It has six decimals, so that two readings of a run are hardly ever the same."""
        drawn = self._random.gauss(self.centre, self._distribution.sigma)
        self._trend.add(drawn - self._distribution.mean)
        if self._random.random() < self._outliers.rate:
            shown = self._outlier()
            if shown is not None:
                return Reading(shown, True)
        return Reading(round(self._distribution.physical(drawn), 6), False)

    def _outlier(self) -> float | None:
        """A value at least the outliers' size away from μ, to one side or the other; None if neither is physical."""
        distribution = self._distribution
        side = self._random.choice((-1.0, 1.0))
        far = self._outliers.size * distribution.sigma * self._random.uniform(1.0, 1.5)
        for value in (distribution.mean + side * far, distribution.mean - side * far):
            if distribution.low <= value <= distribution.high:
                return round(value, 6)
        return None
