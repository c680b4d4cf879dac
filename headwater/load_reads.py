"""The reads of `headwater load answer`: requests into a gateway's topic, and the replies that come back, by ticket.

Owns the Kafka side of them, on a thread of its own. Requests are never sent twice, and each says until when it is of
use, so that none is left behind to be carried out when nobody waits any more.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from cloud.feed import Feed, Start
from cloud.requests import answers
from connectors.kafka import Cluster, KafkaError, KafkaException, Message, TopicMissing, Unreachable, producer
from gateway.coap.message import Code, name
from gateway.devices.load.engine import Reply
from schemas.avro.records import (
    GenericBody,
    Key,
    ReadBody,
    Request,
    RequestKind,
    RequestPayload,
    Response,
    ResponseCode,
)
from schemas.avro.serde import encode
from schemas.avro.topics import Topics
from schemas.lwm2m.nodes import Resource

#: How long a reply may lie in Kafka's client, in seconds; it is part of what is measured.
_SOON = 0.002


class KafkaReads:
    """`gateway.devices.load.engine.Reading` over ``cluster``; a context manager. ``patience`` is seconds.

    Raises:
        Unreachable, TopicMissing: as `cloud.feed.Feed`.
    """

    def __init__(self, cluster: Cluster, gateway: str, patience: float) -> None:
        self._topics = Topics(gateway)
        self._patience = patience
        self._feed = Feed(cluster, [self._topics.replies], start=Start.END)
        # What Kafka may or may not have taken is not sent again.
        self._producer = producer(
            cluster,
            message_timeout_ms=int(patience * 1000),
            linger_ms=1,
            enable_idempotence=False,
            enable_gapless_guarantee=False,
            retries=0,
        )
        # Else the first requests wait for a second, until it knows the topic.
        self._producer.list_topics(self._topics.requests, timeout=10.0)
        #: The last request of each endpoint.
        self._asked: dict[str, Request] = {}
        self._replies: deque[Reply] = deque()
        self._ear, self._mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ending = threading.Event()
        #: Why no more replies are read, for people.
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._read, name="replies", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join()
        self._feed.close()
        self._producer.purge()
        with contextlib.suppress(KafkaException):  # of one that failed for good
            self._producer.flush(1.0)
        os.close(self._ear)
        os.close(self._mouth)

    # Of the engine's thread

    def fileno(self) -> int:
        return self._ear

    def ask(self, ticket: str, endpoint: str, path: str) -> None:
        request = Request(
            server_id=self._topics.gateway,
            ep=endpoint,
            ticket=ticket,
            payload=RequestPayload(kind=RequestKind.READ, path=path),
            expires=int((time.time() + self._patience) * 1000),
        )
        self._asked[endpoint] = request
        try:
            self._producer.produce(
                self._topics.requests,
                key=encode(Key(ep=endpoint)),
                value=encode(request),
                on_delivery=lambda error, message: self._delivered(request, error, message),
            )
        except (BufferError, KafkaException) as exc:
            self._failed(request, str(exc))
        self._producer.poll(0)

    def replies(self) -> Iterable[Reply]:
        """What came since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._ear, 1 << 16)
        while self._replies:
            yield self._replies.popleft()

    # Of both

    def _delivered(self, request: Request, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed(request, error.str())

    def _failed(self, request: Request, words: str) -> None:
        self._tell(Reply(request.ticket, "error", None, f"Kafka did not take the request: {words}"))

    def _tell(self, reply: Reply) -> None:
        self._replies.append(reply)
        with contextlib.suppress(BlockingIOError):  # so full that it is heard anyway
            os.write(self._mouth, b"\0")

    # Of its own thread

    def _read(self) -> None:
        while not self._ending.is_set():
            try:
                # Kafka's client returns at the end of this time, and not with the first record.
                items = self._feed.poll(_SOON)
            except (Unreachable, TopicMissing, KafkaException) as exc:
                self.failure = f"replies are not read any more: {exc}"
                return
            for item in items:
                if isinstance(item.record, Response):
                    self._take(item.record)
            self._producer.poll(0)

    def _take(self, response: Response) -> None:
        request = self._asked.get(response.ep)
        if request is None or not answers(response, request):
            return
        code, body = response.rep.code, response.rep.body
        if code is ResponseCode.CONTENT and isinstance(body, ReadBody) and isinstance(body.content, Resource):
            value = body.content.value
            number = float(value) if isinstance(value, int | float) else None
            self._tell(Reply(response.ticket, "2.05", number, ""))
            return
        words = body.message if isinstance(body, GenericBody) else code.value
        known = "error" if code is ResponseCode.UNKNOWN else name(Code[code.value])
        self._tell(Reply(response.ticket, known, None, words))
