"""The rules of the audit: each fault is counted, and memory is given back without forgetting what was there."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.devices.load.tally import Arrival, Tally

EP, PATH = "dev-1", "/3303/0/5700"
NOW = 1_790_000_000_000_000.0


def _tally(*values: float, confirmable: bool = True, acknowledged: bool = True) -> Tally:
    tally = Tally()
    for value in values:
        tally.sent(EP, PATH, value, confirmable)
        if confirmable and acknowledged:
            tally.acknowledge(EP, PATH, value)
    return tally


def test_what_is_acknowledged_and_not_there_is_lost() -> None:
    tally = _tally(NOW, NOW + 1, NOW + 2)
    assert tally.arrive(EP, PATH, NOW + 1) is Arrival.FIRST
    assert (tally.lost, tally.acknowledged, tally.acknowledged_there) == (2, 3, 1)
    assert list(tally.missing()) == [(EP, PATH, NOW), (EP, PATH, NOW + 2)]


def test_a_second_record_of_a_value_is_doubled_and_not_out_of_order() -> None:
    tally = _tally(NOW, NOW + 1)
    for value in (NOW, NOW + 1, NOW):
        last = tally.arrive(EP, PATH, value)
    assert last is Arrival.DOUBLED
    assert (tally.lost, tally.doubled, tally.out_of_order) == (0, 1, 0)


def test_a_value_behind_a_higher_one_is_out_of_order_of_its_own_series_alone() -> None:
    tally = _tally(NOW, NOW + 1)
    tally.sent(EP, "/3303/1/5700", NOW + 9, True)
    tally.arrive(EP, "/3303/1/5700", NOW + 9)
    tally.arrive(EP, PATH, NOW + 1)
    assert tally.out_of_order == 0
    tally.arrive(EP, PATH, NOW)
    assert (tally.lost, tally.doubled, tally.out_of_order) == (0, 0, 1)


def test_what_was_never_acknowledged_may_be_there_or_not() -> None:
    tally = _tally(NOW, NOW + 1, acknowledged=False)
    tally.arrive(EP, PATH, NOW)
    assert (tally.lost, tally.unacknowledged_there, tally.confirmable) == (0, 1, 2)
    tally.acknowledge(EP, PATH, NOW)  # the acknowledgement comes later than the record
    assert (tally.lost, tally.unacknowledged_there, tally.acknowledged_there) == (0, 0, 1)


def test_what_is_not_confirmable_is_counted_by_itself() -> None:
    tally = _tally(NOW, NOW + 1, confirmable=False)
    tally.arrive(EP, PATH, NOW + 1)
    assert (tally.unconfirmable, tally.unconfirmable_there, tally.unacknowledged_there) == (2, 1, 0)
    assert (tally.lost, tally.confirmable) == (0, 0)


def test_an_acknowledgement_counts_once() -> None:
    tally = _tally(NOW)
    tally.acknowledge(EP, PATH, NOW)
    assert tally.acknowledged == 1


@pytest.mark.parametrize(
    "other", [("dev-2", PATH, NOW), (EP, "/3303/0/5601", NOW), (EP, PATH, NOW - 1), (EP, PATH, 21.5)]
)
def test_records_of_others_are_ignored(other: tuple[str, str, float]) -> None:
    tally = _tally(NOW)
    assert tally.arrive(*other) is Arrival.FOREIGN
    assert (tally.foreign, tally.doubled, tally.lost) == (1, 0, 1)


def test_a_load_that_breaks_the_convention_is_told() -> None:
    tally = _tally(NOW)
    with pytest.raises(ValueError, match="values have to rise"):
        tally.sent(EP, PATH, NOW, True)
    with pytest.raises(ValueError, match="acknowledged and never sent"):
        tally.acknowledge(EP, PATH, NOW + 1)


@given(st.integers(0, 2**32), st.integers(1, 3000))
def test_the_counts_are_those_of_plain_sets_however_much_is_given_back(seed: int, count: int) -> None:
    """Against the plain way: what arrives is shuffled a little, doubled, and lost; acknowledgements come late."""
    rng = random.Random(seed)
    tally = Tally()
    acknowledged: set[float] = set()
    arrived: list[float] = []
    waiting: list[float] = []
    for number in range(count):
        value = NOW + 7 * number
        tally.sent(EP, PATH, value, True)
        waiting.append(value)
        if rng.random() < 0.9:
            chosen = waiting.pop(rng.randrange(len(waiting)))
            events = [True] * (rng.random() < 0.95) + [False] * rng.choice((0, 1, 1, 1, 1, 2))
            rng.shuffle(events)
            for is_acknowledgement in events:
                if is_acknowledgement:
                    tally.acknowledge(EP, PATH, chosen)
                    acknowledged.add(chosen)
                else:
                    tally.arrive(EP, PATH, chosen)
                    arrived.append(chosen)
    there = set(arrived)
    highest, seen, disordered = 0.0, set(), 0
    for value in arrived:
        if value not in seen:
            disordered += value < highest
            highest = max(highest, value)
            seen.add(value)
    assert tally.acknowledged == len(acknowledged)
    assert tally.lost == len(acknowledged - there) == len(list(tally.missing()))
    assert tally.doubled == len(arrived) - len(there)
    assert tally.out_of_order == disordered
    assert tally.unacknowledged_there == len(there - acknowledged)
    assert tally.foreign == 0


def test_what_is_settled_is_given_back() -> None:
    tally = Tally()
    for number in range(100_000):
        tally.sent(EP, PATH, NOW + number, True)
        tally.acknowledge(EP, PATH, NOW + number)
        tally.arrive(EP, PATH, NOW + number)
    assert tally.held < 1000
    assert tally.arrive(EP, PATH, NOW) is Arrival.DOUBLED
