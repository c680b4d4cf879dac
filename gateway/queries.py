"""The query of a request to a device: notification attributes, and how deep a Discover looks.

Owns which of them a device of a version of LwM2M can be sent: attributes in a Write-Attributes (OMA LwM2M Core 1.1,
section 5.1.2), in an Observe (1.2, section 6.4.1), and the depth of a Discover (1.2, table 6.3.2-2). Pure.
"""

from __future__ import annotations

from gateway.exchange import DeviceView, RefusedRequest
from schemas.lwm2m.attributes import (
    OF_RESOURCES,
    Attributes,
    ObserveSpecError,
    check_target,
    check_version,
    format_spec,
    parse_spec,
)
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

Query = tuple[str, ...]

_DEPTHS = frozenset(f"depth={levels}" for levels in range(4))


def written_attributes(spec: str, path: Path, device: DeviceView, definitions: Definitions) -> Query:
    """The query of a Write-Attributes. Raises RefusedRequest."""
    return _query(_attributes(spec, path, device, definitions))


def own_attributes(spec: str, path: Path, device: DeviceView, definitions: Definitions) -> Query:
    """The query of an observation that has attributes of its own; of the root, of what is observed together.

    Raises:
        RefusedRequest: they make no sense there, or not for this device.
    """
    if device.is_before_1_2:
        raise RefusedRequest(
            f"{device.ep} speaks LwM2M {device.spoken}, in which an observation has no attributes of its own (1.2 "
            f"has); write them to the path first: headwater attributes {device.ep} PATH '{spec[:100]}'"
        )
    attributes = _attributes(spec, path, device, definitions)
    for attribute, value in attributes.values.items():
        if value is None:
            raise RefusedRequest(f"{attribute.value} has no value; an observation begins with none, so leave it out")
    return _query(attributes)


def depth(spec: str, device: DeviceView) -> Query:
    """The query of a Discover that looks ``depth=0`` to ``depth=3`` levels below its target. Raises RefusedRequest."""
    if spec not in _DEPTHS:
        raise RefusedRequest(f"{spec[:40]!r}: a discover has nothing but a depth, from depth=0 to depth=3")
    if device.is_before_1_2:
        raise RefusedRequest(
            f"{device.ep} speaks LwM2M {device.spoken}, in which a discover has no depth (1.2 has); leave it out"
        )
    return (spec,)


def _attributes(spec: str, path: Path, device: DeviceView, definitions: Definitions) -> Attributes:
    try:
        attributes = parse_spec(spec)
        if path.depth:
            check_target(attributes, path, definitions)
        check_version(attributes, device.spoken)
    except ObserveSpecError as exc:
        raise RefusedRequest(str(exc)) from exc
    wrong = None if path.depth else next((one for one in attributes.values if one in OF_RESOURCES), None)
    if wrong is not None:
        raise RefusedRequest(f"{wrong.value} is for one resource, not for several that are observed together")
    return attributes


def _query(attributes: Attributes) -> Query:
    return tuple(format_spec(attributes).split("&"))
