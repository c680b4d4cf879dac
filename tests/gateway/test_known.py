"""The filter before the state file: it may ask in vain, but it denies nothing that is there."""

from __future__ import annotations

from hashlib import blake2b

import pytest

from gateway.known import Known


def identity(number: int) -> bytes:
    return blake2b(b"%d" % number, digest_size=16).digest()


@pytest.mark.parametrize("keep", [1, 10, 1_000])
def test_newest_are_never_denied(keep: int) -> None:
    known = Known(keep)
    for number in range(5 * keep + 3):
        known.add(identity(number))
        assert all(identity(newest) in known for newest in range(max(0, number - keep + 1), number + 1, 1 + keep // 20))


def test_adding_the_same_again_and_again_makes_nothing_forgotten() -> None:
    known = Known(100)
    for number in range(100):
        known.add(identity(number))
    for _ in range(500):
        known.add(identity(99))
    assert all(identity(number) in known for number in range(100))


def test_others_are_seldom_taken_for_known() -> None:
    known = Known(1_000)
    for number in range(10_000):
        known.add(identity(number))
    assert sum(identity(-number) in known for number in range(1, 30_000)) < 100
