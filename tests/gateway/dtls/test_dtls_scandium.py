"""The DTLS server against Scandium, which Leshan's devices speak, over UDP."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gateway.dtls.events import Closed, Ending, Established, Moved
from gateway.dtls.server import Server
from gateway.dtls.settings import Settings
from headwater.servers.kafka_jars import java_binary
from tests.gateway.dtls.dtls_link import KEY, of
from tests.gateway.dtls.dtls_nat import Nat
from tests.gateway.dtls.dtls_udp_server import UdpServer
from tests.interop import leshan_device

pytestmark = pytest.mark.interop


class _Scandium:
    def __init__(self, class_path: list[str], port: int, key: bytes, cid_length: int) -> None:
        command = [str(java_binary()), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx96m"]
        command += ["-cp", os.pathsep.join(class_path), "ScandiumClient", str(port), "dev", key.hex(), str(cid_length)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> _Scandium:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def class_path() -> list[str]:
    return leshan_device.build(Path(__file__).with_name("ScandiumClient.java"))


@pytest.mark.parametrize("cid_length", [-1, 0, 4])
def test_scandium_makes_a_session_moves_and_resumes(class_path: list[str], cid_length: int) -> None:
    with (
        UdpServer(Server({b"dev": KEY}.get)) as udp,
        Nat(udp.port) as nat,
        _Scandium(class_path, nat.port, KEY, cid_length) as scandium,
    ):
        assert scandium.answer("one") == "echo one"
        if cid_length >= 0:
            nat.move()
            assert scandium.answer("two") == "echo two"
            assert len(of(Moved, udp.events)) == 1
        assert scandium.answer("resumed") == "echo resumed"
        assert [event.resumed for event in of(Established, udp.events)] == [False, True]
        assert [event.ending for event in of(Closed, udp.events)] == [Ending.REPLACED]
        assert udp.server.open_sessions == 1


def test_scandium_with_a_wrong_key_is_told_so(class_path: list[str]) -> None:
    with (
        UdpServer(Server({b"dev": KEY}.get, Settings(doubt=0.2))) as udp,
        _Scandium(class_path, udp.port, b"another key", 0) as scandium,
    ):
        assert "DECRYPT_ERROR" in scandium.answer("one")
        assert not of(Established, udp.events)
