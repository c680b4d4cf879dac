"""The folds of the inventory, and the inventory read from a real Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.inventory import Device, Inventory, LastValue, Picture, State, newer, registered, taught
from connectors.kafka import Cluster, TopicMissing, ensure_topics, producer
from schemas.avro.records import (
    Binding,
    GenericBody,
    Key,
    Link,
    Notification,
    ReadBody,
    Record,
    Registration,
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
    Response,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.serde import encode
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Instance, Resource, ResourceType
from schemas.lwm2m.path import Path

NEW = Registration(
    kind=RegistrationKind.NEW,
    body=RegistrationNew(
        ep="dev",
        server_id="gw",
        reg_date=1000,
        address="192.0.2.7",
        port=40000,
        reg_addr="0.0.0.0",
        reg_port=5683,
        lt=300,
        ver="1.1",
        bnd=Binding.U,
        reg_id="abc",
        links=(Link(url="/3/0", at={}), Link(url="/3303/1", at={}), Link(url="/3303/0", at={"ver": "1.1"})),
        root="/",
        last_up=1000,
        attributes={"site": "north"},
    ),
)


def update(last_up: int, **fields: object) -> Registration:
    body = RegistrationUpdate(
        ep="dev",
        server_id="gw",
        reg_id="abc",
        address="192.0.2.9",
        port=40001,
        last_up=last_up,
        **fields,  # type: ignore[arg-type]  # optional fields of several types
    )
    return Registration(kind=RegistrationKind.UPDATE, body=body)


def delete(last_up: int, *, expired: bool) -> Registration:
    body = RegistrationDelete(ep="dev", server_id="gw", expired=expired, last_up=last_up)
    return Registration(kind=RegistrationKind.DELETE, body=body)


def folded(records: Sequence[Registration]) -> Device:
    device = None
    for record in records:
        device = registered(device, record)
    assert device is not None
    return device


def told(value: float, timestamp: int, at: int | None = None, path: str = "/3303/0/5700") -> Notification:
    resource = Resource(path=Path.parse(path), type=ResourceType.FLOAT, value=value, timestamp=at)
    return Notification(
        ticket="t",
        observation_id="o",
        server_id="gw",
        ep="dev",
        path=path,
        timestamp=timestamp,
        rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=resource)),
    )


def test_new_registration_is_an_online_device_with_its_objects() -> None:
    device = folded([NEW])
    assert device.state is State.ONLINE
    assert [str(path) for path in device.instances] == ["/3/0", "/3303/0", "/3303/1"]
    assert (device.address, device.lt, device.bnd, device.attributes) == (
        "192.0.2.7",
        300,
        Binding.U,
        {"site": "north"},
    )


def test_update_changes_the_address_and_keeps_what_it_does_not_carry() -> None:
    device = folded([NEW, update(2000)])
    assert (device.address, device.port, device.last_up) == ("192.0.2.9", 40001, 2000)
    assert (device.lt, device.ver, device.reg_date) == (300, "1.1", 1000)
    assert len(device.links) == 3


def test_update_replaces_what_it_carries() -> None:
    device = folded([NEW, update(2000, lt=60, links=(Link(url="/3/0", at={}),), bnd=Binding.UQ)])
    assert (device.lt, device.bnd) == (60, Binding.UQ)
    assert [str(path) for path in device.instances] == ["/3/0"]


@pytest.mark.parametrize(("expired", "state"), [(True, State.EXPIRED), (False, State.GONE)])
def test_deleted_device_stays_known_and_is_offline(expired: bool, state: State) -> None:
    device = folded([NEW, delete(3000, expired=expired)])
    assert device.state is state
    assert device.address == "192.0.2.7"


def test_device_comes_back_online_with_a_new_registration() -> None:
    assert folded([NEW, delete(3000, expired=True), NEW]).state is State.ONLINE


def test_update_without_a_known_registration_is_a_device() -> None:
    device = folded([update(2000)])
    assert (device.state, device.reg_date, device.instances) == (State.ONLINE, None, ())


def test_objects_below_a_root_are_found_and_other_links_left_out() -> None:
    assert isinstance(NEW.body, RegistrationNew)
    links = (Link(url="/lwm2m/3/0", at={}), Link(url="/lwm2m", at={}), Link(url="/not/lwm2m/at/all", at={}))
    body = replace(NEW.body, links=links, root="/lwm2m")
    device = folded([Registration(kind=RegistrationKind.NEW, body=body)])
    assert [str(path) for path in device.instances] == ["/3/0"]


@given(st.lists(st.sampled_from([NEW, update(2000), update(2500, lt=7), delete(3000, expired=False)]), min_size=1))
def test_state_is_that_of_the_last_record(records: list[Registration]) -> None:
    device = folded(records)
    assert (device.state is State.ONLINE) is (records[-1].kind is not RegistrationKind.DELETE)


def test_notification_tells_the_value_with_its_time() -> None:
    [value] = taught(told(21.5, 5000))
    assert (value.resource.value, value.timestamp, value.kind) == (21.5, 5000, RequestKind.OBSERVE)


def test_own_time_of_the_device_comes_first() -> None:
    [value] = taught(told(21.5, 5000, at=4000))
    assert value.timestamp == 4000


def test_error_reply_tells_no_value() -> None:
    refused = Response(
        ticket="t",
        server_id="gw",
        ep="dev",
        path="/3/0/99",
        timestamp=1,
        rep=ResponsePayload(code=ResponseCode.NOT_FOUND, kind=RequestKind.READ, body=GenericBody(message="none")),
    )
    assert taught(refused) == []


def test_instance_tells_each_of_its_values() -> None:
    resources = tuple(
        Resource(path=Path(3303, 0, rid), type=ResourceType.FLOAT, value=float(rid)) for rid in (5601, 5602, 5700)
    )
    reply = Response(
        ticket="t",
        server_id="gw",
        ep="dev",
        path="/3303/0",
        timestamp=1,
        rep=ResponsePayload(
            code=ResponseCode.CONTENT,
            kind=RequestKind.READ,
            body=ReadBody(content=Instance(path=Path(3303, 0), resources=resources)),
        ),
    )
    assert [str(value.resource.path) for value in taught(reply)] == ["/3303/0/5601", "/3303/0/5602", "/3303/0/5700"]


@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(0, 100)), min_size=1))
def test_last_value_is_the_latest_of_the_newest_time(said: list[tuple[float, int]]) -> None:
    last: LastValue | None = None
    for value, timestamp in said:
        [one] = taught(told(value, timestamp))
        last = newer(last, one)
    assert last is not None
    newest = max(timestamp for _, timestamp in said)
    assert last.timestamp == newest
    assert last.resource.value == next(value for value, timestamp in reversed(said) if timestamp == newest)


def test_picture_finds_the_values_of_one_device_and_its_newest_time() -> None:
    picture = Picture()
    for record in (NEW, told(1.0, 20), told(2.0, 10), told(3.0, 15, path="/3304/0/5700"), told(9.0, 5, path="/3/0/9")):
        picture.take(record)
    picture.take(replace(told(4.0, 99), ep="other"))
    assert [value.resource.value for value in picture.values_of("dev")] == [9.0, 1.0, 3.0]
    assert (picture.newest("dev"), picture.newest("other"), picture.newest("nobody")) == (20, 99, None)
    value = picture.value("other", Path(3303, 0, 5700))
    assert value is not None
    assert value.resource.value == 4.0
    assert picture.value("dev", Path(3303, 9, 5700)) is None


def produce(kafka: Cluster, topic: str, records: Sequence[Record]) -> None:
    client = producer(kafka)
    for record in records:
        client.produce(topic, key=encode(Key(ep="dev")), value=encode(record))
    client.produce(topic, key=None, value=b"no record at all")
    assert client.flush(20) == 0


def state_of(inventory: Inventory) -> State:
    return inventory.picture.devices["dev"].state


@pytest.mark.kafka
def test_inventory_is_read_from_the_topics_and_follows_them(kafka: Cluster, gateway_id: str) -> None:
    topics = Topics(gateway_id)
    ensure_topics(kafka, topics.partitions())
    produce(kafka, topics.registrations, [NEW])
    produce(kafka, topics.observations, [told(1.0, 10), told(2.0, 20)])
    with Inventory(kafka, gateway_id) as inventory:
        while not inventory.caught_up:
            inventory.refresh()
        assert state_of(inventory) is State.ONLINE
        assert [value.resource.value for value in inventory.picture.values_of("dev")] == [2.0]

        produce(kafka, topics.registrations, [delete(9000, expired=True)])
        produce(kafka, topics.observations, [told(3.0, 30, path="/3304/0/5700")])
        while state_of(inventory) is State.ONLINE or len(inventory.picture.values_of("dev")) < 2:
            inventory.refresh()
        assert state_of(inventory) is State.EXPIRED


@pytest.mark.kafka
def test_inventory_of_an_unknown_gateway_names_the_missing_topic(kafka: Cluster, gateway_id: str) -> None:
    with pytest.raises(TopicMissing, match=rf"iot\.{gateway_id}\.registrations .*is '{gateway_id}' the id"):
        Inventory(kafka, gateway_id)
