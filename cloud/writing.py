"""Writing some records to a topic for a person who waits: Kafka has all of them, or it is said why not.

Other than the processes' producers it is bounded: nobody is left with a record that goes out minutes after the command
has said that it failed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cloud.feed import SLICE
from connectors.kafka import REFUSALS, Cluster, KafkaError, KafkaException, Message, NotAllowed, producer


class NotSent(Exception):
    """Kafka did not confirm what was to be written: it may or may not be in the topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is to be written; without a partition the key says which."""

    key: bytes
    value: bytes
    partition: int = -1
    headers: Sequence[tuple[str, bytes]] = ()


def write(
    cluster: Cluster,
    topic: str,
    records: Iterable[Record],
    what: str,
    *,
    timeout: float,
    in_vain: str = "",
    **options: Any,
) -> None:
    """Write ``records``, and return when Kafka has them all, within ``timeout`` seconds.

    ``what`` they are is told where it fails, and ``in_vain`` what a refusal by access rights means for who asked.
    ``options`` are the producer's (`connectors.kafka.producer`). An interrupt (KeyboardInterrupt) is let through.

    Raises:
        NotAllowed: who we are may not write to the topic.
        NotSent: Kafka did not take it, or did not confirm it in time.
    """
    failures: list[KafkaError] = []
    #: Refusals that are told of no record.
    refusals: list[KafkaError] = []
    confirmed = begun = 0

    def report(error: KafkaError | None, _: Message) -> None:
        nonlocal confirmed
        if error is None:
            confirmed += 1
        else:
            failures.append(error)

    def complain(error: KafkaError) -> None:
        if error.code() in REFUSALS:
            refusals.append(error)

    deadline = time.monotonic() + timeout
    # Not gapless: the client would fail for good and not say why.
    client = producer(
        cluster,
        message_timeout_ms=int(timeout * 1000),
        enable_gapless_guarantee=False,
        error_cb=complain,
        **options,
    )
    try:
        for one in records:
            client.produce(
                topic, one.value, one.key, one.partition, headers=list(one.headers) or None, on_delivery=report
            )
            begun += 1
            client.poll(0)
        while confirmed < begun and not failures and time.monotonic() < deadline:
            client.poll(SLICE)
    except KafkaException as exc:
        failures.append(exc.args[0])
    except BufferError as exc:
        raise NotSent(f"{what}: more than this machine can hold for Kafka at {cluster.bootstrap} ({exc})") from exc
    finally:
        client.purge()
        with contextlib.suppress(KafkaException):  # of one that failed for good
            client.flush(1.0)
    if not failures and confirmed == begun:
        return
    refused = refusals + [one for one in failures if one.code() in REFUSALS]
    if refused:
        # Who may write to no topic at all is refused before any is named.
        raise NotAllowed(
            refused[0],
            f"Kafka at {cluster.bootstrap} refuses {cluster.speaker}: it may not write to {topic}{in_vain} "
            f"({refused[0].str()}). `headwater acl rights {cluster.speaker} --side edge|cloud` says which rights it "
            "should have",
        )
    if failures:
        raise NotSent(f"{what} was not taken by Kafka at {cluster.bootstrap}: {failures[0].str()}")
    raise NotSent(f"Kafka at {cluster.bootstrap} did not confirm {what} in time")
