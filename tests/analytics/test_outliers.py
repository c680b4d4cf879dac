"""z-scores and verdicts, against known distributions and running ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.outliers import Known, Learn, OutlierPolicy, Verdict, judge, judge_running, z_score
from analytics.series import SeriesPattern
from analytics.welford import EMPTY, Moments, add_all
from schemas.lwm2m.path import PathPattern

TEMPERATURE = Known(mean=25.0, std_dev=2.0)
values = st.floats(min_value=-1e6, max_value=1e6)


@pytest.mark.parametrize(
    ("value", "score", "outlier"), [(25, 0, False), (31, 3, False), (31.1, 3.05, True), (18, -3.5, True)]
)
def test_a_reading_is_held_against_a_known_distribution(value: float, score: float, outlier: bool) -> None:
    verdict = judge(value, TEMPERATURE, OutlierPolicy())
    assert verdict == Verdict(25.0, 2.0, verdict.z_score, outlier)
    assert verdict.z_score == pytest.approx(score)


def test_the_limit_is_an_option() -> None:
    assert judge(28.0, TEMPERATURE, OutlierPolicy(limit=1.0)).outlier
    assert not judge(28.0, TEMPERATURE, OutlierPolicy(limit=1.5)).outlier


def test_without_any_spread_only_the_mean_is_usual() -> None:
    constant = Known(mean=5.0, std_dev=0.0)
    assert judge(5.0, constant, OutlierPolicy()) == Verdict(5.0, 0.0, 0.0, False)
    assert judge(5.1, constant, OutlierPolicy()) == Verdict(5.0, 0.0, math.inf, True)
    assert judge(4.9, constant, OutlierPolicy()) == Verdict(5.0, 0.0, -math.inf, True)
    verdict, after = judge_running(8.0, add_all(EMPTY, [7.0] * 40), OutlierPolicy())
    assert verdict == Verdict(7.0, 0.0, math.inf, True)
    assert after.length == 41


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_an_outlier_and_is_not_learnt(value: float) -> None:
    before = add_all(EMPTY, [1.0, 2.0])
    assert judge(value, TEMPERATURE, OutlierPolicy()).outlier
    verdict, after = judge_running(value, before, OutlierPolicy())
    assert verdict.outlier
    assert math.isinf(verdict.z_score)
    assert after == before._replace(refused=1)


@given(st.lists(values, min_size=3, max_size=40), values)
def test_a_running_distribution_judges_by_what_was_before(past: list[float], value: float) -> None:
    before = add_all(EMPTY, past)
    verdict, after = judge_running(value, before, OutlierPolicy(warm_up=3))
    assert verdict.mean == pytest.approx(statistics.fmean(past), rel=1e-9, abs=1e-9)
    assert verdict.z_score == z_score(value, before.mean, before.std_dev)
    assert verdict.outlier == (abs(verdict.z_score) > 3.0)
    assert after == add_all(EMPTY, [*past, value])


def test_a_series_is_learnt_from_before_it_is_judged() -> None:
    state, policy = EMPTY, OutlierPolicy(warm_up=4)
    found = []
    for value in (20.0, 21.0, 900.0, 20.5, 5_000.0):
        verdict, state = judge_running(value, state, policy)
        found.append(verdict)
    assert [verdict.outlier for verdict in found] == [False, False, False, False, True]
    assert found[0] == Verdict(20.0, 0.0, 0.0, False)
    assert found[1] == Verdict(20.0, 0.0, 0.0, False)


@pytest.mark.parametrize(("learn", "length"), [(Learn.ALL, 5), (Learn.INLIERS, 4)])
def test_whether_an_outlier_is_learnt_is_an_option(learn: Learn, length: int) -> None:
    policy = OutlierPolicy(warm_up=3, learn=learn)
    state = add_all(EMPTY, [1.0, 2.0, 3.0])
    for value in (100.0, 2.5):
        _, state = judge_running(value, state, policy)
    assert state.length == length


def test_a_series_that_moved_is_usual_again_only_where_all_is_learnt() -> None:
    def outliers(learn: Learn) -> int:
        state: Moments = add_all(EMPTY, [10.0, 10.5, 9.5] * 10)
        found = 0
        for number in range(300):
            verdict, state = judge_running(20.0 + number % 3, state, OutlierPolicy(learn=learn))
            found += verdict.outlier
        return found

    assert outliers(Learn.ALL) < 20
    assert outliers(Learn.INLIERS) == 300


@pytest.mark.parametrize(
    "wrong",
    [{"limit": 0.0}, {"limit": -1.0}, {"limit": math.nan}, {"limit": math.inf}, {"warm_up": 0}],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: Mapping[str, float]) -> None:
    with pytest.raises(ValueError, match=r"limit|warm-up"):
        OutlierPolicy(**wrong)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(("mean", "std_dev"), [(math.nan, 1.0), (math.inf, 1.0), (0.0, math.nan), (0.0, -1.0)])
def test_a_distribution_that_is_none_is_refused(mean: float, std_dev: float) -> None:
    with pytest.raises(ValueError, match=r"mean|std_dev"):
        Known(mean=mean, std_dev=std_dev)


@pytest.mark.parametrize(
    ("pattern", "endpoint", "ep", "path", "wanted"),
    [
        (None, "*", "any", "/3303/0/5700", True),
        (None, "*", "any", "derived", True),
        ("/3303/*/5700", "*", "any", "/3303/7/5700", True),
        ("/3303/*/5700", "*", "any", "/3303/7/5701", False),
        ("/3303", "*", "any", "/3303/7/5701", True),
        ("/3303/0/5700", "*", "any", "/3303/0/5700/2", True),
        ("/3303/0/5700", "*", "any", "/3303/0", False),
        ("/3303", "*", "any", "no path", False),
        (None, "roof-*", "roof-1", "/3303/0/5700", True),
        (None, "roof-*", "Roof-1", "/3303/0/5700", False),
        (None, "cellar-?", "roof-1", "/3303/0/5700", False),
    ],
)
def test_a_series_matches_by_path_and_endpoint(
    pattern: str | None, endpoint: str, ep: str, path: str, wanted: bool
) -> None:
    series = SeriesPattern(path=PathPattern.parse(pattern) if pattern else None, endpoint=endpoint)
    assert series.matches(ep, path) is wanted
