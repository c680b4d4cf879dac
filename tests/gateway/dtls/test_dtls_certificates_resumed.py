"""Sessions with certificates that are resumed: by OpenSSL's client over UDP, and in memory where it is about time."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import pytest
from OpenSSL import SSL

from gateway.access import Access
from gateway.dtls.events import Closed, Ending, Established, Received, Send
from gateway.dtls.session import Address
from gateway.dtls_certificates.server import CertificateServer
from gateway.dtls_certificates.session import CertificateEvent, CertificateSession
from gateway.dtls_certificates.settings import Settings
from security.credentials.kinds import X509, CertificateUsage
from tests.certificates import Holder, dtls_client, issue
from tests.gateway.dtls.dtls_udp_server import UdpServer
from tests.gateway.dtls.test_dtls_certificates import EXPIRED, UNKNOWN_CA, Site, until

pytestmark = pytest.mark.interop

HERE, THERE = ("127.0.0.1", 1024), ("127.0.0.1", 1025)
DAY = 86_400
_E = TypeVar("_E")


def of(kind: type[_E], events: Sequence[Any]) -> list[_E]:
    return [event for event in events if isinstance(event, kind)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def _id_of(holder: Holder) -> X509:
    return X509(endpoint="sensor-1", created=datetime.now(UTC), certificate=holder.der)


def _comes(site: Site, udp: UdpServer[CertificateServer], holder: Holder, *more: str) -> str:
    """A session of OpenSSL's client, a line, and its end; returns what the client says."""
    process = site.client(udp.port, holder, *more)
    assert process.stdin is not None
    try:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        until(lambda: bool(of(Received, udp.events)) or process.poll() is not None)
        time.sleep(0.1)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    udp.events[:] = [event for event in udp.events if not isinstance(event, Received)]
    return said.decode(errors="replace")


class Line:
    """OpenSSL's client in memory, at a server."""

    def __init__(self, server: CertificateServer, holder: Holder) -> None:
        self.server, self.holder = server, holder
        self.events: list[CertificateEvent] = []
        self.connection: SSL.Connection | None = None

    def connect(self, address: Address, now: float, *, resumes: bool = False) -> Established[CertificateSession] | None:
        """A handshake; None if there was no session."""
        line_before = self.connection
        self.connection = dtls_client(self.holder, line_before if resumes else None)
        if line_before is not None:
            # OpenSSL resumes none that ends unsaid.
            line_before.set_shutdown(SSL.SENT_SHUTDOWN)
        before = len(of(Established, self.events))
        for _ in range(6):
            with contextlib.suppress(SSL.WantReadError):
                self.connection.do_handshake()
            self.say(address, now)
        made = of(Established, self.events)[before:]
        return made[0] if made else None

    def say(self, address: Address, now: float) -> Sequence[CertificateEvent]:
        """What the client has to say goes to the server, and back comes what that has."""
        assert self.connection is not None
        try:
            events = self.server.receive(self.connection.bio_read(1 << 16), address, now)
        except SSL.WantReadError:
            return []
        for event in events:
            if isinstance(event, Send) and event.address == address:
                self.connection.bio_write(event.datagram)
        self.events += events
        return events


def test_openssl_resumes_its_session(site: Site, tmp_path: Path) -> None:
    device, session = issue("sensor-1", site.authority), str(tmp_path / "session")
    site.add("sensor-*", site.authority, CertificateUsage.TRUST_ANCHOR_ASSERTION)
    with UdpServer(site.server()) as udp:
        assert "New, TLSv1.2" in _comes(site, udp, device, "-sess_out", session)
        for _ in range(2):
            assert "Reused, TLSv1.2" in _comes(site, udp, device, "-sess_in", session)
        first, *others = of(Established, udp.events)
        assert [one.resumed for one in (first, *others)] == [False, True, True]
        # It is the same device until the same day.
        assert {one.session.identity for one in others} == {first.session.identity}
        assert all(abs(one.session.expires - first.session.expires) < 1 for one in others)
        assert udp.server.resumable_sessions == 1
        assert not udp.server.dropped


def test_device_whose_credential_was_removed_makes_a_whole_handshake_and_hears_why(site: Site, tmp_path: Path) -> None:
    device, session = issue("sensor-1"), str(tmp_path / "session")
    site.add("sensor-1", device)
    with UdpServer(site.server()) as udp:
        _comes(site, udp, device, "-sess_out", session)
        assert site.store.remove([_id_of(device).id])
        assert UNKNOWN_CA in _comes(site, udp, device, "-sess_in", session)
        assert len(of(Established, udp.events)) == 1
        assert udp.server.dropped["resumption refused"] == 1


def test_device_with_another_certificate_by_now_shows_it(site: Site, tmp_path: Path) -> None:
    device, renewed, session = issue("sensor-1"), issue("sensor-1"), str(tmp_path / "session")
    site.add("sensor-1", device)
    with UdpServer(site.server()) as udp:
        _comes(site, udp, device, "-sess_out", session)
        assert site.store.remove([_id_of(device).id])
        site.add("sensor-1", renewed)
        assert "New, TLSv1.2" in _comes(site, udp, renewed, "-sess_in", session)
        first, second = of(Established, udp.events)
        assert not second.resumed
        assert first.session.identity != second.session.identity


def test_certificate_that_ran_out_is_not_resumed(site: Site, tmp_path: Path) -> None:
    device, session = issue("sensor-1", days=4 / DAY), str(tmp_path / "session")
    site.add("sensor-1", device)
    with UdpServer(site.server()) as udp:
        _comes(site, udp, device, "-sess_out", session)
        # OpenSSL counts whole seconds.
        over = device.certificate.not_valid_after_utc + timedelta(seconds=1)
        until(lambda: datetime.now(UTC) > over)
        assert EXPIRED in _comes(site, udp, device, "-sess_in", session)
        assert len(of(Established, udp.events)) == 1
        assert udp.server.dropped["resumption refused"] == 1


def test_removed_signer_ends_what_he_vouched_for_and_an_added_one_does_not(site: Site) -> None:
    device, other = issue("sensor-1", site.authority), issue("another", is_authority=True)
    site.add("sensor-*", site.authority, CertificateUsage.TRUST_ANCHOR_ASSERTION)
    access, server = Access(site.store, has_certificates=True), site.server()
    line = Line(server, device)
    assert line.connect(HERE, 0.0)
    site.add("press-*", other, CertificateUsage.TRUST_ANCHOR_ASSERTION)
    server.trust(access.anchors())
    again = line.connect(HERE, 1.0, resumes=True)
    assert again is not None
    assert again.resumed
    # Who was signed by the one that was added gets in.
    assert Line(server, issue("press-1", other)).connect(THERE, 1.0)
    removed = X509(
        endpoint="sensor-*",
        created=datetime.now(UTC),
        certificate=site.authority.der,
        usage=CertificateUsage.TRUST_ANCHOR_ASSERTION,
    )
    assert site.store.remove([removed.id])
    server.trust(access.anchors())
    with pytest.raises(SSL.Error, match="unknown ca"):
        line.connect(HERE, 2.0, resumes=True)
    assert len(of(Established, line.events)) == 2


def test_session_is_resumed_from_another_address_and_again_from_a_third(site: Site) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    server = site.server()
    line = Line(server, device)
    first = line.connect(HERE, 0.0)
    assert first is not None
    for number in range(1, 5):
        address = ("127.0.0.1", 2000 + number)
        made = line.connect(address, float(number), resumes=True)
        assert made is not None
        assert made.resumed
        assert line.connection is not None
        line.connection.send(b"here")
        (told,) = of(Received, line.say(address, float(number)))
        assert (told.data, told.session.address) == (b"here", address)
        # The one before ends, as it does at a gateway (`gateway.coap.secure`), or at the same address.
        server.close(first.session)
        first = line.connect(address, float(number), resumes=True)
        assert first is not None
        assert first.resumed
        assert of(Closed, line.events)[-1].ending is Ending.REPLACED
    assert server.resumable_sessions == 1


def test_session_is_not_resumed_after_a_day(site: Site) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    line = Line(site.server(), device)
    assert line.connect(HERE, 0.0)
    for now, resumes in ((DAY - 1.0, True), (float(DAY), False)):
        made = line.connect(HERE, now, resumes=True)
        assert made is not None
        assert made.resumed is resumes
    assert line.server.dropped == {"resumption refused": 1}


def test_unknown_session_id_gets_a_whole_handshake(site: Site) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    line = Line(site.server(), device)
    assert line.connect(HERE, 0.0)
    line.server = site.server()  # which has begun anew
    made = line.connect(HERE, 1.0, resumes=True)
    assert made is not None
    assert not made.resumed
    again = line.connect(HERE, 2.0, resumes=True)
    assert again is not None
    assert again.resumed


def test_what_openssl_keeps_is_bounded_also_by_a_session_that_lasts(site: Site) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    server = site.server(Settings(most_resumable=8))
    lasting, contexts, endings = Line(server, device), WeakSet[SSL.Context](), []
    assert lasting.connect(HERE, 0.0)
    lasting.events.clear()
    for number in range(40):
        line = Line(server, device)
        made = line.connect(THERE, float(number))
        assert made is not None
        contexts.add(made.session.connection.get_context())
        assert server.resumable_sessions <= 8
        again = line.connect(THERE, float(number), resumes=True)
        assert again is not None
        assert again.resumed
        endings += [one.ending for one in of(Closed, line.events) if one.session.address == HERE]
    # It holds what came with it, so it went; and was told.
    assert endings == [Ending.EVICTED]
    # OpenSSL has two sessions in a context's cache, and let go of the caches with what had all gone.
    del line, made, again
    gc.collect()
    assert len(contexts) <= 5
    again = lasting.connect(HERE, 100.0, resumes=True)
    assert again is not None
    assert not again.resumed


def test_forged_alert_costs_no_more_than_a_whole_handshake(site: Site) -> None:
    device = issue("sensor-1")
    site.add("sensor-1", device)
    server = site.server()
    line = Line(server, device)
    first = line.connect(HERE, 0.0)
    assert first is not None
    # Whoever saw the session's id begins to resume it, and ends that with a fatal alert in the clear.
    assert line.connection is not None
    stranger = dtls_client(device, line.connection)
    for _ in range(2):
        with pytest.raises(SSL.WantReadError):
            stranger.do_handshake()
        for event in server.receive(stranger.bio_read(1 << 16), THERE, 1.0):
            assert isinstance(event, Send)
            stranger.bio_write(event.datagram)
    server.receive(b"\x15\xfe\xfd\0\0\0\0\0\0\0\x09\0\x02\x02\x28", THERE, 1.0)
    assert server.open_handshakes == 0
    # The session that is there stays, and its device gets in.
    line.connection.send(b"still here")
    assert of(Received, line.say(HERE, 2.0))
    made = line.connect(HERE, 3.0, resumes=True)
    assert made is not None
    assert not made.resumed
