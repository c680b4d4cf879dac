"""The Prometheus sink: numbers as samples, by remote-write 1.0, in whatever receives it.

Owns what is sent and what an answer means. The series are `connectors.sinks.prometheus_series`, the bytes
`connectors.sinks.prometheus_wire`, the options `connectors.sinks.prometheus_options`, the look for what is there
`connectors.sinks.prometheus_query`.

A request is taken whole or refused whole, with words that name no sample. One that is refused for what it holds is sent
again in halves: by series first, then by time, the older half first, until those that are refused stand alone. A
receiver that takes a series only in order refuses also what it got before; so, before samples of a series are refused,
the receiver is asked which of them it has.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from prometheus_client import Counter

from connectors.sinks import prometheus_wire as wire
from connectors.sinks.options import object_definitions, parse_options
from connectors.sinks.prometheus_options import SAMPLE_CONFIG, PrometheusOptions
from connectors.sinks.prometheus_query import ANSWER_BYTES, Unknown, found_in, query_form, span_ms
from connectors.sinks.prometheus_series import (
    MOST_MOVED_MS,
    LeftOut,
    Naming,
    NoSample,
    Sample,
    Sampler,
    Series,
    in_order,
)
from connectors.sinks.sink import RejectedRecords, RetryLater, SinkConfigError, SinkKind, SinkRecord
from connectors.sinks.webhook_client import Answer, NoAnswer, Poster, seconds
from schemas.avro.topics import TopicKind
from schemas.lwm2m.path import PathPattern

_LEFT_OUT = Counter("headwater_sink_left_out", "Values that are nothing for the store, by reason.", ("sink", "reason"))

#: A receiver may ask for patience, but not for ever; seconds.
_LONGEST_S = 3600.0

#: After so long, `PrometheusSink.write` lets go and goes on when the batch is offered again: the runner must stay in
#: its group and stop in time, however many samples have to be looked for one by one.
PATIENCE_S = 3.0

#: After so many answers that may not be about samples, and not one request taken, the search for the guilty ends.
_DOUBTS = 40

#: Statuses of what is refused for what it holds; Thanos says 409 where others say 400.
_REFUSALS = frozenset({400, 409, 413, 422})
#: What receivers say about samples; anything else may be about the whole request.
_ABOUT_SAMPLES = re.compile(
    r"out.of.order|out.of.bounds|too.old|too.far|duplicate|timestamp|label|series|sample|max-", re.IGNORECASE
)
#: And about their times: it may have them.
_ABOUT_TIMES = re.compile(r"out.of.order|out.of.bounds|too.old|duplicate", re.IGNORECASE)

#: What a series has is asked for so long a span at most: a clock may be wrong by more than any receiver can look over.
_ASKED_MS = 366 * 86_400_000

_NO_PLACE = "there are other values of this series in its millisecond and in all of the second behind it"

_ADVICE: Mapping[int, str] = {
    401: "it does not know us: check user and password, or the token",
    403: "it lets us not write there: check the rights of the user or token, and the headers",
    404: "nothing takes remote-write there: check the url; Prometheus needs --web.enable-remote-write-receiver",
    405: "it takes no POST at this address: check the url",
    415: "it does not take remote-write 1.0",
    429: "it has too much to do",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """Samples of one series, in order of time."""

    series: Series
    samples: tuple[Sample, ...]
    #: The receiver was asked which of them it has.
    looked: bool = False

    def body(self) -> bytes:
        return wire.series(
            self.series.encoded + b"".join([wire.sample(one.value, one.time_ms) for one in self.samples])
        )


class PrometheusSink:
    """`connectors.sinks.sink.Sink` on one address; ``clock`` is epoch seconds."""

    def __init__(
        self, options: PrometheusOptions, compress: Callable[[bytes], bytes], clock: Callable[[], float] = time.time
    ) -> None:
        self._options = options
        self._compress = compress
        self._clock = clock
        options.authorization()
        self._sampler = Sampler(
            Naming(
                prefix=options.prefix,
                labels=options.labels,
                paths=tuple(PathPattern.parse(path) for path in options.paths),
                time=options.time,
            ),
            object_definitions("prometheus", options.definitions),
        )
        where = options.query_address()
        try:
            self._poster = Poster(urlsplit(options.url), options.timeout_s, options.ca_file)
            self._asker = where and Poster(urlsplit(where), options.timeout_s, options.ca_file, ANSWER_BYTES)
        except OSError as exc:
            raise SinkConfigError(f"ca_file of the sink prometheus, {options.ca_file}: {exc.strerror or exc}") from exc
        #: Of a batch that could not be ended: by sample, None if it was taken, or why it was refused.
        self._done: dict[tuple[str, int, int, int], str | None] = {}
        #: And the requests that were left, the last one first.
        self._left: list[list[_Part]] = []
        self._not_before = 0.0

    def write(self, records: Sequence[SinkRecord]) -> None:
        """See `Sink.write`: one request for the whole batch, more if it is large or some of it is refused."""
        rejected: dict[tuple[str, int, int], tuple[SinkRecord, str]] = {}
        left_out: dict[LeftOut, list[str]] = {reason: [] for reason in LeftOut}
        made: dict[bytes, tuple[Series, list[Sample]]] = {}
        seen: set[tuple[str, int, int]] = set()

        def refuse(record: SinkRecord, why: str) -> None:
            rejected.setdefault((record.topic, record.partition, record.offset), (record, why))

        for record in records:
            place = (record.topic, record.partition, record.offset)
            if place in seen:
                continue
            seen.add(place)
            try:
                for series, sample in self._sampler.samples(record, left_out):
                    made.setdefault(series.encoded, (series, []))[1].append(sample)
            except NoSample as exc:
                refuse(record, str(exc))
        parts: list[_Part] = []
        for series, samples in made.values():
            placed, homeless = in_order(samples)
            for sample in homeless:
                refuse(sample.record, _NO_PLACE)
            parts.append(_Part(series, tuple(placed)))
        self._deliver(parts)
        done, self._done = self._done, {}
        for _, samples in made.values() if any(done.values()) else ():
            for sample in samples:
                why = done.get(sample.key)
                if why is not None:
                    refuse(sample.record, why)
        for reason, paths in left_out.items():
            _LEFT_OUT.labels("prometheus", reason.value).inc(len(paths))
        if rejected:
            raise RejectedRecords(list(rejected.values()))

    def close(self) -> None:
        """See `Sink.close`."""
        self._poster.close()
        if self._asker:
            self._asker.close()

    def _todo(self, parts: Sequence[_Part]) -> list[list[_Part]]:
        """What is still to be sent of ``parts``, the last request first: those that are new, those that were left."""
        offered = {sample.key for part in parts for sample in part.samples}
        left = [_only(request, offered) for request in self._left]
        seen = self._done.keys() | {sample.key for request in left for part in request for sample in part.samples}
        fresh = _requests(_only(parts, offered - seen), self._options.max_samples)
        return [*fresh[::-1], *(request for request in left if request)]

    def _deliver(self, parts: Sequence[_Part]) -> None:
        """Until each sample is taken or refused alone. Raises RetryLater."""
        if not self._left and not self._done:
            todo = _requests(parts, self._options.max_samples)[::-1]
        else:
            todo = self._todo(parts)
        taken: list[list[_Part]] = []
        try:
            self._send_all(todo, taken)
        except RetryLater:
            for some in taken:
                self._settle(some, None)
            raise
        finally:
            self._left = todo

    def _send_all(self, todo: list[list[_Part]], done: list[list[_Part]]) -> None:
        """Send the last of ``todo`` until nothing is left; what is taken is added to ``done``. Raises RetryLater."""
        until = time.monotonic() + PATIENCE_S
        doubts: list[tuple[list[_Part], str]] = []
        taken, doubted = bool(self._done), 0
        while todo:
            some = todo[-1]
            refusal = self._send(some)
            smaller = None if refusal is None else self._smaller(some, refusal)
            todo.pop()
            if refusal is None:
                done.append(some)
                taken = True
            else:
                sure = _ABOUT_SAMPLES.search(refusal) is not None
                doubted += not sure
                if smaller is not None:
                    todo += smaller[::-1]
                    taken = taken or not smaller
                elif sure:
                    self._settle(some, refusal)
                else:
                    doubts.append((some, refusal))
                if doubted >= _DOUBTS and not taken:
                    # It takes nothing at all, for a reason that we do not know: hardly the fault of the samples.
                    raise RetryLater(f"{self._where}: {refusal}")
            if todo and time.monotonic() > until:
                raise RetryLater(f"{self._where}: it is slow; {len(todo)} requests of the batch are left", 0.05)
        if doubts and not taken:
            raise RetryLater(f"{self._where}: {doubts[0][1]}")
        for some, refusal in doubts:
            self._settle(some, refusal)

    def _settle(self, some: Sequence[_Part], why: str | None) -> None:
        self._done.update((sample.key, why) for part in some for sample in part.samples)

    def _smaller(self, some: list[_Part], refusal: str) -> list[list[_Part]] | None:
        """What to send instead of ``some``; None if it is one sample that cannot be anywhere."""
        if len(some) > 1:
            half = len(some) // 2
            return [some[:half], some[half:]]
        (part,) = some
        wide = len(part.samples) > 1 and part.samples[-1].time_ms - part.samples[0].said_ms > _ASKED_MS
        if not part.looked and not wide and self._asker and _ABOUT_TIMES.search(refusal):
            left = self._not_there(part)
            return [[left]] if left.samples else []
        if len(part.samples) > 1:
            half = len(part.samples) // 2
            return [[_Part(part.series, piece, part.looked)] for piece in (part.samples[:half], part.samples[half:])]
        return None

    def _not_there(self, part: _Part) -> _Part:
        """The samples that the receiver has not, each at a time that is free there. Raises RetryLater."""
        first, last = part.samples[0].said_ms, part.samples[-1].time_ms
        try:
            there = self._ask(part.series, first, last)
        except Unknown:
            return _Part(part.series, part.samples, looked=True)
        missing: list[Sample] = []
        homeless: list[Sample] = []
        for sample in part.samples:
            at = sample.said_ms
            # Where it stands if it had to move behind others of its millisecond.
            while at in there and not sample.is_same(there[at]) and at <= sample.said_ms + MOST_MOVED_MS:
                at += 1
            if at > sample.said_ms + MOST_MOVED_MS:
                homeless.append(sample)
            elif at in there:
                self._done[sample.key] = None
            else:
                sample.time_ms = at
                missing.append(sample)
        placed, more = in_order(missing)
        # Of those with the same value and time one stands for all.
        self._done.update((sample.key, None) for sample in missing)
        for sample in placed:
            del self._done[sample.key]
        self._done.update((sample.key, _NO_PLACE) for sample in (*homeless, *more))
        return _Part(part.series, tuple(placed), looked=True)

    def _ask(self, series: Series, first_ms: int, last_ms: int) -> Mapping[int, float]:
        """Raises Unknown, RetryLater."""
        assert self._asker
        body = query_form(series.labels, first_ms, last_ms)
        answer = self._post(self._asker, body, {"Content-Type": "application/x-www-form-urlencoded"})
        if answer.status == 429 or answer.status >= 500:
            raise RetryLater(f"{self._where}: asked what it has, it says {answer.status} {answer.words}")
        if answer.status != 200:
            raise Unknown
        return found_in(answer.body, span_ms(first_ms, last_ms))

    def _send(self, some: Sequence[_Part]) -> str | None:
        """One request: None if it was taken, or why not for what it holds. Raises RetryLater."""
        body = self._compress(wire.request(part.body() for part in some))
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        }
        answer = self._post(self._poster, body, headers)
        status = answer.status
        if 200 <= status < 300:
            return None
        said = f"{status} {answer.words}".rstrip()
        if status in _REFUSALS:
            return f"Prometheus: {said}"
        if 300 <= status < 400:
            raise RetryLater(f"{self._where}: it redirects to {answer.location}, which is not followed: change the url")
        after = seconds(answer.retry_after, datetime.fromtimestamp(self._clock(), UTC))
        if after is not None:
            after = min(after, _LONGEST_S)
            self._not_before = self._clock() + after
        advice = _ADVICE.get(status)
        raise RetryLater(f"{self._where}: {f'{advice}; it says ' if advice else ''}{said}", after)

    def _post(self, poster: Poster, body: bytes, headers: Mapping[str, str]) -> Answer:
        now = self._clock()
        if now < self._not_before:
            raise RetryLater(f"{self._where}: it asked to wait", self._not_before - now)
        try:
            secret = self._options.authorization()
        except SinkConfigError as exc:
            # The file was there when we began; it is being replaced.
            raise RetryLater(str(exc)) from exc
        own = {name: value.get_secret_value() for name, value in self._options.headers.items()}
        if secret is not None:
            own["Authorization"] = secret
        try:
            return poster.post(body, {"User-Agent": "headwater", **headers, **own})
        except NoAnswer as exc:
            raise RetryLater(f"{self._where}: {exc}") from exc

    @property
    def _where(self) -> str:
        return f"Prometheus at {self._poster.server}"


def _only(parts: Sequence[_Part], keys: Set[tuple[str, int, int, int]]) -> list[_Part]:
    """``parts`` without the samples that are not among ``keys``."""
    kept = [
        _Part(part.series, tuple(sample for sample in part.samples if sample.key in keys), part.looked)
        for part in parts
    ]
    return [part for part in kept if part.samples]


def _requests(parts: Sequence[_Part], most: int) -> list[list[_Part]]:
    """``parts`` in requests of at most ``most`` samples; the older ones of a series are in earlier requests."""
    requests: list[list[_Part]] = []
    room = 0
    for part in parts:
        samples = part.samples
        while samples:
            if room == 0:
                requests.append([])
                room = most
            piece, samples = samples[:room], samples[room:]
            requests[-1].append(_Part(part.series, piece))
            room -= len(piece)
    return requests


def open_prometheus(options: Mapping[str, object]) -> PrometheusSink:
    """The sink of `KIND`; it connects when it writes.

    Raises:
        SinkConfigError: wrong options, a file that they name cannot be read, or cramjam is not installed.
    """
    parsed = parse_options("prometheus", PrometheusOptions, options)
    try:
        from cramjam import snappy
    except ImportError as exc:
        raise SinkConfigError("cramjam is not installed: pip install 'headwater[prometheus]'") from exc
    return PrometheusSink(parsed, lambda body: bytes(snappy.compress_raw(body)))


KIND = SinkKind(
    name="prometheus",
    open=open_prometheus,
    topics=(TopicKind.REGISTRATIONS, TopicKind.OBSERVATIONS, TopicKind.JOINED),
    library="cramjam",
    sample_config=SAMPLE_CONFIG,
)
