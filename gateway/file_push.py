"""A file sent to a device in blocks (Block1, RFC 7959 section 2.5), read from the cache block by block.

Owns how a transfer goes on: a device that does not answer for a while is asked again for the block that is missing, one
that has forgotten what it had (4.08) gets the file from its beginning, one that wants smaller blocks gets them. Who was
sent a part before and is sent the same file again gets the rest, if it still has the part.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from gateway.coap.client import CoapClient
from gateway.coap.exchanges import MAX_TRANSMIT_WAIT, NoAnswer
from gateway.coap.message import Code, Message, Option, Options, uint
from gateway.coap.peers import Address
from gateway.exchange import RefusedRequest
from gateway.file_cache import FileCache
from schemas.avro.records import ResponseCode
from schemas.lwm2m.formats import ContentFormat

_SZX = 6
#: How often one transfer may begin anew.
_MOST_BEGINNINGS = 4
#: Of how many interrupted transfers it is known how far they came.
_MOST_REMEMBERED = 4_096


class FilePush:
    """Sends files from ``cache``; ``clock`` is monotonic seconds, and each block has ``per_block`` of them."""

    def __init__(
        self, cache: FileCache, client: CoapClient, clock: Callable[[], float], *, per_block: float = MAX_TRANSMIT_WAIT
    ) -> None:
        self._cache = cache
        self._client = client
        self._clock = clock
        self._per_block = per_block
        #: By device and target: the file, and how many bytes of it were acknowledged.
        self._came: OrderedDict[tuple[str, tuple[str, ...]], tuple[str, int]] = OrderedDict()
        self.blocks = 0

    async def send(
        self,
        ep: str,
        where: Callable[[], Address],
        options: Options,
        sha256: str,
        *,
        patient: bool,
        timeout: float,
    ) -> Message:
        """Send the whole file; the device's answer to the last block, or the error with which it ended the transfer.

        ``where`` tells the device's address of the moment, and raises if it has none any more. ``timeout`` seconds are
        for all of it; who is not ``patient`` gives up when one block is not answered.

        Raises:
            ExchangeError: no answer within the time.
            RefusedRequest: the file went away meanwhile.
        """
        until = self._clock() + timeout
        target = (ep, tuple(value.decode() for number, value in options if number == Option.URI_PATH))
        size = self._cache.size_of(sha256)
        known, came = self._came.pop(target, (sha256, 0))
        at = came if known == sha256 else 0
        szx, beginnings, resumed = _SZX, 0, at > 0
        while True:
            length = 1 << (szx + 4)
            data = self._cache.read(sha256, at, length)
            if size is None or data is None:
                raise RefusedRequest(f"the file {sha256} is not at this gateway any more", _GONE)
            more = at + len(data) < size
            block: Options = [(Option.BLOCK1, uint((at // length) << 4 | more << 3 | szx))]
            if not at:
                block.append((Option.SIZE1, uint(size)))
            left = until - self._clock()
            if left <= 0:
                self._remember(target, sha256, at)
                raise NoAnswer(f"{at} of {size} bytes were sent within {timeout:g} s")
            try:
                answer = await self._client.request(
                    where(), Code.PUT, options + block, data, timeout=min(left, self._per_block)
                )
            except NoAnswer:
                self._remember(target, sha256, at)
                if not patient:
                    raise
                continue
            self.blocks += 1
            wanted = answer.block(Option.BLOCK1)
            if answer.code == Code.CONTINUE and more:
                at += len(data)
                szx = szx if wanted is None else min(szx, wanted.szx)
                resumed = False
            elif beginnings < _MOST_BEGINNINGS and (
                answer.code == Code.REQUEST_ENTITY_INCOMPLETE
                or (resumed and answer.code >= Code.BAD_REQUEST)
                or (answer.code == Code.CONTINUE and not more)
            ):
                # It restarted, or gave the part up: all of it anew.
                beginnings += 1
                at, resumed = 0, False
            elif answer.code == Code.REQUEST_ENTITY_TOO_LARGE and not at and wanted is not None and wanted.szx < szx:
                szx = wanted.szx
            else:
                return answer

    def _remember(self, target: tuple[str, tuple[str, ...]], sha256: str, at: int) -> None:
        self._came[target] = (sha256, at)
        if len(self._came) > _MOST_REMEMBERED:
            self._came.popitem(last=False)


#: What a request for a file is answered that is not at the gateway.
_GONE = ResponseCode.REQUEST_ENTITY_INCOMPLETE


def push_options(path: tuple[str, ...]) -> Options:
    """The options that every block has."""
    return [
        *((int(Option.URI_PATH), segment.encode()) for segment in path),
        (int(Option.CONTENT_FORMAT), uint(ContentFormat.OPAQUE)),
    ]
