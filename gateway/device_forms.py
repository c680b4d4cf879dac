"""A device as others keep it: its place in Kafka, its row in the state file, the record of its registration."""

from __future__ import annotations

import json
import zlib
from functools import lru_cache

from gateway.coap.peers import Address, SecurePeer, peer_of, udp_address
from gateway.registration import Announcement, parse_announcement
from gateway.registry import Device, KafkaPlace
from gateway.state import StoredRegistration
from gateway.uplink import Uplink
from schemas.avro import serde
from schemas.avro.compiled import encode_links, encode_new
from schemas.avro.records import Binding, Key, RegistrationNew


def kafka_place(ep: str, uplink: Uplink) -> KafkaPlace:
    """Where a device's records go, by CRC-32 of the key as librdkafka's own partitioner does."""
    return _place(ep, *uplink.device_partitions)


@lru_cache(maxsize=16384)
def _place(ep: str, observations: int, registrations: int, replies: int) -> KafkaPlace:
    key = serde.encode(Key(ep=ep))
    checksum = zlib.crc32(key)
    return KafkaPlace(
        key=key,
        observations=checksum % observations,
        registrations=checksum % registrations,
        replies=checksum % replies,
    )


def stored(device: Device) -> StoredRegistration:
    """A device as the state file keeps it."""
    return StoredRegistration(
        ep=device.ep,
        reg_id=device.reg_id,
        address=device.at[0],
        port=device.at[1],
        identity=identity_of(device.address),
        lifetime=device.lifetime,
        version=device.version,
        binding=device.binding.value,
        sms=device.sms,
        root=device.announcement.root,
        links_text=device.announcement.text.encode(),
        attributes=json.dumps(dict(device.attributes)) if device.attributes else "{}",
        queue=device.queue,
        reg_date_ms=device.reg_date,
        last_up_ms=device.last_up,
        behind=device.behind,
        prefix=device.prefix or None,
    )


def restored(row: StoredRegistration, uplink: Uplink) -> Device:
    """A device from the state file; one behind a gateway does not know it yet."""
    at = udp_address(row.address, row.port)
    return Device(
        ep=row.ep,
        reg_id=row.reg_id,
        # No session outlives the gateway; the device makes another. A security context does.
        address=at if row.identity is None else peer_of(row.identity, at),
        lifetime=row.lifetime,
        version=row.version,
        binding=Binding(row.binding),
        queue=row.queue,
        sms=row.sms,
        announcement=parse_announcement(row.links_text),
        attributes=json.loads(row.attributes),
        reg_date=row.reg_date_ms,
        last_up=row.last_up_ms,
        place=kafka_place(row.ep, uplink),
        behind=row.behind,
        prefix=row.prefix or "",
    )


def behind_attributes(gateway: str, prefix: str) -> dict[str, str]:
    """What the record of a device behind a gateway says of that, among its attributes."""
    return {"gateway": gateway, "prefix": prefix}


def identity_of(address: Address) -> str | None:
    """What a device over DTLS or with OSCORE has shown; None for one that speaks in the clear."""
    return address.identity if isinstance(address, SecurePeer) else None


def registered(device: Device, server_id: str, local_address: tuple[str, int]) -> bytes:
    """The record of its registration; ``local_address`` is where the gateway listens.

    Raises:
        InvalidRecord: a text or a number fits no record.
    """
    new = RegistrationNew(
        ep=device.ep,
        server_id=server_id,
        reg_date=device.reg_date,
        address=device.at[0],
        port=device.at[1],
        reg_addr=local_address[0],
        reg_port=local_address[1],
        lt=device.lifetime,
        ver=device.version,
        bnd=device.binding,
        reg_id=device.reg_id,
        links=device.announcement.links,
        root=device.announcement.root,
        last_up=device.last_up,
        sms=device.sms,
        attributes=device.attributes or None,
    )
    return encode_new(new, _links(device.announcement))


def _links(said: Announcement) -> bytes:
    return _remembered_links(said.text) if said.common else encode_links(said.links)


@lru_cache(maxsize=1024)
def _remembered_links(announced: str) -> bytes:
    return encode_links(parse_announcement(announced.encode()).links)
