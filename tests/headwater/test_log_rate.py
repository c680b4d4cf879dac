"""How often a kind of line is written."""

from __future__ import annotations

import subprocess
import sys

import pytest
from structlog import DropEvent

from headwater.log_rate import MOST, MOST_KINDS, SECONDS, LogRate


def _written(rate: LogRate, count: int, words: str = "refused") -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for number in range(count):
        try:
            found.append(dict(rate(None, "info", {"event": words, "number": number})))
        except DropEvent:
            continue
    return found


def test_a_kind_is_written_so_often_and_the_next_one_tells_what_was_left_out() -> None:
    now = 0.0
    rate = LogRate(lambda: now)
    assert [one["number"] for one in _written(rate, 1000)] == list(range(MOST))
    now = SECONDS
    again = _written(rate, 2)
    assert again == [{"event": "refused", "number": 0, "left_out": 1000 - MOST}, {"event": "refused", "number": 1}]


def test_kinds_do_not_count_against_one_another() -> None:
    rate = LogRate(lambda: 0.0)
    _written(rate, 1000)
    assert len(_written(rate, 3, "accepted")) == 3


def test_kinds_that_never_end_are_not_kept() -> None:
    rate = LogRate(lambda: 0.0)
    for number in range(3 * MOST_KINDS):
        assert _written(rate, 1, f"kind {number}")
    assert len(rate._kinds) <= MOST_KINDS


def _lines(level: str, terminal: bool) -> list[str]:
    """What a process writes that logs the same 5,000 times, and then another thing."""
    program = (
        "from headwater import logs\n"
        "from headwater.log_level import LogLevel\n"
        f"logs.set_up(LogLevel.{level}, terminal={terminal})\n"
        "import structlog\n"
        "log = structlog.get_logger('headwater.test')\n"
        "for number in range(5000):\n"
        "    log.info('a registration request was refused', number=number)\n"
        "log.warning('and another thing')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    lines = done.stderr.splitlines()
    assert "and another thing" in lines[-1]
    return lines


@pytest.mark.parametrize("terminal", [True, False])
def test_a_process_that_logs_the_same_for_ever_writes_little(terminal: bool) -> None:
    assert MOST < len(_lines("INFO", terminal)) < 20 * MOST


def test_who_debugs_is_told_all() -> None:
    assert len(_lines("DEBUG", False)) == 5001
