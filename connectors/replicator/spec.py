"""What a lane is told to do."""

from __future__ import annotations

from dataclasses import dataclass

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
