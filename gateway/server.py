"""One gateway process: puts the parts together, starts them in order, and stops them in order.

It holds no rule of its own; each part's rules are in its own module. Nothing is taken from a device before the edge
Kafka answers and the recent past is read back; until then requests get 5.03.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from connectors.health import HealthServer, serve_health
from connectors.kafka import KafkaException, Unreachable, ensure_topics, partition_counts
from connectors.process_metrics import Component, with_process
from gateway.access import Access, Changed
from gateway.admission import Admission, unwelcome
from gateway.coap.aiocoap_link import Remote
from gateway.coap.endpoint import Endpoint
from gateway.coap.incoming import Busy
from gateway.coap.peers import OscorePeer, SecurePeer
from gateway.journal import Journal
from gateway.metrics import GatewayMetrics, describe, describe_crossing, describe_dtls, describe_oscore
from gateway.models import LOOK_EVERY, Models
from gateway.parts import Parts, wall_ms
from gateway.recovery import Recovered, recover
from gateway.registry import WINDOW, Device
from gateway.settings import GatewaySettings
from gateway.state import Positions, State, StoredState
from gateway.uplink import Uplink
from gateway.wanted import Declared
from schemas.avro.topics import Topics
from security.errors import CredentialStoreError

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from gateway.coap.secure import SecureLine
    from gateway.oscore.line import OscoreLine
    from gateway.several.crossing import Crossing
    from gateway.several.seat import Seat
    from security.credentials.opening import StorePlace

_log = structlog.get_logger("headwater.gateway")

_HOUSEKEEPING_SECONDS = 0.5
_OSCORE_LOOK_SECONDS = 0.1
_KAFKA_RETRY_SECONDS = 1.0
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
        #: Whether it was said that several processes speak no OSCORE.
        self._is_oscore_told = False
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
            self._oscore: OscoreLine | None = None
            self._begin_oscore()
        except BaseException:
            self._endpoint.close()
            self._close_security()
            raise
        #: Devices whose registrations have to end, as the credentials say.
        self._unwelcome: set[Device] = set()
        #: True if it is to be seen whether OSCORE is spoken now.
        self._is_oscore_due = False
        self._oscore_looked_at = float("-inf")
        self._is_coap_taken = False
        #: How often the producer was made anew.
        self._renewals = 0
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
        partitions = await self._wait_for_kafka()
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
            self._recovered(unanswered=self._stored.last_sequence > 0, positions=self._stored.positions)
        )
        await asyncio.sleep(0)
        parts.restore(self._stored)
        if self._crossing is not None:
            self._crossing.know(parts.registry)
            parts.files.tell(self._crossing.say_file)
        # Of the rest OSCORE may have need later.
        self._stored = replace(self._stored, oscore_observed=frozenset())
        if self._oscore is not None:
            _adopt(self._oscore, parts)
        await looking
        await self._take_back(parts, reading)
        uplink.on_fatal = lambda: self._renew_soon(parts)
        if self._crossing is not None:
            self._not_ready = self._crossing.waits_for
            await self._crossing.all_heard()
        self._parts = parts
        describe(metrics, parts)
        if self._crossing is not None:
            describe_crossing(metrics, self._crossing)
        if self._secure is not None and self._access is not None:
            describe_dtls(metrics, self._secure, self._access)
        if self._oscore is not None:
            describe_oscore(metrics, self._oscore)
        # Kafka may have been away for long.
        await self._look_at_credentials(parts, metrics)
        self._endpoint.on_oscore = lambda: self._oscore_came(parts, metrics)
        self._endpoint.serve(parts)
        if self._secure is not None and self._access is not None:
            self._secure.serve(self._peer_of)
            # Those of the state file may be of a time before there were keys.
            self._unwelcome.update(unwelcome(parts.registry, self._access, Changed(everything=True)))
        elif keyed := sum(isinstance(device.address, SecurePeer) for device in parts.registry):
            _log.warning(
                "devices registered with credentials and cannot be reached without --credentials", devices=keyed
            )
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
            for one in (self._watch_models(parts), self._follow_credentials(parts, metrics))
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
                self._end_unwelcome(parts)
                if self._oscore is not None:
                    self._oscore.sweep(asyncio.get_running_loop().time(), parts.table.by_token.__contains__)
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

    def _begin_oscore(self) -> None:
        """Speak OSCORE if a device has a credential for it; until then nothing of it is loaded.

        Raises:
            CredentialStoreError: the credentials cannot be read.
            OSError: its address cannot be bound.
        """
        if self._access is None or not self._access.speaks_oscore():
            return
        if self._seat is not None:
            if not self._is_oscore_told:
                self._is_oscore_told = True
                _log.error("devices with OSCORE are not heard by a gateway of several processes: leave --processes out")
            return
        from gateway.oscore.line import OscoreLine

        line = OscoreLine(self._access, self._state, self._stored, time.time)
        self._endpoint.speak_oscore(line, self._settings.coap)
        self._oscore = line

    def _begin_oscore_late(self, parts: Parts, metrics: GatewayMetrics) -> None:
        """As soon as there is the first credential for it."""
        try:
            self._begin_oscore()
        except CredentialStoreError:
            return  # with the next look
        except OSError as exc:
            if not self._is_coap_taken:
                self._is_coap_taken = True
                _log.error(
                    "devices with OSCORE are not heard: the port of --coap cannot be opened, and is tried again",
                    coap=Remote(self._settings.coap).hostinfo,
                    reason=exc.strerror or str(exc),
                )
            return
        self._is_oscore_due = False
        if self._oscore is not None:
            _adopt(self._oscore, parts)
            describe_oscore(metrics, self._oscore)
            _log.info("OSCORE is spoken from now on", coap=_shown(self._endpoint.lines.plain_address))

    def _oscore_came(self, parts: Parts, metrics: GatewayMetrics) -> None:
        """Its credential may be of this moment; looked for so often at most."""
        now = asyncio.get_running_loop().time()
        if self._oscore is None and now - self._oscore_looked_at > _OSCORE_LOOK_SECONDS:
            self._oscore_looked_at = now
            self._begin_oscore_late(parts, metrics)

    async def _follow_credentials(self, parts: Parts, metrics: GatewayMetrics) -> None:
        """End sessions whose keys are gone, and find registrations that may not be any more."""
        while True:
            await self._look_at_credentials(parts, metrics)
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)

    async def _look_at_credentials(self, parts: Parts, metrics: GatewayMetrics) -> None:
        if self._access is None or self._secure is None:
            return
        # The store may be far away, and nobody waits for it here.
        changed = await asyncio.to_thread(self._access.changed)
        if changed:
            self._secure.follow(self._access, changed)
            if self._oscore is None:
                self._is_oscore_due = True
            else:
                self._oscore.look_again(None if changed.everything else changed.ended | changed.added)
            self._unwelcome.update(unwelcome(parts.registry, self._access, changed))
        if self._is_oscore_due:
            self._begin_oscore_late(parts, metrics)

    def _end_unwelcome(self, parts: Parts) -> None:
        """End registrations that may not be any more."""
        for device in [one for one in self._unwelcome if parts.registry.registration(one.reg_id) is not one]:
            self._unwelcome.discard(device)
        for device in self._unwelcome:
            # Again and again, until it is durable.
            parts.registrations.end(device)

    def _peer_of(self, identity: str, ep: str) -> SecurePeer | None:
        """Whose registration a new session goes on with, if its key is for this endpoint alone."""
        device = None if self._parts is None else self._parts.registry.device(ep)
        if device is None or not isinstance(device.address, SecurePeer) or device.address.identity != identity:
            return None
        return device.address

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.create_task(_guarded(work))

    async def _wait_for_kafka(self) -> dict[str, int]:
        complained = False
        while True:
            try:
                return await asyncio.to_thread(self._partitions)
            except (Unreachable, KafkaException) as exc:
                if not complained:
                    complained = True
                    _log.warning("waiting for the edge Kafka", reason=str(exc))
            await asyncio.sleep(_KAFKA_RETRY_SECONDS)

    def _partitions(self) -> dict[str, int]:
        wanted = self._topics.partitions()
        ensure_topics(self._settings.kafka, wanted)
        counts = partition_counts(self._settings.kafka, list(wanted))
        missing = [name for name in wanted if name not in counts]
        if missing:
            raise Unreachable(f"topics are not ready yet: {', '.join(missing)}")
        return counts

    async def _recovered(self, *, unanswered: bool, positions: Positions) -> Recovered:
        while True:
            try:
                return await asyncio.to_thread(
                    recover,
                    self._settings.kafka,
                    self._topics,
                    window=WINDOW,
                    now_ms=wall_ms(),
                    unanswered=unanswered,
                    positions=positions,
                    journalled=self._journal.entries(),
                )
            except (Unreachable, KafkaException) as exc:
                _log.warning("the edge Kafka went away while the recent past was read", reason=str(exc))
                await asyncio.sleep(_KAFKA_RETRY_SECONDS)

    async def _take_back(self, parts: Parts, reading: Awaitable[Recovered]) -> None:
        """Know what is in Kafka; what of the journal is not goes there, in front of all that is taken later."""
        renewals = self._renewals
        while True:
            found = await reading
            # A producer that failed meanwhile has a renewal of its own, which looks once more.
            if self._renewals != renewals or parts.take_back(found):
                return
            # What was handed over must be there, or known not to be, before Kafka is asked again.
            while not await parts.uplink.drained(_KAFKA_RETRY_SECONDS) and self._renewals == renewals:
                pass
            reading = self._recovered_again(parts)

    def _recovered_again(self, parts: Parts) -> Awaitable[Recovered]:
        commands = parts.commands
        return self._recovered(unanswered=commands.unanswered > 0, positions=commands.positions)

    def _renew_soon(self, parts: Parts) -> None:
        self._renewals += 1
        self._spawn(self._renew(parts))

    async def _renew(self, parts: Parts) -> None:
        """The producer is new: what was under way is in Kafka or it is not, and Kafka itself tells."""
        renewals = self._renewals
        parts.short_path.forget_undelivered(list(parts.registry))
        while True:
            try:
                # Kafka may have come back without its topics.
                await self._wait_for_kafka()
                await self._take_back(parts, self._recovered_again(parts))
                break
            except Exception:  # noqa: BLE001  # whatever it is, a gateway that stayed shut would be worse
                _log.exception("the recent past cannot be read, trying again")
                await asyncio.sleep(_KAFKA_RETRY_SECONDS)
        if self._renewals == renewals:
            parts.uplink.reopen()

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
        take_up_file(settings.credentials, settings.import_credentials, make=settings.make_credentials)
    return open_entrance(
        settings.credentials,
        settings.coaps,
        settings.coaps_certificate,
        make=settings.make_credentials,
        bound=bound,
        crossing=crossing,
    )


def take_up_file(credentials: StorePlace, file: Path, *, make: bool) -> None:
    """Loaded here alone: what reads such files is for the start."""
    from datetime import UTC, datetime

    from security.credentials.importing import read_file, take_up
    from security.credentials.opening import open_store

    store = open_store(credentials, make=make)
    try:
        report = take_up(store, read_file(file, datetime.now(UTC)))
    finally:
        store.close()
    for one in report.refused:
        _log.warning("a credential of the file is left out", file=str(file), line=one.line, reason=one.why)
    if report.added or report.changed:
        _log.info("credentials taken up", file=str(file), added=len(report.added), changed=len(report.changed))


def _adopt(oscore: OscoreLine, parts: Parts) -> None:
    """Who spoke before the registrations were read back is who was registered."""
    devices = {device: device.address for device in parts.registry if isinstance(device.address, OscorePeer)}
    instead = oscore.adopt(devices.values())
    for device, peer in devices.items():
        if instead[peer] is not peer:
            parts.registry.move(device, instead[peer])


async def run(settings: GatewaySettings, stop: asyncio.Event, seat: Seat | None = None) -> None:
    """Run a gateway, or the one of several processes that has this ``seat``, until ``stop`` is set.

    Raises:
        StateError, OSError, PathError, SecurityError, DefinitionError: as `Gateway`.
    """
    await Gateway(settings, seat).run(stop)
