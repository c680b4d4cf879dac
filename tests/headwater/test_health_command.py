"""``headwater health`` and ``python -m headwater.health`` against a real health server, and against what is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
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


def _module(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    return subprocess.run(
        [sys.executable, "-m", "headwater.health"],
        env=clean | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_process_that_is_well_is_told_by_the_exit_code_alone(well: HealthServer) -> None:
    done = CliRunner().invoke(app, ["health", "--metrics", str(well.port)])
    assert (done.exit_code, done.output) == (Exit.OK, "")
    module = _module(HEADWATER_METRICS=str(well.port))
    assert (module.returncode, module.stdout, module.stderr) == (0, "", "")


def test_why_a_process_is_not_well_is_told_in_its_own_words(ill: HealthServer) -> None:
    done = CliRunner().invoke(app, ["health", "--metrics", str(ill.port)])
    assert done.exit_code == Exit.REFUSED
    assert done.output == "error: Kafka's client is gone\n"
    module = _module(HEADWATER_METRICS=str(ill.port))
    assert (module.returncode, module.stdout, module.stderr) == (1, "Kafka's client is gone\n", "")


def test_the_address_that_stands_for_all_is_asked_on_this_machine(well: HealthServer) -> None:
    module = _module(HEADWATER_METRICS=str(well.port), HEADWATER_METRICS_HOST="0.0.0.0")
    assert module.returncode == 0


def test_nobody_there_is_not_well() -> None:
    port = held_port()
    done = CliRunner().invoke(app, ["health", "--metrics", str(port)])
    assert done.exit_code == Exit.REFUSED
    assert done.output == f"error: nothing answers at 127.0.0.1:{port}: Connection refused\n"
    assert _module(HEADWATER_METRICS=str(port)).returncode == 1


def test_the_environment_names_the_port_of_the_command_too(
    well: HealthServer, ill: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_METRICS", str(ill.port))
    assert CliRunner().invoke(app, ["health"]).exit_code == Exit.REFUSED
    assert CliRunner().invoke(app, ["health", "--metrics", str(well.port)]).exit_code == Exit.OK


@pytest.mark.parametrize("port", ["", "0", "65536", "web", "-1", "9590 ", "²"])
def test_a_port_that_is_none_is_told_in_one_line(port: str) -> None:
    module = _module(HEADWATER_METRICS=port)
    assert (module.returncode, module.stderr) == (1, "")
    assert module.stdout == f"HEADWATER_METRICS is {port!r}, not a port between 1 and 65535\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"HTTP/1.0\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "/healthz answers 404"),
        (b"HTTP/1.0 503 \xff\r\n\r\n\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_an_answer_that_is_none_of_ours_is_not_well(answer: bytes, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        said = ask("127.0.0.1", listening.getsockname()[1], 10.0)
        thread.join(10)
    assert said is not None
    assert said.endswith(told)


def test_a_process_that_hangs_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # The kernel accepts; nobody ever reads or answers.
        said = ask("127.0.0.1", listening.getsockname()[1], 0.2)
    assert said is not None
    assert "timed out" in said


def test_the_question_loads_little() -> None:
    """It is asked every few seconds on machines where loading the whole command takes a second."""
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
         "import headwater.health; print(*sys.modules)"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"typer", "confluent_kafka", "asyncio", "logging", "http.client", "pydantic"} & set(loaded)
