"""What the store of credentials in Redis promises beside the contract (`tests.contracts.test_credential_stores`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.access import Access, Changed
from security.credentials import redis
from security.credentials.opening import StoreUrl, open_store, place_of
from security.credentials.redis import RedisCredentials
from security.credentials.store import Put
from security.errors import (
    CredentialStoreError,
    InvalidCredential,
    SecurityError,
    StoreExposed,
    StoreForeign,
    StoreMissing,
)
from tests.credential_samples import ALL, KEY, OTHER, psk
from tests.ports import held_port
from tests.redis_server import PASSWORD, RedisServer

HEAD = "{headwater:credentials}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    one = RedisServer(directory=tmp_path / "redis", port=held_port(), password=PASSWORD)
    one.start()
    yield one
    one.remove()


def url(server: RedisServer) -> str:
    return f"redis://:{quote(PASSWORD)}@127.0.0.1:{server.port}/0"


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisCredentials]:
    opened = RedisCredentials(url(server), make=True)
    yield opened
    opened.close()


def test_what_is_known_serves_while_redis_is_away_and_it_goes_on_when_it_is_back(
    server: RedisServer, store: RedisCredentials
) -> None:
    store.put([psk("a")], Put.NEW)
    access = Access(store)
    server.kill()
    assert access.changed() == Changed()
    assert access.key(b"a") == KEY.reveal()
    with pytest.raises(CredentialStoreError, match=f"127.0.0.1:{server.port} cannot be reached"):
        store.put([psk("b")], Put.NEW)
    assert access.failures == 0
    server.start()
    writer = open_store(place_of(url(server)))
    writer.put([psk("b"), psk("a", key=OTHER)], Put.ALL)
    changed = access.changed()
    assert changed == Changed(added=frozenset({"b"}), ended=frozenset({"a"}))
    assert access.key(b"a") == OTHER.reveal()
    writer.close()


def test_what_is_known_is_not_believed_when_redis_was_away_for_too_long(
    server: RedisServer, store: RedisCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put([psk("a")], Put.NEW)
    access = Access(store)
    server.kill()
    monkeypatch.setattr(redis, "KNOWN_FOR_S", 0.0)
    assert access.changed() == Changed()
    assert access.key(b"a") is None
    with pytest.raises(CredentialStoreError):
        access.may_register("a", "a")
    # Who is in stays.
    assert not access.is_revoked("a")
    monkeypatch.undo()
    server.start()
    assert access.changed() == Changed()
    assert access.key(b"a") == KEY.reveal()


def test_a_redis_that_hangs_keeps_nobody_for_long(
    server: RedisServer, store: RedisCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put([psk("a")], Put.NEW)
    store.position()
    monkeypatch.setattr(redis, "WAIT_S", 0.2)
    patient = RedisCredentials(url(server))
    position = patient.position()
    server.pause()
    try:
        assert patient.changed_since(position).position == position
        assert patient.psk(b"a") == psk("a")
        with pytest.raises(CredentialStoreError, match="does not answer in time"):
            patient.put([psk("b")], Put.NEW)
    finally:
        server.go_on()
        patient.close()


def test_a_redis_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(CredentialStoreError) as told:
        RedisCredentials(f"redis://:geheim@127.0.0.1:{held_port()}/0")
    assert "cannot be reached" in str(told.value)
    assert "geheim" not in repr(told.value) + str(told.value)


def test_a_redis_that_lost_all_lets_nobody_in(server: RedisServer, store: RedisCredentials) -> None:
    """Without its credentials a gateway would take devices in the clear that have some."""
    store.put([psk("a")], Put.NEW)
    access = Access(store)
    server.client().flushall()
    assert access.changed() == Changed()
    assert access.key(b"a") is None
    with pytest.raises(StoreMissing, match="headwater credentials add"):
        access.is_secured("a")


def test_a_backup_in_its_place_is_looked_at_as_a_whole_even_with_as_many_changes(
    server: RedisServer, store: RedisCredentials
) -> None:
    client = server.client()
    store.put([psk("old")], Put.NEW)
    keys = [f"{HEAD}:{one}" for one in ("about", "rows", "changes")]
    backup = [client.dump(one) for one in keys]
    store.put([psk("new")], Put.NEW)
    start = store.position()
    for one, content in zip(keys, backup, strict=True):
        client.restore(one, 0, content, replace=True)
    other = RedisCredentials(url(server))
    other.put([psk("other")], Put.NEW)
    other.close()
    found = store.changed_since(start)
    assert found.everything
    assert store.psk(b"new") is None
    assert store.psk(b"old") == psk("old")
    assert store.psk(b"other") == psk("other")
    assert not store.changed_since(found.position).everything


def test_what_is_not_ours_or_damaged_or_of_a_later_version_is_told(
    server: RedisServer, store: RedisCredentials
) -> None:
    client = server.client()
    store.put(ALL, Put.NEW)
    client.hset(f"{HEAD}:rows", "psk p-1", '["p-1", 1, "{}"]')
    with pytest.raises(StoreForeign, match="damaged"):
        store.psk(b"p-1")
    client.hset(f"{HEAD}:rows", "psk p-1", b"\xff\xfe")
    with pytest.raises(StoreForeign, match="damaged"):
        store.position()
    client.hset(f"{HEAD}:about", "form", 2)
    with pytest.raises(StoreForeign, match=r"later version of headwater.*update"):
        RedisCredentials(url(server))
    client.delete(f"{HEAD}:about")
    for make in (False, True):
        with pytest.raises(StoreForeign if make else StoreMissing):
            RedisCredentials(url(server), make=make)
    client.set(f"{HEAD}:about", "somebody's")
    for make in (False, True):
        with pytest.raises(StoreForeign, match="prefix="):
            RedisCredentials(url(server), make=make)


@pytest.mark.parametrize(
    ("login", "words"), [("", "asks for a password"), (":wrong@", "refuses the user or the password")]
)
def test_who_may_not_come_in_is_told_what_to_do(server: RedisServer, login: str, words: str) -> None:
    with pytest.raises(CredentialStoreError, match=words) as told:
        RedisCredentials(f"redis://{login}127.0.0.1:{server.port}/0")
    assert "wrong" not in str(told.value)


def test_password_comes_out_of_a_file(server: RedisServer, store: RedisCredentials, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text(PASSWORD + "\n")
    place = place_of(f"redis://127.0.0.1:{server.port}/0?password_file={file}")
    store.put([psk("a")], Put.NEW)
    opened = open_store(place)
    assert opened.psk(b"a") == psk("a")
    opened.close()
    file.unlink()
    with pytest.raises(CredentialStoreError, match=str(file)):
        open_store(place)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("http://host/store", InvalidCredential, "redis://, rediss://"),
        ("redis://", InvalidCredential, "HOST:PORT"),
        ("redis://:geheim@host:port/0", InvalidCredential, "this is none"),
        ("redis://:geheim@host/name", InvalidCredential, "DATABASE a number"),
        ("redis://:geheim@host?colour=red", InvalidCredential, "password_file"),
        ("redis://:geheim@host?prefix=", InvalidCredential, "once"),
        ("redis://:geheim@host?prefix=a b", InvalidCredential, "prefix"),
        ("redis://:geheim@host?password_file=/p", InvalidCredential, "not in both"),
        ("redis://:geheim@host?ca_file=/ca.pem", InvalidCredential, "rediss"),
        ("rediss://host?cert_file=/c.pem", InvalidCredential, "key_file"),
        ("redis://host", StoreExposed, "set a password"),
        ("rediss://host?ca_file=/ca.pem", StoreExposed, "set a password"),
        ("rediss://:geheim@localhost?ca_file=/none.pem", CredentialStoreError, "no file /none.pem"),
    ],
)
def test_a_url_that_is_wrong_or_leaves_the_keys_open_is_refused(
    text: str, error: type[SecurityError], words: str
) -> None:
    with pytest.raises(error, match=words) as told:
        open_store(place_of(text))
    assert "geheim" not in str(told.value)


def test_a_place_is_shown_without_its_password() -> None:
    place = place_of("redis://user:p@ss:word@host:1/2?prefix=a")
    assert isinstance(place, StoreUrl)
    assert str(place) == "redis://user:******@host:1/2?prefix=a"
    assert "word" not in repr(place)
    assert place.has_password
    assert not StoreUrl("rediss://user@host").has_password
    assert place_of("folder/credentials.db") == Path("folder/credentials.db")


def test_the_client_of_redis_is_loaded_for_its_urls_alone(tmp_path: Path) -> None:
    program = (
        "import sys; from security.credentials.opening import open_store, place_of\n"
        f"open_store(place_of({str(tmp_path / 'a.db')!r}), make=True)\n"
        "import gateway.server, gateway.bootstrap.server\n"
        "print([one for one in sys.modules if one.partition('.')[0] == 'redis' or 'credentials.redis' in one])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_user_with_the_rights_that_the_docs_name_can_do_it_all(server: RedisServer) -> None:
    text = (Path(__file__).parents[2] / "docs" / "credentials.md").read_text()
    named = re.search(r"A user needs `([^`]+)` on `([^`]+)`", text)
    assert named is not None
    server.client().execute_command("ACL", "SETUSER", "keys", "on", ">secret", named[2], *named[1].split())
    mine = RedisCredentials(f"redis://keys:secret@127.0.0.1:{server.port}/1", make=True)
    mine.put(ALL, Put.NEW)
    start = mine.position()
    mine.remove([ALL[0].id])
    assert mine.changed_since(start).ended == {ALL[0].id}
    mine.close()
    with pytest.raises(CredentialStoreError, match=r"docs/credentials\.md"):
        RedisCredentials(f"redis://keys:secret@127.0.0.1:{server.port}/1?prefix=other")
