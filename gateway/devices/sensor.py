"""Virtual sensors: devices with the objects Server (1), Device (3), Temperature (3303) and Humidity (3304), whose
values move. What `headwater sensor` and the demo run, and what tests take for a device.

Owns the content of the objects and the walk of the values; the protocol is `client`'s and `site`'s.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from gateway.devices.client import Device, DeviceConfig, Version
from gateway.devices.model import BadValue, Content, Factory, Holding, Model
from schemas.lwm2m.nodes import Node, Resource, Value, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

TEMPERATURE = 3303
HUMIDITY = 3304
VALUE, MINIMUM, MAXIMUM, RESET, UNITS, APPLICATION = 5700, 5601, 5602, 5605, 5701, 5750

_log = structlog.get_logger("headwater.device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """A confirmable notification that the server acknowledged; ``message_id`` and ``number`` (Observe) identify it."""

    endpoint: str
    path: Path
    resources: tuple[Resource, ...]
    message_id: int
    number: int


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the sensors of one process sent and what was acknowledged, by endpoint.

    ``keep`` also holds every acknowledged notification in order, so that an audit can look for each of them.
    """

    keep: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    kept: list[Acknowledged] = field(default_factory=list)

    def of(self, endpoint: str) -> EndpointTally:
        """The listener that a device of that name reports to."""
        return EndpointTally(self, endpoint)


class EndpointTally:
    """`site.Listener` of one device, counting into a `Tally`."""

    def __init__(self, tally: Tally, endpoint: str) -> None:
        self._tally = tally
        self._endpoint = endpoint

    def sent(self, path: Path, node: Node) -> None:
        self._tally.sent[self._endpoint] += 1

    def acknowledged(self, path: Path, node: Node, message_id: int, number: int) -> None:
        self._tally.acknowledged[self._endpoint] += 1
        if self._tally.keep:
            self._tally.kept.append(
                Acknowledged(
                    endpoint=self._endpoint,
                    path=path,
                    resources=tuple(values(node)),
                    message_id=message_id,
                    number=number,
                )
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A bounded random walk: from ``start``, by at most ``step``, between ``low`` and ``high``."""

    start: float
    step: float
    low: float
    high: float

    def after(self, value: float, random_source: random.Random) -> float:
        """The next reading. It has six decimals, so that two readings of a run are hardly ever the same."""
        by = random_source.uniform(-self.step, self.step)
        return round(value + by if self.low <= value + by <= self.high else value - by, 6)


WALKS: Mapping[int, Walk] = {
    TEMPERATURE: Walk(start=21.0, step=0.25, low=-20.0, high=60.0),
    HUMIDITY: Walk(start=45.0, step=0.5, low=0.0, high=100.0),
}
_UNITS: Mapping[int, str] = {TEMPERATURE: "Cel", HUMIDITY: "%RH"}

#: The object versions that a device of each enabler version has.
_OBJECT_VERSIONS: Mapping[Version, Mapping[int, str]] = {
    Version.V1_0: {1: "1.0", 3: "1.0", TEMPERATURE: "1.0", HUMIDITY: "1.0"},
    Version.V1_1: {1: "1.1", 3: "1.1", TEMPERATURE: "1.1", HUMIDITY: "1.1"},
}


class Sensor:
    """One virtual sensor device.

    ``clock`` gives the time of day in epoch milliseconds; ``definitions`` default to the built-in ones.
    """

    def __init__(
        self,
        config: DeviceConfig,
        *,
        lifetime: int,
        tally: Tally,
        random_source: random.Random,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        definitions: Definitions | None = None,
    ) -> None:
        self._random = random_source
        self._clock = clock
        self._clock_offset = 0
        self._lifetime = lifetime
        self._config = config
        known = definitions if definitions is not None else Definitions.builtin()
        self.model = Model(
            known.with_versions(_OBJECT_VERSIONS[config.version]),
            {
                (1, 0): self._server(),
                (3, 0): self._device(),
                (TEMPERATURE, 0): self._measuring(TEMPERATURE)(0, {}),
                (TEMPERATURE, 1): self._measuring(TEMPERATURE)(1, {}),
                (HUMIDITY, 0): self._measuring(HUMIDITY)(0, {}),
            },
            {TEMPERATURE: self._measuring(TEMPERATURE)},
        )
        self.device = Device(config, self.model, tally.of(config.endpoint), random_source)

    def measure(self) -> None:
        """Take a reading of every sensor: its value moves, and its extremes with it."""
        for object_id, walk in WALKS.items():
            for instance_id in self.model.instances(object_id):
                here = Path(object_id, instance_id)
                reading = walk.after(float(str(self.model.value(here.child(VALUE)))), self._random)
                self.model.set(here.child(VALUE), reading)
                if reading < float(str(self.model.value(here.child(MINIMUM)))):
                    self.model.set(here.child(MINIMUM), reading)
                if reading > float(str(self.model.value(here.child(MAXIMUM)))):
                    self.model.set(here.child(MAXIMUM), reading)

    def _measuring(self, object_id: int) -> Factory:
        def make(instance_id: int, given: Mapping[int, Content]) -> Holding:
            start = given.get(VALUE, round(WALKS[object_id].start + self._random.uniform(-2.0, 2.0), 6))
            contents: dict[int, Content] = {MINIMUM: start, MAXIMUM: start, VALUE: start, UNITS: _UNITS[object_id]}
            if self._config.version is not Version.V1_0:
                contents[APPLICATION] = ""
            contents.update(given)
            here = Path(object_id, instance_id)

            def reset(_: str) -> None:
                now = self.model.value(here.child(VALUE))
                self.model.set(here.child(MINIMUM), now)
                self.model.set(here.child(MAXIMUM), now)

            return Holding(contents=contents, actions={RESET: reset})

        return make

    def _server(self) -> Holding:
        return Holding(
            contents={0: 123, 1: self._lifetime, 2: 0, 3: 0, 5: 86400, 6: True, 7: "UQ" if self._queue10 else "U"},
            actions={4: lambda _: self.device.disable(), 8: lambda _: self.device.update()},
            checks={1: _positive, 2: _not_negative, 3: _not_negative, 5: _not_negative},
        )

    @property
    def _queue10(self) -> bool:
        return self._config.queue and self._config.version is Version.V1_0

    def _device(self) -> Holding:
        def set_clock(value: Value) -> None:
            self._clock_offset = int(str(value)) - self._clock()

        return Holding(
            contents={
                0: "Headwater",
                1: "virtual sensor",
                2: self._config.endpoint,
                3: "1.0.0",
                6: {0: 1, 1: 5},  # an internal battery and USB
                7: {0: 3800, 1: 5000},
                8: {0: 125, 1: 900},
                9: 92,
                10: 64,
                11: {0: 0},
                # The wire has whole seconds.
                13: lambda: (self._clock() + self._clock_offset) // 1000 * 1000,
                14: "+00:00",
                15: "Etc/UTC",
                16: "UQ" if self._queue10 else "U",
            },
            actions={4: self._reboot, 5: self._factory_reset, 12: self._reset_errors},
            setters={13: set_clock},
        )

    def _reboot(self, arguments: str) -> None:
        _log.info("reboot asked for", ep=self._config.endpoint, arguments=arguments)
        self.device.reboot()

    def _factory_reset(self, arguments: str) -> None:
        _log.info("factory reset asked for", ep=self._config.endpoint, arguments=arguments)
        self._clock_offset = 0
        fresh = {(1, 0): self._server(), (3, 0): self._device()}
        for (object_id, instance_id), holding in fresh.items():
            for resource_id, content in holding.contents.items():
                if not callable(content) and not isinstance(content, dict):
                    path = Path(object_id, instance_id, resource_id)
                    if self.model.value(path) != content:
                        self.model.set(path, content)
        self.device.reboot()

    def _reset_errors(self, _: str) -> None:
        self.model.changed(Path(3, 0, 11))


def _positive(value: Value) -> None:
    if not isinstance(value, int) or value < 1:
        raise BadValue("a lifetime is at least one second")


def _not_negative(value: Value) -> None:
    if not isinstance(value, int) or value < 0:
        raise BadValue("a period is zero or more seconds")


def names(endpoint: str, count: int) -> list[str]:
    """The endpoint names of ``count`` sensors: ``NAME`` alone, else ``NAME-1`` to ``NAME-N``."""
    return [endpoint] if count == 1 else [f"{endpoint}-{number}" for number in range(1, count + 1)]


async def run_sensors(
    server: str,
    endpoint: str,
    *,
    stop: asyncio.Event,
    count: int = 1,
    period: float = 1.0,
    lifetime: int = 300,
    version: Version = Version.V1_1,
    queue: bool = False,
    awake: float = 93.0,
    ack_timeout: float = 2.0,
    tally: Tally | None = None,
    seed: int | None = None,
) -> Tally:
    """Run ``count`` sensors until ``stop`` is set; they then de-register. Returns the tally.

    ``server`` is ``HOST:PORT``; each sensor reads every ``period`` seconds, and their starts are spread over one period
    so that they do not speak all at once. ``seed`` repeats the readings of a run.

    Raises:
        ValueError: ``server`` is no HOST:PORT.
        OSError: the server's name does not resolve, or no socket is to be had.
    """
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{server!r} is no HOST:PORT, such as 127.0.0.1:5683")
    # For its error alone, which would else come out of the task group as one of many.
    await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    counted = tally if tally is not None else Tally()
    source = random.Random(seed)
    sensors = [
        Sensor(
            DeviceConfig(
                endpoint=name,
                server_host=host.strip("[]"),
                server_port=int(port),
                version=version,
                queue=queue,
                awake=awake,
                ack_timeout=ack_timeout,
                host="::" if host.startswith("[") else "0.0.0.0",
            ),
            lifetime=lifetime,
            tally=counted,
            random_source=random.Random(source.random()),
        )
        for name in names(endpoint, count)
    ]
    async with asyncio.TaskGroup() as group:
        for number, sensor in enumerate(sensors):
            group.create_task(_run_one(sensor, period, delay=period * number / count, stop=stop))
    return counted


async def _run_one(sensor: Sensor, period: float, *, delay: float, stop: asyncio.Event) -> None:
    if await _stopped_within(stop, delay):
        return
    measuring = asyncio.create_task(_measure(sensor, period, stop))
    try:
        await sensor.device.run(stop)
    finally:
        measuring.cancel()


async def _measure(sensor: Sensor, period: float, stop: asyncio.Event) -> None:
    while not await _stopped_within(stop, period):
        sensor.measure()


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True
