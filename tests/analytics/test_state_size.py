"""No value of a job's state grows beyond what Kafka takes for a record of its changelog."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

import pytest

from analytics.alignment import Aligner, Alignment, Direction, Missing, Mode
from analytics.job import JobConfigError, Surroundings, parse_options
from analytics.jobs import JOBS
from analytics.joining import MOST_BYTES
from analytics.user_code import MOST_TEXT, UserCodeError
from analytics.windows import MOST_KEPT_PANES, Hopping
from tests.analytics.dict_state import Counts
from tests.analytics.test_joining import Trial

#: Of a Kafka producer, the default of message.max.bytes, with room for the key.
MOST_OF_KAFKA = 990_000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("aggregate", {"window": "1s", "grace": "5h"}),
        ("max-temperature", {"grace": "30d"}),
        ("max-temperature", {"window": "10s", "hop": "3s", "grace": "5h"}),
    ],
)
def test_windows_that_would_keep_too_much_are_refused(name: str, options: dict[str, Any]) -> None:
    kind = JOBS[name]
    with pytest.raises(JobConfigError, match="choose a shorter grace"):
        kind.make(parse_options(kind, options), Surroundings(gateway="gw", group="g", metrics=Counts()))


def test_the_most_that_windows_keep_fits() -> None:
    windows = Hopping(1, 1, MOST_KEPT_PANES - 1)
    one = windows.add(None, 1_000_000, 1.0, 0).kept
    two = windows.add(one, 1_000_001, 1.0, 0).kept
    assert 0 < (len(two) - len(one)) * (MOST_KEPT_PANES + 2) + len(one) < MOST_OF_KAFKA


def test_a_join_with_long_texts_pushes_the_oldest_out(tmp_path: FilePath) -> None:
    code = (
        "def on_join(a, b):\n    return len(a.value)\n"
        f"def ingest(r):\n    return '\\u20ac' * {MOST_TEXT - 50}\n"  # 6 bytes each, in the state
    )
    trial = Trial(tmp_path, code, grace="1d", missing="left")
    results = []
    for number in range(40):
        results += trial.say("/3303/0/5700", 1.0, number)
        assert max(map(len, trial.state.held.values())) <= MOST_BYTES
    assert trial.counts.skipped_ == len(results) >= 20
    # Each once, in order, with what is known.
    assert results == [("/3300/100/5700", number, MOST_TEXT - 50) for number in range(len(results))]


def test_the_oldest_of_all_series_go_and_lefts_take_their_partners_with_them() -> None:
    how = Alignment(before_ms=100, grace_ms=1000, direction=Direction.NEAREST, missing=Missing.INNER)
    aligner = Aligner(how)
    buffers = aligner.begin()
    for series, time in ((1, 10), (0, 12), (0, 20), (1, 30)):
        aligner.add(buffers, series, time, b"12345")
    shed = aligner.shed(buffers, 8, lambda kept: len(kept[2]))
    assert [(match.time, match.items[1].time) for match in shed.matches if match.items[1]] == [(12, 10)]
    assert shed.pushed_out == 2
    assert [[one[0] for one in kept] for kept in buffers.kept] == [[20], [30]]


def test_nothing_is_given_out_by_an_interval_join_that_is_full() -> None:
    aligner = Aligner(Alignment(mode=Mode.INTERVAL, before_ms=100, after_ms=100, grace_ms=1000))
    buffers = aligner.begin()
    for series, time in ((0, 12), (1, 20)):
        aligner.add(buffers, series, time, b"12345")
    shed = aligner.shed(buffers, 100, lambda kept: len(kept[2]))
    assert (shed.matches, shed.pushed_out, buffers.kept) == ((), 2, [[], []])


def test_a_limit_that_cannot_fit_is_refused(tmp_path: FilePath) -> None:
    with pytest.raises(JobConfigError, match=r"--limit 50000: a join keeps at most"):
        Trial(tmp_path, limit=50_000)
    Trial(tmp_path, limit=5_000)


def test_a_limit_that_nobody_asked_for_is_not_refused(tmp_path: FilePath) -> None:
    several = [f"/3303/{number}/5700" for number in range(30)]
    Trial(tmp_path, "def on_join(*all):\n    return 1\n", left=None, right=None, series=several)


def test_a_reading_with_endless_text_is_left_out(tmp_path: FilePath) -> None:
    trial = Trial(tmp_path, "def on_join(a, b):\n    return 1\ndef ingest(r):\n    return r._replace(ep='a' * 20000)\n")
    with pytest.raises(UserCodeError, match="a reading of 20015 characters, 10000 are the most"):
        trial.say("/3303/0/5700", 1.0, 0)
