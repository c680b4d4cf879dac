"""A gateway that takes nobody in the clear, and devices that speak OSCORE, on a real Kafka: its port is opened for them
alone, with the first credential for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster
from schemas.avro.records import ReadBody, RequestKind, ResponseCode
from schemas.lwm2m.nodes import Resource
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.oscore_device import OscoreDevice, credential
from tests.raw_device import RawDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

TEMPERATURE = "/3303/0/5700"


@pytest.fixture
def gateway(kafka: Cluster, tmp_path: Path) -> Iterator[Gateway]:
    """Closed, and its credentials empty."""
    store = tmp_path / "credentials.db"
    SqliteCredentials(store, make=True).close()
    observe = ("/3303/*/5700",)
    with Gateway("oscore-alone", kafka, tmp_path, "--no-insecure", observe=observe, credentials=store) as made:
        made.wait_ready()
        yield made


def device(gateway: Gateway, folder: Path, ep: str) -> OscoreDevice:
    """One whose credential is added to what the gateway reads."""
    made = credential(ep, ep.encode()[-3:])
    store = SqliteCredentials(folder / "credentials.db")
    store.put([made], Put.ALL)
    store.close()
    return OscoreDevice(gateway.address, made)


def is_open(gateway: Gateway) -> bool:
    """Whether anybody listens at the plain port: else the kernel says that nobody does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(10)
        probe.connect(gateway.address)
        probe.send(b"\x40\x00\x00\x01")
        try:
            return bool(probe.recv(2048))
        except ConnectionRefusedError:
            return False


def test_port_is_opened_by_the_first_credential_for_oscore_alone(gateway: Gateway, tmp_path: Path) -> None:
    assert not is_open(gateway)
    tickets = (f"ticket-{number}" for number in count())
    with device(gateway, tmp_path, "press-1") as press:
        press.register()
        press.wait_observed(TEMPERATURE)
        for value in (20.5, 21.5):
            assert press.tell(TEMPERATURE, int(value), value)
            ticket = next(tickets)
            gateway.request("press-1", ticket, RequestKind.READ, TEMPERATURE)
            assert gateway.reply(ticket).rep.code is ResponseCode.CONTENT
            with RawDevice(gateway.address, "stranger") as stranger:
                assert stranger.try_to_register().code == Code.UNAUTHORIZED
            # From its start on it is open now, and the observation goes on.
            gateway.kill()
            gateway.start()
            gateway.wait_ready()
        press.update()
        assert press.tell(TEMPERATURE, 30, 30.5)
        assert len([one for one in press.asked(Code.GET) if one.opt.observe == 0]) == 1

        def values() -> list[object]:
            bodies = [one.rep.body for one in gateway.notifications("press-1", TEMPERATURE)]
            assert all(isinstance(one, ReadBody) for one in bodies)
            return [
                one.content.value for one in bodies if isinstance(one, ReadBody) and isinstance(one.content, Resource)
            ]

        until("the values", lambda: {20.5, 21.5, 30.5} <= set(values()))
        assert gateway.registrations("stranger") == []
        with RawDevice(gateway.address, "stranger") as stranger:
            assert stranger.try_to_register().code == Code.UNAUTHORIZED
        assert gateway.metric("oscore_refused_total", reason="unprotected request") > 0
        assert gateway.metric("devices") == 1


def test_port_that_another_has_is_told_and_taken_when_it_is_free(gateway: Gateway, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(gateway.address)
        press = device(gateway, tmp_path, "press-2")
        until("a word on the port", lambda: "the port of --coap cannot be opened" in gateway.said())
    with press:
        press.register()
