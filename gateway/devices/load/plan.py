"""What a load is to do, in the terms of JMeter: threads, ramp-up, loops, delay; and the mixed profile out of a file.

A thread is one virtual device. Pure: nothing is sent here, and no clock is looked at. Times are seconds, in a profile
and on the command line milliseconds where JMeter has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from schemas.lwm2m.path import Path

if TYPE_CHECKING:
    from gateway.bootstrap.yaml_tree import Value

#: What a notification and a Send carry, and what is read: a number, for it takes the device's clock.
VALUE = Path(3303, 0, 5700)
MOST_WEIGHT = 1_000_000
#: Milliseconds.
MOST_DELAY = 86_400_000


class Kind(StrEnum):
    """What a device does in one loop."""

    REGISTER = "register"
    UPDATE = "update"
    NOTIFY = "notify"
    SEND = "send"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One kind of a load: how often in proportion to the others, and the pause after it in seconds."""

    kind: Kind
    weight: int = 1
    delay: float = 0.0
    #: Of a notification: whether the gateway is to acknowledge it.
    confirmable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole load. ``loops`` 0 is for ever, ``duration`` None until all loops are done; the first to end counts."""

    endpoints: tuple[str, ...]
    shares: tuple[Share, ...]
    ramp_up: float = 1.0
    loops: int = 1
    duration: float | None = None
    lifetime: int = 86_400
    path: Path = field(default=VALUE)
    #: Devices stay registered at the end.
    keep: bool = False
    #: How long the gateway may take to observe a device, and a read to be answered.
    patience: float = 30.0

    @property
    def threads(self) -> int:
        return len(self.endpoints)

    @property
    def observed(self) -> bool:
        """True if the gateway has to observe the devices."""
        return any(one.kind is Kind.NOTIFY for one in self.shares)

    @property
    def tells(self) -> bool:
        """True if the devices tell values."""
        return any(one.kind in (Kind.NOTIFY, Kind.SEND) for one in self.shares)

    @property
    def read(self) -> bool:
        """True if the devices are read by way of Kafka."""
        return any(one.kind is Kind.ANSWER for one in self.shares)

    def start_of(self, number: int) -> float:
        """Seconds after the beginning at which thread ``number`` (from 1) starts: evenly over the ramp-up."""
        return self.ramp_up * (number - 1) / self.threads


def parse_profile(text: str, file: str, delay: int = 0) -> tuple[Share, ...]:
    """The shares of a profile, YAML: a weight or ``{weight, delay, confirmable}`` by kind; ``delay`` (ms) for all, in
    place of the one given.

    Raises:
        gateway.bootstrap.yaml_tree.ConfigError: what is wrong, and where.
        ModuleNotFoundError: there is no pyyaml.
    """
    from gateway.bootstrap.yaml_tree import read

    root = read(text, file, "a line such as `notify: 80`")
    keys = {kind.value: "a weight, or {weight: N, delay: MS}" for kind in Kind} | {"delay": "milliseconds"}
    given = root.mapping(keys)
    if "delay" in given:
        delay = given.pop("delay").number(0, MOST_DELAY)
    shares = [_share(Kind(name), value, delay) for name, value in given.items()]
    if not any(one.weight for one in shares):
        raise root.wrong("no kind has a weight above 0: one line such as `notify: 80` is needed")
    return tuple(one for one in shares if one.weight)


def _share(kind: Kind, value: Value, delay: int) -> Share:
    if value.is_mapping:
        known = {"weight": "how often, in proportion", "delay": "milliseconds"}
        if kind is Kind.NOTIFY:
            known["confirmable"] = "true or false"
        found = value.mapping(known, needed=("weight",))
        return Share(
            kind=kind,
            weight=found["weight"].number(0, MOST_WEIGHT),
            delay=(found["delay"].number(0, MOST_DELAY) if "delay" in found else delay) / 1000,
            confirmable=found["confirmable"].boolean() if "confirmable" in found else True,
        )
    return Share(kind=kind, weight=value.number(0, MOST_WEIGHT), delay=delay / 1000)
