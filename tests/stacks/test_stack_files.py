"""Every stack file with every file of settings: what is true of all services, and that Docker reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloud.campaigns.service import CampaignSettings
from gateway.bootstrap.config import load
from gateway.bootstrap.settings import BootstrapSettings
from gateway.dtls_certificates.settings import CertificateFiles
from gateway.settings import GatewaySettings
from headwater import lean
from headwater.cli import app
from headwater.commands.deploy import STACKS
from headwater.deploy.stackfile import (
    FLEET,
    REVISION,
    RUNS,
    StackFileError,
    interpolate,
    merge,
    read,
    settings,
    variables_of,
)
from tests.stacks.docker_host import need_docker

FOLDER = Path(__file__).resolve().parents[2] / "stacks"
FILES = sorted(path.stem for path in FOLDER.glob("*.yml"))
PROFILES = sorted(path.stem for path in (FOLDER / "settings").glob("*.env"))
#: What has to be said for each deployment, beside a profile.
GIVEN = {
    "GATEWAY": "rock64",
    "SINK_GATEWAY": "*",
    "SINK_NAME": "all",
    "JOB": "outliers",
    **dict.fromkeys(
        (
            "ADMIN_TLS", "ANALYTICS_TLS", "API_KEYS_HASH", "BROKER_TLS", "CAMPAIGNS_TLS", "CLIENT_TLS", "GATEWAY_TLS",
            "GRAFANA_PASSWORD_HASH", "INFLUXDB_GRAFANA_PASSWORD_HASH", "INFLUXDB_PASSWORD_HASH",
            "INFLUXDB_SINK_PASSWORD_HASH", "INFLUXDB_TOKEN_HASH", "ORIENTDB_PASSWORD_HASH",
            "ORIENTDB_SINK_PASSWORD_HASH", "REPLICATOR_TLS", "SENSORS_HASH", "SINK_TLS",
        ),
        "0123456789ab",
    ),
}  # fmt: skip
#: The image is one program with nothing to ask it; that it is gone is seen by its metrics.
NOTHING_TO_ASK = {"alerts"}
#: Of other people's images, those that write elsewhere than into their volumes.
WRITES = {"influxdb", "orientdb"}
#: It reads what only root of the host may.
SEES_THE_HOST = {"cadvisor"}
#: Ours, which is built, and pinned by its version.
OURS = re.compile(r"headwater(-kafka)?:\d+\.\d+\.\d+")
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+(\.\d+)+(@sha256:[0-9a-f]{64})?")


def _interpolated(part: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(part, str):
        return interpolate(part, variables)
    if isinstance(part, Mapping):
        return {key: _interpolated(value, variables) for key, value in part.items()}
    if isinstance(part, list):
        return [_interpolated(one, variables) for one in part]
    return part


def _services(profile: str | None = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Stack, name and contents of every service there is."""
    variables = GIVEN | (settings(FOLDER / "settings" / f"{profile}.env") if profile else {})
    for stack in FILES:
        for name, service in _interpolated(read(FOLDER / f"{stack}.yml"), variables)["services"].items():
            yield stack, name, service


SERVICES = list(_services())
each_service = pytest.mark.parametrize(
    ("stack", "name", "service"), SERVICES, ids=[f"{stack}-{name}" for stack, name, _ in SERVICES]
)


def test_all_stacks_are_there() -> None:
    assert FILES == ["analytics", "campaigns", "cloud", "connectors", "gateway", "monitoring", "replicator", "sensors"]
    assert {"amd64", "arm64v8", "arm32v7", "lowmem", "cloud"} <= set(PROFILES)


@each_service
def test_service_is_limited_placed_updated_checked_and_logged(stack: str, name: str, service: dict[str, Any]) -> None:
    deploy = service["deploy"]
    limits, reservations = deploy["resources"]["limits"], deploy["resources"]["reservations"]
    assert _bytes(limits["memory"]) >= _bytes(reservations["memory"]) > 0
    # Docker refuses more than a machine has; the smallest board that settings are for has four cores, and tests two.
    assert 0 < float(limits["cpus"]) <= 2
    assert all(one.startswith("node.") for one in deploy["placement"]["constraints"])
    assert deploy["endpoint_mode"] == "dnsrr"
    update, back = deploy["update_config"], deploy["rollback_config"]
    assert update["order"] in ("start-first", "stop-first")
    assert update["parallelism"] == back["parallelism"] == 1
    once = RUNS in deploy["labels"]
    assert update["failure_action"] == ("continue" if once else "rollback")
    assert deploy["restart_policy"]["condition"] == ("on-failure" if once else "any")
    assert {FLEET, REVISION} <= deploy["labels"].keys()
    if name in NOTHING_TO_ASK:
        assert service["healthcheck"] == {"disable": True}
    else:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert {"interval", "timeout", "retries"} <= service["healthcheck"].keys()
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
    assert service["stop_grace_period"]


@each_service
def test_service_may_do_no_more_than_it_must(stack: str, name: str, service: dict[str, Any]) -> None:
    assert service["init"] is True
    assert "privileged" not in service
    assert name in SEES_THE_HOST or service["cap_drop"] == ["ALL"]
    assert service.get("read_only") is (None if name in WRITES else True)
    mounts = [one for one in service.get("volumes", ()) if str(one).startswith("/")]
    assert all(one.endswith(":ro") for one in mounts)
    assert not mounts or stack == "monitoring"
    assert not any("docker.sock" in str(one) for one in service.get("volumes", ()))


@each_service
def test_what_holds_a_volume_a_port_or_a_transaction_ends_before_the_next_one_starts(
    stack: str, name: str, service: dict[str, Any]
) -> None:
    holds = service.get("volumes") or service.get("ports") or "replicat" in name or name == "campaigns"
    if holds:
        assert service["deploy"]["update_config"]["order"] == "stop-first"


@each_service
def test_ports_are_published_on_the_node_itself_so_that_the_sender_s_address_survives(
    stack: str, name: str, service: dict[str, Any]
) -> None:
    for port in service.get("ports", ()):
        assert port["mode"] == "host"
    published = {("gateway", "gateway"), ("gateway", "bootstrap"), ("cloud", "grafana")}
    assert bool(service.get("ports")) == ((stack, name) in published)


@each_service
def test_image_is_pinned_and_can_be_another_one(stack: str, name: str, service: dict[str, Any]) -> None:
    assert PINNED.fullmatch(service["image"]), service["image"]
    assert not service["image"].startswith("headwater") or OURS.fullmatch(service["image"])
    raw = str(read(FOLDER / f"{stack}.yml")["services"][name]["image"])
    assert re.fullmatch(r"\$\{[A-Z_]+_IMAGE:-[^}]+\}", raw)


@each_service
def test_no_password_stands_in_a_file_or_comes_by_the_environment(
    stack: str, name: str, service: dict[str, Any]
) -> None:
    for key, value in (service.get("environment") or {}).items():
        if key.endswith("_COAPS_KEY"):
            assert re.fullmatch(r"|/var/lib/\S+", str(value)), f"{key} is the name of a file in a volume"
        elif re.search(r"PASSWORD|TOKEN|SECRET|_KEY", key):
            assert key.endswith("_FILE"), key
            assert str(value).startswith("/run/secrets/"), key
    words = " ".join(map(str, service.get("command") or ()))
    assert not re.search(r"--?(password|token)[= ]", words)


def test_every_secret_is_the_swarm_s_own_and_named_by_what_it_holds() -> None:
    for stack in FILES:
        for key, secret in (read(FOLDER / f"{stack}.yml").get("secrets") or {}).items():
            assert secret["external"] is True, (stack, key)
            assert re.search(r"_\$\{[A-Z_]+(:\?[^}]+)?\}$", secret["name"]), (stack, key)


def test_secrets_are_readable_by_the_one_user_who_needs_them() -> None:
    for stack, name, service in SERVICES:
        for secret in service.get("secrets", ()):
            # InfluxDB's and OrientDB's images begin as root.
            if isinstance(secret, str):
                assert name in WRITES, (stack, name)
            else:
                assert secret["mode"] == 0o400, (stack, name)


def test_configs_are_files_of_the_checkout_and_change_their_name_with_what_is_in_them() -> None:
    for stack in FILES:
        content = read(FOLDER / f"{stack}.yml")
        for key, config in (content.get("configs") or {}).items():
            file = FOLDER / interpolate(config["file"], GIVEN)
            assert file.is_file(), (stack, key)
            assert file.stat().st_size < 500_000, f"{file} is more than a config of Swarm may hold"
            assert config["name"].endswith("_${CONFIGS:-1}"), (stack, key)
        used = {one["source"] for service in content["services"].values() for one in service.get("configs", ())}
        assert set(content.get("configs") or {}) == used, stack


def test_gateway_is_closed_to_devices_in_the_clear_and_gives_nobody_keys_unless_it_is_told_to() -> None:
    (gateway,) = (service for stack, name, service in SERVICES if (stack, name) == ("gateway", "gateway"))
    (bootstrap,) = (service for stack, name, service in SERVICES if (stack, name) == ("gateway", "bootstrap"))
    assert gateway["environment"]["HEADWATER_GATEWAY_INSECURE"] == "false"
    assert bootstrap["environment"]["HEADWATER_BOOTSTRAP_SERVE_INSECURE"] == "false"
    assert int(bootstrap["deploy"]["replicas"]) == 0


def test_gateway_and_its_bootstrap_server_have_the_devices_keys_in_one_volume_on_one_node() -> None:
    found = {name: service for stack, name, service in SERVICES if stack == "gateway"}
    volume = "credentials:/var/lib/credentials"
    assert [name for name, service in found.items() if volume in service.get("volumes", ())] == ["gateway", "bootstrap"]
    assert found["gateway"]["deploy"]["placement"] == found["bootstrap"]["deploy"]["placement"]
    (store,) = {one for one in found["gateway"]["command"] if one.startswith("--credentials=")}
    assert store == f"--credentials={found['gateway']['environment']['HEADWATER_CREDENTIALS']}"
    config = load(FOLDER / "gateway" / "bootstrap.yaml")
    written = {str(account.store) for profile in config.profiles for account in profile.accounts}
    assert written == {store.partition("=")[2]}
    # The image has the folder, its user's alone, so that a new volume there is too.
    assert "/var/lib/credentials;" in (FOLDER / "images" / "headwater" / "Dockerfile").read_text()


@pytest.mark.parametrize("name", ["gateway", "bootstrap"])
def test_command_of_a_service_is_one_that_headwater_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(lean, "start", lambda process, settings: started.append(settings))
    (service,) = (one for stack, key, one in SERVICES if (stack, key) == ("gateway", name))
    config = str(FOLDER / "gateway" / "bootstrap.yaml")
    words = [word.replace("/etc/headwater/bootstrap.yaml", config) for word in service["command"]]
    words = [word for word in words if not word.startswith("--kafka-tls=")]
    for open_to_all in (False, True):
        environment = {
            key: str(open_to_all).lower() if key.endswith("_INSECURE") else value
            for key, value in service["environment"].items()
        }
        if "HEADWATER_GATEWAY_FILE_HOST" in environment:
            environment["HEADWATER_GATEWAY_FILE_HOST"] = "rock64" if open_to_all else ""
        done = CliRunner().invoke(app, words, env=environment)
        assert done.exit_code == 0, done.output
        settings = started.pop()
        assert isinstance(settings, (BootstrapSettings, GatewaySettings))
        if isinstance(settings, GatewaySettings):
            assert (settings.file_host or None) == ("rock64" if open_to_all else None)
        is_open = settings.insecure if isinstance(settings, GatewaySettings) else settings.coap is not None
        assert is_open == open_to_all
        assert settings.credentials is not None
        assert settings.make_credentials
        assert settings.coaps_certificate is None
    if name == "gateway":
        return  # its certificate is added to its stack: `test_gateway_takes_what_is_added_to_it`
    given = [key for key in service["environment"] if "_COAPS_" in key]
    files = {key: f"/var/lib/credentials/{key.rpartition('_')[2].lower()}.pem" for key in given}
    done = CliRunner().invoke(app, words, env={**service["environment"], **files})
    assert done.exit_code == 0, done.output
    settings = started.pop()
    assert isinstance(settings, (BootstrapSettings, GatewaySettings))
    folder = Path("/var/lib/credentials")
    assert settings.coaps_certificate == CertificateFiles(
        certificate=folder / "cert.pem", key=folder / "key.pem", authorities=folder / "ca.pem"
    )


#: What is added to a gateway's stack where its devices have certificates, also for its bootstrap server, or it is given
#: credentials beforehand.
ADDED = sorted(path.stem for path in (FOLDER / "gateway").glob("*.yml"))
#: What it needs beside what every gateway does.
_FILES = ("COAPS_CERT", "COAPS_KEY", "COAPS_CA", "CREDENTIALS", "BOOTSTRAP_CERT", "BOOTSTRAP_KEY", "BOOTSTRAP_CA")
HASHES = {f"{word}_HASH": "0123456789ab" for word in _FILES}


@pytest.mark.parametrize("name", ADDED)
def test_what_is_added_to_a_gateway_gives_its_service_secrets_and_where_they_are(name: str) -> None:
    content = read(FOLDER / "gateway" / f"{name}.yml")
    assert f"gateway/{name}" in STACKS
    with pytest.raises(StackFileError, match="_HASH is missing"):
        _interpolated(content, GIVEN)
    (service,) = content["services"].values()
    assert list(content["services"]) == ["bootstrap" if name.startswith("bootstrap-") else "gateway"]
    assert service.keys() == {"environment", "secrets"}
    assert {one["source"] for one in service["secrets"]} == content["secrets"].keys()
    for use in service["secrets"]:
        assert (use["uid"], use["gid"], use["mode"]) == ("10001", "10001", 0o400)
        assert use["target"] in service["environment"].values()
        kept = content["secrets"][use["source"]]
        assert kept["external"] is True
        assert kept["name"].startswith(f"${{GATEWAY}}_{use['source']}_${{{use['source'].upper()}_HASH:?")


def test_gateway_takes_what_is_added_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[GatewaySettings] = []
    monkeypatch.setattr(lean, "start", lambda process, settings: started.append(settings))
    whole = merge(read(FOLDER / "gateway.yml"), *(read(FOLDER / "gateway" / f"{one}.yml") for one in ADDED))
    given = {"OBSERVE": "/3303/*/5700 /3304/*/5700", "READ_ON_REGISTER": "/3/0 /1/*/1", "COAPS_CERT_SESSIONS": "200"}
    given["PROCESSES"] = "3"
    service = _interpolated(whole, GIVEN | HASHES | given)["services"]["gateway"]
    words = [word for word in service["command"] if not word.startswith("--kafka-tls=")]
    done = CliRunner().invoke(app, words, env=service["environment"])
    assert done.exit_code == 0, done.output
    (settings,) = started
    assert settings.coaps_certificate == CertificateFiles(
        certificate=Path("/run/secrets/coaps/cert.pem"),
        key=Path("/run/secrets/coaps/key.pem"),
        authorities=Path("/run/secrets/coaps/ca.pem"),
        most_sessions=200,
    )
    assert settings.import_credentials == Path("/run/secrets/credentials")
    assert settings.observe == ("/3303/*/5700", "/3304/*/5700")
    assert settings.read_on_register == ("/3/0", "/1/*/1")
    assert settings.processes == 3


def test_bootstrap_server_takes_what_is_added_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[BootstrapSettings] = []
    monkeypatch.setattr(lean, "start", lambda process, settings: started.append(settings))
    whole = merge(read(FOLDER / "gateway.yml"), *(read(FOLDER / "gateway" / f"{one}.yml") for one in ADDED))
    # Over files in a volume, which settings may name.
    given = {"BOOTSTRAP_COAPS_CERT": "/var/lib/credentials/other.pem"}
    service = _interpolated(whole, GIVEN | HASHES | given)["services"]["bootstrap"]
    config = str(FOLDER / "gateway" / "bootstrap.yaml")
    words = [word.replace("/etc/headwater/bootstrap.yaml", config) for word in service["command"]]
    done = CliRunner().invoke(app, words, env=service["environment"])
    assert done.exit_code == 0, done.output
    (settings,) = started
    folder = Path("/run/secrets/coaps")
    assert settings.coaps_certificate == CertificateFiles(
        certificate=folder / "cert.pem", key=folder / "key.pem", authorities=folder / "ca.pem"
    )
    assert {one["target"] for one in service["secrets"]} == {
        str(folder / f"{one}.pem") for one in ("cert", "key", "ca")
    }


def test_who_carries_campaigns_out_is_started_by_a_command_that_headwater_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[object] = []
    monkeypatch.setattr(lean, "start", lambda process, settings: started.append(settings))
    (service,) = (one for stack, key, one in SERVICES if (stack, key) == ("campaigns", "campaigns"))
    words = [word for word in service["command"] if not word.startswith("--kafka-tls=")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (settings,) = started
    assert isinstance(settings, CampaignSettings)
    assert (settings.gateway, settings.kafka.bootstrap, settings.metrics_port) == ("rock64", "kafka-cloud:9092", 9590)


def test_port_at_which_a_closed_gateway_hears_oscore_is_published() -> None:
    (gateway,) = (service for stack, name, service in SERVICES if (stack, name) == ("gateway", "gateway"))
    (coap,) = (one for one in gateway["command"] if one.startswith("--coap="))
    assert coap.rpartition(":")[2] in [str(one["target"]) for one in gateway["ports"] if one["protocol"] == "udp"]


def test_every_dashboard_and_every_rule_is_deployed() -> None:
    cloud, monitoring = read(FOLDER / "cloud.yml"), read(FOLDER / "monitoring.yml")
    boards = {path.name for path in (FOLDER / "grafana" / "dashboards").glob("*.json")}
    assert boards
    assert boards <= {Path(one["file"]).name for one in cloud["configs"].values()}
    rules = {path.name for path in (FOLDER / "monitoring" / "rules").glob("*.yml")}
    assert rules
    assert rules <= {Path(one["file"]).name for one in monitoring["configs"].values()}


def test_administrator_is_at_the_cloud_only() -> None:
    for stack, name, service in SERVICES:
        keys = [one for one in service.get("secrets", ()) if isinstance(one, dict) and one["source"] == "admin_key"]
        if keys:
            assert service["deploy"]["placement"]["constraints"] == ["node.labels.type==cloud"], (stack, name)


def test_each_variable_of_the_settings_is_taken_by_a_stack() -> None:
    taken = set().union(*(variables_of(read(FOLDER / f"{stack}.yml")) for stack in FILES))
    for profile in PROFILES:
        assert settings(FOLDER / "settings" / f"{profile}.env").keys() <= taken, profile


@pytest.mark.parametrize("profile", PROFILES)
def test_memory_of_a_profile_fits_together(profile: str) -> None:
    for stack, name, service in _services(profile):
        resources = service["deploy"]["resources"]
        assert _bytes(resources["limits"]["memory"]) >= _bytes(resources["reservations"]["memory"]), (stack, name)
        environment = service.get("environment") or {}
        heap = environment.get("KAFKA_HEAP") or re.sub(
            r".*-Xmx(\w+).*", r"\1", environment.get("ORIENTDB_OPTS_MEMORY", "")
        )
        if heap:
            # Java needs a good deal beside its heap.
            assert _bytes(heap) + 100_000_000 <= _bytes(resources["limits"]["memory"]), (stack, name)


def test_edge_of_the_lowmem_profile_reserves_no_more_than_300_mb() -> None:
    reserved = [
        _bytes(service["deploy"]["resources"]["reservations"]["memory"])
        for stack, name, service in _services("lowmem")
        # A bootstrap server is there only where one is asked for.
        if stack == "gateway" and name != "setup" and int(service["deploy"].get("replicas", 1))
    ]
    assert sum(reserved) <= 300 * 2**20


@pytest.mark.parametrize("stack", [stack for stack in FILES if stack != "monitoring"])
def test_missing_variable_is_told_and_not_guessed(stack: str) -> None:
    with pytest.raises(StackFileError, match="is missing"):
        _interpolated(read(FOLDER / f"{stack}.yml"), {})


def _docker_that_shows_stacks() -> str:
    if shutil.which("docker") is None:
        need_docker("what Docker makes of a stack")
    docker = shutil.which("docker")
    assert docker
    words = subprocess.run([docker, "stack", "--help"], capture_output=True, text=True, timeout=120, check=True).stdout
    if not re.search(r"^\s+config\b", words, re.MULTILINE):
        pytest.skip(
            "this Docker is older than 25 and can read a stack only while it deploys it, as the fleet's test does"
        )
    return docker


@pytest.mark.swarm
def test_docker_puts_a_gateway_and_what_is_added_to_it_together_as_the_deployment_does() -> None:
    docker = _docker_that_shows_stacks()
    import yaml

    files = [FOLDER / "gateway.yml", *(FOLDER / "gateway" / f"{one}.yml" for one in ADDED)]
    variables = GIVEN | HASHES
    done = subprocess.run(
        [docker, "stack", "config", *(f"--compose-file={one}" for one in files)],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)["services"]["gateway"]
    mine = _interpolated(merge(*map(read, files)), variables)["services"]["gateway"]
    assert told["environment"] == mine["environment"]
    assert {one["source"]: one["target"] for one in told["secrets"]} == {
        one["source"]: one["target"] for one in mine["secrets"]
    }


@pytest.mark.swarm
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stack", FILES)
def test_docker_reads_every_stack_with_every_profile_as_the_deployment_does(stack: str, profile: str) -> None:
    docker = _docker_that_shows_stacks()
    file = FOLDER / f"{stack}.yml"
    variables = GIVEN | settings(FOLDER / "settings" / f"{profile}.env")
    # As docs/deploy.md says it: a shell reads the settings, and nothing else is told.
    script = 'set -a; . "$1"; set +a; exec "$2" stack config -c "$3"'
    done = subprocess.run(
        ["/bin/sh", "-ec", script, "sh", str(FOLDER / "settings" / f"{profile}.env"), docker, str(file)],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **GIVEN},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ignoring" not in done.stderr, done.stderr
    import yaml

    told = yaml.safe_load(done.stdout)
    mine = _interpolated(read(file), variables)
    assert told["services"].keys() == mine["services"].keys()
    for name, service in told["services"].items():
        assert service["image"] == mine["services"][name]["image"]
        replicas = mine["services"][name]["deploy"].get("replicas")
        assert service["deploy"].get("replicas") == (None if replicas is None else int(replicas))


def _bytes(size: str) -> int:
    units = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
    found = re.fullmatch(r"(\d+)([kmg]?)b?", str(size).lower())
    assert found, size
    return int(found[1]) * units[found[2]]
