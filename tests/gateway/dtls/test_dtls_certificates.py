"""DTLS with certificates against OpenSSL's client over UDP: who gets in, who does not and hears why, what is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.access import Access
from gateway.certificate_proof import proof_of
from gateway.dtls.events import Closed, Ending, Established, Received, Send
from gateway.dtls.greeting import suites_offered
from gateway.dtls.messages import HandshakeType
from gateway.dtls_certificates.context import CertificateContext, ServerCertificate
from gateway.dtls_certificates.server import CertificateServer
from gateway.dtls_certificates.settings import Settings
from security.credentials.kinds import X509, CertificateUsage
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.certificates import Holder, issue
from tests.gateway.dtls.dtls_link import HERE, of
from tests.gateway.dtls.dtls_udp_server import UdpServer

pytestmark = pytest.mark.interop

CCM_8, GCM = "ECDHE-ECDSA-AES128-CCM8", "ECDHE-ECDSA-AES128-GCM-SHA256"
#: Of the alerts (RFC 5246 section 7.2), as OpenSSL's client names them. The third is what OpenSSL has for a refusal
#: that is none of its own.
EXPIRED, UNKNOWN_CA, UNKNOWN, NO_CERTIFICATE = (
    "certificate expired",
    "unknown ca",
    "internal error",
    "handshake failure",
)


class Site:
    """A gateway's certificate and store, and OpenSSL's client as devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = issue("factory", is_authority=True)
        self.store = SqliteCredentials(folder / "credentials.db", make=True)
        self._number = 0

    def add(
        self,
        endpoint: str,
        holder: Holder,
        usage: CertificateUsage = CertificateUsage.DOMAIN_ISSUED_CERTIFICATE,
        subject: str | None = None,
    ) -> None:
        made = X509(endpoint=endpoint, created=datetime.now(UTC), certificate=holder.der, usage=usage, subject=subject)
        self.store.put([made], Put.ALL)

    def server(self, settings: Settings | None = None, *, told: Holder | None = None) -> CertificateServer:
        access = Access(self.store, has_certificates=True)
        certificate, key = issue("gateway", self.authority).write(self.folder, "gateway")
        authorities = None if told is None else told.write(self.folder, "told")[0]
        own = ServerCertificate(certificate, key, authorities)
        made = CertificateServer(CertificateContext(own, access.admits), access.admits, settings)
        made.trust(access.anchors())
        return made

    def client(
        self, port: int, holder: Holder | None, *more: str, cipher: str = CCM_8, chain: Holder | None = None
    ) -> subprocess.Popen[bytes]:
        openssl = shutil.which("openssl")
        assert openssl is not None, "OpenSSL's command line is not here: as root, `apt-get install openssl`"
        self._number += 1
        command = [openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}", *more]
        command += ["-cipher", f"{cipher}:@SECLEVEL=0", "-verify_return_error"]
        command += ["-CAfile", str(self.authority.write(self.folder, "authority")[0])]
        if holder is not None:
            certificate, key = holder.write(self.folder, f"device-{self._number}")
            command += ["-cert", str(certificate), "-key", str(key)]
        if chain is not None:
            command += ["-cert_chain", str(chain.write(self.folder, f"chain-{self._number}")[0])]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def gets_in(
        self, udp: UdpServer[CertificateServer], holder: Holder, *, cipher: str = CCM_8, chain: Holder | None = None
    ) -> None:
        """A session, a line there and back, and its end."""
        before = len(of(Closed, udp.events))
        process = self.client(udp.port, holder, cipher=cipher, chain=chain)
        assert process.stdin is not None
        try:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            until(lambda: any(event.data == b"hello\n" for event in of(Received, udp.events)))
            time.sleep(0.1)
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
        assert process.returncode == 0, said
        assert b"echo hello\n" in said
        assert f"Cipher is {cipher}".encode() in said
        until(lambda: len(of(Closed, udp.events)) > before)
        assert of(Closed, udp.events)[-1].ending is Ending.CLOSE_NOTIFY
        udp.events[:] = [event for event in udp.events if not isinstance(event, Received)]

    def hears(self, udp: UdpServer[CertificateServer], holder: Holder | None, *, chain: Holder | None = None) -> str:
        """What alert a device gets that does not get in."""
        process = self.client(udp.port, holder, chain=chain)
        try:
            said, _ = process.communicate(timeout=30)
        finally:
            process.kill()
        assert not of(Established, udp.events)
        assert process.returncode != 0, said
        alerts = [line for line in said.decode().splitlines() if "alert" in line and "SSL alert number" in line]
        assert alerts, said.decode()
        return alerts[0]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def until(true: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("cipher", [CCM_8, GCM])
def test_certificate_that_is_known_itself_gets_in(site: Site, cipher: str) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    with UdpServer(site.server()) as udp:
        site.gets_in(udp, device, cipher=cipher)
        (established,) = of(Established, udp.events)
        proof = proof_of(established.session.identity.decode())
        assert proof is not None
        assert (proof.names, proof.signers, proof.is_vetted) == (("sensor-1",), (), False)
        assert not udp.server.dropped
        assert udp.server.open_sessions == udp.server.open_handshakes == 0


def test_certificate_of_a_known_signer_gets_in(site: Site) -> None:
    site.add("sensor-*", site.authority, CertificateUsage.TRUST_ANCHOR_ASSERTION)
    with UdpServer(site.server()) as udp:
        site.gets_in(udp, issue("sensor-1", site.authority))
        site.gets_in(udp, issue("", site.authority, alternatives=("sensor-2",)))


def test_signer_need_not_be_a_root(site: Site) -> None:
    line = issue("line 7", site.authority, is_authority=True)
    site.add("sensor-1", line, CertificateUsage.TRUST_ANCHOR_ASSERTION)
    with UdpServer(site.server()) as udp:
        site.gets_in(udp, issue("sensor-1", line))


def test_device_sends_what_is_between_it_and_its_signer(site: Site) -> None:
    line = issue("line 7", site.authority, is_authority=True)
    site.add("sensor-2", site.authority, CertificateUsage.TRUST_ANCHOR_ASSERTION)
    with UdpServer(site.server()) as udp:
        site.gets_in(udp, issue("sensor-2", line), chain=line)


def test_constraint_to_a_signer_below_the_authority(site: Site) -> None:
    line, other = (issue(f"line {number}", site.authority, is_authority=True) for number in (7, 8))
    site.add("sensor-*", line, CertificateUsage.CA_CONSTRAINT)
    with UdpServer(site.server(told=site.authority)) as udp:
        assert UNKNOWN in site.hears(udp, issue("sensor-1", other), chain=other)
        site.gets_in(udp, issue("sensor-1", line), chain=line)


@pytest.mark.parametrize(
    "usage", [CertificateUsage.CA_CONSTRAINT, CertificateUsage.SERVICE_CERTIFICATE_CONSTRAINT], ids=["ca", "own"]
)
def test_constraints_ask_for_an_authority_that_the_gateway_was_told(site: Site, usage: CertificateUsage) -> None:
    device = issue("sensor-1", site.authority)
    site.add("sensor-1", site.authority if usage.is_anchor else device, usage)
    with UdpServer(site.server(told=issue("another", is_authority=True))) as udp:
        assert UNKNOWN in site.hears(udp, device)
    with UdpServer(site.server(told=site.authority)) as udp:
        site.gets_in(udp, device)


def test_who_does_not_get_in_hears_why_and_is_counted(site: Site) -> None:
    late, early = issue("sensor-1", days=-1), issue("sensor-2")
    site.add("sensor-1", late)
    site.add("sensor-2", early)
    site.add("press-*", site.authority, CertificateUsage.TRUST_ANCHOR_ASSERTION)
    stranger = issue("stranger", is_authority=True)
    with UdpServer(site.server()) as udp:
        assert EXPIRED in site.hears(udp, late)
        assert EXPIRED in site.hears(udp, issue("press-1", site.authority, days=-1))
        assert UNKNOWN_CA in site.hears(udp, issue("press-1", stranger))
        assert UNKNOWN in site.hears(udp, issue("press-1", stranger), chain=stranger)
        assert UNKNOWN in site.hears(udp, issue("lathe-1", site.authority))
        # The name is right, the key is another.
        assert UNKNOWN_CA in site.hears(udp, issue("sensor-2"))
        assert NO_CERTIFICATE in site.hears(udp, None)
        # The answers of those who were refused are to nobody.
        del udp.server.dropped["no session"]
        assert udp.server.dropped == {"certificate expired": 2, "certificate of nobody": 4, "handshake failed": 1}
        assert udp.server.open_handshakes == 0
        site.gets_in(udp, early)


def test_session_ends_when_its_credential_is_removed(site: Site) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    with UdpServer(site.server()) as udp:
        process = site.client(udp.port, device)
        until(lambda: bool(of(Established, udp.events)))
        assert site.store.remove([X509(endpoint="sensor-1", created=datetime.now(UTC), certificate=device.der).id])
        access = Access(site.store, has_certificates=True)
        for session, send in udp.server.revoke(access.is_revoked):
            assert not session.open
            udp.send(send.datagram, send.address)
        said, _ = process.communicate(timeout=30)
        assert b"closed" in said.lower()
        assert udp.server.open_sessions == 0


def test_session_ends_with_its_certificate(site: Site) -> None:
    device = issue("sensor-1", days=1 / 86_400 * 3)
    site.add("sensor-1", device)
    with UdpServer(site.server()) as udp:
        process = site.client(udp.port, device)
        until(lambda: bool(of(Closed, udp.events)))
        assert of(Closed, udp.events)[0].ending is Ending.EXPIRED
        process.communicate(timeout=30)


def test_longest_silent_goes_when_there_are_too_many(site: Site) -> None:
    devices = [issue(f"sensor-{number}") for number in range(3)]
    for number, device in enumerate(devices):
        site.add(f"sensor-{number}", device)
    with UdpServer(site.server(Settings(most_sessions=2))) as udp:
        processes = []
        for number, device in enumerate(devices, start=1):
            processes.append(site.client(udp.port, device))
            until(lambda wanted=number: len(of(Established, udp.events)) == wanted)  # type: ignore[misc]
        assert udp.server.open_sessions == 2
        (closed,) = of(Closed, udp.events)
        assert closed.ending is Ending.EVICTED
        assert closed.session is of(Established, udp.events)[0].session
        # It was told.
        processes[0].communicate(timeout=30)
        for process in processes[1:]:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("comes_in", [True, False], ids=["to the server", "to OpenSSL"])
@pytest.mark.parametrize("number", range(6))
def test_openssl_gets_over_a_lost_datagram(site: Site, number: int, comes_in: bool) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    with UdpServer(site.server(), lambda which, way: which == number and way == comes_in) as udp:
        process = site.client(udp.port, device)
        try:
            until(lambda: bool(of(Established, udp.events)))
        finally:
            process.kill()
            process.communicate()


def _hello(site: Site) -> bytes:
    """A first ClientHello of OpenSSL's."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        process = site.client(listener.getsockname()[1], None)
        try:
            return listener.recv(4096)
        finally:
            process.kill()
            process.communicate()


def test_nothing_is_kept_before_the_cookie_and_nothing_is_amplified(site: Site) -> None:
    server, hello = site.server(), _hello(site)
    for number in range(1000):
        (answer,) = server.receive(hello, ("127.0.0.1", 1024 + number), 0.0)
        assert isinstance(answer, Send)
        assert len(answer.datagram) <= len(hello)
        assert answer.datagram[13] == HandshakeType.HELLO_VERIFY_REQUEST
    assert (server.open_handshakes, server.open_sessions, server.deadline()) == (0, 0, None)


def test_record_of_a_client_hello_may_say_any_version(site: Site) -> None:
    server, hello = site.server(), _hello(site)
    as_mbed_tls_says = hello[:1] + b"\xfe\x00" + hello[3:]
    assert suites_offered(as_mbed_tls_says) == suites_offered(hello) is not None
    (request,) = server.receive(as_mbed_tls_says, HERE, 0.0)
    assert isinstance(request, Send)
    second = _with_cookie(as_mbed_tls_says, request.datagram[-16:])
    (answer, *_) = server.receive(second, HERE, 0.0)
    assert isinstance(answer, Send)
    assert answer.datagram[13] == HandshakeType.SERVER_HELLO


def _with_cookie(hello: bytes, cookie: bytes) -> bytes:
    """The second ClientHello for a first one without session id (RFC 6347 section 4.2.1)."""
    body = hello[25:]
    body = body[:35] + bytes((len(cookie),)) + cookie + body[36:]
    length = len(body).to_bytes(3, "big")
    message = b"\x01" + length + b"\0\x01" + b"\0\0\0" + length + body
    return hello[:10] + b"\x01" + len(message).to_bytes(2, "big") + message


def test_half_open_handshakes_are_bounded_and_expire(site: Site) -> None:
    server, hello = site.server(Settings(most_handshakes=3, handshake_for=90)), _hello(site)
    for number in range(5):
        address = ("127.0.0.1", 1024 + number)
        (request,) = server.receive(hello, address, 0.0)
        assert isinstance(request, Send)
        again = _with_cookie(hello, request.datagram[-16:])
        flight = server.receive(again, address, 0.0)
        assert flight
        assert all(isinstance(one, Send) and len(one.datagram) <= 1200 for one in flight)
        # The same once more begins nothing.
        assert server.receive(again, address, 0.0) == []
        # A cookie is for one address.
        (other,) = server.receive(again, ("127.0.0.2", 1), 0.0)
        assert isinstance(other, Send)
        assert other.datagram[13] == HandshakeType.HELLO_VERIFY_REQUEST
    assert server.open_handshakes == 3
    assert server.dropped == {"handshake evicted": 2}
    server.tick(90.0)
    assert server.open_handshakes == 0
    assert server.dropped["handshake expired"] == 3


def test_garbage_changes_nothing(site: Site) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    with UdpServer(site.server()) as udp:
        process = site.client(udp.port, device)
        until(lambda: bool(of(Established, udp.events)))
        session = of(Established, udp.events)[0].session
        for length in range(200):
            udp.server.receive(os.urandom(length), session.address, time.monotonic())
            for type_ in (20, 21, 22, 23, 25):
                for epoch in (0, 1):
                    head = bytes((type_,)) + b"\xfe\xfd\0" + bytes((epoch,)) + b"\0\0\0\0\0" + bytes((length,))
                    udp.server.receive(
                        head + length.to_bytes(2, "big") + os.urandom(length), session.address, time.monotonic()
                    )
        assert session.open
        assert process.stdin is not None
        process.stdin.write(b"still here\n")
        process.stdin.flush()
        until(lambda: any(event.data == b"still here\n" for event in of(Received, udp.events)))
        process.kill()
        process.communicate()


def test_dates_of_the_store_are_no_matter_but_those_of_the_certificate(site: Site) -> None:
    device = issue("sensor-1", days=1)
    site.add("sensor-1", device)
    with UdpServer(site.server()) as udp:
        process = site.client(udp.port, device)
        until(lambda: bool(of(Established, udp.events)))
        left = of(Established, udp.events)[0].session.expires - time.monotonic()
        assert abs(left - timedelta(days=1).total_seconds()) < 60
        process.kill()
        process.communicate()


def _proofs(datagram: bytes, change: Callable[[bytes], bytes]) -> tuple[bytes, int]:
    """A datagram whose records with a CertificateVerify in the clear are changed, and how many these are."""
    made, found = b"", 0
    while datagram:
        end = 13 + int.from_bytes(datagram[11:13])
        record, datagram = datagram[:end], datagram[end:]
        if (record[0], record[3:5], record[13:14]) == (22, b"\0\0", b"\x0f"):
            record, found = change(record), found + 1
        made += record
    return made, found


def _wait_for_more(changed: list[int], wanted: int, process: subprocess.Popen[bytes]) -> None:
    """Left out, it is said again by and by; changed, it ends the client."""
    until(lambda: changed[0] >= wanted or process.poll() is not None, 30)


@pytest.mark.parametrize("change", [lambda _: b"", lambda one: one[:-1] + bytes([one[-1] ^ 1])], ids=["none", "wrong"])
def test_certificate_without_a_proof_of_its_key_is_no_handshake_and_keeps_nobody_out(
    site: Site, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2021-34433 and CVE-2020-27222 (Californium): the message that proves the key of a certificate could be left
    out, and a handshake that failed by a certificate kept those after it from coming in."""
    device, server, changed = issue("sensor-1"), site.server(), [0]
    site.add("sensor-1", device)
    receive, meddles = server.receive, True

    def meddling(datagram: bytes, address: Any, now: float) -> Any:
        made, found = _proofs(datagram, change) if meddles else (datagram, 0)
        changed[0] += found
        return receive(made, address, now) if made else []

    monkeypatch.setattr(server, "receive", meddling)
    with UdpServer(server) as udp:
        for wanted in (2, 4, 6):
            process = site.client(udp.port, device)
            try:
                _wait_for_more(changed, wanted, process)
            finally:
                process.kill()
                process.communicate()
        assert changed[0] >= 3
        assert not of(Established, udp.events)
        meddles = False
        site.gets_in(udp, device)
