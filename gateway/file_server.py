"""The gateway's own CoAP(S) file server: ``GET /files/SHA256``, block by block (RFC 7959 section 2.4).

Each block is answered for itself: nothing is kept of a device that fetches, so any number may at once. The hash is what
lets a peer have the file: it is told to the devices that are to have it, and cannot be guessed. Who has not shown that
it can be reached gets blocks so small that no answer is more than three times its request (RFC 9175 section 2.4).

No more than `PER_SECOND` blocks a second leave, all devices together, so that notifications never wait for images;
what is asked for beyond that waits its turn, and a device that asks again meanwhile is known by its message id.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

from gateway.coap.incoming import AMPLIFICATION, Incoming
from gateway.coap.message import Block, Code, Message, Option, Options, uint
from gateway.coap.peers import Address
from gateway.file_cache import FileCache
from schemas.files import is_hash
from schemas.lwm2m.formats import ContentFormat

#: The path under which files are.
PATH = "files"
_PATH = PATH.encode()
PER_SECOND = 1_500
#: So many leave together at most.
_BURST = 15
#: Requests that wait for their turn; the device of one that is dropped asks again.
_MOST_WAITING = 4_096
#: The largest block over UDP: 1,024 bytes.
_SZX = 6
#: What an answer has beside token and payload, at most: header, ETag, format, Block2, Size2, the marker.
_AROUND = 4 + 9 + 2 + 5 + 6 + 1


class FileServer:
    """``known`` says whether an address has shown that it can be reached; ``missed`` is told the hash of a file
    that is not here."""

    def __init__(
        self,
        cache: FileCache,
        *,
        known: Callable[[Address], bool],
        missed: Callable[[str], None],
        clock: Callable[[], float],
        per_second: float = PER_SECOND,
    ) -> None:
        self._cache = cache
        self._known = known
        self._missed = missed
        self._clock = clock
        self._per_second = per_second
        self._allowed = float(_BURST)
        self._at = clock()
        self._waiting: deque[Incoming] = deque()
        self._timer: asyncio.TimerHandle | None = None
        #: Blocks that were sent, their bytes, and requests that were refused, by reason.
        self.blocks = 0
        self.sent_bytes = 0
        self.refused: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    def request(self, incoming: Incoming) -> bool:
        """True if the request was for a file; it is then answered, now or soon."""
        for number, value in incoming.message.options:
            if number == Option.URI_PATH:
                if value != _PATH:
                    return False
                break
        else:
            return False
        if incoming.message.code != Code.GET:
            incoming.reply(Code.METHOD_NOT_ALLOWED, payload=b"files are fetched with GET")
            return True
        if len(self._waiting) >= _MOST_WAITING:
            self.refused["too many wait"] += 1
            incoming.drop()
            return True
        self._waiting.append(incoming)
        if self._timer is None:
            self._answer_some()
        return True

    def _answer_some(self) -> None:
        self._timer = None
        now = self._clock()
        self._allowed = min(float(_BURST), self._allowed + (now - self._at) * self._per_second)
        self._at = now
        while self._waiting and self._allowed >= 1.0:
            incoming = self._waiting.popleft()
            if incoming.answered:
                continue
            self._allowed -= 1.0
            self._answer(incoming)
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_BURST / 2 / self._per_second, self._answer_some)

    def _answer(self, incoming: Incoming) -> None:
        message = incoming.message
        path = message.texts(Option.URI_PATH)
        sha256 = path[1] if len(path) in (2, 3) else ""
        size = self._cache.size_of(sha256) if is_hash(sha256) else None
        if size is None:
            self.refused["not here"] += 1
            if is_hash(sha256):
                self._missed(sha256)
            incoming.reply(Code.NOT_FOUND, payload=b"no such file here")
            return
        asked = message.block(Option.BLOCK2) or Block(0, more=False, szx=_SZX)
        if asked.szx > _SZX:
            self.refused["block size"] += 1
            incoming.reply(Code.BAD_REQUEST, payload=b"block size 7 is for TCP")
            return
        if message.uint(Option.ACCEPT) not in (None, ContentFormat.OPAQUE):
            self.refused["format"] += 1
            incoming.reply(Code.NOT_ACCEPTABLE, payload=b"a file is octets")
            return
        szx = min(asked.szx, _SZX if self._known(incoming.address) else _affordable(incoming))
        start = asked.number * asked.size
        if szx < 0:
            self.refused["not registered"] += 1
            incoming.reply(Code.UNAUTHORIZED)
            return
        if start >= size:
            self.refused["beyond the end"] += 1
            incoming.reply(Code.BAD_REQUEST, payload=b"the file ends before that block")
            return
        self._send(incoming, message, sha256, size, start, szx)

    def _send(self, incoming: Incoming, message: Message, sha256: str, size: int, start: int, szx: int) -> None:
        length = 1 << (szx + 4)
        data = self._cache.read(sha256, start, length)
        if not data:
            self.refused["not here"] += 1
            self._missed(sha256)
            incoming.reply(Code.NOT_FOUND, payload=b"no such file here")
            return
        more = start + len(data) < size
        options: Options = [
            (Option.ETAG, bytes.fromhex(sha256[:16])),
            (Option.CONTENT_FORMAT, uint(ContentFormat.OPAQUE)),
            (Option.BLOCK2, uint((start // length) << 4 | more << 3 | szx)),
        ]
        if not start or message.uint(Option.SIZE2) is not None:
            options.append((Option.SIZE2, uint(size)))
        self.blocks += 1
        self.sent_bytes += len(data)
        # Whoever asks again is answered anew: to keep the blocks would cost the memory for what others were answered.
        incoming.reply_once(Code.CONTENT, options, data)


def _affordable(incoming: Incoming) -> int:
    """The block size exponent with which the answer is no more than three times the request; below 0: none is."""
    room = AMPLIFICATION * incoming.size - _AROUND - len(incoming.message.token)
    return min(_SZX, room.bit_length() - 5) if room > 0 else -1
