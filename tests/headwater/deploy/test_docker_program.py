"""What is asked of the program docker has to be what each of its versions knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headwater.deploy import swarm
from headwater.deploy.swarm import SwarmError, against_others, unattended

#: ``docker stack deploy --help`` of Debian 12's Docker, 20.10, and of Docker 28.
_20 = """
Usage:  docker stack deploy [OPTIONS] STACK

Deploy a new stack or update an existing stack

Options:
  -c, --compose-file strings   Path to a Compose file, or "-" to read
                               from stdin
      --prune                  Prune services that are no longer referenced
"""
_28 = """
Options:
  -c, --compose-file strings   Path to a Compose file, or "-" to read
                               from stdin
  -d, --detach                 Exit immediately instead of waiting for
                               the stack services to converge (default true)
      --prune                  Prune services that are no longer referenced
"""
PAGE = Path(__file__).parents[3] / "docs" / "deploy.md"


def test_docker_is_told_not_to_wait_where_it_can_be_told() -> None:
    assert unattended(_28) == ["--detach=true"]
    assert unattended(_20) == []


def test_guide_asks_no_option_of_a_stack_that_debian_s_docker_does_not_know() -> None:
    said = re.findall(r"docker stack deploy(?:[^\n\\]|\\\n)*", PAGE.read_text("utf-8"))
    assert len(said) >= 5
    for command in said:
        assert set(re.findall(r"--[a-z-]+", command)) <= {"--resolve-image", "--compose-file", "--prune"}, command


def test_change_is_tried_again_when_the_swarm_wrote_to_the_same_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "_PAUSE_S", 0.0)
    tried = []

    def change(failures: int, words: str) -> None:
        tried.append(words)
        if len(tried) <= failures:
            raise SwarmError(words)

    late = "failed to update service gw-a_kafka: rpc error: code = Unknown desc = update out of sequence"
    against_others(lambda: change(2, late))
    assert tried == [late] * 3
    tried.clear()
    with pytest.raises(SwarmError, match="out of sequence"):
        against_others(lambda: change(99, late))
    assert len(tried) == 5
    tried.clear()
    with pytest.raises(SwarmError, match="no such image"):
        against_others(lambda: change(99, "no such image"))
    assert len(tried) == 1
