"""Which version a device had at which time, and what becomes of a record by that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from connectors.redecode import Announced, Redecoder, announced_versions
from connectors.sinks import SinkRecord
from connectors.sinks.influxdb_lines import Formatter, PointTime
from connectors.sinks.sqlite import open_sqlite
from schemas.avro.records import (
    CompositeBody,
    GenericBody,
    Link,
    Notification,
    ReadBody,
    Registration,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    Response,
)
from schemas.lwm2m.nodes import Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions
from tests.sink_harness import rows
from tests.sink_samples import GATEWAY, TOPICS, new, notification, reply, resource, update

DEFINITIONS = Definitions().load_folder(Path(__file__).parents[1] / "data" / "oma")
TEMPERATURE = "/32769/0/1"


def link(text: str, version: str | None = None) -> Link:
    return Link(url=text, at={} if version is None else {"ver": version})


def boiler(version: str | None, *, root: str = "") -> tuple[Link, ...]:
    return link(f"{root}/32769", version), link(f"{root}/32769/0"), link("/3/0")


def record(content: Notification, offset: int = 5) -> SinkRecord:
    return SinkRecord(
        topic=TOPICS.observations,
        partition=0,
        offset=offset,
        timestamp=content.timestamp,
        key=None,
        record=content,
        gateway=GATEWAY,
    )


def raw(value: Value, kind: ResourceType, *, path: str = TEMPERATURE, at: int = 1_000) -> SinkRecord:
    return record(notification(resource(path, value, kind), timestamp=at))


def told(*events: Registration) -> Announced:
    announced = Announced()
    for event in events:
        announced.tell(GATEWAY, event)
    return announced


def value_of(found: SinkRecord) -> tuple[ResourceType, Value]:
    said = found.record
    assert isinstance(said, Notification) and isinstance(said.rep.body, ReadBody)
    content = said.rep.body.content
    assert isinstance(content, Resource)
    return content.type, content.value


def at_times(*versions: tuple[int, str | None]) -> Announced:
    return told(*(new(links=boiler(version), last_up=time) for time, version in versions))


def test_the_version_is_that_of_the_time_of_the_record() -> None:
    announced = at_times((100, "1.2"), (500, None), (900, "2.0"))
    redecoder = Redecoder(DEFINITIONS, announced)
    for at, expected in (
        (100, (ResourceType.FLOAT, 5.0)),
        (499, (ResourceType.FLOAT, 5.0)),
        # Without ver= it is of version 1.0, of which the newest known one is 1.2.
        (500, (ResourceType.FLOAT, 5.0)),
        (900, (ResourceType.INTEGER, 5)),
    ):
        assert value_of(redecoder.every(raw("5", ResourceType.STRING, at=at))) == expected


def test_a_device_whose_registration_is_not_in_the_log_keeps_what_came() -> None:
    came = raw("5", ResourceType.STRING, at=50)
    redecoder = Redecoder(DEFINITIONS, at_times((100, "1.2")))
    assert redecoder.only_changed(came) is None
    assert redecoder.every(came) is came
    assert redecoder.found.unannounced == 2
    assumed = Redecoder(DEFINITIONS, Announced(), otherwise="2.0")
    assert value_of(assumed.every(came)) == (ResourceType.INTEGER, 5)
    assert assumed.found.unannounced == 0


def test_a_version_of_which_no_model_is_known_leaves_what_came() -> None:
    redecoder = Redecoder(DEFINITIONS, at_times((100, "7.0")))
    assert redecoder.only_changed(raw("5", ResourceType.STRING)) is None
    assert (redecoder.found.seen, redecoder.found.unannounced, redecoder.found.misfits) == (1, 0, 0)


def test_updates_count_where_they_have_links_and_the_root_is_that_of_the_registration() -> None:
    first = new(links=boiler("1.2", root="/lwm2m"))
    body = first.body
    assert isinstance(body, RegistrationNew)
    first = replace(first, body=replace(body, root="/lwm2m"))
    second = update(links=boiler("2.0", root="/lwm2m"))
    assert isinstance(second.body, RegistrationUpdate) and second.kind is RegistrationKind.UPDATE
    announced = told(first, update(), second, update())
    assert announced.at(GATEWAY, "ep-1", 150) == {32769: "1.2"}
    assert announced.at(GATEWAY, "ep-1", 10**15) == {32769: "2.0"}
    assert announced.at("other", "ep-1", 10**15) is None
    assert announced_versions([link("/x", "1.0"), link("/3", '"1.1"')], "/") == {3: "1.1"}


def test_only_the_objects_that_are_asked_for_and_only_values_are_read_again() -> None:
    redecoder = Redecoder(DEFINITIONS, at_times((0, "1.2")), objects={32769})
    for other in (
        raw("5", ResourceType.STRING, path="/32770/0/0"),
        raw(5.0, ResourceType.FLOAT),
        record(notification(resource(TEMPERATURE, 5.0))),
        replace(raw("5", ResourceType.STRING), record=reply(GenericBody(message="no"), path=TEMPERATURE)),
        replace(raw("5", ResourceType.STRING), record=new()),
    ):
        assert redecoder.only_changed(other) is None
        assert redecoder.every(other) is other
    answer = replace(
        raw("5", ResourceType.STRING),
        record=reply(ReadBody(content=resource(TEMPERATURE, "5", ResourceType.STRING)), path=TEMPERATURE),
    )
    changed = redecoder.only_changed(answer)
    assert changed is not None and changed.redecoded
    assert (changed.topic, changed.offset) == (answer.topic, answer.offset)


def test_each_value_of_a_composite_read_is_read_again() -> None:
    announced = at_times((100, "1.2"))
    came = (
        resource("/32769/1/1", "7", ResourceType.STRING),
        resource(TEMPERATURE, "5", ResourceType.STRING),
        resource("/65001/0/1", b"raw", ResourceType.OPAQUE),
    )
    one = replace(raw(5.0, ResourceType.FLOAT), record=reply(CompositeBody(resources=came), path="/"))
    again = Redecoder(DEFINITIONS, announced).every(one)
    assert again.redecoded and isinstance(again.record, Response)
    assert again.record.rep.body == CompositeBody(
        resources=(resource("/32769/1/1", 7.0), resource(TEMPERATURE, 5.0), came[2])
    )
    assert Redecoder(DEFINITIONS, announced).only_changed(replace(again, redecoded=False)) is None
    others = Redecoder(DEFINITIONS, announced, objects=frozenset({65001, 3}))
    assert (others.only_changed(one), others.found.seen) == (None, 1)
    nothing = Redecoder(DEFINITIONS, announced, objects=frozenset({3}))
    assert (nothing.only_changed(one), nothing.found.seen) == (None, 0)


def test_misfits_are_counted_and_the_record_stays() -> None:
    redecoder = Redecoder(DEFINITIONS, at_times((0, "1.2")))
    assert redecoder.only_changed(raw("warm", ResourceType.STRING)) is None
    assert redecoder.found.misfits == 1
    assert "/32769/0/1" in redecoder.found.reasons[0]


def test_sqlite_puts_what_was_redecoded_in_the_place_of_what_came(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    came = raw("5", ResourceType.STRING)
    changed = Redecoder(DEFINITIONS, at_times((0, "1.2"))).every(came)
    sink = open_sqlite({"file": str(file)})
    sql = "SELECT type, value, number, text FROM history"
    sink.write([came])
    assert rows(file, sql) == [("STRING", "5", None, "5")]
    for _ in range(2):
        sink.write([changed])
        assert rows(file, sql) == [("FLOAT", 5.0, 5.0, None)]
    # What is offered again as it came, by whatever, changes nothing.
    sink.write([came])
    assert rows(file, sql) == [("FLOAT", 5.0, 5.0, None)]
    assert rows(file, "SELECT type, value FROM latest") == [("FLOAT", 5.0)]
    sink.close()


def test_influxdb_empties_the_text_that_came() -> None:
    formatter = Formatter(PointTime.GATEWAY)
    came = raw("5", ResourceType.STRING)
    changed = Redecoder(DEFINITIONS, at_times((0, "1.2"))).every(came)
    before, after = formatter.lines(came).text.decode(), formatter.lines(changed).text.decode()
    assert 'svalue="5"' in before
    assert 'value=5.0,svalue=""' in after
    nan = replace(changed, record=notification(resource(TEMPERATURE, float("nan"))))
    assert formatter.lines(nan).text.decode().count("svalue=") == 1
    # The same point: the same series at the same time.
    assert before.split(" ")[0] == after.split(" ")[0]
    assert before.split(" ")[-1] == after.split(" ")[-1]
