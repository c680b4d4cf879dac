"""``headwater load``: what is refused and in which words, and how it ends without a gateway."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.devices.load import engine
from headwater.cli import app
from headwater.exits import Exit

KEY = "000102030405060708090a0b0c0d0e0f"


def refused(*arguments: str, code: Exit = Exit.USAGE) -> str:
    """What a person reads, whatever the width."""
    result = CliRunner().invoke(app, ["load", *arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return re.sub(r"[\s│]+", " ", result.output)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("observe",), "No such command 'observe'"),
        (("notify", "--threads", "0"), "Invalid value for '--threads'"),
        (("notify", "--loops", "-1"), "Invalid value for '--loops'"),
        (("notify", "--delay", "-5"), "Invalid value for '--delay'"),
        (("notify", "--server", "nowhere"), "'nowhere' is not HOST:PORT"),
        (("mixed",), "Missing argument 'PROFILE.yaml'"),
        (("mixed", "x.yaml"), "x.yaml cannot be read: No such file"),
        (("update", "--non"), "No such option: --non"),
        (("notify", "--oscore-list", "x.csv", "--psk-list", "x.csv"), "one of them"),
        (("notify", "--oscore-list", "x.csv", "--server", "coaps://127.0.0.1"), "OSCORE needs none: say coap://"),
        (("answer",), "answer goes by way of Kafka; say which gateway's with --gateway GW"),
        (("notify", "--audit"), "--audit goes by way of Kafka; say which gateway's with --gateway GW"),
        (("update", "--audit", "--gateway", "g"), "--audit looks for values"),
        (("notify", "--path", "/3303/0"), "a resource with one floating-point number is needed"),
        (("notify", "--path", "/3/0/9"), "a resource with one floating-point number is needed"),
        (("notify", "--path", "x"), "Invalid value for '--path'"),
        (("notify", "--server", "coaps://127.0.0.1"), "takes a key: --psk-file FILE"),
    ],
)
def test_what_makes_no_load_is_refused(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(*arguments)


def test_profile_that_is_wrong_is_told_with_its_place() -> None:
    Path("mix.yaml").write_text("notify: 80\nsent: 5\n")
    said = refused("mixed", "mix.yaml")
    assert "mix.yaml, line 2, column 1: 'sent' is not known here" in said


def test_key_list_has_to_have_a_key_for_every_device() -> None:
    Path("l.csv").touch(0o600)
    Path("l.csv").write_text(f"endpoint,kind,identity,key\nload-1,psk,,{KEY}\n")
    said = refused("update", "--threads", "2", "--psk-list", "l.csv")
    assert "no pre-shared key (kind psk) for load-2" in said
    assert KEY not in said


def test_file_that_is_there_is_not_overwritten() -> None:
    for option in ("--jtl", "--report"):
        Path("there").write_text("precious")
        said = refused("update", option, "there", "--server", "127.0.0.1:9", code=Exit.CANNOT_START)
        assert "there: there is such a file already; name another, or say --overwrite" in said
        assert Path("there").read_text() == "precious"


def test_server_whose_name_is_nobodys_is_told() -> None:
    said = refused("update", "--server", "no-such-host.invalid:5683", code=Exit.CANNOT_START)
    assert "is the host's name right?" in said


def test_too_many_devices_for_this_process_are_refused_with_what_to_do() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))

    options = ("--threads", "1000", "--server", "127.0.0.1:9", "--jtl", "l.jtl")
    words = [sys.executable, "-m", "headwater.cli", "load", "update", *options]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, preexec_fn=few, check=False)
    assert ended.returncode == Exit.CANNOT_START, ended.stderr
    assert "1000 devices need 1128 open files, and this process may have 512: raise that" in ended.stderr
    # Before it began: a file that it would have made is none's.
    assert not Path("l.jtl").exists()


def test_more_devices_than_ports_are_refused_before_anything_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("range").write_text("40000\t40009\n")
    monkeypatch.setattr(engine, "_PORTS", Path("range"))
    said = refused("update", "--threads", "11", "--server", "127.0.0.1:9", "--jtl", "l.jtl", code=Exit.CANNOT_START)
    assert "11 devices need a UDP port each, and one address of this machine has 10: raise that" in said
    assert not Path("l.jtl").exists()


def test_audit_by_way_of_a_kafka_that_is_away_is_refused_before_anything_is_begun() -> None:
    options = ("--server", "127.0.0.1:9", "--audit", "--gateway", "g", "--kafka", "127.0.0.1:1", "--jtl", "l.jtl")
    said = refused("send", *options, code=Exit.UNREACHABLE)
    assert "127.0.0.1:1" in said
    assert not Path("l.jtl").exists()


class Busy(threading.Thread):
    """A server that answers 5.03, try again in a second, to whatever it is asked."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self._sock = sock
        self.times: list[float] = []

    def run(self) -> None:
        while True:
            try:
                request, peer = self._sock.recvfrom(2048)
            except OSError:
                return
            self.times.append(time.monotonic())
            head = bytes((0x60 | request[0] & 0x0F, 0xA3)) + request[2 : 4 + (request[0] & 0x0F)]
            self._sock.sendto(head + b"\xd1\x01\x01" + b"\xffso many of you", peer)


def test_server_that_is_busy_is_waited_for_as_it_says_and_each_refusal_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        busy = Busy(sock)
        busy.start()
        options = ("--server", f"127.0.0.1:{sock.getsockname()[1]}", "--loops", "3", "--jtl", "l.jtl", "-o", "json")
        words = [sys.executable, "-m", "headwater.cli", "load", "update", *options]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    told = json.loads(ended.stdout)
    assert ended.returncode == Exit.REFUSED
    assert told["errors"] == [{"label": "register", "code": "5.03", "message": "so many of you", "count": 3}]
    assert len(Path("l.jtl").read_text().splitlines()) == 4
    assert all(later - earlier >= 1 for earlier, later in pairwise(busy.times))


def test_load_without_a_gateway_that_is_stopped_ends_in_order_and_writes_its_files() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        nobody.settimeout(60)
        options = ("--threads", "20", "--ramp-up", "0", "--jtl", "l.jtl", "--report", "l.html", "-o", "json")
        words = [sys.executable, "-m", "headwater.cli", "load", "update", *options]
        process = subprocess.Popen(
            [*words, "--server", f"127.0.0.1:{nobody.getsockname()[1]}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        # All of them have said something: their first message and maybe more.
        while len({nobody.recvfrom(2048)[1] for _ in range(20)}) < 20:
            continue
        process.terminate()
        out, errors = process.communicate(timeout=60)
    told = json.loads(out)
    # What was open is no error; there is nothing else.
    assert process.returncode == Exit.OK, errors
    assert (told["stopped"], told["threads"], told["total"]["count"], told["noticed"]["unfinished"]) == (
        True,
        20,
        0,
        20,
    )
    assert told["seconds"] < 60
    assert Path("l.jtl").read_text().startswith("timeStamp,elapsed,label")
    assert "<html" in Path("l.html").read_text()
    assert re.search(r"summary = +0 in ", errors)


def test_load_on_a_port_where_nobody_listens_is_told_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{nobody.getsockname()[1]}"
    words = [sys.executable, "-m", "headwater.cli", "load", "update", "--server", server]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert f"nobody listens at {server} yet; a device tries for 62 to 93 s" in process.stdout.readline()
        process.terminate()
