"""The readings of a sensor: their distribution, their trend, the way back, the floor, the outliers."""

from __future__ import annotations

import math
import random
import statistics
import sys

import pytest

from gateway.devices.course import RECALIBRATION, WINDOW, Course, Outliers, Trend
from gateway.devices.metrics import CITY, METRICS, Distribution, Metric
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import Definitions

NONE = Outliers(rate=0.0)
TOLD = {
    "temperature": (25, 2),
    "humidity": (60, 3),
    "pressure": (1013, 2),
    "air_quality": (200, 20),
    "particulate_matter": (30, 2),
    "noise": (50, 3),
    "illuminance": (500, 50),
    "wind_speed": (5, 20),
    "rainfall": (0, 3),
}


def readings(distribution: Distribution, count: int, *, seed: int = 1, outliers: Outliers = NONE) -> list[float]:
    course = Course(distribution, random.Random(seed), outliers=outliers)
    return [course.next().value for _ in range(count)]


def unbounded(metric: Metric) -> Distribution:
    return Distribution(mean=metric.distribution.mean, sigma=metric.distribution.sigma)


def test_city_has_the_nine_metrics_with_their_distributions() -> None:
    assert {name: (one.distribution.mean, one.distribution.sigma) for name, one in CITY.items()} == TOLD


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_is_a_resource_that_the_registry_knows(metric: Metric) -> None:
    definition = Definitions.builtin().resource(metric.path)
    assert definition is not None
    assert definition.type is ResourceType.FLOAT


def test_no_two_metrics_share_an_instance() -> None:
    assert len({one.instance for one in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_mean_and_sigma_over_many_readings_are_those_told(metric: Metric) -> None:
    found = readings(unbounded(metric), 60_000)
    sigma = metric.distribution.sigma
    assert statistics.fmean(found) == pytest.approx(metric.distribution.mean, abs=0.1 * sigma)
    # The trend wanders a little, which widens the whole by a twentieth.
    assert statistics.stdev(found) == pytest.approx(sigma, rel=0.08)


@pytest.mark.parametrize("name", ["wind_speed", "rainfall"])
def test_metric_near_its_floor_shows_the_normal_distribution_cut_off_there(name: str) -> None:
    told = CITY[name].distribution
    found = readings(told, 60_000)
    assert min(found) == told.low == 0.0
    # The mean of max(0, X): mean * P(X > 0) + sigma * density at 0.
    standard = statistics.NormalDist()
    part = told.mean / told.sigma
    expected = told.mean * standard.cdf(part) + told.sigma * standard.pdf(part)
    assert statistics.fmean(found) == pytest.approx(expected, abs=0.05 * told.sigma)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_no_reading_is_beyond_what_is_physical_even_with_large_outliers(metric: Metric) -> None:
    told = metric.distribution
    found = readings(told, 20_000, outliers=Outliers(rate=0.2, size=9.0))
    assert min(found) >= told.low >= -273.15
    assert max(found) <= told.high
    assert METRICS["humidity"].distribution.high == 100.0


def test_readings_of_one_seed_are_the_same_and_of_another_are_not() -> None:
    told = CITY["temperature"].distribution
    outliers = Outliers(rate=0.05)
    assert readings(told, 500, seed=3, outliers=outliers) == readings(told, 500, seed=3, outliers=outliers)
    assert readings(told, 500, seed=3, outliers=outliers) != readings(told, 500, seed=4, outliers=outliers)


def test_trend_is_the_least_squares_line_through_the_last_readings() -> None:
    source = random.Random(7)
    trend = Trend(window=50, value=3.0)
    values = [3.0] * 50
    for _ in range(237):
        values.append(source.gauss(10.0, 4.0))
        trend.add(values[-1])
    line = statistics.linear_regression(range(50), values[-50:])
    assert trend.forecast() == pytest.approx(line.intercept + line.slope * 50, rel=1e-9)


def test_trend_of_a_ramp_goes_on_as_the_ramp_does() -> None:
    trend = Trend(window=WINDOW)
    for number in range(2 * WINDOW):
        trend.add(0.5 * number)
    assert trend.forecast() == pytest.approx(0.5 * 2 * WINDOW)


def test_trend_forgets_what_is_older_than_its_window() -> None:
    trend = Trend(window=WINDOW)
    trend.add(1e6)
    for _ in range(WINDOW):
        trend.add(2.0)
    assert trend.forecast() == pytest.approx(2.0)


def test_trend_keeps_its_digits_over_very_many_values() -> None:
    trend = Trend(window=10)
    for number in range(100_000):
        trend.add(1e12 if number % 17 == 0 else 0.1)
    for _ in range(20):
        trend.add(0.1)
    assert trend.forecast() == pytest.approx(0.1, rel=1e-12)


def test_readings_follow_the_trend_and_are_pulled_back_by_the_recalibration_rate() -> None:
    told = Distribution(mean=100.0, sigma=5.0)
    high = Course(told, random.Random(1), outliers=NONE, history=[110.0] * WINDOW)
    assert high.centre == pytest.approx(100.0 + (1 - RECALIBRATION) * 10.0)
    rising = Course(told, random.Random(1), outliers=NONE, history=[100.0 + 0.1 * i for i in range(WINDOW)])
    assert rising.centre == pytest.approx(100.0 + (1 - RECALIBRATION) * 30.0)
    assert RECALIBRATION == 0.2
    free = Course(told, random.Random(1), outliers=NONE, recalibration=0.0, history=[110.0] * WINDOW)
    assert free.centre == pytest.approx(110.0)
    assert Course(told, random.Random(1), outliers=NONE, recalibration=1.0, history=[110.0] * 9).centre == 100.0


def test_readings_come_back_to_the_mean_from_far_away() -> None:
    told = Distribution(mean=100.0, sigma=5.0)
    course = Course(told, random.Random(2), outliers=NONE, history=[200.0] * WINDOW)
    assert statistics.fmean(course.next().value for _ in range(20)) > 120.0
    for _ in range(10 * WINDOW):
        course.next()
    assert statistics.fmean(course.next().value for _ in range(10 * WINDOW)) == pytest.approx(100.0, abs=2.0)


def test_outliers_come_at_the_rate_asked_for_and_are_at_least_of_the_size_asked_for() -> None:
    told = CITY["noise"].distribution
    course = Course(told, random.Random(5), outliers=Outliers(rate=0.02, size=7.0))
    found = [course.next() for _ in range(50_000)]
    made = [one.value for one in found if one.outlier]
    assert len(made) == pytest.approx(1000, rel=0.15)
    far = [abs(value - told.mean) / told.sigma for value in made]
    assert min(far) >= 7.0 - 1e-6
    assert max(far) <= 10.5 + 1e-6
    assert any(value > told.mean for value in made)
    assert any(value < told.mean for value in made)
    assert max(abs(one.value - told.mean) for one in found if not one.outlier) < 7.0 * told.sigma


def test_outlier_moves_no_later_reading() -> None:
    told = CITY["pressure"].distribution
    course = Course(told, random.Random(5), outliers=Outliers(rate=1.0, size=50.0))
    for _ in range(2000):
        assert course.next().outlier
    assert course.centre == pytest.approx(told.mean, abs=told.sigma * 2)


def test_outlier_below_the_floor_is_made_above_the_mean_instead() -> None:
    course = Course(CITY["rainfall"].distribution, random.Random(6), outliers=Outliers(rate=1.0))
    assert min(course.next().value for _ in range(200)) >= 18.0


def test_no_outlier_is_made_where_none_is_physical() -> None:
    course = Course(Distribution(mean=0.5, sigma=1.0, low=0.0, high=1.0), random.Random(6), outliers=Outliers(rate=1.0))
    assert not any(course.next().outlier for _ in range(200))


@pytest.mark.parametrize("wrong", [{"rate": -0.1}, {"rate": 1.1}, {"rate": math.nan}, {"size": 0.0}, {"size": -1.0}])
def test_outliers_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="outliers"):
        Outliers(**wrong)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_recalibration_that_is_no_part_of_the_way_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="recalibration"):
        Course(CITY["noise"].distribution, random.Random(1), outliers=NONE, recalibration=rate)


def test_memory_of_a_course_does_not_grow() -> None:
    course = Course(CITY["noise"].distribution, random.Random(1), outliers=Outliers())
    size = sys.getsizeof(course._trend._values)
    for _ in range(5 * WINDOW):
        course.next()
    assert sys.getsizeof(course._trend._values) == size
