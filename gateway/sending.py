"""Send: a device tells values by itself (OMA LwM2M Core 1.1, section 6.4.6: ``POST /dp``).

Owns what a Send becomes, one record for each time and object that the device gave, and when it is answered: with 2.04,
once the edge Kafka has all of them. A Send that comes again after a crash goes on behind the records that are there
already. It is known by its bytes where all its values have the device's own times, absolute ones, whatever way it
came: the same values of the same moments are the same. Else it is known by its message id, if it came in one datagram.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import structlog

from gateway.changes import Incoming
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.coap.message import Code, Option
from gateway.notification_batches import HEADER_MORE, MOST_BEGUN
from gateway.registry import Device, Registry
from gateway.uplink import MOST_RECORD_BYTES, Uplink
from schemas.avro import serde
from schemas.avro.records import Notification, ReadBody, RequestKind, ResponseCode, ResponsePayload
from schemas.lwm2m import prefixes
from schemas.lwm2m.errors import CodecError
from schemas.lwm2m.formats import ContentFormat, decode_series
from schemas.lwm2m.nodes import Instance, MultipleResource, Node, Object, values
from schemas.lwm2m.objects import Definitions
from schemas.lwm2m.path import Path

_log = structlog.get_logger("headwater.sending")

#: Kafka header of every record of a Send: what it is known by when it comes again.
HEADER_SEND: Final = "send.id"
#: The ticket of what nobody asked for.
SEND_TICKET: Final = "send"
PATH: Final = "dp"
#: Sends that are remembered after they were recorded.
MOST_RECORDED: Final = 16_384
_DIGEST_BYTES: Final = 12
_LIFETIME_MS: Final = int(EXCHANGE_LIFETIME * 1000)
#: Section 6.4.6, and LwM2M CBOR from 1.2 on.
FORMATS: Final = frozenset({ContentFormat.SENML_JSON, ContentFormat.SENML_CBOR, ContentFormat.LWM2M_CBOR})


class _Told(NamedTuple):
    """What one Send has of one device."""

    device: Device
    records: list[bytes]


class Sends:
    """Serves ``/dp``. ``wall_ms`` is epoch milliseconds; ``heard`` is told each device that sent something; ``behind``
    has the devices behind a gateway by prefix, and None for a device that is no gateway.
    """

    def __init__(
        self,
        *,
        server_id: str,
        uplink: Uplink,
        registry: Registry,
        definitions: Definitions,
        heard: Callable[[Device], None],
        behind: Callable[[Device], Mapping[str, Device] | None] = lambda device: None,
        wall_ms: Callable[[], int],
    ) -> None:
        self._server_id = server_id
        self._uplink = uplink
        self._topic = uplink.topics.observations
        self._registry = registry
        self._definitions = definitions
        self._heard = heard
        self._behind = behind
        self._wall_ms = wall_ms
        #: By record key and id, how many records are in Kafka already of a Send that was not answered; and until when
        #: (epoch ms) that is of use.
        self._begun: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        #: Sends that are whole in Kafka, as read back or since then, and until when that is of use, the oldest first. A
        #: device that did not hear the answer, or was told to come again, sends the same once more.
        self._recorded: dict[tuple[bytes, bytes], int] = {}
        #: Sends on their way into Kafka.
        self._coming: set[tuple[bytes, bytes]] = set()
        self.taken = 0
        self.repeated = 0
        #: By reason: what was answered with an error, and so is not recorded.
        self.refused: Counter[str] = Counter()

    def remember(self, begun: Mapping[tuple[bytes, bytes], int], recorded: Iterable[tuple[bytes, bytes]]) -> None:
        """Know what Kafka has already, as read back after a start or a failure of the producer; the oldest first."""
        until = self._wall_ms() + _LIFETIME_MS
        self._begun = {key: (written, until) for key, written in begun.items()}
        for key in recorded:
            self._put(key, until)

    def request(self, incoming: Incoming) -> bool:
        """Take a Send that fits one datagram; False for any other request."""
        message = incoming.message
        if message.texts(Option.URI_PATH) != [PATH] or message.block(Option.BLOCK1) is not None:
            return False
        self.serve(incoming, message.payload, message.mid.to_bytes(2, "big"))
        return True

    def serve(self, incoming: Incoming, payload: bytes, mid: bytes) -> None:
        """Answer a request to ``/dp``. ``mid`` tells a copy from another one; empty where it came in blocks."""
        if self._uplink.refusal() is not None:
            self._refuse("no Kafka")
            incoming.busy()
            return
        message = incoming.message
        device = self._registry.at(incoming.address)
        if message.code != Code.POST:
            self._error(incoming, Code.METHOD_NOT_ALLOWED, "POST sends")
        elif device is None:
            self._error(incoming, Code.NOT_FOUND, "register first")
        elif message.uint(Option.CONTENT_FORMAT) not in FORMATS:
            self._error(incoming, Code.UNSUPPORTED_CONTENT_FORMAT, "SenML (110, 112) or LwM2M CBOR (11544) is expected")
        else:
            self._heard(device)
            self._take(incoming, device, payload, mid)

    def _take(self, incoming: Incoming, device: Device, payload: bytes, mid: bytes) -> None:
        now_ms = self._wall_ms()
        content_format = incoming.message.uint(Option.CONTENT_FORMAT) or 0
        # A gateway sends for those behind it too, in one payload.
        behind = self._behind(device)
        parts = {"": payload} if behind is None else prefixes.split(content_format, payload)
        told: list[_Told] = []
        absolute = True
        for prefix, part in parts.items():
            owner = (behind or {}).get(prefix) if prefix else device
            if owner is None:
                words = f"nobody with the prefix {prefix[:64]!r} is known behind this gateway"
                self._error(incoming, Code.NOT_FOUND, words, ep=device.ep, reason="unknown prefix")
                return
            definitions = self._definitions.with_versions(owner.announcement.object_versions)
            try:
                nodes = decode_series(content_format, part, Path(), definitions, received_ms=now_ms)
                records = [self._record(owner, node, now_ms) for node in nodes]
            except (CodecError, serde.SerdeError) as exc:
                self._error(incoming, Code.BAD_REQUEST, str(exc), ep=owner.ep)
                return
            if not records:
                self._error(incoming, Code.BAD_REQUEST, "there is no value in it", ep=owner.ep)
                return
            if max(map(len, records)) > MOST_RECORD_BYTES:
                self._error(incoming, Code.REQUEST_ENTITY_TOO_LARGE, "that is too large for a record", ep=owner.ep)
                return
            timed = all(value.timestamp is not None for node in nodes for value in values(node))
            # What is relative to now is left out without a now.
            absolute = absolute and timed and decode_series(content_format, part, Path(), definitions) == nodes
            told.append(_Told(owner, records))
        identity = hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest() if absolute else mid
        self._write(incoming, told, identity, now_ms)

    def _record(self, device: Device, node: Node, now_ms: int) -> bytes:
        node = narrowest(node)
        return serde.encode(
            Notification(
                ticket=SEND_TICKET,
                observation_id="",
                server_id=self._server_id,
                ep=device.ep,
                path=str(node.path),
                timestamp=now_ms,
                rep=ResponsePayload(code=ResponseCode.CONTENT, kind=RequestKind.SEND, body=ReadBody(content=node)),
            )
        )

    def _write(self, incoming: Incoming, told: list[_Told], identity: bytes, now_ms: int) -> None:
        if any((one.device.key, identity) in self._coming for one in told):
            incoming.drop()  # what comes of the first is not known yet
            return
        left = [one for one in told if now_ms > self._recorded.get((one.device.key, identity), 0)]
        if not left:
            self.repeated += 1
            incoming.reply(Code.CHANGED)
            return
        there: list[tuple[bytes, bytes]] = []
        under_way, failed = len(left), False

        def settled(key: tuple[bytes, bytes], durable: bool) -> None:
            nonlocal under_way, failed
            self._coming.discard(key)
            under_way -= 1
            if durable:
                there.append(key)
            else:
                failed = True
            if under_way:
                return
            # A message id is for the endpoint to know: a device that starts anew may soon have it again. But of a Send
            # that comes again, what is there of some devices already is not written again.
            if len(identity) == _DIGEST_BYTES or (identity and failed):
                for one in there:
                    self._put(one, now_ms + _LIFETIME_MS)
            if failed:
                incoming.drop()
                return
            self.taken += 1
            incoming.reply(Code.CHANGED)

        # Of each device: 1. What is there already is not written again. 2. All but the last are vouched for by the last
        # one's report. 3. The last says that the Send is whole. When all are durable the device gets its answer.
        for at, one in enumerate(left):
            key = (one.device.key, identity)
            if not self._write_one(one, key, now_ms, lambda durable, key=key: settled(key, durable)):  # type: ignore[misc]  # a lambda with a default has no type
                self._refuse("no Kafka")
                for other in left[at:]:
                    settled((other.device.key, identity), False)
                return
            if identity:
                self._coming.add(key)

    def _write_one(self, told: _Told, key: tuple[bytes, bytes], now_ms: int, done: Callable[[bool], None]) -> bool:
        """Hand over what was told of one device; False if Kafka did not take all of it, and ``done`` is not called."""
        device, records = told.device, told.records
        identity = key[1]
        headers = [(HEADER_SEND, identity)]
        more = [*headers, (HEADER_MORE, b"1")]
        written, until = self._begun.pop(key, (0, 0))
        written = min(written, len(records) - 1) if now_ms <= until else 0
        for number, value in enumerate(records[written:], start=written + 1):
            last = number == len(records)
            if not self._uplink.send(
                self._topic, device.partition, device.key, value, headers if last else more, done if last else None
            ):
                if identity and number > 1:
                    if len(self._begun) >= MOST_BEGUN:
                        self._begun.clear()
                    self._begun[key] = (number - 1, now_ms + _LIFETIME_MS)
                return False
        return True

    def _put(self, key: tuple[bytes, bytes], until: int) -> None:
        self._recorded.pop(key, None)
        self._recorded[key] = until
        if len(self._recorded) > MOST_RECORDED:
            del self._recorded[next(iter(self._recorded))]

    def _error(
        self, incoming: Incoming, code: Code, words: str, *, ep: str | None = None, reason: str | None = None
    ) -> None:
        self._refuse(reason or code.name.lower().replace("_", " "))
        _log.info("a Send was refused", ep=ep, peer=incoming.address, code=code.name, reason=words)
        incoming.reply(code, payload=words.encode()[:256])

    def _refuse(self, reason: str) -> None:
        self.refused[reason] += 1


def narrowest(node: Node) -> Node:
    """The lowest node that holds all of ``node``: the resource of an object with one instance and one resource."""
    while True:
        match node:
            case Object(instances=(below,)) | Instance(resources=(below,)) | MultipleResource(instances=(below,)):
                node = below
            case _:
                return node
