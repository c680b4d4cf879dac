"""What LwM2M 1.2 added to the operations, and resource instances as their targets, from the command line to a device.

The gateway is a process on a real Kafka; the device is one of ours, in the test's own process, with a resource of
several instances that can be written (ACL, /2/0/2).
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from connectors.kafka import Cluster
from gateway.devices.basics import VERSIONS, Basics
from gateway.devices.client import Device, DeviceConfig, Version
from gateway.devices.model import Holding, Model
from gateway.devices.sensor import Tally
from headwater.cli import app
from schemas.avro.records import RegistrationKind, values_told
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

ACL = Path(2, 0, 2)
FIRST = "/2/0/2/0"


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway("newest", kafka, tmp_path_factory.mktemp("newest")) as one:
        one.wait_ready()
        yield one


@contextmanager
def running(gateway: Gateway, ep: str, version: Version) -> Iterator[Model]:
    """A device that is registered, with the ACL {0: 15, 1: 1}; its model is for reading."""
    host, port = gateway.address
    config = DeviceConfig(endpoint=ep, server_host=host, server_port=port, version=version, retry_first=0.2)
    basics = Basics(config, kind="test", lifetime=300, clock=lambda: 0)
    rights = Holding(contents={0: 3, 1: 0, 2: {0: 15, 1: 1}, 3: 123})
    model = Model(Definitions.builtin().with_versions(VERSIONS[version]), {**basics.holdings(), (2, 0): rights})
    ready: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def live() -> None:
        device = Device(config, model, Tally().of(ep), random.Random(1))
        basics.belongs_to(device)
        stop = asyncio.Event()
        ready.append((asyncio.get_running_loop(), stop))
        await device.run(stop)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        until("the registration", lambda: bool(gateway.registrations(ep)))
        yield model
    finally:
        loop, stop = ready[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


def run(gateway: Gateway, *arguments: str) -> Any:
    """A verb, and its answer as JSON; its words where it was refused."""
    place = ["--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap, "--timeout", "60"]
    result = CliRunner().invoke(app, [*arguments, *place, "--output", "json"])
    assert result.exit_code in (0, 1), result.output
    # The device's own log stands before it.
    return json.loads(result.stdout.splitlines()[-1]) if result.exit_code == 0 else result.output


def found(answer: Any) -> dict[str, object]:
    return {one["path"]: one["value"] for one in answer["values"]}


def links(answer: Any) -> list[str]:
    return [link.split(">")[0].lstrip("<") for link in answer["rep"]["body"]["objectLinks"].split(",")]


@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2])
def test_resource_instance_is_a_target(gateway: Gateway, version: Version) -> None:
    ep = f"device-{version.value}"
    with running(gateway, ep, version) as model:
        assert found(run(gateway, "read", ep, FIRST)) == {FIRST: 15}
        observed = run(gateway, "observe", ep, FIRST, "--ticket", f"told-{ep}")
        assert found(observed) == {FIRST: 15}
        assert run(gateway, "write", ep, FIRST, "7")["rep"]["code"] == "CHANGED"
        until(
            "the notification",
            lambda: any(
                [one.value for one in values_told(told.rep.body)] == [7] for told in gateway.notifications(ep, FIRST)
            ),
        )
        assert run(gateway, "attributes", ep, FIRST, "pmin=0&gt=3")["rep"]["code"] == "CHANGED"
        assert run(gateway, "cancel", ep, FIRST)["rep"]["code"] in ("CONTENT", "DELETED")
        # One that was not there, by itself and among others; then all of them by others.
        assert run(gateway, "write", ep, "/2/0/2/5", "2")["rep"]["code"] == "CHANGED"
        assert run(gateway, "write", ep, "/2/0", '{"2": {"6": 4}}', "--update")["rep"]["code"] == "CHANGED"
        assert found(run(gateway, "read", ep, "/2/0/2")) == {
            FIRST: 7,
            "/2/0/2/1": 1,
            "/2/0/2/5": 2,
            "/2/0/2/6": 4,
        }
        assert "NOT_FOUND" in run(gateway, "read", ep, "/2/0/2/9")
        assert "is a resource instance" in run(gateway, "discover", ep, FIRST)
        deleted = run(gateway, "delete", ep, "/2/0/2/5")
        if version is Version.V1_1:
            assert f"{ep} speaks LwM2M 1.1, in which a resource instance like /2/0/2/5 cannot be deleted" in deleted
            assert "/2/0/2/5" in map(str, model.below(ACL))
        else:
            assert deleted["rep"]["code"] == "DELETED"
            assert [str(one) for one in model.below(ACL)] == [FIRST, "/2/0/2/1", "/2/0/2/6"]
            assert "NOT_FOUND" in run(gateway, "delete", ep, "/2/0/2/5")


def test_resource_instance_is_no_target_of_a_device_of_1_0(gateway: Gateway) -> None:
    with running(gateway, "device-1.0", Version.V1_0):
        for arguments in (("read",), ("observe",), ("delete",)):
            words = run(gateway, *arguments, "device-1.0", FIRST)
            assert "device-1.0 speaks LwM2M 1.0, in which a resource instance like /2/0/2/0 is no target" in words


def test_discover_has_a_depth(gateway: Gateway) -> None:
    with running(gateway, "deep", Version.V1_2):
        assert links(run(gateway, "discover", "deep", "/2", "--depth", "0")) == ["/2"]
        assert links(run(gateway, "discover", "deep", "/2", "--depth", "1")) == ["/2", "/2/0"]
        deepest = ["/2", "/2/0", "/2/0/0", "/2/0/1", "/2/0/2", FIRST, "/2/0/2/1", "/2/0/3"]
        assert links(run(gateway, "discover", "deep", "/2", "--depth", "3")) == deepest
    with running(gateway, "shallow", Version.V1_1):
        words = run(gateway, "discover", "shallow", "/2", "--depth", "1")
        assert "shallow speaks LwM2M 1.1, in which a discover has no depth (1.2 has); leave it out" in words


def test_observation_of_1_2_has_attributes_of_its_own_that_outlive_a_kill(gateway: Gateway) -> None:
    with running(gateway, "own", Version.V1_2):

        def told() -> list[object]:
            records = gateway.notifications("own", FIRST)
            return [value.value for one in records for value in values_told(one.rep.body)]

        # Of all changes that come only those that cross 10.
        own = ("--gt", "10", "--pmin", "0", "--ticket", "own-1")
        assert found(run(gateway, "observe", "own", FIRST, *own)) == {FIRST: 15}
        for value in ("14", "9", "8"):
            assert run(gateway, "write", "own", FIRST, value)["rep"]["code"] == "CHANGED"
        until("what crossed the bound", lambda: told() == [9])
        gateway.kill()
        gateway.start()
        gateway.wait_ready()
        before = len(gateway.registrations("own"))
        # The device begins anew, and has all that it is to tell from the gateway.
        assert run(gateway, "execute", "own", "/3/0/4")["rep"]["code"] == "CHANGED"
        until("the registration", lambda: len(gateway.registrations("own")) > before)
        assert gateway.registrations("own")[-1].kind is RegistrationKind.NEW
        until("the first value of the new observation", lambda: len(gateway.replies("own-1")) > 1)
        for value in ("7", "11", "12"):
            assert run(gateway, "write", "own", FIRST, value)["rep"]["code"] == "CHANGED"
        until("what crossed the bound", lambda: told() == [9, 11])
        assert run(gateway, "cancel", "own", FIRST)["rep"]["code"] in ("CONTENT", "DELETED")
    with running(gateway, "old", Version.V1_1):
        words = run(gateway, "observe", "old", FIRST, "--pmin", "5", "--pmax", "60")
        assert "an observation has no attributes of its own (1.2 has)" in words
        assert "headwater attributes old PATH 'pmin=5&pmax=60'" in words
