"""Stores of credentials: the contract that each keeps, and what the file in SQLite promises beside it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from security.credentials import sqlite
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import X509, CertificateUsage, Credential, CredentialId, Kind, Oscore, Psk, Rpk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.sqlite_file import APPLICATION_ID, SCHEMA_VERSION
from security.credentials.store import CredentialStore, Done, Put
from security.errors import CredentialStoreError, StoreBusy, StoreExposed, StoreForeign, StoreMissing

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEY = KeyBytes(bytes(range(16)))
OTHER = KeyBytes(bytes(range(1, 17)))
REPOSITORY = Path(__file__).parents[2]


def psk(endpoint: str, identity: str | None = None, key: KeyBytes = KEY) -> Psk:
    return Psk(endpoint=endpoint, created=NOW, identity=(identity or endpoint).encode(), key=key)


def oscore(endpoint: str, recipient: bytes, context: bytes | None = None) -> Oscore:
    return Oscore(
        endpoint=endpoint,
        created=NOW,
        master_secret=KEY,
        sender_id=b"server",
        recipient_id=recipient,
        id_context=context,
    )


def der(filling: int) -> bytes:
    return b"\x30\x04" + filling.to_bytes(4)


RPK = Rpk(endpoint="rpk-1", created=NOW, public_key=der(1))
OWN = X509(endpoint="x509-1", created=NOW, certificate=der(2))
ANCHOR = X509(endpoint="x*", created=NOW, certificate=der(3), usage=CertificateUsage.TRUST_ANCHOR_ASSERTION)
ALL = (psk("p-1"), psk("p-*", "batch"), oscore("o-1", b"\1"), oscore("o-2", b""), RPK, OWN, ANCHOR)


class CredentialStoreContract:
    """What every store keeps. A subclass has the fixtures ``store``, empty, and ``another``, the same one as another
    process has it."""

    def test_what_was_put_is_found_by_what_a_device_shows(self, store: CredentialStore) -> None:
        assert [one.done for one in store.put(ALL, Put.NEW)] == [Done.ADDED] * len(ALL)
        assert store.psk(b"p-1") == ALL[0]
        assert store.psk(b"batch") == ALL[1]
        assert store.rpk(RPK.public_key) == RPK
        assert store.oscore(b"\1") == ALL[2]
        assert store.oscore(b"") == ALL[3]
        assert store.find(OWN.id) == OWN
        assert sorted(store, key=repr) == sorted(ALL, key=repr)

    @pytest.mark.parametrize("identity", [b"", b"p-2", b"P-1", b"p-1\0", b"\xff\xfe", b"x" * 10_000, b"rpk-1"])
    def test_what_is_not_there_is_none(self, store: CredentialStore, identity: bytes) -> None:
        store.put(ALL, Put.NEW)
        assert store.psk(identity) is None
        assert store.rpk(identity) is None
        assert store.oscore(identity or b"\7") is None
        assert store.find(CredentialId(Kind.RPK, "p-1")) is None

    @pytest.mark.parametrize("kind", Kind)
    def test_whether_there_is_any_of_a_kind(self, store: CredentialStore, kind: Kind) -> None:
        store.put([one for one in ALL if one.id.kind is not kind], Put.NEW)
        assert not store.has(kind)
        store.put(list(ALL), Put.NEW)
        assert store.has(kind)

    def test_by_endpoint_its_own_come_before_those_of_patterns(self, store: CredentialStore) -> None:
        exact, wide = psk("p-1", "z"), psk("*", "a")
        store.put([wide, *ALL, exact], Put.NEW)
        assert store.of_endpoint("p-1") == (ALL[0], exact, wide, ALL[1])
        assert store.of_endpoint("p-2") == (wide, ALL[1])
        assert store.of_endpoint("P-1") == (wide,)
        # A pattern is found by its own text as well, as people remove it.
        assert ALL[1] in store.of_endpoint("p-*")

    def test_a_message_without_a_context_finds_the_only_one_or_the_one_without(self, store: CredentialStore) -> None:
        first, second, bare = oscore("a", b"\1", b"one"), oscore("b", b"\1", b"two"), oscore("c", b"\1")
        store.put([first], Put.NEW)
        assert store.oscore(b"\1") == first
        assert store.oscore(b"\1", b"two") is None
        store.put([second], Put.NEW)
        assert store.oscore(b"\1") is None
        assert store.oscore(b"\1", b"two") == second
        store.put([bare], Put.NEW)
        assert store.oscore(b"\1") == bare

    def test_twice_is_as_once_and_keeps_the_time(self, store: CredentialStore) -> None:
        store.put(ALL, Put.NEW)
        before = store.position()
        later = [replace(one, created=NOW + timedelta(days=1)) for one in ALL]
        for how in Put:
            assert {one.done for one in store.put(later, how)} == {Done.UNCHANGED}
        assert store.psk(b"p-1") == ALL[0]
        assert store.position() == before

    def test_another_key_is_a_change_or_with_new_a_conflict(self, store: CredentialStore) -> None:
        store.put([psk("a")], Put.NEW)
        (refused,) = store.put([psk("a", key=OTHER)], Put.NEW)
        assert (refused.done, refused.holder) == (Done.CONFLICT, "a")
        assert store.psk(b"a") == psk("a")
        (changed,) = store.put([psk("a", key=OTHER)], Put.ALL)
        assert (changed.done, changed.holder) == (Done.CHANGED, "a")
        assert store.psk(b"a") == psk("a", key=OTHER)

    @pytest.mark.parametrize("how", list(Put))
    def test_an_identity_of_another_endpoint_is_a_conflict(self, store: CredentialStore, how: Put) -> None:
        store.put([psk("a", "id"), RPK, OWN, oscore("o", b"\1")], Put.NEW)
        wrong: list[Credential] = [
            psk("b", "id"),
            replace(RPK, endpoint="b"),
            replace(OWN, endpoint="b"),
            oscore("b", b"\1"),
        ]
        outcomes = store.put([psk("new"), *wrong], how)
        assert [one.done for one in outcomes] == [Done.ADDED] + [Done.CONFLICT] * 4
        assert [one.holder for one in outcomes] == [None, "a", "rpk-1", "x509-1", "o"]
        # All or nothing, or what fits.
        assert (store.psk(b"new") is not None) is (how in (Put.FITTING, Put.ONCE))
        assert store.psk(b"id") == psk("a", "id")

    def test_one_anchor_may_vouch_for_many(self, store: CredentialStore) -> None:
        outcomes = store.put([ANCHOR, replace(ANCHOR, endpoint="y*")], Put.NEW)
        assert [one.done for one in outcomes] == [Done.ADDED, Done.ADDED]

    def test_trusted_signers_are_there_once_each(self, store: CredentialStore) -> None:
        store.put([OWN, ANCHOR, replace(ANCHOR, endpoint="y*")], Put.NEW)
        constraint = replace(ANCHOR, certificate=der(4), usage=CertificateUsage.CA_CONSTRAINT)
        store.put([constraint], Put.NEW)
        assert store.anchors() == (ANCHOR.certificate,)

    def test_a_trial_changes_nothing(self, store: CredentialStore) -> None:
        before = store.position()
        assert [one.done for one in store.put(ALL, Put.TRIAL)] == [Done.ADDED] * len(ALL)
        assert list(store) == []
        assert store.changed_since(before).position == before

    def test_what_was_put_once_and_removed_does_not_come_back(self, store: CredentialStore) -> None:
        assert {one.done for one in store.put(ALL, Put.ONCE)} == {Done.ADDED}
        store.remove([one.id for one in ALL])
        before = store.position()
        later = [replace(one, created=NOW + timedelta(days=1)) for one in ALL]
        assert {one.done for one in store.put(later, Put.ONCE)} == {Done.KNOWN}
        assert list(store) == []
        assert store.position() == before

    def test_what_was_put_once_and_changed_stays_as_it_was_changed(self, store: CredentialStore) -> None:
        store.put([psk("a")], Put.ONCE)
        store.put([psk("a", key=OTHER)], Put.ALL)
        assert [one.done for one in store.put([psk("a")], Put.ONCE)] == [Done.KNOWN]
        assert store.psk(b"a") == psk("a", key=OTHER)

    def test_what_says_something_else_is_put_once_more_and_back_again(self, store: CredentialStore) -> None:
        store.put([psk("a")], Put.ONCE)
        for key in (OTHER, KEY):
            assert [one.done for one in store.put([psk("a", key=key)], Put.ONCE)] == [Done.CHANGED]
            assert store.psk(b"a") == psk("a", key=key)

    def test_what_was_put_otherwise_before_is_put_once_without_a_change(self, store: CredentialStore) -> None:
        store.put(ALL, Put.NEW)
        assert {one.done for one in store.put(ALL, Put.ONCE)} == {Done.UNCHANGED}
        store.remove([one.id for one in ALL])
        assert {one.done for one in store.put(ALL, Put.ONCE)} == {Done.KNOWN}

    def test_a_conflict_is_not_remembered_as_put(self, store: CredentialStore) -> None:
        store.put([psk("b", "id")], Put.NEW)
        assert [one.done for one in store.put([psk("a", "id")], Put.ONCE)] == [Done.CONFLICT]
        store.remove([psk("b", "id").id])
        assert [one.done for one in store.put([psk("a", "id")], Put.ONCE)] == [Done.ADDED]

    def test_what_is_removed_is_gone(self, store: CredentialStore) -> None:
        store.put(ALL, Put.NEW)
        assert store.remove([ALL[0].id, CredentialId(Kind.PSK, "nobody"), ALL[2].id]) == (ALL[0], ALL[2])
        assert store.remove([ALL[0].id]) == ()
        assert store.psk(b"p-1") is None
        assert store.oscore(b"\1") is None

    def test_another_learns_what_was_added_and_what_ended(
        self, store: CredentialStore, another: CredentialStore
    ) -> None:
        store.put([psk("kept"), psk("changed"), psk("removed"), psk("back"), psk("moved", "m")], Put.NEW)
        start = another.position()
        assert another.changed_since(start).ended == frozenset()
        store.put([psk("new"), psk("changed", key=OTHER), psk("kept")], Put.ALL)
        store.remove([psk("removed").id, psk("back").id, psk("moved", "m").id])
        store.put([psk("back"), psk("moved-on", "m")], Put.NEW)
        found = another.changed_since(start)
        assert not found.everything
        assert {one.name for one in found.ended} == {"changed", "removed", "back", "m"}
        assert {one.name for one in found.added} == {"new", "back", "m"}
        assert another.psk(b"removed") is None
        assert another.psk(b"new") == psk("new")
        again = another.changed_since(found.position)
        assert (again.position, again.added, again.ended) == (found.position, frozenset(), frozenset())

    def test_the_salt_stays(self, store: CredentialStore, another: CredentialStore) -> None:
        assert len(store.salt) >= 16
        assert store.salt == another.salt


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "credentials.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteCredentials]:
    opened = SqliteCredentials(path, make=True)
    yield opened
    opened.close()


class TestSqlite(CredentialStoreContract):
    @pytest.fixture
    def another(self, store: SqliteCredentials, path: Path) -> Iterator[SqliteCredentials]:
        opened = SqliteCredentials(path)
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
