"""New images for devices, from the command line through Kafka and the gateway to virtual devices and back."""

from __future__ import annotations

import json
import random
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloud.campaigns.log import read
from cloud.campaigns.machine import Device, Phase
from cloud.campaigns.plan import Standing, overview
from connectors.kafka import Cluster
from headwater.cli import app
from headwater.demo.audit import read_side
from schemas.avro.records import Request, RequestKind
from tests.secure_device import new_store
from tests.way import Gateway, Part, Sensors, until

pytestmark = [pytest.mark.kafka]

KEY = b"sixteen byte key"
#: Several devices one after the other, on a machine that has other things to do, in seconds.
LONG = 300.0


def image(folder: Path, version: str, size: int = 100_000, seed: int = 1, word: str = "") -> Path:
    path = folder / f"sensor-{version}{word}.bin"
    path.write_bytes(f"headwater {version} {word}\n".encode() + random.Random(seed).randbytes(size))
    return path


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all tests that kill none; each has devices of its own there."""
    folder = tmp_path_factory.mktemp("site")
    keys = new_store(folder / "credentials.db", {"vault": KEY})
    with Gateway(f"site-{secrets.token_hex(4)}", kafka, folder, credentials=keys) as one:
        one.wait_ready()
        yield one


@pytest.fixture(scope="module")
def devices(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sensors]:
    """lamp-1 and on."""
    with fleet(gateway, tmp_path_factory.mktemp("devices"), 20) as sensors:
        until("the registrations", lambda: gateway.metric("devices") == 20)
        yield sensors


@pytest.fixture(scope="module")
def works(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Part]:
    """Somebody who carries campaigns out."""
    with worker(gateway, tmp_path_factory.mktemp("worker")) as one:
        yield one


def fleet(gateway: Gateway, folder: Path, count: int) -> Sensors:
    return Sensors(
        gateway.address,
        folder,
        *("--images", str(folder / "images"), "--count", str(count), "--period", "5"),
        endpoint="lamp",
    )


def lamps(*numbers: int) -> list[str]:
    return [f"lamp-{number}" for number in numbers]


def run(gateway: Gateway, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap])


def worker(gateway: Gateway, folder: Path) -> Part:
    where = ("--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap)
    return Part("worker", folder, "campaign", "run", *where)


def version_of(gateway: Gateway, ep: str) -> str:
    result = run(gateway, "read", ep, "/3/0/3", "--output", "json")
    assert result.exit_code == 0, result.output
    return str(json.loads(result.output)["values"][0]["value"])


def executions(gateway: Gateway, endpoints: list[str]) -> list[str]:
    """Those of the endpoints of which an execute is in the requests topic, each as often as it is."""
    found = [one.record for one in read_side(gateway.cluster, [gateway.topics.requests])]
    return sorted(
        one.ep
        for one in found
        if isinstance(one, Request) and one.payload.kind is RequestKind.EXECUTE and one.ep in endpoints
    )


def phases(gateway: Gateway, name: str) -> dict[str, Phase]:
    return {ep: one.phase for ep, one in read(gateway.cluster, gateway.id).campaigns[name].devices.items()}


def of_campaigns(gateway: Gateway, *names: str) -> list[Device]:
    """All devices with which these have begun."""
    campaigns = read(gateway.cluster, gateway.id).campaigns
    return [device for name in names for device in campaigns[name].devices.values()]


def standing(gateway: Gateway, name: str) -> Standing:
    one = read(gateway.cluster, gateway.id).campaigns[name]
    return overview(one.plan, one.control, one.devices).standing


def create(gateway: Gateway, name: str, file: Path, endpoints: list[str], *more: str) -> None:
    those = [word for ep in endpoints for word in ("--endpoint", ep)]
    result = run(gateway, "campaign", "create", name, str(file), *those, *more)
    assert result.exit_code == 0, result.output


def shown(gateway: Gateway, name: str) -> Any:
    return json.loads(run(gateway, "campaign", "status", name, "--output", "json").output)


@pytest.mark.parametrize(("method", "number"), [("pull", 1), ("push", 2)])
def test_a_device_is_updated_and_each_step_is_told(
    gateway: Gateway, devices: Sensors, tmp_path: Path, method: str, number: int
) -> None:
    (ep,) = lamps(number)
    result = run(gateway, "firmware", method, ep, str(image(tmp_path, "2.1.0")))
    assert result.exit_code == 0, result.output
    assert "is updated; its firmware version is 2.1.0" in result.output
    assert "has the image" in result.output
    assert version_of(gateway, ep) == "2.1.0"
    assert version_of(gateway, "lamp-20") == "1.0.0"
    assert executions(gateway, [ep]) == [ep]


def test_a_device_with_a_key_is_updated_over_dtls_both_ways(gateway: Gateway, tmp_path: Path) -> None:
    key = tmp_path / "vault.key"
    key.write_text(KEY.hex())
    key.chmod(0o600)
    words = ("--images", str(tmp_path / "images"), "--psk-file", str(key))
    with Sensors(gateway.secure_address, tmp_path, *words, endpoint="vault"):
        until("the registration", lambda: bool(gateway.registrations("vault")))
        for method, version in (("pull", "2.7.0"), ("push", "2.8.0")):
            result = run(gateway, "firmware", method, "vault", str(image(tmp_path, version)))
            assert result.exit_code == 0, result.output
            assert version_of(gateway, "vault") == version


def test_a_device_that_cannot_use_it_says_why(gateway: Gateway, devices: Sensors, tmp_path: Path) -> None:
    result = run(gateway, "firmware", "pull", "lamp-3", str(image(tmp_path, "3.0.0", word="damaged")))
    assert result.exit_code == 1
    assert "its integrity check failed (result 5)" in result.output


def test_software_is_installed_and_activated(gateway: Gateway, devices: Sensors, works: Part, tmp_path: Path) -> None:
    good, bad = image(tmp_path, "1.5"), image(tmp_path, "1.6", word="damaged")
    for name, file, those, method in (
        ("taken", good, lamps(4), "pull"), ("sent", good, lamps(5), "push"), ("bad-app", bad, lamps(6), "pull"),
    ):  # fmt: skip
        create(gateway, name, file, those, "--object", "9", "--method", method)
    names = ("taken", "sent", "bad-app")
    until("the end", lambda: [one.phase.ended for one in of_campaigns(gateway, *names)] == [True] * 3, LONG)
    words = [one.words for one in of_campaigns(gateway, *names)]
    assert words[:2] == ["is updated and activated"] * 2
    assert "(result 53)" in words[2]
    for ep in lamps(4, 5):
        active = run(gateway, "read", ep, "/9/0/12", "--output", "json")
        assert json.loads(active.output)["values"][0]["value"] is True


def test_a_campaign_goes_by_stages_and_says_of_each_device_where_it_stands(
    gateway: Gateway, devices: Sensors, works: Part, tmp_path: Path
) -> None:
    first, second, third, fourth = those = lamps(7, 8, 9, 10)
    create(gateway, "spring", image(tmp_path, "2.2.0"), those, "--stages", "1,50%,100%")
    until("the end", lambda: standing(gateway, "spring") is Standing.DONE, LONG)
    told = shown(gateway, "spring")
    assert (told["updated"], told["failed"], told["stages"]) == (4, 0, [1, 2, 4])
    for one in told["devices"]:
        assert one["phase"] == "updated"
        assert one["words"] == "is updated; its firmware version is 2.2.0"
    began = {one["ep"]: one["trace"][0]["at"] for one in told["devices"]}
    ended = {one["ep"]: one["trace"][-1]["at"] for one in told["devices"]}
    assert ended[first] <= began[second]
    assert ended[second] <= min(began[third], began[fourth])
    assert executions(gateway, those) == sorted(those)
    assert "spring" in run(gateway, "campaign", "status").output


def test_a_device_is_in_one_campaign_at_a_time(gateway: Gateway, devices: Sensors, works: Part, tmp_path: Path) -> None:
    """One that is not there is waited for, until the campaign is aborted; then the next one has its turn."""
    file = image(tmp_path, "2.9.0")
    create(gateway, "one", file, ["lamp-99"])
    until(
        "that it waits",
        lambda: "not registered" in str(shown(gateway, "one")["devices"][0]["words"]),
    )
    create(gateway, "two", file, ["lamp-99"])
    until("the words", lambda: shown(gateway, "two")["devices"][0]["words"] == "waits for the campaign one")
    refused = run(gateway, "firmware", "pull", "lamp-99", str(file))
    assert refused.exit_code == 1
    assert "by the campaign one: wait for its end, or end it with headwater campaign abort one" in refused.output
    assert run(gateway, "campaign", "abort", "one").exit_code == 0
    until("its turn", lambda: "lamp-99" in phases(gateway, "two"))
    assert run(gateway, "campaign", "abort", "two").exit_code == 0
    until("its end", lambda: phases(gateway, "two")["lamp-99"] is Phase.ABORTED)
    assert executions(gateway, ["lamp-99"]) == []


def test_too_many_failures_stop_it_until_it_is_resumed(
    gateway: Gateway, devices: Sensors, works: Part, tmp_path: Path
) -> None:
    file = image(tmp_path, "3.1.0", word="faulty")
    create(gateway, "bad", file, lamps(12, 13, 14), "--stages", "1,2,100%")
    until("that it stops", lambda: standing(gateway, "bad") is Standing.STOPPED, LONG)
    # One failed, of one: the others have not begun and do not.
    assert phases(gateway, "bad") == {"lamp-12": Phase.FAILED}
    assert shown(gateway, "bad")["devices"][0]["words"] == "the update itself failed (result 8)"
    assert "more than 10%" in run(gateway, "campaign", "status", "bad").output
    assert run(gateway, "campaign", "resume", "bad").exit_code == 0
    until("the next failure", lambda: len(phases(gateway, "bad")) == 2)
    until("that it stops", lambda: standing(gateway, "bad") is Standing.STOPPED, LONG)
    assert sorted(phases(gateway, "bad")) == lamps(12, 13)
    assert run(gateway, "campaign", "abort", "bad").exit_code == 0
    assert standing(gateway, "bad") is Standing.ABORTED
    assert run(gateway, "campaign", "resume", "bad").exit_code == 1


def test_what_pauses_is_downloaded_and_not_installed_and_what_is_aborted_is_told_nothing_more(
    gateway: Gateway, devices: Sensors, works: Part, tmp_path: Path
) -> None:
    those, others = lamps(15, 16), lamps(18)
    file = image(tmp_path, "2.3.0")
    # While the devices stand still, so that none has the image before.
    devices.process.send_signal(signal.SIGSTOP)
    create(gateway, "never", file, others)
    create(gateway, "slow", file, those, "--stages", "100%")
    until("both beginnings", lambda: bool(phases(gateway, "slow") and phases(gateway, "never")))
    assert run(gateway, "campaign", "pause", "slow").exit_code == 0
    assert run(gateway, "campaign", "abort", "never").exit_code == 0
    until("that the worker knows it", lambda: phases(gateway, "never") == {"lamp-18": Phase.ABORTED})
    devices.process.send_signal(signal.SIGCONT)
    until(
        "that both have it",
        lambda: (
            [one.words for one in read(gateway.cluster, gateway.id).campaigns["slow"].devices.values()]
            == ["has the image and waits: the campaign pauses"] * 2
        ),
        LONG,
    )
    assert executions(gateway, [*those, *others]) == []
    assert run(gateway, "campaign", "resume", "slow").exit_code == 0
    until("the end", lambda: standing(gateway, "slow") is Standing.DONE, LONG)
    assert executions(gateway, [*those, *others]) == those
    assert phases(gateway, "never") == {"lamp-18": Phase.ABORTED}


def test_a_second_worker_takes_over(gateway: Gateway, devices: Sensors, works: Part, tmp_path: Path) -> None:
    with worker(gateway, tmp_path) as other:
        create(gateway, "summer", image(tmp_path, "2.6.0"), [], "--pattern", "lamp-19")
        until("the end", lambda: standing(gateway, "summer") is Standing.DONE, LONG)
        # Which of them was the later one is for the machine to say.
        until("that one of them ended", lambda: works.runs != other.runs)
    assert executions(gateway, lamps(19)) == lamps(19)


def test_kills_of_worker_and_gateway_and_restarts_of_devices_change_nothing(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    """Each of the three is killed again and again while devices take an image in both ways; each installs it."""
    ways = {"pull": lamps(1, 2), "push": lamps(3, 4)}
    chance = random.Random(17)
    with (
        Gateway(gateway_id, kafka, tmp_path) as gateway,
        fleet(gateway, tmp_path, 4) as sensors,
        worker(gateway, tmp_path) as campaigns,
    ):
        gateway.wait_ready()
        file = image(tmp_path, "2.4.0", size=300_000)
        for way, those in ways.items():
            create(gateway, way, file, those, "--method", way, "--stages", "1,100%")

        def done() -> bool:
            return {standing(gateway, way) for way in ways} == {Standing.DONE}

        until("a beginning", lambda: bool(phases(gateway, "pull")))
        for part in (campaigns, gateway, sensors, campaigns):
            time.sleep(chance.uniform(0.3, 2.0))
            if done():
                break
            part.kill()
            part.start()
        gateway.wait_ready()
        until("the end", done, LONG)
        for way, those in ways.items():
            told = shown(gateway, way)
            assert {one["phase"] for one in told["devices"]} == {"updated"}, told
            for one in told["devices"]:
                assert version_of(gateway, one["ep"]) == "2.4.0"
                # Executed once, and once more for each time of which it is told why.
                again = sum("is told again" in step["words"] or "forgot" in step["words"] for step in one["trace"])
                sent = sum("idle again without a result" in step["words"] for step in one["trace"])
                assert 1 <= len(executions(gateway, [one["ep"]])) <= 1 + again + sent, one
            assert len(those) == len(told["devices"])
