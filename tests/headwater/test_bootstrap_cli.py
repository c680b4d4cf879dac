"""``headwater bootstrap``: what people see of a configuration and of runs, and how it ends when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.bootstrap.store_file import BootstrapFile
from gateway.bootstrap.trace import MOST_OF_ONE, Outcome, Trace
from headwater.cli import app
from headwater.exits import Exit

CONFIG = """
patterns:
  "press-*":
    servers: [{uri: "coaps://gw", short_id: 7, security: psk, store: keys.db}]
    acl: [{object: 3, instance: 0, owner: 7, rights: {0: [read]}}]
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["bootstrap", *words], env={"COLUMNS": "300"})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    made = tmp_path / "bootstrap.yaml"
    made.write_text(CONFIG)
    return made


def test_check_shows_what_a_device_would_get_and_makes_no_key(config: Path, tmp_path: Path) -> None:
    result = run("check", str(config), "--endpoint", "press-7")
    assert result.exit_code == Exit.OK, result.output
    assert "patterns: press-*" in result.output
    assert "a fresh psk credential" in result.output
    shown = json.loads(run("check", str(config), "--endpoint", "press-7", "-o", "json").stdout)
    assert shown[0]["servers"][0] == {
        "uri": "coaps://gw",
        "shortId": 7,
        "security": "psk",
        "store": str(tmp_path / "keys.db"),
        "lifetime": 86400,
        "binding": "U",
    }
    assert shown[0]["acl"] == [{"object": 3, "instance": 0, "owner": 7, "rights": {"0": 1}}]
    assert not (tmp_path / "keys.db").exists()


def test_check_of_a_device_that_gets_nothing_is_exit_code_1(config: Path) -> None:
    result = run("check", str(config), "--endpoint", "lamp-1")
    assert result.exit_code == Exit.REFUSED
    assert "no profile fits" in result.output


def test_what_is_wrong_in_the_configuration_is_told_with_its_place(config: Path) -> None:
    config.write_text(CONFIG.replace("short_id: 7", "short_id: x"))
    for command in (["check", str(config)], ["serve", str(config), "--insecure"]):
        result = run(*command)
        assert result.exit_code == Exit.USAGE
        assert "bootstrap.yaml, line 4, column 45: 'x' is no whole number from 1 to 65534" in result.output


def test_serve_asks_with_which_keys(config: Path) -> None:
    result = run("serve", str(config))
    assert result.exit_code == Exit.USAGE
    assert "--credentials FILE" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--coaps-cert", "a.pem"], "belong together"),
        (["--coaps-ca", "ca.pem"], "give --coaps-cert and --coaps-key too"),
        (["--coaps-cert", "a.pem", "--coaps-key", "a.key"], "--credentials FILE"),
    ],
)
def test_serve_says_what_belongs_to_its_certificate(config: Path, options: list[str], says: str) -> None:
    result = run("serve", str(config), "--insecure", *options)
    assert result.exit_code == Exit.USAGE
    assert says in " ".join(result.output.split())


def test_log_of_a_file_that_is_not_there_is_not_ours_or_open_to_others(tmp_path: Path) -> None:
    assert run("log", "--trace", str(tmp_path / "none.db")).exit_code == Exit.CANNOT_START
    foreign = tmp_path / "foreign.db"
    foreign.write_text("something else, and enough of it to be looked at" * 20)
    foreign.chmod(0o600)
    assert run("log", "--trace", str(foreign)).exit_code == Exit.CANNOT_START
    BootstrapFile(tmp_path / "b.db", make=True).close()
    (tmp_path / "b.db").chmod(0o644)
    result = run("log", "--trace", str(tmp_path / "b.db"))
    assert result.exit_code == Exit.CANNOT_START
    assert "chmod 600" in result.output


def test_log_has_the_newest_runs_of_a_device_and_no_more_than_are_kept(tmp_path: Path) -> None:
    file = BootstrapFile(tmp_path / "b.db", make=True)
    trace = Trace(file, lambda: 1_767_225_600_000)
    for count in range(MOST_OF_ONE + 5):
        number = trace.begin("press-7", "10.0.0.7:5000", "press-7", "default")
        trace.step(number, 0, "delete /0", "4.00: " + "no " * 1000)
        trace.end(number, Outcome.FAILED, f"run {count}")
    trace.begin("press-8", "10.0.0.8:5000", None, "default")
    file.close()
    place = ("--trace", str(tmp_path / "b.db"))
    shown = json.loads(run("log", "press-7", "--limit", "100", "-o", "json", *place).stdout)
    assert [one["why"] for one in shown] == [f"run {count}" for count in range(MOST_OF_ONE + 4, 4, -1)]
    assert len(shown[0]["steps"][0]["answer"]) == 400
    text = run("log", *place).output
    assert "press-7 from 10.0.0.7:5000 as press-7, 2026-01-01 00:00:00 UTC, profile default" in text
    assert "press-8 from 10.0.0.8:5000 in the clear" in text
    assert "no run of lamp-1" in run("log", "lamp-1", *place).output
