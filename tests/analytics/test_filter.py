"""The job filter without Kafka: which topics, which rows of which records, what goes on and how."""

from __future__ import annotations

import json
import math
import tomllib
from typing import Any

import pytest
from hypothesis import example, given

from analytics.job import WHEN_PUT_OUT, Headers, Incoming, JobConfigError, Surroundings, parse_options
from analytics.jobs.filter import KIND
from analytics.rows import rows
from analytics.selection import FIELDS
from schemas.avro.errors import SerdeError
from schemas.avro.records import (
    Aggregate,
    CommandKey,
    GenericBody,
    Key,
    Notification,
    Record,
    Request,
    RequestKind,
    RequestPayload,
    ResponseCode,
)
from schemas.avro.serde import encode
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Instance, MultipleResource, ObjectLink, ResourceType
from schemas.lwm2m.path import Path
from tests.analytics.dict_state import Counts, DictState
from tests.record_strategies import records
from tests.sink_samples import delete, new, notification, reply, resource

T0 = 1_790_000_000_000
OBSERVATIONS = "iot.gw.observations"


class Trial:
    """A filter with its surroundings."""

    def __init__(self, query: str, **options: Any) -> None:
        given = {"query": query, **(options or {"to": "out"})}
        self.shown: list[Any] = []
        self.emitted: list[tuple[Any, ...]] = []
        around = Surroundings(gateway="gw", group="g", metrics=Counts(), show=self.shown.append)
        self.job = KIND.make(parse_options(KIND, given), around)

    def take(self, record: Record | bytes | None, late: bool = False, offset: int = 7) -> list[tuple[Any, ...]]:
        """What goes out by the record."""
        before = len(self.emitted)
        value = record if record is None or isinstance(record, bytes) else encode(record)
        headers = [("late", b"1" if late else b"0")]
        self.job.take(Incoming(OBSERVATIONS, 1, offset, T0, b"key", value, headers), DictState(), self._emit)
        return self.emitted[before:]

    def chosen(self, record: Record, late: bool = False) -> list[Any]:
        return [json.loads(value) for _, _, value, *_ in self.take(record, late)]

    def _emit(
        self, topic: str, key: bytes | None, value: bytes, timestamp: int = WHEN_PUT_OUT, headers: Headers = ()
    ) -> None:
        self.emitted.append((topic, key, value, timestamp, headers))


def test_everything_of_a_record_is_passed_on() -> None:
    trial = Trial("SELECT * FROM * WHERE result < 4")
    cold = notification(resource("/3303/0/5700", 3.5))
    assert trial.take(cold) == [("out", b"key", encode(cold), WHEN_PUT_OUT, [("late", b"0")])]
    assert trial.take(notification(resource("/3303/0/5700", 4.0))) == []
    assert trial.take(None) == []
    assert trial.shown == [cold]


def test_a_record_of_several_values_is_passed_on_once() -> None:
    both = Instance(path=Path(3303, 0), resources=(resource("/3303/0/5601", 1.5), resource("/3303/0/5602", 4.0)))
    assert len(Trial("SELECT * FROM * WHERE value > 0").take(notification(both))) == 1
    chosen = Trial("SELECT path, value FROM * WHERE value > 0").chosen(notification(both))
    assert chosen == [{"path": "/3303/0/5601", "value": 1.5}, {"path": "/3303/0/5602", "value": 4.0}]


def test_late_records_are_told_apart() -> None:
    trial = Trial("SELECT ep, late FROM * WHERE NOT late")
    record = notification(resource("/3303/0/5700", 1.0))
    assert trial.chosen(record) == [{"ep": "ep-1", "late": False}]
    assert trial.chosen(record, late=True) == []


def test_every_field_is_there() -> None:
    trial = Trial(f"SELECT {', '.join(FIELDS)} FROM *")
    record = notification(resource("/3303/1/5700", 21.5, timestamp=T0 - 5), timestamp=T0)
    assert trial.chosen(record) == [
        {
            "ep": "ep-1",
            "path": "/3303/1/5700",
            "object": 3303,
            "instance": 1,
            "resource": 5700,
            "value": 21.5,
            "svalue": None,
            "bvalue": None,
            "type": "FLOAT",
            "time": T0 - 5,
            "gateway_time": T0,
            "kind": "observe",
            "code": "CONTENT",
            "ticket": "ticket#1",
            "observationId": "obs-1",
            "serverId": "gw1",
            "late": False,
            "topic": OBSERVATIONS,
            "partition": 1,
            "offset": 7,
        }
    ]


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        (math.nan, ResourceType.FLOAT, ("NaN", None, None)),
        (-math.inf, ResourceType.FLOAT, ("-Infinity", None, None)),
        (True, ResourceType.BOOLEAN, (True, None, True)),
        ("on", ResourceType.STRING, ("on", "on", None)),
        (b"\0\xff", ResourceType.OPAQUE, ("AP8=", "AP8=", None)),
        (ObjectLink(3, 0), ResourceType.OBJLNK, ("3:0", "3:0", None)),
        (2**62, ResourceType.INTEGER, (2**62, None, None)),
    ],
)
def test_values_of_all_types(value: Any, kind: ResourceType, wanted: tuple[Any, ...]) -> None:
    [found] = Trial("SELECT value, svalue, bvalue FROM *").chosen(notification(resource("/3303/0/5850", value, kind)))
    assert tuple(found.values()) == wanted


def test_nan_is_below_and_above_nothing() -> None:
    nan = notification(resource("/3303/0/5700", math.nan))
    assert Trial("SELECT * FROM * WHERE value < 4 OR value >= 4").take(nan) == []


QUERY = "SELECT ep, kind, code, path, object, instance, resource, value, time FROM *"


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        (new(), {"ep": "ep-1", "kind": "NEW", "path": None}),
        (delete(expired=True), {"ep": "ep-1", "kind": "DELETE"}),
        (
            reply(GenericBody(message="no"), path="/3/0/4", code=ResponseCode.NOT_FOUND, kind=RequestKind.EXECUTE),
            {"kind": "execute", "code": "NOT_FOUND", "path": "/3/0/4", "value": None, "resource": 4, "time": 1_000},
        ),
        (
            Request(
                server_id="gw", ep="e", ticket="t", payload=RequestPayload(kind=RequestKind.READ, path="/3303/0/5700")
            ),
            {"ep": "e", "kind": "read", "path": "/3303/0/5700", "object": 3303},
        ),
        (
            Aggregate(
                server_id="gw",
                ep="e",
                start=5,
                end=9,
                count=1,
                min=1.0,
                max=1.0,
                mean=1.0,
                sum=1.0,
                last=1.0,
                path="/1/0/2",
            ),
            {"ep": "e", "kind": "Aggregate", "path": "/1/0/2", "time": 5, "value": None, "instance": 0},
        ),
        (Key(ep="k"), {"ep": "k", "path": None}),
        (
            notification(
                MultipleResource(
                    path=Path(3, 0, 7),
                    type=ResourceType.INTEGER,
                    instances=(resource("/3/0/7/1", 5, ResourceType.INTEGER),),
                )
            ),
            {"path": "/3/0/7/1", "resource": 7, "value": 5},
        ),
    ],
)
def test_records_of_other_kinds_have_rows(record: Record, wanted: dict[str, Any]) -> None:
    [found] = Trial(QUERY).chosen(record)
    assert wanted.items() <= found.items()


def test_windows_keep_the_function_in_their_path() -> None:
    plain = notification(resource("/3303/0/5700", 30.0))
    of_window = Notification(
        ticket="t",
        observation_id="max-temperature",
        server_id="gw",
        ep="ep-1",
        path="/3303/0/5700-max",
        timestamp=T0,
        rep=plain.rep,
    )
    [found] = Trial(QUERY).chosen(of_window)
    assert (found["path"], found["resource"], found["value"]) == ("/3303/0/5700-max", 5700, 30.0)


@given(records)
@example(CommandKey(ep="ep-1", request="t"))
def test_any_record_has_rows_of_all_fields(record: Record) -> None:
    found = list(rows(record, topic="t", partition=0, offset=1, late=True))
    assert found
    assert all(row.keys() == FIELDS.keys() for row in found)
    assert all(row["late"] is True and row["offset"] == 1 and isinstance(row["ep"], str) for row in found)


def test_what_is_no_record_is_raised() -> None:
    with pytest.raises(SerdeError):
        Trial("SELECT * FROM *").take(b"poison")


@pytest.mark.parametrize(
    ("source", "topics"),
    [
        ("*", ["iot.*.observations"]),
        ("observations, replies", ["iot.gw.observations", "iot.gw.management.rep"]),
        ("Registrations", ["iot.gw.registrations"]),
        ("alerts", ["analytics.gw.alerts"]),
        ("maxper30sec, joined", ["analytics.gw.observations.maxper30sec", "analytics.gw.joined"]),
        ("iot.other-1.observations", ["iot.other-1.observations"]),
        ('observations, "iot.gw.observations"', ["iot.gw.observations"]),
    ],
)
def test_from_is_topics(source: str, topics: list[str]) -> None:
    options = parse_options(KIND, {"query": f"SELECT * FROM {source}", "to": "out"})
    assert KIND.reads(options, Topics("gw")) == topics
    assert KIND.writes(options, Topics("gw")) == {"out": 2}


def test_only_shown_goes_to_no_topic() -> None:
    trial = Trial("SELECT value FROM *", print=True)
    assert trial.take(notification(resource("/3303/0/5700", 4.0))) == []
    assert trial.shown == [{"value": 4.0}]
    assert KIND.writes(parse_options(KIND, {"query": "SELECT * FROM *", "print": True}), Topics("gw")) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"query": "SELECT nothing FROM *", "to": "x"}, "--query: there is no field 'nothing'"),
        ({"query": "SELECT * FROM nowhere", "to": "x"}, "neither .* nor a topic's full name"),
        ({"query": 'SELECT * FROM "a b.c"', "to": "x"}, "neither .* nor a topic's full name"),
        ({"query": "SELECT * FROM *"}, "--to TOPIC, or --print"),
        ({"query": "SELECT * FROM *", "to": "x", "print": True}, "exclude each other"),
        ({"query": "SELECT * FROM *", "to": OBSERVATIONS}, "read its own results"),
        ({"query": "SELECT * FROM *", "to": "no such topic"}, "--to: 'no such topic' is no name of a topic"),
        ({"to": "x"}, "needs --query"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(JobConfigError, match=said):
        parsed = parse_options(KIND, options)
        KIND.reads(parsed, Topics("gw"))
        KIND.make(parsed, Surroundings(gateway="gw", group="g", metrics=Counts()))


def test_the_sample_works() -> None:
    options = parse_options(KIND, tomllib.loads(KIND.sample))
    KIND.make(options, Surroundings(gateway="gw", group="g", metrics=Counts()))
    assert set(tomllib.loads(KIND.sample)) == set(KIND.options.model_fields)


def test_now_is_the_clocks() -> None:
    trial = Trial("SELECT * FROM * WHERE time > now() - INTERVAL '5 minutes'")
    assert trial.take(notification(resource("/3303/0/5700", 4.0), timestamp=1_000)) == []
    assert len(trial.take(notification(resource("/3303/0/5700", 4.0), timestamp=2**50))) == 1
