"""``headwater deploy`` up to where Docker is asked, and what it says at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from headwater.cli import app
from headwater.commands.deploy import _finish, _show_plan
from headwater.deploy.apply import Report
from headwater.deploy.plan import Plan, Problem
from headwater.exits import Exit
from headwater.options import Output
from tests.certificates import issue

STACKS = Path(__file__).parents[3] / "stacks"


@pytest.mark.parametrize(
    ("cloud", "gateway", "field"),
    [("cloud", "armv9", "gateways.rock64.profile"), ("clouds", "lowmem", "cloud.profile")],
)
def test_a_profile_that_is_not_there_is_told_with_the_field_that_names_it(
    tmp_path: Path, cloud: str, gateway: str, field: str
) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        f"version: '1'\ncloud: {{node: big, profile: {cloud}}}\ngateways: {{rock64: {{node: a, profile: {gateway}}}}}\n"
    )
    done = CliRunner().invoke(app, ["deploy", "plan", str(file), "--stacks", str(STACKS)])
    assert done.exit_code == Exit.USAGE
    assert done.output.startswith(f"error: {field}: there is no profile")
    assert "there are: amd64, arm32v7" in done.output


def test_configuration_of_a_bootstrap_server_is_looked_at_before_anything_is_done(tmp_path: Path) -> None:
    file, config = tmp_path / "fleet.yaml", tmp_path / "bootstrap.yaml"
    file.write_text(
        "cloud: {node: big}\ngateways: {rock64: {node: a, profile: lowmem, bootstrap: {config: bootstrap.yaml}}}\n"
    )
    words = ["deploy", "plan", str(file), "--stacks", str(STACKS)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == Exit.USAGE
    assert done.output.startswith(f"error: {config} cannot be read")
    config.write_text("default: {servers: []}\n")
    done = CliRunner().invoke(app, words)
    assert done.exit_code == Exit.USAGE
    assert done.output.startswith(f"error: {config}, line 1, column 20: a device needs a server at least")


def _said_of(tmp_path: Path, gateway: str) -> str:
    """What is said of a fleet whose gateway has these fields too, before Docker is asked."""
    file = tmp_path / "fleet.yaml"
    file.write_text(f"cloud: {{node: big}}\ngateways: {{rock64: {{node: a, profile: lowmem, {gateway}}}}}\n")
    done = CliRunner().invoke(app, ["deploy", "plan", str(file), "--stacks", str(STACKS)])
    assert done.exit_code == Exit.USAGE
    return done.output


def test_certificate_that_a_gateway_would_not_take_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    fields = "x509: {cert: g.pem, key: g.key}"
    assert _said_of(tmp_path, fields).startswith(f"error: gateways.rock64.x509: {tmp_path / 'g.pem'}: No such file")
    own = "bootstrap: {config: b.yaml, x509: {cert: b.pem, key: b.key}}"
    (tmp_path / "b.yaml").write_text((STACKS / "gateway" / "bootstrap.yaml").read_text())
    assert _said_of(tmp_path, own).startswith(f"error: gateways.rock64.bootstrap.x509: {tmp_path / 'b.pem'}: No such")
    certificate, key = issue("gateway.example").write(tmp_path, "g")
    _, other = issue("other.example").write(tmp_path, "other")
    key.chmod(0o644)
    assert f"the key {key} can be read by everybody" in _said_of(tmp_path, fields)
    key.chmod(0o600)
    key.write_bytes(other.read_bytes())
    assert f"the key in {key} is not that of the first certificate in {certificate}" in _said_of(tmp_path, fields)
    (tmp_path / "root.pem").write_text("nothing")
    other.replace(key)
    (tmp_path / "other.pem").replace(certificate)
    said = _said_of(tmp_path, "x509: {cert: g.pem, key: g.key, ca: root.pem}")
    assert f"{tmp_path / 'root.pem'} holds no certificate in PEM" in said


def test_credentials_that_a_gateway_would_not_take_are_refused_by_line_and_without_a_key(tmp_path: Path) -> None:
    fields, file, key = "credentials: devices.csv", tmp_path / "devices.csv", "00112233445566778899aabbccddee"
    assert _said_of(tmp_path, fields).startswith(f"error: gateways.rock64.credentials: {file}: No such file")
    file.write_text(f"endpoint,kind,key\npress-7,psk,{key}ff\npress-8,psk,{key}\n")
    assert f"chmod 600 {file}" in _said_of(tmp_path, fields)
    file.chmod(0o600)
    said = _said_of(tmp_path, fields)
    assert said.startswith(f"error: gateways.rock64.credentials: {file}, line 3: ")
    assert key not in said
    file.write_text("endpoint,kind,key\n" + "".join(f"press-{one},psk,{one:032x}\n" for one in range(12_000)))
    said = _said_of(tmp_path, fields)
    assert "a secret of Swarm holds 512000: headwater credentials import in the gateway's container" in said


def test_a_problem_that_the_plan_showed_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    known = Problem(place="rock64", text="there is no node 'rock64'")
    late = Problem(place="tinker", text="stack gw-tinker: refused")
    shown = Plan(actions=(), problems=(known,))
    _show_plan(shown, Output.TABLE)
    with pytest.raises(typer.Exit) as end:
        _finish(Report(problems=[known, late]), Output.TABLE, shown)
    assert end.value.exit_code == Exit.REFUSED
    told = capsys.readouterr().err
    assert (told.count(known.text), told.count(late.text)) == (1, 1)
