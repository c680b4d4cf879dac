"""What every virtual device has: the objects Server (1) and Device (3).

Owns their content and what their executable resources do (OMA LwM2M Core 1.1, appendices E.2 and E.4): update trigger,
disable, reboot, factory reset. What the device measures is another's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from gateway.devices.client import Device, DeviceConfig, Version
from gateway.devices.model import BadValue, Holding, Model
from schemas.lwm2m.nodes import Value
from schemas.lwm2m.path import Path

#: The versions of objects 1 and 3 that a device of each enabler version has.
VERSIONS: Mapping[Version, Mapping[int, str]] = {
    Version.V1_0: {1: "1.0", 3: "1.0"},
    Version.V1_1: {1: "1.1", 3: "1.1"},
    Version.V1_2: {1: "1.1", 3: "1.1"},
}

_log = structlog.get_logger("headwater.device")


class Basics:
    """Objects 1 and 3 of one device. `belongs_to` tells it whose they are, before anything is executed."""

    def __init__(self, config: DeviceConfig, *, kind: str, lifetime: int, clock: Callable[[], int]) -> None:
        """``kind`` is the model number; ``clock`` gives the time of day in epoch milliseconds."""
        self._config = config
        self._kind = kind
        self._lifetime = lifetime
        self._clock = clock
        self._clock_offset = 0
        self._model: Model
        self._device: Device

    def holdings(self) -> dict[tuple[int, int], Holding]:
        """The instances, as new."""
        return {(1, 0): self._server(), (3, 0): self._device_object()}

    def belongs_to(self, device: Device) -> None:
        self._device, self._model = device, device.model

    def _server(self) -> Holding:
        return Holding(
            contents={0: 123, 1: self._lifetime, 2: 0, 3: 0, 5: 86400, 6: True, 7: "UQ" if self._queue10 else "U"},
            actions={4: lambda _: self._device.disable(), 8: lambda _: self._device.update()},
            checks={1: _positive, 2: _not_negative, 3: _not_negative, 5: _not_negative},
        )

    @property
    def _queue10(self) -> bool:
        return self._config.queue and self._config.version is Version.V1_0

    def _device_object(self) -> Holding:
        def set_clock(value: Value) -> None:
            self._clock_offset = int(str(value)) - self._clock()

        return Holding(
            contents={
                0: "Headwater",
                1: self._kind,
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
        self._device.reboot()

    def _factory_reset(self, arguments: str) -> None:
        _log.info("factory reset asked for", ep=self._config.endpoint, arguments=arguments)
        self._clock_offset = 0
        for (object_id, instance_id), holding in self.holdings().items():
            for resource_id, content in holding.contents.items():
                if not callable(content) and not isinstance(content, dict):
                    path = Path(object_id, instance_id, resource_id)
                    if self._model.value(path) != content:
                        self._model.set(path, content)
        self._device.reboot()

    def _reset_errors(self, _: str) -> None:
        self._model.changed(Path(3, 0, 11))


def _positive(value: Value) -> None:
    if not isinstance(value, int) or value < 1:
        raise BadValue("a lifetime is at least one second")


def _not_negative(value: Value) -> None:
    if not isinstance(value, int) or value < 0:
        raise BadValue("a period is zero or more seconds")
