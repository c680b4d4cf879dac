"""How every job runs: started, ready, waiting for Kafka, begun anew after trouble, ended within ten seconds.

Owns what is around the application: its topics, /healthz, /readyz and /metrics, and the end. What is done with a record
is `analytics.turn`'s, the application itself `analytics.application`'s, and what a value means the job's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from functools import cached_property

import structlog
from prometheus_client import REGISTRY
from quixstreams.exceptions import QuixException

from analytics.application import JobApplication
from analytics.instance import Instance
from analytics.job import ANY_GATEWAY, Job, JobSettings, Surroundings
from analytics.metrics import JobMetrics
from analytics.turn import Turn
from connectors import kafka
from connectors.health import serve_health
from connectors.process_metrics import Component, with_process
from schemas.avro.topics import FAMILIES, TopicKind, Topics, UnknownTopic

__all__ = ["run_job"]

_log = structlog.get_logger("headwater.analytics")

#: The loop has not turned for so long: start the process anew.
STUCK_S = 120.0
#: Of the ten seconds that a process has to end, what the running turn gets to be committed.
CLOSE_S = 8.0
_PROBE_S = 2.0
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
        self._cluster = settings.cluster
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
                keys=settings.metrics_keys,
                registry=with_process(
                    REGISTRY, Component.ANALYTICS, (settings.gateway,), self._unready, tls=(settings.tls,)
                ),
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
                        self._waits = self._words(exc)
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
                # What is there and not for us is told as that.
                kafka.partition_counts(self._cluster, [one for one in missing if ANY_GATEWAY not in one], timeout=5.0)
                self._waits = f"waiting for the topic {', '.join(missing)}, which is not there"
                hint = "it comes with the gateway or its replicator; is the gateway's id right?"
            except (kafka.Unreachable, kafka.KafkaException) as exc:
                why = self._words(exc)
                away = isinstance(exc, kafka.Unreachable)
                self._waits = f"no broker answers at {self._cluster.bootstrap}: {why}" if away else why
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
        turn = Turn(app, job, settings.kind, self._metrics, self._deadletter, self.turned)
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
                    self._away = kafka.silence(self._cluster)
                    _log.warning("waiting for Kafka", job=self._settings.kind.name, reason=self._away)
            until = time.monotonic() + _PROBE_S
            while time.monotonic() < until and not ended.is_set() and not self._stop.is_set():
                ended.wait(0.1)

    def _words(self, error: Exception) -> str:
        if isinstance(error, kafka.KafkaException) and not isinstance(error, kafka.NotAllowed):
            return kafka.in_words(error.args[0], self._cluster)
        return str(error) or type(error).__name__

    def turned(self) -> None:
        self._turned = time.monotonic()


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
