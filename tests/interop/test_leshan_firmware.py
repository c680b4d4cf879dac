"""Eclipse Leshan's client takes an image: sent by the gateway in blocks, and fetched with Californium's block-wise GET
from another socket than the one that it registered from."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.cli import app
from tests.interop.gateway_process import GatewayProcess
from tests.interop.leshan_device import LeshanDevice

pytestmark = [pytest.mark.interop, pytest.mark.kafka]


@pytest.mark.parametrize(("method", "size"), [("push", 8_000), ("pull", 60_000)])
def test_leshan_is_updated(
    gateway: GatewayProcess, fresh_leshan: LeshanDevice, tmp_path: Path, method: str, size: int
) -> None:
    # Leshan's client takes requests of up to 8,192 bytes as it is.
    image = random.Random(size + len(method)).randbytes(size)
    path = tmp_path / "image.bin"
    path.write_bytes(image)
    result = CliRunner().invoke(
        app,
        [
            *("firmware", method, fresh_leshan.endpoint, str(path), "--patience", "120"),
            *("--gateway", gateway.gateway_id, "--kafka", gateway.cluster.bootstrap),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "is updated; its firmware version is 2.0.0-M18" in result.output
    fresh_leshan.event("image", sha256=hashlib.sha256(image).hexdigest())
    fresh_leshan.event("executed", path="/5/0/2")
