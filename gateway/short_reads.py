"""The short path of reads: a command that reads one value, from its request to its reply.

A READ without a time, of one resource that the definitions know as single, of a device that speaks plain CoAP, does not
sleep and has nothing else to do, goes from record to datagram here, and from an answer in the usual shape (2.05 in the
acknowledgement, perhaps Content-Format, one value) to the reply's record, with no message, response or reply object;
requests that were read together leave by one call, and replies that came together share one delivery report a
partition. Whatever is unusual, before it is sent or when it is answered, is left to the ordinary way: `gateway.lanes`,
`gateway.asking`, `gateway.command_link` and `gateway.answering`. A test holds the two equal, byte for byte. Written for
speed: what it gives up is generality, not checks.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from gateway.answering import Answering
from gateway.coap.client import CoapClient
from gateway.coap.exchanges import Exchange, ExchangeError
from gateway.coap.lines import Lines
from gateway.coap.message import Message
from gateway.command import Command
from gateway.command_link import CommandLink
from gateway.device_link import encoded
from gateway.exchange import CoapRequest, DeviceView, Method
from gateway.lanes import Lane, Lanes
from gateway.limits import Limits
from gateway.number_decoders import decoders_for
from gateway.operations import build
from gateway.registry import Device, Registry
from gateway.reply_batches import ReplyBatches
from gateway.request_records import RawRequest
from gateway.uplink import Uplink
from schemas.avro.compiled import BAD_VALUES, around_read, encoded_text, encoded_time
from schemas.avro.compiled_requests import LONGEST_REMEMBERED, REQUEST_FRAMES, behind_texts
from schemas.avro.errors import SerdeError
from schemas.avro.records import Request, RequestKind
from schemas.lwm2m import formats
from schemas.lwm2m.errors import CodecError
from schemas.lwm2m.formats import ContentFormat
from schemas.lwm2m.nodes import Resource, ResourceType, Value
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

#: Shapes of reads that are remembered.
_MOST_SHAPES = 4096
#: A request is as long as this at most, behind its token.
_LONGEST_REQUEST = 96


class Planned(NamedTuple):
    """A request that can go this way."""

    identity: bytes
    device: Device
    ep: str
    ticket: str
    path: str
    #: Endpoint and ticket as they stand in the record, with their lengths.
    ep_text: bytes
    ticket_text: bytes
    shape: Shape


class ShortReads:
    """All reads on this way. ``now_ms`` is epoch ms."""

    def __init__(
        self,
        *,
        server_id: str,
        registry: Registry,
        link: CommandLink,
        client: CoapClient,
        lines: Lines,
        lanes: Lanes,
        answering: Answering,
        uplink: Uplink,
        definitions: Definitions,
        now_ms: Callable[[], int],
        limits: Limits,
    ) -> None:
        self._server_id = encoded_text(server_id)
        self._registry = registry
        self._link = link
        self._client = client
        self._lines = lines
        self._lanes = lanes
        self._answering = answering
        self._definitions = definitions
        self._now_ms = now_ms
        #: Without a time of its own a request has its device wait so long.
        self._patience = min(limits.answer, max(limits.shortest_answer, limits.longest_wait))
        #: By what asks and who is asked; all of one moment's definitions.
        self._shapes: dict[tuple[bytes, str, str], Shape | None] = {}
        self._shapes_of: Definitions | None = None
        #: What devices have now, by token; `gateway.short_path` looks here.
        self.open: dict[bytes, Read] = {}
        #: Requests that leave with `send`: to whom, and what.
        self._leaving: list[tuple[bytes, bytes]] = []
        self._replies = ReplyBatches(uplink, answering, retry=limits.retry)
        #: Answers that were taken.
        self.taken = 0

    def plan(self, raw: RawRequest) -> Planned | None:
        """What this way needs to know of a request; None leaves it to the ordinary way."""
        value = raw.value
        if value is None or value[:5] not in REQUEST_FRAMES:
            return None
        try:
            # Three texts of less than 64 bytes: a length is one byte then, twice the number.
            if (value[5] | value[at := 6 + (value[5] >> 1)]) & 0x81:
                return None
            value[6:at].decode()
            ep = value[at + 1 : (ticket_at := at + 1 + (value[at] >> 1))].decode()
            if value[ticket_at] & 0x81:
                return None
            ticket = value[ticket_at + 1 : (end := ticket_at + 1 + (value[ticket_at] >> 1))].decode()
            if len(value) - end > LONGEST_REMEMBERED:
                return None
            rest = value[end:]
            payload, expires = behind_texts(value[:5], rest)
        except (IndexError, ValueError, SerdeError):
            return None
        if payload.kind is not RequestKind.READ or expires is not None or payload.body is not None:
            return None
        device = self._registry.device(ep)
        if device is None or device.queue or device.behind is not None or type(device.address) is not tuple:
            return None
        said = device.announcement
        if not said.common or not (device.sockaddr or self._has_sockaddr(device)):
            return None
        key = rest, said.text, device.version
        try:
            shape = self._shapes[key]
        except KeyError:
            shape = self._shape(Request(server_id="", ep=ep, ticket=ticket, payload=payload), device.view())
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            self._shapes[key] = shape
        if shape is None:
            return None
        ep_text, ticket_text = value[at:ticket_at], value[ticket_at:end]
        # `schemas.avro.request_identity.identity_of`
        whole = rest + b"%d:%b%d:%b" % (len(ep_text) - 1, ep_text[1:], len(ticket_text) - 1, ticket_text[1:])
        identity = blake2b(whole, digest_size=16).digest()
        return Planned(identity, device, ep, ticket, payload.path, ep_text, ticket_text, shape)

    def _has_sockaddr(self, device: Device) -> bool:
        try:
            device.sockaddr = self._lines.name_of(device.address)  # type: ignore[arg-type]  # see `plan`
        except (OSError, ValueError):  # of another family: it was heard before the gateway was told where to listen
            return False
        return True

    def is_open(self) -> bool:
        """To be asked before requests are planned; False: all go the ordinary way."""
        now = self._definitions.with_versions({})
        if now is not self._shapes_of:
            self._shapes.clear()
            self._shapes_of = now
        return self._lines.sends_together

    def _shape(self, request: Request, view: DeviceView) -> Shape | None:
        try:
            coap = build(request, view, self._definitions)
            path = Path.parse(request.payload.path)
            definitions = self._definitions.with_versions(view.object_versions)
            known = definitions.resource(path)
            rest = encoded(coap)
            if known is None or known.type is None or (path.depth == 3 and known.multiple) or path.depth < 3:
                return None
            return Shape(coap, rest, path, known.type, definitions) if len(rest) <= _LONGEST_REQUEST else None
        except Exception:  # noqa: BLE001  # the ordinary way meets it again, and there it becomes a reply
            return None

    def begin(self, command: Command, planned: Planned, lane: Lane) -> None:
        """Ask the device, whose turn it is, with the next `send`."""
        device, shape, client = planned.device, planned.shape, self._client
        address = device.address
        read = Read(self, command, planned, lane)
        token = client.new_token()
        exchange = client.open(address, Method.GET, shape.rest, token, read.finish, self._patience)
        read.exchange = exchange
        read.mid = exchange.datagram[2:4]
        read.name = device.sockaddr
        self.open[token] = read
        self._lanes.asking.begins(command, command.received_ms)
        self._leaving.append((read.name, exchange.datagram))

    def send(self) -> None:
        """Let what was begun leave."""
        leaving, self._leaving = self._leaving, []
        if leaving:
            self._lines.send_requests(leaving)

    def answered(self, read: Read, rest: bytes) -> bool:
        """Take what stands behind the token of a 2.05 that acknowledges the request; False leaves it to `finish`."""
        command = read.command
        if command.told:
            return False
        option = rest[0]
        if option == 0xFF:
            content_format, payload = None, rest[1:]
        elif 0xC0 <= option <= 0xC2 and rest[(at := 1 + (option & 15)) : at + 1] == b"\xff":  # Content-Format
            content_format, payload = int.from_bytes(rest[1:at], "big"), rest[at + 1 :]
        else:
            return False
        now_ms = self._now_ms()
        found = read.shape.read(content_format, payload, now_ms)
        if found is None:
            return False
        exchange = self._close(read)
        self._client.was_answered(exchange)
        front, behind, value = found
        command.reply = b"".join(
            (front, read.ticket, self._server_id, read.ep, read.shape.text, encoded_time(now_ms), behind, value)
        )
        command.raw = b""
        self._lanes.asking.in_flight -= 1
        self.taken += 1
        self._answering.finish_read()
        self._replies.add(read.device.place, command)
        self._lanes.turn_over(read.lane)
        return True

    def _close(self, read: Read) -> Exchange:
        exchange = read.exchange
        del self.open[exchange.token]
        # It has the way back: without this, all of it would live until the collector finds the circle.
        del read.exchange
        return exchange

    def flush(self) -> None:
        """The replies to what has come leave, now or with those that are about to come."""
        self._replies.flush(len(self.open))

    def finish(self, read: Read, result: Message | ExchangeError) -> None:
        """The ordinary way, for all else that may come of a request."""
        self._close(read)
        outcome = self._link.outcome(read.device, read.address, read.shape.request, self._patience, result)
        lanes, command = self._lanes, read.command
        lanes.came(read.lane, command, read.view, lanes.asking.came_of(command, outcome), 0)


class Read:
    """A request that a device has."""

    __slots__ = (
        "_reads",
        "address",
        "command",
        "device",
        "ep",
        "exchange",
        "lane",
        "mid",
        "name",
        "shape",
        "ticket",
        "view",
    )

    exchange: Exchange
    #: The message id of the request, and the device's address as `gateway.coap.many` has it.
    mid: bytes
    name: bytes

    def __init__(self, reads: ShortReads, command: Command, planned: Planned, lane: Lane) -> None:
        self._reads = reads
        self.command = command
        self.lane = lane
        self.shape = planned.shape
        self.device = planned.device
        self.ep = planned.ep_text
        self.ticket = planned.ticket_text
        # As they are when it is asked.
        self.address = planned.device.address
        self.view = planned.device.view()

    def take(self, rest: bytes) -> bool:
        """As `ShortReads.answered`."""
        return self._reads.answered(self, rest)

    def finish(self, result: Message | ExchangeError) -> None:
        self._reads.finish(self, result)


class Shape:
    """What all reads of a path have in common, of devices that are alike: the request, and how its answer is read."""

    __slots__ = (
        "_behind",
        "_definitions",
        "_front",
        "_path",
        "_quick",
        "_unstated",
        "_write",
        "request",
        "rest",
        "text",
    )

    def __init__(
        self, request: CoapRequest, rest: bytes, path: Path, resource_type: ResourceType, definitions: Definitions
    ) -> None:
        """``rest`` is the request's bytes behind the token."""
        self.request = request
        self.rest = rest
        self.text = encoded_text(str(path))
        self._path = path
        self._definitions = definitions
        # As `gateway.replies` takes an answer that does not say it.
        self._unstated = ContentFormat.OPAQUE if resource_type is ResourceType.OPAQUE else ContentFormat.TEXT
        self._front, self._behind, self._write = around_read(path, resource_type)
        self._quick: dict[int, Callable[[bytes], Value | None]] = {}
        if resource_type is ResourceType.STRING:
            self._quick[ContentFormat.TEXT] = _text
        elif path.depth == 3:
            self._quick.update(decoders_for(path, resource_type))

    def read(self, content_format: int | None, payload: bytes, now_ms: int) -> tuple[bytes, bytes, bytes] | None:
        """What stands in front of the texts of the reply, between its time and its value, and the value."""
        if content_format is None:
            content_format = self._unstated
        quick = self._quick.get(content_format)
        try:
            if quick is not None:
                value = quick(payload)
                return None if value is None else (self._front, self._behind, self._write(value))
            node = formats.decode(content_format, payload, self._path, self._definitions, received_ms=now_ms)
            if type(node) is not Resource or node.timestamp is not None:
                return None
            front, behind, write = around_read(node.path, node.type)
            return front, behind, write(node.value)
        except (CodecError, *BAD_VALUES):
            return None


def _text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
