"""When a change is notified: pmin, pmax, gt, lt, st."""

from __future__ import annotations

import pytest

from gateway.devices.notify import Verdict, judge, merged
from schemas.lwm2m.attributes import Attribute, Attributes, parse_spec
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path

SENT_AT = 100.0


def reading(value: float) -> Resource:
    return Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=value)


def verdict(spec: str, now: float, sent: float, current: float) -> Verdict:
    attributes = parse_spec(spec) if spec else Attributes()
    return judge(attributes, now=now, sent_at=SENT_AT, sent=reading(sent), current=reading(current))


@pytest.mark.parametrize(
    ("spec", "now", "sent", "current", "expected"),
    [
        ("", 100.0, 1.0, 2.0, Verdict(send=True)),
        ("", 500.0, 1.0, 1.0, Verdict(send=False)),
        ("pmin=10", 105.0, 1.0, 2.0, Verdict(send=False, again_at=110.0)),
        ("pmin=10", 110.0, 1.0, 2.0, Verdict(send=True)),
        ("pmax=20", 119.0, 1.0, 1.0, Verdict(send=False, again_at=120.0)),
        ("pmax=20", 120.0, 1.0, 1.0, Verdict(send=True)),
        ("pmin=5&pmax=20", 101.0, 1.0, 1.0, Verdict(send=False, again_at=120.0)),
        ("gt=25", 101.0, 24.0, 24.9, Verdict(send=False)),
        ("gt=25", 101.0, 24.0, 25.0, Verdict(send=False)),
        ("gt=25", 101.0, 24.0, 25.1, Verdict(send=True)),
        ("gt=25", 101.0, 26.0, 24.0, Verdict(send=True)),
        ("gt=25", 101.0, 26.0, 27.0, Verdict(send=False)),
        ("lt=10", 101.0, 11.0, 9.9, Verdict(send=True)),
        ("lt=10", 101.0, 11.0, 10.0, Verdict(send=False)),
        ("st=2", 101.0, 20.0, 21.9, Verdict(send=False)),
        ("st=2", 101.0, 20.0, 18.0, Verdict(send=True)),
        ("gt=25&st=2", 101.0, 20.0, 22.0, Verdict(send=True)),
        ("gt=25&pmin=10", 101.0, 20.0, 30.0, Verdict(send=False, again_at=110.0)),
        ("gt=25&pmax=20", 120.0, 20.0, 20.5, Verdict(send=True)),
    ],
)
def test_a_change_is_judged(spec: str, now: float, sent: float, current: float, expected: Verdict) -> None:
    assert verdict(spec, now, sent, current) == expected


def test_a_change_of_text_counts_whatever_the_bounds() -> None:
    before, after = (
        Resource(path=Path(3, 0, 14), type=ResourceType.STRING, value=text) for text in ("+01:00", "+02:00")
    )
    assert judge(parse_spec("gt=1"), now=101.0, sent_at=SENT_AT, sent=before, current=after).send


def test_the_lower_level_wins_and_an_empty_attribute_takes_away() -> None:
    together = merged(parse_spec("pmin=1&pmax=60"), parse_spec("pmin=5&pmax"))
    assert together.values == {Attribute.PMIN: 5}
