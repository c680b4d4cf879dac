"""The images of the test, kept in the cache folder by a daemon of their own, and handed to boxes without a registry.

Building them takes minutes and is done once; a box's store is a copy by hard links, which takes a second: the layers of
images are never written to, and all else that Docker keeps about them is copied.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from headwater.servers.kafka_jars import cache_folder
from tests.stacks.base_image import BASE_IMAGE, base_archive
from tests.stacks.docker_host import Daemon, end_leftover
from tests.stacks.server_images import ServerImage

#: Patience with a busy machine, in seconds.
BUILD_S = 1800.0
#: Another tells apart what the store was made by, and starts anew.
_FORMAT = 1
#: How the folders begin that images are built of.
_CONTEXT = "context-"


@contextmanager
def alone() -> Iterator[Path]:
    """The folder of the Swarm tests, for one run at a time of this user: there is one network 192.0.2.0/24."""
    folder = cache_folder(os.environ) / "swarm"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Of a run that was killed.
        for daemon in (*folder.glob("run-*/*"), *folder.glob("store-*")):
            end_leftover(daemon)
        for leftover in (*folder.glob("run-*"), *folder.glob(f"store-*/{_CONTEXT}*")):
            shutil.rmtree(leftover, ignore_errors=True)
        yield folder


class ImageStore:
    """Open while ``with``; `hand_to` is for after that."""

    def __init__(self, folder: Path) -> None:
        self.builder = Daemon(name="builder", folder=folder / f"store-{_FORMAT}")

    def __enter__(self) -> ImageStore:
        self.builder.start()
        # Of a run that was killed.
        self.builder.docker("container", "prune", "--force")
        self.builder.docker("network", "prune", "--force")
        self._import_base()
        return self

    def __exit__(self, *_: object) -> None:
        # What builds before left behind; what this one came upon stays.
        self.builder.docker("image", "prune", "--force")
        self.builder.stop()

    def __contains__(self, image: str) -> bool:
        return bool(self.builder.docker("image", "ls", "--quiet", image))

    def _import_base(self) -> None:
        if BASE_IMAGE not in self:
            self.builder.docker("import", str(base_archive()), BASE_IMAGE, timeout=BUILD_S)

    def server(self, image: ServerImage) -> str:
        """The name of a server's image, built first if need be."""
        files = {**image.files(), "Dockerfile": f"FROM {BASE_IMAGE}\n{image.dockerfile}"}
        tag = f"headwater-test-{image.name}:{_digest(files)}"
        if tag not in self:
            with tempfile.TemporaryDirectory(dir=self.builder.folder, prefix=_CONTEXT) as context:
                _lay_out(Path(context), files)
                self.builder.docker("build", "--quiet", "--tag", tag, context, timeout=BUILD_S)
        return tag

    def variant(self, image: str, tag: str) -> None:
        """Another image, named ``tag``, that differs from ``image`` by a label alone."""
        dockerfile = f"FROM {image}\nLABEL io.headwater.test.variant={tag}\n"
        self.builder.docker("build", "--quiet", "--tag", tag, "-", stdin=dockerfile, timeout=BUILD_S)

    def hand_to(self, box: Daemon) -> None:
        """Give a box that was never started all images."""
        box.data.mkdir(parents=True)
        for part, how in (("overlay2", "--link"), ("image", "--reflink=auto")):
            command = ["cp", "--archive", how, str(self.builder.data / part), str(box.data / part)]
            subprocess.run(command, timeout=BUILD_S, check=True)


def _digest(files: Mapping[str, Path | str]) -> str:
    """Tells contents apart; a folder of the cache is known by its name, which has the version."""
    told = hashlib.sha256(BASE_IMAGE.encode())
    for name, content in sorted(files.items()):
        if isinstance(content, str):
            told.update(f"{name}\0{content}\0".encode())
        else:
            told.update(f"{name}\0{content}\0{content.stat().st_mtime_ns}\0".encode())
    return told.hexdigest()[:12]


def _lay_out(context: Path, files: Mapping[str, Path | str]) -> None:
    for name, content in files.items():
        place = context / name
        if isinstance(content, str):
            place.write_text(content, "utf-8")
            place.chmod(0o755)
        elif content.is_dir():
            shutil.copytree(content, place)
        else:
            shutil.copy(content, place)
