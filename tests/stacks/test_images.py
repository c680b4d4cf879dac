"""The images as `make images` builds them, on a Docker daemon of the test's own: what is inside, and how they behave.

The base image is Debian with Python, since no registry need be reached; onto it a pip is laid where Docker's own Python
image has it, so that there is something to be left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from security.authority import Authority
from security.identities import Identity, Role
from stacks.images.gather import CONTEXTS
from tests.stacks.base_image import BASE_IMAGE
from tests.stacks.docker_host import Daemon, DockerError, need_docker
from tests.stacks.image_store import ImageStore, alone
from tests.way import until

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(4800)]

REPOSITORY = Path(__file__).parents[2]
VERSION = "images-test"
HEADWATER, KAFKA = f"headwater:{VERSION}", f"headwater-kafka:{VERSION}"
PYTHON_LIKE = "headwater-test-base:with-pip"
USER = 10001
BUILD_S, PATIENCE_S = 1800.0, 240.0


@dataclass(frozen=True, slots=True)
class Images:
    """Both images, built, and the daemon that has them."""

    daemon: Daemon
    said: str

    def inspect(self, image: str) -> dict[str, Any]:
        (found,) = json.loads(self.daemon.docker("image", "inspect", image))
        assert isinstance(found, dict)
        return found

    def inside(self, image: str, script: str) -> str:
        """What a shell says in a container as it runs in production: not root, nothing writable but /tmp."""
        words = ("run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--entrypoint", "/bin/sh")
        return self.daemon.docker(*words, image, "-c", script)

    def bill(self, name: str) -> dict[str, Any]:
        (path,) = (REPOSITORY / "build" / "sbom").glob(f"{name}-{VERSION}-*.cdx.json")
        found = json.loads(path.read_text())
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    need_docker("the images")
    with alone() as cache, ImageStore(cache) as store:
        daemon = store.builder
        made = subprocess.run(
            [sys.executable, "-m", "stacks.images.make", "--gather-only", "--image", "headwater"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        with tempfile.TemporaryDirectory() as name:
            context = Path(name)
            wheel = next(CONTEXTS.glob("headwater-*/pip/pip.whl"))  # the same for every platform
            shutil.copy(wheel, context / "pip-26.3-py3-none-any.whl")
            (context / "Dockerfile").write_text(
                f"FROM {BASE_IMAGE}\n"
                "COPY pip-26.3-py3-none-any.whl /\n"
                "RUN python3 /pip-26.3-py3-none-any.whl/pip install --quiet --no-index --target "
                "/usr/local/lib/python3.11/site-packages /pip-26.3-py3-none-any.whl "
                "&& rm -r /usr/local/lib/python3.11/site-packages/bin /pip-26.3-py3-none-any.whl "
                "&& ln -s /usr/bin/python3 /usr/local/bin/pip3 && mkdir -p /usr/local/include\n"
            )
            daemon.docker("build", "--quiet", "--tag", PYTHON_LIKE, name, timeout=BUILD_S)
        built = subprocess.run(
            [
                *(sys.executable, "-m", "stacks.images.make", "--version", VERSION),
                *("--base-image", PYTHON_LIKE, "--kafka-base-image", BASE_IMAGE),
            ],
            cwd=REPOSITORY,
            env=daemon.environment,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        assert built.returncode == 0, built.stderr
        try:
            yield Images(daemon, built.stdout)
        finally:
            daemon.docker("image", "rm", "--force", HEADWATER, KAFKA, PYTHON_LIKE)


@pytest.fixture
def started(images: Images) -> Iterator[Any]:
    """Starts containers as in production; each is gone after the test."""
    names: list[str] = []

    def start(image: str, variables: Mapping[str, str], *words: str, more: tuple[str, ...] = ()) -> str:
        name = f"image-test-{len(names)}"
        names.append(name)
        images.daemon.docker(
            *("run", "--detach", "--name", name, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
            *("--health-interval", "1s", "--memory", "1g", *more),
            *(word for key, value in variables.items() for word in ("--env", f"{key}={value}")),
            *(image, *words),
        )
        return name

    yield start
    for name in names:
        images.daemon.docker("rm", "--force", "--volumes", name)


def _state(images: Images, name: str) -> dict[str, Any]:
    (found,) = json.loads(images.daemon.docker("inspect", name))
    state = found["State"]
    assert isinstance(state, dict)
    return state


def _until_healthy(images: Images, name: str) -> None:
    def healthy() -> bool:
        state = _state(images, name)
        assert state["Running"], images.daemon.docker("logs", name)
        return bool(state["Health"]["Status"] == "healthy")

    until(f"{name} is healthy", healthy, PATIENCE_S)


def _stopped(images: Images, name: str) -> int:
    """The exit code after SIGTERM; Docker kills what is still there after 10 s, and that is 137."""
    images.daemon.docker("stop", "--time", "10", name)
    return int(_state(images, name)["ExitCode"])


@pytest.mark.parametrize("image", [HEADWATER, KAFKA])
def test_an_image_runs_as_nobody_and_says_what_it_is(images: Images, image: str) -> None:
    found = images.inspect(image)
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == VERSION
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert found["Config"]["User"] == f"{USER}:{USER}"
    assert images.inside(image, "id -u; (touch /opt/x /etc/x /var/lib/x) 2>/dev/null || echo refused").split() == [
        str(USER),
        "refused",
    ]
    # How big it is stands in what `make images` says.
    assert f"{image}  linux/" in images.said
    assert " MB  build/sbom/" in images.said


@pytest.mark.parametrize("image", [HEADWATER, KAFKA])
def test_no_tool_that_builds_or_installs_is_inside(images: Images, image: str) -> None:
    tools = "pip pip3 gcc cc g++ ld make cargo rustc javac jlink git curl"
    assert images.inside(image, f"for tool in {tools}; do command -v $tool; done; true") == ""
    if image == HEADWATER:
        found = images.inside(image, "python -c 'import pip' 2>&1; python -c 'import ensurepip' 2>&1; true")
        assert found.count("ModuleNotFoundError") == 2
        assert (
            images.inside(image, "find / -xdev \\( -name pip -o -name 'pip-*' -o -name 'pip3*' \\) 2>/dev/null; true")
            == ""
        )


@pytest.mark.parametrize("image", [HEADWATER, KAFKA])
def test_nothing_of_the_building_machine_is_inside(images: Images, image: str) -> None:
    names = {one.partition("=")[0] for one in images.inspect(image)["Config"]["Env"]}
    assert names <= {
        *("PATH", "HOME", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "KAFKA_TLS_DIR"),
        *("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"),
        *("HEADWATER_METRICS", "HEADWATER_METRICS_HOST", "HEADWATER_LEAN"),
    }
    history = images.daemon.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).lower()
    assert not [word for word in ("proxy", "index-url", "cert=", "password", "token") if word in history]
    places = "/etc/pip.conf /root/.pip /root/.config /usr/local/share/ca-certificates/* /wheels /pip"
    assert images.inside(image, f"ls -d {places} 2>/dev/null; true") == ""
    # Debian's authorities and no other.
    kept = images.inside(image, "sha256sum /etc/ssl/certs/ca-certificates.crt")
    assert kept == images.daemon.docker(
        "run", "--rm", "--network", "none", BASE_IMAGE, "sha256sum", "/etc/ssl/certs/ca-certificates.crt"
    )


def test_every_sink_and_job_is_in_the_image(images: Images) -> None:
    script = (
        "import json, quixstreams, pyarrow, cassandra, influxdb_client, pyorient, cramjam, redis, sqlglot; print(1)"
    )
    assert images.inside(HEADWATER, f"python -c '{script}'").strip() == "1"
    assert images.inside(HEADWATER, "headwater --version; headwater sink list | wc -l").startswith("headwater ")


@pytest.mark.parametrize("name", ["headwater", "headwater-kafka"])
def test_the_bill_of_materials_is_what_is_inside(images: Images, name: str) -> None:
    document = images.bill(name)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    image = f"{name}:{VERSION}"
    assert document["metadata"]["component"]["properties"][0]["value"] == images.inspect(image)["Id"]
    listed = {one["purl"]: one for one in document["components"]}

    def of(kind: str) -> set[tuple[str, str]]:
        return {(one["name"], one["version"]) for purl, one in listed.items() if purl.startswith(f"pkg:{kind}/")}

    packages = images.inside(image, "dpkg-query --show --showformat '${Package} ${Version}\\n'")
    assert of("deb") == {tuple(line.split()) for line in packages.splitlines()}
    jars = images.inside(image, "find / -xdev -name '*.jar' -exec sha256sum {} + 2>/dev/null; true")
    assert {one["hashes"][0]["content"] for one in listed.values() if "hashes" in one} == {
        line.split()[0] for line in jars.splitlines()
    }
    if name == "headwater":
        script = 'import importlib.metadata as m; print(*{(d.name + "==" + d.version) for d in m.distributions()})'
        installed = images.inside(image, f"python -c '{script}'")
        assert {f"{one}=={version}" for one, version in of("pypi")} == set(installed.split())
        assert not jars
    else:
        assert ("kafka-clients", "4.1.0") in of("maven")
        assert ("jmx_prometheus_javaagent", "1.0.1") in of("maven")
        assert any(purl.startswith("pkg:generic/java-runtime@") for purl in listed)


@pytest.mark.parametrize(
    ("image", "variables", "words", "code", "named"),
    [
        (KAFKA, {}, (), 64, "KAFKA_ADVERTISED is missing"),
        (KAFKA, {"KAFKA_ADVERTISED": "kafka:9092"}, (), 64, "/run/secrets/kafka/ca.pem is missing"),
        (HEADWATER, {"HEADWATER_METRICS": "web"}, ("gateway", "--id", "rock64"), 2, "--metrics"),
        (HEADWATER, {"HEADWATER_KAFKA": "nowhere"}, ("gateway", "--id", "rock64"), 2, "nowhere"),
        (HEADWATER, {"HEADWATER_KAFKA_TLS": "/none"}, ("gateway", "--id", "rock64"), 5, "/none"),
    ],
)
def test_a_wrong_variable_is_told(
    images: Images, image: str, variables: dict[str, str], words: tuple[str, ...], code: int, named: str
) -> None:
    environment = [word for key, value in variables.items() for word in ("--env", f"{key}={value}")]
    with pytest.raises(DockerError) as told:
        images.daemon.docker("run", "--rm", "--read-only", "--tmpfs", "/tmp", *environment, image, *words)
    assert named in str(told.value)
    assert "Traceback" not in str(told.value)
    done = subprocess.run(
        ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", *environment, image, *words],
        env=images.daemon.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == code


def _identities(folder: Path) -> dict[str, Path]:
    """Folders as secrets are mounted: they belong to the image's user."""
    authority = Authority(folder / "pki")
    authority.create()
    found = {}
    for identity, names in (
        (Identity(Role.BROKER, "rock64"), ["kafka", "localhost", "127.0.0.1"]),
        (Identity(Role.GATEWAY, "rock64"), []),
        (Identity(Role.ADMIN, "fleet"), []),
    ):
        own = folder / identity.role.value
        shutil.copytree(authority.ensure(identity, names=names).folder, own)
        for path in (own, *own.rglob("*")):
            shutil.chown(path, USER, USER)
        found[identity.role.value] = own
    # pytest's own folders are for root alone.
    for path in (folder, *folder.parents[:3]):
        path.chmod(0o755)
    return found


def test_kafka_and_a_gateway_become_healthy_with_certificates_and_stop_well(
    images: Images, started: Any, tmp_path: Path
) -> None:
    identities = _identities(tmp_path)
    images.daemon.docker("network", "create", "images-test")
    try:

        def secret(role: str) -> tuple[str, ...]:
            return ("--network", "images-test", "--volume", f"{identities[role]}:/run/secrets/kafka:ro")

        kafka = started(
            KAFKA,
            {
                "KAFKA_ADVERTISED": "kafka:9092",
                "KAFKA_SUPER_USERS": "broker:rock64,admin:fleet",
                "KAFKA_PROFILE": "lowmem",
            },
            more=(*secret("broker"), "--network-alias", "kafka"),
        )
        _until_healthy(images, kafka)
        admin = (
            "run",
            "--rm",
            "--read-only",
            "--tmpfs",
            "/tmp",
            *secret("admin"),
            "--env",
            "HEADWATER_KAFKA=kafka:9092",
        )
        admin = (
            *admin,
            "--env",
            "HEADWATER_GATEWAY=rock64",
            "--env",
            "HEADWATER_KAFKA_TLS=/run/secrets/kafka",
            HEADWATER,
        )
        images.daemon.docker(*admin, "topics", "create")
        images.daemon.docker(*admin, "acl", "apply", "--side", "edge")
        # The exporter shows Kafka's metrics, over plain HTTP, within the network of monitoring.
        script = 'import urllib.request as u; print(u.urlopen("http://kafka:9404/metrics", timeout=60).read().decode())'
        shown = images.daemon.docker(
            *("run", "--rm", "--network", "images-test", "--entrypoint", "python", HEADWATER, "-c", script)
        )
        assert "kafka_controller_active" in shown
        gateway = started(
            HEADWATER,
            {},
            *("gateway", "--id=rock64", "--kafka=kafka:9092", "--kafka-tls=/run/secrets/kafka"),
            more=secret("gateway"),
        )
        _until_healthy(images, gateway)
        assert images.daemon.docker("exec", gateway, "headwater", "health") == ""
        assert _stopped(images, gateway) == 0, images.daemon.docker("logs", gateway)
        assert _stopped(images, kafka) == 0, images.daemon.docker("logs", kafka)
        # The same storage once more.
        images.daemon.docker("start", kafka)
        _until_healthy(images, kafka)
    finally:
        for name in images.daemon.docker("ps", "--all", "--quiet", "--filter", "network=images-test").split():
            images.daemon.docker("rm", "--force", "--volumes", name)
        images.daemon.docker("network", "rm", "images-test")
