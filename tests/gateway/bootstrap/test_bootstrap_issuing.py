"""Keys that are made for devices: stored first, the same on retry, the old ones gone only after the end."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import pytest

from gateway.bootstrap.issuing import Issuer
from gateway.bootstrap.ledger import Ledger
from gateway.bootstrap.profile import Account, Mode
from gateway.bootstrap.store_file import BootstrapFile
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Credential, Psk
from security.credentials.opening import open_store
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.credential_places import place_in_redis

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODES = [Mode.PSK, Mode.OSCORE, Mode.X509]


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    file = BootstrapFile(tmp_path / "b.db", make=True)
    yield Issuer(Ledger(file, lambda: 1), lambda: NOW, secrets.token_bytes)
    file.close()


def account(tmp_path: Path, mode: Mode, short_id: int = 1) -> Account:
    return Account(uri="coaps://gw", short_id=short_id, mode=mode, store=tmp_path / "keys.db")


def stored(tmp_path: Path) -> set[Credential]:
    store = SqliteCredentials(tmp_path / "keys.db")
    found = set(store)
    store.close()
    return found


@pytest.mark.parametrize("mode", MODES)
def test_stored_before_it_is_given_and_the_old_one_goes_after_the_end(
    issuer: Issuer, tmp_path: Path, mode: Mode
) -> None:
    wanted = [account(tmp_path, mode)]
    first = issuer.prepare("press-7", wanted)
    assert stored(tmp_path) == {first[0].credential}
    assert issuer.finished("press-7", first) == 0
    second = issuer.prepare("press-7", wanted)
    assert stored(tmp_path) == {first[0].credential, second[0].credential}
    assert len(stored(tmp_path)) == 2
    assert issuer.finished("press-7", second) == 1
    assert stored(tmp_path) == {second[0].credential}
    # Twice is as once.
    assert issuer.finished("press-7", second) == 0


def test_run_that_was_replaced_while_it_made_its_key_and_the_next_one_come_to_the_same(tmp_path: Path) -> None:
    held, release = Event(), Event()

    def random(count: int) -> bytes:
        if not held.is_set():
            held.set()
            assert release.wait(60)
        return secrets.token_bytes(count)

    file = BootstrapFile(tmp_path / "b.db", make=True)
    issuer, wanted = Issuer(Ledger(file, lambda: 1), lambda: NOW, random), [account(tmp_path, Mode.PSK)]
    with ThreadPoolExecutor() as threads:
        replaced = threads.submit(issuer.prepare, "press-7", wanted)
        assert held.wait(60)
        next_one = threads.submit(issuer.prepare, "press-7", wanted)
        # Long enough for it to make a key of its own, if it did not wait.
        wait([next_one], timeout=1)
        release.set()
        assert replaced.result(60)[0].credential == next_one.result(60)[0].credential
    file.close()
    assert len(stored(tmp_path)) == 1


@pytest.mark.parametrize("mode", [Mode.PSK, Mode.OSCORE])
def test_a_retry_gives_the_same_key(issuer: Issuer, tmp_path: Path, mode: Mode) -> None:
    wanted = [account(tmp_path, mode), account(tmp_path, mode, 2)]
    first = issuer.prepare("press-7", wanted)
    assert issuer.prepare("press-7", wanted) == first
    assert len(stored(tmp_path)) == 2
    assert issuer.prepare("press-8", wanted)[0].credential != first[0].credential


def test_certificates_that_nobody_took_go_with_the_next_end(issuer: Issuer, tmp_path: Path) -> None:
    wanted = [account(tmp_path, Mode.X509)]
    issuer.prepare("press-7", wanted)
    second = issuer.prepare("press-7", wanted)
    assert second[0].private_key is not None
    assert len(stored(tmp_path)) == 2
    assert issuer.finished("press-7", second) == 1
    assert stored(tmp_path) == {second[0].credential}


def test_keys_of_people_and_of_other_devices_stay(issuer: Issuer, tmp_path: Path) -> None:
    own = Psk(endpoint="press-7", created=NOW, identity=b"by hand", key=KeyBytes(bytes(16)))
    store = SqliteCredentials(tmp_path / "keys.db", make=True)
    store.put([own], Put.NEW)
    store.close()
    wanted = [account(tmp_path, Mode.PSK)]
    other = issuer.prepare("press-8", wanted)
    for _ in range(2):
        mine = issuer.prepare("press-7", wanted)
        issuer.finished("press-7", mine)
    assert stored(tmp_path) == {own, other[0].credential, mine[0].credential}


def test_key_that_was_removed_meanwhile_is_made_anew(issuer: Issuer, tmp_path: Path) -> None:
    wanted = [account(tmp_path, Mode.PSK)]
    first = issuer.prepare("press-7", wanted)
    assert first[0].credential is not None
    store = SqliteCredentials(tmp_path / "keys.db")
    store.remove([first[0].credential.id])
    store.close()
    second = issuer.prepare("press-7", wanted)
    assert stored(tmp_path) == {second[0].credential}


def test_a_name_of_any_length_gets_an_identity(issuer: Issuer, tmp_path: Path) -> None:
    made = issuer.prepare("ü" * 255, [account(tmp_path, Mode.PSK)])
    assert isinstance(made[0].credential, Psk)
    assert len(made[0].credential.identity) <= 128


def test_a_store_in_redis_is_given_keys_and_freed_of_old_ones_alike(issuer: Issuer) -> None:
    place = place_in_redis()
    wanted = [Account(uri="coaps://gw", short_id=1, mode=Mode.PSK, store=place)]
    first = issuer.prepare("press-7", wanted)
    issuer.finished("press-7", first)
    second = issuer.prepare("press-7", wanted)
    store = open_store(place)
    assert set(store) == {first[0].credential, second[0].credential}
    assert issuer.finished("press-7", second) == 1
    store.close()
    store = open_store(place)
    assert set(store) == {second[0].credential}
    store.close()
