"""Eclipse Leshan's client over DTLS with a certificate, beside one with a pre-shared key."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from schemas.avro.records import ReadBody, RegistrationNew, RequestKind, ResponseCode, WriteMode, WriteRequest
from schemas.lwm2m.nodes import Resource, ResourceType
from schemas.lwm2m.path import Path as LwM2mPath
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import X509, CertificateUsage, Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.certificates import Holder, issue
from tests.interop.gateway_process import GatewayProcess, plain, start_gateway
from tests.interop.leshan_device import LeshanDevice
from tests.interop.test_leshan import temperature

pytestmark = [pytest.mark.interop, pytest.mark.kafka]


class Factory:
    """A gateway with a certificate, and devices whose certificates one authority signed."""

    def __init__(self, kafka: Cluster, folder: Path, class_path: list[str]) -> None:
        self._folder, self._kafka, self._class_path = folder, kafka, class_path
        self._id = f"x509-{secrets.token_hex(4)}"
        self.authority = issue("factory", is_authority=True)
        self._own = issue("127.0.0.1", self.authority, alternatives=("localhost",))
        self._files = self._own.write(folder, "gateway")
        self.store = SqliteCredentials(folder / "credentials.db", make=True)
        trusted = X509(
            endpoint="leshan-*",
            created=datetime.now(UTC),
            certificate=self.authority.der,
            usage=CertificateUsage.TRUST_ANCHOR_ASSERTION,
        )
        self.store.put([trusted], Put.NEW)
        self.gateway = self._start()

    def _start(self, coaps_port: int | None = None) -> GatewayProcess:
        certificate, key = map(str, self._files)
        return start_gateway(
            self._kafka,
            self._id,
            self._folder,
            observe=("/3303/*/5700",),
            credentials=self._folder / "credentials.db",
            coaps_port=coaps_port,
            more=("--no-insecure", "--coaps-cert", certificate, "--coaps-key", key),
        )

    def restart(self) -> None:
        """On the same port."""
        assert self.gateway.stop() == 0, self.gateway.said()
        self.gateway = self._start(self.gateway.coaps_port)

    def device(self, *, signer: Holder | None = None) -> LeshanDevice:
        """A device with a certificate of its own, by the factory or by ``signer``, started."""
        ep = f"leshan-{secrets.token_hex(4)}"
        holder = issue(ep, signer or self.authority)
        shown = (holder.der, holder.key_der, self._own.der)
        return LeshanDevice(self._class_path, ep, self.gateway.coaps, x509=shown)

    def device_with_a_key(self) -> LeshanDevice:
        ep, key = f"keyed-{secrets.token_hex(4)}", secrets.token_bytes(16)
        made = Psk(endpoint=ep, created=datetime.now(UTC), identity=ep.encode(), key=KeyBytes(key))
        self.store.put([made], Put.NEW)
        return LeshanDevice(self._class_path, ep, self.gateway.coaps, psk=(ep, key))

    def end(self) -> None:
        self.store.close()
        assert self.gateway.stop() == 0, self.gateway.said()


@pytest.fixture(scope="module")
def factory(
    kafka: Cluster, leshan_class_path: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Factory]:
    made = Factory(kafka, tmp_path_factory.mktemp("x509"), leshan_class_path)
    try:
        yield made
    finally:
        made.end()


def test_device_is_observed_asked_and_written(factory: Factory) -> None:
    device, keyed, gateway = factory.device(), factory.device_with_a_key(), factory.gateway
    try:
        device.event("registered")
        keyed.event("registered")
        device.event("observed", path="/3303/0/5700")
        new = gateway.registration(lambda one: isinstance(one.body, RegistrationNew) and one.body.ep == device.endpoint)
        assert isinstance(new.body, RegistrationNew)
        assert new.body.reg_port == gateway.coaps_port
        long = Resource(path=LwM2mPath.parse("/3303/0/5750"), type=ResourceType.STRING, value="x" * 3000)
        written = gateway.ask(
            device.endpoint, RequestKind.WRITE, "/3303/0/5750", WriteRequest(mode=WriteMode.REPLACE, node=long)
        )
        assert written.rep.code is ResponseCode.CHANGED, plain(written)
        read = gateway.ask(device.endpoint, RequestKind.READ, "/3303/0/5750")
        assert isinstance(read.rep.body, ReadBody), plain(read)
        assert read.rep.body.content == long
        device.set("/3303/0/5700", "31.5")
        gateway.notification(lambda one: one.ep == device.endpoint and temperature(one) == 31.5)
        for one in (device, keyed):
            one.say("update")
            one.event("updated")
        device.say("deregister")
        device.event("deregistered")
    finally:
        device.stop()
        keyed.stop()


def test_device_of_another_signer_does_not_get_in(factory: Factory) -> None:
    device, good = factory.device(signer=issue("stranger", is_authority=True)), factory.device()
    try:
        good.event("registered")
        assert "registered" not in device.names(5.0)
    finally:
        device.stop()
        good.stop()


def test_device_goes_on_by_itself_after_a_restart_of_the_gateway(factory: Factory) -> None:
    device = factory.device()
    try:
        device.event("registered")
        device.event("observed", path="/3303/0/5700")
        # A device is asked one thing after the other: the observation is established when this is answered.
        assert factory.gateway.ask(device.endpoint, RequestKind.READ, "/3/0/0").rep.code is ResponseCode.CONTENT
        factory.restart()
        device.say("update")
        device.event("updated")
        device.set("/3303/0/5700", "22.5")
        factory.gateway.notification(lambda one: one.ep == device.endpoint and temperature(one) == 22.5)
    finally:
        device.stop()
