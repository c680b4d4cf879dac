"""The runner between a real Kafka and a real store."""

from __future__ import annotations

import http.client
import re
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from connectors.kafka import Cluster, TopicPartition, consumer, ensure_topics
from connectors.runner import ALL_GATEWAYS, Source, run_sink, run_sinks
from connectors.runner import SinkSettings as Settings
from connectors.sinks import SINKS, RejectedRecords, RetryLater, Sink, SinkConfigError, SinkKind, SinkRecord
from schemas.avro.records import Key, Notification
from schemas.avro.topics import InvalidGatewayId, TopicKind, Topics
from tests.kafka_brokers import BrokerFactory
from tests.ports import held_port
from tests.sink_harness import count, dead_letters, eventually, make_topics, produce, rows, running, wrapped
from tests.sink_samples import new, notification, resource

pytestmark = pytest.mark.kafka


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "headwater.db"


@pytest.fixture
def settings(kafka: Cluster, gateway_id: str, file: Path) -> Settings:
    return Settings(sink="sqlite", gateway=gateway_id, kafka=kafka, options={"file": str(file)}, linger_s=0.05)


def some(number: int, start: int = 0) -> list[Notification]:
    return [notification(resource("/3303/0/5700", float(i)), timestamp=i) for i in range(start, start + number)]


def committed(settings: Settings, topic: str, partition: int = 0) -> int:
    reader = consumer(settings.kafka, settings.group_id)
    try:
        (position,) = reader.committed([TopicPartition(topic, partition)], timeout=20)
        return max(0, int(position.offset))
    finally:
        reader.close()


def test_records_reach_the_store_and_offsets_follow(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.registrations, [new()])
    produce(settings.kafka, topics.observations, some(200))
    produce(settings.kafka, topics.observations, some(100, 200), partition=1)
    with running(settings):
        eventually(count(file), 300)
        eventually(lambda: rows(file, "SELECT name FROM endpoints"), [("ep-1",)])
    assert committed(settings, topics.observations, 0) == 200
    assert committed(settings, topics.observations, 1) == 100
    produce(settings.kafka, topics.observations, some(5, 300))
    with running(settings) as runner:
        eventually(count(file), 305)
        eventually(runner.waiting_for, None)


def test_what_the_job_join_observes_is_history_once_the_job_has_made_its_topic(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(3))
    joined = topics.name(TopicKind.JOINED)
    with running(settings):
        eventually(count(file), 3)
        ensure_topics(settings.kafka, {joined: 2})
        made = notification(resource("/3300/100/5700", 9.5), timestamp=7)
        produce(settings.kafka, joined, [made], partition=1)
        eventually(count(file), 4)
    assert rows(file, "SELECT path, number FROM history WHERE number > 3") == [("/3300/100/5700", 9.5)]


def test_it_may_start_before_its_topics_and_says_what_it_waits_for(settings: Settings, file: Path) -> None:
    with capture_logs() as said, running(settings):
        names = Topics(settings.gateway)
        wanted = {names.registrations, names.observations, names.replies}
        eventually(lambda: {line["topic"] for line in said if "topic that is not there" in line["event"]}, wanted)
        topics = make_topics(settings.kafka, settings.gateway)
        produce(settings.kafka, topics.observations, some(3))
        eventually(count(file), 3)


def test_of_all_gateways_too_nobody_waits_for_the_topic_of_a_job(broker_factory: BrokerFactory, file: Path) -> None:
    kafka = broker_factory("jobless").cluster  # on which nobody's job has made one
    settings = Settings(sink="redis", gateway=ALL_GATEWAYS, kafka=kafka, options={"file": str(file)}, linger_s=0.05)
    kind = replace(SINKS["redis"], open=SINKS["sqlite"].open)
    with capture_logs() as said, running(settings, kind):

        def missing() -> set[str]:
            return {line["topic"] for line in said if "topic that is not there" in line["event"]}

        eventually(missing, {"iot.*.registrations", "iot.*.observations", "iot.*.management.rep"})
        produce(kafka, make_topics(kafka, "gw1").observations, some(3))
        eventually(count(file), 3)
        assert not [topic for topic in missing() if "analytics" in topic]


def test_every_gateways_topics_are_read_as_they_appear(settings: Settings, file: Path, gateway_id: str) -> None:
    everything = replace(settings, gateway=ALL_GATEWAYS, group=f"group-{gateway_id}")
    mine = f"SELECT count(*) FROM history JOIN sources s ON s.id = source WHERE topic LIKE 'iot.{gateway_id}%'"
    first = make_topics(settings.kafka, f"{gateway_id}-a")
    produce(settings.kafka, first.observations, some(2))
    with running(everything):
        eventually(lambda: rows(file, mine), [(2,)])
        ensure_topics(settings.kafka, {f"iot.{gateway_id}..nobody.observations": 1})
        second = make_topics(settings.kafka, f"{gateway_id}-b.north")
        produce(settings.kafka, second.observations, some(3))
        eventually(lambda: rows(file, mine), [(5,)])


def test_poisoned_records_go_to_the_dead_letters_as_they_came_and_block_nothing(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    good = some(3)
    produce(
        settings.kafka,
        topics.observations,
        [good[0], b"junk", b"", None, b"\x00\xff\xff\xff\xff", good[1], b"\x00", good[2]],
        headers=[("coap.mid", b"7"), ("coap.mid", b"8")],
    )
    with running(settings):
        eventually(count(file), 3)
        eventually(lambda: committed(settings, topics.observations), 8)
    letters = dead_letters(settings.kafka, settings.gateway)
    assert [letter.record.offset for letter in letters] == [1, 2, 3, 4, 6]
    assert [letter.record.value for letter in letters] == [b"junk", b"", None, b"\x00\xff\xff\xff\xff", b"\x00"]
    for letter in letters:
        assert letter.stage == "decode"
        assert letter.error
        assert letter.record.topic == topics.observations
        assert letter.record.headers == (("coap.mid", b"7"), ("coap.mid", b"8"))
        assert letter.record.key is not None
        assert letter.record.timestamp > 0


def test_a_poisoned_record_as_large_as_they_get_still_leaves_a_dead_letter(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    # The broker takes 1,048,588 bytes: with the dead letter's headers it is more than that.
    produce(settings.kafka, topics.observations, [b"x" * 999_000], headers=[("padding", b"y" * 49_300)])
    produce(settings.kafka, topics.observations, some(1))
    with running(settings):
        eventually(count(file), 1)
        eventually(lambda: committed(settings, topics.observations), 2)
    (letter,) = dead_letters(settings.kafka, settings.gateway)
    assert letter.record.value is None
    assert "too large for a dead letter" in letter.error
    assert letter.record.offset == 0


def test_what_the_store_refuses_goes_to_the_dead_letters_and_can_be_tried_again(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, [*some(2), b"junk", *some(2, 2)])

    def no_odd_ones(inner: Sink, records: Sequence[SinkRecord]) -> None:
        odd = [record for record in records if record.offset % 2]
        inner.write([record for record in records if not record.offset % 2])
        if odd:
            raise RejectedRecords([(record, "odd") for record in odd])

    with running(settings, wrapped(no_odd_ones)):
        eventually(lambda: committed(settings, topics.observations), 5)
    letters = dead_letters(settings.kafka, settings.gateway)
    assert [(x.record.offset, x.stage, x.error) for x in letters if x.stage != "decode"] == [
        (1, "sink:sqlite", "odd"),
        (3, "sink:sqlite", "odd"),
    ]
    assert count(file)() == 2

    again = replace(settings, source=Source.DEAD_LETTERS)
    run_sink(again, threading.Event())
    identity = 'SELECT topic, "offset", number FROM history JOIN sources s ON s.id = source ORDER BY 2'
    assert rows(file, identity) == [(topics.observations, o, float(v)) for o, v in ((0, 0), (1, 1), (3, 2), (4, 3))]
    # The poisoned one is as poisoned as before: one more dead letter, for the next time.
    assert len(dead_letters(settings.kafka, settings.gateway)) == 4
    run_sink(again, threading.Event())
    assert count(file)() == 4


def test_a_store_that_is_down_is_waited_for_without_losing_the_group_or_a_record(
    settings: Settings, file: Path
) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(50))
    up, asked = threading.Event(), threading.Semaphore(0)
    joined: list[int] = []

    def down(inner: Sink, records: Sequence[SinkRecord]) -> None:
        if not up.is_set():
            asked.release()
            raise RetryLater("the store is down", 0.05)
        joined.append(len(records))
        inner.write(records)

    with running(settings, wrapped(down)) as runner:
        for _ in range(5):
            assert asked.acquire(timeout=60)
        assert runner.waiting_for() == "the store is down"
        assert committed(settings, topics.observations) == 0
        produce(settings.kafka, topics.observations, some(50, 50))
        for _ in range(5):
            assert asked.acquire(timeout=60)
        up.set()
        eventually(count(file), 100)
        eventually(runner.waiting_for, None)
    assert joined[0] == 50, "the waiting batch did not grow"
    assert committed(settings, topics.observations) == 100


def test_a_partition_that_another_had_while_the_store_was_down_is_read_on_when_it_comes_back(
    settings: Settings, file: Path
) -> None:
    topic = Topics(settings.gateway).observations
    ensure_topics(settings.kafka, {topic: 2})
    for partition in range(2):
        produce(settings.kafka, topic, some(10, 10 * partition), partition=partition)
    up, asked, other_writes = threading.Event(), threading.Semaphore(0), threading.Event()

    def down(inner: Sink, records: Sequence[SinkRecord]) -> None:
        if not up.is_set():
            asked.release()
            raise RetryLater("the store is down", 0.05)
        inner.write(records)

    def other(inner: Sink, records: Sequence[SinkRecord]) -> None:
        inner.write(records)
        other_writes.set()

    with running(settings, wrapped(down)) as runner:
        assert asked.acquire(timeout=60)
        with running(settings, wrapped(other)):
            assert other_writes.wait(60)
            up.set()
            eventually(runner.waiting_for, None)
            eventually(count(file), 20)
        for partition in range(2):
            produce(settings.kafka, topic, some(10, 20 + 10 * partition), partition=partition)
        eventually(count(file), 40)


def test_what_is_assigned_while_the_store_is_down_waits_in_kafka(settings: Settings, file: Path) -> None:
    topic = Topics(settings.gateway).observations
    ensure_topics(settings.kafka, {topic: 2})
    for partition in range(2):
        produce(settings.kafka, topic, some(100, 100 * partition), partition=partition)
    up, asked, other_asked = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
    batches: list[int] = []

    def down(inner: Sink, records: Sequence[SinkRecord]) -> None:
        if not up.is_set():
            asked.release()
            raise RetryLater("the store is down", 0.05)
        batches.append(len(records))
        inner.write(records)

    def also_down(_inner: Sink, _records: Sequence[SinkRecord]) -> None:
        other_asked.release()
        raise RetryLater("the store is down", 0.05)

    small = replace(settings, batch_records=20)
    with running(small, wrapped(down)) as runner:
        assert asked.acquire(timeout=60)
        with running(small, wrapped(also_down)):
            assert other_asked.acquire(timeout=60)
        # What the second one had comes back to the first, whose store is still down.
        eventually(lambda: len(runner.partitions), 2)
        for _ in range(20):
            assert asked.acquire(timeout=60)
        up.set()
        eventually(count(file), 200)
    assert max(batches) <= 20


def test_a_store_that_is_down_does_not_keep_it_from_stopping(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(5))
    asked = threading.Event()

    def down(_inner: Sink, _records: Sequence[SinkRecord]) -> None:
        asked.set()
        raise RetryLater("the store is down", 30.0)

    with running(settings, wrapped(down)):
        assert asked.wait(60)
    assert committed(settings, topics.observations) == 0
    with running(settings):
        eventually(count(file), 5)


def test_a_full_disk_is_waited_for_and_it_goes_on_when_there_is_room(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(3000))
    small = replace(settings, options={"file": str(file), "max_size_mb": 0.3}, batch_records=200)
    with running(small) as runner:
        eventually(lambda: "full" in (runner.waiting_for() or ""), True)
        stored = count(file)()
        assert 0 < stored < 3000
        assert stored == committed(settings, topics.observations)
    with running(settings):
        eventually(count(file), 3000)
    assert rows(file, "SELECT count(DISTINCT number) FROM history") == [(3000,)]


def test_instances_of_a_group_share_the_partitions_and_nothing_is_lost_or_doubled(
    settings: Settings, file: Path
) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    small = replace(settings, batch_records=50)
    seen: tuple[set[int], set[int]] = (set(), set())

    def watch(which: int) -> SinkKind:
        def note(inner: Sink, records: Sequence[SinkRecord]) -> None:
            seen[which].update(record.partition for record in records if record.topic == topics.observations)
            inner.write(records)

        return wrapped(note)

    with running(small, watch(0)):
        produce(settings.kafka, topics.observations, some(500))
        with running(small, watch(1)):
            number = 500
            # The second one joins in mid-flow; go on until it has had something to do.
            while not seen[1]:
                produce(settings.kafka, topics.observations, some(100, number))
                produce(settings.kafka, topics.observations, some(100, number + 100), partition=1)
                number += 200
                eventually(count(file), number)
        produce(settings.kafka, topics.observations, some(100, number), partition=1)
        produce(settings.kafka, topics.observations, some(100, number + 100))
        eventually(count(file), number + 200)
    assert rows(file, "SELECT count(DISTINCT number) FROM history") == [(number + 200,)]


def test_several_sinks_run_in_one_process_each_with_its_own_group(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(10))
    other = file.with_name("other.db")
    stop = threading.Event()
    both = [settings, replace(settings, group="other-group-" + settings.gateway, options={"file": str(other)})]
    thread = threading.Thread(target=run_sinks, args=(both, stop))
    thread.start()
    try:
        eventually(count(file), 10)
        eventually(count(other), 10)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_health_and_metrics_are_served(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(10))
    stop = threading.Event()
    port = held_port()
    thread = threading.Thread(target=run_sink, args=(replace(settings, metrics_port=port), stop))
    thread.start()

    def get(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    try:
        eventually(count(file), 10)
        eventually(lambda: get("/readyz")[0], 200)
        assert get("/healthz")[0] == 200
        written = re.compile(rf'headwater_sink_records_total{{group="{settings.group_id}",sink="sqlite"}} 10\.0')
        eventually(lambda: bool(written.search(get("/metrics")[1])), True)
    finally:
        stop.set()
        thread.join(60)


def test_wrong_settings_are_told_before_anything_starts(settings: Settings, file: Path) -> None:
    with pytest.raises(SinkConfigError, match=r"there are: .*sqlite"):
        replace(settings, sink="oracle")
    with pytest.raises(InvalidGatewayId):
        replace(settings, gateway="no such/thing")
    with pytest.raises(SinkConfigError, match="one gateway at a time"):
        replace(settings, gateway=ALL_GATEWAYS, source=Source.DEAD_LETTERS)
    with pytest.raises(SinkConfigError, match="needs the option file"):
        run_sink(replace(settings, options={}), threading.Event())


def test_a_record_that_is_none_of_a_sinks_is_refused_with_a_reason(settings: Settings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, [Key(ep="ep-1"), *some(1)])
    with running(settings):
        eventually(count(file), 1)
        eventually(lambda: committed(settings, topics.observations), 2)
    (letter,) = dead_letters(settings.kafka, settings.gateway)
    assert (letter.stage, letter.record.offset) == ("sink:sqlite", 0)
    assert "Key" in letter.error
    assert sqlite3.connect(file).execute("SELECT count(*) FROM history").fetchone() == (1,)
