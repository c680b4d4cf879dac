"""Secrets out of files: shown to nobody, and refused where they lie open."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import traceback
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from security import secrets
from security.errors import Exposed, FolderError, SecretError, SecurityError
from security.identities import Identity
from security.secrets import MAX_BYTES, Secret, exposure, read_key, read_secret
from security.tls_folder import read_folder
from tests.identities import Issuer

WORD = "correct horse battery"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "password"
    made.write_text(WORD + "\n")
    made.chmod(0o600)
    return made


def test_a_secret_is_masked_wherever_it_is_shown(file: Path) -> None:
    secret = read_secret(file)
    assert secret.reveal() == WORD
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", "%s" % [secret], str({"a": (secret,)})):
        assert WORD not in text
        assert "******" in text
    logging.getLogger("t").error("%s", secret)


def test_a_secret_is_not_copied_out_by_pickle() -> None:
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret(WORD))
    with pytest.raises(TypeError):
        copy.deepcopy(Secret(WORD))


def test_secrets_are_equal_by_what_they_hold() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"a\r\n", "a"), (b"a b ", "a b "), ("gr\u00fc\u00df".encode(), "gr\u00fc\u00df"), (b"a\n\n", "a")],
)
def test_only_the_end_of_the_line_is_left_out(file: Path, content: bytes, text: str) -> None:
    file.write_bytes(content)
    assert read_secret(file).reveal() == text


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"\n", "empty"), (b"geheim\xff\xfe", "no UTF-8 text"), (b"x" * (MAX_BYTES + 1), "longer than")],
)
def test_what_is_no_secret_is_refused_without_telling_it(file: Path, content: bytes, words: str) -> None:
    file.write_bytes(content)
    with pytest.raises(SecretError, match=words) as told:
        read_secret(file)
    assert str(file) in str(told.value)
    # Not by the error that it came from either.
    assert "geheim" not in "".join(traceback.format_exception(told.value))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("none", "No such file"), (".", "no file"), ("pipe", "no file")):
        with pytest.raises(SecretError, match=words):
            read_secret(tmp_path / name)


def test_a_password_that_others_can_read_is_told_in_the_log_and_one_that_they_can_change_is_refused(file: Path) -> None:
    with capture_logs() as logs:
        read_secret(file)
    assert logs == []
    file.chmod(0o644)
    with capture_logs() as logs:
        assert read_secret(file).reveal() == WORD
    assert [entry["event"] for entry in logs] == ["secret readable by everybody"]
    assert WORD not in str(logs)
    file.chmod(0o646)
    with pytest.raises(Exposed, match="chmod 600"):
        read_secret(file)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_a_key_of_its_owner_or_of_a_group_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read_key(file) == (WORD + "\n").encode()


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o644, "read by everybody"), (0o604, "read by everybody"), (0o660, "changed by others"), (0o602, "changed by")],
)
def test_a_key_that_lies_open_is_refused_with_what_to_do(file: Path, mode: int, words: str) -> None:
    file.chmod(mode)
    with pytest.raises(Exposed, match=rf"{words}.*chmod 600"):
        read_key(file)
    link = file.with_name("link")
    link.symlink_to(file)
    assert exposure(link) is not None


def test_what_a_container_was_given_may_be_0444(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.chmod(0o444)
    monkeypatch.setattr(secrets, "MOUNTS", (file.parent,))
    assert read_key(file) == (WORD + "\n").encode()
    with capture_logs() as logs:
        read_secret(file)
    assert logs == []


def test_a_folder_whose_files_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    ours, theirs = Issuer(tmp_path / "a"), Issuer(tmp_path / "b")
    folder = ours.issue("gateway:rock64")
    assert read_folder(folder).identity == Identity.parse("gateway:rock64")
    other = theirs.issue("gateway:rock64")
    whole = {name: (folder / name).read_bytes() for name in ("ca.pem", "cert.pem", "key.pem", "keystore.pem")}
    for name, words in (
        ("ca.pem", "signed by none of the authorities"),
        ("key.pem", "not the key of cert.pem"),
        ("cert.pem", "not the key of cert.pem"),
        ("keystore.pem", "keystore.pem holds another"),
    ):
        (folder / name).write_bytes((other / name).read_bytes())
        with pytest.raises(FolderError, match=words):
            read_folder(folder)
        (folder / name).write_bytes(whole[name])
        for content in (b"", b"rubbish", whole[name][:-40], whole[name][:100]):
            (folder / name).write_bytes(content)
            with pytest.raises(SecurityError, match=name):
                read_folder(folder)
        (folder / name).write_bytes(whole[name])
        (folder / name).rename(folder / "away")
        if name != "keystore.pem":  # which only Kafka needs
            with pytest.raises(SecurityError, match=f"{name}: No such file"):
                read_folder(folder)
        (folder / "away").rename(folder / name)
    assert read_folder(folder).identity == Identity.parse("gateway:rock64")


def test_there_is_a_way_to_go_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="headwater certs create"):
        read_folder(tmp_path / "none")
