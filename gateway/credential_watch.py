"""What becomes of a running gateway when its credentials change: sessions and registrations end, OSCORE begins.

Owns when the store is looked at, and the OSCORE line once there is one. Who may do what is `gateway.admission`'s rule;
how the store is asked is `gateway.access`'s. Without credentials nothing is done here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from gateway.access import Access, Changed
from gateway.admission import unwelcome
from gateway.coap.aiocoap_link import Remote
from gateway.coap.endpoint import Endpoint
from gateway.coap.peers import OscorePeer, SecurePeer
from gateway.metrics import GatewayMetrics, describe_dtls, describe_oscore
from gateway.parts import Parts
from gateway.registry import Device, Registry
from gateway.state import State, StoredState
from security.errors import CredentialStoreError

if TYPE_CHECKING:
    from gateway.coap.secure import SecureLine
    from gateway.oscore.line import OscoreLine

_log = structlog.get_logger("headwater.gateway")

_LOOK_SECONDS = 0.5
#: How often a device with OSCORE may have the store looked at, while that is not spoken.
_OSCORE_LOOK_SECONDS = 0.1


class CredentialWatch:
    """That of one gateway; ``access`` and ``secure`` are None where it has no credentials.

    ``stored`` is what the state file had, for OSCORE, which is spoken at ``coap``; ``is_alone`` is False for one of
    several processes, which speak none.
    """

    def __init__(
        self,
        access: Access | None,
        secure: SecureLine | None,
        endpoint: Endpoint,
        state: State,
        stored: Callable[[], StoredState],
        coap: tuple[str, int],
        *,
        is_alone: bool,
    ) -> None:
        self._access = access
        self._secure = secure
        self._endpoint = endpoint
        self._state = state
        self._stored = stored
        self._coap = coap
        self._is_alone = is_alone
        self._oscore: OscoreLine | None = None
        #: Devices whose registrations have to end, as the credentials say.
        self._unwelcome: set[Device] = set()
        #: True if it is to be seen whether OSCORE is spoken now.
        self._is_oscore_due = False
        self._oscore_looked_at = float("-inf")
        #: What was said once already: that several processes speak no OSCORE, and that its port cannot be opened.
        self._is_oscore_told = False
        self._is_coap_taken = False

    # The start

    def begin_oscore(self) -> None:
        """Speak OSCORE if a device has a credential for it; until then nothing of it is loaded.

        Raises:
            CredentialStoreError: the credentials cannot be read.
            OSError: its address cannot be bound.
        """
        if self._access is None or not self._access.speaks_oscore():
            return
        if not self._is_alone:
            if not self._is_oscore_told:
                self._is_oscore_told = True
                _log.error("devices with OSCORE are not heard by a gateway of several processes: leave --processes out")
            return
        from gateway.oscore.line import OscoreLine

        line = OscoreLine(self._access, self._state, self._stored(), time.time)
        self._endpoint.speak_oscore(line, self._coap)
        self._oscore = line

    def restored(self, parts: Parts) -> None:
        """The registrations are read back."""
        if self._oscore is not None:
            _adopt(self._oscore, parts)

    def describe(self, metrics: GatewayMetrics) -> None:
        """Show what there is of DTLS and OSCORE."""
        if self._secure is not None and self._access is not None:
            describe_dtls(metrics, self._secure, self._access)
        if self._oscore is not None:
            describe_oscore(metrics, self._oscore)

    def serve(self, parts: Parts, metrics: GatewayMetrics) -> None:
        """Devices are heard from now on."""
        self._endpoint.on_oscore = lambda: self._oscore_came(parts, metrics)
        if self._secure is not None and self._access is not None:
            self._secure.serve(lambda identity, ep: _peer_of(parts.registry, identity, ep))
            # Those of the state file may be of a time before there were keys.
            self._unwelcome.update(unwelcome(parts.registry, self._access, Changed(everything=True)))
        elif keyed := sum(isinstance(device.address, SecurePeer) for device in parts.registry):
            _log.warning(
                "devices registered with credentials and cannot be reached without --credentials", devices=keyed
            )

    # While it runs

    async def follow(self, parts: Parts, metrics: GatewayMetrics) -> None:
        """Look at the credentials, again and again."""
        while True:
            await self.look(parts, metrics)
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self, parts: Parts, metrics: GatewayMetrics) -> None:
        """End sessions whose keys are gone, and find registrations that may not be any more."""
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

    def keep_up(self, parts: Parts) -> None:
        """End registrations that may not be any more, and forget what OSCORE has no need of; to be called about every
        second."""
        for device in [one for one in self._unwelcome if parts.registry.registration(one.reg_id) is not one]:
            self._unwelcome.discard(device)
        for device in self._unwelcome:
            # Again and again, until it is durable.
            parts.registrations.end(device)
        if self._oscore is not None:
            self._oscore.sweep(asyncio.get_running_loop().time(), parts.table.by_token.__contains__)

    def _oscore_came(self, parts: Parts, metrics: GatewayMetrics) -> None:
        """Its credential may be of this moment; looked for so often at most."""
        now = asyncio.get_running_loop().time()
        if self._oscore is None and now - self._oscore_looked_at > _OSCORE_LOOK_SECONDS:
            self._oscore_looked_at = now
            self._begin_oscore_late(parts, metrics)

    def _begin_oscore_late(self, parts: Parts, metrics: GatewayMetrics) -> None:
        """As soon as there is the first credential for it."""
        try:
            self.begin_oscore()
        except CredentialStoreError:
            return  # with the next look
        except OSError as exc:
            if not self._is_coap_taken:
                self._is_coap_taken = True
                _log.error(
                    "devices with OSCORE are not heard: the port of --coap cannot be opened, and is tried again",
                    coap=Remote(self._coap).hostinfo,
                    reason=exc.strerror or str(exc),
                )
            return
        self._is_oscore_due = False
        if self._oscore is not None:
            _adopt(self._oscore, parts)
            describe_oscore(metrics, self._oscore)
            _log.info("OSCORE is spoken from now on", coap=Remote(self._endpoint.lines.local_address).hostinfo)


def _peer_of(registry: Registry, identity: str, ep: str) -> SecurePeer | None:
    """Whose registration a new session goes on with, if its key is for this endpoint alone."""
    device = registry.device(ep)
    if device is None or not isinstance(device.address, SecurePeer) or device.address.identity != identity:
        return None
    return device.address


def _adopt(oscore: OscoreLine, parts: Parts) -> None:
    """Who spoke before the registrations were read back is who was registered."""
    devices = {device: device.address for device in parts.registry if isinstance(device.address, OscorePeer)}
    instead = oscore.adopt(devices.values())
    for device, peer in devices.items():
        if instead[peer] is not peer:
            parts.registry.move(device, instead[peer])
