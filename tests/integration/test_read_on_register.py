"""What a gateway process reads at each registration, seen by its devices and in the topics."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code
from typer.testing import CliRunner

from connectors.kafka import Cluster
from gateway.first_reads import READ_TICKET
from headwater.cli import app
from schemas.avro.records import ReadBody, RequestKind, Response, ResponseCode
from schemas.lwm2m import tlv
from schemas.lwm2m.nodes import Instance, Resource, ResourceType, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from tests.gateway_device import GatewayDevice
from tests.raw_device import RawDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

DEVICE = Path(3, 0)
FACTS = {0: "ACME", 1: "M1", 3: "1.0.7"}
OBJECT = tlv.encode(
    Instance(
        path=DEVICE,
        resources=tuple(
            Resource(path=DEVICE.child(i), type=ResourceType.STRING, value=text) for i, text in FACTS.items()
        ),
    ),
    Definitions.builtin(),
)


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("first-reads")
    with Gateway("first-reads", kafka, folder, "--read-on-register", "/3/0") as one:
        one.wait_ready()
        yield one


def _telling(request: Message) -> Message | None:
    assert request.code == Code.GET and request.opt.uri_path == ("3", "0") and request.opt.accept == 11542
    return Message(code=Code.CONTENT, payload=OBJECT, content_format=11542)


def _silent(request: Message) -> Message | None:
    return None


def _told(gateway: Gateway, ep: str) -> list[Response]:
    return [one for one in gateway.replies(READ_TICKET) if one.ep == ep]


def _wait_told(gateway: Gateway, ep: str, times: int) -> list[Response]:
    until(f"{times} answers of {ep}", lambda: len(_told(gateway, ep)) >= times)
    found = _told(gateway, ep)
    assert len(found) == times
    return found


def test_each_registration_tells_model_and_firmware_in_a_reply(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "told", answer=_telling) as device:
        device.register()
        [reply] = _wait_told(gateway, "told", 1)
        assert (reply.path, reply.rep.kind, reply.rep.code) == ("/3/0", RequestKind.READ, ResponseCode.CONTENT)
        assert isinstance(reply.rep.body, ReadBody)
        assert {one.path.ids[-1]: one.value for one in values(reply.rep.body.content)} == FACTS
        # Where people look for it.
        place = ("--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap)
        shown = CliRunner().invoke(app, ["device", "told", *place, "--output", "json"])
        assert shown.exit_code == 0, shown.output
        told = {one["path"]: one["value"] for one in json.loads(shown.stdout)["values"]}
        assert told == {f"/3/0/{number}": text for number, text in FACTS.items()}
        # An update is no registration.
        device.update()
        device.register()
        _wait_told(gateway, "told", 2)
        assert len(device.requests) == 2


def test_inventory_has_manufacturer_model_and_firmware_of_a_device_behind_a_device_too(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "bridge", "lamp", "mute") as bridge:
        bridge.site.more["/dev0/3/0"] = Message(code=Code.CONTENT, payload=OBJECT, content_format=11542)
        bridge.site.more["/dev1/3/0"] = Message(code=Code.NOT_FOUND)
        bridge.site.more["/3/0"] = Message(code=Code.NOT_FOUND)
        bridge.join()
        for ep in ("bridge", "bridge/lamp", "bridge/mute"):
            _wait_told(gateway, ep, 1)
    place = ("--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap)
    shown = CliRunner().invoke(app, ["devices", *place, "--output", "json"])
    assert shown.exit_code == 0, shown.output
    facts = ("behind", "manufacturer", "model", "serial", "firmware")
    told = {one["ep"]: tuple(one[fact] for fact in facts) for one in json.loads(shown.stdout)}
    assert told["bridge/lamp"] == ("bridge", "ACME", "M1", None, "1.0.7")
    assert told["bridge/mute"] == ("bridge", None, None, None, None)
    assert told["bridge"] == (None, None, None, None, None)
    for words, is_wide in ((["devices", *place], False), (["devices", *place, "--wide"], True)):
        table = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
        (line,) = (one for one in table.stdout.splitlines() if "bridge/lamp" in one)
        assert ("ACME" in line, "M1" in line, "1.0.7" in line) == (is_wide,) * 3
    one = CliRunner().invoke(app, ["device", "bridge/lamp", *place], env={"COLUMNS": "250"})
    assert "firmware" in one.stdout and "1.0.7" in one.stdout


def test_a_device_that_is_asleep_is_read_at_its_next_update(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "dozing", answer=_silent) as device:
        device.register("b=UQ")
        device.until("the first try", lambda: bool(device.requests))
        gateway.kill()
        gateway.start()
        gateway.wait_ready()
        # The gateway that starts again reads it once the device is heard of.
        assert len(device.requests) == 1 and not _told(gateway, "dozing")
        device.answer = _telling
        device.update()
        _wait_told(gateway, "dozing", 1)
        device.update()
        device.ping()
        assert len(device.requests) == 2
