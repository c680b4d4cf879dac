"""Which records of a partition are in the store already. Pure.

Owns the set of offsets that a batch is held against and its form as text, which is kept in Redis beside what the
records became and changes in the same step.

One highest offset would not do: an emptied store is filled again by a replay, from the beginning, while the sink that
runs goes on at the end; and a dead letter is tried again long after its neighbours. So it is a list of spans. Offsets
that hold no record (a topic that is written in transactions has one a transaction) end a span like records that were
refused; of these gaps only the last few hundred are kept, the narrowest and oldest are closed first.

Each span knows the newest time of its records: a record that stands in a span but is newer than all of it is one of a
topic that was deleted and made anew.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple

#: More are joined: a span takes about forty bytes in Redis, and a few hundred are read and written with every batch.
MAX_SPANS = 256


class Span(NamedTuple):
    """Offsets from ``first`` to ``last``, both in it; ``newest`` is the newest time of their records, in ms."""

    first: int
    last: int
    newest: int


class Applied:
    """The offsets of one partition that are in the store."""

    def __init__(self, text: str = "") -> None:
        """``text`` is what `text` made; raises ValueError for anything else."""
        self._spans: list[Span] = []
        for part in text.split():
            first, last, newest = part.split(":")
            self._spans.append(Span(int(first), int(last), int(newest)))

    @property
    def text(self) -> str:
        """One word a span: ``first:last:newest``."""
        return " ".join(f"{first}:{last}:{newest}" for first, last, newest in self._spans)

    @property
    def next(self) -> int:
        """The offset after the highest; 0 where there are none."""
        return self._spans[-1].last + 1 if self._spans else 0

    def add(self, offset: int, time_ms: int) -> bool:
        """Count a record in; False if it was in before."""
        spans = self._spans
        at = bisect_right(spans, offset, key=lambda span: span.first)
        # spans[at - 1] is the only one that could hold it.
        if at and offset <= spans[at - 1].last:
            first, last, newest = spans[at - 1]
            if time_ms <= newest:
                return False
            # Of a new topic of the old name. The rest of the span stays: it is replaced offset by offset.
            rest = [Span(first, offset - 1, newest)] if first < offset else []
            more = [Span(offset + 1, last, newest)] if offset < last else []
            spans[at - 1 : at] = [*rest, *more]
            at = at - 1 + len(rest)
        fresh = Span(offset, offset, time_ms)
        if at and spans[at - 1].last == offset - 1:
            at -= 1
            before = spans.pop(at)
            fresh = Span(before.first, offset, max(before.newest, time_ms))
        # A span of the old topic is not joined from its left: it would take what is to replace it for known.
        if at < len(spans) and spans[at].first == offset + 1 and spans[at].newest >= fresh.newest:
            after = spans.pop(at)
            fresh = Span(fresh.first, after.last, after.newest)
        spans.insert(at, fresh)
        if len(spans) > MAX_SPANS:
            self._close_a_gap()
        return True

    def _close_a_gap(self) -> None:
        spans = self._spans
        # Spans that touch are of two topics, and stay apart.
        gaps = [(right.first - left.last, at) for at, (left, right) in enumerate(pairwise(spans))]
        _, at = min((gap for gap in gaps if gap[0] > 1), default=gaps[0])
        left, right = spans[at], spans[at + 1]
        spans[at : at + 2] = [Span(left.first, right.last, max(left.newest, right.newest))]
