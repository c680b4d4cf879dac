"""Which commands are one consumer group, and which are others, where none is named."""

from __future__ import annotations

from typing import Any

import pytest

from analytics.job import JobSettings, parse_options
from analytics.jobs import JOBS

LEFT, RIGHT = "/3303/0/5700", "/3304/0/5700"


def group(name: str, **options: Any) -> str:
    kind = JOBS[name]
    return JobSettings(kind=kind, options=parse_options(kind, options), gateway="gw", bootstrap="kafka:9092").group_id


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("aggregate", {}),
        ("max-temperature", {}),
        ("max-temperature", {"window": "30s", "function": "max", "path": "/3303/*/5700"}),
        ("max-temperature", {"grace": "1m", "idle": "0s"}),
        ("statistics", {"every": "10s"}),
        ("outliers", {"rules": "rules.toml", "limit": 4}),
    ],
)
def test_a_plain_job_has_the_plain_group(name: str, options: dict[str, Any]) -> None:
    assert group(name, **options) == f"headwater-analytics-{name}-gw"


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("filter", {"query": "SELECT * FROM *", "to": "a"}, {"query": "SELECT ep FROM *", "to": "a"}),
        ("filter", {"query": "SELECT * FROM *", "to": "a"}, {"query": "SELECT * FROM *", "to": "b"}),
        ("max-temperature", {}, {"function": "min", "to": "x"}),
        ("max-temperature", {"hop": "10s"}, {"sliding": True}),
        ("aggregate", {}, {"window": "10s"}),
        ("aggregate", {"path": "/3303"}, {"endpoint": "a*"}),
        ("statistics", {}, {"path": "/3303"}),
        ("outliers", {}, {"endpoint": "a*"}),
        ("join", {"code": "a.py", "left": LEFT, "right": RIGHT}, {"code": "b.py", "left": LEFT, "right": RIGHT}),
        ("join", {"code": "a.py", "left": LEFT, "right": RIGHT}, {"code": "a.py", "left": RIGHT, "right": LEFT}),
    ],
)
def test_jobs_with_other_results_have_groups_of_their_own(
    name: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert group(name, **one) != group(name, **other)
    assert group(name, **one) == group(name, **one)


def test_the_group_of_a_join_is_the_same_wherever_its_file_is() -> None:
    assert group("join", code="/a/f.py", left=LEFT, right=RIGHT) == group("join", code="f.py", left=LEFT, right=RIGHT)


def test_settings_that_may_change_leave_the_group() -> None:
    same = {"code": "f.py", "left": LEFT, "right": RIGHT}
    assert group("join", **same, tolerance="1m", limit=10) == group("join", **same)


@pytest.mark.parametrize("name", list(JOBS))
def test_what_tells_jobs_apart_is_an_option(name: str) -> None:
    options = JOBS[name].options
    assert options.IDENTITY
    assert set(options.IDENTITY) <= set(options.model_fields)
