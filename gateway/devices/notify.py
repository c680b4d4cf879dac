"""When an observed value is notified: the rule of pmin, pmax, gt, lt and st (OMA LwM2M Core 1.1, section 5.1.2).

Pure: time is a number of seconds that the caller passes in, from any steady clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.lwm2m.attributes import Attributes
from schemas.lwm2m.nodes import Node, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``send`` now, or look again at ``again_at`` seconds (None: when the value changes)."""

    send: bool
    again_at: float | None = None


def merged(base: Attributes, over: Attributes) -> Attributes:
    """``base`` with what ``over`` has in its place; an attribute without a value is taken away."""
    return Attributes({name: value for name, value in {**base.values, **over.values}.items() if value is not None})


def judge(attributes: Attributes, *, now: float, sent_at: float, sent: Node, current: Node) -> Verdict:
    """Whether ``current`` is to be notified to an observer who was last told ``sent`` at ``sent_at``.

    "Maximum Period" forces a notification though nothing changed; "Minimum Period" holds one back; with any of gt, lt
    and st a change counts only if one of them is met.
    """
    earliest = sent_at + (attributes.pmin or 0)
    latest = None if not attributes.pmax else sent_at + max(attributes.pmax, attributes.pmin or 0)
    if latest is not None and now >= latest:
        return Verdict(send=True)
    if not _counts(attributes, sent, current):
        return Verdict(send=False, again_at=latest)
    if now >= earliest:
        return Verdict(send=True)
    return Verdict(send=False, again_at=earliest)


def _counts(attributes: Attributes, sent: Node, current: Node) -> bool:
    if sent == current:
        return False
    before, after = _number(sent), _number(current)
    if before is None or after is None:
        return True
    gt, lt, st = attributes.gt, attributes.lt, attributes.st
    if gt is None and lt is None and st is None:
        return True
    return (
        (gt is not None and (before > gt) != (after > gt))
        or (lt is not None and (before < lt) != (after < lt))
        or (st is not None and abs(after - before) >= st)
    )


def _number(node: Node) -> float | None:
    if isinstance(node, Resource) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    return None
