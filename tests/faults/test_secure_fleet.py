"""A fleet over DTLS: over a bad line, and with a gateway that is ended and comes back."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from gateway.devices.keys import listed_keys
from gateway.devices.sensor import Tally, run_sensors
from headwater.demo.journal import read_journal
from headwater.demo.keys import Keys, make_keys
from tests.faults.chaos import start
from tests.faults.test_gateway_behind_chaos import BAD_LINE, Kept, recorded
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


def _audit(gateway: GatewayProcess, readings: list[tuple[str, str, object]]) -> None:
    """Each acknowledged reading is there once. (One may be the answer to the observe request, which is a reply.)"""
    told, answered = recorded(gateway, gateway.topics.observations), recorded(gateway, gateway.topics.replies)
    assert len(set(readings)) == len(readings)
    lost = [one for one in readings if not told[one] and not answered[one]]
    doubled = [one for one in readings if told[one] > 1]
    assert (lost, doubled) == ([], [])


def test_what_is_acknowledged_over_a_bad_line_is_recorded_once(kafka: Cluster, tmp_path: Path) -> None:
    endpoints = [f"s-{number}" for number in range(1, DEVICES + 1)]
    keys = make_keys(tmp_path, endpoints)

    async def scenario(gateway: GatewayProcess) -> Tally:
        proxy = await start(("127.0.0.1", gateway.coaps_port), seed=1, up=BAD_LINE, down=BAD_LINE)
        host, port = proxy.address
        stop, kept = asyncio.Event(), Kept(200)
        tally = Tally(keep=True, kept=kept)
        sensors = asyncio.create_task(
            run_sensors(
                f"{host}:{port}",
                "s",
                stop=stop,
                count=DEVICES,
                period=0.2,
                ack_timeout=0.3,
                tally=tally,
                seed=1,
                keys=listed_keys(keys.list, endpoints, datetime.now(UTC)),
            )
        )
        await asyncio.wait_for(kept.enough.wait(), 90)
        proxy.mend()
        stop.set()
        await asyncio.wait_for(sensors, 40)
        proxy.stop()
        return tally

    gateway = start_gateway(
        kafka,
        f"fleet-{secrets.token_hex(4)}",
        tmp_path,
        observe=("/3303/*/5700",),
        credentials=keys.store,
        more=("--no-insecure",),
    )
    try:
        tally = asyncio.run(scenario(gateway))
    finally:
        assert gateway.stop() == 0, gateway.said()
    _audit(gateway, [(one.endpoint, str(one.path), one.resources[0].value) for one in tally.kept])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_fleet_goes_on_by_itself_after_its_gateway_was_ended(
    kafka: Cluster, tmp_path: Path, how: signal.Signals
) -> None:
    keys = make_keys(tmp_path, [f"s-{number}" for number in range(1, DEVICES + 1)])
    gateway_id = f"fleet-{secrets.token_hex(4)}"
    journal, log = tmp_path / "journal", tmp_path / "sensors.log"

    def gateway_at(port: int | None = None) -> GatewayProcess:
        return start_gateway(
            kafka,
            gateway_id,
            tmp_path,
            observe=("/3303/*/5700",),
            credentials=keys.store,
            coaps_port=port,
            more=("--no-insecure",),
        )

    gateway = gateway_at()
    try:
        with _sensors(keys, gateway.coaps, journal, log) as sensors:
            _more(journal, 50, log)
            gateway.process.send_signal(how)
            gateway.process.wait(15)
            gateway = gateway_at(gateway.coaps_port)
            _more(journal, 50, log)
            sensors.send_signal(signal.SIGTERM)
            assert sensors.wait(20) == 0
    finally:
        assert gateway.stop() == 0, gateway.said()
    entries = list(read_journal(journal))
    _audit(gateway, [(entry.ep, path, value) for entry in entries for path, value in entry.values])
    said = log.read_text("utf-8")
    assert said.count("another DTLS session") >= DEVICES
    # Their observations and registrations went on, too.
    assert "server did not accept" not in said
