"""Dead letters as a source: each record is tried once, and reading ends where the topic ended at the start.

Owns which of them are tried and when all are read. It reads nothing itself. Used by the sink's loop alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from connectors.dead_letters import RawRecord, read_back
from connectors.share import Partition
from connectors.sink_records import owner
from schemas.avro.topics import TopicKind


class LettersAgain:
    """Of one run. ``ends`` are those at the start, ``stages`` those whose letters are tried, ``topics`` the sink's."""

    def __init__(self, ends: Mapping[Partition, int], stages: Collection[str], topics: Collection[TopicKind]) -> None:
        #: By partition that has not reached it.
        self._ends = {place: end for place, end in ends.items() if end}
        self._stages = stages
        self._topics = topics
        self._tried: set[tuple[str, int, int, int]] = set()

    def is_old(self, place: Partition, offset: int) -> bool:
        """Whether what stands there was there at the start; else it was perhaps made by this very run, and is the next
        run's."""
        self.reached(place, offset)
        return place in self._ends

    def to_try(self, letter: RawRecord) -> RawRecord | None:
        """The record that became ``letter``, if it is this sink's and was not tried by this run already."""
        found = read_back(letter)
        if found is None or found.stage not in self._stages or owner(found.record.topic)[1] not in self._topics:
            return None
        # One record may have several letters: of several sinks, of a crash, of earlier runs. Each of them would make
        # another, and with every sink that tries they would double.
        origin = (found.record.topic, found.record.partition, found.record.offset, found.record.timestamp)
        if origin in self._tried:
            return None
        self._tried.add(origin)
        return found.record

    def forget_tried(self) -> None:
        """What was taken up is given away untried; if it comes back, it is tried."""
        self._tried.clear()

    def reached(self, place: Partition, offset: int) -> None:
        """All before ``offset`` was read."""
        if offset >= self._ends.get(place, 0):
            self._ends.pop(place, None)

    def all_read(self, held: Collection[Partition]) -> bool:
        """Whether nothing is left of the partitions that we hold: those of other instances are theirs to finish."""
        return not self._ends or (bool(held) and self._ends.keys().isdisjoint(held))
