"""When the past is taken back, and when the uplink opens again; what Kafka and the parts say is the test's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from connectors.kafka import Cluster, Unreachable
from gateway import recent_past
from gateway.journal import Journal
from gateway.parts import Parts
from gateway.recent_past import RecentPast
from gateway.recovery import Recovered
from schemas.avro.topics import Topics

TOPICS = Topics("gw")


class Given:
    """Kafka and the parts of a gateway, as the past sees them; writes down what is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.done: list[str] = []
        #: What the parts say to what was found, one after the other; then True.
        self.takes: list[bool] = []
        self.on_read: Callable[[], None] = lambda: None
        #: How often Kafka is away.
        self.away = 0
        self.parts = cast(
            Parts,
            SimpleNamespace(
                commands=SimpleNamespace(unanswered=0, positions={}),
                uplink=SimpleNamespace(drained=self._drained, reopen=lambda: self.done.append("reopened")),
                batches=SimpleNamespace(forget_undelivered=lambda _: self.done.append("forgotten")),
                registry=[],
                take_back=self._take_back,
            ),
        )
        monkeypatch.setattr(recent_past, "_RETRY_SECONDS", 0.001)
        monkeypatch.setattr(recent_past, "ensure_topics", self._ensure_topics)
        monkeypatch.setattr(recent_past, "partition_counts", lambda _, names: dict.fromkeys(names, 3))
        monkeypatch.setattr(recent_past, "recover", self._recover)
        self.tasks: list[asyncio.Task[None]] = []
        self.past = RecentPast(cast(Cluster, None), TOPICS, Journal(folder), self._spawn)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    def _ensure_topics(self, *_: object) -> None:
        if self.away:
            self.away -= 1
            raise Unreachable("it is away")

    def _recover(self, *_: object, **__: object) -> Recovered:
        self.done.append("read")
        self.on_read()
        return Recovered(window=1)

    def _take_back(self, _: Recovered) -> bool:
        taken = self.takes.pop(0) if self.takes else True
        self.done.append("taken" if taken else "not taken")
        return taken

    async def _drained(self, _: float) -> bool:
        self.done.append("drained")
        return True

    def read(self) -> Coroutine[Any, Any, Recovered]:
        return self.past.read(unanswered=False, positions={})


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Given:
    return Given(monkeypatch, tmp_path)


def test_kafka_is_waited_for_and_its_topics_are_there_then(given: Given) -> None:
    given.away = 2
    assert asyncio.run(given.past.partitions()) == dict.fromkeys(TOPICS.partitions(), 3)
    assert given.away == 0


def test_kafka_is_read_again_when_not_all_of_the_journal_could_go_there(given: Given) -> None:
    given.takes = [False]
    asyncio.run(given.past.take_back(given.parts, given.read()))
    assert given.done == ["read", "not taken", "drained", "read", "taken"]


def test_new_producer_opens_the_uplink_when_the_past_is_known(given: Given) -> None:
    async def run() -> None:
        given.past.renew_soon(given.parts)
        await asyncio.gather(*given.tasks)

    asyncio.run(run())
    assert given.done == ["forgotten", "read", "taken", "reopened"]


def test_producer_that_fails_while_the_past_is_read_opens_the_uplink_by_its_own_renewal_alone(given: Given) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()

        def fail_once() -> None:
            given.on_read = lambda: None
            loop.call_soon_threadsafe(given.past.renew_soon, given.parts)

        given.on_read = fail_once
        given.past.renew_soon(given.parts)
        await given.tasks[0]
        await asyncio.gather(*given.tasks)

    asyncio.run(run())
    # The first look is out of date: it is not believed.
    assert Counter(given.done) == {"forgotten": 2, "read": 2, "taken": 1, "reopened": 1}
    assert given.done[-1] == "reopened"
