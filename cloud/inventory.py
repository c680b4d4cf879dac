"""The inventory: which devices there are, and what they last said, from the topics alone.

Owns two pure folds: registrations into devices (NEW, UPDATE, DELETE, in the order of the topic, which is per endpoint),
and notifications and replies into last values; `Picture` holds both. Reading the topics is `Inventory` below; the folds
know no clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import TracebackType
from typing import Self

from cloud.feed import SLICE, Feed, Start
from cloud.interrupts import interruptible
from connectors.kafka import Cluster, TopicMissing, Unreachable
from schemas.avro.records import (
    Binding,
    Link,
    Notification,
    Record,
    Registration,
    RegistrationDelete,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
    Response,
    ResponseCode,
    values_told,
)
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Resource
from schemas.lwm2m.path import Path, PathError

#: What reading the registrations of one gateway may take at least, in seconds.
_READ_S = 30.0


class State(Enum):
    ONLINE = "online"
    #: It de-registered.
    GONE = "gone"
    #: Its lifetime ran out without an update.
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One endpoint as its latest registration tells; times are epoch ms, ``lt`` is in seconds.

    Fields are None or empty where the topic no longer holds the NEW record that had them.
    """

    ep: str
    server_id: str
    state: State
    last_up: int
    reg_id: str | None = None
    reg_date: int | None = None
    address: str | None = None
    port: int | None = None
    reg_addr: str | None = None
    reg_port: int | None = None
    lt: int | None = None
    ver: str | None = None
    bnd: Binding | None = None
    sms: str | None = None
    root: str | None = None
    links: tuple[Link, ...] = ()
    attributes: Mapping[str, str] | None = None

    @property
    def instances(self) -> tuple[Path, ...]:
        """The objects and object instances that the device announced, sorted; other links are left out."""
        root = (self.root or "/").rstrip("/")
        paths = set()
        for link in self.links:
            url = link.url.removeprefix(root) if root else link.url
            try:
                path = Path.parse(url)
            except PathError:
                continue
            if path.depth in (1, 2):
                paths.add(path)
        return tuple(sorted(paths, key=lambda path: path.ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class LastValue:
    """The newest value of one resource (instance): ``timestamp`` is the device's own where it gave one, in epoch ms."""

    ep: str
    resource: Resource
    timestamp: int
    #: How it came: observe (a notification), send, or the kind of the request that it answered.
    kind: RequestKind


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a device says of itself in its Device object (3), None where it has not been told: texts of the device."""

    manufacturer: str | None = None
    model: str | None = None
    serial: str | None = None
    firmware: str | None = None


#: Where each of them stands (OMA LwM2M Core 1.1, appendix E.4).
_ABOUT = {name: Path(3, 0, number) for number, name in enumerate(("manufacturer", "model", "serial", "firmware"))}


def registered(before: Device | None, registration: Registration) -> Device:
    """The device after one more record of the registrations topic; ``before`` is None where none was known."""
    body = registration.body
    match body:
        case RegistrationNew():
            return Device(
                ep=body.ep,
                server_id=body.server_id,
                state=State.ONLINE,
                last_up=body.last_up,
                reg_id=body.reg_id,
                reg_date=body.reg_date,
                address=body.address,
                port=body.port,
                reg_addr=body.reg_addr,
                reg_port=body.reg_port,
                lt=body.lt,
                ver=body.ver,
                bnd=body.bnd,
                sms=body.sms,
                root=body.root,
                links=body.links,
                attributes=body.attributes,
            )
        case RegistrationUpdate():
            known = before or Device(ep=body.ep, server_id=body.server_id, state=State.ONLINE, last_up=body.last_up)
            return replace(
                known,
                server_id=body.server_id,
                state=State.ONLINE,
                last_up=body.last_up,
                reg_id=body.reg_id,
                address=body.address,
                port=body.port,
                # What an update does not carry stays as it was (OMA LwM2M Core 1.1, section 6.2.2).
                lt=known.lt if body.lt is None else body.lt,
                bnd=known.bnd if body.bnd is None else body.bnd,
                sms=known.sms if body.sms is None else body.sms,
                links=known.links if body.links is None else body.links,
                attributes=known.attributes if body.attributes is None else body.attributes,
            )
        case RegistrationDelete():
            state = State.EXPIRED if body.expired else State.GONE
            gone = before or Device(ep=body.ep, server_id=body.server_id, state=state, last_up=body.last_up)
            return replace(gone, state=state, last_up=body.last_up)


def taught(record: Notification | Response) -> list[LastValue]:
    """The values that a notification or reply tells; only CONTENT tells any."""
    if record.rep.code is not ResponseCode.CONTENT:
        return []
    return [
        LastValue(
            ep=record.ep,
            resource=resource,
            timestamp=record.timestamp if resource.timestamp is None else resource.timestamp,
            kind=record.rep.kind,
        )
        for resource in values_told(record.rep.body)
    ]


def newer(before: LastValue | None, after: LastValue) -> LastValue:
    """The one of two values of a resource to show: never an older one, and at the same time the later record's."""
    return before if before is not None and before.timestamp > after.timestamp else after


class Picture:
    """The devices and their last values, as far as the records that were taken in tell."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        # By endpoint, so that one device's values are found without a walk over those of all.
        self._values: dict[str, dict[Path, LastValue]] = {}
        self._newest: dict[str, int] = {}

    def take(self, record: Record) -> None:
        """One more record of registrations, observations or replies; others tell nothing."""
        match record:
            case Registration():
                ep = record.body.ep
                self.devices[ep] = registered(self.devices.get(ep), record)
            case Notification() | Response():
                for value in taught(record):
                    mine = self._values.setdefault(value.ep, {})
                    path = value.resource.path
                    mine[path] = newer(mine.get(path), value)
                    self._newest[value.ep] = max(self._newest.get(value.ep, value.timestamp), value.timestamp)
            case _:
                pass

    def values_of(self, ep: str) -> list[LastValue]:
        """The last values of one endpoint, sorted by path."""
        return sorted(self._values.get(ep, {}).values(), key=lambda value: value.resource.path.ids)

    def value(self, ep: str, path: Path) -> LastValue | None:
        """The last value of one resource (instance)."""
        return self._values.get(ep, {}).get(path)

    def about(self, ep: str) -> About:
        """What an endpoint last said of itself, in whatever answer or notification."""
        mine = self._values.get(ep, {})
        return About(**{name: str(mine[path].resource.value) for name, path in _ABOUT.items() if path in mine})

    def newest(self, ep: str) -> int | None:
        """The time of the newest value of an endpoint, in epoch ms."""
        return self._newest.get(ep)


class Inventory:
    """The inventory of one gateway, kept current by `refresh`.

    All registrations are read; of observations and replies the last ``last`` records of each partition, so a value that
    was said longer ago than that is not shown.

    Raises:
        Unreachable, TopicMissing: as `cloud.feed.Feed`.
    """

    def __init__(self, cluster: Cluster, gateway: str, *, last: int = 5000, timeout: float = 10.0) -> None:
        topics = Topics(gateway)
        self.picture = Picture()
        try:
            self._registrations = Feed(cluster, [topics.registrations], start=Start.BEGINNING, timeout=timeout)
        except TopicMissing as exc:
            raise TopicMissing(f"{exc}: is {gateway!r} the id of the gateway, and is this the right Kafka?") from exc
        try:
            self._said = Feed(cluster, [topics.observations, topics.replies], last=last, timeout=timeout)
        except BaseException:
            self._registrations.close()
            raise

    @property
    def caught_up(self) -> bool:
        """True once everything that was in the topics at the start has been read."""
        return self._registrations.caught_up and self._said.caught_up

    def refresh(self, timeout: float = SLICE) -> bool:
        """Take in what came; returns whether anything did. Waits up to ``timeout`` seconds on each of two reads."""
        records: list[Record] = [
            item.record
            for feed in (self._registrations, self._said)
            for item in feed.poll(timeout)
            if item.record is not None
        ]
        for record in records:
            self.picture.take(record)
        return bool(records)

    def silence(self) -> str | None:
        """As of `cloud.feed.Feed`."""
        return self._registrations.silence()

    def close(self) -> None:
        self._registrations.close()
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def device_of(cluster: Cluster, gateway: str, ep: str, *, timeout: float) -> Device | None:
    """One device as its registrations tell; None: it never registered. ``timeout`` is as in `cloud.requests.ask`.

    Raises:
        Unreachable, TopicMissing: as `cloud.feed.Feed`.
    """
    topic = Topics(gateway).registrations
    deadline = time.monotonic() + max(timeout, _READ_S)
    found: Device | None = None
    reach = max(2.0, min(timeout, 10.0))
    with interruptible(lambda: Feed(cluster, [topic], start=Start.BEGINNING, timeout=reach)) as feed:
        while not feed.caught_up:
            if time.monotonic() > deadline:
                raise Unreachable(f"{topic} at {cluster.bootstrap} was not read to its end in time; see --timeout")
            for item in feed.poll():
                if isinstance(item.record, Registration) and item.record.body.ep == ep:
                    found = registered(found, item.record)
    return found
