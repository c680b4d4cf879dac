"""`kill -9` of the gateway in mid-flow, again and again: nothing acknowledged is lost or doubled, and all goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from connectors.kafka import Cluster
from headwater.demo.audit import read_side
from tests.faults.chaos import Direction, Faults
from tests.way import Gateway, Sensors, chaos_proxy, compare, until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

EACH = 5  # devices on the good and on the bad network
DEVICES = 2 * EACH
OBSERVATIONS = 3 * DEVICES  # of /3303/0, /3303/1 and /3304/0
KILLS = 6
SEED = 2_101
FAULTS = Faults(drop=0.04, duplicate=0.15, delay=0.2, longest_delay=0.2, reorder=0.1, longest_hold=0.3)


def test_a_gateway_that_is_killed_again_and_again_loses_and_doubles_nothing(
    kafka: Cluster, gateway_id: str, tmp_path: Path
) -> None:
    """At once for devices next to it, and for devices on a network that drops, doubles, delays and reorders."""
    chance = random.Random(SEED)
    settings = ("--count", str(EACH), "--period", "0.2")
    gateway = Gateway(gateway_id, kafka, tmp_path, observe=("/3303/*/5700", "/3304/*/5700"))
    near = Sensors(gateway.address, tmp_path, *settings, endpoint="near")
    with gateway, chaos_proxy(gateway.address, seed=SEED, up=FAULTS, down=FAULTS) as proxy:
        gateway.wait_ready()
        with near, Sensors(proxy.address, tmp_path, *settings, endpoint="far") as far:
            until("all observations", lambda: gateway.metric("observations") == OBSERVATIONS)
            # A device whose 2.01 was lost registers again within 3 s (RFC 7252, section 4.8), and a gateway that began
            # anew meanwhile takes it for a new one: it sends some ten notifications a second.
            far.wait_for_more(60 * EACH)
            for number in range(KILLS):
                # A device that is not heard gives a notification up after 62 to 93 s (RFC 7252, section 4.8.2), and
                # registers anew. Two kills, with a slow start each, and two lost datagrams are enough for that.
                near.wait_for_all(EACH)
                far.wait_for_all(EACH)
                chance.choice((near, near, far)).wait_for_more(chance.randint(1, 60))
                gateway.kill()
                gateway.start()
                if number == KILLS // 2:
                    # And once more while it comes up.
                    until("it has begun to speak", lambda: gateway.is_alive)
                    gateway.kill()
                    gateway.start()
            gateway.wait_ready()
            assert gateway.metric("devices") == DEVICES
            assert gateway.metric("observations") == OBSERVATIONS
            near.wait_for_all(EACH)
            far.wait_for_all(EACH)
            # Nobody had to register anew.
            assert gateway.new_registrations() == {f"{ep}-{n}": 1 for ep in ("near", "far") for n in range(1, EACH + 1)}
            near.kill()
            far.kill()
            stored = read_side(kafka, [gateway.topics.observations])
            compare([*near.entries(), *far.entries()], stored)
        for direction in Direction:
            for what in ("dropped", "duplicated", "delayed", "reordered"):
                assert proxy.counts[direction, what], f"nothing was {what} on the way {direction.value}"
