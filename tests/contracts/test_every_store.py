"""Every store that has no such test of its own: killed between write and commit, shared, and made again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.kafka import Cluster, ensure_topics
from connectors.replay import plan_replay, replay
from connectors.runner import SinkSettings
from schemas.avro.records import Link, Notification
from schemas.avro.topics import Topics
from tests.sink_harness import PATIENCE_S, dead_letters, eventually, make_topics, produce
from tests.sink_samples import delete, new, notification, resource, update
from tests.stores import STORES
from tests.stores.store import Keeps, Store

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

ROOT = Path(__file__).parents[2]
#: Alertmanager keeps nothing, and each of its sinks reads from the beginning; Redis's keys are the gateway's.
BY_THEMSELVES = {"alertmanager", "redis"}
#: And these are killed in the same way in tests of their own.
KILLED = {"elasticsearch", "influxdb", "prometheus", "sqlite"}
DEVICE = (Link(url="/3/0", at={}),)


@contextmanager
def process(
    cluster: Cluster, gateway: str, name: str, options: Mapping[str, object], lives: int
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.faults.sink_process", cluster.bootstrap, gateway, name]
    command += [json.dumps(options), "40", str(lives)]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(PATIENCE_S)


def some(number: int, start: int, ep: str = "ep-1") -> list[Notification]:
    """Of one series, a second apart."""
    return [
        notification(resource("/3303/0/5700", float(i)), ep=ep, timestamp=1_000 * (1 + i))
        for i in range(start, start + number)
    ]


def values(store: Store) -> list[object]:
    return sorted((row[2] for row in store.history()), key=float)


def registration(store: Store, ep: str = "ep-1") -> object:
    return (store.endpoint(ep) or {}).get("regId")


def assert_holds(store: Store, kept: frozenset[Keeps], number: int, reg_id: str) -> None:
    """All readings once, and of the endpoint what came last."""
    if kept & {Keeps.HISTORY, Keeps.NUMBERS}:
        assert values(store) == [float(i) for i in range(number)]
    if Keeps.GRAPH in kept:
        endpoint = store.endpoint("ep-1")
        assert endpoint is not None
        assert (endpoint["regId"], endpoint["online"], endpoint["expired"]) == (reg_id, True, False)
        assert store.objects("ep-1") == {(3, "1.0", 0, "Device")}


@pytest.mark.parametrize("name", sorted(STORES.keys() - BY_THEMSELVES - KILLED))
def test_killed_between_write_and_commit_it_ends_as_if_it_had_not_been(
    kafka: Cluster, gateway_id: str, tmp_path: Path, name: str
) -> None:
    topics = make_topics(kafka, gateway_id)
    store, kept = STORES[name].make(tmp_path), STORES[name].keeps
    options = store.options()
    number = 0
    for lives in (1, 3):
        for _ in range(2):
            produce(kafka, topics.observations, some(100, number))
            number += 100
        events = [new(), update(port=50_000 + lives), delete(), new(reg_id=f"r{lives}"), update(lt=60)]
        produce(kafka, topics.registrations, events)
        with process(kafka, gateway_id, name, options, lives) as sink:
            assert sink.wait(PATIENCE_S) == -signal.SIGKILL
    with process(kafka, gateway_id, name, options, 0) as sink:
        # What comes last is written behind what comes again.
        produce(kafka, topics.observations, some(1, number))
        produce(kafka, topics.registrations, [new(reg_id="last", links=DEVICE)])
        if Keeps.GRAPH in kept:
            eventually(lambda: registration(store), "last")
        if kept & {Keeps.HISTORY, Keeps.NUMBERS}:
            eventually(lambda: float(number) in values(store), True)
        sink.terminate()
        assert sink.wait(PATIENCE_S) == 0
    assert_holds(store, kept, number + 1, "last")
    assert dead_letters(kafka, gateway_id) == []


@pytest.mark.parametrize("name", sorted(STORES.keys() - BY_THEMSELVES))
def test_two_share_the_work_and_one_that_dies_leaves_nothing_undone(
    kafka: Cluster, gateway_id: str, tmp_path: Path, name: str
) -> None:
    topics = Topics(gateway_id)
    # So many that neither can have only those to which nothing comes.
    ensure_topics(kafka, {**topics.partitions(), topics.observations: 6, topics.registrations: 6})
    store, kept = STORES[name].make(tmp_path), STORES[name].keeps
    eps = [f"ep-{partition}" for partition in range(6)]
    number = 0

    def pour(reg_id: str) -> None:
        nonlocal number
        for partition, ep in enumerate(eps):
            produce(kafka, topics.observations, some(10, number, ep), ep=ep, partition=partition)
            produce(kafka, topics.registrations, [new(ep=ep, reg_id=reg_id)], ep=ep, partition=partition)
        number += 10

    with (
        process(kafka, gateway_id, name, store.options(), 0) as first,
        process(kafka, gateway_id, name, store.options(), 3) as second,
    ):
        end = time.monotonic() + 3 * PATIENCE_S
        while second.poll() is None:
            # It dies of its third write, so it has had partitions of its own.
            assert time.monotonic() < end, "the second had nothing to write"
            pour(f"r{number}")
        assert second.wait() == -signal.SIGKILL
        pour("last")
        if Keeps.GRAPH in kept:
            eventually(lambda: [registration(store, ep) for ep in eps], ["last"] * len(eps))
        if kept & {Keeps.HISTORY, Keeps.NUMBERS}:
            wanted = sorted((ep, float(i)) for ep in eps for i in range(number))
            eventually(lambda: sorted((row[0], row[2]) for row in store.history()) == wanted, True)
        first.terminate()
        assert first.wait(PATIENCE_S) == 0
    assert dead_letters(kafka, gateway_id) == []


@pytest.mark.parametrize("name", sorted(STORES.keys() - BY_THEMSELVES))
def test_a_replay_makes_the_store_and_changes_nothing_in_it(
    kafka: Cluster, gateway_id: str, tmp_path: Path, name: str
) -> None:
    topics = make_topics(kafka, gateway_id)
    produce(kafka, topics.observations, some(100, 0))
    store, kept = STORES[name].make(tmp_path), STORES[name].keeps
    if Keeps.GRAPH in kept:
        produce(kafka, topics.registrations, [new(), delete(), new(reg_id="last", links=DEVICE)])
    settings = SinkSettings(sink=name, gateway=gateway_id, kafka=kafka, options=store.options(), batch_records=30)
    for _ in range(2):
        plan = plan_replay(settings, from_ms=None, to_ms=None)
        tally = replay(plan, threading.Event())
        assert tally.refused == 0, tally.refusals
        assert tally.stored == sum(span.end - span.first for span in plan.spans.values()) > 0
        assert_holds(store, kept, 100, "last")
