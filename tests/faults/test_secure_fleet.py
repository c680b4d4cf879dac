"""A fleet over DTLS whose gateway is killed, and told to stop, and comes back: as `headwater sensor` and real Kafka."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from headwater.demo.journal import read_journal
from headwater.demo.keys import Keys, make_keys
from tests.faults.test_gateway_behind_chaos import recorded
from tests.interop.gateway_process import GatewayProcess, start_gateway

pytestmark = [pytest.mark.faults, pytest.mark.kafka]

DEVICES = 5


@contextmanager
def _sensors(keys: Keys, server: str, journal: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "headwater.cli", "sensor", "--server", f"coaps://{server}", "--endpoint", "s"]
    command += ["--count", str(DEVICES), "--period", "0.3", "--psk-list", str(keys.list), "--journal", str(journal)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def _more(journal: Path, number: int, log: Path) -> None:
    """Wait for so many acknowledged notifications more, of every device."""
    before = len(list(read_journal(journal)))
    until = time.monotonic() + 60
    while True:
        after = Counter(one.ep for one in list(read_journal(journal))[before:])
        if sum(after.values()) >= number and len(after) == DEVICES:
            return
        assert time.monotonic() < until, (before, after, log.read_text("utf-8", "replace")[-3000:])
        time.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_fleet_goes_on_by_itself_after_its_gateway_was_ended(
    kafka: Cluster, tmp_path: Path, how: signal.Signals
) -> None:
    keys = make_keys(tmp_path, [f"s-{number}" for number in range(1, DEVICES + 1)])
    gateway_id = f"fleet-{secrets.token_hex(4)}"
    journal, log = tmp_path / "journal", tmp_path / "sensors.log"

    def start(port: int | None = None) -> GatewayProcess:
        return start_gateway(
            kafka,
            gateway_id,
            tmp_path,
            observe=("/3303/*/5700",),
            credentials=keys.store,
            coaps_port=port,
            more=("--no-insecure",),
        )

    gateway = start()
    try:
        with _sensors(keys, gateway.coaps, journal, log) as sensors:
            _more(journal, 50, log)
            gateway.process.send_signal(how)
            gateway.process.wait(15)
            gateway = start(gateway.coaps_port)
            _more(journal, 50, log)
            sensors.send_signal(signal.SIGTERM)
            assert sensors.wait(20) == 0
    finally:
        assert gateway.stop() == 0, gateway.said()
    entries = list(read_journal(journal))
    told, answered = recorded(gateway, gateway.topics.observations), recorded(gateway, gateway.topics.replies)
    readings = [(entry.ep, path, value) for entry in entries for path, value in entry.values]
    assert len(set(readings)) == len(readings)
    lost = [one for one in readings if not told[one] and not answered[one]]
    doubled = [one for one in readings if told[one] > 1]
    assert (lost, doubled) == ([], [])
    said = log.read_text("utf-8")
    assert said.count("another DTLS session") >= DEVICES
    # Their observations and registrations went on, too.
    assert "server did not accept" not in said
