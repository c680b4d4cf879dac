"""What of a registration becomes the asset graph: servers, endpoints and the objects that they have, for every store.

Pure. How a store keeps vertices and edges is the sink's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from connectors.sinks.sink import SinkRecord
from schemas.avro.records import Link, RegistrationDelete, RegistrationNew, RegistrationUpdate
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path, PathError

Event = RegistrationNew | RegistrationUpdate | RegistrationDelete


def is_newer(record: SinkRecord, *, same_source: bool, offset: int, event_time_ms: int) -> bool:
    """Whether ``record`` is news to an endpoint whose last applied event had ``offset`` and ``event_time_ms``.

    The same endpoint is always on the same partition (``same_source``: of the same topic), so offsets decide. An offset
    that is lower while the time is later is a topic that was made anew; another partition, one whose partitions were
    increased: there, time decides.
    """
    if same_source:
        return record.offset > offset or record.timestamp > event_time_ms
    return record.timestamp >= event_time_ms


def endpoint_properties(body: Event) -> dict[str, object]:
    """What an event says about the endpoint, by the contract's names; NEW says all, the others only what they carry.

    ``attributes`` is a mapping, ``links`` (beyond the contract) a sequence of `Link`; the rest are texts, numbers,
    booleans and None.
    """
    match body:
        case RegistrationNew():
            return {
                "regDate": body.reg_date,
                "regId": body.reg_id,
                "regAddress": body.reg_addr,
                "regPort": body.reg_port,
                "address": body.address,
                "port": body.port,
                "lt": body.lt,
                "expired": False,
                "ver": body.ver,
                "bnd": body.bnd.value,
                "regLastUpdate": body.last_up,
                "online": True,
                "sms": body.sms,
                "attributes": body.attributes,
                "root": body.root,
                "links": body.links,
            }
        case RegistrationUpdate():
            carried: Mapping[str, object] = {
                "lt": body.lt,
                "bnd": None if body.bnd is None else body.bnd.value,
                "sms": body.sms,
                "attributes": body.attributes,
                "links": body.links,
            }
            return {
                "regId": body.reg_id,
                "address": body.address,
                "port": body.port,
                "regLastUpdate": body.last_up,
                "expired": False,
                "online": True,
            } | {name: value for name, value in carried.items() if value is not None}
        case RegistrationDelete():
            return {"expired": body.expired, "online": False, "regLastUpdate": body.last_up}


def links_json(links: Sequence[Link]) -> list[dict[str, object]]:
    """Links as JSON has them."""
    return [{"url": link.url, "at": dict(link.at)} for link in links]


def held_objects(links: Sequence[Link], root: str) -> list[tuple[int, str, int | None]]:
    """(object id, version, instance id) of each object link, below ``root``; other links are no objects.

    An object without a ``ver`` attribute is version 1.0 (OMA LwM2M Core 1.1, section 7.2.2); one without instances has
    a row of its own with the instance None.
    """
    prefix = root.rstrip("/")
    versions: dict[int, str] = {}
    found: dict[int, set[int]] = {}
    for link in links:
        if prefix and not link.url.startswith(f"{prefix}/"):
            continue
        try:
            path = Path.parse(link.url.removeprefix(prefix))
        except PathError:
            continue
        if path.object_id is None:
            continue
        instances = found.setdefault(path.object_id, set())
        if path.instance_id is not None:
            instances.add(path.instance_id)
        if "ver" in link.at:
            versions[path.object_id] = link.at["ver"].strip('"')
    held: list[tuple[int, str, int | None]] = []
    for object_id, instances in sorted(found.items()):
        version = versions.get(object_id, "1.0")
        held.extend((object_id, version, instance) for instance in sorted(instances))
        if not instances:
            held.append((object_id, version, None))
    return held


def object_name(definitions: Definitions, object_id: int, version: str) -> str | None:
    """None for an object that no definition knows."""
    # The name does not change with the version, so a version that no definition knows still has one.
    known = definitions.object(object_id, version) or definitions.object(object_id)
    return known.name if known else None
