"""What the gateway has said already, read from its own topics at the start.

A gateway that was killed may have written records whose acknowledgement no device ever got. The device sends the
message again, and it must not be recorded twice: so the last EXCHANGE_LIFETIME of the topics tells which messages are
there (RFC 7252 section 4.5 survives the process). Reads only, and is bounded in what it reads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from connectors.kafka import Cluster, Message, admin, describe_topics, end_offsets, read_to_end
from gateway.answering import HEADER_NOT_SENT, HEADER_REQUEST_ID, HEADER_STATE, Said
from gateway.changes import HEADER_PEER, Recorded, asked
from gateway.coap.exchanges import EXCHANGE_LIFETIME
from gateway.journal import Entry
from gateway.notification_batches import HEADER_MID, HEADER_MORE
from gateway.sending import HEADER_SEND
from gateway.state import Positions
from schemas.avro import serde
from schemas.avro.records import CommandPhase, Registration, RegistrationNew, RegistrationUpdate
from schemas.avro.topics import Topics

_log = structlog.get_logger("headwater.recovery")

#: At most so many records of a partition are read back: what a device may still send again was recorded last.
MOST_RECORDS = 500_000
#: More than a gateway reads before it has noted that it is done with it (`gateway.command_loop`).
MOST_REPLIES = 50_000
#: A dead process's last bytes may still lie in the broker's socket. The topics are looked at again after this time.
_SETTLE_SECONDS = 0.3
#: The clocks of the journal's entries and of their records are of one machine, but not read at the same moment.
_MARGIN_MS = 60_000
_MOST_LOOKS = 5


@dataclass(slots=True)
class Recovered:
    """What the topics told; ``window`` as in `recover`."""

    window: int
    #: Requests before this time (epoch ms) do not come again.
    since_ms: int = 0
    #: What of the journal was not found in Kafka, in order, by peer, message id and value of the record.
    missing: dict[tuple[bytes, bytes, bytes], Entry] = field(default_factory=dict)
    #: By record key: the message ids of the device's notifications, two bytes each, oldest first.
    mids: dict[bytes, bytearray] = field(default_factory=dict)
    #: By record key and message id: how many records there are of a notification that lacks its last.
    begun: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    #: The same of Sends, by record key and id; and those that are whole, oldest first.
    sends_begun: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    sends: dict[tuple[bytes, bytes], None] = field(default_factory=dict)
    requests: Recorded = field(default_factory=dict)
    #: By registration id: when the device updated last (epoch ms), which the state file is told of later than it.
    clocks: dict[str, int] = field(default_factory=dict)
    #: The replies by the header ``request.id``.
    answered: dict[bytes, Said] = field(default_factory=dict)


def recover(
    cluster: Cluster,
    topics: Topics,
    *,
    window: int,
    now_ms: int,
    unanswered: bool = True,
    positions: Positions | None = None,
    journalled: Sequence[Entry] = (),
) -> Recovered:
    """Read the recent past; blocks, for a thread. ``window`` is how many message ids a device are of use.

    With ``unanswered`` commands, or requests behind ``positions``, the last replies are read as well, however old they
    are: a gateway that was away for days must still know what its predecessor answered last. For ``journalled`` updates
    the registrations are read from before the oldest on.

    Raises:
        Unreachable: Kafka does not answer.
    """
    since_ms = now_ms - int(EXCHANGE_LIFETIME * 1000)
    oldest_ms = max(0, min((entry.at_ms - _MARGIN_MS for entry in journalled), default=since_ms))
    #: By topic: what to do with a record, and since when they are read.
    take = {
        topics.observations: (_take_observation, since_ms),
        topics.registrations: (_take_request, min(since_ms, oldest_ms)),
    }
    missing = {(entry.peer, entry.mid, entry.value): entry for entry in journalled}
    found = Recovered(window=window, since_ms=since_ms, missing=missing)
    #: How far. Where there are several processes the others go on, so there is something new at each look.
    read: dict[tuple[str, int], int] = {}
    names = [*take, topics.replies]
    ends = end_offsets(cluster, names)
    replies = unanswered or _requests_behind(cluster, topics.requests, positions or {})
    for _ in range(_MOST_LOOKS):
        if not any(ends.values()):
            break  # topics without a record, as at the first start
        looked = time.monotonic()
        for topic, (took, since) in take.items():
            for message in read_to_end(cluster, [topic], since_ms=since, newest=MOST_RECORDS, read=read):
                took(found, message)
        if replies:
            for message in read_to_end(cluster, [topics.replies], newest=MOST_REPLIES, read=read):
                _take_reply(found, message)
        time.sleep(max(0.0, looked + _SETTLE_SECONDS - time.monotonic()))
        before, ends = ends, end_offsets(cluster, names)
        if ends == before:
            break
    _log.info(
        "read back what was recorded lately",
        devices=len(found.mids),
        registrations=len(found.requests),
        replies=len(found.answered),
    )
    return found


def _requests_behind(cluster: Cluster, topic: str, positions: Positions) -> bool:
    ends = end_offsets(cluster, [topic])
    if not any(ends.values()):
        return False
    found = describe_topics(admin(cluster), [topic]).get(topic)
    return found is not None and any(end > positions.get((found.id, p), 0) for (_, p), end in ends.items())


def _take_observation(found: Recovered, message: Message) -> None:
    # Called for hundreds of thousands of records: each question to the message makes its answer anew.
    key, headers = message.key(), dict(message.headers() or ())
    if key is None:
        return
    if (identity := headers.get(HEADER_SEND)) is None:
        if (mid := headers.get(HEADER_MID)) is not None and len(mid) == 2:
            _take_mid(found, key, mid, more=HEADER_MORE in headers)
    elif identity:
        if HEADER_MORE in headers:
            found.sends_begun[key, identity] = found.sends_begun.get((key, identity), 0) + 1
        else:
            found.sends_begun.pop((key, identity), None)
            found.sends[key, identity] = None


def _take_mid(found: Recovered, key: bytes, mid: bytes, *, more: bool) -> None:
    # Of a notification with several records only the last says that it is whole.
    if more:
        found.begun[key, mid] = found.begun.get((key, mid), 0) + 1
        return
    if found.begun:
        found.begun.pop((key, mid), None)
    mids = found.mids.get(key)
    if mids is None:
        mids = found.mids[key] = bytearray()
    mids += mid
    if len(mids) >= 4 * found.window:
        del mids[: 2 * found.window]


def _take_request(found: Recovered, message: Message) -> None:
    mid, peer = _header(message, HEADER_MID), _header(message, HEADER_PEER)
    if mid is None or peer is None:
        return
    value = message.value() or b""
    found.missing.pop((peer, mid, value), None)
    try:
        record = serde.decode(value)
        request = asked(peer, mid)
    except (serde.SerdeError, ValueError):
        return  # not ours; nothing to know duplicates by
    if isinstance(record, Registration):
        body = record.body
        reg_id = body.reg_id if isinstance(body, RegistrationNew | RegistrationUpdate) else ""
        if message.timestamp()[1] >= found.since_ms:
            found.requests[request] = (record.kind, reg_id)
        if isinstance(body, RegistrationUpdate):
            found.clocks[reg_id] = max(body.last_up, found.clocks.get(reg_id, 0))


def _take_reply(found: Recovered, message: Message) -> None:
    identity, value = _header(message, HEADER_REQUEST_ID), message.value()
    if identity is not None and value is not None:
        state = _header(message, HEADER_STATE)
        found.answered[identity] = Said(
            reply=value,
            sent=_header(message, HEADER_NOT_SENT) is None,
            phase=CommandPhase.__members__.get((state or b"").decode(errors="replace"), CommandPhase.ANSWERED),
        )


def _header(message: Message, name: str) -> bytes | None:
    for key, value in message.headers() or ():
        if key == name and isinstance(value, bytes):
            return value
    return None
