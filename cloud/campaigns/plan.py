"""A campaign: which image for which devices in which stages, and how far it is. Pure; JSON forms for its topic.

Owns the rules of stages and of the error threshold. A device's own way is `cloud.campaigns.machine`'s.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from cloud.campaigns.machine import Ask, Device, Pending, Phase, Task
from cloud.campaigns.objects import OBJECTS, Method
from schemas.files import File, checked

#: So that a plan fits a record.
MOST_DEVICES = 10_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class InvalidCampaign(ValueError):
    """What was asked for makes no campaign; the text says why."""


class NotOurs(ValueError):
    """A record of the topic is none that we wrote."""


class Wish(Enum):
    """What people want of a campaign."""

    RUN = "run"
    PAUSE = "pause"
    ABORT = "abort"


class Runner(Enum):
    """Who carries it out: `headwater campaign run`, or the very command that made it."""

    WORKER = "worker"
    COMMAND = "command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for when it was created (epoch ms); it never changes.

    ``stages`` say how many of ``endpoints`` are in the stages up to each, the last one all. ``threshold`` is the part
    of the devices of the stages so far that may fail before no other one begins.
    """

    name: str
    gateway: str
    file: File
    endpoints: tuple[str, ...]
    stages: tuple[int, ...]
    threshold: float
    task: Task
    created: int
    runner: Runner = Runner.WORKER

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise InvalidCampaign(f"campaign name {self.name[:120]!r}: 1 to 100 letters, digits, '.', '_' and '-'")
        if not self.endpoints or len(set(self.endpoints)) != len(self.endpoints):
            raise InvalidCampaign("a campaign is for one device or more, each named once")
        if len(self.endpoints) > MOST_DEVICES:
            raise InvalidCampaign(f"{len(self.endpoints)} devices; a campaign has {MOST_DEVICES} at most: make several")
        if not 0 <= self.threshold <= 1:
            raise InvalidCampaign(f"an error threshold of {self.threshold:g}: it is between 0% and 100%")
        if self.task.object_id not in OBJECTS:
            raise InvalidCampaign(f"object {self.task.object_id}: firmware is object 5 and software object 9")
        if list(self.stages) != sorted(set(self.stages)) or not self.stages or self.stages[-1] != len(self.endpoints):
            raise InvalidCampaign("each stage has more devices than the one before, and the last one has them all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What is wanted of it now. ``forgiven``: the failures up to when it was resumed, which count no more."""

    wish: Wish = Wish.RUN
    forgiven: int = 0


class Standing(Enum):
    """How a campaign stands."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABORTED = "aborted"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A campaign as a whole; ``stage`` from 0 on."""

    standing: Standing
    stage: int
    counts: Mapping[Phase, int]
    waiting: int
    words: str


def stages(text: str, devices: int) -> tuple[int, ...]:
    """``1,10%,100%`` for so many devices: how many are in the stages up to each. The last one is always all.

    Raises:
        InvalidCampaign: it is none of that form.
    """
    found: list[int] = []
    for part in text.split(","):
        number, percent = part.strip().removesuffix("%"), part.strip().endswith("%")
        if not number.isascii() or not number.replace(".", "", 1).isdigit() or not (percent or number.isdigit()):
            raise InvalidCampaign(f"stages {text!r}: numbers of devices or parts of them, such as 1,10%,100%")
        count = math.ceil(devices * float(number) / 100) if percent else int(number)
        if count < 1:
            raise InvalidCampaign(f"stages {text!r}: a stage has one device at least")
        if min(count, devices) > (found[-1] if found else 0):
            found.append(min(count, devices))
    return (*found, devices) if found[-1] < devices else tuple(found)


def percentage(text: str) -> float:
    """``10%`` or ``0.1`` as a part of one.

    Raises:
        InvalidCampaign: it is neither.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InvalidCampaign(f"{text!r} is no part of the devices, such as 10%")
    return value


def overview(plan: Plan, control: Control, devices: Mapping[str, Device]) -> Overview:
    """How the campaign stands, from what its devices have come to."""
    counts: dict[Phase, int] = {}
    for device in devices.values():
        counts[device.phase] = counts.get(device.phase, 0) + 1
    stage = 0
    # A stage with too many failures is never over, however many devices the next one has.
    while (
        stage < len(plan.stages) - 1
        and _ended(plan.endpoints[: plan.stages[stage]], devices)
        and _failed(plan.endpoints[: plan.stages[stage]], devices) - control.forgiven
        <= plan.threshold * plan.stages[stage]
    ):
        stage += 1
    failed = counts.get(Phase.FAILED, 0) - control.forgiven
    allowed = plan.threshold * plan.stages[stage]
    waiting = len(plan.endpoints) - len(devices)
    all_ended = _ended(plan.endpoints, devices)
    if control.wish is Wish.ABORT:
        standing, words = Standing.ABORTED, "aborted"
    elif all_ended:
        standing, words = Standing.DONE, "done"
    elif failed > allowed:
        standing = Standing.STOPPED
        words = f"stopped: {failed} of {plan.stages[stage]} devices failed, more than {plan.threshold:.0%}"
    elif control.wish is Wish.PAUSE:
        standing, words = Standing.PAUSED, "paused"
    else:
        standing, words = Standing.RUNNING, f"stage {stage + 1} of {len(plan.stages)}"
    return Overview(standing=standing, stage=stage, counts=counts, waiting=waiting, words=words)


def _ended(endpoints: Sequence[str], devices: Mapping[str, Device]) -> bool:
    return all(ep in devices and devices[ep].phase.ended for ep in endpoints)


def _failed(endpoints: Sequence[str], devices: Mapping[str, Device]) -> int:
    return sum(ep in devices and devices[ep].phase is Phase.FAILED for ep in endpoints)


def to_begin(plan: Plan, seen: Overview, devices: Mapping[str, Device]) -> list[str]:
    """The endpoints whose turn it is now."""
    if seen.standing is not Standing.RUNNING:
        return []
    return [ep for ep in plan.endpoints[: plan.stages[seen.stage]] if ep not in devices]


# JSON


def plan_json(plan: Plan) -> bytes:
    task = plan.task
    return _dump(
        {
            "name": plan.name,
            "gateway": plan.gateway,
            "file": asdict(plan.file),
            "endpoints": plan.endpoints,
            "stages": plan.stages,
            "threshold": plan.threshold,
            "object": task.object_id,
            "instance": task.instance,
            "method": task.method.value,
            "patience": task.patience,
            "created": plan.created,
            "runner": plan.runner.value,
        }
    )


def _file_of(said: Mapping[str, Any]) -> File:
    """Raises ValueError, TypeError, KeyError: it says no file."""
    return checked(File(sha256=str(said["sha256"]), size=int(said["size"]), name=str(said["name"])))


def plan_of(data: bytes) -> Plan:
    """Raises NotOurs: it is none that `plan_json` wrote."""
    try:
        said = json.loads(data)
        return Plan(
            name=said["name"],
            gateway=said["gateway"],
            file=_file_of(said["file"]),
            endpoints=tuple(str(one) for one in said["endpoints"]),
            stages=tuple(int(one) for one in said["stages"]),
            threshold=float(said["threshold"]),
            task=Task(
                object_id=int(said["object"]),
                instance=int(said["instance"]),
                method=Method(said["method"]),
                patience=int(said["patience"]),
            ),
            created=int(said["created"]),
            runner=Runner(said["runner"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise NotOurs(f"{data[:200]!r} is no campaign") from exc


def control_json(control: Control) -> bytes:
    return _dump({"wish": control.wish.value, "forgiven": control.forgiven})


def control_of(data: bytes) -> Control:
    """Raises NotOurs."""
    try:
        said = json.loads(data)
        return Control(wish=Wish(said["wish"]), forgiven=int(said["forgiven"]))
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise NotOurs(f"{data[:200]!r} is no wish for a campaign") from exc


def device_fields(device: Device) -> dict[str, Any]:
    """A device as it stands, for the topic and for programs."""
    fields = {
        name: getattr(device, name) for name in ("ep", "began", "since", "words", "number", "again", "pause", "sends")
    }
    pending = device.pending
    return {
        **fields,
        "phase": device.phase.value,
        "method": device.method.value,
        "later": device.later.value,
        "moved": device.moved,
        "executes": device.executes,
        "back": device.back,
        "stale": device.stale,
        "resets": device.resets,
        "observed": device.observed,
        "held": device.held,
        "pending": None
        if pending is None
        else {"number": pending.number, "ask": pending.ask.value, "asked": pending.asked},
        "trace": [list(one) for one in device.trace],
    }


def device_json(device: Device) -> bytes:
    return _dump(device_fields(device))


#: What is a number in a device's record, beside what `device_of` makes of text.
_NUMBERS = ("began", "since", "number", "pause", "sends", "executes", "stale", "resets")
_FLAGS = ("moved", "back", "observed", "held")


def device_of(data: bytes, ep: str) -> Device:
    """The device of that name. Raises NotOurs."""
    try:
        said = json.loads(data)
        if (
            said["ep"] != ep
            or not isinstance(said["words"], str)
            or any(type(said[name]) is not int for name in _NUMBERS)
            or any(type(said[name]) is not bool for name in _FLAGS)
            or type(said["again"]) not in (int, type(None))
        ):
            raise NotOurs(f"{data[:200]!r} is not what there is to know of the device {ep[:100]!r}")
        pending = said.pop("pending")
        device = Device(
            phase=Phase(said.pop("phase")),
            method=Method(said.pop("method")),
            later=Ask(said.pop("later")),
            trace=tuple((int(at), str(words)) for at, words in said.pop("trace")),
            **said,
        )
        if pending is None:
            return device
        asked = Pending(number=int(pending["number"]), ask=Ask(pending["ask"]), asked=int(pending["asked"]))
        return replace(device, pending=asked)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise NotOurs(f"{data[:200]!r} is no device of a campaign") from exc


def _dump(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
