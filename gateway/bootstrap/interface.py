"""The requests of devices to a bootstrap server: Bootstrap-Request and Bootstrap-Pack-Request.

Owns who is answered what (OMA LwM2M Core 1.1, section 6.1.7.1; 1.2, section 6.1.7.2). Who may be bootstrapped as which
endpoint is `gateway.admission`'s rule. A pack has keys in it and is larger than its request, so it is given over DTLS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import aiocoap
import structlog
from aiocoap import resource

from gateway.admission import Admission
from gateway.bootstrap.config_file import ConfigFile
from gateway.bootstrap.objects import instances
from gateway.bootstrap.plan import PREFERRED
from gateway.bootstrap.runs import Asked, Runs, spoken_with
from gateway.bootstrap.store_file import BootstrapFileError
from gateway.certificate_proof import shown
from gateway.coap.aiocoap_link import Remote
from gateway.coap.incoming import BUSY_MAX_AGE, Incoming
from gateway.coap.message import Code, Option, name
from gateway.coap.peers import Address, SecurePeer
from gateway.registration import Parameters, Refused, parse_parameters
from schemas.lwm2m import lwm2m_cbor, senml_cbor, senml_json
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.objects import Definitions
from security.credentials.kinds import MOST_ENDPOINT
from security.errors import CredentialError, CredentialStoreError

_log = structlog.get_logger("headwater.bootstrap")

#: The formats of a pack.
_PACKS = {
    ContentFormat.SENML_CBOR: senml_cbor.encode,
    ContentFormat.SENML_JSON: senml_json.encode,
    ContentFormat.LWM2M_CBOR: lwm2m_cbor.encode,
}
#: In a pack a device's account with us is taken to be ``/0/0``.
_KEPT = frozenset({0})


class Interface:
    """Takes what devices ask (`gateway.coap.incoming.Handler`)."""

    def __init__(
        self,
        config: ConfigFile,
        admission: Admission,
        runs: Runs,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._config = config
        self._admission = admission
        self._runs = runs
        self._spawn = spawn
        self._definitions = Definitions.builtin()
        #: Requests that were refused, by code.
        self.refusals: Counter[str] = Counter()
        self.notify_all = None

    # Handler

    def notify(self, datagram: bytes, address: Address) -> bool:
        return False

    def response(self, message: object, address: Address) -> bool:
        return False

    def reset(self, address: Address, mid: int) -> None:
        return None

    def batch_done(self) -> None:
        return None

    def verified(self, address: Address) -> bool:
        return False

    def request(self, incoming: Incoming) -> bool:
        if incoming.message.texts(Option.URI_PATH) != ["bs"]:
            return False
        if incoming.message.code != Code.POST:
            incoming.reply(Code.METHOD_NOT_ALLOWED)
            return True
        try:
            asked = self._asked(incoming.address, incoming.message.texts(Option.URI_QUERY))
        except Refused as exc:
            self.refusals[exc.code.name] += 1
            incoming.reply(exc.code, payload=str(exc).encode())
        except CredentialStoreError:
            incoming.busy()
        else:
            self._runs.begin(incoming, asked)
        return True

    def _asked(self, peer: Address, queries: list[str]) -> Asked:
        """
        Raises:
            Refused: it is not as it should be, or may not be; of who showed who it is, it is in the trace.
            CredentialStoreError: the credentials cannot be read.
        """
        ep = None
        try:
            given = parse_parameters(queries)
            ep = self._admission.endpoint(peer, given.ep)
            return self._fitting(peer, ep, given)
        except Refused as exc:
            _log.warning("a bootstrap request was refused", peer=peer, code=name(exc.code), reason=str(exc))
            if isinstance(peer, SecurePeer):
                host, port = peer.udp[:2]
                self._spawn(
                    self._runs.refused(ep or self._name_of(peer), f"{host}:{port}", spoken_with(peer), f"{exc}")
                )
            raise

    def _name_of(self, peer: SecurePeer) -> str:
        """The name that a peer's key is for, where it is for one; else its identity."""
        try:
            return self._admission.endpoint(peer, None)
        except (Refused, CredentialStoreError):
            return shown(peer.identity)[:MOST_ENDPOINT]

    def _fitting(self, peer: Address, ep: str, given: Parameters) -> Asked:
        preferred = given.attributes.get("pct")
        content_format = None
        if preferred is not None:
            content_format = next((one for one in PREFERRED if str(one.value) == preferred), None)
            if content_format is None:
                raise Refused(Code.UNSUPPORTED_CONTENT_FORMAT, "pct is no format that is spoken here")
        profile = self._config.now.of(ep)
        if profile is None:
            raise Refused(Code.BAD_REQUEST, "nothing is configured for this endpoint")
        return Asked(ep=ep, peer=peer, profile=profile, content_format=content_format)

    async def pack(self, peer: Address, queries: list[str], accept: int | None) -> tuple[ContentFormat, bytes]:
        """A Bootstrap-Pack.

        Raises:
            Refused: it is not as it should be, or may not be.
            CredentialError, BootstrapFileError: keys cannot be made or stored now.
        """
        if not isinstance(peer, SecurePeer):
            raise Refused(Code.UNAUTHORIZED, "a pack is given over DTLS (coaps) alone")
        asked = self._asked(peer, queries)
        wanted = next((one for one in _PACKS if accept in (None, one.value)), None)
        if wanted is None:
            raise Refused(Code.NOT_ACCEPTABLE, "a pack is SenML CBOR, SenML JSON or LwM2M CBOR")
        materials = await self._runs.pack(asked)
        return wanted, _PACKS[wanted](instances(asked.profile, materials, _KEPT), self._definitions)


class PackResource(resource.Resource):  # type: ignore[misc]  # aiocoap publishes no types
    """``/bspack``; aiocoap gives it in blocks."""

    def __init__(self, interface: Interface) -> None:
        super().__init__()
        self._interface = interface

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        remote: Remote = request.remote
        accept = None if request.opt.accept is None else int(request.opt.accept)
        try:
            content_format, payload = await self._interface.pack(remote.address, list(request.opt.uri_query), accept)
        except Refused as exc:
            self._interface.refusals[exc.code.name] += 1
            return aiocoap.Message(code=aiocoap.Code(int(exc.code)), payload=str(exc).encode())
        except (CredentialError, BootstrapFileError) as exc:
            _log.warning("a pack cannot be given now", reason=str(exc))
            return aiocoap.Message(code=aiocoap.SERVICE_UNAVAILABLE, max_age=BUSY_MAX_AGE)
        return aiocoap.Message(code=aiocoap.CONTENT, content_format=int(content_format), payload=payload)
