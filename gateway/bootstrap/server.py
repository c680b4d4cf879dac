"""One bootstrap process: puts the parts together, starts them in order, and stops them in order.

It holds no rule of its own. It needs no Kafka: devices are bootstrapped in the factory, or before their gateway is up.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from aiocoap import resource

from connectors.health import HealthServer, serve_health
from connectors.process_metrics import Component, with_process
from gateway.access import Access
from gateway.admission import Admission
from gateway.bootstrap.interface import Interface, PackResource
from gateway.bootstrap.issuing import Issuer
from gateway.bootstrap.ledger import Ledger
from gateway.bootstrap.metrics import BootstrapMetrics
from gateway.bootstrap.runs import Runs
from gateway.bootstrap.settings import BootstrapSettings
from gateway.bootstrap.store_file import BootstrapFile
from gateway.bootstrap.trace import Trace
from gateway.coap.aiocoap_link import AiocoapLink, Remote
from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Busy
from gateway.device_link import DeviceLink

if TYPE_CHECKING:
    from gateway.coap.secure import SecureLine

_log = structlog.get_logger("headwater.bootstrap")

_HOUSEKEEPING_SECONDS = 0.5
#: Seconds in which runs under way may still come to their end when the server is told to stop.
_DRAIN_SECONDS = 5.0


class BootstrapServer:
    """A bootstrap server from its start to its stop."""

    def __init__(self, settings: BootstrapSettings) -> None:
        """Open the file and the credentials, and bind the CoAP ports.

        Raises:
            BootstrapFileError: the file cannot be used.
            CredentialStoreError: the credentials cannot be read.
            SecretError, Exposed, CertificateUnusable: its certificate or the key of it cannot be used.
            OSError: a CoAP address cannot be bound.
        """
        self._settings = settings
        self._file = BootstrapFile(settings.state, make=True)
        self._access: Access | None = None
        self._secure: SecureLine | None = None
        try:
            self._open_credentials()
            self._endpoint = Endpoint(settings.coap, Busy(), secure=self._secure)
        except BaseException:
            self._close()
            raise
        self._trace = Trace(self._file, _now_ms)
        self._ledger = Ledger(self._file, _now_ms)
        self._tasks: asyncio.TaskGroup
        self._health: HealthServer | None = None
        self._not_ready: str | None = "the bootstrap server is starting"

    def _open_credentials(self) -> None:
        settings = self._settings
        if settings.credentials is None:
            return
        from gateway.entrance import open_entrance

        self._access, self._secure = open_entrance(
            settings.credentials, settings.coaps, settings.coaps_certificate, make=settings.make_credentials
        )

    def _close(self) -> None:
        if self._secure is not None:
            self._secure.close()
        if self._access is not None:
            self._access.close()
        self._file.close()

    @property
    def coap_address(self) -> tuple[str, int]:
        """Where devices are listened to in the clear, or else over DTLS."""
        return self._endpoint.lines.local_address

    @property
    def coaps_address(self) -> tuple[str, int] | None:
        """Where devices are listened to over DTLS."""
        return None if self._secure is None else self._secure.local_address

    def _ready(self) -> str | None:
        return self._not_ready

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(work)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; let the runs under way come to their end then, and close.

        Raises:
            BootstrapFileError: the file cannot be written.
        """
        try:
            await self._serve(stop)
        finally:
            self._endpoint.close()
            self._close()
            if self._health is not None:
                self._health.close()

    async def _serve(self, stop: asyncio.Event) -> None:
        if cut := self._trace.recover():
            _log.warning("runs were cut by the end of the server before; their devices will begin again", runs=cut)
        async with asyncio.TaskGroup() as self._tasks:
            root = resource.Site()
            link = DeviceLink(self._endpoint.client, AiocoapLink(self._endpoint, root))
            runs = Runs(
                self._trace,
                Issuer(self._ledger, lambda: datetime.now(UTC), secrets.token_bytes),
                link,
                self._tasks,
                step_timeout=self._settings.step_timeout,
                most=self._settings.most_runs,
            )
            interface = Interface(self._settings.config, Admission(self._access), runs, self._spawn)
            root.add_resource(["bspack"], PackResource(interface))
            metrics = BootstrapMetrics(self._settings.config, runs, interface, self._endpoint, self._secure)
            gateway = self._settings.gateway or "*"
            files = self._settings.coaps_certificate
            if self._settings.metrics_port is not None:
                self._health = serve_health(
                    self._settings.metrics_port,
                    host=self._settings.metrics_host,
                    keys=self._settings.metrics_keys,
                    registry=with_process(
                        metrics.registry,
                        Component.BOOTSTRAP,
                        (gateway,),
                        self._ready,
                        certificates=() if files is None else (files.certificate, files.authorities),
                    ),
                    ready=self._ready,
                )
            self._endpoint.serve(interface)
            self._endpoint.start(asyncio.get_running_loop())
            self._not_ready = None
            _log.info(
                "the bootstrap server is ready",
                coap=None if self._settings.coap is None else Remote(self.coap_address).hostinfo,
                coaps=None if self._secure is None else Remote(self._secure.local_address).hostinfo,
            )
            following = [
                self._tasks.create_task(work) for work in (self._follow_credentials(), self._follow_configuration())
            ]
            await stop.wait()
            for task in following:
                task.cancel()
            self._not_ready = "the bootstrap server is stopping"
            # Devices are still heard, as they have to answer.
            await runs.drained(_DRAIN_SECONDS)

    async def _follow_credentials(self) -> None:
        """End sessions whose keys or certificates are good no more."""
        if self._access is None or self._secure is None:
            return
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            # The store may be far away, and nobody waits for it here.
            self._secure.follow(self._access, await asyncio.to_thread(self._access.changed))

    async def _follow_configuration(self) -> None:
        """Serve what the file says now. Runs that are under way keep what they began with."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            await asyncio.to_thread(self._settings.config.look)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def run(settings: BootstrapSettings, stop: asyncio.Event) -> None:
    """Run a bootstrap server until ``stop`` is set.

    Raises:
        BootstrapFileError, CredentialStoreError, OSError: as `BootstrapServer`.
    """
    await BootstrapServer(settings).run(stop)
