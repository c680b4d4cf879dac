"""Credentials that a gateway is given beforehand, as a process takes them up at each of its starts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from headwater.exits import Exit
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import CredentialId, Kind, Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.secure_device import SecureDevice
from tests.way import Gateway

OWN, OTHER, BY_HAND = b"key of press-7..", b"its second key..", b"made by hand...."


def _write(file: Path, **keys: bytes) -> None:
    rows = "".join(f"{ep.replace('_', '-')},psk,{key.hex()}\n" for ep, key in keys.items())
    file.touch(mode=0o600)
    file.write_text("endpoint,kind,key\n" + rows)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    file = tmp_path / "given.csv"
    _write(file, press_7=OWN, press_8=OWN)
    return file


@pytest.fixture
def gateway(kafka: Cluster, tmp_path: Path, given: Path) -> Iterator[Gateway]:
    more = ("--make-credentials", "--no-insecure", "--import-credentials", str(given))
    with Gateway("given", kafka, tmp_path, *more, credentials=tmp_path / "keys" / "credentials.db") as running:
        running.wait_ready()
        yield running


def _again(gateway: Gateway) -> None:
    """After a crash, as nothing that was taken up may hang on a proper end."""
    gateway.kill()
    gateway.start()
    gateway.wait_ready()


def _gets_in(gateway: Gateway, ep: str, key: bytes) -> None:
    with SecureDevice(gateway.secure_address, ep, key) as device:
        device.register()


def _stays_out(gateway: Gateway, ep: str, key: bytes) -> None:
    with pytest.raises(AssertionError, match=f"no session for {ep}; alerts: .[(]2"):
        SecureDevice(gateway.secure_address, ep, key)


def test_device_of_the_file_gets_in_and_one_that_was_removed_stays_out_over_restarts_and_other_files(
    gateway: Gateway, given: Path, tmp_path: Path
) -> None:
    _gets_in(gateway, "press-7", OWN)
    assert OWN.hex() not in gateway.said()
    store = SqliteCredentials(tmp_path / "keys" / "credentials.db")
    store.remove([CredentialId(Kind.PSK, "press-7")])
    now = datetime.now(UTC)
    store.put([Psk(endpoint="press-8", created=now, identity=b"press-8", key=KeyBytes(BY_HAND))], Put.ALL)
    _again(gateway)
    _stays_out(gateway, "press-7", OWN)
    # One more in the file: it alone is new.
    _write(given, press_7=OWN, press_8=OWN, press_9=OWN)
    _again(gateway)
    _gets_in(gateway, "press-9", OWN)
    _stays_out(gateway, "press-7", OWN)
    _gets_in(gateway, "press-8", BY_HAND)
    # The file says something else of the one that was removed, and nothing any more of another.
    _write(given, press_7=OTHER, press_8=OWN)
    _again(gateway)
    _gets_in(gateway, "press-7", OTHER)
    _gets_in(gateway, "press-9", OWN)
    store.close()


def test_gateway_does_not_start_with_a_file_that_is_none_and_tells_the_line(gateway: Gateway, given: Path) -> None:
    gateway.kill()
    given.write_text("endpoint,kind,key\npress-7,psk,0011\n")
    gateway.start()
    assert gateway.wait_ended() == Exit.USAGE
    assert f"{given}, line 2: " in gateway.said()
    given.chmod(0o644)
    gateway.start()
    assert gateway.wait_ended() == Exit.CANNOT_START
    assert f"chmod 600 {given}" in gateway.said()
