"""The short path of notifications: the hot loop of the gateway.

A confirmable or non-confirmable 2.05 of a known observation, on one single-instance number resource, in the usual shape
(Observe, perhaps Content-Format, payload) goes from datagram to Kafka here, with no message object, task or future; all
of a batch that go to one partition share one delivery report, after which each is acknowledged. Whatever is unusual is
left to `gateway.notifications`, the plain path; a test holds the two equal, byte for byte. Written for speed: what it
gives up is generality, not checks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any

from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.many import ManyDatagrams, Slots
from gateway.coap.message import MAX_DATAGRAM
from gateway.coap.peers import Address, UdpAddress
from gateway.coap.udp import FEW
from gateway.number_decoders import fronts
from gateway.observations import REORDER_SECONDS, Observation
from gateway.registry import Device
from gateway.uplink import Uplink
from schemas.avro.compiled import encoded_long

if TYPE_CHECKING:
    from gateway.short_reads import Read

#: Kafka headers of a notification's record: what a restarted gateway knows duplicates by, and consumers order by.
HEADER_MID = "coap.mid"
HEADER_OBSERVE = "coap.observe"
#: Set to b"1" on all but the last record of a notification that has several.
HEADER_MORE = "coap.more"
#: Set to b"1" on a notification that came after a newer one (RFC 7641 section 3.4).
HEADER_LATE = "late"

#: Notifications with several records that are remembered.
MOST_BEGUN = 4096

_ACK = b"\x60\x00"
#: Key, value, headers, message id, to whom the ACK goes (of `notify_all`: the slot that is the ACK, or empty), and the
#: device.
_Held = tuple[bytes, bytes, list[tuple[str, bytes]], bytes, Address | bytes | None, Device]
#: Sizes of the datagrams that `notify_all` looks at itself: header, token and more.
_LEAST, _LARGEST = 13, 128


class ShortPath:
    """Takes notifications, batch by batch. ``clock`` is monotonic seconds, ``wall`` epoch seconds."""

    def __init__(
        self,
        uplink: Uplink,
        by_token: dict[bytes, Observation],
        *,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._uplink = uplink
        self._topic = uplink.topics.observations
        self._by_token = by_token
        self._clock = clock
        self._wall = wall
        self._sendto: Callable[[bytes, Address], object] | None = None
        partitions = uplink.partitions[self._topic]
        #: The batch that is being filled.
        self.batch = 1
        #: Marks what was read back from Kafka: by an earlier process of the gateway, or by an earlier producer.
        self.recovered = 0
        #: By partition: all batches up to this one are durable.
        self.durable = [0] * partitions
        self._held: list[_Held | None] = [None] * partitions
        self._acks: list[list[tuple[bytes, Address]]] = [[] for _ in range(partitions)]
        #: The same of `notify_all`.
        self._slots: list[list[bytes]] = [[] for _ in range(partitions)]
        self._send_slots: Callable[[list[bytes]], None] | None = None
        #: The short path of reads: what devices were asked and have not answered yet, by token.
        self.reads: Mapping[bytes, Read] = {}
        self._filled = False
        # Constant within a batch.
        self._open = False
        self._now = 0.0
        self._now_ms = 0
        self._time = b""
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
        """Acknowledge through ``sendto`` from now on; what `notify_all` takes through ``send_slots``
        (`ManyDatagrams.send`)."""
        self._sendto = sendto
        self._send_slots = send_slots

    def notify_all(
        self,
        many: ManyDatagrams,
        slots: Slots,
        leave: Callable[[bytes, UdpAddress], None],
        post: Callable[[bytes, int, bytes, bytes], bool],
    ) -> int:
        """Take what ``many`` has received; what is no notification, or an unusual one, goes to ``leave``, in order; a
        POST with a usual token to ``post`` before: socket address, first byte, message id, and what follows that.
        Returns how many ``post`` took.

        What is below is `notify` once more, without a call, an address or a number for each: for a device that was
        heard at this address before, and a value that is a double behind the same bytes as the one before.
        """
        if not self._filled:
            self._begin_batch()
        buffer, stride = many.buffer, many.stride
        readers = _readers(many.name_size)
        by_token, held, acks, reads = self._by_token, self._held, self._slots, self.reads
        produce, topic = self._uplink.produce, self._topic
        batch, now, time_, is_open = self.batch, self._now, self._time, self._open
        from_bytes = int.from_bytes
        sent = taken = posted = 0
        try:
            for slot, size in slots:
                read = readers[size]
                if read is not None:
                    name, first, code, mid, token, rest = read(buffer, slot * stride)
                    # 2.05, CON or NON, a token of eight bytes as all of ours are; Observe, 0 to 3 bytes.
                    if (
                        code == 0x45
                        and first & 0xEF == 0x48
                        and (observation := by_token.get(token)) is not None
                        and (device := observation.device).sockaddr == name
                        and 0x60 <= (option := rest[0]) <= 0x63
                        and rest[option - 0x5F : -8] == observation.front
                        and rest[-8] & 0x7F != 0x7F  # neither infinite nor no number
                        and (window := device.window).mids.find(mid) < 0
                        and is_open
                    ):
                        observe = rest[1 : option - 0x5F]
                        headers = [(HEADER_MID, mid), (HEADER_OBSERVE, observe)]
                        number = from_bytes(observe, "big")
                        if (
                            number - observation.number
                        ) & 0xFFFFFF < 0x800000 or now - observation.at > REORDER_SECONDS:
                            observation.number = number
                            observation.at = now
                        else:
                            self.late += 1
                            headers.append((HEADER_LATE, b"1"))
                        partition = device.partition
                        before = held[partition]
                        if before is not None:
                            key, value, told, _, ack, _ = before
                            if type(ack) is bytes:
                                try:
                                    produce(topic, value, key, partition, None, None, 0, told)
                                except Exception:  # noqa: BLE001  # tried again where what it means is known
                                    self._send(partition, before)
                                else:
                                    sent += 1
                                    if ack:
                                        acks[partition].append(ack)
                            else:
                                self._send(partition, before)
                        window.put_new(mid, batch)
                        compiled = observation.compiled
                        held[partition] = (
                            device.key,
                            compiled.head + time_ + compiled.tail + rest[:-9:-1],  # type: ignore[union-attr]  # see front
                            headers,
                            mid,
                            b"" if first & 0x10 else name + _ACK + mid,
                            device,
                        )
                        taken += 1
                        if device.queue:
                            self.awake.append(device)
                        continue
                    if code == 0x02 and post(name, first, mid, token + rest):
                        posted += 1
                        continue
                    # 2.05 in the ACK of a request of ours, whose tokens have eight bytes.
                    if (
                        first == 0x68
                        and code == 0x45
                        and (asked := reads.get(token)) is not None
                        and asked.name == name
                        and asked.mid == mid
                        and asked.take(rest)
                    ):
                        continue
                datagram, address = many.datagram(slot, size)
                if 4 < size <= MAX_DATAGRAM and datagram[1] == 0x45 and self.notify(datagram, address):
                    # It is known, and its address is right.
                    device = by_token[datagram[4 : 4 + (datagram[0] & 15)]].device
                    device.sockaddr = many.name(slot)
                else:
                    leave(datagram, address)
        finally:
            self.taken += taken
            self._uplink.sent += sent
        return posted

    def notify(self, datagram: bytes, address: Address) -> bool:
        """Take a datagram whose code is 2.05; False leaves it to the plain path."""
        first = datagram[0]
        if first & 0xE0 != 0x40:  # version 1; CON or NON
            return False
        at = 4 + (first & 15)
        observation = self._by_token.get(datagram[4:at])
        if observation is None:
            return False
        device = observation.device
        compiled = observation.compiled
        if device.address != address or compiled is None:
            return False
        try:
            option = datagram[at]
            if not 0x60 <= option <= 0x63:  # Observe, 0 to 3 bytes
                return False
            start = at + 1
            at += 1 + (option & 15)
            observe = datagram[start:at]
            options = at
            option = datagram[at]
            content_format = 0
            if 0x60 <= option <= 0x62:  # Content-Format, 0 to 2 bytes
                start = at + 1
                at += 1 + (option & 15)
                content_format = int.from_bytes(datagram[start:at], "big")
                option = datagram[at]
            if option != 0xFF:
                return False
        except IndexError:
            return False
        decoder = observation.decoders.get(content_format)
        if decoder is None:
            return False
        value = decoder(datagram[at + 1 :])
        if value is None:
            return False
        if len(datagram) > at + 8 and datagram[at + 1 : -8] in fronts(observation.path).get(content_format, ()):
            observation.front = datagram[options:-8]

        if not self._filled:
            self._begin_batch()
        mid = datagram[2:4]
        window = device.window
        found = window.find(mid)
        if found >= 0:
            mark = window.marks[found]
            if mark >= self.oldest:
                self.duplicates += 1
                if mark <= self.durable[device.partition] and not first & 0x10:
                    self._acknowledge(mid, address)
                return True
        if not self._open:
            self.refused += 1
            return True
        headers = [(HEADER_MID, mid), (HEADER_OBSERVE, observe)]
        if not observation.is_newer(int.from_bytes(observe, "big"), self._now):
            self.late += 1
            headers.append((HEADER_LATE, b"1"))
        partition = device.partition
        held = self._held[partition]
        if held is not None:
            self._send(partition, held)
        window.put(mid, self.batch)
        self._held[partition] = (
            device.key,
            compiled.encode(self._now_ms, value),
            headers,
            mid,
            None if first & 0x10 else address,
            device,
        )
        self.taken += 1
        if device.queue:
            self.awake.append(device)
        return True

    # What the plain path needs of the batch.

    def is_duplicate(self, device: Device, mid: bytes, address: Address, *, confirmable: bool) -> bool:
        """True for a message id that was taken lately; it is acknowledged again if it is durable."""
        if not self._filled:
            self._begin_batch()
        found = device.window.find(mid)
        if found < 0 or device.window.marks[found] < self.oldest:
            return False
        self.duplicates += 1
        if confirmable and device.window.marks[found] <= self.durable[device.partition]:
            self._acknowledge(mid, address)
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
        if not self._filled:
            self._begin_batch()
        if not self._open:
            self.refused += 1
            return False
        headers = [(HEADER_MID, mid), (HEADER_OBSERVE, observe or b"")]
        if observe is not None and not observation.is_newer(int.from_bytes(observe, "big"), self._now):
            self.late += 1
            headers.append((HEADER_LATE, b"1"))
        partition = device.partition
        more = [*headers, (HEADER_MORE, b"1")]
        several = len(values) > 1
        written = self._begun(device, mid, len(values)) if several else 0
        for number in range(written + 1, len(values) + 1):
            value = values[number - 1]
            last = number == len(values)
            held = self._held[partition]
            if held is not None and not self._send(partition, held) and number > written + 1:
                # All or nothing: without its last record a notification counts as never come.
                self._held[partition] = None
                self.begun[device.key, mid] = (self.batch, number - 2)
                return False
            self._held[partition] = (
                device.key,
                value,
                headers if last else more,
                mid,
                address if last else None,
                device,
            )
        if several:
            # The last may still be refused, when it is sent.
            self.begun[device.key, mid] = (self.batch, len(values) - 1)
        device.window.put(mid, self.batch)
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

    @property
    def now_ms(self) -> int:
        """The batch's time, epoch ms: that of its records."""
        if not self._filled:
            self._begin_batch()
        return self._now_ms

    def _begin_batch(self) -> None:
        self._filled = True
        self._open = self._uplink.accepting
        self._now = self._clock()
        self._now_ms = int(self._wall() * 1000)
        self._time = encoded_long(self._now_ms)
        while self._ages and self._now - self._ages[0][0] > EXCHANGE_LIFETIME:
            self.oldest = self._ages.popleft()[1] + 1

    def _send(self, partition: int, held: _Held) -> bool:
        """Queue a record that a later one of the batch will vouch for; False if Kafka's queue is full."""
        key, value, headers, mid, address, device = held
        if not self._uplink.send(self._topic, partition, key, value, headers, None):
            device.window.drop_one(mid)
            self.refused += 1
            return False
        if isinstance(address, bytes):
            if address:
                self._slots[partition].append(address)
        elif address is not None:
            self._acks[partition].append((mid, address))
        return True

    def flush(self) -> None:
        """End the batch: its last record of each partition carries the report for all."""
        if not self._filled:
            return
        self._filled = False
        patient = self.taken - self._taken_before < FEW
        self._taken_before = self.taken
        for partition, held in enumerate(self._held):
            if held is None:
                continue
            self._held[partition] = None
            key, value, headers, mid, address, device = held
            acks, slots = self._acks[partition], self._slots[partition]
            if isinstance(address, bytes):
                slots = [*slots, address] if address else slots
            elif address is not None:
                acks = [*acks, (mid, address)]
            if self._uplink.send(
                self._topic,
                partition,
                key,
                value,
                headers,
                self._reporter(partition, self.batch, acks, slots),
                patient=patient,
            ):
                self._acks[partition], self._slots[partition] = [], []
            else:
                # Those before it get their acknowledgement with the next report of the partition.
                device.window.drop_one(mid)
                self.refused += 1
        if self._ages and self._now <= self._ages[-1][0]:
            self._ages[-1] = (self._ages[-1][0], self.batch)
        else:
            self._ages.append((self._now + 1.0, self.batch))
        self.batch += 1

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
            acknowledge = self._acknowledge
            for mid, address in acks:
                acknowledge(mid, address)

        return done

    def _acknowledge(self, mid: bytes, address: Address) -> None:
        try:
            assert self._sendto is not None
            self._sendto(_ACK + mid, address)
        except OSError:
            pass  # lost like any datagram; the device sends the notification again

    def forget_undelivered(self, devices: list[Device]) -> None:
        """After a fatal error of the producer: what was under way is unknown again. Nothing may be under way.

        What is in Kafka all the same is to be read back, and marked `recovered` (in the windows, and in `begun`).
        """
        for device in devices:
            device.window.drop(self.durable[device.partition] + 1, self.batch)
        for acks, slots in zip(self._acks, self._slots, strict=True):
            acks.clear()
            slots.clear()
        self.begun.clear()
        self.recovered = self.batch
        self.durable = [self.batch] * len(self.durable)
        self._ages.append((self._clock() + 1.0, self.batch))
        self.batch += 1


_Reader = Callable[[Any, int], tuple[Any, ...]]


@cache
def _readers(name_size: int) -> list[_Reader | None]:
    """By the size of a datagram: reads a slot of `ManyDatagrams` as address, first byte, code, message id, a token of
    eight bytes, and the rest; None leaves it."""
    readers: list[_Reader | None] = [None] * (MAX_DATAGRAM + 1024)
    for size in range(_LEAST, _LARGEST + 1):
        readers[size] = Struct(f"{name_size}sBB2s8s{size - 12}s").unpack_from
    return readers
