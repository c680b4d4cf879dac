"""``headwater sensor`` and ``station``, and their keys: what is refused and in which words, and that a key is seen
nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from headwater.cli import app
from headwater.commands.device_server import server_address
from headwater.exits import Exit

KEY = "000102030405060708090a0b0c0d0e0f"


def refused(*arguments: str) -> str:
    """What a person reads, whatever the width; both commands say the same."""
    (said,) = {_refused(command, *arguments) for command in ("sensor", "station")}
    return said


def _refused(command: str, *arguments: str) -> str:
    result = CliRunner().invoke(app, [command, "--endpoint", "s", *arguments])
    assert result.exit_code in (Exit.USAGE, Exit.CANNOT_START), result.output
    assert "Traceback" not in result.output
    assert KEY not in result.output
    return re.sub(r"[\s│]+", " ", result.output)


def private(name: str, text: str) -> str:
    Path(name).touch(0o600)
    Path(name).write_text(text)
    return name


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("gateway:5683", "gateway:5683"),
        ("coap://gateway", "coap://gateway:5683"),
        ("coaps://gateway", "coaps://gateway:5684"),
        ("coaps://gateway:7000/", "coaps://gateway:7000"),
        ("coaps://[::1]", "coaps://[::1]:5684"),
        ("coaps://[::1]:7000", "coaps://[::1]:7000"),
    ],
)
def test_server_is_an_address_or_a_uri(text: str, meant: str) -> None:
    assert server_address(text) == meant


@pytest.mark.parametrize("text", ["gateway", "coaps://", "coaps://gateway:0", "coaps://gateway:99999", "http://x:1"])
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        server_address(text)


def test_scheme_and_key_go_together() -> None:
    key = private("s.key", KEY + "\n")
    assert "--psk-file FILE" in refused("--server", "coaps://127.0.0.1")
    assert "for DTLS say coaps://" in refused("--server", "coap://127.0.0.1", "--psk-file", key)
    listed = private("l.csv", f"endpoint,kind,master_secret,sender_id,recipient_id\ns,oscore,{KEY},01,02\n")
    assert "OSCORE needs none: say coap://" in refused("--server", "coaps://127.0.0.1", "--oscore-list", listed)


def test_options_of_keys_that_contradict_each_other_are_refused() -> None:
    key = private("s.key", KEY + "\n")
    assert "one of them" in refused("--psk-file", key, "--psk-list", key)
    assert "goes with --psk-file" in refused("--psk-identity", "me")
    assert "one of them" in refused("--psk-file", key, "--oscore-list", key)
    assert "--psk-list FILE has a key for each" in refused("--psk-file", key, "--count", "2")


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "it is empty"), ("no key\n", "bytes in hex (00ff) or base64"), ("00ff\n", "16"), (KEY * 5, "64")],
)
def test_file_without_a_key_is_refused(text: str, words: str) -> None:
    said = refused("--psk-file", private("s.key", text))
    assert "s.key" in said
    assert words in said


def test_file_that_is_not_there_or_open_to_others_is_refused() -> None:
    assert "nowhere.key: No such file" in refused("--psk-file", "nowhere.key")
    assert "nowhere.csv: No such file" in refused("--psk-list", "nowhere.csv")
    listed = private("l.csv", f"endpoint,kind,identity,key\ns,psk,,{KEY}\n")
    Path(listed).chmod(0o644)
    assert "chmod 600 l.csv" in refused("--psk-list", listed)
    key = private("s.key", KEY)
    Path(key).chmod(0o666)
    assert "chmod 600 s.key" in refused("--psk-file", key)


def test_list_has_to_have_a_key_for_every_device() -> None:
    listed = private("l.csv", f"endpoint,kind,identity,key\ns-1,psk,,{KEY}\ns-2,rpk,,\n")
    assert "line 3" in refused("--psk-list", listed, "--count", "2")
    listed = private("l.csv", f"endpoint,kind,identity,key\ns-1,psk,,{KEY}\n")
    said = refused("--psk-list", listed, "--count", "6")
    assert "no pre-shared key (kind psk) for s-2, s-3, s-4 and 2 more" in said
