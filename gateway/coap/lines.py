"""The lines of an endpoint: UDP in the clear, DTLS and OSCORE, and by which of them a message leaves.

Owns the UDP socket and the choice of the line by the peer. What cannot go is lost and counted: UDP may lose datagrams,
the layers above send them again. Of messages it knows no more than their size.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.coap.many import ManyDatagrams, many_datagrams
from gateway.coap.peers import Address, OscorePeer, SecurePeer, UdpAddress
from gateway.coap.udp import bind, name_of

if TYPE_CHECKING:
    from gateway.coap.oscore_entry import OscoreEntry
    from gateway.coap.secure import SecureLine

_NO_PLAIN = "no plain CoAP here"


class Lines:
    """Those of one endpoint; ``dropped`` counts by reason what could not be sent."""

    def __init__(
        self, udp: socket.socket | None, secure: SecureLine | None, dropped: Counter[str], *, in_the_clear: bool
    ) -> None:
        #: None: nothing comes over UDP but for DTLS, until OSCORE is spoken (`listen`).
        self.socket = udp
        #: For many datagrams by one call, where the system has it.
        self.many: ManyDatagrams | None = None if udp is None else many_datagrams(udp)
        #: False: on the socket OSCORE alone is spoken.
        self.in_the_clear = in_the_clear
        self.secure = secure
        #: Opens and protects messages with OSCORE; None: they are answered 4.02.
        self.oscore: OscoreEntry | None = None
        self._dropped = dropped

    def listen(self, coap: tuple[str, int]) -> None:
        """Bind the socket, where there is none yet.

        Raises:
            OSError: ``coap`` cannot be bound.
        """
        self.socket = bind(*coap)
        self.many = many_datagrams(self.socket)

    def close(self) -> None:
        """Close the sockets."""
        if self.socket is not None:
            self.socket.close()
        if self.secure is not None:
            self.secure.close()

    # Where we are

    @property
    def local_address(self) -> tuple[str, int]:
        """The host and port that are bound: for messages in the clear, or else for those over DTLS."""
        if self.socket is not None:
            return name_of(self.socket)
        assert self.secure is not None
        return self.secure.local_address

    @property
    def plain_address(self) -> tuple[str, int] | None:
        """The host and port that are bound for messages in the clear, or with OSCORE."""
        return None if self.socket is None else name_of(self.socket)

    def local_address_of(self, peer: Address) -> tuple[str, int]:
        """The host and port at which a peer reaches us."""
        if self.secure is not None and isinstance(peer, SecurePeer) and not isinstance(peer, OscorePeer):
            return self.secure.local_address
        return self.local_address

    # Sending

    def send(self, datagram: bytes, address: Address) -> None:
        """Send a message; one to a device that speaks OSCORE is protected already, or has no content."""
        if isinstance(address, OscorePeer):
            if self.oscore is None:
                self._dropped["no OSCORE here"] += 1
            else:
                self.oscore.send(datagram, address)
        elif isinstance(address, SecurePeer):
            if self.secure is not None:
                self.secure.send(datagram, address)
        elif self.in_the_clear or len(datagram) == 4:
            self.transmit(datagram, address)
        else:
            self._dropped[_NO_PLAIN] += 1

    def transmit(self, datagram: bytes, address: UdpAddress) -> None:
        """Send a datagram as it is over UDP."""
        if self.socket is None:
            self._dropped[_NO_PLAIN] += 1
            return
        try:
            self.socket.sendto(datagram, address)
        except OSError as exc:
            self._dropped[f"send error {exc.errno}"] += 1

    @property
    def sendto(self) -> Callable[[bytes, Address], object]:
        """The quickest way to send, for the short path's acknowledgements; raises OSError or loses what cannot go."""
        if self.secure is None and self.oscore is None and self.socket is not None:
            return self.socket.sendto  # type: ignore[return-value]  # without credentials all addresses are UDP's
        return self.send

    # Sending many at once, to peers in the clear

    @property
    def sends_together(self) -> bool:
        """Whether there is `send_requests` for peers in the clear."""
        return self.many is not None and self.in_the_clear

    def name_of(self, address: UdpAddress) -> bytes:
        """To whom `send_requests` sends, of a peer in the clear."""
        assert self.many is not None
        return self.many.name_of(address)

    def send_requests(self, requests: list[tuple[bytes, bytes]]) -> None:
        """Send datagrams of exchanges that were opened (`CoapClient.open`): each to whom (`name_of`), and what."""
        assert self.many is not None
        for code in self.many.send_requests(requests):
            self._dropped[f"send error {code}"] += 1

    def send_many(self, slots: list[bytes]) -> None:
        """Send messages without content, each a slot of what `Handler.notify_all` was given."""
        if self.many is not None:
            self.many.send(slots)
