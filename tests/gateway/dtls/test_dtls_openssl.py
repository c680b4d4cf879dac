"""The DTLS server against OpenSSL's client over UDP."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.dtls.events import Closed, Ending, Established, Received
from gateway.dtls.server import Server
from gateway.dtls.settings import Settings
from tests.gateway.dtls.dtls_link import KEY, of
from tests.gateway.dtls.dtls_udp_server import UdpServer

pytestmark = pytest.mark.interop


@contextlib.contextmanager
def _s_client(port: int, *arguments: str, identity: str = "dev", key: bytes = KEY) -> Iterator[subprocess.Popen[bytes]]:
    openssl = shutil.which("openssl")
    assert openssl is not None, "OpenSSL's command line is not here: as root, `apt-get install openssl`"
    command = [openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}", "-psk", key.hex()]
    command += ["-psk_identity", identity, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _exchange(udp: UdpServer[Server], *arguments: str, say: bytes = b"hello\n") -> str:
    """A handshake, one line there and back, and the end of the session; what OpenSSL said."""
    before = len(of(Closed, udp.events))
    with _s_client(udp.port, *arguments) as process:
        assert process.stdin is not None
        process.stdin.write(say)
        process.stdin.flush()
        _until(lambda: any(event.data == say for event in of(Received, udp.events)))
        time.sleep(0.1)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert b"echo " + say in said
    _until(lambda: len(of(Closed, udp.events)) > before)
    assert of(Closed, udp.events)[-1].ending is Ending.CLOSE_NOTIFY
    udp.events[:] = [event for event in udp.events if not isinstance(event, Received)]
    return said.decode()


@pytest.mark.parametrize("cipher", ["PSK-AES128-CCM8", "PSK-AES128-CCM", "PSK-AES128-GCM-SHA256"])
def test_openssl_makes_a_session_and_exchanges_data(cipher: str) -> None:
    with UdpServer(Server({b"dev": KEY}.get)) as udp:
        said = _exchange(udp, "-cipher", cipher)
        assert f"Cipher is {cipher}" in said
        assert "Extended master secret: yes" in said
        assert "Secure Renegotiation IS supported" in said
        assert not udp.server.dropped
        assert udp.server.open_sessions == udp.server.open_handshakes == 0


def test_openssl_resumes_its_session(tmp_path: Path) -> None:
    kept = str(tmp_path / "session.pem")
    with UdpServer(Server({b"dev": KEY}.get)) as udp:
        assert "New, TLSv1.2" in _exchange(udp, "-cipher", "PSK-AES128-CCM8", "-sess_out", kept)
        assert "Reused, TLSv1.2" in _exchange(udp, "-cipher", "PSK-AES128-CCM8", "-sess_in", kept)
        assert [event.resumed for event in of(Established, udp.events)] == [False, True]


def test_openssl_hears_the_same_of_a_wrong_key_and_of_an_unknown_identity() -> None:
    words = []
    with UdpServer(Server({b"dev": KEY}.get, Settings(doubt=0.2))) as udp:
        for identity, key in (("dev", b"another key"), ("nobody", KEY)):
            with _s_client(udp.port, "-cipher", "PSK-AES128-CCM8", identity=identity, key=key) as process:
                said, _ = process.communicate(timeout=30)
            assert process.returncode != 0
            words.append([line.partition(b":error:")[2] for line in said.splitlines() if b"alert number" in line])
        assert not of(Established, udp.events)
    assert words[0] == words[1]
    assert b"decrypt error" in words[0][0]


def test_openssl_without_a_suite_of_ours_is_refused() -> None:
    with (
        UdpServer(Server({b"dev": KEY}.get)) as udp,
        _s_client(udp.port, "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256") as process,
    ):
        said, _ = process.communicate(timeout=30)
        assert b"handshake failure" in said
        assert udp.server.dropped == {"ClientHello refused: handshake_failure": 1}


@pytest.mark.parametrize("comes_in", [True, False], ids=["to the server", "to OpenSSL"])
@pytest.mark.parametrize("number", range(5))
def test_openssl_gets_over_a_lost_datagram(number: int, comes_in: bool) -> None:
    server = Server({b"dev": KEY}.get, Settings(flight_timeout=0.3))
    with UdpServer(server, lambda which, way: which == number and way == comes_in) as udp, _s_client(udp.port):
        _until(lambda: bool(of(Established, udp.events)))
