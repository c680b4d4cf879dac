"""Results of joins as bytes: as fast as may be, and the same as by the plain way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analytics.derived import _around, encoded, observation
from analytics.user_code import Derived
from schemas.avro.serde import InvalidRecord, encode
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.path import Path
from tests.record_strategies import VALUES, longs, texts

_ids = st.integers(0, 65535)
_kinds = st.sampled_from([kind for kind in ResourceType if kind is not ResourceType.OBJLNK])
_derived = _kinds.flatmap(
    lambda kind: st.builds(
        Derived,
        st.builds(Path, _ids, _ids, _ids) | st.builds(Path, _ids, _ids, _ids, _ids),
        st.just(kind),
        st.floats() if kind is ResourceType.FLOAT else VALUES[kind],
    )
)


@given(_derived, texts, texts, texts, longs)
@example(Derived(Path(1, 0, 1), ResourceType.FLOAT, 1.5), "e", "s", "t", 2**63 - 1)
@example(Derived(Path(1, 0, 1), ResourceType.FLOAT, -0.0), "e" * 500, "s", "t", -(2**63))
def test_bytes_are_those_of_the_plain_way(derived: Derived, ep: str, server_id: str, ticket: str, time: int) -> None:
    plain = encode(observation(derived, ep=ep, server_id=server_id, ticket=ticket, time=time))
    for _ in range(2):
        assert encoded(derived, ep=ep, server_id=server_id, ticket=ticket, time=time) == plain


@pytest.mark.parametrize("odd", [{"server_id": None}, {"server_id": []}, {"ep": "\ud800"}, {"ep": 5}, {"time": 2**63}])
def test_what_cannot_be_written_is_told_as_by_the_plain_way(odd: dict[str, Any]) -> None:
    names: dict[str, Any] = {"ep": "e", "server_id": "s", "ticket": "t", "time": 0, **odd}
    with pytest.raises(InvalidRecord):
        encoded(Derived(Path(1, 0, 1), ResourceType.FLOAT, 1.5), **names)


def test_an_endless_name_is_not_remembered() -> None:
    before = _around.cache_info().currsize
    encoded(Derived(Path(1, 0, 1), ResourceType.FLOAT, 1.5), ep="e" * 5000, server_id="s", ticket="t", time=0)
    assert _around.cache_info().currsize == before
