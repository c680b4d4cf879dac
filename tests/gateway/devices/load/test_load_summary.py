"""The lines of the summary are those of JMeter's Summariser."""

from __future__ import annotations

from gateway.devices.load.results import Results
from gateway.devices.load.samples import Sample
from gateway.devices.load.summary import Summary, Threads

START = 1_790_000_020_000  # ten seconds behind a round half minute, and so twenty before the next


def _sample(elapsed_us: int, success: bool = True) -> Sample:
    return Sample(START, elapsed_us, "update", "dev-1", 1, "2.04", success)


def _results(lines: list[str], interval: int = 30) -> Results:
    threads = Threads(active=40, started=40, finished=0)
    summary = Summary(lines.append, now_ms=START, interval=interval, threads=lambda: threads)
    return Results(summary=summary)


def test_lines_come_at_round_times_with_jmeters_widths() -> None:
    lines: list[str] = []
    results = _results(lines)
    for number in range(1200):
        results.record(_sample(1000 if number else 45_999))
    results.tick(START + 19_999)
    assert lines == []
    results.tick(START + 20_000)
    results.record(_sample(7_000, success=False))
    results.tick(START + 50_000)
    results.record(_sample(3_000))
    results.close(START + 60_000)
    assert lines == [
        "summary +   1200 in 00:00:20 =   60.0/s Avg:     1 Min:     1 Max:    45 Err:     0 (0.00%)"
        " Active: 40 Started: 40 Finished: 0",
        "summary +      1 in 00:00:30 =    0.0/s Avg:     7 Min:     7 Max:     7 Err:     1 (100.00%)"
        " Active: 40 Started: 40 Finished: 0",
        "summary =   1201 in 00:00:50 =   24.0/s Avg:     1 Min:     1 Max:    45 Err:     1 (0.08%)",
        "summary +      1 in 00:00:10 =    0.1/s Avg:     3 Min:     3 Max:     3 Err:     0 (0.00%)"
        " Active: 40 Started: 40 Finished: 0",
        "summary =   1202 in 00:01:00 =   20.0/s Avg:     1 Min:     1 Max:    45 Err:     1 (0.08%)",
    ]


def test_a_run_shorter_than_the_interval_has_the_one_line() -> None:
    lines: list[str] = []
    results = _results(lines)
    results.record(_sample(2_000))
    results.close(START + 3_000)
    assert lines == ["summary =      1 in 00:00:03 =    0.3/s Avg:     2 Min:     2 Max:     2 Err:     0 (0.00%)"]


def test_a_server_that_stands_still_is_seen() -> None:
    lines: list[str] = []
    results = _results(lines, interval=10)
    results.record(_sample(2_000))
    results.tick(START + 10_000)
    results.tick(START + 20_000)
    assert lines[1].startswith(
        "summary +      0 in 00:00:10 =    0.0/s Avg:     0 Min:     0 Max:     0 Err:     0 (0.00%)"
    )


def test_nothing_at_all_has_a_line_too_and_no_time_has_no_rate() -> None:
    lines: list[str] = []
    _results(lines).close(START)
    assert lines == ["summary =      0 in 00:00:00 = ******/s Avg:     0 Min:     0 Max:     0 Err:     0 (0.00%)"]


def test_hours_may_have_three_digits() -> None:
    lines: list[str] = []
    _results(lines).close(START + 100 * 3_600_000)
    assert " in 100:00:00 = " in lines[0]
