"""Values with the device's own times, and LwM2M CBOR: a gateway process on a real Kafka, seen in the topics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import aiocoap
import cbor2
import pytest
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import CON

from connectors.kafka import Cluster
from gateway.wanted import DECLARED_TICKET
from headwater.demo.audit import read_side
from schemas.avro.records import Notification, ReadBody, RequestKind, Response, ResponseCode, WriteMode, WriteRequest
from schemas.lwm2m.nodes import Resource, ResourceType, values
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.raw_device import RawDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

TEMPERATURE = "/3303/0/5700"
LINKS = '</lwm2m>;rt="oma.lwm2m";ct="60 11544",</lwm2m/1/0>,</lwm2m/3/0>,</lwm2m/3303/0>'
START = 1_600_000_000


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway("with-times", kafka, tmp_path_factory.mktemp("times"), observe=("/3303/*/5700",)) as one:
        one.wait_ready()
        yield one


def _rows(gateway: Gateway, ep: str) -> list[tuple[str, int | None, object]]:
    """Path, device time and value of every record of a device that the topic has now."""
    return [
        (str(value.path), value.timestamp, value.value)
        for one in (stored.record for stored in read_side(gateway.cluster, [gateway.topics.observations]))
        if isinstance(one, Notification) and one.ep == ep and isinstance(one.rep.body, ReadBody)
        for value in values(one.rep.body.content)
    ]


def _pack(count: int) -> bytes:
    return json.dumps(
        [{"bn": TEMPERATURE, "bt": START, "v": 0.5}, *({"t": n, "v": n + 0.5} for n in range(1, count))]
    ).encode()


def _expected(count: int) -> list[tuple[str, int | None, object]]:
    return [(TEMPERATURE, (START + n) * 1000, n + 0.5) for n in range(count)]


def _first_values(gateway: Gateway, ep: str) -> list[Response]:
    return [one for one in gateway.replies(DECLARED_TICKET) if one.ep == ep]


class Sender:
    """A device by aiocoap's client, which brings blocks."""

    def __init__(self, context: aiocoap.Context, server: tuple[str, int]) -> None:
        self._context = context
        self._base = f"coap://{server[0]}:{server[1]}"

    async def post(self, path: str, payload: bytes, content_format: int) -> aiocoap.Message:
        request = aiocoap.Message(code=Code.POST, uri=self._base + path, payload=payload, content_format=content_format)
        return await self._context.request(request).response


def test_a_send_of_hundreds_of_values_in_blocks_is_as_many_rows(gateway: Gateway) -> None:
    async def run() -> None:
        context = await aiocoap.Context.create_client_context()
        try:
            sender = Sender(context, gateway.address)
            registered = await sender.post("/rd?ep=logger&lt=300&lwm2m=1.1", b"</3303/0>", 40)
            assert registered.code == Code.CREATED
            payload = _pack(400)
            assert len(payload) > 5 * 1024
            answer = await sender.post("/dp", payload, 110)
            assert answer.code == Code.CHANGED, answer.payload
            refused = await sender.post("/dp", _pack(2).replace(b"160000", b"160000000"), 110)
            assert refused.code == Code.BAD_REQUEST and b"makes no sense" in refused.payload
        finally:
            await context.shutdown()

    asyncio.run(run())
    # It was answered, so all of it is there, and nothing of what was refused.
    assert _rows(gateway, "logger") == _expected(400)
    assert gateway.metric("sends_total") >= 1
    assert gateway.metric("sends_refused_total", reason="bad request") == 1


def test_sends_outlive_a_gateway_that_is_killed_in_the_middle_and_are_recorded_once(gateway: Gateway) -> None:
    count, rounds = 300, 4

    async def run() -> int:
        context = await aiocoap.Context.create_client_context()
        kills = 0
        try:
            sender = Sender(context, gateway.address)
            registered = await sender.post("/rd?ep=unlucky&lt=300&lwm2m=1.1", b"</3303/0>", 40)
            assert registered.code == Code.CREATED
            for number in range(rounds):
                payload = _pack(count).replace(b"/3303/0", b"/3303/%d" % number)
                work = asyncio.create_task(sender.post("/dp", payload, 110))
                # Somewhere between the first block and the answer.
                await asyncio.sleep(0.004 + 0.008 * number)
                if not work.done():
                    kills += 1
                gateway.kill()
                gateway.start()
                await asyncio.to_thread(gateway.wait_ready)
                for _ in range(20):
                    try:
                        answer = await work
                    except aiocoap.error.Error:
                        pass
                    else:
                        if answer.code == Code.CHANGED:
                            break
                    # As a device does that was told that a block is missing, or nothing at all.
                    work = asyncio.create_task(sender.post("/dp", payload, 110))
                else:
                    raise AssertionError(f"the Send never came through: {answer}")
        finally:
            await context.shutdown()
        return kills

    assert asyncio.run(run()) > 0
    rows = _rows(gateway, "unlucky")
    for number in range(rounds):
        path = f"/3303/{number}/5700"
        mine = [(TEMPERATURE, at, value) for where, at, value in rows if where == path]
        assert mine == _expected(count), path


def test_a_notification_with_a_history_outlives_a_kill_and_is_recorded_once(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "history", answer=_of_cbor) as device:
        device.register(links=LINKS.replace("60 11544", "112"), version="1.1")
        device.wait_observed("/lwm2m" + TEMPERATURE)
        # The observation outlives a kill once its first value is durable.
        until("its first value", lambda: bool(_first_values(gateway, "history")))
        with RawDevice(gateway.address, "after") as after:
            after.register()  # answered once the state file has it, and all before it
        pack: list[dict[int, object]] = [{-2: TEMPERATURE, -3: START, 2: 0.5}]
        pack += [{6: n, 2: n + 0.5} for n in range(1, 100)]
        message = aiocoap.Message(code=Code.CONTENT, payload=cbor2.dumps(pack), content_format=112)
        message.opt.observe = 7
        message.mtype, message.mid, message.token = CON, device.next_mid(), device.observed["/lwm2m" + TEMPERATURE]
        datagram = message.encode()
        assert len(datagram) < 2048
        device.send(datagram)
        time.sleep(0.003)
        gateway.kill()
        gateway.start()
        gateway.wait_ready()
        end = time.monotonic() + 30
        while not device.acknowledged[message.mid]:
            assert time.monotonic() < end
            device.send(datagram)
            time.sleep(0.5)
    assert _rows(gateway, "history") == _expected(100)


def _of_cbor(request: aiocoap.Message) -> aiocoap.Message:
    """A device that speaks nothing but LwM2M CBOR; it keeps its objects below /lwm2m."""
    path = request.opt.uri_path
    assert path[0] == "lwm2m"
    ids = [int(one) for one in path[1:]]
    if request.code != Code.GET:
        if request.opt.content_format != 11544 or cbor2.loads(request.payload) != {1: {0: {1: 60}}}:
            return aiocoap.Message(code=Code.UNSUPPORTED_CONTENT_FORMAT)
        return aiocoap.Message(code=Code.CHANGED)
    if request.opt.accept != 11544 and request.opt.observe is None:
        return aiocoap.Message(code=Code.NOT_ACCEPTABLE)
    said: dict[object, object] = {3303: {0: {5700: 21.5}}} if ids[0] == 3303 else {(3, 0): {0: "ACME", 6: {0: 1, 1: 5}}}
    response = aiocoap.Message(code=Code.CONTENT, payload=cbor2.dumps(said), content_format=11544)
    if request.opt.observe == 0:
        response.opt.observe = 1
    return response


def test_a_device_that_speaks_lwm2m_cbor_alone_is_read_written_and_observed(gateway: Gateway) -> None:
    with RawDevice(gateway.address, "modern", answer=_of_cbor) as device:
        device.register(links=LINKS, version="1.2")
        device.wait_observed("/lwm2m" + TEMPERATURE)
        gateway.request("modern", "read-modern", RequestKind.READ, "/3/0")
        reply = gateway.reply("read-modern")
        assert reply.rep.code is ResponseCode.CONTENT and isinstance(reply.rep.body, ReadBody)
        assert {str(one.path): one.value for one in values(reply.rep.body.content)} == {
            "/3/0/0": "ACME",
            "/3/0/6/0": 1,
            "/3/0/6/1": 5,
        }
        node = Resource(path=Lwm2mPath(1, 0, 1), type=ResourceType.INTEGER, value=60)
        body = WriteRequest(mode=WriteMode.REPLACE, node=node)
        gateway.request("modern", "write-modern", RequestKind.WRITE, "/1/0/1", body)
        assert gateway.reply("write-modern").rep.code is ResponseCode.CHANGED
        message = aiocoap.Message(
            code=Code.CONTENT, payload=cbor2.dumps({(3303, 0, 5700): 22.25}), content_format=11544
        )
        message.opt.observe = 2
        message.mtype, message.mid, message.token = CON, device.next_mid(), device.observed["/lwm2m" + TEMPERATURE]
        device.send(message.encode())
        device.until("its acknowledgement", lambda: device.acknowledged[message.mid] > 0)
        until("its record", lambda: bool(gateway.notifications("modern", TEMPERATURE)))
    assert _rows(gateway, "modern") == [(TEMPERATURE, None, 22.25)]
