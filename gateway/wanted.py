"""Which observations each device should have (RFC 7641; OMA LwM2M Core 1.1, section 6.4).

Owns what the operator's patterns declare, what requests asked for beyond that, and what of it outlives the process. To
ask the devices for it is `gateway.observing`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

import structlog

from gateway.end_devices import GATEWAY, is_gateway
from gateway.observations import Observation, ObservationTable, parse_target, single_type
from gateway.registry import Device, Registry
from gateway.state import State, StateError, StoredObservation
from schemas.lwm2m.nodes import ResourceType
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path, PathPattern

_log = structlog.get_logger("headwater.observing")

#: The ticket of what an operator's pattern declared.
DECLARED_TICKET = "declared"
#: Patterns give at most so many observations of one device: one may announce thousands of instances.
MOST_DECLARED = 1000
#: Paths that a device announces beside which others may well announce the same.
_MOST_ALIKE = 64


class Declared:
    """The operator's patterns: for every endpoint, and for endpoints whose name matches a glob."""

    def __init__(self, every: Sequence[str], by_endpoint: Mapping[str, Sequence[str]]) -> None:
        """Raises PathError when a pattern is none."""
        self._every = [PathPattern.parse(text) for text in every]
        self._by_endpoint = {glob: [PathPattern.parse(text) for text in texts] for glob, texts in by_endpoint.items()}
        # Devices of one make announce the same.
        self._remembered = lru_cache(maxsize=1024)(self._targets)

    def paths(self, ep: str, announced: tuple[Path, ...]) -> Sequence[Path]:
        """What to observe on a device, each path once."""
        globs = tuple(glob for glob in self._by_endpoint if fnmatchcase(ep, glob))
        return (self._remembered if len(announced) <= _MOST_ALIKE else self._targets)(globs, announced)

    def _targets(self, globs: tuple[str, ...], announced: tuple[Path, ...]) -> tuple[Path, ...]:
        patterns = [*self._every, *(pattern for glob in globs for pattern in self._by_endpoint[glob])]
        return tuple(dict.fromkeys(path for pattern in patterns for path in pattern.targets(announced)))


class Wanted:
    """What every device should have; ``wall_ms`` is epoch milliseconds."""

    def __init__(
        self,
        *,
        declared: Declared,
        table: ObservationTable,
        registry: Registry,
        state: State,
        definitions: Definitions,
        new_token: Callable[[], bytes],
        wall_ms: Callable[[], int],
    ) -> None:
        self._declared = declared
        self._table = table
        self._registry = registry
        self._state = state
        self._definitions = definitions
        self._new_token = new_token
        self._wall_ms = wall_ms

    def registered(self, device: Device, old: Device | None) -> None:
        """The device registered (anew): all its observations are to be asked for."""
        kept = {} if old is None else old.wanted
        for observation in kept.values():
            self._table.suspend(observation)
            if not observation.declared and self._announced(device, observation):
                device.wanted[observation.target] = observation
        self._want_declared(device, kept)
        for path, observation in kept.items():
            if path not in device.wanted:
                self.forget(observation.token)
            else:
                self._retype(device, observation)

    def suspend(self, device: Device) -> None:
        """All its observations are to be asked for again; none notifies until then."""
        for observation in device.wanted.values():
            self._table.suspend(observation)
        device.observations.clear()

    def objects_changed(self, device: Device) -> None:
        """An update announced other objects."""
        for path, observation in list(device.wanted.items()):
            if not self._announced(device, observation):
                del device.wanted[path]
                self._table.remove(observation, device)
                self.forget(observation.token)
            elif self._retype(device, observation) and path in device.observations:
                self._table.add(observation, device)
        self._want_declared(device, device.wanted)

    def definitions_changed(self) -> None:
        """Other definitions are known now: the short path goes by the types of these."""
        for device in self._registry:
            for path, observation in device.wanted.items():
                if self._retype(device, observation) and path in device.observations:
                    self._table.add(observation, device)

    def new(
        self,
        device: Device,
        path: Path,
        ticket: str,
        *,
        declared: bool,
        paths: tuple[Path, ...] = (),
        attributes: str = "",
    ) -> Observation:
        """An observation that is nowhere yet; ``paths`` of a composite one, ``attributes`` as in the query."""
        return Observation(
            token=self._new_token(),
            path=path,
            ticket=ticket,
            declared=declared,
            content_format=None,
            created_ms=self._wall_ms(),
            resource_type=self._single_type(device, path),
            paths=paths,
            attributes=attributes,
        )

    def ended(self, observation: Observation) -> None:
        """The device ended the observation. What is declared is asked for again at the next update."""
        device = observation.device
        self._table.remove(observation, device)
        if not observation.declared:
            device.wanted.pop(observation.target, None)
        self.forget(observation.token)

    def gone(self, device: Device) -> None:
        """The registration ended, and its observations with it."""
        for observation in list(device.wanted.values()):
            self._table.suspend(observation)
            self.forget(observation.token)
        device.wanted.clear()
        device.observations.clear()

    # State

    def restore(self, device: Device, row: StoredObservation) -> None:
        """An observation from the state file: its notifications are taken from now on.

        One from before the device's registration is asked for again: the gateway ended before the device had answered,
        or before the answer was durable.
        """
        path, paths = parse_target(row.path)
        observation = Observation(
            token=row.token,
            path=path,
            ticket=row.ticket,
            declared=row.declared,
            content_format=row.content_format,
            created_ms=row.created_ms,
            resource_type=self._single_type(device, path),
            paths=paths,
            attributes=row.attributes or "",
        )
        self._table.add(observation, device)
        device.wanted[observation.target] = observation
        if row.created_ms < device.reg_date:
            del device.observations[observation.target]

    def restored(self, device: Device) -> None:
        """All of a device's observations are restored: what patterns declare beyond them is wanted as well."""
        self._want_declared(device, device.wanted)

    def remember(self, observation: Observation) -> None:
        """Have it outlive the process."""
        try:
            self._state.put_observation(
                StoredObservation(
                    token=observation.token,
                    ep=observation.device.ep,
                    path=observation.target,
                    ticket=observation.ticket,
                    observation_id=observation.observation_id,
                    content_format=observation.content_format,
                    declared=observation.declared,
                    created_ms=observation.created_ms,
                    attributes=observation.attributes or None,
                )
            )
        except StateError as exc:
            _log.warning("an observation is not stored and would not outlive a restart", reason=str(exc))

    def forget(self, token: bytes) -> None:
        """What has this token is over."""
        try:
            self._state.delete_observation(token)
        except StateError as exc:
            _log.warning("an ended observation stays stored", reason=str(exc))

    def _want_declared(self, device: Device, kept: Mapping[str, Observation]) -> None:
        paths = self._declared.paths(device.ep, device.announcement.paths)
        if is_gateway(device):
            # Who comes and goes behind it (`gateway.behind`).
            paths = tuple(dict.fromkeys([GATEWAY, *paths]))
        if len(paths) > MOST_DECLARED:
            _log.warning(
                "too much is declared on one device", ep=device.ep, observed=MOST_DECLARED, declared=len(paths)
            )
        for path in paths[:MOST_DECLARED]:
            text = str(path)
            if text not in device.wanted:
                device.wanted[text] = kept.get(text) or self.new(device, path, DECLARED_TICKET, declared=True)

    def _retype(self, device: Device, observation: Observation) -> bool:
        """True if the resource has another type now: by another version of the object, or another definition of it."""
        resource_type = self._single_type(device, observation.path)
        if resource_type is observation.resource_type:
            return False
        observation.resource_type, observation.compiled, observation.decoders = resource_type, None, {}
        return True

    def _single_type(self, device: Device, path: Path) -> ResourceType | None:
        return single_type(path, None, self._definitions.with_versions(device.announcement.object_versions))

    @staticmethod
    def _announced(device: Device, observation: Observation) -> bool:
        # Of a composite observation something may be missing (OMA LwM2M Core 1.1, section 6.4.4).
        asked = observation.paths or (observation.path,)
        return any(
            known.contains(path) or path.contains(known) for known in device.announcement.paths for path in asked
        )
