"""The job ``outliers``: each reading with its z-score and whether it is an outlier; and the alerts of people's rules.

Owns what is remembered of a series: its running distribution where none is known, and where each rule stands. The
verdicts are `analytics.outliers`', the state machine is `analytics.alerts`'. Alerts are delivered from their topic by
sinks, so that nobody who is slow or away holds the readings up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path as FilePath
from struct import Struct
from typing import ClassVar, NamedTuple

from pydantic import Field

from analytics import readings, results
from analytics.alerts import (
    UNKNOWN,
    AlertMemory,
    Change,
    Event,
    Phase,
    Rule,
    Severity,
    alert_id,
    given_up,
    step,
    within,
)
from analytics.job import Emit, Incoming, JobConfigError, JobKind, State, Surroundings, result_topics
from analytics.jobs.series_options import SAMPLE, SeriesOptions
from analytics.memory import MOMENTS_SIZE, admitted, packed, series_key, unpacked
from analytics.outliers import Known, Learn, OutlierPolicy, judge, judge_running
from analytics.results import encoded_key
from analytics.rules import Rules, RulesError, parse_rules
from analytics.welford import EMPTY
from schemas.avro.analytics_records import Alert, AlertState
from schemas.avro.serde import decode, encode
from schemas.avro.topics import TopicKind

_PHASES = tuple(Phase)
_SEVERITIES = tuple(Severity)
#: Length of the rule's name; phase, since, whether there is a time, time, value, told; severity, threshold.
_RULE = Struct("<HBq?qdqBd")


class OutliersOptions(SeriesOptions):
    IDENTITY: ClassVar[tuple[str, ...]] = (*SeriesOptions.IDENTITY, "rules", "limit", "warm_up", "learn")

    rules: FilePath | None = Field(
        default=None, description="File of known distributions and alerts (TOML); see docs/analytics.md."
    )
    limit: float = Field(
        default=3.0, gt=0, allow_inf_nan=False, description="A reading is an outlier beyond so many deviations: 3."
    )
    warm_up: int = Field(
        default=30, ge=1, description="So many readings of a series without a known distribution are not judged: 30."
    )
    learn: Learn = Field(
        default=Learn.ALL, description="'all' readings enter the running distribution, or only 'inliers': all."
    )


class _Watched(NamedTuple):
    """What is to be done for a series."""

    known: Known | None
    rules: tuple[Rule, ...]


class _Kept(NamedTuple):
    """One rule in the state of a series; severity and threshold are those with which it fired, if it does."""

    memory: AlertMemory
    severity: Severity
    threshold: float


class OutliersJob:
    """See `analytics.job.Job`."""

    def __init__(self, options: OutliersOptions, around: Surroundings) -> None:
        """Raises JobConfigError: the file of rules cannot be read, or says what cannot be."""
        self._rules = _read(options.rules)
        self._policy = OutlierPolicy(limit=options.limit, warm_up=options.warm_up, learn=options.learn)
        self._ahead, self._most, self._only = options.ahead, options.max_series, options.only
        self._watched = lru_cache(maxsize=65536)(self._watch)
        self._readings = around.topics.name(TopicKind.READINGS)
        self._alerts = around.topics.name(TopicKind.ALERTS)
        self._gateway, self._metrics, self._show = around.gateway, around.metrics, around.show

    def take(self, record: Incoming, state: State, emit: Emit) -> None:
        told = readings.within(readings.observed(record.value), record.timestamp, self._ahead)
        # An old record of the gateway's that is put in anew makes nothing of today late.
        latest = max(told.time, record.timestamp) + self._ahead
        if told.skipped:
            self._metrics.skipped(told.skipped)
        for path, value, time, own in told.readings:
            watched = self._watched(told.ep, path)
            if watched is None:
                self._leave(told.ep, path, latest, state, emit)
                continue
            if own and not 0 <= time <= told.time + self._ahead:
                self._metrics.ahead()
                time = told.time
            self._judge(watched, told.ep, path, value, time, latest, state, emit)

    def idle(self, _silent_s: float, _state: State, _emit: Emit) -> None:
        """Only readings tell anything."""

    def _watch(self, ep: str, path: str) -> _Watched | None:
        """None where the series is not to be looked at."""
        if not self._only.matches(ep, path):
            return None
        known = next((known for known in self._rules.distributions if known.series.matches(ep, path)), None)
        return _Watched(known, tuple(rule for rule in self._rules.alerts if rule.series.matches(ep, path)))

    def _judge(
        self,
        watched: _Watched,
        ep: str,
        path: str,
        value: float,
        time: int,
        latest: int,
        state: State,
        emit: Emit,
    ) -> None:
        known, rules = watched
        key = series_key(ep, path)
        kept = state.get_bytes(key)
        remembers = known is None or bool(rules)
        if remembers and kept is None and not admitted(state, ep, self._most):
            self._metrics.crowded()
            return
        if known is None:
            verdict, moments = judge_running(value, unpacked(kept), self._policy)
        else:
            # What was learnt before the distribution was known is kept, for when it is known no more.
            verdict, moments = judge(value, known, self._policy), EMPTY if kept is None else unpacked(kept)
        enriched = results.enriched(self._gateway, ep, path, time, value, *verdict)
        emit(self._readings, encoded_key(ep), enriched)
        if self._show is not None:
            self._show(decode(enriched))
        if not rules and (kept is None or len(kept) == MOMENTS_SIZE):
            if remembers:
                state.set_bytes(key, packed(moments))
            return
        before = _unpacked_rules(kept)
        after: dict[str, _Kept] = {}
        late = False
        for rule in rules:
            stands = before.pop(rule.name, None)
            memory = within(stands.memory, latest) if stands else UNKNOWN
            late = late or (memory.time is not None and time < memory.time)
            memory, event = step(rule, memory, time, value, verdict.z_score)
            after[rule.name] = _Kept(memory, rule.severity, rule.threshold)
            if event is not None:
                words = rule.words(ep, path, event.measured)
                self._tell(rule.name, after[rule.name], event, ep, path, words, emit)
        for name, gone in before.items():
            event = given_up(within(gone.memory, latest))
            if event is not None:
                self._tell(name, gone, event, ep, path, f"the rule {name} is there no more", emit)
        if late:
            self._metrics.late()
        if remembers or before:
            state.set_bytes(key, packed(moments) + _packed_rules(after))

    def _leave(self, ep: str, path: str, latest: int, state: State, emit: Emit) -> None:
        """A series that is not to be looked at: if it was once, what fires there ends, as nobody will see it end."""
        key = series_key(ep, path)
        kept = state.get_bytes(key)
        if kept is None or len(kept) == MOMENTS_SIZE:
            return
        for name, stands in _unpacked_rules(kept).items():
            event = given_up(within(stands.memory, latest))
            if event is not None:
                self._tell(name, stands, event, ep, path, f"{path} of {ep} is not looked at any more", emit)
        state.set_bytes(key, kept[:MOMENTS_SIZE])

    def _tell(self, rule: str, kept: _Kept, event: Event, ep: str, path: str, summary: str, emit: Emit) -> None:
        alert = Alert(
            id=alert_id(rule, self._gateway, ep, path, event.since),
            rule=rule,
            server_id=self._gateway,
            ep=ep,
            path=path,
            severity=kept.severity.value,
            state=AlertState.RESOLVED if event.change is Change.RESOLVES else AlertState.FIRING,
            value=event.measured,
            threshold=kept.threshold,
            since=event.since,
            timestamp=event.timestamp,
            summary=summary,
        )
        emit(self._alerts, encoded_key(ep), encode(alert))
        if self._show is not None:
            self._show(alert)


def _read(file: FilePath | None) -> Rules:
    if file is None:
        return Rules()
    try:
        return parse_rules(file.read_text("utf-8"))
    except RulesError as exc:
        raise JobConfigError(f"--rules {file}: {exc}") from exc
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text"
        raise JobConfigError(f"--rules {file}: {why}") from exc


def _packed_rules(rules: Mapping[str, _Kept]) -> bytes:
    return b"".join(_packed_each(rules.items()))


def _packed_each(rules: Iterable[tuple[str, _Kept]]) -> Iterable[bytes]:
    for name, (memory, severity, threshold) in rules:
        text = name.encode()
        yield _RULE.pack(
            len(text),
            _PHASES.index(Phase(memory.phase)),
            memory.since,
            memory.time is not None,
            memory.time or 0,
            memory.value,
            memory.told,
            _SEVERITIES.index(severity),
            threshold,
        )
        yield text


def _unpacked_rules(kept: bytes | None) -> dict[str, _Kept]:
    found: dict[str, _Kept] = {}
    at = MOMENTS_SIZE
    while kept is not None and at < len(kept):
        length, phase, since, timed, time, value, told, severity, threshold = _RULE.unpack_from(kept, at)
        at += _RULE.size + length
        memory = AlertMemory(_PHASES[phase].value, since, time if timed else None, value, told)
        found[kept[at - length : at].decode()] = _Kept(memory, _SEVERITIES[severity], threshold)
    return found


KIND = JobKind(
    name="outliers",
    summary="Each reading with its z-score and outlier flag, by a known distribution or its own; and alerts.",
    options=OutliersOptions,
    make=OutliersJob,
    writes=lambda _options, topics: result_topics([TopicKind.READINGS, TopicKind.ALERTS], topics),
    output="analytics.<gw>.readings, analytics.<gw>.alerts",
    sample=f"""\
# The file of known distributions and alerts. Default: none, each series is judged by its own past.
# rules = "rules.toml"
# A reading is an outlier where it is further from the mean than so many standard deviations.
limit = 3.0
# So many readings of a series without a known distribution are learnt from and not judged.
warm_up = 30
# Which readings enter the running distribution: "all", or only "inliers".
learn = "all"
{SAMPLE}""",
    examples=("", "--limit 4 --learn inliers", "--rules rules.toml"),
)
