"""What a load is to do: the even ramp-up, and profiles of mixed loads with the words for what is wrong in them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from gateway.bootstrap.yaml_tree import ConfigError
from gateway.devices.load.content import Content
from gateway.devices.load.plan import VALUE, Kind, Plan, Share, parse_profile
from gateway.devices.load.shared import Load


def plan(*shares: Share, threads: int = 1, ramp_up: float = 1.0) -> Plan:
    return Plan(endpoints=tuple(f"d-{number}" for number in range(1, threads + 1)), shares=shares, ramp_up=ramp_up)


@pytest.mark.parametrize(("threads", "ramp_up"), [(1, 10.0), (4, 10.0), (10_000, 30.0), (7, 0.0)])
def test_threads_start_evenly_within_the_ramp_up(threads: int, ramp_up: float) -> None:
    load = plan(Share(kind=Kind.UPDATE), threads=threads, ramp_up=ramp_up)
    starts = [load.start_of(number) for number in range(1, threads + 1)]
    assert starts[0] == 0
    assert all(later - earlier == pytest.approx(ramp_up / threads) for earlier, later in pairwise(starts))
    assert starts[-1] <= ramp_up


def test_profile_has_weights_and_what_is_different_for_a_kind() -> None:
    text = (
        "delay: 1000\nnotify: {weight: 80, delay: 500, confirmable: false}\nupdate: 10\nsend: {weight: 5}\nanswer: 0\n"
    )
    assert parse_profile(text, "mix.yaml") == (
        Share(kind=Kind.NOTIFY, weight=80, delay=0.5, confirmable=False),
        Share(kind=Kind.UPDATE, weight=10, delay=1.0),
        Share(kind=Kind.SEND, weight=5, delay=1.0),
    )


def test_delay_of_the_command_line_is_for_what_the_profile_says_nothing_of() -> None:
    assert parse_profile("update: 1\nsend: {weight: 1, delay: 7}", "f", 20) == (
        Share(kind=Kind.UPDATE, delay=0.02),
        Share(kind=Kind.SEND, delay=0.007),
    )
    assert parse_profile("update: 1\ndelay: 30", "f", 20) == (Share(kind=Kind.UPDATE, delay=0.03),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mix.yaml is empty; it has at least a line such as `notify: 80`"),
        ("notify: [1]", "line 1, column 9: a text is expected"),
        ("- notify", "line 1, column 1: `key: value` lines are expected"),
        ("notify: 80\nnotfy: 5", "line 2, column 1: 'notfy' is not known here; there are: register, update, notify"),
        ("notify: 80\nnotify: 5", "stands there twice"),
        ("notify: -1", "'-1' is no whole number from 0 to 1000000"),
        ("notify: many", "'many' is no whole number"),
        ("notify: 1\ndelay: 1.5", "line 2, column 8: '1.5' is no whole number from 0 to 86400000"),
        ("notify: true", "'true' is no whole number"),
        ("notify: {delay: 5}", "weight is missing"),
        ("update: {weight: 1, confirmable: false}", "'confirmable' is not known here"),
        ("notify: {weight: 1, confirmable: maybe}", "'maybe' is neither true nor false"),
        ("notify: 0\nupdate: 0", "no kind has a weight above 0"),
        ("delay: 5", "no kind has a weight above 0"),
        ("notify: {weight: 1", "this is no YAML"),
    ],
)
def test_profile_that_is_wrong_is_refused_with_the_place(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_profile(text, "mix.yaml")
    assert words in str(refused.value)


class _Nowhere:
    def record(self, sample: object) -> None:
        raise AssertionError(sample)

    def settle(self) -> None:
        return None

    def sent(self, endpoint: str, path: str, value: float, confirmable: bool) -> None:
        raise AssertionError(endpoint)

    def acknowledged(self, endpoint: str, path: str, value: float) -> None:
        raise AssertionError(endpoint)


def test_kinds_come_by_their_weights() -> None:
    mixed = plan(
        Share(kind=Kind.NOTIFY, weight=80), Share(kind=Kind.UPDATE, weight=15), Share(kind=Kind.SEND, weight=5)
    )
    load = Load(
        plan=mixed,
        content=Content(VALUE, 60),
        recorder=_Nowhere(),
        ledger=_Nowhere(),
        reads=None,
        offset=0.0,
        wait=lambda when, device: None,
        turn=lambda device: None,
        done=lambda device: None,
        run="run",
        random=Random(1),
    )
    often = Counter(load.share().kind for _ in range(20_000))
    assert often[Kind.NOTIFY] / 20_000 == pytest.approx(0.80, abs=0.02)
    assert often[Kind.UPDATE] / 20_000 == pytest.approx(0.15, abs=0.02)
    assert often[Kind.SEND] / 20_000 == pytest.approx(0.05, abs=0.02)
