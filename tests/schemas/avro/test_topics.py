"""Topic names, as the contract has them, and gateway ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro.registry import SCHEMAS
from schemas.avro.topics import (
    FAMILIES,
    KEY_SUBJECT,
    InvalidGatewayId,
    TopicKind,
    Topics,
    UnknownTopic,
    is_of_job,
)

segments = st.text("abcXYZ019_-", min_size=1, max_size=12) | st.sampled_from(
    ["iot", "analytics", "observations", "management", "req", "registrations", "maxper30sec", "commands", "deadletter"]
)
gateways = st.lists(segments, min_size=1, max_size=5).map(".".join)


def test_topics_are_those_of_the_contract() -> None:
    topics = Topics("rock64")
    assert topics.partitions() == {
        "iot.rock64.registrations": 2,
        "iot.rock64.observations": 2,
        "iot.rock64.management.req": 1,
        "iot.rock64.management.rep": 2,
        "analytics.rock64.observations.maxper30sec": 2,
        "iot.rock64.commands": 1,
        "iot.rock64.deadletter": 1,
        "iot.rock64.files": 1,
    }
    assert topics.downlink == ("iot.rock64.management.req", "iot.rock64.files")
    of_jobs = tuple(f"analytics.rock64.{name}" for name in ("aggregates", "statistics", "readings", "alerts", "joined"))
    assert topics.uplink == (*(name for name in topics.partitions() if name not in topics.downlink), *of_jobs)
    assert topics.requests == "iot.rock64.management.req"
    assert topics.replies == "iot.rock64.management.rep"
    assert topics.registrations == "iot.rock64.registrations"
    assert topics.observations == "iot.rock64.observations"
    assert topics.maxper30sec == "analytics.rock64.observations.maxper30sec"
    assert topics.commands == "iot.rock64.commands"
    assert topics.deadletter == "iot.rock64.deadletter"


def test_topics_of_jobs_are_known_and_not_needed() -> None:
    topics = Topics("rock64")
    assert [name for name in topics.uplink if is_of_job(name)] == [
        name for name in topics.uplink if name not in topics.partitions()
    ]
    assert not is_of_job(topics.maxper30sec)  # of old, made with the others
    assert not is_of_job("weather")


@given(gateways)
def test_a_topic_tells_its_gateway_and_kind(gateway: str) -> None:
    topics = Topics(gateway)
    for kind in TopicKind:
        assert Topics.of(topics.name(kind)) == (topics, kind)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "iot",
        "iot.rock64",
        "iot..observations",
        "iot.observations",
        "iot.rock64.observations.changelog",
        "analytics.rock64.observations",
        "iot.a b.observations",
        "__consumer_offsets",
        "iot.rock64.observations\n",
    ],
)
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(UnknownTopic):
        Topics.of(topic)


@pytest.mark.parametrize(
    "gateway", ["", ".", "..", ".a", "a.", "a..b", "a/b", "a b", "a\n", "é", "a*", "x" * 101, "a:b", "a\0"]
)
def test_gateway_id_that_kafka_or_a_reader_would_misread_is_refused(gateway: str) -> None:
    with pytest.raises(InvalidGatewayId, match="gateway id"):
        Topics(gateway)


def test_longest_gateway_id_fits_into_kafkas_names() -> None:
    assert max(map(len, Topics("x" * 100).partitions())) <= 249


def test_every_family_has_its_subject() -> None:
    subjects = {family.subject for family in FAMILIES.values() if family.subject is not None}
    keys = {family.key_subject for family in FAMILIES.values()}
    assert KEY_SUBJECT in keys
    assert subjects | keys == {schema.subject for schema in SCHEMAS.values()}
