"""The device's one UDP socket, as an aiocoap transport that knows what the peer acknowledged.

Owns the socket and the fate of confirmable messages. aiocoap's message layer matches an ACK to its exchange and tells
nobody; but each message passes `MessageInterface.send` with its message id, and each ACK and RST comes in here first.
So this transport, which sees both, reports the end of every exchange it was asked to watch (RFC 7252 section 4.2).
It never retransmits, deduplicates or builds an answer: those are aiocoap's layers above.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any, cast

from aiocoap import Context, Message, interfaces
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers import constants
from aiocoap.numbers.codes import EMPTY
from aiocoap.numbers.types import ACK, CON, RST
from aiocoap.tokenmanager import TokenManager

#: host and port of an IPv4 or IPv6 peer, as the socket module has them.
SocketAddress = tuple[Any, ...]


class Outcome(Enum):
    """How the exchange of a confirmable message ended."""

    ACKNOWLEDGED = "acknowledged"
    RESET = "reset"


#: Called once with the outcome and the message id; not called when the peer stays silent in all retransmissions.
Watcher = Callable[[Outcome, int], None]


class Peer(interfaces.EndpointAddress):  # type: ignore[misc]  # aiocoap publishes no types
    """The other side of the socket; equal for equal addresses."""

    is_multicast = False
    is_multicast_locally = False
    maximum_block_size_exp = constants.MAX_REGULAR_BLOCK_SIZE_EXP
    scheme = "coap"

    def __init__(self, address: SocketAddress, local: str) -> None:
        self.address = address
        self._local = local

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Peer) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"Peer({self.hostinfo})"

    @property
    def hostinfo(self) -> str:
        return host_port(self.address)

    @property
    def hostinfo_local(self) -> str:
        return self._local

    @property
    def uri_base(self) -> str:
        return f"coap://{self.hostinfo}"

    @property
    def uri_base_local(self) -> str:
        return f"coap://{self.hostinfo_local}"

    @property
    def blockwise_key(self) -> SocketAddress:
        return self.address


def host_port(address: SocketAddress) -> str:
    """``127.0.0.1:5683`` or ``[::1]:5683``."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class DeviceSocket(asyncio.DatagramProtocol, interfaces.MessageInterface):  # type: ignore[misc]  # aiocoap has no types
    """The MessageInterface of a device's Context; made by `open_context`."""

    def __init__(self, manager: MessageManager) -> None:
        self._manager = manager
        self._transport: asyncio.DatagramTransport | None = None
        self._local = "device"
        self._watched: dict[tuple[SocketAddress, bytes], Watcher] = {}
        self._exchanges: dict[tuple[SocketAddress, int], Watcher] = {}
        self._server: SocketAddress = ()
        self._awake_seconds: float | None = None
        self._asleep: asyncio.TimerHandle | None = None
        #: False while a device in queue mode sleeps: what arrives is lost, as with a radio that is off.
        self.listening = True
        #: Called when the device falls asleep.
        self.on_sleep: Callable[[], None] | None = None
        #: Datagrams that were no CoAP message, and those that arrived while the device slept.
        self.malformed = 0
        self.slept_through = 0

    @property
    def local_address(self) -> SocketAddress:
        """The address that the socket is bound to."""
        assert self._transport is not None, "the socket is not open"
        return tuple(self._transport.get_extra_info("sockname"))

    def watch(self, remote: Peer, token: bytes, watcher: Watcher) -> None:
        """Report the outcome of the next confirmable response that goes to ``remote`` with ``token``.

        aiocoap gives a message its id only when it leaves, which may be later (one exchange at a time and peer), so
        the watch is taken by token and moves to the message id in `send`.
        """
        self._watched[remote.address, token] = watcher

    def unwatch(self, remote: Peer, token: bytes) -> None:
        """Forget a watch whose message never left."""
        self._watched.pop((remote.address, token), None)

    def give_up(self) -> None:
        """A peer stayed silent: no exchange with it is open any more. (A device has one peer, its server.)"""
        self._exchanges.clear()

    def sleep_after(self, seconds: float) -> None:
        """Queue mode: hear nothing from ``seconds`` after the last datagram on, until the next one is sent.

        OMA LwM2M Core 1.1, section 6.5 (Queue Mode operation).
        """
        self._awake_seconds = seconds

    def stay_awake(self) -> None:
        """In queue mode: something was sent or heard."""
        if self._awake_seconds is None:
            return
        self.listening = True
        if self._asleep is not None:
            self._asleep.cancel()
        self._asleep = asyncio.get_running_loop().call_later(self._awake_seconds, self._sleep)

    def _sleep(self) -> None:
        self.listening = False
        if self.on_sleep is not None:
            self.on_sleep()

    # asyncio.DatagramProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, no check: asyncio's own datagram transport does not derive from DatagramTransport.
        self._transport = cast("asyncio.DatagramTransport", transport)
        self._local = host_port(transport.get_extra_info("sockname"))

    def datagram_received(self, data: bytes, addr: SocketAddress) -> None:
        if not self.listening:
            self.slept_through += 1
            return
        self.stay_awake()
        try:
            message = Message.decode(data, remote=Peer(addr, self._local))
        except Exception:  # noqa: BLE001  aiocoap's parser raises more than its own errors on mangled options
            self.malformed += 1
            return
        if message.code is EMPTY and message.mtype in (ACK, RST):
            watcher = self._exchanges.pop((addr, message.mid), None)
            if watcher is not None:
                watcher(Outcome.ACKNOWLEDGED if message.mtype is ACK else Outcome.RESET, message.mid)
        self._manager.dispatch_message(message)

    def error_received(self, exc: Exception) -> None:
        # An ICMP "port unreachable" of a server that restarts: retransmission goes on, so nothing is to be done.
        pass

    # aiocoap.interfaces.MessageInterface

    def send(self, message: Message) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        remote: Peer = message.remote
        if message.mtype is CON and message.code.is_response():
            watcher = self._watched.pop((remote.address, message.token), None)
            if watcher is not None:
                self._exchanges[remote.address, message.mid] = watcher
        self.stay_awake()
        self._transport.sendto(message.encode(), remote.address)

    async def recognize_remote(self, remote: object) -> bool:
        return isinstance(remote, Peer)

    async def determine_remote(self, message: Message) -> Peer | None:
        # Every request of a device is given its Peer by `resolve`.
        return None

    async def resolve(self, host: str, port: int) -> Peer:
        """The Peer of a host name or address; of several addresses the one that it was before, whatever their order.

        Raises:
            OSError: the name does not resolve.
        """
        assert self._transport is not None, "the socket is not open"
        family = self._transport.get_extra_info("socket").family
        found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM)
        addresses: list[SocketAddress] = [address for *_, address in found]
        if self._server not in addresses:
            self._server = addresses[0]
        return Peer(self._server, self._local)

    async def shutdown(self) -> None:
        self._exchanges.clear()
        self._watched.clear()
        if self._asleep is not None:
            self._asleep.cancel()
        if self._transport is not None:
            self._transport.close()


class DeviceTokens(TokenManager):  # type: ignore[misc]  # aiocoap publishes no types
    """aiocoap's token layer, which is where it becomes known that a peer did not answer all the retransmissions."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        #: Called when a peer stayed silent; all observations of that peer have ended (RFC 7641 section 4.5).
        self.on_silence: Callable[[], None] | None = None

    def dispatch_error(self, exception: Exception, remote: object) -> None:
        super().dispatch_error(exception, remote)
        if self.on_silence is not None:
            self.on_silence()


class _QuietLoss(logging.Filter):
    """Drops aiocoap's notes on ordinary life under loss (duplicates, unmatched ACKs); errors pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


async def open_context(
    site: interfaces.Resource,
    *,
    host: str,
    port: int,
    on_silence: Callable[[], None],
    layer: Callable[[DeviceSocket], asyncio.DatagramProtocol] = lambda device_socket: device_socket,
) -> tuple[Context, DeviceSocket]:
    """An aiocoap Context on one UDP socket that serves ``site`` and sends requests, so that a peer sees one address.

    ``on_silence`` is called when a peer did not answer a confirmable message in all its retransmissions. ``layer`` may
    put something between the socket and the messages: it is the transport of what it is given.

    Raises:
        OSError: the address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    context = Context(loop=loop, serversite=site, loggername="headwater.device.coap")
    tokens = DeviceTokens(context)
    messages = MessageManager(tokens)
    device_socket = DeviceSocket(messages)
    await loop.create_datagram_endpoint(lambda: layer(device_socket), local_addr=(host, port))

    def silence() -> None:
        device_socket.give_up()
        on_silence()

    tokens.on_silence = silence
    messages.message_interface = device_socket
    tokens.token_interface = messages
    context.request_interfaces.append(tokens)
    return context, device_socket


logging.getLogger("headwater.device.coap").addFilter(_QuietLoss())
