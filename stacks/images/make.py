"""Builds the images and writes what is inside: ``make images``.

    python -m stacks.images.make [--image headwater] [--version 1.2.3] [--platform linux/arm64] ...

Owns the calls of ``docker build`` and the report. What goes in is gathered by `gather`, the bills of materials are
made by `sbom` and written to ``build/sbom/``. Exit code 0: built; 2: the command line is wrong; 5: it cannot be built,
and why.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stacks.images import sbom
from stacks.images.gather import (
    CONTEXTS,
    HERE,
    PYTHON,
    REPOSITORY,
    CannotGather,
    Extras,
    Java,
    Platform,
    headwater_context,
    kafka_context,
    own_version,
)

#: Pinned by version; a digest can be given just as well (--base-image python@sha256:…).
PYTHON_BASE, DEBIAN_BASE = "python:3.11.14-slim-bookworm", "debian:12.12-slim"
BILLS = REPOSITORY / "build" / "sbom"

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MACHINES = {"x86_64": Platform.AMD64, "aarch64": Platform.ARM64, "armv7l": Platform.ARM_V7}
#: Patience with a build, in seconds.
_BUILD_S = 1800.0


class CannotBuild(Exception):
    """Docker is not here, or the build failed; the text says why."""


def main(words: Sequence[str] | None = None) -> int:
    """Build what the words say; the exit code."""
    options = _options(words)
    try:
        with _alone():
            for name in ("headwater", "kafka") if options.image == "all" else (options.image,):
                make(name, options)
    except (CannotGather, CannotBuild) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 5
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One at a time: the folders that are gathered are built from; the kernel frees it when a process dies."""
    CONTEXTS.mkdir(parents=True, exist_ok=True)
    with (CONTEXTS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(name: str, options: argparse.Namespace) -> str:
    """Gather, build, write the bill of materials; returns the image's name."""
    where: Platform = options.platform
    if name == "headwater":
        tag, base = f"headwater:{options.version}", options.base_image or PYTHON_BASE
        _say(f"{tag}: gathering wheels for {where.value.docker}, Python {PYTHON}")
        context = headwater_context(where, options.extras, wheels=options.wheels)
        arguments = {"BASE_IMAGE": base, "EXTRAS": options.extras.names}
    else:
        tag, base = f"headwater-kafka:{options.version}", options.kafka_base_image or options.base_image or DEBIAN_BASE
        _say(f"{tag}: gathering jars and Java for {where.value.docker}")
        context = kafka_context(where, options.java)
        arguments = {"BASE_IMAGE": base}
    if options.gather_only:
        _say(f"{tag}: gathered in {context}")
        return tag
    _say(f"{tag}: building on {base}")
    arguments |= {"VERSION": options.version, **_revision()}
    words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    foreign = [] if _MACHINES.get(platform.machine()) is where else ["--platform", where.value.docker]
    _docker("build", "--tag", tag, *foreign, *words, str(context))
    path = write_bill(tag, BILLS / f"{tag.replace(':', '-')}-{where.value.short}.cdx.json")
    size = _inspect(tag)["Size"]
    print(f"{tag}  {where.value.docker}  {size / 1e6:.0f} MB  {path.relative_to(REPOSITORY)}", flush=True)
    return tag


def write_bill(tag: str, path: Path) -> Path:
    """Write the bill of materials of an image that is here."""
    found = _inspect(tag)
    pinned = sbom.coordinates(
        table.read_text()
        for table in (REPOSITORY / "headwater" / "servers" / "kafka_jars.tsv", HERE / "kafka" / "jars.tsv")
    )
    container = _docker("create", tag).strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
            assert export.stdout is not None  # it was asked for
            inside = sbom.components(export.stdout, pinned)
            # What tarfile does not read (padding behind the end of the archive) would else break docker's pipe.
            while export.stdout.read(1 << 16):
                pass
    finally:
        _docker("rm", "--force", "--volumes", container)
    if export.returncode:
        raise CannotBuild(f"{tag} could not be read: docker export ended with {export.returncode}")
    name, _, version = tag.partition(":")
    document = sbom.bill(
        name=name,
        version=version,
        image=found["Id"],
        created=found["Created"],
        environment=found["Config"]["Env"] or (),
        inside=inside,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _inspect(tag: str) -> dict[str, Any]:
    (found,) = json.loads(_docker("image", "inspect", tag))
    assert isinstance(found, dict)
    return found


def _docker(*words: str) -> str:
    if shutil.which("docker") is None:
        raise CannotBuild("docker is not installed here")
    done = subprocess.run(
        ["docker", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BUILD_S, check=False
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise CannotBuild(f"docker {words[0]} failed:\n{said}")
    return done.stdout


def _revision() -> dict[str, str]:
    """The commit and its time as build arguments: the same source gives the same image."""
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), "log", "-1", "--format=%H %cI"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode:  # an unpacked archive
        return {}
    commit, time = done.stdout.split()
    return {"REVISION": commit, "CREATED": time}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make images", description="Build Headwater's images.")
    parser.add_argument("--image", choices=("headwater", "kafka", "all"), default="all")
    parser.add_argument("--version", default=own_version(), help="the images' tag; Headwater's version when left out")
    parser.add_argument("--platform", default="", help="linux/amd64, linux/arm64 or linux/arm/v7; else this machine's")
    parser.add_argument(
        "--base-image", default="", help=f"of both images; {PYTHON_BASE} and {DEBIAN_BASE} when left out"
    )
    parser.add_argument("--kafka-base-image", default="", help="of headwater-kafka alone")
    parser.add_argument("--extras", default="all", help="all, or edge: gateway and replicator without any store")
    parser.add_argument("--java", default="", help="wheel (64 bit), or apt; apt on linux/arm/v7 when left out")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels instead of what the lock pins")
    parser.add_argument("--gather-only", action="store_true", help="gather what is needed and build nothing")
    options = parser.parse_args(words)
    if not _TAG.fullmatch(options.version):
        parser.error(f"VERSION {options.version!r} cannot be an image's tag: letters, digits, '_', '.' and '-'")
    by_name = {one.value.docker: one for one in Platform}
    here = _MACHINES.get(platform.machine(), Platform.AMD64)
    if options.platform and options.platform not in by_name:
        parser.error(f"PLATFORM {options.platform!r} is none of {', '.join(by_name)}")
    options.platform = by_name[options.platform] if options.platform else here
    try:
        options.extras = Extras(options.extras)
        options.java = Java(options.java or ("apt" if options.platform is Platform.ARM_V7 else "wheel"))
    except ValueError as exc:
        parser.error(f"EXTRAS is all or edge, JAVA wheel or apt: {exc}")
    return options


if __name__ == "__main__":
    sys.exit(main())
