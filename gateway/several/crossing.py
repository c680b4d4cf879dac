"""The way between the processes of one gateway: a datagram that arrived at one and is for a device of another.

The kernel gives each datagram to the process that it names (`gateway.several.steering`), or else to whose socket its
address falls to; the device's owner is told by its name (`gateway.several.owners`). Whoever gets a Register finds the
owner in it. Everything else is known by its address, its registration id or its Connection ID, which the owner told the
others when they came to be; what nobody told of is for who got it. The owner answers from its own socket, which has the
same port.

Owns the lines to the others and what they said. It decides nothing about a message but whose it is, drops what a line
has no room for (UDP may lose datagrams, the layers above repeat them), and looks at no device's state.
"""

from __future__ import annotations

import asyncio
import marshal
import pickle
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import structlog

from gateway.coap.message import Code, Malformed, Option, parse
from gateway.file_server import PATH as FILES
from gateway.several.owners import owner_of
from gateway.several.seat import Seat, adopted

if TYPE_CHECKING:
    from gateway.coap.peers import Address, UdpAddress
    from gateway.coap.receiving import Receiving
    from gateway.coap.secure import SecureLine
    from gateway.registry import Registry

_log = structlog.get_logger("headwater.crossing")

#: Datagrams of a packet, none longer than 2,400 bytes, and bytes of a packet at most.
_TOGETHER = 100
_LONGEST_PACKET = 256 << 10
#: Facts in a packet.
_FACTS = 500
#: Packets that are taken from a line before the event loop has its turn again.
_BATCH = 32
_OWED_AGAIN = 0.02
#: Packets of facts that are kept for who has no room for them, beside what is told afresh; beyond that all is.
_MOST_OWED = 100
_POST, _DELETE = int(Code.POST), int(Code.DELETE)
#: Requests that may tell by themselves whose they are.
_TELLING = (int(Code.GET), _POST, _DELETE)


class Kind(IntEnum):
    """What a packet has. All but SESSION are in `marshal`'s form, which takes a third of the time of any other."""

    #: (datagram, address) of the port for messages in the clear, and of that for DTLS.
    PLAIN = 0
    SECURE = 1
    #: (known by, key, whether it is so): what the sender has or has no more.
    FACTS = 2
    #: The sender tells all that it has, up to WHOLE; what else it was known to have is then out of date.
    AFRESH = 3
    WHOLE = 4
    #: The sender has begun and knows nothing.
    HELLO = 5
    #: A DTLS session that is the receiver's from now on.
    SESSION = 6


class By(IntEnum):
    """What a device is known by."""

    ADDRESS = 0
    REGISTRATION = 1
    SECURE_ADDRESS = 2
    CONNECTION_ID = 3
    #: A file, which it may fetch from an address that nobody knows.
    FILE = 4


Fact = tuple[int, Any, bool]


@dataclass(slots=True)
class _Debt:
    """Packets for a line that was full, in their order."""

    packets: deque[tuple[Kind, list[Fact] | None]] = field(default_factory=deque)
    #: How many may wait. 0: they are not made yet, and all is told afresh as soon as there is room.
    most: int = 0


class Crossing:
    """The crossing of one process, on its event loop."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self._lines: dict[int, socket.socket] = {}
        for number, line in seat.lines.items():
            taken = adopted(line)
            assert taken is not None
            self._lines[number] = taken
        #: Whose it is, where it is another's.
        self._elsewhere: dict[By, dict[Any, int]] = {by: {} for by in By}
        self._addresses: dict[UdpAddress, int] = self._elsewhere[By.ADDRESS]
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
        self._received = bytearray(_LONGEST_PACKET)
        self._view = memoryview(self._received)
        self._facts: list[Fact] = []
        self._flushing = False
        #: What those have still to be told whose line was full.
        self._owed: dict[int, _Debt] = {}
        #: What those have told who are telling all.
        self._renewed: dict[int, set[tuple[int, Any]]] = {}
        self._unheard = set(self._lines)
        self._all_heard = asyncio.Event()
        #: For the metrics: datagrams to others and from them; what a line had no room for; sessions to others.
        self.handed_on = 0
        self.handed_here = 0
        self.dropped: Counter[str] = Counter()
        self.sessions_moved = 0

    # From the start to the end

    def start(self, loop: asyncio.AbstractEventLoop, receiving: Receiving, secure: SecureLine | None) -> None:
        """Begin to take what the others hand over, and ask them what they have."""
        self._loop, self._receiving, self._secure = loop, receiving, secure
        for number, line in self._lines.items():
            loop.add_reader(line.fileno(), self._hear_one, number)
            self._greet(number)
        if not self._lines:
            self._all_heard.set()

    def _greet(self, number: int) -> None:
        # What waits for its next life may fill a line.
        if self._loop is not None and number in self._unheard and not self._send(number, Kind.HELLO, None):
            self._loop.call_later(_OWED_AGAIN, self._greet, number)

    def know(self, registry: Registry) -> None:
        """The devices of this process are there: the others are told, now and of every change."""
        self._registry, self._at = registry, registry.at
        registry.told = self._registry_says
        for number in self._lines:
            self._tell_all(number)

    async def all_heard(self) -> None:
        """Wait until each of the others has told what it has, once: before that, what is theirs seems nobody's."""
        await self._all_heard.wait()

    @property
    def waits_for(self) -> str | None:
        """Who has not told yet, in words."""
        if not self._unheard:
            return None
        return f"process {', '.join(map(str, sorted(self._unheard)))} of the gateway is not there yet"

    def pause(self) -> None:
        """Take nothing more."""
        if self._loop is not None:
            for line in self._lines.values():
                self._loop.remove_reader(line.fileno())

    def close(self) -> None:
        """Let the lines go."""
        self.pause()
        self._flush()
        self._loop = None
        for line in self._lines.values():
            line.close()

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
        target = self._elsewhere[by].get(key)
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
            return self._elsewhere[By.FILE].get(path[1])
        return None

    def _whose(self, by: By, key: object) -> int | None:
        if (target := self._elsewhere[by].get(key)) is None:
            self._hear()
            target = self._elsewhere[by].get(key)
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
            self._elsewhere[by].pop(key, None)
        self._facts.append((int(by), key, has))
        if has and self._loop is not None:
            # Now: what follows may be a request to it, whose answer comes to another process before this turn ends.
            self._tell()
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

    def _tell_all(self, number: int) -> None:
        """All that this process has; what the line has no room for now goes as soon as it has."""
        if self._registry is None:
            return  # told as soon as it is known
        is_tried_again = number in self._owed
        self._owed[number] = _Debt()
        if not is_tried_again:
            self._pay(number)

    def _pay(self, number: int) -> None:
        debt = self._owed[number]
        packets = debt.packets
        if not debt.most and self._send(number, Kind.AFRESH, None):
            facts = list(self._all_facts())
            packets.extend((Kind.FACTS, facts[at : at + _FACTS]) for at in range(0, len(facts), _FACTS))
            packets.append((Kind.WHOLE, None))
            debt.most = len(packets) + _MOST_OWED
        while packets and self._send(number, *packets[0]):
            packets.popleft()
        if debt.most and not packets:
            del self._owed[number]
        elif self._loop is not None:
            self._loop.call_later(_OWED_AGAIN, self._pay, number)

    def _tell_of(self, number: int, facts: list[Fact]) -> None:
        """What is new, behind what is owed already."""
        debt = self._owed.get(number)
        if debt is None:
            if not self._send(number, Kind.FACTS, facts):
                self._tell_all(number)
        elif debt.most:
            last = debt.packets[-1][1]
            if last is not None and len(last) + len(facts) <= _FACTS:
                last += facts
            else:
                debt.packets.append((Kind.FACTS, facts))
            if len(debt.packets) > debt.most:
                self._owed[number] = _Debt()

    # Out

    def _flush_soon(self) -> None:
        if not self._flushing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        # Before the datagrams, which may be what the facts are about.
        self._tell()
        for kind, waiting in ((Kind.PLAIN, self._plain_out), (Kind.SECURE, self._secure_out)):
            for target, out in waiting.items():
                if out:
                    self._hand_on(target, kind, out)

    def _tell(self) -> None:
        facts, self._facts = self._facts, []
        for at in range(0, len(facts), _FACTS):
            for number in self._lines:
                self._tell_of(number, facts[at : at + _FACTS])

    def _hand_on(self, target: int, kind: Kind, out: list[tuple[bytes, UdpAddress]]) -> None:
        if self._send(target, kind, out):
            self.handed_on += len(out)
        else:
            self.dropped["no room on the line"] += len(out)
        out.clear()

    def hand_over(self, target: int, cid: bytes, address: UdpAddress, session: object) -> None:
        """Give a DTLS session away. If the line has no room it is lost, and its device makes another."""
        if self._send(target, Kind.SESSION, session):
            self.sessions_moved += 1
            # Its owner will tell so; what comes before that is for it already.
            self._elsewhere[By.SECURE_ADDRESS][address] = target
            if cid:
                self._elsewhere[By.CONNECTION_ID][cid] = target
        else:
            self.dropped["no room for a session"] += 1

    def _send(self, number: int, kind: Kind, content: Any) -> bool:
        body = pickle.dumps(content) if kind is Kind.SESSION else marshal.dumps(content)
        try:
            self._lines[number].send(bytes((kind,)) + body)
        except OSError:  # full; or closed, at the end
            return False
        return True

    # In

    def _hear(self) -> None:
        """What is not known yet may have been told just now."""
        for number in self._lines:
            self._hear_one(number)

    def _hear_one(self, number: int) -> None:
        line = self._lines[number]
        handed_before = self.handed_here
        for _ in range(_BATCH):
            try:
                size = line.recv_into(self._received)
            except BlockingIOError:
                break
            except OSError:
                self.dropped["line broken"] += 1
                break
            if not size:  # the parent is gone, and so is this process soon
                if self._loop is not None:
                    self._loop.remove_reader(line.fileno())
                break
            try:
                self._take(number, self._received[0], self._view[1:size])
            except Exception:  # noqa: BLE001  # one packet must not end the gateway
                self.dropped["internal error"] += 1
                _log.exception("what another process handed over could not be taken", process=number)
        if self._receiving is not None and self.handed_here != handed_before:
            self._receiving.batch_done(0)

    def _take(self, number: int, kind: int, body: memoryview) -> None:
        if kind == Kind.SESSION:
            if self._secure is not None:
                self._secure.adopt(pickle.loads(body))
            return
        # Whole, before anything is done with it: that may read the next packet into its place.
        content = marshal.loads(body)
        if kind == Kind.PLAIN and self._receiving is not None:
            self.handed_here += len(content)
            self._receiving.handed(content)
        elif kind == Kind.SECURE and self._secure is not None:
            self.handed_here += len(content)
            self._secure.handed(content)
        elif kind == Kind.FACTS:
            self._believe(number, content)
        elif kind == Kind.AFRESH:
            self._renewed[number] = set()
        elif kind == Kind.WHOLE:
            told = self._renewed.pop(number, None)
            if told is None:  # what it was the end of, the one before this process has had
                return
            self._forget_others(number, told)
            self._unheard.discard(number)
            if not self._unheard:
                self._all_heard.set()
        elif kind == Kind.HELLO:
            self._tell_all(number)

    def _forget_others(self, number: int, told: set[tuple[int, Any]]) -> None:
        """A process has all that it ``told`` and nothing else."""
        for by, known in self._elsewhere.items():
            for key in [key for key, owner in known.items() if owner == number and (int(by), key) not in told]:
                del known[key]

    def _believe(self, number: int, facts: list[Fact]) -> None:
        renewed = self._renewed.get(number)
        for by, key, has in facts:
            known = self._elsewhere[By(by)]
            if has:
                known[key] = number
                if renewed is not None:
                    renewed.add((by, key))
            elif known.get(key) == number:
                del known[key]
