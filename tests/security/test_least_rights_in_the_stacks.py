"""The stores' users as the stacks deploy them: who is given which secret, and that the service that makes them, the
sinks' files and Grafana's data source go together. Run on the real servers, without any Docker."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import subprocess
import sys
import tomllib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from connectors.sinks import SINKS
from headwater.deploy.material import PASSWORDS, make_password
from headwater.deploy.stackfile import interpolate, read
from tests import orientdb_server
from tests.sink_samples import at, new, notification, resource
from tests.stores.influxdb import InfluxdbStore
from tests.stores.orientdb import OrientdbStore

ROOT = Path(__file__).parents[2]
STACKS = ROOT / "stacks"
SECRETS = "/run/secrets"
PATIENCE_S = 120.0

#: Who may have the secrets of the stores, in all stacks.
HOLDERS = {
    "influxdb_password": {"influxdb"},
    "influxdb_token": {"influxdb", "stores_setup"},
    "influxdb_sink_password": {"influxdb-sink", "stores_setup"},
    "influxdb_grafana_password": {"grafana", "stores_setup"},
    "orientdb_password": {"orientdb", "stores_setup"},
    "orientdb_sink_password": {"orientdb-sink", "stores_setup"},
}


def _services() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(STACKS.glob("*.yml")):
        yield from read(file)["services"].items()


def test_each_secret_of_a_store_is_given_to_its_consumer_alone() -> None:
    found: dict[str, set[str]] = {name: set() for name in HOLDERS}
    for service, content in _services():
        for secret in content.get("secrets") or ():
            name = secret if isinstance(secret, str) else secret["source"]
            if name.startswith(("influxdb", "orientdb")):
                found[name].add(service)
    assert found == HOLDERS
    assert HOLDERS.keys() <= PASSWORDS.keys()


def _setting(service: Mapping[str, Any], name: str) -> str:
    return interpolate(service["environment"][name], {})


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The secrets as a deployment makes them, but for those of the servers that run already."""
    folder = tmp_path / "secrets"
    for name in HOLDERS:
        make_password(folder / name)
    return folder


def test_what_the_stacks_deploy_works_with_the_users_that_they_make(secrets: Path, tmp_path: Path) -> None:
    services = dict(_services())
    influxdb, orientdb = InfluxdbStore(tmp_path), OrientdbStore(tmp_path, protocol="http")
    (secrets / "influxdb_token").write_text(influxdb.server.token)
    (secrets / "orientdb_password").write_text(orientdb_server.PASSWORD)
    setup = services["stores_setup"]
    (script,) = setup["command"]
    script = interpolate(script, {})
    here = {
        "http://influxdb:8086": influxdb.server.url,
        "--host orientdb": f"--host 127.0.0.1 --port {orientdb.server.http_port}",
        SECRETS: str(secrets),
        "headwater stores": f"{shlex.quote(sys.executable)} -m headwater.cli stores",
    }
    for there, instead in here.items():
        assert there in script
        script = script.replace(there, instead)
    environment = {name: _setting(setup, name) for name in setup["environment"]}
    assert environment["INFLUXDB_BUCKET"] == environment["ORIENTDB_DATABASE"] == "headwater"
    environment |= {"INFLUXDB_BUCKET": influxdb.database, "ORIENTDB_DATABASE": orientdb.database}
    entry = [*setup["entrypoint"], script]
    for _ in range(2):
        done = subprocess.run(
            entry,
            env=os.environ | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    _sink_works("influxdb", services, secrets, {"url": influxdb.server.url, "bucket": influxdb.database})
    assert len(influxdb.history()) == 1
    where = {"host": "127.0.0.1", "port": orientdb.server.http_port, "database": orientdb.database}
    _sink_works("orientdb", services, secrets, where)
    assert orientdb.endpoint("ep-1") is not None

    (source,) = (
        one
        for one in yaml.safe_load((STACKS / "grafana/provisioning/datasources/headwater.yml").read_text())[
            "datasources"
        ]
        if one["type"] == "influxdb"
    )
    assert source["basicAuth"] is True
    word = source["secureJsonData"]["basicAuthPassword"].removeprefix("$__file{").removesuffix("}")
    login = f"{source['basicAuthUser']}:{_there(word, secrets).read_text()}"
    told = _query(influxdb, login, "SELECT value FROM resources")
    assert len(told["series"][0]["values"]) == 1
    assert "not authorized" in _query(influxdb, login, "DROP MEASUREMENT resources")["error"]

    # One of the stores alone is not enough, and the other one is made ready all the same.
    (secrets / "orientdb_password").write_text("another one than the server's")
    done = subprocess.run(
        entry, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    assert "may write the database" in done.stdout
    assert "another one" not in done.stdout + done.stderr


def _there(file: str, secrets: Path) -> Path:
    return Path(file.replace(SECRETS, str(secrets)))


def _sink_works(name: str, services: Mapping[str, Any], secrets: Path, where: Mapping[str, object]) -> None:
    """Write a record with the options of the stack's own file, but for where the store is."""
    options: dict[str, object] = {}
    given = tomllib.loads((STACKS / f"sinks/{name}.toml").read_text())[name]
    for key, value in given.items():
        if key.endswith("_env"):
            options[key.removesuffix("_env")] = _setting(services[f"{name}-sink"], value)
        else:
            options[key] = str(_there(value, secrets)) if key.endswith("_file") else value
    sink = SINKS[name].open({**options, **where})
    sink.write([at(0, notification(resource("/3303/0/5700", 1.0)) if name == "influxdb" else new())])
    sink.close()


def _query(store: InfluxdbStore, login: str, influxql: str) -> dict[str, Any]:
    link = http.client.HTTPConnection("127.0.0.1", store.server.port, timeout=PATIENCE_S)
    headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"}
    link.request("POST", f"/query?db={store.database}&q={quote(influxql)}", headers=headers)
    told = json.loads(link.getresponse().read())
    link.close()
    return dict(told["results"][0]) if "results" in told else dict(told)
