"""Readings out of the bytes of notifications: as fast as may be, and the same as by the plain way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.readings import Reading, observed
from schemas.avro.errors import MalformedRecord, SerdeError
from schemas.avro.records import (
    GenericBody,
    Key,
    Notification,
    ReadBody,
    Record,
    RequestKind,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.serde import decode, encode
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, Resource, ResourceType, values
from schemas.lwm2m.path import Path
from tests.record_strategies import replies

NUMBERS = (ResourceType.FLOAT, ResourceType.INTEGER)


def plainly(record: Notification) -> list[Reading]:
    body = record.rep.body
    if record.rep.code is not ResponseCode.CONTENT or not isinstance(body, ReadBody):
        return []
    return [
        Reading(
            str(one.path),
            float(one.value),
            record.timestamp if one.timestamp is None else one.timestamp,
            one.timestamp is not None,
        )
        for one in values(body.content)
        if one.type in NUMBERS and isinstance(one.value, int | float) and math.isfinite(one.value)
    ]


@given(replies().filter(lambda record: isinstance(record, Notification)))
def test_readings_are_those_of_the_plain_way(record: Record) -> None:
    data = encode(record)
    again = decode(data)
    assert isinstance(again, Notification)
    told = observed(data)
    assert (told.server_id, told.ep, told.time) == (again.server_id, again.ep, again.timestamp)
    assert sorted(told.readings) == sorted(plainly(again))


FLOAT = Resource(path=Path(3303, 0, 5700), type=ResourceType.FLOAT, value=21.5)


def notification(content: Object | Instance | MultipleResource | Resource, path: str = "") -> Notification:
    return Notification(
        ticket="t",
        observation_id="o",
        server_id="rock64",
        ep="EP",
        path=path or str(content.path),
        timestamp=1_790_000_000_000,
        rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=content)),
    )


def test_the_devices_own_time_goes_before_the_gateways() -> None:
    own = observed(encode(notification(replace(FLOAT, timestamp=5))))
    assert own.readings == [Reading("/3303/0/5700", 21.5, 5, True)]
    assert observed(encode(notification(FLOAT))).readings == [Reading("/3303/0/5700", 21.5, 1_790_000_000_000, False)]


def test_the_resource_tells_the_path_and_not_the_record() -> None:
    assert observed(encode(notification(FLOAT, "/3303/0/5700-max"))).readings[0].path == "/3303/0/5700"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_skipped_and_counted(value: float) -> None:
    told = observed(encode(notification(replace(FLOAT, value=value))))
    assert (told.readings, told.skipped) == ([], 1)


def test_an_error_of_the_device_has_no_readings() -> None:
    record = notification(FLOAT)
    rep = ResponsePayload(code=ResponseCode.NOT_FOUND, kind=RequestKind.OBSERVE, body=GenericBody(message="gone"))
    assert observed(encode(replace(record, rep=rep))).readings == []


@pytest.mark.parametrize("data", [None, b"", b"\0\0\0\0", b"hello", b"\0\0\1\0\0x", encode(Key(ep="EP"))])
def test_what_is_no_notification_is_refused(data: bytes | None) -> None:
    with pytest.raises(SerdeError):
        observed(data)


@pytest.mark.parametrize("path", ["/3303", "/3303/0", "/"])
def test_a_value_at_no_resource_is_refused(path: str) -> None:
    whole = encode(notification(FLOAT))
    # Of the record and of the resource; the length is in front, zigzag.
    there, here = (bytes([2 * len(text)]) + text.encode() for text in ("/3303/0/5700", path))
    data = whole.replace(there, here)
    with pytest.raises(SerdeError, match="no path of a resource"):
        decode(data)
    with pytest.raises(SerdeError, match="no path of a resource"):
        observed(data)


@given(st.integers(0, 200), st.binary(max_size=8))
def test_bytes_that_end_early_or_were_changed_raise_nothing_else(at: int, noise: bytes) -> None:
    data = encode(notification(replace(FLOAT, timestamp=5)))
    for mangled in (data[:at], data[:at] + noise + data[at + len(noise) :]):
        try:
            observed(mangled)
        except SerdeError:
            continue


def test_of_bytes_that_end_early_it_says_what_the_plain_way_says() -> None:
    data = encode(notification(FLOAT))
    for end in range(5, len(data)):
        said = []
        for read in (observed, decode):
            with pytest.raises(MalformedRecord) as caught:
                read(data[:end])
            said.append(str(caught.value))
        assert said[0] == said[1]
