"""What the store of credentials in SQLite promises beside the contract (`tests.contracts.test_credential_stores`)."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from security.credentials import sqlite
from security.credentials.kinds import Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.sqlite_file import APPLICATION_ID, SCHEMA_VERSION
from security.credentials.store import Done, Put
from security.errors import CredentialStoreError, StoreBusy, StoreExposed, StoreForeign, StoreMissing
from tests.credential_samples import ALL, OTHER, psk

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "credentials.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteCredentials]:
    opened = SqliteCredentials(path, make=True)
    yield opened
    opened.close()


def test_file_and_folder_are_their_owners_alone_whatever_the_umask_says(path: Path) -> None:
    before = os.umask(0)
    try:
        opened = SqliteCredentials(path, make=True)
        reader = sqlite3.connect(path)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM credentials").fetchall()
        opened.put(ALL, Put.NEW)
        files = sorted(path.parent.iterdir())
        assert [one.name for one in files] == ["credentials.db", "credentials.db-shm", "credentials.db-wal"]
        assert {one.stat().st_mode & 0o777 for one in files} == {0o600}
        assert path.parent.stat().st_mode & 0o777 == 0o700
        reader.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o610])
def test_a_file_that_is_open_to_others_is_refused_with_what_to_do(
    path: Path, store: SqliteCredentials, mode: int
) -> None:
    path.chmod(mode)
    with pytest.raises(StoreExposed, match=f"chmod 600 {path}"):
        SqliteCredentials(path)
    with pytest.raises(StoreExposed, match="chmod 600"):
        store.put(ALL, Put.NEW)
    path.chmod(0o600)
    SqliteCredentials(path).close()


def test_none_is_made_where_none_was_asked_for(path: Path) -> None:
    with pytest.raises(StoreMissing, match="headwater credentials add"):
        SqliteCredentials(path)
    assert not path.parent.exists()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"SQLite format 3\0" + bytes(200), b"\0" * 8192])
def test_a_file_that_is_not_ours_is_told_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    path.write_bytes(content)
    for make in (False, True):
        with pytest.raises(StoreForeign, match=str(path)):
            SqliteCredentials(path, make=make)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_told_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (a)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreForeign, match=r"no store of credentials.*--store"):
        SqliteCredentials(path, make=True)
    assert path.read_bytes() == before


def test_a_store_of_a_later_version_is_told(path: Path, store: SqliteCredentials) -> None:
    store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StoreForeign, match=r"later version of headwater.*update"):
        SqliteCredentials(path)


def test_a_damaged_page_or_row_is_told_and_gives_no_key(path: Path, store: SqliteCredentials) -> None:
    store.put(ALL, Put.NEW)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE credentials SET body = '{}' WHERE name = 'p-1'")
    db.close()
    with pytest.raises(StoreForeign, match="damaged"):
        store.psk(b"p-1")
    store.close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
    with pytest.raises(CredentialStoreError, match=str(path)):
        SqliteCredentials(path).psk(b"batch")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CredentialStoreError, match="no file"):
            SqliteCredentials(place, make=True)
    (tmp_path / "plain").touch()
    with pytest.raises(CredentialStoreError):
        SqliteCredentials(tmp_path / "plain" / "x.db", make=True)


def test_a_lookup_waits_for_no_writer(path: Path, store: SqliteCredentials) -> None:
    store.put(ALL, Put.NEW)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM credentials")
    begun = time.monotonic()
    assert store.psk(b"p-1") == ALL[0]
    assert store.changed_since(store.position()).ended == frozenset()
    assert time.monotonic() - begun < 1
    writer.execute("ROLLBACK")
    writer.close()


def test_who_waits_too_long_for_another_writer_is_told(
    path: Path, store: SqliteCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "WRITE_WAIT_S", 0.1)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="another process"):
        store.put(ALL, Put.NEW)
    writer.close()
    assert store.put(ALL, Put.NEW)


def test_who_missed_more_than_is_remembered_is_told_to_look_at_everything(
    store: SqliteCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MOST_CHANGES", 3)
    start = store.position()
    store.put([psk("a"), psk("b"), psk("c")], Put.NEW)
    assert not store.changed_since(start).everything
    middle = store.position()
    store.put([psk("d")], Put.NEW)
    assert store.changed_since(start).everything
    assert not store.changed_since(middle).everything


def test_a_backup_that_comes_into_the_place_of_the_store_is_taken_up(
    path: Path, tmp_path: Path, store: SqliteCredentials
) -> None:
    backup = SqliteCredentials(tmp_path / "backup.db", make=True)
    backup.put([psk("old")], Put.NEW)
    backup.close()
    store.put([psk("new")], Put.NEW)
    start = store.position()
    (tmp_path / "backup.db").replace(path)
    found = store.changed_since(start)
    assert found.everything
    assert store.psk(b"new") is None
    assert store.psk(b"old") == psk("old")
    assert not store.changed_since(found.position).everything


def test_a_store_that_went_missing_comes_back_with_its_file(path: Path, store: SqliteCredentials) -> None:
    store.put([psk("a")], Put.NEW)
    start = store.position()
    path.rename(path.with_name("away"))
    for _ in range(2):
        with pytest.raises(StoreMissing):
            store.changed_since(start)
    path.with_name("away").rename(path)
    assert not store.changed_since(start).everything
    assert store.psk(b"a") == psk("a")


def test_a_removed_key_is_not_left_in_the_files(path: Path, store: SqliteCredentials) -> None:
    store.put([psk("a", key=OTHER)], Put.NEW)
    mark = OTHER.reveal().hex().encode()
    assert any(mark in one.read_bytes() for one in path.parent.iterdir())
    store.remove([psk("a").id])
    assert not any(mark in one.read_bytes() for one in path.parent.iterdir())


def child(program: str, *arguments: str) -> subprocess.Popen[str]:
    head = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.security.test_credential_store import *\n"
        "store = SqliteCredentials(Path(sys.argv[1]), make=True)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + program, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_make_and_write_it_at_once_lose_nothing(path: Path) -> None:
    program = (
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for number in range(60): store.put([psk(f'{sys.argv[2]}-{number}')], Put.NEW)\n"
        "store.remove([psk(f'{sys.argv[2]}-{number}').id for number in range(0, 60, 2)])\n"
    )
    writers = [child(program, str(path), name) for name in ("a", "b")]
    try:
        for one in writers:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        store = SqliteCredentials(path)
        start = store.position()
        for one in writers:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        assert [one.wait(60) for one in writers] == [0, 0]
    finally:
        for one in writers:
            one.kill()
            one.communicate()
    expected = {f"{name}-{number}" for name in ("a", "b") for number in range(1, 60, 2)}
    assert {one.endpoint for one in store} == expected
    found = store.changed_since(start)
    assert len(found.added) == 120
    assert len(found.ended) == 60
    store.close()


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.1, 0.25])
def test_what_is_killed_in_the_middle_of_an_import_has_stored_nothing_of_it(path: Path, after_s: float) -> None:
    """Held open in the middle, with more than a page cache of rows written: what is killed is a transaction."""
    program = (
        "store.put([psk('before')], Put.NEW)\n"
        "def rows():\n"
        "    for number in range(10**9):\n"
        "        if number == 3000: print('middle', flush=True)\n"
        "        yield psk(f'row-{number}')\n"
        "store.put(rows(), Put.ALL)\n"
    )
    process = child(program, str(path))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "middle\n"
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
    store = SqliteCredentials(path)
    assert [one.endpoint for one in store] == ["before"]
    assert [one.done for one in store.put([psk("row-1")], Put.NEW)] == [Done.ADDED]
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    store.close()


def test_it_is_asked_from_any_thread(store: SqliteCredentials) -> None:
    from concurrent.futures import ThreadPoolExecutor

    store.put(ALL, Put.NEW)
    look: Callable[[int], Psk | None] = lambda _: store.psk(b"p-1")  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(look, range(200))) == {ALL[0]}
