"""CoAP over DTLS (RFC 7252 section 9): the second socket of the gateway, and the peers behind its sessions.

Owns the way between the DTLS servers, which do no I/O (`gateway.coap.sides`), and the endpoint, which sees peers and
plain messages. A peer whose credential is for one endpoint name alone stays the same over a new handshake, so that its
registration and observations go on; one that shares its key is known by its session only, until it registers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import structlog

from gateway.certificate_proof import shown
from gateway.coap.alarm import Alarm
from gateway.coap.message import MAX_DATAGRAM
from gateway.coap.peers import SecurePeer, UdpAddress
from gateway.coap.sides import Sides
from gateway.coap.udp import BATCH, bind, name_of
from gateway.dtls.events import Established, Moved, Received, Send, Unproven
from gateway.dtls.greeting import suites_offered
from gateway.dtls.records import CID_AT, CID_LENGTH, ContentType
from gateway.dtls.server import Server, SessionClosed
from gateway.dtls.session import Session

if TYPE_CHECKING:
    import socket

    from gateway.access import Access, Changed
    from gateway.coap.sides import AnyEvent, AnySession
    from gateway.dtls_certificates.server import CertificateServer
    from gateway.several.crossing import Crossing

_log = structlog.get_logger("headwater.coaps")

#: The longest datagram that is taken: a message, and what DTLS adds (RFC 6347 section 4.1; RFC 9146 section 4).
_LONGEST = MAX_DATAGRAM + 256
#: Sessions by one key that is for several endpoints.
MOST_OF_A_KEY = 10_000
_TLS12_CID = bytes((ContentType.TLS12_CID,))
#: A session, whether it was resumed, and a message of it that is still to be taken (or none).
HandedSession = tuple[Session, bool, bytes]


class Receiver(Protocol):
    """What the socket hands on."""

    def arrived(self, datagram: bytes, peer: SecurePeer) -> None:
        """One message, authentic and not here before. Never raises."""

    def anew(self, peer: SecurePeer) -> None:
        """The peer has another session, by a whole handshake: its message ids begin anew (RFC 7252 section 9.1.1)."""

    def batch_done(self, received: int) -> None:
        """The datagrams that were waiting have been handed out."""


class SecureLine:
    """One UDP socket with DTLS.

    ``keys`` has the pre-shared key of an identity; ``only_endpoint`` the one endpoint name that it is for, so that a
    new session ends the one before, or None where it is for several. Neither raises or blocks. ``certificates`` has the
    sessions of those who show one; without it they are refused.
    """

    def __init__(
        self,
        host: str,
        port: int,
        keys: Callable[[bytes], bytes | None],
        only_endpoint: Callable[[str], str | None],
        certificates: CertificateServer | None = None,
        bound: socket.socket | None = None,
        crossing: Crossing | None = None,
    ) -> None:
        """Bind at once, unless a socket is ``bound`` already; ``crossing`` leads to the other processes of its port.

        Raises:
            OSError: the address cannot be bound.
        """
        self._socket = bind(host, port) if bound is None else bound
        self._crossing = crossing
        self._sides = Sides(Server(keys), certificates)
        self._only_endpoint = only_endpoint
        self._known: Callable[[str, str], SecurePeer | None] = lambda _, __: None
        self._peers: dict[AnySession, SecurePeer] = {}
        #: Of keys that are for one endpoint, the peer that has a session; of others all sessions, the oldest first.
        self._alone: dict[str, SecurePeer] = {}
        self._shared: dict[str, dict[AnySession, None]] = {}
        self._receiver: Receiver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alarm = Alarm(self._tick)
        #: Handshakes that were completed, whole and resumed ones.
        self.handshakes: Counter[str] = Counter(whole=0, resumed=0)
        self.moved = 0
        self.revoked = 0
        #: What could not be sent, by reason.
        self.unsent: Counter[str] = Counter({"no session": 0})

    def serve(self, known: Callable[[str, str], SecurePeer | None]) -> None:
        """Ask ``known`` from now on for the peer that an identity was the last time, with the one endpoint name that it
        is for; and for those, too, who are here already."""
        self._known = known
        for session, peer in list(self._peers.items()):
            ep = self._only_endpoint(peer.identity)
            before = None if ep is None else known(peer.identity, ep)
            if before is not None and before is not peer and peer.session is session:
                self._give(session, before)
                before.proven, before.moved_at = peer.proven, peer.moved_at

    @property
    def local_address(self) -> tuple[str, int]:
        """The host and port that are bound."""
        return name_of(self._socket)

    @property
    def server(self) -> Server:
        """The sessions and handshakes with pre-shared keys, for metrics."""
        return self._sides.keys

    @property
    def certificates(self) -> CertificateServer | None:
        """Those with certificates."""
        return self._sides.certificates

    def start(self, loop: asyncio.AbstractEventLoop, receiver: Receiver) -> None:
        """Begin to receive."""
        self._loop, self._receiver = loop, receiver
        loop.add_reader(self._socket.fileno(), self._drain)

    def pause(self) -> None:
        """Stop receiving; what is under way can still be answered."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Tell every peer that its session is over, so that it makes another, and close the socket."""
        if self._socket.fileno() < 0:
            return
        self.pause()
        self._alarm.cancel()
        for session in list(self._peers):
            self._end(session)
        self._socket.close()

    # Receiving

    def _drain(self) -> None:
        assert self._loop is not None
        assert self._receiver is not None
        now = self._loop.time()
        receive, receive_data = self._socket.recvfrom, self._sides.receive_data
        peers, arrived, crossing = self._peers, self._arrived, self._crossing
        taken = 0
        try:
            for _ in range(BATCH):
                datagram, address = receive(_LONGEST + 1)
                taken += 1
                if crossing is not None and self._is_elsewhere(crossing, datagram, address):
                    continue
                found = receive_data(datagram, address, now)
                if found is None:
                    self._do(self._sides.receive(datagram, address, now), now)
                elif (peer := peers.get(found[0])) is not None:
                    arrived(found[1], peer)
        except BlockingIOError:
            pass
        except OSError as exc:
            # An ICMP error of an earlier send; the next call has the next datagram.
            self.unsent[f"socket error {exc.errno}"] += 1
        finally:
            self._receiver.batch_done(taken)
            self._arm()

    def _do(self, events: Iterable[AnyEvent], now: float) -> None:
        assert self._receiver is not None
        for event in events:
            if isinstance(event, Received):
                # None: a session that another one of the same datagram has taken the place of.
                if (peer := self._peers.get(event.session)) is not None:
                    self._arrived(event.data, peer)
            elif isinstance(event, Send):
                self._transmit(event)
            elif isinstance(event, Established):
                self._established(event.session, resumed=event.resumed)
            elif isinstance(event, Moved):
                if (peer := self._peers.get(event.session)) is None:
                    continue
                peer.udp, peer.proven, peer.moved_at = event.session.address, False, now
                if self._crossing is not None:
                    self._crossing.say_session(b"", event.before, has=False)
                self.moved += 1
            elif isinstance(event, Unproven):
                # Names are not secret; but what was typed in the wrong place may be, so not all of it is told.
                told = event.identity[:24].decode("utf-8", "replace")
                _log.warning(
                    "a handshake failed: nobody has this PSK identity, or it came with another key",
                    identity=repr(told) + ("…" if len(event.identity) > 24 else ""),
                    peer=event.address[0],
                )
            else:
                self._forget([event.session])

    # Other processes of the port (`gateway.several`)

    def _is_elsewhere(self, crossing: Crossing, datagram: bytes, address: UdpAddress) -> bool:
        if datagram[:1] == _TLS12_CID:
            return crossing.secure_of_cid(datagram, datagram[CID_AT : CID_AT + CID_LENGTH], address)
        # A handshake is made here, whoever gets the session; what is said again of one that is done is for who has it.
        if self._sides.keys.has(address) or suites_offered(datagram) is not None:
            return False
        return crossing.secure_of_address(datagram, address)

    def handed(self, datagrams: Iterable[tuple[bytes, UdpAddress]]) -> None:
        """Records that another process got; the receiver's `batch_done` follows."""
        assert self._loop is not None
        now = self._loop.time()
        for datagram, address in datagrams:
            found = self._sides.receive_data(datagram, address, now)
            if found is None:
                self._do(self._sides.receive(datagram, address, now), now)
            elif (peer := self._peers.get(found[0])) is not None:
                self._arrived(found[1], peer)
        self._arm()

    def adopt(self, handed: HandedSession) -> None:
        """Go on with a session that another process has established, and with what came of it last."""
        assert self._loop is not None
        session, resumed, message = handed
        now = self._loop.time()
        self._do(self._sides.keys.adopt(session, now), now)
        self._establish(session, resumed=resumed)
        if message and (peer := self._peers.get(session)) is not None:
            self._arrived(message, peer)
        self._arm()

    def known_by(self) -> Iterator[tuple[bytes, UdpAddress]]:
        """The Connection ID, if it has one, and the address of each session that another process may hear of."""
        for session in self._peers:
            if isinstance(session, Session):
                yield session.cid, session.address

    def _hand_over(self, session: Session, target: int, *, resumed: bool, message: bytes = b"") -> None:
        assert self._crossing is not None
        self._sides.keys.release(session)
        self._forget([session])
        # If it cannot go the device finds out as after any crash: nothing acknowledges what it says.
        self._crossing.hand_over(target, session.cid, session.address, (session, resumed, message))

    def _told(self, session: AnySession, *, has: bool) -> None:
        if self._crossing is None or not isinstance(session, Session):
            return
        self._crossing.say_session(session.cid, session.address, has=has)

    def _arrived(self, message: bytes, peer: SecurePeer) -> None:
        assert self._receiver is not None
        if self._crossing is not None and isinstance(peer.session, Session):
            target = self._crossing.of_message(message, peer)
            if target is not None:
                self._hand_over(peer.session, target, resumed=False, message=message)
                return
        self._receiver.arrived(message, peer)

    def _established(self, session: AnySession, *, resumed: bool) -> None:
        if self._crossing is not None and isinstance(session, Session):
            ep = self._only_endpoint(session.identity.decode("utf-8"))
            if ep is not None and (target := self._crossing.owner_of(ep)) is not None:
                self._hand_over(session, target, resumed=resumed)
                return
        self._establish(session, resumed=resumed)

    def _establish(self, session: AnySession, *, resumed: bool) -> None:
        assert self._receiver is not None
        if (replaced := self._sides.replaced_by(session)) is not None:
            self._sides.close(replaced)
            self._forget([replaced])
        # The store has only identities that are UTF-8.
        identity = session.identity.decode("utf-8")
        # Once, as the credentials are now: they may be others than when the key was asked for.
        ep = self._only_endpoint(identity)
        before = None if ep is None else self._known(identity, ep)
        peer = before or self._alone.get(identity) or SecurePeer(identity, session.address)
        self._give(session, peer)
        peer.proven = True
        if ep is not None:
            self._alone[identity] = peer
        else:
            self._bound(identity, session)
        self.handshakes["resumed" if resumed else "whole"] += 1
        if not resumed:
            peer.life = secrets.token_hex(6)
            self._receiver.anew(peer)

    def _bound(self, identity: str, session: AnySession) -> None:
        """One key that many devices have takes no more than its share; its longest known goes."""
        shared = self._shared.setdefault(identity, {})
        shared[session] = None
        if len(shared) > MOST_OF_A_KEY:
            self._end(next(iter(shared)))

    def _give(self, session: AnySession, peer: SecurePeer) -> None:
        """The peer speaks by this session now."""
        before = peer.session
        if before is not None and before.open:
            # The device has begun anew elsewhere.
            self._end(before)
        peer.session, peer.udp = session, session.address
        self._peers[session] = peer
        self._told(session, has=True)

    def _forget(self, sessions: Iterable[AnySession]) -> None:
        for session in sessions:
            peer = self._peers.pop(session, None)
            if peer is None:
                continue
            self._told(session, has=False)
            if peer.session is session:
                peer.session = None
                if self._alone.get(peer.identity) is peer:
                    del self._alone[peer.identity]
            if (shared := self._shared.get(peer.identity)) is not None:
                shared.pop(session, None)
                if not shared:
                    del self._shared[peer.identity]

    # Sending

    def send(self, datagram: bytes, peer: SecurePeer) -> None:
        """Send a message; without a session it is lost, as any datagram may be."""
        session = peer.session
        if session is None:
            self.unsent["no session"] += 1
            return
        try:
            protected = self._sides.send(session, datagram)
        except SessionClosed:
            self.unsent["no session"] += 1
        else:
            self._put(protected, session.address)

    def _end(self, session: AnySession) -> None:
        """End a session, and tell its peer."""
        self._transmit(Send(self._sides.close(session), session.address))
        self._forget([session])

    def _transmit(self, send: Send) -> None:
        self._put(send.datagram, send.address)

    def _put(self, datagram: bytes, address: UdpAddress) -> None:
        try:
            self._socket.sendto(datagram, address)
        except OSError as exc:
            # UDP may lose datagrams; the layers above retransmit.
            self.unsent[f"send error {exc.errno}"] += 1

    # Revocation

    def follow(self, access: Access, changed: Changed) -> None:
        """End the sessions whose credentials are gone, and believe those that are new."""
        if changed:
            self.revoke(None if changed.everything else changed.ended)
            if changed.certificates or changed.everything:
                self.look_again(access.is_revoked, access.anchors())

    def revoke(self, identities: Iterable[str] | None = None) -> None:
        """End the sessions and handshakes of identities whose keys are no longer good (None: all)."""
        self._ended(
            self._sides.keys.revoke(None if identities is None else {one.encode("utf-8") for one in identities})
        )

    def _ended(self, ended: Sequence[tuple[AnySession, Send]]) -> None:
        for _, send in ended:
            self._transmit(send)
        self._forget(session for session, _ in ended)
        self.revoked += len(ended)
        if ended:
            _log.warning(
                "sessions were ended: their credentials were removed or changed",
                sessions=len(ended),
                identity=shown(ended[0][0].identity.decode("utf-8", "replace")),
            )

    def end(self, peer: SecurePeer) -> None:
        """End the peer's session, if it has one: the device has another by now."""
        if peer.session is not None:
            self._end(peer.session)

    def look_again(self, is_revoked: Callable[[str], bool], anchors: Sequence[bytes]) -> None:
        """End the sessions with certificates whose identity ``is_revoked``, and believe from now on what ``anchors``
        (DER) signed."""
        if (certificates := self._sides.certificates) is not None:
            certificates.trust(anchors)
            self._ended(certificates.revoke(is_revoked))

    # Timers

    def _arm(self) -> None:
        if self._loop is not None:
            self._alarm.set(self._loop, self._sides.deadline())

    def _tick(self) -> None:
        assert self._loop is not None
        now = self._loop.time()
        self._do(self._sides.tick(now), now)
        self._arm()
