"""Redecoding: the values of an object that no model knew, read again by its model, on their way into a store.

The log stays as it is: a record says what came, and when. What is corrected are the stores, each under the identity of
the original record, so that doing it twice, or after it was cut short, comes to the same. Owns which version of an
object a device had at which time, as its registrations in the log tell it, and what becomes of a record by that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from connectors.dead_letters import raw_record
from connectors.kafka import Cluster, read_to_end
from connectors.replay import GROUP
from connectors.sink_records import sink_record
from connectors.sinks.sink import SinkRecord
from schemas.avro import serde
from schemas.avro.records import (
    CompositeBody,
    Link,
    Notification,
    ReadBody,
    Registration,
    RegistrationNew,
    RegistrationUpdate,
    Response,
    ResponseBody,
)
from schemas.avro.topics import TopicKind
from schemas.lwm2m.afresh import afresh
from schemas.lwm2m.nodes import values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path, PathError

#: Where values are that a gateway decoded.
KINDS = (TopicKind.OBSERVATIONS, TopicKind.REPLIES)

#: So many different reasons are kept for people; all misfits are counted.
KEPT_REASONS = 20

#: By object id, of those whose link gave one.
Versions = Mapping[int, str]


class Announced:
    """Which versions of its objects each device announced, and from when on; told in the order of the log."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], list[int]] = {}
        self._versions: dict[tuple[str, str], list[Versions]] = {}
        self._roots: dict[tuple[str, str], str] = {}

    def tell(self, gateway: str, registration: Registration) -> None:
        """A registration event; one without links changes nothing."""
        body = registration.body
        device = gateway, body.ep
        match body:
            case RegistrationNew():
                self._roots[device] = body.root
                self._add(device, body.last_up, body.links)
            case RegistrationUpdate(links=links) if links is not None:
                self._add(device, body.last_up, links)

    def at(self, gateway: str, ep: str, time_ms: int) -> Versions | None:
        """What the device had announced at that time (epoch ms); None if no registration from before it is known."""
        device = gateway, ep
        place = bisect_right(self._times.get(device, ()), time_ms)
        return self._versions[device][place - 1] if place else None

    def _add(self, device: tuple[str, str], time_ms: int, links: Iterable[Link]) -> None:
        versions = announced_versions(links, self._roots.get(device, "/"))
        times, told = self._times.setdefault(device, []), self._versions.setdefault(device, [])
        if told and told[-1] == versions:
            return
        # A clock that was set back must not bring the past out of order.
        times.append(max(time_ms, times[-1] if times else time_ms))
        told.append(versions)


def announced_versions(links: Iterable[Link], root: str) -> Versions:
    """The ``ver`` of each object link below ``root`` that has one (OMA LwM2M Core 1.1, section 7.2.2)."""
    prefix = root.rstrip("/")
    versions: dict[int, str] = {}
    for link in links:
        if "ver" not in link.at or not link.url.startswith(f"{prefix}/"):
            continue
        try:
            path = Path.parse(link.url[len(prefix) :])
        except PathError:
            continue
        if path.object_id is not None:
            versions[path.object_id] = link.at["ver"].strip('"')
    return versions


def read_announced(cluster: Cluster, topics: Iterable[str], *, timeout: float = 30.0) -> Announced:
    """What the registrations ``topics`` tell, from their beginnings to their present ends.

    Raises:
        Unreachable: Kafka went silent before the end. KafkaException: it refuses.
    """
    announced = Announced()
    for topic in topics:
        for message in read_to_end(cluster, [topic], timeout=timeout, group=GROUP):
            try:
                record = sink_record(raw_record(message))
            except serde.SerdeError:
                continue  # the sinks that keep registrations made it a dead letter
            if isinstance(record.record, Registration):
                announced.tell(record.gateway, record.record)
    return announced


@dataclass(slots=True, kw_only=True)
class Found:
    """What was met on the way, for people."""

    #: Records that have values of the objects, read again or right as they are.
    seen: int = 0
    #: Those of a device whose registration is not in the log, so that the version of its object is not known.
    unannounced: int = 0
    #: Values that do not fit the model and stay as they came; the first `KEPT_REASONS` different reasons.
    misfits: int = 0
    reasons: list[str] = field(default_factory=list)


class Redecoder:
    """Makes of each record the one with its values decoded afresh."""

    def __init__(
        self,
        definitions: Definitions,
        announced: Announced,
        *,
        objects: Collection[int] | None = None,
        otherwise: str | None = None,
    ) -> None:
        """``objects`` are those to decode, None: all. ``otherwise`` is the version of each object of a device whose
        registration is not in the log; without it such a record stays as it is."""
        self._definitions = definitions
        self._announced = announced
        self._objects = objects
        self._otherwise = None if otherwise is None else dict.fromkeys((one.id for one in definitions), otherwise)
        self.found = Found()

    def only_changed(self, record: SinkRecord) -> SinkRecord | None:
        """The record decoded afresh; None where that changes nothing."""
        changed = self.every(record)
        return changed if changed.redecoded else None

    def every(self, record: SinkRecord) -> SinkRecord:
        """The record decoded afresh; itself where that changes nothing."""
        said = record.record
        if not isinstance(said, Notification | Response) or not self._tells(said.rep.body):
            return record
        self.found.seen += 1
        versions = self._announced.at(record.gateway, said.ep, said.timestamp)
        if versions is None:
            versions = self._otherwise
        if versions is None:
            self.found.unannounced += 1
            return record
        body = self._again(said.rep.body, self._definitions.with_versions(versions))
        if body is said.rep.body:
            return record
        return replace(record, record=replace(said, rep=replace(said.rep, body=body)), redecoded=True)

    def _chosen(self, path: Path) -> bool:
        return path.object_id is not None and (self._objects is None or path.object_id in self._objects)

    def _tells(self, body: ResponseBody | None) -> bool:
        """True if it has values of objects that are to be decoded afresh."""
        if isinstance(body, CompositeBody):
            return any(self._chosen(one.path) for one in body.resources)
        return isinstance(body, ReadBody) and self._chosen(body.content.path)

    def _again(self, body: ResponseBody | None, definitions: Definitions) -> ResponseBody | None:
        """``body`` decoded afresh; itself where that changes nothing."""
        if isinstance(body, CompositeBody):
            resources = tuple(
                [
                    value
                    for one in body.resources
                    for value in (values(afresh(one, definitions, self._misfit)) if self._chosen(one.path) else [one])
                ]
            )
            return body if resources == body.resources else replace(body, resources=resources)
        assert isinstance(body, ReadBody)
        content = afresh(body.content, definitions, self._misfit)
        return body if content is body.content else replace(body, content=content)

    def _misfit(self, why: str) -> None:
        self.found.misfits += 1
        if len(self.found.reasons) < KEPT_REASONS and why not in self.found.reasons:
            self.found.reasons.append(why)
