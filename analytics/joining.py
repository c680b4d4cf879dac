"""The job that joins: readings into series, series into matches, matches through the user's code to observations.

Owns how a join of several endpoints comes together in one partition, and how a join keeps its buffers in its state.
What a join is of is `analytics.join_plan`'s; when readings match, `analytics.alignment`'s; what the user's functions
may do, `analytics.user_code`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NoReturn

import structlog

from analytics.alarms import UNUSABLE, Alarms, left_out
from analytics.alignment import Aligner, AlignmentError, Match, Mode
from analytics.derived import encoded, observation
from analytics.job import BadRecord, Emit, Incoming, JobConfigError, State, Surroundings
from analytics.join_plan import Plan
from analytics.join_state import JoinState, packed, packed_reading, size_of, unpacked, unpacked_reading
from analytics.readings import GATEWAY_AHEAD_MS, Observed, observed, within
from analytics.results import encoded_key
from analytics.user_code import Reading, UserCode, UserCodeError
from analytics.windows import LATEST
from schemas.avro.serde import SerdeError

_log = structlog.get_logger("headwater.analytics")

_INT64 = range(-(2**63), 2**63)
#: Joins of one endpoint (patterns with ``*``): a device may invent instances.
MOST_GROUPS = 1000
#: What one join keeps: it is one record of the changelog, and Kafka takes none beyond 1 MB.
MOST_BYTES = 768 * 1024
#: Of the alarms: so much later than told may what waits in a silent join come.
_TICK_MS = 5000


class Joining:
    """A job (`analytics.job.Job`)."""

    def __init__(self, plan: Plan, code: UserCode, surroundings: Surroundings) -> None:
        self._plan = plan
        self._code = code
        self._metrics = surroundings.metrics
        self._show = surroundings.show
        self._name = surroundings.group
        self._aligner = Aligner(plan.alignment)
        self._groups = lru_cache(maxsize=65536)(self._find)
        told = repr(("join", plan.series, plan.alignment.mode))
        self._alarms = Alarms(_TICK_MS, sha256(told.encode()).digest()[:16], self._metrics)
        #: In an interval join nothing waits.
        self._rings = plan.idle > 0 and plan.alignment.mode is Mode.AS_OF

    def take(self, record: Incoming, state: State, emit: Emit) -> None:
        """Handle a record; what the user's code fails at is left out, and told when the rest is done.

        Raises:
            BadRecord, SerdeError: the record is none; nothing was touched.
            UserCodeError: see above. A match that fails may not hold up the join: what it is of is used up with it.
        """
        failures: list[UserCodeError] = []
        if record.topic == self._plan.rekeyed:
            # In this topic are only readings that went through ingest.
            name, number, group, reading, clock = _from_json(record.value, len(self._plan.series))
            if name != self._name:
                return  # of another consumer group that joins the same series, and has the reading as well
            if clock > record.timestamp + max(self._plan.ahead, GATEWAY_AHEAD_MS):
                clock = record.timestamp
            now = self._time(clock, record.timestamp, state, emit, failures)
            self._add(number, group, reading, now, state, emit, failures)
        else:
            told = within(observed(record.value), record.timestamp, self._plan.ahead)
            rekeyed = self._plan.rekeyed
            # All of ingest before the state is touched.
            readings = [*self._readings(told, failures)]
            now = 0 if rekeyed is not None else self._time(told.time, record.timestamp, state, emit, failures)
            for number, group, reading in readings:
                if rekeyed is None:
                    self._add(number, group, reading, now, state, emit, failures)
                else:
                    # The clock is in it, and not its time in Kafka, by which retention would delete what is old unread.
                    value = json.dumps([self._name, number, group.decode(), list(reading), told.time]).encode()
                    emit(rekeyed, group, value)
        if failures:
            _tell(failures)

    def idle(self, silent_s: float, state: State, emit: Emit) -> None:
        silent = int(silent_s * 1000)
        clock = self._alarms.silent(state, silent) if self._rings and silent >= self._plan.idle else None
        if clock is None:
            return
        failures: list[UserCodeError] = []
        self._ring(state, clock + silent, clock, emit, failures)
        for failure in failures:
            # No record is at hand that could be a dead letter.
            _log.warning("left out of a join", error=str(failure)[:300])
            self._metrics.skipped(1)

    def _time(self, gateway_time: int, kafka_time: int, state: State, emit: Emit, failures: list[UserCodeError]) -> int:
        """The partition's clock, after what was due by it is done; where nothing waits, the record's time."""
        if not self._rings:
            return max(gateway_time, kafka_time)
        now, due = self._alarms.now(state, min(max(gateway_time, 0), LATEST), kafka_time)
        if due:
            self._ring(state, now, now, emit, failures)
        return now

    def _ring(self, state: State, now: int, clock: int, emit: Emit, failures: list[UserCodeError]) -> None:
        for group in self._alarms.ring(state, now, clock):
            try:
                self._rung(group, now, state, emit, failures)
            except UNUSABLE as exc:
                left_out(group, exc, self._metrics)

    def _rung(self, group: bytes, now: int, state: State, emit: Emit, failures: list[UserCodeError]) -> None:
        known = self._known(state, group)
        if known is None:
            return
        matches: Sequence[Match] = ()
        if known.heard > now:
            # By a clock that was wrong, and is put back. Kept, or it would seem to be heard anew at each alarm.
            known.heard = now
            state.set_bytes(b"j" + group, packed(known))
        if not self._aligner.waits(known.buffers):
            known.alarmed = False
        elif known.heard + self._plan.idle > now:
            self._alarms.set(state, group, known.heard + self._plan.idle)
            return
        else:
            known.alarmed = False
            matches = self._aligner.silence(known.buffers).matches
        state.set_bytes(b"j" + group, packed(known))
        self._publish_all(matches, emit, failures)

    def _known(self, state: State, group: bytes) -> JoinState | None:
        kept = state.get_bytes(b"j" + group)
        try:
            return None if kept is None else unpacked(kept, len(self._plan.series))
        except AlignmentError as exc:
            raise JobConfigError(f"{exc} (--group)") from exc

    def _readings(self, told: Observed, failures: list[UserCodeError]) -> Iterator[tuple[int, bytes, Reading]]:
        if told.skipped:
            self._metrics.skipped(told.skipped)
        latest = told.time + self._plan.ahead
        for path, value, time, own in told.readings:
            groups = self._groups(told.ep, path)
            if not groups:
                continue
            if own and not 0 <= time <= latest:
                self._metrics.ahead()
                time = told.time
            reading = Reading(told.ep, path, value, time, told.server_id)
            if self._code.ingest is None:
                for number, group in groups:
                    yield number, group, reading
                continue
            try:
                taken = self._code.taken(reading)
            except UserCodeError as exc:
                failures.append(exc)
                continue
            for one in taken:
                # A reading of another endpoint would be joined in the wrong partition.
                if one.ep != told.ep and self._plan.rekeyed is None:
                    failures.append(UserCodeError(f"ingest() gave a reading of {one.ep!r} for one of {told.ep!r}"))
                    continue
                for number, group in self._groups(one.ep, one.path):
                    yield number, group, one

    def _find(self, ep: str, path: str) -> tuple[tuple[int, bytes], ...]:
        """The series that a path belongs to, and the key of the join that it takes part in there."""
        found = []
        for number, series in enumerate(self._plan.series):
            free = series.open_part(ep, path)
            if free is not None:
                # No two are the same, whatever an endpoint calls itself.
                whose = "*" if self._plan.rekeyed is not None else f"{len(ep)}:{ep}"
                found.append((number, f"{whose}/{'/'.join(map(str, free))}".encode()))
        return tuple(found)

    def _add(
        self,
        number: int,
        group: bytes,
        reading: Reading,
        now: int,
        state: State,
        emit: Emit,
        failures: list[UserCodeError],
    ) -> None:
        known = self._known(state, group)
        if known is None:
            if not self._room(reading.ep, state):
                self._metrics.crowded()
                return
            known = JoinState(self._aligner.begin(), now, False)
        value = packed_reading(reading)
        added = self._aligner.add(known.buffers, number, reading.time, value)
        begun: Sequence[Match] = ()
        latest = now + self._plan.ahead
        if added.late and reading.time <= latest and (known.buffers.watermark or 0) > latest + 1:
            # The gateway's own clock was wrong, as no device's can be: until it is there again all would be late. Where
            # the reading is ahead as well, it is by what ingest() has made of its time, and only late.
            self._metrics.clock_put_back()
            _log.warning("join begun anew, it was ahead of the clock", join=repr(group)[:100])
            begun, known.buffers = self._aligner.silence(known.buffers).matches, self._aligner.begin()
            added = self._aligner.add(known.buffers, number, reading.time, value)
        if added.late:
            self._metrics.late()
            return
        if added.pushed_out or added.cut:
            self._metrics.skipped(added.pushed_out + added.cut)
        known.heard = now
        if self._rings and not known.alarmed and self._aligner.waits(known.buffers):
            # One alarm a join: when it rings, it is set anew if something came in between.
            self._alarms.set(state, group, now + self._plan.idle)
            known.alarmed = True
        matches, kept = (*begun, *added.matches), packed(known)
        if len(kept) > MOST_BYTES:
            shed = self._aligner.shed(known.buffers, len(kept) - MOST_BYTES, size_of)
            self._metrics.skipped(shed.pushed_out)
            matches, kept = (*matches, *shed.matches), packed(known)
        state.set_bytes(b"j" + group, kept)
        if matches:
            self._publish_all(matches, emit, failures)

    def _room(self, ep: str, state: State) -> bool:
        """Whether one more join may begin; counts it."""
        whose = b"m" if self._plan.rekeyed is not None else b"m" + ep.encode()
        count = state.get(whose) or 0
        if count >= MOST_GROUPS:
            return False
        state.set(whose, count + 1)
        return True

    def _publish_all(self, matches: Sequence[Match], emit: Emit, failures: list[UserCodeError]) -> None:
        for match in matches:
            try:
                self._publish(match, emit)
            except UserCodeError as exc:
                failures.append(exc)

    def _publish(self, match: Match, emit: Emit) -> None:
        plan = self._plan
        readings = [None if item is None else unpacked_reading(item.value, item.time) for item in match.items]
        first = readings[0]
        assert first is not None, "the first series is always there"
        derived = self._code.joined(readings, plan.path)
        ep = plan.ep or first.ep
        try:
            key = encoded_key(ep)
            values = [
                encoded(one, ep=ep, server_id=first.server_id, ticket=self._name, time=match.time) for one in derived
            ]
        except SerdeError as exc:
            # Names that ingest() gave; all else was looked at before.
            raise UserCodeError(f"a result of on_join() in {self._code.file} is no record: {exc}") from exc
        for one, value in zip(derived, values, strict=True):
            emit(plan.output, key, value)
            if self._show is not None:
                self._show(observation(one, ep=ep, server_id=first.server_id, ticket=self._name, time=match.time))


def _tell(failures: Sequence[UserCodeError]) -> NoReturn:
    """Raise what went wrong with a record, once everything else of it is done."""
    more = f" (and {len(failures) - 1} more of this record)" if len(failures) > 1 else ""
    raise UserCodeError(f"{failures[0]}{more}")


def _from_json(value: bytes | None, series: int) -> tuple[str, int, bytes, Reading, int]:
    """The consumer group that has written it, the number of the series, the join's key, the reading, and the clock."""
    try:
        name, number, group, reading, clock = json.loads(value or b"")
        known = Reading(*reading)
        texts = (name, group, known.ep, known.path, known.server_id)
        if not all(isinstance(one, str) for one in texts) or type(number) is not int or not 0 <= number < series:
            raise ValueError("it is of another join")
        if not isinstance(known.time, int) or known.time not in _INT64:
            raise ValueError("it has no time")
        if type(clock) is not int:
            raise ValueError("it has no clock")
        return name, number, group.encode(), known, clock
    except (ValueError, TypeError, RecursionError) as exc:
        raise BadRecord(f"no reading of a join: {exc!s:.200}") from exc
