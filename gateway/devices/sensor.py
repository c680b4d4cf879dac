"""Virtual sensors: devices with the objects Server (1), Device (3), Temperature (3303) and Humidity (3304), whose
values move. What `headwater sensor` and the demo run, and what tests take for a device.

Owns the content of the objects and the walk of the values; the protocol is `client`'s and `site`'s.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from gateway.devices.basics import VERSIONS, Basics
from gateway.devices.client import Device, DeviceConfig, Version
from gateway.devices.fleet import names, run_fleet
from gateway.devices.gauge import APPLICATION, MAXIMUM, MINIMUM, RESET, UNITS, VALUE, reset, show, shown
from gateway.devices.images import FIRMWARE, SOFTWARE, Images
from gateway.devices.model import Content, Factory, Holding, Model
from schemas.lwm2m.nodes import Node, Resource, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from security.credentials.kinds import Oscore, Psk

TEMPERATURE = 3303
HUMIDITY = 3304


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
    Version.V1_0: {**VERSIONS[Version.V1_0], TEMPERATURE: "1.0", HUMIDITY: "1.0"},
    Version.V1_1: {**VERSIONS[Version.V1_1], TEMPERATURE: "1.1", HUMIDITY: "1.1"},
    Version.V1_2: {**VERSIONS[Version.V1_2], TEMPERATURE: "1.1", HUMIDITY: "1.1"},
}


class Sensor:
    """One virtual sensor device.

    ``clock`` gives the time of day in epoch milliseconds; ``definitions`` default to the built-in ones. With a folder
    of ``images`` it takes firmware and software.
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
        images: FilePath | None = None,
    ) -> None:
        self._random = random_source
        self._config = config
        basics = Basics(config, kind="virtual sensor", lifetime=lifetime, clock=clock)
        kept = () if images is None else (FIRMWARE, SOFTWARE)
        self.images = {
            kind.number: Images(kind, images and images / f"{config.endpoint}.{kind.number}.json") for kind in kept
        }
        known = definitions if definitions is not None else Definitions.builtin()
        self.model = Model(
            known.with_versions(_OBJECT_VERSIONS[config.version]),
            {
                **basics.holdings(),
                (TEMPERATURE, 0): self._measuring(TEMPERATURE)(0, {}),
                (TEMPERATURE, 1): self._measuring(TEMPERATURE)(1, {}),
                (HUMIDITY, 0): self._measuring(HUMIDITY)(0, {}),
                **{(number, 0): one.holding() for number, one in self.images.items()},
            },
            {TEMPERATURE: self._measuring(TEMPERATURE)},
        )
        self.device = Device(config, self.model, tally.of(config.endpoint), random_source)
        basics.belongs_to(self.device)
        for one in self.images.values():
            one.belongs_to(self.device)

    def measure(self) -> None:
        """Take a reading of every sensor: its value moves, and its extremes with it."""
        for object_id, walk in WALKS.items():
            for instance_id in self.model.instances(object_id):
                here = Path(object_id, instance_id)
                show(self.model, here, walk.after(shown(self.model, here), self._random))

    def _measuring(self, object_id: int) -> Factory:
        def make(instance_id: int, given: Mapping[int, Content]) -> Holding:
            start = given.get(VALUE, round(WALKS[object_id].start + self._random.uniform(-2.0, 2.0), 6))
            contents: dict[int, Content] = {MINIMUM: start, MAXIMUM: start, VALUE: start, UNITS: _UNITS[object_id]}
            if self._config.version is not Version.V1_0:
                contents[APPLICATION] = ""
            contents.update(given)
            here = Path(object_id, instance_id)
            return Holding(contents=contents, actions={RESET: lambda _: reset(self.model, here)})

        return make


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
    keys: Mapping[str, Psk | Oscore] | None = None,
    images: FilePath | None = None,
) -> Tally:
    """Run ``count`` sensors until ``stop`` is set; they then de-register. Returns the tally.

    ``server`` is ``HOST:PORT``; each sensor reads every ``period`` seconds, and their starts are spread over one period
    so that they do not speak all at once. ``seed`` repeats the readings of a run. An endpoint that is in ``keys``
    speaks DTLS or OSCORE with its own. With ``images`` each takes firmware and software, and keeps what it has in that
    folder.

    Raises:
        ValueError: ``server`` is no HOST:PORT.
        OSError: the server's name does not resolve, or no socket is to be had.
    """
    counted = tally if tally is not None else Tally()
    await run_fleet(
        server,
        names(endpoint, count),
        lambda config, source: Sensor(config, lifetime=lifetime, tally=counted, random_source=source, images=images),
        stop=stop,
        period=period,
        version=version,
        queue=queue,
        awake=awake,
        ack_timeout=ack_timeout,
        seed=seed,
        keys=keys,
    )
    return counted
