"""Updates that change nothing but the clock (OMA LwM2M Core 1.1, section 6.2.2), a turn of the event loop at a time.

Owns their short path, from the datagram to the acknowledgement, with no message object: those of a turn are handed to
the producer in order, written to the journal in one piece (`gateway.journal`), and then acknowledged. What a process
leaves in the journal that Kafka has not is said again by the next one. If the journal cannot be written they wait for
Kafka. Whatever is unusual is left to `gateway.updates`, the ordinary way; a test holds record and answer equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

import structlog

from gateway.changes import HEADER_PEER, Changes, Listener, Recorded, asked, peer_header
from gateway.coap.exchanges import EXCHANGE_LIFETIME, Noted, RequestLog
from gateway.coap.message import Code
from gateway.coap.peers import Address, UdpAddress
from gateway.journal import Entry, Journal, Segment, form
from gateway.notification_batches import HEADER_MID
from gateway.registry import Device, Registry, Touch
from gateway.state import State
from gateway.uplink import Done, Uplink
from schemas.avro import serde
from schemas.avro.compiled import encoded_long, update_head
from schemas.avro.records import Registration, RegistrationKind, RegistrationUpdate

_log = structlog.get_logger("headwater.registrations")

#: Updates that Kafka is not known to have yet; with more the ordinary way judges, which refuses what is too much.
MOST_WAITING = 5_000
#: The option Uri-Path "rd": the first option of a request to /rd/ID.
_RD = b"\xb2rd"
_CON, _LONGEST_TOKEN = 0x40, 8
#: What an acknowledgement begins with, by the size of its token: piggybacked 2.04.
_CHANGED: Final = tuple(bytes((0x60 | size, Code.CHANGED)) for size in range(_LONGEST_TOKEN + 1))

#: The address of a peer, its socket address (empty: not at hand), the note of its request, the answer.
Answer = tuple[Address, bytes, Noted, bytes]


class Door(Protocol):
    """What the endpoint does for requests that have no object of their own."""

    def address_of(self, name: bytes) -> UdpAddress:
        """A socket address as the other methods want it."""

    def now(self) -> float:
        """The time for ``requests``."""

    @property
    def requests(self) -> RequestLog:
        """What came lately; each request is noted there."""

    def is_repeated(self, address: Address, mid: int, size: int) -> bool:
        """Note a confirmable request of ``size`` bytes; True if it came lately, and is answered as it was then."""

    def answer_all(self, answers: Sequence[Answer]) -> None:
        """Send answers of requests that were noted, and keep them for copies of the requests."""

    def refuse_noted(self, address: Address, mid: int, token: bytes) -> None:
        """Answer 5.03 with Max-Age, and take the request anew when it comes again."""

    def forget_noted(self, address: Address, mid: int) -> None:
        """Take the request anew when it comes again."""


class _Turn:
    """The updates of one turn of the event loop."""

    __slots__ = ("answers", "count", "devices", "dones", "failed", "now", "open", "sealed", "segments")

    def __init__(self, now: int) -> None:
        #: Epoch ms.
        self.now = now
        #: Index by index.
        self.devices: list[Device] = []
        self.answers: list[Answer] = []
        self.count = 0
        #: By partition: who is told of the report; how many of them were not; and those of which Kafka took nothing, or
        #: perhaps not all.
        self.dones: dict[int, Done] = {}
        self.open = 0
        self.failed: set[int] = set()
        #: True once it is known where its updates wait.
        self.sealed = False
        #: Where they are in the journal; none: they are not.
        self.segments: list[Segment] = []


class BareUpdates:
    """Takes updates, turn by turn. ``wall_ms`` is epoch milliseconds."""

    def __init__(
        self,
        *,
        server_id: str,
        changes: Changes,
        uplink: Uplink,
        state: State,
        registry: Registry,
        journal: Journal,
        listener: Listener,
        wall_ms: Callable[[], int],
    ) -> None:
        self._server_id = server_id
        self._changes = changes
        self._records = changes.records
        self._uplink = uplink
        self._state = state
        self._registry = registry
        self._registration = registry.registration
        self.journal = journal
        self._listener = listener
        self._wall_ms = wall_ms
        self._door: Door | None = None
        self._note: Callable[[Address, int, float], Noted | None] = RequestLog().note
        # Of the turn that is being filled.
        self._turn: _Turn | None = None
        self._is_open = False
        self._time = b""
        self._came = 0.0
        self._pieces: list[bytes] = []
        #: Turns that wait for Kafka with their answers.
        self._waiting: set[_Turn] = set()
        #: Updates that Kafka is not known to have.
        self._unconfirmed = 0
        #: Devices whose clocks the state file is to be told of.
        self._touched: set[Device] = set()
        self.updated = 0
        #: Entries of the journal that were said again, and those that nobody is registered for any more.
        self.said_again = 0
        self.dropped = 0

    def start(self, door: Door) -> None:
        """Take datagrams from ``door``."""
        self._door = door
        self._note = door.requests.note

    # Taking

    def take(self, datagram: bytes, address: Address) -> bool:
        """Take a datagram with a POST if it is a bare update; False leaves it to the ordinary way, which judges it."""
        rest = datagram[4:]
        device = self._device(datagram[0], rest)
        if device is None or device.address != address:
            return False
        return self._accept(device, b"", datagram[2:4], rest[: datagram[0] & 15], len(datagram))

    def take_slot(self, name: bytes, first: int, mid: bytes, rest: bytes) -> bool:
        """As `take`, of what `ShortPath.notify_all` has read: socket address, first byte, message id, and what follows
        that."""
        device = self._device(first, rest)
        if device is None:
            return False
        if device.sockaddr != name:
            assert self._door is not None
            if device.address != self._door.address_of(name):
                return False
            device.sockaddr = name
        return self._accept(device, name, mid, rest[: first & 15], 4 + len(rest))

    def _device(self, first: int, rest: bytes) -> Device | None:
        """Whose registration a request of this form would update."""
        token = first - _CON
        if not 0 <= token <= _LONGEST_TOKEN:  # version 1, confirmable
            return None
        # Two segments and nothing else: no more options, no payload. The longest id in this form has 12 characters.
        size = len(rest) - token - 4
        if not 0 < size <= 12 or rest[token + 3] != size or rest[token : token + 3] != _RD:
            return None
        return self._registration(rest[token + 4 :].decode("latin-1"))

    def _accept(self, device: Device, name: bytes, mid: bytes, token: bytes, size: int) -> bool:
        turn = self._turn or self._begin()
        changes, address = self._changes, device.address
        number = mid[0] << 8 | mid[1]
        if (
            not self._is_open
            or device.behind is not None
            or ((changes.changing or changes.coming) and changes.is_any_of(device))
            or (changes.recorded and changes.is_recorded(address, number))
        ):
            return False
        door = self._door
        assert door is not None
        noted = self._note(address, number, self._came)
        if noted is None:
            door.is_repeated(address, number, size)
            return True
        touch = device.touch or self.touch_of(device)
        partition = device.place.registrations
        done = turn.dones.get(partition) or self._share(turn, partition)
        headers = [(HEADER_MID, mid), (HEADER_PEER, touch.peer)]
        if not self._records.hold(partition, device.key, touch.head + self._time, headers, done):
            door.forget_noted(address, number)
            if all(one.place.registrations != partition for one in turn.devices):
                # Nothing of the turn is on its way there, so nobody would tell of a report.
                del turn.dones[partition]
                turn.open -= 1
            return True
        self._pieces += (mid, touch.form)
        turn.devices.append(device)
        turn.answers.append((address, name, noted, _CHANGED[len(token)] + mid + token))
        return True

    def _begin(self) -> _Turn:
        turn = self._turn = _Turn(self._wall_ms())
        self._time = encoded_long(turn.now)
        assert self._door is not None
        self._came = self._door.now()
        self._is_open = self._uplink.accepting and self._unconfirmed < MOST_WAITING
        return turn

    def _share(self, turn: _Turn, partition: int) -> Done:
        turn.open += 1
        done = turn.dones[partition] = partial(self._reported, turn, partition)
        return done

    # The end of a turn

    def flush(self) -> None:
        """The turn has ended: (1) Kafka's producer has all, (2) the journal has all, (3) all are acknowledged."""
        self._records.flush()
        turn = self._turn
        if turn is None:
            return
        self._turn = None
        if not turn.answers:
            return
        pieces, self._pieces = self._pieces, []
        if turn.failed:
            pieces = self._without_failed(turn)
        turn.count = len(turn.answers)
        self._unconfirmed += turn.count
        segment = self.journal.write(turn.now, pieces) if pieces else None
        turn.sealed = True
        if segment is None:
            self._waiting.add(turn)
            if not turn.open:
                self._settle(turn)
            return
        turn.segments.append(segment)
        devices, answers = turn.devices, turn.answers
        turn.devices, turn.answers = [], []
        self._hold(devices, turn.now, answers)

    def _without_failed(self, turn: _Turn) -> list[bytes]:
        """Leave out what the producer did not take, to come again; returns the rest for the journal."""
        pieces: list[bytes] = []
        devices, answers = turn.devices, turn.answers
        turn.devices, turn.answers = [], []
        for device, answer in zip(devices, answers, strict=True):
            if device.place.registrations in turn.failed:
                self._forget(answer)
            else:
                assert device.touch is not None
                pieces += (answer[3][2:4], device.touch.form)
                turn.devices.append(device)
                turn.answers.append(answer)
        turn.failed.clear()
        return pieces

    def _reported(self, turn: _Turn, partition: int, durable: bool) -> None:
        turn.open -= 1
        if not durable:
            turn.failed.add(partition)
        if turn.sealed and not turn.open:
            self._settle(turn)

    def _settle(self, turn: _Turn) -> None:
        """Kafka has reported of all."""
        self._unconfirmed -= turn.count
        if turn.segments:
            if not turn.failed:
                for segment in turn.segments:
                    self.journal.confirm(segment)
            return  # else `say_again` follows
        self._waiting.discard(turn)
        answers = []
        for answer, device in zip(turn.answers, turn.devices, strict=False):  # refused ones have none
            if device.place.registrations in turn.failed:
                self._forget(answer)
            else:
                answers.append(answer)
        devices = [device for device in turn.devices if device.place.registrations not in turn.failed]
        self._hold(devices, turn.now, answers)

    def _hold(self, devices: list[Device], now: int, answers: list[Answer]) -> None:
        """The clocks are where nothing acknowledged is lost from."""
        if answers:
            assert self._door is not None
            self._door.answer_all(answers)
        self.updated += len(devices)
        touched = dict.fromkeys(devices)
        for device in touched:
            if device.last_up < now:
                device.last_up = now
        self._touched.update(touched)
        self._listener.refreshed(touched)

    def hold(self, device: Device, now: int) -> None:
        """As for those of a turn, of one that came the ordinary way."""
        self._hold([device], now, [])

    def _forget(self, answer: Answer) -> None:
        assert self._door is not None
        address, _, noted, _ = answer
        self._door.forget_noted(address, noted.mid)

    def refuse_waiting(self) -> None:
        """Answer everything that waits for Kafka with 5.03: it does not come for now."""
        assert self._door is not None
        for turn in self._waiting:
            answers, turn.answers = turn.answers, []
            for address, _, noted, answer in answers:
                self._door.refuse_noted(address, noted.mid, answer[4:])

    def touch_of(self, device: Device) -> Touch:
        """Made at the first update, and after its address changed."""
        update = RegistrationUpdate(
            ep=device.ep,
            server_id=self._server_id,
            reg_id=device.reg_id,
            address=device.at[0],
            port=device.at[1],
            last_up=0,
        )
        head, peer = update_head(update), peer_header(device.address)
        device.touch = Touch(head, peer, form(peer, device.key, head))
        return device.touch

    def keep_up(self) -> None:
        """Tell the state file of the clocks, and cut the journal; to be called about every second."""
        touched, self._touched = self._touched, set()
        for device in touched:
            # Else the row on its way to the disk says all, and with another address perhaps; or there is none any more.
            if self._registry.registration(device.reg_id) is device and not self._changes.is_any_of(device):
                self._state.touch_registration(device.ep, device.last_up, *device.at)
        self.journal.trim()

    # After the end of a process, or of a producer

    def say_again(self, missing: Iterable[Entry]) -> bool:
        """Write what is in the journal and was not in Kafka, in order; nothing may be under way, or be taken yet.

        False: the producer does not take all of it now.
        """
        turn = _Turn(self._wall_ms())
        turn.segments = self.journal.said_again()
        turn.sealed = True
        # Not to be told of a report before all are handed over.
        turn.open = 1
        lives_on = turn.now - int(EXCHANGE_LIFETIME * 1000)
        known: Recorded = {}
        said, dropped = 0, 0
        for entry in missing:
            device = self._device_of(entry)
            if device is None:
                dropped += 1
                continue
            partition = device.place.registrations
            done = turn.dones.get(partition) or self._share(turn, partition)
            headers = [(HEADER_MID, entry.mid), (HEADER_PEER, entry.peer)]
            if not self._records.hold(partition, entry.key, entry.value, headers, done):
                turn.failed.add(partition)
                break
            said += 1
            if entry.at_ms >= lives_on:
                known[asked(entry.peer, entry.mid)] = RegistrationKind.UPDATE, device.reg_id
            device.last_up = max(device.last_up, entry.at_ms)
            self._touched.add(device)
        self._records.flush()
        if turn.failed:
            return False
        self._changes.know(known)
        turn.count = said
        self._unconfirmed += said
        self.said_again += said
        self.dropped += dropped
        if said or dropped:
            _log.info("updates that Kafka did not have are written again", updates=said, gone=dropped)
        turn.open -= 1
        if not turn.open:
            self._settle(turn)
        return True

    def _device_of(self, entry: Entry) -> Device | None:
        try:
            record = serde.decode(entry.value)
        except serde.SerdeError:
            return None
        if not isinstance(record, Registration) or not isinstance(record.body, RegistrationUpdate):
            return None
        return self._registry.registration(record.body.reg_id)
