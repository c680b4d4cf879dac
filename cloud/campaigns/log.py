"""The topic in which campaigns are: ``headwater.campaigns.<gateway>``, compacted, one partition.

Keys are ``plan/NAME``, ``control/NAME`` and ``device/NAME/EP``; the last record of each is what holds. People write the
first two, whoever runs the campaign the third. The log is all that there is: whoever reads it to its end knows as much
as whoever wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from cloud.campaigns.machine import Device
from cloud.campaigns.plan import (
    Control,
    NotOurs,
    Plan,
    Runner,
    Wish,
    control_json,
    control_of,
    device_json,
    device_of,
    plan_json,
    plan_of,
)
from cloud.writing import Record, write
from connectors.kafka import Cluster, Message, ensure_topics, partition_counts, read_to_end
from security.acls import campaigns_topic

_log = structlog.get_logger("headwater.campaigns")

_SETTINGS = {"cleanup.policy": "compact", "max.compaction.lag.ms": "86400000"}


def make(cluster: Cluster, gateway: str, *, timeout: float = 15.0) -> None:
    """Make the topic if it is not there. Raises Unreachable, KafkaException."""
    topic = campaigns_topic(gateway)
    ensure_topics(cluster, {topic: 1}, config={topic: _SETTINGS}, timeout=timeout)


@dataclass(slots=True)
class Campaign:
    """One campaign as far as its records were read."""

    plan: Plan
    control: Control = field(default_factory=Control)
    devices: dict[str, Device] = field(default_factory=dict)


class Book:
    """All campaigns of a gateway, from the records of the topic."""

    def __init__(self) -> None:
        self.campaigns: dict[str, Campaign] = {}
        #: Records that were none of ours.
        self.strange = 0

    def taken(self, now: int) -> dict[str, str]:
        """The devices that a campaign has begun with and not come to an end with, and its name. ``now`` is epoch ms.

        A command that was given up holds its device no longer than it would have had patience.
        """
        return {
            device.ep: campaign.plan.name
            for campaign in self.campaigns.values()
            if campaign.control.wish is not Wish.ABORT
            for device in campaign.devices.values()
            if not device.phase.ended
            and (campaign.plan.runner is Runner.WORKER or now - device.began <= campaign.plan.task.patience)
        }

    def take(self, message: Message) -> Campaign | None:
        """One more record; the campaign that it changed."""
        kind, _, rest = (message.key() or b"").decode("utf-8", "replace").partition("/")
        value: bytes | None = message.value()
        try:
            if value is None:
                return None
            if kind == "plan":
                plan = plan_of(value)
                known = self.campaigns.get(plan.name)
                if known is not None and known.plan.created != plan.created:
                    known = None
                if known is None:
                    known = self.campaigns[plan.name] = Campaign(plan)
                return known
            name, _, ep = rest.partition("/")
            campaign = self.campaigns.get(name)
            if campaign is None:
                raise NotOurs(f"there is no campaign {name[:100]!r}")
            if kind == "control":
                campaign.control = control_of(value)
            elif kind == "device":
                campaign.devices[ep] = device_of(value, ep)
            else:
                raise NotOurs(f"{kind[:100]!r} is no kind of a record")
        except NotOurs as exc:
            self.strange += 1
            _log.warning("a record of the campaigns is left out", offset=message.offset(), error=str(exc))
            return None
        return campaign


def read(cluster: Cluster, gateway: str) -> Book:
    """All that the topic holds; nothing where there is no topic.

    Raises:
        Unreachable, KafkaException: Kafka did not answer, or refused.
    """
    book = Book()
    if partition_counts(cluster, [campaigns_topic(gateway)]):
        for message in read_to_end(cluster, [campaigns_topic(gateway)]):
            book.take(message)
    return book


def plan_record(plan: Plan) -> tuple[str, bytes]:
    return f"plan/{plan.name}", plan_json(plan)


def control_record(name: str, control: Control) -> tuple[str, bytes]:
    return f"control/{name}", control_json(control)


def device_record(name: str, device: Device) -> tuple[str, bytes]:
    return f"device/{name}/{device.ep}", device_json(device)


def say(cluster: Cluster, gateway: str, *records: tuple[str, bytes]) -> None:
    """Write some records, and return when Kafka has them.

    Raises:
        Unreachable, KafkaException: Kafka did not answer, or refused.
        NotSent: it did not take them, or not confirm them in time.
    """
    make(cluster, gateway)
    write(
        cluster,
        campaigns_topic(gateway),
        [Record(key=key.encode(), value=value, partition=0) for key, value in records],
        f"what became of a campaign of {gateway}",
        timeout=15.0,
        in_vain=", so not run campaigns there",
    )
