"""The parts of a gateway, wired: what comes goes to the part that it is for, and each hears of the others.

Owns which part is told of what, in which order, and what a gateway begins with: the state file, then Kafka.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from gateway.admission import Admission
from gateway.answering import encoded
from gateway.behind import Behind
from gateway.coap.aiocoap_link import AiocoapLink
from gateway.coap.endpoint import Endpoint
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.incoming import Incoming
from gateway.coap.peers import Address, SecurePeer
from gateway.command_link import CommandLink
from gateway.commands import Commands
from gateway.device_forms import kafka_place, restored
from gateway.device_link import DeviceLink
from gateway.files import Files
from gateway.first_reads import FirstReads
from gateway.gathered import Gathered
from gateway.journal import Journal
from gateway.notification_batches import NotificationBatches
from gateway.notifications import Notifications
from gateway.number_decoders import decoders_for
from gateway.observations import ObservationTable
from gateway.observing import Observing
from gateway.own_reads import OwnReads
from gateway.recovery import Recovered
from gateway.registrations import Registrations
from gateway.registry import Device, Registry
from gateway.request_records import RawRequest
from gateway.resources import site
from gateway.sending import Sends
from gateway.settings import GatewaySettings
from gateway.short_path import ShortPath
from gateway.short_reads import ShortReads
from gateway.state import State, StoredState
from gateway.uplink import Uplink
from gateway.wanted import Declared, Wanted
from schemas.avro.records import Response
from schemas.lwm2m.objects import Definitions

_IDS_AT_ONCE = 256


def wall_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Parts:
    """The gateway's parts, wired; the endpoint hands it what comes (`gateway.coap.incoming.Handler`)."""

    def __init__(
        self,
        settings: GatewaySettings,
        definitions: Definitions,
        declared: Declared,
        state: State,
        journal: Journal,
        endpoint: Endpoint,
        uplink: Uplink,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        admission: Admission,
        is_mine: Callable[[RawRequest], bool] | None = None,
        id_mark: str = "",
    ) -> None:
        """Where there are several processes ``is_mine`` tells which requests are not another's, and ``id_mark`` is what
        registration ids begin with."""
        gateway = settings.gateway
        self.endpoint = endpoint
        self.uplink = uplink
        self.state = state
        self.registry = Registry()
        self.table = ObservationTable(gateway, decoders_for)
        client, lines, receiving = endpoint.client, endpoint.lines, endpoint.receiving
        self.batches = NotificationBatches(uplink, clock=time.monotonic)
        self.batches.start(lines.sendto, lines.send_many)
        self.short_path = ShortPath(self.batches, self.table.by_token)
        self.registrations = Registrations(
            server_id=gateway,
            local_address=lines.local_address_of,
            admission=admission,
            uplink=uplink,
            state=state,
            registry=self.registry,
            journal=journal,
            listener=self,
            wall_ms=wall_ms,
            new_id=_registration_ids(id_mark).__next__,
        )
        bare = self.registrations.bare
        bare.start(endpoint.server)
        receiving.on_post, receiving.on_post_slot = bare.take, bare.take_slot
        self.sends = Sends(
            server_id=gateway,
            uplink=uplink,
            registry=self.registry,
            definitions=definitions,
            heard=self._heard,
            behind=lambda device: self.behind.by_prefix(device),
            wall_ms=wall_ms,
        )
        self.files = Files(settings, endpoint, uplink.topics.files, known=self.reachable, clock=time.monotonic)
        aiocoap_link = AiocoapLink(endpoint, site(self.registrations, self.sends))
        device_link = DeviceLink(client, aiocoap_link)
        command_link = CommandLink(
            self.registry,
            device_link,
            lambda: self.observing,
            self.files,
            time.monotonic,
            lambda device: self.behind.reshaped(device),
        )
        self.commands = Commands(
            server_id=gateway,
            cluster=settings.kafka,
            state=state,
            definitions=definitions,
            link=command_link,
            uplink=uplink,
            wall_ms=wall_ms,
            timeout=settings.command_timeout,
            is_mine=is_mine,
        )
        self._short_reads = self.commands.loop.short_reads = ShortReads(
            server_id=gateway,
            registry=self.registry,
            link=command_link,
            client=client,
            lines=lines,
            lanes=self.commands.loop.lanes,
            answering=self.commands.loop.answering,
            uplink=uplink,
            definitions=definitions,
            now_ms=wall_ms,
            limits=self.commands.loop.limits,
        )
        self.short_path.reads = self._short_reads.open
        self._replies = Gathered(uplink, uplink.topics.replies)
        self.wanted = Wanted(
            declared=declared,
            table=self.table,
            registry=self.registry,
            state=state,
            definitions=definitions,
            new_token=device_link.new_token,
            wall_ms=wall_ms,
        )
        self.observing = Observing(
            server_id=gateway,
            wanted=self.wanted,
            link=device_link,
            table=self.table,
            registry=self.registry,
            definitions=definitions,
            publish=self._publish,
            put=self._put,
            record=lambda *notification: self.notifications.record(*notification),
            in_order=self.commands.submit_internal,
            take_turn=self.commands.take_turn,
            wall_ms=wall_ms,
            clock=time.monotonic,
        )
        own = OwnReads(server_id=gateway, link=device_link, definitions=definitions, wall_ms=wall_ms)
        self.first_reads = FirstReads(
            patterns=settings.read_on_register,
            own=own,
            registry=self.registry,
            publish=self._publish,
            in_order=self.commands.submit_internal,
            awake=command_link.awake,
        )
        self.behind = Behind(
            registry=self.registry,
            registrations=self.registrations,
            admission=admission,
            observing=self.observing,
            own=own,
            in_order=self.commands.submit_internal,
            awake=command_link.awake,
            wall_ms=wall_ms,
        )
        self.notifications = Notifications(
            server_id=gateway,
            table=self.table,
            batches=self.batches,
            uplink=uplink,
            definitions=definitions,
            client=client,
            link=aiocoap_link,
            spawn=spawn,
            ended=self.wanted.ended,
            taken=self.behind.notified,
        )
        # The endpoint's handler; the first is called for every 2.05 that comes.
        self.notify, self.notify_all = self.short_path.notify, self.short_path.notify_all
        self.response = self.notifications.take
        client.notified_in_vain = self._ask_anew

    # Handler

    def request(self, incoming: Incoming) -> bool:
        return self.registrations.request(incoming) or self.sends.request(incoming) or self.files.request(incoming)

    def reset(self, address: Address, mid: int) -> None:
        """An RST to nothing that is open: nothing of ours goes without an exchange."""

    def batch_done(self) -> None:
        self.batches.flush()
        self.registrations.bare.flush()
        self._replies.flush()
        self._short_reads.flush()
        self.uplink.poll()
        if self.batches.awake:
            awake = set(self.batches.awake)
            self.batches.awake.clear()
            for device in awake:
                self._heard(device)

    def _heard(self, device: Device) -> None:
        device = device.peer
        device.heard = time.monotonic()
        self.commands.device_awake(device.ep)

    def verified(self, address: Address) -> bool:
        return self.registry.at(address) is not None

    def reachable(self, address: Address) -> bool:
        """True if the peer may be sent more than it sent: it is registered, or has answered something over DTLS."""
        return address.proven if isinstance(address, SecurePeer) else self.verified(address)

    # Listener of the registrations

    def registered(self, device: Device, old: Device | None) -> None:
        device.heard = time.monotonic()
        if old is not None and old.behind is None and old.address != device.address:
            self.endpoint.client.abandon(old.address)
        self.commands.device_registered(device.ep)
        self.observing.registered(device, old)
        self.first_reads.registered(device, old)
        self.behind.registered(device, old)

    def moving(self, device: Device) -> None:
        self.endpoint.client.abandon(device.address)

    def updated(self, device: Device, *, objects_changed: bool) -> None:
        self._heard(device)
        if objects_changed:
            self.observing.objects_changed(device)
        else:
            self.observing.complete(device)
        self.first_reads.complete(device)
        self.behind.updated(device, objects_changed=objects_changed)

    def refreshed(self, devices: Iterable[Device]) -> None:
        # As `updated`, but that whoever waits for nobody is not asked for each.
        heard, awake = time.monotonic(), self.commands.device_awake
        first_reads, behind = self.first_reads.devices > 0, self.behind.waits
        for device in devices:
            device.heard = heard
            awake(device.ep)
            if len(device.wanted) > len(device.observations):
                self.observing.complete(device)
            if first_reads:
                self.first_reads.complete(device)
            if behind:
                self.behind.updated(device, objects_changed=False)

    def _ask_anew(self, address: Address) -> None:
        # A gateway that is killed before an observation is on the disk does not know it any more.
        device = self.registry.at(address)
        if device is not None:
            self.observing.complete(device)
            self.behind.observe(device)

    def followed(self, device: Device, *, elsewhere: bool, objects_changed: bool) -> None:
        if elsewhere:
            self.observing.forgotten(device)
        if objects_changed:
            self.observing.objects_changed(device)
        self.first_reads.complete(device)
        self.behind.followed(device)

    def gone(self, device: Device) -> None:
        self.observing.gone(device)
        self.first_reads.gone(device)
        self.commands.device_gone(device.ep, device.behind)
        self.behind.gone(device)

    # Start

    def restore(self, stored: StoredState) -> None:
        """Take up the registrations, observations and commands of the state file."""
        now = wall_ms()
        for row in self.state.registrations():
            device = restored(row, self.uplink)
            # What a device said while the gateway was down is lost: it gets time to say it again.
            grace = min(device.lifetime, int(EXCHANGE_LIFETIME)) * 1000
            if device.lifetime:
                device.last_up = max(device.last_up, now + grace - device.lifetime * 1000)
            self.registry.add(device)
        self.behind.restored()
        for observation in self.state.observations():
            owner = self.registry.device(observation.ep)
            if owner is None:
                self.state.delete_observation(observation.token)  # of a device that is gone; written after this
            else:
                self.wanted.restore(owner, observation)
        for device in self.registry:
            self.wanted.restored(device)
            self.first_reads.restored(device)
        self.commands.restore(stored)

    def take_back(self, found: Recovered) -> bool:
        """Know what is in the topics already, and write what is in the journal and not there. False: not all of that is
        on its way, and nothing of it is known to be; to be asked again."""
        for device in self.registry:
            mids = found.mids.get(device.key, b"")
            for at in range(0, len(mids), 2):
                device.window.put(bytes(mids[at : at + 2]), self.batches.recovered)
        for key, written in found.begun.items():
            self.batches.begun[key] = (self.batches.recovered, written)
        self.sends.remember(found.sends_begun, found.sends)
        self.registrations.changes.know(found.requests)
        for reg_id, last_up in found.clocks.items():
            if (known := self.registry.registration(reg_id)) is not None:
                known.last_up = max(known.last_up, last_up)
        for request_id, said in found.answered.items():
            self.commands.mark_answered(request_id, said)
        return self.registrations.bare.say_again(found.missing.values())

    def _put(self, device: Device, value: bytes, done: Callable[[bool], None]) -> None:
        self._replies.send(device.place.replies, device.place.key, value, [], done)

    def _publish(self, reply: Response, done: Callable[[bool], None] | None) -> bool:
        device = self.registry.device(reply.ep)
        place = kafka_place(reply.ep, self.uplink) if device is None else device.place
        topic = self.uplink.topics.replies
        return self.uplink.send(topic, place.replies, place.key, encoded(reply), [], done)


def _registration_ids(mark: str) -> Iterator[str]:
    """``mark`` and ten hex digits each, that nobody guesses."""
    while True:
        # The system is asked for many at once: that takes as long as for one.
        digits = secrets.token_hex(5 * _IDS_AT_ONCE)
        for at in range(0, len(digits), 10):
            yield mark + digits[at : at + 10]
