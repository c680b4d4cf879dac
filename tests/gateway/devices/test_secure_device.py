"""A whole virtual device over DTLS: our server in front of a plain aiocoap context."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiocoap.numbers import codes

from gateway.devices.client import DeviceConfig, State
from gateway.devices.sensor import Sensor, Tally, run_sensors
from gateway.dtls.events import Closed, Ending
from schemas.lwm2m.path import Path
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Psk
from tests.gateway.devices.dtls_front import Front, front
from tests.gateway.devices.lwm2m_server import Server, serve

KEY = b"sixteen byte key"
TEMPERATURE = Path(3303, 0, 5700)


def _psk(endpoint: str = "ep", key: bytes = KEY) -> Psk:
    return Psk(endpoint=endpoint, created=datetime.now(UTC), identity=f"id-{endpoint}".encode(), key=KeyBytes(key))


class Rig:
    def __init__(self, server: Server, before: Front, sensor: Sensor, tally: Tally) -> None:
        self.server, self.front, self.sensor, self.tally = server, before, sensor, tally

    async def registered(self) -> None:
        """Wait until the device has its server's answer."""
        assert (await self.server.directory.next()).query["ep"] == "ep"
        await until(lambda: self.sensor.device.state is State.REGISTERED)


@asynccontextmanager
async def running(psk: Psk | None = None, **options: Any) -> AsyncIterator[Rig]:
    """A device that is started, and told to stop at the end."""
    async with serve() as server, front({b"id-ep": KEY}, server.port) as before:
        config = DeviceConfig(
            endpoint="ep",
            server_host="127.0.0.1",
            server_port=before.port,
            key=psk or _psk(),
            **{"retry_first": 0.05, "ack_timeout": 0.2, **options},
        )
        tally = Tally(keep=True)
        sensor = Sensor(config, lifetime=300, tally=tally, random_source=random.Random(1))
        stop = asyncio.Event()
        life = asyncio.create_task(sensor.device.run(stop))
        try:
            yield Rig(server, before, sensor, tally)
        finally:
            stop.set()
            await asyncio.wait_for(life, 20)


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


async def until(true: Callable[[], bool], seconds: float = 20) -> None:
    for _ in range(round(seconds / 0.01)):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to be")


def test_device_registers_is_read_notifies_and_closes_its_session_when_it_leaves() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.registered()
            read = await rig.server.read(rig.front.port_of_the_device, "/3303/0/5700", 11542)
            assert read == rig.sensor.model.read(TEMPERATURE)
            observing = rig.server.observe(rig.front.port_of_the_device, "/3303/0/5700")
            await observing.first()
            rig.sensor.measure()
            assert await observing.next() == rig.sensor.model.read(TEMPERATURE)
            before = rig.front
            server = rig.server
        assert (await server.directory.next()).code == "DELETE"
        await asyncio.sleep(0.05)
        assert [event.ending for event in before.events if isinstance(event, Closed)] == [Ending.CLOSE_NOTIFY]
        assert before.handshakes == [False]

    play(scenario)


def test_session_that_the_server_closed_is_resumed_by_itself_and_the_registration_updated() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.registered()
            rig.front.close_sessions()
            updated = await rig.server.directory.next()
            assert updated.path == ("r1",)
            assert rig.front.handshakes == [False, True]

    play(scenario)


def test_observation_goes_on_over_a_session_that_the_server_lost() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.registered()
            observing = rig.server.observe(rig.front.port_of_the_device, "/3303/0/5700")
            await observing.first()
            rig.front.be_another()
            rig.sensor.measure()
            # Said in vain again and again, and then in another session, long before the message layer gives up.
            await until(lambda: rig.front.handshakes == [False, False])
            updated = await rig.server.directory.next()
            assert updated.path == ("r1",)
            await until(lambda: rig.tally.acknowledged["ep"] == 1)
            assert rig.sensor.device.observed == [TEMPERATURE]

    play(scenario)


def test_device_that_finds_no_server_goes_on_trying_with_longer_and_longer_pauses() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.registered()
            rig.front.deaf = True
            rig.front.close_sessions()
            await asyncio.sleep(1.0)
            assert rig.front.handshakes == [False]
            rig.front.deaf = False
            assert (await rig.server.directory.next()).path == ("r1",)

    play(scenario)


def test_wrong_key_is_told_once_and_is_tried_again_without_a_storm(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with running(_psk(key=b"another key of 21")) as rig:
            await asyncio.sleep(6.0)
            assert rig.front.handshakes == []
            assert rig.server.directory.seen.empty()

    play(scenario)
    said = "".join(capfd.readouterr())
    assert said.count("no DTLS session") == 1
    assert "does not take this identity with this key" in said
    assert "id-ep" in said
    assert "another key of 21" not in said
    assert b"another key of 21".hex() not in said


def test_datagrams_of_strangers_are_not_taken() -> None:
    async def scenario() -> None:
        async with running() as rig:
            await rig.registered()
            port = rig.sensor.device.address[1]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await rig.server.ask(port, codes.GET, "/3/0")
            secure = rig.sensor.device._secure
            assert secure is not None
            assert secure.strangers >= 1

    play(scenario)


def test_device_in_queue_mode_sleeps_and_speaks_in_its_session_when_it_wakes() -> None:
    async def scenario() -> None:
        async with running(queue=True, awake=0.3) as rig:
            await rig.registered()
            await until(lambda: not rig.sensor.device.socket.listening)
            rig.sensor.device.update()
            assert (await rig.server.directory.next()).path == ("r1",)
            assert rig.front.handshakes == [False]

    play(scenario)


def test_session_is_with_one_of_the_addresses_of_a_name_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        found = 0

        async def turning(host: str, port: int, **_: Any) -> list[Any]:
            nonlocal found
            found += 1
            addresses = [(0, 0, 0, "", ("127.0.0.1", port)), (0, 0, 0, "", ("127.0.0.9", port))]
            return addresses if found % 2 else addresses[::-1]

        async with running() as rig:
            monkeypatch.setattr(loop, "getaddrinfo", turning)
            await rig.registered()
            for _ in range(4):
                rig.sensor.device.update()
                assert (await rig.server.directory.next()).path == ("r1",)
            assert found >= 4
            assert rig.front.handshakes == [False]
            monkeypatch.undo()

    play(scenario)


def test_fleet_speaks_over_ipv6() -> None:
    async def scenario() -> None:
        async with serve() as server, front({b"id-s": KEY}, server.port, "::1") as before:
            stop = asyncio.Event()
            life = asyncio.create_task(run_sensors(f"[::1]:{before.port}", "s", stop=stop, keys={"s": _psk("s")}))
            assert (await server.directory.next()).query["ep"] == "s"
            stop.set()
            await asyncio.wait_for(life, 20)
            assert before.handshakes == [False]

    play(scenario)


def test_fleet_has_a_key_for_each_of_its_devices() -> None:
    async def scenario() -> None:
        psks = {f"s-{n}": _psk(f"s-{n}", bytes([n]) * 16) for n in (1, 2, 3)}
        keys = {one.identity: one.key.reveal() for one in psks.values()}
        async with serve() as server, front(keys, server.port) as before:
            stop = asyncio.Event()
            life = asyncio.create_task(
                run_sensors(f"127.0.0.1:{before.port}", "s", stop=stop, count=3, period=0.1, keys=psks)
            )
            names = {(await server.directory.next()).query["ep"] for _ in range(3)}
            assert names == set(psks)
            assert before.handshakes == [False] * 3
            stop.set()
            await asyncio.wait_for(life, 20)

    play(scenario)
