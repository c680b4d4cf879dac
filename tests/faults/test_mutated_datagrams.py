"""200,000 mutated datagrams: the gateway lives, grows little, answers the next good request."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster
from headwater.demo.audit import read_side
from schemas.avro.records import ReadBody, RequestKind, ResponseCode
from tests.faults.mutate import mutated, valid
from tests.raw_device import RawDevice
from tests.way import Gateway, Sensors, compare, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

DATAGRAMS = 200_000
#: So many go without a look at whether the gateway keeps up; they fit its socket's buffer.
BURST = 200
MOST_GROWTH = 20 << 20
#: In bytes. A kind of line is written some times in ten seconds, however often there is reason to.
MOST_LOG = 128 << 10
SEED = 2_301


def test_a_gateway_outlives_200_000_mutated_datagrams(kafka: Cluster, gateway_id: str, tmp_path: Path) -> None:
    gateway = Gateway(gateway_id, kafka, tmp_path, observe=("/3303/*/5700",))
    chance = random.Random(SEED)
    with (
        gateway,
        Sensors(gateway.address, tmp_path, "--count", "2", "--period", "0.5") as sensors,
        RawDevice(gateway.address, "hostile") as hostile,
        RawDevice(gateway.address, "stranger") as stranger,
    ):
        gateway.wait_ready()
        hostile.register()
        hostile.wait_observed("/3303/0/5700")
        until("all observations", lambda: gateway.metric("observations") == 5)
        sensors.wait_for_all(2)
        # Its real token reaches the notification short path; a stranger's datagrams have to do without.
        tokens = (hostile.observed["/3303/0/5700"], b"\x01")
        sources = {hostile: mutated(SEED, valid(tokens)), stranger: mutated(SEED + 1, valid(tokens))}
        named: list[bytes] = []
        _warm_up(gateway, hostile)
        before, taken = gateway.rss, gateway.metric("datagrams_total")
        _send(gateway, sources, named, chance, DATAGRAMS)
        assert gateway.metric("datagrams_total") - taken > 0.99 * DATAGRAMS
        grown = gateway.rss - before
        assert grown < MOST_GROWTH, f"the gateway grew by {grown >> 20} MiB"
        assert gateway.metric("datagrams_dropped_total", reason="internal error") == 0
        size = gateway.log.stat().st_size
        assert size < MOST_LOG, f"the gateway wrote {size:,} bytes:\n{gateway.said()}"

        # The next good request is answered with the first datagram.
        with RawDevice(gateway.address, "newcomer") as newcomer:
            newcomer.register()
            newcomer.wait_observed("/3303/0/5700")
        sensors.wait_for_all(2)
        gateway.request("sensor-1", "after", RequestKind.READ, "/3/0/0")
        reply = gateway.reply("after")
        assert reply.rep.code is ResponseCode.CONTENT
        assert isinstance(reply.rep.body, ReadBody)
        registered = gateway.new_registrations()
        assert registered["sensor-1"] == registered["sensor-2"] == 1
        # Nobody is registered but by the name that some datagram said.
        for ep in set(registered) - {"sensor-1", "sensor-2", "hostile", "newcomer", "warm"}:
            assert any(b"ep=" + ep.encode() in datagram for datagram in named), ep

        sensors.kill()
        # Every record that was made of a mutated datagram can be read.
        stored = read_side(kafka, gateway.topics.uplink)
        assert all(one.record is not None for one in stored if one.topic != gateway.topics.deadletter)
        compare(sensors.entries(), [one for one in stored if _ep(one.record) != "hostile"])


def _warm_up(gateway: Gateway, device: RawDevice) -> None:
    """Some good exchanges of each kind, so that what a gateway loads with the first of them is there."""
    for number in range(5):
        device.ping()
        assert device.tell("/3303/0/5700", 2 + number, 21.5)
        device.update("lt=600")
        gateway.request("hostile", f"warm-{number}", RequestKind.READ, "/3303/0/5700")
        assert gateway.reply(f"warm-{number}").rep.code is ResponseCode.CONTENT
        assert device.ask(Code.GET, (".well-known", "core")).code in (Code.CONTENT, Code.UNAUTHORIZED)
        with RawDevice(gateway.address, "warm") as passing:
            passing.register()
            passing.ask(Code.DELETE, passing.location)


def _ep(record: object) -> str:
    return getattr(record, "ep", "")


def _send(
    gateway: Gateway, sources: dict[RawDevice, Iterator[bytes]], named: list[bytes], chance: random.Random, count: int
) -> None:
    """Send ``count`` datagrams of the sources; those that say an endpoint name are kept in ``named``."""
    senders = list(sources)
    for _ in range(count // BURST):
        sender = chance.choice(senders)
        for datagram in islice(sources[sender], BURST):
            sender.send(datagram)
            if b"ep=" in datagram:
                named.append(datagram)
        sender.ping()
    assert gateway.runs
