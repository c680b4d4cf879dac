"""Four boxes with all images on them: what both the Swarm's test and the guide's begin with."""

from __future__ import annotations

import hashlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.stacks.base_image import BASE_IMAGE
from tests.stacks.boxes import Box, Network
from tests.stacks.docker_host import need_docker
from tests.stacks.fleet import REPOSITORY, script
from tests.stacks.image_store import ImageStore, alone
from tests.stacks.server_images import SERVERS, STAND_INS

#: The guide's boxes: one is the cloud, each other is to have the gateway of its name.
ADDRESSES = {"cloud": "192.0.2.10", "rock64": "192.0.2.11", "tinker": "192.0.2.12", "pine64": "192.0.2.13"}
#: Our images; two versions of them that differ by a label alone, and what the guide calls the first.
OURS = ("headwater", "headwater-kafka")
FIRST, NEXT, GUIDES = "test", "test-next", "0.1.0"
#: What the guide makes copies of volumes with.
_DEBIAN = "debian:12.12-slim"

_PUBLIC = re.compile(r"\$\{([A-Z_]+_IMAGE):-([^}]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The boxes by name; other people's images, by the variable of the stacks."""

    boxes: Mapping[str, Box]
    images: Mapping[str, str]


@contextmanager
def lab() -> Iterator[Lab]:
    """Boxes that were just switched on; no Swarm yet. Whatever this machine lacks fails the test with what it is."""
    need_docker("the Swarm")
    with alone() as cache, ExitStack() as ending:
        store = ImageStore(cache)
        with store:
            images = _images(store)
        left_out = ", ".join(one.name for one in STAND_INS)
        warnings.warn(f"no registry is asked for images, so the Swarm runs with {left_out}", stacklevel=1)
        network = Network()
        ending.callback(network.remove)
        boxes = {}
        for name, address in ADDRESSES.items():
            boxes[name] = Box(name=name, folder=cache / "run-1" / name, address=address, network=network)
            ending.callback(boxes[name].remove)
            store.hand_to(boxes[name])
        with ThreadPoolExecutor() as at_once:
            list(at_once.map(Box.start, boxes.values()))
        yield Lab(boxes=boxes, images=images)


def _images(store: ImageStore) -> dict[str, str]:
    images = {one.variable: store.server(one) for one in (*SERVERS, *STAND_INS)}
    _build_ours(store)
    for name in OURS:
        store.variant(f"{name}:{FIRST}", f"{name}:{NEXT}")
        store.builder.docker("tag", f"{name}:{FIRST}", f"{name}:{GUIDES}")
    store.builder.docker("tag", BASE_IMAGE, _DEBIAN)
    # By the names of the public images as well, for who sets no variable.
    for stack in (REPOSITORY / "stacks").glob("*.yml"):
        for variable, public in _PUBLIC.findall(stack.read_text("utf-8")):
            if variable in images:
                store.builder.docker("tag", images[variable], public)
    return images


def _build_ours(store: ImageStore) -> None:
    """Build our images as `FIRST`, unless the store has them of these very files: two modules want them."""
    made = f"of-{_digest_of_sources()}"
    if not all(f"{name}:{made}" in store for name in OURS):
        for name in OURS:
            for old in store.builder.docker("image", "ls", "--format", "{{.Tag}}", name).split():
                store.builder.docker("image", "rm", f"{name}:{old}")
        words = ("-m", "stacks.images.make", "--base-image", BASE_IMAGE, "--version", FIRST)
        script(sys.executable, *words, environment=store.builder.environment, cwd=REPOSITORY)
        for name in OURS:
            store.builder.docker("tag", f"{name}:{FIRST}", f"{name}:{made}")
    for name in OURS:
        store.builder.docker("tag", f"{name}:{made}", f"{name}:{FIRST}")


def _digest_of_sources() -> str:
    """Tells apart what our images are made of: every file of the project but its tests and texts."""
    told = hashlib.sha256(BASE_IMAGE.encode())
    rooms = ("analytics", "cloud", "connectors", "gateway", "headwater", "schemas", "security", "stacks")
    files = [REPOSITORY / "pyproject.toml", *(one for room in rooms for one in (REPOSITORY / room).rglob("*"))]
    for file in sorted(one for one in files if one.is_file() and one.suffix != ".pyc"):
        told.update(f"{file.relative_to(REPOSITORY)}\0".encode() + file.read_bytes() + b"\0")
    return told.hexdigest()[:12]
