"""The HTTP face of a process."""

from __future__ import annotations

import base64
import http.client
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from connectors.health import serve_health
from security.api_keys import Scope, add, new_key, revoke
from security.errors import ApiKeyError


def get(port: int, path: str, method: str = "GET", authorization: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={} if authorization is None else {"Authorization": authorization})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_well_process_answers_ok_and_shows_its_metrics() -> None:
    registry = CollectorRegistry()
    Counter("headwater_things", "Things.", registry=registry).inc(3)
    server = serve_health(0, registry=registry)
    try:
        assert get(server.port, "/healthz") == (200, "ok\n")
        assert get(server.port, "/readyz?verbose") == (200, "ok\n")
        status, text = get(server.port, "/metrics")
        assert status == 200
        assert "headwater_things_total 3.0" in text
        assert get(server.port, "/metrics", "HEAD") == (200, "")
        assert get(server.port, "/")[0] == 404
        assert get(server.port, "/healthz", "POST") == (405, "there are: GET, HEAD\n")
    finally:
        server.close()


def test_the_reason_why_not_is_the_body_of_a_503() -> None:
    reason: str | None = "Kafka is away"
    server = serve_health(0, registry=CollectorRegistry(), ready=lambda: reason)
    try:
        assert get(server.port, "/healthz") == (200, "ok\n")
        assert get(server.port, "/readyz") == (503, "Kafka is away\n")
        reason = None
        assert get(server.port, "/readyz") == (200, "ok\n")
    finally:
        server.close()


def test_a_check_that_breaks_counts_as_not_well() -> None:
    def broken() -> str | None:
        raise RuntimeError("no such table")

    server = serve_health(0, registry=CollectorRegistry(), live=broken)
    try:
        assert get(server.port, "/healthz") == (503, "the check failed: RuntimeError: no such table\n")
    finally:
        server.close()


def test_close_frees_the_port_and_may_be_called_twice() -> None:
    server = serve_health(0, registry=CollectorRegistry())
    port = server.port
    server.close()
    server.close()
    again = serve_health(port, registry=CollectorRegistry())
    try:
        assert get(port, "/healthz")[0] == 200
    finally:
        again.close()


def test_with_a_file_of_keys_metrics_are_for_their_holders_and_health_is_open(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    now = datetime.now(UTC)
    mine, row = new_key("prometheus", frozenset({Scope.METRICS_READ}), now=now, expires=None)
    add(file, row)
    others, row = new_key("console", frozenset({Scope.SCHEMAS_READ}), now=now, expires=None)
    add(file, row)
    basic = "Basic " + base64.b64encode(f"prometheus:{mine}".encode()).decode()
    server = serve_health(0, registry=CollectorRegistry(), keys=file)
    try:
        assert get(server.port, "/healthz")[0] == 200
        assert get(server.port, "/readyz")[0] == 200
        for path in ("/metrics", "/%6detrics", "/metrics?x=1", "http://elsewhere/metrics"):
            assert get(server.port, path)[0] == 401, path
            assert get(server.port, path, "POST")[0] == 401, path
        assert get(server.port, "/metrics", authorization=f"Bearer {mine}")[0] == 200
        assert get(server.port, "/metrics", authorization=basic)[0] == 200
        assert get(server.port, "/metrics", authorization=f"Bearer {others}")[0] == 403
        revoke(file, "prometheus", now)
        assert get(server.port, "/metrics", authorization=f"Bearer {mine}")[0] == 401
        file.unlink()
        assert get(server.port, "/metrics", authorization=f"Bearer {mine}")[0] == 503
        assert get(server.port, "/healthz")[0] == 200
    finally:
        server.close()


def test_a_file_of_keys_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ApiKeyError, match="No such file"):
        serve_health(0, registry=CollectorRegistry(), keys=tmp_path / "none.json")
