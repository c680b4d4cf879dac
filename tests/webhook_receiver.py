"""A receiver of webhooks as its owner would write one: it verifies the signature, and keeps each event once.

It is written by the recipe of ``docs/sinks/webhook.md`` and takes nothing from the sink's own code.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

SECRET = "correct horse battery staple é"
#: How old a request may be, in seconds.
FRESH_S = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as it came."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        said = json.loads(self.body)
        return said if isinstance(said, list) else [said]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer; ``keep`` is whether the events are kept all the same, as by a receiver that dies before it answers."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep: bool = False
    #: No answer at all: the connection is ended.
    hang_up: bool = False
    #: The connection is ended after the answer, which does not say so.
    end_after: bool = False


class Inbox:
    """What came to one path. ``answer`` may say something else than that it was taken."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.requests: list[Asked] = []
        self.answer: Callable[[Asked], Said | None] = lambda _asked: None
        self._lock = threading.Lock()

    def take(self, asked: Asked) -> Said:
        with self._lock:
            self.requests.append(asked)
            if not verified(asked):
                return Said(status=401, body=b"bad signature")
            said = self.answer(asked) or Said(status=204, keep=True)
            if said.keep:
                for event in asked.events:
                    self.events.setdefault(event["id"], event)
            return said


def verified(asked: Asked, now: Callable[[], float] = time.time) -> bool:
    """The recipe of the documentation."""
    parts = dict(part.split("=", 1) for part in asked.headers["Headwater-Signature"].split(","))
    wanted = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + asked.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted, parts["v1"]) and abs(now() - int(parts["t"])) <= FRESH_S


class Receiver:
    """A real HTTP server on 127.0.0.1, in a thread of this process; a path is an inbox."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        inboxes: dict[str, Inbox] = {}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox = inboxes.get(self.path)
                if inbox is None:
                    said = Said(status=404, body=b"no such inbox")
                else:
                    said = inbox.take(Asked(headers=dict(self.headers.items()), body=body))
                if said.hang_up:
                    self.close_connection = True
                    return
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                if said.status != 204:
                    self.send_header("Content-Length", str(len(said.body)))
                self.end_headers()
                with suppress(ConnectionError):
                    # Whoever has read enough hangs up.
                    self.wfile.write(said.body)
                self.close_connection = self.close_connection or said.end_after

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._inboxes = inboxes
        self._numbers = count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def inbox(self) -> tuple[str, Inbox]:
        """A new one and its path."""
        path = f"/events/{next(self._numbers)}?hook=%20a"
        self._inboxes[path] = Inbox()
        return path, self._inboxes[path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@cache
def receiver() -> Receiver:
    """The one of this session."""
    return Receiver()
