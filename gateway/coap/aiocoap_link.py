"""The ordinary way: aiocoap on our message layer.

aiocoap brings resources, block-wise transfer (RFC 7959) and its client; the socket, message ids, retransmission and
deduplication stay with `gateway.coap.endpoint`. To aiocoap this is a transport below its token layer (a
``TokenInterface``, as its TCP transport is), so that there is one message layer on the socket and not two.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import aiocoap
from aiocoap import interfaces
from aiocoap.message import Direction
from aiocoap.tokenmanager import TokenManager

from gateway.coap.endpoint import Endpoint
from gateway.coap.exchanges import MAX_TRANSMIT_WAIT, ExchangeError, NoAnswer
from gateway.coap.incoming import Incoming
from gateway.coap.message import Block, Code, Message, Option, Options, Type, build, parse_any_size
from gateway.coap.peers import Address, OscorePeer, SecurePeer, host_port

#: A block-wise upload of more than this is refused (4.13): a registration with 1,000 links has about 16 KiB.
MOST_ASSEMBLED = 64 << 10
#: Uploads that aiocoap may hold at once, and their bytes together. It holds one for up to twice MAX_TRANSMIT_WAIT after
#: its last block, also when it is complete.
MOST_UPLOADS = 2048
MOST_UPLOADED = 16 << 20
_HELD_SECONDS = 2 * MAX_TRANSMIT_WAIT
#: A device that sends blocks without end is given up here.
MOST_DOWNLOADED = 256 << 10

#: What aiocoap tells uploads apart by: the address, the code, and the options that are part of the cache key (RFC 7252
#: section 5.4.6) but for Observe and the blocks.
UploadKey = tuple[Address, int, tuple[tuple[int, bytes], ...]]
_NO_CACHE_KEY = 0x1C
_NO_KEY = (Option.OBSERVE, Option.BLOCK1, Option.BLOCK2)


@dataclass(slots=True)
class _Upload:
    #: What has come, without a gap, in bytes.
    size: int
    #: Loop time of the last block, seconds.
    at: float


class Remote(interfaces.EndpointAddress):  # type: ignore[misc]  # aiocoap publishes no types
    """A peer, as aiocoap wants it; ``token`` is what the blocks of an upload to it have in place of aiocoap's own."""

    is_multicast = False
    is_multicast_locally = False

    def __init__(self, address: Address, token: bytes | None = None) -> None:
        self.address = address
        self.token = token

    def __hash__(self) -> int:
        return hash(self.address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other.address == self.address

    @property
    def scheme(self) -> str:
        secure = isinstance(self.address, SecurePeer) and not isinstance(self.address, OscorePeer)
        return "coaps" if secure else "coap"

    @property
    def hostinfo(self) -> str:
        host, port = host_port(self.address)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def hostinfo_local(self) -> str:
        return "gateway"

    @property
    def uri_base(self) -> str:
        return f"{self.scheme}://{self.hostinfo}"

    @property
    def uri_base_local(self) -> str:
        return f"{self.scheme}://gateway"

    @property
    def blockwise_key(self) -> Address:
        return self.address


class AiocoapLink(interfaces.TokenInterface):  # type: ignore[misc]  # aiocoap publishes no types
    """aiocoap's view of the endpoint, and the endpoint's fallback for what it does not take itself."""

    def __init__(self, endpoint: Endpoint, site: interfaces.Resource) -> None:
        self._client = endpoint.client
        self.context = aiocoap.Context(serversite=site, loggername="headwater.aiocoap")
        self._tokens = TokenManager(self.context)
        self._tokens.token_interface = self
        self.context.request_interfaces.append(self._tokens)
        self._incoming: dict[tuple[Remote, bytes], Incoming] = {}
        self._uploads: OrderedDict[UploadKey, _Upload] = OrderedDict()
        self._uploaded = 0
        endpoint.fall_back(self)

    async def transfer(
        self, address: Address, code: int, options: Options, payload: bytes = b"", *, timeout: float = MAX_TRANSMIT_WAIT
    ) -> Message:
        """A request to a device whose payload or response may need blocks.

        All blocks of the payload have one token. RFC 7959 leaves that to us, and aiocoap would take a new one for each;
        but there are devices that know by the token what a block belongs to (Zephyr's client did for years).

        Raises:
            ExchangeError: as for `CoapClient.request`; NoAnswer when the whole takes longer than ``timeout`` seconds.
        """
        request = aiocoap.Message.decode(build(Type.CON, code, 0, b"", options, payload))
        request.direction = Direction.OUTGOING
        request.mid = request.mtype = None
        request.remote = Remote(address, self._client.new_token())
        try:
            async with asyncio.timeout(timeout):
                response = await self.context.request(request).response
        except TimeoutError as exc:
            raise NoAnswer(f"the transfer in blocks was not complete within {timeout:g} s") from exc
        except aiocoap.error.Error as exc:
            if isinstance(exc.__cause__, ExchangeError):
                raise exc.__cause__ from exc
            raise ExchangeError(str(exc) or type(exc).__name__) from exc
        response.direction = Direction.OUTGOING
        response.mid, response.mtype = 0, aiocoap.ACK
        return parse_any_size(response.encode())

    # The endpoint's side

    def serve(self, incoming: Incoming) -> None:
        """Hand a request to aiocoap's resources; what would make it hold too much is refused here."""
        block = incoming.message.block(Option.BLOCK1)
        if block is not None and not self._admit(incoming, block):
            return
        remote = Remote(incoming.address)
        request = aiocoap.Message.decode(incoming.message.encode(), remote)
        before = self._incoming.pop((remote, request.token), None)
        if before is not None:
            before.drop()  # aiocoap forgets a request when another comes with its token
        self._incoming[(remote, request.token)] = incoming
        self._tokens.process_request(request)

    def _admit(self, incoming: Incoming, block: Block) -> bool:
        """aiocoap keeps the parts of an upload for MAX_TRANSMIT_WAIT and sets itself no limit."""
        message = incoming.message
        if block.szx == 7:
            incoming.reply(Code.BAD_REQUEST, payload=b"block size 7 is for TCP")
            return False
        if block.more and len(message.payload) != block.size:
            incoming.reply(Code.BAD_REQUEST, payload=b"the payload is not of the block's size")
            return False
        start = block.number * block.size
        size = start + len(message.payload)
        if size > MOST_ASSEMBLED:
            incoming.reply(Code.REQUEST_ENTITY_TOO_LARGE)
            return False
        now = asyncio.get_running_loop().time()
        while self._uploads and next(iter(self._uploads.values())).at < now - _HELD_SECONDS:
            self._uploaded -= self._uploads.popitem(last=False)[1].size
        options = tuple(
            option for option in message.options if option[0] not in _NO_KEY and option[0] & 0x1E != _NO_CACHE_KEY
        )
        key = (incoming.address, message.code, options)
        upload = self._uploads.get(key)
        if start and (upload is None or upload.size != start):
            # RFC 7959 section 2.9.2: told so, the client begins again.
            incoming.reply(Code.REQUEST_ENTITY_INCOMPLETE)
            return False
        if upload is None:
            if len(self._uploads) >= MOST_UPLOADS or self._uploaded + size > MOST_UPLOADED:
                incoming.busy()
                return False
            upload = self._uploads[key] = _Upload(0, now)
        self._uploaded += size - upload.size
        upload.size = size
        upload.at = now
        self._uploads.move_to_end(key)
        return True

    def match(self, message: Message, address: Address) -> bool:
        """A response that might be aiocoap's own."""
        return bool(self._tokens.process_response(aiocoap.Message.decode(message.encode(), Remote(address))))

    # aiocoap's side: TokenInterface

    async def fill_or_recognize_remote(self, message: aiocoap.Message) -> bool:
        return isinstance(message.remote, Remote)

    def send_message(self, message: aiocoap.Message, reset: Callable[[], None]) -> Callable[[], None] | None:
        """Send a request or a response."""
        remote: Remote = message.remote
        if message.code.is_response():
            self._respond(message, remote)
            return None
        message.opt.no_response = None
        message.mid, message.mtype = 0, aiocoap.CON
        plain = parse_any_size(message.encode())
        token = plain.token if remote.token is None or plain.block(Option.BLOCK1) is None else remote.token

        def finish(result: Message | ExchangeError) -> None:
            if isinstance(result, Message):
                result = replace(result, token=plain.token)
                block = result.block(Option.BLOCK2)
                if block is None or block.number * block.size + len(result.payload) <= MOST_DOWNLOADED:
                    self._tokens.process_response(aiocoap.Message.decode(result.encode(), remote))
                    return
                result = ExchangeError(f"the response has more than {MOST_DOWNLOADED >> 10} KiB")
            # This request alone fails: dispatch_error would end all transfers with the device.
            request = self._tokens.outgoing_requests.get((plain.token, remote))
            if request is not None:
                failure = aiocoap.error.NetworkError(str(result))
                failure.__cause__ = result
                request.add_exception(failure)

        exchange = self._client.begin(
            remote.address, plain.code, plain.options, plain.payload, token, finish, MAX_TRANSMIT_WAIT
        )
        return lambda: self._client.end(exchange)

    def _respond(self, message: aiocoap.Message, remote: Remote) -> None:
        incoming = self._incoming.pop((remote, message.token), None)
        if incoming is not None:
            message.opt.no_response = None
            message.mid, message.mtype = 0, aiocoap.ACK
            plain = parse_any_size(message.encode())
            incoming.reply(plain.code, plain.options, plain.payload)

    async def shutdown(self) -> None:
        """The endpoint closes the socket; nothing is held here."""
