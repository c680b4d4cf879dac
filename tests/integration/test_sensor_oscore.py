"""`headwater sensor` with OSCORE at a gateway that takes nobody in the clear, on a real Kafka: keys derived anew at
each start, and what goes on when either side is killed or the gateway has lost its state."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from headwater.demo.audit import read_side
from schemas.avro.records import RequestKind, ResponseCode
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.oscore_device import credential
from tests.way import Gateway, Sensors, lost_of, until

pytestmark = [pytest.mark.kafka]

TEMPERATURE = "/3303/0/5700"


def test_sensors_speak_oscore_over_the_death_of_either_side(kafka: Cluster, tmp_path: Path) -> None:
    contexts = [credential(f"sensor-{number}", bytes((number,)), secret=bytes([number]) * 16) for number in (1, 2)]
    store = SqliteCredentials(tmp_path / "credentials.db", make=True)
    store.put(contexts, Put.NEW)
    store.close()
    rows = [
        {
            "endpoint": one.endpoint,
            "kind": "oscore",
            "master_secret": one.master_secret.reveal().hex(),
            "sender_id": one.sender_id.hex(),
            "recipient_id": one.recipient_id.hex(),
        }
        for one in contexts
    ]
    listed = tmp_path / "devices.json"
    listed.touch(0o600)
    listed.write_text(json.dumps(rows))
    with Gateway(
        "oscore-sensor",
        kafka,
        tmp_path,
        "--no-insecure",
        observe=("/3303/*/5700",),
        credentials=tmp_path / "credentials.db",
    ) as gateway:
        gateway.wait_ready()
        # The lifetime is short, as a device learns that its registration is gone by its next update.
        words = ("--count", "2", "--period", "0.2", "--lifetime", "20", "--oscore-list", str(listed))
        with Sensors(gateway.address, tmp_path, *words) as sensors:

            def go_on(ticket: str) -> None:
                sensors.wait_for_all(2)
                sensors.wait_for_more(8)
                for ep, path in (("sensor-1", TEMPERATURE), ("sensor-2", "/3")):
                    gateway.request(ep, f"{ticket}: {ep}", RequestKind.READ, path)
                    assert gateway.reply(f"{ticket}: {ep}").rep.code is ResponseCode.CONTENT

            go_on("begun")
            assert gateway.metric("oscore_renewed_total") == 2
            sensors.kill()
            sensors.start()
            go_on("device began anew")
            assert gateway.metric("oscore_renewed_total") == 4
            gateway.kill()
            gateway.start()
            gateway.wait_ready()
            go_on("gateway began anew")
            assert gateway.metric("oscore_renewed_total") == 0
            gateway.kill()
            shutil.rmtree(gateway.state)
            gateway.start()
            gateway.wait_ready()
            go_on("gateway lost its state")
            assert gateway.metric("oscore_renewed_total") == 2
            assert gateway.metric("oscore_refused_total", reason="unprotected request") == 0
            assert sensors.stop() == 0
            until("the ends", lambda: gateway.metric("devices") == 0)
            # The order of notifications is told by OSCORE's numbers (RFC 8613 section 4.1.3.5.2), not by the device's.
            acknowledged = [replace(one, observe=0) for one in sensors.entries()]
            stored = [replace(one, observe=0) for one in read_side(kafka, [gateway.topics.observations])]
            assert not lost_of(acknowledged, stored)
