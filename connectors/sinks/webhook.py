"""The webhook sink: events as signed HTTP POSTs, to whoever wants them.

Owns which answer means what, and that only the guilty of a batch are refused. The events and their signature are
`connectors.sinks.webhook_events`, the connection is `connectors.sinks.webhook_client`.

It has no store to look into: what it sent and got no answer for it sends again, with the same id; the receiver leaves
out what it has. A request that is refused for what it holds (most of 4xx) is sent again in halves, until those that are
refused stand alone; one that is refused for what it is (`_ADVICE`) says nothing about records, so the sink waits for
people to mend it: a wrong secret must not bury everything.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from connectors.sinks.options import SinkOptions, parse_options, read_secret
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from connectors.sinks.webhook_client import Answer, NoAnswer, Poster, seconds
from connectors.sinks.webhook_events import Event, EventKind, Unsendable, event, sign
from schemas.avro.topics import TopicKind
from schemas.lwm2m.path import PathPattern

#: A receiver may ask for patience, but not for ever; seconds.
_LONGEST_S = 3600.0

#: After so long, `WebhookSink.write` lets go and goes on when the batch is offered again: the runner must stay in its
#: group and stop in time, however slow the receiver is.
PATIENCE_S = 3.0

#: Answers that are about the request and not about what it holds, and what people can do about them.
_ADVICE: Mapping[int, str] = {
    401: "it does not accept the signature: check the secret and the clocks",
    404: "there is nothing at this address: check the url",
    405: "it takes no POST at this address: check the url",
    407: "a proxy is in the way",
    408: "it waited too long for the request",
    410: "it wants no events any more: take the sink out of the configuration",
    425: "it asks to try again",
    429: "it has too much to do",
}


class Send(Enum):
    """How events are put into requests."""

    #: A JSON array of events a request.
    BATCH = "batch"
    #: One event, a JSON object, a request.
    SINGLE = "single"


def _address(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address such as https://example.org/events is needed")
    if parts.username is not None or parts.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("it has no name, no password, no fragment and only printable ASCII characters")
    _ = parts.port  # raises ValueError where it is none
    return url


class WebhookOptions(SinkOptions):
    """The options of the sink."""

    url: Annotated[SecretStr, AfterValidator(_address)] = Field(description="where the events are posted to")
    secret: SecretStr | None = None
    secret_file: FilePath | None = None
    send: Send = Send.BATCH
    max_events: int = Field(500, ge=1, le=100_000)
    max_bytes: int = Field(1_000_000, ge=1)
    kinds: frozenset[EventKind] = Field(frozenset(EventKind), min_length=1)
    paths: tuple[str, ...] = ()
    timeout_s: float = Field(5.0, ge=0.1, le=100.0)
    ca_file: FilePath | None = None

    @field_validator("paths")
    @classmethod
    def _are_patterns(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            PathPattern.parse(path)
        return paths

    @model_validator(mode="after")
    def _one_secret(self) -> WebhookOptions:
        if (self.secret is None) == (self.secret_file is None):
            raise ValueError("it needs a secret to sign with, either as secret or as secret_file")
        return self

    def key(self) -> bytes:
        """The secret, from its file if it is in one.

        Raises:
            SinkConfigError: the file cannot be read, or there is nothing in it.
        """
        if self.secret is not None:
            found = self.secret.get_secret_value()
        else:
            assert self.secret_file is not None
            found = read_secret("webhook", "secret_file", self.secret_file)
        if not found:
            raise SinkConfigError("the secret of the sink webhook is empty")
        return found.encode()


class WebhookSink:
    """`connectors.sinks.sink.Sink` on one address; ``clock`` is epoch seconds."""

    def __init__(self, options: WebhookOptions, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._secret = options.key()
        self._paths = tuple(PathPattern.parse(path) for path in options.paths)
        self._clock = clock
        try:
            self._poster = Poster(urlsplit(options.url.get_secret_value()), options.timeout_s, options.ca_file)
        except OSError as exc:
            raise SinkConfigError(f"ca_file of the sink webhook, {options.ca_file}: {exc.strerror or exc}") from exc
        #: Of a batch that could not be ended: by id, None if it was taken, or why it was refused.
        self._done: dict[str, str | None] = {}
        #: And the ids of the requests that were left.
        self._left: list[list[str]] = []
        self._not_before = 0.0

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: as many requests as the events need."""
        rejected: list[tuple[SinkRecord, str]] = []
        events: dict[str, Event] = {}
        for record in records:
            try:
                made = event(record, self._options.kinds, self._paths)
            except Unsendable as exc:
                rejected.append((record, str(exc)))
                continue
            if made is not None:
                events[made.id] = made
        self._deliver(self._requests(events))
        done, self._done = self._done, {}
        rejected += [(events[name].record, why) for name, why in done.items() if why is not None and name in events]
        if rejected:
            raise RejectedRecords(rejected)

    def close(self) -> None:
        """See `Sink.close`."""
        self._poster.close()

    def _requests(self, events: Mapping[str, Event]) -> list[list[Event]]:
        """What is still to be sent of ``events``: the requests that were left, then those that are new."""
        left = [[events[name] for name in names if name in events] for names in self._left]
        seen = self._done.keys() | {one.id for request in left for one in request}
        number = 1 if self._options.send is Send.SINGLE else self._options.max_events
        requests, size = [request for request in left if request], 0
        fresh: list[Event] = []
        for one in events.values():
            if one.id in seen:
                continue
            if fresh and (len(fresh) >= number or size + len(one.body) > self._options.max_bytes):
                requests.append(fresh)
                fresh, size = [], 0
            fresh.append(one)
            size += len(one.body) + 1
        return [*requests, fresh] if fresh else requests

    def _deliver(self, requests: list[list[Event]]) -> None:
        """Until each event is taken or refused alone. Raises RetryLater."""
        until = time.monotonic() + PATIENCE_S
        todo = requests[::-1]
        try:
            while todo:
                some = todo[-1]
                refusal = self._post(some)
                todo.pop()
                if refusal is None or len(some) == 1:
                    self._done.update((one.id, refusal) for one in some)
                else:
                    half = len(some) // 2
                    todo += [some[half:], some[:half]]
                if todo and time.monotonic() > until:
                    raise RetryLater(f"{self._where}: it is slow; {len(self._done)} events of the batch are done", 0.05)
        finally:
            self._left = [[one.id for one in request] for request in reversed(todo)]

    def _post(self, some: Sequence[Event]) -> str | None:
        """One request: None if it was taken, or why not for what it holds. Raises RetryLater."""
        now = self._clock()
        if now < self._not_before:
            raise RetryLater(f"{self._where}: it asked to wait", self._not_before - now)
        if self._options.send is Send.SINGLE:
            (one,) = some
            body, key = one.body, one.id
        else:
            body = b"[" + b",".join(one.body for one in some) + b"]"
            key = hashlib.sha256("\n".join(one.id for one in some).encode()).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "headwater",
            "Idempotency-Key": key,
            "Headwater-Signature": sign(self._secret, int(now), body),
        }
        try:
            answer = self._poster.post(body, headers)
        except NoAnswer as exc:
            raise RetryLater(f"{self._where}: {exc}") from exc
        return self._meaning(answer)

    def _meaning(self, answer: Answer) -> str | None:
        status = answer.status
        if 200 <= status < 300:
            return None
        said = f"{status} {answer.words}".rstrip()
        if 400 <= status < 500 and status not in _ADVICE:
            return f"the receiver answers {said}"
        if 300 <= status < 400:
            # Whoever is there would get events and signatures that were meant for another.
            raise RetryLater(f"{self._where}: it redirects to {answer.location}, which is not followed: change the url")
        after = seconds(answer.retry_after, datetime.fromtimestamp(self._clock(), UTC))
        if after is not None:
            after = min(after, _LONGEST_S)
            self._not_before = self._clock() + after
        advice = _ADVICE.get(status)
        raise RetryLater(f"{self._where}: {f'{advice}; it says ' if advice else ''}{said}", after)

    @property
    def _where(self) -> str:
        # Not all of the url: that may be a secret as well.
        return f"webhook at {self._poster.server}"


def open_webhook(options: Mapping[str, object]) -> WebhookSink:
    """The sink of `KIND`; it connects when it writes.

    Raises:
        SinkConfigError: wrong options, or a file that they name cannot be read.
    """
    return WebhookSink(parse_options("webhook", WebhookOptions, options))


KIND = SinkKind(
    name="webhook",
    open=open_webhook,
    topics=(TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.REPLIES, TopicKind.ALERTS, TopicKind.JOINED),
    sample_config="""\
# Events as signed HTTP POSTs.
[webhook]
# Where they are posted to. Redirects are not followed.
url = "https://example.org/events"
# A file that holds the secret which signs them; or secret = "...".
secret_file = "/run/secrets/webhook_secret"
# "batch": a JSON array of events a request; "single": one event, a JSON object, a request.
# send = "batch"
# A request of a batch has no more events and bytes than these (a larger event goes alone).
# max_events = 500
# max_bytes = 1000000
# What is sent: "history" (notifications and replies), "registrations", "alerts" (of the job `outliers`).
# kinds = ["history", "registrations", "alerts"]
# Of history and alerts only the values at or below these paths; * stands for any id. Default: all.
# paths = ["/3303/*/5700", "/3"]
# How many seconds connecting, and then a request to the end of its answer, may take.
# timeout_s = 5
# Certificates (PEM) of a private certification authority. Default: those of the system.
# ca_file = "/etc/ssl/private-ca.pem"
""",
)
