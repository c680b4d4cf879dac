"""The wheel that people install has every module of the checkout, and nothing of its tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("analytics", "cloud", "connectors", "gateway", "headwater", "schemas", "security")


def test_wheel_has_every_file_of_the_rooms_and_no_other(tmp_path: Path) -> None:
    # A copy: setuptools leaves files in the folder that it builds in.
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*ROOMS, "tests", "stacks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("headwater-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [one for room in ROOMS for one in (ROOT / room).rglob("*") if one.is_file() and one.suffix != ".pyc"]
    assert inside == {str(one.relative_to(ROOT)) for one in files}
