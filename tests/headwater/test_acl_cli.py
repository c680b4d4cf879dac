"""`headwater acl rights` asks no Kafka: what it says of an identity, and of what was asked wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.cli import app
from headwater.exits import Exit


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rights(*arguments: str, code: Exit = Exit.OK) -> str:
    result = CliRunner().invoke(app, ["acl", "rights", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_a_person_of_whom_nothing_is_said_has_no_right_as_far_as_is_said() -> None:
    assert "what people may is said with --see, --command or --access" in rights(
        "user:anna", "--side", "cloud", "--gateway", "rock64"
    )


def test_a_person_may_write_the_requests_of_the_gateways_that_were_given_and_no_other() -> None:
    asked = ("user:anna", "--side", "cloud", "--gateway", "rock64", "--gateway", "pi3", "--command", "anna=rock64")
    found = json.loads(rights(*asked, "--see", "anna=*", "--output", "json"))
    assert {one["principal"] for one in found} == {"User:user:anna"}
    assert {one["name"] for one in found if one["operation"] == "write"} == {
        *("iot.rock64.management.req", "iot.rock64.files", "headwater.campaigns.rock64"),
        *("headwater-campaigns-rock64", "headwater-campaigns-rock64.."),
    }
    assert {"iot.pi3.observations", "iot.rock64.observations"} <= {one["name"] for one in found}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["anna", "--side", "cloud"], "ROLE:NAME is expected"),
        (["user:anna", "--side", "cloud"], "no gateway"),
        (["user:anna", "--side", "edge", "--gateway", "a", "--gateway", "b"], "an edge's Kafka is one gateway's"),
        (["user:anna", "--side", "cloud", "--gateway", "a", "--command", "anna"], "USER=GW[,GW] is expected"),
        (["user:anna", "--side", "cloud", "--access", "none.toml"], "none.toml: No such file"),
        (["user:anna", "--side", "cloud", "--gateway", "a", "--pki", "none"], "is it the authority's folder?"),
    ],
)
def test_what_is_asked_wrongly_is_told(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["acl", "rights", *arguments])
    assert result.exit_code == Exit.USAGE, result.output
    assert words in " ".join(result.output.replace("│", " ").split())
