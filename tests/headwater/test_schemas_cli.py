"""``headwater schemas`` and ``headwater apikeys``, as people and programs use them."""

from __future__ import annotations

import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastavro.schema import load_schema
from typer.testing import CliRunner

from headwater.cli import app
from headwater.exits import Exit
from schemas.avro.registry import SCHEMAS
from security.api_keys import Scope, find, read_keys
from tests.ports import held_port

PATIENCE_S = 60


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own, once it says that it serves; it does not outlive the block."""
    command = [sys.executable, "-m", "headwater.cli", *arguments]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root}
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def address(started: subprocess.Popen[str]) -> str:
    """The URL in the first line of its log."""
    assert started.stderr is not None
    line = json.loads(started.stderr.readline())
    assert line["event"] == "the schemas are served"
    return str(line["url"])


def get(url: str, key: str | None = None, ca: Path | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={} if key is None else {"Authorization": f"Bearer {key}"})
    context = None if ca is None else ssl.create_default_context(cafile=str(ca))
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def test_the_schemas_are_listed_and_shown() -> None:
    listed = json.loads(run("schemas", "list", "-o", "json").stdout)
    assert [one["id"] for one in listed] == sorted(SCHEMAS)
    assert all(str(one["id"]) in run("schemas", "list").stdout for one in listed)
    shown = json.loads(run("schemas", "show", "6", "-o", "json").stdout)
    assert (shown["subject"], shown["version"]) == ("iot.observations-value", 2)
    assert shown["schema"]["name"] == "AvroResponseObserve"
    assert json.loads(run("schemas", "show", "iot.any.observations-value", "-o", "json").stdout) == shown
    assert '"name": "AvroKey"' in run("schemas", "show", "1").stdout


@pytest.mark.parametrize("what", ["0", "99", "x", "-1", "²", "iot.rock64.deadletter-value"])
def test_a_schema_that_is_none_is_told_in_words(what: str) -> None:
    result = run("schemas", "show", "--", what)
    assert result.exit_code == Exit.USAGE
    assert "headwater schemas list" in result.stderr


def test_exported_schemas_are_read_by_others_as_they_are(tmp_path: Path) -> None:
    result = run("schemas", "export", "out/avro", "-o", "json")
    files = [Path(name) for name in json.loads(result.stdout)]
    assert {file.name for file in files} == {schema.file for schema in SCHEMAS.values()} | {"ids.json"}
    for schema in SCHEMAS.values():
        load_schema(str(tmp_path / "out" / "avro" / schema.file), named_schemas={})
    ids = json.loads((tmp_path / "out" / "avro" / "ids.json").read_text())
    assert {row["id"]: row["file"] for row in ids} == {one.id: one.file for one in SCHEMAS.values()}
    assert run("schemas", "export", "out/latest", "--latest").exit_code == 0
    assert not (tmp_path / "out" / "latest" / "AvroRequest.v1.avsc").exists()
    (tmp_path / "file").touch()
    assert run("schemas", "export", "file").exit_code == Exit.CANNOT_START


def test_a_key_is_alone_on_stdout_and_opens_what_its_scopes_say(tmp_path: Path) -> None:
    made = run("apikeys", "create", "grafana", "--scope", "schemas:read", "--scope", "metrics:read", "--expires", "90d")
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert key not in made.stderr
    file = tmp_path / ".headwater" / "apikeys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key not in file.read_text()
    row = find(read_keys(file), key)
    assert row is not None
    assert row.scopes == {Scope.SCHEMAS_READ, Scope.METRICS_READ}
    assert row.expires is not None
    assert (row.expires - row.created).days == 90
    listed = run("apikeys", "list").stdout
    assert "grafana" in listed
    assert "valid" in listed
    assert key not in listed
    assert row.digest not in listed
    assert run("apikeys", "revoke", "grafana").exit_code == 0
    assert json.loads(run("apikeys", "list", "-o", "json").stdout)[0]["state"] == "revoked"
    again = json.loads(run("apikeys", "create", "grafana", "--scope", "schemas:read", "-o", "json").stdout)
    assert again["key"] != key
    assert again["state"] == "valid"


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "x"),
        ("create", "x", "--scope", "everything"),
        ("create", "x y", "--scope", "schemas:read"),
        ("create", "x", "--scope", "schemas:read", "--expires", "soon"),
        ("create", "x", "--scope", "schemas:read", "--expires", "0d"),
        ("create", "x", "--scope", "schemas:read", "--file", "."),
        ("revoke", "nobody"),
        ("list",),
    ],
)
def test_what_makes_no_sense_is_told_in_words_and_changes_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run("apikeys", *arguments)
    assert result.exit_code == Exit.USAGE
    assert result.stderr
    assert not (tmp_path / ".headwater" / "apikeys.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say who may ask"),
        (("--no-auth", "--host", "0.0.0.0"), "would let in everybody"),
        (("--no-auth", "--host", ""), "would let in everybody"),
        (("--no-auth", "--host", "::"), "would let in everybody"),
        (("--no-auth", "--host", "127.0.0.1.example.com"), "would let in everybody"),
        (("--no-auth", "--keys", "x"), "exclude each other"),
        (("--insecure", "--keys", "x"), "--insecure is for --no-auth"),
        (("--keys", "none.json"), "No such file"),
        (("--no-auth", "--metrics", "0", "--metrics-keys", "none.json"), "No such file"),
    ],
)
def test_the_view_does_not_start_where_it_is_in_doubt_who_may_ask(arguments: tuple[str, ...], words: str) -> None:
    result = run("schemas", "serve", "--port", "0", *arguments)
    assert result.exit_code == Exit.USAGE
    assert words in result.stderr


def test_the_view_serves_https_to_holders_of_a_key_and_ends_on_sigterm(tmp_path: Path) -> None:
    assert run("certs", "create", "cloud", "--san", "localhost").exit_code == 0
    folder = tmp_path / ".headwater" / "pki" / "issued" / "broker+cloud"
    key = run("apikeys", "create", "consumers", "--scope", "schemas:read").stdout.strip()
    metrics = held_port()
    options = ["--keys", ".headwater/apikeys.json", "--metrics-keys", ".headwater/apikeys.json"]
    with process(
        *("schemas", "serve", "--port", "0", *options, "--tls", str(folder), "--metrics", str(metrics))
    ) as started:
        url = address(started)
        assert url.startswith("https://127.0.0.1:")
        url = url.replace("127.0.0.1", "localhost")
        assert get(f"{url}/schemas/types", key, folder / "ca.pem") == (200, '["AVRO"]')
        assert get(f"{url}/schemas/types", None, folder / "ca.pem")[0] == 401
        with pytest.raises(urllib.error.URLError):
            get(f"{url}/schemas/types", key, Path(ssl.get_default_verify_paths().cafile or ssl.__file__))
        assert get(f"http://127.0.0.1:{metrics}/metrics", key)[0] == 403
        assert get(f"http://127.0.0.1:{metrics}/readyz")[0] == 200
        assert run("apikeys", "revoke", "consumers").exit_code == 0
        assert get(f"{url}/schemas/types", key, folder / "ca.pem")[0] == 401
        started.send_signal(signal.SIGTERM)
        out, err = started.communicate(timeout=PATIENCE_S)
    assert started.returncode == 0
    assert key not in out + err
    # What was refused is logged, by name.
    refusal = json.loads(next(line for line in err.splitlines() if "refused" in line))
    assert refusal["event"] == "an API key was refused"
    assert (refusal["name"], refusal["reason"], refusal["peer"]) in {
        ("consumers", "without metrics:read", "127.0.0.1"),
        ("consumers", "revoked", "127.0.0.1"),
    }


def test_a_port_that_is_taken_is_told_in_words() -> None:
    with process("schemas", "serve", "--port", "0", "--no-auth") as first:
        port = address(first).rpartition(":")[2]
        with process("schemas", "serve", "--port", port, "--no-auth") as second:
            _, err = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == Exit.CANNOT_START
    assert f"127.0.0.1:{port}" in err
