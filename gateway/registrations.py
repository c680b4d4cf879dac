"""The registration interface (OMA LwM2M Core 1.1, section 6.2): Register, De-register, and expiry.

Owns who is registered, from the request to its answer, and when a registration ends. Updates are `gateway.updates`'
and `gateway.bare_updates`', what devices behind a gateway are registered by `gateway.behind_changes`'; how a change
becomes true is told by `gateway.changes`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import structlog

from gateway.admission import Admission
from gateway.bare_updates import BareUpdates
from gateway.behind_changes import BehindChanges
from gateway.changes import Changes, Incoming, Listener
from gateway.coap.incoming import BUSY_MAX_AGE
from gateway.coap.message import Code, Option, Options, name
from gateway.coap.peers import Address
from gateway.device_forms import kafka_place, registered, stored
from gateway.journal import Journal
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
from gateway.state import State, StateError
from gateway.updates import Updates
from gateway.uplink import Uplink
from schemas.avro import serde
from schemas.avro.records import Binding, Registration, RegistrationDelete, RegistrationKind
from security.errors import CredentialStoreError

_log = structlog.get_logger("headwater.registrations")

_LINK_FORMAT = 40


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
        journal: Journal,
        listener: Listener,
        wall_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._server_id = server_id
        self._local_address = local_address
        self._admission = admission
        self._uplink = uplink
        self._state = state
        self._registry = registry
        self._listener = listener
        self._wall_ms = wall_ms
        self._new_id = new_id
        self.changes = changes = Changes(uplink=uplink, state=state, registry=registry, wall_ms=wall_ms)
        self.bare = BareUpdates(
            server_id=server_id,
            changes=changes,
            uplink=uplink,
            state=state,
            registry=registry,
            journal=journal,
            listener=listener,
            wall_ms=wall_ms,
        )
        self.updates = Updates(
            server_id=server_id,
            admission=admission,
            changes=changes,
            bare=self.bare,
            state=state,
            registry=registry,
            listener=listener,
            wall_ms=wall_ms,
        )
        self.behind = BehindChanges(
            server_id=server_id,
            changes=changes,
            uplink=uplink,
            state=state,
            registry=registry,
            listener=listener,
            take_in=lambda device: self._take_in(None, device, lambda: None),
            wall_ms=wall_ms,
            new_id=new_id,
        )
        self._no_expiry_until = 0
        self.registered = 0
        self.deregistered = 0
        self.expired = 0

    @property
    def updated(self) -> int:
        """Updates that were accepted."""
        return self.updates.updated + self.bare.updated

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
            self.changes.refused += 1
            self.changes.refuse_for_now(incoming)
            return
        try:
            match (incoming.message.code, len(path)):
                case (Code.POST, 0):
                    self._register(incoming, payload)
                case (Code.POST, 1):
                    self.updates.serve(incoming, path[0], payload)
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
            self.changes.refused += 1
            incoming.busy()
        except StateError as exc:
            self.changes.refused += 1
            _log.warning("the state cannot be written, registrations are refused", reason=str(exc))
            incoming.busy()

    def _register(self, incoming: Incoming, payload: bytes) -> None:
        message = incoming.message
        given = parse_parameters(message.texts(Option.URI_QUERY))
        held = None if given.ep is None else self._registry.device(given.ep)
        ep = self._admission.endpoint(incoming.address, given.ep, None if held is None else held.address)
        if message.uint(Option.CONTENT_FORMAT) not in (None, _LINK_FORMAT):
            raise Refused(Code.UNSUPPORTED_CONTENT_FORMAT, "links are expected as application/link-format")
        before = self.changes.recorded_of(incoming)
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
            self.changes.refuse_for_room(incoming)
            return
        device = self._new_device(ep, given, said, incoming.address)
        answer: Options = [(Option.LOCATION_PATH, b"rd"), (Option.LOCATION_PATH, device.reg_id.encode())]
        self._take_in(incoming, device, lambda: incoming.reply(Code.CREATED, answer))

    def _take_in(self, incoming: Incoming | None, device: Device, answer: Callable[[], None]) -> None:
        """Make a registration durable, and let it hold; ``answer`` follows. Raises StateError."""
        said = device.announcement
        self._state.put_registration(stored(device))
        self.changes.coming[device.ep] = device.reg_id
        # It takes memory from now on, not only when it holds.
        device.announcement = self._registry.hold(said)

        def settled() -> None:
            self._registry.release(said)
            if self.changes.coming.get(device.ep) == device.reg_id:
                del self.changes.coming[device.ep]

        def hold() -> None:
            self.registered += incoming is not None
            old = self._registry.add(device)
            # What the listeners ask of the device comes after its answer.
            answer()
            self._listener.registered(device, old)

        self.changes.make_durable(
            incoming,
            device,
            registered(device, self._server_id, self._local_address(device.address)),
            hold,
            settled,
        )

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

    def _deregister(self, incoming: Incoming, reg_id: str) -> None:
        device = self._registry.registration(reg_id)
        if device is None or device.behind is not None:
            before = self.changes.recorded_of(incoming)
            if before is not None and before[0] is RegistrationKind.DELETE:
                incoming.reply(Code.DELETED)
                return
            raise Refused(Code.NOT_FOUND, "no such registration")
        self._admission.may_change(incoming.address, device.ep, device.address)
        if device.ep in self.changes.coming:
            incoming.reply(Code.DELETED)
            return
        if reg_id in self.changes.changing:
            incoming.drop()
            return
        self._state.delete_registration(device.ep)
        self.changes.changing.add(reg_id)

        def hold() -> None:
            self.deregistered += 1
            self._remove(device)
            incoming.reply(Code.DELETED)

        body = RegistrationDelete(ep=device.ep, server_id=self._server_id, expired=False, last_up=self._wall_ms())
        delete = Registration(kind=RegistrationKind.DELETE, body=body)
        settled = partial(self.changes.changing.discard, reg_id)
        self.changes.make_durable(incoming, device, serde.encode(delete), hold, settled)

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
        if self.changes.is_any_of(device):
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
        self.changes.changing.add(device.reg_id)
        settled = partial(self.changes.changing.discard, device.reg_id)
        self.changes.make_durable(None, device, serde.encode(delete), hold, settled)
