"""``headwater certs``: what people see, what programs get, how it ends; and that no key is ever shown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headwater.cli import app
from headwater.exits import Exit
from security.authority import Authority
from security.identities import Identity
from security.tls_folder import Side, read_folder

COMMANDS = ["create", "renew", "show", "revoke", "rotate-ca"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".headwater" / "pki"


def certs(*arguments: str, code: Exit = Exit.OK) -> str:
    """What it says; it ends with ``code``, and shows no key whatever was asked."""
    result = CliRunner().invoke(app, ["certs", *arguments])
    assert result.exit_code == code, result.output
    assert "PRIVATE" not in result.output
    for key in Path.cwd().rglob("key.pem"):
        with contextlib.suppress(OSError):
            body = key.read_text().splitlines()[1:-1]
            assert not any(line in result.output for line in body if line)
    # As a person reads it, whatever the width.
    return re.sub(r"[\s│]+", " ", result.output)


def json_of(*arguments: str, code: Exit = Exit.OK) -> Any:
    result = CliRunner().invoke(app, ["certs", *arguments, "--output", "json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(command: str) -> None:
    assert f"headwater certs {command}" in certs(command, "--help")


def test_help_needs_no_cryptography() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from headwater.cli import app; "
        "CliRunner().invoke(app, ['certs', 'create', '--help']); "
        "print(sorted({'cryptography', 'confluent_kafka'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("typed", "offered"), [("headwater certs create ", "edge"), ("headwater certs ", "revoke")])
def test_completion_offers_what_there_is(typed: str, offered: str) -> None:
    environment = os.environ | {
        "_HEADWATER_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split())),
    }
    done = subprocess.run(
        [sys.executable, "-m", "headwater.cli"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert offered in done.stdout.split()


def test_a_fleet_is_made_and_made_once(folder: Path) -> None:
    assert "no authority" in certs("create", "edge", "rock64", code=Exit.CANNOT_START)
    assert not folder.exists()
    made = json_of("create", "cloud", "--san", "kafka.example.org")
    assert made["authority"] == "created"
    by_name = {one["identity"]: one for one in made["certificates"]}
    assert list(by_name) == ["broker:cloud", "admin:fleet", "monitor:fleet"]
    assert {one["done"] for one in by_name.values()} == {"created"}
    assert by_name["broker:cloud"]["names"] == [
        "kafka-cloud", "kafka", "localhost", "127.0.0.1", "::1", "kafka.example.org"
    ]  # fmt: skip
    assert by_name["broker:cloud"]["folder"] == str(folder / "issued" / "broker+cloud")
    edge = json_of("create", "edge", "rock64")
    assert [one["identity"] for one in edge["certificates"]] == [
        "gateway:rock64", "broker:rock64", "replicator:rock64"
    ]  # fmt: skip
    assert edge["certificates"][1]["names"][0] == "kafka-rock64"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for arguments in (("create", "ca"), ("create", "cloud"), ("create", "edge", "rock64")):
        again = json_of(*arguments)
        assert again["authority"] == "kept"
        assert {one["done"] for one in again["certificates"]} <= {"kept"}
    assert "kept" in certs("create", "edge", "rock64")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create"], "Missing argument"),
        (["create", "moon"], "is not one of"),
        (["create", "edge"], "say which: headwater certs create edge rock64"),
        (["create", "client"], "say which"),
        (["create", "cloud", "rock64"], "cloud takes no name"),
        (["create", "edge", "cloud"], "no gateway may be called cloud"),
        (["create", "edge", "../x"], "gateway id"),
        (["create", "edge", "g" * 60], "holds 64"),
        (["create", "client", "anna"], "ROLE:NAME is expected"),
        (["create", "client", "boss:anna"], "the roles are"),
        (["create", "client", "user:a,b"], "letters, digits"),
        (["create", "client", "user:anna", "--san", "x"], "--san"),
        (["create", "cloud", "--days", "0"], "--days"),
        (["create", "cloud", "--san", "*.example.org"], "no wildcard"),
        (["create", "cloud", "--days", "30", "--ca-days", "10"], "of 30 days outlive an authority of 10"),
        (["renew"], "say whose, or --all"),
        (["renew", "user:anna", "--all"], "say whose, or --all"),
        (["renew", "--all", "--san", "x"], "belongs to one broker"),
        (["show", "x", "--connect", "127.0.0.1:1"], "not both"),
        (["show", "--connect", "nowhere"], "HOST:PORT"),
        (["rotate-ca"], "Missing argument"),
    ],
)
def test_what_is_asked_wrongly_is_told(arguments: list[str], words: str) -> None:
    if arguments[0] == "renew":
        certs("create", "cloud")
    assert words in certs(*arguments, code=Exit.USAGE)


def test_what_is_asked_wrongly_makes_neither_an_authority_nor_half_of_an_edge(folder: Path) -> None:
    certs("create", "cloud", "--san", "two words", code=Exit.USAGE)
    certs("create", "cloud", "--days", "30", "--ca-days", "30", code=Exit.USAGE)
    assert not folder.exists()
    certs("create", "cloud", "--days", "10", "--ca-days", "20")
    assert "would outlive the authority" in certs("create", "edge", "rock64", code=Exit.CANNOT_START)
    certs("create", "edge", "rock64", "--san", "kafka.example.org", "--san", "*.example.org", code=Exit.USAGE)
    assert {one.name for one in (folder / "issued").iterdir()} == {"broker+cloud", "admin+fleet", "monitor+fleet"}


def test_renewals_and_revocations_are_told() -> None:
    certs("create", "cloud")
    certs("create", "client", "user:anna")
    assert {one["done"] for one in json_of("renew", "--all")["certificates"]} == {"kept"}
    assert {one["done"] for one in json_of("renew", "--all", "--force")["certificates"]} == {"renewed"}
    added = json_of("renew", "broker:cloud", "--san", "box.example")["certificates"][0]
    assert (added["done"], "box.example" in added["names"]) == ("renewed", True)
    assert "headwater certs create client user:bob makes it" in certs("renew", "user:bob", code=Exit.USAGE)
    said = certs("revoke", "user:anna", "--reason", "left")
    assert "revoked user:anna" in said
    assert "headwater acl apply" in said
    assert "user:anna was revoked before" in certs("revoke", "user:anna")
    assert json_of("create", "client", "user:anna")["certificates"][0]["identity"] == "user:anna:2"
    said = certs("revoke", "user:anna")
    assert "the one in use is user:anna:2: headwater certs revoke user:anna:2" in said
    assert "never issued" in certs("revoke", "user:bob", code=Exit.USAGE)


def test_a_revoked_broker_keeps_its_names_and_the_brokers_must_be_told() -> None:
    certs("create", "cloud", "--san", "kafka.example.org")
    said = certs("revoke", "broker:cloud", "--replace")
    assert "broker:cloud:2" in said
    assert "super user" in said
    shown = {one["subject"]: one for one in json_of("show")["certificates"]}
    assert shown["broker:cloud"]["state"] == "revoked"
    assert "kafka.example.org" in shown["broker:cloud:2"]["names"]


def test_a_table_and_json_show_the_days_that_are_left(folder: Path) -> None:
    certs("create", "cloud", "--days", "100")
    shown = json_of("show")
    assert shown["ok"] is True
    left = {one["identity"]: one["daysLeft"] for one in shown["certificates"]}
    # The seconds since it was made may be none.
    assert {left["broker:cloud"], left["admin:fleet"]} <= {99, 100}
    assert {one["state"] for one in shown["certificates"]} == {"ok"}
    assert shown["certificates"][0]["identity"] is None  # the authority is nobody's identity
    said = certs("show", "--warn-days", "101", code=Exit.REFUSED)
    assert re.search("admin:fleet runs out in (99|100) days", said)
    soon = json_of("show", "--warn-days", "101", code=Exit.REFUSED)
    assert soon["ok"] is False
    assert [one["subject"] for one in soon["certificates"] if one["state"] == "soon"] == [
        "admin:fleet", "broker:cloud", "monitor:fleet"
    ]  # fmt: skip
    one = folder / "issued" / "admin+fleet"
    assert json_of("show", str(one))["certificates"][0]["subject"] == "admin:fleet"
    assert json_of("show", str(one / "cert.pem"))["certificates"][0]["daysLeft"] in (99, 100)
    assert len(json_of("show", str(one / "keystore.pem"))["certificates"]) == 1


def test_what_ran_out_does_not_hold_yet_or_is_lost_ends_with_1(folder: Path) -> None:
    then = datetime.now(UTC).replace(microsecond=0) - timedelta(days=20)
    old = Authority(folder, clock=lambda: then)
    old.create()
    old.ensure(Identity.parse("user:anna"), days=10)
    assert "user:anna ran out on" in certs("show", code=Exit.REFUSED)
    assert "ran out" in certs("create", "client", "user:anna", code=Exit.USAGE)
    certs("renew", "user:anna")
    certs("show")
    gone = folder / "issued" / "user+anna"
    gone.rename(folder.parent / "elsewhere")
    assert "is not there" in certs("show", code=Exit.REFUSED)
    ahead = Authority(folder.parent / "ahead", clock=lambda: then + timedelta(days=40))
    ahead.create()
    assert "does not hold yet" in certs("show", "--dir", str(folder.parent / "ahead"), code=Exit.REFUSED)


@pytest.mark.parametrize(("name", "words"), [("none", "No such file"), ("empty", "no certificate"), (".", "neither")])
def test_where_there_is_no_certificate_that_is_said(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "empty").write_text("")
    assert words in certs("show", name, code=Exit.CANNOT_START)


def test_the_authority_is_rotated_in_three_steps() -> None:
    certs("create", "cloud")
    assert "rotate-ca begin" in certs("rotate-ca", "sign", code=Exit.USAGE)
    assert "then: headwater certs rotate-ca sign" in certs("rotate-ca", "begin")
    assert "under way already" in certs("rotate-ca", "begin")
    assert "comes before finish" in certs("rotate-ca", "finish", code=Exit.USAGE)
    signed = json_of("rotate-ca", "sign")
    assert signed["changed"] is True
    assert {one["done"] for one in signed["certificates"]} == {"renewed"}
    assert json_of("rotate-ca", "sign")["changed"] is False
    assert "the old authority is gone" in certs("rotate-ca", "finish")
    assert "no rotation under way" in certs("rotate-ca", "finish")
    certs("show")


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[str]:
    """A server for one connection, with TLS or without."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def serve() -> None:
            with contextlib.suppress(OSError):
                plain, _ = listener.accept()
                plain.settimeout(30)
                with plain:
                    if context is None:
                        plain.sendall(b"SSH-2.0-hello\r\n")
                    else:
                        context.wrap_socket(plain, server_side=True).recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(30)


def test_a_live_server_is_looked_at_without_a_certificate_of_ones_own(folder: Path) -> None:
    certs("create", "cloud", "--days", "50")
    context = read_folder(folder / "issued" / "broker+cloud").context(Side.SERVER)
    with serving(context) as place:
        found = json_of("show", "--connect", place)["certificates"]
    assert [(one["identity"], one["place"]) for one in found] == [("broker:cloud", place)]
    assert found[0]["daysLeft"] in (49, 50)
    with serving(context) as place:
        certs("show", "--connect", place, "--warn-days", "60", code=Exit.REFUSED)


def test_a_server_that_is_away_or_speaks_no_tls_is_told() -> None:
    with serving(None) as place:
        assert "not in TLS" in certs("show", "--connect", place, code=Exit.UNREACHABLE)
    assert "nobody answers" in certs("show", "--connect", "127.0.0.1:1", code=Exit.UNREACHABLE)


def test_a_server_that_asks_first_is_shown_a_certificate(folder: Path) -> None:
    certs("create", "cloud")
    context = read_folder(folder / "issued" / "broker+cloud").context(Side.SERVER)
    # TLS 1.3 shows the server's certificate in any case, TLS 1.2 only at the end of a handshake that went well.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(context) as place:
        assert "--tls DIR shows it a certificate" in certs("show", "--connect", place, code=Exit.UNREACHABLE)
    own = str(folder / "issued" / "monitor+fleet")
    with serving(context) as place:
        assert "broker:cloud" in certs("show", "--connect", place, "--tls", own)
    assert "it goes with --connect" in certs("show", "--tls", own, code=Exit.USAGE)


def test_one_damaged_folder_keeps_nobody_else_from_being_renewed_or_shown(folder: Path) -> None:
    certs("create", "cloud")
    broken = folder / "issued" / "admin+fleet" / "cert.pem"
    broken.resolve().write_text("rubbish")
    said = certs("renew", "--all", "--force", code=Exit.CANNOT_START)
    assert said.count("renewed") == 2
    assert f"{broken}: there is no certificate in it" in said
    assert "makes another" in said
    shown = {one["subject"]: one["state"] for one in json_of("show", code=Exit.REFUSED)["certificates"]}
    assert shown["admin:fleet"] == "broken"
    assert shown["broker:cloud"] == shown["monitor:fleet"] == "ok"
    (folder / "issued" / "admin+fleet").rename(folder.parent / "away")
    certs("create", "cloud")
    certs("show")


def test_what_never_ends_is_no_certificate(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no file" in certs("show", "pipe", code=Exit.CANNOT_START)
    assert "no file" in certs("show", "/dev/zero", code=Exit.CANNOT_START)
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(1 << 30)
    assert "longer than" in certs("show", "huge", code=Exit.CANNOT_START)


@pytest.mark.parametrize("place", ["file", "file/pki", "/proc/pki", "/dev/null"])
def test_a_place_where_no_authority_can_be_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    said = certs("create", "cloud", "--dir", place, code=Exit.CANNOT_START)
    assert "error:" in said
    assert "Traceback" not in said
    assert (tmp_path / "file").read_text() == "mine"


def test_the_folder_comes_from_the_environment_or_the_settings_file(tmp_path: Path) -> None:
    environment = {"HEADWATER_CERTS_CREATE_DIR": str(tmp_path / "there")}
    assert CliRunner().invoke(app, ["certs", "create", "ca"], env=environment).exit_code == 0
    assert (tmp_path / "there" / "record.json").is_file()
    (tmp_path / "headwater.toml").write_text('[certs.create]\ndir = "elsewhere"\ndays = 20\n')
    assert json_of("create", "cloud")["authority"] == "created"
    assert (tmp_path / "elsewhere" / "record.json").is_file()
    assert json_of("show", "--dir", "elsewhere", code=Exit.REFUSED)["certificates"][1]["daysLeft"] in (19, 20)


def test_the_documentation_has_every_command() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for command in COMMANDS:
        assert f"headwater certs {command}" in (docs / "cli.md").read_text()
        assert f"headwater certs {command}" in (docs / "security.md").read_text()


def test_every_command_of_the_page_works_in_its_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("headwater certs ")]
    assert len(lines) > 10
    for line in lines:
        certs(*shlex.split(line)[2:])
