"""What every process shows of itself over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``.

Owns a small threaded HTTP server beside the process's own loop. It never decides whether a process is well: it asks the
two callables that it was given. Metrics are in the Prometheus text exposition format (or OpenMetrics, if asked for).

An answer of ``/healthz`` other than 200 asks for a restart; one of ``/readyz`` says: alive, but not of use right now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

__all__ = ["Check", "HealthServer", "serve_health"]

#: None: all is well; a text: why it is not.
Check = Callable[[], str | None]

#: A client that says nothing for this long is hung up on, so that idle connections cannot pile up threads.
CLIENT_TIMEOUT_S = 5.0
MAX_CLIENTS = 32


class HealthServer:
    """A running server; made by `serve_health`."""

    def __init__(self, server: ThreadingTCPServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port in use, also where port 0 was asked for."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving and free the port; a second call does nothing."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(timeout=CLIENT_TIMEOUT_S)
        self._server.server_close()


def serve_health(
    port: int,
    *,
    host: str = "127.0.0.1",
    registry: CollectorRegistry = REGISTRY,
    live: Check = lambda: None,
    ready: Check = lambda: None,
) -> HealthServer:
    """Serve until `HealthServer.close`; returns once the port is bound.

    Args:
        port: TCP port; 0 takes a free one, see `HealthServer.port`.
        host: the address to bind; ``0.0.0.0`` in a container.
        registry: whose metrics ``/metrics`` shows.
        live: the reason why the process should be restarted, or None. It is called in a thread of the server.
        ready: the reason why the process is of no use now, or None; likewise.

    Raises:
        OSError: the address is taken or is not ours.
    """
    handler = type("Handler", (_Handler,), {"registry": registry, "checks": {"/healthz": live, "/readyz": ready}})
    return HealthServer(_Server((host, port), handler))


class _Server(ThreadingTCPServer):
    # Not http.server's: that asks the resolver for our own name first, which can hang where there is no network.
    allow_reuse_address = True
    request_queue_size = MAX_CLIENTS
    daemon_threads = True
    # Closing must not wait for a client that is slow to read.
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._slots = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is no news of ours."""


class _Handler(BaseHTTPRequestHandler):
    registry: ClassVar[CollectorRegistry]
    checks: ClassVar[dict[str, Check]]
    timeout = CLIENT_TIMEOUT_S
    server_version = "headwater"
    sys_version = ""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, content_type, encode(self.registry))
        elif path in self.checks:
            reason = _reason(self.checks[path])
            self._answer(200 if reason is None else 503, "text/plain; charset=utf-8", (reason or "ok").encode() + b"\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", b"there are /healthz, /readyz and /metrics\n")

    do_HEAD = do_GET

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes every few seconds are no news."""


def _reason(check: Check) -> str | None:
    try:
        return check()
    except Exception as exc:  # noqa: BLE001  a check that breaks is itself the reason, and must be seen as one
        return f"the check failed: {type(exc).__name__}: {exc}"
