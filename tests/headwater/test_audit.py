"""The audit's judgement: what is lost, what is doubled, and what makes a run right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path as FilePath

import pytest

from connectors.kafka import Cluster, ensure_topics, producer
from headwater.demo import audit
from headwater.demo.audit import Row, Stored, judge, read_side
from headwater.demo.journal import Entry
from schemas.avro.records import (
    Binding,
    Notification,
    ReadBody,
    Registration,
    RegistrationKind,
    RegistrationNew,
    RequestKind,
    ResponseCode,
    ResponsePayload,
)
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path

TOPICS = Topics("gw")
PATH = "/3303/0/5700"


def entry(number: int) -> Entry:
    return Entry(ep="dev", path=PATH, mid=number, observe=number, values=((PATH, float(number)),))


def record(number: int, offset: int | None = None) -> Stored:
    resource = Resource(path=Path.parse(PATH), type=ResourceType.FLOAT, value=float(number))
    notification = Notification(
        ticket="t",
        observation_id="o",
        server_id="gw",
        ep="dev",
        path=PATH,
        timestamp=number,
        rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.OBSERVE, body=ReadBody(content=resource)),
    )
    return Stored(
        topic=TOPICS.observations,
        partition=0,
        offset=number if offset is None else offset,
        content=(b"key", str(number).encode(), ()),
        record=notification,
        mid=number,
        observe=number,
    )


def registration() -> Stored:
    body = RegistrationNew(
        ep="dev",
        server_id="gw",
        reg_date=1,
        address="127.0.0.1",
        port=1,
        reg_addr="127.0.0.1",
        reg_port=5683,
        lt=60,
        ver="1.1",
        bnd=Binding.U,
        reg_id="r",
        links=(),
        root="/",
        last_up=1,
    )
    return Stored(
        topic=TOPICS.registrations,
        partition=0,
        offset=0,
        content=(b"key", b"registration", ()),
        record=Registration(kind=RegistrationKind.NEW, body=body),
    )


def row(number: int) -> Row:
    return Row(topic=TOPICS.observations, partition=0, offset=number, ep="dev", path=PATH)


JOURNAL = [entry(n) for n in range(5)]
SIDE = [registration(), *(record(n) for n in range(5))]
ROWS = [row(n) for n in range(5)]


def test_everything_once_everywhere_is_right() -> None:
    verdict = judge(JOURNAL, SIDE, SIDE, ROWS, TOPICS)
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert (verdict.registrations, verdict.acknowledged, verdict.cloud_records, verdict.stored_rows) == (1, 5, 6, 5)
    assert verdict.right(sensors=1)


def test_acknowledged_notification_that_is_in_no_topic_is_lost() -> None:
    without = [one for one in SIDE if one.mid != 3]
    verdict = judge(JOURNAL, without, without, [one for one in ROWS if one.offset != 3], TOPICS)
    assert (verdict.lost_on_the_way, verdict.lost, verdict.doubled) == (1, 1, 0)
    assert not verdict.right(sensors=1)


def test_other_value_under_the_same_message_id_does_not_pass() -> None:
    wrong = [*SIDE[:-1], replace(record(9), mid=4, observe=4, offset=4)]
    assert judge(JOURNAL, wrong, wrong, ROWS, TOPICS).lost_on_the_way == 1


def test_record_of_the_edge_that_is_not_in_the_cloud_is_lost() -> None:
    verdict = judge(JOURNAL[:4], SIDE, SIDE[:-1], ROWS[:4], TOPICS)
    assert (verdict.lost_to_the_cloud, verdict.lost, verdict.doubled) == (1, 1, 0)


def test_record_that_is_twice_in_the_cloud_is_doubled() -> None:
    verdict = judge(JOURNAL, SIDE, [*SIDE, record(2, offset=7)], [*ROWS, row(7)], TOPICS)
    assert (verdict.doubled_in_the_cloud, verdict.doubled_by_replication, verdict.lost) == (1, 1, 0)
    assert not verdict.right(sensors=1)


def test_notification_that_the_gateway_recorded_twice_is_doubled() -> None:
    twice = [*SIDE, record(2, offset=7)]
    verdict = judge(JOURNAL, twice, twice, [*ROWS, row(7)], TOPICS)
    assert (verdict.doubled_in_the_cloud, verdict.doubled_by_replication) == (1, 0)


def test_row_that_is_missing_is_lost_and_one_too_many_is_doubled() -> None:
    assert judge(JOURNAL, SIDE, SIDE, ROWS[:-1], TOPICS).lost_rows == 1
    assert judge(JOURNAL, SIDE, SIDE, [*ROWS, ROWS[0]], TOPICS).doubled_rows == 1


def test_run_without_anything_to_lose_is_not_right() -> None:
    assert not judge([], [registration()], [registration()], [], TOPICS).right(sensors=1)
    assert not judge(JOURNAL, SIDE, SIDE, ROWS, TOPICS).right(sensors=2)


def test_record_that_came_while_the_cloud_was_read_is_neither_lost_nor_doubled() -> None:
    late = [record(7)]
    for cloud in (SIDE, [*SIDE, record(7)]):
        verdict = judge(JOURNAL, SIDE, cloud, ROWS, TOPICS, late=late)
        assert (verdict.lost_to_the_cloud, verdict.doubled_by_replication) == (0, 0)


@pytest.mark.kafka
def test_gateway_that_writes_during_the_audit_does_not_mislead_it(
    kafka: Cluster, cloud_kafka: Cluster, gateway_id: str, tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each reading of a side one more reply comes, at the edge and at once in the cloud."""
    topics = Topics(gateway_id)
    writers = []
    for cluster in (kafka, cloud_kafka):
        ensure_topics(cluster, topics.partitions())
        writers.append(producer(cluster))
    written = 0

    def reply_everywhere() -> None:
        nonlocal written
        written += 1
        for writer in writers:
            writer.produce(topics.replies, value=f"reply {written}".encode(), partition=0)
            assert writer.flush(20) == 0

    def interrupted(cluster: Cluster, names: Iterable[str]) -> list[Stored]:
        reply_everywhere()
        return read_side(cluster, names)

    reply_everywhere()
    monkeypatch.setattr(audit, "read_side", interrupted)
    verdict = audit.audit(gateway_id, kafka, cloud_kafka, tmp_path / "journal", tmp_path / "none.db")
    assert written == 3
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert verdict.cloud_records == 2
