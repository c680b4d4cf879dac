"""Observations as the gateway keeps them (RFC 7641; OMA LwM2M Core 1.1, section 6.4).

Owns what is known of each established observation and the table that the short path looks tokens up in.
"""

from __future__ import annotations

from collections.abc import Callable
from sys import intern
from typing import TYPE_CHECKING

from schemas.avro.compiled import CompiledNotification
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

if TYPE_CHECKING:
    from gateway.registry import Device

#: RFC 7641 section 3.4: a notification that comes 128 s after the last one is newer whatever its number.
REORDER_SECONDS = 128.0
_NEVER = -1e9

Decoder = Callable[[bytes], float | int | None]


class Observation:
    """One observation of a device. ``number`` and ``at`` are those of the newest notification (loop time, seconds)."""

    __slots__ = (
        "at",
        "attributes",
        "compiled",
        "content_format",
        "created_ms",
        "declared",
        "decoders",
        "device",
        "front",
        "number",
        "path",
        "paths",
        "resource_type",
        "target",
        "ticket",
        "token",
    )

    def __init__(
        self,
        *,
        token: bytes,
        path: Path,
        ticket: str,
        declared: bool,
        content_format: int | None,
        created_ms: int,
        resource_type: ResourceType | None,
        paths: tuple[Path, ...] = (),
        attributes: str = "",
    ) -> None:
        self.token = token
        self.path = path
        #: Of a composite observation, whose path is the root: what it is of; none lies within another.
        self.paths = paths
        #: What tells it from the device's others.
        self.target = intern(target_of(path, paths))
        #: Its own, that it began with: ``pmin=5&pmax=60``. They are part of the request that it is known by.
        self.attributes = attributes
        self.ticket = intern(ticket)
        #: True if an operator's pattern asked for it, False if a request did.
        self.declared = declared
        self.content_format = content_format
        self.created_ms = created_ms
        #: The type where the target is one single-instance resource of a known object: then the short path applies.
        self.resource_type = resource_type
        self.number = 0
        self.at = _NEVER
        # Set by ObservationTable.add.
        self.device: Device
        self.compiled: CompiledNotification | None = None
        self.decoders: dict[int, Decoder] = {}
        #: What was last between the Observe option and a value that is a double (`gateway.short_path`).
        self.front: bytes | None = None

    @property
    def observation_id(self) -> str:
        """What records know it by."""
        return self.token.hex()

    @property
    def is_special(self) -> bool:
        """True if it is composite or has attributes of its own: then its request is not that of its path alone."""
        return bool(self.paths or self.attributes)

    def begin(self, number: int, now: float) -> None:
        """The observe request was answered with ``number``: a device that began anew counts anew from there."""
        self.number = number
        self.at = now

    def is_newer(self, number: int, now: float) -> bool:
        """RFC 7641 section 3.4, and take note of it if it is; for a notification that is known to be no duplicate.

        The same number again is one that was noted when its notification could not be taken.
        """
        newer = (number - self.number) & 0xFFFFFF < 0x800000 or now - self.at > REORDER_SECONDS
        if newer:
            self.number = number
            self.at = now
        return newer


class ObservationTable:
    """All observations by token."""

    def __init__(self, server_id: str, decoders: Callable[[Path, ResourceType], dict[int, Decoder]]) -> None:
        self._server_id = server_id
        self._decoders = decoders
        #: The short path reads this directly. What is being (re-)established is not in it.
        self.by_token: dict[bytes, Observation] = {}

    def __len__(self) -> int:
        return len(self.by_token)

    def add(self, observation: Observation, device: Device) -> None:
        """Take notifications with the observation's token from now on, for ``device``."""
        observation.device = device
        device.observations[observation.target] = observation
        if observation.resource_type is not None:
            observation.decoders = self._decoders(observation.path, observation.resource_type)
            observation.front = None
            if observation.decoders and observation.compiled is None:
                observation.compiled = CompiledNotification(
                    ticket=observation.ticket,
                    observation_id=observation.observation_id,
                    server_id=self._server_id,
                    ep=device.ep,
                    path=str(observation.path),
                    resource_type=observation.resource_type,
                )
        self.by_token[observation.token] = observation

    def suspend(self, observation: Observation) -> None:
        """Take no notifications while the observation is asked for again: the next message answers that request."""
        self.by_token.pop(observation.token, None)

    def remove(self, observation: Observation, device: Device) -> None:
        """Forget an observation of ``device``, also one that was never established."""
        self.by_token.pop(observation.token, None)
        if device.observations.get(observation.target) is observation:
            del device.observations[observation.target]


def target_of(path: Path, paths: tuple[Path, ...]) -> str:
    """``/3303/0/5700``, or of a composite observation the root and its paths: ``/ /3/0/0 /3303``."""
    return " ".join(map(str, (path, *paths)))


def parse_target(text: str) -> tuple[Path, tuple[Path, ...]]:
    """What `target_of` made a text of.

    Raises:
        PathError: it is none.
    """
    path, *paths = map(Path.parse, text.split(" "))
    return path, tuple(paths)


def single_type(path: Path, version: str | None, definitions: Definitions) -> ResourceType | None:
    """The type of ``path`` if it is one single-instance resource that a definition knows, else None."""
    if path.depth != 3:
        return None
    definition = definitions.resource(path, version)
    return None if definition is None or definition.multiple else definition.type
