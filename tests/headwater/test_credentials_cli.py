"""``headwater credentials``: what people see, what programs get, how it ends; and that a key is shown once at most."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from headwater.cli import app
from headwater.exits import Exit
from security.credentials.kinds import Aead, Hkdf, Oscore, Psk
from security.credentials.making import new_rpk, new_x509
from security.credentials.sqlite import SqliteCredentials
from tests.redis_server import shared_server
from tests.security.test_credential_import import KEY, NOW, pems

STORE = Path(".headwater/credentials.db")


def credentials(*arguments: str, code: Exit = Exit.OK, stdin: str | bytes | None = None, **env: str) -> Any:
    result = CliRunner().invoke(app, ["credentials", *arguments], input=stdin, env=env)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def words(result: Any) -> str:
    """As a person reads it, whatever the width."""
    return re.sub(r"[\s│]+", " ", result.output)


def json_of(*arguments: str, **more: Any) -> Any:
    return json.loads(credentials(*arguments, "--output", "json", **more).stdout)


def stored() -> list[Any]:
    store = SqliteCredentials(STORE)
    try:
        return list(store)
    finally:
        store.close()


def secret_file(name: str, text: str) -> str:
    Path(name).touch(0o600)
    Path(name).write_text(text)
    return name


def test_what_is_typed_is_what_there_is() -> None:
    from headwater.commands.credentials_add import AeadName, HkdfName

    assert [one.value for one in AeadName] == [one.text for one in Aead]
    assert [one.value for one in HkdfName] == [one.value for one in Hkdf]


def test_a_key_that_is_made_is_alone_on_stdout_and_never_seen_again() -> None:
    result = credentials("add", "sensor-1", "--psk")
    key = result.stdout.strip()
    assert re.fullmatch("[0-9a-f]{32}", key)
    assert "not shown again" in result.stderr
    (psk,) = stored()
    assert isinstance(psk, Psk)
    assert (psk.identity, psk.key.reveal().hex()) == (b"sensor-1", key)
    for arguments in (["list"], ["list", "-o", "json"], ["remove", "sensor-1", "--yes"]):
        assert key not in credentials(*arguments).output
    assert STORE.stat().st_mode & 0o777 == 0o600
    assert STORE.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["--psk", "--rpk", "--x509", "--oscore"])
def test_each_kind_can_be_made_here(kind: str) -> None:
    row = json_of("add", "sensor-1", kind)
    assert (row["endpoint"], row["kind"], row["done"]) == ("sensor-1", kind[2:], "added")
    assert row["secret"]
    (listed,) = json_of("list")
    assert listed == {name: value for name, value in row.items() if name not in ("secret", "done")}
    plain = credentials("add", "sensor-2", kind).stdout
    assert ("PRIVATE KEY" in plain) is (kind in ("--rpk", "--x509"))
    assert ("CERTIFICATE" in plain) is (kind == "--x509")


def test_a_key_comes_from_a_file_or_from_stdin_and_is_not_shown() -> None:
    shown = credentials("add", "a", "--psk", "--from", secret_file("a.key", f"{KEY}\n")).output
    shown += credentials("add", "b", "--psk", "--from", "-", "--identity", "other", stdin=f"hex:{KEY}").output
    ids = ["--sender-id", "01", "--recipient-id", "", "--salt", "9e7ca92223786340", "--id-context", "37cb"]
    shown += credentials("add", "c", "--oscore", "--from", "-", *ids, stdin="base64:AAECAwQFBgcICQoLDA0ODw==").output
    assert KEY not in shown
    one, two, context = stored()
    assert one.key == two.key
    assert one.key.reveal().hex() == KEY
    assert two.identity == b"other"
    assert isinstance(context, Oscore)
    assert context.master_secret == one.key
    assert (context.sender_id, context.recipient_id, context.id_context) == (b"\1", b"", b"\x37\xcb")


def test_a_public_key_and_a_certificate_come_in_pem_or_der() -> None:
    public, own = pems()
    Path("pub.pem").write_text(public)
    Path("anchor.pem").write_text(own)
    credentials("add", "r", "--rpk", "--from", "pub.pem")
    credentials("add", "x-*", "--x509", "--from", "anchor.pem", "--usage", "2", "--subject", "host.example")
    rpk, x509 = stored()
    Path("pub.der").write_bytes(rpk.public_key)
    assert json_of("add", "r", "--rpk", "--from", "pub.der")["done"] == "unchanged"
    assert json_of("list")[1]["usage"] == 2
    assert x509.subject == "host.example"
    private = new_rpk("e", now=NOW).secret.reveal()
    told = credentials("add", "q", "--rpk", "--from", "-", stdin=private, code=Exit.USAGE)
    assert "keep the private key on the device" in words(told)
    assert private.splitlines()[1] not in told.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["add", "a"], "--psk, --rpk, --x509 or --oscore"),
        (["add", "a", "--psk", "--rpk"], "only one"),
        (["add", "a-*", "--psk"], "give it an identity"),
        (["add", "a-*", "--x509"], "is a pattern"),
        (["add", "a", "--x509", "--usage", "0"], "--from has the certificate"),
        (["add", "a", "--rpk", "--identity", "x"], "--identity goes with --psk"),
        (["add", "a", "--psk", "--salt", "00"], "--salt goes with --oscore"),
        (["add", "a", "--psk", "--usage", "3"], "--usage goes with --x509"),
        (["add", "a", "--rpk", "--aead", "AES-GCM-128"], "--aead goes with --oscore"),
        (["add", "a", "--oscore", "--aead", "AES-CCM-64-64-128", "--sender-id", "0102"], "1 bytes at most"),
        (["add", "a", "--oscore", "--sender-id", "0011223344556677"], "7 bytes at most"),
        (["add", "a", "--oscore", "--sender-id", "01", "--recipient-id", "01"], "must differ"),
        (["add", "a", "--oscore", "--sender-id", "x"], "hex"),
        (["add", "a", "--oscore", "--from", "-"], "--sender-id and --recipient-id"),
        (["add", "a", "--psk", "--identity", "x" * 129], "1 to 128"),
        (["add", " ", "--psk"], "empty"),
        (["add", "a", "--psk", "--from", "-"], "16 to 64 bytes"),
        (["remove", "a"], "headwater credentials"),
    ],
)
def test_wrong_use_is_told_in_words_and_stores_nothing(arguments: list[str], expected: str) -> None:
    code = Exit.CANNOT_START if arguments[0] == "remove" else Exit.USAGE
    assert expected in words(credentials(*arguments, code=code, stdin="00"))
    assert not STORE.exists()


def test_another_key_for_an_identity_needs_to_be_meant() -> None:
    credentials("add", "a", "--psk")
    assert "--replace" in words(credentials("add", "a", "--psk", code=Exit.USAGE))
    assert json_of("add", "a", "--psk", "--replace")["done"] == "changed"
    told = words(credentials("add", "b", "--psk", "--identity", "a", "--replace", code=Exit.USAGE))
    assert "headwater credentials remove a --identity a" in told
    assert len(stored()) == 1


def test_a_list_may_be_of_those_with_which_a_device_may_register() -> None:
    for arguments in (["lab-1"], ["lab-2"], ["lab-*", "--identity", "batch"]):
        credentials("add", *arguments, "--psk")
    assert [row["identity"] for row in json_of("list", "lab-1")] == ["lab-1", "batch"]
    assert [row["pattern"] for row in json_of("list", "lab-3")] == [True]
    table = credentials("list").output
    assert {"lab-1", "lab-2", "lab-*"} <= set(table.split())


def test_removing_asks_and_takes_no_silence_for_a_yes() -> None:
    credentials("add", "a", "--psk")
    credentials("add", "a", "--psk", "--identity", "a2")
    credentials("add", "a*", "--psk", "--identity", "wide")
    assert "--yes" in words(credentials("remove", "a", code=Exit.USAGE))
    assert "there are psk a; psk a2" in words(credentials("remove", "a", "--identity", "x", "--yes", code=Exit.USAGE))
    assert "none" in words(credentials("remove", "ab", "--yes", code=Exit.USAGE))
    assert len(stored()) == 3
    assert [row["identity"] for row in json_of("remove", "a", "--identity", "a2", "--yes")] == ["a2"]
    assert "removed a: psk a" in words(credentials("remove", "a", "--yes"))
    assert [one.endpoint for one in stored()] == ["a*"]


def test_importing_says_what_became_of_each_line() -> None:
    head = "endpoint,kind,identity,key\n"
    Path("devices.csv").write_text(f"{head}a,psk,,{KEY}\nb,psk,,{KEY}\n")
    assert "would be: 2 added, 0 unchanged, 0 changed, 0 refused" in words(
        credentials("import", "devices.csv", "--dry-run")
    )
    assert not STORE.exists()
    assert "2 added, 0 unchanged" in words(credentials("import", "devices.csv"))
    assert "0 added, 2 unchanged" in words(credentials("import", "-", stdin=Path("devices.csv").read_bytes()))
    mixed = f"{head}c,psk,,{KEY}\nd,psk,a,{KEY}\ne,psk,,zz\nb,psk,,{'11' * 16}\n"
    told = credentials("import", "-", stdin=mixed, code=Exit.USAGE)
    assert "stdin, line 3: the psk identity 'a' is a's" in words(told)
    assert "stdin, line 4: the key is bytes in hex" in words(told)
    assert "1 added, 0 unchanged, 1 changed, 2 refused (changed: lines 5); nothing was stored" in words(told)
    assert KEY not in told.output
    assert len(stored()) == 2
    row = json_of("import", "-", "--skip-bad", stdin=mixed, code=Exit.REFUSED)
    assert (row["stored"], row["added"], row["changed"], row["refused"]) == (True, 1, 1, 2)
    assert (row["changedLines"], [one["line"] for one in row["refusedLines"]]) == ([5], [3, 4])
    assert [one.endpoint for one in stored()] == ["a", "b", "c"]


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3])
def test_an_import_that_is_killed_has_stored_all_or_nothing_and_is_given_again(after_s: float) -> None:
    credentials("add", "before", "--psk")
    rows = "".join(f"row-{number},psk,,{number:032x}\n" for number in range(20_000))
    Path("many.csv").write_text("endpoint,kind,identity,key\n" + rows)
    log = STORE.with_name(STORE.name + "-wal")
    command = [sys.executable, "-m", "headwater.cli", "credentials", "import", "many.csv"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ)) as process:
        try:
            until = time.monotonic() + 60
            # It has begun to write, or is done already.
            while not log.exists() and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.002)
            time.sleep(after_s)
        finally:
            process.kill()
    assert len(stored()) in (1, 20_001)
    row = json_of("import", "many.csv")
    assert row["added"] + row["unchanged"] == 20_000
    assert len(stored()) == 20_001


def test_an_import_that_is_refused_makes_no_store() -> None:
    credentials("import", "-", stdin="endpoint,kind,key\na,psk,00\n", code=Exit.USAGE)
    assert "stdin: line 1" in words(credentials("import", "-", stdin=f"a,psk,{KEY}\n", code=Exit.USAGE))
    assert "none.csv" in words(credentials("import", "none.csv", code=Exit.CANNOT_START))
    assert not STORE.exists()


def test_a_store_that_cannot_be_used_is_exit_code_5_with_what_to_do() -> None:
    assert "there is no store of credentials" in words(credentials("list", code=Exit.CANNOT_START))
    credentials("add", "a", "--psk")
    STORE.chmod(0o644)
    for arguments in (["list"], ["add", "b", "--psk"], ["remove", "a", "--yes"]):
        assert f"chmod 600 {STORE}" in words(credentials(*arguments, code=Exit.CANNOT_START))


def test_the_store_is_named_by_flag_environment_or_file(tmp_path: Path) -> None:
    credentials("add", "a", "--psk", "--store", "flag.db", HEADWATER_CREDENTIALS="env.db")
    credentials("add", "b", "--psk", HEADWATER_CREDENTIALS="env.db")
    assert [row["endpoint"] for row in json_of("list", HEADWATER_CREDENTIALS="env.db")] == ["b"]
    (tmp_path / "headwater.toml").write_text('[credentials.list]\nstore = "flag.db"\n')
    assert [row["endpoint"] for row in json_of("list")] == ["a"]


def test_no_option_takes_a_key_and_a_bug_tells_none() -> None:
    help_text = words(credentials("add", "--help"))
    assert "--from" in help_text
    assert "--key" not in help_text
    command = [sys.executable, "-m", "headwater.cli", "credentials", "add", "a", "--psk", "--from", "-", "--debug"]
    done = subprocess.run(
        command, input=KEY[:20] + "zz", capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ)
    )
    assert "Traceback" in done.stderr
    assert KEY[:20] not in done.stdout + done.stderr


def test_every_command_of_the_page_works_in_its_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "credentials.md").read_text()
    public, own = pems()
    Path("sensor-3.pub.pem").write_text(public)
    Path("factory-ca.pem").write_text(own)
    secret_file("sensor-2.key", KEY)
    Path("devices.csv").write_text(re.findall(r"^```csv\n(.*?)^```", page, re.M | re.S)[0])
    Path("devices.json").write_text(re.findall(r"^```json\n(.*?)^```", page, re.M | re.S)[0])
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("headwater credentials ")]
    assert len(lines) > 8
    for line in lines:
        credentials(*shlex.split(line.partition(" > ")[0])[2:])


def test_a_certificate_that_is_made_is_the_devices_own() -> None:
    from cryptography import x509

    made = json_of("add", "urn:imei:490154203237518", "--x509", "--days", "30")
    certificate = x509.load_pem_x509_certificate(made["secret"].encode())
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 30
    assert made["fingerprint"] == made["identity"]
    assert isinstance(new_x509("a", now=NOW, days=1).secret.reveal(), str)


def test_all_of_it_works_on_a_redis_too_and_shows_no_password() -> None:
    server = shared_server()
    password = quote(server.password or "", safe="")
    url = f"redis://:{password}@127.0.0.1:{server.port}/998?prefix={uuid4().hex}"
    assert "there is no store" in words(credentials("list", "--store", url, code=Exit.CANNOT_START))
    Path("devices.csv").write_text("endpoint,kind,identity,key\nb,psk,,000102030405060708090a0b0c0d0e0f\n")
    said = [
        credentials("import", "devices.csv", "--dry-run", "--store", url),
        credentials("add", "a", "--psk", "--store", url),
        credentials("import", "devices.csv", HEADWATER_CREDENTIALS=url),
        credentials("list", "--store", url),
        credentials("remove", "nobody", "--yes", "--store", url, code=Exit.USAGE),
        credentials("remove", "a", "--yes", "--store", url),
    ]
    assert [row["endpoint"] for row in json_of("list", "--store", url)] == ["b"]
    assert all(password not in one.output for one in said)
    assert "redis://:******@127.0.0.1" in words(said[1])


def test_a_raw_public_key_is_stored_with_a_word_that_no_gateway_speaks_it() -> None:
    result = credentials("add", "s3b", "--rpk")
    assert "stored, but a gateway does not speak raw public keys" in words(result)
    assert "may register" not in words(result)
    assert "may register" in words(credentials("add", "s3b", "--psk"))


def test_python_dash_m_is_the_command() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "headwater", "--version"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.partition(" ")[0]) == (0, "headwater")
