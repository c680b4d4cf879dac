"""The process of the schema view: serves `cloud.schema_view` over HTTP or HTTPS to holders of an API key.

Owns who is let in and what is counted. Beside the registry's paths it answers ``/healthz`` to everybody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from cloud.schema_view import SchemaView, refused
from connectors.health import serve_health
from connectors.http_keys import KeyGuard
from connectors.http_messages import Answer, Request, text
from connectors.http_server import ServerTls, serve_http
from connectors.process_metrics import Component, with_process
from security.api_keys import KeyFile, Scope

_HEALTH = ("healthz",)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaServerSettings:
    """One process.

    ``keys``: the file of API keys; None lets everybody in. ``tls``: a folder with ``cert.pem`` and ``key.pem``; None is
    plain HTTP. ``gateways``: whose subjects are listed, beside the families'. ``metrics_port``: None serves nothing.
    """

    host: str = "127.0.0.1"
    port: int = 8081
    keys: Path | None = None
    tls: Path | None = None
    gateways: tuple[str, ...] = ()
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    metrics_keys: Path | None = None


def run(settings: SchemaServerSettings, stop: threading.Event, started: Callable[[int], None] = lambda _: None) -> None:
    """Serve until ``stop`` is set; ``started`` is told the port, also where any free one was asked for.

    Raises:
        ApiKeyError: a file of keys cannot be read.
        SecurityError: the key of the certificate cannot be read, or lies open.
        OSError: a port is taken, or the certificate cannot be used.
    """
    registry = CollectorRegistry()
    requests = Counter(
        "headwater_schema_requests", "Requests for schemas, by the status of the answer.", ["status"], registry=registry
    )
    view = SchemaView(gateways=settings.gateways)
    guard = None
    if settings.keys is not None:
        file = KeyFile(settings.keys)
        file.keys()
        guard = KeyGuard(file)

    def admit(request: Request) -> Answer | None:
        if guard is None or request.path == _HEALTH:
            return None
        answer = guard.refusal(request, Scope.SCHEMAS_READ)
        if answer is not None:
            requests.labels(str(answer.status.value)).inc()
            return refused(answer, request)
        return None

    def respond(request: Request) -> Answer:
        if request.path == _HEALTH:
            return text(HTTPStatus.OK, "ok")
        answer = view.respond(request)
        requests.labels(str(answer.status.value)).inc()
        return answer

    def ready() -> str | None:
        if settings.keys is not None:
            file.keys()
        return None

    with ExitStack() as cleanup:
        tls = None if settings.tls is None else ServerTls(settings.tls)
        server = serve_http(settings.host, settings.port, respond, admit=admit, tls=tls, name="schemas")
        cleanup.callback(server.close)
        if settings.metrics_port is not None:
            health = serve_health(
                settings.metrics_port,
                host=settings.metrics_host,
                registry=with_process(
                    registry, Component.SCHEMAS, settings.gateways or ("*",), ready, tls=(settings.tls,)
                ),
                ready=ready,
                keys=settings.metrics_keys,
            )
            cleanup.callback(health.close)
        started(server.port)
        stop.wait()
