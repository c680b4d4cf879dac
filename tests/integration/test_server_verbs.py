"""The verbs of the LwM2M Server object, from the command line to a virtual device and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiocoap.numbers.codes import Code
from typer.testing import CliRunner

from connectors.kafka import Cluster
from headwater.cli import app
from schemas.avro.records import RegistrationKind
from tests.raw_device import RawDevice
from tests.way import Gateway, Sensors, until

pytestmark = [pytest.mark.kafka]


@pytest.fixture(scope="module")
def way(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("server-verbs")
    with Gateway("server-verbs", kafka, folder) as gateway:
        gateway.wait_ready()
        with Sensors(gateway.address, folder, endpoint="lamp"):
            until("the registration", lambda: bool(gateway.registrations("lamp")))
            yield gateway


def _run(gateway: Gateway, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--gateway", gateway.id, "--kafka", gateway.cluster.bootstrap])


def _kinds(gateway: Gateway) -> list[RegistrationKind]:
    return [one.kind for one in gateway.registrations("lamp")]


def test_a_device_updates_its_registration_when_it_is_told_to(way: Gateway) -> None:
    before = _kinds(way).count(RegistrationKind.UPDATE)
    result = _run(way, "trigger-update", "lamp")
    assert result.exit_code == 0, result.output
    until("the update", lambda: _kinds(way).count(RegistrationKind.UPDATE) > before)


def test_a_device_that_is_disabled_leaves_and_comes_back(way: Gateway) -> None:
    assert _run(way, "write", "lamp", "/1/0/5", "1").exit_code == 0
    result = _run(way, "disable", "lamp")
    assert result.exit_code == 0, result.output
    until("its end", lambda: RegistrationKind.DELETE in _kinds(way))
    until("its return", lambda: _kinds(way)[-1] is not RegistrationKind.DELETE)


def test_another_instance_than_the_device_has_is_an_error_in_words(way: Gateway) -> None:
    result = _run(way, "disable", "lamp", "--instance", "7")
    assert result.exit_code == 1
    assert "/1/7/4" in result.output


@pytest.mark.parametrize("verb", ["trigger-update", "disable", "trigger-bootstrap"])
def test_the_only_server_that_is_registered_is_taken(way: Gateway, verb: str) -> None:
    resource = {"trigger-update": "8", "disable": "4", "trigger-bootstrap": "9"}[verb]
    with RawDevice(way.address, f"second-{verb}") as device:
        # As Anjay's, whose Server objects begin at 1.
        device.register(links='</>;rt="oma.lwm2m",</1/1>,</3/0>,</11/0>', version="1.1")
        result = _run(way, verb, device.ep)
        assert result.exit_code == 0, result.output
        assert [request.opt.uri_path for request in device.asked(Code.POST)] == [("1", "1", resource)]


def test_one_of_several_servers_is_asked_for(way: Gateway) -> None:
    with RawDevice(way.address, "several") as device:
        device.register(links='</>;rt="oma.lwm2m",</1/0>,</1/3>,</3/0>')
        result = _run(way, "trigger-update", device.ep)
        assert result.exit_code == 2
        assert "several has registered several servers: /1/0, /1/3; say by --instance" in " ".join(
            result.output.split()
        )
        assert device.asked(Code.POST) == []
        assert _run(way, "trigger-update", device.ep, "--instance", "3").exit_code == 0
        assert [request.opt.uri_path for request in device.asked(Code.POST)] == [("1", "3", "8")]


def test_a_device_that_never_registered_is_said_to_be_none(way: Gateway) -> None:
    result = _run(way, "trigger-update", "nobody")
    assert result.exit_code == 1
    assert "nobody" in result.output
