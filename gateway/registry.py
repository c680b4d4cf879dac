"""The live registrations in memory (OMA LwM2M Core 1.1, section 6.2).

Owns who is registered, at which address and until when. It writes nothing and sends nothing; `gateway.registrations`
makes changes durable first.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gateway.coap.peers import Address, host_port
from gateway.exchange import DeviceView
from gateway.observations import Observation
from gateway.registration import VERSIONS, Announcement, attributes_cost
from schemas.avro.records import Binding
from schemas.lwm2m.path import Path

#: Devices that may be registered at once, and bytes of memory for what they say of themselves (links that are the same
#: count once): whoever can send datagrams can register.
MOST_DEVICES = 100_000
MOST_ANNOUNCED = 128 << 20
#: Message ids that are remembered a device: as many as the tuned peer server of our benchmarks remembers.
WINDOW = 64
#: Epoch ms.
NEVER = 2**63 - 1


class MidWindow:
    """The message ids of a device's last notifications, each with the number of the batch that carried it.

    A ring of WINDOW entries in two flat arrays, about 700 bytes a device: RFC 7252 section 4.5 wants to know whether a
    message id came within EXCHANGE_LIFETIME, and a device has few messages open at a time (NSTART).
    """

    __slots__ = ("_next", "marks", "mids")

    def __init__(self) -> None:
        #: As they came, two bytes each; `find` tells of what is found here where it is.
        self.mids = bytearray()
        #: Batch numbers, index as `find` gives it.
        self.marks = array("Q")
        self._next = 0

    def find(self, mid: bytes) -> int:
        """The index of a two-byte message id, -1 if it is not here."""
        at = self.mids.find(mid)
        while at > 0 and at & 1:  # the end of one id and the beginning of the next
            at = self.mids.find(mid, at + 1)
        return at >> 1

    def put(self, mid: bytes, mark: int) -> None:
        """Remember ``mid``, in place of itself or of the oldest."""
        at = self.find(mid)
        if at >= 0:
            self.marks[at] = mark
        else:
            self.put_new(mid, mark)

    def put_new(self, mid: bytes, mark: int) -> None:
        """Remember ``mid``, which is not here, in place of the oldest."""
        if len(self.marks) < WINDOW:
            self.mids += mid
            self.marks.append(mark)
        else:
            at = self._next
            self._next = (at + 1) % WINDOW
            self.mids[2 * at : 2 * at + 2] = mid
            self.marks[at] = mark

    def drop(self, lowest: int, highest: int) -> None:
        """Forget all ids that are marked ``lowest`` to ``highest``, both included."""
        self._keep([(mid, mark) for mid, mark in self._entries() if not lowest <= mark <= highest])

    def drop_one(self, mid: bytes) -> None:
        """Forget one id: its message was not taken."""
        self._keep([(other, mark) for other, mark in self._entries() if other != mid])

    def _entries(self) -> list[tuple[bytes, int]]:
        entries = [(bytes(self.mids[2 * i : 2 * i + 2]), mark) for i, mark in enumerate(self.marks)]
        return entries[self._next :] + entries[: self._next]  # oldest first

    def _keep(self, entries: list[tuple[bytes, int]]) -> None:
        self.clear()
        for mid, mark in entries:
            self.put(mid, mark)

    def clear(self) -> None:
        """Forget all: the device began anew."""
        self.mids.clear()
        del self.marks[:]
        self._next = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPlace:
    """The key of a device's records, and the partition of each topic that they go to."""

    key: bytes
    observations: int
    registrations: int
    replies: int


@dataclass(frozen=True, slots=True)
class Touch:
    """What a device's bare update is made of, but for the clock and the message id: its record, and its entry in the
    journal."""

    #: As `schemas.avro.compiled.update_head`.
    head: bytes
    peer: bytes
    #: As `gateway.journal.form`.
    form: bytes


class Device:
    """One registered device. ``last_up`` and ``reg_date`` are epoch ms, ``lifetime`` seconds, 0 without end."""

    __slots__ = (
        "_view",
        "_view_of",
        "address",
        "announcement",
        "at",
        "attributes",
        "behind",
        "binding",
        "ep",
        "gateway",
        "heard",
        "key",
        "last_up",
        "lifetime",
        "observations",
        "partition",
        "place",
        "prefix",
        "queue",
        "reg_date",
        "reg_id",
        "sms",
        "sockaddr",
        "touch",
        "version",
        "wanted",
        "window",
    )

    def __init__(
        self,
        *,
        ep: str,
        reg_id: str,
        address: Address,
        lifetime: int,
        version: str,
        binding: Binding,
        queue: bool,
        sms: str | None,
        announcement: Announcement,
        attributes: Mapping[str, str],
        reg_date: int,
        last_up: int,
        place: KafkaPlace,
        behind: str | None = None,
        prefix: str = "",
    ) -> None:
        self.ep = ep
        self.reg_id = reg_id
        self.address = address
        #: ``address`` as `gateway.coap.many` has it, once it was heard so; else empty.
        self.sockaddr = b""
        #: The host and port that were recorded.
        self.at = host_port(address)
        self.lifetime = lifetime
        self.version = version
        self.binding = binding
        self.queue = queue
        self.sms = sms
        self.announcement = announcement
        self.attributes = attributes
        self.reg_date = reg_date
        self.last_up = last_up
        self.place = place
        #: Of a device behind a gateway (`gateway.behind`): the gateway's endpoint name, and the prefix of its paths
        #: there. Its address, queue mode and order of requests are the gateway's.
        self.behind = behind
        self.prefix = prefix
        #: That gateway as it is registered now; None of one that is gone, until this device is as well.
        self.gateway: Device | None = None
        #: Key and partition of the observations topic, at hand for the short path.
        self.key = place.key
        self.partition = place.observations
        self._view: DeviceView | None = None
        self._view_of: Announcement | None = None
        self.window = MidWindow()
        #: When it last spoke (monotonic seconds); kept for devices in queue mode.
        self.heard = -math.inf
        #: By path text: those that are established.
        self.observations: dict[str, Observation] = {}
        #: By path text: those that should be, by an operator's pattern or a request; what lacks is asked for again.
        self.wanted: dict[str, Observation] = {}
        #: For an update that changes nothing but the clock; None until it is needed.
        self.touch: Touch | None = None

    def uri_path(self, path: Path) -> tuple[str, ...]:
        """The Uri-Path segments of ``path`` on this device, its alternate root in front."""
        return (*filter(None, self.root.split("/")), *map(str, path.ids))

    @property
    def peer(self) -> Device:
        """Who speaks for it: the gateway that it is behind, or itself."""
        return self.gateway or self

    @property
    def root(self) -> str:
        """What its paths stand below: its alternate root; behind a gateway that one's, and the prefix."""
        mine = self.announcement.root
        if self.behind is None:
            return mine
        return f"{self.peer.announcement.root.rstrip('/')}/{self.prefix}{mine.rstrip('/')}"

    def view(self) -> DeviceView:
        """What an operation needs to know of the device."""
        said = self.announcement
        if self._view is not None and self._view_of is said and self.behind is None:
            return self._view
        root = self.root
        if self._view is not None and self._view_of is said and self._view.root == root:
            return self._view
        peer = self.peer
        formats = said.content_formats
        self._view_of = said
        self._view = DeviceView(
            ep=self.ep,
            version=peer.version,
            root=root,
            content_formats=peer.announcement.content_formats if formats is None else formats,
            object_versions=said.object_versions,
            prefix=self.prefix,
        )
        return self._view

    @property
    def expires_at(self) -> int:
        """Epoch ms at which the registration ends unless it is updated."""
        return self.last_up + self.lifetime * 1000 if self.lifetime else NEVER


@dataclass(slots=True)
class _Held:
    said: Announcement
    users: int = 0


class Registry:
    """Devices by endpoint name, registration id and address; which of them have expired."""

    def __init__(self) -> None:
        self._by_ep: dict[str, Device] = {}
        self._by_reg_id: dict[str, Device] = {}
        self._by_address: dict[Address, Device] = {}
        #: (epoch ms to look at, endpoint name); an entry counts if ``_looks`` says the same, one an endpoint.
        self._expiries: list[tuple[int, str]] = []
        self._looks: dict[str, int] = {}
        #: What is announced, by its text, once for all who say the same.
        self._held: dict[str, _Held] = {}
        #: Bytes of memory of what devices said.
        self._announced = 0
        #: Told of registration ids (None: it stays) and addresses that came (True) or went, where there are other
        #: processes that have to know (`gateway.several.crossing`).
        self.told: Callable[[str | None, Address | None, bool], None] | None = None
        #: How many devices are registered with each version of LwM2M.
        self.by_version: Counter[str] = Counter(dict.fromkeys(VERSIONS, 0))

    def __len__(self) -> int:
        return len(self._by_ep)

    def __iter__(self) -> Iterator[Device]:
        return iter(self._by_ep.values())

    def device(self, ep: str) -> Device | None:
        """The registered device with this endpoint name."""
        return self._by_ep.get(ep)

    def registration(self, reg_id: str) -> Device | None:
        """The device with this registration id."""
        return self._by_reg_id.get(reg_id)

    def at(self, address: Address) -> Device | None:
        """The device that registered or updated last from this address."""
        return self._by_address.get(address)

    def has_room(self, ep: str, said: Announcement, attributes: Mapping[str, str]) -> bool:
        """False if a registration or update of ``ep`` that says this would be more than is held at once."""
        old = self._by_ep.get(ep)
        if old is None and len(self._by_ep) >= MOST_DEVICES:
            return False
        more = attributes_cost(attributes)
        if said.text not in self._held:
            more += said.cost
        if old is not None:
            more -= attributes_cost(old.attributes)
            if old.announcement.text != said.text and self._held[old.announcement.text].users == 1:
                more -= old.announcement.cost
        return more <= 0 or self._announced + more <= MOST_ANNOUNCED

    def hold(self, said: Announcement) -> Announcement:
        """Count what is announced until it is released; returns the one that all share who say the same."""
        held = self._held.get(said.text)
        if held is None:
            held = self._held[said.text] = _Held(said)
            self._announced += said.cost
        held.users += 1
        return held.said

    def release(self, said: Announcement) -> None:
        """One less says this."""
        held = self._held[said.text]
        held.users -= 1
        if not held.users:
            del self._held[said.text]
            self._announced -= held.said.cost

    def announce(self, device: Device, said: Announcement) -> None:
        """The device has other links now."""
        if self._by_ep.get(device.ep) is device:
            old, said = device.announcement, self.hold(said)
            self.release(old)
        device.announcement = said

    def describe(self, device: Device, attributes: Mapping[str, str]) -> None:
        """The device has other attributes now."""
        if self._by_ep.get(device.ep) is device:
            self._announced += attributes_cost(attributes) - attributes_cost(device.attributes)
        device.attributes = attributes

    def add(self, device: Device) -> Device | None:
        """Register; returns the registration of the same endpoint that this one replaces."""
        old = self.remove(device.ep)
        self._by_ep[device.ep] = device
        self._by_reg_id[device.reg_id] = device
        if device.behind is None:
            self._by_address[device.address] = device
            if self.told is not None:
                self.told(device.reg_id, device.address, True)
        self.by_version[device.version] += 1
        device.announcement = self.hold(device.announcement)
        self._announced += attributes_cost(device.attributes)
        self.sooner(device)
        return old

    def remove(self, ep: str) -> Device | None:
        """De-register; returns what was registered."""
        device = self._by_ep.pop(ep, None)
        if device is not None:
            self._looks.pop(ep, None)
            self.by_version[device.version] -= 1
            self.release(device.announcement)
            self._announced -= attributes_cost(device.attributes)
            del self._by_reg_id[device.reg_id]
            is_at = self._by_address.get(device.address) is device
            if is_at:
                del self._by_address[device.address]
            if self.told is not None:
                self.told(device.reg_id, device.address if is_at else None, False)
        return device

    def move(self, device: Device, address: Address) -> None:
        """The device speaks from another address now."""
        if self._by_address.get(device.address) is device:
            del self._by_address[device.address]
            if self.told is not None:
                self.told(None, device.address, False)
        device.address = address
        device.sockaddr = b""
        self._by_address[address] = device
        if self.told is not None:
            self.told(None, address, True)

    def sooner(self, device: Device) -> None:
        """The device's lifetime was set: look at it earlier, if that is earlier than we would.

        One behind a gateway lives as long as `gateway.behind` says.
        """
        if device.behind is None and device.expires_at < self._looks.get(device.ep, device.expires_at + 1):
            self._look(device)

    def _look(self, device: Device) -> None:
        self._looks[device.ep] = device.expires_at
        heapq.heappush(self._expiries, (device.expires_at, device.ep))
        if len(self._expiries) > 2 * len(self._looks) + 64:
            self._expiries = [(when, ep) for ep, when in self._looks.items()]
            heapq.heapify(self._expiries)

    def expired(self, now_ms: int) -> list[Device]:
        """The devices whose lifetime has passed without an update; they stay until they are removed."""
        gone: list[Device] = []
        while self._expiries and self._expiries[0][0] <= now_ms:
            when, ep = heapq.heappop(self._expiries)
            if self._looks.get(ep) != when:
                continue
            del self._looks[ep]
            device = self._by_ep.get(ep)
            if device is None:
                continue
            if device.expires_at <= now_ms:
                gone.append(device)
            else:
                self._look(device)
        return gone
