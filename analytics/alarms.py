"""Who is to be looked at again, and when: alarms by the gateway's clock, kept in a job's state. Pure.

Owns the clock of a partition, which is the latest time of the gateway in its records, and buckets of names by the time
at which they are due. A name is any bytes; it may have several alarms. Setting one costs a short list, whatever the
number of names; nothing is held in memory, so that an instance that takes a partition over knows all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError

import structlog

from analytics.job import BadRecord, JobConfigError, Metrics, State
from schemas.avro.serde import SerdeError

_log = structlog.get_logger("headwater.analytics")

#: What may be wrong with one name alone: the others that rang are gone on with. Never Kafka's, which ends the turn.
UNUSABLE = (BadRecord, SerdeError, ValueError, ArithmeticError, StructError)

#: Names in one value of the state.
_CHUNK = 32
_META = b"\x00clock"
#: The clock, the bucket up to which alarms have rung, the last bucket that has any; and whose state it is.
_NUMBERS = Struct("<qqq16s")
_BUCKET = Struct(">cqI")
_LENGTH = Struct("<I")


#: A clock that is further ahead of the records than ``_FAR`` ms, while they go on for ``_DOUBTED_FOR`` ms, is wrong.
_FAR, _DOUBTED_FOR = 600_000, 60_000
_DOUBT = b"\x00doubt"
#: The clock that is in doubt, and the time of the first record that it was.
_DOUBTED = Struct("<qq")


class Alarms:
    """Alarms that ring up to ``tick`` ms late. ``owner``: 16 bytes that tell one kind of state from another.

    A clock that once was far ahead (a gateway's that jumped, a state of before) would stand for as long as it is ahead,
    and no silence would be heard. It is put back when a minute of records was behind it: then all alarms ring.

    The tick is the unit of what is in the state: it may follow from no option that a job may change.
    """

    def __init__(self, tick: int, owner: bytes, metrics: Metrics) -> None:
        self._tick, self._owner, self._metrics = tick, owner, metrics

    def now(self, state: State, gateway_time: int, kafka_time: int) -> tuple[int, bool]:
        """The partition's clock, and whether alarms may be due: then `ring` is to be asked.

        ``gateway_time`` is that in the record, ``kafka_time`` is when Kafka has it from; both epoch ms.
        """
        meta = state.get_bytes(_META)
        if meta is None:
            return gateway_time, True
        clock, rung, _, owner = _NUMBERS.unpack(meta)
        if owner != self._owner:
            raise JobConfigError(
                "the state of this consumer group is of other options (window, hop, grouping); give the options of "
                "before, or begin anew with another --group"
            )
        if clock - max(gateway_time, kafka_time) > _FAR and self._wrong(state, clock, max(gateway_time, kafka_time)):
            return gateway_time, True
        now = max(clock, gateway_time)
        return now, now // self._tick - 1 > rung

    def ring(self, state: State, now: int, clock: int) -> list[bytes]:
        """The names that are due by ``now``; ``clock`` is what the clock says from here on.

        All names, where that is less than it was: it was wrong, and is put back.
        All of them at once, as their alarms are gone then: a caller that fails at one still has the others.
        """
        names: list[bytes] = []
        meta = state.get_bytes(_META)
        upto = now // self._tick - 1
        if meta is None:
            state.set_bytes(_META, _NUMBERS.pack(clock, upto, upto, self._owner))
            return names
        before, rung, last, _ = _NUMBERS.unpack(meta)
        if clock < before:
            _log.warning("clock put back, it was ahead of all records", was_ms=before, is_ms=clock)
            self._metrics.clock_put_back()
            state.delete(_DOUBT)
            buckets = range(rung + 1, last + 1)
            state.set_bytes(_META, _NUMBERS.pack(clock, upto, upto, self._owner))
        else:
            upto = max(upto, rung)
            buckets = range(rung + 1, min(upto, last) + 1)
            state.set_bytes(_META, _NUMBERS.pack(clock, upto, max(last, upto), self._owner))
        for bucket in buckets:
            count = self._count(state, bucket)
            if not count:
                continue
            state.delete(_BUCKET.pack(b"n", bucket, 0))
            for chunk in range((count - 1) // _CHUNK + 1):
                key = _BUCKET.pack(b"d", bucket, chunk)
                names.extend(_split(state.get_bytes(key) or b""))
                state.delete(key)
        return names

    def set(self, state: State, name: bytes, at: int) -> None:
        """Ring for ``name`` when the clock is at ``at`` ms, or a little later; `ring` has been asked before."""
        meta = state.get_bytes(_META)
        if meta is None:
            raise ValueError("the clock does not run yet")
        clock, rung, last, owner = _NUMBERS.unpack(meta)
        bucket = max(at // self._tick, rung + 1)
        if bucket > last:
            state.set_bytes(_META, _NUMBERS.pack(clock, rung, bucket, owner))
        count = self._count(state, bucket)
        state.set_bytes(_BUCKET.pack(b"n", bucket, 0), _LENGTH.pack(count + 1))
        key = _BUCKET.pack(b"d", bucket, count // _CHUNK)
        before = (state.get_bytes(key) or b"") if count % _CHUNK else b""
        state.set_bytes(key, before + _LENGTH.pack(len(name)) + name)

    def clock(self, state: State) -> int | None:
        """What the partition's clock said last; None before the first record."""
        meta = state.get_bytes(_META)
        return None if meta is None else int(_NUMBERS.unpack(meta)[0])

    def silent(self, state: State, silent: int) -> int | None:
        """The clock, up to a tick behind, if an alarm would be due ``silent`` ms after it; else None."""
        meta = state.get_bytes(_META)
        if meta is None:
            return None
        clock, rung, last, _ = _NUMBERS.unpack(meta)
        return int(clock) if min((clock + silent) // self._tick - 1, last) > rung else None

    def _wrong(self, state: State, clock: int, time: int) -> bool:
        """Whether ``clock`` has stood still for so long a time of records that they are right."""
        doubt = state.get_bytes(_DOUBT)
        doubted, since = (None, 0) if doubt is None else _DOUBTED.unpack(doubt)
        if doubted != clock:
            state.set_bytes(_DOUBT, _DOUBTED.pack(clock, time))
            return False
        return bool(time - since >= _DOUBTED_FOR)

    def _count(self, state: State, bucket: int) -> int:
        count = state.get_bytes(_BUCKET.pack(b"n", bucket, 0))
        return 0 if count is None else int(_LENGTH.unpack(count)[0])


def left_out(name: bytes, error: Exception, metrics: Metrics) -> None:
    """Tell that a name which rang could not be looked at: no record is at hand that could be a dead letter."""
    _log.warning("left out at an alarm", name=repr(name)[:100], error=str(error)[:300])
    metrics.skipped(1)


def _split(names: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(names):
        (length,) = _LENGTH.unpack_from(names, at)
        at += _LENGTH.size + length
        yield names[at - length : at]
