"""A whole virtual device against a plain aiocoap context as its server."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiocoap import Message
from aiocoap.numbers import codes

from gateway.devices.client import DeviceConfig, State, Version
from gateway.devices.sensor import Sensor, Tally, run_sensors
from schemas.lwm2m import formats
from schemas.lwm2m.link import parse_links
from schemas.lwm2m.nodes import Instance, MultipleResource, Object, Resource, ResourceType, values
from schemas.lwm2m.path import Path
from tests.gateway.devices.lwm2m_server import DEFINITIONS, Server, serve

TLV, TEXT, OPAQUE, CBOR, SENML_JSON, SENML_CBOR, JSON, LINK = 11542, 0, 42, 60, 110, 112, 11543, 40
TEMPERATURE = Path(3303, 0, 5700)


class Rig:
    """A running device, the server it talks to, and what it counted."""

    def __init__(self, server: Server, sensor: Sensor, tally: Tally) -> None:
        self.server = server
        self.sensor = sensor
        self.tally = tally
        self.states: asyncio.Queue[State] = asyncio.Queue()
        sensor.device.on_state.append(self.states.put_nowait)

    @property
    def port(self) -> int:
        return self.sensor.device.address[1]

    async def until(self, state: State) -> None:
        """Wait until the device enters ``state``."""
        async with asyncio.timeout(20):
            while await self.states.get() is not state:
                pass


@asynccontextmanager
async def running(*, lifetime: int = 300, answers: tuple[Message, ...] = (), **options: Any) -> AsyncIterator[Rig]:
    """A device that runs and de-registers at the end; with ``answers`` it is not waited for."""
    async with serve() as server:
        server.directory.answers += answers
        tally = Tally(keep=True)
        config = DeviceConfig(
            endpoint="ep", server_host="127.0.0.1", server_port=server.port, retry_first=0.05, **options
        )
        sensor = Sensor(config, lifetime=lifetime, tally=tally, random_source=random.Random(1))
        rig = Rig(server, sensor, tally)
        stop = asyncio.Event()
        life = asyncio.create_task(sensor.device.run(stop))
        try:
            if not answers:
                await rig.until(State.REGISTERED)
                await server.directory.next()
            yield rig
        finally:
            stop.set()
            async with asyncio.timeout(20):
                await life


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_a_device_registers_with_its_objects_and_leaves_when_stopped() -> None:
    async def scenario() -> None:
        async with serve() as server:
            stop = asyncio.Event()
            life = asyncio.create_task(run_sensors(f"127.0.0.1:{server.port}", "dev", stop=stop, lifetime=120))
            registration = await server.directory.next()
            assert registration.query == {"ep": "dev", "lt": "120", "lwm2m": "1.1", "b": "U"}
            links = {link.url: link.attributes for link in parse_links(registration.payload)}
            assert set(links) >= {"/", "/1/0", "/3/0", "/3303/0", "/3303/1", "/3304/0"}
            assert links["/"]["rt"] == "oma.lwm2m"
            assert {"110", "112", "11542"} <= set(str(links["/"]["ct"]).split())
            assert links["/3303"] == {"ver": "1.1"}
            stop.set()
            await asyncio.wait_for(life, 20)
            leaving = await server.directory.next()
            assert (leaving.code, leaving.path, leaving.port) == ("DELETE", ("r1",), registration.port)

    play(scenario)


@pytest.mark.parametrize(
    ("version", "queue", "expected"),
    [
        (Version.V1_0, False, {"lwm2m": "1.0", "b": "U"}),
        (Version.V1_0, True, {"lwm2m": "1.0", "b": "UQ"}),
        (Version.V1_1, True, {"lwm2m": "1.1", "b": "U", "Q": ""}),
        (Version.V1_2, False, {"lwm2m": "1.2", "b": "U"}),
    ],
)
def test_version_and_queue_mode_are_announced(version: Version, queue: bool, expected: dict[str, str]) -> None:
    async def scenario() -> None:
        async with serve() as server:
            stop = asyncio.Event()
            life = asyncio.create_task(
                run_sensors(f"127.0.0.1:{server.port}", "dev", stop=stop, version=version, queue=queue)
            )
            assert (await server.directory.next()).query == {"ep": "dev", "lt": "300", **expected}
            stop.set()
            await asyncio.wait_for(life, 20)

    play(scenario)


def test_many_sensors_have_numbered_names_and_addresses_of_their_own() -> None:
    async def scenario() -> None:
        async with serve() as server:
            stop = asyncio.Event()
            life = asyncio.create_task(run_sensors(f"127.0.0.1:{server.port}", "s", stop=stop, count=3, period=0.1))
            seen = [await server.directory.next() for _ in range(3)]
            assert sorted(one.query["ep"] for one in seen) == ["s-1", "s-2", "s-3"]
            assert len({one.port for one in seen}) == 3
            stop.set()
            await asyncio.wait_for(life, 20)

    play(scenario)


@pytest.mark.parametrize("server", ["127.0.0.1", ":5683", "host:port", "host:0", "host:70000"])
def test_a_server_that_is_no_host_and_port_is_an_error(server: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        asyncio.run(run_sensors(server, "dev", stop=asyncio.Event()))


def test_a_server_name_that_does_not_resolve_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        asyncio.run(run_sensors("no-such-host.invalid:5683", "dev", stop=asyncio.Event()))


def test_the_registration_is_updated_before_it_ends() -> None:
    async def scenario() -> None:
        async with running(lifetime=1) as rig:
            update = await rig.server.directory.next()
            assert (update.code, update.path, update.query, update.payload) == ("POST", ("r1",), {}, "")

    play(scenario)


def test_a_written_lifetime_is_told_to_the_server() -> None:
    async def scenario() -> None:
        async with running() as rig:
            answer = await rig.server.ask(rig.port, codes.PUT, "/1/0/1", b"60", content_format=TEXT)
            assert answer.code is codes.CHANGED
            assert (await rig.server.directory.next()).query == {"lt": "60"}

    play(scenario)


def test_an_update_of_an_unknown_registration_registers_anew() -> None:
    async def scenario() -> None:
        async with running() as rig:
            rig.server.directory.answers.append(Message(code=codes.NOT_FOUND))
            rig.sensor.device.update()
            assert (await rig.server.directory.next()).path == ("r1",)
            again = await rig.server.directory.next()
            assert (again.path, again.query["ep"]) == ((), "ep")

    play(scenario)


def test_a_server_that_is_busy_is_asked_again_after_its_max_age() -> None:
    async def scenario() -> None:
        busy = Message(code=codes.SERVICE_UNAVAILABLE)
        busy.opt.max_age = 0
        async with running(answers=(busy,)) as rig:
            await rig.until(State.REGISTERED)
            assert [(await rig.server.directory.next()).query["ep"] for _ in range(2)] == ["ep", "ep"]

    play(scenario)


def test_a_refused_registration_is_tried_again() -> None:
    async def scenario() -> None:
        async with running(answers=tuple(Message(code=codes.BAD_REQUEST) for _ in range(3))) as rig:
            await rig.until(State.REGISTERED)
            assert rig.server.directory.seen.qsize() == 4

    play(scenario)


def test_a_server_that_comes_up_late_is_found() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
        stop = asyncio.Event()
        life = asyncio.create_task(run_sensors(f"127.0.0.1:{port}", "late", stop=stop, ack_timeout=0.1))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", port))
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(20):
                first, _ = await loop.sock_recvfrom(silent, 2048)
                # The same message id again: a retransmission, for nobody answered.
                assert (await loop.sock_recvfrom(silent, 2048))[0] == first
        async with serve(port) as server:
            assert (await server.directory.next()).query["ep"] == "late"
            stop.set()
            await asyncio.wait_for(life, 20)

    play(scenario)


@pytest.mark.parametrize("content_format", [TLV, SENML_JSON, SENML_CBOR, JSON])
@pytest.mark.parametrize("path", ["/3303", "/3/0", "/3/0/6", "/3303/0/5700", "/3/0/6/1"])
def test_every_level_is_read_in_every_format(content_format: int, path: str) -> None:
    async def scenario() -> None:
        async with running() as rig:
            node = await rig.server.read(rig.port, path, content_format)
            here = rig.sensor.model.read(Path.parse(path))
            clock = Path(3, 0, 13)
            assert [v for v in values(node) if v.path != clock] == [v for v in values(here) if v.path != clock]

    play(scenario)


@pytest.mark.parametrize("content_format", [TEXT, CBOR])
def test_a_single_resource_is_read_as_one_value(content_format: int) -> None:
    async def scenario() -> None:
        async with running() as rig:
            assert await rig.server.read(rig.port, "/3/0/9", content_format) == rig.sensor.model.read(Path(3, 0, 9))
            refused = await rig.server.ask(rig.port, codes.GET, "/3/0", accept=content_format)
            assert refused.code is codes.NOT_ACCEPTABLE

    play(scenario)


@pytest.mark.parametrize(
    ("code", "path", "payload", "options", "expected"),
    [
        (codes.GET, "/9", b"", {}, codes.NOT_FOUND),
        (codes.GET, "/3/0/4", b"", {}, codes.METHOD_NOT_ALLOWED),
        (codes.GET, "/hello", b"", {}, codes.NOT_FOUND),
        (codes.GET, "/3/0", b"", {"accept": 50}, codes.NOT_ACCEPTABLE),
        (codes.PUT, "/3303/0/5700", b"21", {"content_format": TEXT}, codes.METHOD_NOT_ALLOWED),
        (codes.PUT, "/1/0/1", b"soon", {"content_format": TEXT}, codes.BAD_REQUEST),
        (codes.PUT, "/1/0/1", b"60", {"content_format": 50}, codes.UNSUPPORTED_CONTENT_FORMAT),
        (codes.PUT, "/1/0", b"\xc1", {"content_format": TLV}, codes.BAD_REQUEST),
        (codes.PUT, "/3303/0/5700?pmin=x", b"", {}, codes.BAD_REQUEST),
        (codes.PUT, "/3303/0?con=1", b"", {}, codes.BAD_REQUEST),
        (codes.PUT, "/9/0?pmin=1", b"", {}, codes.NOT_FOUND),
        (codes.POST, "/3/0/0", b"", {}, codes.METHOD_NOT_ALLOWED),
        (codes.POST, "/3/0/4", b"\xff", {}, codes.BAD_REQUEST),
        (codes.POST, "/3", b"", {}, codes.METHOD_NOT_ALLOWED),
        (codes.DELETE, "/3/0", b"", {}, codes.METHOD_NOT_ALLOWED),
        (codes.DELETE, "/3303/9", b"", {}, codes.NOT_FOUND),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_code(
    code: codes.Code, path: str, payload: bytes, options: dict[str, int], expected: codes.Code
) -> None:
    async def scenario() -> None:
        async with running() as rig:
            assert (await rig.server.ask(rig.port, code, path, payload, **options)).code is expected

    play(scenario)


@pytest.mark.parametrize("content_format", [TLV, SENML_JSON, SENML_CBOR, JSON])
def test_an_instance_is_written_in_part(content_format: int) -> None:
    async def scenario() -> None:
        async with running() as rig:
            node = Instance(
                path=Path(3, 0),
                resources=(
                    Resource(path=Path(3, 0, 14), type=ResourceType.STRING, value="+05:00"),
                    Resource(path=Path(3, 0, 15), type=ResourceType.STRING, value="Asia/Karachi"),
                ),
            )
            payload = formats.encode(content_format, node, DEFINITIONS)
            answer = await rig.server.ask(rig.port, codes.POST, "/3/0", payload, content_format=content_format)
            assert answer.code is codes.CHANGED, answer.payload
            assert rig.sensor.model.value(Path(3, 0, 14)) == "+05:00"
            assert rig.sensor.model.value(Path(3, 0, 15)) == "Asia/Karachi"
            assert rig.sensor.model.value(Path(3, 0, 0)) == "Headwater"

    play(scenario)


def test_reboot_is_executed_with_its_arguments_and_registers_anew() -> None:
    async def scenario() -> None:
        async with running() as rig:
            assert (await rig.server.ask(rig.port, codes.POST, "/3/0/4", b"param1,param2")).code is codes.CHANGED
            assert (await rig.server.directory.next()).query["ep"] == "ep"

    play(scenario)


def test_factory_reset_restores_what_was_written() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.server.ask(rig.port, codes.PUT, "/3/0/14", b"+05:00", content_format=TEXT)
            assert (await rig.server.ask(rig.port, codes.POST, "/3/0/5")).code is codes.CHANGED
            assert rig.sensor.model.value(Path(3, 0, 14)) == "+00:00"

    play(scenario)


def test_disable_leaves_and_comes_back_after_the_timeout() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.server.ask(rig.port, codes.PUT, "/1/0/5", b"0", content_format=TEXT)
            assert (await rig.server.ask(rig.port, codes.POST, "/1/0/4")).code is codes.CHANGED
            assert (await rig.server.directory.next()).code == "DELETE"
            assert (await rig.server.directory.next()).query["ep"] == "ep"

    play(scenario)


@pytest.mark.parametrize("content_format", [TLV, SENML_JSON, SENML_CBOR])
def test_an_instance_is_created_deleted_and_announced(content_format: int) -> None:
    async def scenario() -> None:
        async with running() as rig:
            name = Resource(path=Path(3303, 5, 5750), type=ResourceType.STRING, value="attic")
            node = Object(path=Path(3303), instances=(Instance(path=Path(3303, 5), resources=(name,)),))
            payload = formats.encode(content_format, node, DEFINITIONS)
            made = await rig.server.ask(rig.port, codes.POST, "/3303", payload, content_format=content_format)
            assert made.code is codes.CREATED, made.payload
            assert "</3303/5>" in (await rig.server.directory.next()).payload
            assert await rig.server.read(rig.port, "/3303/5/5750", TLV) == name
            assert (await rig.server.ask(rig.port, codes.DELETE, "/3303/5")).code is codes.DELETED
            assert "</3303/5>" not in (await rig.server.directory.next()).payload

    play(scenario)


def test_an_instance_without_an_id_gets_one() -> None:
    async def scenario() -> None:
        async with running() as rig:
            node = Instance(
                path=Path(3303, 0),
                resources=(Resource(path=Path(3303, 0, 5750), type=ResourceType.STRING, value="cellar"),),
            )
            payload = formats.encode(TLV, node, DEFINITIONS)
            made = await rig.server.ask(rig.port, codes.POST, "/3303", payload, content_format=TLV)
            assert (made.code, made.opt.location_path) == (codes.CREATED, ("3303", "2"))
            assert rig.sensor.model.value(Path(3303, 2, 5750)) == "cellar"

    play(scenario)


def test_discover_lists_what_is_there_with_its_attributes() -> None:
    async def scenario() -> None:
        async with running() as rig:
            assert (await rig.server.ask(rig.port, codes.PUT, "/3303/0?pmin=2&pmax=60")).code is codes.CHANGED
            assert (await rig.server.ask(rig.port, codes.PUT, "/3303/0/5700?gt=25.5")).code is codes.CHANGED
            everything = parse_links((await rig.server.ask(rig.port, codes.GET, "/3303", accept=LINK)).payload.decode())
            found = {link.url: dict(link.attributes) for link in everything}
            assert found["/3303"] == {"ver": "1.1"}
            assert found["/3303/0"] == {"pmin": "2", "pmax": "60"}
            assert found["/3303/0/5700"] == {"gt": "25.5"}
            assert "/3303/1/5605" in found
            one = parse_links((await rig.server.ask(rig.port, codes.GET, "/3303/0/5700", accept=LINK)).payload.decode())
            assert dict(one[0].attributes) == {"pmin": "2", "pmax": "60", "gt": "25.5"}
            sources = parse_links((await rig.server.ask(rig.port, codes.GET, "/3/0/6", accept=LINK)).payload.decode())
            assert dict(sources[0].attributes) == {"dim": "2"}

    play(scenario)


def test_discover_of_1_2_goes_as_deep_as_is_asked() -> None:
    async def scenario() -> None:
        async with running(version=Version.V1_2) as rig:

            async def found(query: str) -> list[str]:
                answer = await rig.server.ask(rig.port, codes.GET, query, accept=LINK)
                assert answer.code is codes.CONTENT, answer.payload
                return [link.url for link in parse_links(answer.payload.decode())]

            assert await found("/3303?depth=0") == ["/3303"]
            assert await found("/3303?depth=1") == ["/3303", "/3303/0", "/3303/1"]
            assert await found("/3303?depth=2") == await found("/3303")
            sources = ["/3/0/6", "/3/0/6/0", "/3/0/6/1"]
            assert await found("/3/0/6") == await found("/3/0/6?depth=3") == sources
            assert set(sources) <= set(await found("/3?depth=3"))
            for wrong in ("/3?depth=4", "/3?depth=x", "/3?pmin=1"):
                assert (await rig.server.ask(rig.port, codes.GET, wrong, accept=LINK)).code is codes.BAD_REQUEST
            answer = await rig.server.ask(rig.port, codes.GET, "/3/0/6/0", accept=LINK)
            assert answer.code is codes.METHOD_NOT_ALLOWED
        async with running() as rig:
            # What a device does not know it passes over.
            answer = await rig.server.ask(rig.port, codes.GET, "/3?depth=0", accept=LINK)
            assert len(parse_links(answer.payload.decode())) > 1

    play(scenario)


def test_an_observation_of_1_2_has_attributes_of_its_own() -> None:
    async def scenario() -> None:
        async with running(version=Version.V1_2) as rig:
            rig.sensor.model.set(TEMPERATURE, 20.0)
            # Its own are in the place of what is written, for this observation alone.
            await rig.server.ask(rig.port, codes.PUT, "/3303/0/5700?gt=25")
            observing = rig.server.observe(rig.port, "/3303/0/5700", query=("lt=10",))
            await observing.first()
            for value in (26.0, 9.0):
                rig.sensor.model.set(TEMPERATURE, value)
                await rig.server.ask(rig.port, codes.GET, "/3/0/0")
            node = await observing.next()
            assert isinstance(node, Resource)
            assert node.value == 9.0
            answer = await rig.server.ask(rig.port, codes.GET, "/3303/0/5700?pmin=9&pmax=1", observe=0)
            assert answer.code is codes.BAD_REQUEST
        async with running() as rig:
            answer = await rig.server.ask(rig.port, codes.GET, "/3303/0/5700?pmin=1", observe=0)
            assert (answer.code, answer.opt.observe) == (codes.BAD_REQUEST, None)

    play(scenario)


@pytest.mark.parametrize("path", ["/3303", "/3303/0", "/3303/0/5700"])
@pytest.mark.parametrize("content_format", [TLV, SENML_CBOR])
def test_every_level_is_observed_and_acknowledgements_are_counted(path: str, content_format: int) -> None:
    async def scenario() -> None:
        async with running() as rig:
            observing = rig.server.observe(rig.port, path, content_format)
            await observing.first()
            for value in (30.5, 31.5):
                rig.sensor.model.set(TEMPERATURE, value)
                assert Resource(path=TEMPERATURE, type=ResourceType.FLOAT, value=value) in values(
                    await observing.next()
                )
            await rig.server.ask(rig.port, codes.GET, "/3/0/0")  # its ACK came after the last notification's
            assert (rig.tally.sent["ep"], rig.tally.acknowledged["ep"]) == (2, 2)
            assert [one.path for one in rig.tally.kept] == [Path.parse(path)] * 2
            told = [r.value for one in rig.tally.kept for r in one.resources if r.path == TEMPERATURE]
            assert told == [30.5, 31.5]
            assert [one.number for one in rig.tally.kept] == [2, 3]
            assert len({one.message_id for one in rig.tally.kept}) == 2

    play(scenario)


class ByHand:
    """A server's socket, driven datagram by datagram: GET /3/0/14 with token ``tk``."""

    def __init__(self, plain: socket.socket, port: int) -> None:
        self._plain = plain
        self._device = ("127.0.0.1", port)
        plain.bind(("127.0.0.1", 0))
        plain.setblocking(False)

    async def get(self, message_id: int, observe: int) -> bytes:
        """The answer; Observe 0 is an option of no length."""
        option = b"\x61\x01" if observe else b"\x60"
        head = bytes([0x42, 0x01]) + message_id.to_bytes(2, "big") + b"tk"
        await self.send(head + option + b"\x513\x010\x0214")
        return await self.receive()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendto(self._plain, data, self._device)

    async def receive(self) -> bytes:
        async with asyncio.timeout(20):
            return await asyncio.get_running_loop().sock_recv(self._plain, 2048)


def test_a_reset_ends_the_observation_and_is_no_acknowledgement() -> None:
    async def scenario() -> None:
        async with running() as rig:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                peer = ByHand(plain, rig.port)
                await peer.get(1, 0)
                rig.sensor.model.set(Path(3, 0, 14), "+01:00")
                notification = await peer.receive()
                await peer.send(b"\x70\x00" + notification[2:4])
                await rig.server.ask(rig.port, codes.GET, "/3/0/0")
                assert rig.sensor.device.observed == []
                assert (rig.tally.sent["ep"], rig.tally.acknowledged["ep"]) == (1, 0)

    play(scenario)


def test_a_notification_that_is_not_acknowledged_is_sent_again_and_counted_once() -> None:
    async def scenario() -> None:
        async with running(ack_timeout=0.1) as rig:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                peer = ByHand(plain, rig.port)
                await peer.get(1, 0)
                rig.sensor.model.set(Path(3, 0, 14), "+01:00")
                first = await peer.receive()
                assert await peer.receive() == first
                for _ in range(2):
                    await peer.send(b"\x60\x00" + first[2:4])
                await rig.server.ask(rig.port, codes.GET, "/3/0/0")
                assert (rig.tally.sent["ep"], rig.tally.acknowledged["ep"]) == (1, 1)
                assert rig.tally.kept[0].message_id == int.from_bytes(first[2:4], "big")

    play(scenario)


def test_a_server_that_stays_silent_loses_its_observations_and_sees_a_registration() -> None:
    async def scenario() -> None:
        async with running(ack_timeout=0.02) as rig:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                await ByHand(plain, rig.port).get(1, 0)
                rig.sensor.model.set(Path(3, 0, 14), "+01:00")
                assert (await rig.server.directory.next()).query["ep"] == "ep"
                assert rig.sensor.device.observed == []
                assert rig.tally.acknowledged["ep"] == 0

    play(scenario)


def test_observe_with_1_on_its_token_cancels_and_the_token_can_be_used_again() -> None:
    async def scenario() -> None:
        async with running() as rig:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                peer = ByHand(plain, rig.port)
                assert (await peer.get(1, 0))[:6] == b"\x62\x45\x00\x01tk"
                assert rig.sensor.device.observed == [Path(3, 0, 14)]
                await peer.get(2, 0)
                assert rig.sensor.device.observed == [Path(3, 0, 14)]
                rig.sensor.model.set(Path(3, 0, 14), "+01:00")
                notification = await peer.receive()
                assert (notification[0] & 0x30, notification[1], notification[4:6]) == (0x00, 0x45, b"tk")
                await peer.send(b"\x60\x00" + notification[2:4])
                await peer.get(3, 1)
                assert rig.sensor.device.observed == []
                assert rig.tally.acknowledged["ep"] == 1

    play(scenario)


def test_an_observed_instance_that_is_deleted_ends_its_observation() -> None:
    async def scenario() -> None:
        async with running() as rig:
            observing = rig.server.observe(rig.port, "/3303/1/5700")
            await observing.first()
            await rig.server.ask(rig.port, codes.DELETE, "/3303/1")
            await rig.server.directory.next()
            async with asyncio.timeout(20):
                while rig.sensor.device.observed:
                    await rig.server.ask(rig.port, codes.GET, "/3/0/0")

    play(scenario)


def test_the_longest_period_notifies_without_a_change() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.server.ask(rig.port, codes.PUT, "/3/0/14?pmax=1")
            observing = rig.server.observe(rig.port, "/3/0/14")
            first = await observing.first()
            assert await observing.next() == first

    play(scenario)


def test_bounds_hold_notifications_back() -> None:
    async def scenario() -> None:
        async with running() as rig:
            rig.sensor.model.set(TEMPERATURE, 20.0)
            await rig.server.ask(rig.port, codes.PUT, "/3303/0/5700?gt=25")
            observing = rig.server.observe(rig.port, "/3303/0/5700")
            await observing.first()
            for value in (21.0, 24.0, 26.0):
                rig.sensor.model.set(TEMPERATURE, value)
                await rig.server.ask(rig.port, codes.GET, "/3/0/0")
            node = await observing.next()
            assert isinstance(node, Resource)
            assert node.value == 26.0
            assert rig.tally.sent["ep"] == 1

    play(scenario)


def test_a_new_registration_forgets_the_observations() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.server.observe(rig.port, "/3303/0/5700").first()
            assert rig.sensor.device.observed == [TEMPERATURE]
            rig.sensor.device.reboot()
            await rig.server.directory.next()
            assert rig.sensor.device.observed == []

    play(scenario)


def test_a_large_object_is_read_in_blocks() -> None:
    async def scenario() -> None:
        async with running() as rig:
            for _ in range(40):
                rig.sensor.model.create(3303, None, [])
            node = await rig.server.read(rig.port, "/3303", SENML_JSON)
            assert isinstance(node, Object)
            assert len(node.instances) == 42
            assert node == rig.sensor.model.read(Path(3303))

    play(scenario)


def test_a_large_object_is_notified_in_blocks() -> None:
    async def scenario() -> None:
        async with running() as rig:
            for _ in range(40):
                rig.sensor.model.create(3303, None, [])
            observing = rig.server.observe(rig.port, "/3303")
            await observing.first()
            rig.sensor.model.set(TEMPERATURE, 33.25)
            async with asyncio.timeout(20):
                node = await observing.next()
            assert node == rig.sensor.model.read(Path(3303))

    play(scenario)


def test_a_device_in_queue_mode_hears_nothing_while_it_sleeps() -> None:
    async def scenario() -> None:
        async with running(queue=True, awake=0.1) as rig:
            device_socket = rig.sensor.device.socket
            asleep = asyncio.Event()
            device_socket.on_sleep = asleep.set
            async with asyncio.timeout(20):
                if device_socket.listening:
                    await asleep.wait()
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                    while not device_socket.slept_through:
                        plain.sendto(b"\x40\x00\x00\x01", ("127.0.0.1", rig.port))
                        await asyncio.sleep(0)
            rig.sensor.device.update()
            await rig.server.directory.next()
            assert (await rig.server.ask(rig.port, codes.GET, "/3/0/0")).code is codes.CONTENT

    play(scenario)


def test_a_mangled_datagram_is_counted_and_the_next_good_one_answered() -> None:
    async def scenario() -> None:
        async with running() as rig:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                for spoilt in (b"", b"\x40", b"\x40\x01\x00\x02\xb2\xff\xfe", b"\xff" * 50):
                    plain.sendto(spoilt, ("127.0.0.1", rig.port))
            assert (await rig.server.ask(rig.port, codes.GET, "/3/0/0")).code is codes.CONTENT
            assert rig.sensor.device.socket.malformed == 4

    play(scenario)


def test_a_multiple_resource_keeps_its_instances_over_the_wire() -> None:
    async def scenario() -> None:
        async with running() as rig:
            node = await rig.server.read(rig.port, "/3/0/7", TLV)
            assert isinstance(node, MultipleResource)
            assert {one.path.resource_instance_id: one.value for one in node.instances} == {0: 3800, 1: 5000}

    play(scenario)
