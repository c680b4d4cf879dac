"""Which topics there are, and how they are made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from connectors.kafka.answers import Unreachable, answering
from connectors.kafka.cluster import Cluster, admin, cluster_of, glance
from connectors.kafka.tls_trouble import trouble
from schemas.avro.topics import settings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """What tells a topic from another of the same name (KIP-516), and how many partitions it has."""

    id: str
    partitions: int


def metadata(client: AdminClient | Consumer, cluster: Cluster, timeout: float) -> dict[str, Any]:
    """Every topic that we may know of, as Kafka's client describes them.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
    """
    try:
        topics: dict[str, Any] = client.list_topics(timeout=timeout).topics
    except KafkaException as exc:
        why = trouble(cluster.bootstrap, cluster.tls)
        raise Unreachable(
            f"no Kafka answers at {cluster.bootstrap} ({why or exc.args[0].str()})"
            + ("" if why else "; is it running, and is the address right?")
        ) from exc
    return topics


def partition_counts(cluster: Cluster, topics: Sequence[str], *, timeout: float = 10.0) -> dict[str, int]:
    """The number of partitions by topic; a topic that does not exist is left out.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        NotAllowed: it may be there, and is not for us.
    """
    with glance(cluster, "headwater-look") as reader:
        return counts_seen_by(reader, cluster, topics, timeout)


def counts_seen_by(reader: Consumer, cluster: Cluster, topics: Sequence[str], timeout: float) -> dict[str, int]:
    """As `partition_counts`, by a consumer that is there."""
    known = metadata(reader, cluster, timeout)
    if cluster.tls is not None and (hidden := [name for name in topics if name not in known]):
        # Of all topics those are told that we may know of; of one by its name we are told that we may not.
        describe_topics(admin(cluster), hidden, timeout=timeout)
    return {name: len(known[name].partitions) for name in topics if name in known and known[name].error is None}


def topic_counts(cluster: Cluster, *, timeout: float = 10.0) -> dict[str, int]:
    """The number of partitions by topic, of every topic that there is. Raises as `partition_counts`."""
    with glance(cluster, "headwater-look") as reader:
        known = metadata(reader, cluster, timeout)
    return {name: len(topic.partitions) for name, topic in known.items() if topic.error is None}


def describe_topics(client: AdminClient, topics: Sequence[str], *, timeout: float = 10.0) -> dict[str, TopicFacts]:
    """Those of ``topics`` that exist, by name; asks for these alone, so that it stays cheap on a cluster of many.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        KafkaException: the broker refused to tell.
    """
    found: dict[str, TopicFacts] = {}
    if not topics:
        return found
    for name, future in client.describe_topics(TopicCollection(list(topics)), request_timeout=timeout).items():
        with answering(f"what topic {name} is", cluster_of(client)):
            try:
                told = future.result(timeout + 1)
            except KafkaException as exc:
                if exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise
            found[name] = TopicFacts(id=str(told.topic_id), partitions=len(told.partitions))
    return found


def topic_configs(client: AdminClient, topics: Sequence[str], *, timeout: float = 10.0) -> dict[str, dict[str, str]]:
    """The settings of existing topics, the broker's defaults included, by topic.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        KafkaException: the broker refused to tell.
    """
    if not topics:
        return {}
    asked = client.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in topics], request_timeout=timeout
    )
    configs = {}
    for resource, future in asked.items():
        with answering(f"how topic {resource.name} is set", cluster_of(client)):
            configs[resource.name] = {name: str(entry.value) for name, entry in future.result(timeout + 1).items()}
    return configs


def cluster_id(cluster: Cluster, *, timeout: float = 10.0) -> str:
    """What tells one cluster from all others, however it is addressed.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
    """
    # Not DescribeCluster: librdkafka aborts the process when a broker that just came up answers that with no brokers.
    # A consumer asks for one topic and makes none.
    with glance(cluster, "headwater-look") as reader, answering("the cluster's id", cluster):
        found = reader.list_topics("headwater-look", timeout=timeout).cluster_id
    if not found:
        raise Unreachable(f"Kafka at {cluster.bootstrap} did not tell the cluster's id")
    return str(found)


#: Records carry the time of where they come from. Kafka's default refuses what is an hour ahead of the broker's clock,
#: and an edge whose clock is wrong must not be stopped by that.
_CLOCK = "message.timestamp.after.max.ms"


_ANY_CLOCK = {_CLOCK: str(2**63 - 1)}


def ensure_topics(
    cluster: Cluster,
    partitions: Mapping[str, int],
    *,
    config: Mapping[str, Mapping[str, str]] | None = None,
    timeout: float = 15.0,
) -> list[str]:
    """Create the topics that are missing, with their partition count, and wait until each partition has a leader.

    ``config`` goes before the settings that a gateway's topics have by themselves (`schemas.avro.topics.settings_of`).

    Returns the names that were created.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        KafkaException: the broker refused a topic.
    """
    with glance(cluster, "headwater-look") as reader:
        known = metadata(reader, cluster, timeout)
    wanted = {
        name: {**_ANY_CLOCK, **settings_of(name), **(config or {}).get(name, {})}
        for name in partitions
        if name not in known
    }
    if not wanted:
        return []
    client = admin(cluster)
    created = []
    asked = dict(wanted)
    while asked:
        topics = [
            NewTopic(name, num_partitions=partitions[name], replication_factor=-1, config=dict(settings))
            for name, settings in asked.items()
        ]
        asked = {}
        for name, future in client.create_topics(topics, operation_timeout=timeout).items():
            with answering(f"that topic {name} is made", cluster):
                try:
                    future.result(timeout)
                    created.append(name)
                except KafkaException as exc:
                    code = exc.args[0].code()
                    if code == KafkaError.INVALID_CONFIG and _CLOCK in wanted[name]:
                        # A broker before 3.6 does not know the setting, and takes records of any clock without it.
                        del wanted[name][_CLOCK]
                        asked[name] = wanted[name]
                    elif code != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise
    # A broker acknowledges a topic before all of it knows it.
    until = time.monotonic() + timeout
    while not _all_led(client, list(wanted), timeout) and time.monotonic() < until:
        time.sleep(0.02)
    return created


def _all_led(client: AdminClient, topics: Sequence[str], timeout: float) -> bool:
    if not topics:
        return True
    for future in client.describe_topics(TopicCollection(list(topics)), request_timeout=timeout).values():
        try:
            told = future.result(timeout + 1)
        except (KafkaException, TimeoutError):
            return False
        if any(partition.leader is None or partition.leader.id < 0 for partition in told.partitions):
            return False
    return True
