"""One suite that holds every sink of `SINKS` to the protocol, each on its real store."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.sinks import SINKS, RejectedRecords, Sink, SinkConfigError, SinkKind
from schemas.avro.records import (
    CompositeBody,
    CreateBody,
    DiscoverBody,
    GenericBody,
    Key,
    Link,
    ReadBody,
    Record,
    RegistrationNew,
    Request,
    RequestKind,
    RequestPayload,
    ResponseCode,
)
from schemas.avro.topics import TopicKind
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, ObjectLink, ResourceType, Value
from schemas.lwm2m.path import Path as Lwm2mPath
from tests import sink_samples as sample
from tests.sink_samples import at, delete, new, notification, reply, resource, update
from tests.stores import OTHER_WAYS, STORES
from tests.stores.store import Keeps, Store

ENDPOINT = {
    "name": "ep-1",
    "server": "gw1",
    "regDate": 50,
    "regId": "r1",
    "regAddress": "10.0.0.1",
    "regPort": 5683,
    "address": "10.0.0.7",
    "port": 40_000,
    "lt": 300,
    "expired": False,
    "ver": "1.1",
    "bnd": "UQ",
    "regLastUpdate": 100,
    "online": True,
    "sms": "+4912345",
    "attributes": {"model": "Thermo é"},
}


#: What each test may run on.
WAYS = {**STORES, **OTHER_WAYS}


def kind_of(name: str) -> SinkKind:
    return SINKS[name.partition("-")[0]]


def test_every_sink_is_in_this_suite_and_has_its_page() -> None:
    assert STORES.keys() == SINKS.keys()
    docs = Path(__file__).parents[2] / "docs" / "sinks"
    for name, kind in SINKS.items():
        assert kind.name == name
        assert kind.sample_config in (docs / f"{name}.md").read_text("utf-8")


def test_every_sink_of_readings_takes_what_the_job_join_observes() -> None:
    for name, kind in STORES.items():
        takes = TopicKind.JOINED in SINKS[name].topics
        assert takes is bool(kind.keeps & {Keeps.HISTORY, Keeps.NUMBERS}), name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs on every store that keeps what it is marked with."""
    given = any(mark.args[0] == "name" for mark in metafunc.definition.iter_markers("parametrize"))
    if "name" in metafunc.fixturenames and not given:
        asked = {mark.args[0] for mark in metafunc.definition.iter_markers("keeps")}
        metafunc.parametrize("name", [name for name, kind in sorted(WAYS.items()) if asked <= kind.keeps])


history = pytest.mark.keeps(Keeps.HISTORY)
graph = pytest.mark.keeps(Keeps.GRAPH)
numbers = pytest.mark.keeps(Keeps.NUMBERS)


@pytest.fixture
def store(name: str, tmp_path: Path) -> Store:
    return WAYS[name].make(tmp_path)


@pytest.fixture
def sink(name: str, store: Store) -> Iterator[Sink]:
    opened = kind_of(name).open(store.options())
    yield opened
    opened.close()


def test_an_unknown_option_is_refused_by_name(name: str, store: Store) -> None:
    with pytest.raises(SinkConfigError, match="colour"):
        kind_of(name).open({**store.options(), "colour": "blue"})


@history
def test_every_type_of_value_is_kept(sink: Sink, store: Store) -> None:
    sink.write(
        [
            at(0, notification(resource("/3303/0/5700", 21.5))),
            at(1, notification(resource("/3303/0/5605", -7, ResourceType.INTEGER), timestamp=2)),
            at(2, notification(resource("/3303/0/5701", "Cel é", ResourceType.STRING))),
            at(3, notification(resource("/3303/0/5850", True, ResourceType.BOOLEAN))),
            at(4, notification(resource("/3303/0/5518", 1_700_000_000_123, ResourceType.TIME))),
            at(5, notification(resource("/9/0/8", ObjectLink(3, 0), ResourceType.OBJLNK))),
            at(6, notification(resource("/19/0/0", b"\x00\xff", ResourceType.OPAQUE))),
            at(7, notification(resource("/3303/0/5601", math.inf))),
            at(8, notification(resource("/3303/0/5602", math.nan))),
            at(9, notification(resource("/3303/0/5603", 2**63 - 1, ResourceType.INTEGER))),
            at(10, notification(resource("/3303/0/5604", 21.0))),
        ]
    )
    found = {path: value for _, path, value, _ in store.history()}
    sent: dict[str, Value] = {
        "/3303/0/5700": 21.5,
        "/3303/0/5605": -7,
        "/3303/0/5701": "Cel é",
        "/3303/0/5850": True,
        "/3303/0/5518": 1_700_000_000_123,
        "/9/0/8": ObjectLink(3, 0),
        "/19/0/0": b"\x00\xff",
        "/3303/0/5601": math.inf,
        "/3303/0/5602": math.nan,
        "/3303/0/5603": 2**63 - 1,
        "/3303/0/5604": 21.0,
    }
    assert found == {path: store.kept(value) for path, value in sent.items()}


@pytest.mark.parametrize("name", sorted(name for name in WAYS if kind_of(name).corrects))
@pytest.mark.parametrize(
    ("came", "read"),
    [
        ((b"\x41\xac\x00\x00", ResourceType.OPAQUE), (21.5, ResourceType.FLOAT)),
        (("5", ResourceType.STRING), (5, ResourceType.INTEGER)),
        (("1", ResourceType.STRING), (True, ResourceType.BOOLEAN)),
        ((b"text", ResourceType.OPAQUE), ("text", ResourceType.STRING)),
        ((5, ResourceType.INTEGER), (5_000, ResourceType.TIME)),
    ],
)
def test_what_was_decoded_afresh_is_in_the_place_of_what_came(
    sink: Sink, store: Store, came: tuple[Value, ResourceType], read: tuple[Value, ResourceType]
) -> None:
    other = at(1, notification(resource("/3303/0/5700", 1.0)))
    again = replace(at(0, notification(resource("/33333/0/1", *read))), redecoded=True)
    sink.write([at(0, notification(resource("/33333/0/1", *came))), other])
    before = sorted((ep, path, time) for ep, path, _, time in store.history())
    for _ in range(2):
        sink.write([again])
        assert {path: value for _, path, value, _ in store.history()} == {
            "/33333/0/1": store.kept(read[0]),
            "/3303/0/5700": store.kept(1.0),
        }
        assert sorted((ep, path, time) for ep, path, _, time in store.history()) == before


@history
def test_objects_instances_and_multiple_resources_become_one_row_each(sink: Sink, store: Store) -> None:
    power = MultipleResource(
        path=Lwm2mPath(3, 0, 6),
        type=ResourceType.INTEGER,
        instances=(resource("/3/0/6/0", 1, ResourceType.INTEGER), resource("/3/0/6/1", 5, ResourceType.INTEGER)),
    )
    device = Instance(path=Lwm2mPath(3, 0), resources=(resource("/3/0/0", "ACME", ResourceType.STRING), power))
    sink.write(
        [
            at(0, notification(Object(path=Lwm2mPath(3), instances=(device,)))),
            at(1, reply(ReadBody(content=power), path="/3/0/6", timestamp=2_000)),
        ]
    )
    assert sorted(store.history(), key=str) == sorted(
        [
            ("ep-1", "/3/0/0", "ACME", 1_000),
            ("ep-1", "/3/0/6/0", 1, 1_000),
            ("ep-1", "/3/0/6/1", 5, 1_000),
            ("ep-1", "/3/0/6/0", 1, 2_000),
            ("ep-1", "/3/0/6/1", 5, 2_000),
        ],
        key=str,
    )


@history
def test_each_value_of_a_composite_read_becomes_one_row(sink: Sink, store: Store) -> None:
    read = CompositeBody(
        resources=(
            resource("/3/0/0", "ACME", ResourceType.STRING),
            resource("/3/0/7/1", 3_300, ResourceType.INTEGER),
            resource("/3303/0/5700", 21.5, timestamp=5_000),
        )
    )
    nothing = reply(CompositeBody(resources=()), path="/", kind=RequestKind.READ_COMPOSITE, timestamp=2_000)
    sink.write([at(0, reply(read, path="/", kind=RequestKind.READ_COMPOSITE)), at(1, nothing)])
    found = sorted((ep, path, value) for ep, path, value, _ in store.history() if value is not None)
    assert found == sorted(
        [
            ("ep-1", "/3/0/0", store.kept("ACME")),
            ("ep-1", "/3/0/7/1", store.kept(3_300)),
            ("ep-1", "/3303/0/5700", store.kept(21.5)),
        ]
    )


@history
def test_resources_that_nobody_knows_are_stored_as_they_came(sink: Sink, store: Store) -> None:
    sink.write([at(0, notification(resource("/65001/3/9999/2", b"raw", ResourceType.OPAQUE)))])
    assert store.history() == [("ep-1", "/65001/3/9999/2", store.kept(b"raw"), 1_000)]


@graph
def test_objects_that_nobody_knows_are_stored_as_they_came(sink: Sink, store: Store) -> None:
    sink.write([at(0, new())])
    assert (33333, "1.0", 0, None) in store.objects("ep-1")


@history
def test_errors_and_words_are_history_too(sink: Sink, store: Store) -> None:
    sink.write(
        [
            at(0, reply(GenericBody(message="no such resource"), path="/3/0/99", code=ResponseCode.NOT_FOUND)),
            at(1, reply(DiscoverBody(object_links="</3/0>;pmin=1"), path="/3", kind=RequestKind.DISCOVER)),
            at(2, reply(CreateBody(location="/3303/7"), path="/3303", kind=RequestKind.CREATE)),
            at(3, reply(None, path="/1/0/6", code=ResponseCode.CHANGED, kind=RequestKind.WRITE)),
        ]
    )
    assert {(path, value) for _, path, value, _ in store.history()} == {
        ("/3/0/99", "no such resource"),
        ("/3", "</3/0>;pmin=1"),
        ("/3303", "/3303/7"),
        ("/1/0/6", None),
    }


@history
def test_redelivered_history_changes_nothing(sink: Sink, store: Store, name: str) -> None:
    batch = [
        at(0, notification(resource("/3303/0/5700", 1.0))),
        # The same value in the same millisecond once more is a point of its own.
        at(1, notification(resource("/3303/0/5700", 1.0))),
        at(2, reply(GenericBody(message="gone"), path="/3/0", code=ResponseCode.NOT_FOUND)),
    ]
    sink.write(batch)
    before = sorted(store.history(), key=str)
    assert len(before) == 3
    sink.write(batch)
    sink.write(batch[1:])
    again = kind_of(name).open(store.options())
    again.write(batch)
    again.close()
    assert sorted(store.history(), key=str) == before


@numbers
def test_numbers_are_kept_by_path_and_time(sink: Sink, store: Store) -> None:
    power = MultipleResource(
        path=Lwm2mPath(3, 0, 7),
        type=ResourceType.INTEGER,
        instances=(resource("/3/0/7/0", 3_300, ResourceType.INTEGER), resource("/3/0/7/1", -5, ResourceType.INTEGER)),
    )
    device = Instance(path=Lwm2mPath(3, 0), resources=(resource("/3/0/9", 80, ResourceType.INTEGER), power))
    sink.write(
        [
            at(0, notification(resource("/3303/0/5700", 21.5))),
            at(1, notification(resource("/3303/0/5700", math.inf), timestamp=2_000)),
            at(2, notification(resource("/3303/0/5700", math.nan), timestamp=3_000)),
            at(3, notification(Object(path=Lwm2mPath(3), instances=(device,)), timestamp=4_000)),
            at(4, notification(resource("/65001/3/9999/2", 0.0), timestamp=5_000)),
        ]
    )
    assert sorted(store.history(), key=str) == sorted(
        [
            ("ep-1", "/3303/0/5700", 21.5, 1_000),
            ("ep-1", "/3303/0/5700", store.kept(math.inf), 2_000),
            ("ep-1", "/3303/0/5700", store.kept(math.nan), 3_000),
            ("ep-1", "/3/0/9", store.kept(80), 4_000),
            ("ep-1", "/3/0/7/0", store.kept(3_300), 4_000),
            ("ep-1", "/3/0/7/1", store.kept(-5), 4_000),
            ("ep-1", "/65001/3/9999/2", 0.0, 5_000),
        ],
        key=str,
    )


@numbers
def test_redelivered_numbers_change_nothing(sink: Sink, store: Store, name: str) -> None:
    batch = [at(offset, notification(resource("/3303/0/5700", 1.5 * offset), timestamp=offset)) for offset in range(9)]
    sink.write(batch)
    before = sorted(store.history())
    assert [value for _, _, value, _ in before] == [1.5 * offset for offset in range(9)]
    sink.write(batch)
    sink.write(batch[3:6])
    sink.write([batch[8], batch[8]])
    again = kind_of(name).open(store.options())
    again.write(batch)
    again.close()
    assert sorted(store.history()) == before


@history
def test_values_of_one_message_with_the_devices_own_times_are_a_row_each(sink: Sink, store: Store) -> None:
    # As a notification or a Send with a history is recorded: one gateway's time, the device's own in each.
    batch = [
        at(n, notification(resource("/3303/0/5700", float(n), timestamp=1_600_000_000_000 + 1000 * n), timestamp=5_000))
        for n in range(50)
    ]
    sink.write(batch)
    sink.write(batch[20:])
    assert sorted(row[2] for row in store.history()) == [float(n) for n in range(50)]


@history
def test_what_a_device_sent_by_itself_is_kept_as_what_was_observed(sink: Sink, store: Store) -> None:
    sent = notification(resource("/3303/0/5700", 21.5), ticket="send")
    sent = replace(sent, observation_id="", rep=replace(sent.rep, kind=RequestKind.SEND))
    sink.write([at(0, sent)])
    assert [row[:3] for row in store.history()] == [("ep-1", "/3303/0/5700", 21.5)]


@numbers
def test_numbers_around_refused_records_are_written(sink: Sink, store: Store) -> None:
    batch = [
        at(0, notification(resource("/3303/0/5700", 1.0))),
        *(at(1 + number, strange) for number, strange in enumerate(STRANGE)),
        at(4, notification(resource("/3303/0/5700", 2.0), timestamp=2_000)),
    ]
    for _ in range(2):
        with pytest.raises(RejectedRecords) as refused:
            sink.write(batch)
        assert [record.offset for record, _ in refused.value.rejected] == [1, 2]
        assert sorted(row[2] for row in store.history()) == [1.0, 2.0]


@graph
def test_redelivered_registrations_change_nothing(sink: Sink, store: Store, name: str) -> None:
    batch = [at(0, new()), at(1, update(lt=60)), at(2, delete(expired=True))]
    sink.write(batch)
    before = (store.endpoint("ep-1"), store.objects("ep-1"))
    sink.write(batch)
    sink.write(batch[1:])
    again = kind_of(name).open(store.options())
    again.write(batch)
    again.close()
    assert (store.endpoint("ep-1"), store.objects("ep-1")) == before


@history
def test_a_record_that_comes_twice_in_one_batch_is_stored_once(sink: Sink, store: Store) -> None:
    one = at(5, notification(resource("/3303/0/5700", 1.0)))
    sink.write([one, one])
    assert len(store.history()) == 1


@history
def test_history_of_a_topic_that_was_made_anew_is_kept_beside_the_old(sink: Sink, store: Store) -> None:
    sink.write([at(0, notification(resource("/3303/0/5700", 1.0), timestamp=10))])
    sink.write([at(0, notification(resource("/3303/0/5700", 2.0), timestamp=20))])
    assert sorted(row[2] for row in store.history()) == [1.0, 2.0]


@graph
def test_registrations_of_a_topic_that_was_made_anew_are_news(sink: Sink, store: Store) -> None:
    sink.write([at(7, new())])
    sink.write([at(0, delete(), timestamp=2_000_000)])
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert endpoint["online"] is False


#: Records that no store keeps, on whichever topic they came.
STRANGE: tuple[Record, ...] = (
    Request(server_id="gw1", ep="ep-1", ticket="t", payload=RequestPayload(kind=RequestKind.READ, path="/3")),
    Key(ep="ep-1"),
)


def test_refused_records_are_told(sink: Sink) -> None:
    for _ in range(2):
        with pytest.raises(RejectedRecords) as refused:
            sink.write([at(3 + number, strange) for number, strange in enumerate(STRANGE)])
        assert [record.offset for record, _ in refused.value.rejected] == [3, 4]
        assert all(reason for _, reason in refused.value.rejected)


@history
def test_history_around_refused_records_is_written(sink: Sink, store: Store) -> None:
    batch = [
        at(0, notification(resource("/3303/0/5700", 1.0))),
        *(at(1 + number, strange) for number, strange in enumerate(STRANGE)),
        at(4, notification(resource("/3303/0/5700", 2.0), timestamp=2_000)),
    ]
    for _ in range(2):
        with pytest.raises(RejectedRecords) as refused:
            sink.write(batch)
        assert [record.offset for record, _ in refused.value.rejected] == [1, 2]
        assert sorted(row[2] for row in store.history()) == [1.0, 2.0]


@graph
def test_registrations_around_refused_records_are_applied(sink: Sink, store: Store) -> None:
    with pytest.raises(RejectedRecords) as refused:
        sink.write([at(0, new()), *(at(1 + n, strange) for n, strange in enumerate(STRANGE)), at(3, update(lt=60))])
    assert [record.offset for record, _ in refused.value.rejected] == [1, 2]
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert endpoint["lt"] == 60


@graph
def test_a_registration_fills_every_property_and_the_objects(sink: Sink, store: Store) -> None:
    sink.write([at(0, new())])
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert {name: endpoint[name] for name in ENDPOINT} == ENDPOINT
    assert store.objects("ep-1") == {
        (1, "1.0", 0, "LwM2M Server"),
        (3, "1.0", 0, "Device"),
        (3303, "1.1", 0, "Temperature"),
        (3303, "1.1", 1, "Temperature"),
        (33333, "1.0", 0, None),
    }


@graph
def test_a_new_registration_replaces_and_objects_that_vanished_go(sink: Sink, store: Store) -> None:
    sink.write([at(0, new()), at(1, new(links=(Link(url="/3/0", at={}), Link(url="/5", at={})), reg_id="r2"))])
    assert store.objects("ep-1") == {(3, "1.0", 0, "Device"), (5, "1.0", None, "Firmware Update")}
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert endpoint["regId"] == "r2"


@graph
def test_an_update_changes_only_what_it_carries(sink: Sink, store: Store) -> None:
    sink.write([at(0, new())])
    before = store.objects("ep-1")
    sink.write([at(1, update())])
    moved = {"address": "10.0.0.8", "port": 41_000, "regLastUpdate": 200}
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert {name: endpoint[name] for name in ENDPOINT} == ENDPOINT | moved
    assert store.objects("ep-1") == before
    sink.write([at(2, update(links=(Link(url="/3/0", at={}),), lt=60))])
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert {name: endpoint[name] for name in ENDPOINT} == ENDPOINT | moved | {"lt": 60}
    assert store.objects("ep-1") == {(3, "1.0", 0, "Device")}


@graph
@pytest.mark.parametrize("expired", [True, False])
def test_a_deleted_endpoint_is_offline_and_comes_back(sink: Sink, store: Store, expired: bool) -> None:
    sink.write([at(0, new()), at(1, delete(expired=expired))])
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert (endpoint["online"], endpoint["expired"], endpoint["regLastUpdate"]) == (False, expired, 300)
    sink.write([at(2, new(reg_id="r2"))])
    endpoint = store.endpoint("ep-1")
    assert endpoint is not None
    assert (endpoint["online"], endpoint["expired"], endpoint["regId"]) == (True, False, "r2")


@graph
def test_update_and_delete_of_an_unknown_endpoint_create_what_is_known(sink: Sink, store: Store) -> None:
    sink.write([at(0, update(links=(Link(url="/3/0", at={}),))), at(1, delete(ep="ep-2", expired=True))])
    first, second = store.endpoint("ep-1"), store.endpoint("ep-2")
    assert first is not None
    assert (first["online"], first["address"], first["lt"], first["regDate"]) == (True, "10.0.0.8", None, None)
    assert store.objects("ep-1") == {(3, "1.0", 0, "Device")}
    assert second is not None
    assert (second["online"], second["expired"]) == (False, True)


@graph
def test_old_registration_events_do_not_undo_newer_state(sink: Sink, store: Store) -> None:
    events = [
        at(0, new()),
        at(1, update(port=42_000)),
        at(2, delete()),
        at(3, new(reg_id="r2", links=sample.LINKS[:3])),
    ]
    for event in events:
        sink.write([event])
    final = (store.endpoint("ep-1"), store.objects("ep-1"))
    for event in (events[2], events[0], events[1]):
        sink.write([event])
        assert (store.endpoint("ep-1"), store.objects("ep-1")) == final
    sink.write(events)
    assert (store.endpoint("ep-1"), store.objects("ep-1")) == final


@graph
def test_an_alternate_path_is_no_part_of_the_object_paths(sink: Sink, store: Store) -> None:
    event = new(
        links=(Link(url="/lwm2m/3/0", at={}), Link(url="/lwm2m", at={"rt": "oma.lwm2m"}), Link(url="/4/0", at={}))
    )
    assert isinstance(event.body, RegistrationNew)
    sink.write([at(0, replace(event, body=replace(event.body, root="/lwm2m")))])
    assert store.objects("ep-1") == {(3, "1.0", 0, "Device")}
