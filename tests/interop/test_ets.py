"""Cases of OMA's enabler test specification, as they are written there: with Eclipse Leshan's client as the device.

OMA-ETS-LightweightM2M-V1_1; the marker of a test names its case. What is said on the wire is looked at as well as what
a user sees in the topics, so that a format or a path that a case asks for is the one that was spoken.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code

from schemas.avro.records import (
    Binding,
    ExecuteRequest,
    GenericBody,
    Notification,
    ReadBody,
    RegistrationDelete,
    RegistrationNew,
    RegistrationUpdate,
    RequestBody,
    RequestFormat,
    RequestKind,
    Response,
    ResponseCode,
    WriteAttributesRequest,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Instance, Node, Object, Resource, ResourceType, Value, values
from schemas.lwm2m.path import Path
from tests.interop.gateway_process import GatewayProcess, plain
from tests.interop.leshan_device import LeshanDevice
from tests.interop.wire import Wire
from tests.raw_device import RawDevice

pytestmark = [pytest.mark.interop, pytest.mark.kafka]

TEXT, CBOR, TLV, JSON, SENML_JSON, SENML_CBOR = 0, 60, 11542, 11543, 110, 112
ON_THE_WIRE = {
    RequestFormat.TEXT_CODE: TEXT,
    RequestFormat.CBOR: CBOR,
    RequestFormat.TLV: TLV,
    RequestFormat.JSON_CODE: JSON,
    RequestFormat.SENML_JSON: SENML_JSON,
    RequestFormat.SENML_CBOR: SENML_CBOR,
}
_KINDS = {bool: ResourceType.BOOLEAN, int: ResourceType.INTEGER, str: ResourceType.STRING}
#: What a case calls the configuration: the Server object as it is before the case, its writable resources.
SERVER: Mapping[int, int | bool] = {1: 300, 2: 1, 3: 10, 5: 86400, 6: False}


class Case:
    """A device behind a wire, and what the server (the gateway) is asked to do with it."""

    def __init__(self, gateway: GatewayProcess, class_path: list[str], **device: Any) -> None:
        self.gateway = gateway
        self.wire = Wire(gateway.coap_port)
        ep = f"ets-{secrets.token_hex(4)}"
        self.device = LeshanDevice(class_path, ep, self.wire.address, **device)
        self.ep = ep

    def end(self) -> None:
        self.device.stop()
        self.wire.__exit__()

    def ask(
        self,
        kind: RequestKind,
        path: str,
        body: RequestBody | None = None,
        *,
        fmt: RequestFormat = RequestFormat.TLV,
        code: ResponseCode,
    ) -> Response:
        """One request through the topics; its reply has ``code``, and the wire the path and the format."""
        since = len(self.wire.said)
        reply = self.gateway.ask(self.ep, kind, path, body, content_format=fmt)
        assert reply.rep.code is code, plain(reply)
        segments = tuple(path.strip("/").split("/"))
        request = self.wire.wait(
            lambda one: one.code.is_request() and one.opt.uri_path == segments and one.code != Code.EMPTY, since=since
        )
        if kind in (RequestKind.READ, RequestKind.OBSERVE):
            assert request.opt.accept == ON_THE_WIRE[fmt]
            assert self.wire.answer(request).opt.content_format == ON_THE_WIRE[fmt]
        if kind is RequestKind.WRITE:
            assert request.opt.content_format == ON_THE_WIRE[fmt]
            assert isinstance(body, WriteRequest)
            replaces = body.mode is WriteMode.REPLACE or isinstance(body.node, Resource)
            assert request.code == (Code.PUT if replaces else Code.POST)
        return reply

    def read(self, path: str, fmt: RequestFormat = RequestFormat.TLV) -> Node:
        reply = self.ask(RequestKind.READ, path, fmt=fmt, code=ResponseCode.CONTENT)
        assert isinstance(reply.rep.body, ReadBody)
        return reply.rep.body.content

    def found(self, path: str, fmt: RequestFormat = RequestFormat.TLV) -> dict[str, Value]:
        """What is read, by path."""
        return {str(one.path): one.value for one in values(self.read(path, fmt))}

    def write(
        self,
        path: str,
        value: Value,
        fmt: RequestFormat = RequestFormat.TLV,
        code: ResponseCode = ResponseCode.CHANGED,
    ) -> None:
        node = _resource(Path.parse(path), value)
        self.ask(RequestKind.WRITE, path, WriteRequest(mode=WriteMode.REPLACE, node=node), fmt=fmt, code=code)

    def write_server(self, chosen: Mapping[int, Value], mode: WriteMode, fmt: RequestFormat) -> None:
        """Several resources of /1/0 in one message."""
        resources = tuple(_resource(Path(1, 0, number), value) for number, value in chosen.items())
        node = Instance(path=Path(1, 0), resources=resources)
        self.ask(RequestKind.WRITE, "/1/0", WriteRequest(mode=mode, node=node), fmt=fmt, code=ResponseCode.CHANGED)

    def registered(self) -> RegistrationNew:
        found = self.gateway.registration(lambda one: isinstance(one.body, RegistrationNew) and one.body.ep == self.ep)
        assert isinstance(found.body, RegistrationNew)
        return found.body

    def updates(self) -> list[Message]:
        """The Update requests of the device."""
        return [one for one in self.wire.of_device() if one.code == Code.POST and len(one.opt.uri_path) == 2]

    def next_update(self, since: int, *query: str) -> Message:
        """The next Update on the wire has this query, and is accepted."""
        update = self.wire.wait(lambda one: one.code == Code.POST and one.opt.uri_path[:1] == ("rd",), since=since)
        assert update.opt.uri_query == query
        assert self.wire.answer(update).code == Code.CHANGED
        return update


def _resource(path: Path, value: Value) -> Resource:
    return Resource(path=path, type=_KINDS[type(value)], value=value)


def _server(found: Mapping[str, Value]) -> dict[int, Value]:
    """The writable resources of /1/0 in what was read."""
    return {number: found[f"/1/0/{number}"] for number in SERVER if f"/1/0/{number}" in found}


Make = Callable[..., Case]


@pytest.fixture
def make(gateway: GatewayProcess, leshan_class_path: list[str]) -> Iterator[Make]:
    made: list[Case] = []

    def one(**device: Any) -> Case:
        made.append(Case(gateway, leshan_class_path, **device))
        made[-1].device.event("registered")
        return made[-1]

    yield one
    for case in made:
        case.end()


@pytest.fixture(scope="module")
def shared(gateway: GatewayProcess, leshan_class_path: list[str]) -> Iterator[Case]:
    """For the cases that leave all as it was."""
    case = Case(gateway, leshan_class_path)
    try:
        case.device.event("registered")
        case.registered()
        case.write_server({number: SERVER[number] for number in (2, 3, 5, 6)}, WriteMode.UPDATE, RequestFormat.TLV)
        yield case
    finally:
        case.end()


# Registration interface


@pytest.mark.ets("LightweightM2M-1.1-int-101")
def test_initial_registration(make: Make) -> None:
    case = make()
    request = case.wire.wait(lambda one: one.opt.uri_path == ("rd",))
    assert request.code == Code.POST
    assert {"lwm2m=1.1", "lt=300", f"ep={case.ep}", "b=U"} <= set(request.opt.uri_query)
    assert case.wire.answer(request).code == Code.CREATED
    new = case.registered()
    assert (new.ver, new.lt, new.bnd) == ("1.1", 300, Binding.U)
    objects = {link.url.split("/")[1] for link in new.links} - {""}
    assert {"1", "3"} <= objects and not {"0", "21"} & objects


@pytest.mark.ets("LightweightM2M-1.1-int-102")
def test_registration_update(make: Make) -> None:
    case = make()
    since = len(case.wire.said)
    case.write("/1/0/1", 20)
    update = case.next_update(since, "lt=20")
    told = case.gateway.registration(lambda one: isinstance(one.body, RegistrationUpdate) and one.body.ep == case.ep)
    assert isinstance(told.body, RegistrationUpdate)
    assert told.body.lt == 20
    # Before it runs out another comes, without parameters.
    case.next_update(case.wire.said.index((True, update)) + 1)


@pytest.mark.ets("LightweightM2M-1.1-int-103")
def test_deregistration(make: Make) -> None:
    case = make()
    case.ask(RequestKind.EXECUTE, "/1/0/4", ExecuteRequest(parameters=""), code=ResponseCode.CHANGED)
    request = case.wire.wait(lambda one: one.code == Code.DELETE)
    assert request.opt.uri_path[0] == "rd"
    assert case.wire.answer(request).code == Code.DELETED
    case.gateway.registration(lambda one: isinstance(one.body, RegistrationDelete) and one.body.ep == case.ep)
    gone = case.gateway.ask(case.ep, RequestKind.READ, "/3/0/0")
    assert gone.rep.code is ResponseCode.NOT_FOUND, plain(gone)
    assert isinstance(gone.rep.body, GenericBody)
    assert f"no device {case.ep} is registered" in gone.rep.body.message


@pytest.mark.ets("LightweightM2M-1.1-int-104")
def test_registration_update_trigger(make: Make) -> None:
    case = make(lifetime=20)
    registered = time.monotonic()
    since = len(case.wire.said)
    case.ask(RequestKind.EXECUTE, "/1/0/8", ExecuteRequest(parameters=""), code=ResponseCode.CHANGED)
    case.next_update(since)
    # The lifetime counts from the update on.
    time.sleep(max(0.0, registered + 21 - time.monotonic()))
    assert case.found("/3/0/0") == {"/3/0/0": "Eclipse Leshan"}


@pytest.mark.ets("LightweightM2M-1.1-int-107")
def test_extending_the_lifetime_of_a_registration(make: Make) -> None:
    case = make(lifetime=60)
    assert (case.registered().lt, case.registered().bnd) == (60, Binding.U)
    since = len(case.wire.said)
    case.write("/1/0/1", 120)
    update = case.next_update(since, "lt=120")
    # The device's next one, within the lifetime.
    case.device.say("update")
    case.next_update(case.wire.said.index((True, update)) + 1)


@pytest.mark.ets("LightweightM2M-1.1-int-108")
def test_turn_on_queue_mode(make: Make) -> None:
    case = make(queue_mode=True)
    request = case.wire.wait(lambda one: one.opt.uri_path == ("rd",))
    assert {"b=U", "Q"} <= set(request.opt.uri_query)
    assert case.wire.answer(request).code == Code.CREATED
    assert case.registered().bnd is Binding.UQ


#: Seconds of silence after which a device in queue mode counts as asleep: MAX_TRANSMIT_WAIT of RFC 7252.
AWAKE = 93


@pytest.mark.ets("LightweightM2M-1.1-int-109")
def test_behavior_in_queue_mode(gateway: GatewayProcess) -> None:
    # Leshan's client updates each half minute and so is never asleep: the device is one of ours.
    ep = f"ets-{secrets.token_hex(4)}"

    def says(request: Message) -> Message:
        if request.code == Code.GET:
            return Message(code=Code.CONTENT, payload=b"240", content_format=TEXT)
        return Message(code=Code.CHANGED)

    with RawDevice(("127.0.0.1", gateway.coap_port), ep, answer=says) as device:
        device.register("b=U", "Q", version="1.1", links='</>;rt="oma.lwm2m",</1/0>,</3/0>')
        node = _resource(Path(1, 0, 1), 240)
        written = gateway.ask(ep, RequestKind.WRITE, "/1/0/1", WriteRequest(mode=WriteMode.REPLACE, node=node))
        assert written.rep.code is ResponseCode.CHANGED, plain(written)
        device.update("lt=240")
        time.sleep(AWAKE + 1)
        device.requests.clear()
        with ThreadPoolExecutor(1) as person:
            waits = person.submit(gateway.ask, ep, RequestKind.READ, "/1/0/1")
            time.sleep(3)
            # It is asleep: nothing is sent, and the request waits.
            assert device.requests == []
            assert not waits.done()
            device.update()
            read = waits.result(60)
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
        assert isinstance(read.rep.body, ReadBody)
        assert read.rep.body.content == node
        assert [(one.code, one.opt.uri_path) for one in device.requests] == [(Code.GET, ("1", "0", "1"))]


# Device management and service enablement interface


@pytest.mark.ets("LightweightM2M-1.1-int-201")
def test_querying_basic_information_in_plain_text_format(shared: Case) -> None:
    for number, value in enumerate(("Eclipse Leshan", "model", "serial")):
        assert shared.found(f"/3/0/{number}", RequestFormat.TEXT_CODE) == {f"/3/0/{number}": value}


def _holds_the_device(found: Mapping[str, Value]) -> None:
    wanted = {"/3/0/0": "Eclipse Leshan", "/3/0/1": "model", "/3/0/2": "serial", "/3/0/3": "2.0.0-M18"}
    assert found.items() >= {**wanted, "/3/0/11/0": 0, "/3/0/16": "U"}.items()


@pytest.mark.ets("LightweightM2M-1.1-int-203")
def test_querying_basic_information_in_tlv_format(shared: Case) -> None:
    _holds_the_device(shared.found("/3/0", RequestFormat.TLV))


@pytest.mark.ets("LightweightM2M-1.1-int-204")
def test_querying_basic_information_in_json_format(shared: Case) -> None:
    _holds_the_device(shared.found("/3/0", RequestFormat.JSON_CODE))


@pytest.mark.ets("LightweightM2M-1.1-int-205")
def test_setting_basic_information_in_plain_text_format(shared: Case) -> None:
    for chosen in ({2: 101, 3: 1010, 5: 2000}, {2: 1, 3: 10, 5: 86400}):
        for number, value in chosen.items():
            shared.write(f"/1/0/{number}", value, RequestFormat.TEXT_CODE)
        assert _server(shared.found("/1/0", RequestFormat.TLV)) == {**SERVER, **chosen}


@pytest.mark.ets("LightweightM2M-1.1-int-211")
def test_querying_basic_information_in_cbor_format(shared: Case) -> None:
    for path, value in (("/1/0/0", 123), ("/1/0/6", False), ("/1/0/7", "U")):
        assert shared.found(path, RequestFormat.CBOR) == {path: value}


@pytest.mark.ets("LightweightM2M-1.1-int-212")
def test_setting_basic_information_in_cbor_format(shared: Case) -> None:
    for chosen in ({2: 101, 3: 1010, 6: True}, {2: 1, 3: 10, 6: False}):
        for number, value in chosen.items():
            shared.write(f"/1/0/{number}", value, RequestFormat.CBOR)
        assert _server(shared.found("/1/0")) == {**SERVER, **chosen}


def _set_and_restore(case: Case, fmt: RequestFormat) -> None:
    before = case.found("/1/0", fmt)
    assert _server(before) == SERVER
    case.write_server({2: 101, 3: 1010, 5: 2000, 6: True, 7: "U"}, WriteMode.UPDATE, fmt)
    assert _server(case.found("/1/0", fmt)) == {1: 300, 2: 101, 3: 1010, 5: 2000, 6: True}
    case.write_server({**SERVER, 7: before["/1/0/7"]}, WriteMode.REPLACE, fmt)
    assert _server(case.found("/1/0", fmt)) == SERVER


@pytest.mark.ets("LightweightM2M-1.1-int-215")
def test_setting_basic_information_in_tlv_format(shared: Case) -> None:
    _set_and_restore(shared, RequestFormat.TLV)


@pytest.mark.ets("LightweightM2M-1.1-int-220")
def test_setting_basic_information_in_json_format(shared: Case) -> None:
    _set_and_restore(shared, RequestFormat.JSON_CODE)


@pytest.mark.ets("LightweightM2M-1.1-int-221")
def test_attempt_to_perform_operations_on_security(gateway: GatewayProcess) -> None:
    # Leshan's client answers 4.04, so the device is one of ours that answers as the case has it.
    ep = f"ets-{secrets.token_hex(4)}"
    node = _resource(Path(0, 0, 0), "coap://elsewhere")
    asked: list[tuple[RequestKind, str, RequestBody | None]] = [
        (RequestKind.READ, "/0", None),
        (RequestKind.WRITE, "/0/0/0", WriteRequest(mode=WriteMode.REPLACE, node=node)),
        (RequestKind.WRITE_ATTRIBUTES, "/0", WriteAttributesRequest(observe_spec="pmin=30&pmax=45")),
    ]

    def refuse(request: Message) -> Message:
        assert request.opt.uri_path[0] == "0"
        return Message(code=Code.UNAUTHORIZED)

    with RawDevice(("127.0.0.1", gateway.coap_port), ep, answer=refuse) as device:
        device.register(version="1.1", links='</>;rt="oma.lwm2m",</1/0>,</3/0>')
        for kind, path, body in asked:
            reply = gateway.ask(ep, kind, path, body)
            assert reply.rep.code is ResponseCode.UNAUTHORIZED, plain(reply)
        assert [(one.code, one.opt.uri_path, one.opt.uri_query) for one in device.requests] == [
            (Code.GET, ("0",), ()),
            (Code.PUT, ("0", "0", "0"), ()),
            (Code.PUT, ("0",), ("pmin=30", "pmax=45")),
        ]


@pytest.mark.ets("LightweightM2M-1.1-int-222")
def test_read_on_object(shared: Case) -> None:
    server = shared.read("/1")
    assert isinstance(server, Object)
    assert [one.path for one in server.instances] == [Path(1, 0)]
    assert _server({str(one.path): one.value for one in values(server)}) == SERVER
    device = shared.read("/3")
    assert isinstance(device, Object)
    assert [one.path for one in device.instances] == [Path(3, 0)]
    _holds_the_device({str(one.path): one.value for one in values(device)})


@pytest.mark.ets("LightweightM2M-1.1-int-223")
def test_read_on_object_instance(shared: Case) -> None:
    assert _server(shared.found("/1/0")) == SERVER
    _holds_the_device(shared.found("/3/0"))


@pytest.mark.ets("LightweightM2M-1.1-int-224")
def test_read_on_resource(shared: Case) -> None:
    for path, value in (("/1/0/0", 123), ("/1/0/1", 300), ("/1/0/6", False), ("/1/0/7", "U"), ("/3/0/16", "U")):
        assert shared.found(path) == {path: value}


@pytest.mark.ets("LightweightM2M-1.1-int-225")
def test_read_on_resource_instance(shared: Case) -> None:
    assert shared.found("/3/0/11/0") == {"/3/0/11/0": 0}


@pytest.mark.ets("LightweightM2M-1.1-int-226")
def test_write_partial_update_on_object_instance(make: Make) -> None:
    case = make()
    since = len(case.wire.said)
    case.write_server({1: 61, 6: True}, WriteMode.UPDATE, RequestFormat.TLV)
    case.next_update(since, "lt=61")
    assert _server(case.found("/1/0")).items() >= {1: 61, 6: True}.items()
    case.write_server({1: 300, 6: False}, WriteMode.UPDATE, RequestFormat.TLV)


@pytest.mark.ets("LightweightM2M-1.1-int-227")
def test_write_replace_on_resource(make: Make) -> None:
    case = make()
    for lifetime in (63, 300):
        since = len(case.wire.said)
        case.write("/1/0/1", lifetime)
        case.next_update(since, f"lt={lifetime}")
        assert case.found("/1/0/1") == {"/1/0/1": lifetime}


@pytest.mark.ets("LightweightM2M-1.1-int-228")
def test_write_on_resource_instance(make: Make) -> None:
    case = make()
    case.write("/16/0/0/0", "test")
    fmt = RequestFormat.SENML_CBOR
    assert case.found("/16/0/0/0", fmt) == {"/16/0/0/0": "test"}
    # And only that.
    assert case.found("/16/0", fmt) == {"/16/0/0/0": "test", "/16/0/0/1": "bb"}


def _query(case: Case, fmt: RequestFormat) -> None:
    assert _server(case.found("/1", fmt)) == SERVER
    _holds_the_device(case.found("/3/0", fmt))
    assert case.found("/3/0/16", fmt) == {"/3/0/16": "U"}
    assert case.found("/3/0/11/0", fmt) == {"/3/0/11/0": 0}


@pytest.mark.ets("LightweightM2M-1.1-int-231")
def test_querying_basic_information_in_senml_json_format(shared: Case) -> None:
    _query(shared, RequestFormat.SENML_JSON)


@pytest.mark.ets("LightweightM2M-1.1-int-232")
def test_querying_basic_information_in_senml_cbor_format(shared: Case) -> None:
    _query(shared, RequestFormat.SENML_CBOR)


def _set(case: Case, fmt: RequestFormat) -> None:
    since = len(case.wire.said)
    case.write_server({1: 61, 6: True}, WriteMode.UPDATE, fmt)
    case.next_update(since, "lt=61")
    assert _server(case.found("/1", fmt)).items() >= {1: 61, 6: True}.items()
    case.write("/16/0/0/0", "test_value", fmt)
    assert case.found("/16", fmt)["/16/0/0/0"] == "test_value"
    since = len(case.wire.said)
    case.write("/1/0/1", 63, fmt)
    case.next_update(since, "lt=63")
    assert case.found("/1/0/1", fmt) == {"/1/0/1": 63}


@pytest.mark.ets("LightweightM2M-1.1-int-233")
def test_setting_basic_information_in_senml_cbor_format(make: Make) -> None:
    _set(make(), RequestFormat.SENML_CBOR)


@pytest.mark.ets("LightweightM2M-1.1-int-234")
def test_setting_basic_information_in_senml_json_format(make: Make) -> None:
    _set(make(), RequestFormat.SENML_JSON)


@pytest.mark.ets("LightweightM2M-1.1-int-256")
def test_write_operation_failure(shared: Case) -> None:
    shared.write("/1/0/0", 124, code=ResponseCode.METHOD_NOT_ALLOWED)
    assert shared.found("/1/0/0") == {"/1/0/0": 123}


# Information reporting interface


@pytest.mark.ets("LightweightM2M-1.1-int-301")
def test_observation_and_notification_of_parameter_values(make: Make) -> None:
    case = make()
    assert case.found("/3/0/6") == {"/3/0/6/0": 1, "/3/0/6/1": 5}
    for path, spec in (("/3/0/7", "pmin=5&pmax=15"), ("/3/0/8", "pmin=10&pmax=20")):
        body = WriteAttributesRequest(observe_spec=spec)
        case.ask(RequestKind.WRITE_ATTRIBUTES, path, body, code=ResponseCode.CHANGED)
    observed = {"/3/0/7": (3800, 5000), "/3/0/8": (125, 900)}
    for path, wanted in observed.items():
        reply = case.ask(RequestKind.OBSERVE, path, code=ResponseCode.CONTENT)
        assert isinstance(reply.rep.body, ReadBody)
        assert tuple(one.value for one in values(reply.rep.body.content)) == wanted
    came: dict[str, int] = dict.fromkeys(observed, 0)

    def often_enough(told: Notification) -> bool:
        if told.ep == case.ep:
            assert isinstance(told.rep.body, ReadBody)
            assert tuple(one.value for one in values(told.rep.body.content)) == observed[told.path]
            came[told.path] += 1
        return all(count >= 2 for count in came.values())

    # Every 15 and 20 s, though nothing changes.
    case.gateway.notifications(often_enough, seconds=90)


@pytest.mark.ets("LightweightM2M-1.1-int-311")
def test_send_command(make: Make) -> None:
    case = make()
    since = len(case.wire.said)
    case.device.say("send SENML_CBOR /1/0/1 /3/0/11/0")
    assert case.device.event("sent")["code"] == "CHANGED(204)"
    sent = case.wire.wait(lambda one: one.opt.uri_path == ("dp",), since=since)
    assert (sent.code, sent.opt.content_format) == (Code.POST, SENML_CBOR)
    assert case.wire.answer(sent).code == Code.CHANGED
    found: dict[str, Value] = {}

    def all_of_it(told: Notification) -> bool:
        if told.ep == case.ep and told.rep.kind is RequestKind.SEND:
            assert isinstance(told.rep.body, ReadBody)
            found.update({str(one.path): one.value for one in values(told.rep.body.content)})
        return len(found) >= 2

    case.gateway.notifications(all_of_it)
    assert found == {"/1/0/1": 300, "/3/0/11/0": 0}
