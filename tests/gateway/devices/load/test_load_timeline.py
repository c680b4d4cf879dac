"""Results over time stay bounded, and lose no count however they are put together."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.devices.load.samples import Sample
from gateway.devices.load.timeline import MOST_ERRORS, MOST_INTERVALS, MOST_LABELS, OTHERS, Timeline

START = 1_790_000_000_000


def sample(
    at_ms: int = START, elapsed_us: int = 1000, label: str = "update", *, code: str = "2.04", message: str = ""
) -> Sample:
    return Sample(at_ms, elapsed_us, label, "dev-1", 1, code, not message, message, sent=40, received=10)


def test_a_sample_belongs_to_the_interval_in_which_its_answer_came() -> None:
    timeline = Timeline()
    timeline.add([sample(START + 900, 50_000), sample(START + 900, 150_000)])
    assert [(begins, interval["update"].count) for begins, interval in timeline.over_time()] == [
        (START, 1),
        (START + 1000, 1),
    ]
    whole = timeline.total()
    assert (whole.starts, whole.ends) == (START + 900, START + 1050)
    assert (whole.sent, whole.received) == (80, 20)


def test_intervals_in_which_nothing_came_are_there_too() -> None:
    timeline = Timeline()
    timeline.add([sample(START), sample(START + 5000)])
    assert [len(interval) for _, interval in timeline.over_time()] == [1, 0, 0, 0, 0, 1]


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=60), st.integers(1, 20))
def test_no_count_is_lost_when_intervals_are_put_together(times: list[int], size: int) -> None:
    timeline = Timeline()
    samples = [sample(START + at, at % 977, f"l{at % 3}") for at in times]
    for begin in range(0, len(samples), size):
        timeline.add(samples[begin : begin + size])
    assert len(list(timeline.over_time())) <= MOST_INTERVALS
    assert timeline.total().count == len(times)
    for label in ("l0", "l1", "l2"):
        elapsed = [one.elapsed_us for one in samples if one.label == label]
        total = timeline.total(label)
        assert (total.count, total.times.sum) == (len(elapsed), sum(elapsed))


def test_times_that_are_ages_apart_do_not_make_it_grow() -> None:
    timeline = Timeline()
    timeline.add([sample(0), sample(253_402_300_799_999)])
    assert len(list(timeline.over_time())) <= MOST_INTERVALS
    assert timeline.total().count == 2


def test_labels_beyond_the_limit_are_counted_together() -> None:
    timeline = Timeline()
    timeline.add([sample(label=f"label {number}") for number in range(MOST_LABELS + 10)])
    assert len(timeline.labels) == MOST_LABELS + 1
    assert timeline.total(OTHERS).count == 10


def test_error_texts_beyond_the_limit_are_counted_together() -> None:
    timeline = Timeline()
    timeline.add([sample(code="error", message=f"port {number}") for number in range(MOST_ERRORS + 7)])
    assert timeline.total("update").errors == MOST_ERRORS + 7
    assert timeline.errors[OTHERS, "", ""] == 7
    assert len(timeline.errors) == MOST_ERRORS + 1


def test_a_long_run_takes_no_more_memory_than_a_short_one() -> None:
    """What is held are buckets; twenty times the samples fill some more of them, and up to a limit."""
    rng = random.Random(5)

    def held(seconds: int) -> int:
        timeline = Timeline()
        for second in range(0, seconds, 10):
            at = START + 1000 * second
            timeline.add([sample(at + 50 * place, int(rng.lognormvariate(7, 1))) for place in range(20)])
        return sum(len(cell.times.items()) for _, interval in timeline.over_time() for cell in interval.values())

    assert held(600_000) < 8 * held(30_000)
