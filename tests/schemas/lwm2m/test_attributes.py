"""Notification attributes: the observe spec and the rules of OMA LwM2M Core 1.1, section 5.1.2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.lwm2m.attributes import (
    MAX_PERIOD,
    Attribute,
    Attributes,
    ObserveSpecError,
    check_target,
    check_version,
    format_spec,
    parse_spec,
)
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

BUILTIN = Definitions.builtin()


def test_a_spec_is_read() -> None:
    found = parse_spec("pmin=1&pmax=10&gt=30.5&lt=-5&st=0.5")
    assert (found.pmin, found.pmax, found.gt, found.lt, found.st) == (1, 10, 30.5, -5.0, 0.5)
    assert str(found) == "pmin=1&pmax=10&gt=30.5&lt=-5&st=0.5"


@pytest.mark.parametrize("text", ["pmax", "pmax=", "?pmax"])
def test_an_attribute_without_a_value_takes_it_away(text: str) -> None:
    found = parse_spec(text)
    assert found.values == {Attribute.PMAX: None}
    assert found.pmax is None
    assert format_spec(found) == "pmax"


def test_attributes_of_1_2_are_read() -> None:
    found = parse_spec("edge=1&con=0&hqmax=20")
    assert found.values == {Attribute.EDGE: 1, Attribute.CON: 0, Attribute.HQMAX: 20}
    assert str(found) == "edge=1&con=0&hqmax=20"


@pytest.mark.parametrize(
    ("spec", "oldest"),
    [("pmin=1&pmax=2&gt=3&lt=1&st=0.5", "1.0"), ("epmin=1", "1.1"), ("epmax=1", "1.1"), ("edge=0", "1.2"),
     ("con=1", "1.2"), ("hqmax=1", "1.2"), ("con", "1.2")],
)  # fmt: skip
def test_attribute_needs_the_version_that_brought_it(spec: str, oldest: str) -> None:
    for version in ("1.0", "1.1", "1.2"):
        if version >= oldest:
            check_version(parse_spec(spec), version)
        else:
            with pytest.raises(ObserveSpecError, match=f"LwM2M {oldest}; the device speaks {version}"):
                check_version(parse_spec(spec), version)


def test_evaluation_periods_are_known() -> None:
    assert str(parse_spec("epmin=1&epmax=2")) == "epmin=1&epmax=2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "for example"),
        ("&", "no such attribute"),
        ("pmin=1&", "no such attribute"),
        ("period=1", "pmin, pmax"),
        ("PMIN=1", "no such attribute"),
        ("pmin=1&pmin=2", "twice"),
        ("pmin=1.5", "whole number"),
        ("pmin=-1", "whole number"),
        ("pmin=\u0661", "whole number"),
        (f"pmax={MAX_PERIOD + 1}", "whole number"),
        ("gt=warm", "decimal number"),
        ("gt=nan", "decimal number"),
        ("gt=1e5", "decimal number"),
        ("gt=1=2", "decimal number"),
        ("st=0", "above 0"),
        ("st=-1", "above 0"),
        ("pmin=10&pmax=5", "pmax=5 is below pmin=10"),
        ("epmin=10&epmax=5", "epmax=5"),
        ("lt=30&gt=20", "lt=30 must be below gt=20"),
        ("lt=10&gt=20&st=5", "too large"),
        ("edge=2", "edge=2 must be 0 or 1"),
        ("con=true", "0 or 1"),
        ("con=01", "0 or 1"),
        ("hqmax=-1", "whole number"),
        ("hqmax=1.0", "whole number"),
        (f"hqmax={MAX_PERIOD + 1}", "whole number"),
        ("&".join(["pmin=1"] * 10000), "no such attribute|twice"),
    ],
)
def test_a_wrong_spec_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ObserveSpecError, match=words):
        parse_spec(text)


@pytest.mark.parametrize("path", ["/3303", "/3303/0", "/3303/0/5700"])
def test_periods_can_be_written_anywhere(path: str) -> None:
    check_target(parse_spec("pmin=1&pmax=10&epmin=1&epmax=9&con=1&hqmax=5"), Path.parse(path), BUILTIN)


@pytest.mark.parametrize("path", ["/1/0/6", "/60000/0/1", "/60000/0/1/2"])
def test_edge_can_be_written_to_booleans_and_what_nobody_knows(path: str) -> None:
    check_target(parse_spec("edge=1"), Path.parse(path), BUILTIN)


@pytest.mark.parametrize("path", ["/3303/0/5700", "/3/0/9", "/3/0/7/0", "/60000/0/1"])
def test_bounds_can_be_written_to_numbers_and_what_nobody_knows(path: str) -> None:
    check_target(parse_spec("gt=1&lt=0"), Path.parse(path), BUILTIN)


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ("gt=1", "/3/0/0", "STRING"),
        ("st=1", "/3303/0", "belongs to a resource"),
        ("pmin=1", "/", "need an object"),
        ("edge=1", "/3303/0/5700", "boolean resource"),
        ("edge=1", "/1/0", "belongs to a resource"),
        ("gt=1", "/1/0/6", "numeric resource"),
    ],
)
def test_attributes_that_do_not_fit_the_target_are_refused(spec: str, path: str, words: str) -> None:
    with pytest.raises(ObserveSpecError, match=words):
        check_target(parse_spec(spec), Path.parse(path), BUILTIN)


_PERIODS = st.one_of(st.none(), st.integers(0, MAX_PERIOD))
_NUMBERS = st.one_of(st.none(), st.integers(-(10**9), 10**9).map(lambda n: n / 8))


@given(pmin=_PERIODS, gt=_NUMBERS, first=st.booleans())
def test_any_attributes_are_read_as_they_were_written(pmin: int | None, gt: float | None, first: bool) -> None:
    pairs: list[tuple[Attribute, int | float | None]] = [(Attribute.PMIN, pmin), (Attribute.GT, gt)]
    attributes = Attributes(dict(pairs if first else pairs[::-1]))
    assert parse_spec(format_spec(attributes)) == attributes


@given(st.text(max_size=40))
def test_any_text_is_a_spec_or_an_error(text: str) -> None:
    try:
        found = parse_spec(text)
    except ObserveSpecError:
        return
    assert parse_spec(format_spec(found)) == found
