"""The authority's folder: what is made once, what is refused, and what a kill in the middle leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from security import durable
from security.authority import NOW, Authority, Done, Keys, Step
from security.certificates import belongs
from security.errors import (
    AuthorityBroken,
    AuthorityBusy,
    AuthorityExpired,
    AuthorityMissing,
    ClockWrong,
    Exposed,
    Refused,
    SecurityError,
)
from security.identities import Identity
from security.record import Record, from_text, to_text
from security.tls_folder import load_key, read_folder

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BROKER = Identity.parse("broker:rock64")
GATEWAY = Identity.parse("gateway:rock64")
ANNA = Identity.parse("user:anna")


class Calendar:
    """The time of a test."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
def authority(tmp_path: Path, calendar: Calendar) -> Authority:
    made = Authority(tmp_path / "fleet" / "pki", clock=calendar)
    assert made.create() is Done.CREATED
    return made


def files(authority: Authority) -> dict[str, bytes]:
    """Every file of the authority."""
    root = authority.folder.path
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_everything_is_made_once(authority: Authority) -> None:
    assert authority.ensure(BROKER, names=["localhost"]).done is Done.CREATED
    assert authority.ensure(GATEWAY).done is Done.CREATED
    before = files(authority)
    assert authority.create() is Done.KEPT
    assert authority.ensure(BROKER, names=["LOCALHOST"]).done is Done.KEPT
    assert authority.ensure(GATEWAY).done is Done.KEPT
    assert authority.renew(GATEWAY).done is Done.KEPT
    assert authority.rotate(Step.FINISH) == (Done.KEPT, [])
    assert files(authority) == before


def test_nobody_but_the_owner_can_look_in_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Authority(tmp_path / "pki")
        made.create()
        made.ensure(GATEWAY)
        made.renew(GATEWAY, within=NOW)
        made.revoke(GATEWAY)
        made.ensure(GATEWAY)
    finally:
        os.umask(before)
    for path in [made.folder.path, *made.folder.path.rglob("*")]:
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_git_leaves_the_keys_alone(tmp_path: Path) -> None:
    git = shutil.which("git")
    assert git, "this test needs the program git"
    subprocess.run([git, "init", "-q", tmp_path], check=True, timeout=60)
    Authority(tmp_path / "pki").create()
    seen = subprocess.run([git, "-C", tmp_path, "status", "--porcelain"], capture_output=True, check=True, timeout=60)
    assert seen.stdout == b""


def test_a_folder_is_copied_as_any_other(authority: Authority, tmp_path: Path) -> None:
    folder = authority.ensure(GATEWAY).folder
    for how in (["cp", "-r"], ["cp", "-rL"], ["cp", "-a"]):
        target = tmp_path / "".join(how)
        subprocess.run([*how, folder, target], check=True, timeout=60)
        assert read_folder(target).identity == GATEWAY


def test_a_renewal_keeps_key_and_names_and_is_due_only_near_the_end(authority: Authority, calendar: Calendar) -> None:
    first = authority.ensure(BROKER, names=["localhost", "10.0.0.1"])
    key = (first.folder / "key.pem").read_bytes()
    calendar.pass_days(397 - 31)
    assert authority.renew(BROKER).done is Done.KEPT
    calendar.pass_days(2)
    renewed = authority.renew(BROKER)
    assert (renewed.done, renewed.names, renewed.folder) == (Done.RENEWED, first.names, first.folder)
    assert renewed.not_after == calendar.now + timedelta(days=397)
    assert (first.folder / "key.pem").read_bytes() == key
    assert authority.renew(BROKER, within=NOW, keys=Keys.NEW).done is Done.RENEWED
    assert (first.folder / "key.pem").read_bytes() != key


def test_a_name_is_added_by_a_renewal_and_not_silently(authority: Authority) -> None:
    authority.ensure(BROKER, names=["localhost"])
    with pytest.raises(Refused, match=r"without box\.example.*certs renew broker:rock64 --san box\.example"):
        authority.ensure(BROKER, names=["localhost", "box.example"])
    assert authority.renew(BROKER, names=["box.example"]).names == ("localhost", "box.example")
    assert authority.ensure(BROKER, names=["box.example"]).done is Done.KEPT


def test_a_client_has_no_names(authority: Authority) -> None:
    with pytest.raises(Refused, match="no broker"):
        authority.ensure(GATEWAY, names=["localhost"])


def test_each_revocation_is_another_generation(authority: Authority) -> None:
    names = []
    for _ in range(3):
        names.append(authority.ensure(GATEWAY).identity.principal)
        assert authority.revoke(Identity.parse(names[-1]), reason="lost").done is Done.REVOKED
        assert authority.revoke(Identity.parse(names[-1])).done is Done.KEPT
    assert names == ["gateway:rock64", "gateway:rock64:2", "gateway:rock64:3"]
    assert authority.identities() == []
    record = authority.record()
    assert [one.identity.principal for one in record.revoked] == names
    assert {one.reason for one in record.revoked} == {"lost"}
    for old in names:
        with pytest.raises(Refused):
            authority.renew(Identity.parse(old))
    with pytest.raises(Refused, match="was revoked; it is gateway:rock64:4 now"):
        authority.ensure(Identity.parse("gateway:rock64:2"))
    with pytest.raises(Refused, match="does not come next"):
        authority.ensure(Identity.parse("gateway:rock64:9"))
    # Others of that name are others.
    assert authority.ensure(Identity.parse("replicator:rock64")).identity.generation == 1


def test_only_what_was_issued_is_renewed_or_revoked(authority: Authority) -> None:
    before = files(authority)
    with pytest.raises(Refused, match="headwater certs create client user:anna"):
        authority.renew(ANNA)
    with pytest.raises(Refused, match="never issued"):
        authority.revoke(ANNA)
    with pytest.raises(Refused, match="headwater certs create edge rock64"):
        authority.renew(BROKER)
    assert files(authority) == before


def test_there_is_nothing_without_an_authority(tmp_path: Path) -> None:
    nowhere = Authority(tmp_path / "none" / "pki")
    for ask in (lambda: nowhere.ensure(GATEWAY), lambda: nowhere.renew(GATEWAY), nowhere.record):
        with pytest.raises(AuthorityMissing, match="headwater certs create cloud makes it"):
            ask()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("days", [0, 1])
def test_a_leaf_does_not_outlive_its_authority(tmp_path: Path, calendar: Calendar, days: int) -> None:
    short = Authority(tmp_path / "pki", clock=calendar)
    short.create(days=100)
    before = files(short)
    calendar.pass_days(days)
    with pytest.raises(AuthorityExpired, match=rf"--days {100 - days} at most, or headwater certs rotate-ca begin"):
        short.ensure(GATEWAY)
    assert {name: content for name, content in files(short).items() if "record" in name} == {
        name: content for name, content in before.items() if "record" in name
    }
    assert short.ensure(GATEWAY, days=100 - days).not_after == START + timedelta(days=100)


def test_an_authority_that_ran_out_signs_nothing(tmp_path: Path, calendar: Calendar) -> None:
    short = Authority(tmp_path / "pki", clock=calendar)
    short.create(days=10)
    short.ensure(GATEWAY, days=5)
    calendar.pass_days(11)
    with pytest.raises(AuthorityExpired, match="the authority itself ran out"):
        short.renew(GATEWAY, days=1)
    with pytest.raises(Refused, match="ran out"):
        short.ensure(GATEWAY)
    # What was stolen can be given up all the same.
    assert short.revoke(GATEWAY).done is Done.REVOKED


def test_a_clock_that_cannot_be_is_refused(authority: Authority, calendar: Calendar, tmp_path: Path) -> None:
    calendar.pass_days(10)
    authority.ensure(GATEWAY)
    before = files(authority)
    calendar.pass_days(-2)
    with pytest.raises(ClockWrong, match="set the clock"):
        authority.renew(GATEWAY, within=NOW)
    calendar.now = datetime(1970, 1, 2, tzinfo=UTC)
    with pytest.raises(ClockWrong, match="1970-01-02"):
        authority.renew(GATEWAY, within=NOW)
    with pytest.raises(ClockWrong):
        Authority(tmp_path / "another", clock=calendar).create()
    assert files(authority) == before
    assert not (tmp_path / "another").exists()


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("private")
    with pytest.raises(AuthorityBroken, match=r"holds files \(diary\.txt\) but no record\.json"):
        Authority(mine).create()
    with pytest.raises(AuthorityBroken):
        Authority(mine / "diary.txt").create()
    assert [file.name for file in mine.iterdir()] == ["diary.txt"]
    # An empty one is as none.
    (tmp_path / "empty").mkdir()
    assert Authority(tmp_path / "empty").create() is Done.CREATED


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 2}', "\xff", '{"version": "1"}'])
def test_a_damaged_record_stops_everything_and_changes_nothing(authority: Authority, text: str) -> None:
    authority.ensure(GATEWAY)
    authority.folder.record_file.write_bytes(text.encode("latin-1"))
    before = files(authority)
    for ask in (
        lambda: authority.ensure(ANNA),
        lambda: authority.revoke(GATEWAY),
        lambda: authority.rotate(Step.BEGIN),
    ):
        with pytest.raises(AuthorityBroken, match=r"record\.json"):
            ask()
    with pytest.raises(AuthorityBroken):
        authority.create()
    assert files(authority) == before


def test_a_record_cut_anywhere_is_damaged(authority: Authority) -> None:
    authority.ensure(GATEWAY)
    authority.revoke(GATEWAY, reason='he said "no"\n')
    text = authority.folder.record_file.read_text()
    assert to_text(from_text(text, "record")) == text
    for end in range(len(text) - 2):
        with pytest.raises(AuthorityBroken):
            from_text(text[:end], "record")


def test_a_lost_record_is_not_made_anew(authority: Authority) -> None:
    authority.ensure(GATEWAY)
    authority.folder.record_file.unlink()
    with pytest.raises(AuthorityBroken, match=r"put record\.json back from a backup"):
        authority.create()


def test_a_strangers_certificate_in_a_folder_is_told(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", clock=lambda: START)
    other.create()
    theirs, ours = other.ensure(GATEWAY).folder, authority.folder.issued / "gateway+rock64"
    shutil.copytree(theirs, ours)
    with pytest.raises(AuthorityBroken, match=r"Move .* away"):
        authority.ensure(GATEWAY)
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours, symlinks=True)
    with pytest.raises(AuthorityBroken, match=r"Move .* away"):
        authority.ensure(GATEWAY)


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "keystore.pem"])
def test_a_damaged_file_of_an_identity_is_told_and_not_overwritten(authority: Authority, name: str) -> None:
    folder = authority.ensure(GATEWAY).folder
    (folder / name).resolve().write_bytes(b"rubbish")
    with pytest.raises(SecurityError, match=name):
        authority.ensure(GATEWAY)
    with pytest.raises(SecurityError, match=name):
        authority.renew(GATEWAY, within=NOW)
    assert (folder / name).read_bytes() == b"rubbish"


def test_a_damaged_key_of_the_authority_is_told_without_its_content(authority: Authority) -> None:
    key = authority.folder.signer_folder(1) / "key.pem"
    content = key.read_text()
    key.resolve().write_text(content[:60])
    with pytest.raises(SecurityError) as told:
        authority.ensure(GATEWAY)
    assert str(key) in str(told.value)
    assert content[30:55] not in str(told.value)


def test_another_authoritys_key_or_certificate_is_told(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", clock=lambda: START)
    other.create()
    for name, words in (("key.pem", "not the key"), ("cert.pem", "not the certificate that")):
        ours = (authority.folder.signer_folder(1) / name).resolve()
        before = ours.read_bytes()
        ours.write_bytes((other.folder.signer_folder(1) / name).read_bytes())
        with pytest.raises(AuthorityBroken, match=words):
            authority.ensure(GATEWAY)
        ours.write_bytes(before)
    assert authority.ensure(GATEWAY).done is Done.CREATED


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_key_of_the_authority_that_lies_open_is_not_used(authority: Authority, mode: int) -> None:
    (authority.folder.signer_folder(1) / "key.pem").chmod(mode)
    with pytest.raises(Exposed, match="chmod 600"):
        authority.ensure(GATEWAY)


def test_a_lost_folder_is_issued_again_and_the_loss_stays_on_record(authority: Authority) -> None:
    first = authority.ensure(GATEWAY)
    shutil.rmtree(first.folder)
    assert authority.ensure(GATEWAY).done is Done.CREATED
    assert len([one for one in authority.record().issued if one.identity == GATEWAY]) == 2
    # And both are withdrawn, should it have been a theft.
    authority.revoke(GATEWAY)
    assert len(authority.record().withdrawn(1, START)) == 2


def test_rotation_goes_step_by_step(authority: Authority) -> None:
    authority.ensure(GATEWAY)
    with pytest.raises(Refused, match="rotate-ca begin"):
        authority.rotate(Step.SIGN)
    assert authority.rotate(Step.BEGIN) == (Done.CREATED, [])
    before = files(authority)
    assert authority.rotate(Step.BEGIN) == (Done.KEPT, [])
    assert files(authority) == before
    with pytest.raises(Refused, match="rotate-ca sign comes before finish"):
        authority.rotate(Step.FINISH)
    # What is made meanwhile is of the old authority, which all trust.
    authority.ensure(ANNA)
    done, outcomes = authority.rotate(Step.SIGN)
    assert done is Done.CREATED
    assert [(one.identity, one.done) for one in outcomes] == [(GATEWAY, Done.RENEWED), (ANNA, Done.RENEWED)]
    done, outcomes = authority.rotate(Step.SIGN)
    assert (done, {one.done for one in outcomes}) == (Done.KEPT, {Done.KEPT})
    assert authority.rotate(Step.FINISH) == (Done.CREATED, [])
    assert authority.rotate(Step.FINISH) == (Done.KEPT, [])
    assert not authority.folder.signer_folder(1).exists()
    assert len(read_folder(authority.folder.issued / GATEWAY.folder).authorities) == 1


def test_a_key_that_was_taken_away_hinders_no_new_trust(authority: Authority) -> None:
    folder = authority.ensure(GATEWAY).folder
    authority.ensure(ANNA)
    for name in ("key.pem", "keystore.pem"):
        (folder / name).resolve().unlink()
    authority.rotate(Step.BEGIN)
    assert (folder / "ca.pem").read_bytes() == authority.folder.bundle_file.read_bytes()
    with pytest.raises(AuthorityBroken, match=r"key\.pem: No such file.*Move .*gateway\+rock64 away"):
        authority.rotate(Step.SIGN)
    shutil.rmtree(folder)
    _, outcomes = authority.rotate(Step.SIGN)
    assert [one.identity for one in outcomes] == [ANNA]


def test_an_interrupted_step_is_gone_on_with(authority: Authority) -> None:
    folder = authority.ensure(GATEWAY).folder
    authority.ensure(ANNA)
    authority.rotate(Step.BEGIN)
    (folder / "cert.pem").resolve().rename(folder / "hidden")
    with pytest.raises(AuthorityBroken):
        authority.rotate(Step.SIGN)
    (folder / "hidden").rename((folder / "key.pem").resolve().with_name("cert.pem"))
    done, outcomes = authority.rotate(Step.SIGN)
    assert done is Done.CREATED
    assert {one.done for one in outcomes} == {Done.RENEWED}
    assert authority.rotate(Step.FINISH)[0] is Done.CREATED


def test_the_old_authority_is_not_dropped_while_somebody_is_of_it(authority: Authority, tmp_path: Path) -> None:
    folder = authority.ensure(GATEWAY).folder
    kept = tmp_path / "kept"
    authority.rotate(Step.BEGIN)
    shutil.copytree(folder, kept, symlinks=True)
    authority.rotate(Step.SIGN)
    shutil.rmtree(folder)
    shutil.copytree(kept, folder, symlinks=True)
    with pytest.raises(Refused, match=r"gateway\+rock64: still of the old authority"):
        authority.rotate(Step.FINISH)


def test_a_second_process_waits_and_then_says_so(authority: Authority) -> None:
    impatient = Authority(authority.folder.path, clock=lambda: START, wait_s=0.1)
    with durable.locked(authority.folder.path, wait_s=0), pytest.raises(AuthorityBusy, match="another process"):
        impatient.ensure(GATEWAY)
    assert impatient.ensure(GATEWAY).done is Done.CREATED


ONE = """
import sys
from pathlib import Path
from security.authority import Authority
from security.identities import Identity
authority = Authority(Path(sys.argv[1]), wait_s=60)
authority.create()
for name in sys.argv[2:]:
    print(authority.ensure(Identity.parse(name)).done.value)
"""


def test_several_processes_at_once_make_one_authority_and_each_identity_once(tmp_path: Path) -> None:
    place = tmp_path / "fleet" / "pki"
    names = [f"gateway:g{number}" for number in range(4)]

    def run(_: int) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", ONE, str(place), *names], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    with ThreadPoolExecutor(4) as pool:
        outcomes = [done for found in pool.map(run, range(4)) for done in found]
    assert sorted(outcomes) == ["created"] * 4 + ["kept"] * 12
    made = Authority(place)
    assert len(made.record().issued) == 4
    assert [str(one) for one in made.identities()] == names
    assert list(place.parent.iterdir()) == [place]


ENDLESS = """
import sys
from pathlib import Path
from security.authority import NOW, Authority, Keys, Step
from security.identities import Identity
authority = Authority(Path(sys.argv[1]))
gateway, anna = Identity.parse("gateway:rock64"), Identity.parse("user:anna")
print("begun", flush=True)
while True:
    authority.create()
    authority.ensure(gateway)
    authority.renew(gateway, within=NOW, keys=Keys.NEW)
    authority.ensure(anna)
    authority.revoke(authority.record().current(anna))
    for step in Step:
        authority.rotate(step)
"""


@pytest.mark.faults
def test_a_kill_at_any_moment_leaves_everything_whole(tmp_path: Path) -> None:
    place = tmp_path / "fleet" / "pki"
    revoked = 0
    for round_ in range(20):
        if round_ % 5 == 4:
            # The making of the authority itself is hit as well.
            shutil.rmtree(place, ignore_errors=True)
            revoked = 0
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(place)], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(random.uniform(0.0, 0.15))
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        whatever_there_is_is_whole(place)
        authority = Authority(place)
        authority.create()
        # The next one completes what was begun.
        authority.ensure(GATEWAY)
        assert read_folder(authority.folder.issued / GATEWAY.folder).identity == GATEWAY
        found = len(authority.record().revoked)
        assert found >= revoked, "a revocation was forgotten"
        revoked = found
        assert not [left for left in place.rglob("*") if left.name.endswith(durable.PART)]
        assert [folder.name for folder in (place / "ca").iterdir() if folder.is_dir()] == [
            str(one.number) for one in authority.record().signers
        ] or len(authority.record().signers) == 2


def whatever_there_is_is_whole(place: Path) -> None:
    """As a process finds it that only reads, without any repair."""
    if not place.exists():
        return
    record = Authority(place).record()
    for folder in (place / "issued").iterdir():
        if folder.name.startswith("."):
            continue
        held = read_folder(folder)  # key, certificate, keystore and authorities belong together
        assert record.find(held.certificate.serial_number) is not None, "a certificate that is on no record"
    made = Authority(place).folder
    for signer in record.signers:
        assert belongs(load_key(made.signer_folder(signer.number) / "key.pem"), made.signer_certificate(signer))


def test_a_full_disk_leaves_the_old_in_place(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.ensure(GATEWAY)
    before = files(authority)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for ask in (
        lambda: authority.renew(GATEWAY, within=NOW),
        lambda: authority.ensure(ANNA),
        lambda: authority.revoke(GATEWAY),
        lambda: authority.rotate(Step.BEGIN),
    ):
        with pytest.raises(OSError, match="No space left"):
            ask()
    assert files(authority) == before


ANOTHER = """
import os, sys
from pathlib import Path
from security.authority import Authority
if os.geteuid() == 0:  # who may read everything
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Authority(Path(sys.argv[1])).record()
except Exception as exc:
    print(type(exc).__name__, exc)
"""


@pytest.mark.parametrize("closed", ["pki", "pki/record.json"])
def test_another_user_is_told_what_he_may_not(tmp_path: Path, closed: str) -> None:
    place = tmp_path / "pki"
    Authority(place).create()
    for folder in (place, tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / closed).chmod(0)
    done = subprocess.run([sys.executable, "-c", ANOTHER, str(place)], capture_output=True, text=True, timeout=60)
    place.chmod(0o700)
    assert "Permission denied" in done.stdout, done.stderr
    assert str(place) in done.stdout


def test_the_record_tells_others_who_is_revoked_and_holds_no_secret(authority: Authority) -> None:
    authority.ensure(GATEWAY)
    authority.revoke(GATEWAY)
    text = authority.folder.record_file.read_text()
    record: Record = from_text(text, "record")
    assert [one.identity for one in record.revoked] == [GATEWAY]
    assert record.current(GATEWAY).principal == "gateway:rock64:2"
    assert "PRIVATE" not in text
    assert json.loads(text)["revoked"][0]["at"] == "2026-03-01T12:00:00Z"
