"""The verdicts of the benchmark: a target is reached by the measured ratio and by nothing else."""

from __future__ import annotations

import pytest

from tests.bench import targets
from tests.bench.targets import (
    FLOOR,
    HEADWATER,
    MEMORY,
    MIRROR,
    REPLICATOR,
    TUNED,
    Bound,
    Spread,
    judge,
    verdict_table,
)

PEER = {
    "notify_max landed_per_s": 30_000.0,
    "notify_max cpu_s_per_10k": 0.5,
    "notify_max ack_p99_ms": 200.0,
    "notify_1000 cpu_s_per_10k": 2.0,
    "notify_1000 e2e_p99_ms": 15.0,
    "register per_s": 6_000.0,
    "update per_s": 30_000.0,
    "read seq_p50_ms": 10.0,
    "read per_s": 8_000.0,
}
BARE = {"cpu_s_per_10k": 0.0625}
OURS = {
    "notify_max landed_per_s": 75_000.0,
    "notify_max cpu_s_per_10k": 0.125,
    "notify_max ack_p99_ms": 100.0,
    "notify_max landed_share": 1.0,
    "notify_1000 cpu_s_per_10k": 0.5,
    "notify_1000 e2e_p99_ms": 15.0,
    "register per_s": 9_000.0,
    "update per_s": 36_000.0,
    "read seq_p50_ms": 7.0,
    "read per_s": 9_600.0,
    "read bad": 0.0,
}
#: Of each figure that has two: the peer's and the bare loop's.
TWICE = {"notify_max cpu_s_per_10k"}


def test_figures_exactly_on_their_targets_are_reached() -> None:
    verdicts = judge({HEADWATER: [OURS], TUNED: [PEER], FLOOR: [BARE]})
    assert len(verdicts) == len(OURS) + len(TWICE)
    assert all(one.reached for one in verdicts)


@pytest.mark.parametrize("figure", sorted(OURS))
def test_a_figure_a_little_beyond_its_target_is_not_reached(figure: str) -> None:
    target = next(one for one in targets.TARGETS if one.subject == HEADWATER and one.figure == figure)
    worse = OURS[figure] * (0.99 if target.bound is Bound.AT_LEAST else 1.01) + (figure == "read bad")
    verdicts = judge({HEADWATER: [{**OURS, figure: worse}], TUNED: [PEER], FLOOR: [BARE]})
    assert [one.target.figure for one in verdicts if not one.reached] == [figure] * (2 if figure in TWICE else 1)


def test_the_median_of_the_runs_counts() -> None:
    runs = [{**OURS, "register per_s": rate} for rate in (90_000.0, 10.0, 3_000.0)]
    verdict = next(one for one in judge({HEADWATER: runs, TUNED: [PEER]}) if one.target.figure == "register per_s")
    assert (verdict.ours, verdict.ratio) == (Spread(3_000.0, 10.0, 90_000.0, 3), 0.5)
    assert "| registrations /s | 3,000 (10 to 90,000) | leshan-tuned: 6,000 | 0.50 |" in verdict_table([verdict])


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


def test_what_others_disturbed_is_marked_and_nothing_else_is() -> None:
    ours = {**OURS, "register other_cores": 0.1, "update other_cores": 0.8}
    peer = {**PEER, "read other_cores": 0.5}
    marked = {
        one.target.figure: one.others
        for one in judge({HEADWATER: [OURS, ours], TUNED: [peer]})
        if "disturbed" in verdict_table([one])
    }
    assert marked == {"update per_s": 0.8, "read per_s": 0.5, "read seq_p50_ms": 0.5}
