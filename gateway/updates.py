"""Updates of registrations (OMA LwM2M Core 1.1, section 6.2.2), whatever they change.

Owns what an update changes, and its ordinary way, from a message to its answer. The common one, that changes nothing
but the clock, has a shorter one (`gateway.bare_updates`).
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.admission import Admission
from gateway.bare_updates import BareUpdates
from gateway.changes import Changes, Incoming, Listener, headers_of
from gateway.coap.message import Code, Option
from gateway.coap.peers import host_port
from gateway.device_forms import identity_of, stored
from gateway.registration import Refused, has_other_objects, is_queued, parse_announcement, parse_parameters
from gateway.registry import Device, Registry
from gateway.state import State, StoredRegistration
from schemas.avro import serde
from schemas.avro.compiled import encoded_long
from schemas.avro.records import Registration, RegistrationKind, RegistrationUpdate


class Updates:
    """Serves ``/rd/ID``. ``wall_ms`` is epoch milliseconds."""

    def __init__(
        self,
        *,
        server_id: str,
        admission: Admission,
        changes: Changes,
        bare: BareUpdates,
        state: State,
        registry: Registry,
        listener: Listener,
        wall_ms: Callable[[], int],
    ) -> None:
        self._server_id = server_id
        self._admission = admission
        self._changes = changes
        self._bare = bare
        self._state = state
        self._registry = registry
        self._listener = listener
        self._wall_ms = wall_ms
        #: Those that changed something.
        self.updated = 0

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

    def _touch(self, incoming: Incoming, device: Device) -> None:
        """A bare update that came the ordinary way."""
        now = self._wall_ms()

        def done(durable: bool) -> None:
            if durable:
                self._bare.hold(device, now)
                incoming.reply(Code.CHANGED)
            else:
                incoming.drop()

        value = (device.touch or self._bare.touch_of(device)).head + encoded_long(now)
        headers = headers_of(incoming.message.mid.to_bytes(2, "big"), incoming.address)
        self._changes.records.send(device.place.registrations, device.key, value, headers, done)
