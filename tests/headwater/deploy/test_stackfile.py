"""Stack files as the deployment reads them: the variables of Compose, settings, and what comes of both."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.deploy.stackfile import StackFileError, interpolate, merge, read, resolve, settings, variables_of


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("$A ${A}", {"A": "1"}, "1 1"),
        ("${A:-b}", {}, "b"),
        ("${A:-b}", {"A": ""}, "b"),
        ("${A-b}", {"A": ""}, ""),
        ("${A-b}", {}, "b"),
        ("${A:-}", {}, ""),
        ("${A}", {}, ""),
        ("$$A $${A}", {"A": "1"}, "$A ${A}"),
        ("${A:-http://x:1/y?z=1}", {}, "http://x:1/y?z=1"),
        ("${A:?why}", {"A": "1"}, "1"),
        ("${A?why}", {"A": ""}, ""),
        ("x$", {}, "x$"),
    ],
)
def test_variables_are_as_compose_has_them(text: str, given: dict[str, str], expected: str) -> None:
    assert interpolate(text, given) == expected


@pytest.mark.parametrize("text", ["${A:?say which}", "${A?say which}"])
def test_missing_variable_is_told_in_the_words_of_the_file(text: str) -> None:
    with pytest.raises(StackFileError, match="variable A is missing: say which"):
        interpolate(text, {})


def test_stack_is_what_its_file_comes_to(tmp_path: Path) -> None:
    file = tmp_path / "a.yml"
    file.write_text("""\
services:
  one:
    image: ${IMAGE:-x:1}
    secrets: [plain, {source: other, target: /run/x}]
    deploy: {replicas: "${N:-2}", labels: {io.headwater.runs: once}}
  two: {image: y:2, deploy: {mode: global}}
networks: {net: {external: true, name: "net_${G}"}}
secrets: {plain: {external: true}, other: {external: true, name: "o_${H}"}}
configs: {c: {file: ./c.yml, name: "c_${H}"}}
""")
    content = read(file)
    stack = resolve(content, {"G": "g", "H": "h"}, tmp_path)
    assert stack.services["one"].image == "x:1"
    assert stack.services["one"].replicas == 2
    assert stack.services["one"].once
    assert stack.services["one"].secrets == {"plain", "o_h"}
    assert stack.services["two"].replicas is None
    assert stack.networks == {"net_g"}
    assert stack.configs == {"c_h": tmp_path / "c.yml"}
    assert variables_of(content) == {"IMAGE", "N", "G", "H"}


def test_second_file_is_added_to_the_first() -> None:
    first = {"services": {"a": {"image": "x", "secrets": ["one"]}}, "secrets": {"one": {}}}
    second = {"services": {"a": {"secrets": ["two"]}}, "secrets": {"two": {}}}
    assert merge(first, second) == {
        "services": {"a": {"image": "x", "secrets": ["one", "two"]}},
        "secrets": {"one": {}, "two": {}},
    }


@pytest.mark.parametrize("text", ["", "- a", "version: 3", "services: [a]", "services: {a: [}"])
def test_what_is_no_stack_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yml").write_text(text)
    with pytest.raises(StackFileError, match=r"a\.yml"):
        read(tmp_path / "a.yml")


def test_settings_are_read_as_a_shell_would(tmp_path: Path) -> None:
    file = tmp_path / "x.env"
    file.write_text("# words\n\nA=1\nB_C=x:/y\nD=\n")
    assert settings(file) == {"A": "1", "B_C": "x:/y", "D": ""}


@pytest.mark.parametrize("line", ["A = 1", "A='b'", "export A=1", "A=$B", "A=b c", "a=1", "A=`id`"])
def test_settings_that_a_shell_would_read_otherwise_are_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "x.env"
    file.write_text(f"OK=1\n{line}\n")
    with pytest.raises(StackFileError, match="line 2"):
        settings(file)


def test_missing_profile_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "amd64.env").write_text("A=1\n")
    with pytest.raises(StackFileError, match=r"no profile 'amd46'.*there are: amd64"):
        settings(tmp_path / "amd46.env")
