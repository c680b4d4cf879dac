"""Eclipse Californium's OSCORE, which Leshan's clients use, as a device: with keys derived anew, and without."""

from __future__ import annotations

import os
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from connectors.kafka import Cluster
from headwater.servers.kafka_jars import java_binary
from schemas.avro.records import ReadBody, RequestKind, ResponseCode, WriteMode, WriteRequest
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as LwM2mPath
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Oscore
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.interop import leshan_device
from tests.interop.gateway_process import plain
from tests.interop.test_leshan import temperature
from tests.way import Gateway, until

pytestmark = [pytest.mark.interop, pytest.mark.kafka]

SECONDS = 120.0


class Device:
    """`CaliforniumDevice.java`, running."""

    def __init__(self, class_path: list[str], of: Oscore, port: int, *, is_renewed: bool) -> None:
        self.ep = of.endpoint
        self._said: queue.Queue[str] = queue.Queue()
        self._process = subprocess.Popen(
            [
                *(str(java_binary()), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx96m"),
                *("-cp", os.pathsep.join(class_path), "CaliforniumDevice", of.endpoint, f"coap://127.0.0.1:{port}"),
                *(of.master_secret.reveal().hex(), of.recipient_id.hex(), of.sender_id.hex()),
                str(is_renewed).lower(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line.strip())

    def say(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def hear(self, *wanted: str) -> None:
        """Wait until it has said all of these, in whatever order."""
        missing, heard, end = set(wanted), list[str](), time.monotonic() + SECONDS
        while missing:
            try:
                heard.append(self._said.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"it never said {missing}, only {heard}") from None
            missing.discard(heard[-1])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)


@pytest.fixture(scope="module")
def class_path() -> list[str]:
    here = leshan_device.HERE
    return leshan_device.build(here / "CaliforniumDevice.java", here / "californium_jars.tsv")


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("californium")
    path = folder / "credentials.db"
    SqliteCredentials(path, make=True).close()
    with Gateway("californium", kafka, folder, observe=("/3303/*/5700",), credentials=path) as one:
        one.wait_ready()
        yield one


def _values(gateway: Gateway, ep: str) -> list[float | None]:
    return [temperature(one) for one in gateway.notifications(ep, "/3303/0/5700")]


@pytest.mark.parametrize("is_renewed", [False, True], ids=["as they are", "derived anew"])
def test_device_is_observed_asked_and_written_also_over_a_killed_gateway(
    gateway: Gateway, class_path: list[str], is_renewed: bool
) -> None:
    credential = Oscore(
        endpoint=f"californium-{secrets.token_hex(4)}",
        created=datetime.now(UTC),
        master_secret=KeyBytes(secrets.token_bytes(16)),
        sender_id=secrets.token_bytes(4),
        recipient_id=secrets.token_bytes(3),
    )
    store = SqliteCredentials(gateway.state.parent / "credentials.db")
    store.put([credential], Put.NEW)
    store.close()
    device = Device(class_path, credential, gateway.coap_port, is_renewed=is_renewed)
    ep = device.ep
    try:
        device.hear("rd 2.01", "observed 5700")
        for life in range(2):
            read, write = f"{ep}-read-{life}", f"{ep}-write-{life}"
            gateway.request(ep, read, RequestKind.READ, "/3303/0/5700")
            reply = gateway.reply(read)
            assert isinstance(reply.rep.body, ReadBody), plain(reply)
            # It is asked one thing after the other, so it is observed by now.
            value = 31.5 + life
            device.say(f"set {value}")
            until("the value", lambda value=value: value in _values(gateway, ep))  # type: ignore[misc]
            # In blocks, which are inside.
            long = Resource(path=LwM2mPath.parse("/3/0/14"), type=ResourceType.STRING, value="x" * 3000)
            gateway.request(ep, write, RequestKind.WRITE, "/3/0/14", WriteRequest(mode=WriteMode.REPLACE, node=long))
            reply = gateway.reply(write)
            assert reply.rep.code is ResponseCode.CHANGED, plain(reply)
            device.say("update")
            device.hear("rd 2.04")
            if not life:
                gateway.kill()
                gateway.start()
                gateway.wait_ready()
        assert gateway.metric("oscore_refused_total", reason="OSCORE replay") == 0
        assert gateway.metric("oscore_contexts") >= 1
    finally:
        device.stop()
