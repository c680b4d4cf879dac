"""The commands of a guide's page, as they stand in it, and a desk from which they are run on boxes.

A fenced block tells in its first line on which box it runs. What a person does on a box (``ssh``, ``sudo``) is done by
small programs of those names, which do it at the Docker of that box; the address book of the page is the test's own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.stacks.boxes import Box

#: Patience with a busy machine, in seconds.
BLOCK_S = 1800.0

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

_SSH = """\
#!/bin/sh
# ssh BOX COMMAND…: at the Docker of that box.
box=$1; shift
DOCKER_HOST=unix://$BOXES/$box/docker.sock exec sh -c "$*"
"""
_SUDO = """\
#!/bin/sh
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its language, the number of its first line in the page, its text."""

    language: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """What its first line says it is about: ``on cloud``, ``fleet.yaml``; empty if it says nothing."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("# ").strip() if first.startswith("# ") else ""


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(language=found[1], line=text.count("\n", 0, found.start(2)) + 1, text=found[2])
        for found in _FENCE.finditer(text)
    ]


@dataclass(slots=True, kw_only=True)
class Desk:
    """Where the commands are typed: a folder, and what a shell there knows."""

    folder: Path
    boxes: Mapping[str, Box]
    environment: Mapping[str, str] = field(default_factory=dict)

    def prepare(self, checkout: Path) -> None:
        """A folder as the guide's reader has it: a checkout's stacks, the command, ssh to the boxes."""
        programs = self.folder / "programs"
        programs.mkdir(parents=True)
        (self.folder / "stacks").symlink_to(checkout / "stacks")
        for name, text in (("ssh", _SSH), ("sudo", _SUDO)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        command = programs / "headwater"
        command.write_text(f'#!/bin/sh\nPYTHONPATH={checkout} exec {sys.executable} -m headwater.cli "$@"\n')
        command.chmod(0o755)

    def run(self, box: str, text: str) -> str:
        """Run a block on a box; what it said. Any command of it that fails ends it, and the test."""
        at = self.boxes[box]
        environment = at.environment | {
            "PATH": f"{self.folder / 'programs'}{os.pathsep}{os.environ['PATH']}",
            "BOXES": str(at.folder.parent),
            **self.environment,
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.returncode}:\n{text}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout
