"""The plain path of notifications: every shape that the short path leaves (RFC 7641; LwM2M Core 1.1, section 6.4.2).

Objects and instances, several values, device times, blocks, errors, formats that are rare. It decides what a
notification means and hands records to the batch that both fill (`gateway.notification_batches`); what cannot be
decoded goes, as it came, to the dead-letter topic, and is acknowledged when it is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from gateway.coap.aiocoap_link import AiocoapLink
from gateway.coap.client import CoapClient
from gateway.coap.exchanges import ExchangeError
from gateway.coap.message import Code, Message, Option, Options, Type, name, uint
from gateway.coap.peers import Address
from gateway.exchange import format_of_paths
from gateway.notification_batches import NotificationBatches
from gateway.observations import Observation, ObservationTable
from gateway.registry import Device
from gateway.replies import CODES
from gateway.uplink import MOST_RECORD_BYTES, Uplink
from schemas.avro import serde
from schemas.avro.records import (
    GenericBody,
    Notification,
    ReadBody,
    RequestKind,
    ResponseBody,
    ResponseCode,
    ResponsePayload,
)
from schemas.lwm2m import composite, prefixes
from schemas.lwm2m.errors import CodecError
from schemas.lwm2m.formats import ContentFormat, decode_series
from schemas.lwm2m.nodes import Node
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

_log = structlog.get_logger("headwater.notifications")

#: Block-wise notifications that are fetched at once; more are left to the device's retransmission.
_MOST_FETCHES = 64
_FETCH_TIMEOUT = 30.0


class Notifications:
    """Takes what the short path does not."""

    def __init__(
        self,
        *,
        server_id: str,
        table: ObservationTable,
        batches: NotificationBatches,
        uplink: Uplink,
        definitions: Definitions,
        client: CoapClient,
        link: AiocoapLink,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        ended: Callable[[Observation], None],
        taken: Callable[[Device, Path], None],
    ) -> None:
        self._server_id = server_id
        self._table = table
        self._batches = batches
        self._uplink = uplink
        self._definitions = definitions
        self._client = client
        self._link = link
        self._spawn = spawn
        self._ended = ended
        #: Told of whom and of what notifications are, once they are on their way into Kafka.
        self._taken = taken
        #: Whose blocks are being fetched: token and message id. Retransmissions meanwhile are the same notification.
        self._fetches: set[tuple[bytes, bytes]] = set()
        #: The same of dead letters that are not durable yet.
        self._burying: set[tuple[bytes, bytes]] = set()
        self.dropped: Counter[str] = Counter()

    def take(self, message: Message, address: Address) -> bool:
        """A response that answers no request of ours; False if its token is none of an observation."""
        observation = self._table.by_token.get(message.token)
        if observation is None:
            return False
        device = observation.device
        if device.address != address:
            # Our tokens cannot be guessed, so this is the device behind a new address. An RST would end the
            # observation; its registration update will tell us the address, and then the notification comes again.
            self.dropped["unknown address"] += 1
            return True
        if message.type == Type.ACK:
            self.dropped["notification as ACK"] += 1
            return True
        confirmable = message.type == Type.CON
        mid = message.mid.to_bytes(2, "big")
        if self._batches.is_duplicate(device, mid, address, confirmable=confirmable):
            return True
        if device.queue:
            self._batches.awake.append(device)
        block = message.block(Option.BLOCK2)
        if block is not None and block.more:
            if len(self._fetches) < _MOST_FETCHES and (message.token, mid) not in self._fetches:
                self._fetches.add((message.token, mid))
                self._spawn(self._fetch(observation, message, address))
            return True
        self._record(observation, message, address, message.payload)
        return True

    def record(self, observation: Observation, message: Message, address: Address) -> None:
        """Record a message that came outside of a batch, whole, as a notification of ``observation``."""
        self._record(observation, message, address, message.payload)
        self._batches.flush()

    def _record(self, observation: Observation, message: Message, address: Address, payload: bytes) -> None:
        confirmable = message.type == Type.CON
        mid = message.mid.to_bytes(2, "big")
        device = observation.device
        observe = next((value for number, value in message.options if number == Option.OBSERVE), None)
        try:
            values = self.encode(observation, message, payload, self._batches.now_ms)
        except (CodecError, serde.SerdeError) as exc:
            self._dead_letter(observation, message, address, payload, str(exc))
            return
        largest = max(map(len, values))
        if largest > MOST_RECORD_BYTES:
            self._dead_letter(observation, message, address, payload, f"a record of {largest:,} bytes is too large")
            return
        taken = self._batches.hold(
            device, observation, values, mid=mid, observe=observe, address=address if confirmable else None
        )
        if taken:
            self._taken(device, observation.path)
        # RFC 7641 section 4.2: an error, or a success without Observe, is the last word of an observation.
        if taken and (observe is None or not _is_success(message.code)):
            _log.info("the device ended an observation", ep=device.ep, path=observation.target, code=name(message.code))
            self._ended(observation)

    def encode(self, observation: Observation, message: Message, payload: bytes, now_ms: int) -> list[bytes]:
        """The records of one notification, as bytes; one for each time stamp that the device gave.

        Of a composite one a record for each path that it tells something of, as if each were observed by itself; one
        without a body where it tells of nothing, as when all that was observed is gone.

        Raises:
            CodecError: the payload is not what its content format says.
            SerdeError: a value does not fit the record.
        """
        path = str(observation.path)
        told: list[tuple[str, ResponseBody | None]]
        if _is_success(message.code):
            nodes = self._nodes(observation, message.uint(Option.CONTENT_FORMAT), payload, now_ms)
            told = [(str(node.path), ReadBody(content=node)) for node in nodes] or [(path, None)]
            code = ResponseCode.CONTENT
        else:
            code = CODES.get(message.code, ResponseCode.UNKNOWN)
            words = payload[:1024].decode(errors="replace")
            told = [(path, GenericBody(message=f"{name(message.code)} {words}".strip()))]
        kind = RequestKind.OBSERVE_COMPOSITE if observation.paths else RequestKind.OBSERVE
        return [
            serde.encode(
                Notification(
                    ticket=observation.ticket,
                    observation_id=observation.observation_id,
                    server_id=self._server_id,
                    ep=observation.device.ep,
                    path=where,
                    timestamp=now_ms,
                    rep=ResponsePayload(code=code, kind=kind, body=body),
                )
            )
            for where, body in told
        ]

    def _nodes(self, observation: Observation, content_format: int | None, payload: bytes, now_ms: int) -> list[Node]:
        definitions = self._definitions.with_versions(observation.device.announcement.object_versions)
        if not observation.paths:
            if content_format is None:
                content_format = ContentFormat.TEXT
            if prefix := observation.device.prefix:
                payload = prefixes.own(content_format, payload, prefix)
            return decode_series(content_format, payload, observation.path, definitions, received_ms=now_ms)
        if content_format is None:
            content_format = observation.content_format
        return composite.decode_nodes(
            ContentFormat.TEXT if content_format is None else content_format,
            payload,
            observation.paths,
            definitions,
            received_ms=now_ms,
        )

    async def _fetch(self, observation: Observation, message: Message, address: Address) -> None:
        """The rest of a block-wise notification (RFC 7959 section 2.6), then as if it had come at once."""
        try:
            code, options, asked = _request_again(observation, message.uint(Option.CONTENT_FORMAT))
            whole = await self._link.transfer(address, code, options, asked, timeout=_FETCH_TIMEOUT)
        except ExchangeError as exc:
            self.dropped["blocks not complete"] += 1
            _log.info("the blocks of a notification did not come", ep=observation.device.ep, reason=str(exc))
            return
        finally:
            self._fetches.discard((message.token, message.mid.to_bytes(2, "big")))
        if _is_success(whole.code) and self._table.by_token.get(observation.token) is observation:
            self._record(observation, message, address, whole.payload)
            self._batches.flush()

    def _dead_letter(
        self, observation: Observation, message: Message, address: Address, payload: bytes, reason: str
    ) -> None:
        device: Device = observation.device
        mid = message.mid.to_bytes(2, "big")
        if (message.token, mid) in self._burying:
            return  # it is acknowledged when the first copy is durable
        self.dropped["undecodable payload"] += 1
        headers = [
            ("error", reason[:1024].encode()),
            ("stage", b"gateway:decode"),
            ("path", observation.target.encode()),
            ("content-format", str(message.uint(Option.CONTENT_FORMAT)).encode()),
        ]

        def done(durable: bool) -> None:
            self._burying.discard((message.token, mid))
            if durable:
                self._batches.remember(device, mid)
                if message.type == Type.CON:
                    self._client.acknowledge(address, message.mid)

        if self._uplink.accepting and self._uplink.send(
            self._uplink.topics.deadletter, 0, device.key, payload, headers, done
        ):
            self._burying.add((message.token, mid))


def _request_again(observation: Observation, content_format: int | None) -> tuple[int, Options, bytes]:
    """The code, the options and the payload of a request for the whole of what is observed."""
    options: Options = [(Option.URI_PATH, part.encode()) for part in observation.device.uri_path(observation.path)]
    if not observation.paths:
        accept = [] if content_format is None else [(Option.ACCEPT, uint(content_format))]
        return Code.GET, options + accept, b""
    told = ContentFormat(content_format) if content_format in composite.FORMATS else ContentFormat.SENML_CBOR
    named_in = format_of_paths(told, observation.device.view())
    options += [(Option.CONTENT_FORMAT, uint(named_in)), (Option.ACCEPT, uint(told))]
    return Code.FETCH, options, composite.encode_paths(named_in, observation.paths)


def _is_success(code: int) -> bool:
    return code >> 5 == 2
