"""One gateway and one Leshan class path for all interoperability tests of a session, and libcoap's client."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from connectors.kafka import Cluster
from tests.interop import leshan_device
from tests.interop.gateway_process import GatewayProcess, start_gateway
from tests.interop.leshan_device import LeshanDevice


@pytest.fixture(scope="session")
def leshan_class_path() -> list[str]:
    return leshan_device.build()


@pytest.fixture(scope="session")
def gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("interop")
    running = start_gateway(kafka, f"interop-{secrets.token_hex(4)}", folder, observe=("/3303/*/5700",))
    try:
        yield running
    finally:
        assert running.stop() == 0, running.said()


@pytest.fixture(scope="module")
def leshan(gateway: GatewayProcess, leshan_class_path: list[str]) -> Iterator[LeshanDevice]:
    """A Leshan device that has registered at the gateway and is observed by it; a module's tests share it."""
    device = LeshanDevice(leshan_class_path, f"leshan-{secrets.token_hex(4)}", gateway.coap)
    try:
        device.ready("/3303/0/5700", "/3303/1/5700")
        yield device
    finally:
        device.stop()


@pytest.fixture
def fresh_leshan(gateway: GatewayProcess, leshan_class_path: list[str]) -> Iterator[LeshanDevice]:
    """A Leshan device of the test's own, registered."""
    device = LeshanDevice(leshan_class_path, f"leshan-{secrets.token_hex(4)}", gateway.coap)
    try:
        device.event("registered")
        yield device
    finally:
        device.stop()


@pytest.fixture(scope="session")
def coap_client() -> str:
    """libcoap's command line client. It has no package in a language's registry: it comes from Debian's packages."""
    names = ("coap-client", "coap-client-openssl", "coap-client-gnutls", "coap-client-notls")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "-q", "update"], ["apt-get", "-q", "-y", "install", "libcoap3-bin"]):
            subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
        found = next(filter(None, map(shutil.which, names)), None)
    assert found is not None, (
        "libcoap's coap-client is not here and could not be installed: as root, `apt-get install libcoap3-bin` "
        "(on other systems the package is called libcoap)"
    )
    return found
