"""Devices with keys at a real gateway whose credentials are in a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from schemas.avro.records import RegistrationDelete
from security.credentials.opening import StorePlace, open_store, place_of
from security.credentials.store import Put
from tests.credential_samples import KEY, psk
from tests.ports import held_port
from tests.redis_server import PASSWORD, RedisServer
from tests.secure_device import SecureDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    one = RedisServer(directory=tmp_path / "redis", port=held_port(), password=PASSWORD)
    one.start()
    yield one
    one.remove()


@pytest.fixture
def place(server: RedisServer, tmp_path: Path) -> StorePlace:
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text(PASSWORD)
    return place_of(f"redis://127.0.0.1:{server.port}/0?password_file={file}")


def register(gateway: Gateway, ep: str) -> None:
    with SecureDevice(gateway.secure_address, ep, KEY.reveal()) as device:
        device.register()


def test_keys_in_redis_count_within_seconds_and_what_is_known_serves_without_it(
    kafka: Cluster, server: RedisServer, place: StorePlace, tmp_path: Path
) -> None:
    store = open_store(place, make=True)
    store.put([psk("a")], Put.NEW)
    with Gateway("coaps-redis", kafka, tmp_path, credentials=place) as gateway:
        gateway.wait_ready()
        with SecureDevice(gateway.secure_address, "a", KEY.reveal()) as device:
            device.register()
            store.put([psk("b")], Put.NEW)
            until("the new key counts", lambda: _registers(gateway, "b"))
            server.kill()
            # Both are known, and the gateway goes on.
            register(gateway, "b")
            device.update()
            server.start()
            store.put([psk("c")], Put.NEW)
            until("a key more counts", lambda: _registers(gateway, "c"))
            store.remove([psk("a").id])
            until("it ends", lambda: isinstance(gateway.registrations("a")[-1].body, RegistrationDelete))
        assert not _registers(gateway, "a")
    store.close()


def _registers(gateway: Gateway, ep: str) -> bool:
    try:
        register(gateway, ep)
    except (OSError, AssertionError):
        return False
    return True
