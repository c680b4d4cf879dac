"""Records of the observations topic are read by hand as `serde.decode` reads them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.devices.load.observed import Observations
from schemas.avro.compiled import CompiledNotification
from schemas.avro.records import (
    Key,
    Notification,
    ReadBody,
    RequestKind,
    ResponseCode,
    ResponsePayload,
    values_told,
)
from schemas.avro.serde import decode, encode
from schemas.lwm2m.nodes import Instance, Node, Resource, ResourceType
from schemas.lwm2m.path import Path

NOW = 1_790_000_000_123_456.0


def resource(value: float, path: str = "/3303/0/5700", timestamp: int | None = None) -> Resource:
    return Resource(path=Path.parse(path), type=ResourceType.FLOAT, value=value, timestamp=timestamp)


def record(
    node: Node, *, ep: str = "dev-1", kind: RequestKind = RequestKind.OBSERVE, at: int = 1_790_000_000_124
) -> bytes:
    return encode(
        Notification(
            ticket="t#1",
            observation_id="o-1",
            server_id="rock64",
            ep=ep,
            path=str(node.path),
            timestamp=at,
            rep=ResponsePayload(code=ResponseCode.CONTENT, kind=kind, body=ReadBody(content=node)),
        )
    )


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False) | st.sampled_from([0.0, NOW, 1.0]),
            st.sampled_from([RequestKind.OBSERVE, RequestKind.SEND]),
            st.none() | st.integers(0, 2**41),
            st.text(max_size=80).filter(str.isprintable),
            st.sampled_from(["/3303/0/5700", "/3303/1/5700", "/65535/0/0"]),
            st.integers(0, 2**45),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_what_is_read_by_hand_is_what_decode_reads(
    told: list[tuple[float, RequestKind, int | None, str, str, int]],
) -> None:
    observations = Observations()
    for value, kind, own_time, ep, path, at in told:
        data = record(resource(value, path, own_time), ep=ep, kind=kind, at=at)
        decoded = decode(data)
        assert isinstance(decoded, Notification)
        (node,) = values_told(decoded.rep.body)
        assert observations.read(data) == [(ep, path, value)] == [(decoded.ep, str(node.path), node.value)]
    assert observations.unreadable == 0


@pytest.mark.parametrize("kind", [RequestKind.OBSERVE, RequestKind.SEND])
def test_the_second_record_of_a_path_is_read_by_hand(monkeypatch: pytest.MonkeyPatch, kind: RequestKind) -> None:
    observations = Observations()
    observations.read(record(resource(NOW), kind=kind))

    def never(data: bytes) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("gateway.devices.load.observed.decode", never)
    assert observations.read(record(resource(NOW + 5), ep="another", kind=kind, at=5)) == [
        ("another", "/3303/0/5700", NOW + 5)
    ]


def test_records_as_the_gateway_writes_them_are_read() -> None:
    compiled = CompiledNotification(
        ticket="t",
        observation_id="o",
        server_id="rock64",
        ep="dev-9",
        path="/3303/0/5700",
        resource_type=ResourceType.FLOAT,
    )
    observations = Observations()
    for value in (NOW, NOW + 1, NOW + 2):
        assert observations.read(compiled.encode(1_790_000_000_000, value)) == [("dev-9", "/3303/0/5700", value)]


def test_every_number_of_an_instance_is_read() -> None:
    node = Instance(
        path=Path.parse("/3303/0"),
        resources=(
            resource(1.5),
            Resource(path=Path.parse("/3303/0/5701"), type=ResourceType.STRING, value="Cel"),
            Resource(path=Path.parse("/3303/0/5518"), type=ResourceType.INTEGER, value=7),
            Resource(path=Path.parse("/3303/0/5850"), type=ResourceType.BOOLEAN, value=True),
        ),
    )
    assert Observations().read(record(node)) == [("dev-1", "/3303/0/5700", 1.5), ("dev-1", "/3303/0/5518", 7.0)]


def test_what_is_no_notification_is_ignored_and_what_is_no_record_is_counted() -> None:
    observations = Observations()
    whole = record(resource(NOW))
    observations.read(whole)
    assert observations.read(None) == []
    assert observations.read(encode(Key(ep="dev-1"))) == []
    assert observations.unreadable == 0
    for cut in range(len(whole)):
        assert observations.read(whole[:cut]) == []
    assert observations.unreadable == len(whole)
    assert observations.read(whole + b"\x00") == []
    assert observations.read(b"\xff" * 60) == []
    assert struct.unpack("<d", whole[-8:]) == (NOW,)
