"""The DTLS client against OpenSSL's server over UDP."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.dtls.client import Client
from gateway.dtls.client_events import Arrived, ClientEvent, Connected, Failed, Failure, Transmit
from gateway.dtls.settings import Settings
from tests.gateway.dtls.dtls_link import KEY
from tests.gateway.dtls.dtls_pair import told
from tests.ports import held_port

pytestmark = pytest.mark.interop


class _Line:
    """The client on a UDP socket towards a port of 127.0.0.1; ``lose`` is asked for each datagram by its number."""

    def __init__(self, client: Client, port: int, lose: Callable[[int], bool] = lambda number: False) -> None:
        self.client = client
        self.events: list[ClientEvent] = []
        self._lose = lose
        self._count = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def take(self, events: list[ClientEvent]) -> None:
        self.events += events
        for event in told(Transmit, events):
            self.send(event.datagram)

    def send(self, datagram: bytes) -> None:
        if not self._lost():
            with contextlib.suppress(ConnectionRefusedError):
                self._socket.send(datagram)

    def connect(self) -> None:
        self.take(self.client.connect(time.monotonic()))

    def until(self, kind: type[ClientEvent], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not told(kind, self.events):
            assert time.monotonic() < end, (self.events, self.client.dropped)
            self._socket.settimeout(0.05)
            try:
                datagram = self._socket.recv(65536)
            except (TimeoutError, ConnectionRefusedError):
                pass
            else:
                if not self._lost():
                    self.take(self.client.receive(datagram, time.monotonic()))
            self.take(self.client.tick(time.monotonic()))

    def _lost(self) -> bool:
        self._count += 1
        return self._lose(self._count - 1)


class _Server:
    """OpenSSL's server, which takes one client after the other."""

    def __init__(self, folder: Path, *arguments: str, key: bytes = KEY) -> None:
        openssl = shutil.which("openssl")
        assert openssl is not None, "OpenSSL's command line is not here: as root, `apt-get install openssl`"
        self.port = held_port()
        self._log = folder / "openssl.log"
        command = [openssl, "s_server", "-dtls1_2", "-accept", str(self.port), "-nocert", "-psk", key.hex()]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                [*command, "-psk_identity", "dev", *arguments], stdin=subprocess.PIPE, stdout=out, stderr=out
            )

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def type(self, line: bytes) -> None:
        """As if at its keyboard: sent to the client, but for its one-letter commands."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def has_said(self, text: str) -> None:
        """Wait until it has said so."""
        end = time.monotonic() + 20
        while text not in self._log.read_text("utf-8", "replace"):
            assert time.monotonic() < end, self._log.read_text("utf-8", "replace")
            time.sleep(0.02)


def _client(**settings: float) -> Client:
    return Client(b"dev", KEY, Settings(**{"flight_timeout": 0.3, **settings}))  # type: ignore[arg-type]  # ints too


@pytest.mark.parametrize("cipher", ["PSK-AES128-CCM8", "PSK-AES128-CCM", "PSK-AES128-GCM-SHA256"])
def test_data_goes_both_ways_with_openssl(cipher: str, tmp_path: Path) -> None:
    with _Server(tmp_path, "-cipher", cipher) as server, _Line(_client(), server.port) as line:
        line.connect()
        line.until(Connected)
        line.send(line.client.send(b"hello up there\n"))
        server.has_said("hello up there")
        server.has_said(f"CIPHER is {cipher}")
        server.has_said("Secure Renegotiation IS supported")
        server.type(b"hello down there")
        line.until(Arrived)
        assert told(Arrived, line.events) == [Arrived(b"hello down there\n")]
        assert not line.client.dropped


def test_openssl_with_an_identity_hint(tmp_path: Path) -> None:
    with _Server(tmp_path, "-psk_hint", "who are you") as server, _Line(_client(), server.port) as line:
        line.connect()
        line.until(Connected)


def test_openssl_resumes_the_session(tmp_path: Path) -> None:
    with _Server(tmp_path) as server, _Line(_client(), server.port) as line:
        for resumed in (False, True):
            line.connect()
            line.until(Connected)
            assert told(Connected, line.events) == [Connected(resumed=resumed)]
            line.send(line.client.send(b"hello, resumed: %d\n" % resumed))
            server.has_said(f"hello, resumed: {resumed:d}")
            line.send(line.client.close())
            line.events.clear()


def test_openssl_understands_that_we_close_the_session(tmp_path: Path) -> None:
    with _Server(tmp_path) as server, _Line(_client(), server.port) as line:
        line.connect()
        line.until(Connected)
        line.send(line.client.close())
        server.has_said("DONE")


def test_renegotiation_that_openssl_asks_for_is_refused(tmp_path: Path) -> None:
    with _Server(tmp_path) as server, _Line(_client(), server.port) as line:
        line.connect()
        line.until(Connected)
        line.events.clear()
        server.type(b"r")
        line.until(Transmit)
        assert line.client.dropped["handshake message after the handshake"] >= 1
        assert not told(Connected, line.events)


def test_wrong_key_fails_as_such_though_openssl_says_nothing(tmp_path: Path) -> None:
    with _Server(tmp_path, key=b"another key") as server, _Line(_client(handshake_for=3.0), server.port) as line:
        line.connect()
        line.until(Failed)
        (failed,) = told(Failed, line.events)
        assert failed.failure is Failure.KEY
        assert not told(Connected, line.events)


@pytest.mark.parametrize("number", range(8))
def test_one_lost_datagram_on_the_way_to_openssl_or_back_is_got_over(number: int, tmp_path: Path) -> None:
    with _Server(tmp_path) as server, _Line(_client(), server.port, lambda which: which == number) as line:
        line.connect()
        line.until(Connected)
        for _ in range(2):
            line.send(line.client.send(b"hello\n"))
        server.has_said("hello")
