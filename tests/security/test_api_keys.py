"""API keys: the form of the file, who may change it, and which keys open what."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from security.api_keys import ApiKey, KeyFile, Scope, add, find, new_key, read_keys, revoke
from security.errors import ApiKeyError

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SCOPES = frozenset({Scope.SCHEMAS_READ})


def made(file: Path, name: str = "grafana", expires: datetime | None = None) -> str:
    text, row = new_key(name, SCOPES, now=NOW, expires=expires)
    add(file, row)
    return text


def test_a_key_is_256_random_bits_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = {made(file, f"key-{number}") for number in range(20)}
    assert len(keys) == 20
    assert all(key.startswith("hw_") and len(key) == 3 + 43 for key in keys)
    content = file.read_text()
    assert not any(key in content or key[3:] in content for key in keys)
    assert all(len(row["sha256"]) == 64 for row in json.loads(content)["keys"])


def test_the_file_is_its_owners_alone_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made(tmp_path / "new" / "keys.json")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "keys.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["keys.json"]


def test_only_the_key_itself_is_found(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first, second = made(file, "first"), made(file, "second")
    keys = read_keys(file)
    assert [getattr(find(keys, text), "name", None) for text in (first, second)] == ["first", "second"]
    for wrong in ("", "hw_", first[:-1], first + "=", first.upper(), f" {first}", "\udcff", keys[0].digest):
        assert find(keys, wrong) is None, wrong


def test_a_key_ends_with_its_time_or_its_revocation(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    text = made(file, expires=NOW + timedelta(days=1))
    key = find(read_keys(file), text)
    assert key is not None
    assert key.is_valid(NOW + timedelta(hours=23))
    assert not key.is_valid(NOW + timedelta(days=1))
    revoke(file, "grafana", NOW)
    assert revoke(file, "grafana", NOW + timedelta(days=9)).revoked == NOW
    revoked = find(read_keys(file), text)
    assert revoked is not None
    assert not revoked.is_valid(NOW)
    with pytest.raises(ApiKeyError, match="would have expired already"):
        new_key("late", SCOPES, now=NOW, expires=NOW)


def test_a_name_is_given_again_only_after_its_key_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    old = made(file)
    with pytest.raises(ApiKeyError, match="there is a key grafana already"):
        made(file)
    revoke(file, "grafana", NOW)
    new = made(file)
    assert find(read_keys(file), old) is None
    assert find(read_keys(file), new) is not None
    with pytest.raises(ApiKeyError, match=r"there is no key 'nobody' in .*; there are: grafana"):
        revoke(file, "nobody", NOW)


@pytest.mark.parametrize("name", ["", "a b", "-x", "a/b", "x" * 65, "é", "a\n", "a:b"])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(ApiKeyError, match="no name of a key"):
        new_key(name, SCOPES, now=NOW, expires=None)


def test_a_key_without_a_scope_is_refused() -> None:
    with pytest.raises(ApiKeyError, match="opens nothing"):
        new_key("x", frozenset(), now=NOW, expires=None)


def test_a_change_of_the_file_is_seen_at_the_next_question(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = made(path, "first")
    file = KeyFile(path)
    assert file.find(first) is not None
    second = made(path, "second")
    assert file.find(second) is not None
    revoke(path, "first", NOW)
    key = file.find(first)
    assert key is not None
    assert key.revoked == NOW


def test_a_broken_file_opens_nothing_until_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text = made(path)
    good = path.read_bytes()
    file = KeyFile(path)
    assert file.find(text) is not None
    path.write_bytes(good[:-9])
    for _ in range(2):
        with pytest.raises(ApiKeyError, match="not in our form"):
            file.find(text)
    path.unlink()
    with pytest.raises(ApiKeyError, match="No such file"):
        file.find(text)
    path.write_bytes(good)
    assert file.find(text) is not None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    made(path)
    path.chmod(mode)
    with pytest.raises(ApiKeyError, match="others may write"):
        read_keys(path)
    with pytest.raises(ApiKeyError, match="others may write"):
        made(path, "another")


def test_a_file_that_others_may_read_is_taken_as_swarm_mounts_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text = made(path)
    path.chmod(0o444)
    assert KeyFile(path).find(text) is not None


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ApiKeyError):
            read_keys(path)


ROW: dict[str, Any] = {
    "name": "a",
    "sha256": "0" * 64,
    "scopes": ["schemas:read"],
    "created": "2026-03-01T12:00:00+00:00",
    "expires": None,
    "revoked": None,
}
CHANGES: list[dict[str, Any]] = [
    {"name": None},
    {"name": "a b"},
    {"sha256": "0"},
    {"sha256": "A" * 64},
    {"scopes": []},
    {"scopes": ["everything"]},
    {"scopes": "schemas:read"},
    {"scopes": [["schemas:read"]]},
    {"created": None},
    {"expires": "soon"},
    {"expires": "2026-03-01T12:00:00"},
    {"revoked": 1},
    {"revoked": False},
]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"version": 2, "keys": []}',
        b'{"version": 1}',
        b'{"version": 1, "keys": {}}',
        b'{"version": 1, "keys": [1]}',
        *(json.dumps({"version": 1, "keys": [ROW | change]}).encode() for change in CHANGES),
        json.dumps({"version": 1, "keys": [ROW, ROW]}).encode(),
        b" " * (1 << 20) + b"x",
    ],
)
def test_a_file_in_another_form_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ApiKeyError, match=str(path)):
        read_keys(path)


def test_two_who_add_at_once_both_have_their_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=made, args=(path, f"key-{number}")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(path)} == {f"key-{number}" for number in range(12)}


def test_a_row_shows_no_key(tmp_path: Path) -> None:
    text, row = new_key("x", SCOPES, now=NOW, expires=None)
    assert text not in repr(row)
    assert isinstance(row, ApiKey)
