"""A device that is bootstrapped for OSCORE: it gets objects 0 and 21, and by what is written there alone it registers,
with aiocoap's OSCORE, at a gateway that takes nobody in the clear; on a real Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiocoap.numbers.codes import Code

from connectors.kafka import Cluster
from schemas.avro.records import RegistrationKind, RequestKind, ResponseCode
from schemas.lwm2m import formats
from schemas.lwm2m.nodes import ObjectLink, Value, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path as LwM2mPath
from security.credentials.key_bytes import KeyBytes
from security.credentials.kinds import Oscore
from security.credentials.sqlite import SqliteCredentials
from tests.bootstrap_process import Answers, BootstrapProcess
from tests.oscore_device import OscoreDevice
from tests.secure_device import SecureDevice, new_store
from tests.way import Gateway, until

pytestmark = [pytest.mark.kafka]

EP = "press-7"
KEY = b"a factory's key."
TLV = 11542
TEMPERATURE = "/3303/0/5700"
#: RFC 9053: AES-CCM-16-64-128, and HMAC 256/256, which the specification of object 21 has for HKDF SHA-256.
AES_CCM, HMAC_256 = 10, 5
CONFIG = """
default:
  servers:
    - uri: coap://127.0.0.1:{port}
      short_id: 123
      security: oscore
      store: {store}
"""


@dataclass
class Site:
    """A gateway whose store has no credential yet, and a bootstrap server that makes them."""

    gateway: Gateway
    server: BootstrapProcess

    def bootstrap(self, runs: int) -> dict[str, Value]:
        """What a device gets that begins now, by path; ``runs`` of it there are then."""
        answers = Answers()
        with SecureDevice(self.server.coaps, EP, KEY) as device:
            device.answer = answers
            assert device.ask(Code.POST, ("bs",), (f"ep={EP}",)).code == Code.CHANGED
            run = self.server.ended(EP, runs)
        assert run["outcome"] == "done", run
        known = Definitions.builtin()
        nodes = [
            formats.decode(TLV, payload, LwM2mPath.parse(path), known) for path, payload in answers.written.items()
        ]
        return {str(one.path): one.value for node in nodes for one in values(node)}


@pytest.fixture
def site(kafka: Cluster, tmp_path: Path) -> Iterator[Site]:
    store, folder = tmp_path / "gateway.db", tmp_path / "bootstrap"
    folder.mkdir()
    SqliteCredentials(store, make=True).close()
    with Gateway(
        "oscore-bs", kafka, tmp_path, "--no-insecure", observe=("/3303/*/5700",), credentials=store
    ) as gateway:
        gateway.wait_ready()
        config = CONFIG.format(port=gateway.coap_port, store=store)
        server = BootstrapProcess(folder, config, credentials=new_store(folder / "keys.db", {EP: KEY}))
        try:
            yield Site(gateway, server)
        finally:
            assert server.stop() == 0, server.said()


def context(got: dict[str, Value], gateway: Gateway) -> Oscore:
    """The context that a device makes of what it got, as the gateway would have it."""
    assert (got["/0/1/0"], got["/0/1/2"], got["/0/1/10"]) == (f"coap://127.0.0.1:{gateway.coap_port}", 3, 123)
    assert got["/0/1/17"] == ObjectLink(21, 0)
    assert (got["/21/0/3"], got["/21/0/4"]) == (AES_CCM, HMAC_256)
    secret, own, other = got["/21/0/0"], got["/21/0/1"], got["/21/0/2"]
    assert isinstance(secret, bytes)
    assert isinstance(own, bytes)
    assert isinstance(other, bytes)
    # No salt and no ID Context, as none is written.
    assert not {"/21/0/5", "/21/0/6"} & got.keys()
    return Oscore(
        endpoint=EP, created=datetime.now(UTC), master_secret=KeyBytes(secret), sender_id=other, recipient_id=own
    )


def test_device_registers_with_the_context_that_it_was_given_and_again_with_a_fresh_one(site: Site) -> None:
    gateway = site.gateway
    first = context(site.bootstrap(1), gateway)
    with OscoreDevice(gateway.address, first) as device:
        device.register()
        device.wait_observed(TEMPERATURE)
        assert device.tell(TEMPERATURE, 2, 20.5)
        gateway.request(EP, "one", RequestKind.READ, TEMPERATURE)
        assert gateway.reply("one").rep.code is ResponseCode.CONTENT
    second = context(site.bootstrap(2), gateway)
    assert second.master_secret != first.master_secret
    assert second.recipient_id != first.recipient_id
    # With Finish the one before is gone, and what was registered with it.
    until("the end of the registration", lambda: len(gateway.registrations(EP)) >= 2)
    with OscoreDevice(gateway.address, second) as device:
        device.register()
        gateway.request(EP, "two", RequestKind.READ, TEMPERATURE)
        assert gateway.reply("two").rep.code is ResponseCode.CONTENT
    until("the second registration", lambda: len(gateway.registrations(EP)) >= 3)
    kinds = [one.kind for one in gateway.registrations(EP)]
    assert kinds == [RegistrationKind.NEW, RegistrationKind.DELETE, RegistrationKind.NEW]
