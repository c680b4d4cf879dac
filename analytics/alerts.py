"""Alerts: when a series begins and ceases to be in a state that people want to know of. Pure, in event time.

Owns the conditions (threshold, rate of change, z-score), hysteresis, the time for which a condition must hold, and the
state machine INACTIVE → PENDING → FIRING → RESOLVED. Only readings move it, no clock does: the same readings give the
same alerts whenever they are read. A reading older than one that was already judged is left out: what is late says
nothing about now, and must not make an alert flap.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from analytics.series import EVERY_SERIES, SeriesPattern


class Severity(Enum):
    """How bad it is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Measure(Enum):
    """What of a reading is compared."""

    VALUE = "value"
    #: The difference to the reading before, by the time between them; negative where it falls.
    RATE = "rate"
    RATE_SIZE = "|rate|"
    Z_SCORE = "z"
    Z_SIZE = "|z|"


class Per(Enum):
    """The unit of a rate; the value is its milliseconds."""

    SECOND = 1_000
    MINUTE = 60_000


class Comparison(Enum):
    """How it is compared."""

    GREATER = ">"
    GREATER_EQUAL = ">="
    LESS = "<"
    LESS_EQUAL = "<="
    EQUAL = "=="
    NOT_EQUAL = "!="


_COMPARE: Mapping[Comparison, Callable[[float, float], bool]] = {
    Comparison.GREATER: operator.gt,
    Comparison.GREATER_EQUAL: operator.ge,
    Comparison.LESS: operator.lt,
    Comparison.LESS_EQUAL: operator.le,
    Comparison.EQUAL: operator.eq,
    Comparison.NOT_EQUAL: operator.ne,
}

#: How the clear level is reached, where there can be one.
_CLEARED: Mapping[Comparison, Callable[[float, float], bool]] = {
    Comparison.GREATER: operator.le,
    Comparison.GREATER_EQUAL: operator.le,
    Comparison.LESS: operator.ge,
    Comparison.LESS_EQUAL: operator.ge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Raises ValueError, whose text begins with the field that is wrong.

    >>> Rule(name="hot", comparison=Comparison.GREATER, threshold=30.0, clear=28.0, for_ms=60_000).severity
    <Severity.WARNING: 'warning'>
    """

    name: str
    comparison: Comparison
    threshold: float
    measure: Measure = Measure.VALUE
    per: Per = Per.SECOND
    series: SeriesPattern = EVERY_SERIES
    #: A firing alert ends only when the measure is back at this level or beyond it; None: when it holds no longer.
    clear: float | None = None
    #: The condition must have held for so long, from reading to reading, before the alert fires.
    for_ms: int = 0
    severity: Severity = Severity.WARNING
    #: For people; ``{ep}``, ``{path}``, ``{value}`` (what was measured) and ``{threshold}`` are filled in.
    summary: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 200:
            raise ValueError("name: a rule needs one, of at most 200 characters")
        if not math.isfinite(self.threshold):
            raise ValueError("when: the number to compare with is finite")
        if self.for_ms < 0:
            raise ValueError("for: a time is not negative")
        if self.clear is None:
            return
        cleared = _CLEARED.get(self.comparison)
        if cleared is None:
            raise ValueError(f"clear: {self.comparison.value} has no level to come back to")
        if not math.isfinite(self.clear) or not cleared(self.clear, self.threshold):
            side = "above" if cleared is operator.le else "below"
            raise ValueError(
                f"clear: {self.clear:g} is {side} the threshold {self.threshold:g}, so the alert would end and fire "
                "at the same level"
            )

    def holds(self, measured: float) -> bool:
        """Whether the condition is met."""
        return _COMPARE[self.comparison](measured, self.threshold)

    def cleared(self, measured: float) -> bool:
        """Whether a firing alert ends."""
        if self.holds(measured):
            return False
        return self.clear is None or _CLEARED[self.comparison](measured, self.clear)

    def words(self, ep: str, path: str, measured: float) -> str:
        """`summary` with what is known filled in."""
        text = (
            self.summary or f"{self.measure.value} {{value}} {self.comparison.value} {{threshold}}: {{path}} of {{ep}}"
        )
        # Piece by piece: what a device calls itself is not looked through for more to fill in.
        filled = {"value": f"{measured:g}", "threshold": f"{self.threshold:g}", "path": path, "ep": ep}
        return "".join(
            filled.get(piece[1:-1], piece) if piece[:1] == "{" and piece[-1:] == "}" else piece
            for piece in _pieces(text)
        )


class Phase(Enum):
    """Where one rule stands for one series."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class AlertMemory(NamedTuple):
    """What is remembered of one rule and series: a tuple that JSON holds (`remembered` brings it back)."""

    #: The value of a `Phase`.
    phase: str = Phase.INACTIVE.value
    #: Event time in ms at which the condition began to hold; of the phases PENDING and FIRING.
    since: int = 0
    #: The latest reading that was judged.
    time: int | None = None
    value: float = 0.0
    #: Event time in ms of the last event of a firing alert.
    told: int = 0


UNKNOWN = AlertMemory()


class Change(Enum):
    """What there is to tell."""

    FIRES = "fires"
    #: It fires since long; told again for those who have not kept it.
    STILL_FIRES = "still fires"
    RESOLVES = "resolves"


class Event(NamedTuple):
    """A change at a reading."""

    change: Change
    since: int
    #: Event time of the reading.
    timestamp: int
    #: What was compared: the value, the rate or the z-score.
    measured: float


#: A firing alert is told again after so long, in ms of event time: no consumer must remember for longer than its topic.
REPEAT_MS = 24 * 3_600_000


def step(
    rule: Rule, memory: AlertMemory, timestamp: int, value: float, z_score: float, repeat_ms: int = REPEAT_MS
) -> tuple[AlertMemory, Event | None]:
    """One reading (``timestamp`` in epoch ms of event time): what is remembered after it, and what there is to tell.

    A reading that is late, whose measure is not defined (the first one has no rate) or is no number changes no phase.
    """
    rates = rule.measure in (Measure.RATE, Measure.RATE_SIZE)
    if math.isnan(value) or (rates and math.isinf(value)) or (memory.time is not None and timestamp < memory.time):
        return memory, None
    measured = _measured(rule, memory, timestamp, value, z_score)
    memory = memory._replace(time=timestamp, value=value)
    if measured is None or math.isnan(measured):
        return memory, None
    if memory.phase == Phase.FIRING.value:
        if rule.cleared(measured):
            return memory._replace(phase=Phase.RESOLVED.value), Event(
                Change.RESOLVES, memory.since, timestamp, measured
            )
        if timestamp - memory.told >= repeat_ms:
            return memory._replace(told=timestamp), Event(Change.STILL_FIRES, memory.since, timestamp, measured)
        return memory, None
    if not rule.holds(measured):
        if memory.phase == Phase.PENDING.value:
            memory = memory._replace(phase=Phase.INACTIVE.value)
        return memory, None
    since = memory.since if memory.phase == Phase.PENDING.value else timestamp
    if timestamp - since < rule.for_ms:
        return memory._replace(phase=Phase.PENDING.value, since=since), None
    fires = Event(Change.FIRES, since, timestamp, measured)
    return memory._replace(phase=Phase.FIRING.value, since=since, told=timestamp), fires


def within(memory: AlertMemory, latest: int) -> AlertMemory:
    """``memory``, made good where it is of a reading later than ``latest`` (epoch ms), which a wrong clock has dated.

    By it all readings to come would be late. What fires goes on firing, so that it is told when it ends.
    """
    if memory.time is None or memory.time <= latest:
        return memory
    if memory.phase != Phase.FIRING.value:
        return UNKNOWN
    return memory._replace(time=None, told=min(memory.told, latest))


def given_up(memory: AlertMemory) -> Event | None:
    """What there is to tell when the rule is there no more: an alert that fires must end."""
    if memory.phase != Phase.FIRING.value:
        return None
    return Event(Change.RESOLVES, memory.since, memory.told if memory.time is None else memory.time, memory.value)


def remembered(parsed: object) -> AlertMemory:
    """`AlertMemory` from what JSON made of it; `UNKNOWN` where there is none."""
    return AlertMemory(*parsed) if isinstance(parsed, list | tuple) else UNKNOWN


def alert_id(rule: str, server_id: str, ep: str, path: str, since: int) -> str:
    """32 hex digits, the same for all that is told of one alert, however often its readings are read."""
    parts = (rule, server_id, ep, path, str(since))
    # Each with its length: no choice of names makes two alerts one.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _measured(rule: Rule, memory: AlertMemory, timestamp: int, value: float, z_score: float) -> float | None:
    match rule.measure:
        case Measure.VALUE:
            return value
        case Measure.Z_SCORE:
            return z_score
        case Measure.Z_SIZE:
            return abs(z_score)
    if memory.time is None or timestamp == memory.time:
        return None
    rate = (value - memory.value) * rule.per.value / (timestamp - memory.time)
    return rate if rule.measure is Measure.RATE else abs(rate)


def _pieces(text: str) -> list[str]:
    """``text`` cut before each ``{`` and after each ``}``."""
    return text.replace("{", "\0{").replace("}", "}\0").split("\0")
