"""Of what librdkafka logs, the same is not said over and over."""

from __future__ import annotations

import logging

import pytest

from connectors.kafka.client_log import AGAIN_S, Seldom


class Log:
    """Says whether a line goes through, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self._filter = Seldom(lambda: self.now)

    def takes(self, text: str) -> bool:
        record = logging.LogRecord("headwater.kafka", logging.ERROR, __file__, 1, text, None, None)
        return bool(self._filter.filter(record))


def refused(client: str, broker: str, after: str = "after 0ms in state CONNECT") -> str:
    thread = broker.removesuffix("/1")
    return f"FAIL [rdkafka#{client}] [thrd:{thread}]: {broker}: Connect to ipv4#127.0.0.1:1 failed: refused ({after})"


def test_a_failed_connection_is_told_once_a_minute_whichever_client_tells_it() -> None:
    log = Log()
    assert log.takes(refused("consumer-8", "127.0.0.1:1/bootstrap"))
    assert not log.takes(
        refused("consumer-8", "127.0.0.1:1/1", "after 3ms in state CONNECT, 31 identical error(s) suppressed")
    )
    assert not log.takes(refused("producer-9", "GroupCoordinator: 127.0.0.1:1"))
    assert not log.takes(refused("producer-9", "ssl://127.0.0.1:1/bootstrap"))
    log.now = AGAIN_S
    assert log.takes(refused("consumer-10", "127.0.0.1:1/bootstrap"))


def test_another_broker_or_another_reason_is_told_at_once() -> None:
    log = Log()
    assert log.takes(refused("consumer-8", "127.0.0.1:1/bootstrap"))
    assert log.takes(refused("consumer-8", "127.0.0.1:2/bootstrap"))
    assert log.takes(refused("consumer-8", "127.0.0.1:1/bootstrap").replace("refused", "timed out"))


@pytest.mark.parametrize(
    "text",
    [
        "MAXPOLL [rdkafka#consumer-1] [thrd:main]: Application maximum poll interval exceeded",
        "FATAL [rdkafka#producer-1] [thrd:x]: Fatal error: Local: Gap-less ordering would not be guaranteed",
        "FAIL is how this line begins",
    ],
)
def test_all_else_is_told_each_time(text: str) -> None:
    log = Log()
    assert log.takes(text)
    assert log.takes(text)


def test_the_guarantee_that_is_always_warned_of_is_not_told() -> None:
    assert not Log().takes("CONFWARN [rdkafka#producer-1] [thrd:app]: enable.gapless.guarantee is experimental")
