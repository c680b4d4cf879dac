"""The surfaces with something to keep from one datagram to the next: notifications, and DTLS on both sides.

An input to DTLS is either a datagram (its first byte is even), or edits on the way of a real handshake: behind the
first byte three bytes each, which datagram, where in it, and what stands there then. So inputs get behind the cookie,
and into messages whose lengths and numbers are right, which mere bytes do not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path as FilePath
from typing import Any

from OpenSSL import SSL

from gateway.coap.message import Malformed, parse
from gateway.dtls.client import Client as OurClient
from gateway.dtls.client_events import Connected
from gateway.dtls.events import Established, Received, Send
from gateway.dtls.server import Server
from gateway.dtls.session import Address
from gateway.dtls.settings import Settings
from gateway.dtls_certificates.context import CertificateContext, ServerCertificate
from gateway.dtls_certificates.server import CertificateServer
from gateway.dtls_certificates.settings import Settings as CertificateSettings
from schemas.avro import serde
from schemas.lwm2m.formats import ContentFormat, encode
from tests.certificates import dtls_client, issue
from tests.fuzz.surfaces import DEFINITIONS, NODES, Surface
from tests.gateway.dtls.dtls_client import Client
from tests.gateway.dtls.dtls_link import KEY
from tests.gateway.dtls.dtls_pair import Pair, told
from tests.gateway.test_short_path import PEER, Bench, notification

STRANGER: Address = ("198.51.100.7", 40000)
LIVE: Address = ("192.0.2.9", 5684)
_MOST_DATAGRAMS = 40


class _Blocks(Bench):
    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        work.close()  # the rest of a notification in blocks is not fetched here


def notifications() -> Surface:
    """Notifications of an observed number, on the short path and on the plain one behind it."""
    bench = _Blocks()
    bench.observe(bench.device())

    def take(data: bytes) -> bool:
        bench.now += 300.0  # what came before is no duplicate any more, and no newer one either
        try:
            is_response = parse(data).is_response
        except Malformed:
            # The short path comes before the parser, and leaves to it what it does not know.
            assert not (len(data) > 4 and data[1] == 0x45 and bench.short.notify(data, PEER))
            return False
        if not is_response:
            return False  # the endpoint hands it to others
        bench.take(data)
        bench.batches.flush()
        bench.uplink.report()
        taken = bool(bench.uplink.records)
        for topic, _, _, value, _ in bench.uplink.records:
            if topic != bench.uplink.topics.deadletter:
                serde.decode(value)
        for kept in (bench.uplink.records, bench.acks, bench.ended):
            kept.clear()
        return taken

    formats = (ContentFormat.TEXT, ContentFormat.TLV, ContentFormat.SENML_JSON, ContentFormat.SENML_CBOR)
    good = tuple(
        notification(number, content_format=int(fmt), payload=encode(fmt, NODES[0], DEFINITIONS))
        for number, fmt in enumerate(formats, start=1)
    )
    return Surface(take=take, good=good)


def _edits(data: bytes) -> dict[int, list[tuple[int, int]]]:
    """By the number of a datagram: where, and what stands there then."""
    found: dict[int, list[tuple[int, int]]] = {}
    for at in range(1, len(data) - 2, 3):
        found.setdefault(data[at] % 8, []).append((data[at + 1], data[at + 2]))
    return found


def _edited(datagram: bytes, edits: list[tuple[int, int]]) -> bytes:
    made = bytearray(datagram)
    for at, value in edits:
        if at < len(made):
            made[at] = value
    return bytes(made)


def _clock() -> Iterator[float]:
    now = 1000.0
    while True:
        now += 100.0  # handshakes that were left are forgotten by then
        yield now


def keys() -> Surface:
    """The server with pre-shared keys, while a device is in session."""
    server = Server({b"dev": KEY, b"live": KEY}.get, Settings(most_handshakes=8, most_sessions=8, most_resumable=8))
    clock = _clock()

    def handshake(client: Client, address: Address, now: float, edits: dict[int, list[tuple[int, int]]]) -> bool:
        waiting, number, is_in = client.start(), 0, False
        while waiting and number < _MOST_DATAGRAMS:
            datagram = _edited(waiting.pop(0), edits.get(number, []))
            number += 1
            for event in server.receive(datagram, address, now):
                if isinstance(event, Send):
                    waiting += client.hear(event.datagram)
                is_in = is_in or isinstance(event, Established)
        return is_in

    def take(data: bytes) -> bool:
        now = next(clock)
        server.tick(now)
        live = Client(identity=b"live", cid=b"")
        assert handshake(live, LIVE, now, {})
        if data and data[0] & 1:
            is_in = handshake(Client(cid=b"ab" if data[0] & 2 else None), STRANGER, now, _edits(data))
        else:
            is_in = False
            for address in (STRANGER, LIVE):
                is_in = any(isinstance(one, Received | Established) for one in server.receive(data[1:], address, now))
        # Whatever came, also from its own address: who is in stays in.
        assert any(isinstance(one, Received) for one in server.receive(live.send(b"still here"), LIVE, now))
        assert server.open_handshakes <= 8 and server.open_sessions <= 8
        return is_in

    return Surface(take=take, good=(b"\x01", b"\x03"), tries=100)


def client() -> Surface:
    """The client with a pre-shared key, against a server whose datagrams are edited as they come."""

    def take(data: bytes) -> bool:
        pair = Pair(OurClient(b"dev", KEY, Settings()), Server({b"dev": KEY}.get, Settings()))
        edits = _edits(data) if data and data[0] & 1 else {}
        pair.connect()
        for number in range(8):
            if pair.way and not pair.way[0][2]:
                pair.take(pair.client.receive(_edited(pair.way[0][3], edits.get(number, [])), pair.now))
                if not data or not data[0] & 1:
                    pair.take(pair.client.receive(data[1:], pair.now))
            pair.run(0.0011)
        is_in = bool(told(Connected, pair.events))
        pair.run(200.0)
        if not pair.client.is_open:
            pair.connect()
            pair.run(5.0)
        assert pair.client.is_open
        return is_in

    return Surface(take=take, good=(b"\x01", b"\x00garbage"), tries=100)


def certificates() -> Surface:
    """The server with certificates, while a device is in session, which a stranger may try to resume."""
    authority = issue("plant", is_authority=True)
    with tempfile.TemporaryDirectory() as folder:
        own = ServerCertificate(*issue("gateway", authority).write(FilePath(folder), "gateway"))
        context = CertificateContext(own, lambda _: True)
    server = CertificateServer(context, lambda _: True, CertificateSettings(most_handshakes=8, most_sessions=8))
    server.trust([authority.der])
    holder = issue("sensor-1", authority)
    clock = _clock()

    def handshake(
        address: Address, now: float, edits: dict[int, list[tuple[int, int]]], before: SSL.Connection | None = None
    ) -> SSL.Connection | None:
        line, number, is_in = dtls_client(holder, before), 0, False
        for _ in range(6):
            try:
                line.do_handshake()
            except SSL.WantReadError:
                pass
            except SSL.Error:
                break
            try:
                flight = line.bio_read(1 << 16)
            except SSL.Error:
                break
            while flight:
                end = 13 + int.from_bytes(flight[11:13], "big")
                datagram, flight = _edited(flight[:end], edits.get(number, [])), flight[end:]
                number += 1
                for event in server.receive(datagram, address, now):
                    if isinstance(event, Send):
                        line.bio_write(event.datagram)
                    is_in = is_in or isinstance(event, Established)
        return line if is_in else None

    def take(data: bytes) -> bool:
        now = next(clock)
        server.tick(now)
        live = handshake(LIVE, now, {})
        assert live is not None
        if data and data[0] & 1:
            is_in = handshake(STRANGER, now, _edits(data), live if data[0] & 2 else None) is not None
        else:
            is_in = False
            for address in (STRANGER, LIVE):
                is_in = any(isinstance(one, Received | Established) for one in server.receive(data[1:], address, now))
        live.send(b"still here")
        said = live.bio_read(1 << 14)
        assert any(isinstance(one, Received) for one in server.receive(said, LIVE, now))
        assert server.open_handshakes <= 8 and server.open_sessions <= 8
        return is_in

    return Surface(take=take, good=(b"\x01", b"\x03"), tries=60)
