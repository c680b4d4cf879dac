"""The registration interface (OMA LwM2M Core 1.1, section 6.2): Register, Update, De-register, and expiry.

Owns the order in which a change becomes true: the record is in the edge Kafka and the registration in the state file,
then it holds in memory, then the device gets its answer. What a crash interrupts was therefore never acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import structlog

from gateway.admission import Admission
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.incoming import BUSY_MAX_AGE
from gateway.coap.message import Code, Message, Option, Options, name
from gateway.coap.peers import Address, SecurePeer, host_port
from gateway.device_forms import behind_attributes, identity_of, kafka_place, registered, stored
from gateway.registration import (
    DEFAULT_LIFETIME,
    Announcement,
    Parameters,
    Refused,
    is_queued,
    parse_announcement,
    parse_parameters,
)
from gateway.registry import Device, Registry
from gateway.short_path import HEADER_MID
from gateway.state import State, StateError, StateUnavailable, StoredRegistration
from gateway.uplink import Uplink
from schemas.avro import serde
from schemas.avro.compiled import CompiledUpdate
from schemas.avro.records import (
    Binding,
    Registration,
    RegistrationDelete,
    RegistrationKind,
    RegistrationUpdate,
)
from security.errors import CredentialStoreError

_log = structlog.get_logger("headwater.registrations")

#: Kafka header of a registration record, beside HEADER_MID: who sent the request, for a gateway that starts again.
HEADER_PEER = "coap.peer"
_LINK_FORMAT = 40


class Incoming(Protocol):
    """A request that waits for its answer, in one datagram or put together from blocks."""

    @property
    def message(self) -> Message: ...

    @property
    def address(self) -> Address: ...

    def reply(self, code: int, options: Options | None = None, payload: bytes = b"") -> None: ...

    def busy(self) -> None:
        """Answer 5.03 with Max-Age."""

    def drop(self) -> None:
        """Answer nothing, so that it is sent again."""


class Listener(Protocol):
    """Who wants to know of registrations; called after the change holds."""

    def registered(self, device: Device, old: Device | None) -> None: ...

    def moving(self, device: Device) -> None:
        """The device is about to be at another address."""

    def updated(self, device: Device, *, objects_changed: bool) -> None: ...

    def followed(self, device: Device, *, elsewhere: bool, objects_changed: bool) -> None:
        """A device behind a gateway has changed by that one's word; ``elsewhere``: its prefix is another."""

    def gone(self, device: Device) -> None: ...


class Registrations:
    """Serves ``/rd``. ``wall_ms`` is epoch milliseconds; ``new_id`` makes registration ids; ``local_address`` has where
    a peer reaches the gateway.
    """

    def __init__(
        self,
        *,
        server_id: str,
        local_address: Callable[[Address], tuple[str, int]],
        admission: Admission,
        uplink: Uplink,
        state: State,
        registry: Registry,
        listener: Listener,
        wall_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._server_id = server_id
        self._local_address = local_address
        self._admission = admission
        self._uplink = uplink
        self._topic = uplink.topics.registrations
        self._state = state
        self._registry = registry
        self._listener = listener
        self._wall_ms = wall_ms
        self._new_id = new_id
        #: (host, port, message id) of requests that an earlier process of the gateway has recorded, with the answer.
        self.recorded: dict[tuple[str, int, int], tuple[RegistrationKind, str]] = {}
        self._recorded_until = wall_ms() + int(EXCHANGE_LIFETIME * 1000)
        self._no_expiry_until = 0
        #: Registrations on their way, by endpoint name. What is said of the one before is out of date: recorded behind
        #: the new one, it would end or overwrite that in Kafka and in the state.
        self._coming: dict[str, str] = {}
        #: Ids of registrations of which a change is on its way. The next one would begin at what they were before it,
        #: so it waits until it comes again.
        self._changing: set[str] = set()
        self.registered = 0
        self.updated = 0
        self.deregistered = 0
        self.expired = 0
        self.refused = 0

    # Requests

    def request(self, incoming: Incoming) -> bool:
        """Take a request to ``/rd`` that fits one datagram; False for any other."""
        path = incoming.message.texts(Option.URI_PATH)
        if not path or path[0] != "rd" or incoming.message.block(Option.BLOCK1) is not None:
            return False
        self.serve(incoming, path[1:], incoming.message.payload)
        return True

    def serve(self, incoming: Incoming, path: list[str], payload: bytes) -> None:
        """Answer a request below ``/rd``; ``path`` is what follows, ``payload`` the whole payload."""
        if not self._uplink.accepting:
            self.refused += 1
            self._refuse_for_now(incoming)
            return
        try:
            match (incoming.message.code, len(path)):
                case (Code.POST, 0):
                    self._register(incoming, payload)
                case (Code.POST, 1):
                    self._update(incoming, path[0], payload)
                case (Code.DELETE, 1):
                    self._deregister(incoming, path[0])
                case (_, 0 | 1):
                    raise Refused(Code.METHOD_NOT_ALLOWED, "POST registers and updates, DELETE de-registers")
                case _:
                    raise Refused(Code.NOT_FOUND, "")
        except Refused as exc:
            _log.info("a registration request was refused", peer=incoming.address, code=name(exc.code), reason=str(exc))
            incoming.reply(exc.code, payload=str(exc)[:256].encode())
        except CredentialStoreError:
            self.refused += 1
            incoming.busy()
        except StateError as exc:
            self.refused += 1
            _log.warning("the state cannot be written, registrations are refused", reason=str(exc))
            incoming.busy()

    def _refuse_for_now(self, incoming: Incoming) -> None:
        """5.03; but in the first seconds no answer: the device sends its request again by itself (RFC 7252, 4.2).

        A restart of the gateway or of Kafka is over by then. To some devices (Zephyr's client) any error is the end:
        they do not register again until somebody tells them to.
        """
        if self._uplink.refuses_briefly():
            incoming.drop()
        else:
            incoming.busy()

    def _recorded(self, incoming: Incoming) -> tuple[RegistrationKind, str] | None:
        if self.recorded and self._wall_ms() > self._recorded_until:
            self.recorded.clear()
        if not self.recorded:
            return None
        return self.recorded.get((*_sender(incoming), incoming.message.mid))

    def _register(self, incoming: Incoming, payload: bytes) -> None:
        message = incoming.message
        given = parse_parameters(message.texts(Option.URI_QUERY))
        held = None if given.ep is None else self._registry.device(given.ep)
        ep = self._admission.endpoint(incoming.address, given.ep, None if held is None else held.address)
        if message.uint(Option.CONTENT_FORMAT) not in (None, _LINK_FORMAT):
            raise Refused(Code.UNSUPPORTED_CONTENT_FORMAT, "links are expected as application/link-format")
        before = self._recorded(incoming)
        if before is not None and before[0] is RegistrationKind.NEW:
            known = self._registry.registration(before[1])
            if known is not None and known.ep == ep:
                incoming.reply(
                    Code.CREATED, [(Option.LOCATION_PATH, b"rd"), (Option.LOCATION_PATH, before[1].encode())]
                )
                return
        said = parse_announcement(payload)
        if not said.paths:
            raise Refused(Code.BAD_REQUEST, "no object is announced")
        if not self._registry.has_room(ep, said, given.attributes):
            self._refuse_for_room(incoming)
            return
        device = self._new_device(ep, given, said, incoming.address)
        answer: Options = [(Option.LOCATION_PATH, b"rd"), (Option.LOCATION_PATH, device.reg_id.encode())]
        self._take_in(incoming, device, lambda: incoming.reply(Code.CREATED, answer))

    def _take_in(self, incoming: Incoming | None, device: Device, answer: Callable[[], None]) -> None:
        """Make a registration durable, and let it hold; ``answer`` follows. Raises StateError."""
        said = device.announcement
        self._state.put_registration(stored(device))
        self._coming[device.ep] = device.reg_id
        # It takes memory from now on, not only when it holds.
        device.announcement = self._registry.hold(said)

        def settled() -> None:
            self._registry.release(said)
            if self._coming.get(device.ep) == device.reg_id:
                del self._coming[device.ep]

        def hold() -> None:
            self.registered += incoming is not None
            old = self._registry.add(device)
            self._listener.registered(device, old)
            answer()

        self._make_durable(
            incoming,
            device,
            registered(device, self._server_id, self._local_address(device.address)),
            hold,
            settled,
        )

    def _refuse_for_room(self, incoming: Incoming) -> None:
        self.refused += 1
        incoming.busy()

    def _new_device(self, ep: str, given: Parameters, said: Announcement, address: Address) -> Device:
        binding = given.binding or Binding.U
        now = self._wall_ms()
        return Device(
            ep=ep,
            reg_id=self._new_id(),
            address=address,
            lifetime=DEFAULT_LIFETIME if given.lifetime is None else given.lifetime,
            version=given.version or "1.0",
            binding=binding,
            queue=is_queued(binding),
            sms=given.sms,
            announcement=said,
            attributes=dict(given.attributes),
            reg_date=now,
            last_up=now,
            place=kafka_place(ep, self._uplink),
        )

    def _update(self, incoming: Incoming, reg_id: str, payload: bytes) -> None:
        device = self._registry.registration(reg_id)
        if device is None or device.behind is not None or device.ep in self._coming:
            raise Refused(Code.NOT_FOUND, "no such registration")
        self._admission.may_change(incoming.address, device.ep, device.address)
        before = self._recorded(incoming)
        if before == (RegistrationKind.UPDATE, reg_id):
            incoming.reply(Code.CHANGED)
            return
        if reg_id in self._changing:
            incoming.drop()
            return
        now = self._wall_ms()
        queries = incoming.message.texts(Option.URI_QUERY)
        at = host_port(incoming.address)
        if not queries and not payload and device.address == incoming.address and device.at == at:
            self._touch(incoming, device, now)
            return
        given = parse_parameters(queries)
        said = parse_announcement(payload) if payload else None
        if said is not None and not self._registry.has_room(device.ep, said, device.attributes):
            self._refuse_for_room(incoming)
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
        address = incoming.address

        def change(row: StoredRegistration) -> StoredRegistration:
            row = replace(row, address=at[0], port=at[1], identity=identity_of(address), last_up_ms=now)
            if given.lifetime is not None:
                row = replace(row, lifetime=given.lifetime)
            if given.binding is not None:
                row = replace(row, binding=given.binding.value, queue=is_queued(given.binding))
            if given.sms is not None:
                row = replace(row, sms=given.sms)
            if said is not None:
                row = replace(row, links_text=said.text.encode(), root=said.root)
            return row

        self._state.put_registration(change(stored(device)))
        self._changing.add(reg_id)
        if said is not None:
            self._registry.hold(said)

        def settled() -> None:
            self._changing.discard(reg_id)
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
                changed = said is not None and _objects(said) != _objects(device.announcement)
                if said is not None:
                    self._registry.announce(device, said)
                if device.address != address:
                    self._listener.moving(device)
                    self._registry.move(device, address)
                device.at = at
                device.update = None
                self._listener.updated(device, objects_changed=changed)
            incoming.reply(Code.CHANGED)

        value = serde.encode(Registration(kind=RegistrationKind.UPDATE, body=update))
        self._make_durable(incoming, device, value, hold, settled)

    def _touch(self, incoming: Incoming, device: Device, now: int) -> None:
        """The common update, that changes nothing but the clock: a record, and no write that is waited for."""
        if device.update is None:
            device.update = CompiledUpdate(
                RegistrationUpdate(
                    ep=device.ep,
                    server_id=self._server_id,
                    reg_id=device.reg_id,
                    address=device.at[0],
                    port=device.at[1],
                    last_up=now,
                )
            )

        reg_id = device.reg_id

        def done(durable: bool) -> None:
            if not durable:
                incoming.drop()
                return
            self.updated += 1
            device.last_up = max(device.last_up, now)
            incoming.reply(Code.CHANGED)
            # Else the row on its way to the disk says all, and with another address perhaps.
            if reg_id not in self._changing and device.ep not in self._coming:
                self._state.touch_registration(device.ep, device.last_up, *device.at)
            self._listener.updated(device, objects_changed=False)

        value = device.update.encode(now)
        if not self._uplink.send(
            self._topic, device.place.registrations, device.place.key, value, _headers(incoming), done
        ):
            incoming.busy()

    def _deregister(self, incoming: Incoming, reg_id: str) -> None:
        device = self._registry.registration(reg_id)
        if device is None or device.behind is not None:
            before = self._recorded(incoming)
            if before is not None and before[0] is RegistrationKind.DELETE:
                incoming.reply(Code.DELETED)
                return
            raise Refused(Code.NOT_FOUND, "no such registration")
        self._admission.may_change(incoming.address, device.ep, device.address)
        if device.ep in self._coming:
            incoming.reply(Code.DELETED)
            return
        if reg_id in self._changing:
            incoming.drop()
            return
        self._state.delete_registration(device.ep)
        self._changing.add(reg_id)

        def hold() -> None:
            self.deregistered += 1
            self._remove(device)
            incoming.reply(Code.DELETED)

        body = RegistrationDelete(ep=device.ep, server_id=self._server_id, expired=False, last_up=self._wall_ms())
        delete = Registration(kind=RegistrationKind.DELETE, body=body)
        self._make_durable(incoming, device, serde.encode(delete), hold, lambda: self._changing.discard(reg_id))

    def _remove(self, device: Device) -> None:
        # A device that registered anew meanwhile stays: only this registration ends.
        if self._registry.registration(device.reg_id) is device:
            self._registry.remove(device.ep)
            self._listener.gone(device)

    # Expiry

    def expire(self) -> None:
        """End the registrations whose lifetime has passed (section 6.2.3); to be called about every second."""
        now = self._wall_ms()
        if not self._uplink.accepting:
            # Who was refused meanwhile gets time to be heard: it was asked to wait for BUSY_MAX_AGE.
            self._no_expiry_until = now + 3 * BUSY_MAX_AGE * 1000
        if now < self._no_expiry_until:
            return
        for device in self._registry.expired(now):
            self._expire(device)

    def end(self, device: Device, *, expired: bool = False) -> None:
        """End a registration that may not be any more; tried again by who asks, if it cannot be now."""
        self._expire(device, expired=expired)

    def _expire(self, device: Device, *, expired: bool = True) -> None:
        if device.ep in self._coming or device.reg_id in self._changing:
            self._registry.sooner(device)
            return

        def hold() -> None:
            self.expired += expired
            self._remove(device)

        body = RegistrationDelete(ep=device.ep, server_id=self._server_id, expired=expired, last_up=device.last_up)
        delete = Registration(kind=RegistrationKind.DELETE, body=body)
        try:
            self._state.delete_registration(device.ep)
        except StateError:
            self._registry.sooner(device)  # once more next time
            return
        self._changing.add(device.reg_id)
        self._make_durable(None, device, serde.encode(delete), hold, lambda: self._changing.discard(device.reg_id))

    # Devices behind a gateway, which register by its word (`gateway.behind`)

    def stand_behind(self, gateway: Device, ep: str, prefix: str, said: Announcement) -> bool:
        """Register the device ``ep`` behind ``gateway``; False if it cannot be now, and is to be tried again.

        Raises:
            StateError: the state takes nothing.
        """
        if ep in self._coming or not self._uplink.accepting:
            return False
        attributes = behind_attributes(gateway.ep, prefix)
        if not self._registry.has_room(ep, said, attributes):
            self.refused += 1
            return False
        now = self._wall_ms()
        device = Device(
            ep=ep,
            reg_id=self._new_id(),
            address=gateway.address,
            lifetime=gateway.lifetime,
            version=gateway.version,
            binding=gateway.binding,
            queue=gateway.queue,
            sms=None,
            announcement=said,
            attributes=attributes,
            reg_date=now,
            last_up=now,
            place=kafka_place(ep, self._uplink),
            behind=gateway.ep,
            prefix=prefix,
        )
        device.gateway = gateway
        self._take_in(None, device, lambda: None)
        return True

    def follow(self, device: Device, gateway: Device, prefix: str, said: Announcement) -> bool:
        """Let a device behind ``gateway`` be at its address, with its lifetime and binding, ``prefix`` and links.

        False if it cannot be now, and is to be tried again.

        Raises:
            StateError: the state takes nothing.
        """
        if device.ep in self._coming or device.reg_id in self._changing or not self._uplink.accepting:
            return False
        if not self._registry.has_room(device.ep, said, device.attributes):
            self.refused += 1
            return False
        now, at, lifetime, binding = self._wall_ms(), gateway.at, gateway.lifetime, gateway.binding
        attributes = behind_attributes(gateway.ep, prefix)
        links_changed = said.text != device.announcement.text
        update = RegistrationUpdate(
            ep=device.ep,
            server_id=self._server_id,
            reg_id=device.reg_id,
            address=at[0],
            port=at[1],
            last_up=now,
            lt=None if lifetime == device.lifetime else lifetime,
            bnd=None if binding is device.binding else binding,
            links=said.links if links_changed else None,
            attributes=None if prefix == device.prefix else attributes,
        )
        row = replace(stored(device), address=at[0], port=at[1], identity=identity_of(gateway.address))
        row = replace(
            row, last_up_ms=now, lifetime=lifetime, binding=binding.value, queue=is_queued(binding), prefix=prefix
        )
        row = replace(row, links_text=said.text.encode(), root=said.root, attributes=json.dumps(attributes))
        self._state.put_registration(row)
        self._changing.add(device.reg_id)
        self._registry.hold(said)

        def settled() -> None:
            self._changing.discard(device.reg_id)
            self._registry.release(said)

        def hold() -> None:
            if self._registry.registration(device.reg_id) is device:
                device.last_up, device.at, device.lifetime, device.binding = now, at, lifetime, binding
                self._registry.describe(device, attributes)
                changed = _objects(said) != _objects(device.announcement)
                self._registry.announce(device, said)
                elsewhere, device.prefix = device.prefix != prefix, prefix
                self._listener.followed(device, elsewhere=elsewhere, objects_changed=changed)

        value = serde.encode(Registration(kind=RegistrationKind.UPDATE, body=update))
        self._make_durable(None, device, value, hold, settled)
        return True

    # Durability

    def _make_durable(
        self,
        incoming: Incoming | None,
        device: Device,
        value: bytes,
        hold: Callable[[], None],
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        """Call ``hold`` once the record ``value`` is in Kafka and the state on disk; else the request was never seen.

        ``settled`` is called in both cases, first.
        """
        waiting = 2
        failed = False

        def part(ok: bool) -> None:
            nonlocal waiting, failed
            waiting -= 1
            failed = failed or not ok
            if waiting:
                return
            settled()
            if not failed:
                hold()
            elif incoming is not None:
                self._refuse_for_now(incoming)
            else:
                self._registry.sooner(device)  # it expires at the next look

        def on_disk(error: StateUnavailable | None) -> None:
            part(error is None)

        self._state.on_durable(on_disk)
        headers = [] if incoming is None else _headers(incoming)
        if not self._uplink.send(self._topic, device.place.registrations, device.place.key, value, headers, part):
            part(False)


def _objects(said: Announcement) -> tuple[object, ...]:
    return said.paths, said.object_versions


def _sender(incoming: Incoming) -> tuple[str, int]:
    """Of whom a message id is: a host and a port, or a life of a device over DTLS, which no restart outlives."""
    address = incoming.address
    return (address.life, 0) if isinstance(address, SecurePeer) else host_port(address)


def _headers(incoming: Incoming) -> list[tuple[str, bytes]]:
    host, port = _sender(incoming)
    return [(HEADER_MID, incoming.message.mid.to_bytes(2, "big")), (HEADER_PEER, f"{host} {port}".encode())]
