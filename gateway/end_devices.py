"""What a gateway says of the devices behind it: its object 25 (OMA LwM2M Gateway 1.1, object version 2.0). Pure.

Owns what a device behind a gateway is called, and what is made of a list that lies: each device that makes no sense is
left out by itself, with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.registration import Announcement, Refused, parse_announcement
from gateway.registry import Device
from schemas.lwm2m import prefixes
from schemas.lwm2m.nodes import Instance, Object, Resource
from schemas.lwm2m.path import Path

#: The object "LwM2M Gateway", one instance a device, and the version of it that has links.
GATEWAY: Final = Path(25)
VERSION: Final = "2.0"
DEVICE_ID, PREFIX, LINKS = 0, 1, 3
#: Devices that may be behind one gateway.
MOST_BEHIND: Final = 1000
_LONGEST_NAME: Final = 255


def is_gateway(device: Device) -> bool:
    """True for a device that announces object 25 and is not behind another itself."""
    return device.behind is None and any(path.object_id == GATEWAY.object_id for path in device.announcement.paths)


class Reason(StrEnum):
    """Why a device behind a gateway is none of ours."""

    NO_NAME = "no usable name"
    NAME_TWICE = "name twice"
    NO_PREFIX = "no usable prefix"
    PREFIX_TWICE = "prefix twice"
    NO_LINKS = "no link format"
    TOO_MANY = "too many"
    TAKEN = "name taken"
    CREDENTIALS = "has credentials"
    NO_ROOM = "no room"
    UNREADABLE = "object 25 unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndDevice:
    """A device as its gateway tells of it; its paths have no prefix."""

    prefix: str
    said: Announcement


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """``about`` is the device, by its name or its instance; the words say what is wrong."""

    about: str
    reason: Reason
    words: str


def endpoint_name(gateway: str, device_id: str) -> str:
    """What the device is called everywhere: always below its gateway's name, so that no order of arrival and no other
    gateway decides it, and that a gateway names nobody but its own."""
    return f"{gateway}/{device_id}"


def end_devices(gateway: str, told: Object) -> tuple[dict[str, EndDevice], list[Complaint]]:
    """The devices in object 25 of the endpoint ``gateway`` by their endpoint names, and what was left out.

    Of two with one name or one prefix the lower instance counts.
    """
    found: dict[str, EndDevice] = {}
    taken: set[str] = set()
    complaints: list[Complaint] = []
    instances = sorted(told.instances, key=lambda one: one.path.ids)
    if len(instances) > MOST_BEHIND:
        words = f"object 25 has {len(instances):,} instances; the first {MOST_BEHIND:,} count"
        complaints.append(Complaint(about=str(GATEWAY), reason=Reason.TOO_MANY, words=words))
    for instance in instances[:MOST_BEHIND]:
        try:
            name, device = _end_device(gateway, instance)
            if name in found:
                raise _LeftOut(Reason.NAME_TWICE, f"{name!r} is the name of another instance as well")
            if device.prefix in taken:
                raise _LeftOut(Reason.PREFIX_TWICE, f"{device.prefix!r} is the prefix of another instance as well")
        except _LeftOut as exc:
            complaints.append(Complaint(about=str(instance.path), reason=exc.reason, words=str(exc)))
        else:
            taken.add(device.prefix)
            found[name] = device
    return found, complaints


class _LeftOut(Exception):
    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.reason = reason


def _end_device(gateway: str, instance: Instance) -> tuple[str, EndDevice]:
    device_id, prefix = _text(instance, DEVICE_ID), _text(instance, PREFIX)
    name = endpoint_name(gateway, device_id)
    if not device_id or len(name) > _LONGEST_NAME or not name.isprintable():
        raise _LeftOut(Reason.NO_NAME, f"the Device ID {device_id[:64]!r} makes no endpoint name")
    if not prefixes.is_prefix(prefix):
        words = "of 1 to 40 letters, digits and -._~, not of digits alone"
        raise _LeftOut(Reason.NO_PREFIX, f"{prefix[:64]!r} is no prefix: one path segment {words}")
    try:
        said = parse_announcement(prefixes.strip_links(_text(instance, LINKS), prefix).encode())
    except Refused as exc:
        raise _LeftOut(Reason.NO_LINKS, f"IoT Device Objects are {exc}") from exc
    return name, EndDevice(prefix=prefix, said=said)


def _text(instance: Instance, resource_id: int) -> str:
    for one in instance.resources:
        if one.path.resource_id == resource_id and isinstance(one, Resource) and isinstance(one.value, str):
            return one.value
    return ""
