"""Exactly once, whatever goes wrong: each test breaks things in mid-flow and then compares both sides."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.kafka import Cluster, cluster_id, ensure_topics, producer
from connectors.replicator import ReplicatorSettings
from headwater.demo.link import Cut, Link
from headwater.servers.broker import LinkListener
from schemas.avro.topics import Topics
from tests.kafka_brokers import BrokerFactory
from tests.ports import held_port
from tests.replication import ReplicatorProcess, Writer, content, replicating, wait_for_records, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

PARTITIONS = 2


@contextmanager
def _process(gateway: str, edge: Cluster, cloud: Cluster, log: Path) -> Iterator[ReplicatorProcess]:
    process = ReplicatorProcess(gateway, edge, cloud, log)
    try:
        yield process
    finally:
        if process.runs:
            process.kill()


def _fill(cluster: Cluster, topic: str, values: list[bytes]) -> None:
    source = producer(cluster)
    for number, value in enumerate(values):
        source.produce(topic, value, partition=number % PARTITIONS)
    assert source.flush(60) == 0


def _says_it_waits_for(cluster: Cluster, log: Path) -> bool:
    return any(
        cluster.bootstrap in line and ("interrupted" in line or "not connected" in line)
        for line in log.read_text().splitlines()
    )


def test_killing_the_replicator_again_and_again_loses_and_doubles_nothing(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: PARTITIONS})
    chance = random.Random(20_26)
    writer = Writer(kafka, topic, PARTITIONS, per_second=2000, seed=1)
    with _process(gateway_id, kafka, cloud_kafka, tmp_path / "log") as process:
        seen = 0
        for _ in range(6):
            # Killed in mid-flow: some time after it carried something new.
            seen += 1 + chance.randrange(1500)
            wait_for_records(cloud_kafka, topic, seen)
            process.kill()
            seen = max(seen, writer.count // 2)
            process.start()
        written = writer.finish()
        wait_for_records(cloud_kafka, topic, written)
    assert content(cloud_kafka, topic) == content(kafka, topic)


def test_killing_both_brokers_in_mid_flow_loses_and_doubles_nothing(
    broker_factory: BrokerFactory, gateway_id: str
) -> None:
    topics = Topics(gateway_id)
    edge, cloud = broker_factory("edge"), broker_factory("cloud")
    ensure_topics(edge.cluster, {topics.observations: PARTITIONS})
    ensure_topics(cloud.cluster, {topics.requests: 1})
    up = Writer(edge.cluster, topics.observations, PARTITIONS, per_second=500, seed=2)
    down = Writer(cloud.cluster, topics.requests, 1, per_second=100, seed=3)
    with replicating(ReplicatorSettings(gateway=gateway_id, edge=edge.cluster, cloud=cloud.cluster)):
        for victim in (cloud, edge):
            wait_for_records(cloud.cluster, topics.observations, up.count + 200)
            wait_for_records(edge.cluster, topics.requests, down.count + 20)
            victim.kill()
            victim.restart()
        written = up.finish(), down.finish()
        wait_for_records(cloud.cluster, topics.observations, written[0])
        wait_for_records(edge.cluster, topics.requests, written[1])
    for topic in (topics.observations, topics.requests):
        assert content(cloud.cluster, topic) == content(edge.cluster, topic)


@pytest.mark.parametrize("how", list(Cut))
def test_cutting_the_wan_loses_and_doubles_nothing_and_commands_come_after_it(
    broker_factory: BrokerFactory, gateway_id: str, how: Cut
) -> None:
    topics = Topics(gateway_id)
    listener = LinkListener(port=held_port(), advertised_port=held_port())
    edge, cloud = broker_factory("edge"), broker_factory("cloud", link=listener)
    ensure_topics(edge.cluster, {topics.observations: PARTITIONS, topics.requests: 1})
    with (
        Link(listener.advertised_port, listener.port) as link,
        replicating(ReplicatorSettings(gateway=gateway_id, edge=edge.cluster, cloud=cloud.linked)) as running,
    ):
        wait_until(lambda: running.metric("connected", lane="bulk") == 1)
        up = Writer(edge.cluster, topics.observations, PARTITIONS, per_second=500, seed=4)
        wait_for_records(cloud.cluster, topics.observations, 300)
        ensure_topics(cloud.cluster, {topics.requests: 1})
        down = Writer(cloud.cluster, topics.requests, 1, per_second=100, seed=5)
        wait_for_records(edge.cluster, topics.requests, 50)
        link.cut(how)
        # Long enough that the lanes have given their transactions up.
        wait_until(lambda: running.metric("connected", lane="bulk") == 0)
        up.wait_for(up.count + 500)
        link.restore()
        written = up.finish(), down.finish()
        wait_for_records(cloud.cluster, topics.observations, written[0])
        wait_for_records(edge.cluster, topics.requests, written[1])
    for topic in (topics.observations, topics.requests):
        assert content(cloud.cluster, topic) == content(edge.cluster, topic)


@pytest.mark.parametrize(
    ("records", "bandwidth", "most"),
    [
        # A budget that pays for the latency is down to 16 KB after ten transactions, and needs some 300.
        (6000, None, 60),
        # A cap that forgets what a lane cannot send while it waits lets a quarter second's worth into each.
        (3000, 300_000.0, 30),
    ],
)
def test_a_line_with_latency_carries_large_transactions(
    broker_factory: BrokerFactory, gateway_id: str, records: int, bandwidth: float | None, most: int
) -> None:
    topic = Topics(gateway_id).observations
    listener = LinkListener(port=held_port(), advertised_port=held_port())
    edge, cloud = broker_factory("edge"), broker_factory("cloud", link=listener)
    ensure_topics(edge.cluster, {topic: PARTITIONS})
    chance = random.Random(9)
    _fill(edge.cluster, topic, [chance.randbytes(1000) for _ in range(records)])
    settings = ReplicatorSettings(gateway=gateway_id, edge=edge.cluster, cloud=cloud.linked, bandwidth=bandwidth)
    with Link(listener.advertised_port, listener.port, delay=0.1), replicating(settings) as running:
        wait_for_records(cloud.cluster, topic, records)
        wait_until(lambda: running.metric("records_total", lane="bulk", topic=topic) == records)
        transactions = running.metric("transactions_total", lane="bulk")
    assert transactions is not None
    assert transactions < most
    assert content(cloud.cluster, topic) == content(edge.cluster, topic)


def test_a_record_that_needs_longer_than_the_first_patience_arrives(
    broker_factory: BrokerFactory, gateway_id: str
) -> None:
    topic = Topics(gateway_id).observations
    listener = LinkListener(port=held_port(), advertised_port=held_port())
    edge, cloud = broker_factory("edge"), broker_factory("cloud", link=listener)
    ensure_topics(edge.cluster, {topic: PARTITIONS})
    with (
        Link(listener.advertised_port, listener.port, rate=20_000),
        replicating(ReplicatorSettings(gateway=gateway_id, edge=edge.cluster, cloud=cloud.linked)) as running,
    ):
        wait_until(lambda: running.metric("connected", lane="bulk") == 1)
        # Fifteen seconds on this line, and ten without an arrival are too many at first.
        _fill(edge.cluster, topic, [random.Random(11).randbytes(300_000)])
        wait_for_records(cloud.cluster, topic, 1, timeout=200)
        assert running.metric("restarts_total", lane="bulk") != 0
    assert content(cloud.cluster, topic) == content(edge.cluster, topic)


def test_two_clusters_of_one_id_are_still_two(
    broker_factory: BrokerFactory, gateway_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = Topics(gateway_id).observations
    with monkeypatch.context() as chance:
        # As brokers from an image that has a fixed id.
        chance.setattr("secrets.token_bytes", lambda number: b"7" * number)
        edge, cloud = broker_factory("edge"), broker_factory("cloud")
    assert cluster_id(edge.cluster) == cluster_id(cloud.cluster)
    ensure_topics(edge.cluster, {topic: PARTITIONS})
    _fill(edge.cluster, topic, [b"one", b"two"])
    with replicating(ReplicatorSettings(gateway=gateway_id, edge=edge.cluster, cloud=cloud.cluster)):
        wait_for_records(cloud.cluster, topic, 2)
    assert content(cloud.cluster, topic) == content(edge.cluster, topic)


def test_a_replicator_that_froze_and_was_replaced_gives_way_when_it_wakes(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: PARTITIONS})
    writer = Writer(kafka, topic, PARTITIONS, per_second=1000, seed=6)
    with _process(gateway_id, kafka, cloud_kafka, tmp_path / "first") as first:
        wait_for_records(cloud_kafka, topic, 500)
        first.send(signal.SIGSTOP)
        with _process(gateway_id, kafka, cloud_kafka, tmp_path / "second") as second:
            wait_for_records(cloud_kafka, topic, writer.count + 500)
            first.send(signal.SIGCONT)
            assert first.wait(30) == 1
            assert "fenced: another replicator" in first.log.read_text()
            wait_for_records(cloud_kafka, topic, writer.finish())
            assert second.runs
    assert content(cloud_kafka, topic) == content(kafka, topic)


def test_a_replicator_that_froze_and_was_not_replaced_goes_on(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: PARTITIONS})
    writer = Writer(kafka, topic, PARTITIONS, per_second=1000, seed=7)
    with _process(gateway_id, kafka, cloud_kafka, tmp_path / "log") as process:
        wait_for_records(cloud_kafka, topic, 500)
        process.send(signal.SIGSTOP)
        writer.wait_for(writer.count + 3000)
        process.send(signal.SIGCONT)
        wait_for_records(cloud_kafka, topic, writer.finish())
        assert process.runs
    assert content(cloud_kafka, topic) == content(kafka, topic)


def test_a_side_that_is_away_is_named_and_it_goes_on_by_itself(
    broker_factory: BrokerFactory, kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: PARTITIONS})
    cloud = broker_factory("cloud")
    with _process(gateway_id, kafka, cloud.cluster, tmp_path / "log"):
        _fill(kafka, topic, [b"before"])
        wait_for_records(cloud.cluster, topic, 1)
        cloud.kill()
        # Nothing is carried: it finds out by itself.
        wait_until(lambda: _says_it_waits_for(cloud.cluster, tmp_path / "log"))
        _fill(kafka, topic, [b"meanwhile"])
        cloud.restart()
        wait_for_records(cloud.cluster, topic, 2)


def test_sigterm_ends_it_within_ten_seconds_also_while_the_wan_is_cut(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    topic = Topics(gateway_id).observations
    ensure_topics(kafka, {topic: PARTITIONS})
    writer = Writer(kafka, topic, PARTITIONS, per_second=1000, seed=8)
    with _process(gateway_id, kafka, cloud_kafka, tmp_path / "log") as process:
        wait_for_records(cloud_kafka, topic, 500)
        process.send(signal.SIGTERM)
        # A process that needs longer ends itself, with 70.
        assert process.wait(60) == 0
        with Link(0, held_port()) as link:
            link.cut()
            nowhere = Cluster(bootstrap=f"127.0.0.1:{link.port}")
            with _process(gateway_id, kafka, nowhere, tmp_path / "cut") as waiting:
                wait_until(lambda: _says_it_waits_for(nowhere, tmp_path / "cut"))
                waiting.send(signal.SIGTERM)
                assert waiting.wait(60) == 0
        process.start()
        wait_for_records(cloud_kafka, topic, writer.finish())
    assert content(cloud_kafka, topic) == content(kafka, topic)
