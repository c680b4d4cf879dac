"""Every surface of `SURFACES`: whatever comes is taken or refused, nothing stays, and the next good one is taken.

The inputs are the same in every run; `make fuzz` looks for others.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.mutate import MUTATIONS
from tests.fuzz.surfaces import SURFACES, Surface

EVERY = pytest.mark.parametrize("name", sorted(SURFACES))
SEED = 5_683
#: What a surface may keep of a flood, in bytes, when all that it remembers is full.
MOST_KEPT = 1 << 20


@cache
def _surface(name: str) -> Surface:
    return SURFACES[name]()


@st.composite
def _edits(draw: st.DrawFn) -> list[tuple[int, int, bytes]]:
    """Where, how much goes there, and what comes there."""
    where, gone = st.integers(0, 4000), st.sampled_from((0, 0, 1, 1, 1, 2, 8, 500))
    return draw(st.lists(st.tuples(where, gone, st.binary(max_size=12)), min_size=1, max_size=5))


def _edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for where, gone, come in edits:
        at = where % (len(data) + 1)
        data = data[:at] + come + data[at + gone :]
    return data


def _mutated(good: tuple[bytes, ...], count: int) -> list[bytes]:
    chance, ways = random.Random(SEED), list(MUTATIONS.values())
    made = []
    for _ in range(count):
        data = chance.choice(good)
        for _ in range(chance.randint(1, 3)):
            data = chance.choice(ways)(data, chance)
        made.append(data)
    return made


@EVERY
def test_whatever_comes_is_taken_or_refused(name: str) -> None:
    surface = _surface(name)

    @settings(max_examples=surface.tries, derandomize=True, deadline=None, database=None)
    @given(st.one_of(st.binary(max_size=300), st.tuples(st.sampled_from(surface.good), _edits())))
    def run(given_: bytes | tuple[bytes, list[tuple[int, int, bytes]]]) -> None:
        surface.take(given_ if isinstance(given_, bytes) else _edited(*given_))

    run()


@EVERY
def test_good_ones_and_what_was_found_are_taken_or_refused_cut_anywhere(name: str) -> None:
    surface = _surface(name)
    for good in (*surface.good, *surface.found):
        for end in range(0, len(good), 1 + len(good) // 100):
            surface.take(good[:end])
        surface.take(good)


@EVERY
def test_flood_is_not_kept_and_the_next_good_one_is_taken(name: str) -> None:
    surface = _surface(name)
    flood = _mutated(surface.good, surface.tries * 5)
    for data in flood:
        surface.take(data)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        refused = sum(not surface.take(data) for data in flood)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept < MOST_KEPT, f"{kept:,} bytes stay of {len(flood)} inputs"
    assert refused > 0
    for good in surface.good:
        assert surface.take(good), good
