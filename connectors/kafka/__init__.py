"""The door to Kafka: the only package that imports confluent_kafka.

Everyone else asks here for a producer, a consumer or topics. It holds no rule of its own about records.
"""

from __future__ import annotations

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from connectors.kafka.answers import (
    REFUSALS,
    SILENCE,
    NotAllowed,
    TopicMissing,
    Unreachable,
    answering,
    in_words,
    refusal_of,
    silence,
)
from connectors.kafka.cluster import Cluster, admin, consumer, glance, producer
from connectors.kafka.logs import end_offsets, log_bounds, offset_since, read_to_end
from connectors.kafka.topics import (
    TopicFacts,
    cluster_id,
    describe_topics,
    ensure_topics,
    metadata,
    partition_counts,
    topic_configs,
    topic_counts,
)

__all__ = [
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "OFFSET_INVALID",
    "REFUSALS",
    "SILENCE",
    "AclBinding",
    "AclBindingFilter",
    "AclOperation",
    "AclPermissionType",
    "AdminClient",
    "AlterConfigOpType",
    "Cluster",
    "ConfigEntry",
    "ConfigResource",
    "Consumer",
    "KafkaError",
    "KafkaException",
    "Message",
    "NotAllowed",
    "Producer",
    "ResourcePatternType",
    "ResourceType",
    "TopicFacts",
    "TopicMissing",
    "TopicPartition",
    "Unreachable",
    "admin",
    "answering",
    "cluster_id",
    "consumer",
    "describe_topics",
    "end_offsets",
    "ensure_topics",
    "glance",
    "in_words",
    "log_bounds",
    "metadata",
    "offset_since",
    "partition_counts",
    "producer",
    "read_to_end",
    "refusal_of",
    "silence",
    "topic_configs",
    "topic_counts",
]
