"""Devices with pre-shared keys at a gateway process on a real Kafka: who gets in as whom, and what outlives what."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster
from schemas.avro.records import (
    RegistrationKind,
    RegistrationNew,
    RegistrationUpdate,
    RequestKind,
    ResponseCode,
)
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import CredentialId, Kind, Psk
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.raw_device import RawDevice
from tests.secure_device import SecureDevice
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

KEY, OTHER = b"sixteen byte key", b"another key here"
TEMPERATURE = "/3303/0/5700"


class Keys:
    """The store that the gateway reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = SqliteCredentials(path, make=True)

    def add(self, endpoint: str, key: bytes = KEY, *, identity: str = "") -> None:
        made = Psk(
            endpoint=endpoint, created=datetime.now(UTC), identity=(identity or endpoint).encode(), key=KeyBytes(key)
        )
        self.store.put([made], Put.ALL)

    def remove(self, identity: str) -> None:
        assert self.store.remove([CredentialId(Kind.PSK, identity)])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    made = Keys(tmp_path_factory.mktemp("credentials") / "credentials.db")
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def gateway(kafka: Cluster, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("coaps")
    with Gateway("coaps", kafka, folder, observe=("/3303/*/5700",), credentials=keys.path) as one:
        one.wait_ready()
        yield one


def test_device_registers_is_observed_and_asked_over_its_session(gateway: Gateway, keys: Keys) -> None:
    keys.add("press-1")
    with SecureDevice(gateway.secure_address, "press-1", KEY) as device:
        port = device.port
        device.register()
        device.wait_observed(TEMPERATURE)
        for number, value in enumerate((20.5, 21.5, 22.5), start=2):
            assert device.tell(TEMPERATURE, number, value)
        until("its values", lambda: gateway.values("press-1", TEMPERATURE)[-3:] == [20.5, 21.5, 22.5])
        gateway.request("press-1", "t-press-1", RequestKind.READ, "/3303/0/5700")
        assert gateway.reply("t-press-1").rep.code is ResponseCode.CONTENT
    new = gateway.registrations("press-1")[0].body
    assert isinstance(new, RegistrationNew)
    assert (new.port, new.reg_port) == (port, gateway.coaps_port)


def test_name_may_be_left_out_where_the_key_is_for_one(gateway: Gateway, keys: Keys) -> None:
    keys.add("press-2", identity="id-of-press-2")
    with SecureDevice(gateway.secure_address, "press-2", KEY, identity="id-of-press-2") as device:
        answer = device.ask(Code.POST, ("rd",), ("lt=300", "lwm2m=1.1"), b"</3/0>")
        assert answer.code == Code.CREATED
    until("its record", lambda: bool(gateway.registrations("press-2")))


def test_key_registers_no_other_name_than_its_own(gateway: Gateway, keys: Keys) -> None:
    keys.add("lathe-*", identity="lathes")
    with SecureDevice(gateway.secure_address, "lathe-7", KEY, identity="lathes") as device:
        device.register()
        device.ep = "press-1"
        assert device.try_to_register().code == Code.FORBIDDEN
        device.ep = ""
        assert device.ask(Code.POST, ("rd",), ("lt=300",), b"</3/0>").code == Code.BAD_REQUEST
    assert {one.body.ep for one in gateway.registrations("lathe-7")} == {"lathe-7"}


def test_nobody_without_the_key_registers_or_ends_what_has_one(gateway: Gateway, keys: Keys) -> None:
    keys.add("press-3")
    with (
        SecureDevice(gateway.secure_address, "press-3", KEY) as device,
        RawDevice(gateway.address, "press-3") as stranger,
        SecureDevice(gateway.secure_address, "lathe-8", KEY, identity="lathes") as colleague,
    ):
        device.register()
        assert stranger.try_to_register().code == Code.FORBIDDEN
        for other in (stranger, colleague):
            for code in (Code.POST, Code.DELETE):
                assert other.ask(code, device.location, ("lt=60",) if code == Code.POST else ()).code == Code.NOT_FOUND
        device.update("lt=600")
    # A name that nobody has a key for still registers in the clear.
    with RawDevice(gateway.address, "open-1") as plain:
        plain.register()


def test_wrong_key_gets_an_alert_and_costs_the_device_nothing(gateway: Gateway, keys: Keys) -> None:
    keys.add("press-4")
    with SecureDevice(gateway.secure_address, "press-4", KEY) as device:
        device.register()
        for identity in ("press-4", "nobody-has-this"):
            with pytest.raises(AssertionError, match=r"alerts: \[\(2, 51\)\]"):
                SecureDevice(gateway.secure_address, "press-4", OTHER, identity=identity)
        device.update()


def test_session_goes_on_when_the_address_changes_and_the_new_one_is_recorded(gateway: Gateway, keys: Keys) -> None:
    keys.add("press-5")
    with SecureDevice(gateway.secure_address, "press-5", KEY) as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        assert device.tell(TEMPERATURE, 2, 1.0)
        device.move()
        assert device.tell(TEMPERATURE, 3, 2.0)
        assert gateway.metric("dtls_moved_total") >= 1
        device.update()
        gateway.request("press-5", "t-press-5", RequestKind.READ, TEMPERATURE)
        assert gateway.reply("t-press-5").rep.code is ResponseCode.CONTENT
        port = device.port

        def last_port() -> int:
            body = gateway.registrations("press-5")[-1].body
            return body.port if isinstance(body, RegistrationUpdate) else 0

        until("the record of its new address", lambda: last_port() == port)
    assert [one.kind for one in gateway.registrations("press-5")].count(RegistrationKind.NEW) == 1
    until("both values", lambda: gateway.values("press-5", TEMPERATURE)[-2:] == [1.0, 2.0])


@pytest.mark.parametrize("resumed", [False, True])
def test_new_session_goes_on_with_registration_and_observation(gateway: Gateway, keys: Keys, resumed: bool) -> None:
    ep = f"press-6-{resumed}"
    keys.add(ep)
    with SecureDevice(gateway.secure_address, ep, KEY, cid=None) as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        assert device.client is not None
        ticket = device.client.take_ticket() if resumed else None
        device.move()
        device.connect(ticket=ticket)
        assert device.client.resumed == resumed
        assert device.tell(TEMPERATURE, 2, 5.0)
        gateway.request(ep, f"t-{ep}", RequestKind.READ, TEMPERATURE)
        assert gateway.reply(f"t-{ep}").rep.code is ResponseCode.CONTENT
    until("its value", lambda: 5.0 in gateway.values(ep, TEMPERATURE))
    assert [one.kind for one in gateway.registrations(ep)] == [RegistrationKind.NEW]


@pytest.mark.parametrize("change", ["removed", "changed"])
def test_session_ends_when_its_key_does(gateway: Gateway, keys: Keys, change: str) -> None:
    ep = f"press-7-{change}"
    keys.add(ep)
    with SecureDevice(gateway.secure_address, ep, KEY) as device:
        device.register()
        if change == "removed":
            keys.remove(ep)
        else:
            keys.add(ep, OTHER)
        device.until("the end of the session", lambda: device.was_told_to_end)
        with pytest.raises(AssertionError, match="no session"):
            device.connect(patience=5)
    if change == "removed":
        # And so does its registration: nobody finds it, its observations or what waits for it.
        until("the end of its registration", lambda: gateway.registrations(ep)[-1].kind is RegistrationKind.DELETE)
    if change == "changed":
        with SecureDevice(gateway.secure_address, ep, OTHER) as device:
            device.register()


def test_registration_in_the_clear_ends_when_its_name_gets_a_key(gateway: Gateway, keys: Keys) -> None:
    with RawDevice(gateway.address, "press-10") as plain:
        plain.register()
        keys.add("press-10")
        until("its end", lambda: gateway.registrations("press-10")[-1].kind is RegistrationKind.DELETE)
        assert plain.try_to_register().code == Code.FORBIDDEN
    with SecureDevice(gateway.secure_address, "press-10", KEY) as device:
        device.register()


def test_registration_and_observation_outlive_a_restart_of_the_gateway(gateway: Gateway, keys: Keys) -> None:
    keys.add("press-8")
    with SecureDevice(gateway.secure_address, "press-8", KEY) as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        assert device.tell(TEMPERATURE, 2, 7.0)
        gateway.stop()
        # It knows at once that it has to make another session, and needs no registration for it.
        device.until("the end of the session", lambda: device.was_told_to_end)
        gateway.start()
        gateway.wait_ready()
        device.connect()
        assert device.tell(TEMPERATURE, 3, 8.0)
        device.update()
        gateway.kill()
        gateway.start()
        # Before the gateway knows its registrations.
        device.connect()
        gateway.wait_ready()
        assert device.tell(TEMPERATURE, 4, 9.0)
    until("its values", lambda: gateway.values("press-8", TEMPERATURE)[-3:] == [7.0, 8.0, 9.0])
    assert [one.kind for one in gateway.registrations("press-8")].count(RegistrationKind.NEW) == 1


def test_started_without_the_keys_nobody_takes_the_name_in_the_clear(
    kafka: Cluster, keys: Keys, tmp_path: Path
) -> None:
    keys.add("press-11")
    with Gateway("coaps-lost", kafka, tmp_path, credentials=keys.path) as before:
        before.wait_ready()
        with SecureDevice(before.secure_address, "press-11", KEY) as device:
            device.register()
    with Gateway("coaps-lost", kafka, tmp_path) as after:
        after.wait_ready()
        with RawDevice(after.address, "press-11") as stranger:
            assert stranger.try_to_register().code == Code.FORBIDDEN


def test_without_the_plain_port_only_keys_get_in(kafka: Cluster, keys: Keys, tmp_path: Path) -> None:
    keys.add("press-9")
    with Gateway("coaps-only", kafka, tmp_path, "--no-insecure", credentials=keys.path) as closed:
        closed.wait_ready()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", closed.coap_port))  # nobody has it
        with SecureDevice(closed.secure_address, "press-9", KEY) as device:
            device.register()
