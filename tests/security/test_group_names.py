"""Names of groups say a sink or a job, then a gateway: no other sink's or job's gateway may read as the same name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import permutations

import pytest

from security.acls import JOBS, SINKS, job_group, sink_group


@pytest.mark.parametrize(("names", "group"), [(SINKS, sink_group), (JOBS, job_group)], ids=["sinks", "jobs"])
def test_no_name_goes_on_as_another_with_a_gateways_id(
    names: Collection[str], group: Callable[[str, str], str]
) -> None:
    assert len(names) > 1
    for one, other in permutations(names, 2):
        if other.startswith(f"{one}-"):
            gateway = other.removeprefix(f"{one}-") + "-x"
            assert group(one, gateway) != group(other, "x"), f"{one} at gateway {gateway} is {other} at gateway x"
