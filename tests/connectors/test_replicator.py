"""The replicator between two real Kafkas: everything arrives, as it was, once, and nothing comes back."""

from __future__ import annotations

import math
import random
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, ResourceType
from prometheus_client import CollectorRegistry

from connectors.kafka import (
    Cluster,
    TopicPartition,
    admin,
    consumer,
    ensure_topics,
    partition_counts,
    producer,
    topic_configs,
)
from connectors.replicator import Fenced, ReplicatorSettings, SameCluster, lanes
from connectors.replicator.bandwidth import Bandwidth, Urgency
from connectors.replicator.lane import Lane
from connectors.replicator.ledger import Ledger, Position, Progress, Unreadable
from connectors.replicator.meter import Backlog, hours_left
from connectors.replicator.metrics import Metrics
from connectors.replicator.spec import Tenure
from connectors.replicator.survey import Route
from connectors.replicator.transactions import Line, Transactions
from schemas.avro.topics import TopicKind, Topics
from tests.kafka_brokers import delete_topics
from tests.ports import held_port
from tests.replication import Replicating, Writer, content, replicating, wait_for_records, wait_until

HOUR_MS = 3_600_000


def _settings(gateway: str, edge: Cluster, cloud: Cluster, **more: object) -> ReplicatorSettings:
    return ReplicatorSettings(gateway=gateway, edge=edge, cloud=cloud, **more)  # type: ignore[arg-type]  # by name


def _write(
    cluster: Cluster,
    topic: str,
    values: list[bytes],
    *,
    partition: int = -1,
    key: bytes | None = None,
    timestamp: int = 0,
) -> None:
    source = producer(cluster)
    for value in values:
        source.produce(topic, value, key, partition, timestamp=timestamp)
    assert source.flush(30) == 0


def _delete_before(cluster: Cluster, topic: str, offset: int) -> None:
    """What retention does, at the moment that the test chooses."""
    client = admin(cluster)
    client.delete_records([TopicPartition(topic, 0, offset)])[TopicPartition(topic, 0, offset)].result(30)


@pytest.mark.kafka
def test_records_arrive_as_they_were_in_both_directions(kafka: Cluster, cloud_kafka: Cluster, gateway_id: str) -> None:
    topics = Topics(gateway_id)

    ensure_topics(kafka, {topics.replies: 2, topics.requests: 1})
    # Some time stamps are so old that the brokers would delete the records while the test looks at them.
    for_ever = {topics.observations: {"retention.ms": "-1"}}
    for cluster in (kafka, cloud_kafka):
        ensure_topics(cluster, {topics.observations: 3}, config=for_ever)
    edge = producer(kafka)
    edge.produce(topics.observations, b"plain", b"ep", 2, timestamp=1_600_000_000_123)
    edge.produce(topics.observations, None, b"a tombstone", 0, timestamp=1_600_000_000_001)
    edge.produce(topics.observations, b"no key", None, 0, timestamp=1)
    edge.produce(topics.observations, b"", b"", 0, headers=[("a", b"1"), ("a", b"2"), ("none", None), ("empty", b"")])
    edge.produce(topics.observations, b"from a clock that runs ahead", b"ep", 1, timestamp=4_000_000_000_000)
    edge.produce(topics.observations, random.Random(1).randbytes(900_000), b"large", 1)
    edge.produce(topics.replies, b"reply", b"ep", 1)
    assert edge.flush(30) == 0
    with replicating(_settings(gateway_id, kafka, cloud_kafka)) as running:
        wait_for_records(cloud_kafka, topics.observations, 6)
        wait_for_records(cloud_kafka, topics.replies, 1)
        # The topic of commands was made in the cloud, where people write to it.
        wait_until(lambda: topics.requests in partition_counts(cloud_kafka, [topics.requests]))
        _write(cloud_kafka, topics.requests, [b"first", b"second"])
        wait_for_records(kafka, topics.requests, 2)
        wait_until(lambda: running.metric("lag_records", topic=topics.observations, partition="1") == 0)
    sizes = partition_counts(cloud_kafka, [topics.observations, topics.replies, topics.requests])
    assert sizes == {topics.observations: 3, topics.replies: 2, topics.requests: 1}
    for topic in sizes:
        assert content(cloud_kafka, topic) == content(kafka, topic)
    assert [value for _, value, _, _ in content(kafka, topics.requests)[0]] == [b"first", b"second"]


class _Watched:
    """A client of Kafka, and what was asked of it: the name of each call with its first argument."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: list[tuple[str, object]] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._client, name)

        def call(*args: object, **named: object) -> object:
            self.calls.append((name, args[0] if args else None))
            return method(*args, **named)

        return call

    def __len__(self) -> int:
        return len(self._client)

    def topics(self, name: str, calls: slice = slice(None)) -> set[object]:
        return {first for called, first in self.calls[calls] if called == name}


@pytest.mark.kafka
def test_who_leads_the_topics_is_known_before_the_id_is_taken_and_the_first_record_goes(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 1})
    _write(kafka, topic, [b"one"])
    clients: dict[str, list[_Watched]] = {"producer": [], "consumer": []}

    def watched(kind: str, make: Callable[..., object]) -> None:
        def made(*args: object, **named: object) -> _Watched:
            clients[kind].append(one := _Watched(make(*args, **named)))
            return one

        monkeypatch.setattr(f"connectors.kafka.{kind}", made)

    watched("producer", producer)
    watched("consumer", consumer)
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        wait_for_records(cloud_kafka, topic, 1)
    for one in clients["producer"]:
        names = [name for name, _ in one.calls]
        taken = names.index("init_transactions")
        assert one.topics("produce") <= one.topics("list_topics", slice(taken))
        assert "list_topics" not in names[taken:]
    assert topic in set().union(*(one.topics("produce") for one in clients["producer"]))
    (reader,) = (one for one in clients["consumer"] if topic in one.topics("list_topics"))
    names = [name for name, _ in reader.calls]
    assert names.index("list_topics") < names.index("assign")


@pytest.mark.kafka
def test_only_committed_records_are_carried(kafka: Cluster, cloud_kafka: Cluster, gateway_id: str) -> None:

    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 1})
    source = producer(kafka, transactional_id=gateway_id, message_timeout_ms=30_000, enable_gapless_guarantee=False)
    source.init_transactions(30)
    for number, ends in enumerate([source.commit_transaction, source.abort_transaction, source.commit_transaction]):
        source.begin_transaction()
        for part in range(3):
            source.produce(topic, b"%d.%d" % (number, part))
        source.flush(30)
        ends(30)
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        wait_for_records(cloud_kafka, topic, 6)
    assert [value for _, value, _, _ in content(cloud_kafka, topic)[0]] == [
        b"0.0", b"0.1", b"0.2", b"2.0", b"2.1", b"2.2",
    ]  # fmt: skip


@pytest.mark.kafka
def test_a_replicator_goes_on_where_the_one_before_ended(kafka: Cluster, cloud_kafka: Cluster, gateway_id: str) -> None:

    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 2})
    wanted = 0
    for turn in range(3):
        _write(kafka, topic, [b"%d.%d" % (turn, n) for n in range(500)], key=b"ep-%d" % turn)
        wanted += 500
        with replicating(_settings(gateway_id, kafka, cloud_kafka)):
            wait_for_records(cloud_kafka, topic, wanted)
    assert content(cloud_kafka, topic) == content(kafka, topic)


@pytest.mark.kafka
def test_topics_and_partitions_that_appear_later_are_picked_up(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:

    topics = Topics(gateway_id)
    extra = f"extra.{gateway_id}"
    with replicating(_settings(gateway_id, kafka, cloud_kafka, topics=(extra,))):
        ensure_topics(kafka, {extra: 1, topics.deadletter: 4})
        _write(kafka, extra, [b"one"])
        _write(kafka, topics.deadletter, [b"dead"], partition=3)
        wait_for_records(cloud_kafka, extra, 1)
        wait_for_records(cloud_kafka, topics.deadletter, 1)
        client = admin(kafka)  # its answers end with it, so it is held
        client.create_partitions([NewPartitions(extra, 3)])[extra].result(30)
        wait_until(lambda: partition_counts(kafka, [extra])[extra] == 3)
        # The counts differ from now on, so the key says where a record goes.
        for number in range(60):
            _write(kafka, extra, [b"%d" % number], partition=number % 3, key=b"ep-%d" % (number % 6))
        wait_for_records(cloud_kafka, extra, 61)
    assert partition_counts(cloud_kafka, [topics.deadletter]) == {topics.deadletter: 4}
    of_a_key: dict[bytes | None, list[int]] = {}
    for key, value, _, _ in content(cloud_kafka, extra)[0][1:]:
        of_a_key.setdefault(key, []).append(int(value or b""))
    assert of_a_key == {b"ep-%d" % n: list(range(n, 60, 6)) for n in range(6)}


@pytest.mark.kafka
def test_states_of_commands_go_up_into_a_topic_that_is_compacted_too(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topic = Topics(gateway_id).commands
    ensure_topics(kafka, {topic: 1})
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        _write(kafka, topic, [b"queued", b"sent"], key=b"a command")
        wait_for_records(cloud_kafka, topic, 2)
    assert content(cloud_kafka, topic) == content(kafka, topic)
    assert "compact" in topic_configs(admin(cloud_kafka), [topic])[topic]["cleanup.policy"]


@pytest.mark.kafka
def test_what_analytics_jobs_put_out_goes_up_once_the_edge_has_their_topics(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topics = Topics(gateway_id)
    aggregates, statistics, readings, alerts, joined = (
        topics.name(kind)
        for kind in (
            TopicKind.AGGREGATES,
            TopicKind.STATISTICS,
            TopicKind.READINGS,
            TopicKind.ALERTS,
            TopicKind.JOINED,
        )
    )
    made = {aggregates: 2, statistics: 2, readings: 2, alerts: 2, topics.maxper30sec: 2}
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        ensure_topics(kafka, {topics.observations: 2})
        _write(kafka, topics.observations, [b"one"])
        wait_for_records(cloud_kafka, topics.observations, 1)
        # A job makes its topics when it begins, long after the replicator did.
        ensure_topics(kafka, made)
        for topic in made:
            _write(kafka, topic, [b"%d" % number for number in range(20)], key=b"ep-1")
        for topic in made:
            wait_for_records(cloud_kafka, topic, 20)
    assert partition_counts(cloud_kafka, [*made, joined]) == made
    for topic in made:
        assert content(cloud_kafka, topic) == content(kafka, topic)


@pytest.mark.kafka
def test_where_the_partition_counts_differ_a_key_stays_in_one_partition(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 2})
    ensure_topics(cloud_kafka, {topic: 5})
    source = producer(kafka)
    for number in range(40):
        for n in range(5):
            source.produce(topic, b"%d.%d" % (number, n), b"ep-%d" % number)
    assert source.flush(30) == 0
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        wait_for_records(cloud_kafka, topic, 200)
    there = content(cloud_kafka, topic)
    assert len(there) == 5
    homes = {key: partition for partition, records in there.items() for key, *_ in records}
    assert sum(len({key for key, *_ in records}) for records in there.values()) == len(homes) == 40
    for number in range(40):
        key = b"ep-%d" % number
        in_order = [value for k, value, _, _ in there[homes[key]] if k == key]
        assert in_order == [b"%d.%d" % (number, n) for n in range(5)]


@pytest.mark.kafka
def test_second_replicator_fences_the_first_which_gives_way(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 2})
    _write(kafka, topic, [b"%d" % n for n in range(100)])
    first = Replicating(_settings(gateway_id, kafka, cloud_kafka))
    try:
        wait_for_records(cloud_kafka, topic, 100)
        with replicating(_settings(gateway_id, kafka, cloud_kafka)):
            first.wait_ended()
            assert isinstance(first.failure, Fenced)
            assert "took over" in str(first.failure)
            _write(kafka, topic, [b"%d" % n for n in range(100, 200)])
            wait_for_records(cloud_kafka, topic, 200)
    finally:
        first.end()
    assert content(cloud_kafka, topic) == content(kafka, topic)


@pytest.mark.kafka
def test_of_two_replicators_that_start_at_once_exactly_one_stays(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 2})
    both = [Replicating(_settings(gateway_id, kafka, cloud_kafka)) for _ in range(2)]
    try:
        wait_until(lambda: any(one.failure is not None for one in both))
        _write(kafka, topic, [b"%d" % n for n in range(100)])
        wait_for_records(cloud_kafka, topic, 100)
        assert sorted(isinstance(one.failure, Fenced) for one in both) == [False, True]
        assert [one.failure for one in both].count(None) == 1
    finally:
        for one in both:
            one.end()
    assert content(cloud_kafka, topic) == content(kafka, topic)


@pytest.mark.kafka
def test_a_cloud_that_forgot_everything_is_no_other_replicator(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topics = Topics(gateway_id)
    ensure_topics(cloud_kafka, {topics.requests: 1})
    for turn in range(2):
        _write(cloud_kafka, topics.requests, [b"%d" % turn])
        with replicating(_settings(gateway_id, kafka, cloud_kafka)):
            wait_for_records(kafka, topics.requests, turn + 1)
    # The edge's ledger, which says how far the commands have come, has seen two replicators by now.
    delete_topics(cloud_kafka, f"headwater.replicator.{gateway_id}")
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        _write(cloud_kafka, topics.requests, [b"2"])
        wait_for_records(kafka, topics.requests, 3)
    assert content(kafka, topics.requests) == content(cloud_kafka, topics.requests)


@pytest.mark.kafka
@pytest.mark.parametrize("made_anew", [None, 1])
def test_a_topic_that_is_deleted_at_the_target_is_made_again(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str, made_anew: int | None
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 2})
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        _write(kafka, topic, [b"before"], partition=1)
        wait_for_records(cloud_kafka, topic, 1)
        delete_topics(cloud_kafka, topic)
        if made_anew is not None:
            ensure_topics(cloud_kafka, {topic: made_anew})
        _write(kafka, topic, [b"after"], partition=1)
        wait_for_records(cloud_kafka, topic, 1)
    there = content(cloud_kafka, topic)
    assert [value for records in there.values() for _, value, _, _ in records] == [b"after"]
    assert partition_counts(cloud_kafka, [topic]) == {topic: made_anew or 2}


@pytest.mark.kafka
def test_what_retention_deleted_is_counted_and_the_rest_is_carried(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 1})
    _write(kafka, topic, [b"%d" % n for n in range(10)])
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        wait_for_records(cloud_kafka, topic, 10)
    _write(kafka, topic, [b"%d" % n for n in range(10, 50)])
    _delete_before(kafka, topic, 30)
    with replicating(_settings(gateway_id, kafka, cloud_kafka)) as running:
        wait_for_records(cloud_kafka, topic, 30)
        wait_until(lambda: running.metric("records_lost_to_retention_total", topic=topic) == 20)
        _write(kafka, topic, [b"later"])
        wait_for_records(cloud_kafka, topic, 31)
        assert running.metric("records_lost_to_retention_total", topic=topic) == 20
    values = [value for _, value, _, _ in content(cloud_kafka, topic)[0]]
    assert values == [b"%d" % n for n in (*range(10), *range(30, 50))] + [b"later"]


@pytest.mark.kafka
def test_what_retention_deleted_before_the_first_connection_is_counted_once(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 1})
    _write(kafka, topic, [b"%d" % n for n in range(50)], timestamp=time.time_ns() // 1_000_000 - 2 * HOUR_MS)
    _delete_before(kafka, topic, 40)
    # At first the cloud refuses what is older than an hour, so sessions end before they have committed anything.
    oldest = "message.timestamp.before.max.ms"
    ensure_topics(cloud_kafka, {topic: 1}, config={topic: {oldest: str(HOUR_MS)}})
    with replicating(_settings(gateway_id, kafka, cloud_kafka)) as running:
        wait_until(lambda: (running.metric("restarts_total", lane="bulk") or 0) >= 2)
        assert not running.metric("records_lost_to_retention_total", topic=topic)
        change = ConfigEntry(oldest, str(24 * HOUR_MS), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
        client = admin(cloud_kafka)
        client.incremental_alter_configs([resource])[resource].result(30)
        wait_for_records(cloud_kafka, topic, 10)
        wait_until(lambda: running.metric("records_lost_to_retention_total", topic=topic) == 40)
    assert [value for _, value, _, _ in content(cloud_kafka, topic)[0]] == [b"%d" % n for n in range(40, 50)]


@pytest.mark.kafka
def test_a_topic_that_was_made_anew_is_read_from_its_start(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 1})
    _write(kafka, topic, [b"old %d" % n for n in range(5)])
    with replicating(_settings(gateway_id, kafka, cloud_kafka)):
        wait_for_records(cloud_kafka, topic, 5)
    delete_topics(kafka, topic)
    ensure_topics(kafka, {topic: 1})
    _write(kafka, topic, [b"new %d" % n for n in range(8)])
    with replicating(_settings(gateway_id, kafka, cloud_kafka)) as running:
        wait_for_records(cloud_kafka, topic, 13)
        assert running.metric("sources_replaced_total", topic=topic) == 1
    values = [value for _, value, _, _ in content(cloud_kafka, topic)[0]]
    assert values == [b"old %d" % n for n in range(5)] + [b"new %d" % n for n in range(8)]


@pytest.mark.kafka
def test_a_record_that_the_target_never_takes_holds_up_no_other(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 1})
    ensure_topics(cloud_kafka, {topic: 1}, config={topic: {"max.message.bytes": "4000"}})
    noise = random.Random(2)
    _write(kafka, topic, [b"before", noise.randbytes(20_000), b"between", b"x" * 20_000, b"after"])
    with replicating(_settings(gateway_id, kafka, cloud_kafka)) as running:
        # The second large one compresses well, and so the target takes it.
        wait_for_records(cloud_kafka, topic, 4)
        wait_until(lambda: running.metric("records_refused_total", topic=topic) == 1)
    values = [value for _, value, _, _ in content(cloud_kafka, topic)[0]]
    assert values == [b"before", b"between", b"x" * 20_000, b"after"]


@pytest.mark.kafka
def test_replies_go_before_bulk_when_the_line_is_thin(kafka: Cluster, cloud_kafka: Cluster, gateway_id: str) -> None:

    topics = Topics(gateway_id)
    ensure_topics(kafka, {topics.observations: 1, topics.replies: 1})
    _write(kafka, topics.observations, [b"o" * 1000 for _ in range(400)])
    with replicating(_settings(gateway_id, kafka, cloud_kafka, bandwidth=50_000.0)) as running:
        wait_for_records(cloud_kafka, topics.observations, 10)
        _write(kafka, topics.replies, [b"r" * 500 for _ in range(20)])
        wait_until(lambda: running.metric("records_total", lane="replies", topic=topics.replies) == 20)
        carried = running.metric("records_total", lane="bulk", topic=topics.observations)
        assert carried is not None
        assert carried < 400
        wait_for_records(cloud_kafka, topics.observations, 400)
    assert content(cloud_kafka, topics.replies) == content(kafka, topics.replies)


@pytest.mark.kafka
def test_health_readiness_and_metrics_are_served(kafka: Cluster, cloud_kafka: Cluster, gateway_id: str) -> None:

    topics = Topics(gateway_id)
    ensure_topics(kafka, topics.partitions())
    port = held_port()

    def page(path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    with replicating(_settings(gateway_id, kafka, cloud_kafka, metrics_port=port)):
        wait_until(lambda: page("/readyz") == "ok\n")
        assert page("/healthz") == "ok\n"
        wait_until(
            lambda: (
                f'retention_left_seconds{{gateway="{gateway_id}",partition="0",topic="{topics.observations}"}} +Inf'
                in page("/metrics")
            )
        )


@pytest.mark.kafka
def test_unreplicated_records_show_as_lag_and_as_time_left(
    kafka: Cluster, gateway_id: str, caplog: pytest.LogCaptureFixture
) -> None:

    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: 1}, config={topic: {"retention.ms": str(10 * HOUR_MS)}})
    source = producer(kafka)
    for _ in range(7):
        source.produce(topic, b"x", timestamp=time.time_ns() // 1_000_000 - 4 * HOUR_MS)
    assert source.flush(30) == 0
    nowhere = Cluster(bootstrap=f"127.0.0.1:{held_port()}")
    with replicating(_settings(gateway_id, kafka, nowhere)) as running:
        where = {"topic": topic, "partition": "0"}
        wait_until(lambda: running.metric("lag_records", **where) == 7)
        wait_until(lambda: running.metric("retention_left_seconds", **where) is not None)
        left = running.metric("retention_left_seconds", **where)
        assert left is not None
        assert 5.5 * 3600 < left <= 6.0 * 3600
        behind = running.metric("lag_seconds", **where)
        assert behind is not None
        assert 4.0 * 3600 <= behind < 4.5 * 3600


@pytest.mark.kafka
def test_a_log_that_grows_towards_its_bound_of_bytes_shows_the_time_left(kafka: Cluster, gateway_id: str) -> None:
    topics = Topics(gateway_id)
    bounds = {topics.observations: {"retention.ms": "-1", "retention.bytes": "1000000000"}}
    # The lane of the replies has nothing to carry.
    ensure_topics(kafka, {topics.observations: 1, topics.replies: 1}, config=bounds)
    writer = Writer(kafka, topics.observations, 1, per_second=50, seed=10)
    nowhere = Cluster(bootstrap=f"127.0.0.1:{held_port()}")
    try:
        with replicating(_settings(gateway_id, kafka, nowhere)) as running:
            where = {"topic": topics.observations, "partition": "0"}
            wait_until(lambda: 0 < (running.metric("retention_left_seconds", **where) or 0) < math.inf)
    finally:
        writer.finish()


@pytest.mark.kafka
def test_edge_and_cloud_must_be_two_clusters(kafka: Cluster, gateway_id: str) -> None:
    one = Replicating(_settings(gateway_id, kafka, kafka))
    one.wait_ended()
    assert isinstance(one.failure, SameCluster)


def test_no_topic_goes_both_ways_and_every_uplink_topic_goes_up() -> None:
    topics = Topics("gw")
    edge, cloud = Cluster(bootstrap="edge:1"), Cluster(bootstrap="cloud:1")
    table = lanes(_settings("gw", edge, cloud, topics=("extra", topics.observations)))
    up = [topic for lane in table if lane.source is edge for topic in lane.topics]
    down = [topic for lane in table if lane.source is cloud for topic in lane.topics]
    assert sorted(up) == sorted([*topics.uplink, "extra"])
    assert sorted(down) == sorted(topics.downlink)
    assert not set(up) & set(down)
    assert len({lane.transactional_id for lane in table}) == len({lane.number for lane in table}) == len(table)


@pytest.mark.parametrize("topic", ["iot.gw.management.req", "__consumer_offsets", "headwater.replicator.gw"])
def test_topics_that_must_not_go_up_are_refused(topic: str) -> None:
    edge, cloud = Cluster(bootstrap="edge:1"), Cluster(bootstrap="cloud:1")
    with pytest.raises(ValueError, match=topic):
        _settings("gw", edge, cloud, topics=(topic,))


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan, math.inf])
def test_a_bandwidth_that_carries_nothing_is_refused(bandwidth: float) -> None:
    edge, cloud = Cluster(bootstrap="edge:1"), Cluster(bootstrap="cloud:1")
    with pytest.raises(ValueError, match="bandwidth"):
        _settings("gw", edge, cloud, bandwidth=bandwidth)


def test_the_budget_grows_on_a_wide_line_with_latency_and_shrinks_on_a_thin_one() -> None:
    wide = Line(price=0.7)
    for _ in range(20):
        wide.fit(wide.budget, 0.7 + 0.5 + wide.budget / 50_000_000)
    assert wide.budget == 2_097_152
    thin = Line(price=0.2)
    for _ in range(20):
        thin.fit(thin.budget, 0.2 + thin.budget / 60_000)
    assert 20_000 < thin.budget < 80_000


def test_a_new_assignment_leaves_the_positions_alone_that_others_read() -> None:
    nowhere = Cluster(bootstrap=f"127.0.0.1:{held_port()}")
    spec = lanes(_settings("gw", nowhere, nowhere))[1]
    client = admin(nowhere)
    transactions = Transactions(
        spec=spec,
        producer=producer(nowhere),
        consumer=consumer(nowhere, "gw"),
        ledger=Ledger(cluster=nowhere, client=client, gateway="gw", partition=1, partitions=3),
        tenure=Tenure("i", "host"),
        line=Line(),
        bandwidth=None,
        metrics=Metrics(CollectorRegistry()),
        stop=threading.Event(),
        topic_ids={"a": "id-a", "gone": "id-gone"},
        positions={("a", 0): Position(7, 99), ("gone", 0): Position(3, 9)},
    )
    route = Route(topic_id="id-a", partitions=2, same_partitions=True, largest=1000)
    seen = transactions.positions
    transactions.assign({"a": route}, {("a", 0): Position(8, 99), ("a", 1): Position(0, -1)}, {})
    transactions.consumer.close()
    assert seen == {("a", 0): Position(7, 99), ("gone", 0): Position(3, 9)}
    assert transactions.positions == {
        ("a", 0): Position(8, 99),
        ("a", 1): Position(0, -1),
        ("gone", 0): Position(3, 9),
    }


def test_a_lane_that_rests_goes_on_when_another_finds_the_line_whole() -> None:
    nowhere = Cluster(bootstrap=f"127.0.0.1:{held_port()}")
    client, tenure, stop = admin(nowhere), Tenure("i", "host"), threading.Event()
    lane = Lane(
        lanes(_settings("gw", nowhere, nowhere))[1],
        source=client,
        target=client,
        tenure=tenure,
        metrics=Metrics(CollectorRegistry()),
        stop=stop,
        bandwidth=None,
    )
    tenure.connected_at = time.monotonic()  # before this lane lost it
    resting = threading.Thread(target=lane._pause, args=(600,), kwargs={"at_least": 0.0})
    resting.start()
    try:
        resting.join(0.5)
        assert resting.is_alive()
        tenure.connected_at = time.monotonic()
        resting.join(60)
        assert not resting.is_alive()
    finally:
        stop.set()


def test_progress_survives_its_encoding() -> None:
    progress = Progress(
        3, "i", "host", {"a": "id-a", "b": "id-b"}, {("a", 0): Position(7, 99), ("b", 3): Position(0, -1)}
    )
    assert Progress.decode(progress.encode()) == progress


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        b"\xff",
        b'{"version":2}',
        b'{"version":1,"generation":1,"instance":"i","where":"w","topics":3}',
    ],
)
def test_a_ledger_that_is_not_ours_is_not_trusted(data: bytes) -> None:
    with pytest.raises(Unreadable):
        Progress.decode(data)


def test_bandwidth_holds_its_rate_and_lets_the_urgent_go_first() -> None:
    now = 0.0
    bandwidth = Bandwidth(1000.0, lambda: now)
    sent = dict.fromkeys(Urgency, 0)
    both = 0
    for step in range(20_000):
        now = step / 1000
        if step < 10_000 and bandwidth.take(100, Urgency.URGENT) == 0:
            sent[Urgency.URGENT] += 100
        if bandwidth.take(100, Urgency.BULK) == 0:
            sent[Urgency.BULK] += 100
            both += step < 10_000
    assert sum(sent.values()) == pytest.approx(20_000, rel=0.03)
    assert sent[Urgency.URGENT] == pytest.approx(10_000, rel=0.05)
    assert both <= 3


def test_the_cap_is_reached_over_a_line_with_latency_and_counts_what_the_replicator_says() -> None:
    now, rate, commit_s, word = 0.0, 100_000.0, 0.7, 500
    bandwidth = Bandwidth(rate, lambda: now)
    sent = 0
    for _ in range(100):
        while bandwidth.take(1000, Urgency.BULK) == 0:
            sent += 1000
        bandwidth.spend(word)
        sent += word
        now += commit_s
        bandwidth.committed("bulk", commit_s)
        bandwidth.committed("commands", 0.01)
    assert sent == pytest.approx(rate * now, rel=0.02)


def test_a_record_larger_than_the_rate_still_passes() -> None:
    now = 0.0
    bandwidth = Bandwidth(100.0, lambda: now)
    assert bandwidth.take(10_000, Urgency.BULK) == 0
    wait = bandwidth.take(1, Urgency.BULK)
    assert wait > 90
    now = wait
    assert bandwidth.take(1, Urgency.BULK) == 0


def _backlog(records: int = 100, *, oldest_ms: int = 0, record_bytes: float = 100, rate: float = 0.0) -> Backlog:
    return Backlog(records=records, oldest_ms=oldest_ms, record_bytes=record_bytes, records_per_second=rate)


@pytest.mark.parametrize(
    ("backlog", "now_hours", "retention_ms", "retention_bytes", "expected"),
    [
        (_backlog(0), 100, HOUR_MS, 1, math.inf),
        (_backlog(), 4, 10 * HOUR_MS, -1, 6.0),
        (_backlog(), 11, 10 * HOUR_MS, -1, 0.0),
        (_backlog(), 4, -1, -1, math.inf),
        (_backlog(), 4, -1, 10_000, 0.0),
        (_backlog(), 4, -1, 370_000, math.inf),
        (_backlog(rate=1.0), 4, -1, 370_000, 1.0),
        (_backlog(rate=1.0), 4, 10 * HOUR_MS, 370_000, 1.0),
        (_backlog(rate=1.0), 9.5, 10 * HOUR_MS, 370_000, 0.5),
    ],
)
def test_hours_until_retention_loses_data(
    backlog: Backlog, now_hours: float, retention_ms: int, retention_bytes: int, expected: float
) -> None:
    hours = hours_left(backlog, int(now_hours * HOUR_MS), retention_ms=retention_ms, retention_bytes=retention_bytes)
    assert hours == pytest.approx(expected)
