"""What every process shows of itself over HTTP: ``/healthz``, ``/readyz`` and ``/metrics``.

Owns these three paths. It never decides whether a process is well: it asks the two callables that it was given. Metrics
are in the Prometheus text exposition format (or OpenMetrics, if asked for), and for holders of a key only where there
is a file of keys; health is open, since those who ask for it (Swarm, systemd) have none.

An answer of ``/healthz`` other than 200 asks for a restart; one of ``/readyz`` says: alive, but not of use right now.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

from connectors.http_keys import KeyGuard
from connectors.http_messages import Answer, Request, text, wrong_method
from connectors.http_server import HttpServer, serve_http
from security.api_keys import KeyFile, Scope

__all__ = ["Check", "HealthServer", "serve_health"]

#: None: all is well; a text: why it is not.
Check = Callable[[], str | None]

#: The running server that `serve_health` returns.
HealthServer = HttpServer

_METRICS = ("metrics",)


def serve_health(
    port: int,
    *,
    host: str = "127.0.0.1",
    registry: CollectorRegistry = REGISTRY,
    live: Check = lambda: None,
    ready: Check = lambda: None,
    keys: Path | None = None,
) -> HealthServer:
    """Serve until `HealthServer.close`; returns once the port is bound.

    Args:
        port: TCP port; 0 takes a free one, see `HealthServer.port`.
        host: the address to bind; ``0.0.0.0`` in a container.
        registry: whose metrics ``/metrics`` shows.
        live: the reason why the process should be restarted, or None. It is called in a thread of the server.
        ready: the reason why the process is of no use now, or None; likewise.
        keys: a file of API keys; then ``/metrics`` needs one with the scope ``metrics:read``.

    Raises:
        OSError: the address is taken or is not ours.
        ApiKeyError: the file of keys cannot be read; found out now, not at the first scrape.
    """
    checks = {("healthz",): live, ("readyz",): ready}
    guard = None
    if keys is not None:
        file = KeyFile(keys)
        file.keys()
        guard = KeyGuard(file)

    def admit(request: Request) -> Answer | None:
        return guard.refusal(request, Scope.METRICS_READ) if guard is not None and request.path == _METRICS else None

    def respond(request: Request) -> Answer:
        if request.path != _METRICS and request.path not in checks:
            return text(HTTPStatus.NOT_FOUND, "there are /healthz, /readyz and /metrics")
        if request.method not in ("GET", "HEAD"):
            raise wrong_method("GET", "HEAD")
        if request.path == _METRICS:
            encode, content_type = choose_encoder(request.fields.get("accept", ""))
            return Answer(content_type=content_type, body=encode(registry))
        reason = _reason(checks[request.path])
        return text(HTTPStatus.OK if reason is None else HTTPStatus.SERVICE_UNAVAILABLE, reason or "ok")

    return serve_http(host, port, respond, admit=admit, max_body=0, name="health")


def _reason(check: Check) -> str | None:
    try:
        return check()
    except Exception as exc:  # noqa: BLE001  a check that breaks is itself the reason, and must be seen as one
        return f"the check failed: {type(exc).__name__}: {exc}"
