"""Notification attributes: when a device notifies, and how (OMA LwM2M Core 1.1, section 5.1.2; 1.2 for the newest).

Owns the observe spec of a Write-Attributes, ``pmin=1&pmax=10&gt=30``, and the rules between the attributes. An
attribute without a value (``pmax`` or ``pmax=``) takes that attribute away from the device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum

from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path


class ObserveSpecError(ValueError):
    """The text is no observe spec, or its attributes contradict each other or the target."""


class Attribute(Enum):
    """Periods in seconds (any target); bounds and step in the unit of a numeric resource; flags are 0 or 1."""

    PMIN = "pmin"
    PMAX = "pmax"
    GT = "gt"
    LT = "lt"
    ST = "st"
    #: Evaluation periods, from LwM2M 1.1 on.
    EPMIN = "epmin"
    EPMAX = "epmax"
    #: From LwM2M 1.2 on. The edge of a boolean that counts as a change: 0 falling, 1 rising.
    EDGE = "edge"
    #: Whether notifications are confirmable, and how many a device keeps while it cannot send (any target).
    CON = "con"
    HQMAX = "hqmax"


PERIODS = frozenset({Attribute.PMIN, Attribute.PMAX, Attribute.EPMIN, Attribute.EPMAX})
FLAGS = frozenset({Attribute.EDGE, Attribute.CON})
#: What belongs to a resource or a resource instance, of these types; the others can be set at any level.
OF_RESOURCES: Mapping[Attribute, frozenset[ResourceType]] = {
    **dict.fromkeys((Attribute.GT, Attribute.LT, Attribute.ST), frozenset({ResourceType.INTEGER, ResourceType.FLOAT})),
    Attribute.EDGE: frozenset({ResourceType.BOOLEAN}),
}
#: The version of LwM2M that brought an attribute; the others are of 1.0.
SINCE: Mapping[Attribute, str] = {
    **dict.fromkeys((Attribute.EPMIN, Attribute.EPMAX), "1.1"),
    **dict.fromkeys((Attribute.EDGE, Attribute.CON, Attribute.HQMAX), "1.2"),
}
MAX_PERIOD = 2**31 - 1

_WHOLE = re.compile(r"[0-9]{1,10}\Z")
_DECIMAL = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?\Z")


@dataclass(frozen=True, slots=True)
class Attributes:
    """Values by attribute, in the order given: float for gt, lt and st, int for the others, None to take it away."""

    values: Mapping[Attribute, int | float | None] = field(default_factory=dict)

    @property
    def pmin(self) -> int | None:
        """The least seconds between two notifications."""
        return self._period(Attribute.PMIN)

    @property
    def pmax(self) -> int | None:
        """The most seconds between two notifications."""
        return self._period(Attribute.PMAX)

    @property
    def gt(self) -> float | None:
        """Notify when the value crosses this, in the unit of the resource."""
        return self.values.get(Attribute.GT)

    @property
    def lt(self) -> float | None:
        """As `gt`; a low bound where both are given."""
        return self.values.get(Attribute.LT)

    @property
    def st(self) -> float | None:
        """Notify when the value has changed by this since the last notification."""
        return self.values.get(Attribute.ST)

    def _period(self, attribute: Attribute) -> int | None:
        value = self.values.get(attribute)
        return None if value is None else int(value)

    def __str__(self) -> str:
        return format_spec(self)


def parse_spec(text: str) -> Attributes:
    """Parse ``pmin=1&pmax=10&gt=…``; a leading ``?`` is allowed.

    Raises:
        ObserveSpecError: empty, an attribute that is not known or comes twice, a value that is no number of its kind,
            or attributes that contradict each other (`check`).
    """
    spec = text.strip().removeprefix("?")
    if not spec:
        raise ObserveSpecError("no attributes are given; write for example pmin=1&pmax=10")
    values: dict[Attribute, int | float | None] = {}
    for part in spec.split("&", len(Attribute)):
        name, equals, value = part.partition("=")
        try:
            attribute = Attribute(name)
        except ValueError:
            known = ", ".join(a.value for a in Attribute)
            raise ObserveSpecError(f"{part[:40]!r}: there is no such attribute; known are {known}") from None
        if attribute in values:
            raise ObserveSpecError(f"{name} is given twice")
        values[attribute] = _value(attribute, value) if equals and value else None
    attributes = Attributes(values)
    check(attributes)
    return attributes


def format_spec(attributes: Attributes) -> str:
    """The text of attributes, as the query of a Write-Attributes; numbers without an exponent (RFC 6690 has none).

    >>> format_spec(parse_spec("pmin=1&gt=25.0&st"))
    'pmin=1&gt=25&st'
    """
    return "&".join(
        attribute.value if value is None else f"{attribute.value}={_number(value)}"
        for attribute, value in attributes.values.items()
    )


def check(attributes: Attributes) -> None:
    """The rules of section 5.1.2 between attributes that are given together.

    Raises:
        ObserveSpecError: pmax below pmin (a device would ignore it), lt not below gt, or a step too large for both.
    """
    values = attributes.values
    for low, high in ((Attribute.PMIN, Attribute.PMAX), (Attribute.EPMIN, Attribute.EPMAX)):
        least, most = values.get(low), values.get(high)
        if least is not None and most is not None and most < least:
            raise ObserveSpecError(f"{high.value}={most} is below {low.value}={least}")
    gt, lt, st = attributes.gt, attributes.lt, attributes.st
    if gt is not None and lt is not None:
        if lt >= gt:
            raise ObserveSpecError(f"lt={_number(lt)} must be below gt={_number(gt)}")
        if st is not None and lt + 2 * st >= gt:
            raise ObserveSpecError(f"st={_number(st)} is too large: lt + 2 x st must be below gt")


def check_target(attributes: Attributes, path: Path, definitions: Definitions) -> None:
    """Whether attributes can be written to ``path``: some need a resource, of a certain type (section 5.1.2, table).

    Raises:
        ObserveSpecError: they cannot; the root has no attributes.
    """
    if path.object_id is None:
        raise ObserveSpecError("attributes need an object, an instance or a resource")
    definition = definitions.resource(path)
    for attribute in attributes.values:
        types = OF_RESOURCES.get(attribute)
        if types is None:
            continue
        if path.resource_id is None:
            raise ObserveSpecError(f"{path}: {attribute.value} belongs to a resource, like {path.object_id}/0/5700")
        if definition is not None and definition.type is not None and definition.type not in types:
            kind = "boolean" if ResourceType.BOOLEAN in types else "numeric"
            raise ObserveSpecError(
                f"{path} is of type {definition.type.value}; {attribute.value} belongs to a {kind} resource"
            )


def check_version(attributes: Attributes, version: str) -> None:
    """Whether a device of LwM2M ``version`` ("1.0", "1.1", ...) can know the attributes.

    Raises:
        ObserveSpecError: an attribute came later.
    """
    for attribute in attributes.values:
        since = SINCE.get(attribute)
        if since is not None and version < since:
            raise ObserveSpecError(f"{attribute.value} is an attribute of LwM2M {since}; the device speaks {version}")


def _value(attribute: Attribute, text: str) -> int | float:
    if attribute in FLAGS:
        if text not in ("0", "1"):
            raise ObserveSpecError(f"{attribute.value}={text[:40]} must be 0 or 1")
        return int(text)
    if attribute is Attribute.HQMAX:
        if not _WHOLE.match(text) or int(text) > MAX_PERIOD:
            raise ObserveSpecError(f"hqmax={text[:40]} is no whole number from 0 to {MAX_PERIOD}")
        return int(text)
    if attribute in PERIODS:
        if not _WHOLE.match(text) or int(text) > MAX_PERIOD:
            raise ObserveSpecError(
                f"{attribute.value}={text[:40]} is no whole number of seconds from 0 to {MAX_PERIOD}"
            )
        return int(text)
    if not _DECIMAL.match(text) or not math.isfinite(value := float(text)):
        raise ObserveSpecError(f"{attribute.value}={text[:40]} is no decimal number")
    if attribute is Attribute.ST and value <= 0:
        raise ObserveSpecError(f"st={text[:40]} must be above 0")
    return value


def _number(value: int | float) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return format(Decimal(repr(value)), "f")
