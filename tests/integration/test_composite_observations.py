"""Observations of several paths at once: a gateway process on a real Kafka, and a device datagram by datagram."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping

import aiocoap
import cbor2
import pytest
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import CON
from typer.testing import CliRunner

from connectors.kafka import Cluster, read_to_end
from headwater.cli import app
from schemas.avro import serde
from schemas.avro.records import (
    CompositeBody,
    Notification,
    ReadBody,
    RequestKind,
    ResponseCode,
    WriteCompositeRequest,
    values_told,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path
from tests.raw_device import RawDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

NAME, FIRST, SECOND = "/3/0/0", "/3303/0/5700", "/3303/1/5700"
PATHS = (SECOND, NAME, FIRST)
LINKS = '</>;rt="oma.lwm2m";ct="110 112",</1/0>,</3/0>,</3303/0>,</3303/1>'
SENML_CBOR, LWM2M_CBOR = 112, 11544


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway("composite", kafka, tmp_path_factory.mktemp("composite")) as one:
        one.wait_ready()
        yield one


def pack(values: Mapping[str, object]) -> bytes:
    return cbor2.dumps([{0: path, 3 if isinstance(value, str) else 2: value} for path, value in values.items()])


class Device(RawDevice):
    """It has three values, and answers a FETCH with those that it is asked for."""

    def __init__(self, gateway: Gateway, ep: str) -> None:
        super().__init__(gateway.address, ep, answer=self.fetched)
        self.values: dict[str, object] = {NAME: "ACME", FIRST: 21.5, SECOND: 30.0}
        self.token = b""
        self.number = 1

    def fetched(self, request: aiocoap.Message) -> aiocoap.Message:
        if request.code != Code.FETCH or request.opt.uri_path:
            return aiocoap.Message(code=Code.METHOD_NOT_ALLOWED)
        asked = [record[0] for record in cbor2.loads(request.payload)]
        there = {path: value for path, value in self.values.items() if path in asked}
        answer = aiocoap.Message(code=Code.CONTENT, payload=pack(there), content_format=request.opt.accept)
        if request.opt.observe == 0:
            self.token = request.token
            answer.opt.observe = self.number
        return answer

    def fetches(self) -> list[aiocoap.Message]:
        return self.asked(Code.FETCH)

    def notification(self, payload: bytes, number: int) -> tuple[int, bytes]:
        message = aiocoap.Message(code=Code.CONTENT, payload=payload, content_format=SENML_CBOR)
        message.opt.observe = self.number = number
        message.mtype, message.mid, message.token = CON, self.next_mid(), self.token
        return message.mid, message.encode()

    def say(self, payload: bytes, number: int) -> bool:
        """A notification, sent again each second until it is acknowledged (True) or reset (False)."""
        mid, datagram = self.notification(payload, number)
        for _ in range(60):
            self.send(datagram)
            try:
                self.until("an answer", lambda: self.acknowledged[mid] + self.reset[mid] > 0, 1.0)
            except AssertionError:
                continue
            return self.acknowledged[mid] > 0
        raise AssertionError("no answer to a notification")


def observe(gateway: Gateway, device: Device, ticket: str, *paths: str) -> None:
    """Observe, and wait until that outlives a kill: until the state file has it."""
    gateway.request(device.ep, ticket, RequestKind.OBSERVE_COMPOSITE, "/", paths=paths or PATHS)
    reply = gateway.reply(ticket)
    assert reply.rep.code is ResponseCode.CONTENT
    with RawDevice(gateway.address, f"after-{ticket}") as after:
        after.register()  # answered once the state file has it, and all before it


def rows(gateway: Gateway, ep: str) -> list[tuple[str, str, object, bool, bool]]:
    """Ticket, record's path, value, whether more follow and whether it is late, of each notification."""
    found: list[tuple[str, str, object, bool, bool]] = []
    for message in read_to_end(gateway.cluster, [gateway.topics.observations]):
        record = serde.decode(message.value() or b"")
        if isinstance(record, Notification) and record.ep == ep:
            assert record.rep.kind is RequestKind.OBSERVE_COMPOSITE
            headers = dict(message.headers() or ())
            told = values_told(record.rep.body)
            assert len(told) <= 1
            value = told[0].value if told else None
            found.append((record.ticket, record.path, value, "coap.more" in headers, headers.get("late") == b"1"))
    return found


def test_each_path_is_a_record_and_all_are_there_before_the_acknowledgement(gateway: Gateway) -> None:
    with Device(gateway, "lamp") as device:
        device.register(links=LINKS, version="1.1")
        observe(gateway, device, "seen")
        body = gateway.reply("seen").rep.body
        assert isinstance(body, CompositeBody)
        assert {str(one.path): one.value for one in body.resources} == device.values
        assert device.say(pack({FIRST: 22.5, SECOND: 31.0}), 2)
        assert device.say(pack({NAME: "ACME 2"}), 3)
        assert device.say(pack({}), 4)
        # RFC 7641 section 3.4: overtaken on its way.
        assert device.say(pack({SECOND: 29.0, NAME: "ACME 0"}), 1)
    assert rows(gateway, "lamp") == [
        ("seen", FIRST, 22.5, True, False),
        ("seen", SECOND, 31.0, False, False),
        ("seen", NAME, "ACME 2", False, False),
        ("seen", "/", None, False, False),
        ("seen", NAME, "ACME 0", True, True),
        ("seen", SECOND, 29.0, False, True),
    ]


def test_a_gateway_that_is_killed_goes_on_without_asking_and_records_each_path_once(gateway: Gateway) -> None:
    with Device(gateway, "durable") as device:
        device.register(links=LINKS, version="1.1")
        observe(gateway, device, "kept")
        asked = len(device.fetches())
        for number in range(2, 6):
            mid, datagram = device.notification(
                pack({NAME: f"n{number}", FIRST: 1.0 * number, SECOND: -number}), number
            )
            device.send(datagram)
            time.sleep(0.001 * number)  # somewhere between nothing and all of it
            gateway.kill()
            gateway.start()
            gateway.wait_ready()
            end = time.monotonic() + 60
            while not device.acknowledged[mid]:
                assert time.monotonic() < end
                device.send(datagram)
                time.sleep(0.2)
        assert len(device.fetches()) == asked
    expected = [row for n in range(2, 6) for row in ((NAME, f"n{n}"), (FIRST, 1.0 * n), (SECOND, -1.0 * n))]
    found = [(path, value) for ticket, path, value, _, _ in rows(gateway, "durable") if ticket == "kept"]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_it_outlives_another_address_and_is_asked_for_again_at_a_registration(gateway: Gateway) -> None:
    with Device(gateway, "roaming") as device:
        device.register(links=LINKS, version="1.1")
        observe(gateway, device, "roam")
        token = device.token
        device.move()
        device.update()
        assert device.say(pack({FIRST: 1.5}), 2)
        assert len(device.fetches()) == 1
        device.register(links=LINKS, version="1.1")
        device.until("the observe request once more", lambda: len(device.fetches()) == 2)
        again = device.fetches()[-1]
        assert (again.opt.observe, again.token, again.payload) == (0, token, device.fetches()[0].payload)
        until("its first values", lambda: len(gateway.replies("roam")) == 2)
        assert gateway.replies("roam")[1].rep.kind is RequestKind.OBSERVE_COMPOSITE
        assert device.say(pack({FIRST: 2.5}), 2)
        # Nothing of what is observed is there any more.
        device.update(links="</1/0>")
        assert not device.say(pack({FIRST: 3.5}), 3)
    assert [value for _, _, value, _, _ in rows(gateway, "roaming")] == [1.5, 2.5]


def test_a_cancellation_is_told_with_the_token_and_what_still_comes_is_reset(gateway: Gateway) -> None:
    with Device(gateway, "ending") as device:
        device.register(links=LINKS, version="1.1")
        observe(gateway, device, "begin")
        observe(gateway, device, "other", FIRST, NAME)
        both = device.fetches()
        assert both[0].token != both[1].token
        # The same paths in any order; the others' observation stays.
        gateway.request("ending", "end", RequestKind.OBSERVE_COMPOSITE_CANCEL, "/", paths=tuple(reversed(PATHS)))
        assert gateway.reply("end").rep.code is ResponseCode.CONTENT
        told = device.fetches()[-1]
        assert (told.opt.observe, told.token, told.payload) == (1, both[0].token, both[0].payload)
        device.token = both[0].token
        assert not device.say(pack({FIRST: 5.0}), 5)
        device.token = both[1].token
        assert device.say(pack({FIRST: 6.0}), 5)
        # Passive: the device does not answer, and is told by RST.
        device.listening = False
        gateway.request("ending", "silent", RequestKind.OBSERVE_COMPOSITE_CANCEL, "/", paths=(NAME, FIRST))
        assert gateway.reply("silent", 90).rep.code is ResponseCode.DELETED
        device.listening = True
        assert not device.say(pack({FIRST: 7.0}), 6)
    assert [(ticket, value) for ticket, _, value, _, _ in rows(gateway, "ending")] == [("other", 6.0)]


def test_a_sleeping_device_is_asked_when_it_wakes(gateway: Gateway) -> None:
    with Device(gateway, "sleeper") as device:
        device.register("b=U", "Q", links=LINKS, version="1.1")
        device.listening = False
        gateway.request("sleeper", "doze", RequestKind.READ_COMPOSITE, "/", paths=(NAME, FIRST))
        time.sleep(1)
        assert gateway.replies("doze") == []
        device.listening = True
        device.update()
        body = gateway.reply("doze").rep.body
        assert isinstance(body, CompositeBody)
        assert [str(one.path) for one in body.resources] == [NAME, FIRST]


def test_people_read_and_observe_several_paths_by_the_command(gateway: Gateway) -> None:
    place = ["--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap]
    with Device(gateway, "typed") as device:
        device.register(links=LINKS, version="1.1")
        table = CliRunner().invoke(app, ["read", "typed", NAME, FIRST, *place])
        assert table.exit_code == 0, table.output
        assert "ACME" in table.output and "Manufacturer" in table.output and "21.5" in table.output
        given = CliRunner().invoke(app, ["observe", "typed", FIRST, NAME, *place, "-o", "json", "--ticket", "cmd"])
        answer = json.loads(given.stdout)
        assert [(one["path"], one["value"]) for one in answer["values"]] == [(NAME, "ACME"), (FIRST, 21.5)]
        assert device.say(pack({FIRST: 23.5}), 2)
        count = str(len(gateway.seen(gateway.topics.replies)))
        told = CliRunner().invoke(app, ["tail", "replies", *place, "--from-beginning", "-n", count, "-o", "table"])
        assert f"observeComposite /  CONTENT  ticket cmd  {NAME}=ACME, {FIRST}=21.5" in told.output, told.output
        refused = CliRunner().invoke(app, ["cancel", "typed", NAME, SECOND, *place])
        assert refused.exit_code == 1
        assert f"typed {NAME} {SECOND}: BAD_REQUEST" in refused.output
        assert f"cancel just what was observed together: {NAME}, {FIRST}" in refused.output.replace("\n", " ")
    assert rows(gateway, "typed") == [("cmd", FIRST, 23.5, False, False)]


class Modern(Device):
    """It speaks LwM2M CBOR."""

    def fetched(self, request: aiocoap.Message) -> aiocoap.Message:
        asked = cbor2.loads(request.payload)
        if request.opt.content_format != LWM2M_CBOR:
            return aiocoap.Message(code=Code.UNSUPPORTED_CONTENT_FORMAT)
        if request.code == Code.iPATCH:
            self.values["written"] = asked
            return aiocoap.Message(code=Code.CHANGED)
        if asked != {3: {0: {0: None}}, 3303: None}:
            return aiocoap.Message(code=Code.BAD_REQUEST)
        said = {3: {0: {0: "ACME"}}, 3303: {0: {5700: 21.5}}}
        answer = aiocoap.Message(code=Code.CONTENT, payload=cbor2.dumps(said), content_format=LWM2M_CBOR)
        if request.opt.observe == 0:
            self.token = request.token
            answer.opt.observe = 1
        return answer


def test_a_device_of_1_2_is_read_written_and_observed_in_lwm2m_cbor(gateway: Gateway) -> None:
    with Modern(gateway, "modern") as device:
        device.register(links=LINKS.replace("110 112", "11544"), version="1.2")
        gateway.request("modern", "look", RequestKind.READ_COMPOSITE, "/", paths=(NAME, "/3303"))
        body = gateway.reply("look").rep.body
        assert isinstance(body, CompositeBody)
        assert [(str(one.path), one.value) for one in body.resources] == [(NAME, "ACME"), (FIRST, 21.5)]
        zone = Resource(path=Path(3, 0, 14), type=ResourceType.STRING, value="+02")
        life = Resource(path=Path(1, 0, 1), type=ResourceType.INTEGER, value=60)
        written = WriteCompositeRequest(resources=(zone, life))
        gateway.request("modern", "set", RequestKind.WRITE_COMPOSITE, "/", written)
        assert gateway.reply("set").rep.code is ResponseCode.CHANGED
        assert device.values["written"] == {3: {0: {14: "+02"}}, 1: {0: {1: 60}}}
        gateway.request("modern", "watch", RequestKind.OBSERVE_COMPOSITE, "/", paths=(NAME, "/3303"))
        assert gateway.reply("watch").rep.code is ResponseCode.CONTENT
        message = aiocoap.Message(
            code=Code.CONTENT, payload=cbor2.dumps({3303: {0: {5700: 22.0}}}), content_format=LWM2M_CBOR
        )
        message.opt.observe = 2
        message.mtype, message.mid, message.token = CON, device.next_mid(), device.token
        device.send(message.encode())
        device.until("its acknowledgement", lambda: device.acknowledged[message.mid] > 0)
        until("its record", lambda: bool(gateway.notifications("modern", "/3303")))
    told = gateway.notifications("modern", "/3303")[0].rep.body
    assert isinstance(told, ReadBody)
    assert [one.value for one in values_told(told)] == [22.0]


def test_a_device_of_1_0_is_not_asked(gateway: Gateway) -> None:
    with Device(gateway, "old") as device:
        device.register(links=LINKS, version="1.0")
        gateway.request("old", "refused", RequestKind.READ_COMPOSITE, "/", paths=PATHS)
        assert gateway.reply("refused").rep.code is ResponseCode.BAD_REQUEST
        device.ping()
        assert device.requests == []


def test_an_observation_of_several_paths_has_attributes_of_its_own(gateway: Gateway) -> None:
    where = ("--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap)
    with Device(gateway, "own") as device:
        device.register(links=LINKS, version="1.2")
        for arguments in (("observe", "own", *PATHS, "--pmin", "5", "--pmax", "60"), ("cancel", "own", *PATHS)):
            result = CliRunner().invoke(app, [*arguments, *where])
            assert result.exit_code == 0, result.output
        asked = [(one.opt.observe, one.opt.uri_query, one.token) for one in device.fetches()]
        # RFC 7641 section 3.6: cancelled by the same request.
        assert asked == [(number, ("pmin=5", "pmax=60"), device.token) for number in (0, 1)]
        refused = CliRunner().invoke(app, ["observe", "own", *PATHS, "--gt", "5", *where])
        assert refused.exit_code == 1
        assert "gt is for one resource" in refused.output
