"""Entrypoint and healthcheck of the image ``headwater-kafka``, run here with its Java and jars, without Docker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.kafka import Cluster, Unreachable, partition_counts
from headwater.servers.kafka_jars import cache_folder, ensure_jars, java_binary
from security.authority import Authority
from security.identities import Identity, Role
from tests.ports import held_port
from tests.standing_still import go_on, stand_still
from tests.way import until

REPOSITORY = Path(__file__).parents[2]
IMAGE = REPOSITORY / "stacks" / "images" / "kafka"
USAGE = 64


def _home(folder: Path, *, jars: bool) -> Path:
    """What the image has below /opt/kafka."""
    home = folder / "home"
    home.mkdir()
    for path in (*IMAGE.glob("*.properties"), *(REPOSITORY / "headwater" / "servers").glob("kafka*.properties")):
        shutil.copy(path, home)
    if jars:
        (home / "libs").symlink_to(ensure_jars(cache_folder(os.environ)))
    return home


def _run(folder: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    home = folder / "home" if (folder / "home").is_dir() else _home(folder, jars=False)
    environment = {
        "PATH": os.environ["PATH"],
        "KAFKA_HOME": str(home),
        "KAFKA_DATA": str(folder / "data"),
        "KAFKA_JAVA": "/nowhere/java",
    }
    return subprocess.run(
        ["/bin/sh", IMAGE / "entrypoint"],
        env=environment | dict(variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


GOOD = {"KAFKA_ADVERTISED": "kafka:9092", "KAFKA_SECURITY": "none"}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"KAFKA_SECURITY": "none"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": ""}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": "kafka"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": "kafka:"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": ":9092"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": "kafka:70000"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": "kafka:9092,"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": "a:1,b:2,c:3"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": "::1:9092"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_ADVERTISED": "a\nsuper.users=User:x:1"}, "KAFKA_ADVERTISED"),
        ({"KAFKA_LISTENER_PORT": "web"}, "KAFKA_LISTENER_PORT"),
        ({"KAFKA_LISTENER_PORT": "0"}, "KAFKA_LISTENER_PORT"),
        ({"KAFKA_LISTENER_PORT": "9094"}, "two of the ports"),
        ({"KAFKA_METRICS_PORT": "-1"}, "KAFKA_METRICS_PORT"),
        ({"KAFKA_METRICS_PORT": "9093"}, "two of the ports"),
        ({"KAFKA_HEAP": "lots"}, "KAFKA_HEAP"),
        ({"KAFKA_HEAP": "64"}, "KAFKA_HEAP"),
        ({"KAFKA_HEAP": "64m -XX:Evil"}, "KAFKA_HEAP"),
        ({"KAFKA_PROFILE": "tiny"}, "KAFKA_PROFILE"),
        ({"KAFKA_SECURITY": "off"}, "KAFKA_SECURITY"),
        ({"KAFKA_NODE_ID": "one"}, "KAFKA_NODE_ID"),
        ({"KAFKA_LOG_LEVEL": "loud"}, "KAFKA_LOG_LEVEL"),
        ({"KAFKA_RETENTION_MS": "a week"}, "KAFKA_RETENTION_MS"),
        ({"KAFKA_RETENTION_BYTES": "-2"}, "KAFKA_RETENTION_BYTES"),
        ({"KAFKA_PROPERTIES": "log.retention.hours"}, "KAFKA_PROPERTIES"),
        ({"KAFKA_PROPERTIES": "ssl.client.auth=none"}, "KAFKA_PROPERTIES"),
        ({"KAFKA_PROPERTIES": "a.b=1 allow.everyone.if.no.acl.found=true"}, "KAFKA_PROPERTIES"),
        ({"KAFKA_PROPERTIES": "listener.name.inside.ssl.client.auth=none"}, "KAFKA_PROPERTIES"),
        ({"KAFKA_PROPERTIES": "super.users=User:ANONYMOUS"}, "KAFKA_PROPERTIES"),
    ],
)
def test_a_wrong_variable_is_told_in_one_line(tmp_path: Path, variables: dict[str, str], named: str) -> None:
    done = _run(tmp_path, GOOD | variables if variables != {"KAFKA_SECURITY": "none"} else variables)
    told = [line for line in done.stderr.splitlines() if "KAFKA_SECURITY=none" not in line]
    assert done.returncode == USAGE, done.stderr
    assert named in told[0]
    assert told[0].startswith("headwater-kafka: ")
    # A variable may hold line breaks of its own, which are shown as they are.
    assert len(told) == 1 + "".join(variables.values()).count("\n")


@pytest.mark.parametrize(
    ("files", "supers", "named"),
    [
        ({}, "broker:edge", "ca.pem is missing"),
        ({"ca.pem": "hello", "keystore.pem": ""}, "broker:edge", "ca.pem holds no certificate"),
        ({"ca.pem": "-----BEGIN CERTIFICATE-----"}, "broker:edge", "keystore.pem is missing"),
        (
            {"ca.pem": "-----BEGIN CERTIFICATE-----", "keystore.pem": "-----BEGIN CERTIFICATE-----"},
            "broker:edge",
            "keystore.pem holds no unencrypted private key",
        ),
    ],
)
def test_what_is_missing_of_an_identity_is_told_in_one_line(
    tmp_path: Path, files: dict[str, str], supers: str, named: str
) -> None:
    tls = tmp_path / "tls"
    tls.mkdir()
    for name, text in files.items():
        (tls / name).write_text(text)
    variables = {"KAFKA_ADVERTISED": "kafka:9092", "KAFKA_TLS_DIR": str(tls), "KAFKA_SUPER_USERS": supers}
    done = _run(tmp_path, variables)
    assert (done.returncode, len(done.stderr.splitlines())) == (USAGE, 1)
    assert named in done.stderr


@pytest.mark.parametrize("supers", ["", "anna", ":x", "broker:", "broker:edge,", "broker:edge;User:x", "broker:é"])
def test_super_users_that_are_no_principals_are_told_in_one_line(tmp_path: Path, supers: str) -> None:
    variables = {
        "KAFKA_ADVERTISED": "kafka:9092",
        "KAFKA_TLS_DIR": str(_identity(tmp_path, Role.BROKER, "edge")),
        "KAFKA_SUPER_USERS": supers,
    }
    done = _run(tmp_path, variables)
    assert (done.returncode, len(done.stderr.splitlines())) == (USAGE, 1)
    assert "KAFKA_SUPER_USERS" in done.stderr


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, no folder")
    done = _run(tmp_path, GOOD)
    assert done.returncode == USAGE
    assert done.stderr.splitlines()[1].endswith("mount a volume there that belongs to it")
    assert len(done.stderr.splitlines()) == 2


def _identity(folder: Path, role: Role, name: str) -> Path:
    authority = Authority(folder / "pki")
    authority.create()
    names = ["localhost", "127.0.0.1"] if role is Role.BROKER else []
    return authority.ensure(Identity(role, name), names=names).folder


class _Kafka:
    """A Kafka that the entrypoint started."""

    def __init__(self, process: subprocess.Popen[bytes], environment: Mapping[str, str], port: int, log: Path) -> None:
        self.process, self.environment, self.port, self.log = process, environment, port, log

    def health(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", IMAGE / "healthcheck"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def until_healthy(self) -> None:
        def healthy() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            return self.health().returncode == 0

        until("Kafka is healthy", healthy, 120)

    def stand_still(self) -> None:
        """Stop Java in the midst of what it does, and wait until all of it stands."""
        stand_still(self.java())

    def java(self) -> int:
        """The process id of Java."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (java,) = (int(one) for one in children)
        return java


@contextmanager
def _started(folder: Path, variables: Mapping[str, str]) -> Iterator[_Kafka]:
    home = folder / "home" if (folder / "home").is_dir() else _home(folder, jars=True)
    port = held_port()
    environment = {
        "PATH": os.environ["PATH"],
        "KAFKA_HOME": str(home),
        "KAFKA_DATA": str(folder / "data"),
        "KAFKA_JAVA": str(java_binary()),
        "KAFKA_ADVERTISED": f"127.0.0.1:{port}",
        "KAFKA_LISTENER_PORT": str(port),
        "KAFKA_CONTROLLER_PORT": str(held_port()),
        "KAFKA_METRICS_PORT": "0",
        "KAFKA_PROFILE": "lowmem",
    } | dict(variables)
    log = folder / "kafka.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["/bin/sh", IMAGE / "entrypoint"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield _Kafka(process, environment, port, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.mark.kafka
def test_kafka_with_certificates_is_healthy_lets_in_whom_it_should_and_ends_with_0(tmp_path: Path) -> None:
    variables = {
        "KAFKA_TLS_DIR": str(_identity(tmp_path, Role.BROKER, "edge")),
        "KAFKA_SUPER_USERS": "broker:edge,User:admin:fleet",
    }
    admin = _identity(tmp_path, Role.ADMIN, "fleet")
    with _started(tmp_path, variables) as running:
        running.until_healthy()
        address = f"127.0.0.1:{running.port}"
        assert partition_counts(Cluster(bootstrap=address, tls=admin), ["none"], timeout=30) == {}
        with pytest.raises(Unreachable):
            partition_counts(Cluster(bootstrap=address), ["none"], timeout=5)
        # A probe must not fill the log.
        assert "SSL handshake failed" not in running.log.read_text()

        running.stand_still()
        hanging = running.health()
        go_on(running.java())
        assert (hanging.returncode, "no TLS handshake came back" in hanging.stdout) == (1, True)

        running.process.terminate()
        assert running.process.wait(60) == 0
    assert running.health().stdout == f"nothing listens on port {running.port}\n"
    written = (tmp_path / "data" / "server.properties").read_text().splitlines()
    assert "super.users=User:broker:edge;User:admin:fleet" in written
    assert {line for line in written if line.startswith("listener.security.protocol.map")} == {
        "listener.security.protocol.map=INSIDE:SSL,CONTROLLER:SSL"
    }


@pytest.mark.kafka
def test_storage_is_formatted_once_and_killed_java_is_told_by_the_exit_code(tmp_path: Path) -> None:
    variables = {"KAFKA_SECURITY": "none", "KAFKA_PROPERTIES": "log.roll.hours=1\nlog.retention.minutes=60"}
    with _started(tmp_path, variables) as first:
        first.until_healthy()
        first.stand_still()
        assert "Kafka does not answer" in first.health().stdout
        os.kill(first.java(), signal.SIGKILL)
        assert first.process.wait(60) == 128 + signal.SIGKILL
    made = (tmp_path / "data" / "data" / "meta.properties").read_text()
    with _started(tmp_path, variables) as second:
        second.until_healthy()
        assert (tmp_path / "data" / "data" / "meta.properties").read_text() == made
        second.process.terminate()
        assert second.process.wait(60) == 0
    assert "log.retention.minutes=60" in (tmp_path / "data" / "server.properties").read_text().splitlines()
