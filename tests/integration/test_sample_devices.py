"""The sample devices of stacks/sensors.yml, by their own commands, at a gateway that is closed as the stack's is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from headwater.deploy.stackfile import interpolate, read
from tests.way import Gateway, Part, until

STACK = Path(__file__).resolve().parents[2] / "stacks" / "sensors.yml"
KEYS = "endpoint,kind,identity,key\n" + "".join(
    f"{kind}-*,psk,{kind}s,{number:032x}\n" for number, kind in enumerate(("sensor", "station", "load"), 1)
)
#: As many devices as each service has in this test.
COUNT = 2


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "sensors.csv"
    file.touch(mode=0o600)
    file.write_text(KEYS)
    return file


@pytest.fixture
def gateway(kafka: Cluster, tmp_path: Path, keys: Path) -> Iterator[Gateway]:
    more = ("--make-credentials", "--no-insecure", "--import-credentials", str(keys), "--observe", "/3303/*/5700")
    with Gateway("samples", kafka, tmp_path, *more, credentials=tmp_path / "keys" / "credentials.db") as running:
        running.wait_ready()
        yield running


def test_every_sample_device_registers_at_a_closed_gateway_with_the_keys_of_one_file(
    gateway: Gateway, keys: Path, tmp_path: Path
) -> None:
    counts = {f"{kind}_COUNT": str(COUNT) for kind in ("SENSOR", "STATION", "LOAD")}
    given = {"GATEWAY": "samples", "COAP_SERVER": f"127.0.0.1:{gateway.coaps_port}", **counts}
    services = read(STACK)["services"]
    with ExitStack() as running:
        for name, service in services.items():
            words = [interpolate(word, given) for word in service["command"]]
            words = [word.replace("/run/secrets/sensors.csv", str(keys)) for word in words]
            (endpoint,) = (interpolate(one, given) for one in service["environment"].values())
            folder = tmp_path / name
            folder.mkdir()
            part = Part(name, folder, *words, "--endpoint", endpoint.replace("{{.Task.Slot}}", "1"))
            running.enter_context(part)
        wanted = COUNT * len(services)
        until("all are registered", lambda: gateway.metric("devices") == wanted)
        until("they are heard", lambda: gateway.metric("notifications_total") >= wanted)


def test_sample_devices_find_the_gateway_of_a_default_stack() -> None:
    gateway = read(STACK.with_name("gateway.yml"))["services"]["gateway"]
    secure = [port["target"] for port in gateway["ports"] if "COAPS" in port["published"]]
    for service in read(STACK)["services"].values():
        (server,) = (word for word in service["command"] if word.startswith("--server="))
        scheme, _, place = interpolate(server.partition("=")[2], {}).partition("://")
        assert (scheme, place) == ("coaps", "gateway:5684")
        assert [int(interpolate(str(one), {})) for one in secure] == [5684]
