"""The way between the processes of one gateway: a datagram that arrived at one and is for a device of another.

The kernel gives each datagram to the process that it names (`gateway.several.steering`), or else to whose socket its
address falls to; the device's owner is told by its name (`gateway.several.owners`). Whoever gets a Register finds the
owner in it. Everything else is known by its address, its registration id or its Connection ID, which the owner told the
others when they came to be; what nobody told of is for who got it. The owner answers from its own socket, which has the
same port.

Decides nothing about a message but whose it is, drops what a line has no room for (UDP may lose datagrams, the layers
above repeat them), and looks at no device's state. The packets are those of `gateway.several.lines`; what the others
are told, and have told, is kept in `gateway.several.telling` and `gateway.several.elsewhere`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gateway.coap.message import Code, Malformed, Option, parse
from gateway.file_server import PATH as FILES
from gateway.several.elsewhere import Elsewhere
from gateway.several.lines import By, Fact, Kind, Lines
from gateway.several.owners import owner_of
from gateway.several.seat import Seat
from gateway.several.telling import Telling

if TYPE_CHECKING:
    from gateway.coap.peers import Address, UdpAddress
    from gateway.coap.receiving import Receiving
    from gateway.coap.secure import SecureLine
    from gateway.registry import Registry

#: Datagrams of a packet, none longer than 2,400 bytes: so it is none that is too long for a line.
_TOGETHER = 100
#: Seconds until a line that was full is tried again.
_AGAIN = 0.02
_POST, _DELETE = int(Code.POST), int(Code.DELETE)
#: Requests that may tell by themselves whose they are.
_TELLING = (int(Code.GET), _POST, _DELETE)


class Crossing:
    """The crossing of one process, on its event loop."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        #: For the metrics: datagrams to others and from them; what a line had no room for; sessions to others.
        self.handed_on = 0
        self.handed_here = 0
        self.dropped: Counter[str] = Counter()
        self.sessions_moved = 0
        self._lines = Lines(seat, self._take, self.dropped)
        self._elsewhere = Elsewhere(self._lines)
        self._addresses: dict[UdpAddress, int] = self._elsewhere.by[By.ADDRESS]
        self._telling = Telling(self._lines, self._again)
        #: The files that this process can send.
        self._files: set[str] = set()
        self._registry: Registry | None = None
        #: Who of this process is at an address.
        self._at: Callable[[Address], object | None] = lambda _: None
        self._receiving: Receiving | None = None
        self._secure: SecureLine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: By process, the datagrams that wait for the end of this turn of the event loop.
        self._plain_out: dict[int, list[tuple[bytes, UdpAddress]]] = {number: [] for number in self._lines}
        self._secure_out: dict[int, list[tuple[bytes, UdpAddress]]] = {number: [] for number in self._lines}
        self._flushing = False

    # From the start to the end

    def start(self, loop: asyncio.AbstractEventLoop, receiving: Receiving, secure: SecureLine | None) -> None:
        """Begin to take what the others hand over, and ask them what they have."""
        self._loop, self._receiving, self._secure = loop, receiving, secure
        self._lines.start(loop, self._hear_one)
        for number in self._lines:
            self._greet(number)

    def _greet(self, number: int) -> None:
        # What waits for its next life may fill a line.
        if (
            self._loop is not None
            and self._elsewhere.is_unheard(number)
            and not self._lines.send(number, Kind.HELLO, None)
        ):
            self._again(self._greet, number)

    def _again(self, what: Callable[[int], None], number: int) -> None:
        if self._loop is not None:
            self._loop.call_later(_AGAIN, what, number)

    def know(self, registry: Registry) -> None:
        """The devices of this process are there: the others are told, now and of every change."""
        self._registry, self._at = registry, registry.at
        registry.told = self._registry_says
        self._telling.everything = self._all_facts
        for number in self._lines:
            self._telling.tell_all(number)

    async def all_heard(self) -> None:
        """Wait until each of the others has told what it has, once: before that, what is theirs seems nobody's."""
        await self._elsewhere.all_heard()

    @property
    def waits_for(self) -> str | None:
        """Who has not told yet, in words."""
        return self._elsewhere.waits_for

    def pause(self) -> None:
        """Take nothing more."""
        self._lines.pause()

    def close(self) -> None:
        """Let the lines go."""
        self.pause()
        self._flush()
        self._loop = None
        self._lines.close()

    # Whose is it?

    def owner_of(self, ep: str) -> int | None:
        """The process that owns an endpoint; None: this one."""
        owner = owner_of(ep, self.seat.processes)
        return None if owner == self.seat.number else owner

    def plain(self, datagram: bytes, address: UdpAddress) -> bool:
        """Hand a datagram on if it is another's; False: it is for this process."""
        # Called for every datagram, so without a detour.
        if len(datagram) > 3 and 0 < datagram[1] <= _DELETE:
            target = self._of_request(datagram, address)
        else:
            target = self._addresses.get(address)
            if target is None and self._at(address) is None:
                self._hear()
                target = self._addresses.get(address)
        if target is None:
            return False
        out = self._plain_out[target]
        out.append((datagram, address))
        if len(out) == 1:
            self._flush_soon()
        elif len(out) == _TOGETHER:
            self._hand_on(target, Kind.PLAIN, out)
        return True

    def secure_of_cid(self, datagram: bytes, cid: bytes, address: UdpAddress) -> bool:
        """The same of a DTLS record with a Connection ID."""
        return self._secure_put(datagram, By.CONNECTION_ID, cid, address)

    def secure_of_address(self, datagram: bytes, address: UdpAddress) -> bool:
        """The same of one without."""
        return self._secure_put(datagram, By.SECURE_ADDRESS, address, address)

    def _secure_put(self, datagram: bytes, by: By, key: UdpAddress | bytes, address: UdpAddress) -> bool:
        target = self._elsewhere.by[by].get(key)
        if target is None:
            return False
        out = self._secure_out[target]
        out.append((datagram, address))
        if len(out) == 1:
            self._flush_soon()
        elif len(out) == _TOGETHER:
            self._hand_on(target, Kind.SECURE, out)
        return True

    def of_message(self, message: bytes, peer: Address) -> int | None:
        """Who has to have a message that came over DTLS, as far as it tells; None: this process."""
        if len(message) < 4 or message[1] not in _TELLING:
            return None
        return self._of_request(message, peer)

    def _of_request(self, datagram: bytes, address: Address) -> int | None:
        """Below ``/rd`` the request itself tells; else its address, or the file that it is for."""
        try:
            message = parse(datagram)
            path = message.texts(Option.URI_PATH)
            if path and path[0] == "rd":
                if len(path) == 1 and message.code == Code.POST:
                    given = (one[3:] for one in message.texts(Option.URI_QUERY) if one.startswith("ep="))
                    if (ep := next(given, None)) is not None:
                        return self.owner_of(ep)
                elif len(path) == 2:
                    if self._registry is not None and self._registry.registration(path[1]) is not None:
                        return None
                    if (target := self._whose(By.REGISTRATION, path[1])) is not None:
                        return target
        except Malformed:
            return None
        if isinstance(address, tuple) and (target := self._addresses.get(address)) is not None:
            return target
        if self._at(address) is not None:
            return None
        if isinstance(address, tuple) and (target := self._whose(By.ADDRESS, address)) is not None:
            return target
        if len(path) > 1 and path[0] == FILES and path[1] not in self._files:
            return self._elsewhere.by[By.FILE].get(path[1])
        return None

    def _whose(self, by: By, key: object) -> int | None:
        if (target := self._elsewhere.by[by].get(key)) is None:
            self._hear()
            target = self._elsewhere.by[by].get(key)
        return target

    # What this process has

    def _registry_says(self, registration: str | None, address: object, has: bool) -> None:
        if registration is not None:
            self.say(By.REGISTRATION, registration, has)
        if isinstance(address, tuple):
            self.say(By.ADDRESS, address, has)

    def say(self, by: By, key: UdpAddress | bytes | str, has: bool) -> None:
        """This process has, or has no more, whoever is known by ``key``."""
        if has:
            self._elsewhere.by[by].pop(key, None)
        self._telling.add(by, key, has)
        if has and self._loop is not None:
            # Now: what follows may be a request to it, whose answer comes to another process before this turn ends.
            self._telling.tell()
        else:
            self._flush_soon()

    def say_file(self, sha256: str, has: bool) -> None:
        """This process can send a file, by its hash, or is not to be asked for it any more."""
        if has == (sha256 in self._files):
            return
        if has:
            self._files.add(sha256)
        else:
            self._files.remove(sha256)
        self.say(By.FILE, sha256, has)

    def say_session(self, cid: bytes, address: UdpAddress, *, has: bool) -> None:
        """This process has, or has no more, the DTLS session with this Connection ID (if any) and address."""
        if cid:
            self.say(By.CONNECTION_ID, cid, has)
        self.say(By.SECURE_ADDRESS, address, has)

    def _all_facts(self) -> Iterable[Fact]:
        for device in self._registry or ():
            yield int(By.REGISTRATION), device.reg_id, True
            if isinstance(device.address, tuple):
                yield int(By.ADDRESS), device.address, True
        yield from ((int(By.FILE), sha256, True) for sha256 in self._files)
        if self._secure is not None:
            for cid, address in self._secure.known_by():
                if cid:
                    yield int(By.CONNECTION_ID), cid, True
                yield int(By.SECURE_ADDRESS), address, True

    # Out

    def _flush_soon(self) -> None:
        if not self._flushing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        # Before the datagrams, which may be what the facts are about.
        self._telling.tell()
        for kind, waiting in ((Kind.PLAIN, self._plain_out), (Kind.SECURE, self._secure_out)):
            for target, out in waiting.items():
                if out:
                    self._hand_on(target, kind, out)

    def _hand_on(self, target: int, kind: Kind, out: list[tuple[bytes, UdpAddress]]) -> None:
        if self._lines.send(target, kind, out):
            self.handed_on += len(out)
        else:
            self.dropped["no room on the line"] += len(out)
        out.clear()

    def hand_over(self, target: int, cid: bytes, address: UdpAddress, session: object) -> None:
        """Give a DTLS session away. If the line has no room it is lost, and its device makes another."""
        if self._lines.send(target, Kind.SESSION, session):
            self.sessions_moved += 1
            # Its owner will tell so; what comes before that is for it already.
            self._elsewhere.by[By.SECURE_ADDRESS][address] = target
            if cid:
                self._elsewhere.by[By.CONNECTION_ID][cid] = target
        else:
            self.dropped["no room for a session"] += 1

    # In

    def _hear(self) -> None:
        """What is not known yet may have been told just now."""
        for number in self._lines:
            self._hear_one(number)

    def _hear_one(self, number: int) -> None:
        handed_before = self.handed_here
        self._lines.hear(number)
        if self._receiving is not None and self.handed_here != handed_before:
            self._receiving.batch_done(0)

    def _take(self, number: int, kind: int, content: Any) -> None:
        if kind == Kind.PLAIN and self._receiving is not None:
            self.handed_here += len(content)
            self._receiving.handed(content)
        elif kind == Kind.SECURE and self._secure is not None:
            self.handed_here += len(content)
            self._secure.handed(content)
        elif kind == Kind.SESSION and self._secure is not None:
            self._secure.adopt(content)
        elif kind == Kind.FACTS:
            self._elsewhere.believe(number, content)
        elif kind == Kind.AFRESH:
            self._elsewhere.afresh(number)
        elif kind == Kind.WHOLE:
            self._elsewhere.whole(number)
        elif kind == Kind.HELLO:
            self._telling.tell_all(number)
