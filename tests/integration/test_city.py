"""The sensor city, as people run it: every part a process on real servers, what it found, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.devices.metrics import CITY, METRICS
from headwater.city.rules import THRESHOLD
from headwater.demo.journal import read_journal, read_outliers
from tests.cassandra_server import CassandraServer, new_server
from tests.demo_processes import processes_of, wait_until
from tests.ports import held_port
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

#: No login: a demo's flags have none.
OPEN: dict[str, Any] = {
    "authenticator": {"class_name": "AllowAllAuthenticator"},
    "authorizer": {"class_name": "AllowAllAuthorizer"},
}
RIVER = METRICS["water_level"]


def command(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "headwater.cli", "demo", "city", "--dir", str(directory), *arguments]


def told(line: str) -> str:
    """What a command prints that was pasted into a shell."""
    return subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A folder for one city; what a failed test leaves there is ended."""
    folder = tmp_path / "city-of-this-test"
    yield folder
    for pid in processes_of(folder):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def cassandra(tmp_path: Path) -> Iterator[CassandraServer]:
    server = new_server(tmp_path / "cassandra", **OPEN)
    yield server
    server.remove()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(directory=tmp_path / "redis", port=held_port())
    server.start()
    yield server
    server.remove()


def by_series(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The readings of each endpoint and path, in their order."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["time"], row["kafka_offset"])):
        found.setdefault((row["ep"], row["path"]), []).append(row)
    return found


def test_city_finds_every_outlier_and_cassandra_and_redis_agree(
    directory: Path, cassandra: CassandraServer, redis: RedisServer
) -> None:
    arguments = ["--stations", "2", "--period", "0.25", "--outliers", "0.04", "--seed", "7", "--wan-cut", "3"]
    stores = ["--cassandra", cassandra.contact_point, "--redis", f"127.0.0.1:{redis.port}"]
    done = subprocess.run(
        command(directory, *arguments, *stores, "--for", "16", "--add-after", "4", "--output", "json"),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert processes_of(directory) == {}
    assert "WAN CUT" in done.stderr

    # Nothing is lost or doubled on the way, and each reading is judged and stored once.
    journal = [
        (one.ep, path, value) for one in read_journal(directory / "acknowledged.jsonl") for path, value in one.values
    ]
    rows = cassandra.cql(
        "SELECT gateway, ep, path, time, kafka_offset, value, mean, std_dev, z_score, outlier FROM city.readings"
    )
    assert (summary["ok"], summary["lost"], summary["doubled"]) == (True, 0, 0)
    assert journal
    stored = Counter((row["ep"], row["path"], row["value"]) for row in rows)
    assert not Counter(journal) - stored
    # One more a station at most: the one whose acknowledgement was on its way when the stations were ended.
    assert max(Counter(ep for ep, _, _ in (stored - Counter(journal)).elements()).values(), default=0) <= 1
    series = by_series(rows)

    # Every outlier that was made and told is flagged, and whatever is flagged is beyond the threshold.
    distributions = {str(metric.path): metric.distribution for metric in METRICS.values()}
    made = {(one.ep, str(one.path), one.value) for one in read_outliers(directory / "outliers.jsonl")} & set(journal)
    flagged = {(row["ep"], row["path"], row["value"]) for row in rows if row["outlier"]}
    assert made
    assert made <= flagged
    for row in rows:
        told = distributions[row["path"]]
        assert (row["mean"], row["std_dev"]) == (told.mean, told.sigma)
        assert row["z_score"] == pytest.approx((row["value"] - told.mean) / told.sigma)
        assert row["outlier"] is (abs(row["z_score"]) > THRESHOLD)
    assert (summary["outliers_found"], summary["outliers_missed"]) == (len(made), 0)

    # An alert for each time that a series goes beyond.
    raised = sum(
        now["outlier"] and not before["outlier"]
        for one in series.values()
        for before, now in zip([{"outlier": False}, *one], one, strict=False)
    )
    assert summary["alerts_raised"] == raised > 0

    # The running statistics are those of two passes over what is stored.
    client = redis.client()
    for (ep, path), one in series.items():
        result = json.loads(client.hget(f"hw:{{demo}}:statistics:{ep}", path))
        values = [row["value"] for row in one]
        assert result["stream_length"] == len(values)
        assert result["mean"] == pytest.approx(statistics.fmean(values), rel=1e-12)
        assert result["variance"] == pytest.approx(statistics.pvariance(values), rel=1e-9)
        assert result["std_dev"] == pytest.approx(statistics.pstdev(values), rel=1e-9)

    # A new kind of sensor came by itself, on every station.
    assert {path for ep, path in series if ep == "station-1"} == {str(metric.path) for metric in METRICS.values()}
    assert ("station-2", str(RIVER.path)) in series
    assert summary["kinds"] == len(METRICS) == len(CITY) + 1


def test_stores_of_a_city_can_be_looked_into_and_a_killed_one_leaves_no_kafka_cassandra_or_redis(
    directory: Path,
) -> None:
    with subprocess.Popen(
        command(directory, "--stations", "1"), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as city:
        try:
            assert city.stdout is not None
            printed = []
            for line in city.stdout:
                printed.append(line.strip())
                if "acknowledged" in line:
                    break
            # What it prints for another terminal shows what is in the stores.
            (query,) = (line for line in printed if "SELECT" in line)
            (look,) = (line for line in printed if "statistics:station" in line)
            wait_until(lambda: "station" in told(query), 60)
            wait_until(lambda: "stream_length" in told(look), 60)
            running = " ".join(word for line in processes_of(directory).values() for word in line)
            assert "redis-server" in running
            assert "CassandraDaemon" in running
        finally:
            city.kill()
    wait_until(lambda: processes_of(directory) == {}, 30)


def test_city_without_stores_that_is_told_to_stop_stops_everything(directory: Path) -> None:
    arguments = ["--stations", "1", "--without", "cassandra", "--without", "redis"]
    with subprocess.Popen(
        command(directory, *arguments), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as city:
        assert city.stdout is not None
        for line in city.stdout:
            if "acknowledged" in line:
                break
        city.send_signal(signal.SIGTERM)
        assert city.wait(60) == 0
        assert "nothing is left running" in city.stdout.read()
    assert processes_of(directory) == {}
