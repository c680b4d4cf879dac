"""`kill -9` of the edge Kafka under a gateway: nothing acknowledged is lost or doubled.

Who registers meanwhile gets no answer for some seconds, 5.03 then.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections import Counter
from pathlib import Path

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import CON

from headwater.demo.audit import read_side
from tests.kafka_brokers import BrokerFactory
from tests.raw_device import LINK_FORMAT, LINKS, RawDevice
from tests.way import Gateway, Sensors, compare, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

DEVICES = 5
KILLS = 2
SEED = 2_201
FLOOD = 50_000
#: What the memory may grow by in the flood. The queue towards Kafka alone may take 48 MiB of it.
MOST_GROWTH = 96 << 20


def _told_to_come_later(gateway: Gateway, ep: str) -> None:
    """A device that registers now gets 5.03 with Max-Age to one of its retransmissions."""
    with RawDevice(gateway.address, ep) as device:
        answer = device.try_to_register()
        assert answer.code == Code.SERVICE_UNAVAILABLE, answer
        assert 0 < answer.opt.max_age <= 60


def _gets_no_answer(gateway: Gateway, ep: str) -> None:
    """A device that registers now is left to send it again: Kafka is not away for long as yet."""
    until("the gateway to know that Kafka is away", lambda: not gateway.is_ready)
    with RawDevice(gateway.address, ep) as device:
        until("the gateway to hear", lambda: _hears(device))
        device.send(_registration(ep, 40_000))
        device.ping()
        assert not device._responses


def _hears(device: RawDevice) -> bool:
    with contextlib.suppress(AssertionError):
        device.ping(1.0)
        return True
    return False


def test_an_edge_kafka_that_is_killed_again_and_again_loses_and_doubles_nothing(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    edge = broker_factory("edge")
    gateway = Gateway(gateway_id, edge.cluster, tmp_path, observe=("/3303/*/5700", "/3304/*/5700"))
    with (
        gateway,
        Sensors(gateway.address, tmp_path, "--count", str(DEVICES), "--period", "0.2") as sensors,
    ):
        gateway.wait_ready()
        until("all observations", lambda: gateway.metric("observations") == 3 * DEVICES)
        for number in range(KILLS):
            sensors.wait_for_more(chance.randint(1, 40))
            edge.kill()
            _gets_no_answer(gateway, f"late-{number}")
            assert not gateway.is_ready
            assert gateway.runs
            edge.restart()
            gateway.wait_ready()
        # A gateway that starts while Kafka is dead takes nothing either, and begins by itself once Kafka is there.
        edge.kill()
        gateway.kill()
        gateway.start()
        _gets_no_answer(gateway, "early")
        assert not gateway.is_ready
        edge.restart()
        gateway.wait_ready()
        sensors.wait_for_all(DEVICES)
        registered = gateway.new_registrations()
        # Nobody had to register anew; what came while the gateway started was not taken.
        assert [registered[f"sensor-{number}"] for number in range(1, DEVICES + 1)] == [1] * DEVICES
        assert "early" not in registered
        sensors.kill()
        compare(sensors.entries(), read_side(edge.cluster, [gateway.topics.observations]))


def test_memory_is_bounded_when_devices_flood_a_gateway_whose_kafka_is_dead(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")
    gateway = Gateway(gateway_id, edge.cluster, tmp_path, observe=("/3303/*/5700",))
    with gateway, RawDevice(gateway.address, "flood") as device:
        gateway.wait_ready()
        device.register()
        device.wait_observed("/3303/0/5700")
        until("the observation", lambda: gateway.metric("observations") == 1)
        first = device.notify("/3303/0/5700", 2, 20.0)
        device.until("an acknowledgement", lambda: device.acknowledged[first] > 0)
        edge.kill()
        before, taken = gateway.rss, gateway.metric("datagrams_total")
        sent = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as strangers:
            for number in range(FLOOD // 2):
                sent.append(device.notify("/3303/0/5700", 3 + number, 20.0 + number / 1000))
                strangers.sendto(_registration(f"stranger-{number}", number), gateway.address)
                if number % 250 == 249:
                    device.ping()
        grown = gateway.rss - before
        assert gateway.metric("datagrams_total") - taken > 0.9 * FLOOD
        assert grown < MOST_GROWTH, f"the gateway grew by {grown >> 20} MiB"
        _told_to_come_later(gateway, "latecomer")
        edge.restart()
        gateway.wait_ready()
        # As devices do, it is sent again until it is acknowledged: one datagram may be lost behind the flood.
        assert device.tell("/3303/0/5700", 3 + FLOOD, 99.0)
        there = Counter(one.mid for one in read_side(edge.cluster, [gateway.topics.observations]))
        assert max(there.values()) == 1
        # The thread of the device still counts: a copy.
        acknowledged = set(dict(device.acknowledged))
        assert first in acknowledged
        assert acknowledged & {first, *sent} <= set(there)
        registered = gateway.new_registrations()
        assert max(registered.values()) == 1
        assert gateway.metric("devices") == len(registered)


def _registration(ep: str, number: int) -> bytes:
    message = Message(code=Code.POST, uri_path=("rd",), uri_query=(f"ep={ep}", "lt=300", "lwm2m=1.0"))
    message.opt.content_format = LINK_FORMAT
    message.payload = LINKS.encode()
    message.mtype, message.mid, message.token = CON, number % 65536, b"t"
    encoded: bytes = message.encode()
    return encoded


def test_a_gateway_that_no_device_speaks_to_tells_that_its_kafka_is_away(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")
    with Gateway(gateway_id, edge.cluster, tmp_path) as gateway:
        gateway.wait_ready()
        edge.kill()
        until("it is not ready", lambda: not gateway.is_ready)
        assert gateway.is_alive
        told = [line for line in gateway.said().splitlines() if '"headwater.intake"' in line]
        assert any(edge.cluster.bootstrap in line for line in told), told
        edge.restart()
        gateway.wait_ready()
