"""The door to Kafka: the only module that imports confluent_kafka.

Owns how a cluster is reached and the settings under which nothing acknowledged is lost; everyone else asks here for
a producer, a consumer or topics. It holds no rule of its own about records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
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
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from connectors.kafka_log import Seldom
from connectors.tls_trouble import trouble
from security.certificate_dates import read_dates
from security.errors import SecurityError
from security.identities import Identity
from security.secrets import read_bounded
from security.tls_files import CA, CERTIFICATE, KEY

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

_log = logging.getLogger("headwater.kafka")
_log.addFilter(Seldom())


class Unreachable(Exception):
    """No broker of the cluster answered in time."""


class TopicMissing(Exception):
    """A topic that is needed does not exist."""


class NotAllowed(KafkaException):  # type: ignore[misc]  # confluent_kafka has no types
    """Kafka's access control refuses us. A `KafkaException`: who waits for Kafka waits for the right as well."""

    def __init__(self, error: KafkaError, words: str) -> None:
        super().__init__(error)
        self.words = words

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How to reach one Kafka cluster; ``options`` are librdkafka settings (timeouts) added to every client.

    ``tls`` is the folder of the identity with which TLS is spoken; None: none is. Its files are read by each new
    client; one that is there goes on with what it read, for new connections too (tried with librdkafka 2.12).
    """

    bootstrap: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Path | None = None

    @property
    def tls_settings(self) -> dict[str, str]:
        """What librdkafka is told of it."""
        if self.tls is None:
            return {}
        return {
            "security.protocol": "ssl",
            "ssl.ca.location": str(self.tls / CA),
            "ssl.certificate.location": str(self.tls / CERTIFICATE),
            "ssl.key.location": str(self.tls / KEY),
        }

    @property
    def speaker(self) -> str:
        """Whom Kafka takes us for, in words."""
        if self.tls is None:
            return "a client without an identity"
        try:
            return Identity.parse(read_dates(read_bounded(self.tls / CERTIFICATE))[0].name).principal
        except (SecurityError, ValueError):
            return f"the identity in {self.tls}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFacts:
    """What tells a topic from another of the same name (KIP-516), and how many partitions it has."""

    id: str
    partitions: int


def producer(cluster: Cluster, **options: Any) -> Producer:
    """An idempotent producer with acks=all that keeps order and never gives a record up by itself.

    With the gapless guarantee a record that fails fails the whole producer, so the delivery report of the last record
    of a partition also vouches for all before it. Option names are librdkafka's with ``_`` for ``.``.
    """
    settings: dict[str, Any] = {
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "message.timeout.ms": 0,
        "linger.ms": 2,
        # A broker that comes back should be found at once, not after librdkafka's ten seconds.
        "reconnect.backoff.max.ms": 1000,
    }
    return Producer(_settings(cluster, settings, options), logger=_log)


def consumer(cluster: Cluster, group: str, **options: Any) -> Consumer:
    """A consumer that commits only when told to, starts at the earliest record and reads committed data only."""
    settings: dict[str, Any] = {
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "reconnect.backoff.max.ms": 1000,
    }
    return Consumer(_settings(cluster, settings, options), logger=_log)


def admin(cluster: Cluster) -> AdminClient:
    """A client for topics and offsets."""
    client = _Admin(_settings(cluster, {}, {}), logger=_log)
    client.cluster = cluster
    return client


class _Admin(AdminClient):  # type: ignore[misc]  # confluent_kafka has no types
    """Knows its cluster, for what is said of a refusal."""

    cluster: Cluster


def _settings(cluster: Cluster, base: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    # Callbacks (error_cb, on_commit) are the Python client's own and keep their names.
    given = {name if callable(value) else name.replace("_", "."): value for name, value in options.items()}
    return {"bootstrap.servers": cluster.bootstrap, **base, **cluster.tls_settings, **cluster.options, **given}


def partition_counts(cluster: Cluster, topics: Sequence[str], *, timeout: float = 10.0) -> dict[str, int]:
    """The number of partitions by topic; a topic that does not exist is left out.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        NotAllowed: it may be there, and is not for us.
    """
    client = admin(cluster)
    known = metadata(client, cluster, timeout)
    if cluster.tls is not None and (hidden := [name for name in topics if name not in known]):
        # Of all topics those are told that we may know of; of one by its name we are told that we may not.
        describe_topics(client, hidden, timeout=timeout)
    return {name: len(known[name].partitions) for name in topics if name in known and known[name].error is None}


def topic_counts(cluster: Cluster, *, timeout: float = 10.0) -> dict[str, int]:
    """The number of partitions by topic, of every topic that there is. Raises as `partition_counts`."""
    known = metadata(admin(cluster), cluster, timeout)
    return {name: len(topic.partitions) for name, topic in known.items() if topic.error is None}


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

    Returns the names that were created.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        KafkaException: the broker refused a topic.
    """
    client = admin(cluster)
    known = metadata(client, cluster, timeout)
    wanted = {name: {**_ANY_CLOCK, **(config or {}).get(name, {})} for name in partitions if name not in known}
    if not wanted:
        return []
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


def _watermarks(reader: Consumer, place: TopicPartition, timeout: float) -> tuple[int, int]:
    """The low and the high one; asked again where the partition was only just made, or changes its leader."""
    until = time.monotonic() + timeout
    while True:
        try:
            low, high = reader.get_watermark_offsets(place, timeout=timeout)
            return low, high
        except KafkaException as exc:
            code = exc.args[0].code()
            if code in REFUSALS:
                raise NotAllowed(exc.args[0], in_words(exc.args[0], None, f"asked where {place.topic} ends")) from exc
            leaderless = code in (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
            if not leaderless or time.monotonic() > until:
                raise
        time.sleep(0.05)


def end_offsets(cluster: Cluster, topics: Sequence[str], *, timeout: float = 10.0) -> dict[tuple[str, int], int]:
    """The high watermark by (topic, partition) of every partition of ``topics`` that exist."""
    counts = partition_counts(cluster, topics, timeout=timeout)
    reader = consumer(cluster, "headwater-offsets")
    try:
        return {
            (name, partition): _watermarks(reader, TopicPartition(name, partition), timeout)[1]
            for name, count in counts.items()
            for partition in range(count)
        }
    finally:
        reader.close()


def read_to_end(
    cluster: Cluster,
    topics: Sequence[str],
    *,
    since_ms: int | None = None,
    newest: int | None = None,
    timeout: float = 10.0,
) -> Iterator[Message]:
    """Every record of ``topics`` from ``since_ms`` (epoch ms; None: the beginning) up to the end as it is now.

    With ``newest``, at most about so many of each partition, the newest ones.

    A bounded look at the log, without a consumer group. It ends when each partition's present end is reached, and it
    waits at most ``timeout`` seconds for the next record.

    Raises:
        Unreachable: the broker went silent before the end was reached.
    """
    counts = partition_counts(cluster, topics, timeout=timeout)
    reader = consumer(cluster, "headwater-reader", enable_partition_eof=True)
    try:
        wanted = [
            TopicPartition(name, p, OFFSET_BEGINNING if since_ms is None else since_ms)
            for name, count in counts.items()
            for p in range(count)
        ]
        if since_ms is not None:
            wanted = reader.offsets_for_times(wanted, timeout=timeout)
        if not wanted:
            return
        ends = {}
        for partition in wanted:
            low, high = _watermarks(reader, partition, timeout)
            ends[partition.topic, partition.partition] = high
            if newest is not None and (partition.offset >= 0 or partition.offset == OFFSET_BEGINNING):
                partition.offset = max(partition.offset, low, high - newest)
        reader.assign(wanted)
        unread = {(w.topic, w.partition) for w in wanted}
        while unread:
            # consume() alone would wait for its full count or the full timeout, also when the end is already reached.
            first = reader.poll(timeout)
            if first is None:
                raise Unreachable(f"Kafka at {cluster.bootstrap} went silent while {', '.join(topics)} was read")
            for message in (first, *reader.consume(1000, timeout=0)):
                error = message.error()
                if error is None:
                    yield message
                    # Where records come without a pause there is never an end to be told of.
                    if message.offset() + 1 >= ends[message.topic(), message.partition()]:
                        unread.discard((message.topic(), message.partition()))
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard((message.topic(), message.partition()))
                elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise NotAllowed(error, in_words(error, cluster, f"read {message.topic()}"))
                elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise KafkaException(error)
    finally:
        reader.close()


def cluster_id(cluster: Cluster, *, timeout: float = 10.0) -> str:
    """What tells one cluster from all others, however it is addressed.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
    """
    # Not DescribeCluster: librdkafka aborts the process when a broker that just came up answers that with no brokers.
    # A consumer asks for one topic and makes none.
    reader = consumer(cluster, "headwater-look")
    try:
        with answering("the cluster's id", cluster):
            found = reader.list_topics("headwater-look", timeout=timeout).cluster_id
    finally:
        reader.close()
    if not found:
        raise Unreachable(f"Kafka at {cluster.bootstrap} did not tell the cluster's id")
    return str(found)


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
        with answering(f"what topic {name} is", _of(client)):
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
        with answering(f"how topic {resource.name} is set", _of(client)):
            configs[resource.name] = {name: str(entry.value) for name, entry in future.result(timeout + 1).items()}
    return configs


def log_bounds(
    client: AdminClient, partitions: Sequence[tuple[str, int]], *, committed: bool = True, timeout: float = 10.0
) -> dict[tuple[str, int], tuple[int, int]]:
    """The first offset that is still there and the next one to come, by (topic, partition).

    ``committed``: the end is that of the data that a read_committed consumer sees; else it is the high watermark.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        KafkaException: the broker refused to tell, for instance as the topic does not exist.
    """
    if not partitions:
        return {}
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    bounds = []
    for spec in (OffsetSpec.earliest(), OffsetSpec.latest()):
        asked = client.list_offsets(
            {TopicPartition(*partition): spec for partition in partitions},
            isolation_level=level,
            request_timeout=timeout,
        )
        with answering("where its logs begin and end", _of(client)):
            bounds.append({(tp.topic, tp.partition): f.result(timeout + 1).offset for tp, f in asked.items()})
    first, end = bounds
    # librdkafka reports a leader that does not answer as an offset that is none.
    if min(*first.values(), *end.values(), 0, 0) < 0:
        raise Unreachable("Kafka did not tell where its logs begin and end")
    return {partition: (first[partition], end[partition]) for partition in partitions}


def offset_since(client: AdminClient, partition: tuple[str, int], since_ms: int, *, timeout: float = 10.0) -> int:
    """The offset of the first record with a time stamp of ``since_ms`` (epoch ms) or later; the end if there is none.

    Raises:
        Unreachable: no broker answered within ``timeout`` seconds.
        KafkaException: the broker refused to tell.
    """
    asked = client.list_offsets(
        {TopicPartition(*partition): OffsetSpec.for_timestamp(since_ms)}, request_timeout=timeout
    )
    with answering("where a time is in its logs", _of(client)):
        found: int = next(iter(asked.values())).result(timeout + 1).offset
    return found if found >= 0 else log_bounds(client, [partition], timeout=timeout)[partition][1]


def _of(client: AdminClient) -> Cluster | None:
    return client.cluster if isinstance(client, _Admin) else None


@contextmanager
def answering(what: str, cluster: Cluster | None) -> Iterator[None]:
    """Within it a broker is asked for ``what``.

    Raises:
        Unreachable: it did not answer. NotAllowed: it refuses us. KafkaException: anything else that it says.
    """
    try:
        yield
    except KafkaException as exc:
        code = exc.args[0].code()
        if code in SILENCE:
            why = None
            if cluster is not None and code not in _UNSETTLED:
                why = trouble(cluster.bootstrap, cluster.tls)
            raise Unreachable(f"{_who(cluster)} did not tell {what}: {why or exc.args[0].str()}") from exc
        if code in REFUSALS and not isinstance(exc, NotAllowed):
            raise NotAllowed(exc.args[0], in_words(exc.args[0], cluster, f"asked {what}")) from exc
        raise
    except TimeoutError as exc:
        raise Unreachable(f"{_who(cluster)} did not tell {what} in time") from exc


def _who(cluster: Cluster | None) -> str:
    return "Kafka" if cluster is None else f"Kafka at {cluster.bootstrap}"


def refusal_of(error: KafkaError) -> int | None:
    """The code of the refusal behind ``error``, or None if it is not by Kafka's access control.

    A gapless producer that is refused fails for good, and says only in its text why.
    """
    if error.code() in REFUSALS:
        return int(error.code())
    if error.code() in (KafkaError._GAPLESS_GUARANTEE, KafkaError._FATAL):
        return next((code for code in REFUSALS if KafkaError(code).str() in error.str()), None)
    return None


def silence(cluster: Cluster) -> str:
    """Why no broker answers, for people: what is wrong with TLS if it is that, else that none does."""
    return trouble(cluster.bootstrap, cluster.tls) or f"no broker answers at {cluster.bootstrap}"


def in_words(error: KafkaError, cluster: Cluster | None, when: str = "") -> str:
    """An error of Kafka for people: who was refused what, if it is a refusal. ``when``: what was being done."""
    refused = refusal_of(error)
    if refused is None:
        return f"Kafka: {error.str()}"
    lacks = REFUSALS[refused]
    who, at = ("this client", "") if cluster is None else (cluster.speaker, f" at {cluster.bootstrap}")
    asked = f" when it {when}" if when else ""
    named = cluster is not None and cluster.tls is not None
    shown = f"headwater acl rights {who if named else 'ROLE:NAME'} --side edge|cloud"
    # Some brokers tell the whole request.
    said = error.str() if len(error.str()) < 200 else error.name()
    return f"Kafka{at} refuses {who}{asked}: it lacks {lacks} ({said}). `{shown}` says which rights it should have"


#: Kafka's refusals, and what is lacking.
REFUSALS: Mapping[int, str] = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "a right to the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "the right to the consumer group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "a right to the cluster",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the right to the transactional id",
}

#: What a broker says that is not settled yet. It was reached, so there is nothing wrong with TLS.
_UNSETTLED = (KafkaError._NOENT, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION)

#: Errors of a broker that is away, or not settled yet: asking again later will do.
SILENCE = (
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.REQUEST_TIMED_OUT,
    *_UNSETTLED,
)


def metadata(client: AdminClient, cluster: Cluster, timeout: float) -> dict[str, Any]:
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
