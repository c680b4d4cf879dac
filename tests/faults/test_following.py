"""Whoever follows what comes is told when Kafka is away, and goes on by himself when it is back."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from connectors.kafka import ensure_topics
from schemas.avro.topics import Topics
from tests.kafka_brokers import BrokerFactory
from tests.way import Part, produce, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]


def test_who_follows_is_told_once_that_kafka_is_away_and_that_it_is_back(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    broker = broker_factory("cloud")
    topics = Topics(gateway_id)
    ensure_topics(broker.cluster, topics.partitions())
    produce(broker.cluster, topics.observations, b"before")
    where = ("--gateway", gateway_id, "--kafka", broker.cluster.bootstrap)
    with (
        Part("tail", tmp_path, "tail", "observations", "--from-beginning", *where) as tail,
        Part("devices", tmp_path, "devices", "--watch", *where) as devices,
    ):
        until("the first record is shown", lambda: b64encode(b"before").decode() in tail.said())
        until("the devices are shown", lambda: "no device has registered yet" in devices.said())
        broker.kill()
        for part in (tail, devices):
            until(
                f"{part.name} says that Kafka is away",
                lambda part=part: f"waiting for Kafka: no broker answers at {broker.cluster.bootstrap}" in part.said(),  # type: ignore[misc]  # a lambda
            )
        broker.restart()
        produce(broker.cluster, topics.observations, b"after")
        until("the next record is shown", lambda: b64encode(b"after").decode() in tail.said())
        until("it says that Kafka is back", lambda: "Kafka answers again" in devices.said())
        assert tail.said().count("waiting for Kafka") == 1
