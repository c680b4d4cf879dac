"""Devices that leave something on the dashboards by how they speak.

With certificates, with OSCORE, by Sends, for others behind them: each does once what goes well and once what does not.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from aiocoap import CON, Message
from aiocoap.numbers.codes import Code

from security.credentials.kinds import X509
from security.credentials.sqlite import SqliteCredentials
from security.credentials.store import Put
from tests.certificate_device import CertificateDevice
from tests.certificates import Holder, issue
from tests.gateway_device import GatewayDevice
from tests.oscore_device import OscoreDevice, credential
from tests.raw_device import RawDevice
from tests.way import Gateway, until

#: Their endpoint names.
CERTIFIED, PROTECTED, SENDING, BRIDGE = "sensor.e+1", "sensor.f+1", "sensor.g+1", "bridge.h+1"
_SENML_JSON = 110
_VALUE = b'[{"n": "/3303/0/5700", "v": 21.5}]'


class Plant:
    """Who signs, what the gateway shows, and what the devices have; made before the gateway starts."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.authority = issue("plant", is_authority=True)
        self.holder: Holder = issue(CERTIFIED, self.authority)
        self.protected = credential(PROTECTED, b"\1")
        certificate, key = issue("gateway", self.authority).write(folder, "gateway")
        self.options = ("--coaps-cert", str(certificate), "--coaps-key", str(key))
        opened = SqliteCredentials(store)
        known = X509(endpoint=CERTIFIED, created=datetime.now(UTC), certificate=self.holder.der)
        opened.put([known, self.protected], Put.NEW)
        opened.close()


def use(gateway: Gateway, plant: Plant) -> None:
    """Have them speak."""
    with CertificateDevice(gateway.secure_address, CERTIFIED, plant.holder, plant.authority) as device:
        device.register()
    stranger = issue("stranger")
    with contextlib.suppress(AssertionError):
        CertificateDevice(gateway.secure_address, "stranger", stranger, plant.authority, patience=5.0).close()
    with OscoreDevice(gateway.address, plant.protected) as protected:
        protected.register()
    with OscoreDevice(gateway.address, plant.protected, secret=bytes(16)) as wrong:
        asking = Message(code=Code.GET, uri_path=("rd",))
        asking.mtype, asking.mid, asking.token = CON, wrong.next_mid(), b"\1"
        wrong.send(asking.encode())
        wrong.until("it is refused", lambda: bool(wrong.refusals))
    with RawDevice(gateway.address, SENDING) as sending:
        assert _send(sending) == Code.NOT_FOUND
        sending.register(version="1.1")
        assert _send(sending) == Code.CHANGED
    # One of them has no name.
    with GatewayDevice(gateway.address, BRIDGE, "lamp", "") as bridge:
        bridge.join()
        until("who is behind the bridge", lambda: gateway.metric("devices_behind") == 1)
    for name in ("dtls_certificate_dropped_total", "devices_behind_refused_total", "sends_refused_total"):
        assert f"headwater_gateway_{name}{{" in gateway.metrics(), name


def _send(device: RawDevice) -> Code:
    return device.ask(Code.POST, ("dp",), payload=_VALUE, content_format=_SENML_JSON).code
