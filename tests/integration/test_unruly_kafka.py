"""What a Kafka may do to a gateway while it runs: a record too large to be moved, topics that are gone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from connectors.kafka import Cluster, read_to_end
from headwater.demo.audit import read_side
from schemas.avro.records import RequestKind, ResponseCode
from tests.kafka_brokers import BrokerFactory, delete_topics
from tests.raw_device import RawDevice
from tests.way import Gateway, produce, until

pytestmark = [pytest.mark.kafka]

#: As much as a producer with the usual settings can send, so that its dead letter with a few headers cannot be sent.
NEARLY_A_MEGABYTE = 999_900


def test_junk_as_large_as_kafka_takes_does_not_stop_the_commands(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    with Gateway(gateway_id, kafka, tmp_path) as gateway, RawDevice(gateway.address, "lamp") as device:
        gateway.wait_ready()
        device.register()
        produce(kafka, gateway.topics.requests, b"x" * NEARLY_A_MEGABYTE)
        gateway.request("lamp", "after", RequestKind.READ, "/3303/0/5700")
        assert gateway.reply("after").rep.code is ResponseCode.CONTENT
        until("a dead letter", lambda: any(read_to_end(kafka, [gateway.topics.deadletter])))
        [letter] = read_to_end(kafka, [gateway.topics.deadletter])
        headers = dict(letter.headers() or ())
        assert headers["truncated"] == b"%d" % NEARLY_A_MEGABYTE
        assert (headers["origin.topic"], headers["origin.offset"]) == (gateway.topics.requests.encode(), b"0")
        assert letter.value() == b"x" * len(letter.value() or b"") != b""


def test_topics_that_were_deleted_are_made_again_and_devices_are_heard(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")
    gateway = Gateway(gateway_id, edge.cluster, tmp_path, observe=("/3303/0/5700",))
    with gateway, RawDevice(gateway.address, "lamp") as device:
        gateway.wait_ready()
        device.register()
        device.wait_observed("/3303/0/5700")
        assert device.tell("/3303/0/5700", 2, 20.0)
        delete_topics(edge.cluster, *gateway.topics.partitions())
        sent: list[int] = []

        def acknowledged() -> bool:
            sent.append(device.notify("/3303/0/5700", 3 + len(sent), 21.0))
            return any(device.acknowledged[mid] for mid in sent)

        until("an acknowledgement", acknowledged, timeout=180.0)
        there = Counter(one.mid for one in read_side(edge.cluster, [gateway.topics.observations]))
        assert {mid for mid in sent if device.acknowledged[mid]} <= set(there) and set(there.values()) == {1}
        gateway.wait_ready()
        gateway.request("lamp", "after", RequestKind.READ, "/3303/0/5700")
        assert gateway.reply("after").rep.code is ResponseCode.CONTENT
