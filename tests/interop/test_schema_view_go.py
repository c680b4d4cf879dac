"""The view of the schemas as a client in Go meets it: franz-go's, built from its source."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.schema_server import SchemaServerSettings, run
from schemas.avro import serde
from schemas.avro.records import Key
from schemas.avro.registry import SCHEMAS
from security.api_keys import Scope, add, new_key
from tests.installed_server import installed

pytestmark = pytest.mark.interop

SOURCE = Path(__file__).with_name("schema_view_go")
#: Patience with a busy machine, in seconds; the first time the compiler builds Go's own library too.
BUILD_S = 1800.0
FRANZ = "1.8.0"


def _build(staging: Path) -> Path:
    source, made = staging / "source", staging / "bin"
    shutil.copytree(SOURCE, source)
    done = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "go", "build", "-trimpath", "-o", made / "view", "."],
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
def test_a_client_in_go_finds_the_schema_of_a_record(tmp_path: Path) -> None:
    view = installed(f"franz-go-sr-{FRANZ}", _build) / "view"
    keys = tmp_path / "keys.json"
    key, row = new_key("go", frozenset({Scope.SCHEMAS_READ}), now=datetime.now(UTC), expires=None)
    add(keys, row)
    stop, started, ports = threading.Event(), threading.Event(), []

    def listening(port: int) -> None:
        ports.append(port)
        started.set()

    settings = SchemaServerSettings(port=0, keys=keys, gateways=("rock64",))
    server = threading.Thread(target=run, args=(settings, stop, listening))
    server.start()
    try:
        assert started.wait(60)
        record = serde.encode(Key(ep="sensor-1"))
        arguments = [f"http://127.0.0.1:{ports[0]}", key, "iot.rock64.observations-value", record.hex()]
        done = subprocess.run([view, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert "iot.rock64.observations-value" in found["subjects"]
        assert (found["id"], found["version"]) == (6, 2)
        assert (found["record"], found["left"]) == (1, len(record) - 5)
        assert json.loads(found["schema"]) == json.loads(SCHEMAS[1].text)
        assert found["missing"] == "Schema 4711 not found"
        arguments[1] = "hw_wrong"
        refused = subprocess.run([view, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert refused.returncode == 1
        assert "the key is not valid" in refused.stderr
    finally:
        stop.set()
        server.join(20)
