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


class Alarms:
    """Alarms that ring up to ``tick`` ms late. ``owner``: 16 bytes that tell one kind of state from another.

    The tick is the unit of what is in the state: it may follow from no option that a job may change.
    """

    def __init__(self, tick: int, owner: bytes) -> None:
        self._tick, self._owner = tick, owner

    def now(self, state: State, gateway_time: int) -> tuple[int, bool]:
        """The partition's clock, and whether alarms may be due: then `ring` is to be asked."""
        meta = state.get_bytes(_META)
        if meta is None:
            return gateway_time, True
        clock, rung, _, owner = _NUMBERS.unpack(meta)
        if owner != self._owner:
            raise JobConfigError(
                "the state of this consumer group is of other options (window, hop, grouping); give the options of "
                "before, or begin anew with another --group"
            )
        now = max(clock, gateway_time)
        return now, now // self._tick - 1 > rung

    def ring(self, state: State, now: int, clock: int) -> list[bytes]:
        """The names that are due by ``now``; ``clock`` is what the clock says from here on.

        All of them at once, as their alarms are gone then: a caller that fails at one still has the others.
        """
        names: list[bytes] = []
        meta = state.get_bytes(_META)
        upto = now // self._tick - 1
        if meta is None:
            state.set_bytes(_META, _NUMBERS.pack(clock, upto, upto, self._owner))
            return names
        _, rung, last, _ = _NUMBERS.unpack(meta)
        upto = max(upto, rung)
        state.set_bytes(_META, _NUMBERS.pack(clock, upto, max(last, upto), self._owner))
        for bucket in range(rung + 1, min(upto, last) + 1):
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

    def silent(self, state: State, silent: int) -> int | None:
        """The clock, up to a tick behind, if an alarm would be due ``silent`` ms after it; else None."""
        meta = state.get_bytes(_META)
        if meta is None:
            return None
        clock, rung, last, _ = _NUMBERS.unpack(meta)
        return int(clock) if min((clock + silent) // self._tick - 1, last) > rung else None

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
