"""Rows with the named fields alone: as fast as may be, and the same as by the plain way."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.job import Incoming
from analytics.row_reading import RowReader, _place
from analytics.rows import rows
from analytics.sql_compiler import FIELDS
from analytics.sql_values import Scalar
from schemas.avro.errors import SerdeError
from schemas.avro.records import Notification, Record
from schemas.avro.serde import decode, encode
from schemas.lwm2m.nodes import Instance, Resource, ResourceType
from schemas.lwm2m.path import Path
from tests.record_strategies import VALUES, records
from tests.sink_samples import notification, resource

Rows = list[dict[str, Scalar]]


def incoming(data: bytes, *, late: bool = False) -> Incoming:
    return Incoming("iot.gw.observations", 1, 7, 1_000, b"key", data, [("x", None), ("late", b"1" if late else b"0")])


def plainly(data: bytes, *, late: bool = False) -> Rows:
    return list(rows(decode(data), topic="iot.gw.observations", partition=1, offset=7, late=late))


def read(data: bytes, used: frozenset[str] = frozenset(FIELDS), *, late: bool = False) -> Rows:
    found = [dict(row) for row in RowReader(used).rows(incoming(data, late=late))]
    assert all(used <= row.keys() for row in found)
    return [{name: row[name] for name in FIELDS if name in used} for row in found]


def same(one: Rows, other: Rows) -> bool:
    """Whether they are equal, of the same types, and NaN where the other is."""
    return repr(one) == repr(other)


def words(error: Exception) -> str:
    """What it tells, without the places in memory that fastavro names."""
    return re.sub(r"0x[0-9a-f]+", "0x", str(error))


@st.composite
def single(draw: st.DrawFn) -> Notification:
    """What nearly every record is: one value of any type."""
    kind = draw(st.sampled_from(ResourceType))
    path = draw(st.builds(Path, *[st.integers(0, 65535)] * 3) | st.builds(Path, *[st.integers(0, 65535)] * 4))
    value = draw(VALUES[kind] if kind is not ResourceType.FLOAT else st.floats())
    time = draw(st.none() | st.integers(-(2**63), 2**63 - 1))
    said = notification(
        Resource(path=path, type=kind, value=value, timestamp=time), ep=draw(st.text("aé:", max_size=5))
    )
    marked = draw(st.sampled_from([str(path), f"{path}-max", "/3303/0/5700-max", "", "/1/2", "-", "what it is"]))
    return Notification(
        ticket=said.ticket,
        observation_id=said.observation_id,
        server_id=said.server_id,
        ep=said.ep,
        path=marked,
        timestamp=said.timestamp,
        rep=said.rep,
    )


@given(single() | records, st.frozensets(st.sampled_from(list(FIELDS))), st.booleans())
def test_rows_are_those_of_the_plain_way(record: Record, used: frozenset[str], late: bool) -> None:
    data = encode(record)
    wanted = plainly(data, late=late)
    assert same(read(data, late=late), [{name: row[name] for name in FIELDS} for row in wanted])
    assert same(read(data, used, late=late), [{name: row[name] for name in FIELDS if name in used} for row in wanted])


@given(single() | records, st.data())
def test_what_is_no_record_is_told_as_by_the_plain_way(record: Record, data: st.DataObject) -> None:
    broken = bytearray(encode(record))
    for _ in range(data.draw(st.integers(0, 3))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(broken)[: data.draw(st.integers(0, len(broken)))] + data.draw(st.sampled_from([b"", b"\0"]))
    for sent in (bytes(broken), cut):
        try:
            wanted = plainly(sent)
        except SerdeError as exc:
            with pytest.raises(type(exc)) as told:
                read(sent)
            assert words(told.value) == words(exc)
        else:
            assert same(read(sent), [{name: row[name] for name in FIELDS} for row in wanted])


def test_a_row_has_the_named_fields_and_no_others() -> None:
    data = encode(notification(resource("/3303/0/5700", math.nan)))
    [row] = RowReader(frozenset({"ep", "value", "now()"})).rows(incoming(data))
    assert row.keys() == {"ep", "value"}


def test_an_endless_path_is_not_remembered() -> None:
    before = _place.cache_info().currsize
    assert read(encode(notification(resource("/3303/0/5700", 1.0))), frozenset({"path"}))
    between = _place.cache_info().currsize
    said = notification(resource("/3303/0/5700", 1.0))
    long = Notification(
        ticket="t", observation_id="o", server_id="s", ep="e", path="x" * 5000, timestamp=0, rep=said.rep
    )
    assert read(encode(long), frozenset({"path"})) == [{"path": "/3303/0/5700"}]
    assert before <= between == _place.cache_info().currsize


def test_each_value_of_an_instance_is_a_row() -> None:
    both = Instance(path=Path(3303, 0), resources=(resource("/3303/0/5601", 1.5), resource("/3303/0/5602", 4.0)))
    assert read(encode(notification(both)), frozenset({"value", "resource"})) == [
        {"resource": 5601, "value": 1.5},
        {"resource": 5602, "value": 4.0},
    ]
