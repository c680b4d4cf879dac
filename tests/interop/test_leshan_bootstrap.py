"""Eclipse Leshan's client in bootstrap mode: it gets its server and its key, and registers there with it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from schemas.avro.records import ExecuteRequest, RequestKind, ResponseCode
from security.credentials.sqlite import SqliteCredentials
from tests.bootstrap_process import WITH_KEY, BootstrapProcess
from tests.certificates import issue
from tests.interop.gateway_process import GatewayProcess, plain, start_gateway
from tests.interop.leshan_device import LeshanDevice
from tests.secure_device import new_store

pytestmark = [pytest.mark.interop, pytest.mark.kafka]

KEY = b"a factory's key."


@pytest.fixture(scope="module")
def keyed_gateway(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that nobody reaches without a key or a certificate, and whose store has none yet."""
    folder = tmp_path_factory.mktemp("bootstrapped")
    certificate, key = map(str, issue("127.0.0.1", alternatives=("localhost",)).write(folder, "gateway"))
    SqliteCredentials(folder / "gateway.db", make=True).close()
    running = start_gateway(
        kafka,
        f"bootstrap-{secrets.token_hex(4)}",
        folder,
        observe=(),
        credentials=folder / "gateway.db",
        more=("--no-insecure", "--coaps-cert", certificate, "--coaps-key", key),
    )
    try:
        yield running
    finally:
        assert running.stop() == 0, running.said()


def serve(
    gateway: GatewayProcess, folder: Path, *, credentials: Path | None, security: str = "psk"
) -> BootstrapProcess:
    store = gateway.log.parent / "gateway.db"
    config = WITH_KEY.format(port=gateway.coaps_port).replace("gateway.db", str(store))
    config = config.replace("security: psk", f"security: {security}")
    running = BootstrapProcess(folder, config, credentials=credentials)
    running.store = store
    return running


@pytest.mark.ets("LightweightM2M-1.1-int-0")
def test_device_is_bootstrapped_registers_with_its_new_key_and_comes_again_when_told(
    keyed_gateway: GatewayProcess, leshan_class_path: list[str], tmp_path: Path
) -> None:
    ep = f"leshan-{secrets.token_hex(4)}"
    running = serve(keyed_gateway, tmp_path, credentials=new_store(tmp_path / "keys.db", {ep: KEY}))
    address = f"127.0.0.1:{running.coaps[1]}"
    device = LeshanDevice(leshan_class_path, ep, address, psk=(ep, KEY), bootstrap=True)
    try:
        device.event("bootstrapped")
        device.event("registered")
        run = running.ended(ep)
        assert run["outcome"] == "done", run
        [first] = running.keys(ep)
        read = keyed_gateway.ask(ep, RequestKind.READ, "/1/0/1")
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
        told = keyed_gateway.ask(ep, RequestKind.EXECUTE, "/1/0/9", ExecuteRequest(parameters=""))
        assert told.rep.code is ResponseCode.CHANGED, plain(told)
        device.event("bootstrapped")
        device.event("registered")
        assert running.ended(ep, 2)["outcome"] == "done"
        [second] = running.keys(ep)
        assert first != second
        read = keyed_gateway.ask(ep, RequestKind.READ, "/3/0/0")
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
    finally:
        device.stop()
        assert running.stop() == 0, running.said()


def test_device_is_given_a_certificate_and_registers_with_it(
    keyed_gateway: GatewayProcess, leshan_class_path: list[str], tmp_path: Path
) -> None:
    ep = f"leshan-{secrets.token_hex(4)}"
    [certificate] = keyed_gateway.log.parent.glob("gateway*.pem")
    security = f"x509\n      server_certificate: {certificate}"
    keys = new_store(tmp_path / "keys.db", {ep: KEY})
    running = serve(keyed_gateway, tmp_path, credentials=keys, security=security)
    device = LeshanDevice(leshan_class_path, ep, f"127.0.0.1:{running.coaps[1]}", psk=(ep, KEY), bootstrap=True)
    try:
        device.event("bootstrapped")
        device.event("registered")
        assert running.ended(ep)["outcome"] == "done"
        assert running.keys(ep) == {}
        read = keyed_gateway.ask(ep, RequestKind.READ, "/3/0/0")
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
    finally:
        device.stop()
        assert running.stop() == 0, running.said()


def test_device_in_a_factory_gets_its_key_in_the_clear(
    keyed_gateway: GatewayProcess, leshan_class_path: list[str], tmp_path: Path
) -> None:
    ep = f"leshan-{secrets.token_hex(4)}"
    running = serve(keyed_gateway, tmp_path, credentials=None)
    device = LeshanDevice(leshan_class_path, ep, f"127.0.0.1:{running.coap[1]}", bootstrap=True)
    try:
        device.event("bootstrapped")
        device.event("registered")
        assert running.ended(ep)["outcome"] == "done"
    finally:
        device.stop()
        assert running.stop() == 0, running.said()


def test_device_with_a_wrong_key_is_given_nothing(
    keyed_gateway: GatewayProcess, leshan_class_path: list[str], tmp_path: Path
) -> None:
    ep = f"leshan-{secrets.token_hex(4)}"
    running = serve(keyed_gateway, tmp_path, credentials=new_store(tmp_path / "keys.db", {ep: KEY}))
    address = f"127.0.0.1:{running.coaps[1]}"
    device = LeshanDevice(leshan_class_path, ep, address, psk=(ep, b"not the right one"), bootstrap=True)
    try:
        assert "bootstrapped" not in device.names(8.0)
        assert running.runs(ep) == []
        assert running.keys(ep) == {}
    finally:
        device.stop()
        assert running.stop() == 0, running.said()
