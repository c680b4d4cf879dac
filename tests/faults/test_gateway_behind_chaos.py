"""Sensors that reach the gateway over a bad line: what was acknowledged to them is recorded exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from connectors.kafka import Cluster, read_to_end
from gateway.devices.client import Version
from gateway.devices.sensor import Acknowledged, Tally, run_sensors
from schemas.avro import serde
from schemas.avro.records import Notification, ReadBody, RequestKind, Response
from schemas.lwm2m.nodes import values
from tests.faults.chaos import Direction, Faults, start
from tests.interop.gateway_process import GatewayProcess, start_gateway

pytestmark = [pytest.mark.faults, pytest.mark.kafka]

BAD_LINE = Faults(drop=0.1, duplicate=0.1, delay=0.2, longest_delay=0.1, reorder=0.1)


class Kept(list[Acknowledged]):
    """The acknowledged notifications; ``enough`` is set when there are ``number`` of them."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.enough = asyncio.Event()
        self._number = number

    def append(self, one: Acknowledged) -> None:
        super().append(one)
        if len(self) >= self._number:
            self.enough.set()


def recorded(gateway: GatewayProcess, topic: str) -> Counter[tuple[str, str, object]]:
    """How often each (endpoint, resource path, value) stands in a topic, as a notification or an observe's answer."""
    found: Counter[tuple[str, str, object]] = Counter()
    for message in read_to_end(gateway.cluster, [topic]):
        record = serde.decode(message.value() or b"")
        assert isinstance(record, Notification | Response)
        if record.rep.kind is RequestKind.OBSERVE and isinstance(record.rep.body, ReadBody):
            found.update((record.ep, str(one.path), one.value) for one in values(record.rep.body.content))
    return found


@pytest.mark.parametrize(("seed", "version"), [(1, Version.V1_1), (2, Version.V1_0)])
def test_acknowledged_notifications_are_recorded_once(
    kafka: Cluster, gateway_id: str, tmp_path: Path, seed: int, version: Version
) -> None:
    async def scenario(gateway: GatewayProcess) -> Tally:
        proxy = await start(("127.0.0.1", gateway.coap_port), seed=seed, up=BAD_LINE, down=BAD_LINE)
        stop, kept = asyncio.Event(), Kept(200)
        host, port = proxy.address
        sensors = asyncio.create_task(
            run_sensors(
                f"{host}:{port}",
                "bad-line",
                stop=stop,
                count=5,
                period=0.2,
                version=version,
                ack_timeout=0.3,
                tally=(tally := Tally(keep=True, kept=kept)),
                seed=seed,
            )
        )
        await asyncio.wait_for(kept.enough.wait(), 90)
        for direction in Direction:
            for what in ("dropped", "duplicated", "delayed", "reordered"):
                assert proxy.counts[direction, what], (direction, what)
        proxy.mend()
        stop.set()
        await asyncio.wait_for(sensors, 40)
        proxy.stop()
        return tally

    gateway = start_gateway(kafka, gateway_id, tmp_path, observe=("/3303/*/5700",))
    try:
        tally = asyncio.run(scenario(gateway))
    finally:
        assert gateway.stop() == 0, gateway.said()
    told, answered = recorded(gateway, gateway.topics.observations), recorded(gateway, gateway.topics.replies)
    readings = [(one.endpoint, str(one.path), one.resources[0].value) for one in tally.kept]
    assert len(set(readings)) == len(readings)
    # A notification that overtakes the answer to the observe request is that answer (RFC 7641 section 3.2), and an
    # answer's record is a reply.
    lost = [one for one in readings if not told[one] and not answered[one]]
    doubled = [one for one in readings if told[one] > 1]
    assert (lost, doubled) == ([], [])
