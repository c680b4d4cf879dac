"""The image that all others of the test are made from: Debian 12 with Python and nothing else, made once for this user.

No registry need be reached: debootstrap fetches Debian's packages.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.installed_server import installed

#: Part of the folder's name: another number makes it anew.
_RECIPE = 1
_SUITE = "bookworm"
#: Python runs Headwater; the public images of Prometheus and its like look after themselves with wget.
_PACKAGES = "python3,ca-certificates,wget"
BASE_IMAGE = f"headwater-test-base:{_SUITE}-{_RECIPE}"

#: Patience with a slow line and a busy machine, in seconds.
_MADE_S = 1800.0


def base_archive() -> Path:
    """The root file system as ``docker import`` takes it."""
    return installed(f"debian-{_SUITE}-{_RECIPE}", _debootstrap) / "root.tar"


def _debootstrap(staging: Path) -> Path:
    root, made = staging / "root", staging / "made"
    made.mkdir()
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(root)],
        capture_output=True,
        text=True,
        timeout=_MADE_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"debootstrap could not make Debian {_SUITE}:\n{(done.stdout + done.stderr)[-4000:]}")
    for unused in (
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "var/log",
    ):
        shutil.rmtree(root / unused)
        (root / unused).mkdir()
    for one in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (root / one).mkdir(parents=True)
    # What debootstrap takes over from this machine.
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/hostname").write_text("")
    subprocess.run(
        ["tar", "--numeric-owner", "--directory", str(root), "--create", "--file", str(made / "root.tar"), "."],
        timeout=_MADE_S,
        check=True,
    )
    return made
