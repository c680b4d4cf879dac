"""Replay: a span of time of real topics into a store once more."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from connectors import replay as replay_module
from connectors.kafka import (
    Cluster,
    TopicMissing,
    TopicPartition,
    Unreachable,
    admin,
    consumer,
    end_offsets,
    producer,
)
from connectors.replay import Tally, left, plan_replay, replay
from connectors.runner import ALL_GATEWAYS, SinkSettings
from connectors.sinks import RejectedRecords, RetryLater, Sink, SinkConfigError, SinkRecord
from schemas.avro import serde
from schemas.avro.records import Key, Notification
from schemas.lwm2m.nodes import ResourceType
from tests.kafka_brokers import BrokerFactory
from tests.sink_harness import count, dead_letters, eventually, make_topics, produce, rows, running, wrapped
from tests.sink_samples import delete, new, notification, resource

pytestmark = pytest.mark.kafka

#: What the file holds, without what is counted as it comes.
HISTORY = (
    'SELECT topic, "partition", "offset", position, server, ep, path, number, gateway_time_ms FROM history'
    " JOIN sources s ON s.id = source ORDER BY 1, 2, 3, 4"
)
ENDPOINTS = "SELECT server, name, online, expired, reg_id, event_time_ms FROM endpoints ORDER BY 1, 2"
OBJECTS = "SELECT * FROM has_object ORDER BY 1, 2, 3, 4, 5"


@pytest.fixture
def settings(kafka: Cluster, gateway_id: str, tmp_path: Path) -> SinkSettings:
    options = {"file": str(tmp_path / "rebuilt.db")}
    return SinkSettings(sink="sqlite", gateway=gateway_id, kafka=kafka, options=options, batch_records=50)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rebuilt.db"


def some(number: int, start: int = 0) -> list[Notification]:
    return [notification(resource("/3303/0/5700", float(i)), timestamp=i) for i in range(start, start + number)]


def at_times(cluster: Cluster, topic: str, times: Iterable[int], *, partition: int = 0) -> None:
    """A record for each Kafka time; its value is that time."""
    sender = producer(cluster)
    for time in times:
        value = serde.encode(notification(resource("/3303/0/5700", float(time)), timestamp=time))
        sender.produce(topic, key=serde.encode(Key(ep="ep-1")), value=value, partition=partition, timestamp=time)
    assert sender.flush(30) == 0


def numbers(file: Path) -> list[float]:
    return sorted(float(str(row[0])) for row in rows(file, "SELECT number FROM history"))


def run(settings: SinkSettings, *, from_ms: int | None = None, to_ms: int | None = None) -> Tally:
    plan = plan_replay(settings, from_ms=from_ms, to_ms=to_ms)
    tally = replay(plan, threading.Event())
    assert left(plan, tally) == {}
    return tally


def test_the_whole_log_makes_the_store_that_the_sink_made(settings: SinkSettings, tmp_path: Path, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.registrations, [new(), delete(expired=True), new(reg_id="r2")])
    for partition in range(2):
        produce(settings.kafka, topics.observations, some(130, 130 * partition), partition=partition)
    made = tmp_path / "made.db"
    with running(replace(settings, options={"file": str(made)})):
        eventually(count(made), 260)
        eventually(lambda: rows(made, "SELECT reg_id, online FROM endpoints"), [("r2", 1)])
    assert run(settings).stored == 263
    for sql in (HISTORY, ENDPOINTS, OBJECTS):
        assert rows(file, sql) == rows(made, sql) != []
    # Once more, and into the store of the sink that runs: nothing changes.
    before = rows(made, HISTORY)
    assert run(replace(settings, options={"file": str(made)})).stored == 263
    assert run(settings).refused == 0
    assert rows(file, HISTORY) == rows(made, HISTORY) == before


def test_the_group_of_the_running_sink_is_not_touched(settings: SinkSettings, tmp_path: Path, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(40))
    live = replace(settings, options={"file": str(tmp_path / "live.db")})
    with running(live) as runner:
        eventually(count(tmp_path / "live.db"), 40)
        held = runner.partitions
        assert run(settings).stored == 40
        assert runner.partitions == held
        produce(settings.kafka, topics.observations, some(5, 40))
        eventually(count(tmp_path / "live.db"), 45)
    reader = consumer(settings.kafka, live.group_id)
    (place,) = reader.committed([TopicPartition(topics.observations, 0)], timeout=20)
    reader.close()
    assert place.offset == 45
    groups = admin(settings.kafka).list_consumer_groups(request_timeout=20).result(20).valid
    assert not any(group.group_id == "headwater-replay" for group in groups)
    assert count(file)() == 40


def test_a_span_of_time_begins_with_its_first_and_ends_before_its_last_moment(
    settings: SinkSettings, file: Path
) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    day = 1_700_000_000_000
    # Not in order, as the records of a gateway whose clock was set; and a partition with nothing of then.
    at_times(settings.kafka, topics.observations, [day, day + 30, day + 10, day + 20, day + 5, day + 19, day + 90])
    at_times(settings.kafka, topics.observations, [day + 95], partition=1)
    tally = run(settings, from_ms=day + 10, to_ms=day + 20)
    assert (tally.stored, numbers(file)) == (2, [day + 10, day + 19])
    run(settings, from_ms=day + 90)
    assert numbers(file) == [day + 10, day + 19, day + 90, day + 95]
    run(settings, to_ms=day + 5)
    assert day in numbers(file)
    assert day + 5 not in numbers(file)
    assert run(settings, from_ms=day + 1000).stored == 0


def test_it_ends_where_the_log_ended_when_it_began(settings: SinkSettings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(100))
    plan = plan_replay(settings, from_ms=None, to_ms=None)
    produce(settings.kafka, topics.observations, some(100, 100))
    tally = replay(plan, threading.Event())
    assert (left(plan, tally), tally.stored, count(file)()) == ({}, 100, 100)


def test_the_marker_of_a_transaction_at_the_end_and_what_was_taken_back_are_no_records(
    settings: SinkSettings, file: Path
) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    sender = producer(settings.kafka, transactional_id=f"tx-{settings.gateway}", enable_gapless_guarantee=False)
    sender.init_transactions(30)
    for number, end in ((0, sender.commit_transaction), (1, sender.abort_transaction)):
        sender.begin_transaction()
        sender.produce(topics.observations, value=serde.encode(some(1, number)[0]), partition=0)
        # What is not sent yet would not be taken back but never come.
        assert sender.flush(30) == 0
        end(30)
    # That a transaction has ended is said before its marker is there: two records, two markers.
    eventually(lambda: end_offsets(settings.kafka, [topics.observations])[topics.observations, 0], 4)
    assert run(settings).stored == 1
    assert numbers(file) == [0.0]


def test_an_empty_log_is_replayed_at_once(settings: SinkSettings) -> None:
    make_topics(settings.kafka, settings.gateway)
    assert run(settings).stored == 0


def test_what_is_refused_is_counted_and_told_and_no_dead_letter(settings: SinkSettings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    good = some(4)
    produce(settings.kafka, topics.observations, [good[0], b"junk", good[1], good[2], None, good[3]])

    def picky(inner: Sink, records: Sequence[SinkRecord]) -> None:
        bad = [record for record in records if record.offset == 3]
        inner.write([record for record in records if record not in bad])
        if bad:
            raise RejectedRecords([(record, "not this one") for record in bad])

    plan = plan_replay(settings, from_ms=None, to_ms=None)
    tally = replay(plan, threading.Event(), kind=wrapped(picky))
    assert (tally.stored, tally.refused, left(plan, tally)) == (3, 3, {})
    assert {(refusal.offset, refusal.stage) for refusal in tally.refusals} == {
        (1, "decode"),
        (4, "decode"),
        (3, "sink:sqlite"),
    }
    assert next(refusal.reason for refusal in tally.refusals if refusal.offset == 3) == "not this one"
    assert numbers(file) == [0.0, 1.0, 3.0]
    assert dead_letters(settings.kafka, settings.gateway) == []


def test_a_store_that_is_down_is_waited_for_and_nothing_is_lost(settings: SinkSettings, file: Path) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(120))
    failures = ["starting", "still starting"]
    said: list[str | None] = []

    def shaky(inner: Sink, records: Sequence[SinkRecord]) -> None:
        if failures:
            raise RetryLater(failures.pop(0), after_s=0.01)
        inner.write(records)

    plan = plan_replay(settings, from_ms=None, to_ms=None)
    tally = replay(plan, threading.Event(), lambda now: said.append(now.waits), wrapped(shaky))
    assert (tally.stored, tally.waits, numbers(file)) == (120, None, [float(i) for i in range(120)])
    assert said[:3] == ["starting", "still starting", None]


def test_stopped_midway_it_says_where_it_was_and_the_next_one_completes_the_store(
    settings: SinkSettings, file: Path
) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(500))
    stop = threading.Event()
    plan = plan_replay(settings, from_ms=None, to_ms=None)

    def until(tally: Tally) -> None:
        if tally.stored >= 200:
            stop.set()

    tally = replay(plan, stop, until)
    place = (topics.observations, 0)
    assert 200 <= tally.stored < 500
    assert tally.done[place] == tally.stored == count(file)()
    assert left(plan, tally) == {place: 500 - tally.stored}
    assert run(settings).stored == 500
    assert numbers(file) == [float(i) for i in range(500)]


def test_stopped_while_the_store_is_down_it_ends(settings: SinkSettings) -> None:
    topics = make_topics(settings.kafka, settings.gateway)
    produce(settings.kafka, topics.observations, some(10))
    stop = threading.Event()

    def down(_inner: Sink, _records: Sequence[SinkRecord]) -> None:
        stop.set()
        raise RetryLater("down", after_s=3600)

    plan = plan_replay(settings, from_ms=None, to_ms=None)
    tally = replay(plan, stop, kind=wrapped(down))
    assert (tally.stored, tally.done[topics.observations, 0]) == (0, 0)


def test_all_gateways_are_replayed_together(settings: SinkSettings) -> None:
    names = {make_topics(settings.kafka, f"{settings.gateway}-{which}").observations for which in "ab"}
    plan = plan_replay(replace(settings, gateway=ALL_GATEWAYS), from_ms=None, to_ms=None)
    assert names <= {topic for topic, _ in plan.spans}
    assert not any(topic.endswith((".deadletter", ".management.req")) for topic, _ in plan.spans)


def test_a_gateway_that_is_not_there_and_wrong_options_are_told(settings: SinkSettings) -> None:
    with pytest.raises(TopicMissing, match=f"gateway {settings.gateway} has none of the topics"):
        plan_replay(settings, from_ms=None, to_ms=None)
    make_topics(settings.kafka, settings.gateway)
    plan = plan_replay(replace(settings, options={"colour": 3}), from_ms=None, to_ms=None)
    with pytest.raises(SinkConfigError, match="colour"):
        replay(plan, threading.Event())


def test_a_kafka_that_goes_away_is_told_with_where_it_was(
    broker_factory: BrokerFactory, gateway_id: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = broker_factory("edge")
    topics = make_topics(broker.cluster, gateway_id)
    # More than librdkafka holds in front of us.
    text = "x" * 100_000
    bulk = [notification(resource("/3/0/1", f"{i}{text}", ResourceType.STRING), timestamp=i) for i in range(200)]
    produce(broker.cluster, topics.observations, bulk)
    settings = SinkSettings(
        sink="sqlite", gateway=gateway_id, kafka=broker.cluster, options={"file": str(file)}, batch_records=5
    )

    def kill(inner: Sink, records: Sequence[SinkRecord]) -> None:
        if broker.running is not None:
            broker.kill()
            # Only now: a busy machine's Kafka may need longer for its first record.
            monkeypatch.setattr(replay_module, "SILENCE_S", 1.0)
        inner.write(records)

    plan = plan_replay(settings, from_ms=None, to_ms=None)
    with pytest.raises(Unreachable, match=r"went silent \(.* of 200\); run it again"):
        replay(plan, threading.Event(), kind=wrapped(kill))
    assert 0 < count(file)() < 200
    broker.restart()
    assert run(settings).stored == 200
    assert count(file)() == 200
