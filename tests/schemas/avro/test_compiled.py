"""The short path writes the very bytes of the plain path."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.avro.compiled import (
    CompiledNotification,
    encode_links,
    encode_new,
    encode_reply,
    encoded_long,
    update_head,
)
from schemas.avro.errors import InvalidRecord
from schemas.avro.records import (
    Binding,
    GenericBody,
    Notification,
    ReadBody,
    Registration,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
    Response,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.serde import encode
from schemas.lwm2m.nodes import ObjectLink, Resource, ResourceType, Value
from schemas.lwm2m.path import Path, PathError
from tests.record_strategies import longs, news, texts, updates

ids = st.integers(0, 65535)
times = st.integers(2**34 - 10, 2**34 + 10) | st.integers(2**41 - 10, 2**41 + 10) | longs
paths = st.builds(Path, ids, ids, ids) | st.builds(Path, ids, ids, ids, ids)
typed: st.SearchStrategy[tuple[ResourceType, Value]] = st.one_of(
    st.tuples(st.just(ResourceType.STRING), texts | st.text("x", min_size=60, max_size=200)),
    st.tuples(st.just(ResourceType.FLOAT), st.floats() | longs),
    st.tuples(st.just(ResourceType.INTEGER), longs),
    st.tuples(st.just(ResourceType.BOOLEAN), st.booleans()),
    st.tuples(st.just(ResourceType.OPAQUE), st.binary(max_size=100)),
    st.tuples(st.just(ResourceType.TIME), longs),
    st.tuples(st.just(ResourceType.OBJLNK), st.builds(ObjectLink, ids, ids)),
)


@given(texts, texts, texts, texts, paths, typed, st.lists(times, min_size=1, max_size=3))
@example("t", "o", "s", "e", Path(3303, 0, 5700), (ResourceType.FLOAT, 21.5), [1_790_000_000_000, 1_600_000_000_001])
@example("t", "o", "s", "e", Path(3303, 0, 5700), (ResourceType.FLOAT, 0.0), [0, -1, 2**63 - 1, -(2**63)])
def test_notification_has_the_bytes_of_the_plain_path(
    ticket: str,
    observation_id: str,
    server_id: str,
    ep: str,
    path: Path,
    of_type: tuple[ResourceType, Value],
    moments: list[int],
) -> None:
    kind, value = of_type
    compiled = CompiledNotification(
        ticket=ticket,
        observation_id=observation_id,
        server_id=server_id,
        ep=ep,
        path=path,
        resource_type=kind,
    )
    for moment in moments:
        record = Notification(
            ticket=ticket,
            observation_id=observation_id,
            server_id=server_id,
            ep=ep,
            path=str(path),
            timestamp=moment,
            rep=ResponsePayload(
                code=ResponseCode.CONTENT,
                kind=RequestKind.OBSERVE,
                body=ReadBody(content=Resource(path=path, type=kind, value=value)),
            ),
        )
        assert compiled.encode(moment, value) == encode(record)


UPDATE = RegistrationUpdate(ep="EP", server_id="rock64", reg_id="r1", address="127.0.0.1", port=5683, last_up=7)


@given(updates, times)
@example(UPDATE, 1_790_000_000_000)
def test_update_has_the_bytes_of_the_plain_path(update: RegistrationUpdate, last_up: int) -> None:
    expected = Registration(kind=RegistrationKind.UPDATE, body=replace(update, last_up=last_up))
    assert update_head(update) + encoded_long(last_up) == encode(expected)


@given(news)
def test_registration_has_the_bytes_of_the_plain_path(new: RegistrationNew) -> None:
    assert encode_new(new, encode_links(new.links)) == encode(Registration(kind=RegistrationKind.NEW, body=new))


bodies = st.none() | st.builds(GenericBody, message=texts)
values = st.builds(
    lambda path, of_type, timestamp: ReadBody(
        content=Resource(path=path, type=of_type[0], value=of_type[1], timestamp=timestamp)
    ),
    paths,
    typed,
    st.none() | longs,
)


@given(
    st.builds(
        Response,
        ticket=texts,
        server_id=texts,
        ep=texts,
        path=texts,
        timestamp=longs,
        rep=st.builds(
            ResponsePayload, code=st.sampled_from(ResponseCode), kind=st.sampled_from(RequestKind), body=values | bodies
        ),
    )
)
def test_reply_has_the_bytes_of_the_plain_path(reply: Response) -> None:
    assert encode_reply(reply) == encode(reply)


def test_reply_and_registration_that_fit_no_record_are_refused() -> None:
    resource = Resource(path=Path(3, 0, 9), type=ResourceType.INTEGER, value=2**63)
    rep = ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.READ, body=ReadBody(content=resource))
    with pytest.raises(InvalidRecord):
        encode_reply(Response(ticket="t", server_id="s", ep="e", path="/3/0/9", timestamp=0, rep=rep))
    new = RegistrationNew(
        ep="\ud800",
        server_id="s",
        reg_date=0,
        address="a",
        port=1,
        reg_addr="a",
        reg_port=2,
        lt=1,
        ver="1.1",
        bnd=Binding.U,
        reg_id="r",
        links=(),
        root="/",
        last_up=0,
    )
    with pytest.raises(InvalidRecord):
        encode_new(new, encode_links(()))
    with pytest.raises(InvalidRecord):
        encode_new(replace(new, ep="e", lt=2**63), encode_links(()))


def compiled(kind: ResourceType, path: str = "/3303/0/5700") -> CompiledNotification:
    return CompiledNotification(ticket="t", observation_id="o", server_id="s", ep="e", path=path, resource_type=kind)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ResourceType.FLOAT, "21.5"),
        (ResourceType.FLOAT, None),
        (ResourceType.FLOAT, 10**400),
        (ResourceType.INTEGER, 2**63),
        (ResourceType.INTEGER, 1.5),
        (ResourceType.STRING, 5),
        (ResourceType.STRING, "\ud800"),
        (ResourceType.OPAQUE, "text"),
    ],
)
def test_value_that_does_not_fit_is_refused(kind: ResourceType, value: object) -> None:
    with pytest.raises(InvalidRecord):
        compiled(kind).encode(1_790_000_000_000, value)


def test_time_beyond_64_bits_is_refused() -> None:
    with pytest.raises(InvalidRecord):
        compiled(ResourceType.FLOAT).encode(2**63, 1.0)
    with pytest.raises(InvalidRecord):
        encoded_long(-(2**63) - 1)


def test_path_that_holds_no_single_value_is_refused() -> None:
    with pytest.raises(InvalidRecord):
        compiled(ResourceType.FLOAT, "/3303/0")
    with pytest.raises(PathError):
        compiled(ResourceType.FLOAT, "/3303/x/5700")


def test_many_times_do_not_fill_the_memory() -> None:
    from schemas.avro import compiled as module

    encode_float = compiled(ResourceType.FLOAT).encode
    for moment in range(3 * module._MAX_TIMES):
        encode_float(moment, 0.5)
    assert len(module._times) <= module._MAX_TIMES
