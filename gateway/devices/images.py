"""Firmware Update (object 5) and Software Management (object 9) of a virtual device: it takes an image, checks it, and
becomes what the image says.

Follows OMA LwM2M Core 1.1, appendix E.6 (object 5) and LWM2M Software Management 1.0 (object 9). An image is any bytes.
Its first line may be ``headwater VERSION``, with ``damaged`` behind it for one that fails its check, or ``faulty`` for
one that cannot be installed. The state is kept in a file, as a device keeps it over a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import structlog

from gateway.devices.client import CannotFetch, Device
from gateway.devices.model import Holding, NotPermitted
from schemas.lwm2m.nodes import Value
from schemas.lwm2m.path import Path

_log = structlog.get_logger("headwater.device")

#: Seconds that the installation takes.
INSTALL_S = 0.5
_FIRMWARE_VERSION = Path(3, 0, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The resources and numbers of one of the two objects."""

    number: int
    package: int
    uri: int
    state: int
    result: int
    name: int
    version: int
    execute: int
    idle: int
    downloading: int
    ready: int
    updating: int
    updated: int
    success: int
    lost: int
    damaged: int
    bad_uri: int
    failed: int
    #: What a firmware has beside, and a software.
    more: Mapping[int, Any]


FIRMWARE = Kind(
    number=5,
    package=0,
    uri=1,
    state=3,
    result=5,
    name=6,
    version=7,
    execute=2,
    idle=0,
    downloading=1,
    ready=2,
    updating=3,
    updated=0,
    success=1,
    lost=4,
    damaged=5,
    bad_uri=7,
    failed=8,
    # It fetches by CoAP and CoAPS, and takes both pull and push.
    more={8: {0: 0, 1: 1}, 9: 2},
)
SOFTWARE = Kind(
    number=9,
    package=2,
    uri=3,
    state=7,
    result=9,
    name=0,
    version=1,
    execute=4,
    idle=0,
    downloading=1,
    ready=3,
    updating=3,
    updated=4,
    success=2,
    lost=52,
    damaged=53,
    bad_uri=56,
    failed=58,
    more={12: False},
)


class Images:
    """One instance of either object; ``kept`` is the file of its state, None: it lives as long as the process."""

    def __init__(self, kind: Kind, kept: FilePath | None) -> None:
        self._kind = kind
        self._kept = kept
        self._device: Device
        self._image = b""
        self._work: asyncio.Task[None] | None = None
        self._said: dict[str, Any] = {"state": kind.idle, "result": 0, "name": "", "version": "", "active": False}
        #: How often it was told to install.
        self.executed = 0
        if kept is not None and kept.exists():
            self._said |= json.loads(kept.read_text())
            package = kept.with_suffix(".image")
            self._image = package.read_bytes() if package.exists() else b""
            if self._said["state"] == kind.downloading:
                # What it had of it was in memory.
                self._said |= {"state": kind.idle, "result": kind.lost}

    @property
    def _path(self) -> Path:
        return Path(self._kind.number, 0)

    def holding(self) -> Holding:
        """The instance."""
        kind, said = self._kind, self._said
        contents = {
            kind.package: b"",
            kind.uri: "",
            kind.state: lambda: said["state"],
            kind.result: lambda: said["result"],
            kind.name: lambda: said["name"],
            kind.version: lambda: said["version"],
            **kind.more,
        }
        actions = {kind.execute: lambda _: self._execute()}
        if kind is SOFTWARE:
            contents[12] = lambda: said["active"]
            actions |= {
                6: lambda _: self._uninstall(),
                10: lambda _: self._activate(),
                11: lambda _: self._deactivate(),
            }
        return Holding(
            contents=contents, actions=actions, setters={kind.package: self._pushed, kind.uri: self._told_uri}
        )

    def belongs_to(self, device: Device) -> None:
        """Whose it is, before anything is written."""
        self._device = device
        if self._kind is FIRMWARE and self._said["version"]:
            device.model.set(_FIRMWARE_VERSION, self._said["version"])

    # What the server does

    def _pushed(self, value: Value) -> None:
        assert isinstance(value, bytes)
        if not value:
            self._take_back()
            return
        self._may_take()
        self._stop_work()
        self._begin(self._take(value))

    def _told_uri(self, value: Value) -> None:
        uri = str(value)
        if not uri:
            self._take_back()
            return
        self._may_take()
        self._stop_work()
        self._begin(self._fetch(uri))

    def _take_back(self) -> None:
        if self._said["state"] == self._kind.updating and self._work is not None:
            raise NotPermitted("an image is being installed")
        self._stop_work()
        self._becomes(self._kind.idle, 0)

    def _may_take(self) -> None:
        if self._said["state"] not in (self._kind.idle, self._kind.downloading):
            raise NotPermitted("there is an image already, or one is being installed")

    def _execute(self) -> None:
        if self._said["state"] != self._kind.ready or self._work is not None:
            raise NotPermitted("there is no image to install")
        self.executed += 1
        if self._kind.updating != self._kind.ready:
            self._becomes(self._kind.updating, 0)
        self._begin(self._install())

    def _uninstall(self) -> None:
        self._said |= {"name": "", "version": "", "active": False}
        self._becomes(self._kind.idle, 0)

    def _activate(self) -> None:
        if self._said["state"] != self._kind.updated:
            raise NotPermitted("nothing is installed")
        self._said["active"] = True
        self._keep()

    def _deactivate(self) -> None:
        self._said["active"] = False
        self._keep()

    # What it does itself

    def _begin(self, work: Any) -> None:
        self._work = asyncio.get_running_loop().create_task(work)
        self._work.add_done_callback(self._worked)

    def _worked(self, work: asyncio.Task[None]) -> None:
        if self._work is work:
            self._work = None
        if not work.cancelled() and (error := work.exception()) is not None:
            _log.error("the image could not be worked on", ep=self._device.config.endpoint, error=str(error))

    def _stop_work(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    async def _fetch(self, uri: str) -> None:
        self._becomes(self._kind.downloading, 0)
        try:
            image = await self._device.fetch(uri)
        except ValueError:
            self._becomes(self._kind.idle, self._kind.bad_uri)
        except CannotFetch as exc:
            _log.warning("the image could not be fetched", ep=self._device.config.endpoint, error=str(exc))
            self._becomes(self._kind.idle, self._kind.bad_uri if exc.refused else self._kind.lost)
        else:
            await self._take(image)

    async def _take(self, image: bytes) -> None:
        words = _first_line(image)
        if words[2:] == ["damaged"]:
            self._becomes(self._kind.idle, self._kind.damaged)
            return
        self._image = image
        if self._kept is not None:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            self._kept.with_suffix(".image").write_bytes(image)
        self._becomes(self._kind.ready, 0 if self._kind is FIRMWARE else 3)

    async def _install(self) -> None:
        await asyncio.sleep(INSTALL_S)
        words = _first_line(self._image)
        if words[2:] == ["faulty"]:
            self._becomes(self._kind.idle, self._kind.failed)
            return
        version = words[1] if words else hashlib.sha256(self._image).hexdigest()[:12]
        self._said |= {"name": "headwater", "version": version}
        self._becomes(self._kind.updated, self._kind.success)
        if self._kind is FIRMWARE:
            self._device.model.set(_FIRMWARE_VERSION, version)
            self._device.reboot()

    def _becomes(self, state: int, result: int) -> None:
        self._said |= {"state": state, "result": result}
        self._keep()
        for resource in (self._kind.state, self._kind.result):
            self._device.model.changed(self._path.child(resource))

    def _keep(self) -> None:
        if self._kept is not None:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            new = self._kept.with_suffix(".new")
            new.write_text(json.dumps(self._said))
            new.replace(self._kept)


def _first_line(image: bytes) -> list[str]:
    """Its words, if it is one of ours."""
    words = image[:200].partition(b"\n")[0].decode("utf-8", "replace").split()
    return words if len(words) >= 2 and words[0] == "headwater" else []
