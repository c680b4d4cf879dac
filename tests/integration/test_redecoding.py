"""A device with an object that nobody knows; then its model comes, and the stores are put right. All processes real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster
from connectors.runner import SinkSettings
from headwater.exits import Exit
from schemas.avro.records import Notification, ReadBody, RequestKind
from schemas.lwm2m import formats
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import Instance, MultipleResource, Resource, ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.raw_device import Answer, RawDevice, polite
from tests.sink_harness import count, eventually, rows, running
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "data" / "oma"
BOILER = Definitions().load_folder(OWN).with_versions({32769: "1.2"})
HERE = Lwm2mPath(32769, 0)
TEMPERATURE = "/32769/0/1"

CONTENT = Instance(
    path=HERE,
    resources=(
        Resource(path=HERE.child(0), type=ResourceType.STRING, value="Kessel"),
        Resource(path=HERE.child(1), type=ResourceType.FLOAT, value=71.5),
        MultipleResource(
            path=HERE.child(2),
            type=ResourceType.INTEGER,
            instances=(
                Resource(path=HERE.child(2).child(0), type=ResourceType.INTEGER, value=200),
                Resource(path=HERE.child(2).child(1), type=ResourceType.INTEGER, value=7),
            ),
        ),
        Resource(path=HERE.child(4), type=ResourceType.BOOLEAN, value=True),
        Resource(path=HERE.child(6), type=ResourceType.TIME, value=1_700_000_000_000),
    ),
)

VALUES = (
    'SELECT ep, path, kind, type, value, number, text, bool, blob, gateway_time_ms, topic, "offset", position'
    ' FROM history JOIN sources s ON s.id = source ORDER BY topic, "partition", "offset", position'
)
SHORT = "SELECT ep, path, type, value FROM history ORDER BY ep, path, type, value"


def boiler() -> Answer:
    payload = formats.encode(ContentFormat.TLV, CONTENT, BOILER)

    def answer(request: Message) -> Message | None:
        if request.code == Code.GET and request.opt.uri_path == ("32769", "0"):
            return Message(code=Code.CONTENT, payload=payload, content_format=int(ContentFormat.TLV))
        return polite(request)

    return answer


def links(version: str | None) -> str:
    ver = "" if version is None else f';ver="{version}"'
    return f'</>;rt="oma.lwm2m";ct="0 11542",</32769>{ver},</32769/0>'


def headwater(*arguments: str, code: Exit = Exit.OK) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "headwater.cli", *arguments, "--output", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")},
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def _kept(gateway: Gateway, ep: str, number: int) -> list[ResourceType]:
    """The types of the notifications of ``ep`` in the log, once there are so many."""
    until("the notifications", lambda: len(gateway.notifications(ep, TEMPERATURE)) >= number)
    found = []
    for said in gateway.notifications(ep, TEMPERATURE):
        assert isinstance(said, Notification) and isinstance(said.rep.body, ReadBody)
        assert isinstance(said.rep.body.content, Resource)
        found.append(said.rep.body.content.type)
    return found


def test_values_that_came_before_their_model_are_put_right(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    folder, file, fresh = tmp_path / "models", tmp_path / "store.db", tmp_path / "fresh.db"
    folder.mkdir()
    where = ("--gateway", gateway_id, "--kafka", kafka.bootstrap)
    redecode = ("--definitions", str(folder), "--redecode", "--file", str(file), *where)
    with (
        Gateway(gateway_id, kafka, tmp_path, "--definitions", str(folder), observe=("/32769/*/1",)) as gateway,
        RawDevice(gateway.address, "of-1.2", answer=boiler()) as first,
        RawDevice(gateway.address, "of-2.0") as second,
        RawDevice(gateway.address, "of-3.0") as third,
        RawDevice(gateway.address, "of-none") as fourth,
    ):
        gateway.wait_ready()
        for device, version in ((first, "1.2"), (second, "2.0"), (third, "3.0"), (fourth, None)):
            device.register(links=links(version), version="1.1")
            device.wait_observed(TEMPERATURE)
            assert device.tell(TEMPERATURE, 2, 22.0 if device is first else 22)
        gateway.request("of-1.2", "whole", RequestKind.READ, "/32769/0")
        gateway.reply("whole")
        # 4 notifications, 4 first values, and an instance of six values.
        with running(SinkSettings(sink="sqlite", gateway=gateway_id, kafka=kafka, options={"file": str(file)})):
            eventually(count(file), 14)
        came = rows(file, VALUES)
        assert {row[3] for row in came} == {"STRING", "OPAQUE"}

        # The model comes, and the store is put right by each device's own version.
        models = (str(OWN / "boiler.xml"), str(OWN / "boiler-2.xml"))
        imported = headwater("models", "import", *models, *redecode, code=Exit.REFUSED)
        (summary,) = imported["redecoded"]
        # Of the device of version 2.0 the first value was 21.5, which is no INTEGER: hence the exit code.
        assert (summary["seen"], summary["corrected"], summary["misfits"]) == (9, 6, 1), summary
        assert (summary["unannounced"], summary["behind"], summary["complete"]) == (0, 0, True), summary
        assert "/32769/0/1 is of type INTEGER" in summary["reasons"][0]
        right = rows(file, VALUES)
        assert [row[:3] + row[9:] for row in right] == [row[:3] + row[9:] for row in came]
        assert rows(file, SHORT) == [
            ("of-1.2", "/32769/0/0", "STRING", "Kessel"),
            ("of-1.2", TEMPERATURE, "FLOAT", 21.5),
            ("of-1.2", TEMPERATURE, "FLOAT", 22.0),
            ("of-1.2", TEMPERATURE, "FLOAT", 71.5),
            ("of-1.2", "/32769/0/2/0", "INTEGER", 200),
            ("of-1.2", "/32769/0/2/1", "INTEGER", 7),
            ("of-1.2", "/32769/0/4", "BOOLEAN", 1),
            ("of-1.2", "/32769/0/6", "TIME", 1_700_000_000_000),
            ("of-2.0", TEMPERATURE, "INTEGER", 22),
            ("of-2.0", TEMPERATURE, "STRING", "21.5"),
            # No model is known of version 3.
            ("of-3.0", TEMPERATURE, "STRING", "21.5"),
            ("of-3.0", TEMPERATURE, "STRING", "22"),
            # Without ver= it is of version 1.0, of which 1.2 is the newest known minor one.
            ("of-none", TEMPERATURE, "FLOAT", 21.5),
            ("of-none", TEMPERATURE, "FLOAT", 22.0),
        ]

        # Once more is the same; so is a replay of what came, and a store made anew by the models.
        assert headwater("models", "import", *models, *redecode, code=Exit.REFUSED)["redecoded"][0]["corrected"] == 6
        assert rows(file, VALUES) == right
        headwater("replay", "--file", str(file), *where)
        assert rows(file, VALUES) == right
        made = headwater("replay", "--file", str(fresh), "--definitions", str(folder), "--redecode", *where)
        assert made["redecoded"] == 6
        assert rows(fresh, VALUES) == right

        # The log says what came; what comes now the gateway decodes itself, without having been started anew.
        assert _kept(gateway, "of-1.2", 1) == [ResourceType.STRING]
        until("the gateway takes the models up", lambda: "the models have changed" in gateway.said())
        assert first.tell(TEMPERATURE, 3, 23.5)
        assert second.tell(TEMPERATURE, 3, 23)
        assert _kept(gateway, "of-1.2", 2) == [ResourceType.STRING, ResourceType.FLOAT]
        assert _kept(gateway, "of-2.0", 2) == [ResourceType.STRING, ResourceType.INTEGER]
