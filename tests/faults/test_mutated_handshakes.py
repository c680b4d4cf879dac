"""Mutations of real traffic on both ports: the gateway lives, grows and logs little, and lets the next device in."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka import Cluster
from schemas.avro.records import RequestKind, ResponseCode
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Psk
from security.credentials.store import Put
from tests.certificate_device import CertificateDevice
from tests.certificates import issue
from tests.faults.mutate import MUTATIONS, mutated
from tests.integration.test_coaps_certificates import Plant
from tests.raw_device import RawDevice
from tests.secure_device import SecureDevice
from tests.way import Gateway

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

DATAGRAMS = 60_000
#: So many go without a look at whether the gateway keeps up; they fit its sockets' buffers.
BURST = 100
MOST_GROWTH = 20 << 20
#: In bytes. A kind of line is written some times in ten seconds, however often there is reason to.
MOST_LOG = 128 << 10
SEED = 5_684
KEY = b"sixteen byte key"
TEMPERATURE = "/3303/0/5700"


class _Recorder:
    """A device's socket that keeps what goes out."""

    def __init__(self, real: socket.socket, tape: list[bytes]) -> None:
        self._real, self._tape = real, tape

    def sendto(self, datagram: bytes, address: tuple[str, int]) -> int:
        self._tape.append(datagram)
        return self._real.sendto(datagram, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Plain(RawDevice):
    """In the clear; ``tape`` has what it and its kind have said."""

    tape: list[bytes] = []  # noqa: RUF012  # one for all of a kind

    def _open(self) -> None:
        super()._open()
        self.real_socket = self._socket
        self._socket = _Recorder(self._socket, self.tape)  # type: ignore[assignment]


class Keyed(SecureDevice, Plain):
    tape: list[bytes] = []  # noqa: RUF012


class Certified(CertificateDevice, Plain):
    tape: list[bytes] = []  # noqa: RUF012


def _spoilt(chance: random.Random, real: Sequence[bytes]) -> Iterator[bytes]:
    ways = list(MUTATIONS.values())
    while True:
        datagram = chance.choice(real)
        for _ in range(chance.randint(0, 3)):
            datagram = chance.choice(ways)(datagram, chance)
        yield datagram[:4096]


def _live(device: RawDevice) -> None:
    """All that a device says in its life, but its last word."""
    device.register("b=U")
    device.wait_observed(TEMPERATURE)
    assert device.tell(TEMPERATURE, 2, 21.5)
    device.update("lt=600")


def test_a_gateway_outlives_mutations_of_real_traffic_on_both_ports(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    plant, now = Plant(tmp_path), datetime.now(UTC)
    keyed = [f"keyed-{number}" for number in range(3)]
    plant.store.put([Psk(endpoint=ep, created=now, identity=ep.encode(), key=KeyBytes(KEY)) for ep in keyed], Put.NEW)
    holders = {f"certified-{number}": issue(f"certified-{number}") for number in range(3)}
    plant.store.put([plant.credential(ep, holder) for ep, holder in holders.items()], Put.NEW)
    plant.store.close()
    more = ("--coaps-cert", str(plant.certificate), "--coaps-key", str(plant.key))
    gateway = Gateway(gateway_id, kafka, tmp_path, *more, observe=("/3303/*/5700",), credentials=plant.path)

    def certified(ep: str) -> Certified:
        return Certified(gateway.secure_address, ep, holders[ep], plant.authority)

    with gateway, ExitStack() as stack:
        gateway.wait_ready()
        plain = stack.enter_context(Plain(gateway.address, "plain-0"))
        devices = [
            plain,
            stack.enter_context(Keyed(gateway.secure_address, "keyed-0", KEY)),
            stack.enter_context(certified("certified-0")),
        ]
        for device in devices:
            _live(device)
        # Resumptions are on the tape too, and so is an end of a session.
        hostile = stack.enter_context(Keyed(gateway.secure_address, "keyed-1", KEY, cid=b"ab"))
        _live(hostile)
        assert hostile.client is not None
        hostile.connect(ticket=hostile.client.take_ticket())
        stack.enter_context(certified("certified-2")).connect(resumes=True)
        hostile.listening = False

        chance = random.Random(SEED)
        strangers = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(8)]
        secure = _spoilt(chance, [*Keyed.tape, *Certified.tape])
        clear = _spoilt(chance, Plain.tape)
        inside = mutated(SEED, None)

        def burst() -> None:
            match chance.randrange(4):
                case 0:
                    sender, source, to = chance.choice(strangers), clear, gateway.address
                case 1:
                    # Its address has the cookies that are on the tape.
                    sender, source, to = hostile.real_socket, secure, gateway.secure_address
                case 2:
                    for datagram in islice(inside, BURST):
                        hostile.send(datagram)
                    return
                case _:
                    sender, source, to = chance.choice(strangers), secure, gateway.secure_address
            for datagram in islice(source, BURST):
                sender.sendto(datagram, to)

        def flood(count: int) -> None:
            for _ in range(count // BURST):
                burst()
                for device in devices:
                    device.ping()
            assert gateway.runs

        # Good exchanges of each kind were before it, a few of each: what they make a gateway load is there.
        for _ in range(4):
            for device in devices:
                device.ping()
                device.update("lt=600")
        before = gateway.rss
        flood(DATAGRAMS)
        grown = gateway.rss - before
        assert grown < MOST_GROWTH, f"the gateway grew by {grown >> 20} MiB"
        assert gateway.metric("datagrams_dropped_total", reason="internal error") == 0
        size = gateway.log.stat().st_size
        assert size < MOST_LOG, f"the gateway wrote {size:,} bytes:\n{gateway.said()}"

        # In the clear anybody can say a device's name, and did: it says so itself again. Who was in with a key or a
        # certificate is in, and whoever comes gets in.
        plain.observed.clear()
        _live(plain)
        devices.append(stack.enter_context(Plain(gateway.address, "plain-1")))
        devices.append(stack.enter_context(Keyed(gateway.secure_address, "keyed-2", KEY)))
        devices.append(stack.enter_context(certified("certified-1")))
        for device in devices[-3:]:
            _live(device)
        for device in devices:
            assert device.tell(TEMPERATURE, 9, 22.5)
            gateway.request(device.ep, f"after-{device.ep}", RequestKind.READ, TEMPERATURE)
            assert gateway.reply(f"after-{device.ep}").rep.code is ResponseCode.CONTENT
