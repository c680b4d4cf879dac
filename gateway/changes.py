"""How a change of a registration becomes true: a record in the edge Kafka and a row in the state file, then it holds.

Owns which changes are on their way, what an earlier process of the gateway has recorded, and what a request is answered
that cannot be made durable. What a crash interrupts was never acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.message import Message, Options
from gateway.coap.peers import Address, SecurePeer, host_port
from gateway.gathered import Gathered
from gateway.notification_batches import HEADER_MID
from gateway.registry import Device, Registry
from gateway.state import State, StateUnavailable
from gateway.uplink import Headers, Uplink
from schemas.avro.records import RegistrationKind

#: Kafka header of a registration record, beside HEADER_MID: who sent the request, for a gateway that starts again.
HEADER_PEER = "coap.peer"
#: By host, port and message id of a request: what was recorded of it, and the registration's id.
Recorded = dict[tuple[str, int, int], tuple[RegistrationKind, str]]


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

    def refreshed(self, devices: Iterable[Device]) -> None:
        """Updates that changed nothing but the clock."""

    def followed(self, device: Device, *, elsewhere: bool, objects_changed: bool) -> None:
        """A device behind a gateway has changed by that one's word; ``elsewhere``: its prefix is another."""

    def gone(self, device: Device) -> None: ...


class Changes:
    """All changes of registrations. ``wall_ms`` is epoch milliseconds."""

    def __init__(self, *, uplink: Uplink, state: State, registry: Registry, wall_ms: Callable[[], int]) -> None:
        self._uplink = uplink
        self._state = state
        self._registry = registry
        self._wall_ms = wall_ms
        self.records = Gathered(uplink, uplink.topics.registrations)
        #: What an earlier process of the gateway, or an earlier producer, has recorded.
        self.recorded: Recorded = {}
        self._recorded_until = 0
        #: Registrations on their way, by endpoint name. What is said of the one before is out of date: recorded behind
        #: the new one, it would end or overwrite that in Kafka and in the state.
        self.coming: dict[str, str] = {}
        #: Ids of registrations of which a change is on its way. The next one would begin at what they were before it,
        #: so it waits until it comes again.
        self.changing: set[str] = set()
        #: Requests answered 5.03, or left without an answer.
        self.refused = 0

    def is_any_of(self, device: Device) -> bool:
        """True if a change of the device's registration is on its way, or another registration under its name."""
        return device.reg_id in self.changing or device.ep in self.coming

    def recorded_of(self, incoming: Incoming) -> tuple[RegistrationKind, str] | None:
        """What an earlier process has recorded of this very request: its kind and the registration's id."""
        self._forget_old()
        if not self.recorded:
            return None
        return self.recorded.get((*_sender(incoming.address), incoming.message.mid))

    def is_recorded(self, address: Address, mid: int) -> bool:
        """True if an earlier process has recorded something of this very request."""
        self._forget_old()
        return (*_sender(address), mid) in self.recorded

    def know(self, recorded: Recorded) -> None:
        """Know these, for as long as they may come again."""
        self.recorded.update(recorded)
        self._recorded_until = self._wall_ms() + int(EXCHANGE_LIFETIME * 1000)

    def _forget_old(self) -> None:
        if self.recorded and self._wall_ms() > self._recorded_until:
            self.recorded.clear()

    def refuse_for_now(self, incoming: Incoming) -> None:
        """5.03; but in the first seconds no answer: the device sends its request again by itself (RFC 7252, 4.2).

        A restart of the gateway or of Kafka is over by then. To some devices (Zephyr's client) any error is the end:
        they do not register again until somebody tells them to.
        """
        if self._uplink.refuses_briefly():
            incoming.drop()
        else:
            incoming.busy()

    def refuse_for_room(self, incoming: Incoming) -> None:
        """There is no memory for what the device says of itself."""
        self.refused += 1
        incoming.busy()

    def make_durable(
        self,
        incoming: Incoming | None,
        device: Device,
        value: bytes,
        hold: Callable[[], None],
        settled: Callable[[], None],
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
                self.refuse_for_now(incoming)
            else:
                self._registry.sooner(device)  # it expires at the next look

        def on_disk(error: StateUnavailable | None) -> None:
            part(error is None)

        self._state.on_durable(on_disk)
        headers = [] if incoming is None else headers_of(incoming.message.mid.to_bytes(2, "big"), incoming.address)
        self.records.send(device.place.registrations, device.place.key, value, headers, part)


def headers_of(mid: bytes, peer: Address) -> Headers:
    """The headers of the record of a request, by which a gateway that starts again knows it."""
    return [(HEADER_MID, mid), (HEADER_PEER, peer_header(peer))]


def peer_header(peer: Address) -> bytes:
    """The value of HEADER_PEER."""
    host, port = _sender(peer)
    return f"{host} {port}".encode()


def asked(peer: bytes, mid: bytes) -> tuple[str, int, int]:
    """Host, port and message id of a request, from the headers of its record.

    Raises:
        ValueError: they are not ours.
    """
    host, port = peer.decode().rsplit(" ", 1)
    return host, int(port), int.from_bytes(mid, "big")


def _sender(address: Address) -> tuple[str, int]:
    """Of whom a message id is: a host and a port, or a life of a device over DTLS, which no restart outlives."""
    return (address.life, 0) if isinstance(address, SecurePeer) else host_port(address)
