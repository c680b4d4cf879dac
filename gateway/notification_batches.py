"""Notifications that came together go into their topic together, and are acknowledged when they are durable there.

Owns the batch that is being filled, what is durable, and by that which message ids are duplicates (RFC 7252 section
4.5). Delivery is in order and gapless (`gateway.uplink`): the records of a partition share the report of the last one,
which vouches for those before it. The plain path fills a batch by `hold`; the short path does so itself, for speed,
which is why what it needs is open to it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.peers import Address
from gateway.coap.udp import FEW
from gateway.observations import Observation
from gateway.registry import Device
from gateway.uplink import Uplink
from schemas.avro.compiled import encoded_long

#: Kafka headers of a notification's record: what a restarted gateway knows duplicates by, and consumers order by.
HEADER_MID = "coap.mid"
HEADER_OBSERVE = "coap.observe"
#: Set to b"1" on all but the last record of a notification that has several.
HEADER_MORE = "coap.more"
#: Set to b"1" on a notification that came after a newer one (RFC 7641 section 3.4).
HEADER_LATE = "late"

#: Notifications with several records that are remembered.
MOST_BEGUN = 4096

#: An empty ACK, up to its message id.
ACK: Final = b"\x60\x00"
#: Key, value, headers, message id, to whom the ACK goes (of `ShortPath.notify_all`: the slot that is the ACK, or
#: empty), and the device.
Held = tuple[bytes, bytes, list[tuple[str, bytes]], bytes, Address | bytes | None, Device]


class NotificationBatches:
    """``clock`` is monotonic seconds, ``wall`` epoch seconds."""

    def __init__(self, uplink: Uplink, *, clock: Callable[[], float], wall: Callable[[], float] = time.time) -> None:
        self.uplink = uplink
        self.topic = uplink.topics.observations
        self._clock = clock
        self._wall = wall
        self._sendto: Callable[[bytes, Address], object] | None = None
        self._send_slots: Callable[[list[bytes]], None] | None = None
        partitions = uplink.partitions[self.topic]
        #: The number of the batch that is being filled.
        self.number = 1
        #: Marks what was read back from Kafka: by an earlier process of the gateway, or by an earlier producer.
        self.recovered = 0
        #: By partition: all batches up to this one are durable.
        self.durable = [0] * partitions
        #: By partition: the last record, which is sent when another one comes or the batch ends.
        self.held: list[Held | None] = [None] * partitions
        self._acks: list[list[tuple[bytes, Address]]] = [[] for _ in range(partitions)]
        #: The same of `ShortPath.notify_all`.
        self.slots: list[list[bytes]] = [[] for _ in range(partitions)]
        #: Whether the batch was begun.
        self.is_filling = False
        # Constant from then on: whether Kafka takes anything; the time in monotonic seconds, in epoch milliseconds, and
        # these in Avro's form.
        self.is_open = False
        self.now = 0.0
        self.time_ms = 0
        self.time = b""
        #: Marks below this one are older than EXCHANGE_LIFETIME: their message ids may come again.
        self.oldest = 0
        #: (time, batch): batches up to this one began before that time; about one a second.
        self._ages: deque[tuple[float, int]] = deque([(clock(), 0)])
        #: By record key and message id, of notifications with several records: a mark as in the window, and how many of
        #: the records are in Kafka or on their way there. One that was cut in the middle goes on there.
        self.begun: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        #: Queue-mode devices that spoke in this batch.
        self.awake: list[Device] = []
        self.taken = 0
        #: As it was when the batch began.
        self._taken_before = 0
        self.duplicates = 0
        self.refused = 0
        self.late = 0

    def start(
        self, sendto: Callable[[bytes, Address], object], send_slots: Callable[[list[bytes]], None] | None = None
    ) -> None:
        """Acknowledge through ``sendto`` from now on; what `ShortPath.notify_all` takes through ``send_slots``
        (`ManyDatagrams.send`)."""
        self._sendto = sendto
        self._send_slots = send_slots

    def begin(self) -> None:
        """Begin a batch; none is begun."""
        self.is_filling = True
        self.is_open = self.uplink.accepting
        self.now = self._clock()
        self.time_ms = int(self._wall() * 1000)
        self.time = encoded_long(self.time_ms)
        while self._ages and self.now - self._ages[0][0] > EXCHANGE_LIFETIME:
            self.oldest = self._ages.popleft()[1] + 1

    @property
    def now_ms(self) -> int:
        """The batch's time, epoch ms: that of its records."""
        if not self.is_filling:
            self.begin()
        return self.time_ms

    def is_duplicate(self, device: Device, mid: bytes, address: Address, *, confirmable: bool) -> bool:
        """True for a message id that was taken lately; it is acknowledged again if it is durable."""
        if not self.is_filling:
            self.begin()
        found = device.window.find(mid)
        if found < 0 or device.window.marks[found] < self.oldest:
            return False
        self.duplicates += 1
        if confirmable and device.window.marks[found] <= self.durable[device.partition]:
            self.acknowledge(mid, address)
        return True

    def remember(self, device: Device, mid: bytes) -> None:
        """A message that is durable elsewhere than in the batch: its copies are duplicates from now on."""
        device.window.put(mid, max(self.durable[device.partition], self.oldest))

    def hold(
        self,
        device: Device,
        observation: Observation,
        values: list[bytes],
        *,
        mid: bytes,
        observe: bytes | None,
        address: Address | None,
    ) -> bool:
        """Put the records of one notification into the batch; ``address`` gets the ACK when the last is durable.

        False if Kafka takes nothing now: the notification is then as if it had never come.
        """
        if not self.is_filling:
            self.begin()
        if not self.is_open:
            self.refused += 1
            return False
        headers = [(HEADER_MID, mid), (HEADER_OBSERVE, observe or b"")]
        if observe is not None and not observation.is_newer(int.from_bytes(observe, "big"), self.now):
            self.late += 1
            headers.append((HEADER_LATE, b"1"))
        partition = device.partition
        more = [*headers, (HEADER_MORE, b"1")]
        several = len(values) > 1
        written = self._begun(device, mid, len(values)) if several else 0
        for number in range(written + 1, len(values) + 1):
            value = values[number - 1]
            last = number == len(values)
            held = self.held[partition]
            if held is not None and not self.send(partition, held) and number > written + 1:
                # All or nothing: without its last record a notification counts as never come.
                self.held[partition] = None
                self.begun[device.key, mid] = (self.number, number - 2)
                return False
            self.held[partition] = (
                device.key,
                value,
                headers if last else more,
                mid,
                address if last else None,
                device,
            )
        if several:
            # The last may still be refused, when it is sent.
            self.begun[device.key, mid] = (self.number, len(values) - 1)
        device.window.put(mid, self.number)
        self.taken += 1
        return True

    def _begun(self, device: Device, mid: bytes, most: int) -> int:
        """How many records of a notification that is not whole in Kafka are there already."""
        if len(self.begun) >= MOST_BEGUN:
            self.begun = {key: entry for key, entry in self.begun.items() if entry[0] >= self.oldest}
            while len(self.begun) >= MOST_BEGUN:
                del self.begun[next(iter(self.begun))]
        mark, written = self.begun.pop((device.key, mid), (0, 0))
        # The last one is never there: it says that the notification is whole.
        return min(written, most - 1) if mark >= self.oldest else 0

    def send(self, partition: int, held: Held) -> bool:
        """Queue a record that a later one of the batch will vouch for; False if Kafka's queue is full."""
        key, value, headers, mid, address, device = held
        if not self.uplink.send(self.topic, partition, key, value, headers, None):
            device.window.drop_one(mid)
            self.refused += 1
            return False
        if isinstance(address, bytes):
            if address:
                self.slots[partition].append(address)
        elif address is not None:
            self._acks[partition].append((mid, address))
        return True

    def flush(self) -> None:
        """End the batch: its last record of each partition carries the report for all."""
        if not self.is_filling:
            return
        self.is_filling = False
        patient = self.taken - self._taken_before < FEW
        self._taken_before = self.taken
        for partition, held in enumerate(self.held):
            if held is None:
                continue
            self.held[partition] = None
            key, value, headers, mid, address, device = held
            acks, slots = self._acks[partition], self.slots[partition]
            if isinstance(address, bytes):
                slots = [*slots, address] if address else slots
            elif address is not None:
                acks = [*acks, (mid, address)]
            if self.uplink.send(
                self.topic,
                partition,
                key,
                value,
                headers,
                self._reporter(partition, self.number, acks, slots),
                patient=patient,
            ):
                self._acks[partition], self.slots[partition] = [], []
            else:
                # Those before it get their acknowledgement with the next report of the partition.
                device.window.drop_one(mid)
                self.refused += 1
        if self._ages and self.now <= self._ages[-1][0]:
            self._ages[-1] = (self._ages[-1][0], self.number)
        else:
            self._ages.append((self.now + 1.0, self.number))
        self.number += 1

    def _reporter(
        self, partition: int, batch: int, acks: list[tuple[bytes, Address]], slots: list[bytes]
    ) -> Callable[[bool], None]:
        def done(durable: bool) -> None:
            if not durable:
                return  # `forget_undelivered` follows
            if batch > self.durable[partition]:
                self.durable[partition] = batch
            if slots:
                assert self._send_slots is not None
                self._send_slots(slots)
            acknowledge = self.acknowledge
            for mid, address in acks:
                acknowledge(mid, address)

        return done

    def acknowledge(self, mid: bytes, address: Address) -> None:
        """Say that a notification is durable."""
        try:
            assert self._sendto is not None
            self._sendto(ACK + mid, address)
        except OSError:
            pass  # lost like any datagram; the device sends the notification again

    def forget_undelivered(self, devices: list[Device]) -> None:
        """After a fatal error of the producer: what was under way is unknown again. Nothing may be under way.

        What is in Kafka all the same is to be read back, and marked `recovered` (in the windows, and in `begun`).
        """
        for device in devices:
            device.window.drop(self.durable[device.partition] + 1, self.number)
        for acks, slots in zip(self._acks, self.slots, strict=True):
            acks.clear()
            slots.clear()
        self.begun.clear()
        self.recovered = self.number
        self.durable = [self.number] * len(self.durable)
        self._ages.append((self._clock() + 1.0, self.number))
        self.number += 1
