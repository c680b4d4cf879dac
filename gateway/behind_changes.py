"""Registrations of devices behind a gateway (LwM2M Gateway, object 25), which register by its word.

Owns what is registered of such a device and what changes with its gateway. Which devices there are is told by
`gateway.behind`; how a change becomes true by `gateway.changes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from gateway.changes import Changes, Listener
from gateway.device_forms import behind_attributes, identity_of, kafka_place, stored
from gateway.registration import Announcement, has_other_objects, is_queued
from gateway.registry import Device, Registry
from gateway.state import State
from gateway.uplink import Uplink
from schemas.avro import serde
from schemas.avro.records import Registration, RegistrationKind, RegistrationUpdate


class BehindChanges:
    """``take_in`` makes a registration durable; ``wall_ms`` is epoch ms, ``new_id`` makes registration ids."""

    def __init__(
        self,
        *,
        server_id: str,
        changes: Changes,
        uplink: Uplink,
        state: State,
        registry: Registry,
        listener: Listener,
        take_in: Callable[[Device], None],
        wall_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._server_id = server_id
        self._changes = changes
        self._uplink = uplink
        self._state = state
        self._registry = registry
        self._listener = listener
        self._take_in = take_in
        self._wall_ms = wall_ms
        self._new_id = new_id

    def stand_behind(self, gateway: Device, ep: str, prefix: str, said: Announcement) -> bool:
        """Register the device ``ep`` behind ``gateway``; False if it cannot be now, and is to be tried again.

        Raises:
            StateError: the state takes nothing.
        """
        if ep in self._changes.coming or not self._uplink.accepting:
            return False
        attributes = behind_attributes(gateway.ep, prefix)
        if not self._registry.has_room(ep, said, attributes):
            self._changes.refused += 1
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
        self._take_in(device)
        return True

    def follow(self, device: Device, gateway: Device, prefix: str, said: Announcement) -> bool:
        """Let a device behind ``gateway`` be at its address, with its lifetime and binding, ``prefix`` and links.

        False if it cannot be now, and is to be tried again.

        Raises:
            StateError: the state takes nothing.
        """
        if self._changes.is_any_of(device) or not self._uplink.accepting:
            return False
        if not self._registry.has_room(device.ep, said, device.attributes):
            self._changes.refused += 1
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
        row = stored(device)._replace(
            address=at[0],
            port=at[1],
            identity=identity_of(gateway.address),
            last_up_ms=now,
            lifetime=lifetime,
            binding=binding.value,
            queue=is_queued(binding),
            prefix=prefix,
            links_text=said.text.encode(),
            root=said.root,
            attributes=json.dumps(attributes),
        )
        self._state.put_registration(row)
        self._changes.changing.add(device.reg_id)
        self._registry.hold(said)

        def settled() -> None:
            self._changes.changing.discard(device.reg_id)
            self._registry.release(said)

        def hold() -> None:
            if self._registry.registration(device.reg_id) is device:
                device.last_up, device.at, device.lifetime, device.binding = now, at, lifetime, binding
                self._registry.describe(device, attributes)
                changed = has_other_objects(said, device.announcement)
                self._registry.announce(device, said)
                elsewhere, device.prefix = device.prefix != prefix, prefix
                self._listener.followed(device, elsewhere=elsewhere, objects_changed=changed)

        value = serde.encode(Registration(kind=RegistrationKind.UPDATE, body=update))
        self._changes.make_durable(None, device, value, hold, settled)
        return True
