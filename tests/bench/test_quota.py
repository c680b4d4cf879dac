"""Quotas of CPU by the kernel's control groups, where this machine and this user can have them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.quota import quotas, why_not


@pytest.fixture
def busy() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def test_a_process_has_its_quota_until_the_end(busy: int) -> None:
    if (why := why_not()) is not None:
        pytest.skip(why)
    with quotas([busy], 0.1):
        assert f"/headwater-bench-{busy}" in groups_of(busy)
        (group,) = (one for one in Path("/sys/fs/cgroup").rglob(f"headwater-bench-{busy}") if one.is_dir())
        version_1, version_2 = group / "cpu.cfs_quota_us", group / "cpu.max"
        told = version_1.read_text().strip() if version_1.exists() else version_2.read_text().split()[0]
        assert told == "2000"  # of 20,000
    assert "headwater-bench" not in groups_of(busy)
    assert not group.exists()
    assert Path(f"/proc/{busy}").exists()


def test_who_cannot_is_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.bench.quota._ROOT", tmp_path / "none")
    assert "cannot be given a quota of CPU here (No such file or directory)" in (why_not() or "")
