"""Observations are set up, held and ended, with a device that is a UDP socket in the test's hands.

Endpoint, state file and aiocoap are the real ones; the uplink is `tests.memory_uplink`, which reports when told.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, cast

import pytest
from aiocoap import resource

from gateway.coap.aiocoap_link import AiocoapLink
from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Busy
from gateway.coap.message import Code, Message, Option, Options, Type, build, parse, uint
from gateway.coap.peers import Address
from gateway.device_forms import kafka_place
from gateway.device_link import DeviceLink
from gateway.exchange import CoapRequest, Method, RefusedRequest
from gateway.models import LiveDefinitions
from gateway.number_decoders import decoders_for
from gateway.observations import Observation, ObservationTable
from gateway.observing import Observing
from gateway.registration import parse_announcement
from gateway.registry import Device, Registry
from gateway.state import State
from gateway.uplink import Uplink
from gateway.wanted import DECLARED_TICKET, Declared, Wanted
from schemas.avro import serde
from schemas.avro.compiled import encode_reply
from schemas.avro.records import Binding, ReadBody, Response, ResponseCode
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from tests.memory_uplink import MemoryUplink

WAIT = 20.0
VALUE = Path(3303, 0, 5700)
OBSERVE = CoapRequest(method=Method.GET, uri_path=("3303", "0", "5700"), observe=0)
CANCEL = replace(OBSERVE, observe=1)


class Bench:
    """The part under test with its surroundings, as one process of the gateway has them, and one device."""

    #: Whether the device's turn can be had at once; else it is waited for.
    at_once = True

    def __init__(self, state: State, now_ms: int) -> None:
        self.state = state
        self.now_ms = now_ms
        self.uplink = MemoryUplink()
        self.registry = Registry()
        self.endpoint = Endpoint(("127.0.0.1", 0), Busy(), seed=1)
        self.table = ObservationTable("gw", decoders_for)
        self.tasks: list[asyncio.Future[None]] = []
        self.definitions = LiveDefinitions(Definitions.builtin())
        link = DeviceLink(self.endpoint.client, AiocoapLink(self.endpoint, resource.Site()))
        self.wanted = Wanted(
            declared=Declared(["/3303/*/5700"], {}),
            table=self.table,
            registry=self.registry,
            state=state,
            definitions=self.definitions,
            new_token=link.new_token,
            wall_ms=lambda: self.now_ms,
        )
        self.observing = Observing(
            server_id="gw",
            wanted=self.wanted,
            link=link,
            table=self.table,
            registry=self.registry,
            definitions=self.definitions,
            publish=self._publish,
            put=self._put,
            record=self._record,
            in_order=self._in_order,
            take_turn=self._take_turn,
            wall_ms=lambda: self.now_ms,
            clock=lambda: 0.0,
        )
        self.recorded: list[Message] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("127.0.0.1", 0))
        self.endpoint.start(asyncio.get_running_loop())

    def _publish(self, reply: Response, done: Callable[[bool], None] | None) -> bool:
        return self.uplink.send(self.uplink.topics.replies, 0, b"", encode_reply(reply), [], done)

    def _put(self, device: Device, value: bytes, done: Callable[[bool], None]) -> None:
        if not self.uplink.send(self.uplink.topics.replies, 0, b"", value, [], done):
            done(False)

    def _record(self, observation: Observation, message: Message, address: Address) -> None:
        self.recorded.append(message)

    def _take_turn(self, ep: str) -> Callable[[], None] | None:
        if not self.at_once or self.tasks:
            return None
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.tasks.append(turn)
        return lambda: turn.set_result(None)

    def _in_order(self, ep: str, factory: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.tasks.append(asyncio.create_task(factory()))

    async def done(self) -> None:
        """Wait until nothing is asked any more."""
        while self.tasks:
            await self.tasks.pop()

    def register(self, reg_id: str = "r1", links: str = "</3/0>,</3303/0>", version: str = "1.1") -> Device:
        host, port = self._socket.getsockname()
        device = Device(
            ep="lamp",
            reg_id=reg_id,
            address=(host, port),
            lifetime=60,
            version=version,
            binding=Binding.U,
            queue=False,
            sms=None,
            announcement=parse_announcement(links.encode()),
            attributes={},
            reg_date=self.now_ms,
            last_up=self.now_ms,
            place=kafka_place("lamp", cast(Uplink, self.uplink)),
        )
        self.observing.registered(device, self.registry.add(device))
        return device

    async def asked(self) -> Message:
        """The gateway's next request."""
        async with asyncio.timeout(WAIT):
            return parse(await asyncio.get_running_loop().sock_recv(self._socket, 4096))

    def answer(
        self, request: Message, payload: bytes = b"21.5", *, code: int = Code.CONTENT, number: int | None = 1
    ) -> None:
        options: Options = [(Option.CONTENT_FORMAT, b"")]
        if number is not None:
            options.append((Option.OBSERVE, uint(number)))
        datagram = build(Type.ACK, code, request.mid, request.token, options, payload)
        self._socket.sendto(datagram, self.endpoint.lines.local_address)

    async def establish(self, payload: bytes = b"21.5") -> Message:
        """Answer the next request; returns it."""
        request = await self.asked()
        assert (request.code, request.uint(Option.OBSERVE)) == (Code.GET, 0)
        assert request.texts(Option.URI_PATH) == ["3303", "0", "5700"]
        self.answer(request, payload)
        await self.done()
        return request

    def values(self) -> list[tuple[str, object]]:
        """Ticket and value of the replies that Kafka took."""
        replies = [serde.decode(value) for topic, _, _, value, _ in self.uplink.records]
        return [
            (one.ticket, one.rep.body.content.value)  # type: ignore[union-attr]  # all are of a single resource
            for one in replies
            if isinstance(one, Response) and isinstance(one.rep.body, ReadBody)
        ]

    async def stored(self) -> list[tuple[bytes, str]]:
        """Token and ticket of the observations that a gateway would find that starts now."""
        await self.state.durable()
        return [(row.token, row.ticket) for row in self.state.observations()]

    def restart_with(self, device: Device) -> None:
        """Take up what the state file has, as a new process does."""
        self.registry.add(device)
        for row in self.state.observations():
            self.wanted.restore(device, row)
        self.wanted.restored(device)

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        self._socket.close()
        self.endpoint.close()


@pytest.fixture(autouse=True, params=[True, False], ids=["at once", "in turn"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "at_once", request.param)


@asynccontextmanager
async def _bench(directory: FilePath, now_ms: int = 1_000_000) -> AsyncIterator[Bench]:
    state = State.open(directory)
    bench = Bench(state, now_ms)
    try:
        async with asyncio.timeout(2 * WAIT):
            yield bench
    finally:
        bench.close()
        await state.close()


def _as_stored(device: Device, bench: Bench) -> Device:
    """The device as the state file has it, in another process: at the socket of ``bench``, without observations."""
    host, port = bench._socket.getsockname()
    return Device(
        ep=device.ep,
        reg_id=device.reg_id,
        address=(host, port),
        lifetime=device.lifetime,
        version=device.version,
        binding=device.binding,
        queue=device.queue,
        sms=device.sms,
        announcement=device.announcement,
        attributes=device.attributes,
        reg_date=device.reg_date,
        last_up=device.last_up,
        place=device.place,
    )


def test_declared_observation_is_stored_once_its_first_value_is_durable(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register()
            request = await bench.establish()
            # Notifications are taken at once, but a gateway that starts now would ask again.
            assert request.token in bench.table.by_token and "/3303/0/5700" in device.observations
            assert await bench.stored() == []
            bench.uplink.report()
            assert await bench.stored() == [(request.token, DECLARED_TICKET)]
            assert bench.values() == [(DECLARED_TICKET, 21.5)]
            bench.observing.complete(device)
            assert bench.tasks == []  # nothing lacks

    asyncio.run(run())


def test_declared_path_that_cannot_be_observed_is_left_out_and_ends_no_turn_of_others(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register(links="</3303/0>,</3303/65535>")
            await bench.establish()
            await bench.done()
            assert list(device.observations) == list(device.wanted) == ["/3303/0/5700"]
            bench.observing.complete(device)
            assert bench.tasks == []

    asyncio.run(run())


@pytest.mark.parametrize("how", ["not taken", "lost"])
def test_first_value_that_kafka_did_not_keep_is_asked_for_again_at_the_next_update(
    tmp_path: FilePath, how: str
) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register()
            if how == "not taken":
                bench.uplink.room = 0
            first = await bench.establish()
            bench.uplink.report(durable=False)
            bench.uplink.room, bench.uplink.records[:] = 1 << 30, []
            assert first.token in bench.table.by_token  # what it notifies is taken all the same
            assert await bench.stored() == []
            bench.observing.complete(device)
            again = await bench.establish(b"22.5")
            assert again.token == first.token
            bench.uplink.report()
            assert bench.values() == [(DECLARED_TICKET, 22.5)]
            assert await bench.stored() == [(first.token, DECLARED_TICKET)]
            bench.observing.complete(device)
            assert bench.tasks == []

    asyncio.run(run())


def test_late_report_of_a_first_value_does_not_store_what_has_ended(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register()
            request = await bench.establish()
            bench.wanted.ended(bench.table.by_token[request.token])
            bench.uplink.report()
            assert await bench.stored() == [] and device.observations == {}
            bench.observing.complete(device)
            await bench.establish()
            bench.registry.remove("lamp")
            bench.observing.gone(device)
            bench.uplink.report()
            assert await bench.stored() == [] and bench.table.by_token == {}

    asyncio.run(run())


def test_observation_of_an_earlier_registration_is_asked_for_again_after_a_restart(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            bench.register()
            first = await bench.establish()
            bench.uplink.report()
            # The device begins anew, and the gateway dies before the answer is durable.
            bench.now_ms += 1
            device = bench.register("r2")
            await bench.establish()
            await bench.state.durable()
        async with _bench(tmp_path) as bench:
            bench.restart_with(_as_stored(device, bench))
            assert first.token in bench.table.by_token
            restored = bench.registry.device("lamp")
            assert restored is not None and restored.observations == {}
            bench.now_ms += 1
            bench.observing.complete(restored)
            assert (await bench.establish(b"23.5")).token == first.token
            bench.uplink.report()
            assert bench.values() == [(DECLARED_TICKET, 23.5)]
            await bench.state.durable()
        async with _bench(tmp_path) as bench:
            # Of this registration now, and durable: it goes on.
            bench.restart_with(_as_stored(device, bench))
            restored = bench.registry.device("lamp")
            assert restored is not None and list(restored.observations) == ["/3303/0/5700"]
            bench.observing.complete(restored)
            assert bench.tasks == []

    asyncio.run(run())


def test_requested_observation_is_stored_at_once_and_takes_the_place_of_what_was_there(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register()
            bench.uplink.room = 0  # the declared one never counts as established
            declared = await bench.establish()
            asking = asyncio.create_task(bench.observing.observe(device, VALUE, "t1", OBSERVE, WAIT))
            request = await bench.asked()
            assert request.token != declared.token
            bench.answer(request)
            assert (await asking).payload == b"21.5"
            # Its reply is published, and asked for again if it got lost, by whoever carries the request out.
            assert await bench.stored() == [(request.token, "t1")]
            assert list(bench.table.by_token) == [request.token]

    asyncio.run(run())


def test_observation_keeps_its_own_attributes_over_a_restart_and_a_registration(tmp_path: FilePath) -> None:
    query = ("pmin=5", "pmax=60")

    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register(version="1.2")
            await bench.establish()
            own = replace(OBSERVE, uri_query=query)
            asking = asyncio.create_task(bench.observing.observe(device, VALUE, "t1", own, WAIT))
            request = await bench.establish()
            assert tuple(request.texts(Option.URI_QUERY)) == query
            await asking
            assert (await bench.stored())[-1] == (request.token, "t1")
        async with _bench(tmp_path, now_ms=2_000_000) as bench:
            bench.restart_with(_as_stored(device, bench))
            device = bench.register("r2", version="1.2")
            again = await bench.establish()
            assert (again.token, tuple(again.texts(Option.URI_QUERY))) == (request.token, query)
            # It is known by the whole of its request (RFC 7641 section 3.6).
            cancelling = asyncio.create_task(bench.observing.cancel(device, VALUE, CANCEL, WAIT))
            cancel = await bench.asked()
            assert (cancel.token, cancel.uint(Option.OBSERVE)) == (request.token, 1)
            assert tuple(cancel.texts(Option.URI_QUERY)) == query
            bench.answer(cancel, number=None)
            await cancelling

    asyncio.run(run())


def test_observation_with_attributes_ends_where_a_device_comes_back_as_an_older_one(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register(version="1.2")
            await bench.establish()
            bench.uplink.report()
            own = replace(OBSERVE, uri_query=("pmin=5",))
            asking = asyncio.create_task(bench.observing.observe(device, VALUE, "t1", own, WAIT))
            request = await bench.establish()
            await asking
            assert await bench.stored() == [(request.token, "t1")]
            device = bench.register("r2", version="1.1")
            await bench.done()
            assert await bench.stored() == []
            assert bench.table.by_token == {} and device.observations == {}

    asyncio.run(run())


def test_observation_that_a_device_refuses_leaves_the_one_that_is_there(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register()
            declared = await bench.establish()
            bench.uplink.report()
            asking = asyncio.create_task(bench.observing.observe(device, VALUE, "t1", OBSERVE, WAIT))
            bench.answer(await bench.asked(), b"", code=Code.SERVICE_UNAVAILABLE, number=None)
            assert (await asking).code == Code.SERVICE_UNAVAILABLE
            assert await bench.stored() == [(declared.token, DECLARED_TICKET)]
            assert list(bench.table.by_token) == [declared.token]

    asyncio.run(run())


def test_cancellation_ends_also_what_never_counted_as_established(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register()
            bench.uplink.room = 0
            await bench.establish()
            cancelling = asyncio.create_task(bench.observing.cancel(device, VALUE, CANCEL, WAIT))
            request = await bench.asked()
            assert request.uint(Option.OBSERVE) == 1
            bench.answer(request, number=None)
            await cancelling
            assert bench.table.by_token == {} and device.wanted == {} and device.observations == {}
            with pytest.raises(RefusedRequest):
                await bench.observing.cancel(device, VALUE, CANCEL, WAIT)

    asyncio.run(run())


def test_object_that_is_announced_no_more_is_observed_no_more(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register()
            bench.uplink.room = 0
            await bench.establish()
            bench.registry.announce(device, parse_announcement(b"</3/0>"))
            bench.observing.objects_changed(device)
            assert bench.table.by_token == {} and device.wanted == {} and device.observations == {}

    asyncio.run(run())


def test_refusal_of_a_declared_observation_is_a_reply_and_is_not_asked_again(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            device = bench.register()
            bench.answer(await bench.asked(), b"", code=Code.NOT_FOUND, number=None)
            await bench.done()
            bench.uplink.report()
            (record,) = bench.uplink.records
            reply = serde.decode(record[3])
            assert isinstance(reply, Response) and reply.rep.code is ResponseCode.NOT_FOUND
            assert await bench.stored() == [] and device.wanted == {}
            bench.observing.complete(device)
            assert bench.tasks == []

    asyncio.run(run())


def test_short_path_goes_by_the_definitions_that_are_known_now(tmp_path: FilePath) -> None:
    async def run() -> None:
        async with _bench(tmp_path) as bench:
            bench.definitions.take_up(Definitions())
            bench.register()
            request = await bench.establish()
            observation = bench.table.by_token[request.token]
            seen = [(bool(observation.decoders), observation.compiled is not None)]
            for known in (Definitions.builtin(), Definitions()):
                bench.definitions.take_up(known)
                bench.wanted.definitions_changed()
                seen.append((bool(observation.decoders), observation.compiled is not None))
            assert seen == [(False, False), (True, True), (False, False)]
            assert bench.table.by_token == {request.token: observation}

    asyncio.run(run())
