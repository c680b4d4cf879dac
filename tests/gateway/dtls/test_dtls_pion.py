"""The DTLS server against pion, a client in Go that knows Connection ID, over UDP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from gateway.dtls.events import Closed, Ending, Established, Moved
from gateway.dtls.server import Server
from gateway.dtls.settings import Settings
from tests.gateway.dtls.dtls_link import KEY, of
from tests.gateway.dtls.dtls_udp_server import UdpServer
from tests.installed_server import installed

pytestmark = pytest.mark.interop

SOURCE = Path(__file__).with_name("dtls_pion_go")
#: Patience with a busy machine, in seconds; the first time the compiler builds Go's own library too.
BUILD_S = 1800.0
PION = "3.1.15"


def _build(staging: Path) -> Path:
    source, made = staging / "source", staging / "bin"
    shutil.copytree(SOURCE, source)
    done = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "go", "build", "-trimpath", "-o", made / "client", "."],
        cwd=source,
        env=os.environ
        | {
            "GOPATH": str(staging / "path"),
            "GOTMPDIR": str(staging),
            "GOFLAGS": "-modcacherw",  # else what was downloaded could not be deleted
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the client in Go could not be built:\n{done.stderr[-4000:]}")
    return made


@pytest.mark.timeout(BUILD_S)
def test_pion_makes_sessions_with_connection_ids_and_changes_its_port_under_them() -> None:
    client = installed(f"pion-dtls-client-{PION}", _build) / "client"
    identities = [f"device-{number}" for number in range(10)]
    keys = {identity.encode(): KEY for identity in identities}
    with UdpServer(Server(keys.get, Settings(doubt=0.2))) as udp:
        command = [str(client), str(udp.port), KEY.hex(), *identities, "nobody"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        ended = json.loads(done.stdout)
        assert "DecryptError" in ended.pop("nobody")
        assert ended == dict.fromkeys(identities, "well")
        assert {event.session.identity.decode() for event in of(Established, udp.events)} == set(identities)
        assert len(of(Moved, udp.events)) >= 2 * len(identities)
        assert {event.ending for event in of(Closed, udp.events)} == {Ending.CLOSE_NOTIFY}
