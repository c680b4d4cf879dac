"""``headwater load report``: what it says and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gateway.devices.load.jtl import JtlWriter
from gateway.devices.load.samples import Sample
from headwater.commands.base import command
from headwater.commands.load_report import report
from headwater.exits import Exit

_APP = typer.Typer()
command(_APP, "report", group="load")(report)


@pytest.fixture
def jtl(tmp_path: Path) -> Path:
    path = tmp_path / "load.jtl"
    with JtlWriter(path) as writer:
        writer.add([Sample(1_790_000_000_000, 5000, "send", "dev", 1, "2.04", number > 0) for number in range(4)], 1)
    return path


def _run(*words: object) -> tuple[int, str]:
    ended = CliRunner().invoke(_APP, [str(word) for word in words])
    return ended.exit_code, ended.output


def test_a_page_is_written_and_its_samples_are_counted(jtl: Path) -> None:
    html = jtl.with_name("load.html")
    assert _run(jtl, "--html", html) == (Exit.OK, f"report: {html} (4 samples, 1 errors)\n")
    assert "<svg" in html.read_text()


def test_programs_are_told_the_figures(jtl: Path) -> None:
    code, said = _run(jtl, "--html", jtl.with_name("load.html"), "--output", "json")
    told = json.loads(said)
    assert code == Exit.OK
    assert (told["total"]["count"], told["labels"]["send"]["p50_ms"], told["cut_off"]) == (4, 5.0, False)


def test_a_page_that_is_there_is_replaced_only_when_it_is_said(jtl: Path) -> None:
    html = jtl.with_name("load.html")
    html.write_text("old")
    code, said = _run(jtl, "--html", html)
    assert (code, html.read_text()) == (Exit.CANNOT_START, "old")
    assert "--overwrite" in said
    assert _run(jtl, "--html", html, "--overwrite")[0] == Exit.OK
    assert html.read_text() != "old"


def test_what_is_no_jtl_is_usage_and_says_the_line(jtl: Path) -> None:
    with jtl.open("a") as file:
        file.write("nonsense\n")
    code, said = _run(jtl, "--html", jtl.with_name("load.html"))
    assert code == Exit.USAGE
    assert "line 6" in said.replace("\n", "")


def test_a_page_that_cannot_be_written_is_told(jtl: Path) -> None:
    code, said = _run(jtl, "--html", jtl.with_name("none") / "load.html")
    assert code == Exit.CANNOT_START
    assert "cannot be written" in said


def test_a_last_line_without_an_end_is_told(jtl: Path) -> None:
    jtl.write_bytes(jtl.read_bytes()[:-20])
    code, said = _run(jtl, "--html", jtl.with_name("load.html"))
    assert code == Exit.OK
    assert "(3 samples" in said
    assert "no end" in said
