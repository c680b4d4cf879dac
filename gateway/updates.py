"""Updates of registrations (OMA LwM2M Core 1.1, section 6.2.2).

Owns what an update changes, and the short path of the common one, that changes nothing but the clock: from the datagram
to the record and its acknowledgement, with no message object, and no write to the state file that is waited for. Its
record is in Kafka before it is acknowledged, and a gateway that starts again reads the clock there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.admission import Admission
from gateway.changes import HEADER_PEER, Changes, Incoming, Listener, headers_of, peer_header
from gateway.coap.message import Code, Option
from gateway.coap.peers import Address, host_port
from gateway.device_forms import identity_of, stored
from gateway.registration import Refused, has_other_objects, is_queued, parse_announcement, parse_parameters
from gateway.registry import Device, Registry, Touch
from gateway.short_path import HEADER_MID
from gateway.state import State, StoredRegistration
from gateway.uplink import Headers, Uplink
from schemas.avro import serde
from schemas.avro.compiled import CompiledUpdate
from schemas.avro.records import Registration, RegistrationKind, RegistrationUpdate

#: Updates that may wait on the short path at once; more go the ordinary way, which refuses what is too much.
MOST_WAITING = 5_000
#: The option Uri-Path "rd": the first option of a request to /rd/ID.
_RD = b"\xb2rd"
_CON, _LONGEST_TOKEN = 0x40, 8
_ACK = 0x60


class Door(Protocol):
    """What the endpoint does for requests that have no object of their own."""

    def is_repeated(self, address: Address, mid: int, size: int) -> bool:
        """Note a confirmable request of ``size`` bytes; True if it came lately, and is answered as it was then."""

    def answer_noted(self, address: Address, mid: int, datagram: bytes) -> None:
        """Send the answer of a request that was noted, and keep it for copies of the request."""

    def refuse_noted(self, address: Address, mid: int, token: bytes) -> None:
        """Answer 5.03 with Max-Age, and take the request anew when it comes again."""

    def forget_noted(self, address: Address, mid: int) -> None:
        """Take the request anew when it comes again."""


class Updates:
    """Serves ``/rd/ID``. ``wall_ms`` is epoch milliseconds."""

    def __init__(
        self,
        *,
        server_id: str,
        admission: Admission,
        changes: Changes,
        uplink: Uplink,
        state: State,
        registry: Registry,
        listener: Listener,
        wall_ms: Callable[[], int],
    ) -> None:
        self._server_id = server_id
        self._admission = admission
        self._changes = changes
        self._uplink = uplink
        self._state = state
        self._registry = registry
        self._listener = listener
        self._wall_ms = wall_ms
        self._door: Door | None = None
        #: By peer and message id: the tokens of those that wait on the short path.
        self._waiting: dict[tuple[Address, int], bytes] = {}
        self.updated = 0

    def start(self, door: Door) -> None:
        """Take datagrams from ``door``."""
        self._door = door

    def serve(self, incoming: Incoming, reg_id: str, payload: bytes) -> None:
        """Answer an update, whatever it changes.

        Raises:
            Refused: it makes no sense, or may not be.
            StateError: the state takes nothing.
            CredentialStoreError: the credentials cannot be read.
        """
        device = self._registry.registration(reg_id)
        if device is None or device.behind is not None or device.ep in self._changes.coming:
            raise Refused(Code.NOT_FOUND, "no such registration")
        self._admission.may_change(incoming.address, device.ep, device.address)
        if self._changes.recorded_of(incoming) == (RegistrationKind.UPDATE, reg_id):
            incoming.reply(Code.CHANGED)
            return
        if reg_id in self._changes.changing:
            incoming.drop()
            return
        queries = incoming.message.texts(Option.URI_QUERY)
        same_place = device.address == incoming.address and device.at == host_port(incoming.address)
        if not queries and not payload and same_place:
            self._touch(incoming, device)
        else:
            self._change(incoming, device, queries, payload)

    def _change(self, incoming: Incoming, device: Device, queries: list[str], payload: bytes) -> None:
        address, reg_id = incoming.address, device.reg_id
        now, at = self._wall_ms(), host_port(address)
        given = parse_parameters(queries)
        said = parse_announcement(payload) if payload else None
        if said is not None and not self._registry.has_room(device.ep, said, device.attributes):
            self._changes.refuse_for_room(incoming)
            return
        update = RegistrationUpdate(
            ep=device.ep,
            server_id=self._server_id,
            reg_id=reg_id,
            address=at[0],
            port=at[1],
            last_up=now,
            lt=given.lifetime,
            sms=given.sms,
            bnd=given.binding,
            links=None if said is None else said.links,
            attributes=given.attributes or None,
        )

        def changed(row: StoredRegistration) -> StoredRegistration:
            row = row._replace(address=at[0], port=at[1], identity=identity_of(address), last_up_ms=now)
            if given.lifetime is not None:
                row = row._replace(lifetime=given.lifetime)
            if given.binding is not None:
                row = row._replace(binding=given.binding.value, queue=is_queued(given.binding))
            if given.sms is not None:
                row = row._replace(sms=given.sms)
            if said is not None:
                row = row._replace(links_text=said.text.encode(), root=said.root)
            return row

        self._state.put_registration(changed(stored(device)))
        self._changes.changing.add(reg_id)
        if said is not None:
            self._registry.hold(said)

        def settled() -> None:
            self._changes.changing.discard(reg_id)
            if said is not None:
                self._registry.release(said)

        def hold() -> None:
            self.updated += 1
            if self._registry.registration(reg_id) is device:
                device.last_up = now
                if given.lifetime is not None:
                    device.lifetime = given.lifetime
                    self._registry.sooner(device)
                if given.binding is not None:
                    device.binding, device.queue = given.binding, is_queued(given.binding)
                if given.sms is not None:
                    device.sms = given.sms
                others = said is not None and has_other_objects(said, device.announcement)
                if said is not None:
                    self._registry.announce(device, said)
                if device.address != address:
                    self._listener.moving(device)
                    self._registry.move(device, address)
                device.at = at
                device.touch = None
                self._listener.updated(device, objects_changed=others)
            incoming.reply(Code.CHANGED)

        value = serde.encode(Registration(kind=RegistrationKind.UPDATE, body=update))
        self._changes.make_durable(incoming, device, value, hold, settled)

    # The common update

    def take(self, datagram: bytes, address: Address) -> bool:
        """Take a datagram with a POST if it is a bare update; False leaves it to the ordinary way, which judges it."""
        first = datagram[0]
        if not _CON <= first <= _CON + _LONGEST_TOKEN:  # version 1, confirmable
            return False
        at = 4 + (first & 15)
        # Two segments and nothing else: no more options, no payload. The longest id in this form has 12 characters.
        size = len(datagram) - at - 4
        if not 0 < size <= 12 or datagram[at + 3] != size or datagram[at : at + 3] != _RD:
            return False
        device = self._registry.registration(datagram[at + 4 :].decode("latin-1"))
        changes = self._changes
        if (
            device is None
            or device.address != address
            or device.behind is not None
            or changes.recorded
            or changes.is_any_of(device)
            or len(self._waiting) >= MOST_WAITING
            or not self._uplink.accepting
        ):
            return False
        door = self._door
        assert door is not None
        mid = datagram[2] << 8 | datagram[3]
        if door.is_repeated(address, mid, len(datagram)):
            return True
        waiting, key, now = self._waiting, (address, mid), self._wall_ms()
        waiting[key] = datagram[4:at]

        def done(durable: bool) -> None:
            token = waiting.pop(key, None)
            if durable:
                self._hold(device, now)
            if token is None:
                return  # refused meanwhile
            if durable:
                door.answer_noted(address, mid, bytes((_ACK | len(token), Code.CHANGED)) + datagram[2:4] + token)
            else:
                door.forget_noted(address, mid)

        touch = device.touch or self._touch_of(device)
        headers: Headers = [(HEADER_MID, datagram[2:4]), (HEADER_PEER, touch.peer)]
        changes.records.send(device.place.registrations, device.key, touch.encode(now), headers, done)
        return True

    def refuse_waiting(self) -> None:
        """Answer everything on the short path with 5.03: what it waits for does not come for now."""
        assert self._door is not None
        waiting = dict(self._waiting)
        self._waiting.clear()
        for (address, mid), token in waiting.items():
            self._door.refuse_noted(address, mid, token)

    def _touch(self, incoming: Incoming, device: Device) -> None:
        """A bare update that came the ordinary way."""
        now = self._wall_ms()

        def done(durable: bool) -> None:
            if durable:
                self._hold(device, now)
                incoming.reply(Code.CHANGED)
            else:
                incoming.drop()

        touch = device.touch or self._touch_of(device)
        headers = headers_of(incoming.message.mid.to_bytes(2, "big"), incoming.address)
        self._changes.records.send(device.place.registrations, device.key, touch.encode(now), headers, done)

    def _touch_of(self, device: Device) -> Touch:
        update = RegistrationUpdate(
            ep=device.ep,
            server_id=self._server_id,
            reg_id=device.reg_id,
            address=device.at[0],
            port=device.at[1],
            last_up=0,
        )
        device.touch = Touch(CompiledUpdate(update).encode, peer_header(device.address))
        return device.touch

    def _hold(self, device: Device, now: int) -> None:
        """The clock of ``device`` is in Kafka."""
        self.updated += 1
        if device.last_up < now:
            device.last_up = now
        # Else the row on its way to the disk says all, and with another address perhaps.
        if not self._changes.is_any_of(device):
            self._state.touch_registration(device.ep, device.last_up, *device.at)
        self._listener.updated(device, objects_changed=False)
