"""A bootstrap server as its users run it, `headwater bootstrap serve` as a process, and how a device answers it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiocoap import Message
from aiocoap.numbers.codes import Code

from security.credentials.kinds import Psk
from security.credentials.sqlite import SqliteCredentials
from tests.ports import held_port

SECONDS = 40.0
#: A server with a key of the device's own.
WITH_KEY = """
default:
  servers:
    - uri: coaps://127.0.0.1:{port}
      short_id: 123
      security: psk
      store: gateway.db
      lifetime: 300
"""


class BootstrapProcess:
    """A running server in a folder of its own. ``kill`` and ``start`` again go on with the same files and ports."""

    def __init__(self, folder: Path, config: str, *more: str, credentials: Path | None = None) -> None:
        self.folder, self.log = folder, folder / "bootstrap.log"
        self.trace, self.store = folder / "bootstrap.db", folder / "gateway.db"
        (folder / "bootstrap.yaml").write_text(config)
        self.coap, self.coaps, self.metrics = (("127.0.0.1", held_port()) for _ in range(3))
        self._command = [
            *(sys.executable, "-m", "headwater.cli", "bootstrap", "serve", str(folder / "bootstrap.yaml")),
            *("--trace", str(self.trace), "--metrics", str(self.metrics[1]), "--coap", f"127.0.0.1:{self.coap[1]}"),
            *("--coaps", f"127.0.0.1:{self.coaps[1]}"),
            *(("--insecure",) if credentials is None else ("--credentials", str(credentials))),
            *more,
        ]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + SECONDS
        while self.get("readyz") is None:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)

    def get(self, path: str) -> str | None:
        """What it serves at its metrics port; None if that is no 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics[1]}/{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def runs(self, ep: str) -> list[dict[str, Any]]:
        """What `headwater bootstrap log` says, the newest first."""
        command = [sys.executable, "-m", "headwater.cli", "bootstrap", "log", ep, "--trace", str(self.trace)]
        done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, timeout=60, check=True)
        found = json.loads(done.stdout)
        assert isinstance(found, list)
        return found

    def ended(self, ep: str, number: int = 1) -> dict[str, Any]:
        """The newest run, once so many have come to their end."""
        end = time.monotonic() + SECONDS
        while True:
            runs = self.runs(ep)
            if len(runs) >= number and runs[0]["outcome"] != "running":
                return dict(runs[0])
            assert time.monotonic() < end, (runs, self.said())
            time.sleep(0.3)

    def keys(self, ep: str) -> dict[str, bytes]:
        """The pre-shared keys of a device at its gateway, by identity."""
        store = SqliteCredentials(self.store)
        found = {one.identity.decode(): one.key.reveal() for one in store.of_endpoint(ep) if isinstance(one, Psk)}
        store.close()
        return found


@dataclass
class Answers:
    """A device that can be bootstrapped: does what it is asked, and keeps what it got."""

    #: Where its account with the bootstrap server is.
    own: int = 0
    #: What to say instead, by the text of a request (``PUT /0/1``); None: nothing at all.
    instead: dict[str, Message | None] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    written: dict[str, bytes] = field(default_factory=dict)
    formats: set[int] = field(default_factory=set)

    def __call__(self, request: Message) -> Message | None:
        path = "/" + "/".join(request.opt.uri_path)
        text = f"{request.code.name} {path}"
        self.asked.append(text)
        if text in self.instead:
            return self.instead[text]
        if request.code == Code.GET:
            links = f'</>;lwm2m=1.1,</0/{self.own}>;uri="coaps://bs",</0/{self.own + 1}>;ssid=5;uri="coap://old"'
            return Message(code=Code.CONTENT, payload=links.encode(), content_format=40)
        if request.code == Code.PUT:
            self.written[path] = request.payload
            self.formats.add(int(request.opt.content_format))
        return Message(code=Code.DELETED if request.code == Code.DELETE else Code.CHANGED)

    @property
    def finished(self) -> bool:
        return "POST /bs" in self.asked
