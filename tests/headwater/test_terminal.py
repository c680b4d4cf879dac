"""Nothing that a device says can steer the terminal of who reads it."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from headwater.commands.base import complain
from headwater.output import print_json, print_line, table
from headwater.terminal import printable, printable_json

#: Sets a window's title, clears the screen (in two ways), turns the direction of writing, breaks the line.
HOSTILE = "x\x1b]0;owned\x07y\x1b[2J\x9b2J\u202e\r\nz"


def test_cell_of_a_table_holds_no_control_characters() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(table(("value",), [(HOSTILE,)]))
    shown = out.getvalue()
    assert all(sign.isprintable() for line in shown.split("\n") for sign in line)
    assert "x·]0;owned·y·[2J·2J···z" in shown


def test_error_text_keeps_its_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"first\n\tsecond {HOSTILE}")
    told = capsys.readouterr().err
    assert "first\n\tsecond x·]0;owned" in told
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(told)


def test_json_says_the_same_with_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    for show in (print_json, print_line):
        show({HOSTILE: [HOSTILE, "zwölf °C", "\x7f", "\ud800"]})
        text = capsys.readouterr().out
        assert json.loads(text) == {HOSTILE: [HOSTILE, "zwölf °C", "\x7f", "\ud800"]}
        assert "zwölf °C" in text
        assert all(sign.isprintable() or sign == "\n" for sign in text)


@given(st.text())
def test_any_text_becomes_printable_and_any_json_stays_what_it_is(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    told = printable_json(json.dumps(text, ensure_ascii=False))
    assert told.isprintable()
    assert json.loads(told) == text
