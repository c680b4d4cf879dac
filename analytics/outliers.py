"""How far a reading is from what is usual: its z-score, (value - mean) / standard deviation, and if that is too far.

Owns the verdict, against a distribution that people know or against the running one of the series itself. A running one
judges by what was there **before** the reading: an outlier that counted towards its own measure would hide itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from analytics.series import EVERY_SERIES, SeriesPattern
from analytics.welford import Moments, add


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The distribution of the readings of some series, as people know it.

    Raises:
        ValueError: a number is infinite or none, or the standard deviation is negative.
    """

    mean: float
    std_dev: float
    series: SeriesPattern = EVERY_SERIES

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std_dev)):
            raise ValueError("mean and std_dev are finite numbers")
        if self.std_dev < 0:
            raise ValueError("std_dev is not negative")


class Learn(Enum):
    """Which readings enter the running distribution."""

    #: All: a series that moves to another level is usual there after a while.
    ALL = "all"
    #: Those that are no outliers: rare extremes do not widen it, but a series that moved is judged so for ever.
    INLIERS = "inliers"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierPolicy:
    """What an outlier is. Raises ValueError where a number makes no sense."""

    #: A reading whose z-score is beyond this, in either direction, is one.
    limit: float = 3.0
    #: So many readings of a series without a known distribution are learnt from and not judged.
    warm_up: int = 30
    learn: Learn = Learn.ALL

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise ValueError("the limit is a number above 0")
        if self.warm_up < 1:
            raise ValueError("the warm-up has at least one reading")


class Verdict(NamedTuple):
    """``mean`` and ``std_dev`` are what the value was held against."""

    mean: float
    std_dev: float
    z_score: float
    outlier: bool


def z_score(value: float, mean: float, std_dev: float) -> float:
    """In standard deviations. With none of them, 0.0 at the mean and infinite elsewhere; NaN is infinitely far too.

    So the result is never NaN: a sensor that says "no number" is as far from what is usual as can be.
    """
    if value == mean:
        return 0.0
    if math.isnan(value):
        return math.inf
    far = value - mean
    return far / std_dev if std_dev > 0 else math.copysign(math.inf, far)


def judge(value: float, known: Known, policy: OutlierPolicy) -> Verdict:
    """The verdict on ``value`` against a known distribution."""
    return _verdict(value, known.mean, known.std_dev, policy)


def judge_running(value: float, before: Moments, policy: OutlierPolicy) -> tuple[Verdict, Moments]:
    """The verdict on ``value`` by what came before it, and the state after it.

    While it warms up nothing is an outlier, and the z-score is 0.0; before the first reading, the mean is the value.
    """
    if not math.isfinite(value):
        # `add` only counts it, so it is no news about the distribution, but it is far from any.
        mean, std_dev = before.mean, before.std_dev
        return Verdict(mean, std_dev, z_score(value, mean, std_dev), True), add(before, value)
    if before.length < policy.warm_up:
        return Verdict(before.mean if before.length else value, before.std_dev, 0.0, False), add(before, value)
    verdict = _verdict(value, before.mean, before.std_dev, policy)
    if verdict.outlier and policy.learn is Learn.INLIERS:
        return verdict, before
    return verdict, add(before, value)


def _verdict(value: float, mean: float, std_dev: float, policy: OutlierPolicy) -> Verdict:
    score = z_score(value, mean, std_dev)
    return Verdict(mean, std_dev, score, abs(score) > policy.limit)
