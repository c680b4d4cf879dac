"""The demo, as people run it: real Kafkas, every part a process, the link cut, the audit, nothing left behind."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo_processes import processes_of, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


def command(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "headwater.cli", "demo", "--dir", str(directory), *arguments]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A folder for one demo; what a failed test leaves there is ended."""
    folder = tmp_path / "demo-of-this-test"
    yield folder
    for pid in processes_of(folder):
        os.kill(pid, signal.SIGKILL)


def test_demo_with_a_cut_link_loses_and_doubles_nothing_and_leaves_nothing(directory: Path) -> None:
    arguments = ["--for", "20", "--sensors", "3", "--wan-cut", "5", "--output", "json"]
    done = subprocess.run(
        command(directory, *arguments),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["ok"] is True
    assert (summary["lost"], summary["doubled"]) == (0, 0)
    assert summary["registrations"] == 3
    assert summary["notifications"] > 0
    assert summary["cloud_notifications"] >= summary["notifications"]
    assert summary["stored_rows"] >= summary["notifications"]
    assert summary["wan_cut_seconds"] >= 4
    assert "WAN CUT" in done.stderr
    assert processes_of(directory) == {}


@pytest.mark.parametrize("more", [[], ["--secure"]], ids=["plain", "secure"])
def test_commands_that_the_demo_prints_work_and_a_killed_demo_leaves_nothing(directory: Path, more: list[str]) -> None:
    with subprocess.Popen(
        command(directory, "--sensors", "1", *more), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as demo:
        try:
            assert demo.stdout is not None
            lines = iter(demo.stdout.readline, "")
            read = next(line.split()[1:] for line in lines if " read sensor" in line)
            answer = subprocess.run(
                [sys.executable, "-m", "headwater.cli", *read, "-o", "json"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert answer.returncode == 0, answer.stderr
            assert any(one["path"] == "/3303/0/5700" for one in json.loads(answer.stdout)["values"])
        finally:
            demo.kill()
    wait_until(lambda: processes_of(directory) == {}, 30)


def test_secure_demo_speaks_dtls_only_and_loses_and_doubles_nothing(directory: Path) -> None:
    arguments = ["--secure", "--for", "20", "--sensors", "3", "--wan-cut", "4", "--output", "json"]
    with subprocess.Popen(
        command(directory, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as demo:
        assert demo.stderr is not None
        said = []
        for line in demo.stderr:
            said.append(line)
            if "acknowledged" in line:
                break
        keys = [row["key"] for row in csv.DictReader((directory / "sensors.csv").read_text().splitlines())]
        lines = processes_of(directory)
        [gateway] = [line for line in lines.values() if "gateway" in line]
        assert "--no-insecure" in gateway
        assert "--coap" not in gateway
        assert not any(key in word for key in keys for line in lines.values() for word in line)
        summary, rest = demo.communicate(timeout=240)
    assert demo.returncode == 0, rest
    found = json.loads(summary)
    assert found["ok"] is True
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert found["registrations"] == 3
    assert found["cloud_notifications"] >= found["notifications"] > 0
    assert "the gateway takes DTLS only" in "".join(said)
    assert len(set(keys)) == 3
    logs = "".join(log.read_text("utf-8", "replace") for log in (directory / "logs").iterdir())
    assert '"coap": null' in logs
    assert not any(key in logs + "".join(said) + rest for key in keys)
    for name in ("sensors.csv", "credentials.db"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    assert processes_of(directory) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_told_to_stop_stops_everything(directory: Path, number: signal.Signals) -> None:
    with subprocess.Popen(command(directory), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "acknowledged" in line:
                break
        demo.send_signal(number)
        assert demo.wait(60) == 0
        assert "nothing is left running" in demo.stdout.read()
    assert processes_of(directory) == {}


def test_part_that_dies_is_named_with_its_log_and_ends_the_demo(directory: Path) -> None:
    with subprocess.Popen(
        command(directory, "--sensors", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            if "acknowledged" in line:
                break
        [gateway] = [pid for pid, line in processes_of(directory).items() if "gateway" in line]
        os.kill(gateway, signal.SIGKILL)
        assert demo.wait(60) == 1
        words = demo.stderr.read()
        assert "gateway ended by itself" in words
        assert "the gateway is ready" in words
    assert processes_of(directory) == {}


def test_keys_on_a_terminal_cut_the_link_and_end_with_the_audit(directory: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    demo = subprocess.Popen(
        command(directory, "--sensors", "1"), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    seen = ""

    def shows(text: str) -> Callable[[], bool]:
        def look() -> bool:
            nonlocal seen
            ready, _, _ = select.select([ours], [], [], 0.1)
            if ready:
                try:
                    seen += os.read(ours, 65536).decode("utf-8", "replace")
                except OSError:  # Linux says so when the other side is closed
                    return text in seen
            return text in seen

        return look

    try:
        wait_until(shows(" online "), 90)
        os.write(ours, b"c")
        wait_until(shows("CUT"), 30)
        os.write(ours, b"q")
        wait_until(shows("all is right"), 120)
        assert demo.wait(60) == 0
    except AssertionError as exc:
        raise AssertionError(f"the terminal showed at last: {seen[-3000:]!r}") from exc
    finally:
        demo.kill()
        demo.wait(10)
        os.close(ours)
    wait_until(lambda: processes_of(directory) == {}, 10)


def test_folder_that_is_no_demos_is_left_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "precious").write_text("mine")
    done = subprocess.run(command(directory), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert (directory / "precious").read_text() == "mine"
