"""DTLS between a device's UDP socket and its messages (RFC 7252 section 9, LwM2M Transport 1.1 section 6.4).

Owns the session with the one server: it is made when the first message is sent, and made again by itself when the
server ended it or seems to have lost it, resumed where the server still knows it. Towards the socket it is a protocol,
towards `DeviceSocket` the transport, which sees plain messages and addresses as over UDP; so a device in the clear has
nothing of it in its way. The handshake is `gateway.dtls.client`'s; of a message it looks at nothing but type and id.

A message that was on its way when a session ended goes out again in the next one, under its message id: ids go on from
session to session here, so to the server it is a new message (RFC 7252 section 9.1.1), told from what it has by its
Observe number.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import structlog

from gateway.dtls.client import Client
from gateway.dtls.client_events import Arrived, ClientEvent, Connected, Ended, Failed, Failure, Transmit
from gateway.dtls.settings import Settings
from security.credentials.kinds import Psk

if TYPE_CHECKING:
    from typing_extensions import Buffer

SocketAddress = tuple[Any, ...]

#: Messages that wait for a session; the oldest goes first.
_MOST_HELD = 32
#: So often a confirmable message is sent, with nothing heard since, until the session is taken for lost.
_SENT_IN_VAIN = 3
_CONFIRMABLE_MASK = 0x30

_WHAT_TO_DO = {
    Failure.SILENT: "is the server up, and does it speak DTLS at this port?",
    Failure.KEY: "compare the identity and the key with `headwater credentials list` at the gateway",
    Failure.REFUSED: "the server speaks none of TLS_PSK_WITH_AES_128_CCM_8, _CCM, _GCM_SHA256, or no DTLS 1.2",
    Failure.FOREIGN: "something between the device and its server changes what they say, or it is no DTLS 1.2 server",
}

_log = structlog.get_logger("headwater.device")


class Above(Protocol):
    """What is above: a `DeviceSocket`."""

    #: False while the device sleeps.
    listening: bool
    slept_through: int

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It may send from now on."""

    def datagram_received(self, data: bytes, addr: SocketAddress) -> None:
        """One plain message."""

    def stay_awake(self) -> None:
        """Something was sent on its behalf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Times in seconds: ``flight`` until a flight is said again (then doubled), and the pauses between two handshakes.

    RFC 7925 section 11 has 9 s for a flight, for the sake of slow ciphers; a pre-shared key needs none, and a device
    says the same again as soon as any other message (RFC 7252 section 4.8).
    """

    flight: float
    first: float
    longest: float
    random: random.Random


class SecureTransport(asyncio.DatagramProtocol, asyncio.DatagramTransport):
    """One device's DTLS. ``on_again`` is called for every session but the first."""

    def __init__(
        self, above: Above, psk: Psk, patience: Patience, *, ep: str, on_again: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self._above = above
        self._psk = psk
        self._patience = patience
        self._ep = ep
        self._on_again = on_again
        self._below: asyncio.DatagramTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._server: SocketAddress = ()
        self._client = self._new_client()
        #: Messages without a session yet, in their order, each once.
        self._held: dict[bytes, None] = {}
        #: How often each confirmable message was sent since something was heard last, by its message id.
        self._in_vain: Counter[bytes] = Counter()
        self._pause = patience.first
        #: No handshake begins before; a pause that doubles until data arrives.
        self._not_before = 0.0
        #: True between the end of a session, or of a handshake without one, and the next handshake.
        self._due = False
        self._timer: asyncio.TimerHandle | None = None
        self._told: Failure | None = None
        #: Handshakes that were completed, whole and resumed ones, and datagrams that were not the server's.
        self.handshakes: Counter[str] = Counter(whole=0, resumed=0)
        self.strangers = 0

    def forget_held(self) -> None:
        """Nobody waits any more for what was not sent yet."""
        self._held.clear()

    # asyncio.DatagramProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, no check: asyncio's own datagram transport does not derive from DatagramTransport.
        self._below = cast("asyncio.DatagramTransport", transport)
        self._above.connection_made(self)

    def datagram_received(self, data: bytes, addr: SocketAddress) -> None:
        if not self._above.listening:
            self._above.slept_through += 1
        elif addr[:2] != self._server[:2]:
            self.strangers += 1
        else:
            self._do(self._client.receive(data, self._loop.time()))

    def error_received(self, exc: Exception) -> None:
        # As over UDP: the flight, or the message, is said again.
        pass

    # asyncio.DatagramTransport

    def sendto(self, data: Any, addr: SocketAddress | str | Buffer | None = None) -> None:
        """Protect and send; without a session, after the next handshake."""
        assert isinstance(addr, tuple), "a device names its server"
        if addr[:2] != self._server[:2]:
            self._turn_to(addr)
        if self._client.is_open:
            self._transmit(self._client.send(data))
            self._watch(data)
            return
        self._hold(data)
        if not self._client.is_connecting and not self._due:
            self._due = True
            self._arm()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert self._below is not None, "the socket is not open"
        return self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._below is None or self._below.is_closing()

    def close(self) -> None:
        """Tell the server that the session is over, and close the socket."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = False
        if self._below is not None:
            self._transmit(self._client.close())
            self._below.close()

    def abort(self) -> None:
        """Close the socket, and tell nobody."""
        self._client.close()
        self.close()

    # The session

    def _new_client(self) -> Client:
        return Client(self._psk.identity, self._psk.key.reveal(), Settings(flight_timeout=self._patience.flight))

    def _turn_to(self, addr: SocketAddress) -> None:
        """The server has another address: what is kept of a session is the other one's."""
        self._transmit(self._client.close())
        self._client, self._server = self._new_client(), addr
        self._in_vain.clear()

    def _hold(self, data: bytes) -> None:
        self._held[bytes(data)] = None
        if len(self._held) > _MOST_HELD:
            del self._held[next(iter(self._held))]

    def _watch(self, data: bytes) -> None:
        """Take the session for lost when a confirmable message was sent again and again and nothing was heard.

        A server that has been killed says nothing to records of a session that it does not know, so all would go
        unheard until the message layer gives up on everything, up to 93 s later (RFC 7252 section 4.8.2).
        """
        if data[0] & _CONFIRMABLE_MASK:
            return
        self._in_vain[data[2:4]] += 1
        now = self._loop.time()
        if self._in_vain[data[2:4]] >= _SENT_IN_VAIN and now >= self._not_before:
            _log.info("the server is silent; making another DTLS session", ep=self._ep)
            self._hold(data)
            self._connect(now)

    def _connect(self, now: float) -> None:
        self._due = False
        self._in_vain.clear()
        self._retreat(now)
        self._do(self._client.connect(now))

    def _retreat(self, now: float) -> None:
        # Spread, since all devices of a server lose it at the same time.
        self._not_before = now + self._pause * self._patience.random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, self._patience.longest)

    def _do(self, events: Iterable[ClientEvent]) -> None:
        for event in events:
            if isinstance(event, Arrived):
                self._in_vain.clear()
                self._pause, self._not_before = self._patience.first, 0.0
                self._above.datagram_received(event.data, self._server)
            elif isinstance(event, Transmit):
                self._above.stay_awake()
                self._transmit(event.datagram)
            elif isinstance(event, Connected):
                self._established(event)
            else:
                self._lost(event)
        self._arm()

    def _established(self, event: Connected) -> None:
        again = self.handshakes.total() > 0
        self.handshakes["resumed" if event.resumed else "whole"] += 1
        self._told = None
        held, self._held = self._held, {}
        for data in held:
            self._transmit(self._client.send(data))
        if again:
            _log.info("another DTLS session", ep=self._ep, resumed=event.resumed)
            self._on_again()

    def _lost(self, event: Ended | Failed) -> None:
        self._due = True
        if isinstance(event, Ended):
            self._retreat(self._loop.time())
            _log.info("the DTLS session is over", ep=self._ep, reason=str(event.ending))
        elif event.failure is not self._told:
            # Once, not for each of the attempts that go on until there is a session.
            self._told = event.failure
            _log.warning(
                "no DTLS session",
                ep=self._ep,
                identity=self._psk.identity.decode("utf-8", "replace"),
                reason=str(event.failure),
                alert=event.alert,
                do=_WHAT_TO_DO[event.failure],
            )

    def _transmit(self, datagram: bytes) -> None:
        if datagram and self._below is not None and not self._below.is_closing():
            self._below.sendto(datagram, self._server)

    # Times

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._not_before if self._due else self._client.deadline()
        if when is not None and not self.is_closing():
            self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        if self._due:
            self._connect(max(now, self._not_before))
        else:
            self._do(self._client.tick(max(now, self._client.deadline() or now)))
