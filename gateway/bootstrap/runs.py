"""The runs that are under way: each asks its device one step after the other, and is in the trace.

Owns how many there are at once, that a device has one at most (a new one replaces it), and what ends one. What the
steps are is `plan`'s, where keys come from `issuing`'s. Waits for disks in threads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import structlog

from gateway.bootstrap.issuing import Issuer, Material
from gateway.bootstrap.plan import Plan
from gateway.bootstrap.profile import Profile
from gateway.bootstrap.store_file import BootstrapFileError
from gateway.bootstrap.trace import Outcome, Trace
from gateway.certificate_proof import proof_of, shown
from gateway.coap.exchanges import ExchangeError, Stopped
from gateway.coap.incoming import Incoming
from gateway.coap.message import Code
from gateway.coap.peers import Address, SecurePeer, host_port
from gateway.device_link import DeviceLink, to_response
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.objects import Definitions
from security.errors import CredentialError

_log = structlog.get_logger("headwater.bootstrap")


def spoken_with(peer: Address) -> str | None:
    """The identity of its key, or what tells its certificate, for the trace; None: in the clear."""
    if not isinstance(peer, SecurePeer):
        return None
    return peer.identity if proof_of(peer.identity) is None else shown(peer.identity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A Bootstrap-Request that is good. ``content_format``: the device's ``pct``, None without."""

    ep: str
    peer: Address
    profile: Profile
    content_format: ContentFormat | None = None

    @property
    def address(self) -> str:
        """``127.0.0.1:5000``."""
        host, port = host_port(self.peer)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def identity(self) -> str | None:
        """With which key or certificate the device spoke; None: in the clear."""
        return spoken_with(self.peer)


class _Failed(Exception):
    """The run cannot go on; the text is for the trace."""


class Runs:
    """All runs of a server."""

    def __init__(
        self,
        trace: Trace,
        issuer: Issuer,
        link: DeviceLink,
        tasks: asyncio.TaskGroup,
        *,
        step_timeout: float,
        most: int,
    ) -> None:
        """``step_timeout`` in seconds; ``most`` runs at once."""
        self._trace = trace
        self._issuer = issuer
        self._link = link
        self._tasks = tasks
        self._step_timeout = step_timeout
        self._most = most
        self._running: dict[str, asyncio.Task[None]] = {}
        self._definitions = Definitions.builtin()
        self._draining = False
        #: Runs by how they ended, and packs that were given.
        self.ended: Counter[str] = Counter({outcome.value: 0 for outcome in Outcome if outcome is not Outcome.RUNNING})
        self.removed = 0
        self.packs = 0

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, incoming: Incoming, asked: Asked) -> None:
        """Begin a run; the request is answered when its keys are stored."""
        before = self._running.get(asked.ep)
        if self._draining or (before is None and len(self._running) >= self._most):
            incoming.busy()
            return
        task = self._tasks.create_task(self._run(incoming, asked, before))
        self._running[asked.ep] = task
        task.add_done_callback(lambda _: self._over(asked.ep, task))

    def _over(self, ep: str, task: asyncio.Task[None]) -> None:
        if self._running.get(ep) is task:
            del self._running[ep]

    async def drained(self, seconds: float) -> None:
        """Begin no other run, give those under way ``seconds`` to end, and end them then."""
        self._draining = True
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=seconds)
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _run(self, incoming: Incoming, asked: Asked, before: asyncio.Task[None] | None) -> None:
        outcome, why, number = Outcome.FAILED, "", None
        try:
            if before is not None:
                before.cancel()
                await asyncio.wait([before])
            number = await asyncio.to_thread(
                self._trace.begin, asked.ep, asked.address, asked.identity, asked.profile.name
            )
            removed = await self._steps(incoming, asked, number)
            outcome, why = Outcome.DONE, f"old credentials removed: {removed}" if removed else ""
        except asyncio.CancelledError:
            outcome = Outcome.INTERRUPTED if self._draining else Outcome.REPLACED
            why = "the server was stopped" if self._draining else "the device began again"
        except _Failed as exc:
            why = str(exc)
        except BootstrapFileError as exc:
            why = str(exc)
            _log.error("the bootstrap server's file cannot be written", reason=why)
        except Exception as exc:  # noqa: BLE001  # logged with its trace, and the other runs go on
            _log.exception("a bootstrap run failed", ep=asked.ep)
            why = f"a fault of the server: {type(exc).__name__}"
        finally:
            if not incoming.answered:
                incoming.reply(Code.INTERNAL_SERVER_ERROR)
            self._end(asked, number, outcome, why)

    def _end(self, asked: Asked, number: int | None, outcome: Outcome, why: str) -> None:
        self.ended[outcome.value] += 1
        if outcome is Outcome.FAILED:
            _log.warning("a device was not bootstrapped", ep=asked.ep, reason=why)
        if number is not None:
            try:
                # Here and not in a thread: the next run of this device begins when this is over.
                self._trace.end(number, outcome, why)
            except BootstrapFileError as exc:
                _log.error("the end of a run cannot be written", ep=asked.ep, reason=str(exc))

    async def _steps(self, incoming: Incoming, asked: Asked, number: int) -> int:
        materials = await self._prepared(asked)
        plan = Plan(asked.profile, materials, self._definitions, asked.content_format)
        incoming.reply(Code.CHANGED)
        count = 0
        while (step := plan.next) is not None:
            try:
                message = await self._link.send(asked.peer, step.request, timeout=self._step_timeout)
            except ExchangeError as exc:
                await asyncio.to_thread(self._trace.step, number, count, str(step), str(exc))
                if isinstance(exc, Stopped):
                    raise asyncio.CancelledError from exc
                raise _Failed(f"{step}: {exc}") from exc
            answered = plan.take(to_response(message))
            await asyncio.to_thread(self._trace.step, number, count, str(step), answered.words)
            if answered.failed:
                raise _Failed(f"{step}: the device answered {answered.words}")
            count += 1
        return await self._finished(asked, materials)

    async def _prepared(self, asked: Asked) -> tuple[Material, ...]:
        try:
            return await asyncio.to_thread(self._issuer.prepare, asked.ep, asked.profile.accounts)
        except CredentialError as exc:
            raise _Failed(f"its keys could not be made: {exc}") from exc

    async def _finished(self, asked: Asked, materials: tuple[Material, ...]) -> int:
        try:
            removed = await asyncio.to_thread(self._issuer.finished, asked.ep, materials)
        except CredentialError as exc:
            raise _Failed(f"the device has its new keys, but the old ones could not be removed: {exc}") from exc
        self.removed += removed
        return removed

    async def pack(self, asked: Asked) -> tuple[Material, ...]:
        """The keys for a Bootstrap-Pack, which is in the trace as a run of one step.

        Nobody hears whether a pack has come, so nothing is removed, and the next one has the same keys.

        Raises:
            CredentialError, BootstrapFileError: the keys cannot be made or stored.
        """
        number = await asyncio.to_thread(self._trace.begin, asked.ep, asked.address, asked.identity, asked.profile.name)
        try:
            materials = await asyncio.to_thread(self._issuer.prepare, asked.ep, asked.profile.accounts)
            await asyncio.to_thread(self._trace.step, number, 0, "pack", "given")
        except (CredentialError, BootstrapFileError) as exc:
            self._end(asked, number, Outcome.FAILED, f"its keys could not be made: {exc}")
            raise
        self.packs += 1
        self._end(asked, number, Outcome.DONE, "")
        return materials

    async def refused(self, asked_ep: str, address: str, identity: str | None, why: str) -> None:
        """A device that showed who it is, and is to have nothing."""
        try:
            number = await asyncio.to_thread(self._trace.begin, asked_ep, address, identity, "")
            await asyncio.to_thread(self._trace.end, number, Outcome.REFUSED, why)
        except BootstrapFileError as exc:
            _log.error("the bootstrap server's file cannot be written", reason=str(exc))
        self.ended[Outcome.REFUSED.value] += 1
