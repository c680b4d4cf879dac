"""What every process tells of itself to Prometheus."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from connectors.process_metrics import Component, of_gateway, version, with_process


def samples(registry: CollectorRegistry, prefix: str) -> list[str]:
    """The lines of a page that begin so, without the values."""
    text = generate_latest(registry).decode()
    return [line.rpartition(" ")[0] for line in text.splitlines() if line.startswith(prefix)]


def test_a_process_says_what_it_is_and_for_whom() -> None:
    shown = with_process(CollectorRegistry(), Component.SINK, ["b", "a", "b"], lambda: None)
    for gateway in ("a", "b"):
        labels = {"component": "sink", "gateway": gateway}
        assert shown.get_sample_value("headwater_ready", labels) == 1
    found = samples(shown, "headwater_build_info{")
    assert [line.split('gateway="')[1][0] for line in found] == ["a", "b"]
    assert all(f'version="{version()}"' in line for line in found)


def test_a_process_is_ready_only_while_nothing_keeps_it_from_working() -> None:
    reason: str | None = "Kafka is away"

    def ready() -> str | None:
        return reason

    shown = with_process(CollectorRegistry(), Component.GATEWAY, ["gw"], ready)
    labels = {"component": "gateway", "gateway": "gw"}
    assert shown.get_sample_value("headwater_ready", labels) == 0
    reason = None
    assert shown.get_sample_value("headwater_ready", labels) == 1


def test_a_check_that_breaks_is_not_ready_and_hides_nothing() -> None:
    def broken() -> str | None:
        raise RuntimeError("no such table")

    registry = CollectorRegistry()
    Counter("headwater_things", "Things.", registry=registry).inc(3)
    shown = with_process(registry, Component.GATEWAY, ["gw"], broken)
    assert shown.get_sample_value("headwater_ready", {"component": "gateway", "gateway": "gw"}) == 0
    assert shown.get_sample_value("headwater_things_total") == 3


@pytest.mark.parametrize("registry", [REGISTRY, CollectorRegistry()], ids=["global", "own"])
def test_the_standard_metrics_of_a_process_are_there_once(registry: CollectorRegistry) -> None:
    shown = with_process(registry, Component.ANALYTICS, ["*"], lambda: None)
    assert samples(shown, "process_start_time_seconds") == ["process_start_time_seconds"]
    assert samples(shown, "process_resident_memory_bytes") == ["process_resident_memory_bytes"]


def test_the_gateway_is_a_label_of_every_sample() -> None:
    registry = CollectorRegistry()
    Counter("headwater_things", "Things.", ["lane"], registry=registry).labels("bulk").inc()
    Histogram("headwater_seconds", "Time.", buckets=[1], registry=registry).observe(0.5)
    shown = of_gateway(registry, "rock64")
    assert samples(shown, "headwater_") == [
        'headwater_things_total{gateway="rock64",lane="bulk"}',
        'headwater_seconds_bucket{gateway="rock64",le="1.0"}',
        'headwater_seconds_bucket{gateway="rock64",le="+Inf"}',
        'headwater_seconds_count{gateway="rock64"}',
        'headwater_seconds_sum{gateway="rock64"}',
    ]
