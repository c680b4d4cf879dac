"""Requests are read from a real Kafka: in order, and committed when they are done with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from connectors.kafka import Cluster, TopicPartition, admin, consumer, describe_topics, ensure_topics, producer
from gateway.intake import Intake
from gateway.request_records import RawRequest, next_positions, occurrence_of, place_of
from gateway.state import Positions
from schemas.avro import serde
from schemas.avro.records import Request, RequestKind, RequestPayload
from schemas.avro.request_identity import leading_strings
from schemas.avro.topics import Topics
from tests.kafka_brokers import delete_topics

pytestmark = pytest.mark.kafka

WAIT = 30.0


def fill(cluster: Cluster, topic: str, *values: bytes | None) -> None:
    sender = producer(cluster)
    for value in values:
        sender.produce(topic, value, partition=0, headers=[("h", b"1")])
    assert sender.flush(WAIT) == 0


def committed(cluster: Cluster, topic: str, group: str) -> int:
    reader = consumer(cluster, group)
    try:
        [place] = reader.committed([TopicPartition(topic, 0)], timeout=WAIT)
        offset: int = place.offset
        return offset
    finally:
        reader.close()


def at(cluster: Cluster, topic: str, offset: int) -> Positions:
    """A position in the topic that is there now."""
    return {(describe_topics(admin(cluster), [topic])[topic].id, 0): offset}


class Reader:
    """An Intake whose batches are taken by hand."""

    def __init__(self, cluster: Cluster, topic: str, positions: Positions) -> None:
        self.there: list[Mapping[int, range]] = []
        self.assigned = asyncio.Event()
        self.taken: asyncio.Queue[tuple[list[RawRequest], Callable[[], None]]] = asyncio.Queue()
        self.intake = Intake(
            cluster,
            topic,
            1,
            f"group-{topic}",
            positions,
            self._reading,
            lambda batch, done: self.taken.put_nowait((batch, done)),
        )

    def _reading(self, there: Mapping[int, range]) -> None:
        self.there.append(there)
        self.assigned.set()

    async def __aenter__(self) -> Reader:
        self.intake.start(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.intake.stop(timeout=WAIT)

    async def next(self) -> tuple[list[RawRequest], Callable[[], None]]:
        return await asyncio.wait_for(self.taken.get(), WAIT)

    async def values(self, count: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        while len(found) < count:
            batch, done = await self.next()
            found += [raw.value for raw in batch]
            done()
            self.intake.passed(next_positions(batch))
        return found


@pytest.fixture
def topic(kafka: Cluster, gateway_id: str) -> str:
    name = Topics(gateway_id).requests
    ensure_topics(kafka, {name: 1})
    return name


def test_requests_come_as_they_are_and_in_order(kafka: Cluster, topic: str) -> None:
    async def scenario() -> None:
        fill(kafka, topic, b"1", None, b"3")
        async with Reader(kafka, topic, {}) as reader:
            batch, done = await reader.next()
            done()
            first = batch[0]
            assert (first.topic, first.partition, first.offset) == (topic, 0, 0)
            assert (first.key, first.value, first.headers) == (None, b"1", (("h", b"1"),))
            assert first.timestamp > 0
            rest = await reader.values(3 - len(batch)) if len(batch) < 3 else []
            assert [raw.value for raw in batch] + rest == [b"1", None, b"3"]
            more = [b"%d" % number for number in range(1_000)]
            await asyncio.to_thread(fill, kafka, topic, *more)
            assert await reader.values(1_000) == more

    asyncio.run(scenario())


def test_batch_that_is_not_done_with_is_read_again(kafka: Cluster, topic: str) -> None:
    async def scenario() -> None:
        fill(kafka, topic, b"1", b"2")
        async with Reader(kafka, topic, {}) as reader:
            taken, _ = await reader.next()
            # Nothing more comes while the first is open.
            await asyncio.to_thread(fill, kafka, topic, b"3")
        assert reader.taken.empty()
        assert committed(kafka, topic, f"group-{topic}") < 0
        async with Reader(kafka, topic, {}) as reader:
            assert await reader.values(3) == [b"1", b"2", b"3"]
        assert taken[0].value == b"1"
        assert committed(kafka, topic, f"group-{topic}") == 3

    asyncio.run(scenario())


def test_what_was_taken_last_is_committed_at_the_end(kafka: Cluster, topic: str) -> None:
    async def scenario() -> None:
        async with Reader(kafka, topic, {}) as reader:
            for number in range(1, 6):
                await asyncio.to_thread(fill, kafka, topic, b"%d" % number)
                assert await reader.values(1) == [b"%d" % number]
        assert committed(kafka, topic, f"group-{topic}") == 5

    asyncio.run(scenario())


def test_what_the_state_is_done_with_is_not_read_again(kafka: Cluster, topic: str) -> None:
    async def scenario() -> None:
        fill(kafka, topic, b"1", b"2", b"3")
        # Kafka was never told, or has forgotten: it keeps the offsets of an idle group for a week.
        async with Reader(kafka, topic, at(kafka, topic, 2)) as reader:
            assert await reader.values(1) == [b"3"]
            assert reader.there == [{0: range(2, 3)}]

    asyncio.run(scenario())


def test_gateway_without_its_state_goes_on_where_kafka_was_told(kafka: Cluster, topic: str) -> None:
    async def scenario() -> None:
        fill(kafka, topic, b"1", b"2")
        async with Reader(kafka, topic, {}) as reader:
            assert await reader.values(2) == [b"1", b"2"]
        fill(kafka, topic, b"3")
        async with Reader(kafka, topic, {}) as reader:
            assert await reader.values(1) == [b"3"]

    asyncio.run(scenario())


def test_topic_that_is_not_the_one_of_the_state_is_read_from_its_beginning(kafka: Cluster, topic: str) -> None:
    async def scenario() -> None:
        fill(kafka, topic, b"1", b"2")
        for _ in range(2):
            # And again after a kill, before anything of it was done with.
            async with Reader(kafka, topic, {("another", 0): 1}) as reader:
                assert [raw.value for raw in (await reader.next())[0]] == [b"1", b"2"]
                assert reader.there == [{0: range(2)}]

    asyncio.run(scenario())


def test_topic_that_is_made_anew_meanwhile_is_read_from_its_beginning(kafka: Cluster, topic: str) -> None:
    async def scenario() -> None:
        fill(kafka, topic, b"1", b"2", b"3")
        async with Reader(kafka, topic, {}) as reader:
            assert await reader.values(3) == [b"1", b"2", b"3"]
            before = at(kafka, topic, 0)
            await asyncio.to_thread(delete_topics, kafka, topic)
            await asyncio.to_thread(ensure_topics, kafka, {topic: 1})
            await asyncio.to_thread(fill, kafka, topic, b"4")
            assert await reader.values(1) == [b"4"]
            assert at(kafka, topic, 0) != before
            assert reader.there[-1] in ({0: range(0)}, {0: range(1)})
        assert committed(kafka, topic, f"group-{topic}") == 1

    asyncio.run(scenario())


def test_position_beyond_the_end_waits_for_what_comes(kafka: Cluster, topic: str) -> None:
    async def scenario() -> None:
        fill(kafka, topic, b"1")
        # A broker that lost the end of its log: what is left was read.
        async with Reader(kafka, topic, at(kafka, topic, 500)) as reader:
            await asyncio.wait_for(reader.assigned.wait(), WAIT)
            await asyncio.to_thread(fill, kafka, topic, b"2")
            assert await reader.values(1) == [b"2"]

    asyncio.run(scenario())


def test_occurrence_tells_the_records_of_a_topic_apart() -> None:
    def record(offset: int, partition: int, timestamp: int) -> RawRequest:
        return RawRequest(
            topic="t", topic_id="id", partition=partition, offset=offset, timestamp=timestamp, key=None, value=b""
        )

    records = [record(o, p, t) for o in (0, 1, 2**38) for p in (0, 1, 255) for t in (0, 1_700_000_000_000)]
    occurrences = [occurrence_of(raw) for raw in records]
    assert len(set(occurrences)) == len(records)
    assert [place_of(one) for one in occurrences] == [(raw.partition, raw.offset) for raw in records]
    assert all(0 <= one < 2**63 for one in occurrences)


def test_beginning_of_a_broken_request_is_read_as_far_as_it_goes() -> None:
    whole = serde.encode(
        Request(server_id="gw", ep="lamp-é", ticket="t" * 200, payload=RequestPayload(kind=RequestKind.READ, path="/3"))
    )
    texts, end = leading_strings(whole)
    assert texts == ["gw", "lamp-é", "t" * 200]
    for length in range(end):
        with pytest.raises(ValueError, match=r"ends early|codec can't decode"):
            leading_strings(whole[:length])
    with pytest.raises(ValueError, match="ends early"):
        leading_strings(whole[:5] + b"\xff" * 20)
