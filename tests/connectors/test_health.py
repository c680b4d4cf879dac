"""The HTTP face of a process."""

from __future__ import annotations

import http.client
import socket

import pytest
from prometheus_client import CollectorRegistry, Counter

from connectors.health import MAX_CLIENTS, serve_health


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
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
        assert get(server.port, "/healthz", "POST")[0] == 501
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


def test_silent_clients_are_bounded_and_others_are_served_afterwards() -> None:
    server = serve_health(0, registry=CollectorRegistry())
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(MAX_CLIENTS)]
    try:
        with pytest.raises((http.client.HTTPException, OSError)):
            get(server.port, "/healthz")
        for client in idle:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").readline().split()[1] == b"200"
        for client in idle:
            while client.recv(4096):
                pass
        assert get(server.port, "/healthz")[0] == 200
    finally:
        for client in idle:
            client.close()
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
