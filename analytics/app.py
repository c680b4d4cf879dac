"""How every job runs: a Quix Streams application, exactly once, and what surrounds it.

Owns the turn of a record, dead letters, /healthz, /readyz and /metrics, waiting for Kafka, and the end within ten
seconds. It never looks into a value: that is the job's. The application itself is `analytics.application`'s.

One turn, in Quix's own order (`quixstreams.checkpointing`), of about `JobSettings.commit_s`:
 1. take    each record goes to the job, which reads and writes its state and puts out results, in one Kafka transaction
 2. log     changes of the state go to the changelog topic, in the same transaction
 3. commit  the offsets go into the transaction, and it is committed: results, state and offsets are there, or none is
 4. keep    the state is written to the folder (RocksDB)
A process that dies before 3 leaves nothing; what was done is done again, from the state of the last commit. A folder
that is behind or gone is made good from the changelog topic.

Results go to the producer of the transaction straight, and the state is asked for by partition: both are what Quix's
own `StreamingDataFrame` does, less a serialization and a state per message key; why is told in the decision on windows
(docs/decisions/).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

import structlog
from quixstreams import MessageContext, message_context
from quixstreams.exceptions import QuixException

from analytics.application import JobApplication
from analytics.instance import Instance
from analytics.job import (
    ANY_GATEWAY,
    NO_STATE,
    WHEN_PUT_OUT,
    BadRecord,
    Emit,
    Headers,
    Incoming,
    Job,
    JobSettings,
    PartlyDone,
    State,
    Surroundings,
)
from analytics.metrics import JobMetrics
from connectors import kafka
from connectors.dead_letters import DeadLetter, RawRecord, letter_headers, shorter
from connectors.health import serve_health
from schemas.avro.serde import SerdeError
from schemas.avro.topics import FAMILIES, TopicKind, Topics, UnknownTopic

__all__ = ["run_job"]

_log = structlog.get_logger("headwater.analytics")

#: The loop has not turned for so long: start the process anew.
STUCK_S = 120.0
#: Of the ten seconds that a process has to end, what the running turn gets to be committed.
CLOSE_S = 8.0
_PROBE_S = 2.0
#: Above it a dead letter goes without its value: one that Kafka refuses would fail the transaction for ever.
_MOST_LETTER_BYTES = 900_000
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 10.0


def run_job(settings: JobSettings, stop: threading.Event) -> None:
    """Run a job until ``stop`` is set; it then commits what it has and returns within ten seconds.

    Kafka may be away at the start and in between: the job waits, and says so (/readyz).

    Raises:
        JobConfigError: the options are wrong, or the state is of other options.
        OSError: the metrics port is taken, or the folder of the state cannot be used.
    """
    _Runner(settings, stop).run()


class _Runner:
    """One job of this process. `run` is called once, by the thread that owns the process's end."""

    def __init__(self, settings: JobSettings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._metrics = JobMetrics(settings.kind.name, settings.group_id)
        self._surroundings = Surroundings(
            gateway=settings.gateway, group=settings.group_id, metrics=self._metrics, show=settings.show
        )
        topics = self._surroundings.topics
        self._inputs = list(settings.kind.reads(settings.options, topics))
        self._outputs = dict(settings.kind.writes(settings.options, topics))
        #: The topics that are read: the inputs, with every gateway's in the place of a pattern.
        self._topics: list[str] = []
        self._deadletter = topics.deadletter
        self._cluster = kafka.Cluster(bootstrap=settings.bootstrap)
        self._waits: str | None = "not connected to Kafka yet"
        self._away: str | None = None
        self._app: JobApplication | None = None
        self._turned = time.monotonic()

    def run(self) -> None:
        settings = self._settings
        # The options are looked at before anything is waited for.
        job = self.job
        settings.check_group(self._inputs)
        health = None
        if settings.metrics_port is not None:
            health = serve_health(
                settings.metrics_port,
                host=settings.metrics_host,
                live=self._stuck,
                ready=self._unready,
            )
        try:
            with Instance(settings.state_folder) as instance:
                backoff = _FIRST_BACKOFF_S
                while not self._stop.is_set():
                    began = time.monotonic()
                    try:
                        if self._prepared():
                            self._run_once(instance, job)
                    except (kafka.KafkaException, kafka.Unreachable, QuixException) as exc:
                        # Whatever was under way is aborted; the next application begins at the last commit.
                        self._waits = _words(exc)
                        if time.monotonic() - began > 60:
                            backoff = _FIRST_BACKOFF_S
                        _log.warning(
                            "begins anew", job=settings.kind.name, reason=self._waits, retry_in_s=round(backoff, 1)
                        )
                        self._pause(backoff)
                        backoff = min(_MAX_BACKOFF_S, backoff * 2)
        finally:
            if health is not None:
                health.close()

    @cached_property
    def job(self) -> Job:
        """Made once: a file of rules or code may be half edited when it begins anew after trouble with Kafka."""
        return self._settings.kind.make(self._settings.options, self._surroundings)

    def _unready(self) -> str | None:
        app = self._app
        return self._waits or self._away or (app.waits if app is not None else None)

    def _stuck(self) -> str | None:
        app = self._app
        if app is not None and app.recovering:
            return None
        idle = time.monotonic() - self._turned
        return f"job {self._settings.kind.name}: its loop has not turned for {idle:.0f} s" if idle > STUCK_S else None

    def _pause(self, seconds: float) -> None:
        self._turned = time.monotonic()
        self._stop.wait(seconds)

    # ---- the surroundings

    def _prepared(self) -> bool:
        """Topics that are needed are there; False if the process stops before they are."""
        told = ""
        while not self._stop.is_set():
            try:
                known = kafka.topic_counts(self._cluster, timeout=5.0)
                # A topic that the job both writes and reads, to key it anew, is its own to make.
                found = {one: [one] if one in self._outputs else matching(one, known) for one in self._inputs}
                missing = [one for one, topics in found.items() if not topics]
                if not missing:
                    self._topics = list(dict.fromkeys(topic for topics in found.values() for topic in topics))
                    dead = FAMILIES[TopicKind.DEADLETTER].partitions
                    made = kafka.ensure_topics(self._cluster, {**self._outputs, self._deadletter: dead}, timeout=8.0)
                    if made:
                        _log.info("topics made", job=self._settings.kind.name, topics=made)
                    return True
                self._waits = f"waiting for the topic {', '.join(missing)}, which is not there"
                hint = "it comes with the gateway or its replicator; is the gateway's id right?"
            except (kafka.Unreachable, kafka.KafkaException) as exc:
                self._waits = f"no broker answers at {self._cluster.bootstrap}: {_words(exc)}"
                hint = ""
            if self._waits != told:
                told = self._waits
                _log.warning("waiting", job=self._settings.kind.name, reason=told, **({"hint": hint} if hint else {}))
            self._pause(1.0)
        return False

    def _run_once(self, instance: Instance, job: Job) -> None:
        """One application, from its start to the process's stop or to trouble with Kafka, which is raised."""
        self._metrics.starts.inc()
        settings = self._settings
        self._app = app = JobApplication(settings, instance, self._topics, self._metrics)
        turn = _Turn(self, app, job)
        for topic in self._topics:
            turn.read(topic)
        ended = threading.Event()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                app.run()
            except BaseException as exc:  # noqa: BLE001  raised again in the thread that waits
                failures.append(exc)
            finally:
                ended.set()

        # Not in this thread: a call of Kafka's client that waits for a broker cannot be broken off, and the process has
        # to end all the same. What was not committed then is done again.
        self._turned = time.monotonic()
        thread = threading.Thread(target=work, name=settings.group_id, daemon=True)
        thread.start()
        self._waits = None
        self._watch(ended)
        if not ended.is_set():
            app.stop()
            ended.wait(CLOSE_S)
        turn.tell()
        self._waits, self._away = "beginning anew", None
        if failures and not self._stop.is_set():
            raise failures[0]
        if failures and not isinstance(failures[0], kafka.KafkaException | QuixException):
            raise failures[0]

    def _watch(self, ended: threading.Event) -> None:
        """Until the application ends or is to stop: see now and then whether Kafka answers, and who else is there."""
        look = kafka.admin(self._cluster)
        patterns = [one for one in self._inputs if ANY_GATEWAY in one]
        while not ended.is_set() and not self._stop.is_set():
            try:
                if patterns:
                    known = look.list_topics(timeout=_PROBE_S).topics
                    new = {name for one in patterns for name in matching(one, known)}.difference(self._topics)
                    if new:
                        _log.info("begins anew with more topics", job=self._settings.kind.name, topics=sorted(new))
                        return
                else:
                    look.list_topics(topic=self._topics[0], timeout=_PROBE_S)
                if self._away is not None:
                    _log.info("Kafka answers again", job=self._settings.kind.name)
                self._away = None
            except kafka.KafkaException:
                if self._away is None:
                    self._away = f"no broker answers at {self._cluster.bootstrap}"
                    _log.warning("waiting for Kafka", job=self._settings.kind.name, reason=self._away)
            until = time.monotonic() + _PROBE_S
            while time.monotonic() < until and not ended.is_set() and not self._stop.is_set():
                ended.wait(0.1)

    def turned(self) -> None:
        self._turned = time.monotonic()

    # ---- dead letters

    def bury(self, record: Incoming, error: Exception, emit: Callable[..., None]) -> None:
        """Into the dead-letter topic, in the same transaction: once, whatever happens."""
        stage = "decode" if isinstance(error, SerdeError) else f"analytics:{self._settings.kind.name}"
        self._metrics.dead_letter(stage)
        if record.topic == self._deadletter:
            # A filter reads it: a dead letter of the dead letter would be read next, for ever.
            _log.warning("dead letter left where it is", job=self._settings.kind.name, error=str(error)[:200])
            return
        raw = RawRecord(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            headers=tuple(record.headers),
            key=record.key,
            value=record.value,
        )
        letter = DeadLetter(record=raw, error=str(error), stage=stage)
        while letter.record.size > _MOST_LETTER_BYTES and (less := shorter(letter)) != letter:
            letter = less
        emit(self._deadletter, letter.record.key, letter.record.value, WHEN_PUT_OUT, letter_headers(letter))
        _log.warning(
            "record put into the dead-letter topic",
            job=self._settings.kind.name,
            stage=stage,
            error=str(error)[:200],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )

    def too_large(self, topic: str, size: int) -> None:
        """A result that Kafka would never take is left out: the record would be done again for ever."""
        self._metrics.too_large()
        _log.error("result left out, too large for Kafka", job=self._settings.kind.name, topic=topic, bytes=size)

    def idle_failed(self, topic: str, partition: int, error: Exception) -> None:
        self._metrics.idle_failure(topic, partition)
        _log.warning(
            "left out of a silent partition",
            job=self._settings.kind.name,
            topic=topic,
            partition=partition,
            error=str(error)[:200],
        )

    @property
    def stateful(self) -> bool:
        return self._settings.kind.stateful

    @property
    def metrics(self) -> JobMetrics:
        return self._metrics


class _Turn:
    """What Quix calls for each record and between records. Belongs to the thread of the application."""

    def __init__(self, runner: _Runner, app: JobApplication, job: Job) -> None:
        self._runner = runner
        self._app = app
        self._job = job
        #: Not told to the metrics yet: records taken in, and put out.
        self._taken = self._put = 0

    def tell(self) -> None:
        """The metrics, of what was done since the last time."""
        taken, put = self._taken, self._put
        self._taken = self._put = 0
        self._runner.metrics.records.inc(taken)
        self._runner.metrics.results.inc(put)

    def read(self, name: str) -> None:
        """Take the records of a topic."""
        topic = self._app.topic(name, key_deserializer="bytes", value_deserializer="bytes")
        frame = self._app.dataframe(topic)
        stateful = self._runner.stateful
        if stateful:
            frame.register_store()
        context = frame.processing_context
        stream = frame.stream_id
        produce = context.producer.produce
        job, monotonic = self._job, time.monotonic
        #: When each partition last had a record, by the monotonic clock.
        heard: dict[int, float] = {}
        #: The states of the partitions in the checkpoint that is under way.
        states: dict[int, State] = {}
        checkpoint: object = None
        expected, skipped = self._app.next_offsets(name), self._app.skipped

        def state_of(partition: int) -> State:
            nonlocal checkpoint
            if not stateful:
                return NO_STATE
            if context.checkpoint is not checkpoint:
                checkpoint = context.checkpoint
                states.clear()
            state = states.get(partition)
            if state is None:
                state = context.checkpoint.get_store_transaction(stream, partition).as_state(prefix=b"")
                states[partition] = state
            return state

        def emit(
            topic: str, key: bytes | None, value: bytes | None, timestamp: int = WHEN_PUT_OUT, headers: Headers = ()
        ) -> None:
            # 0 is now, for Kafka's client.
            carried: Any = [*headers] if headers else None
            try:
                produce(topic, value, key, carried, timestamp=max(timestamp, 0))
            except kafka.KafkaException as exc:
                if exc.args[0].code() != kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                self._runner.too_large(topic, len(value or b""))
                return
            self._put += 1

        def take(value: Any, key: Any, timestamp: int, headers: Any) -> None:
            at: MessageContext = message_context()
            partition = at.partition
            record = Incoming(at.topic, partition, at.offset, timestamp, key, value, headers or ())
            heard[partition] = monotonic()
            if record.offset != (due := expected.get(partition, record.offset)):
                skipped(name, partition, due, record.offset)
            expected[partition] = record.offset + 1
            try:
                job.take(record, state_of(partition), emit)
            except (SerdeError, BadRecord, PartlyDone) as exc:
                self._runner.bury(record, exc, emit)
            self._taken += 1

        looked = monotonic()

        def between() -> None:
            """Called at every turn of the loop."""
            nonlocal looked
            now = monotonic()
            if now - looked < 1.0:
                return
            looked = now
            self._runner.turned()
            self.tell()
            if not stateful or context.state_manager.recovery_required:
                return
            mine = context.state_manager.get_store(stream).partitions
            for gone in heard.keys() - mine.keys():
                # When it comes back, its silence begins then.
                del heard[gone]
            for partition in mine:
                silent = now - heard.setdefault(partition, now)
                if silent >= 1.0:
                    failed = idled(job, silent, state_of(partition), emit)
                    if failed is not None:
                        self._runner.idle_failed(name, partition, failed)

        frame.update(take, metadata=True)
        self._app.between(between)


def idled(job: Job, silent: float, state: State, emit: Emit) -> Exception | None:
    """Tell ``job`` of a silence; what it could not put out, or None.

    No record is at hand that could be a dead letter. Raised, it would end the process again after each start.
    """
    try:
        job.idle(silent, state, emit)
    except (SerdeError, BadRecord, PartlyDone) as exc:
        return exc
    return None


def matching(wanted: str, known: Collection[str]) -> list[str]:
    """The topics of ``known`` that are ``wanted``, which may have `ANY_GATEWAY` in the place of a gateway."""
    head, star, tail = wanted.partition(ANY_GATEWAY)
    if not star:
        return [wanted] if wanted in known else []
    found = []
    for name in known:
        if name.startswith(head) and name.endswith(tail):
            try:
                topics, kind = Topics.of(name)
            except UnknownTopic:
                continue
            # iot.a.management.req ends like a family of its own.
            if name == f"{head}{topics.gateway}{tail}" and topics.name(kind) == name:
                found.append(name)
    return sorted(found)


def _words(error: Exception) -> str:
    if isinstance(error, kafka.KafkaException) and error.args and hasattr(error.args[0], "str"):
        return f"Kafka: {error.args[0].str()}"
    return str(error) or type(error).__name__
