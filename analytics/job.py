"""What an analytics job is: the one protocol between `analytics.app`, which runs it, and its operators.

Owns the shape of a record on its way through a job and of the state that a job keeps. It knows neither Kafka nor Quix,
so that a job is tried with a dict for its state.

The state of a job is that of one partition of one topic, and it is written in the transaction that holds the job's
results and the offsets. All of an endpoint is in one partition, since the gateway's records are keyed by it; so a
job's own keys begin with the endpoint, and no topic has to be keyed anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.avro.topics import TopicKind, Topics

if TYPE_CHECKING:
    from connectors.kafka import Cluster

#: In the place of a gateway in the name of a topic that a job reads: all of these, and those that appear.
ANY_GATEWAY = "*"

Headers = Sequence[tuple[str, bytes | None]]


class JobError(Exception):
    """Root of what a job raises.

    JobError
     x BadRecord        this record cannot be handled: it becomes a dead letter, and the job goes on
     x PartlyDone       a part of it cannot be handled: likewise, and what was done of it stands
     x JobConfigError   the options are wrong, or the state is another's: people must act
    """


class BadRecord(JobError):
    """The record cannot be handled, for what the text says. The job has not touched its state for it."""


class PartlyDone(JobError):
    """A part of the record cannot be handled, for what the text says. All else of it was done, and stands."""


class JobConfigError(JobError):
    """The job cannot work like this; the text says what to change."""


class Incoming(NamedTuple):
    """A record as it stands in Kafka; ``timestamp`` in epoch milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class State(Protocol):
    """What a job remembers, of one partition. Values are JSON's, or bytes with the functions for these."""

    def get(self, key: bytes) -> Any: ...

    def set(self, key: bytes, value: Any) -> None: ...

    def get_bytes(self, key: bytes) -> bytes | None: ...

    def set_bytes(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...


class _NoState:
    """What a job gets that said it keeps none."""

    def get(self, key: bytes) -> Any:
        raise self._none()

    def set(self, key: bytes, value: Any) -> None:
        raise self._none()

    def get_bytes(self, key: bytes) -> bytes | None:
        raise self._none()

    def set_bytes(self, key: bytes, value: bytes) -> None:
        raise self._none()

    def delete(self, key: bytes) -> None:
        raise self._none()

    @staticmethod
    def _none() -> RuntimeError:
        return RuntimeError("the job's kind says that it keeps no state")


NO_STATE: State = _NoState()


#: The time of a Kafka record that is put out: when that is done.
WHEN_PUT_OUT = -1


class Emit(Protocol):
    """Puts a record into a topic, in the transaction of what is being handled."""

    def __call__(
        self, topic: str, key: bytes | None, value: bytes, timestamp: int = WHEN_PUT_OUT, headers: Headers = ()
    ) -> None:
        """``timestamp`` is the Kafka record's, in epoch milliseconds.

        Results have `WHEN_PUT_OUT`: Kafka's retention goes by it, and would delete results of old records at once if
        they had the time of these. That stays inside of the result.
        """


class Job(Protocol):
    """A job at work. Everything is called in one thread."""

    def take(self, record: Incoming, state: State, emit: Emit) -> None:
        """Handle a record.

        Raises:
            BadRecord, SerdeError: it goes to the dead letters. The state is as it was, and nothing was put out.
            PartlyDone: it goes there too. What could be done of it is done, in the state and in what was put out.
        """

    def idle(self, silent_s: float, state: State, emit: Emit) -> None:
        """A partition had no record for ``silent_s`` seconds of the wall clock: put out what waits in vain for one.

        Called about once a second for each partition that is silent.
        """


class Metrics(Protocol):
    """What a job counts; `analytics.metrics` gives it out."""

    def late(self) -> None:
        """A reading came after its window had been closed, or its match: it is left out."""

    def ahead(self) -> None:
        """A reading's own time was too far ahead, and the gateway's was taken."""

    def skipped(self, readings: int) -> None:
        """So many readings were no finite numbers."""

    def clock_put_back(self) -> None:
        """A partition's clock was far ahead of its records, and is put back to them."""

    def crowded(self) -> None:
        """A reading of a new series was left out: its endpoint has as many as are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Where a job runs. ``show`` gets each result as it is put out (a record of `schemas.avro`); None: nobody looks."""

    gateway: str
    group: str
    metrics: Metrics
    show: Callable[[Any], None] | None = None

    @property
    def topics(self) -> Topics:
        return Topics(self.gateway)


class JobOptions(BaseModel):
    """What all jobs' options have in common: nothing unknown is let through, and no secret is shown.

    A field is a flag of ``headwater analytics run NAME`` (``_`` is ``-`` there) and a key of the file of options; its
    description is the flag's help. A list is a flag that is repeated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    #: The fields that make it another job, with read positions of its own: those that say what comes out. The rest are
    #: settings of one job, which goes on where it was when they are changed: how long it waits for what is late, how
    #: much it keeps, and what it shows.
    IDENTITY: ClassVar[tuple[str, ...]] = ()

    def identity(self) -> str:
        """Eight hex digits of the fields of `IDENTITY` that are not as by default; empty where all are.

        A file counts by its name alone, so that a job is the same one wherever its files are.
        """
        fields = type(self).model_fields
        written = self.model_dump(mode="json", include=set(self.IDENTITY))
        told: dict[str, Any] = {}
        for name in sorted(self.IDENTITY):
            value = getattr(self, name)
            if fields[name].is_required() or value != fields[name].get_default():
                told[name] = value.name if isinstance(value, FilePath) else written[name]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8] if told else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKind:
    """A row of `analytics.jobs.JOBS`."""

    name: str
    #: What it does, in one sentence.
    summary: str
    options: type[JobOptions]
    #: The job from its options, which are of the class above. Raises JobConfigError.
    make: Callable[[Any, Surroundings], Job]
    #: What it reads, with `ANY_GATEWAY` for every gateway's.
    reads: Callable[[Any, Topics], Sequence[str]] = lambda _options, topics: [topics.observations]
    writes: Callable[[Any, Topics], Mapping[str, int]]
    #: Whether it keeps a state; one that keeps none costs no changelog topics, and `Job.idle` is not called.
    stateful: bool = True
    #: The same for people, without any options.
    output: str
    #: TOML with every option, its default and a comment; documentation and files start from it.
    sample: str
    #: Examples of the command line, for the help; without "headwater analytics run NAME --gateway GW".
    examples: Sequence[str] = ()


def parse_options(kind: JobKind, given: Mapping[str, Any]) -> JobOptions:
    """``given`` as the job's options.

    Raises:
        JobConfigError: one is unknown, missing or not what it should be; the text names it.
    """
    try:
        return kind.options.model_validate(dict(given))
    except ValidationError as exc:
        raise JobConfigError("; ".join(_words(kind, error) for error in exc.errors())) from exc


def _words(kind: JobKind, error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    flag = f"--{name.replace('_', '-')}"
    match error["type"]:
        case "extra_forbidden":
            return f"the job {kind.name} has no option {name!r}; it has {', '.join(kind.options.model_fields)}"
        case "missing":
            described = kind.options.model_fields[name].description if name in kind.options.model_fields else None
            return f"the job {kind.name} needs {flag}" + (f": {described}" if described else "")
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"{f'{flag}: ' if name else ''}{said[0].lower()}{said[1:]}"


#: Kafka's limit for the name of a topic; and the characters that it takes there.
MAX_TOPIC = 249
_TOPIC_TEXT = re.compile(r"[A-Za-z0-9._-]+")


def changelog_topic(group: str, topic: str) -> str:
    """The topic in which Quix Streams keeps the changes of the state that ``group`` has of ``topic``."""
    return f"changelog__{group}--{topic}--default"


def result_topics(kinds: Sequence[TopicKind], topics: Topics) -> dict[str, int]:
    """Topics of these families with their default number of partitions."""
    from schemas.avro.topics import FAMILIES

    return {topics.name(kind): FAMILIES[kind].partitions for kind in kinds}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """One job of one process."""

    kind: JobKind
    options: JobOptions
    gateway: str
    bootstrap: str
    #: The folder of the identity with which TLS is spoken; None: none is.
    tls: FilePath | None = None
    #: The consumer group; instances of one share the work, a new name begins at the earliest record. Without one there
    #: is one for each gateway, kind and `JobOptions.identity`.
    group: str | None = None
    #: The folder of the state; it may be lost, and is then made anew from Kafka.
    state: FilePath | None = None
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    #: A file of API keys; then /metrics is for their holders only.
    metrics_keys: FilePath | None = None
    #: How long Kafka keeps the partitions of an instance that vanished.
    session_s: float = 10.0
    #: What is put out is seen when it is committed, this often.
    commit_s: float = 1.0
    show: Callable[[Any], None] | None = None

    @property
    def cluster(self) -> Cluster:
        """Where the job's records are, and as whom it speaks to it."""
        from connectors.kafka import Cluster  # the help of the commands needs the jobs, and no client of Kafka

        return Cluster(bootstrap=self.bootstrap, tls=self.tls)

    @property
    def group_id(self) -> str:
        if self.group:
            return self.group
        identity = self.options.identity()
        # Two dots, as no gateway's id has them: so this is nobody's but this gateway's (security.acls).
        return f"headwater-analytics-{self.kind.name}-{self.gateway}" + (f"..{identity}" if identity else "")

    def check_group(self, inputs: Sequence[str]) -> None:
        """Whether Kafka and the file system can have the names that are made of the group, where ``inputs`` are read.

        Raises:
            JobConfigError: they cannot; the text says what can be.
        """
        group = self.group_id
        if _TOPIC_TEXT.fullmatch(group) is None or group in (".", ".."):
            raise JobConfigError(
                f"--group {group[:80]!r}: topics and folders are named by it: letters, digits, '.', '_' and '-' are "
                "expected"
            )
        stateful = self.kind.stateful
        longest = max((len(changelog_topic("", topic)) for topic in inputs), default=0) if stateful else 0
        most = MAX_TOPIC - longest
        if len(group) > most:
            why = ", as Kafka takes no longer name for the changelog topic of its state" if stateful else ""
            raise JobConfigError(
                f"the consumer group {group[:80]}… has {len(group)} characters; with this gateway {most} are the "
                f"most{why}. Give a shorter --group"
            )

    @property
    def state_folder(self) -> FilePath:
        return self.state or FilePath(".headwater") / self.gateway / "analytics" / self.group_id
