"""Which commands are one consumer group, and which are others, where none is named."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from quixstreams.models import TopicAdmin, TopicManager
from quixstreams.state.manager import DEFAULT_STATE_STORE_NAME

from analytics.app import run_job
from analytics.job import JobConfigError, JobSettings, changelog_topic, parse_options
from analytics.jobs import JOBS

LEFT, RIGHT = "/3303/0/5700", "/3304/0/5700"
JOIN = {"code": "a.py", "left": LEFT, "right": RIGHT}


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
        ("statistics", {"every": "0s", "ahead": "5m"}),
        ("outliers", {"max_series": 7, "limit": 3}),
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
        ("outliers", {"rules": "a.toml"}, {"rules": "b.toml"}),
        ("outliers", {"limit": 4}, {"warm_up": 4}),
        ("outliers", {}, {"learn": "inliers"}),
        ("statistics", {}, {"every": "10s"}),
        ("join", JOIN, {**JOIN, "tolerance": "1m"}),
        ("join", {**JOIN, "before": "1m"}, {**JOIN, "after": "1m"}),
        ("join", {**JOIN, "direction": "nearest"}, {**JOIN, "missing": "left"}),
        ("join", {"code": "a.py", "left": LEFT, "right": RIGHT}, {"code": "b.py", "left": LEFT, "right": RIGHT}),
        ("join", {"code": "a.py", "left": LEFT, "right": RIGHT}, {"code": "a.py", "left": RIGHT, "right": LEFT}),
    ],
)
def test_jobs_with_other_results_have_groups_of_their_own(
    name: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert group(name, **one) != group(name, **other)
    assert group(name, **one) == group(name, **one)


def test_the_group_is_the_same_wherever_a_file_is() -> None:
    assert group("outliers", rules="/a/r.toml") == group("outliers", rules="r.toml")
    assert group("join", code="/a/f.py", left=LEFT, right=RIGHT) == group("join", code="f.py", left=LEFT, right=RIGHT)


def test_settings_that_may_change_leave_the_group() -> None:
    assert group("join", **JOIN, grace="1m", patience="1m", limit=10, ahead="1h", idle="0s") == group("join", **JOIN)
    query = {"query": "SELECT * FROM *"}
    assert group("filter", **query, print=True) == group("filter", **query)


@pytest.mark.parametrize("name", list(JOBS))
def test_what_tells_jobs_apart_is_an_option(name: str) -> None:
    options = JOBS[name].options
    assert options.IDENTITY
    assert set(options.IDENTITY) <= set(options.model_fields)


def settings(name: str, gateway: str, named: str | None = None) -> JobSettings:
    kind = JOBS[name]
    given = {"query": "SELECT * FROM *", "print": True} if name == "filter" else {}
    return JobSettings(
        kind=kind, options=parse_options(kind, given), gateway=gateway, bootstrap="127.0.0.1:1", group=named
    )


@pytest.mark.parametrize(
    ("name", "gateway", "named", "words"),
    [
        ("aggregate", "gw", "two words", "--group 'two words': .* letters, digits"),
        ("filter", "gw", "a/b", "--group 'a/b'"),
        ("aggregate", "gw", "..", "letters, digits"),
        ("aggregate", "gw", "é", "letters, digits"),
        ("aggregate", "gw", "g" * 209, "has 209 characters; with this gateway 208 are the most.*shorter --group"),
        ("filter", "gw", "g" * 250, "has 250 characters; with this gateway 249 are the most"),
        ("max-temperature", "g" * 100, None, "has 136 characters; with this gateway 110 are the most"),
    ],
)
def test_a_group_of_which_kafka_takes_no_topics_is_refused_at_the_start(
    name: str, gateway: str, named: str | None, words: str
) -> None:
    with pytest.raises(JobConfigError, match=words):
        run_job(settings(name, gateway, named), threading.Event())


def test_the_longest_group_is_taken() -> None:
    settings("aggregate", "gw", "g" * 208).check_group(["iot.gw.observations"])
    assert len(changelog_topic("g" * 208, "iot.gw.observations")) == 249


def test_the_name_of_the_changelog_topic_is_that_of_quix() -> None:
    manager = TopicManager(TopicAdmin("127.0.0.1:1"), consumer_group="a-group")
    assert manager._internal_name("changelog", "iot.gw.observations", DEFAULT_STATE_STORE_NAME) == changelog_topic(
        "a-group", "iot.gw.observations"
    )
