"""Devices behind a device, which is a gateway of OMA LwM2M Gateway 1.1: hand-driven, seen in the topics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code
from typer.testing import CliRunner

from connectors.kafka import Cluster
from headwater.cli import app
from schemas.avro.records import (
    DiscoverBody,
    GenericBody,
    ReadBody,
    Registration,
    RegistrationDelete,
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
    ResponseCode,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Instance, Resource, ResourceType, values
from schemas.lwm2m.path import Path as LwPath
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import CredentialId, Kind, Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.gateway_device import OBJECTS, GatewayDevice, Site
from tests.raw_device import RawDevice
from tests.secure_device import SecureDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

NEW, UPDATE, DELETE = RegistrationKind.NEW, RegistrationKind.UPDATE, RegistrationKind.DELETE
TEMPERATURE = "/3303/0/5700"
SENML_JSON, TLV = 110, 11542


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway("behind", kafka, tmp_path_factory.mktemp("behind"), observe=("/3303/*/5700",)) as one:
        one.wait_ready()
        yield one


def _kinds(gateway: Gateway, ep: str) -> list[RegistrationKind]:
    return [one.kind for one in gateway.registrations(ep)]


def _wait_for(gateway: Gateway, ep: str, *kinds: RegistrationKind) -> list[Registration]:
    until(f"{[kind.value for kind in kinds]} of {ep}; {gateway.said()}", lambda: _kinds(gateway, ep) == list(kinds))
    return gateway.registrations(ep)


def _new(gateway: Gateway, ep: str) -> RegistrationNew:
    [record] = _wait_for(gateway, ep, NEW)
    assert isinstance(record.body, RegistrationNew)
    return record.body


def _number(gateway: Gateway, ep: str, count: int) -> float:
    """The value of the last notification, when there are so many."""
    until(f"{count} notifications of {ep}", lambda: len(gateway.notifications(ep, TEMPERATURE)) >= count)
    found = gateway.notifications(ep, TEMPERATURE)
    assert len(found) == count
    body = found[-1].rep.body
    assert isinstance(body, ReadBody)
    [value] = values(body.content)
    assert isinstance(value.value, float)
    return value.value


def test_a_device_behind_a_gateway_is_an_endpoint_of_its_own(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "bridge", "urn:dev:1", "lamp") as device:
        device.join(lifetime=240)
        new = _new(gateway, "bridge/urn:dev:1")
        assert (new.address, new.port, new.lt, new.ver) == ("127.0.0.1", device.port, 240, "1.1")
        assert new.attributes == {"gateway": "bridge", "prefix": "dev0"}
        assert [link.url for link in new.links] == ["/3/0", "/3303/0"]
        assert _new(gateway, "bridge/lamp").reg_id != new.reg_id
        # What an operator declared is observed on it too, each by its prefix.
        device.wait_observed("/dev0" + TEMPERATURE, "/dev1" + TEMPERATURE, "/25")
        assert device.tell("/dev1" + TEMPERATURE, 2, 20.25)
        assert _number(gateway, "bridge/lamp", 1) == 20.25
        assert device.tell("/dev0" + TEMPERATURE, 2, 19.5)
        assert _number(gateway, "bridge/urn:dev:1", 1) == 19.5
        assert gateway.notifications("bridge", "/dev0" + TEMPERATURE) == []

        gateway.request("bridge/lamp", "behind-read", RequestKind.READ, "/3303/0/5601")
        reply = gateway.reply("behind-read")
        assert (reply.ep, reply.path, reply.rep.code) == ("bridge/lamp", "/3303/0/5601", ResponseCode.CONTENT)
        assert device.asked_paths()[-1] == "/dev1/3303/0/5601"

        place = ("--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap)
        shown = CliRunner().invoke(app, ["devices", *place, "--output", "json"])
        assert shown.exit_code == 0, shown.output
        told = {one["ep"]: one["behind"] for one in json.loads(shown.stdout)}
        assert told["bridge/lamp"] == "bridge" and told["bridge"] is None
        table = CliRunner().invoke(app, ["devices", *place], env={"COLUMNS": "200"})
        assert table.exit_code == 0 and "behind" in table.stdout.splitlines()[1] + table.stdout.splitlines()[0]
        one = CliRunner().invoke(app, ["device", "bridge/lamp", *place])
        assert one.exit_code == 0 and any(line.split() == ["behind", "bridge"] for line in one.stdout.splitlines())
        # When the gateway leaves, so do they.
        assert device.ask(Code.DELETE, device.location).code == Code.DELETED
        for ep in ("bridge/urn:dev:1", "bridge/lamp"):
            records = _wait_for(gateway, ep, NEW, DELETE)
            assert isinstance(records[-1].body, RegistrationDelete) and not records[-1].body.expired


def test_a_device_behind_a_gateway_takes_no_image_and_its_campaign_says_so(gateway: Gateway, tmp_path: Path) -> None:
    image = tmp_path / "lamp.bin"
    image.write_bytes(b"headwater 2.0.0\n")
    with GatewayDevice(gateway.address, "takes", "a") as device:
        device.site.more["/dev0/5/0"] = Message(
            code=Code.CONTENT, payload=b"\xc1\x03\x00\xc1\x05\x00", content_format=TLV
        )
        for resource in ("3", "5"):
            device.site.more[f"/dev0/5/0/{resource}"] = Message(code=Code.CONTENT, payload=b"0", content_format=0)
        device.join()
        _new(gateway, "takes/a")
        words = ["--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap]
        done = CliRunner().invoke(app, ["firmware", "push", "takes/a", str(image), "--patience", "40", *words])
        assert done.exit_code == 1
        assert "takes/a is behind a gateway, which takes files for itself alone" in done.output
        assert not [path for path in device.asked_paths() if path in ("/dev0/5/0/0", "/dev0/5/0/2")]


def test_names_in_payloads_have_the_prefix_on_the_wire_and_not_in_records(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "senml", "a", "b") as device:
        pack = [{"bn": "/dev0/3303/0/", "n": "5700", "v": 21.25}, {"n": "5701", "vs": "Cel"}]
        device.site.more["/dev0/3303/0"] = Message(
            code=Code.CONTENT, payload=json.dumps(pack).encode(), content_format=SENML_JSON
        )
        device.site.more["/dev0/3303"] = Message(
            code=Code.CONTENT, payload=b"</dev0/3303>;ver=1.1,</dev0/3303/0/5700>;pmin=1", content_format=40
        )
        links = device.site.links.replace('ct="0 11542"', 'ct="110"')
        device.register(links=links, version="1.1")
        device.wait_observed("/dev0" + TEMPERATURE)
        gateway.request("senml/a", "behind-senml", RequestKind.READ, "/3303/0")
        body = gateway.reply("behind-senml").rep.body
        assert isinstance(body, ReadBody)
        assert {str(one.path): one.value for one in values(body.content)} == {
            "/3303/0/5700": 21.25,
            "/3303/0/5701": "Cel",
        }
        gateway.request("senml/a", "behind-links", RequestKind.DISCOVER, "/3303")
        found = gateway.reply("behind-links").rep.body
        assert isinstance(found, DiscoverBody)
        assert found.object_links == "</3303>;ver=1.1,</3303/0/5700>;pmin=1"
        # Values of another device are none of it.
        device.site.more["/dev1/3303/0"] = device.site.more["/dev0/3303/0"]
        gateway.request("senml/b", "behind-lie", RequestKind.READ, "/3303/0")
        wrong = gateway.reply("behind-lie").rep
        assert wrong.code is ResponseCode.UNKNOWN and isinstance(wrong.body, GenericBody)
        assert "'dev0'" in wrong.body.message

        value = Resource(path=LwPath(3303, 0, 5701), type=ResourceType.STRING, value="K")
        node = Instance(path=LwPath(3303, 0), resources=(value,))
        gateway.request(
            "senml/a", "behind-write", RequestKind.WRITE, "/3303/0", WriteRequest(mode=WriteMode.UPDATE, node=node)
        )
        assert gateway.reply("behind-write").rep.code is ResponseCode.CHANGED
        written = device.asked(Code.POST)[-1]
        assert written.opt.content_format == SENML_JSON
        assert json.loads(written.payload)[0]["bn"].startswith("/dev0/3303/0")

        told = json.dumps([{"n": "/dev0/3303/0/5700", "v": 7}]).encode()
        assert device.notify_with("/dev0" + TEMPERATURE, 2, told, SENML_JSON)
        assert _number(gateway, "senml/a", 1) == 7.0


def test_a_gateway_sends_for_itself_and_for_those_behind_it(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "sender", "a", "b") as device:
        device.join()
        _new(gateway, "sender/a")
        _new(gateway, "sender/b")
        pack = [
            {"bn": "/dev0/3303/0/5700", "bt": 1_700_000_000, "v": 1.5},
            {"bn": "/3/0/", "n": "9", "v": 80},
            {"bn": "/dev1", "n": "/3303/0/5700", "v": 2.5},
        ]
        assert _send(device, pack).code == Code.CHANGED
        assert _number(gateway, "sender/a", 1) == 1.5
        assert _number(gateway, "sender/b", 1) == 2.5
        until("the gateway's own", lambda: len(gateway.notifications("sender", "/3/0/9")) == 1)
        [first] = gateway.notifications("sender/b", TEMPERATURE)
        assert isinstance(first.rep.body, ReadBody) and first.rep.kind is RequestKind.SEND
        assert [one.timestamp for one in values(first.rep.body.content)] == [1_700_000_000_000]
        # The same once more is recorded already.
        assert _send(device, pack).code == Code.CHANGED
        refused = _send(device, [{"n": "/dev7/3303/0/5700", "v": 1}])
        assert refused.code == Code.NOT_FOUND and b"dev7" in refused.payload
        assert gateway.metric("sends_refused_total", reason="unknown prefix") == 1
        assert len(gateway.notifications("sender/a", TEMPERATURE)) == 1


def _send(device: RawDevice, pack: list[dict[str, object]]) -> Message:
    return device.ask(Code.POST, ("dp",), payload=json.dumps(pack).encode(), content_format=SENML_JSON)


def test_devices_come_change_and_go_as_the_gateway_says(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "changing", "a", "b") as device:
        device.join()
        _new(gateway, "changing/a")
        _new(gateway, "changing/b")
        device.wait_observed("/25", "/dev0" + TEMPERATURE, "/dev1" + TEMPERATURE)
        # b gets another prefix and another object, c comes, a goes.
        device.site.instances = {1: ("b", "bee", f"{OBJECTS},</3304/0>"), 2: ("c", "dev2", OBJECTS)}
        assert device.tell_of_change(2)
        _new(gateway, "changing/c")
        _wait_for(gateway, "changing/a", NEW, DELETE)
        update = _wait_for(gateway, "changing/b", NEW, UPDATE)[-1].body
        assert isinstance(update, RegistrationUpdate) and update.links is not None
        assert update.attributes == {"gateway": "changing", "prefix": "bee"}
        assert [link.url for link in update.links] == ["/3/0", "/3303/0", "/3304/0"]
        device.wait_observed("/bee" + TEMPERATURE, "/dev2" + TEMPERATURE)
        assert device.tell("/bee" + TEMPERATURE, 2, 3.5)
        assert _number(gateway, "changing/b", 1) == 3.5
        gateway.request("changing/a", "behind-gone", RequestKind.READ, TEMPERATURE)
        assert gateway.reply("behind-gone").rep.code is ResponseCode.NOT_FOUND
        # Where the gateway goes they go.
        device.move()
        device.update("lt=100")
        moved = _wait_for(gateway, "changing/c", NEW, UPDATE)[-1].body
        assert isinstance(moved, RegistrationUpdate)
        assert (moved.port, moved.lt, moved.links, moved.attributes) == (device.port, 100, None, None)
        gateway.request("changing/c", "behind-moved", RequestKind.READ, TEMPERATURE)
        assert gateway.reply("behind-moved").rep.code is ResponseCode.CONTENT
        # An update without object 25 is the end of all of them.
        device.update(links="</3/0>")
        _wait_for(gateway, "changing/c", NEW, UPDATE, DELETE)


def test_an_instance_that_a_command_deletes_is_gone_from_the_registration(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "reshaped", "a") as device:
        device.join()
        _new(gateway, "reshaped/a")
        device.wait_observed("/25", "/dev0" + TEMPERATURE)

        def deletes(request: Message) -> Message | None:
            if request.code != Code.DELETE:
                return device.site.answer(request)
            # Without a notification of object 25.
            device.site.instances[0] = ("a", "dev0", "</3/0>")
            return Message(code=Code.DELETED)

        device.answer = deletes
        gateway.request("reshaped/a", "reshape", RequestKind.DELETE, "/3303/0")
        assert gateway.reply("reshape").rep.code is ResponseCode.DELETED
        update = _wait_for(gateway, "reshaped/a", NEW, UPDATE)[-1].body
        assert isinstance(update, RegistrationUpdate) and update.links is not None
        assert [link.url for link in update.links] == ["/3/0"]
        assert not device.tell("/dev0" + TEMPERATURE, 2, 1.0)


def test_a_gateway_that_registers_anew_has_its_devices_observed_anew(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "anew", "a") as device:
        device.join()
        device.wait_observed("/dev0" + TEMPERATURE)
        assert device.tell("/dev0" + TEMPERATURE, 2, 1.0)
        device.observed.clear()
        device.join()
        device.wait_observed("/dev0" + TEMPERATURE)
        assert device.tell("/dev0" + TEMPERATURE, 2, 2.0)
        assert _number(gateway, "anew/a", 2) == 2.0
        assert _kinds(gateway, "anew/a") == [NEW]


def test_devices_behind_a_gateway_expire_with_it(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "expiring", "a") as device:
        device.join(lifetime=2)
        for ep in ("expiring", "expiring/a"):
            ended = _wait_for(gateway, ep, NEW, DELETE)[-1].body
            assert isinstance(ended, RegistrationDelete) and ended.expired


def test_commands_for_all_behind_a_sleeping_gateway_wait_for_it_in_their_order(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "sleepy", "a", "b") as device:
        device.join("1.1", "Q")
        _new(gateway, "sleepy/a")
        _new(gateway, "sleepy/b")
        device.wait_observed("/dev0" + TEMPERATURE, "/dev1" + TEMPERATURE)
        answer, device.answer = device.answer, lambda request: None
        before = len(device.requests)
        # It does not answer, as one that sleeps; each has its turn after the one before it.
        order = [("sleepy/b", "5601"), ("sleepy", "0"), ("sleepy/a", "5602"), ("sleepy/b", "5603")]
        paths = {"sleepy": "/3/0/{}", "sleepy/a": "/3303/0/{}", "sleepy/b": "/3303/0/{}"}
        for number, (ep, resource) in enumerate(order):
            gateway.request(ep, f"sleepy-{number}", RequestKind.READ, paths[ep].format(resource))
        device.until("the first", lambda: len(device.requests) > before)
        until("all wait", lambda: gateway.metric("commands_waiting") == len(order))
        assert len(device.requests) == before + 1
        gateway.kill()
        device.answer = answer
        gateway.start()
        gateway.wait_ready()
        device.update()
        for number in range(len(order)):
            assert gateway.reply(f"sleepy-{number}").rep.code is ResponseCode.CONTENT
        read = [path for path in device.asked_paths()[before:] if path.rsplit("/")[-1] in ("5601", "0", "5602", "5603")]
        assert read[-4:] == ["/dev1/3303/0/5601", "/3/0/0", "/dev0/3303/0/5602", "/dev1/3303/0/5603"]


def test_kill_9_keeps_the_devices_and_what_happened_meanwhile_is_learned(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "outliving", "a", "b") as device:
        device.join()
        device.wait_observed("/25", "/dev0" + TEMPERATURE, "/dev1" + TEMPERATURE)
        assert device.tell("/dev0" + TEMPERATURE, 2, 1.0)
        mid = device.notify("/dev1" + TEMPERATURE, 2, 5.0)
        gateway.kill()
        device.site.instances = {0: ("a", "dev0", OBJECTS), 3: ("d", "dev3", OBJECTS)}
        gateway.start()
        gateway.wait_ready()
        # The observation goes on under its token, and what was not acknowledged comes again and is there once. One that
        # was not on the disk yet is reset, and asked for anew at once.
        token = device.observed["/dev0" + TEMPERATURE]
        if not device.tell("/dev0" + TEMPERATURE, 3, 2.0):
            device.until("it is observed anew", lambda: device.observed["/dev0" + TEMPERATURE] != token)
            assert device.tell("/dev0" + TEMPERATURE, 3, 2.0)
        assert _number(gateway, "outliving/a", 2) == 2.0
        _new(gateway, "outliving/d")
        _wait_for(gateway, "outliving/b", NEW, DELETE)
        assert len(gateway.notifications("outliving/b", TEMPERATURE)) == device.acknowledged[mid]
        gateway.request("outliving/a", "outliving", RequestKind.READ, "/3303/0/5601")
        assert gateway.reply("outliving").rep.code is ResponseCode.CONTENT
        assert _kinds(gateway, "outliving/a") == [NEW]
        assert _kinds(gateway, "outliving") == [NEW]


def test_what_was_observed_too_late_for_a_kill_is_observed_anew_when_it_is_told(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "too-late") as device:
        _is_observed_too_late(gateway, device, TEMPERATURE, device.register)
    with GatewayDevice(gateway.address, "too-late-too", "a") as device:
        _is_observed_too_late(gateway, device, "/dev0" + TEMPERATURE, device.join)


def _is_observed_too_late(gateway: Gateway, device: RawDevice, path: str, begin: Callable[[], None]) -> None:
    # It observes, and the gateway is killed before it learns of that.
    answer = device.answer
    device.answer = lambda request: None if "/" + "/".join(request.opt.uri_path) == path else answer(request)
    begin()
    device.wait_observed(path)
    gateway.kill()
    device.answer = answer
    gateway.start()
    gateway.wait_ready()
    token = device.observed[path]
    assert not device.tell(path, 2, 1.0)
    device.until("it is observed anew", lambda: device.observed[path] != token)
    assert device.tell(path, 2, 1.0)


def test_the_name_of_who_registers_itself_is_not_taken_by_a_gateway(gateway: Gateway) -> None:
    with (
        RawDevice(gateway.address, "greedy/mine") as other,
        GatewayDevice(gateway.address, "greedy", "mine", "free") as device,
    ):
        other.register()
        before = gateway.metric("devices_behind_refused_total", reason="name taken")
        device.join()
        _new(gateway, "greedy/free")
        device.update("lt=200")
        assert gateway.metric("devices_behind_refused_total", reason="name taken") == before + 1
        gateway.request("greedy/mine", "greedy", RequestKind.READ, TEMPERATURE)
        assert gateway.reply("greedy").rep.code is ResponseCode.CONTENT
        assert [one.opt.uri_path for one in other.requests][-1] == ("3303", "0", "5700")
        # And who registers itself later has its name from then on; when it leaves, the gateway may tell of it again.
        with RawDevice(gateway.address, "greedy/free") as later:
            later.register()
            _wait_for(gateway, "greedy/free", NEW, UPDATE, NEW)
            gateway.request("greedy/free", "greedy-later", RequestKind.READ, "/3303/0/5601")
            assert gateway.reply("greedy-later").rep.code is ResponseCode.CONTENT
            assert [one.opt.uri_path for one in later.requests][-1] == ("3303", "0", "5601")
            assert later.ask(Code.DELETE, later.location).code == Code.DELETED
        device.update()
        _wait_for(gateway, "greedy/free", NEW, UPDATE, NEW, DELETE, NEW)


def test_a_gateway_with_a_key_speaks_for_nobody_who_has_one(kafka: Cluster, tmp_path: Path) -> None:
    keys = SqliteCredentials(tmp_path / "credentials.db", make=True)
    key = bytes(range(16))

    def put(endpoint: str) -> None:
        made = Psk(endpoint=endpoint, created=datetime.now(UTC), identity=endpoint.encode(), key=KeyBytes(key))
        keys.put([made], Put.NEW)

    put("hub")
    put("hub/guarded")
    with Gateway("behind-keys", kafka, tmp_path, credentials=tmp_path / "credentials.db") as gateway:
        gateway.wait_ready()
        with SecureDevice(gateway.secure_address, "hub", key) as device:
            site = Site("guarded", "open", "late")
            device.answer = site.answer
            device.register(links=site.links, version="1.1")
            _new(gateway, "hub/open")
            _new(gateway, "hub/late")
            assert _kinds(gateway, "hub/guarded") == []
            assert gateway.metric("devices_behind_refused_total", reason="has credentials") == 1
            # In the clear nobody takes the name of a device behind one with a key.
            with RawDevice(gateway.address, "hub/open") as thief:
                assert thief.try_to_register().code == Code.FORBIDDEN
            gateway.request("hub/open", "behind-key", RequestKind.READ, TEMPERATURE)
            assert gateway.reply("behind-key").rep.code is ResponseCode.CONTENT
            # A name that gets a key is free for who has it.
            put("hub/late")
            _wait_for(gateway, "hub/late", NEW, DELETE)
            # Sessions do not outlive the process; the devices do, and are reached over the next session.
            gateway.kill()
            gateway.start()
            gateway.wait_ready()
            device.connect()
            device.update()
            gateway.request("hub/open", "behind-key-again", RequestKind.READ, TEMPERATURE)
            assert gateway.reply("behind-key-again").rep.code is ResponseCode.CONTENT
            assert _kinds(gateway, "hub/open") == [NEW]
            # And they end with the key of their gateway.
            assert keys.remove([CredentialId(Kind.PSK, "hub")])
            _wait_for(gateway, "hub/open", NEW, DELETE)
            assert _kinds(gateway, "hub/late") == [NEW, DELETE]
    keys.close()


def test_lies_are_left_out_one_by_one(gateway: Gateway) -> None:
    with GatewayDevice(gateway.address, "lying", "good") as device:
        device.site.instances |= {
            1: ("same-prefix", "dev0", OBJECTS),
            2: ("good", "dev2", OBJECTS),
            3: ("number", "3303", OBJECTS),
            4: ("slash", "a/b", OBJECTS),
            5: ("", "dev5", OBJECTS),
            6: ("links", "dev6", "<</3/0"),
            7: ("bell\a", "dev7", OBJECTS),
            8: ("bare", "dev8", ""),
        }
        device.join()
        _new(gateway, "lying/good")
        assert _new(gateway, "lying/bare").links == ()
        counted = {
            reason: gateway.metric("devices_behind_refused_total", reason=reason)
            for reason in ("prefix twice", "name twice", "no usable prefix", "no usable name", "no link format")
        }
        assert counted == {
            "prefix twice": 1,
            "name twice": 1,
            "no usable prefix": 2,
            "no usable name": 2,
            "no link format": 1,
        }
        until("the gauge", lambda: gateway.metric("devices_behind") >= 2)
        assert sum(one.startswith("lying/") for one in gateway.new_registrations()) == 2


def test_a_thousand_devices_behind_one_and_no_more(gateway: Gateway, tmp_path: Path) -> None:
    with GatewayDevice(gateway.address, "crowded") as device:
        device.site.instances = {i: (f"d{i}", f"p{i}", "</3/0>") for i in range(1_010)}
        # Its object is longer than a datagram: it comes in blocks.
        device.register(links="</3/0>,</25>;ver=2.0", version="1.1")
        until("all of them", lambda: sum(ep.startswith("crowded/") for ep in gateway.new_registrations()) == 1_000, 120)
        assert gateway.metric("devices_behind_refused_total", reason="too many") == 1
        assert device.ask(Code.DELETE, device.location).code == Code.DELETED
        _wait_for(gateway, "crowded/d999", NEW, DELETE)
