"""One gateway process: puts the parts together, starts them in order, and stops them in order.

It holds no rule of its own; each part's rules are in its own module. Nothing is taken from a device before the edge
Kafka answers and the recent past is read back; until then requests get 5.03.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from connectors.health import HealthServer, serve_health
from connectors.process_metrics import Component, with_process
from gateway.access import Access
from gateway.admission import Admission
from gateway.coap.aiocoap_link import Remote
from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Busy
from gateway.credential_watch import CredentialWatch
from gateway.journal import Journal
from gateway.metrics import GatewayMetrics, describe, describe_crossing
from gateway.models import LOOK_EVERY, Models
from gateway.parts import Parts
from gateway.recent_past import RecentPast
from gateway.settings import GatewaySettings
from gateway.state import State, StoredState
from gateway.uplink import Uplink
from gateway.wanted import Declared
from schemas.avro.topics import Topics

if TYPE_CHECKING:
    import socket

    from gateway.coap.secure import SecureLine
    from gateway.several.crossing import Crossing
    from gateway.several.seat import Seat

_log = structlog.get_logger("headwater.gateway")

_HOUSEKEEPING_SECONDS = 0.5
#: Seconds in which the records under way may still become durable when the gateway is told to stop.
_DRAIN_SECONDS = 5.0


class Gateway:
    """A gateway from its start to its stop."""

    def __init__(self, settings: GatewaySettings, seat: Seat | None = None) -> None:
        """Open the state and the credentials, and bind the CoAP ports; one of several processes has a ``seat``.

        Raises:
            CredentialStoreError: the credentials cannot be read.
            SecretError, Exposed, CertificateUnusable: the gateway's certificate or its key cannot be used.
            StateError: the state directory cannot be used; the text says why.
            OSError: the CoAP address cannot be bound.
            PathError: a pattern to observe or to read is none.
            DefinitionError: the folder of models is there and cannot be read.
        """
        self._settings = settings
        self._topics = Topics(settings.gateway)
        self._declared = Declared(settings.observe, settings.observe_by_endpoint)
        self._models = Models(settings.definitions)
        self._access: Access | None
        self._secure: SecureLine | None
        self._seat = seat
        self._crossing: Crossing | None = None
        plain = secure = None
        mark = b""
        if seat is not None:
            from gateway.several.crossing import Crossing
            from gateway.several.seat import adopted
            from gateway.several.steering import token_mark

            self._crossing = Crossing(seat)
            plain, secure = adopted(seat.coap), adopted(seat.coaps)
            mark = token_mark(seat.number)
        self._access, self._secure = _security(settings, secure, self._crossing)
        try:
            self._endpoint = Endpoint(
                settings.coap if settings.insecure else None,
                Busy(),
                secure=self._secure,
                bound=plain,
                is_elsewhere=None if self._crossing is None else self._crossing.plain,
                token_mark=mark,
            )
        except BaseException:
            self._close_security()
            raise
        try:
            self._state = State.open(settings.state)
            self._stored: StoredState = self._state.load()
            self._journal = Journal(settings.state)
            self._credentials = CredentialWatch(
                self._access,
                self._secure,
                self._endpoint,
                self._state,
                lambda: self._stored,
                settings.coap,
                is_alone=seat is None,
            )
            self._credentials.begin_oscore()
        except BaseException:
            self._endpoint.close()
            self._close_security()
            raise
        self._past = RecentPast(settings.kafka, self._topics, self._journal, self._spawn)
        self._tasks: asyncio.TaskGroup
        self._parts: Parts | None = None
        self._not_ready: str | None = "the edge Kafka does not answer yet"
        self._health: HealthServer | None = None

    @property
    def coaps_address(self) -> tuple[str, int] | None:
        """Where devices are listened to over DTLS."""
        return None if self._secure is None else self._secure.local_address

    @property
    def metrics_port(self) -> int | None:
        """Where the metrics are served, also where port 0 was asked for."""
        return None if self._health is None else self._health.port

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then make durable what is under way, and close."""
        loop = asyncio.get_running_loop()
        # Tens of thousands of long-lived registrations make the collector's default pace a third of a registration's
        # cost; what is short-lived here is freed by its reference count.
        gc.set_threshold(20_000, 20, 100)
        # The state's writer and the reader of requests hand over to this thread and wait for it at every step: with the
        # default of 5 ms their turns would be most of a command's time.
        sys.setswitchinterval(0.002)
        self._endpoint.start(loop)
        if self._crossing is not None:
            self._crossing.start(loop, self._endpoint.receiving, self._secure)
        metrics = GatewayMetrics(self._settings.gateway)
        files = self._settings.coaps_certificate
        shown = with_process(
            metrics.registry,
            Component.GATEWAY,
            (self._settings.gateway,),
            self._ready,
            tls=(self._settings.kafka.tls,),
            certificates=() if files is None else (files.certificate, files.authorities),
        )
        if self._settings.metrics_port is not None:
            self._health = serve_health(
                self._settings.metrics_port,
                host=self._settings.metrics_host,
                keys=self._settings.metrics_keys,
                registry=shown,
                ready=self._ready,
            )
        try:
            async with asyncio.TaskGroup() as self._tasks:
                running = [self._tasks.create_task(self._work(metrics))]
                if self._seat is not None:
                    from gateway.several.control import answer_parent

                    running.append(self._tasks.create_task(answer_parent(self._seat, shown, self._ready)))
                await stop.wait()
                for task in running:
                    task.cancel()
                await self._stop()
        finally:
            self._endpoint.close()
            self._journal.close()
            if self._crossing is not None:
                self._crossing.close()
            await self._state.close()
            self._close_security()
            if self._health is not None:
                self._health.close()

    def _close_security(self) -> None:
        if self._secure is not None:
            self._secure.close()
        if self._access is not None:
            self._access.close()

    def _ready(self) -> str | None:
        if self._parts is None:
            return self._not_ready
        # Where no device speaks, nothing is under way by which the uplink would find out.
        return self._parts.uplink.refusal() or self._parts.commands.trouble

    async def _work(self, metrics: GatewayMetrics) -> None:
        partitions = await self._past.partitions()
        uplink = Uplink(self._settings.kafka, self._topics, partitions)
        uplink.start(asyncio.get_running_loop())
        is_mine, mark = None, ""
        if self._seat is not None:
            from gateway.several.owners import share
            from gateway.several.steering import id_mark

            is_mine, mark = share(self._seat.number, self._seat.processes), id_mark(self._seat.number)
        parts = Parts(
            self._settings,
            self._models.definitions,
            self._declared,
            self._state,
            self._journal,
            self._endpoint,
            uplink,
            self._spawn,
            Admission(self._access),
            is_mine,
            mark,
        )
        # While Kafka is read the state is: neither is to be had at once.
        looking = self._tasks.create_task(asyncio.to_thread(uplink.look_up))
        reading = self._tasks.create_task(
            self._past.read(unanswered=self._stored.last_sequence > 0, positions=self._stored.positions)
        )
        await asyncio.sleep(0)
        parts.restore(self._stored)
        if self._crossing is not None:
            self._crossing.know(parts.registry)
            parts.files.tell(self._crossing.say_file)
        # Of the rest OSCORE may have need later.
        self._stored = replace(self._stored, oscore_observed=frozenset())
        self._credentials.restored(parts)
        await looking
        await self._past.take_back(parts, reading)
        uplink.on_fatal = lambda: self._past.renew_soon(parts)
        if self._crossing is not None:
            self._not_ready = self._crossing.waits_for
            await self._crossing.all_heard()
        self._parts = parts
        describe(metrics, parts)
        if self._crossing is not None:
            describe_crossing(metrics, self._crossing)
        self._credentials.describe(metrics)
        # Kafka may have been away for long.
        await self._credentials.look(parts, metrics)
        self._endpoint.serve(parts)
        self._credentials.serve(parts, metrics)
        uplink.reopen()
        parts.commands.start()
        _log.info(
            "the gateway is ready",
            coap=_shown(self._endpoint.lines.plain_address),
            coaps=_shown(self.coaps_address),
            devices=len(parts.registry),
            observations=len(parts.table),
        )
        watching = [
            self._tasks.create_task(one)
            for one in (self._watch_models(parts), self._credentials.follow(parts, metrics))
        ]
        try:
            while True:
                await asyncio.sleep(_HOUSEKEEPING_SECONDS)
                if not uplink.accepting and not uplink.refuses_briefly():
                    # Devices that asked before it was known that Kafka is away are told now, and come again by
                    # themselves.
                    self._endpoint.server.refuse_open()
                    parts.registrations.bare.refuse_waiting()
                # Records without a report of their own leave the producer's queue when it is polled.
                uplink.poll()
                parts.registrations.expire()
                parts.registrations.bare.keep_up()
                parts.behind.follow_up()
                self._credentials.keep_up(parts)
        finally:
            for task in watching:
                task.cancel()

    async def _watch_models(self, parts: Parts) -> None:
        async def look() -> None:
            if await self._models.look():
                parts.wanted.definitions_changed()

        while True:
            await _guarded(look())
            await asyncio.sleep(LOOK_EVERY)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(_guarded(work))

    async def _stop(self) -> None:
        self._not_ready = "the gateway is stopping"
        self._endpoint.pause()
        if self._crossing is not None:
            self._crossing.pause()
        parts = self._parts
        if parts is None:
            return
        # Replies of what devices have now still go out, so the uplink closes after the commands.
        await parts.commands.stop()
        await asyncio.to_thread(parts.files.stop)
        parts.uplink.close("the gateway is stopping")
        if not await parts.uplink.drained(_DRAIN_SECONDS):
            _log.warning("not everything under way became durable; devices will send it again")
        parts.registrations.bare.keep_up()


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    """A task of one device must not end the gateway."""
    try:
        await work
    except Exception:  # noqa: BLE001  # logged with its trace, and the other devices go on
        _log.exception("a task failed")


def _shown(address: tuple[str, int] | None) -> str | None:
    return None if address is None else Remote(address).hostinfo


def _security(
    settings: GatewaySettings, bound: socket.socket | None, crossing: Crossing | None
) -> tuple[Access, SecureLine] | tuple[None, None]:
    """The credentials and the DTLS port, where there are credentials: else neither is loaded."""
    if settings.credentials is None:
        return None, None
    from gateway.entrance import open_entrance

    if settings.import_credentials is not None:
        from gateway.given_credentials import take_up_file

        take_up_file(settings.credentials, settings.import_credentials, make=settings.make_credentials)
    return open_entrance(
        settings.credentials,
        settings.coaps,
        settings.coaps_certificate,
        make=settings.make_credentials,
        bound=bound,
        crossing=crossing,
    )


async def run(settings: GatewaySettings, stop: asyncio.Event, seat: Seat | None = None) -> None:
    """Run a gateway, or the one of several processes that has this ``seat``, until ``stop`` is set.

    Raises:
        StateError, OSError, PathError, SecurityError, DefinitionError: as `Gateway`.
    """
    await Gateway(settings, seat).run(stop)
