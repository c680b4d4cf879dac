"""Whoever carries campaigns out: reads what devices answer and say, and sends what comes next. One thread.

Owns the order by which a kill at any moment changes nothing:

1. what came is handed to the machine, which says what holds now and what is to be asked;
2. what holds and the requests go into one transaction, the first into the campaigns' topic and the others into the
   requests' topic: there are both or there is neither;
3. a start makes its transactional id its own, by which whoever had it is out, and then reads the topic to its end and
   the replies since the oldest request that is out.

So no request is made twice, and two of a kind cannot run. A reply that is never found (its topic is gone) leaves the
device to the machine's patience, and an update is never executed on a guess.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import structlog

from cloud.campaigns.log import Book, Campaign, device_record, make
from cloud.campaigns.machine import Aborted, CameBack, Device, Event, Tick, Told, advance, begin
from cloud.campaigns.plan import Runner, Standing, Wish, overview, to_begin
from cloud.campaigns.requests import MARK_BYTES, answered, of_ticket, request
from connectors.kafka import (
    OFFSET_END,
    Cluster,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicMissing,
    TopicPartition,
    Unreachable,
    consumer,
    end_offsets,
    producer,
    read_to_end,
)
from schemas.avro.records import Key, Notification, Registration, RegistrationKind, Response
from schemas.avro.serde import SerdeError, decode, encode
from schemas.avro.topics import Topics
from security.acls import campaigns_id, campaigns_topic

_log = structlog.get_logger("headwater.campaigns")

#: How far before the oldest open request replies are looked for, in ms: they carry the edge's clock.
_SKEW = 3_600_000
_POLL_S = 0.2
_TICK_S = 0.25
_RETRY_S = 2.0
_KAFKA_S = 30.0
#: A question to Kafka: shorter than the time in which a process that is told to stop has to.
_CALL_S = 5.0
#: Requests of one transaction, at most.
_MOST_AT_ONCE = 500
_GROUP = "headwater-feed"


class TakenOver(Exception):
    """Another one carries the same campaigns out now."""


class Worker:
    """The campaigns of one gateway that are for a worker; or, with ``only``, the one of a command.

    ``told`` hears of every change of a device, from the worker's thread. ``wall_ms`` is epoch ms.
    """

    def __init__(
        self,
        cluster: Cluster,
        gateway: str,
        *,
        only: str | None = None,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        told: Callable[[Campaign, Device], None] = lambda _campaign, _device: None,
    ) -> None:
        self._cluster = cluster
        self._gateway = gateway
        self._topics = Topics(gateway)
        self._only = only
        self._wall_ms = wall_ms
        self._told = told
        self.book = Book()
        #: Why nothing goes on, or None; when the loop came round last, monotonic.
        self.trouble: str | None = "not connected yet"
        self.turned = time.monotonic()
        self.requests_sent = 0
        #: What is to be written, and the number of the last request that was, by campaign and endpoint.
        self._changed: dict[tuple[str, str], Device] = {}
        self._out: dict[tuple[str, str], int] = {}
        #: Campaigns of which no device may be told to install, as of the last tick.
        self._held: set[str] = set()
        self._ticked = 0.0
        #: Campaigns of which nothing is left to be done, until somebody writes of them.
        self._over: set[str] = set()
        #: What is read next of each partition; and whether notifications are, which only hasten a look.
        self._at: dict[tuple[str, int], int] = {}
        self._hears: bool | None = None
        self._observed: list[tuple[str, int]] = []

    def run(self, stop: threading.Event, *, until_done: bool = False) -> None:
        """Work until ``stop`` is set, or with ``until_done`` until all campaigns have ended and nothing is open.

        Kafka that is away is waited for, and by a worker of all campaigns the gateway's topics too.

        Raises:
            TakenOver: another one with the same campaigns began.
            TopicMissing: the gateway's topics are not there, and it is the worker of a command.
        """
        complained = ""
        while not stop.is_set():
            try:
                if self._session(stop, until_done=until_done):
                    return
            except (KafkaException, Unreachable, TopicMissing) as exc:
                if isinstance(exc, TopicMissing) and self._only is not None:
                    raise
                error = exc.args[0] if isinstance(exc, KafkaException) else None
                if error is not None and error.code() in _FENCED:
                    raise TakenOver(
                        f"another one carries out the campaigns of {self._gateway} now, so this one ends"
                    ) from exc
                self.trouble = error.str() if error is not None else str(exc)
                if self.trouble != complained:
                    complained = self.trouble
                    _log.warning("campaigns wait for Kafka", reason=complained)
                stop.wait(_RETRY_S)

    def _session(self, stop: threading.Event, *, until_done: bool) -> bool:
        """True if all is done."""
        self._changed.clear()
        make(self._cluster, self._gateway, timeout=_CALL_S)
        writer = producer(
            self._cluster,
            transactional_id=campaigns_id(self._gateway, self._only),
            enable_gapless_guarantee=False,
            message_timeout_ms=50_000,
            transaction_timeout_ms=60_000,
            linger_ms=2,
        )
        reader: Consumer | None = None
        try:
            writer.init_transactions(_CALL_S)
            reader = self._begin_reading()
            self.trouble = None
            if self._only is None:
                _log.info("campaigns are carried out", gateway=self._gateway, campaigns=len(self._mine()))
            while not stop.is_set():
                self.turned = time.monotonic()
                for message in _batch(reader):
                    self._take(message)
                self._tick()
                while self._changed:
                    self._commit(writer, stop)
                self._listen(reader)
                if until_done and self._all_done():
                    return True
        finally:
            with contextlib.suppress(KafkaException, RuntimeError):
                if reader is not None:
                    reader.close()
            writer.purge(blocking=False)
        return False

    def _begin_reading(self) -> Consumer:
        data = [self._topics.replies, self._topics.registrations]
        ends = end_offsets(
            self._cluster, [*data, self._topics.observations, campaigns_topic(self._gateway)], timeout=_CALL_S
        )
        for topic in (*data, self._topics.observations):
            if (topic, 0) not in ends:
                raise TopicMissing(
                    f"topic {topic} does not exist at {self._cluster.bootstrap}: is {self._gateway!r} the id of the "
                    "gateway, and is this the right Kafka?"
                )
        book = Book()
        for message in read_to_end(self._cluster, [campaigns_topic(self._gateway)], timeout=_CALL_S):
            book.take(message)
        self.book = book
        self._over.clear()
        self._out = {
            (campaign.plan.name, device.ep): device.pending.number
            for campaign in self._mine()
            for device in campaign.devices.values()
            if device.pending is not None
        }
        out = [
            device.pending.asked
            for campaign in self._mine()
            for device in campaign.devices.values()
            if device.pending is not None
        ]
        if out:
            since = max(0, min(out) - _SKEW)
            for message in read_to_end(self._cluster, [self._topics.replies], since_ms=since, timeout=_CALL_S):
                self._take(message)
        # What else happened while nobody looked is found by looking: an old registration says nothing of now.
        now = self._wall_ms()
        for campaign in self._mine():
            for ep in campaign.devices:
                self._apply(campaign, ep, Told(), now)
        reader = consumer(self._cluster, _GROUP)
        self._observed = [place for place in ends if place[0] == self._topics.observations]
        self._at = {place: at for place, at in ends.items() if place not in self._observed}
        self._hears = None
        self._listen(reader)
        return reader

    def _listen(self, reader: Consumer) -> None:
        """Read what devices measure, among which notifications of theirs are, only while one is on its way."""
        busy = any(one.plan.name not in self._over and one.devices for one in self._mine())
        if busy == self._hears:
            return
        self._hears = busy
        places = [TopicPartition(topic, partition, at) for (topic, partition), at in self._at.items()]
        more = [TopicPartition(topic, partition, OFFSET_END) for topic, partition in self._observed if busy]
        reader.assign([*places, *more])

    def _mine(self) -> list[Campaign]:
        runner = Runner.WORKER if self._only is None else Runner.COMMAND
        return [
            one
            for one in self.book.campaigns.values()
            if one.plan.runner is runner and self._only in (None, one.plan.name)
        ]

    def _all_done(self) -> bool:
        return all(
            overview(one.plan, one.control, one.devices).standing not in (Standing.RUNNING, Standing.PAUSED)
            and all(device.pending is None and device.phase.ended for device in one.devices.values())
            for one in self._mine()
        )

    # What comes

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                return
            if error.fatal() or error.code() in (
                KafkaError.UNKNOWN_TOPIC_OR_PART,
                KafkaError.TOPIC_AUTHORIZATION_FAILED,
            ):
                raise KafkaException(error)
            return
        topic, value = message.topic(), message.value() or b""
        if (place := (topic, message.partition())) in self._at:
            self._at[place] = message.offset() + 1
        if topic == campaigns_topic(self._gateway):
            # Of its devices nobody but this one writes, and it knows more.
            kind, _, rest = (message.key() or b"").decode("utf-8", "replace").partition("/")
            self._over.discard(rest)
            if kind != "device" or self.book.campaigns.get(rest.partition("/")[0]) not in self._mine():
                self.book.take(message)
            return
        if topic != self._topics.registrations and MARK_BYTES not in value:
            return
        try:
            record = decode(value)
        except SerdeError:
            return
        now = self._wall_ms()
        match record:
            case Response():
                self._answered(record, now)
            case Notification():
                found = of_ticket(record.ticket)
                campaign = None if found is None else self._campaign(found[0], found[1])
                if campaign is not None:
                    self._apply(campaign, record.ep, Told(), now)
            case Registration() if record.kind is RegistrationKind.NEW:
                for campaign in self._mine():
                    self._apply(campaign, record.body.ep, CameBack(), now)
            case _:
                pass

    def _answered(self, response: Response, now: int) -> None:
        found = of_ticket(response.ticket)
        if found is None:
            return
        name, created, number, ep = found
        campaign = self._campaign(name, created)
        if campaign is not None and ep == response.ep:
            self._apply(campaign, ep, answered(number, response), now)

    def _campaign(self, name: str, created: int) -> Campaign | None:
        campaign = self.book.campaigns.get(name)
        return campaign if campaign in self._mine() and campaign.plan.created == created else None

    def _apply(self, campaign: Campaign, ep: str, event: Event, now: int) -> None:
        device = campaign.devices.get(ep)
        if device is None:
            return
        held = campaign.plan.name in self._held
        self._put(campaign, advance(device, event, campaign.plan.task, now, held=held))

    def _put(self, campaign: Campaign, device: Device) -> None:
        if campaign.devices.get(device.ep) != device:
            campaign.devices[device.ep] = device
            self._changed[campaign.plan.name, device.ep] = device

    def _tick(self) -> None:
        if time.monotonic() - self._ticked < _TICK_S:
            return
        self._ticked = time.monotonic()
        now = self._wall_ms()
        for campaign in self._mine():
            if campaign.plan.name in self._over:
                continue
            if campaign.control.wish is Wish.ABORT:
                for device in list(campaign.devices.values()):
                    self._put(campaign, advance(device, Aborted(), campaign.plan.task, now))
            seen = overview(campaign.plan, campaign.control, campaign.devices)
            held = seen.standing in _HOLDING
            (self._held.add if held else self._held.discard)(campaign.plan.name)
            for device in list(campaign.devices.values()):
                self._put(campaign, advance(device, Tick(), campaign.plan.task, now, held=held))
            next_ones = to_begin(campaign.plan, seen, campaign.devices)
            # Who is on the way to another image comes to its end first: two would take it from each other.
            taken = self.book.taken(now) if next_ones else {}
            for ep in next_ones:
                if ep not in taken:
                    self._put(campaign, begin(ep, now))
            if seen.standing in _OVER and all(
                one.phase.ended and one.pending is None for one in campaign.devices.values()
            ):
                self._over.add(campaign.plan.name)

    # What goes

    def _commit(self, writer: Producer, stop: threading.Event) -> None:
        batch = list(self._changed.items())[:_MOST_AT_ONCE]
        writer.begin_transaction()
        requests = 0
        for (name, ep), device in batch:
            campaign = self.book.campaigns[name]
            key, value = device_record(name, device)
            writer.produce(campaigns_topic(self._gateway), value, key.encode(), 0)
            pending = device.pending
            # A number is given once, so a request whose number is out already is not made again.
            if pending is not None and self._out.get((name, ep)) != pending.number:
                made = request(campaign.plan, device, pending)
                writer.produce(self._topics.requests, encode(made), encode(Key(ep=ep)))
                requests += 1
        until = time.monotonic() + _KAFKA_S
        while True:
            try:
                writer.commit_transaction(_CALL_S)
                break
            except KafkaException as exc:
                # What became of it the next session reads.
                if not exc.args[0].retriable() or stop.is_set() or time.monotonic() > until:
                    raise
        self.requests_sent += requests
        for (name, ep), device in batch:
            if device.pending is not None:
                self._out[name, ep] = device.pending.number
            del self._changed[name, ep]
            self._told(self.book.campaigns[name], device)


_HOLDING = (Standing.PAUSED, Standing.STOPPED, Standing.ABORTED)
_OVER = (Standing.ABORTED, Standing.DONE)
_FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)


def _batch(reader: Consumer) -> Iterator[Message]:
    first = reader.poll(_POLL_S)
    if first is not None:
        yield first
        yield from reader.consume(500, timeout=0)
