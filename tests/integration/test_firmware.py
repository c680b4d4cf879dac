"""New images for devices, from the command line through Kafka and the gateway to virtual devices and back."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloud.campaigns.log import read
from cloud.campaigns.machine import Phase
from cloud.campaigns.plan import Standing, overview
from connectors.kafka import Cluster
from headwater.cli import app
from headwater.demo.audit import read_side
from schemas.avro.records import Request, RequestKind
from tests.secure_device import new_store
from tests.way import Gateway, Part, Sensors, until

pytestmark = [pytest.mark.kafka]

#: Several devices one after the other, on a machine that has other things to do, in seconds.
LONG = 300.0


def image(folder: Path, version: str, size: int = 150_000, seed: int = 1, word: str = "") -> Path:
    path = folder / f"sensor-{version}{word}.bin"
    path.write_bytes(f"headwater {version} {word}\n".encode() + random.Random(seed).randbytes(size))
    return path


@pytest.fixture
def gateway(kafka: Cluster, gateway_id: str, tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(gateway_id, kafka, tmp_path) as one:
        one.wait_ready()
        yield one


@pytest.fixture
def devices(gateway: Gateway, tmp_path: Path) -> Iterator[Sensors]:
    with fleet(gateway, tmp_path, 4) as sensors:
        until("the registrations", lambda: gateway.metric("devices") == 4)
        yield sensors


def fleet(gateway: Gateway, folder: Path, count: int) -> Sensors:
    return Sensors(gateway.address, folder, "--images", str(folder / "images"), "--count", str(count), endpoint="lamp")


def run(gateway: Gateway, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap])


def worker(gateway: Gateway, folder: Path) -> Part:
    where = ("--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap)
    return Part("worker", folder, "campaign", "run", *where)


def version_of(gateway: Gateway, ep: str) -> str:
    result = run(gateway, "read", ep, "/3/0/3", "--output", "json")
    assert result.exit_code == 0, result.output
    return str(json.loads(result.output)["values"][0]["value"])


def executions(gateway: Gateway) -> list[str]:
    """The endpoints of which an execute is in the requests topic, each as often as it is."""
    found = [one.record for one in read_side(gateway.cluster, [gateway.topics.requests])]
    return sorted(one.ep for one in found if isinstance(one, Request) and one.payload.kind is RequestKind.EXECUTE)


def phases(gateway: Gateway, name: str) -> dict[str, Phase]:
    return {ep: one.phase for ep, one in read(gateway.cluster, gateway.id).campaigns[name].devices.items()}


def standing(gateway: Gateway, name: str) -> Standing:
    one = read(gateway.cluster, gateway.id).campaigns[name]
    return overview(one.plan, one.control, one.devices).standing


@pytest.mark.parametrize("method", ["pull", "push"])
def test_a_device_is_updated_and_each_step_is_told(
    gateway: Gateway, devices: Sensors, tmp_path: Path, method: str
) -> None:
    result = run(gateway, "firmware", method, "lamp-1", str(image(tmp_path, "2.1.0")))
    assert result.exit_code == 0, result.output
    assert "is updated; its firmware version is 2.1.0" in result.output
    assert "has the image" in result.output
    assert version_of(gateway, "lamp-1") == "2.1.0"
    assert version_of(gateway, "lamp-2") == "1.0.0"
    assert executions(gateway) == ["lamp-1"]


@pytest.mark.parametrize("method", ["pull", "push"])
def test_a_device_with_a_key_is_updated_over_dtls(kafka: Cluster, gateway_id: str, tmp_path: Path, method: str) -> None:
    keys = new_store(tmp_path / "credentials.db", {"lamp": b"sixteen byte key"})
    key = tmp_path / "lamp.key"
    key.write_text(b"sixteen byte key".hex())
    key.chmod(0o600)
    with Gateway(gateway_id, kafka, tmp_path, "--no-insecure", credentials=keys) as gateway:
        gateway.wait_ready()
        words = ("--images", str(tmp_path / "images"), "--psk-file", str(key))
        with Sensors(gateway.secure_address, tmp_path, *words, endpoint="lamp"):
            until("the registration", lambda: gateway.metric("devices") == 1)
            result = run(gateway, "firmware", method, "lamp", str(image(tmp_path, "2.7.0")))
            assert result.exit_code == 0, result.output
            assert version_of(gateway, "lamp") == "2.7.0"


@pytest.mark.parametrize(
    ("word", "said"),
    [("damaged", "its integrity check failed (result 5)"), ("faulty", "the update itself failed (result 8)")],
)
def test_a_device_that_cannot_use_it_says_why(
    gateway: Gateway, devices: Sensors, tmp_path: Path, word: str, said: str
) -> None:
    result = run(gateway, "firmware", "pull", "lamp-1", str(image(tmp_path, "3.0.0", word=word)))
    assert result.exit_code == 1
    assert said in result.output


def test_software_is_installed_and_activated(gateway: Gateway, devices: Sensors, tmp_path: Path) -> None:
    for method, ep in (("pull", "lamp-1"), ("push", "lamp-2")):
        result = run(gateway, "firmware", method, ep, str(image(tmp_path, "1.5")), "--object", "9")
        assert result.exit_code == 0, result.output
        assert "is updated and activated" in result.output
        shown = run(gateway, "read", ep, "/9/0/12", "--output", "json")
        assert json.loads(shown.output)["values"][0]["value"] is True
    damaged = run(gateway, "firmware", "pull", "lamp-3", str(image(tmp_path, "1.6", word="damaged")), "--object", "9")
    assert damaged.exit_code == 1
    assert "(result 53)" in damaged.output


def create(gateway: Gateway, file: Path, *more: str, name: str = "spring") -> None:
    result = run(gateway, "campaign", "create", name, str(file), *more)
    assert result.exit_code == 0, result.output


def test_a_campaign_goes_by_stages_and_says_of_each_device_where_it_stands(
    gateway: Gateway, devices: Sensors, tmp_path: Path
) -> None:
    create(gateway, image(tmp_path, "2.2.0"), "--pattern", "lamp-*", "--stages", "1,50%,100%")
    with worker(gateway, tmp_path):
        until("the end", lambda: standing(gateway, "spring") is Standing.DONE, LONG)
    shown = json.loads(run(gateway, "campaign", "status", "spring", "--output", "json").output)
    assert (shown["updated"], shown["failed"], shown["stages"]) == (4, 0, [1, 2, 4])
    for one in shown["devices"]:
        assert one["phase"] == "updated"
        assert one["words"] == "is updated; its firmware version is 2.2.0"
    began = {one["ep"]: one["trace"][0]["at"] for one in shown["devices"]}
    ended = {one["ep"]: one["trace"][-1]["at"] for one in shown["devices"]}
    assert ended["lamp-1"] <= began["lamp-2"]
    assert ended["lamp-2"] <= min(began["lamp-3"], began["lamp-4"])
    assert executions(gateway) == ["lamp-1", "lamp-2", "lamp-3", "lamp-4"]
    listed = run(gateway, "campaign", "status").output
    assert "spring" in listed


def test_too_many_failures_stop_it_until_it_is_resumed(gateway: Gateway, devices: Sensors, tmp_path: Path) -> None:
    create(gateway, image(tmp_path, "3.0.0", word="faulty"), "--pattern", "lamp-*", "--stages", "1,2,100%")
    with worker(gateway, tmp_path):
        until("that it stops", lambda: standing(gateway, "spring") is Standing.STOPPED, LONG)
        # One failed, of one: the others have not begun and do not.
        assert phases(gateway, "spring") == {"lamp-1": Phase.FAILED}
        assert "more than 10%" in run(gateway, "campaign", "status", "spring").output
        assert run(gateway, "campaign", "resume", "spring").exit_code == 0
        until("the next failure", lambda: len(phases(gateway, "spring")) == 2)
        until("that it stops", lambda: standing(gateway, "spring") is Standing.STOPPED, LONG)
        assert sorted(phases(gateway, "spring")) == ["lamp-1", "lamp-2"]
        assert run(gateway, "campaign", "abort", "spring").exit_code == 0
        assert standing(gateway, "spring") is Standing.ABORTED
        assert run(gateway, "campaign", "resume", "spring").exit_code == 1


def test_what_pauses_is_downloaded_and_not_installed(gateway: Gateway, devices: Sensors, tmp_path: Path) -> None:
    # So large that the pause comes before anybody has it all.
    create(gateway, image(tmp_path, "2.3.0", size=6_000_000), "--pattern", "lamp-*", "--stages", "2,100%")
    with worker(gateway, tmp_path):
        until("a beginning", lambda: bool(phases(gateway, "spring")))
        assert run(gateway, "campaign", "pause", "spring").exit_code == 0
        until(
            "that both have it",
            lambda: (
                [one.words for one in read(gateway.cluster, gateway.id).campaigns["spring"].devices.values()]
                == ["has the image and waits: the campaign pauses"] * 2
            ),
            LONG,
        )
        assert executions(gateway) == []
        assert run(gateway, "campaign", "resume", "spring").exit_code == 0
        until("the end", lambda: standing(gateway, "spring") is Standing.DONE, LONG)
    assert executions(gateway) == ["lamp-1", "lamp-2", "lamp-3", "lamp-4"]


@pytest.mark.parametrize("method", ["pull", "push"])
def test_kills_of_worker_and_gateway_and_restarts_of_devices_change_nothing(
    gateway: Gateway, tmp_path: Path, method: str
) -> None:
    """Each of the three is killed again and again while four devices take an image; each installs it once."""
    create(
        gateway, image(tmp_path, "2.4.0", size=300_000), *("--method", method, "--stages", "1,100%"),
        *(word for number in range(1, 5) for word in ("--endpoint", f"lamp-{number}")),
    )  # fmt: skip
    chance = random.Random(17)
    with fleet(gateway, tmp_path, 4) as sensors, worker(gateway, tmp_path) as campaigns:
        until("a beginning", lambda: bool(phases(gateway, "spring")))
        for part in (campaigns, gateway, sensors, campaigns, gateway, campaigns):
            time.sleep(chance.uniform(0.3, 2.0))
            if standing(gateway, "spring") is Standing.DONE:
                break
            part.kill()
            part.start()
        gateway.wait_ready()
        until("the end", lambda: standing(gateway, "spring") is Standing.DONE, LONG)
        said = run(gateway, "campaign", "status", "spring", "--output", "json").output
        assert phases(gateway, "spring") == {f"lamp-{number}": Phase.UPDATED for number in range(1, 5)}, said
        for number in range(1, 5):
            assert version_of(gateway, f"lamp-{number}") == "2.4.0"
    assert executions(gateway) == ["lamp-1", "lamp-2", "lamp-3", "lamp-4"]


def test_a_second_worker_takes_over(gateway: Gateway, devices: Sensors, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    create(gateway, image(tmp_path, "2.5.0"), "--pattern", "lamp-*", "--stages", "100%")
    with worker(gateway, tmp_path) as one, worker(gateway, tmp_path / "other") as other:
        until("the end", lambda: standing(gateway, "spring") is Standing.DONE, LONG)
        create(gateway, image(tmp_path, "2.6.0"), "--endpoint", "lamp-1", name="summer")
        until("the end of the other", lambda: standing(gateway, "summer") is Standing.DONE, LONG)
        # Which of them was the later one is for the machine to say.
        until("that one of them ended", lambda: one.runs != other.runs)
    assert executions(gateway) == ["lamp-1", "lamp-1", "lamp-2", "lamp-3", "lamp-4"]
