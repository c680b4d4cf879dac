"""Eclipse Leshan's client with OSCORE, as Californium speaks it: with keys derived anew at its start, and without."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from schemas.avro.records import (
    ExecuteRequest,
    ReadBody,
    RequestKind,
    ResponseCode,
    WriteMode,
    WriteRequest,
)
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as LwM2mPath
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Oscore
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.interop.gateway_process import plain
from tests.interop.leshan_device import LeshanDevice
from tests.interop.test_leshan import temperature
from tests.way import Gateway, until

pytestmark = [pytest.mark.interop, pytest.mark.kafka]


class Factory:
    """A gateway and devices that have a context each."""

    def __init__(self, kafka: Cluster, folder: Path, class_path: list[str]) -> None:
        self._class_path = class_path
        self.store = SqliteCredentials(folder / "credentials.db", make=True)
        self.gateway = Gateway(
            f"leshan-oscore-{secrets.token_hex(4)}",
            kafka,
            folder,
            observe=("/3303/*/5700",),
            credentials=folder / "credentials.db",
        )

    def device(self, *, is_renewed: bool, secret: bytes | None = None) -> LeshanDevice:
        """``is_renewed``: it has its keys derived anew at its start; ``secret`` is what it has instead."""
        ep = f"leshan-{secrets.token_hex(4)}"
        good, own, ours = secrets.token_bytes(16), secrets.token_bytes(3), secrets.token_bytes(4)
        credential = Oscore(
            endpoint=ep,
            created=datetime.now(UTC),
            master_secret=KeyBytes(good),
            sender_id=ours,
            recipient_id=own,
        )
        self.store.put([credential], Put.NEW)
        server = f"127.0.0.1:{self.gateway.coap_port}"
        return LeshanDevice(self._class_path, ep, server, oscore=(secret or good, own, ours, is_renewed))

    def values(self, ep: str) -> list[float | None]:
        return [temperature(one) for one in self.gateway.notifications(ep, "/3303/0/5700")]


@pytest.fixture(scope="module")
def factory(
    kafka: Cluster, leshan_class_path: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Factory]:
    made = Factory(kafka, tmp_path_factory.mktemp("oscore"), leshan_class_path)
    with made.gateway:
        made.gateway.wait_ready()
        yield made
    made.store.close()


@pytest.mark.parametrize("is_renewed", [False, True], ids=["as it is", "derived anew"])
def test_device_does_all_that_it_does_in_the_clear_also_over_a_killed_gateway(
    factory: Factory, is_renewed: bool
) -> None:
    gateway, device = factory.gateway, factory.device(is_renewed=is_renewed)
    ep = device.endpoint
    try:
        device.ready("/3303/0/5700")
        long = Resource(path=LwM2mPath.parse("/3303/0/5750"), type=ResourceType.STRING, value="x" * 3000)
        for number in range(2):
            tickets = [f"{ep}-{number}-{what}" for what in ("write", "read", "execute")]
            body = WriteRequest(mode=WriteMode.REPLACE, node=long)
            gateway.request(ep, tickets[0], RequestKind.WRITE, "/3303/0/5750", body)
            assert (reply := gateway.reply(tickets[0])).rep.code is ResponseCode.CHANGED, plain(reply)
            gateway.request(ep, tickets[1], RequestKind.READ, "/3303/0/5750")
            reply = gateway.reply(tickets[1])
            assert isinstance(reply.rep.body, ReadBody), plain(reply)
            assert reply.rep.body.content == long
            gateway.request(ep, tickets[2], RequestKind.EXECUTE, "/3303/0/5605", ExecuteRequest(parameters=""))
            assert (reply := gateway.reply(tickets[2])).rep.code is ResponseCode.CHANGED, plain(reply)
            value = 31.5 + number
            device.set("/3303/0/5700", str(value))
            until("the value", lambda value=value: value in factory.values(ep))  # type: ignore[misc]
            device.say("update")
            device.event("updated")
            if not number:
                gateway.kill()
                gateway.start()
                gateway.wait_ready()
        assert gateway.metric("oscore_refused_total", reason="OSCORE replay") == 0
        device.say("deregister")
        device.event("deregistered")
    finally:
        device.stop()


def test_device_with_a_wrong_secret_does_not_get_in(factory: Factory) -> None:
    device, good = factory.device(is_renewed=False, secret=bytes(16)), factory.device(is_renewed=True)
    try:
        good.event("registered")
        assert "registered" not in device.names(5.0)
    finally:
        device.stop()
        good.stop()
