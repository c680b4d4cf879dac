"""The verdicts of the benchmark: a target is reached by the measured ratio and by nothing else."""

from __future__ import annotations

import pytest

from tests.bench import targets
from tests.bench.targets import HEADWATER, MEMORY, MIRROR, REPLICATOR, TUNED, Bound, judge, verdict_table

PEER = {
    "notify_max landed_per_s": 30_000.0,
    "notify_max cpu_s_per_10k": 0.5,
    "notify_max ack_p99_ms": 200.0,
    "register per_s": 6_000.0,
    "update per_s": 30_000.0,
    "read per_s": 8_000.0,
}
OURS = {
    "notify_max landed_per_s": 45_000.0,
    "notify_max cpu_s_per_10k": 0.25,
    "notify_max ack_p99_ms": 100.0,
    "notify_max landed_share": 1.0,
    "register per_s": 3_000.0,
    "update per_s": 9_000.0,
    "read per_s": 4_000.0,
    "read bad": 0.0,
}


def test_figures_exactly_on_their_targets_are_reached() -> None:
    verdicts = judge({HEADWATER: [OURS], TUNED: [PEER]})
    assert len(verdicts) == len(OURS)
    assert all(one.reached for one in verdicts)


@pytest.mark.parametrize("figure", sorted(OURS))
def test_a_figure_a_little_beyond_its_target_is_not_reached(figure: str) -> None:
    target = next(one for one in targets.TARGETS if one.subject == HEADWATER and one.figure == figure)
    worse = OURS[figure] * (0.99 if target.bound is Bound.AT_LEAST else 1.01) + (figure == "read bad")
    failed = [
        one.target.figure for one in judge({HEADWATER: [{**OURS, figure: worse}], TUNED: [PEER]}) if not one.reached
    ]
    assert failed == [figure]


def test_the_median_of_the_runs_counts() -> None:
    runs = [{**OURS, "register per_s": rate} for rate in (10.0, 3_000.0, 90_000.0)]
    verdict = next(one for one in judge({HEADWATER: runs, TUNED: [PEER]}) if one.target.figure == "register per_s")
    assert (verdict.ours, verdict.ratio) == (3_000.0, 0.5)


def test_what_was_not_measured_on_both_sides_has_no_verdict() -> None:
    assert {one.target.figure for one in judge({HEADWATER: [OURS]})} == {"notify_max landed_share", "read bad"}
    assert judge({REPLICATOR: [{"per_s_total": 1.0}]}) == []
    assert judge({MIRROR: [{"per_s_total": 1.0}]}) == []


def test_memory_has_to_stay_below_its_limit() -> None:
    held = [judge({MEMORY: [{"rss_peak_mb": mib}]})[0].reached for mib in (119.9, 120.0)]
    assert held == [True, False]


def test_the_table_says_what_is_not_reached() -> None:
    table = verdict_table(judge({MEMORY: [{"rss_peak_mb": 121.0}], REPLICATOR: [{"rss_highest_mb": 40.0}]}))
    assert "| replicator, peak memory, MiB | 40 |  |  | < 80 | reached |" in table
    assert "| gateway, peak memory, MiB | 121 |  |  | < 120 | **not reached** |" in table
