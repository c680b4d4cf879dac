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
from security.credentials.kinds import X509, CertificateUsage
from security.credentials.store import Put
from tests.certificates import Holder, issue
from tests.interop.gateway_process import plain
from tests.interop.leshan_device import LeshanDevice
from tests.interop.leshan_factory import Factory
from tests.interop.test_leshan import temperature

pytestmark = [pytest.mark.interop, pytest.mark.kafka]


class CertificateFactory(Factory):
    """A gateway with a certificate, and devices whose certificates one authority signed."""

    def __init__(self, kafka: Cluster, folder: Path, class_path: list[str]) -> None:
        self.authority = issue("factory", is_authority=True)
        self._own = issue("127.0.0.1", self.authority, alternatives=("localhost",))
        certificate, key = map(str, self._own.write(folder, "gateway"))
        super().__init__(kafka, folder, class_path, "--coaps-cert", certificate, "--coaps-key", key)
        trusted = X509(
            endpoint="leshan-*",
            created=datetime.now(UTC),
            certificate=self.authority.der,
            usage=CertificateUsage.TRUST_ANCHOR_ASSERTION,
        )
        self.store.put([trusted], Put.NEW)

    def device(self, *, signer: Holder | None = None) -> LeshanDevice:
        """A device with a certificate of its own, by the factory or by ``signer``, started."""
        ep = f"leshan-{secrets.token_hex(4)}"
        holder = issue(ep, signer or self.authority)
        shown = (holder.der, holder.key_der, self._own.der)
        return LeshanDevice(self.class_path, ep, self.gateway.coaps, x509=shown)


@pytest.fixture(scope="module")
def factory(
    kafka: Cluster, leshan_class_path: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CertificateFactory]:
    made = CertificateFactory(kafka, tmp_path_factory.mktemp("x509"), leshan_class_path)
    try:
        yield made
    finally:
        made.end()


def test_device_is_observed_asked_and_written(factory: CertificateFactory) -> None:
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


def test_device_of_another_signer_does_not_get_in(factory: CertificateFactory) -> None:
    device, good = factory.device(signer=issue("stranger", is_authority=True)), factory.device()
    try:
        good.event("registered")
        assert "registered" not in device.names(5.0)
    finally:
        device.stop()
        good.stop()


def test_device_goes_on_by_itself_after_a_restart_of_the_gateway(factory: CertificateFactory) -> None:
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
