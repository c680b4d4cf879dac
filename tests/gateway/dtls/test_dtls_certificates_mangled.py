"""Flights that are mangled on their way to the server with certificates: nothing is raised, and others get in."""

from __future__ import annotations

import random
from pathlib import Path

from OpenSSL import SSL

from gateway.dtls.events import Established, Send
from gateway.dtls.session import Address
from gateway.dtls_certificates.context import CertificateContext, ServerCertificate
from gateway.dtls_certificates.server import CertificateServer
from gateway.dtls_certificates.settings import Settings
from tests.certificates import Holder, dtls_client, issue


def _mangled(datagram: bytes, chance: random.Random) -> bytes:
    made = bytearray(datagram)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(made))
        match chance.randrange(3):
            case 0:
                made[at] = chance.randrange(256)
            case 1 if len(made) > 16:
                del made[at : at + chance.randrange(1, 9)]
            case _:
                made[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(made)


def _get_in(
    server: CertificateServer, holder: Holder, address: Address, now: float, chance: random.Random | None
) -> bool:
    """A handshake; one of its flights comes mangled before it comes as it is."""
    client, is_in = dtls_client(holder), False
    worst = None if chance is None else chance.randrange(4)
    for step in range(5):
        try:
            client.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error:
            return is_in
        try:
            flight = client.bio_read(1 << 16)
        except SSL.Error:
            return is_in
        events = []
        if chance is not None and step == worst:
            for _ in range(3):
                events += server.receive(_mangled(flight, chance), address, now)
        events += server.receive(flight, address, now)
        for event in events:
            if isinstance(event, Send):
                client.bio_write(event.datagram)
            is_in = is_in or isinstance(event, Established)
    return is_in


def test_mangled_flights_raise_nothing_and_leave_nothing(tmp_path: Path) -> None:
    authority = issue("plant", is_authority=True)
    own = ServerCertificate(*issue("gateway", authority).write(tmp_path, "gateway"))
    server = CertificateServer(
        CertificateContext(own, lambda _: True), lambda _: True, Settings(most_handshakes=16, most_sessions=20)
    )
    server.trust([authority.der])
    holder, chance = issue("sensor-1", authority), random.Random(7)
    got_in = 0
    for number in range(600):
        address = ("127.0.0.1", chance.randrange(1, 40))
        got_in += _get_in(server, holder, address, float(number), chance)
        server.tick(float(number))
        assert server.open_handshakes <= 16
        assert server.open_sessions <= 20
    # A record that was mangled in the clear may end a handshake of OpenSSL's; most go on all the same.
    assert got_in > 300
    assert _get_in(server, holder, ("127.0.0.1", 99), 600.0, None)
    server.tick(700.0)
    assert server.open_handshakes == 0
