"""``headwater health`` and the image's healthcheck against a real health server, and against what is none."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from connectors.health import HealthServer, serve_health
from headwater.cli import app
from headwater.exits import Exit
from headwater.health import ask
from tests.ports import held_port


@pytest.fixture
def well() -> Iterator[HealthServer]:
    server = serve_health(0, registry=CollectorRegistry())
    yield server
    server.close()


@pytest.fixture
def ill() -> Iterator[HealthServer]:
    server = serve_health(0, registry=CollectorRegistry(), live=lambda: "Kafka's client is gone")
    yield server
    server.close()


HEALTHCHECK = Path(__file__).parents[2] / "stacks/images/headwater/healthcheck"


def _script(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    return subprocess.run(
        ["/bin/bash", HEALTHCHECK],
        env=clean | environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )


def test_a_process_that_is_well_is_told_by_the_exit_code_alone(well: HealthServer) -> None:
    done = CliRunner().invoke(app, ["health", "--metrics", str(well.port)])
    assert (done.exit_code, done.output) == (Exit.OK, "")
    script = _script(HEADWATER_METRICS=str(well.port))
    assert (script.returncode, script.stdout, script.stderr) == (0, "", "")


def test_why_a_process_is_not_well_is_told_in_its_own_words(ill: HealthServer) -> None:
    done = CliRunner().invoke(app, ["health", "--metrics", str(ill.port)])
    assert done.exit_code == Exit.REFUSED
    assert done.output == "error: Kafka's client is gone\n"
    script = _script(HEADWATER_METRICS=str(ill.port))
    assert (script.returncode, script.stdout, script.stderr) == (1, "Kafka's client is gone\n", "")


def test_the_address_that_stands_for_all_is_asked_on_this_machine(well: HealthServer) -> None:
    script = _script(HEADWATER_METRICS=str(well.port), HEADWATER_METRICS_HOST="0.0.0.0")
    assert script.returncode == 0


def test_nobody_there_is_not_well() -> None:
    port = held_port()
    done = CliRunner().invoke(app, ["health", "--metrics", str(port)])
    assert done.exit_code == Exit.REFUSED
    assert done.output == f"error: nothing answers at 127.0.0.1:{port}: Connection refused\n"
    assert _script(HEADWATER_METRICS=str(port)).returncode == 1


def test_the_environment_names_the_port_of_the_command_too(
    well: HealthServer, ill: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_METRICS", str(ill.port))
    assert CliRunner().invoke(app, ["health"]).exit_code == Exit.REFUSED
    assert CliRunner().invoke(app, ["health", "--metrics", str(well.port)]).exit_code == Exit.OK


@pytest.mark.parametrize("port", ["", "0", "65536", "web", "-1", "9590 ", "²"])
def test_a_port_that_is_none_is_told_in_one_line(port: str) -> None:
    script = _script(HEADWATER_METRICS=port)
    assert (script.returncode, script.stderr) == (1, "")
    assert script.stdout == f"HEADWATER_METRICS is {port!r}, not a port between 1 and 65535\n"


@contextmanager
def _answering(answer: bytes) -> Iterator[int]:
    """A port at which one question is answered with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            connection, _ = listening.accept()
            with connection:
                asked = b""
                while not asked.endswith(b"\r\n\r\n"):
                    asked += connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.0\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "/healthz answers 404"),
        (b"HTTP/1.0 404\r\n\r\n", "/healthz answers 404"),
        (b"HTTP/1.0 503 \xff\r\n\r\n\xff\xfe", "\ufffd\ufffd"),
        (b"HTTP/1.0 503 No\r\nA: b\r\n\r\nit is\\not well", "it is\\not well"),
    ],
)
def test_an_answer_that_is_none_of_ours_is_not_well(answer: bytes, told: str) -> None:
    with _answering(answer) as port:
        said = ask("127.0.0.1", port, 10.0)
    assert said is not None
    assert said.endswith(told)
    with _answering(answer) as port:
        script = _script(HEADWATER_METRICS=str(port))
    assert script.returncode == 1
    assert script.stderr == ""
    assert script.stdout.rstrip("\n").endswith(told)


def test_a_process_that_hangs_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # The kernel accepts; nobody ever reads or answers.
        port = listening.getsockname()[1]
        said = ask("127.0.0.1", port, 0.2)
        script = _script(HEADWATER_METRICS=str(port))
    assert said is not None
    assert "timed out" in said
    assert (script.returncode, script.stdout) == (1, f"127.0.0.1:{port} does not answer\n")
