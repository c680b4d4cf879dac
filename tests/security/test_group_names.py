"""Names of groups say a sink or a job, then a gateway: no other sink's or job's gateway may read as the same name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import permutations

import pytest

from connectors.kafka import Cluster as Address
from connectors.sink_settings import SinkSettings, Source
from connectors.sinks import SINKS as STORES
from security.acls import (
    JOBS,
    SINKS,
    Cluster,
    Grant,
    Operation,
    Pattern,
    Resource,
    Side,
    job_group,
    rights,
    sink_group,
)
from security.identities import Identity, Role


@pytest.mark.parametrize(("names", "group"), [(SINKS, sink_group), (JOBS, job_group)], ids=["sinks", "jobs"])
def test_no_name_goes_on_as_another_with_a_gateways_id(
    names: Collection[str], group: Callable[[str, str], str]
) -> None:
    assert len(names) > 1
    for one, other in permutations(names, 2):
        if other.startswith(f"{one}-"):
            gateway = other.removeprefix(f"{one}-") + "-x"
            assert group(one, gateway) != group(other, "x"), f"{one} at gateway {gateway} is {other} at gateway x"


def _may_join(grants: Collection[Grant], group: str) -> bool:
    return any(
        group == grant.name or (grant.pattern is Pattern.PREFIXED and group.startswith(grant.name))
        for grant in grants
        if grant.resource is Resource.GROUP and grant.operation is Operation.READ
    )


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("sink", sorted(STORES))
def test_a_sink_may_join_every_group_that_it_really_uses(sink: str, side: Side) -> None:
    """By default, with a group of its own, with the usual one said once more; also for what is tried again."""
    cluster = Cluster(side=side, gateways=("rock64", "a.b"))
    for gateway, name in (("rock64", "rock64"), ("a.b", "a.b"), ("*", "_all")):
        grants = rights(Identity(Role.SINK, name), cluster)
        usual = sink_group(sink, gateway)
        for group in (None, usual, f"{usual}..archive"):
            for source in Source:
                if source is Source.DEAD_LETTERS and gateway == "*":
                    continue  # tried again one gateway at a time
                settings = SinkSettings(
                    sink=sink, gateway=gateway, kafka=Address(bootstrap="x:1"), group=group, source=source
                )
                assert _may_join(grants, settings.group_id), settings.group_id
        assert not _may_join(grants, f"{usual}-archive")
    # A sink of all tries the dead letters of one again.
    again = SinkSettings(
        sink=sink, gateway="a.b", kafka=Address(bootstrap="x:1"), group=f"{sink_group(sink, '*')}..archive",
        source=Source.DEAD_LETTERS,
    )  # fmt: skip
    assert _may_join(rights(Identity(Role.SINK, "_all"), cluster), again.group_id)
