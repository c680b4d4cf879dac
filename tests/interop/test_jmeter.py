"""Apache JMeter reads the file of results of `headwater load`: its own report (``jmeter -g``) has the same figures."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gateway.devices.load.jtl import JtlWriter
from gateway.devices.load.jtl_reader import JtlReader
from gateway.devices.load.results import figures
from gateway.devices.load.samples import Sample
from gateway.devices.load.timeline import Timeline
from headwater.servers.kafka_jars import java_binary
from tests.interop.gateway_process import GatewayProcess
from tests.interop.leshan_device import HERE, fetched

pytestmark = [pytest.mark.interop]

SECONDS = 240
START = 1_790_000_000_000


class JMeter:
    """An installation: what its release has in ``bin`` and ``lib``, as far as the report needs it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        jars = {jar.name.rpartition("-")[0]: jar for jar in fetched(HERE / "jmeter_jars.tsv")}
        with zipfile.ZipFile(jars.pop("ApacheJMeter_config")) as settings:
            settings.extractall(home)
        for name in ("lib/ext", "lib/junit"):
            (home / name).mkdir(parents=True)
        # It looks for the rest from where it lies itself.
        shutil.copy(jars.pop("ApacheJMeter"), home / "bin" / "ApacheJMeter.jar")
        (home / "lib" / "ext" / "ApacheJMeter_core.jar").symlink_to(jars.pop("ApacheJMeter_core"))
        for jar in jars.values():
            (home / "lib" / jar.name).symlink_to(jar)

    def report(self, jtl: Path, folder: Path) -> dict[str, dict[str, Any]]:
        """``jmeter -g JTL -o FOLDER``; returns the figures of the page that it made, by label."""
        ended = subprocess.run(
            [
                *(str(java_binary()), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"),
                # A logger that the template engine looks for is half of one in JMeter's own jars.
                *("-Djava.awt.headless=true", "-Dorg.freemarker.loggerLibrary=none"),
                *(f"-Djava.util.prefs.userRoot={self._home}", f"-Djmeter.home={self._home}", "-Dfile.encoding=UTF-8"),
                *("-cp", str(self._home / "bin" / "ApacheJMeter.jar"), "org.apache.jmeter.NewDriver"),
                *("-g", str(jtl), "-o", str(folder), "-j", str(folder.with_suffix(".log"))),
            ],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert (folder / "index.html").is_file(), f"{ended.stdout}\n{ended.stderr}"
        figures = json.loads((folder / "statistics.json").read_text(encoding="utf-8"))
        assert isinstance(figures, dict)
        return figures


@pytest.fixture(scope="module")
def jmeter(tmp_path_factory: pytest.TempPathFactory) -> JMeter:
    return JMeter(tmp_path_factory.mktemp("jmeter"))


def assert_same_figures(theirs: dict[str, dict[str, Any]], jtl: Path) -> None:
    """JMeter's figures by label, and of all, are those that we read out of the same file."""
    timeline = Timeline()
    timeline.add(list(JtlReader(jtl)))
    ours = {label: timeline.total(label) for label in timeline.labels} | {"Total": timeline.total()}
    assert set(theirs) == set(ours)
    for label, cell in ours.items():
        told, found = figures(cell), theirs[label]
        assert (found["sampleCount"], found["errorCount"]) == (told["count"], told["errors"]), label
        assert (found["minResTime"], found["maxResTime"]) == (told["min_ms"], told["max_ms"]), label
        assert found["meanResTime"] == pytest.approx(told["avg_ms"], abs=0.001), label
        assert found["errorPct"] == pytest.approx(told["error_percent"], abs=0.001), label
        # Ours are the nearest rank, theirs lie between two ranks; both in whole milliseconds of the file.
        elapsed = sorted(one.elapsed_us / 1000 for one in JtlReader(jtl) if label in (one.label, "Total"))
        for name, per_cent in (("medianResTime", 50), ("pct1ResTime", 90), ("pct2ResTime", 95), ("pct3ResTime", 99)):
            rank = len(elapsed) * per_cent // 100
            near = elapsed[max(rank - 2, 0) : rank + 2]
            assert near[0] <= found[name] <= near[-1], (label, name)
        if cell.seconds > 0.05:
            assert found["throughput"] == pytest.approx(told["rate"], rel=0.01), label
            assert found["sentKBytesPerSec"] == pytest.approx(told["sent_bytes_per_s"] / 1024, rel=0.01), label
            assert found["receivedKBytesPerSec"] == pytest.approx(told["received_bytes_per_s"] / 1024, rel=0.01), label


def test_counts_times_and_errors_of_whatever_is_written_are_jmeters_too(jmeter: JMeter, tmp_path: Path) -> None:
    labels = ("update", "notify CON", 'a "quoted", label', "two\nlines, ü and €")
    samples = [
        Sample(
            START + 7 * number,
            1000 * (number * number % 991),
            labels[number % 4],
            f"device, no. {number % 9}",
            number % 9 + 1,
            "timeout" if number % 10 == 9 else "2.04",
            number % 10 != 9,
            'no answer to "5" transmissions, at all' if number % 10 == 9 else "",
            40 + number % 3,
            10,
        )
        for number in range(5000)
    ]
    jtl = tmp_path / "ours.jtl"
    with JtlWriter(jtl, url="127.0.0.1:5683") as writer:
        writer.add(samples, 9)
    theirs = jmeter.report(jtl, tmp_path / "page")
    assert (theirs["Total"]["sampleCount"], theirs["Total"]["errorCount"]) == (5000, 500)
    assert_same_figures(theirs, jtl)


@pytest.mark.kafka
def test_the_file_of_a_load_on_a_gateway_is_read_by_jmeter(
    jmeter: JMeter, gateway: GatewayProcess, tmp_path: Path
) -> None:
    jtl = tmp_path / "load.jtl"
    options = ("--threads", "10", "--loops", "50", "--delay", "5", "--endpoint", f"jmeter-{secrets.token_hex(4)}")
    words = [sys.executable, "-m", "headwater.cli", "load", "notify", "--server", gateway.coap, *options]
    ended = subprocess.run(
        [*words, "--jtl", str(jtl), "-o", "json"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("HEADWATER_")},
    )
    assert ended.returncode == 0, ended.stderr
    theirs = jmeter.report(jtl, tmp_path / "page")
    # What it told at its end, and what JMeter makes of its file.
    told = json.loads(ended.stdout)["labels"]
    assert {label: (one["count"], one["errors"]) for label, one in told.items()} == {
        label: (one["sampleCount"], one["errorCount"]) for label, one in theirs.items() if label != "Total"
    }
    assert theirs["notify CON"]["sampleCount"] == 500
    assert_same_figures(theirs, jtl)
