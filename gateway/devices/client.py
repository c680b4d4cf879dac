"""A virtual LwM2M device: one socket, one `Model`, and the life of its registration.

Owns when the device registers, updates, registers anew and leaves (OMA LwM2M Core 1.1, section 6.2; Transport 1.1,
section 6.4.2). Operations of the server are `site`'s, values are the model's. It knows one server and no bootstrap.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from aiocoap import Context, Message, error
from aiocoap.numbers import codes

from gateway.devices.model import Model
from gateway.devices.site import DeviceSite, Listener, reliable
from gateway.devices.transport import DeviceSocket, open_context
from schemas.lwm2m.attributes import Attribute, Attributes
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.link import Link, format_links
from schemas.lwm2m.path import Path
from security.credentials.kinds import Oscore, Psk

if TYPE_CHECKING:
    from gateway.devices.oscore import OscoreTransport
    from gateway.devices.secure import SecureTransport

#: RFC 7252 sections 12.6 and 12.7.
_PORTS = {"coap": 5683, "coaps": 5684}
#: Seconds without a block after which a download is given up.
_FETCH_PATIENCE = 300.0
LIFETIME = Path(1, 0, 1)
DEFAULT_PMIN = Path(1, 0, 2)
DEFAULT_PMAX = Path(1, 0, 3)
DISABLE_TIMEOUT = Path(1, 0, 5)

_log = structlog.get_logger("headwater.device")


class Version(Enum):
    """The enabler version that a device announces."""

    V1_0 = "1.0"
    V1_1 = "1.1"
    V1_2 = "1.2"


#: What a device announces in the ``ct`` of its root link and what it answers in when a request has no Accept.
_FORMATS: dict[Version, tuple[ContentFormat, ...]] = {
    Version.V1_0: (ContentFormat.TLV, ContentFormat.JSON),
    Version.V1_1: (
        ContentFormat.SENML_CBOR,
        ContentFormat.SENML_JSON,
        ContentFormat.TLV,
        ContentFormat.JSON,
        ContentFormat.CBOR,
    ),
    Version.V1_2: (
        ContentFormat.SENML_CBOR,
        ContentFormat.SENML_JSON,
        ContentFormat.LWM2M_CBOR,
        ContentFormat.TLV,
        ContentFormat.JSON,
        ContentFormat.CBOR,
    ),
}


class CannotFetch(Exception):
    """A file could not be had; ``refused``: its server said no, else it was silent."""

    def __init__(self, words: str, *, refused: bool) -> None:
        super().__init__(words)
        self.refused = refused


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """How a device reaches its server and how it behaves; times in seconds."""

    endpoint: str
    server_host: str
    server_port: int
    version: Version = Version.V1_1
    #: Queue mode: the device hears only for ``awake`` after each message that it sent or got.
    queue: bool = False
    awake: float = 93.0
    #: RFC 7252 section 4.8; smaller only where the network is known to be quick (tests).
    ack_timeout: float = 2.0
    #: The first and the longest pause before another attempt to register.
    retry_first: float = 1.0
    retry_longest: float = 120.0
    #: The device's own address.
    host: str = "127.0.0.1"
    port: int = 0
    #: A pre-shared key: the device speaks DTLS with its server; a context, as the server has it: OSCORE. None: in the
    #: clear.
    key: Psk | Oscore | None = None


class State(Enum):
    """Where a device is in its registration's life."""

    UNREGISTERED = "unregistered"
    REGISTERED = "registered"
    DISABLED = "disabled"
    STOPPED = "stopped"


class _Wish(Flag):
    """What the loop is asked to do next."""

    NONE = 0
    UPDATE = auto()
    REGISTER = auto()
    LINKS = auto()
    LIFETIME = auto()
    DISABLE = auto()


class Device:
    """One device; ``await run(stop)`` is its whole life.

    ``random_source`` spreads the retries; seed it to repeat a run.
    """

    def __init__(self, config: DeviceConfig, model: Model, listener: Listener, random_source: random.Random) -> None:
        self.config = config
        self.model = model
        self.state = State.UNREGISTERED
        #: Registrations and updates that the server accepted.
        self.registrations = 0
        self.updates = 0
        #: Told each new state.
        self.on_state: list[Callable[[State], None]] = []
        self._random = random_source
        self._site = DeviceSite(
            model,
            version=config.version.value,
            preferred=_FORMATS[config.version][0],
            defaults=self._default_attributes,
            listener=listener,
            ack_timeout=config.ack_timeout,
        )
        self._tuning = reliable(config.ack_timeout)
        self._context: Context | None = None
        self._socket: DeviceSocket | None = None
        self._secure: SecureTransport | OscoreTransport | None = None
        self._location: tuple[str, ...] = ()
        self._wish = _Wish.NONE
        self._wished = asyncio.Event()
        self._busy = False
        self._retry_after: float | None = None
        model.on_instances.append(lambda: self._ask(_Wish.UPDATE | _Wish.LINKS))
        model.on_change.append(self._model_changed)

    @property
    def observed(self) -> list[Path]:
        """The paths that the server observes now."""
        return self._site.observed

    @property
    def address(self) -> tuple[str, int]:
        """The device's own host and port, once it runs."""
        host, port, *_ = self.socket.local_address
        return host, port

    @property
    def socket(self) -> DeviceSocket:
        """The device's socket and its counts, once it runs."""
        assert self._socket is not None, "the device does not run"
        return self._socket

    def reboot(self) -> None:
        """Behave as after a restart: register anew, remember no observation."""
        _log.info("device reboots", ep=self.config.endpoint)
        self._ask(_Wish.REGISTER)

    def update(self) -> None:
        """Send a registration update now (Registration Update Trigger, /1/x/8)."""
        self._ask(_Wish.UPDATE)

    def disable(self) -> None:
        """De-register, and register again after the Disable Timeout (/1/x/5)."""
        self._ask(_Wish.DISABLE)

    async def run(self, stop: asyncio.Event) -> None:
        """Register and stay registered until ``stop`` is set; then de-register and close the socket.

        Raises:
            OSError: the device's own address cannot be bound, or the server's name does not resolve.
        """
        config = self.config
        self._context, self._socket = await open_context(
            self._site,
            host=config.host,
            port=config.port,
            on_silence=self._silence,
            **({} if config.key is None else {"layer": self._layer(config.key)}),
        )
        self._site.socket = self._socket
        try:
            # For its error alone: later on a name that does not resolve is one more way of silence.
            await self._socket.resolve(config.server_host, config.server_port)
        except OSError:
            await self._context.shutdown()
            raise
        if config.queue:
            self._socket.sleep_after(config.awake)
        life = asyncio.create_task(self._live(), name=f"device {config.endpoint}")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((life, stopping), return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()
        finally:
            life.cancel()
            stopping.cancel()
            await asyncio.gather(life, stopping, return_exceptions=True)
            if self.state is State.REGISTERED:
                await self._deregister()
            self._enter(State.STOPPED)
            self._site.forget_observations()
            await self._context.shutdown()

    def _layer(self, key: Psk | Oscore) -> Callable[[DeviceSocket], SecureTransport | OscoreTransport]:
        def layer(device_socket: DeviceSocket) -> SecureTransport | OscoreTransport:
            self._secure = self._dtls(device_socket, key) if isinstance(key, Psk) else self._oscore(device_socket, key)
            return self._secure

        return layer

    def _dtls(self, device_socket: DeviceSocket, psk: Psk) -> SecureTransport:
        # Not for devices in the clear: it loads the ciphers.
        from gateway.devices.secure import Patience, SecureTransport

        config = self.config
        patience = Patience(
            flight=config.ack_timeout, first=config.retry_first, longest=config.retry_longest, random=self._random
        )
        return SecureTransport(device_socket, psk, patience, ep=config.endpoint, on_again=self._connected)

    def _oscore(self, device_socket: DeviceSocket, context: Oscore) -> OscoreTransport:
        from gateway.devices.oscore import OscoreTransport

        return OscoreTransport(device_socket, context, ep=self.config.endpoint, on_again=self._connected)

    def _connected(self) -> None:
        # Where a key is for several devices the server knows by a message only who has the new session; and an answer
        # that the registration is gone is better had now than at the end of its lifetime.
        if self.state is State.REGISTERED:
            self._ask(_Wish.UPDATE)

    async def _live(self) -> None:
        while True:
            await self._register()
            while self.state is State.REGISTERED:
                await self._wait_for_wish(self._lifetime() * 0.7)
                wish, self._wish = self._wish, _Wish.NONE
                if _Wish.DISABLE in wish:
                    await self._deregister()
                    self._enter(State.DISABLED)
                    await self._wait_for_wish(float(str(self.model.value(DISABLE_TIMEOUT))))
                elif _Wish.REGISTER in wish or not await self._update(wish):
                    self._enter(State.UNREGISTERED)

    async def _register(self) -> None:
        """Try until the server accepts, with pauses that double; each between half and the whole of its length."""
        pause = self.config.retry_first
        while True:
            self._wish = _Wish.NONE
            self._wished.clear()
            self._site.forget_observations()
            response = await self._request(codes.POST, ("rd",), self._register_query(), self._links())
            if response is not None and response.code is codes.CREATED and response.opt.location_path:
                self._location = tuple(response.opt.location_path)
                self.registrations += 1
                self._enter(State.REGISTERED)
                return
            wait = self._refused("register", response)
            if wait is None:
                wait = pause * self._random.uniform(0.5, 1.0)
                pause = min(pause * 2, self.config.retry_longest)
            await asyncio.sleep(wait)

    async def _update(self, wish: _Wish) -> bool:
        """Update the registration; False if the device has to register anew."""
        query = (f"lt={self._lifetime()}",) if _Wish.LIFETIME in wish else ()
        while True:
            response = await self._request(
                codes.POST, self._location, query, self._links() if _Wish.LINKS in wish else None
            )
            if response is not None and response.code is codes.CHANGED:
                self.updates += 1
                return True
            wait = self._refused("update", response)
            if wait is None:
                return False
            await asyncio.sleep(wait)

    async def _deregister(self) -> None:
        with contextlib.suppress(TimeoutError):
            # A server that is gone must not hold the device: the registration then expires by itself.
            async with asyncio.timeout(self.config.ack_timeout * 2):
                await self._request(codes.DELETE, self._location, (), None)

    def _refused(self, what: str, response: Message | None) -> float | None:
        """Say why it failed; returns the seconds that the server asked for with 5.03, else None."""
        code = "silent" if response is None else str(response.code)
        _log.info("server did not accept", ep=self.config.endpoint, message=what, code=code)
        if response is not None and response.code is codes.SERVICE_UNAVAILABLE:
            # RFC 7252 section 5.9.3.4: Max-Age is the time to wait; its default is 60 s (section 5.10.5).
            seconds = 60.0 if response.opt.max_age is None else float(response.opt.max_age)
            return seconds * self._random.uniform(1.0, 1.1) + 0.01
        return None

    async def _request(
        self, code: codes.Code, path: tuple[str, ...], query: tuple[str, ...], links: str | None
    ) -> Message | None:
        """Send one request from the device's socket; None if the server stayed silent."""
        assert self._context is not None
        assert self._socket is not None
        message = Message(code=code, uri_path=path, uri_query=query, transport_tuning=self._tuning)
        if links is not None:
            message.payload = links.encode()
            message.opt.content_format = int(ContentFormat.LINK)
        self._busy = True
        try:
            message.remote = await self._socket.resolve(self.config.server_host, self.config.server_port)
            # aiocoap gives up by itself, but not on a server that acknowledged and never answered.
            async with asyncio.timeout(self._tuning.MAX_TRANSMIT_WAIT + self._tuning.PROCESSING_DELAY):
                return await self._context.request(message).response
        except (error.Error, OSError):  # a TimeoutError is an OSError
            return None
        finally:
            self._busy = False

    async def fetch(self, uri: str) -> bytes:
        """The file at a ``coap(s)://`` URI, block by block (RFC 7959), from the device's own socket.

        Raises:
            ValueError: it is no such URI.
            CannotFetch: the server refused it, or was silent for `_FETCH_PATIENCE` seconds.
        """
        parts = urlsplit(uri)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"{uri!r} is no URI that can be fetched from")
        at, szx, found = 0, 6, bytearray()
        quiet_until = asyncio.get_running_loop().time() + _FETCH_PATIENCE
        while True:
            response = await self._block_of(parts.hostname, parts.port or _PORTS[parts.scheme], parts.path, at, szx)
            if response is None:
                if asyncio.get_running_loop().time() > quiet_until:
                    raise CannotFetch(f"{uri} was silent", refused=False)
                await asyncio.sleep(self.config.retry_first)
                continue
            if response.code is codes.SERVICE_UNAVAILABLE:
                await asyncio.sleep(self.config.retry_first)
                continue
            if response.code is not codes.CONTENT:
                raise CannotFetch(f"{uri}: {response.code}", refused=True)
            quiet_until = asyncio.get_running_loop().time() + _FETCH_PATIENCE
            found += response.payload
            block = response.opt.block2
            if block is None or not block.more:
                return bytes(found)
            szx = min(szx, block.size_exponent)
            at = len(found)

    async def _block_of(self, host: str, port: int, path: str, at: int, szx: int) -> Message | None:
        assert self._context is not None
        assert self._socket is not None
        message = Message(code=codes.GET, uri_path=path.strip("/").split("/"), transport_tuning=self._tuning)
        message.opt.block2 = (at >> (szx + 4), False, szx)
        try:
            message.remote = await self._socket.resolve(host, port)
            async with asyncio.timeout(self._tuning.MAX_TRANSMIT_WAIT):
                return await self._context.request(message, handle_blockwise=False).response
        except (error.Error, OSError):
            return None

    def _register_query(self) -> tuple[str, ...]:
        """Transport 1.1, section 6.4.3: queue mode is ``b=UQ`` in version 1.0 and ``Q`` beside the binding in 1.1."""
        config = self.config
        common = (f"ep={config.endpoint}", f"lt={self._lifetime()}", f"lwm2m={config.version.value}")
        if config.version is Version.V1_0:
            return (*common, "b=UQ" if config.queue else "b=U")
        return (*common, "b=U", *(("Q",) if config.queue else ()))

    def _links(self) -> str:
        formats = _FORMATS[self.config.version]
        links = [Link("/", {"rt": "oma.lwm2m", "ct": " ".join(str(int(one)) for one in formats)})]
        for object_id in self.model.objects:
            definition = self.model.definitions.object(object_id)
            version = definition.version if definition is not None else "1.0"
            instances = self.model.instances(object_id)
            if not instances or (version != "1.0" and self.config.version is not Version.V1_0):
                links.append(Link(f"/{object_id}", {} if version == "1.0" else {"ver": version}))
            links += [Link(f"/{object_id}/{instance}", {}) for instance in instances]
        return format_links(tuple(links))

    def _lifetime(self) -> int:
        return int(str(self.model.value(LIFETIME)))

    def _default_attributes(self) -> Attributes:
        """The Default Minimum and Maximum Period of the Server object; a maximum of 0 is none (object 1)."""
        pmin, pmax = int(str(self.model.value(DEFAULT_PMIN))), int(str(self.model.value(DEFAULT_PMAX)))
        return Attributes({Attribute.PMIN: pmin or None, Attribute.PMAX: pmax or None})

    def _model_changed(self, path: Path) -> None:
        if path == LIFETIME:
            self._ask(_Wish.UPDATE | _Wish.LIFETIME)

    def _silence(self) -> None:
        if self._secure is not None:
            self._secure.forget_held()
        # A request that got no answer is handled where it is awaited; this is for notifications: the observations are
        # gone, so the server, when it is back, must be told by a registration that it has to observe anew.
        if not self._busy:
            self._ask(_Wish.REGISTER)

    def _ask(self, wish: _Wish) -> None:
        self._wish |= wish
        self._wished.set()

    async def _wait_for_wish(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wished.wait()
        self._wished.clear()

    def _enter(self, state: State) -> None:
        if state is self.state:
            return
        self.state = state
        for told in self.on_state:
            told(state)
