"""The expiry of certificates as a metric: of what is on the disk at each scrape, and of what was loaded."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from security.authority import NOW, Authority, Step
from security.expiry import NAME, watch_expiry
from security.identities import Identity
from tests.ports import held_port

GATEWAY = Identity.parse("gateway:rock64")
#: To be waited for at most; a busy machine starts slowly.
WAIT_S = 90.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    made.create()
    return made


def shown(registry: CollectorRegistry | str) -> dict[tuple[str, str, str], float]:
    """The metric by identity, file name and source."""
    text = registry if isinstance(registry, str) else generate_latest(registry).decode()
    return {
        (one.labels["identity"], Path(one.labels["file"]).name, one.labels["source"]): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == NAME
    }


def unreadable(registry: CollectorRegistry) -> dict[str, float]:
    text = generate_latest(registry).decode()
    return {
        one.labels["file"]: one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == "headwater_certificate_unreadable"
    }


def test_a_renewal_shows_at_the_next_scrape_and_what_was_loaded_stays(authority: Authority) -> None:
    made = authority.ensure(GATEWAY, days=10)
    registry = CollectorRegistry()
    watch_expiry(registry, [made.folder])
    before = made.not_after.timestamp()
    assert shown(registry)["gateway:rock64", "cert.pem", "disk"] == before
    renewed = authority.renew(GATEWAY, within=NOW, days=100)
    assert renewed.not_after - made.not_after >= timedelta(days=89)
    found = shown(registry)
    assert found["gateway:rock64", "cert.pem", "disk"] == renewed.not_after.timestamp()
    assert found["gateway:rock64", "cert.pem", "loaded"] == before


def test_each_authority_of_a_rotation_is_shown(authority: Authority) -> None:
    folder = authority.ensure(GATEWAY).folder
    authority.rotate(Step.BEGIN)
    registry = CollectorRegistry()
    watch_expiry(registry, [folder, None, folder])
    names = {identity for identity, file, _ in shown(registry) if file == "ca.pem"}
    assert len(names) == 2
    assert all(name.startswith("Headwater authority") for name in names)


def test_what_cannot_be_read_is_told_and_breaks_no_scrape(authority: Authority, tmp_path: Path) -> None:
    folder = authority.ensure(GATEWAY).folder
    registry = CollectorRegistry()
    watch_expiry(registry, [folder, tmp_path / "nowhere"])
    assert unreadable(registry) == {
        str(folder / "cert.pem"): 0,
        str(folder / "ca.pem"): 0,
        str(tmp_path / "nowhere" / "cert.pem"): 1,
        str(tmp_path / "nowhere" / "ca.pem"): 1,
    }
    (folder / "cert.pem").unlink()
    (folder / "cert.pem").write_text("rubbish")
    assert unreadable(registry)[str(folder / "cert.pem")] == 1
    assert ("gateway:rock64", "cert.pem", "loaded") in shown(registry)


def test_other_files_are_shown_beside_the_folders(authority: Authority, tmp_path: Path) -> None:
    made = authority.ensure(GATEWAY, days=10)
    own = tmp_path / "coaps.pem"
    own.write_bytes((authority.ensure(Identity.parse("gateway:pine"), days=20).folder / "cert.pem").read_bytes())
    registry = CollectorRegistry()
    watch_expiry(registry, [made.folder], [own, None, tmp_path / "later.pem"])
    assert ("gateway:rock64", "cert.pem", "disk") in shown(registry)
    assert shown(registry)["gateway:pine", "coaps.pem", "disk"] > made.not_after.timestamp()
    assert unreadable(registry)[str(tmp_path / "later.pem")] == 1


def test_a_process_without_tls_shows_nothing() -> None:
    registry = CollectorRegistry()
    watch_expiry(registry, [None, None])
    assert generate_latest(registry) == b""


def test_no_key_is_told(authority: Authority) -> None:
    folder = authority.ensure(GATEWAY).folder
    registry = CollectorRegistry()
    watch_expiry(registry, [folder])
    key = "".join((folder / "key.pem").read_text().splitlines()[1:-1])
    assert key[20:40] not in generate_latest(registry).decode()


NOBODY = "127.0.0.1:1"
PROCESSES = {
    "gateway:rock64": ["gateway", "--id", "rock64", "--kafka", NOBODY, "--coap", "127.0.0.1:0", "--kafka-tls"],
    "replicator:rock64": ["replicate", "--gateway", "rock64", "--edge", NOBODY, "--cloud", "127.0.0.1:2", "--edge-tls"],
    "sink:_all": ["sink", "sqlite", "--gateway", "rock64", "--kafka", NOBODY, "--file", "x.db", "--kafka-tls"],
}


@pytest.mark.parametrize("identity", PROCESSES)
def test_every_process_tells_of_its_own(authority: Authority, tmp_path: Path, identity: str) -> None:
    made = authority.ensure(Identity.parse(identity))
    port = held_port()
    arguments = [*PROCESSES[identity], str(made.folder), "--metrics", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "headwater.cli", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        text = scraped(process, port)
    finally:
        process.kill()
        process.communicate()
    assert shown(text)[identity, "cert.pem", "disk"] == made.not_after.timestamp()
    assert shown(text)[identity, "cert.pem", "loaded"] == made.not_after.timestamp()


def scraped(process: subprocess.Popen[str], port: int) -> str:
    """The metrics, as soon as they are served."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()[1]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError("no metrics are served")
