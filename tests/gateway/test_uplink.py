"""The way into the edge Kafka, on a real one that is killed in mid-flow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from connectors.kafka import Cluster, ensure_topics, partition_counts, read_to_end
from gateway.uplink import STALLED_AFTER, Uplink
from schemas.avro.topics import Topics
from tests.kafka_brokers import BrokerFactory, controller_in_place_of

pytestmark = pytest.mark.kafka

WAIT = 60.0


def _uplink(cluster: Cluster, gateway: str) -> Uplink:
    """An open uplink on the running loop, with its topics made."""
    topics = Topics(gateway)
    ensure_topics(cluster, topics.partitions())
    uplink = Uplink(cluster, topics, partition_counts(cluster, list(topics.partitions())))
    uplink.start(asyncio.get_running_loop())
    uplink.reopen()
    return uplink


def _values(cluster: Cluster, topic: str) -> list[bytes]:
    return [message.value() or b"" for message in read_to_end(cluster, [topic])]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110  # librdkafka tells nobody; it is asked
            await asyncio.sleep(0.01)


def test_nothing_is_taken_before_the_gateway_opens_it(kafka: Cluster, gateway_id: str) -> None:
    uplink = Uplink(kafka, Topics(gateway_id), Topics(gateway_id).partitions())
    assert not uplink.accepting
    assert uplink.refusal() == "the gateway is starting"


def test_what_is_reported_is_in_kafka_with_key_headers_and_partition(kafka: Cluster, gateway_id: str) -> None:
    async def run() -> None:
        uplink = _uplink(kafka, gateway_id)
        topic = uplink.topics.observations
        reports: list[bool] = []
        assert uplink.send(topic, 1, b"key", b"value", [("h", b"1")], reports.append)
        assert reports == []
        assert uplink.under_way == 1
        assert await uplink.drained(WAIT)
        assert reports == [True]
        (message,) = read_to_end(kafka, [topic])
        assert (message.key(), message.value(), message.partition()) == (b"key", b"value", 1)
        assert message.headers() == [("h", b"1")]
        assert (uplink.sent, uplink.failed) == (1, 0)

    asyncio.run(run())


def test_one_report_vouches_for_all_before_it_on_its_partition(kafka: Cluster, gateway_id: str) -> None:
    async def run() -> None:
        uplink = _uplink(kafka, gateway_id)
        topic = uplink.topics.observations
        there: list[list[bytes]] = []

        def done(durable: bool) -> None:
            assert durable
            there.append(_values(kafka, topic))

        for number in range(2000):
            assert uplink.send(topic, 0, b"k", b"%d" % number, [], None)
        assert uplink.under_way == 0
        assert uplink.send(topic, 0, b"k", b"last", [], done)
        assert await uplink.drained(WAIT)
        assert there == [[*(b"%d" % number for number in range(2000)), b"last"]]

    asyncio.run(run())


def test_report_whose_taker_fails_does_not_hold_up_those_behind_it(kafka: Cluster, gateway_id: str) -> None:
    async def run() -> None:
        uplink = _uplink(kafka, gateway_id)
        reports: list[bool] = []

        def fail(_: bool) -> None:
            raise RuntimeError("a bug")

        for done in (fail, reports.append, fail, reports.append):
            assert uplink.send(uplink.topics.observations, 0, b"k", b"v", [], done)
        assert await uplink.drained(WAIT)
        assert reports == [True, True]

    asyncio.run(run())


def test_closed_uplink_refuses_but_what_is_under_way_goes_on(kafka: Cluster, gateway_id: str) -> None:
    async def run() -> None:
        uplink = _uplink(kafka, gateway_id)
        reports: list[bool] = []
        assert uplink.send(uplink.topics.observations, 0, b"k", b"v", [], reports.append)
        was_brief = uplink.refuses_briefly()
        uplink.close("stopping")
        assert not was_brief
        assert (uplink.accepting, uplink.refusal(), uplink.refuses_briefly()) == (False, "stopping", True)
        assert await uplink.drained(WAIT)
        assert reports == [True]

    asyncio.run(run())


def test_record_that_kafka_refuses_renews_the_producer_and_nothing_under_way_is_taken_for_durable(
    kafka: Cluster, gateway_id: str
) -> None:
    async def run() -> None:
        topic = Topics(gateway_id).observations
        ensure_topics(kafka, {topic: 1}, config={topic: {"max.message.bytes": "2000"}})
        uplink = _uplink(kafka, gateway_id)
        reports: dict[bytes, bool] = {}
        renewed = asyncio.Event()
        uplink.on_fatal = renewed.set

        def send(value: bytes) -> None:
            def done(durable: bool) -> None:
                reports[value[:8]] = durable

            assert uplink.send(topic, 0, b"k", value, [], done)

        send(b"before")
        assert await uplink.drained(WAIT)
        for value in (b"behind 1", b"too long" * 1000, b"behind 2"):
            send(value)
        async with asyncio.timeout(WAIT):
            await renewed.wait()
        assert uplink.refusal() == "the Kafka producer is being made anew"
        assert uplink.under_way == 0
        uplink.reopen()
        assert uplink.refusal() is None
        send(b"after")
        assert await uplink.drained(WAIT)
        assert reports[b"before"] and reports[b"after"] and not reports[b"too long"]
        there = _values(kafka, topic)
        assert all(there.count(value) == 1 for value, durable in reports.items() if durable)
        assert b"too long" * 1000 not in there

    asyncio.run(run())


def test_producer_that_failed_for_good_while_something_else_had_kafkas_address_is_made_anew(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")

    async def run() -> None:
        uplink = _uplink(edge.cluster, gateway_id)
        topic = uplink.topics.observations
        edge.kill()
        reports: list[bool] = []
        renewed: list[str | None] = []
        uplink.on_fatal = lambda: renewed.append(uplink.refusal())
        assert uplink.send(topic, 0, b"k", b"lost", [], reports.append)
        with structlog.testing.capture_logs() as said, controller_in_place_of(edge, tmp_path / "stranger"):
            await _until(lambda: bool(renewed))
        assert reports == [False]
        assert {line["event"] for line in said} == {"the Kafka producer failed for good and is made anew"}
        edge.restart()
        uplink.reopen()
        assert uplink.send(topic, 0, b"k", b"after", [], reports.append)
        assert await uplink.drained(WAIT)
        assert reports == [False, True]
        assert _values(edge.cluster, topic) == [b"after"]

    asyncio.run(run())


def test_partition_that_is_not_there_takes_nothing_and_breaks_nothing(kafka: Cluster, gateway_id: str) -> None:
    async def run() -> None:
        uplink = _uplink(kafka, gateway_id)
        reports: list[bool] = []
        assert uplink.send(uplink.topics.observations, 0, b"k", b"1", [], reports.append)
        assert await uplink.drained(WAIT)
        assert not uplink.send(uplink.topics.observations, 99, b"k", b"v", [], reports.append)
        assert uplink.send(uplink.topics.observations, 0, b"k", b"2", [], reports.append)
        assert await uplink.drained(WAIT)
        assert reports == [True, True]

    asyncio.run(run())


def test_killed_kafka_is_refused_while_it_is_away_and_nothing_is_lost_or_doubled(
    broker_factory: BrokerFactory, gateway_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        broker = broker_factory("edge")
        uplink = _uplink(broker.cluster, gateway_id)
        topic = uplink.topics.observations
        durable: list[bytes] = []
        failed: list[bytes] = []

        def send(number: int) -> None:
            value = b"%06d" % number
            took = uplink.send(topic, number % 2, b"k", value, [], lambda ok: (durable if ok else failed).append(value))
            assert took

        sent = 0
        for _ in range(2):
            for _ in range(3000):
                send(sent)
                sent += 1
                if sent % 500 == 0:
                    await asyncio.sleep(0)
            await asyncio.to_thread(broker.kill)
            send(sent)
            sent += 1
            before = len(durable)
            await _until(lambda: not uplink.accepting)
            assert uplink.refusal() == "the edge Kafka does not answer"
            monkeypatch.setattr("gateway.uplink.PATIENCE", 1e6)
            assert uplink.refuses_briefly()
            monkeypatch.setattr("gateway.uplink.PATIENCE", 0.0)
            assert not uplink.refuses_briefly()
            assert uplink.under_way > 0
            assert len(durable) == before  # nothing becomes durable in a Kafka that is dead
            await asyncio.to_thread(broker.restart)
            assert await uplink.drained(WAIT)
            assert uplink.accepting
        assert failed == []
        assert len(durable) == sent
        assert sorted(_values(broker.cluster, topic)) == [b"%06d" % number for number in range(sent)]

    assert STALLED_AFTER < 10
    asyncio.run(run())


def test_full_queue_takes_nothing_more_and_nothing_is_lost(
    broker_factory: BrokerFactory, gateway_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.uplink.MOST_QUEUED_RECORDS", 100)

    async def run() -> None:
        broker = broker_factory("edge")
        uplink = _uplink(broker.cluster, gateway_id)
        topic = uplink.topics.observations
        await asyncio.to_thread(broker.kill)
        durable: list[int] = []

        def send(number: int) -> bool:
            return uplink.send(topic, 0, b"k", b"%d" % number, [], lambda ok: durable.append(number if ok else -1))

        taken = [number for number in range(150) if send(number)]
        assert taken == list(range(100))
        assert uplink.failed == 50
        await asyncio.to_thread(broker.restart)
        assert await uplink.drained(WAIT)
        assert durable == taken
        assert send(1000)
        assert await uplink.drained(WAIT)
        assert _values(broker.cluster, topic) == [b"%d" % number for number in [*taken, 1000]]

    asyncio.run(run())
