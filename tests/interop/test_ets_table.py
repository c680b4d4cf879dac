"""The table of OMA's test cases in the docs says which tests are which cases, no more and no less than the markers."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: A row: the case, its title, and the tests that are it, or a dash and why.
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[^`]+)`")
PREFIX = "LightweightM2M-1.1-int-"


def _marked() -> dict[str, set[str]]:
    """The tests by the case that their marker names."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        if "mark.ets" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.ets":
                    (case,) = (ast.literal_eval(argument) for argument in decorator.args)
                    found[case].add(f"{file.relative_to(ROOT)}::{node.name}")
    return dict(found)


def _rows() -> list[tuple[str, str]]:
    _, _, section = (ROOT / "docs" / "lwm2m.md").read_text(encoding="utf-8").partition("## OMA's test cases\n")
    return [(PREFIX + number, tests) for number, _, tests in ROW.findall(section.partition("\n## ")[0])]


def test_every_case_is_in_the_table_with_its_tests() -> None:
    rows = _rows()
    assert len({case for case, _ in rows}) == len(rows), "a case is there twice"
    in_docs = {case: set(TEST.findall(tests)) for case, tests in rows}
    assert {case: tests for case, tests in in_docs.items() if tests} == _marked()


def test_a_case_without_a_test_says_why() -> None:
    for case, tests in _rows():
        if not TEST.search(tests):
            assert re.match("\N{EN DASH} .", tests), case
