"""What the Redis sink alone promises: what is latest, statistics that count each notification once, and its keys."""

from __future__ import annotations

import json
import math
import random
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from connectors.replay import plan_replay, replay
from connectors.runner import SinkSettings
from connectors.sinks import RejectedRecords, RetryLater, SinkRecord
from connectors.sinks.redis import open_redis
from connectors.sinks.redis_applied import MAX_SPANS
from schemas.avro.records import (
    GenericBody,
    Notification,
    ReadBody,
    Request,
    RequestKind,
    RequestPayload,
    ResponseCode,
    Statistics,
)
from schemas.avro.topics import TopicKind
from schemas.lwm2m.nodes import Instance, ResourceType
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.redis_server import Brand, shared_server
from tests.sink_harness import PATIENCE_S, dead_letters, eventually, make_topics, produce, running
from tests.sink_samples import TOPICS, at, new, notification, reply, resource
from tests.stores.redis import RedisStore

ROOT = Path(__file__).parents[2]
HERE = "/3303/0/5700"


@pytest.fixture(params=list(Brand), ids=lambda brand: brand.name.lower())
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RedisStore:
    """On either server."""
    return RedisStore(tmp_path, shared_server(request.param))


@pytest.fixture
def redis(tmp_path: Path) -> RedisStore:
    return RedisStore(tmp_path)


def reading(
    offset: int, value: float = 0.0, *, ep: str = "ep-1", time: int | None = None, device: int | None = None
) -> SinkRecord:
    said = notification(
        resource(HERE, value, timestamp=device), ep=ep, timestamp=1_000 + offset if time is None else time
    )
    return at(offset, said)


def write(store: RedisStore, *records: SinkRecord) -> None:
    sink = open_redis(store.options())
    try:
        sink.write(records)
    finally:
        sink.close()


def late(record: SinkRecord) -> SinkRecord:
    return replace(record, headers=(("late", b"1"),))


def expected(values: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "mean": math.fsum(values) / len(values),
        "variance": statistics.pvariance(values),
        "std_dev": statistics.pstdev(values),
        "min": min(values),
        "max": max(values),
    }


def agrees(store: RedisStore, values: Sequence[float]) -> None:
    found = store.statistics()
    wanted = expected(values)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-12, abs=1e-300)


# ---- what is latest


def test_the_latest_value_is_told_with_its_times(store: RedisStore) -> None:
    write(store, reading(7, 21.5, time=1_700_000_000_500, device=1_700_000_000_123))
    assert store.latest() == {
        HERE: {
            "value": 21.5,
            "type": "FLOAT",
            "time": 1_700_000_000_123,
            "gatewayTime": 1_700_000_000_500,
            "deviceTime": 1_700_000_000_123,
            "kind": "observe",
            "ticket": "ticket#1",
            "observationId": "obs-1",
            "late": False,
            "order": [1, 1_700_000_000_123, 1_700_000_000_500, 7, 0],
        }
    }


#: Of two values, the first stays the latest, in whichever order and batches they come.
CONTESTS = {
    "event time": (reading(0, 1.0, time=20), reading(1, 2.0, time=10)),
    "the device's time": (reading(0, 1.0, time=20), reading(1, 2.0, time=30, device=5)),
    "offset": (reading(9, 1.0, time=20), reading(8, 2.0, time=20)),
    "the gateway's time": (reading(0, 1.0, time=30, device=5), reading(1, 2.0, time=20, device=5)),
    "not late": (reading(0, 1.0, time=20), late(reading(1, 2.0, time=30))),
    "no time to come": (reading(1, 1.0, time=30), reading(0, 2.0, time=20, device=4_000_000_000_000)),
}


@pytest.mark.parametrize("contest", CONTESTS)
def test_an_older_value_never_replaces_a_newer_one(redis: RedisStore, contest: str) -> None:
    newer, older = CONTESTS[contest]
    for batches in ([(newer,), (older,)], [(older,), (newer,)], [(newer, older)], [(older, newer)]):
        redis.client.flushdb()
        for batch in batches:
            write(redis, *batch)
        assert redis.latest()[HERE]["value"] == 1.0
        assert redis.statistics()["last"] == 1.0
        assert redis.statistics()["count"] == 2
        assert len(redis.stream()) == 2


def test_of_a_record_with_several_values_of_one_path_the_youngest_is_latest(redis: RedisStore) -> None:
    collected = (
        resource(HERE, 1.0, timestamp=10),
        resource(HERE, 3.0, timestamp=30),
        resource(HERE, 2.0, timestamp=20),
    )
    write(redis, at(0, notification(Instance(path=Lwm2mPath(3303, 0), resources=collected), timestamp=50)))
    assert redis.latest()[HERE]["value"] == 3.0
    agrees(redis, [1.0, 3.0, 2.0])


def test_replies_are_latest_too_and_no_part_of_the_statistics(redis: RedisStore) -> None:
    write(
        redis,
        reading(0, 1.0, time=10),
        at(0, reply(ReadBody(content=resource(HERE, 9.0)), path=HERE, timestamp=20)),
        at(1, reply(GenericBody(message="gone"), path="/3/0", code=ResponseCode.NOT_FOUND, timestamp=30)),
    )
    assert {path: one["value"] for path, one in redis.latest().items()} == {HERE: 9.0}
    agrees(redis, [1.0])
    assert [entry["value"] for entry in redis.stream()] == ["1.0", "9.0", '"gone"']


# ---- statistics


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9, 1e140])
def test_statistics_are_those_of_two_passes_however_they_come(store: RedisStore, scale: float) -> None:
    draw = random.Random(4)
    values = [scale + draw.gauss(0, min(scale, 0.01)) for _ in range(3_000)]
    records = [reading(offset, value) for offset, value in enumerate(values)]
    sink = open_redis(store.options())
    start = 0
    while start < len(records):
        size = draw.choice((1, 2, 7, 300))
        sink.write(records[start : start + size])
        start += size
    sink.close()
    agrees(store, values)
    assert store.statistics()["last"] == values[-1]
    assert store.statistics()["last_time"] == 1_000 + 2_999
    assert store.statistics()["sum"] == pytest.approx(math.fsum(values))


def test_what_is_no_number_is_left_out_and_counted(redis: RedisStore) -> None:
    strange = [math.nan, math.inf, -math.inf, 1e200, -1e308]
    write(redis, *(reading(offset, value) for offset, value in enumerate(strange)))
    assert redis.statistics() == {"count": 0, "left_out": 5}
    write(redis, *(reading(offset, value) for offset, value in enumerate([1.0, 2.0, math.nan, 4.0], 5)))
    agrees(redis, [1.0, 2.0, 4.0])
    write(redis, reading(9, math.inf))
    agrees(redis, [1.0, 2.0, 4.0])
    assert redis.statistics()["left_out"] == 7
    assert redis.latest()[HERE]["value"] == "Infinity"


def test_only_numbers_have_statistics(redis: RedisStore) -> None:
    write(
        redis,
        at(0, notification(resource("/3303/0/5605", -7, ResourceType.INTEGER))),
        at(1, notification(resource("/3303/0/5701", "Cel", ResourceType.STRING))),
        at(2, notification(resource("/3303/0/5850", True, ResourceType.BOOLEAN))),
        at(3, notification(resource("/3303/0/5518", 1_700_000_000_123, ResourceType.TIME))),
    )
    assert list(redis.client.scan_iter("hw:*:stats:*")) == [redis.key("stats", "ep-1", "/3303/0/5605")]
    assert redis.statistics("/3303/0/5605")["last"] == -7


def test_results_of_the_statistics_job_are_kept_by_their_time(redis: RedisStore) -> None:
    topic = TOPICS.name(TopicKind.STATISTICS)

    def result(offset: int, timestamp: int, length: int, path: str = HERE) -> SinkRecord:
        made = Statistics(
            server_id="gw1",
            ep="ep-1",
            path=path,
            timestamp=timestamp,
            mean=0.1,
            std_dev=2.0,
            variance=4.0,
            stream_length=length,
        )
        return at(offset, made, topic=topic)

    write(redis, result(0, 10, 1), result(1, 20, 2), result(2, 15, 9, "/3303/1/5700"))
    write(redis, result(0, 10, 1))
    found = {path: json.loads(text) for path, text in redis.hash("statistics", "ep-1").items()}
    assert {path: one.pop("order")[1] for path, one in found.items()} == {HERE: 20, "/3303/1/5700": 15}
    assert found[HERE] == {"mean": 0.1, "std_dev": 2.0, "variance": 4.0, "stream_length": 2, "timestamp": 20}
    assert redis.stream() == []


def test_a_result_that_is_no_finite_number_is_kept_as_a_text(redis: RedisStore) -> None:
    made = Statistics(
        server_id="gw1",
        ep="ep-1",
        path=HERE,
        timestamp=10,
        mean=-math.inf,
        std_dev=math.nan,
        variance=math.inf,
        stream_length=2,
    )
    write(redis, at(0, made, topic=TOPICS.name(TopicKind.STATISTICS)))
    found = json.loads(redis.hash("statistics", "ep-1")[HERE])
    assert (found["mean"], found["std_dev"], found["variance"]) == ("-Infinity", "NaN", "Infinity")


# ---- once


def test_whatever_comes_again_in_whatever_batches_changes_nothing(store: RedisStore) -> None:
    draw = random.Random(1)
    records = [reading(offset, draw.gauss(5, 2), ep=f"ep-{offset % 3}") for offset in range(200)]
    records += [replace(reading(offset, 1.0), partition=1) for offset in range(50)]
    write(store, *records)
    before = store.everything()
    sinks = [open_redis(store.options()) for _ in range(2)]
    for _ in range(20):
        start = draw.randrange(len(records))
        draw.choice(sinks).write(records[start : start + draw.randrange(1, 90)])
    for sink in sinks:
        sink.close()
    assert store.everything() == before


def test_two_that_believe_a_partition_theirs_count_nothing_twice(store: RedisStore) -> None:
    """As in a rebalance: the old owner still writes what the new one reads again."""
    records = [reading(offset, float(offset)) for offset in range(600)]
    failures: list[BaseException] = []
    ready = threading.Barrier(3)

    def work(seed: int) -> None:
        draw = random.Random(seed)
        sink = open_redis(store.options())
        try:
            ready.wait(PATIENCE_S)
            start = 0
            while start < len(records):
                size = draw.randrange(1, 30)
                while True:
                    try:
                        sink.write(records[start : start + size])
                        break
                    except RetryLater as exc:  # the other was first, again and again
                        assert "others write the same partitions" in str(exc)
                start += size
        except BaseException as exc:  # noqa: BLE001  told below
            failures.append(exc)
        finally:
            sink.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not failures
    agrees(store, [float(offset) for offset in range(600)])
    assert sorted(float(entry["value"]) for entry in store.stream()) == [float(offset) for offset in range(600)]


def test_an_emptied_store_is_filled_while_the_sink_goes_on(redis: RedisStore) -> None:
    records = [reading(offset, float(offset)) for offset in range(900)]
    runs, replays = open_redis(redis.options()), open_redis(redis.options())
    runs.write(records[:600])
    redis.client.flushdb()
    runs.write(records[600:700])
    replays.write(records[:300])
    runs.write(records[700:900])
    replays.write(records[300:700])
    agrees(redis, [float(offset) for offset in range(900)])
    before = redis.everything()
    replays.write(records)
    runs.close()
    replays.close()
    assert redis.everything() == before


def test_a_record_that_was_refused_counts_when_it_is_tried_again(redis: RedisStore) -> None:
    write(redis, *(reading(offset, float(offset)) for offset in range(10) if offset != 4))
    write(redis, reading(4, 4.0))
    agrees(redis, [float(offset) for offset in range(10)])


def test_a_topic_with_a_gap_after_every_record_takes_little_room(redis: RedisStore) -> None:
    sink = open_redis(redis.options())
    records = [reading(2 * offset, float(offset)) for offset in range(3 * MAX_SPANS)]
    for start in range(0, len(records), 50):
        sink.write(records[start : start + 50])
    sink.write(records)
    sink.close()
    agrees(redis, [float(offset) for offset in range(3 * MAX_SPANS)])
    assert len(redis.hash("applied")["iot.gw1.observations:0"]) < 40 * MAX_SPANS


def test_redis_without_what_it_had_is_told_and_a_replay_puts_it_back(
    redis: RedisStore, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [reading(offset, float(offset)) for offset in range(30)]
    sink = open_redis(redis.options())
    sink.write(records[:10])
    kept = {key: redis.client.dump(key) for key in redis.client.scan_iter()}
    sink.write(records[10:20])
    redis.client.flushdb()  # as after a crash without a log: what was acknowledged last is gone
    for key, content in kept.items():
        redis.client.restore(key, 0, content)
    sink.write(records[20:])
    sink.close()
    told = capsys.readouterr().out
    assert "lost what it had acknowledged" in told
    assert "first=10" in told
    assert "last=19" in told
    write(redis, *records)
    agrees(redis, [float(offset) for offset in range(30)])


# ---- keys


HOSTILE = [
    "a:b",
    "ep:/3303/0/5700",
    "stats:ep-1",
    "{gw2}",
    "}{",
    "\x00",
    "a\x00b",
    " ",
    "\r\n",
    "*",
    "é☃💥\u2028",
    '"\\',
    "x" * 5_000,
    "",
    "-nan",
    "null",
]


def test_hostile_names_are_kept_apart(store: RedisStore) -> None:
    write(
        store,
        *(reading(offset, float(offset), ep=name) for offset, name in enumerate(HOSTILE)),
        *(at(offset, new(ep=name, reg_id=f"r{offset}")) for offset, name in enumerate(HOSTILE)),
    )
    write(store, *(reading(100 + offset, float(offset), ep=name) for offset, name in enumerate(HOSTILE)))
    for offset, name in enumerate(HOSTILE):
        assert store.latest(name)[HERE]["value"] == float(offset)
        assert store.statistics(ep=name)["mean"] == float(offset)
        assert store.statistics(ep=name)["count"] == 2
        endpoint = store.endpoint(name)
        assert endpoint is not None
        assert (endpoint["name"], endpoint["regId"]) == (name, f"r{offset}")
    assert {entry["ep"] for entry in store.stream()} == set(HOSTILE)
    assert store.client.smembers(store.key("online")) == {name.encode() for name in HOSTILE}
    # Of 'stats', what is before the last colon is the name.
    stats = [key.removeprefix(store.key("stats") + b":") for key in store.client.scan_iter(store.key("stats") + b":*")]
    assert {key.rpartition(b":")[0].decode() for key in stats} == set(HOSTILE)


def test_gateways_do_not_meet(redis: RedisStore) -> None:
    other = replace(reading(0, 2.0), gateway="gw2", topic="iot.gw2.observations")
    write(redis, reading(0, 1.0), other, reading(1, 3.0))
    agrees(redis, [1.0, 3.0])
    assert redis.hash("stats", "ep-1", HERE, gateway="gw2")["mean"] == "2"


def test_the_prefix_is_in_front_of_all(redis: RedisStore) -> None:
    sink = open_redis({**redis.options(), "prefix": "city:one"})
    sink.write([reading(0), at(0, new())])
    sink.close()
    assert all(key.startswith(b"city:one:{gw1}:") for key in redis.client.scan_iter())


def test_the_stream_grows_to_its_bound_and_no_further(redis: RedisStore) -> None:
    sink = open_redis({**redis.options(), "stream_max": 500})
    for start in range(0, 3_000, 300):
        sink.write([reading(offset, float(offset)) for offset in range(start, start + 300)])
    sink.close()
    found = redis.stream()
    assert 500 <= len(found) < 700
    assert float(found[-1]["value"]) == 2_999.0
    agrees(redis, [float(offset) for offset in range(3_000)])


def test_no_stream_if_none_is_wanted(redis: RedisStore) -> None:
    sink = open_redis({**redis.options(), "stream_max": 0})
    sink.write([reading(0)])
    sink.close()
    assert not redis.client.exists(redis.key("stream"))
    agrees(redis, [0.0])


@pytest.mark.parametrize(
    "strange",
    [
        at(1, notification(resource("/3303/0/5701", "\ud800", ResourceType.STRING))),
        at(1, notification(resource(HERE, 1.0), ep="\ud800")),
        at(1, notification(resource("/3/0/9", 10**5_000, ResourceType.INTEGER))),
        at(1, new(ep="\ud800")),
    ],
    ids=["text", "name", "number", "registration"],
)
def test_what_cannot_be_kept_is_refused_alone(redis: RedisStore, strange: SinkRecord) -> None:
    with pytest.raises(RejectedRecords) as refused:
        write(redis, reading(0, 1.0), strange, reading(2, 3.0))
    assert [record.offset for record, _ in refused.value.rejected] == [1]
    agrees(redis, [1.0, 3.0])


def test_a_batch_of_huge_objects_goes_in_pieces(redis: RedisStore) -> None:
    many = tuple(resource(f"/3303/0/{number}", float(number)) for number in range(8_000))
    records = [
        at(offset, notification(Instance(path=Lwm2mPath(3303, 0), resources=many), timestamp=offset))
        for offset in range(3)
    ]
    write(redis, *records)
    write(redis, *records)
    assert len(redis.latest()) == 8_000
    assert redis.statistics("/3303/0/7999")["count"] == 3


# ---- the whole way


@pytest.mark.kafka
@pytest.mark.faults
def test_killed_between_write_and_commit_again_and_again(kafka: Cluster, gateway_id: str, redis: RedisStore) -> None:
    topics = make_topics(kafka, gateway_id)
    number = 0

    def process(lives: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.faults.sink_process", kafka.bootstrap, gateway_id, "redis"]
        return subprocess.Popen(
            [*command, json.dumps(redis.options()), "40", str(lives)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def counted() -> int:
        return int(redis.hash("stats", "ep-1", HERE, gateway=gateway_id).get("count", "0"))

    produce(kafka, topics.registrations, [new()])
    for lives in (1, 3):
        for partition in range(2):
            made = [notification(resource(HERE, float(number + i)), timestamp=77) for i in range(150)]
            produce(kafka, topics.observations, made, partition=partition)
            number += 150
        produce(kafka, topics.observations, [b"poison"])
        sink = process(lives)
        assert sink.wait(PATIENCE_S) == -signal.SIGKILL
    # Two at once: what the dead left behind, they share out between them.
    sinks = [process(0), process(0)]
    try:
        eventually(counted, number)
        eventually(lambda: redis.hash("endpoint", "ep-1", gateway=gateway_id).get("online"), "true")
        eventually(lambda: {letter.record.offset for letter in dead_letters(kafka, gateway_id)}, {150, 301})
        for sink in sinks:
            sink.terminate()
        assert [sink.wait(PATIENCE_S) for sink in sinks] == [0, 0]
    finally:
        for sink in sinks:
            if sink.poll() is None:
                sink.kill()
                sink.wait(PATIENCE_S)
    found = {
        name: float(value)
        for name, value in redis.hash("stats", "ep-1", HERE, gateway=gateway_id).items()
        if name != "order"
    }
    wanted = expected([float(value) for value in range(number)])
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-12)


@pytest.mark.kafka
def test_a_replay_fills_an_emptied_store_and_changes_nothing_in_a_full_one(
    kafka: Cluster, gateway_id: str, redis: RedisStore
) -> None:
    topics = make_topics(kafka, gateway_id)

    def some(start: int) -> list[Notification]:
        return [notification(resource(HERE, float(i)), timestamp=i) for i in range(start, start + 130)]

    settings = SinkSettings(sink="redis", gateway=gateway_id, kafka=kafka, options=redis.options(), batch_records=50)

    def counted() -> int:
        return int(redis.hash("stats", "ep-1", HERE, gateway=gateway_id).get("count", "0"))

    def again() -> None:
        replay(plan_replay(settings, from_ms=None, to_ms=None), threading.Event())

    asked = Request(server_id="gw1", ep="ep-1", ticket="t", payload=RequestPayload(kind=RequestKind.READ, path="/3"))
    produce(kafka, topics.registrations, [new()])
    produce(kafka, topics.observations, [*some(0), asked])
    with running(settings):
        eventually(counted, 130)
        eventually(lambda: redis.hash("endpoint", "ep-1", gateway=gateway_id).get("online"), "true")
        full = redis.everything()
        again()
        assert redis.everything() == full
        redis.client.flushdb()
        produce(kafka, topics.observations, some(130), partition=1)
        eventually(counted, 130)
        again()
    assert counted() == 260
    refilled = redis.everything()
    assert refilled.keys() == full.keys()
    assert (
        refilled[redis.key("endpoint", "ep-1", gateway=gateway_id)]
        == full[redis.key("endpoint", "ep-1", gateway=gateway_id)]
    )
