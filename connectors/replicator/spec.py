"""What a lane is told to do, and on whose behalf."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

from connectors import kafka
from connectors.replicator.bandwidth import Urgency


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpec:
    """What a lane carries from where to where."""

    name: str
    number: int  # its partition of the ledger
    lanes: int
    gateway: str
    urgency: Urgency
    source: kafka.Cluster
    target: kafka.Cluster
    topics: tuple[str, ...]
    compression: str
    tell_source: bool  # commit the positions to a group of the source as well, for people and for the retention alarm

    @property
    def transactional_id(self) -> str:
        return f"headwater-replicator.{self.gateway}.{self.name}"

    @property
    def group(self) -> str:
        return f"headwater-replicator.{self.gateway}"

    @property
    def leads(self) -> bool:
        """Whether this lane asks the ledger for the process's generation; the others wait for it."""
        return self.number == 0


@dataclass(slots=True)
class Tenure:
    """Who this process is to its ledgers; all its lanes share it. ``known``: the generation is committed, and final.

    ``connected_at``: when one of them was connected last (monotonic seconds): the line is whole then.
    """

    instance: str
    where: str
    generation: int = 0
    known: threading.Event = field(default_factory=threading.Event)
    connected_at: float = -math.inf
