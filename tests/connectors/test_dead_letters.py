"""Dead letters on their way: all arrive, and one that cannot go yet holds nobody who waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from connectors.dead_letters import DeadLetter, DeadLetterOffice, RawRecord
from connectors.kafka import Cluster, ensure_topics
from schemas.avro.topics import Topics
from tests.kafka_brokers import BrokerFactory, controller_in_place_of
from tests.ports import held_port
from tests.sink_harness import dead_letters, make_topics


def some(gateway: str, number: int) -> list[DeadLetter]:
    topic = Topics(gateway).observations
    return [
        DeadLetter(
            record=RawRecord(
                topic=topic, partition=0, offset=offset, timestamp=offset, headers=(), key=None, value=b"junk"
            ),
            error="junk",
            stage="decode",
        )
        for offset in range(number)
    ]


def test_with_kafka_away_it_asks_after_one_letter_whether_to_go_on() -> None:
    # One letter waits two seconds for Kafka. All of these one after the other would not end before the test's timeout.
    office = DeadLetterOffice(Cluster(bootstrap=f"127.0.0.1:{held_port()}"))
    answers = [True, True, False]
    assert not office.deliver(some("gw", 500), lambda: answers.pop(0))
    assert answers == []


@pytest.mark.kafka
def test_every_letter_of_a_large_batch_arrives(kafka: Cluster, gateway_id: str) -> None:
    make_topics(kafka, gateway_id)
    office = DeadLetterOffice(kafka)
    assert office.deliver(some(gateway_id, 300), lambda: True)
    office.close()
    assert sorted(letter.record.offset for letter in dead_letters(kafka, gateway_id)) == list(range(300))


@pytest.mark.kafka
def test_a_topic_that_kafka_refuses_to_make_is_asked_for_and_told_once_a_turn(kafka: Cluster, gateway_id: str) -> None:
    # Kafka takes no two names that differ in dots and underscores alone.
    ensure_topics(kafka, {Topics(gateway_id).deadletter.replace(".", "_"): 1})
    office = DeadLetterOffice(kafka)
    answers = [True, True, False]
    with structlog.testing.capture_logs() as said:
        assert not office.deliver(some(gateway_id, 300), lambda: answers.pop(0))
    # What else runs in this process may log too.
    told = [line for line in said if line["event"] == "dead letters not delivered yet"]
    assert len(told) == 3


@pytest.mark.kafka
def test_letters_arrive_though_their_producer_failed_for_good_while_something_else_had_kafkas_address(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")
    make_topics(edge.cluster, gateway_id)
    office = DeadLetterOffice(edge.cluster)
    assert office.deliver(some(gateway_id, 1), lambda: True)
    office.close()
    edge.kill()
    refusals: list[str] = []
    with structlog.testing.capture_logs() as said, controller_in_place_of(edge, tmp_path / "stranger"):

        def refused() -> bool:
            refusals[:] = [line["error"] for line in said if line["event"] == "dead letters not delivered yet"]
            return len(refusals) < 2

        assert not office.deliver(some(gateway_id, 300), refused)
    assert "Idempotent producer not supported" in refusals[0]
    edge.restart()
    assert office.deliver(some(gateway_id, 300), lambda: True)
    office.close()
    assert {letter.record.offset for letter in dead_letters(edge.cluster, gateway_id)} == set(range(300))
