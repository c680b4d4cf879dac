"""The short path of notifications: the hot loop of the gateway.

A confirmable or non-confirmable 2.05 of a known observation, on one single-instance number resource, in the usual shape
(Observe, perhaps Content-Format, payload) goes from datagram into the batch (`gateway.notification_batches`) here, with
no message object, task or future. Whatever is unusual is left to `gateway.notifications`, the plain path; a test holds
the two equal, byte for byte. Written for speed: what it gives up is generality, not checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any

from gateway.coap.many import ManyDatagrams, Slots
from gateway.coap.message import MAX_DATAGRAM
from gateway.coap.peers import Address, UdpAddress
from gateway.notification_batches import ACK, HEADER_LATE, HEADER_MID, HEADER_OBSERVE, NotificationBatches
from gateway.number_decoders import fronts
from gateway.observations import REORDER_SECONDS, Observation

if TYPE_CHECKING:
    from gateway.short_reads import Read

#: Sizes of the datagrams that `notify_all` looks at itself: header, token and more.
_LEAST, _LARGEST = 13, 128


class ShortPath:
    """Takes notifications of the observations in ``by_token`` into ``batches``."""

    def __init__(self, batches: NotificationBatches, by_token: dict[bytes, Observation]) -> None:
        self._batches = batches
        self._by_token = by_token
        #: The short path of reads: what devices were asked and have not answered yet, by token.
        self.reads: Mapping[bytes, Read] = {}

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
        batches = self._batches
        if not batches.is_filling:
            batches.begin()
        buffer, stride = many.buffer, many.stride
        readers = _readers(many.name_size)
        by_token, held, acks, reads = self._by_token, batches.held, batches.slots, self.reads
        uplink, topic = batches.uplink, batches.topic
        produce = uplink.produce
        batch, now, time_, is_open = batches.number, batches.now, batches.time, batches.is_open
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
                            batches.late += 1
                            headers.append((HEADER_LATE, b"1"))
                        partition = device.partition
                        before = held[partition]
                        if before is not None:
                            key, value, told, _, ack, _ = before
                            if type(ack) is bytes:
                                try:
                                    produce(topic, value, key, partition, None, None, 0, told)
                                except Exception:  # noqa: BLE001  # tried again where what it means is known
                                    batches.send(partition, before)
                                else:
                                    sent += 1
                                    if ack:
                                        acks[partition].append(ack)
                            else:
                                batches.send(partition, before)
                        window.put_new(mid, batch)
                        compiled = observation.compiled
                        held[partition] = (
                            device.key,
                            compiled.head + time_ + compiled.tail + rest[:-9:-1],  # type: ignore[union-attr]  # see front
                            headers,
                            mid,
                            b"" if first & 0x10 else name + ACK + mid,
                            device,
                        )
                        taken += 1
                        if device.queue:
                            batches.awake.append(device)
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
            batches.taken += taken
            uplink.sent += sent
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

        batches = self._batches
        if not batches.is_filling:
            batches.begin()
        mid = datagram[2:4]
        window = device.window
        found = window.find(mid)
        if found >= 0:
            mark = window.marks[found]
            if mark >= batches.oldest:
                batches.duplicates += 1
                if mark <= batches.durable[device.partition] and not first & 0x10:
                    batches.acknowledge(mid, address)
                return True
        if not batches.is_open:
            batches.refused += 1
            return True
        headers = [(HEADER_MID, mid), (HEADER_OBSERVE, observe)]
        if not observation.is_newer(int.from_bytes(observe, "big"), batches.now):
            batches.late += 1
            headers.append((HEADER_LATE, b"1"))
        partition = device.partition
        held = batches.held[partition]
        if held is not None:
            batches.send(partition, held)
        window.put(mid, batches.number)
        batches.held[partition] = (
            device.key,
            compiled.encode(batches.time_ms, value),
            headers,
            mid,
            None if first & 0x10 else address,
            device,
        )
        batches.taken += 1
        if device.queue:
            batches.awake.append(device)
        return True


_Reader = Callable[[Any, int], tuple[Any, ...]]


@cache
def _readers(name_size: int) -> list[_Reader | None]:
    """By the size of a datagram: reads a slot of `ManyDatagrams` as address, first byte, code, message id, a token of
    eight bytes, and the rest; None leaves it."""
    readers: list[_Reader | None] = [None] * (MAX_DATAGRAM + 1024)
    for size in range(_LEAST, _LARGEST + 1):
        readers[size] = Struct(f"{name_size}sBB2s8s{size - 12}s").unpack_from
    return readers
