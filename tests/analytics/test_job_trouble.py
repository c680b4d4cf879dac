"""What the app does about a job's troubles, without Kafka."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from analytics.app import _Runner
from analytics.job import NO_STATE, BadRecord, Emit, Incoming, JobSettings, State, parse_options
from analytics.jobs import JOBS
from analytics.turn import idled
from schemas.avro.serde import SerdeError
from tests.analytics.dict_state import Emitted


class Failing:
    """A job that fails at a silence."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def take(self, record: Incoming, state: State, emit: Emit) -> None:
        raise self._error

    def idle(self, silent_s: float, state: State, emit: Emit) -> None:
        raise self._error


@pytest.mark.parametrize("error", [BadRecord("of nobody"), SerdeError("too long")])
def test_what_fails_at_a_silence_is_told_and_ends_nothing(error: Exception) -> None:
    assert idled(Failing(error), 60.0, NO_STATE, Emitted()) is error


def test_other_failures_at_a_silence_end_the_turn() -> None:
    with pytest.raises(OSError, match="disk"):
        idled(Failing(OSError("disk")), 60.0, NO_STATE, Emitted())


def test_a_file_of_rules_that_is_broken_later_ends_no_running_job(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("[[distribution]]\nmean = 25.0\nstd_dev = 2.0\n")
    kind = JOBS["outliers"]
    options = parse_options(kind, {"rules": str(rules)})
    runner = _Runner(JobSettings(kind=kind, options=options, gateway="gw", bootstrap="127.0.0.1:1"), threading.Event())
    made = runner.job
    rules.write_text("[[distribution")
    assert runner.job is made
