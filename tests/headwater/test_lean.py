"""``HEADWATER_LEAN=1``: a process that begins anew without its command line, and is the same to all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headwater.exits import Exit
from tests.oscore_device import credential, oscore_store
from tests.ports import held_port
from tests.secure_device import new_store

REPOSITORY = Path(__file__).parents[2]
#: To be waited for at most; a busy machine starts slowly.
WAIT_S = 90.0


@contextmanager
def running(*words: str, lean: str = "1") -> Iterator[subprocess.Popen[str]]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    with subprocess.Popen(
        [sys.executable, "-m", "headwater.cli", *words],
        env=clean | {"HEADWATER_LEAN": lean},
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def gateway(state: Path, metrics: int) -> list[str]:
    return [
        *("gateway", "--id", "lean", "--kafka", f"127.0.0.1:{held_port()}", "--coap", f"127.0.0.1:{held_port()}"),
        *("--state", str(state), "--metrics", str(metrics), "--observe", "/3303/*/5700", "--log-level", "warning"),
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files in memory are Linux's")
@pytest.mark.parametrize("speaks_oscore", [False, True])
def test_gateway_loads_oscore_only_where_a_device_has_a_credential_for_it(tmp_path: Path, speaks_oscore: bool) -> None:
    store = new_store(tmp_path / "credentials.db", {"press-1": b"one of sixteen b"})
    if speaks_oscore:
        oscore_store(store, [credential("press-2", b"2")])
    port, imports = held_port(), tmp_path / "imports"
    secure = ("--credentials", str(store), "--coaps", f"127.0.0.1:{held_port()}")
    with (
        imports.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "headwater.cli", *gateway(tmp_path / "state", port), *secure],
            env={**os.environ, "HEADWATER_LEAN": "1", "PYTHONPROFILEIMPORTTIME": "1"},
            cwd=REPOSITORY,
            stderr=out,
        ) as process,
    ):
        try:
            until_it_serves(process, port)
        finally:
            process.kill()
    loaded = {line.rsplit("|", 1)[-1].strip() for line in imports.read_text().splitlines()}
    assert "gateway.dtls.server" in loaded
    assert ("gateway.oscore.line" in loaded) is speaks_oscore
    # Of several processes one has nothing.
    assert not {one for one in loaded if one.startswith(("gateway.several", "headwater.several"))}


def until_it_serves(process: subprocess.Popen[Any], port: int) -> str:
    """The metrics, once there are some."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            assert process.poll() is None, process.communicate(timeout=10)[1]
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files in memory are Linux's")
def test_it_goes_on_under_its_own_number_with_the_words_that_it_was_given(tmp_path: Path) -> None:
    port = held_port()
    with running(*gateway(tmp_path / "state", port)) as process:
        assert 'gateway="lean"' in until_it_serves(process, port)
        words = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        assert words[1:6] == ["-P", "-m", "headwater.lean", "gateway", "--id"]
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "librdkafka" in mapped
        assert "_pydantic_core" not in mapped
        assert "cryptography" not in mapped
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == Exit.OK


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files in memory are Linux's")
def test_bootstrap_server_loads_what_reads_its_configuration_only_when_that_changes(tmp_path: Path) -> None:
    port, file, log = held_port(), tmp_path / "bootstrap.yaml", tmp_path / "b.db"
    profile = "servers: [{uri: 'coap://gw', short_id: 1, security: none}]"
    file.write_text(f"default: {{{profile}}}")
    words = ("--insecure", "--coap", f"127.0.0.1:{held_port()}", "--trace", str(log), "--metrics", str(port))
    with running("bootstrap", "serve", str(file), *words) as process:
        assert 'component="bootstrap"' in until_it_serves(process, port)
        line = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        assert line[1:6] == ["-P", "-m", "headwater.lean", "bootstrap", "serve"]
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        for unwanted in ("_pydantic_core", "librdkafka", "yaml"):
            assert unwanted not in mapped
        file.write_text("default: x")
        until = time.monotonic() + WAIT_S
        while "headwater_bootstrap_configuration_wrong 1.0" not in until_it_serves(process, port):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == Exit.OK


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files in memory are Linux's")
def test_who_carries_campaigns_out_waits_for_kafka_with_nothing_loaded_but_what_it_runs() -> None:
    port = held_port()
    words = ("campaign", "run", "--gateway", "lean", "--kafka", f"127.0.0.1:{held_port()}", "--metrics", str(port))
    with running(*words) as process:
        assert 'component="campaigns"' in until_it_serves(process, port)
        line = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        assert line[1:6] == ["-P", "-m", "headwater.lean", "campaign", "run"]
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "librdkafka" in mapped
        for unwanted in ("_pydantic_core", "cryptography"):
            assert unwanted not in mapped
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == Exit.OK


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files in memory are Linux's")
@pytest.mark.parametrize("lean", ["0", "1"])
def test_each_of_several_processes_begins_without_the_command_line_and_all_end_together(
    tmp_path: Path, lean: str
) -> None:
    port = held_port()
    with running(*gateway(tmp_path / "state", port), "--processes", "2", lean=lean) as process:
        until = time.monotonic() + WAIT_S
        while not {"0", "1"} <= set(re.findall(r'process="(\w+)"', until_it_serves(process, port))):
            assert time.monotonic() < until
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        lines = sorted(Path(f"/proc/{child}/cmdline").read_text().split("\0") for child in children)
        assert [line[-2] for line in lines] == ["(1 of 2)", "(2 of 2)"]
        for child, line in zip(children, lines, strict=True):
            assert line[1:6] == ["-P", "-m", "headwater.lean", "gateway", "--id"]
            assert "_pydantic_core" not in Path(f"/proc/{child}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_S) == Exit.OK
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_without_it_the_process_stays_what_it_was(tmp_path: Path) -> None:
    port = held_port()
    with running(*gateway(tmp_path / "state", port), lean="0") as process:
        until_it_serves(process, port)
        assert "headwater.lean" not in Path(f"/proc/{process.pid}/cmdline").read_text()


@pytest.mark.parametrize("lean", ["0", "1"])
def test_what_keeps_it_from_starting_is_told_in_the_same_words_with_the_same_code(tmp_path: Path, lean: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with running(*gateway(tmp_path / "file" / "state", held_port()), lean=lean) as process:
        _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == Exit.CANNOT_START
    assert said.startswith(f"error: the state directory {tmp_path / 'file' / 'state'} cannot be used")


@pytest.mark.parametrize("lean", ["0", "1"])
def test_a_folder_that_holds_no_identity_is_told_before_anything_runs(tmp_path: Path, lean: str) -> None:
    words = ["replicate", "--gateway", "lean", "--edge-tls", str(tmp_path / "none")]
    with running(*words, lean=lean) as process:
        _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == Exit.CANNOT_START
    assert f"there is no folder {tmp_path / 'none'}" in said


@pytest.mark.parametrize("lean", ["0", "1"])
def test_a_gateway_whose_credentials_cannot_be_reached_does_not_start_and_tells_no_password(
    tmp_path: Path, lean: str
) -> None:
    port = held_port()
    words = ("--credentials", f"redis://:geheim@127.0.0.1:{port}/0", "--coaps", f"127.0.0.1:{held_port()}")
    with running(*gateway(tmp_path / "state", held_port()), *words, lean=lean) as process:
        _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == Exit.CANNOT_START
    assert f"the Redis at 127.0.0.1:{port} cannot be reached" in said
    assert "geheim" not in said
