"""`headwater station` as people run it, against a plain aiocoap context as its server."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.devices.metrics import CITY, METRICS
from gateway.devices.station import Made
from headwater.cli import app
from headwater.commands.stations import seconds_between
from headwater.demo.journal import OutlierJournal, read_journal, read_outliers
from headwater.exits import Exit
from schemas.lwm2m.path import Path as Lwm2mPath
from tests.gateway.devices.lwm2m_server import Server, serve


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["station", "--endpoint", "s", *arguments])


@asynccontextmanager
async def station(server: Server, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that runs stations; SIGTERM is to end it with 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headwater.cli", "station", "--server", f"127.0.0.1:{server.port}", *arguments)
    )
    try:
        yield process
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_station_gets_the_next_sensor_at_each_signal_and_notes_the_outliers_that_it_made(tmp_path: Path) -> None:
    made, journal = tmp_path / "made.jsonl", tmp_path / "acknowledged.jsonl"

    async def scenario() -> None:
        arguments = ["--endpoint", "s", "--period", "0.02", "--outliers", "0.5", "--seed", "1", "--metric", "noise"]
        files = ["--made", str(made), "--journal", str(journal)]
        async with (
            serve() as server,
            station(server, *arguments, "--add", "rainfall", "--add", "water_level", *files) as s,
        ):
            first = await server.directory.next()
            assert "</3324/0>" in first.payload
            assert "</3303" not in first.payload
            observing = server.observe(first.port, "/3324/0/5700")
            await observing.first()
            for _ in range(20):
                await observing.next()
            s.send_signal(signal.SIGUSR1)
            second = await server.directory.next()
            assert "</3346/1>" in second.payload
            assert "</3319" not in second.payload
            s.send_signal(signal.SIGUSR1)
            assert "</3319/0>" in (await server.directory.next()).payload

    asyncio.run(scenario())
    noise = CITY["noise"].distribution
    outliers = {one.value for one in read_outliers(made) if str(one.path) == "/3324/0/5700"}
    told = {value for entry in read_journal(journal) for _, value in entry.values}
    assert outliers & told == {value for value in told if abs(value - noise.mean) >= 6 * noise.sigma - 1e-6}
    assert outliers & told
    assert told - outliers


def test_sensors_of_add_come_after_the_seconds_given() -> None:
    async def scenario() -> None:
        arguments = ["--endpoint", "s", "--metric", "noise", "--add", "water_level", "--after", "0.1"]
        async with serve() as server, station(server, *arguments):
            async with asyncio.timeout(20):
                while "</3319/0>" not in (await server.directory.next()).payload:
                    pass

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "charm"], "no metric 'charm': choose of temperature"),
        (["--add", "charm"], "no metric 'charm'"),
        (["--after", "5"], "--add"),
        (["--add", "noise"], "has that sensor from the beginning"),
        (["--outliers", "1.5"], "less than or equal to 1"),
        (["--server", "here"], "HOST:PORT"),
    ],
)
def test_wrong_use_of_station_is_said_in_words(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == Exit.USAGE
    assert words in result.output


@pytest.mark.parametrize(
    ("period", "metrics", "chosen", "seconds"),
    [(None, 9, False, 1.0), (None, 1, True, 10.0), (None, 2, True, 1.0), (0.5, 1, True, 0.5), (7.0, 9, False, 7.0)],
)
def test_a_single_chosen_sensor_is_read_every_ten_seconds_and_a_station_every_second(
    period: float | None, metrics: int, chosen: bool, seconds: float
) -> None:
    assert seconds_between(period, metrics, chosen=chosen) == seconds


def test_help_names_every_metric() -> None:
    told = " ".join(run("--help").output.split())
    assert all(name in told for name in METRICS)


def test_outliers_that_were_noted_are_read_back_without_a_line_that_a_kill_cut(tmp_path: Path) -> None:
    file = tmp_path / "made.jsonl"
    assert list(read_outliers(file)) == []
    journal = OutlierJournal(file)
    one = Made(ep='s"1', path=Lwm2mPath(3303, 0, 5700), value=37.25, timestamp=1_700_000_000_123)
    journal.made(one)
    journal.close()
    with file.open("ab") as out:
        out.write(json.dumps({"ep": "s"}).encode()[:5])
    assert list(read_outliers(file)) == [one]
