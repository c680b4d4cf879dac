"""Many virtual devices in one process: their names, their start spread over a period, their readings.

Owns when each of them measures; what it measures is the device's own.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.devices.client import Device, DeviceConfig, Version
from security.credentials.kinds import Oscore, Psk


class Measuring(Protocol):
    """A virtual device that takes readings."""

    device: Device

    def measure(self) -> None:
        """Take a reading of everything that the device measures."""


def names(endpoint: str, count: int) -> list[str]:
    """The endpoint names of ``count`` sensors: ``NAME`` alone, else ``NAME-1`` to ``NAME-N``."""
    return [endpoint] if count == 1 else [f"{endpoint}-{number}" for number in range(1, count + 1)]


async def run_fleet(
    server: str,
    endpoints: Sequence[str],
    make: Callable[[DeviceConfig, random.Random], Measuring],
    *,
    stop: asyncio.Event,
    period: float,
    version: Version = Version.V1_1,
    queue: bool = False,
    awake: float = 93.0,
    ack_timeout: float = 2.0,
    seed: int | None = None,
    keys: Mapping[str, Psk | Oscore] | None = None,
) -> None:
    """Run a device for each of ``endpoints`` until ``stop`` is set; they then de-register.

    ``make`` is given a device's configuration and randomness. ``server`` is ``HOST:PORT``; each device measures every
    ``period`` seconds, and their starts are spread over one period so that they do not speak all at once. ``seed``
    repeats the readings of a run. An endpoint that is in ``keys`` speaks DTLS or OSCORE with its own, any other in the
    clear.

    Raises:
        ValueError: ``server`` is no HOST:PORT.
        OSError: the server's name does not resolve, or no socket is to be had.
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{server!r} is no HOST:PORT, such as 127.0.0.1:5683")
    # For its error alone, which would else come out of the task group as one of many.
    await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    source = random.Random(seed)
    devices = [
        make(
            DeviceConfig(
                endpoint=name,
                server_host=host.strip("[]"),
                server_port=int(port),
                version=version,
                queue=queue,
                awake=awake,
                ack_timeout=ack_timeout,
                host="::" if host.startswith("[") else "0.0.0.0",
                key=None if keys is None else keys.get(name),
            ),
            random.Random(source.random()),
        )
        for name in endpoints
    ]
    async with asyncio.TaskGroup() as group:
        for number, one in enumerate(devices):
            group.create_task(_run_one(one, period, delay=period * number / len(devices), stop=stop))


async def _run_one(one: Measuring, period: float, *, delay: float, stop: asyncio.Event) -> None:
    if await _stopped_within(stop, delay):
        return
    measuring = asyncio.create_task(_measure(one, period, stop))
    try:
        await one.device.run(stop)
    finally:
        measuring.cancel()


async def _measure(one: Measuring, period: float, stop: asyncio.Event) -> None:
    while not await _stopped_within(stop, period):
        one.measure()


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True
