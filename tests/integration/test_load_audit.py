"""The audit of a load against a real Kafka: each fault is made by hand, and each is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from connectors.kafka import Cluster, Producer, Unreachable, ensure_topics, producer
from gateway.devices.load.audit import Audit, AuditError
from schemas.avro.compiled import CompiledNotification
from schemas.avro.records import Key
from schemas.avro.serde import encode
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import ResourceType
from tests.kafka_brokers import BrokerFactory

pytestmark = pytest.mark.kafka

PATH = "/3303/0/5700"
#: Seconds; of a test in which nothing comes any more, so that none waits for it.
SHORT = 3.0


class Cloud:
    """The observations topic, and what the replicator would do with it."""

    def __init__(self, cluster: Cluster, gateway: str) -> None:
        self.cluster = cluster
        self.topic = Topics(gateway).observations
        self.server = gateway
        self._value = time.time_ns() / 1000

    def values(self, count: int) -> list[float]:
        """The device's clock, that rises."""
        values = [float(int(self._value) + step) for step in range(1, count + 1)]
        self._value = values[-1]
        return values

    def write(self, via: Producer, values: list[float], *, ep: str = "dev-1", at_ms: int | None = None) -> None:
        record = CompiledNotification(
            ticket="t",
            observation_id="o",
            server_id=self.server,
            ep=ep,
            path=PATH,
            resource_type=ResourceType.FLOAT,
        )
        for value in values:
            stamp = int(value / 1000) if at_ms is None else at_ms
            data = record.encode(stamp, value)
            via.produce(self.topic, data, encode(Key(ep=ep)), timestamp=stamp)
        assert via.flush(30) == 0


@pytest.fixture
def cloud(kafka: Cluster, gateway_id: str) -> Cloud:
    made = Cloud(kafka, gateway_id)
    ensure_topics(kafka, {made.topic: 2})
    return made


@pytest.fixture
def plain(kafka: Cluster) -> Iterator[Producer]:
    yield producer(kafka)


def _tell(audit: Audit, values: list[float], *, ep: str = "dev-1", acknowledged: bool = True) -> None:
    for value in values:
        audit.sent(ep, PATH, value, True)
        if acknowledged:
            audit.acknowledged(ep, PATH, value)


def test_all_that_is_there_once_and_in_order_is_good(cloud: Cloud, plain: Producer) -> None:
    cloud.write(plain, cloud.values(5))  # of a load before
    audit = Audit(cloud.cluster, cloud.topic)
    audit.start()
    for _ in range(20):
        for ep in ("dev-1", "dev-2", "dev-3"):
            values = cloud.values(50)
            _tell(audit, values, ep=ep)
            cloud.write(plain, values, ep=ep)
    said: list[tuple[int, int]] = []
    result = audit.finish(progress=lambda there, wanted: said.append((there, wanted)))
    assert result.good
    assert (result.confirmable, result.acknowledged, result.acknowledged_there) == (3000, 3000, 3000)
    assert (result.foreign, result.unacknowledged_there, result.unreadable) == (0, 0, 0)
    assert said[-1] == (3000, 3000)
    # Records are there after they were made; and their time stamps are those of their values, to the millisecond.
    assert result.to_topic.count == result.to_edge_log.count == 3000
    assert 0 < result.to_topic.p50_ms <= result.to_topic.p99_ms <= result.to_topic.max_ms
    assert result.to_edge_log.max_ms == 0


def test_each_fault_is_counted(cloud: Cloud, plain: Producer) -> None:
    audit = Audit(cloud.cluster, cloud.topic)
    audit.start()
    values = cloud.values(100)
    _tell(audit, values)
    lost, doubled = values[10:13], values[20:24]
    moved = values[40:45]
    arrived = [value for value in values if value not in lost and value not in moved]
    cloud.write(plain, arrived)
    cloud.write(plain, doubled)
    cloud.write(plain, moved)
    never_acknowledged = cloud.values(6)
    _tell(audit, never_acknowledged, acknowledged=False)
    cloud.write(plain, never_acknowledged[:2])
    unconfirmable = cloud.values(9)
    for value in unconfirmable:
        audit.sent("dev-non", PATH, value, False)
    cloud.write(plain, unconfirmable[:7], ep="dev-non")
    cloud.write(plain, cloud.values(8), ep="somebody-else")
    plain.produce(cloud.topic, b"no Avro", b"")
    assert plain.flush(30) == 0
    result = audit.finish(patience=SHORT)
    assert not result.good
    assert (result.lost, result.doubled, result.out_of_order) == (3, 4, 5)
    assert result.lost_ones == tuple(("dev-1", PATH, value) for value in lost)
    assert (result.confirmable, result.acknowledged, result.acknowledged_there) == (106, 100, 97)
    assert result.unacknowledged_there == 2
    assert (result.unconfirmable, result.unconfirmable_there) == (9, 7)
    assert (result.foreign, result.unreadable) == (8, 1)
    assert "lost 3, doubled 4, out of order 5" in result.text()
    assert result.json()["lost_ones"][0] == ["dev-1", PATH, lost[0]]


def test_what_a_transaction_took_back_is_lost_and_its_marks_hold_nothing_up(cloud: Cloud) -> None:
    """The replicator writes in transactions: what one aborts was never there, and the log ends with a mark."""
    audit = Audit(cloud.cluster, cloud.topic)
    audit.start()
    writer = producer(cloud.cluster, transactional_id=f"audit-{cloud.server}", message_timeout_ms=30_000)
    writer.init_transactions(30)
    first, second = cloud.values(10), cloud.values(10)
    _tell(audit, first + second)
    writer.begin_transaction()
    cloud.write(writer, first)
    writer.commit_transaction(30)
    writer.begin_transaction()
    cloud.write(writer, second)
    writer.abort_transaction(30)
    result = audit.finish(patience=SHORT)
    assert (result.acknowledged_there, result.lost, result.doubled) == (10, 10, 0)
    assert result.lost_ones == tuple(("dev-1", PATH, value) for value in second)


def test_what_comes_late_is_waited_for(cloud: Cloud, plain: Producer) -> None:
    """As behind a WAN that is cut; patience begins anew with each value."""
    audit = Audit(cloud.cluster, cloud.topic)
    audit.start()
    values = cloud.values(4)
    _tell(audit, values)

    def late() -> None:
        for value in values:
            time.sleep(1.5)
            cloud.write(plain, [value])

    writing = threading.Thread(target=late)
    writing.start()
    # Less than they take in all, and far more than each: so patience has to begin anew for it to be good.
    result = audit.finish(patience=5.0)
    writing.join()
    assert result.good
    assert result.acknowledged_there == 4
    assert result.to_topic.max_ms > 5000


def test_a_topic_that_comes_to_be_later_is_read_from_its_beginning(
    kafka: Cluster, gateway_id: str, plain: Producer
) -> None:
    cloud = Cloud(kafka, gateway_id)
    audit = Audit(kafka, cloud.topic)
    audit.start()
    values = cloud.values(20)
    _tell(audit, values)
    ensure_topics(kafka, {cloud.topic: 2})
    cloud.write(plain, values)
    result = audit.finish()
    assert result.good
    assert result.acknowledged_there == 20


def test_without_a_topic_everything_is_lost(kafka: Cluster, gateway_id: str) -> None:
    cloud = Cloud(kafka, gateway_id)
    audit = Audit(kafka, cloud.topic)
    audit.start()
    _tell(audit, cloud.values(20))
    result = audit.finish(patience=SHORT)
    assert (result.lost, len(result.lost_ones)) == (20, 10)
    assert "and 10 more" in result.text()


def test_a_load_that_breaks_the_convention_is_told_and_not_audited(cloud: Cloud) -> None:
    audit = Audit(cloud.cluster, cloud.topic)
    audit.start()
    audit.acknowledged("dev-1", PATH, 1.0)
    with pytest.raises(AuditError, match="acknowledged and never sent"):
        audit.finish(patience=SHORT)


def test_a_kafka_that_is_away_is_told_and_nothing_is_called_lost(
    broker_factory: BrokerFactory, gateway_id: str
) -> None:
    broker = broker_factory("cloud")
    cloud = Cloud(broker.cluster, gateway_id)
    ensure_topics(cloud.cluster, {cloud.topic: 2})
    audit = Audit(cloud.cluster, cloud.topic)
    audit.start()
    _tell(audit, cloud.values(5))
    broker.kill()
    try:
        with pytest.raises(Unreachable):
            audit.finish(patience=SHORT)
    finally:
        audit.close()
    with pytest.raises(Unreachable):
        Audit(cloud.cluster, cloud.topic).start(timeout=2)
