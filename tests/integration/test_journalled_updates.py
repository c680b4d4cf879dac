"""Updates that were acknowledged before Kafka had them: `kill -9` of the gateway, with a Kafka that stands still."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiocoap import CON, POST, Message
from aiocoap.numbers.codes import Code

from connectors.kafka import ensure_topics, read_to_end
from gateway.journal import NAMES
from gateway.notification_batches import HEADER_MID
from schemas.avro import serde
from schemas.avro.records import Registration, RegistrationKind, RegistrationUpdate
from schemas.avro.topics import Topics
from tests.kafka_brokers import BrokerFactory, KafkaBroker
from tests.raw_device import RawDevice
from tests.standing_still import go_on, stand_still
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

DEVICES = 5
EACH = 6


def _asked(device: RawDevice, mid: int) -> Message:
    message = Message(code=POST, uri_path=device.location)
    message.mtype, message.mid, message.token = CON, mid, b"t%02d-%04x" % (mid % 100, mid)
    return message


def _update(device: RawDevice, mid: int) -> None:
    """An update that is sent until it is acknowledged: the answer's message id and code are checked."""
    message = _asked(device, mid)
    for _ in range(30):
        device.send(message.encode())
        with device._changed:
            if device._changed.wait_for(lambda: message.token in device._responses, 1.0):
                response = device._responses.pop(message.token)
                assert response.code == Code.CHANGED and response.mid == mid
                return
    raise AssertionError(f"no answer to update {mid}")


def _update_all(devices: Sequence[RawDevice], mids: Sequence[int]) -> dict[str, list[int]]:
    """All of these updates of each device, at once and each sent once; returns those that were acknowledged."""
    for mid in mids:
        for device in devices:
            device.send(_asked(device, mid).encode())
    for device in devices:
        # What the gateway has read before this ping it has answered, or will not.
        device.ping()
    acknowledged: dict[str, list[int]] = {}
    for device in devices:
        answers = {response.mid: response for response in device._responses.values()}
        assert all(answer.code == Code.CHANGED for answer in answers.values())
        acknowledged[device.ep] = [mid for mid in mids if mid in answers]
        device._responses.clear()
    return acknowledged


def _recorded(gateway: Gateway, ep: str) -> list[int]:
    """The message ids of the updates of a device in the topic, in their order."""
    found = []
    for message in read_to_end(gateway.cluster, [gateway.topics.registrations]):
        record = serde.decode(message.value() or b"")
        assert isinstance(record, Registration)
        if isinstance(record.body, RegistrationUpdate) and record.body.ep == ep:
            found.append(int.from_bytes(dict(message.headers() or ())[HEADER_MID], "big"))
    return found


def _broker_pid(edge: KafkaBroker) -> int:
    assert edge.running is not None
    return edge.running.pid


def _journal_size(gateway: Gateway) -> int:
    return sum((gateway.state / name).stat().st_size for name in NAMES)


def _devices(gateway: Gateway) -> list[RawDevice]:
    return [RawDevice(gateway.address, f"meter-{number}", first_mid=1000 * number) for number in range(1, DEVICES + 1)]


def test_what_was_acknowledged_while_kafka_stood_still_outlives_kill_9_once_and_in_order(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")
    gateway = Gateway(gateway_id, edge.cluster, tmp_path)
    with gateway:
        gateway.wait_ready()
        devices = _devices(gateway)
        for device in devices:
            device.register(lifetime=3000)
        for device in devices:
            _update(device, 40_000)
        until("an empty journal", lambda: _journal_size(gateway) == 0)
        stand_still(_broker_pid(edge))
        # Kafka is given up after three seconds: on a slow machine not all of them may be taken.
        acknowledged = _update_all(devices, range(40_001, 40_001 + EACH))
        assert sum(map(len, acknowledged.values())) > 0 < _journal_size(gateway)
        gateway.kill()
        # A torn end, as of a write that was cut.
        file = max((gateway.state / name for name in NAMES), key=lambda one: one.stat().st_size)
        whole = file.read_bytes()
        file.write_bytes(whole + whole[:-3])
        go_on(_broker_pid(edge))
        gateway.start()
        gateway.wait_ready()
        until("an empty journal", lambda: _journal_size(gateway) == 0)
        for device in devices:
            assert _recorded(gateway, device.ep) == [40_000, *acknowledged[device.ep]]
        # A copy is answered and not recorded again, and a new one is.
        for device in devices:
            for mid in (*acknowledged[device.ep][-1:], 50_000):
                _update(device, mid)
        until("an empty journal", lambda: _journal_size(gateway) == 0)
        for device in devices:
            assert _recorded(gateway, device.ep) == [40_000, *acknowledged[device.ep], 50_000]
        assert gateway.metric("journal_dropped_total") == 0
        for device in devices:
            device.close()


def test_a_registration_lives_by_a_clock_that_only_the_journal_had(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")
    gateway = Gateway(gateway_id, edge.cluster, tmp_path)
    with gateway, RawDevice(gateway.address, "short", first_mid=7) as device:
        gateway.wait_ready()
        device.register(lifetime=600)
        stand_still(_broker_pid(edge))
        _update(device, 50_000)
        gateway.kill()
        go_on(_broker_pid(edge))
        gateway.start()
        gateway.wait_ready()
        until("the update", lambda: _recorded(gateway, "short") == [50_000])
        kinds = [one.kind for one in gateway.registrations("short")]
        assert kinds == [RegistrationKind.NEW, RegistrationKind.UPDATE]
        assert gateway.metric("journal_said_again_total") == 1
        # It can leave: the registration is there, and its end comes behind.
        assert device.ask(Code.DELETE, device.location).code == Code.DELETED
        until("its end", lambda: [one.kind for one in gateway.registrations("short")][2:] == [RegistrationKind.DELETE])


def test_a_gateway_that_is_told_to_stop_leaves_nothing_to_be_said_again(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")
    gateway = Gateway(gateway_id, edge.cluster, tmp_path)
    with gateway, RawDevice(gateway.address, "one", first_mid=7) as device:
        gateway.wait_ready()
        device.register(lifetime=600)
        _update(device, 50_000)
        assert gateway.stop() in (0, -signal.SIGTERM)
        assert _journal_size(gateway) == 0
        gateway.start()
        gateway.wait_ready()
        assert _recorded(gateway, "one") == [50_000] and gateway.metric("journal_said_again_total") == 0


def test_what_a_producer_that_failed_for_good_had_is_written_again_once_and_in_order(
    broker_factory: BrokerFactory, gateway_id: str, tmp_path: Path
) -> None:
    edge = broker_factory("edge")
    # A registration with many links is more than Kafka takes of it.
    topic = Topics(gateway_id).registrations
    ensure_topics(edge.cluster, {topic: 1}, config={topic: {"max.message.bytes": "1500"}})
    gateway = Gateway(gateway_id, edge.cluster, tmp_path)
    with gateway, RawDevice(gateway.address, "large") as large:
        gateway.wait_ready()
        devices = _devices(gateway)
        for device in devices:
            device.register(lifetime=3000)
        stand_still(_broker_pid(edge))
        first = _update_all(devices, [40_001, 40_002])
        message = Message(code=POST, uri_path=("rd",), uri_query=("ep=large", "lt=60", "lwm2m=1.0"), content_format=40)
        message.payload = ",".join(f"</{number}/{number}>" for number in range(32_000, 32_110)).encode()
        message.mtype, message.mid, message.token = CON, 9, b"large"
        large.send(message.encode())
        second = _update_all(devices, [40_003, 40_004])
        assert sum(map(len, first.values())) > 0
        go_on(_broker_pid(edge))
        until("another producer", lambda: "the Kafka producer failed for good" in gateway.said(100))
        until("an empty journal", lambda: _journal_size(gateway) == 0)
        for device in devices:
            _update(device, 50_000)
        until("an empty journal", lambda: _journal_size(gateway) == 0)
        for device in devices:
            assert _recorded(gateway, device.ep) == [*first[device.ep], *second[device.ep], 50_000]
        assert gateway.metric("journal_said_again_total") > 0
        for device in devices:
            device.close()
