"""A bound on the CPU that a process gets: so many cores, at most, whatever else of the machine is free.

By the kernel's control groups (CFS bandwidth), version 2 (``cpu.max``) or version 1 (``cpu.cfs_quota_us``), for those
who may make them: root, as a rule. Owns the groups that it makes, and removes them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
#: So short that a process is never away for long.
_PERIOD_US = 20_000
_GONE_S = 5.0


def why_not() -> str | None:
    """Why no process can be given a quota here; None: it can."""
    try:
        with _group("headwater-bench-try", 0.5):
            return None
    except OSError as exc:
        return f"a process cannot be given a quota of CPU here ({exc.strerror or exc}): it takes root and cgroups"


@contextmanager
def quotas(pids: list[int], cores: float) -> Iterator[None]:
    """Give each process, with all its threads, so much of a core, until the end.

    Raises:
        OSError: this machine or this user cannot.
    """
    with contextlib.ExitStack() as groups:
        for pid in pids:
            group = groups.enter_context(_group(f"headwater-bench-{pid}", cores))
            (group / "cgroup.procs").write_text(str(pid))
        yield


@contextmanager
def _group(name: str, cores: float) -> Iterator[Path]:
    unified = (_ROOT / "cgroup.controllers").exists()
    parent = _ROOT if unified else _ROOT / "cpu"
    if unified:
        (parent / "cgroup.subtree_control").write_text("+cpu")
    group = parent / name
    group.mkdir()
    try:
        quota = int(cores * _PERIOD_US)
        if unified:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    until = time.monotonic() + _GONE_S
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                (group.parent / "cgroup.procs").write_text(pid)
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
