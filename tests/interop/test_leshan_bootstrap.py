"""Eclipse Leshan's client in bootstrap mode: it gets its server and its key, and registers there with it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from schemas.avro.records import ExecuteRequest, RequestKind, ResponseCode
from security.credentials.kinds import X509, CertificateUsage
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.bootstrap_process import WITH_KEY, BootstrapProcess
from tests.certificates import Holder, issue
from tests.interop.gateway_process import GatewayProcess, plain, start_gateway
from tests.interop.leshan_device import LeshanDevice
from tests.secure_device import new_store
from tests.way import until

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
    gateway: GatewayProcess, folder: Path, *more: str, credentials: Path | None, security: str = "psk"
) -> BootstrapProcess:
    store = gateway.log.parent / "gateway.db"
    config = WITH_KEY.format(port=gateway.coaps_port).replace("gateway.db", str(store))
    config = config.replace("security: psk", f"security: {security}")
    running = BootstrapProcess(folder, config, *more, credentials=credentials)
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


class Factory:
    """A bootstrap server with a certificate of its own, and devices whose certificates an authority signed that it
    trusts for ``leshan-*``."""

    def __init__(self, gateway: GatewayProcess, folder: Path, *, security: str = "psk") -> None:
        self.authority = issue("factory", is_authority=True)
        self._own = issue("127.0.0.1", alternatives=("localhost",))
        certificate, key = map(str, self._own.write(folder, "bootstrap"))
        self.certificate = certificate
        trusted = X509(
            endpoint="leshan-*",
            created=datetime.now(UTC),
            certificate=self.authority.der,
            usage=CertificateUsage.TRUST_ANCHOR_ASSERTION,
        )
        store = SqliteCredentials(folder / "keys.db", make=True)
        store.put([trusted], Put.NEW)
        store.close()
        more = ("--coaps-cert", certificate, "--coaps-key", key)
        self.server = serve(gateway, folder, *more, credentials=folder / "keys.db", security=security)

    def device(self, class_path: list[str], ep: str, name: str, signer: Holder) -> LeshanDevice:
        """One called ``ep`` whose certificate is for ``name``, started."""
        holder = issue(name, signer)
        shown = (holder.der, holder.key_der, self._own.der)
        return LeshanDevice(class_path, ep, f"127.0.0.1:{self.server.coaps[1]}", x509=shown, bootstrap=True)


def test_device_with_a_certificate_is_given_a_key_and_registers_with_it(
    keyed_gateway: GatewayProcess, leshan_class_path: list[str], tmp_path: Path
) -> None:
    ep, factory = f"leshan-{secrets.token_hex(4)}", Factory(keyed_gateway, tmp_path)
    running = factory.server
    device = factory.device(leshan_class_path, ep, ep, factory.authority)
    try:
        device.event("bootstrapped")
        device.event("registered")
        run = running.ended(ep)
        assert run["outcome"] == "done", run
        assert run["identity"].startswith("certificate ")
        assert run["identity"].endswith(f"of '{ep}'")
        assert len(running.keys(ep)) == 1
        read = keyed_gateway.ask(ep, RequestKind.READ, "/3/0/0")
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
        assert f'not_after_timestamp_seconds{{file="{factory.certificate}"' in (running.get("metrics") or "")
        assert "headwater_bootstrap_dtls_certificate_sessions 1.0" in (running.get("metrics") or "")
    finally:
        device.stop()
        assert running.stop() == 0, running.said()


def test_device_with_a_certificate_is_given_another_and_registers_with_that(
    keyed_gateway: GatewayProcess, leshan_class_path: list[str], tmp_path: Path
) -> None:
    ep = f"leshan-{secrets.token_hex(4)}"
    [certificate] = keyed_gateway.log.parent.glob("gateway*.pem")
    factory = Factory(keyed_gateway, tmp_path, security=f"x509\n      server_certificate: {certificate}")
    device = factory.device(leshan_class_path, ep, ep, factory.authority)
    try:
        device.event("bootstrapped")
        device.event("registered")
        assert factory.server.ended(ep)["outcome"] == "done"
        assert factory.server.keys(ep) == {}
        read = keyed_gateway.ask(ep, RequestKind.READ, "/3/0/0")
        assert read.rep.code is ResponseCode.CONTENT, plain(read)
    finally:
        device.stop()
        assert factory.server.stop() == 0, factory.server.said()


def test_devices_with_a_certificate_of_a_stranger_or_for_another_name_are_given_nothing(
    keyed_gateway: GatewayProcess, leshan_class_path: list[str], tmp_path: Path
) -> None:
    names = [f"leshan-{secrets.token_hex(4)}" for _ in range(3)]
    good, unknown, thief = names
    factory = Factory(keyed_gateway, tmp_path)
    running = factory.server
    stranger = issue("stranger", is_authority=True)
    devices = [
        factory.device(leshan_class_path, unknown, unknown, stranger),
        factory.device(leshan_class_path, thief, good, factory.authority),
    ]
    try:
        # The one has no session; the other one has, and is refused by name.
        until(
            "a refusal",
            lambda: 'headwater_bootstrap_refused_total{code="FORBIDDEN"} ' in (running.get("metrics") or ""),
        )
        until(
            "an alert",
            lambda: "headwater_bootstrap_dtls_certificate_dropped_total{" in (running.get("metrics") or ""),
        )
        assert all("bootstrapped" not in one.names(2.0) for one in devices)
        # Of the one that showed who it is there is a trace, under the name that its certificate is for.
        until("a trace", lambda: running.runs(good) != [])
        assert {(run["outcome"], run["why"]) for run in running.runs(good)} == {
            ("refused", "the certificate of this session is not for this endpoint")
        }
        assert running.runs(unknown) == running.runs(thief) == []
        assert [running.keys(name) for name in names] == [{}, {}, {}]
    finally:
        for one in devices:
            one.stop()
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
