"""What a client can do on a real Kafka, found out by trying each thing as a stranger's program would."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, TopicCollection
from confluent_kafka.admin import NewTopic

from connectors.kafka import (
    OFFSET_BEGINNING,
    AlterConfigOpType,
    Cluster,
    ConfigEntry,
    ConfigResource,
    KafkaError,
    KafkaException,
    Message,
    ResourceType,
    TopicPartition,
    admin,
    consumer,
    producer,
)

PATIENCE_S = 30.0
#: How Kafka says no.
NO = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)


def written(cluster: Cluster, topics: Iterable[str]) -> set[str]:
    """Those that took a record."""
    taken: set[str] = set()
    refused: set[str] = set()

    def reporter(topic: str) -> Callable[[KafkaError | None, Message], None]:
        def report(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                taken.add(topic)
            else:
                assert error.code() in NO, error
                refused.add(topic)

        return report

    client = producer(
        cluster, enable_gapless_guarantee=False, enable_idempotence=False, message_timeout_ms=int(PATIENCE_S * 1000)
    )
    wanted = set(topics)
    for topic in wanted:
        # With a key: a compacted topic takes no record without one.
        client.produce(topic, b"attempt", b"key", partition=0, on_delivery=reporter(topic))
    assert client.flush(PATIENCE_S) == 0
    assert taken | refused == wanted
    return taken


def read(cluster: Cluster, topics: Iterable[str]) -> set[str]:
    """Those of which records, or the end, came."""
    # Of a topic that may not be described no client even learns which broker has it, and waits for ever.
    waiting = found_out(cluster, topics)
    found = set()
    # A group of which nothing is asked: the topics alone are in question.
    reader = consumer(cluster, "attempt", enable_partition_eof=True)
    try:
        reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in waiting])
        until = time.monotonic() + PATIENCE_S
        while waiting:
            assert time.monotonic() < until, f"no word of {waiting}"
            for message in reader.consume(100, timeout=0.2):
                error, topic = message.error(), message.topic()
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    found.add(topic)
                    waiting.discard(topic)
                elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    waiting.discard(topic)
    finally:
        reader.close()
    return found


def found_out(cluster: Cluster, topics: Iterable[str]) -> set[str]:
    """Those of which it learns that they are there, asked by their names."""
    client = admin(cluster)
    return _allowed(client.describe_topics(TopicCollection(list(topics))))


def created(cluster: Cluster, topics: Iterable[str]) -> set[str]:
    """Those that it would make; none is made."""
    client = admin(cluster)
    asked = [NewTopic(topic, num_partitions=1, replication_factor=1) for topic in topics]
    return _allowed(client.create_topics(asked, validate_only=True), (KafkaError.TOPIC_ALREADY_EXISTS,))


def deleted(cluster: Cluster, topics: Iterable[str]) -> set[str]:
    """Those that it deleted."""
    client = admin(cluster)
    return _allowed(client.delete_topics(list(topics)))


def described(cluster: Cluster, topics: Iterable[str]) -> set[str]:
    """Those whose settings were told."""
    client = admin(cluster)
    asked = client.describe_configs([ConfigResource(ResourceType.TOPIC, topic) for topic in topics])
    return {resource.name for resource in _allowed(asked)}


def altered(cluster: Cluster, topics: Iterable[str]) -> set[str]:
    """Those whose settings it could change."""
    entry = ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in topics]
    client = admin(cluster)
    return {resource.name for resource in _allowed(client.incremental_alter_configs(resources))}


def committed(cluster: Cluster, group: str, topic: str) -> bool:
    """Whether it could commit an offset in the group."""
    client = admin(cluster)
    offset = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 0)])
    return bool(_allowed(client.alter_consumer_group_offsets([offset])))


def dissolved(cluster: Cluster, groups: Iterable[str]) -> set[str]:
    """The groups that it deleted, with all their offsets; one that is not there is none."""
    client = admin(cluster)
    return _allowed(client.delete_consumer_groups(list(groups)))


def transacted(cluster: Cluster, transactional_id: str) -> bool:
    """Whether it could take the transactional id, and so fence whoever has it."""
    client = producer(
        cluster, transactional_id=transactional_id, enable_gapless_guarantee=False, message_timeout_ms=10_000
    )
    try:
        client.init_transactions(PATIENCE_S)
    except KafkaException as exc:
        assert exc.args[0].code() in NO, exc
        return False
    finally:
        client.purge()
    return True


def _allowed(answers: dict[Any, Any], fine: Collection[int] = ()) -> set[Any]:
    """What was not refused. The client that was asked has to live as long."""
    found = set()
    for thing, future in answers.items():
        try:
            future.result(PATIENCE_S)
        except KafkaException as exc:
            code = exc.args[0].code()
            if code not in fine:
                assert code in NO, (thing, exc)
                continue
        found.add(thing)
    return found
