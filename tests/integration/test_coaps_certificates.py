"""Devices with certificates at a gateway process on a real Kafka, beside others with pre-shared keys on one port."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster
from schemas.avro.records import RegistrationKind, RegistrationNew, RegistrationUpdate, RequestKind, ResponseCode
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import X509, CertificateUsage, Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.certificate_device import CertificateDevice
from tests.certificates import Holder, issue
from tests.raw_device import RawDevice
from tests.secure_device import SecureDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

KEY = b"sixteen byte key"
TEMPERATURE = "/3303/0/5700"


class Plant:
    """Who signs, the gateway's certificate, and the store that it reads."""

    def __init__(self, folder: Path) -> None:
        self.authority = issue("plant", is_authority=True)
        self.certificate, self.key = issue("gateway", self.authority).write(folder, "gateway")
        self.path = folder / "credentials.db"
        self.store = SqliteCredentials(self.path, make=True)

    def credential(
        self, endpoint: str, holder: Holder, usage: CertificateUsage = CertificateUsage.DOMAIN_ISSUED_CERTIFICATE
    ) -> X509:
        return X509(endpoint=endpoint, created=datetime.now(UTC), certificate=holder.der, usage=usage)

    def add(self, endpoint: str, holder: Holder) -> X509:
        made = self.credential(endpoint, holder)
        self.store.put([made], Put.ALL)
        return made

    def trust(self, endpoint: str, holder: Holder) -> X509:
        made = self.credential(endpoint, holder, CertificateUsage.TRUST_ANCHOR_ASSERTION)
        self.store.put([made], Put.ALL)
        # The gateway looks each half second whom to believe.
        time.sleep(1.2)
        return made


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(tmp_path_factory.mktemp("certificates"))
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("coaps-x509")
    more = ("--coaps-cert", str(plant.certificate), "--coaps-key", str(plant.key))
    with Gateway("coaps-x509", kafka, folder, *more, observe=("/3303/*/5700",), credentials=plant.path) as one:
        one.wait_ready()
        yield one


def test_device_registers_is_observed_and_asked_over_its_session(gateway: Gateway, plant: Plant) -> None:
    holder = issue("press-1")
    plant.add("press-1", holder)
    with CertificateDevice(gateway.secure_address, "press-1", holder, plant.authority) as device:
        port = device.port
        device.register()
        device.wait_observed(TEMPERATURE)
        for number, value in enumerate((20.5, 21.5, 22.5), start=2):
            assert device.tell(TEMPERATURE, number, value)
        until("its values", lambda: gateway.values("press-1", TEMPERATURE)[-3:] == [20.5, 21.5, 22.5])
        gateway.request("press-1", "t-press-1", RequestKind.READ, "/3303/0/5700")
        assert gateway.reply("t-press-1").rep.code is ResponseCode.CONTENT
        assert gateway.metric("dtls_certificate_sessions") == 1
        assert f'not_after_timestamp_seconds{{file="{plant.certificate}",identity="gateway"' in gateway.metrics()
    new = gateway.registrations("press-1")[0].body
    assert isinstance(new, RegistrationNew)
    assert (new.port, new.reg_port) == (port, gateway.coaps_port)


def test_certificate_registers_only_the_names_that_it_has(gateway: Gateway, plant: Plant) -> None:
    plant.trust("lathe-*", plant.authority)
    holder = issue("lathe-7", plant.authority, alternatives=("lathe-8", "press-1"))
    with CertificateDevice(gateway.secure_address, "lathe-7", holder, plant.authority) as device:
        device.register()
        for ep, code in (("lathe-9", Code.FORBIDDEN), ("press-1", Code.FORBIDDEN), ("lathe-8", Code.CREATED)):
            device.ep = ep
            assert device.try_to_register().code == code
        # It is for two.
        assert device.ask(Code.POST, ("rd",), ("lt=300",), b"</3/0>").code == Code.BAD_REQUEST
    one = issue("lathe-1", plant.authority)
    with CertificateDevice(gateway.secure_address, "lathe-1", one, plant.authority) as device:
        assert device.ask(Code.POST, ("rd",), ("lt=300", "lwm2m=1.1"), b"</3/0>").code == Code.CREATED
    until("its record", lambda: bool(gateway.registrations("lathe-1")))


def test_wrong_certificates_get_an_alert(gateway: Gateway, plant: Plant) -> None:
    expired = issue("press-2", days=-1)
    plant.add("press-2", expired)
    for holder, says in (
        (expired, "certificate expired"),
        (issue("press-2"), "unknown ca"),
        (issue("lathe-2", issue("stranger", is_authority=True)), "unknown ca"),
        (issue("drill-1", plant.authority), "alert"),
    ):
        with pytest.raises(AssertionError, match=says):
            CertificateDevice(gateway.secure_address, "press-2", holder, plant.authority)
    assert gateway.metric("dtls_certificate_dropped_total", reason="certificate expired") == 1
    assert gateway.metric("dtls_certificate_dropped_total", reason="certificate of nobody") == 3


def test_nobody_registers_such_a_name_in_the_clear(gateway: Gateway, plant: Plant) -> None:
    with RawDevice(gateway.address, "press-3") as plain:
        plain.register()
        plant.add("press-3", issue("press-3"))
        until("it is gone", lambda: gateway.registrations("press-3")[-1].kind is RegistrationKind.DELETE)
        assert plain.try_to_register().code == Code.FORBIDDEN


def test_keys_and_certificates_on_one_port(gateway: Gateway, plant: Plant) -> None:
    key = Psk(endpoint="mill-1", created=datetime.now(UTC), identity=b"mill-1", key=KeyBytes(KEY))
    holder = issue("mill-2")
    plant.store.put([key, plant.credential("mill-2", holder)], Put.ALL)
    with (
        SecureDevice(gateway.secure_address, "mill-1", KEY) as first,
        CertificateDevice(gateway.secure_address, "mill-2", holder, plant.authority) as second,
        SecureDevice(gateway.secure_address, "mill-1", KEY, cid=None) as third,
    ):
        second.register()
        third.register()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for length in range(300):
                stranger.sendto(os.urandom(length), gateway.secure_address)
        for _ in range(3):
            second.update("lt=600")
            third.update("lt=600")
        # What the one registered, the other does not change.
        assert third.ask(Code.DELETE, second.location, ()).code == Code.NOT_FOUND
        assert second.ask(Code.DELETE, third.location, ()).code == Code.NOT_FOUND
        assert first.was_told_to_end


def test_device_changes_from_a_key_to_a_certificate_and_back_at_one_address(gateway: Gateway, plant: Plant) -> None:
    holder = issue("drill-1")
    key = Psk(endpoint="drill-1", created=datetime.now(UTC), identity=b"drill-1", key=KeyBytes(KEY))
    plant.store.put([key, plant.credential("drill-1", holder)], Put.ALL)
    sessions = gateway.metric("dtls_sessions"), gateway.metric("dtls_certificate_sessions")
    with SecureDevice(gateway.secure_address, "drill-1", KEY, cid=None) as keyed:
        port = keyed.port
        keyed.register()
        location = keyed.location

    class CertifiedThere(CertificateDevice):
        bound_to = port

    class KeyedThere(SecureDevice):
        bound_to = port

    # A device that is closed lets go of its port when its thread ends.
    time.sleep(0.3)
    with CertifiedThere(gateway.secure_address, "drill-1", holder, plant.authority) as certified:
        certified.location = location
        certified.update("lt=600")
        assert (gateway.metric("dtls_sessions"), gateway.metric("dtls_certificate_sessions")) == (
            sessions[0],
            sessions[1] + 1,
        )
    time.sleep(0.3)
    with KeyedThere(gateway.secure_address, "drill-1", KEY, cid=None) as again:
        again.location = location
        again.update("lt=700")
        assert (gateway.metric("dtls_sessions"), gateway.metric("dtls_certificate_sessions")) == (
            sessions[0] + 1,
            sessions[1],
        )


def test_removed_certificate_ends_session_and_registration(gateway: Gateway, plant: Plant) -> None:
    holder, other = issue("saw-1"), issue("saw-2")
    made = plant.add("saw-1", holder)
    plant.add("saw-2", other)
    with (
        CertificateDevice(gateway.secure_address, "saw-1", holder, plant.authority) as device,
        CertificateDevice(gateway.secure_address, "saw-2", other, plant.authority) as bystander,
    ):
        device.register()
        bystander.register()
        assert plant.store.remove([made.id])
        until("the end of its session", lambda: device.was_told_to_end)
        until("it is gone", lambda: gateway.registrations("saw-1")[-1].kind is RegistrationKind.DELETE)
        bystander.update("lt=600")
        with pytest.raises(AssertionError, match="unknown ca"):
            device.connect()


def test_removed_signer_ends_those_whom_it_signed(gateway: Gateway, plant: Plant) -> None:
    signer = issue("line 9", is_authority=True)
    made = plant.trust("crane-*", signer)
    holder = issue("crane-1", signer)
    with CertificateDevice(gateway.secure_address, "crane-1", holder, plant.authority) as device:
        device.register()
        assert plant.store.remove([made.id])
        until("the end of its session", lambda: device.was_told_to_end)
        until("it is gone", lambda: gateway.registrations("crane-1")[-1].kind is RegistrationKind.DELETE)


def test_device_goes_on_after_a_restart_and_after_a_renewal(kafka: Cluster, plant: Plant, tmp_path: Path) -> None:
    plant.trust("kiln-*", plant.authority)
    holder, renewed = issue("kiln-1", plant.authority), issue("kiln-1", plant.authority)
    more = ("--coaps-cert", str(plant.certificate), "--coaps-key", str(plant.key))
    gateway = Gateway("coaps-x509-again", kafka, tmp_path, *more, observe=("/3303/*/5700",), credentials=plant.path)
    with gateway:
        gateway.wait_ready()
        with CertificateDevice(gateway.secure_address, "kiln-1", holder, plant.authority) as device:
            device.register()
            device.wait_observed(TEMPERATURE)
            location = device.location
            assert gateway.stop() == 0
            until("the gateway's goodbye", lambda: device.was_told_to_end)
            gateway.start()
            gateway.wait_ready()
            device.connect()
            device.update("lt=600")
            gateway.request("kiln-1", "t-kiln-1", RequestKind.READ, "/3303/0/5700")
            assert gateway.reply("t-kiln-1").rep.code is ResponseCode.CONTENT
        with CertificateDevice(gateway.secure_address, "kiln-1", renewed, plant.authority) as device:
            device.location = location
            device.update("lt=700")
            gateway.request("kiln-1", "t-kiln-2", RequestKind.READ, "/3303/0/5700")
            assert gateway.reply("t-kiln-2").rep.code is ResponseCode.CONTENT


def _port_of(gateway: Gateway, ep: str) -> int:
    """As the last update has it; 0 before the first."""
    body = gateway.registrations(ep)[-1].body
    return body.port if isinstance(body, RegistrationUpdate) else 0


def _handshakes(gateway: Gateway, kind: str) -> float:
    return gateway.metric("dtls_handshakes_total", kind=kind)


def test_device_whose_address_changes_resumes_its_session_and_goes_on(gateway: Gateway, plant: Plant) -> None:
    holder = issue("valve-1")
    plant.add("valve-1", holder)
    with CertificateDevice(gateway.secure_address, "valve-1", holder, plant.authority) as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        assert device.tell(TEMPERATURE, 2, 20.5)
        number, asked = 2, len(device.requests)
        for turn, word in enumerate(("Update", "Notify", "nothing")):
            device.move()
            # Nobody is told by a record whose session has another address, as RFC 6347 section 4.1.2.7 has it.
            silent = gateway.metric("dtls_dropped_total", reason="no session")
            heard = list(device.requests), dict(device.acknowledged), list(device.alerts)
            device.notify(TEMPERATURE, number + 1, -1.0)
            until("the drop", lambda before=silent: gateway.metric("dtls_dropped_total", reason="no session") > before)  # type: ignore[misc]
            assert heard == (device.requests, dict(device.acknowledged), device.alerts)
            whole, resumed = _handshakes(gateway, "whole"), _handshakes(gateway, "resumed")
            device.connect(resumes=True)
            # The device has the last word, so the gateway is done after it.
            until("the handshake", lambda before=resumed: _handshakes(gateway, "resumed") == before + 1)  # type: ignore[misc]
            assert _handshakes(gateway, "whole") == whole
            if word == "Update":
                device.update()
                until("its new address", lambda: _port_of(gateway, "valve-1") == device.port)
            elif word == "Notify":
                # With the token and the registration of before.
                number += 2
                value = 30.0 + turn
                assert device.tell(TEMPERATURE, number, value)
                until("its value", lambda wanted=value: gateway.values("valve-1", TEMPERATURE)[-1] == wanted)  # type: ignore[misc]
            ticket = f"t-valve-{turn}"
            gateway.request("valve-1", ticket, RequestKind.READ, "/3303/0/5700")
            assert gateway.reply(ticket).rep.code is ResponseCode.CONTENT
        # Nothing was asked again but what was to be read.
        assert len(device.requests) == asked + 3
        assert -1.0 not in gateway.values("valve-1", TEMPERATURE)
        assert gateway.metric("dtls_certificate_sessions_resumable") >= 1
        assert [one.kind for one in gateway.registrations("valve-1")].count(RegistrationKind.NEW) == 1


def test_removed_certificate_is_not_resumed(gateway: Gateway, plant: Plant) -> None:
    holder = issue("valve-2")
    made = plant.add("valve-2", holder)
    with CertificateDevice(gateway.secure_address, "valve-2", holder, plant.authority) as device:
        device.register()
        device.move()
        assert plant.store.remove([made.id])
        refused = gateway.metric("dtls_certificate_dropped_total", reason="resumption refused")
        with pytest.raises(AssertionError, match="unknown ca"):
            device.connect(resumes=True)
        assert gateway.metric("dtls_certificate_dropped_total", reason="resumption refused") == refused + 1
        until("it is gone", lambda: gateway.registrations("valve-2")[-1].kind is RegistrationKind.DELETE)


def test_gateway_without_a_usable_certificate_says_why(kafka: Cluster, plant: Plant, tmp_path: Path) -> None:
    other = issue("other").write(tmp_path, "other")[1]
    more = ("--coaps-cert", str(plant.certificate), "--coaps-key", str(other))
    with Gateway("coaps-x509-wrong", kafka, tmp_path, *more, credentials=plant.path) as gateway:
        gateway.wait_ended()
        assert "is not that of the first certificate in" in gateway.said()
