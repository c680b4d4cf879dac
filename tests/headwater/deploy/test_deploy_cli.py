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
