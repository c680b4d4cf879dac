"""Devices behind a device, as endpoints of their own (OMA LwM2M Gateway 1.1).

Owns which devices there are behind each registered gateway: what its object 25 said last, and the registrations that
follow from it, which come, change and go with the gateway's own. That object is observed; a notification of it, and
each registration, has it read as a whole, and what was read is made true until it is, whatever fails meanwhile. What
was read is not stored, the registrations are: a gateway process that starts again goes on with those, and reads anew.

A device behind a gateway has the gateway's address, queue mode and turn; its paths have a prefix there, which
`Device.root` puts in front of requests and `schemas.lwm2m.prefixes` takes out of payloads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import structlog

from gateway.admission import Admission
from gateway.coap.exchanges import ExchangeError
from gateway.end_devices import GATEWAY, VERSION, Complaint, EndDevice, Reason, end_devices, is_gateway
from gateway.observing import Observing
from gateway.own_reads import OwnReads
from gateway.registration import Refused
from gateway.registrations import Registrations
from gateway.registry import Device, Registry
from gateway.state import StateError
from schemas.avro.records import GenericBody, ReadBody, ResponseCode
from schemas.lwm2m.nodes import Object
from schemas.lwm2m.path import Path
from security.errors import CredentialStoreError

_log = structlog.get_logger("headwater.behind")

InOrder = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]


class Behind:
    """Keeps the devices behind every gateway as it says. ``awake`` tells whether a device can hear."""

    def __init__(
        self,
        *,
        registry: Registry,
        registrations: Registrations,
        admission: Admission,
        observing: Observing,
        own: OwnReads,
        in_order: InOrder,
        awake: Callable[[str], bool],
        wall_ms: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._registrations = registrations
        self._admission = admission
        self._observing = observing
        self._own = own
        self._in_order = in_order
        self._awake = awake
        self._wall_ms = wall_ms
        #: The endpoint names of those that announce object 25; and of gateways that expired with devices behind them.
        self._gateways: set[str] = set()
        self._expired: set[str] = set()
        #: All by the gateway's endpoint name: what its object 25 said last; the registered devices, by theirs; the same
        #: by prefix, made when it is asked for; and what was left out, by device.
        self._told: dict[str, dict[str, EndDevice]] = {}
        self._devices: dict[str, dict[str, Device]] = {}
        self._prefixes: dict[str, dict[str, Device]] = {}
        self._left_out: dict[str, dict[str, Reason]] = {}
        #: Gateways whose devices are not as they should be yet.
        self._unsettled: set[str] = set()
        #: Gateways whose object 25 is to be read; and those of which a turn is waited for.
        self._unread: set[Device] = set()
        self._waiting: set[Device] = set()
        #: Those of the state file, until they are asked.
        self._restored: list[Device] = []
        #: By reason: devices that a gateway told of and that are no endpoints.
        self.refused: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many devices there are behind others."""
        return sum(map(len, self._devices.values()))

    @property
    def waits(self) -> bool:
        """False while no update can concern it: there are no gateways."""
        return bool(self._gateways or self._devices or self._left_out or self._unread)

    def by_prefix(self, gateway: Device) -> Mapping[str, Device] | None:
        """The devices behind ``gateway`` by prefix; None where it is no gateway."""
        devices = self._devices.get(gateway.ep)
        if devices is None:
            return {} if gateway.ep in self._gateways else None
        found = self._prefixes.get(gateway.ep)
        if found is None:
            told = self._told.get(gateway.ep, devices)
            found = {one.prefix: one for ep, one in devices.items() if ep in told}
            self._prefixes[gateway.ep] = found
        return found

    # What happens to registrations

    def registered(self, device: Device, old: Device | None) -> None:
        """A registration holds, perhaps in place of ``old``."""
        if device.behind is not None:
            self._came(device)
            return
        if old is not None:
            self._forget(old)
        self._expired.discard(device.ep)
        for one in self._devices.get(device.ep, {}).values():
            self._adopt(one, device)
            # A device that registers anew has begun anew: with its message ids, and without observations.
            one.window.clear()
            self._observing.forgotten(one)
        self._look_again(device)

    def updated(self, device: Device, *, objects_changed: bool) -> None:
        """A registration was updated."""
        for one in self._devices.get(device.ep, {}).values():
            self._adopt(one, device)
        if objects_changed or (device.ep in self._gateways and str(GATEWAY) not in device.observations):
            self._look_again(device)
        elif device.ep in self._devices or device.ep in self._left_out:
            self._settle(device.ep)
        self.complete(device)
        self.observe(device)

    def observe(self, gateway: Device) -> None:
        """Have the devices behind ``gateway`` asked for the observations that they should have and have not."""
        for one in (self.by_prefix(gateway) or {}).values():
            self._observing.complete(one)

    def followed(self, device: Device) -> None:
        """A device behind a gateway has changed."""
        self._prefixes.pop(device.behind or "", None)

    def gone(self, device: Device) -> None:
        """A registration ended."""
        self._forget(device)
        if device.behind is None:
            self._told.pop(device.ep, None)
            self._left_out.pop(device.ep, None)
            self._gateways.discard(device.ep)
            if device.ep in self._devices:
                if device.expires_at <= self._wall_ms():
                    self._expired.add(device.ep)
                self._settle(device.ep)

    def notified(self, device: Device, path: Path) -> None:
        """A notification came of ``path``."""
        if GATEWAY.contains(path) and device.behind is None:
            self._unread.add(device)
            self.complete(device)

    def reshaped(self, device: Device) -> None:
        """A command has made or deleted an instance, of which a gateway need not notify (25/x/3)."""
        if device.gateway is not None:
            self._unread.add(device.gateway)
            self.complete(device.gateway)

    def restored(self) -> None:
        """All registrations of the state file are there."""
        for device in self._registry:
            if device.behind is not None:
                self._came(device)
            elif is_gateway(device):
                self._gateways.add(device.ep)
                self._unread.add(device)
                self._restored.append(device)

    def follow_up(self) -> None:
        """Try again what could not be made durable; to be called about every second."""
        while self._restored:
            self.complete(self._restored.pop())
        for ep in list(self._unsettled):
            self._settle(ep)

    def _look_again(self, device: Device) -> None:
        if is_gateway(device):
            self._gateways.add(device.ep)
            self._unread.add(device)
            self.complete(device)
        elif device.ep in self._gateways:
            self._gateways.discard(device.ep)
            self._unread.discard(device)
            self._left_out.pop(device.ep, None)
            self._told[device.ep] = {}
        if device.ep in self._devices:
            self._settle(device.ep)

    def _came(self, device: Device) -> None:
        assert device.behind is not None
        gateway = self._registry.device(device.behind)
        if gateway is not None and gateway.behind is None:
            self._adopt(device, gateway)
        self._devices.setdefault(device.behind, {})[device.ep] = device
        self._prefixes.pop(device.behind, None)
        self._unsettled.add(device.behind)

    @staticmethod
    def _adopt(device: Device, gateway: Device) -> None:
        device.gateway, device.address, device.queue = gateway, gateway.address, gateway.queue

    def _forget(self, device: Device) -> None:
        """``device`` is no registration any more."""
        self._unread.discard(device)
        self._waiting.discard(device)
        if device.behind is None:
            return
        devices = self._devices.get(device.behind, {})
        if devices.get(device.ep) is device:
            del devices[device.ep]
            if not devices:
                del self._devices[device.behind]
                self._expired.discard(device.behind)
            self._prefixes.pop(device.behind, None)
            self._unsettled.add(device.behind)

    # Reading object 25

    def complete(self, device: Device) -> None:
        """The gateway can hear: have its object 25 read if it is to be, in its order, after what waits already."""
        if device in self._unread and device not in self._waiting:
            self._waiting.add(device)
            self._in_order(device.ep, lambda: self._read(device))

    async def _read(self, device: Device) -> None:
        self._waiting.discard(device)
        if device not in self._unread or not self._awake(device.ep):
            return
        # What changes from now on is to be read again.
        self._unread.discard(device)
        view = device.view()
        # The version is what its links say; one that leaves it out and has resource 3 is of 2.0 all the same.
        view = replace(view, object_versions={**view.object_versions, GATEWAY.ids[0]: VERSION})
        try:
            answer = await self._own.read(device, GATEWAY, view=view)
        except ExchangeError as exc:
            _log.info("a gateway did not tell of the devices behind it", ep=device.ep, reason=str(exc))
            if self._registry.device(device.ep) is device:
                self._unread.add(device)  # until its next update
            return
        if self._registry.device(device.ep) is not device:
            return
        body = answer.rep.body
        if isinstance(body, ReadBody) and isinstance(body.content, Object):
            told, complaints = end_devices(device.ep, body.content)
        elif answer.rep.code is ResponseCode.NOT_FOUND:
            told, complaints = {}, []
        else:
            words = body.message if isinstance(body, GenericBody) else "the answer holds no object"
            self._complain(device.ep, [Complaint(about=str(GATEWAY), reason=Reason.UNREADABLE, words=words)])
            return
        self._told[device.ep] = told
        self._prefixes.pop(device.ep, None)
        before = self._left_out.pop(device.ep, {})
        still = {one.about for one in complaints} | told.keys()
        if kept := {about: reason for about, reason in before.items() if about in still}:
            self._left_out[device.ep] = kept
        self._complain(device.ep, complaints)
        self._settle(device.ep)

    def _complain(self, gateway: str, complaints: list[Complaint]) -> None:
        """Count and say what is left out, once as long as it stays so."""
        for one in complaints:
            known = self._left_out.setdefault(gateway, {})
            if known.get(one.about) is not one.reason:
                known[one.about] = one.reason
                self.refused[one.reason.value] += 1
                _log.warning(
                    "a device behind a gateway is left out",
                    ep=gateway,
                    device=one.about,
                    reason=one.reason.value,
                    words=one.words,
                )

    # Making it true

    def _settle(self, ep: str) -> None:
        """Begin what makes the devices behind ``ep`` as it says; again, until nothing is left to do."""
        self._unsettled.discard(ep)
        gateway = self._registry.device(ep)
        if gateway is not None and gateway.behind is not None:
            gateway = None
        devices = self._devices.get(ep, {})
        told = self._told.get(ep) if gateway is not None else {}
        if told is None:
            # Not read since the start: those that there were are those that there are.
            told = {name: EndDevice(prefix=one.prefix, said=one.announcement) for name, one in devices.items()}
        try:
            for name, one in list(devices.items()):
                if gateway is None or name not in told:
                    self._unsettled.add(ep)
                    self._registrations.end(one, expired=ep in self._expired)
                elif not _is_as_told(one, gateway, told[name]):
                    self._unsettled.add(ep)
                    self._registrations.behind.follow(one, gateway, told[name].prefix, told[name].said)
            if gateway is not None:
                for name, end_device in told.items():
                    if name not in devices:
                        self._register(gateway, name, end_device)
        except (StateError, CredentialStoreError) as exc:
            self._unsettled.add(ep)
            _log.warning("the devices behind a gateway cannot be registered now", ep=ep, reason=str(exc))

    def _register(self, gateway: Device, name: str, device: EndDevice) -> None:
        complaint: tuple[Reason, str] | None = None
        if self._registry.device(name) is not None:
            complaint = Reason.TAKEN, f"{name!r} has registered itself"
        elif not self._registry.has_room(name, device.said, {}):
            complaint = Reason.NO_ROOM, "as many devices are registered as this gateway has room for"
        else:
            try:
                self._admission.behind(gateway.ep, name)
            except Refused as exc:
                complaint = Reason.CREDENTIALS, str(exc)
        if complaint is not None:
            self._complain(gateway.ep, [Complaint(about=name, reason=complaint[0], words=complaint[1])])
            return
        left_out = self._left_out.get(gateway.ep)
        if left_out is not None and left_out.pop(name, None) is not None and not left_out:
            del self._left_out[gateway.ep]
        self._unsettled.add(gateway.ep)
        self._registrations.behind.stand_behind(gateway, name, device.prefix, device.said)


def _is_as_told(device: Device, gateway: Device, told: EndDevice) -> bool:
    return (device.prefix, device.announcement.text, device.at, device.lifetime, device.binding) == (
        told.prefix,
        told.said.text,
        gateway.at,
        gateway.lifetime,
        gateway.binding,
    )
