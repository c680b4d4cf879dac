"""Stages, the error threshold, and what is read back from the topic of campaigns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from cloud.campaigns.machine import Device, Phase, Task, begin
from cloud.campaigns.plan import (
    MOST_DEVICES,
    Control,
    InvalidCampaign,
    NotOurs,
    Plan,
    Standing,
    Wish,
    control_json,
    control_of,
    device_json,
    device_of,
    overview,
    percentage,
    plan_json,
    plan_of,
    stages,
    to_begin,
)
from schemas.files import File

EPS = tuple(f"lamp-{number}" for number in range(20))
PLAN = Plan(
    name="spring",
    gateway="gw",
    file=File(sha256="ab" * 32, size=10, name="x.bin"),
    endpoints=EPS,
    stages=(1, 10, 20),
    threshold=0.1,
    task=Task(),
    created=1,
)


def ended(*phases: Phase) -> dict[str, Device]:
    return {ep: replace(begin(ep, 1), phase=phase) for ep, phase in zip(EPS, phases, strict=False)}


@pytest.mark.parametrize(
    ("text", "devices", "found"),
    [
        ("1,10%,100%", 50, (1, 5, 50)),
        ("1,10%,100%", 3, (1, 3)),
        ("1,10%,100%", 1, (1,)),
        ("100%", 7, (7,)),
        ("2", 7, (2, 7)),
        ("5, 5, 3, 50%", 20, (5, 10, 20)),
        ("0.5%", 1000, (5, 1000)),
        ("1000", 7, (7,)),
    ],
)
def test_stages_are_numbers_of_devices(text: str, devices: int, found: tuple[int, ...]) -> None:
    assert stages(text, devices) == found


@pytest.mark.parametrize("text", ["", "0", "x", "1,,2", "-1", "10%%", "1.5", "0%"])
def test_what_is_no_stage_is_refused(text: str) -> None:
    with pytest.raises(InvalidCampaign):
        stages(text, 10)


def test_parts_are_written_with_or_without_percent() -> None:
    assert [percentage(text) for text in ("10%", "0.1", "0", "100%", "1")] == [0.1, 0.1, 0, 1, 1]
    for text in ("", "x", "-1%", "101%", "nan", "1.1"):
        with pytest.raises(InvalidCampaign):
            percentage(text)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"name": "a/b"}, {"name": "x" * 101}, {"endpoints": ()},
        {"endpoints": ("a", "a"), "stages": (2,)},
        {"threshold": 1.1}, {"threshold": -0.1}, {"stages": ()}, {"stages": (1, 19)}, {"stages": (10, 1, 20)},
        {"task": Task(object_id=3)}, {"endpoints": tuple(map(str, range(MOST_DEVICES + 1)))},
    ],
)  # fmt: skip
def test_what_makes_no_campaign_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidCampaign):
        replace(PLAN, **change)  # type: ignore[arg-type]  # as the parameters say


def test_a_stage_begins_when_the_one_before_has_ended() -> None:
    devices: dict[str, Device] = {}
    for count, begin_now in ((0, 1), (1, 9), (10, 10)):
        devices = ended(*[Phase.UPDATED] * count)
        seen = overview(PLAN, Control(), devices)
        assert (seen.standing, len(to_begin(PLAN, seen, devices))) == (Standing.RUNNING, begin_now)
    half = ended(*[Phase.UPDATED] * 9, Phase.DOWNLOADING)
    seen = overview(PLAN, Control(), half)
    assert (seen.stage, to_begin(PLAN, seen, half)) == (1, [])
    assert overview(PLAN, Control(), ended(*[Phase.UPDATED] * 20)).standing is Standing.DONE


def test_failures_beyond_the_threshold_stop_it() -> None:
    # In the second stage there are ten: one may fail, two not.
    one = ended(Phase.UPDATED, Phase.FAILED)
    assert overview(PLAN, Control(), one).standing is Standing.RUNNING
    two = ended(Phase.UPDATED, Phase.FAILED, Phase.FAILED)
    seen = overview(PLAN, Control(), two)
    assert seen.standing is Standing.STOPPED
    assert seen.words == "stopped: 2 of 10 devices failed, more than 10%"
    assert to_begin(PLAN, seen, two) == []
    resumed = overview(PLAN, Control(forgiven=2), two)
    assert resumed.standing is Standing.RUNNING
    assert to_begin(PLAN, resumed, two) == list(EPS[3:10])


def test_the_first_that_fails_stops_a_first_stage_of_one() -> None:
    # It would be no more than a tenth of the ten devices of the next one.
    assert overview(PLAN, Control(), ended(Phase.FAILED)).standing is Standing.STOPPED
    assert overview(PLAN, Control(forgiven=1), ended(Phase.FAILED)).standing is Standing.RUNNING


def test_wishes_are_kept() -> None:
    some = ended(Phase.UPDATED, Phase.DOWNLOADING)
    for wish, standing in ((Wish.PAUSE, Standing.PAUSED), (Wish.ABORT, Standing.ABORTED)):
        seen = overview(PLAN, Control(wish=wish), some)
        assert (seen.standing, to_begin(PLAN, seen, some)) == (standing, [])


def test_records_come_back_as_they_were_written() -> None:
    assert plan_of(plan_json(PLAN)) == PLAN
    control = Control(wish=Wish.PAUSE, forgiven=3)
    assert control_of(control_json(control)) == control


@pytest.mark.parametrize("read", [plan_of, control_of, lambda data: device_of(data, "lamp")])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"name": 1}',
        b"\xff",
        b"[" * 100_000,
        b'{"wish": "fly", "forgiven": 0}',
    ],
)
def test_records_that_are_none_of_ours_are_told(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(NotOurs):
        read(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ep", "other"), ("ep", 5), ("words", None), ("again", "soon"), ("began", 1.5), ("moved", 1), ("trace", [[1]]),
     ("pending", {"number": "x"}), ("phase", "flying"), ("sends", None), ("strange", 1), ("number", True)],
)  # fmt: skip
def test_a_device_s_record_with_one_thing_wrong_is_none_of_ours(name: str, value: object) -> None:
    good = json.loads(device_json(begin("lamp", 5)))
    assert device_of(json.dumps(good).encode(), "lamp") == begin("lamp", 5)
    with pytest.raises(NotOurs):
        device_of(json.dumps(good | {name: value}).encode(), "lamp")
